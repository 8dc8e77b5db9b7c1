//! Snapshots of a million pairs: writing, loading, and what writers of the store feel of it.
//!
//! Run `cargo bench -p mokv-server --bench snapshot`. It needs 1.2 GB under `target`. Neighbours on the machine and on
//! the disk move every figure; compare within a run: `disk` is the same bytes, written and synced by the same steps.

#![allow(missing_docs)] // Of what criterion's macros make.
#![allow(clippy::disallowed_methods)] // A benchmark reads the clock and has threads and files of its own.
#![allow(clippy::print_stderr)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mokv_server::command::{self, Command};
use mokv_server::disk::OsDisk;
use mokv_server::runtime::{DiskTasks, Tasks};
use mokv_server::snapshot::{SnapshotInfo, Snapshots};
use mokv_server::store::{LogTime, Position, Store};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;

const KEYS: u64 = 1_000_000;
const VALUE_BYTES: usize = 256;
const COMMANDS_PER_BATCH: usize = 64;
const SYNC_BYTES: usize = 4 << 20;

/// What the writer leaves between two batches: with it, 64 commands each make about 0.1 M a second.
const PAUSE: Duration = Duration::from_micros(500);

struct Bench {
    runtime: Runtime,
    snapshots: Snapshots,
    store: Store,
    dir: tempfile::TempDir,
}

impl Bench {
    /// A store with all keys, and an empty directory on the disk that holds the build.
    fn new() -> Self {
        let runtime = Runtime::new().expect("runtime");
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
        let tasks = Tasks::new(1, DiskTasks::Threads);
        let open = Snapshots::open(&tasks, Arc::new(OsDisk), dir.path().join("snapshots"));
        let snapshots = runtime.block_on(open).expect("open");
        let store = Store::new();
        let mut rng = SmallRng::seed_from_u64(1);
        for first in (0..KEYS).step_by(COMMANDS_PER_BATCH) {
            let keys = first..KEYS.min(first + COMMANDS_PER_BATCH as u64);
            apply(&store, &keys.map(|key| set(&mut rng, key)).collect::<Vec<_>>());
        }
        Self { runtime, snapshots, store, dir }
    }

    fn write(&self) -> SnapshotInfo {
        let checkpoint = self.store.checkpoint().expect("something was applied");
        self.runtime.block_on(self.snapshots.write(checkpoint, "cluster")).expect("write")
    }

    fn load(&self, info: &SnapshotInfo) {
        drop(self.runtime.block_on(self.snapshots.load(info)).expect("load"));
    }

    /// Runs `work` while a thread overwrites random keys; returns how long each batch took.
    fn while_writing(&self, work: impl FnOnce()) -> Vec<Duration> {
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let writer = threads.spawn(|| {
                let mut rng = SmallRng::seed_from_u64(2);
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let commands: Vec<_> = (0..COMMANDS_PER_BATCH).map(|_| random_set(&mut rng)).collect();
                    let begin = Instant::now();
                    apply(&self.store, &commands);
                    latencies.push(begin.elapsed());
                    std::thread::sleep(PAUSE);
                }
                latencies
            });
            work();
            stop.store(true, Ordering::Relaxed);
            writer.join().expect("writer")
        })
    }
}

fn set(rng: &mut SmallRng, key: u64) -> Command {
    let mut value = [0; VALUE_BYTES];
    rng.fill(&mut value);
    command::set(format!("key-{key:012}"), Bytes::copy_from_slice(&value))
}

fn random_set(rng: &mut SmallRng) -> Command {
    let key = rng.random_range(0..KEYS);
    set(rng, key)
}

fn apply(store: &Store, commands: &[Command]) {
    let index = store.stats().applied.map_or(1, |applied| applied.index + 1);
    store.apply(Position { term: 1, index }, LogTime::default(), commands).expect("known commands");
}

/// Writes and syncs so many bytes as a snapshot does.
fn write_to_disk(dir: &Path, bytes: u64) {
    let path = dir.join("disk");
    let block = vec![7; SYNC_BYTES];
    let mut file = File::create(&path).expect("create");
    for _ in 0..bytes.div_ceil(SYNC_BYTES as u64) {
        file.write_all(&block).expect("write");
        file.sync_data().expect("sync");
    }
    std::fs::remove_file(path).expect("remove");
}

fn report(what: &str, mut latencies: Vec<Duration>) {
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    eprintln!(
        "apply of {COMMANDS_PER_BATCH} sets, {what}: p50 {:?}, p99 {:?}, max {:?} ({} batches)",
        at(0.5),
        at(0.99),
        at(1.0),
        latencies.len()
    );
}

fn snapshots(criterion: &mut Criterion) {
    let bench = Bench::new();
    let info = bench.write();
    let mut group = criterion.benchmark_group("snapshot of 1 M pairs");
    group.sample_size(10).throughput(Throughput::Bytes(info.size));
    group.bench_function("disk", |b| b.iter(|| write_to_disk(bench.dir.path(), info.size)));
    group.bench_function("write", |b| b.iter(|| bench.write()));
    group.bench_function("load", |b| b.iter(|| bench.load(&info)));
    bench.while_writing(|| {
        group.bench_function("write while the store is written", |b| b.iter(|| bench.write()));
    });
    group.finish();

    for _ in 0..3 {
        report("no snapshot", bench.while_writing(|| std::thread::sleep(Duration::from_secs(2))));
        report("a snapshot being written", bench.while_writing(|| (0..3).for_each(|_| _ = bench.write())));
        // The same demand for the disk, without the store and its encoding.
        report("the disk being written", bench.while_writing(|| write_to_disk(bench.dir.path(), 3 * info.size)));
    }
}

criterion_group!(benches, snapshots);
criterion_main!(benches);
