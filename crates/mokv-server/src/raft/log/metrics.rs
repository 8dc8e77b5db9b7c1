//! What the log counts, for the metrics page: plain atomics, read at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::histogram::{Histogram, HistogramSnapshot, latencies};

/// The log's counters since it was opened.
#[derive(Debug)]
pub struct LogMetrics {
    syncs: Histogram,
    entries_written: AtomicU64,
    bytes_written: AtomicU64,
}

impl LogMetrics {
    pub(super) fn new() -> Self {
        Self {
            // From a fast device to one that is about to cost an election.
            syncs: Histogram::new(latencies(Duration::from_micros(100), Duration::from_millis(2500))),
            entries_written: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        }
    }

    pub(super) fn synced(&self, took: Duration) {
        self.syncs.observe(took);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn group(&self, entries: usize) {
        self.entries_written.fetch_add(entries as u64, Ordering::Relaxed);
    }

    /// How long each sync took; its count is the number of syncs.
    pub fn syncs(&self) -> HistogramSnapshot {
        self.syncs.snapshot()
    }

    /// Entries that were made durable.
    pub fn entries_written(&self) -> u64 {
        self.entries_written.load(Ordering::Relaxed)
    }

    /// Bytes written to segments and the mark.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }
}
