//! Legal histories, made by a store that does one call after another, each at some moment between its beginning and its
//! end. It keeps every revision whole, and shares nothing with the checkers.

use std::collections::BTreeMap;

use mokv_check::{Answer, Change, Compare, Consistency, Event, History, Op, Outcome, Pair, Read, TxnOp, TxnResult};
use proptest::collection::vec;
use proptest::prelude::*;

const CLIENTS: u64 = 4;
const KEYS: [&str; 4] = ["a", "ab", "b", "c"];
const NODES: u64 = 3;

type Map = BTreeMap<String, Pair>;

/// One call, before it is known what is there.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    client: u64,
    kind: Kind,
    key: usize,
    other: usize,
    /// Any number, for what depends on the state.
    pick: usize,
    /// Microseconds from the client's last return to the call, to its effect, and to its return.
    waits: [u64; 3],
    fate: Planned,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Set,
    Delete,
    Get,
    GetLocal,
    List,
    Txn,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Planned {
    Answered,
    Failed,
    /// Unknown, and it took effect so long after its call.
    UnknownApplied(u64),
    UnknownLost,
    /// It never returned, but took effect.
    PendingApplied,
}

/// What nodes tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Taps {
    None,
    Anonymous,
    Named,
}

pub(crate) fn plans(calls_max: usize) -> impl Strategy<Value = Vec<Plan>> {
    vec(plan(), 0..calls_max)
}

fn plan() -> impl Strategy<Value = Plan> {
    use Kind::{Delete, Get, GetLocal, List, Set, Txn};
    let kind = prop_oneof![4 => Just(Set), 2 => Just(Delete), 4 => Just(Get), 1 => Just(GetLocal), 1 => Just(List), 2 => Just(Txn)];
    let fate = prop_oneof![
        12 => Just(Planned::Answered),
        1 => Just(Planned::Failed),
        2 => (0..60_u64).prop_map(Planned::UnknownApplied),
        1 => Just(Planned::UnknownLost),
        1 => Just(Planned::PendingApplied),
    ];
    let keys = 0..KEYS.len();
    // Nothing takes no time at all now and then, so that events meet in one microsecond.
    let waits = [0..4_u64, 0..8, 0..8];
    (0..CLIENTS, kind, keys.clone(), keys, any::<usize>(), waits, fate)
        .prop_map(|(client, kind, key, other, pick, waits, fate)| Plan { client, kind, key, other, pick, waits, fate })
}

/// A call, and when it happens.
struct Timed<'a> {
    id: u64,
    plan: &'a Plan,
    from: u64,
    moment: u64,
    until: u64,
}

/// Runs the plans.
pub(crate) fn run(plans: &[Plan], taps: Taps) -> History {
    let mut clocks = [0; CLIENTS as usize];
    let mut calls: Vec<Timed<'_>> = Vec::new();
    for (id, plan) in (1..).zip(plans) {
        let clock = &mut clocks[plan.client as usize];
        let from = *clock + plan.waits[0];
        let moment = from + plan.waits[1];
        let until = moment + plan.waits[2];
        *clock = until;
        let late = if let Planned::UnknownApplied(late) = plan.fate { late } else { 0 };
        calls.push(Timed { id, plan, from, moment: moment + late, until });
    }
    calls.sort_by_key(|call| call.moment);
    let mut store = Store { revisions: vec![Map::new()], events: Vec::new(), taps };
    for call in &calls {
        store.call(call);
    }
    History { events: store.events }
}

struct Store {
    /// The pairs at each revision.
    revisions: Vec<Map>,
    events: Vec<Event>,
    taps: Taps,
}

