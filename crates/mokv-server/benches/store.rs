//! The store at a million pairs, beside a persistent map that publishes a clone with every batch, doing the same.
//!
//! Run `cargo bench -p mokv-server --bench store`. Neighbours on the machine move every figure; compare within a run.

#![allow(missing_docs)] // Of what criterion's macros make.
#![allow(clippy::disallowed_methods)] // A benchmark reads the clock and the resident set.
#![allow(clippy::print_stderr)]

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use imbl::OrdMap;
use mokv_proto::internal;
use mokv_server::command::{self, Batch, Command, Op, RequestId};
use mokv_server::store::{ChunkLimit, KeyRange, Loader, LogTime, Position, Store};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const KEYS: u64 = 1_000_000;
const KEY_BYTES: u64 = 16;
const VALUE_BYTES: u64 = 256;
const COMMANDS_PER_BATCH: usize = 64;

fn key(number: u64) -> Bytes {
    format!("key-{number:012}").into()
}

/// A batch as it comes from the log: decoded, its keys and values slices of one buffer.
fn batch(rng: &mut SmallRng, mut key_number: impl FnMut(&mut SmallRng) -> u64) -> Vec<Command> {
    let mut value = [0; VALUE_BYTES as usize];
    let set = |_| {
        rng.fill(&mut value);
        command::set(key(key_number(rng)), value.to_vec())
    };
    Batch::new(&(0..COMMANDS_PER_BATCH).map(set).collect::<Vec<_>>(), LogTime::default()).decode().expect("a batch").1
}

fn random_batch(rng: &mut SmallRng) -> Vec<Command> {
    batch(rng, |rng| rng.random_range(0..KEYS))
}

/// A store with its log, and the sets of a session.
struct Log {
    store: Store,
    index: u64,
}

impl Log {
    fn new() -> Self {
        Self { store: Store::new(), index: 0 }
    }

    fn apply(&mut self, commands: &[Command]) {
        self.index += 1;
        black_box(
            self.store
                .apply(Position { term: 1, index: self.index }, LogTime::default(), commands)
                .expect("known commands"),
        );
    }

    /// Sets every key once, in a given order.
    fn fill(mut self, order: impl Iterator<Item = u64>) -> Self {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut order = order.peekable();
        while order.peek().is_some() {
            let commands = batch(&mut rng, |_| order.next().expect("whole batches"));
            self.apply(&commands);
        }
        self
    }
}

/// The resident set, in bytes.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).expect("resident pages").parse::<u64>().expect("a number") * 4096
}

/// Fills a store and says what a pair takes beyond its key and value.
fn filled(what: &str, order: impl Iterator<Item = u64>) -> Log {
    let (before, began) = (resident_bytes(), Instant::now());
    let log = Log::new().fill(order);
    let took = began.elapsed();
    let overhead = |bytes: u64| bytes / KEYS - KEY_BYTES - VALUE_BYTES;
    // A store before this one may have left memory to be used again: then nothing can be said.
    let resident = resident_bytes().saturating_sub(before);
    let resident = (resident > log.store.stats().memory_bytes).then(|| overhead(resident));
    eprintln!(
        "{what}: filled in {took:.2?} (values made meanwhile); beyond key and value {} B a pair counted, {resident:?} B \
         resident, {} B of it for the history",
        overhead(log.store.stats().memory_bytes),
        log.store.history().bytes / KEYS,
    );
    log
}

fn store(c: &mut Criterion) {
    drop(filled("in order", 0..KEYS));
    let mut order: Vec<u64> = (0..KEYS).collect();
    order.shuffle(&mut SmallRng::seed_from_u64(2));
    let mut log = filled("in random order", order.into_iter());

    reads(c, &log.store);
    writes(c, &mut log);
    snapshot(&log.store);
    drop(log);
    persistent_map(c);
}

fn writes(c: &mut Criterion, log: &mut Log) {
    let mut group = c.benchmark_group("set");
    group.throughput(Throughput::Elements(COMMANDS_PER_BATCH as u64));
    let mut rng = SmallRng::seed_from_u64(3);
    group.bench_function("store", |b| {
        b.iter_batched_ref(|| random_batch(&mut rng), |commands| log.apply(commands), BatchSize::PerIteration);
    });

    let mut sequence = 0_u64;
    let client_id = log.store.stats().sessions + 1;
    log.apply(&[command::open_session()]);
    group.bench_function("store, in a session", |b| {
        let commands = || {
            let mut commands = random_batch(&mut rng);
            for command in &mut commands {
                sequence += 1;
                let first_unanswered = sequence.saturating_sub(256).max(1);
                command.id = Some(RequestId { client_id, sequence, first_unanswered });
            }
            commands
        };
        b.iter_batched_ref(commands, |commands| log.apply(commands), BatchSize::PerIteration);
    });

    let pin = log.store.pin();
    group.bench_function("store, while pinned", |b| {
        b.iter_batched_ref(|| random_batch(&mut rng), |commands| log.apply(commands), BatchSize::PerIteration);
    });
    let began = Instant::now();
    drop(pin);
    eprintln!("releasing that pin: {:.2?}", began.elapsed());
}

