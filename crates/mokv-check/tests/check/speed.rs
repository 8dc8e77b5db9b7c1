//! How long the judges take. `cargo test --release -p mokv-check -- --ignored --nocapture speed`

use std::collections::BTreeMap;
use std::time::Instant;

use mokv_check::{Answer, Change, Event, History, Limits, Op, Outcome, Pair, Read, check_revisions, check_values};

const CALLS: u64 = 100_000;
const KEYS: u64 = 100;
const CLIENTS: u64 = 30;

/// Clients that call without a pause, each call taking effect halfway: 50 % sets, 10 % deletes, 39 % gets, 1 % lists of
/// all keys. One write in a thousand is unknown, and took effect.
fn busy(with_commits: bool) -> History {
    let mut map: BTreeMap<String, Pair> = BTreeMap::new();
    let (mut events, mut revision, mut random) = (Vec::new(), 0, 1_u64);
    for id in 0..CALLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = random >> 33;
        let key = format!("key-{:03}", draw % KEYS);
        let (op, answer, change) = match draw / KEYS % 100 {
            0..50 => {
                revision += 1;
                let value = format!("value-{id}");
                let old = map.get(&key);
                let pair = Pair {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: old.map_or(revision, |old| old.create_revision),
                    mod_revision: revision,
                    version: old.map_or(1, |old| old.version + 1),
                    lease: 0,
                };
                let Pair { create_revision, version, .. } = pair;
                map.insert(key.clone(), pair);
                let change = Change::Put { key: key.clone(), value: value.clone() };
                let answer = Answer::Set { revision, create_revision, version, previous: None };
                (Op::set(key, value), answer, Some(change))
            }
            50..60 => {
                let existed = map.remove(&key).is_some();
                revision += u64::from(existed);
                let change = existed.then(|| Change::Delete { key: key.clone() });
                (Op::delete(key), Answer::Delete { existed, revision, previous: None }, change)
            }
            60..99 => {
                let pair = map.get(&key).cloned();
                (Op::Get { key, read: Read::linearizable() }, Answer::Get { revision, pair }, None)
            }
            _ => {
                let pairs = map.values().cloned().collect();
                (Op::list("", Read::linearizable()), Answer::List { revision, pairs }, None)
            }
        };
        let moment = 2 * CLIENTS + id;
        let unknown = change.is_some() && draw % 1_009 == 0;
        let result = if unknown { Outcome::Unknown { reason: String::new() } } else { Outcome::Ok { answer } };
        events.push(Event::Call { id, client: id % CLIENTS, at: moment - CLIENTS / 2, op });
        events.push(Event::Return { id, at: moment + CLIENTS / 2, result });
        if let Some(change) = change.filter(|_| with_commits) {
            events.extend((1..=3).map(|node| Event::Commit {
                node,
                revision,
                changes: vec![change.clone()],
                call: None,
            }));
        }
    }
    History { events }
}

#[test]
#[ignore = "it measures, and says nothing without optimisation"]
#[allow(clippy::print_stderr, reason = "the figures are for people")]
fn speed() {
    for with_commits in [true, false] {
        let history = busy(with_commits);
        let started = Instant::now();
        let revisions = check_revisions(&history).expect("legal");
        eprintln!("A {:?}: {revisions:?}", started.elapsed());
        let started = Instant::now();
        let values = check_values(&history, Limits::default()).expect("legal");
        eprintln!("B {:?}: {values:?}", started.elapsed());
    }
}
