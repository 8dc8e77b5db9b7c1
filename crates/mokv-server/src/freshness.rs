//! How fresh a read is: what callers ask for, and what a node knows of its own state.
//!
//! A node knows since when its state is fresh from the rounds of the read index that it shares anyway: the index of a round
//! covers every write that was acknowledged before the round began, so a state that has applied it was up to date at that
//! moment. A node makes a round every half second even if nobody reads, to know whether it is ready; so a healthy node's
//! state is hardly ever older than that, and a local read with a bound costs nothing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Rounds that wait to be applied at most; later ones take the place of the last.
const PENDING_MAX: usize = 16;

/// Which state answers a read. In the order of freshness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consistency {
    /// What this node has.
    Local,
    /// Reflects every write acknowledged before the read, as long as no clock runs much faster than another: see
    /// [`LEASE_PART`](crate::raft::LEASE_PART). Where the leader does not allow it, served as `Linearizable`.
    Lease,
    /// Reflects every write acknowledged before the read.
    Linearizable,
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Which state answers.
    pub consistency: Consistency,
    /// The state has at least this revision.
    pub min_revision: u64,
    /// With [`Consistency::Local`]: a state that is older than this asks the leader, as `Linearizable` does.
    pub max_staleness: Option<Duration>,
}

/// Since when a node's state is known to be fresh.
#[derive(Debug, Default)]
pub struct FreshSince {
    /// When each round began, and the index that it brought: those that are not known to be applied. Both ascend.
    pending: VecDeque<(Instant, u64)>,
    since: Option<Instant>,
}

impl FreshSince {
    /// A round that began at this time brought this index.
    pub fn note_round(&mut self, began: Instant, index: u64) {
        // Rounds of one node follow each other; an old one that is late has nothing to tell.
        if self.pending.back().is_some_and(|(last, _)| *last > began) {
            return;
        }
        let index = self.pending.back().map_or(index, |(_, last)| index.max(*last));
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_back();
        }
        self.pending.push_back((began, index));
    }

    /// Since when a state that has applied this index is fresh: all that was acknowledged before is in it. `None`: not since
    /// this node started.
    pub fn since(&mut self, applied: u64) -> Option<Instant> {
        let covered = self.pending.iter().take_while(|(_, index)| *index <= applied).count();
        let last = self.pending.drain(..covered).last().map(|(began, _)| began);
        self.since = self.since.max(last);
        self.since
    }

    /// Whether a state that has applied this index is at most so old.
    pub fn is_within(&mut self, max_staleness: Duration, applied: u64, now: Instant) -> bool {
        self.since(applied).is_some_and(|since| now.saturating_duration_since(since) <= max_staleness)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_state_is_as_fresh_as_the_last_round_that_it_has_applied() {
        let start = Instant::now();
        let mut fresh = FreshSince::default();
        assert_eq!(fresh.since(100), None, "nobody was asked");
        fresh.note_round(after(start, 10), 5);
        fresh.note_round(after(start, 20), 5);
        fresh.note_round(after(start, 30), 9);
        assert_eq!(fresh.since(4), None);
        assert_eq!(fresh.since(5), Some(after(start, 20)), "when it began, not when it ended");
        assert_eq!(fresh.since(8), Some(after(start, 20)));
        assert_eq!(fresh.since(9), Some(after(start, 30)));
        assert!(fresh.is_within(Duration::from_millis(70), 9, after(start, 100)));
        assert!(!fresh.is_within(Duration::from_millis(69), 9, after(start, 100)));
    }

    proptest! {
        /// The bound on memory costs freshness, never truth.
        #[test]
        fn it_never_claims_more_than_the_rounds_say(
            steps in prop::collection::vec((0_u64..20, 0_u64..4, 0_u64..4), 1..200),
        ) {
            let start = Instant::now();
            let (mut fresh, mut rounds) = (FreshSince::default(), Vec::new());
            let (mut now, mut index, mut applied) = (0, 0, 0);
            for (pass, written, progress) in steps {
                (now, index) = (now + pass, index + written);
                fresh.note_round(after(start, now), index);
                rounds.push((after(start, now), index));
                applied = index.min(applied + progress);
                let covered = rounds.iter().filter(|(_, index)| *index <= applied).map(|(began, _)| *began);
                let truth = covered.max();
                let claimed = fresh.since(applied);
                prop_assert!(claimed <= truth);
                // Who keeps up loses nothing.
                if applied == index {
                    prop_assert_eq!(claimed, truth);
                }
                prop_assert!(fresh.pending.len() <= PENDING_MAX);
            }
        }
    }
}