impl Store {
    fn revision(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    fn now(&self) -> &Map {
        &self.revisions[self.revisions.len() - 1]
    }

    fn call(&mut self, call: &Timed<'_>) {
        let Plan { client, fate, .. } = *call.plan;
        let (id, op) = (call.id, self.op(call));
        self.events.push(Event::Call { id, client, at: call.from, op: op.clone() });
        let answer = match fate {
            Planned::Failed | Planned::UnknownLost => None,
            Planned::Answered | Planned::UnknownApplied(_) | Planned::PendingApplied => Some(self.perform(id, &op)),
        };
        let reason = String::new();
        let result = match (fate, answer) {
            (Planned::Answered, Some(answer)) => Outcome::Ok { answer },
            (Planned::Failed, _) => Outcome::Failed { reason },
            (Planned::PendingApplied, _) => return,
            _ => Outcome::Unknown { reason },
        };
        self.events.push(Event::Return { id, at: call.until, result });
    }

    fn op(&self, call: &Timed<'_>) -> Op {
        let Plan { kind, key, other, pick, .. } = *call.plan;
        let [key, other] = [key, other].map(|key| KEYS[key].to_owned());
        let value = |part: &str| format!("v{}{part}", call.id);
        let read = Read::linearizable();
        match kind {
            Kind::Set => Op::Set { key, value: value("") },
            Kind::Delete => Op::Delete { key },
            Kind::Get => Op::Get { key, read },
            // The least revision is also the one that is shown.
            Kind::GetLocal => {
                let min_revision = pick as u64 % self.revisions.len() as u64;
                Op::Get { key, read: Read { consistency: Consistency::Local, min_revision } }
            }
            Kind::List => Op::List { prefix: ["", "a", "ab", "z"][pick % 4].to_owned(), read },
            Kind::Txn => {
                let mut then =
                    vec![TxnOp::Set { key: key.clone(), value: value("t") }, TxnOp::Get { key: key.clone() }];
                let mut otherwise = vec![TxnOp::Get { key: other.clone() }, TxnOp::Delete { key: other.clone() }];
                if key != other {
                    then.insert(0, TxnOp::Delete { key: other.clone() });
                    otherwise.push(TxnOp::Set { key: key.clone(), value: value("o") });
                }
                if pick % 3 == 0 {
                    then = vec![TxnOp::Delete { key: key.clone() }];
                }
                if pick % 5 == 0 {
                    otherwise.clear();
                }
                Op::Txn { compare: vec![self.compare(key, pick)], then, otherwise }
            }
        }
    }

    /// Often one that holds.
    fn compare(&self, key: String, pick: usize) -> Compare {
        let pair = self.now().get(&key);
        let near = |number: Option<u64>| number.unwrap_or(0) + u64::from(pick.is_multiple_of(7));
        match pick % 4 {
            0 => Compare::Value {
                key,
                expected: pair.filter(|_| !pick.is_multiple_of(7)).map(|pair| pair.value.clone()),
            },
            1 => Compare::ModRevision { key, expected: near(pair.map(|pair| pair.mod_revision)) },
            2 => Compare::Version { key, expected: near(pair.map(|pair| pair.version)) },
            _ => Compare::CreateRevision { key, expected: near(pair.map(|pair| pair.create_revision)) },
        }
    }

    fn perform(&mut self, id: u64, op: &Op) -> Answer {
        let (next, revision) = (self.revision() + 1, self.revision());
        let mut map = self.now().clone();
        match op {
            Op::Set { key, value } => {
                let pair = put(&mut map, key, value, next);
                self.commit(id, map, vec![Change::Put { key: key.clone(), value: value.clone() }]);
                Answer::Set { revision: next, create_revision: pair.create_revision, version: pair.version }
            }
            Op::Delete { key } => {
                let existed = map.remove(key).is_some();
                if existed {
                    self.commit(id, map, vec![Change::Delete { key: key.clone() }]);
                }
                Answer::Delete { existed, revision: self.revision() }
            }
            Op::Get { key, read } => {
                let local = read.consistency == Consistency::Local;
                let revision = if local { read.min_revision } else { revision };
                Answer::Get { revision, pair: self.revisions[revision as usize].get(key).cloned() }
            }
            Op::List { prefix, .. } => {
                let pairs = map.into_values().filter(|pair| pair.key.starts_with(prefix)).collect();
                Answer::List { revision, pairs }
            }
            Op::Txn { compare, then, otherwise } => {
                let succeeded = compare.iter().all(|compare| holds(&map, compare));
                let (mut results, mut changes) = (Vec::new(), Vec::new());
                for op in if succeeded { then } else { otherwise } {
                    results.push(match op {
                        TxnOp::Set { key, value } => {
                            put(&mut map, key, value, next);
                            changes.push(Change::Put { key: key.clone(), value: value.clone() });
                            TxnResult::Set
                        }
                        TxnOp::Delete { key } => {
                            let existed = map.remove(key).is_some();
                            changes.extend(existed.then(|| Change::Delete { key: key.clone() }));
                            TxnResult::Delete { existed }
                        }
                        TxnOp::Get { key } => TxnResult::Get { pair: map.get(key).cloned() },
                    });
                }
                if !changes.is_empty() {
                    self.commit(id, map, changes);
                }
                Answer::Txn { succeeded, revision: self.revision(), results }
            }
        }
    }

    fn commit(&mut self, id: u64, map: Map, changes: Vec<Change>) {
        self.revisions.push(map);
        let revision = self.revision();
        let call = (self.taps == Taps::Named).then_some(id);
        // One node has all, the others miss some.
        let applied = |node: &u64| *node == 1 || (revision + node).is_multiple_of(3);
        if self.taps != Taps::None {
            let commit = |node| Event::Commit { node, revision, changes: changes.clone(), call };
            self.events.extend((1..=NODES).filter(applied).map(commit));
        }
    }
}

fn put(map: &mut Map, key: &str, value: &str, revision: u64) -> Pair {
    let old = map.get(key);
    let pair = Pair {
        key: key.to_owned(),
        value: value.to_owned(),
        create_revision: old.map_or(revision, |pair| pair.create_revision),
        mod_revision: revision,
        version: old.map_or(1, |pair| pair.version + 1),
    };
    map.insert(key.to_owned(), pair.clone());
    pair
}

fn holds(map: &Map, compare: &Compare) -> bool {
    match compare {
        Compare::Value { key, expected } => map.get(key).map(|pair| &pair.value) == expected.as_ref(),
        Compare::ModRevision { key, expected } => map.get(key).map_or(0, |pair| pair.mod_revision) == *expected,
        Compare::Version { key, expected } => map.get(key).map_or(0, |pair| pair.version) == *expected,
        Compare::CreateRevision { key, expected } => map.get(key).map_or(0, |pair| pair.create_revision) == *expected,
    }
}
