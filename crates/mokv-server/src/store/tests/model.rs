//! Random histories against a model that keeps every revision whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use internal::{
    Answer, Compare, Condition, DeleteOutcome, DeleteRangeOutcome, ExpireOutcome, GetOutcome, GrantLeaseOutcome,
    IncrementOutcome, OpenSessionOutcome, RevokeLeaseOutcome, ScanOutcome, SetOutcome, Txn, TxnOp, TxnOutcome,
    TxnResult, compare, condition, txn_op, txn_result,
};

type Map = BTreeMap<Vec<u8>, internal::Pair>;

/// What the store is meant to be, in the plainest terms. There are never enough sessions, answers or leases to meet a
/// bound.
struct Model {
    /// The pairs at each revision.
    revisions: Vec<Map>,
    sessions: BTreeMap<u64, internal::Session>,
    uses: u64,
    log_time: u64,
    leases: BTreeMap<u64, internal::Lease>,
    next_lease_id: u64,
}

/// A transaction on its way: the pairs as it sees them, and the revision that it takes if it changes any.
struct Work<'a> {
    map: Map,
    revision: u64,
    is_changed: bool,
    log_time: u64,
    leases: &'a BTreeMap<u64, internal::Lease>,
}

type Refusable<T> = Result<T, Rejection>;

