//! What the log counts, for the metrics page: plain atomics, read at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets for a sync's duration, in seconds: from a fast device to one that is about to cost an election.
pub const SYNC_SECONDS_BOUNDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Upper bounds of the buckets for the number of entries that one sync made durable.
pub const GROUP_ENTRIES_BOUNDS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Counts values in fixed buckets.
#[derive(Debug)]
pub(super) struct Histogram<const BUCKETS: usize> {
    bounds: [f64; BUCKETS],
    counts: [AtomicU64; BUCKETS],
    count: AtomicU64,
    /// In millionths, which atomics can add.
    sum_micros: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSnapshot {
    /// Each bucket's upper bound, inclusive, and how many values were at most that.
    pub buckets: Vec<(f64, u64)>,
    /// How many values there were.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    /// An empty histogram with these upper bounds, in rising order.
    fn new(bounds: [f64; BUCKETS]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            count: AtomicU64::new(0),
            sum_micros: AtomicU64::new(0),
        }
    }

    fn record(&self, value: f64) {
        if let Some(bucket) = self.bounds.iter().position(|bound| value <= *bound) {
            self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// The counts now.
    fn snapshot(&self) -> HistogramSnapshot {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let cumulative = counts.scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        HistogramSnapshot {
            buckets: self.bounds.iter().copied().zip(cumulative).collect(),
            count: self.count.load(Ordering::Relaxed),
            sum: self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

/// The log's counters since it was opened.
#[derive(Debug)]
pub struct LogMetrics {
    sync_seconds: Histogram<{ SYNC_SECONDS_BOUNDS.len() }>,
    group_entries: Histogram<{ GROUP_ENTRIES_BOUNDS.len() }>,
    bytes_written: AtomicU64,
}

impl LogMetrics {
    pub(super) fn new() -> Self {
        Self {
            sync_seconds: Histogram::new(SYNC_SECONDS_BOUNDS),
            group_entries: Histogram::new(GROUP_ENTRIES_BOUNDS),
            bytes_written: AtomicU64::new(0),
        }
    }

    pub(super) fn synced(&self, took: Duration) {
        self.sync_seconds.record(took.as_secs_f64());
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn group(&self, entries: usize) {
        self.group_entries.record(entries as f64);
    }

    /// How long each sync took, in seconds; its count is the number of syncs.
    pub fn sync_seconds(&self) -> HistogramSnapshot {
        self.sync_seconds.snapshot()
    }

    /// How many entries each group had that was made durable together; its sum is the number of entries.
    pub fn group_entries(&self) -> HistogramSnapshot {
        self.group_entries.snapshot()
    }

    /// Bytes written to segments and the mark.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_their_bounds_inclusive() {
        let histogram = Histogram::new([1.0, 2.0]);
        [0.5, 1.0, 1.5, 9.0].into_iter().for_each(|value| histogram.record(value));
        let expected = HistogramSnapshot { buckets: vec![(1.0, 2), (2.0, 3)], count: 4, sum: 12.0 };
        assert_eq!(histogram.snapshot(), expected);
    }
}
