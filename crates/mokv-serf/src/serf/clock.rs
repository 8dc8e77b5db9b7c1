//! Lamport clocks: which of two messages about a node is the newer one, without anybody's wall clock.

use crate::wire::serf::LamportTime;

/// Times up to here are believed whatever our own clock says. A pool counts to it in no lifetime; whoever sends such a time
/// (a bug, a forger) leaves 2^48 steps to go on with.
const BELIEVED_MAX: LamportTime = LamportTime::MAX - (1 << 48);

/// Above that, how far ahead of ours a time may be.
const LEAP_MAX: LamportTime = 1 << 20;

/// One of Serf's three clocks. It never goes back, and never wraps: at the end of its range it stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock(LamportTime);

impl Clock {
    /// As Serf has it, the first message of a node carries 1.
    pub(super) fn new() -> Self {
        Self(1)
    }

    /// What a message that is sent now would carry.
    pub(super) fn time(self) -> LamportTime {
        self.0
    }

    /// The time for a new message; the clock goes on.
    pub(super) fn advance(&mut self) -> LamportTime {
        let time = self.0;
        self.0 = time.saturating_add(1);
        time
    }

    /// Sees the time of somebody's message: from now on ours is later. Says whether the time is to be believed; if not, the
    /// message is to be dropped, because one message with the last of all times would end every comparison for good.
    #[must_use]
    pub(super) fn witness(&mut self, time: LamportTime) -> bool {
        if time > BELIEVED_MAX && time.saturating_sub(self.0) > LEAP_MAX {
            return false;
        }
        if time >= self.0 {
            self.0 = time.saturating_add(1);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn begins_with_one_and_counts() {
        let mut clock = Clock::new();
        assert_eq!((clock.advance(), clock.advance(), clock.time()), (1, 2, 3));
    }

    #[test]
    fn the_first_half_of_the_range_is_believed_and_leaves_room() {
        let mut clock = Clock::new();
        assert!(clock.witness(1 << 63));
        assert_eq!(clock.time(), (1 << 63) + 1);
    }

    #[test]
    fn the_last_times_are_not_believed_of_somebody_far_ahead() {
        let mut clock = Clock::new();
        assert!(!clock.witness(LamportTime::MAX));
        assert!(!clock.witness(BELIEVED_MAX + 1));
        assert_eq!(clock, Clock::new());

        assert!(clock.witness(BELIEVED_MAX));
        assert!(clock.witness(BELIEVED_MAX + LEAP_MAX), "near our own");
    }

    #[test]
    fn it_stands_still_at_the_end() {
        let mut clock = Clock(LamportTime::MAX);
        assert_eq!(clock.advance(), LamportTime::MAX);
        assert!(clock.witness(LamportTime::MAX));
        assert_eq!(clock.time(), LamportTime::MAX);
    }

    proptest! {
        /// What a clock is for: after a message was seen, whatever is sent carries a later time; and it never goes back.
        #[test]
        fn what_is_sent_is_later_than_all_that_was_seen(
            steps in prop::collection::vec(prop_oneof![
                Just(None),
                (0..1000_u64).prop_map(Some),
                (BELIEVED_MAX - 500..=LamportTime::MAX).prop_map(Some),
                any::<u64>().prop_map(Some),
            ], 0..200),
        ) {
            let mut clock = Clock::new();
            let mut latest = 0;
            for step in steps {
                let before = clock.time();
                match step {
                    None => {
                        prop_assert!(clock.advance() > latest);
                        latest = before;
                    }
                    Some(time) => {
                        if clock.witness(time) {
                            latest = latest.max(time);
                        } else {
                            prop_assert_eq!(clock.time(), before);
                            prop_assert!(time > BELIEVED_MAX);
                        }
                    }
                }
                prop_assert!(clock.time() >= before);
                prop_assert!(clock.time() > latest);
            }
        }
    }
}