impl Work<'_> {
    fn get(&self, key: &[u8]) -> Option<internal::Pair> {
        self.map.get(key).cloned()
    }

    fn put(&mut self, key: &Bytes, value: Bytes, lease_id: u64, deadline_ms: u64) -> internal::Pair {
        let old = self.get(key);
        let pair = internal::Pair {
            key: key.clone(),
            value,
            create_revision: old.as_ref().map_or(self.revision, |old| old.create_revision),
            mod_revision: self.revision,
            version: old.map_or(0, |old| old.version) + 1,
            lease_id,
            deadline_ms,
        };
        self.map.insert(key.to_vec(), pair.clone());
        self.is_changed = true;
        pair
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let existed = self.map.remove(key).is_some();
        self.is_changed |= existed;
        existed
    }

    fn remove_all(&mut self, doomed: impl Fn(&internal::Pair) -> bool) -> u64 {
        let before = self.map.len();
        self.map.retain(|_, pair| !doomed(pair));
        let removed = before - self.map.len();
        self.is_changed |= removed > 0;
        removed as u64
    }

    fn deadline(&self, ttl_ms: u64) -> u64 {
        if ttl_ms == 0 { 0 } else { self.log_time + ttl_ms }
    }

    fn set(&mut self, set: &internal::Set) -> Refusable<SetOutcome> {
        if set.lease_id != 0 && !self.leases.contains_key(&set.lease_id) {
            return Err(Rejection::LeaseNotFound);
        }
        let old = self.get(&set.key);
        let previous = if set.return_previous { old.clone() } else { None };
        if !holds(&set.condition, &old) || set.keep_value && old.is_none() {
            let old = old.unwrap_or_default();
            let internal::Pair { create_revision, mod_revision, version, .. } = old;
            return Ok(SetOutcome { unmet: true, create_revision, mod_revision, version, previous, revision: 0 });
        }
        let (mut lease_id, mut deadline) = (set.lease_id, self.deadline(set.ttl_ms));
        if let (true, Some(old)) = (set.keep_ttl, &old) {
            (lease_id, deadline) = (old.lease_id, old.deadline_ms);
        }
        let value = old.filter(|_| set.keep_value).map_or(set.value.clone(), |old| old.value);
        let internal::Pair { create_revision, mod_revision, version, .. } =
            self.put(&set.key, value, lease_id, deadline);
        Ok(SetOutcome { unmet: false, create_revision, mod_revision, version, previous, revision: 0 })
    }

    fn delete(&mut self, delete: &internal::Delete) -> DeleteOutcome {
        let old = self.get(&delete.key);
        let previous = if delete.return_previous { old.clone() } else { None };
        let (existed, unmet) = (old.is_some(), !holds(&delete.condition, &old));
        let mod_revision = if unmet { old.unwrap_or_default().mod_revision } else { 0 };
        if !unmet {
            self.remove(&delete.key);
        }
        DeleteOutcome { existed, unmet, mod_revision, previous, revision: 0 }
    }

    fn delete_range(&mut self, range: &internal::DeleteRange) -> DeleteRangeOutcome {
        let deleted = self.remove_all(|pair| is_inside(&pair.key, &range.start, &range.end));
        DeleteRangeOutcome { deleted, revision: 0 }
    }

    fn increment(&mut self, increment: &internal::Increment) -> Refusable<IncrementOutcome> {
        let old = self.get(&increment.key);
        let number = old.as_ref().map_or(Some(0), |old| String::from_utf8(old.value.to_vec()).ok()?.parse().ok());
        let sum = number.and_then(|number: i64| number.checked_add(increment.delta)).ok_or(Rejection::NotANumber)?;
        let deadline = self.deadline(increment.ttl_ms);
        let (lease_id, deadline) = old.map_or((0, deadline), |old| (old.lease_id, old.deadline_ms));
        let pair = self.put(&increment.key, sum.to_string().into(), lease_id, deadline);
        let internal::Pair { create_revision, version, .. } = pair;
        Ok(IncrementOutcome { value: sum, create_revision, version, revision: 0 })
    }

    /// A transaction within another that is done is not known before; so both of its lists count for the leases.
    fn whole_txn(&mut self, txn: &Txn) -> Refusable<TxnOutcome> {
        let succeeded = txn.compare.iter().all(|compare| self.compares(compare));
        let mut rest: Vec<&TxnOp> = if succeeded { &txn.then } else { &txn.otherwise }.iter().collect();
        while let Some(op) = rest.pop() {
            match op.op.as_ref().expect("an op") {
                txn_op::Op::Set(set) if set.lease_id != 0 && !self.leases.contains_key(&set.lease_id) => {
                    return Err(Rejection::LeaseNotFound);
                }
                txn_op::Op::Txn(txn) => rest.extend(txn.then.iter().chain(&txn.otherwise)),
                _ => {}
            }
        }
        self.txn(txn)
    }

    fn txn(&mut self, txn: &Txn) -> Refusable<TxnOutcome> {
        let succeeded = txn.compare.iter().all(|compare| self.compares(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let results = ops.iter().map(|op| Ok(TxnResult { result: Some(self.txn_op(op.op.as_ref().expect("an op"))?) }));
        let results = results.collect::<Refusable<_>>()?;
        Ok(TxnOutcome { succeeded, results, revision: 0, truncated: false })
    }

    fn txn_op(&mut self, op: &txn_op::Op) -> Refusable<txn_result::Result> {
        Ok(match op {
            txn_op::Op::Set(set) => txn_result::Result::Set(self.set(set)?),
            txn_op::Op::Delete(delete) => txn_result::Result::Delete(self.delete(delete)),
            txn_op::Op::DeleteRange(range) => txn_result::Result::DeleteRange(self.delete_range(range)),
            txn_op::Op::Get(get) => txn_result::Result::Get(GetOutcome { pair: self.get(&get.key) }),
            txn_op::Op::Scan(scan) => txn_result::Result::Scan(self.scan(scan)),
            txn_op::Op::Txn(txn) => txn_result::Result::Txn(self.txn(txn)?),
        })
    }

    fn scan(&self, scan: &internal::Scan) -> ScanOutcome {
        let inside = self.map.values().filter(|pair| is_inside(&pair.key, &scan.start, &scan.end));
        let mut pairs: Vec<_> = inside.cloned().collect();
        if scan.reverse {
            pairs.reverse();
        }
        let limit = if scan.limit == 0 { usize::MAX } else { scan.limit as usize };
        let more = pairs.len() > limit;
        pairs.truncate(limit);
        if scan.keys_only {
            pairs.iter_mut().for_each(|pair| pair.value.clear());
        }
        ScanOutcome { pairs, more }
    }

    fn compares(&self, compare: &Compare) -> bool {
        let one = |pair: Option<&internal::Pair>| {
            let zero = internal::Pair::default();
            let numbers = pair.unwrap_or(&zero);
            let order = match compare.target.as_ref().expect("a target") {
                compare::Target::Version(version) => numbers.version.cmp(version),
                compare::Target::CreateRevision(revision) => numbers.create_revision.cmp(revision),
                compare::Target::ModRevision(revision) => numbers.mod_revision.cmp(revision),
                compare::Target::LeaseId(lease_id) => numbers.lease_id.cmp(lease_id),
                compare::Target::Value(_) if pair.is_none() => return false,
                compare::Target::Value(value) => numbers.value.cmp(value),
            };
            match compare.operator() {
                compare::Operator::Equal => order.is_eq(),
                compare::Operator::Greater => order.is_gt(),
                compare::Operator::Less => order.is_lt(),
                compare::Operator::NotEqual => order.is_ne(),
            }
        };
        match &compare.range_end {
            None => one(self.map.get(&compare.key[..])),
            Some(end) => {
                self.map.values().filter(|pair| is_inside(&pair.key, &compare.key, end)).all(|pair| one(Some(pair)))
            }
        }
    }
}

fn is_inside(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    key >= start && (end.is_empty() || key < end)
}

fn holds(condition: &Option<Condition>, old: &Option<internal::Pair>) -> bool {
    match condition.as_ref().map(|condition| condition.is.as_ref().expect("a condition")) {
        None => true,
        Some(condition::Is::Absent(_)) => old.is_none(),
        Some(condition::Is::Present(_)) => old.is_some(),
        Some(condition::Is::ModRevision(revision)) => old.as_ref().map_or(0, |old| old.mod_revision) == *revision,
    }
}

impl Model {
    fn new() -> Self {
        Self {
            revisions: vec![Map::new()],
            sessions: BTreeMap::new(),
            uses: 0,
            log_time: 0,
            leases: BTreeMap::new(),
            next_lease_id: 1,
        }
    }

    fn revision(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    fn now(&self) -> Map {
        self.revisions[self.revisions.len() - 1].clone()
    }

    fn execute(&mut self, term: u64, command: &Command) -> OutcomeResult {
        let op = command.op.as_ref().expect("an operation");
        let Some(id) = &command.id else { return self.perform(term, op) };
        let Some(session) = self.sessions.get_mut(&id.client_id) else {
            return rejected(Rejection::SessionExpired);
        };
        self.uses += 1;
        session.last_used = self.uses;
        let first_unanswered = session.first_unanswered.max(id.first_unanswered.min(id.sequence));
        session.first_unanswered = first_unanswered;
        session.answers.retain(|answer| answer.sequence >= first_unanswered);
        if id.sequence < first_unanswered {
            return rejected(Rejection::SequenceForgotten);
        }
        if let Some(answer) = session.answers.iter().find(|answer| answer.sequence == id.sequence) {
            return answer.outcome.clone().and_then(|outcome| outcome.result).expect("an outcome");
        }
        let result = self.perform(term, op);
        let session = self.sessions.get_mut(&id.client_id).expect("the session");
        session.answers.push(Answer { sequence: id.sequence, outcome: Some(Outcome { result: Some(result.clone()) }) });
        session.answers.sort_by_key(|answer| answer.sequence);
        result
    }

    fn perform(&mut self, term: u64, op: &Op) -> OutcomeResult {
        let leases = self.leases.clone();
        let (map, revision) = (self.now(), self.revision() + 1);
        let mut work = Work { map, revision, is_changed: false, log_time: self.log_time, leases: &leases };
        let mut result = match op {
            Op::Set(set) => work.set(set).map(OutcomeResult::Set),
            Op::Delete(delete) => Ok(OutcomeResult::Delete(work.delete(delete))),
            Op::DeleteRange(range) => Ok(OutcomeResult::DeleteRange(work.delete_range(range))),
            Op::Increment(increment) => work.increment(increment).map(OutcomeResult::Increment),
            Op::Txn(txn) => work.whole_txn(txn).map(OutcomeResult::Txn),
            Op::GrantLease(grant) => self.grant(grant),
            Op::RevokeLease(revoke) => match self.leases.remove(&revoke.lease_id) {
                None => Err(Rejection::LeaseNotFound),
                Some(lease) => {
                    let deleted = work.remove_all(|pair| pair.lease_id == lease.lease_id);
                    Ok(OutcomeResult::RevokeLease(RevokeLeaseOutcome { revision: 0, deleted }))
                }
            },
            Op::ExpireKeys(_) => {
                let deleted = work.remove_all(|pair| pair.deadline_ms > 0 && pair.deadline_ms <= self.log_time);
                Ok(OutcomeResult::Expire(ExpireOutcome { revision: 0, deleted }))
            }
            Op::ExpireLeases(expire) => {
                let mut deleted = 0;
                for id in expire.lease_ids.iter().filter(|_| expire.term == term) {
                    if self.leases.get(id).is_some_and(|lease| lease.deadline_ms <= self.log_time) {
                        self.leases.remove(id);
                        deleted += work.remove_all(|pair| pair.lease_id == *id);
                    }
                }
                Ok(OutcomeResult::Expire(ExpireOutcome { revision: 0, deleted }))
            }
            Op::OpenSession(_) => {
                self.uses += 1;
                let client_id = self.sessions.len() as u64 + 1;
                let session =
                    internal::Session { client_id, last_used: self.uses, first_unanswered: 1, answers: vec![] };
                self.sessions.insert(client_id, session);
                Ok(OutcomeResult::OpenSession(OpenSessionOutcome { client_id }))
            }
            Op::RecordStart(_) => unreachable!("none is drawn"),
        };
        if work.is_changed && result.is_ok() {
            self.revisions.push(work.map);
        }
        if let Ok(result) = &mut result {
            say_revision(result, self.revision());
        }
        result.unwrap_or_else(rejected)
    }

    fn grant(&mut self, grant: &internal::GrantLease) -> Refusable<OutcomeResult> {
        if self.leases.contains_key(&grant.lease_id) {
            return Err(Rejection::LeaseExists);
        }
        let mut lease_id = grant.lease_id;
        while lease_id == 0 {
            lease_id = Some(self.next_lease_id).filter(|id| !self.leases.contains_key(id)).unwrap_or(0);
            self.next_lease_id += 1;
        }
        let deadline_ms = self.log_time + grant.ttl_ms;
        self.leases.insert(lease_id, internal::Lease { lease_id, ttl_ms: grant.ttl_ms, deadline_ms });
        Ok(OutcomeResult::GrantLease(GrantLeaseOutcome { lease_id, revision: 0 }))
    }

    fn range(&self, revision: u64, range: &KeyRange) -> Vec<internal::Pair> {
        let inside = |key: &Vec<u8>| &key[..] >= range.start() && range.end().is_none_or(|end| &key[..] < end);
        let map = &self.revisions[revision as usize];
        map.iter().filter(|(key, _)| inside(key)).map(|(_, pair)| pair.clone()).collect()
    }
}

/// Every part of an outcome has the revision of the whole.
fn say_revision(result: &mut OutcomeResult, revision: u64) {
    match result {
        OutcomeResult::Set(set) => set.revision = revision,
        OutcomeResult::Delete(delete) => delete.revision = revision,
        OutcomeResult::DeleteRange(range) => range.revision = revision,
        OutcomeResult::Increment(increment) => increment.revision = revision,
        OutcomeResult::Txn(txn) => say_revision_of_txn(txn, revision),
        OutcomeResult::GrantLease(grant) => grant.revision = revision,
        OutcomeResult::RevokeLease(revoke) => revoke.revision = revision,
        OutcomeResult::Expire(expire) => expire.revision = revision,
        OutcomeResult::OpenSession(_) | OutcomeResult::RecordStart(_) | OutcomeResult::Rejected(_) => {}
    }
}

fn say_revision_of_txn(txn: &mut TxnOutcome, revision: u64) {
    txn.revision = revision;
    for result in &mut txn.results {
        match result.result.as_mut().expect("a result") {
            txn_result::Result::Set(set) => set.revision = revision,
            txn_result::Result::Delete(delete) => delete.revision = revision,
            txn_result::Result::DeleteRange(range) => range.revision = revision,
            txn_result::Result::Get(_) | txn_result::Result::Scan(_) => {}
            txn_result::Result::Txn(txn) => say_revision_of_txn(txn, revision),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// An entry of the log: whether a new leader proposed it, how long after the last one, and what it says.
    Apply(bool, i64, Vec<Command>),
    Pin,
    /// Drops a pin.
    Release(prop::sample::Index),
    /// Begins a scan of a pin's range.
    Scan(prop::sample::Index, KeyRange),
    /// Takes the next chunk of a scan.
    Next(prop::sample::Index, ChunkLimit),
    /// Takes a snapshot and loads it into another store.
    Reload,
    /// Goes on with what a snapshot restored, in the same store.
    Replace,
}

/// Few keys, so that they meet; some longer than what is kept in place, some with zeros at the end.
fn keys() -> impl Strategy<Value = Bytes> {
    let long = "a key that is longer than 22 bytes";
    prop_oneof![
        4 => (b'a'..=b'e').prop_map(|byte| Bytes::from(vec![byte])),
        1 => (1..4_usize).prop_map(|zeros| [&b"a"[..], &[0; 4][..zeros]].concat().into()),
        1 => (0..3_usize).prop_map(move |cut| Bytes::from(&long[cut..])),
    ]
}

/// Some of them numbers.
fn values() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        2 => vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        2 => (-3..3_i64).prop_map(|number| Bytes::from(number.to_string())),
        1 => Just(Bytes::from(i64::MAX.to_string())),
        1 => (0..3_u8).prop_map(|byte| Bytes::from(vec![byte])),
    ]
}

fn conditions() -> impl Strategy<Value = Option<Condition>> {
    let is = prop_oneof![
        Just(condition::Is::Absent(true)),
        Just(condition::Is::Present(true)),
        (0..20_u64).prop_map(condition::Is::ModRevision),
    ];
    prop::option::weighted(0.4, is.prop_map(|is| Condition { is: Some(is) }))
}

/// Few leases, so that they are there, mostly; and some ids that nobody is given.
fn lease_ids() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..5_u64, 1 => Just(u64::MAX)]
}

