//! Legal histories, made by a store that does one call after another, each at some moment between its beginning and its
//! end. It keeps every revision whole, and shares nothing with the checkers.

use std::collections::BTreeMap;

use mokv_check::{
    Answer, Change, Compare, Comparison, Condition, Consistency, Delete, Event, History, List, Op, Outcome, Pair,
    Range, Read, Seen, Set, Target, Txn, TxnDone, TxnOp, TxnResult, Watch, WatchEvent, Watched,
};
use proptest::collection::vec;
use proptest::prelude::*;

const CLIENTS: u64 = 4;
const KEYS: [&str; 4] = ["a", "ab", "b", "c"];
/// Those that only increments write.
const NUMBERS: [&str; 2] = ["n", "na"];
const NODES: u64 = 3;

/// The nodes' clocks run so fast that something ends within a history.
const FASTEST_PERCENT: u64 = 10_000;
const SLOWEST_PERCENT: u64 = 5_000;

/// A millisecond of the fastest clock, in microseconds.
const MILLISECOND: u64 = 1000 * 100 / FASTEST_PERCENT;

type Map = BTreeMap<String, Row>;

/// A key, and when time deletes it.
#[derive(Debug, Clone)]
struct Row {
    pair: Pair,
    deadline: Option<u64>,
}

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

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Set,
    Delete,
    Get,
    GetLocal,
    List,
    Txn,
    /// A set with all its options.
    SetHow,
    DeleteIf,
    DeleteRange,
    Increment,
    Count,
    /// A read of an older revision, or of one that may be so old.
    GetOld,
    Lease,
    Watch,
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

/// Which calls there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scope {
    /// Sets, deletes, reads and transactions of them, of which the checkers know all even without commits.
    Plain,
    All,
}

pub(crate) fn plans(calls_max: usize, scope: Scope) -> impl Strategy<Value = Vec<Plan>> {
    vec(plan(scope), 0..calls_max)
}

fn plan(scope: Scope) -> impl Strategy<Value = Plan> {
    use Kind::*;
    let plain = prop_oneof![4 => Just(Set), 2 => Just(Delete), 4 => Just(Get), 1 => Just(GetLocal), 1 => Just(List), 2 => Just(Txn)];
    let special = prop_oneof![
        4 => Just(SetHow), 1 => Just(DeleteIf), 3 => Just(DeleteRange), 2 => Just(Increment), 1 => Just(Count),
        1 => Just(GetOld), 3 => Just(Lease), 4 => Just(Watch),
    ];
    let weight = if scope == Scope::All { 1 } else { 0 };
    let kind = prop_oneof![1 => plain, weight => special];
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
        let late = match plan.fate {
            // What a watch is told comes at once.
            Planned::UnknownApplied(late) if plan.kind != Kind::Watch => late,
            _ => 0,
        };
        calls.push(Timed { id, plan, from, moment: moment + late, until });
    }
    calls.sort_by_key(|call| call.moment);
    let mut store = Store {
        now: 0,
        revisions: vec![Map::new()],
        moments: vec![0],
        leases: BTreeMap::new(),
        last_lease: 0,
        watchers: Vec::new(),
        events: vec![Event::Clocks { fastest_percent: FASTEST_PERCENT, slowest_percent: SLOWEST_PERCENT }],
        taps,
    };
    for call in &calls {
        store.now = call.moment;
        // Not always as soon as it could be.
        if call.plan.pick % 3 == 0 {
            store.expire();
        }
        store.call(call);
    }
    store.tell_watchers();
    History { events: store.events }
}

struct Store {
    now: u64,
    /// The pairs at each revision.
    revisions: Vec<Map>,
    /// When each came to be.
    moments: Vec<u64>,
    leases: BTreeMap<u64, Lease>,
    last_lease: u64,
    watchers: Vec<Watcher>,
    events: Vec<Event>,
    taps: Taps,
}

struct Lease {
    ttl_ms: u64,
    deadline: u64,
}

struct Watcher {
    id: u64,
    watch: Watch,
    begin: u64,
    pick: usize,
}

