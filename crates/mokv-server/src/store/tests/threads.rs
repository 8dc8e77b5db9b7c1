//! Readers beside a writer.
#![allow(clippy::disallowed_methods)] // Real threads are what is tested.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const KEYS: u64 = 200;
const ENTRIES: u64 = 400;

/// Every command sets the next key to its own revision, so a state is known by its revision alone.
fn value_at(revision: u64, key: u64) -> u64 {
    let last_round = revision - revision % KEYS + key + 1;
    if last_round > revision { last_round - KEYS } else { last_round }
}

fn key(number: u64) -> Bytes {
    format!("key-{number:03}").into()
}

fn entry(from: u64, commands: u64) -> Vec<Command> {
    let revisions = from + 1..=from + commands;
    revisions.map(|revision| command::set(key((revision - 1) % KEYS), revision.to_string())).collect()
}

fn check_scan(scan: impl FnMut(&KeyRange) -> Chunk, revision: u64) {
    let pairs = scan_all(scan, KeyRange::all());
    let expected = (0..KEYS).map(|number| (key(number), Bytes::from(value_at(revision, number).to_string())));
    assert!(
        expected.eq(pairs.into_iter().map(|pair| (pair.key, pair.value))),
        "another state than revision {revision}"
    );
}

#[test]
fn scans_see_their_pin_while_a_writer_applies() {
    let mut log = Log::new();
    log.apply(&entry(0, KEYS));
    let done = AtomicBool::new(false);
    let limit = ChunkLimit { entries_max: 17, bytes_max: 1000 };
    let store = log.store.clone();
    let until_done = |work: &dyn Fn()| {
        // At least once after the last write.
        while !done.load(Ordering::Acquire) {
            work();
        }
        work();
    };
    thread::scope(|threads| {
        let scanner = || {
            until_done(&|| {
                let pins = [store.pin(), store.pin()];
                pins.iter().for_each(|pin| check_scan(|range| pin.scan(range, limit), pin.revision()));
            });
        };
        threads.spawn(scanner);
        threads.spawn(scanner);
        threads.spawn(|| {
            until_done(&|| {
                let checkpoint = store.checkpoint().expect("applied");
                // Between two entries, though the entries are applied in parts.
                assert_eq!(checkpoint.revision() % KEYS, 0);
                assert_eq!(checkpoint.applied().index * KEYS, checkpoint.revision());
                reload(&checkpoint).expect("a consistent checkpoint");
            });
        });
        threads.spawn(|| {
            until_done(&|| {
                let Lookup { revision, record } = store.get(&key(7));
                assert_eq!(record.expect("a record").value, value_at(revision, 7).to_string());
                let stats = store.stats();
                assert_eq!(stats.applied.expect("applied").index * KEYS, stats.revision);
            });
        });
        for number in 1..ENTRIES {
            log.apply(&entry(number * KEYS, KEYS));
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(log.store.stats().pins, 0);
    check_counters(&log.store);
}