fn ttls() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 3 => 1..60_u64]
}

fn sets() -> impl Strategy<Value = internal::Set> {
    let lease_id = prop_oneof![3 => Just(0), 1 => lease_ids()];
    let flags = prop::array::uniform3(prop::bool::weighted(0.2));
    let parts = (keys(), values(), ttls(), lease_id, conditions(), flags);
    parts.prop_map(|(key, value, ttl_ms, lease_id, condition, [return_previous, keep_ttl, keep_value])| internal::Set {
        key,
        value,
        ttl_ms,
        lease_id,
        condition,
        return_previous,
        keep_ttl,
        keep_value,
    })
}

fn deletes() -> impl Strategy<Value = internal::Delete> {
    let parts = (keys(), conditions(), any::<bool>());
    parts.prop_map(|(key, condition, return_previous)| internal::Delete { key, condition, return_previous })
}

/// Start and end. Not always in their order.
fn bounds() -> impl Strategy<Value = (Bytes, Bytes)> {
    let bound = || prop_oneof![1 => Just(Bytes::new()), 3 => keys()];
    (bound(), bound())
}

fn delete_ranges() -> impl Strategy<Value = internal::DeleteRange> {
    bounds().prop_map(|(start, end)| internal::DeleteRange { start, end })
}

fn compares() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..4_u64).prop_map(compare::Target::Version),
        (0..20_u64).prop_map(compare::Target::CreateRevision),
        (0..20_u64).prop_map(compare::Target::ModRevision),
        values().prop_map(compare::Target::Value),
        prop_oneof![Just(0), lease_ids()].prop_map(compare::Target::LeaseId),
    ];
    let end = prop::option::weighted(0.3, prop_oneof![1 => Just(Bytes::new()), 3 => keys()]);
    (keys(), end, 0..4_i32, target).prop_map(|(key, range_end, operator, target)| Compare {
        key,
        range_end,
        operator,
        target: Some(target),
    })
}

