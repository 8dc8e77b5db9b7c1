//! A histogram of durations: atomics in a fixed table, so that observing one never allocates, locks or waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a call, a commit or a sync may take, in steps of about two.
static LATENCIES: [Duration; 15] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(10),
];

/// The steps between these two, both included.
pub fn latencies(from: Duration, to: Duration) -> &'static [Duration] {
    let begin = LATENCIES.partition_point(|step| *step < from);
    let end = LATENCIES.partition_point(|step| *step <= to);
    &LATENCIES[begin..end]
}

/// Counts durations by size.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One for each bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// What a [`Histogram`] has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// The largest duration of each bucket, ascending.
    pub bounds: &'static [Duration],
    /// Durations in each bucket, not in those below it; the last is for what is above all bounds.
    pub counts: Vec<u64>,
    /// All of them together.
    pub sum: Duration,
}

impl Histogram {
    /// An empty histogram. The bounds ascend; a duration equal to a bound is in that bound's bucket.
    pub fn new(bounds: &'static [Duration]) -> Self {
        debug_assert!(bounds.is_sorted());
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_nanos: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < duration);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far. A duration that is being counted meanwhile may be in the counts and not yet in the sum.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            bounds: self.bounds,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)),
        }
    }
}

impl HistogramSnapshot {
    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_those_between_two_of_them() {
        let steps = |from, to| latencies(Duration::from_micros(from), Duration::from_micros(to));
        assert_eq!(steps(100, 10_000_000), LATENCIES);
        assert_eq!(steps(250, 1000), [250, 500, 1000].map(Duration::from_micros));
        assert!(LATENCIES.is_sorted());
    }

    #[test]
    fn each_duration_is_in_the_bucket_of_its_size() {
        static BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];
        let histogram = Histogram::new(&BOUNDS);
        for millis in [0, 1, 2, 10, 11, 5000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.counts, [2, 2, 2]);
        assert_eq!(snapshot.count(), 6);
        assert_eq!(snapshot.sum, Duration::from_millis(5024));
    }
}