impl Store {
    fn revision(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    fn map(&self) -> &Map {
        &self.revisions[self.revisions.len() - 1]
    }

    fn call(&mut self, call: &Timed<'_>) {
        let Plan { client, fate, pick, .. } = *call.plan;
        let id = call.id;
        if call.plan.kind == Kind::Watch {
            self.watch(call);
            return;
        }
        let op = self.op(call);
        self.events.push(Event::Call { id, client, at: call.from, op: op.clone() });
        let answer = match fate {
            Planned::Failed | Planned::UnknownLost => None,
            Planned::Answered | Planned::UnknownApplied(_) | Planned::PendingApplied => {
                Some(self.perform(call, &op, pick))
            }
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
            Kind::Set => Op::set(key, value("")),
            Kind::Delete => Op::delete(key),
            Kind::Get => Op::Get { key, read },
            // The least revision is also the one that is shown.
            Kind::GetLocal => Op::Get { key, read: Read::local(pick as u64 % self.revisions.len() as u64) },
            Kind::List => Op::List(self.list(pick)),
            Kind::Txn => self.txn(key, other, pick, value),
            Kind::SetHow => Op::Set(self.set_how(key, value(""), pick)),
            Kind::DeleteIf => {
                Op::Delete(Delete { condition: self.condition(&key, pick), previous: pick % 2 == 0, key })
            }
            Kind::DeleteRange => Op::DeleteRange { range: range(pick) },
            Kind::Increment => Op::Increment {
                key: NUMBERS[pick % 2].into(),
                delta: pick as i64 % 10 - 4,
                ttl_ms: [0, 0, 2][pick % 3],
            },
            Kind::Count => Op::Count { range: range(pick), read },
            Kind::GetOld if pick % 2 == 0 => {
                let at_revision = pick as u64 % self.revisions.len() as u64;
                Op::Get { key, read: Read { at_revision, ..read } }
            }
            Kind::GetOld => Op::Get { key, read: Read { max_staleness_ms: 1 + pick as u64 % 3, ..Read::local(0) } },
            Kind::Lease => self.lease_op(pick),
            Kind::Watch => unreachable!("it is no call"),
        }
    }

    fn list(&self, pick: usize) -> List {
        let (limit, reverse, keys_only) = (pick as u64 / 4 % 4, pick.is_multiple_of(3), pick.is_multiple_of(5));
        List { range: range(pick), limit, reverse, keys_only, read: Read::linearizable() }
    }

    fn set_how(&self, key: String, value: String, pick: usize) -> Set {
        let lease = self.leases.keys().nth(pick / 5 % 4).copied().filter(|_| pick.is_multiple_of(3)).unwrap_or(0);
        let is_kept = lease == 0 && pick.is_multiple_of(7);
        Set {
            condition: self.condition(&key, pick / 2),
            ttl_ms: if lease == 0 && !is_kept { [0, 1, 2, 5][pick / 3 % 4] } else { 0 },
            lease,
            keep_ttl: is_kept,
            keep_value: pick.is_multiple_of(5),
            previous: pick.is_multiple_of(2),
            key,
            value,
        }
    }

    fn condition(&self, key: &str, pick: usize) -> Option<Condition> {
        let mod_revision = self.map().get(key).map_or(7, |row| row.pair.mod_revision);
        [None, Some(Condition::Absent), Some(Condition::Present), Some(Condition::ModRevision(mod_revision))][pick % 4]
    }

    fn lease_op(&self, pick: usize) -> Op {
        let lease = 1 + pick as u64 / 6 % (self.last_lease + 1);
        match pick % 6 {
            0 | 1 => Op::GrantLease { ttl_ms: 1 + pick as u64 / 6 % 4, lease: 0 },
            2 => Op::RevokeLease { lease },
            3 | 4 => Op::KeepAlive { lease },
            _ => Op::GetLease { lease },
        }
    }

    fn txn(&self, key: String, other: String, pick: usize, value: impl Fn(&str) -> String) -> Op {
        let set = |part: &str| {
            TxnOp::Set(Set { key: key.clone(), value: value(part), previous: pick.is_multiple_of(2), ..Set::default() })
        };
        let delete = |key: &String| TxnOp::Delete(Delete { key: key.clone(), ..Delete::default() });
        let mut then = vec![set("t"), TxnOp::Get { key: key.clone() }];
        let mut otherwise = vec![TxnOp::Get { key: other.clone() }, delete(&other)];
        if key != other {
            then.insert(0, delete(&other));
            otherwise.push(set("o"));
        }
        if pick.is_multiple_of(3) {
            then = vec![delete(&key)];
        }
        if pick.is_multiple_of(5) {
            otherwise.clear();
        }
        if pick.is_multiple_of(11) {
            then.push(TxnOp::List(self.list(pick / 11)));
        }
        Op::Txn(Txn { compare: vec![self.compare(key, pick)], then, otherwise })
    }

    /// Often one that holds.
    fn compare(&self, key: String, pick: usize) -> Compare {
        let pair = self.map().get(&key).map(|row| &row.pair);
        let near = |number: Option<u64>| number.unwrap_or(0) + u64::from(pick.is_multiple_of(7));
        let target = match pick % 5 {
            0 => Target::Value(pair.map_or("?", |pair| &pair.value).to_owned()),
            1 => Target::ModRevision(near(pair.map(|pair| pair.mod_revision))),
            2 => Target::Version(near(pair.map(|pair| pair.version))),
            3 => Target::Lease(near(pair.map(|pair| pair.lease))),
            _ => Target::CreateRevision(near(pair.map(|pair| pair.create_revision))),
        };
        let is = match pick % 17 {
            0 => Comparison::NotEqual,
            1 => Comparison::Less,
            2 => Comparison::Greater,
            _ => Comparison::Equal,
        };
        let range_end = pick.is_multiple_of(13).then(|| ["", "b"][pick % 2].to_owned());
        Compare { key, range_end, is, target }
    }

    fn perform(&mut self, call: &Timed<'_>, op: &Op, pick: usize) -> Answer {
        let (id, next, revision) = (call.id, self.revision() + 1, self.revision());
        let mut map = self.map().clone();
        match op {
            Op::Set(set) => {
                let old = map.get(&set.key).cloned();
                if !is_met(set.condition, old.as_ref()) || set.keep_value && old.is_none() {
                    return unmet(revision, old.as_ref());
                }
                if set.lease > 0 && !self.leases.contains_key(&set.lease) {
                    return Answer::NoLease;
                }
                let Pair { value, create_revision, version, .. } = self.put(&mut map, set, next);
                self.commit(id, map, vec![Change::Put { key: set.key.clone(), value }]);
                let previous = old.map(|row| row.pair).filter(|_| set.previous);
                Answer::Set { revision: next, create_revision, version, previous }
            }
            Op::Delete(delete) => {
                let old = map.remove(&delete.key);
                if !is_met(delete.condition, old.as_ref()) {
                    return unmet(revision, old.as_ref());
                }
                let existed = old.is_some();
                if existed {
                    self.commit(id, map, vec![Change::Delete { key: delete.key.clone() }]);
                }
                let previous = old.map(|row| row.pair).filter(|_| delete.previous);
                Answer::Delete { existed, revision: self.revision(), previous }
            }
            Op::DeleteRange { range } => {
                let deleted = self.remove(id, map, |row| range.contains(&row.pair.key));
                Answer::DeleteRange { deleted, revision: self.revision() }
            }
            Op::Increment { key, delta, ttl_ms } => {
                let old = map.get(key);
                let value = old.map_or(0, |row| row.pair.value.parse::<i64>().expect("a number")) + delta;
                let set = Set {
                    key: key.clone(),
                    value: value.to_string(),
                    keep_ttl: old.is_some(),
                    ttl_ms: if old.is_some() { 0 } else { *ttl_ms },
                    ..Set::default()
                };
                let Pair { create_revision, version, .. } = self.put(&mut map, &set, next);
                self.commit(id, map, vec![Change::Put { key: key.clone(), value: value.to_string() }]);
                Answer::Increment { value, revision: next, create_revision, version }
            }
            Op::Get { key, read } => {
                let revision = self.revision_of(read, call, pick);
                let row = self.revisions[revision as usize].get(key);
                Answer::Get { revision, pair: row.map(|row| row.pair.clone()) }
            }
            Op::List(asked) => Answer::List { revision, pairs: list(&map, asked).0 },
            Op::Count { range, .. } => {
                Answer::Count { revision, count: map.keys().filter(|key| range.contains(key)).count() as u64 }
            }
            Op::Txn(txn) => {
                let mut changes = Vec::new();
                let done = self.do_txn(&mut map, txn, next, &mut changes);
                if !changes.is_empty() {
                    self.commit(id, map, changes);
                }
                Answer::Txn { revision: self.revision(), done }
            }
            Op::GrantLease { ttl_ms, .. } => {
                self.last_lease += 1;
                let deadline = self.now + ttl_ms * MILLISECOND;
                self.leases.insert(self.last_lease, Lease { ttl_ms: *ttl_ms, deadline });
                Answer::GrantLease { lease: self.last_lease, revision }
            }
            Op::RevokeLease { lease } => match self.leases.remove(lease) {
                None => Answer::NoLease,
                Some(_) => {
                    let deleted = self.remove(id, map, |row| row.pair.lease == *lease);
                    Answer::RevokeLease { revision: self.revision(), deleted }
                }
            },
            Op::KeepAlive { lease } => {
                let now = self.now;
                let Some(lease) = self.leases.get_mut(lease) else { return Answer::NoLease };
                lease.deadline = now + lease.ttl_ms * MILLISECOND;
                Answer::KeepAlive { ttl_ms: lease.ttl_ms }
            }
            Op::GetLease { lease } => match self.leases.get(lease) {
                None => Answer::NoLease,
                Some(Lease { ttl_ms, .. }) => Answer::GetLease { ttl_ms: *ttl_ms, remaining_ms: 0, keys: Vec::new() },
            },
        }
    }

    /// The revision that a read shows.
    fn revision_of(&self, read: &Read, call: &Timed<'_>, pick: usize) -> u64 {
        let newest = self.revision();
        if read.at_revision > 0 {
            return read.at_revision;
        }
        match read.consistency {
            Consistency::Linearizable | Consistency::Lease => newest,
            Consistency::Local if read.max_staleness_ms == 0 => read.min_revision,
            Consistency::Local => {
                // The oldest that may be shown, or one after it.
                let from = call.from.saturating_sub(read.max_staleness_ms * 1000 * 100 / SLOWEST_PERCENT);
                let oldest = self.moments.iter().rposition(|moment| *moment <= from).unwrap_or(0) as u64;
                oldest + pick as u64 % (newest - oldest + 1)
            }
        }
    }

    fn put(&self, map: &mut Map, set: &Set, revision: u64) -> Pair {
        let old = map.get(&set.key);
        let kept = old.filter(|_| set.keep_ttl);
        let pair = Pair {
            key: set.key.clone(),
            value: old.filter(|_| set.keep_value).map_or(&set.value, |row| &row.pair.value).clone(),
            create_revision: old.map_or(revision, |row| row.pair.create_revision),
            mod_revision: revision,
            version: old.map_or(1, |row| row.pair.version + 1),
            lease: kept.map_or(set.lease, |row| row.pair.lease),
        };
        let own = (set.ttl_ms > 0).then(|| self.now + set.ttl_ms * MILLISECOND);
        let deadline = kept.map_or(own, |row| row.deadline);
        map.insert(set.key.clone(), Row { pair: pair.clone(), deadline });
        pair
    }

    /// Deletes some keys, at one revision if there are any.
    fn remove(&mut self, id: u64, mut map: Map, is_one: impl Fn(&Row) -> bool) -> u64 {
        let removed: Vec<String> = map.iter().filter(|(_, row)| is_one(row)).map(|(key, _)| key.clone()).collect();
        map.retain(|key, _| !removed.contains(key));
        let deleted = removed.len() as u64;
        if deleted > 0 {
            self.commit(id, map, removed.into_iter().map(|key| Change::Delete { key }).collect());
        }
        deleted
    }

    fn do_txn(&self, map: &mut Map, txn: &Txn, next: u64, changes: &mut Vec<Change>) -> TxnDone {
        let succeeded = txn.compare.iter().all(|compare| holds(map, compare));
        let mut results = Vec::new();
        for op in if succeeded { &txn.then } else { &txn.otherwise } {
            results.push(match op {
                TxnOp::Set(set) => {
                    let previous = map.get(&set.key).filter(|_| set.previous).map(|row| row.pair.clone());
                    let Pair { value, create_revision, version, .. } = self.put(map, set, next);
                    changes.push(Change::Put { key: set.key.clone(), value });
                    TxnResult::Set { create_revision, version, previous }
                }
                TxnOp::Delete(Delete { key, .. }) => {
                    let existed = map.remove(key).is_some();
                    changes.extend(existed.then(|| Change::Delete { key: key.clone() }));
                    TxnResult::Delete { existed, previous: None }
                }
                TxnOp::Get { key } => TxnResult::Get { pair: map.get(key).map(|row| row.pair.clone()) },
                TxnOp::List(asked) => {
                    let (pairs, more) = list(map, asked);
                    TxnResult::List { pairs, more }
                }
                TxnOp::DeleteRange { .. } | TxnOp::Txn(_) => unreachable!("no plan has them"),
            });
        }
        TxnDone { succeeded, results }
    }

    /// Ends what is due, or one key of it.
    fn expire(&mut self) {
        let is_due = |deadline: u64| deadline <= self.now;
        if let Some((&lease, _)) = self.leases.iter().find(|(_, lease)| is_due(lease.deadline)) {
            self.leases.remove(&lease);
            self.end(|row| row.pair.lease == lease, &[lease]);
        } else if self.map().values().any(|row| row.deadline.is_some_and(is_due)) {
            let now = self.now;
            self.end(|row| row.deadline.is_some_and(|deadline| deadline <= now), &[]);
        }
    }

    fn end(&mut self, is_one: impl Fn(&Row) -> bool, leases: &[u64]) {
        let mut map = self.map().clone();
        let keys: Vec<String> = map.iter().filter(|(_, row)| is_one(row)).map(|(key, _)| key.clone()).collect();
        map.retain(|key, _| !keys.contains(key));
        if !keys.is_empty() {
            self.revisions.push(map);
            self.moments.push(self.now);
        }
        if self.taps != Taps::None {
            let (revision, at, leases) = (self.revision(), self.now, leases.to_vec());
            let expiry =
                |node| Event::Expiry { node, at: at + node, revision, keys: keys.clone(), leases: leases.clone() };
            self.events.extend((1..=2).map(expiry));
        }
    }

    fn commit(&mut self, id: u64, map: Map, changes: Vec<Change>) {
        self.revisions.push(map);
        self.moments.push(self.now);
        let revision = self.revision();
        let call = (self.taps == Taps::Named).then_some(id);
        // One node has all, the others miss some.
        let applied = |node: &u64| *node == 1 || (revision + node).is_multiple_of(3);
        if self.taps != Taps::None {
            let commit = |node| Event::Commit { node, revision, changes: changes.clone(), call };
            self.events.extend((1..=NODES).filter(applied).map(commit));
        }
    }

    /// Begins a watch. What it is told comes in the end.
    fn watch(&mut self, call: &Timed<'_>) {
        let Plan { client, key, pick, .. } = *call.plan;
        let keys = match pick % 2 {
            0 => Watched::Key(KEYS[key].into()),
            _ => Watched::Range(range(pick / 2)),
        };
        let start_revision = if pick % 3 == 0 { 1 + pick as u64 % (self.revision() + 3) } else { 0 };
        let watch = Watch {
            keys,
            start_revision,
            local: false,
            list_first: start_revision == 0 && pick % 5 < 2,
            previous: pick % 4 == 0,
            keys_only: pick % 7 == 0,
            no_puts: pick % 11 == 0,
            no_deletes: pick % 13 == 0,
        };
        let (id, begin) = (call.id, self.revision());
        self.events.push(Event::Watch { id, client, at: call.from, watch: watch.clone() });
        if start_revision == 0 {
            let is_one = |row: &&Row| watch.list_first && watch.keys.has(&row.pair.key);
            let pairs: Vec<Pair> =
                self.map().values().filter(is_one).map(|row| shown(&row.pair, watch.keys_only)).collect();
            let (first, rest) = pairs.split_at(pick % (pairs.len() + 1));
            if !first.is_empty() {
                let seen = Seen { revision: begin, pairs: first.to_vec(), more: true, ..Seen::default() };
                self.events.push(Event::Seen { id, at: call.until, seen });
            }
            let seen = Seen { revision: begin, pairs: rest.to_vec(), ..Seen::default() };
            self.events.push(Event::Seen { id, at: call.until, seen });
        }
        let begin = if start_revision > 0 { start_revision - 1 } else { begin };
        self.watchers.push(Watcher { id, watch, begin, pick });
    }

    /// Each is told all, in some portions.
    fn tell_watchers(&mut self) {
        let at = self.events.iter().map(time).max().unwrap_or(0) + 1;
        for Watcher { id, watch, begin, pick } in std::mem::take(&mut self.watchers) {
            let mut events: Vec<WatchEvent> = Vec::new();
            for revision in begin + 1..=self.revision() {
                let of_revision = self.events_of(revision, &watch);
                let is_split = of_revision.len() > 1 && pick % 8 > 1;
                let is_told = (revision as usize + pick).is_multiple_of(3);
                let (part, rest) = of_revision.split_at(if is_split { 1 } else { of_revision.len() });
                events.extend_from_slice(part);
                if is_split {
                    let seen = Seen { revision, events: std::mem::take(&mut events), more: true, ..Seen::default() };
                    self.events.push(Event::Seen { id, at, seen });
                }
                events.extend_from_slice(rest);
                if is_told || is_split {
                    let seen = Seen { revision, events: std::mem::take(&mut events), ..Seen::default() };
                    self.events.push(Event::Seen { id, at, seen });
                }
            }
            if begin < self.revision() {
                let seen = Seen { revision: self.revision(), events, ..Seen::default() };
                self.events.push(Event::Seen { id, at, seen });
            }
        }
    }

    fn events_of(&self, revision: u64, watch: &Watch) -> Vec<WatchEvent> {
        let (before, after) = (&self.revisions[revision as usize - 1], &self.revisions[revision as usize]);
        let mut events = Vec::new();
        let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in keys.into_iter().filter(|key| watch.keys.has(key)) {
            let (old, new) = (before.get(key), after.get(key));
            let is_changed = new.map(|row| row.pair.mod_revision) != old.map(|row| row.pair.mod_revision);
            let is_left_out = if new.is_some() { watch.no_puts } else { watch.no_deletes };
            if is_changed && !is_left_out {
                let show = |row: &Row| shown(&row.pair, watch.keys_only);
                events.push(WatchEvent {
                    key: key.clone(),
                    revision,
                    pair: new.map(show),
                    previous: old.filter(|_| watch.previous).map(show),
                });
            }
        }
        events
    }
}

/// When an event was recorded.
fn time(event: &Event) -> u64 {
    match event {
        Event::Call { at, .. } | Event::Return { at, .. } | Event::Seen { at, .. } | Event::Watch { at, .. } => *at,
        _ => 0,
    }
}

fn range(pick: usize) -> Range {
    let of =
        |prefix: &str, start: &str, end: &str| Range { prefix: prefix.into(), start: start.into(), end: end.into() };
    match pick % 6 {
        0 => of("", "", ""),
        1 => of("a", "", ""),
        2 => of("ab", "", ""),
        3 => of("", "ab", "c"),
        4 => of("a", "aa", ""),
        _ => of("z", "", ""),
    }
}

fn list(map: &Map, asked: &List) -> (Vec<Pair>, bool) {
    let mut pairs: Vec<Pair> = map.values().map(|row| shown(&row.pair, asked.keys_only)).collect();
    pairs.retain(|pair| asked.range.contains(&pair.key));
    if asked.reverse {
        pairs.reverse();
    }
    let more = asked.limit > 0 && pairs.len() as u64 > asked.limit;
    if more {
        pairs.truncate(asked.limit as usize);
    }
    (pairs, more)
}

fn shown(pair: &Pair, keys_only: bool) -> Pair {
    match keys_only {
        true => Pair { value: String::new(), ..pair.clone() },
        false => pair.clone(),
    }
}

fn is_met(condition: Option<Condition>, old: Option<&Row>) -> bool {
    match condition {
        None => true,
        Some(Condition::Absent) => old.is_none(),
        Some(Condition::Present) => old.is_some(),
        Some(Condition::ModRevision(revision)) => old.is_some_and(|row| row.pair.mod_revision == revision),
    }
}

fn unmet(revision: u64, old: Option<&Row>) -> Answer {
    Answer::Unmet { revision, mod_revision: old.map_or(0, |row| row.pair.mod_revision) }
}

fn holds(map: &Map, compare: &Compare) -> bool {
    let one = |pair: Option<&Pair>| {
        let is = |number: fn(&Pair) -> u64, target: &u64| compare.is.holds(&pair.map_or(0, number), target);
        match &compare.target {
            Target::Value(target) => pair.is_some_and(|pair| compare.is.holds(&pair.value, target)),
            Target::ModRevision(target) => is(|pair| pair.mod_revision, target),
            Target::Version(target) => is(|pair| pair.version, target),
            Target::CreateRevision(target) => is(|pair| pair.create_revision, target),
            Target::Lease(target) => is(|pair| pair.lease, target),
        }
    };
    match &compare.range_end {
        None => one(map.get(&compare.key).map(|row| &row.pair)),
        Some(end) => map
            .range(compare.key.clone()..)
            .filter(|(key, _)| end.is_empty() || *key < end)
            .all(|(_, row)| one(Some(&row.pair))),
    }
}