fn txns() -> impl Strategy<Value = Txn> {
    let scan = (bounds(), 0..4_u64, any::<bool>(), any::<bool>())
        .prop_map(|((start, end), limit, keys_only, reverse)| internal::Scan { start, end, limit, keys_only, reverse });
    let leaf = prop_oneof![
        4 => sets().prop_map(txn_op::Op::Set),
        2 => deletes().prop_map(txn_op::Op::Delete),
        1 => delete_ranges().prop_map(txn_op::Op::DeleteRange),
        2 => keys().prop_map(|key| txn_op::Op::Get(internal::Get { key })),
        2 => scan.prop_map(txn_op::Op::Scan),
    ];
    let op = leaf.prop_recursive(2, 12, 4, |inner| {
        (vec(compares(), 0..2), vec(inner.clone(), 0..4), vec(inner, 0..4))
            .prop_map(|(compare, then, otherwise)| txn_op::Op::Txn(txn(compare, then, otherwise)))
    });
    (vec(compares(), 0..3), vec(op.clone(), 0..5), vec(op, 0..5))
        .prop_map(|(compare, then, otherwise)| txn(compare, then, otherwise))
}

fn txn(compare: Vec<Compare>, then: Vec<txn_op::Op>, otherwise: Vec<txn_op::Op>) -> Txn {
    let ops = |ops: Vec<txn_op::Op>| ops.into_iter().map(|op| TxnOp { op: Some(op) }).collect();
    Txn { compare, then: ops(then), otherwise: ops(otherwise) }
}