fn reads(c: &mut Criterion, store: &Store) {
    let mut group = c.benchmark_group("get");
    group.throughput(Throughput::Elements(1));
    let mut rng = SmallRng::seed_from_u64(4);
    let keys: Vec<Bytes> = (0..1 << 16).map(|_| key(rng.random_range(0..KEYS))).collect();
    let mut keys = keys.iter().cycle();
    group.bench_function("store", |b| b.iter(|| store.get(keys.next().expect("a cycle"))));
    group.finish();

    c.bench_function("pin and release", |b| b.iter(|| store.pin()));

    let mut group = c.benchmark_group("scan");
    let limit = ChunkLimit::default();
    group.throughput(Throughput::Elements(limit.entries_max as u64));
    let pin = store.pin();
    group.bench_function("chunk of 1000", |b| {
        let range = || KeyRange::all().starting_at(key(rng.random_range(0..KEYS - limit.entries_max as u64)));
        b.iter_batched_ref(
            range,
            |range| pin.scan(range, ChunkLimit { bytes_max: 1 << 20, ..limit }),
            BatchSize::PerIteration,
        );
    });
}

/// Reads everything for a snapshot and loads it, once.
fn snapshot(store: &Store) {
    let checkpoint = store.checkpoint().expect("something applied");
    let began = Instant::now();
    let mut pairs: Vec<internal::Pair> = Vec::with_capacity(KEYS as usize);
    let mut range = KeyRange::all();
    loop {
        let chunk = checkpoint.scan(&range, ChunkLimit::default());
        pairs.extend(chunk.pairs.into_iter().map(internal::Pair::from));
        let Some(next) = chunk.next else { break };
        range = range.starting_at(next);
    }
    let scanned = began.elapsed();
    let began = Instant::now();
    let mut loader = Loader::new(checkpoint.head("cluster")).expect("a head");
    checkpoint.sessions().for_each(|session| loader.push_session(session).expect("a session"));
    pairs.iter().cloned().for_each(|pair| loader.push_pair(pair).expect("in order"));
    let loaded = loader.finish().expect("a good snapshot");
    eprintln!("snapshot: scanned in {scanned:.2?}, loaded in {:.2?}", began.elapsed());
    drop(loaded);
}

/// The design that this store was chosen over: a clone of a persistent map is the view.
fn persistent_map(c: &mut Criterion) {
    #[derive(Clone)]
    struct Value {
        value: Bytes,
        create_revision: u64,
        mod_revision: u64,
        version: u64,
    }
    let mut rng = SmallRng::seed_from_u64(5);
    let fill = (0..KEYS).map(|n| {
        let value = Bytes::from(vec![n as u8; VALUE_BYTES as usize]);
        (key(n), Value { value, create_revision: n, mod_revision: n, version: 1 })
    });
    let map = RefCell::new(fill.collect::<OrdMap<Bytes, Value>>());
    let published = RwLock::new(map.borrow().clone());
    let mut revision = KEYS;

    let mut group = c.benchmark_group("set");
    group.throughput(Throughput::Elements(COMMANDS_PER_BATCH as u64));
    group.bench_function("persistent map", |b| {
        let mut apply = |commands: &mut Vec<Command>| {
            let mut map = map.borrow_mut();
            for command in commands.drain(..) {
                let Some(Op::Set(set)) = command.op else { continue };
                revision += 1;
                let value = Bytes::copy_from_slice(&set.value);
                match map.get_mut(&set.key) {
                    Some(old) => {
                        old.value = value;
                        old.mod_revision = revision;
                        old.version += 1;
                    }
                    None => {
                        let new = Value { value, create_revision: revision, mod_revision: revision, version: 1 };
                        map.insert(Bytes::copy_from_slice(&set.key), new);
                    }
                }
            }
            let old = std::mem::replace(&mut *published.write().expect("lock"), map.clone());
            drop(old);
        };
        b.iter_batched_ref(|| random_batch(&mut rng), &mut apply, BatchSize::PerIteration);
    });
    group.finish();

    let mut group = c.benchmark_group("get");
    group.throughput(Throughput::Elements(1));
    let keys: Vec<Bytes> = (0..1 << 16).map(|_| key(rng.random_range(0..KEYS))).collect();
    let mut keys = keys.iter().cycle();
    group.bench_function("persistent map", |b| {
        b.iter(|| {
            published
                .read()
                .expect("lock")
                .get(keys.next().expect("a cycle"))
                .map(|value| (value.value.clone(), value.create_revision, value.mod_revision, value.version))
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = store
}
criterion_main!(benches);
