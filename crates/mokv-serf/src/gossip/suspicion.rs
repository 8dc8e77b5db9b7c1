//! Nodes that do not answer, and the time that each has for its objection.
//!
//! The time is long at first, because the accuser may be the one that is ill, and shrinks with the logarithm of the number
//! of others that suspect the node too (Lifeguard).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::wire::Text;

/// How much time a suspected node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// When enough others suspect it too.
    pub(super) min: Duration,
    /// When nobody else does.
    pub(super) max: Duration,
    /// How many others are enough.
    pub(super) expected: u32,
}

impl Patience {
    /// In a pool of `nodes` nodes.
    pub(super) fn new(mult: u32, max_mult: u32, probe_interval: Duration, nodes: usize) -> Self {
        let scale = (nodes.max(1) as f64).log10().max(1.0);
        let min = probe_interval.mul_f64(f64::from(mult) * scale);
        // Nobody else can confirm what the accuser says of the accused in a pool of two; with few nodes more than that
        // can't be expected either.
        let expected = mult.saturating_sub(2);
        let others = nodes.saturating_sub(2);
        let expected = if others < expected as usize { 0 } else { expected };
        Self { min, max: min * max_mult, expected }
    }

    /// The time, when `confirmations` others suspect the node too.
    pub(super) fn timeout(&self, confirmations: u32) -> Duration {
        if confirmations >= self.expected {
            return self.min;
        }
        let share = f64::from(confirmations + 1).ln() / f64::from(self.expected + 1).ln();
        (self.max - (self.max - self.min).mul_f64(share)).max(self.min)
    }
}

/// One node that is suspected.
#[derive(Debug)]
struct Suspicion {
    since: Duration,
    patience: Patience,
    /// Who suspects it, the first accuser included.
    accusers: BTreeSet<Text>,
}

impl Suspicion {
    fn confirmations(&self) -> u32 {
        u32::try_from(self.accusers.len() - 1).unwrap_or(u32::MAX)
    }

    fn deadline(&self) -> Duration {
        self.since + self.patience.timeout(self.confirmations())
    }
}

/// All nodes that are suspected. Invariant: `deadlines` has exactly one entry for each of `by_node`, its deadline.
#[derive(Debug, Default)]
pub(super) struct Suspicions {
    by_node: BTreeMap<Text, Suspicion>,
    deadlines: BTreeSet<(Duration, Text)>,
}

impl Suspicions {
    /// `accuser` suspects `node`, which nobody did before.
    pub(super) fn begin(&mut self, now: Duration, node: Text, accuser: Text, patience: Patience) {
        debug_assert!(!self.by_node.contains_key(&node), "suspected twice");
        let suspicion = Suspicion { since: now, patience, accusers: BTreeSet::from([accuser]) };
        self.deadlines.insert((suspicion.deadline(), node.clone()));
        self.by_node.insert(node, suspicion);
    }

    /// Whether `node` is suspected.
    pub(super) fn contains(&self, node: &Text) -> bool {
        self.by_node.contains_key(node)
    }

    /// `accuser` suspects `node` too. False if that is not news: it said so before, or enough others did, or the node is
    /// not suspected.
    pub(super) fn confirm(&mut self, node: &Text, accuser: &Text) -> bool {
        let Some(suspicion) = self.by_node.get_mut(node) else { return false };
        if suspicion.confirmations() >= suspicion.patience.expected || suspicion.accusers.contains(accuser) {
            return false;
        }
        self.deadlines.remove(&(suspicion.deadline(), node.clone()));
        suspicion.accusers.insert(accuser.clone());
        self.deadlines.insert((suspicion.deadline(), node.clone()));
        true
    }

    /// `node` is no longer suspected: it objected, or is dead.
    pub(super) fn end(&mut self, node: &Text) {
        if let Some(suspicion) = self.by_node.remove(node) {
            self.deadlines.remove(&(suspicion.deadline(), node.clone()));
        }
        debug_assert_eq!(self.by_node.len(), self.deadlines.len());
    }