fn commands() -> impl Strategy<Value = Command> {
    let numbers = prop_oneof![Just(i64::MIN), Just(i64::MAX), -3..3_i64];
    let increment = (keys(), numbers, ttls());
    let grant = (prop_oneof![2 => Just(0), 1 => lease_ids()], 1..60_u64);
    let op = prop_oneof![
        6 => (keys(), values()).prop_map(|(key, value)| Op::Set(internal::Set { key, value, ..Default::default() })),
        6 => sets().prop_map(Op::Set),
        4 => deletes().prop_map(Op::Delete),
        2 => delete_ranges().prop_map(Op::DeleteRange),
        3 => increment.prop_map(|(key, delta, ttl_ms)| Op::Increment(internal::Increment { key, delta, ttl_ms })),
        5 => txns().prop_map(Op::Txn),
        3 => grant.prop_map(|(lease_id, ttl_ms)| Op::GrantLease(internal::GrantLease { lease_id, ttl_ms })),
        1 => lease_ids().prop_map(|lease_id| Op::RevokeLease(internal::RevokeLease { lease_id })),
        2 => Just(Op::ExpireKeys(internal::ExpireKeys {})),
        // A leader of this term decided it, or one of the term before; see [`Run::apply`].
        2 => (0..2_u64, vec(lease_ids(), 0..4))
            .prop_map(|(term, lease_ids)| Op::ExpireLeases(internal::ExpireLeases { term, lease_ids })),
        1 => Just(Op::OpenSession(internal::OpenSession {})),
    ];
    let id = (1..5_u64, 0..12_u64, 0..12_u64).prop_map(|(client_id, sequence, first_unanswered)| RequestId {
        client_id,
        sequence,
        first_unanswered,
    });
    (prop::option::of(id), op).prop_map(|(id, op)| Command { id, op: Some(op) })
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    let bounds = prop_oneof![2 => Just(Bytes::new()), 3 => keys()];
    prop_oneof![
        3 => Just(KeyRange::all()),
        1 => keys().prop_map(KeyRange::prefix),
        2 => (bounds, keys()).prop_map(|(start, end)| KeyRange::all().starting_at(start).ending_before(end)),
    ]
}

