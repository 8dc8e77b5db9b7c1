//! What consensus counts as it goes: plain atomics, read at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::histogram::{Histogram, HistogramSnapshot, latencies};
use crate::raft::types::NodeId;

/// From one small write to a batch that holds up all others.
const APPLY_BOUNDS: &[Duration] = &[
    Duration::from_micros(5),
    Duration::from_micros(25),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
];

/// From a small store to one of many gigabytes.
const SNAPSHOT_BOUNDS: &[Duration] = &[
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
];

/// A node's counters since it started.
#[derive(Debug)]
pub struct ConsensusMetrics {
    proposed: AtomicU64,
    settled: AtomicU64,
    failed: AtomicU64,
    commits: Histogram,
    applies: Histogram,
    snapshots: Histogram,
    round_trips: Mutex<BTreeMap<NodeId, Duration>>,
}

impl Default for ConsensusMetrics {
    fn default() -> Self {
        Self {
            proposed: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            // From one disk nearby to a majority that is hardly there.
            commits: Histogram::new(latencies(Duration::from_micros(250), Duration::from_millis(2500))),
            applies: Histogram::new(APPLY_BOUNDS),
            snapshots: Histogram::new(SNAPSHOT_BOUNDS),
            round_trips: Mutex::default(),
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsensusStats {
    /// Writes that this node has proposed.
    pub proposed: u64,
    /// Those whose end is not known yet.
    pub pending: u64,
    /// Those that were not known to be committed.
    pub failed: u64,
    /// From the proposal of a batch of writes until it was committed and applied.
    pub commits: HistogramSnapshot,
    /// How long each entry held the store.
    pub applies: HistogramSnapshot,
    /// How long each snapshot took to be written.
    pub snapshots: HistogramSnapshot,
    /// How long the last heartbeat to each member took, there and back.
    pub round_trips: BTreeMap<NodeId, Duration>,
}

impl ConsensusMetrics {
    /// So many writes are proposed now, in one batch: returned is what is to be told of its end.
    pub(crate) fn propose(&self, writes: usize) -> Proposed<'_> {
        self.proposed.fetch_add(writes as u64, Ordering::Relaxed);
        Proposed { metrics: self, writes: writes as u64, began: Instant::now(), is_applied: false }
    }

    pub(crate) fn applied(&self, took: Duration) {
        self.applies.observe(took);
    }

    pub(crate) fn wrote_snapshot(&self, took: Duration) {
        self.snapshots.observe(took);
    }

    pub(crate) fn heard(&self, from: NodeId, took: Duration) {
        self.round_trips.lock().unwrap_or_else(PoisonError::into_inner).insert(from, took);
    }

    /// What was counted so far.
    pub fn stats(&self) -> ConsensusStats {
        // In this order: what is settled was proposed.
        let settled = self.settled.load(Ordering::Relaxed);
        let proposed = self.proposed.load(Ordering::Relaxed);
        ConsensusStats {
            proposed,
            pending: proposed.saturating_sub(settled),
            failed: self.failed.load(Ordering::Relaxed),
            commits: self.commits.snapshot(),
            applies: self.applies.snapshot(),
            snapshots: self.snapshots.snapshot(),
            round_trips: self.round_trips.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// A batch that was proposed. Unless it is said to be applied, it has failed when this is dropped.
#[derive(Debug)]
pub(crate) struct Proposed<'a> {
    metrics: &'a ConsensusMetrics,
    writes: u64,
    began: Instant,
    is_applied: bool,
}

impl Proposed<'_> {
    pub(crate) fn applied(mut self) {
        self.is_applied = true;
        self.metrics.commits.observe(self.began.elapsed());
    }
}

impl Drop for Proposed<'_> {
    fn drop(&mut self) {
        self.metrics.settled.fetch_add(self.writes, Ordering::Relaxed);
        if !self.is_applied {
            self.metrics.failed.fetch_add(self.writes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_proposed_is_pending_until_it_has_an_end() {
        let metrics = ConsensusMetrics::default();
        let counts = || {
            let stats = metrics.stats();
            (stats.proposed, stats.pending, stats.failed, stats.commits.count())
        };
        let (first, second) = (metrics.propose(3), metrics.propose(2));
        assert_eq!(counts(), (5, 5, 0, 0));
        first.applied();
        assert_eq!(counts(), (5, 2, 0, 1));
        drop(second);
        assert_eq!(counts(), (5, 0, 2, 1));
    }
}