    /// A node whose time is over.
    pub(super) fn expired(&self, now: Duration) -> Option<Text> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, node)| node.clone())
    }

    /// When the next node's time is over.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Gives every node that much more time.
    pub(super) fn postpone(&mut self, by: Duration) {
        for suspicion in self.by_node.values_mut() {
            suspicion.since += by;
        }
        self.deadlines = self.by_node.iter().map(|(node, suspicion)| (suspicion.deadline(), node.clone())).collect();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seconds(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    /// Equal to the microsecond: logarithms are not exact.
    fn assert_close(a: Duration, b: Duration) {
        assert!(a.abs_diff(b) < Duration::from_micros(1), "{a:?} != {b:?}");
    }

    #[test]
    fn patience_follows_the_size_of_the_pool() {
        let patience = |nodes| Patience::new(4, 6, SECOND, nodes);
        assert_eq!(patience(1), Patience { min: 4 * SECOND, max: 24 * SECOND, expected: 0 });
        assert_eq!(patience(3), Patience { min: 4 * SECOND, max: 24 * SECOND, expected: 0 });
        assert_eq!(patience(4), Patience { min: 4 * SECOND, max: 24 * SECOND, expected: 2 });
        assert_eq!(patience(10), Patience { min: 4 * SECOND, max: 24 * SECOND, expected: 2 });
        assert_close(patience(100).min, 8 * SECOND);
        assert_close(patience(100).max, 48 * SECOND);
    }

    #[test]
    fn confirmations_shorten_it() {
        let patience = Patience { min: 4 * SECOND, max: 24 * SECOND, expected: 2 };
        assert_eq!(patience.timeout(0), 24 * SECOND);
        assert_close(patience.timeout(1), seconds(24.0 - 20.0 * 2f64.ln() / 3f64.ln()));
        assert_eq!(patience.timeout(2), 4 * SECOND);
        assert_eq!(patience.timeout(3), 4 * SECOND);
        // Nobody there to confirm it: no reason to wait for anybody.
        assert_eq!(Patience { expected: 0, ..patience }.timeout(0), 4 * SECOND);
    }

    #[test]
    fn only_new_accusers_count_and_only_as_many_as_expected() {
        let (node, text) = (Text::from("n"), |t: &str| Text::from(t));
        let mut suspicions = Suspicions::default();
        assert!(!suspicions.confirm(&node, &text("a")));
        suspicions.begin(SECOND, node.clone(), text("a"), Patience { min: 4 * SECOND, max: 24 * SECOND, expected: 2 });
        assert_eq!(suspicions.next_deadline(), Some(25 * SECOND));
        assert!(!suspicions.confirm(&node, &text("a")), "the first accuser is no confirmation");
        assert!(suspicions.confirm(&node, &text("b")));
        assert!(!suspicions.confirm(&node, &text("b")));
        assert!(suspicions.confirm(&node, &text("c")));
        assert!(!suspicions.confirm(&node, &text("d")), "enough");
        assert_eq!(suspicions.next_deadline(), Some(5 * SECOND));
        assert_eq!(suspicions.expired(seconds(4.9)), None);
        assert_eq!(suspicions.expired(5 * SECOND), Some(node.clone()));
        suspicions.postpone(SECOND);
        assert_eq!(suspicions.expired(5 * SECOND), None);
        assert_eq!(suspicions.next_deadline(), Some(6 * SECOND));
        suspicions.end(&node);
        assert_eq!(suspicions.next_deadline(), None);
    }

    proptest! {
        /// However many nodes and confirmations: never less than `min`, never more than `max`, and never longer for more.
        #[test]
        fn timeouts_fall_and_stay_within_their_bounds(
            nodes in 1usize..2_000_000, mult in 1u32..20, max_mult in 1u32..20, interval_ms in 1u64..10_000,
        ) {
            let patience = Patience::new(mult, max_mult, Duration::from_millis(interval_ms), nodes);
            let mut last = patience.max;
            for confirmations in 0..mult + 3 {
                let timeout = patience.timeout(confirmations);
                prop_assert!(patience.min <= timeout && timeout <= last, "{confirmations}: {timeout:?} of {patience:?}");
                last = timeout;
            }
            prop_assert_eq!(patience.timeout(patience.expected), patience.min);
            if patience.expected > 0 {
                prop_assert_eq!(patience.timeout(0), patience.max);
            }
        }
    }
}