/// Mostly a little later than the last; sometimes the leader doesn't know, or knows less than the state.
fn entries(commands_len: Range<usize>) -> impl Strategy<Value = Step> {
    let later = prop_oneof![4 => 0..20_i64, 1 => -1000..0_i64];
    (prop::bool::weighted(0.1), later, vec(commands(), commands_len))
        .prop_map(|(elected, later, commands)| Step::Apply(elected, later, commands))
}

fn steps() -> impl Strategy<Value = Step> {
    let limits = (0..4_usize, 0..60_usize).prop_map(|(entries_max, bytes_max)| ChunkLimit { entries_max, bytes_max });
    prop_oneof![
        20 => entries(0..8),
        1 => entries(65..140),
        8 => Just(Step::Pin),
        6 => any::<prop::sample::Index>().prop_map(Step::Release),
        6 => (any::<prop::sample::Index>(), ranges()).prop_map(|(pin, range)| Step::Scan(pin, range)),
        12 => (any::<prop::sample::Index>(), limits).prop_map(|(scan, limit)| Step::Next(scan, limit)),
        1 => Just(Step::Reload),
        1 => Just(Step::Replace),
    ]
}

/// A scan on its way: what it still has to bring.
struct Scan {
    pin: Rc<Pin>,
    rest: KeyRange,
    expected: Vec<internal::Pair>,
}

