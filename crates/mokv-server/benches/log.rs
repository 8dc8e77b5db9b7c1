//! Appends with a sync each, by batches of 1, 16 and 256 entries of about 300 bytes on the disk.
//!
//! Only ratios of one run count: the disk is shared. A batch of 256 should carry at least 40 times the entries per second
//! of a batch of 1.

#![allow(clippy::disallowed_methods, missing_docs)]

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mokv_server::command::Batch;
use mokv_server::disk::OsDisk;
use mokv_server::raft::log::{Log, LogOptions};
use mokv_server::raft::types::{self, Entry, TypeConfig};
use mokv_server::runtime::Tasks;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use tokio::runtime::Runtime;

/// With the record's header and the position, this makes about 300 bytes.
const VALUE_BYTES: usize = 240;

/// Entries are purged when there are this many, as snapshots would have it, so that the log does not grow without bounds.
const ENTRIES_MAX: u64 = 500_000;

fn entry(index: u64) -> Entry {
    let batch = Batch::from_encoded(vec![7; VALUE_BYTES].into());
    Entry { log_id: types::log_id(1, index), payload: openraft::EntryPayload::Normal(batch) }
}

async fn append(log: &mut Log, count: u64) {
    let next = log.last().map_or(0, |last| last.index + 1);
    let (flushed, durable) = TypeConfig::oneshot();
    log.append((next..next + count).map(entry), IOFlushed::signal(flushed)).await.expect("append");
    durable.await.expect("an answer").expect("durable");
    if next % ENTRIES_MAX < count && next > 0 {
        log.purge(types::log_id(1, next - 1)).await.expect("purge");
    }
}

fn appends(criterion: &mut Criterion) {
    // Not the system's temporary directory, which may be in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let runtime = Runtime::new().expect("runtime");
    let tasks = Tasks::from_os().expect("seed");
    let opening = Log::open(&tasks, Arc::new(OsDisk), dir.path().join("log"), LogOptions::default());
    let mut log = runtime.block_on(opening).expect("open");
    let mut group = criterion.benchmark_group("append_and_sync");
    for count in [1, 16, 256] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("batch of {count}"), |bencher| {
            bencher.iter(|| runtime.block_on(append(&mut log, count)));
        });
    }
    group.finish();
    runtime.block_on(log.close()).expect("close");
}

criterion_group!(benches, appends);
criterion_main!(benches);
