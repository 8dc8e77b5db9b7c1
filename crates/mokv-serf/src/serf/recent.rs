//! What happened lately, so that it is told once: gossip brings everything many times.

use std::collections::BTreeMap;

use crate::wire::serf::LamportTime;

/// How many times are remembered. Whatever is older counts as told.
const TIMES_MAX: u64 = 512;

/// What is remembered, in bytes: names and payloads come from others, and many of them may carry the same time.
const BYTES_MAX: usize = 1 << 20;

/// What an entry takes beside its content.
const ENTRY_BYTES: usize = 64;

/// Something that is told once.
pub(super) trait Entry: PartialEq {
    /// What it takes, in bytes.
    fn bytes(&self) -> usize;
}

/// The last things that happened, by their Lamport time.
///
/// Invariants: everything in it is at or after `min`; `bytes` is the sum of what is in it, at most [`BYTES_MAX`].
#[derive(Debug)]
pub(super) struct Recent<T> {
    entries: BTreeMap<LamportTime, Vec<T>>,
    bytes: usize,
    /// What is before this is old.
    min: LamportTime,
}

impl<T: Entry> Recent<T> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, min: 0 }
    }

    /// From now on, whatever is before `time` counts as told.
    pub(super) fn ignore_before(&mut self, time: LamportTime) {
        while let Some(oldest) = self.entries.first_entry()
            && *oldest.key() < time
        {
            self.bytes -= oldest.get().iter().map(cost).sum::<usize>();
            oldest.remove();
        }
        self.min = self.min.max(time);
    }

    /// Whether this is new; if so, it is remembered. `clock` has witnessed `time`.
    ///
    /// When there is too much to remember, what is older than this is forgotten and counts as told from then on: something
    /// that is told twice would be worse than something old that is not told.
    pub(super) fn admit(&mut self, clock: LamportTime, time: LamportTime, entry: T) -> bool {
        debug_assert!(clock > time || clock == LamportTime::MAX);
        self.ignore_before(clock.saturating_sub(TIMES_MAX));
        if time < self.min {
            return false;
        }
        if self.entries.get(&time).is_some_and(|told| told.contains(&entry)) {
            return false;
        }
        let cost = cost(&entry);
        if cost > BYTES_MAX {
            return false;
        }
        while self.bytes + cost > BYTES_MAX {
            match self.entries.first_key_value() {
                Some((&oldest, _)) if oldest < time => self.ignore_before(oldest + 1),
                _ => return false,
            }
        }
        self.entries.entry(time).or_default().push(entry);
        self.bytes += cost;
        true
    }

    /// All of it, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LamportTime, &[T])> {
        self.entries.iter().map(|(time, told)| (*time, told.as_slice()))
    }
}

fn cost<T: Entry>(entry: &T) -> usize {
    entry.bytes() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::serf::clock::Clock;

    impl Entry for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    fn admit(recent: &mut Recent<usize>, clock: &mut Clock, time: LamportTime, entry: usize) -> bool {
        assert!(clock.witness(time));
        recent.admit(clock.time(), time, entry)
    }

    #[test]
    fn each_is_told_once() {
        let (mut recent, mut clock) = (Recent::new(), Clock::new());
        assert!(admit(&mut recent, &mut clock, 5, 1));
        assert!(!admit(&mut recent, &mut clock, 5, 1));
        assert!(admit(&mut recent, &mut clock, 5, 2), "another one at that time");
        assert!(admit(&mut recent, &mut clock, 6, 1), "the same at another time");
        assert!(admit(&mut recent, &mut clock, 4, 1), "late, but not old");
    }

    #[test]
    fn what_is_512_behind_is_old() {
        let (mut recent, mut clock) = (Recent::new(), Clock::new());
        assert!(admit(&mut recent, &mut clock, 1000, 1));
        assert!(!admit(&mut recent, &mut clock, 1001 - 513, 1));
        assert!(admit(&mut recent, &mut clock, 1001 - 512, 1));
    }

    #[test]
    fn a_newcomer_ignores_what_was_before_it() {
        let (mut recent, mut clock) = (Recent::new(), Clock::new());
        assert!(admit(&mut recent, &mut clock, 10, 1));
        recent.ignore_before(20);
        assert!(!admit(&mut recent, &mut clock, 19, 1));
        assert!(admit(&mut recent, &mut clock, 20, 1));
        recent.ignore_before(5);
        assert!(!admit(&mut recent, &mut clock, 19, 1), "never back");
    }

    #[test]
    fn what_is_too_much_is_forgotten_and_never_told_again() {
        let (mut recent, mut clock) = (Recent::new(), Clock::new());
        let half = BYTES_MAX / 2;
        assert!(admit(&mut recent, &mut clock, 1, half - 100));
        assert!(admit(&mut recent, &mut clock, 2, half - 100));
        assert!(admit(&mut recent, &mut clock, 3, half - 100));
        assert!(!admit(&mut recent, &mut clock, 1, half - 100));
        assert!(!admit(&mut recent, &mut clock, 4, BYTES_MAX), "alone too much");
        assert!(admit(&mut recent, &mut clock, 4, 7));
    }

    proptest! {
        /// Nothing is told twice, whatever the order; nothing is missed that is less than 512 behind and small; and the
        /// books on the bytes are right.
        #[test]
        fn told_once_and_nothing_recent_missed(
            events in prop::collection::vec((0..2000_u64, 0..4_usize), 0..400),
        ) {
            let (mut recent, mut clock) = (Recent::new(), Clock::new());
            let mut told = BTreeSet::new();
            for (time, entry) in events {
                let is_new = admit(&mut recent, &mut clock, time, entry);
                let is_recent = time + TIMES_MAX >= clock.time();
                prop_assert_eq!(is_new, is_recent && told.insert((time, entry)));
                let bytes: usize = recent.iter().flat_map(|(_, all)| all).map(cost).sum();
                prop_assert_eq!(bytes, recent.bytes);
                prop_assert!(recent.iter().count() as u64 <= TIMES_MAX);
            }
        }

        #[test]
        fn the_bound_holds_for_large_ones(
            events in prop::collection::vec((0..600_u64, 0..BYTES_MAX / 3), 0..100),
        ) {
            let (mut recent, mut clock) = (Recent::new(), Clock::new());
            let mut told = BTreeSet::new();
            for (time, entry) in events {
                if admit(&mut recent, &mut clock, time, entry) {
                    prop_assert!(told.insert((time, entry)));
                }
                prop_assert!(recent.bytes <= BYTES_MAX);
            }
        }
    }
}