struct Run {
    log: Log,
    model: Model,
    pins: Vec<Rc<Pin>>,
    scans: Vec<Scan>,
}

impl Run {
    fn step(&mut self, step: Step) {
        match step {
            Step::Apply(elected, later, commands) => self.apply(elected, later, commands),
            Step::Pin => {
                let pin = self.log.store.pin();
                assert_eq!(pin.revision(), self.model.revision());
                self.pins.push(pin.into());
            }
            Step::Release(pin) if !self.pins.is_empty() => drop(self.pins.remove(pin.index(self.pins.len()))),
            Step::Scan(pin, rest) if !self.pins.is_empty() => {
                let pin = Rc::clone(pin.get(&self.pins));
                let expected = self.model.range(pin.revision(), &rest);
                self.scans.push(Scan { pin, rest, expected });
            }
            Step::Next(scan, limit) if !self.scans.is_empty() => {
                let index = scan.index(self.scans.len());
                if !self.scans[index].next(limit) {
                    self.scans.swap_remove(index);
                }
            }
            Step::Release(_) | Step::Scan(..) | Step::Next(..) => {}
            Step::Reload => {
                let copy = Store::new();
                copy.replace(self.reload());
                check_counters(&copy);
                let memory_bytes = copy.stats().memory_bytes;
                assert_eq!(copy.stats(), Stats { memory_bytes, pins: 0, ..self.log.store.stats() });
            }
            Step::Replace => {
                let loaded = self.reload();
                self.log.store.replace(loaded);
                self.compare();
            }
        }
        check_counters(&self.log.store);
    }

    fn apply(&mut self, elected: bool, later: i64, mut commands: Vec<Command>) {
        self.log.term += u64::from(elected);
        let term = self.log.term;
        for command in &mut commands {
            if let Some(Op::ExpireLeases(expire)) = &mut command.op {
                expire.term = term - expire.term;
            }
        }
        self.log.log_time = LogTime::from_millis(self.model.log_time.saturating_add_signed(later));
        self.model.log_time = self.model.log_time.max(self.log.log_time.as_millis());
        let outcomes = self.log.apply(&commands);
        for (command, outcome) in commands.iter().zip(outcomes) {
            assert_eq!(outcome.result, Some(self.model.execute(term, command)), "{command:?}");
        }
        self.compare();
    }

    /// What can be asked of the store is what the model has.
    fn compare(&self) {
        let (Self { model, .. }, Log { store, .. }) = (self, &self.log);
        let now = model.now();
        for key in model.revisions.iter().rev().take(3).flat_map(Map::keys).collect::<BTreeSet<_>>() {
            let Lookup { revision, record } = store.get(key);
            let pair = record.map(|record| Pair { key: Bytes::copy_from_slice(key), record }.into());
            assert_eq!((revision, pair.as_ref()), (model.revision(), now.get(key)));
        }
        let own_deadlines = now.values().map(|pair| pair.deadline_ms).filter(|deadline_ms| *deadline_ms > 0);
        assert_eq!(store.next_deadline(), own_deadlines.min().map(LogTime::from_millis));
        assert_eq!(store.log_time().as_millis(), model.log_time);
        let keys =
            |id| now.values().filter(|pair| pair.lease_id == id).map(|pair| pair.key.clone()).collect::<Vec<_>>();
        let leases = model.leases.values().map(|lease| Lease {
            id: lease.lease_id,
            ttl: Duration::from_millis(lease.ttl_ms),
            deadline: LogTime::from_millis(lease.deadline_ms),
            keys: keys(lease.lease_id).len(),
        });
        assert!(leases.eq(store.leases()));
        for id in 0..6 {
            assert_eq!(store.lease(id), store.leases().into_iter().find(|lease| lease.id == id));
            assert_eq!(store.lease_keys(id), model.leases.get(&id).map(|_| keys(id)));
        }
        let Stats { revision, keys, sessions, leases, log_time, .. } = store.stats();
        assert_eq!((revision, keys), (model.revision(), now.len() as u64));
        assert_eq!((sessions, leases), (model.sessions.len() as u64, model.leases.len() as u64));
        assert_eq!(log_time.as_millis(), model.log_time);
    }

    fn reload(&mut self) -> Loaded {
        self.apply(false, 0, vec![]);
        let checkpoint = self.log.checkpoint();
        assert!(checkpoint.head("cluster").leases.iter().eq(self.model.leases.values()));
        assert_eq!(checkpoint.keys(), self.model.now().len() as u64);
        assert!(checkpoint.sessions().eq(self.model.sessions.values().cloned()));
        reload(&checkpoint).expect("a good snapshot")
    }
}

impl Scan {
    /// Takes a chunk and compares it; `false` when the scan is done.
    fn next(&mut self, limit: ChunkLimit) -> bool {
        let chunk = self.pin.scan(&self.rest, limit);
        assert!(chunk.pairs.len() <= limit.entries_max.max(1));
        let came = self.expected.drain(..chunk.pairs.len().min(self.expected.len()));
        assert!(came.eq(chunk.pairs.into_iter().map(internal::Pair::from)));
        let Some(next) = chunk.next else {
            assert!(self.expected.is_empty(), "the scan ended early");
            return false;
        };
        self.rest = self.rest.clone().starting_at(next);
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_store_is_what_the_model_is(steps in vec(steps(), 1..60)) {
        let mut run = Run { log: Log::new(), model: Model::new(), pins: Vec::new(), scans: Vec::new() };
        steps.into_iter().for_each(|step| run.step(step));
        while let Some(mut scan) = run.scans.pop() {
            while scan.next(ChunkLimit { entries_max: 3, bytes_max: 100 }) {}
        }
        // Without pins, pairs and leases nothing is left but the sessions.
        run.pins.clear();
        let revoke = |id| command::of(Op::RevokeLease(internal::RevokeLease { lease_id: id }));
        run.log.apply(&run.model.leases.keys().copied().map(revoke).collect::<Vec<_>>());
        run.log.apply(&run.model.now().into_keys().map(command::delete).collect::<Vec<_>>());
        let state = run.log.store.shared.read();
        prop_assert_eq!(state.memory_bytes(), state.sessions.memory_bytes());
    }

    #[test]
    fn equal_states_have_equal_hashes(
        writes in vec((keys(), vec(any::<u8>(), 0..3)), 0..12).prop_shuffle(),
        shift in any::<bool>(),
    ) {
        // The same commands in entries of another size, read and pinned meanwhile, are the same state...
        let commands: Vec<_> = writes.iter().map(|(key, value)| command::set(key.clone(), value.clone())).collect();
        let (mut one, mut other) = (Log::new(), Log::new());
        one.apply(&commands);
        let _pin = other.store.pin();
        commands.chunks(2).for_each(|entry| drop(other.apply(entry)));
        prop_assert_eq!(one.store.stats().state_hash, other.store.stats().state_hash);
        // ... and any other command, or order of commands, is another one.
        if shift {
            other.one(command::set("a", "1"));
            one.one(command::set("a", "2"));
        } else {
            one.apply(&[command::set("a", "1"), command::set("b", "1")]);
            other.apply(&[command::set("b", "1"), command::set("a", "1")]);
        }
        prop_assert_ne!(one.store.stats().state_hash, other.store.stats().state_hash);
    }
}
