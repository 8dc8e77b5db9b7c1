//! Small histories in few words. A test tells a story of which one fact is open: with the right one it is legal, with the
//! wrong one it is refused.

use std::ops::Range;

use mokv_check::{
    Answer, Change, Compare, Comparison, Delete, Event, History, Limits, Op, Outcome, Pair, Read, Set, Target, Txn,
    TxnDone, TxnOp, TxnResult, ValueViolation, Violation, check_revisions, check_values,
};

/// A call that returned.
pub(crate) fn call(id: u64, during: Range<u64>, op: Op, result: Outcome) -> Vec<Event> {
    let began = Event::Call { id, client: id, at: during.start, op };
    vec![began, Event::Return { id, at: during.end, result }]
}

/// A call that did not return.
pub(crate) fn pending(id: u64, at: u64, op: Op) -> Vec<Event> {
    vec![Event::Call { id, client: id, at, op }]
}

/// A commit on node 1.
pub(crate) fn commit(revision: u64, changes: &[Change]) -> Vec<Event> {
    vec![Event::Commit { node: 1, revision, changes: changes.to_vec(), call: None }]
}

pub(crate) fn commit_of(call: u64, revision: u64, changes: &[Change]) -> Vec<Event> {
    vec![Event::Commit { node: 1, revision, changes: changes.to_vec(), call: Some(call) }]
}

pub(crate) fn put(key: &str, value: &str) -> Change {
    Change::Put { key: key.into(), value: value.into() }
}

pub(crate) fn gone(key: &str) -> Change {
    Change::Delete { key: key.into() }
}

pub(crate) fn set(key: &str, value: &str) -> Op {
    Op::set(key, value)
}

pub(crate) fn delete(key: &str) -> Op {
    Op::delete(key)
}

pub(crate) fn get(key: &str) -> Op {
    Op::Get { key: key.into(), read: Read::linearizable() }
}

pub(crate) fn get_local(key: &str, min_revision: u64) -> Op {
    Op::Get { key: key.into(), read: Read::local(min_revision) }
}

pub(crate) fn list(prefix: &str) -> Op {
    Op::list(prefix, Read::linearizable())
}

pub(crate) fn txn(compare: &[Compare], then: &[TxnOp], otherwise: &[TxnOp]) -> Op {
    Op::Txn(Txn { compare: compare.to_vec(), then: then.to_vec(), otherwise: otherwise.to_vec() })
}

pub(crate) fn is_absent(key: &str) -> Compare {
    equal(key, Target::Version(0))
}

pub(crate) fn equal(key: &str, target: Target) -> Compare {
    Compare { key: key.into(), range_end: None, is: Comparison::Equal, target }
}

/// Of a set within a transaction.
pub(crate) fn txn_wrote(create_revision: u64, version: u64) -> TxnResult {
    TxnResult::Set { create_revision, version, previous: None }
}

pub(crate) fn txn_set(key: &str, value: &str) -> TxnOp {
    TxnOp::Set(Set { key: key.into(), value: value.into(), ..Set::default() })
}

pub(crate) fn txn_delete(key: &str) -> TxnOp {
    TxnOp::Delete(Delete { key: key.into(), ..Delete::default() })
}

pub(crate) fn txn_get(key: &str) -> TxnOp {
    TxnOp::Get { key: key.into() }
}

/// To a set.
pub(crate) fn wrote(revision: u64, create_revision: u64, version: u64) -> Outcome {
    Outcome::Ok { answer: Answer::Set { revision, create_revision, version, previous: None } }
}

/// To a delete that found something.
pub(crate) fn deleted(revision: u64) -> Outcome {
    Outcome::Ok { answer: Answer::Delete { existed: true, revision, previous: None } }
}

/// To a delete that did not.
pub(crate) fn found_nothing(revision: u64) -> Outcome {
    Outcome::Ok { answer: Answer::Delete { existed: false, revision, previous: None } }
}

/// To a get.
pub(crate) fn saw(revision: u64, pair: Pair) -> Outcome {
    Outcome::Ok { answer: Answer::Get { revision, pair: Some(pair) } }
}

/// To a get of an absent key.
pub(crate) fn saw_none(revision: u64) -> Outcome {
    Outcome::Ok { answer: Answer::Get { revision, pair: None } }
}

/// To a list.
pub(crate) fn listed(revision: u64, pairs: &[Pair]) -> Outcome {
    Outcome::Ok { answer: Answer::List { revision, pairs: pairs.to_vec() } }
}

/// To a transaction.
pub(crate) fn done(succeeded: bool, revision: u64, results: &[TxnResult]) -> Outcome {
    Outcome::Ok { answer: Answer::Txn { revision, done: TxnDone { succeeded, results: results.to_vec() } } }
}

pub(crate) fn failed() -> Outcome {
    Outcome::Failed { reason: "refused".into() }
}

pub(crate) fn unknown() -> Outcome {
    Outcome::Unknown { reason: "timeout".into() }
}

/// `versions`: create_revision, mod_revision, version.
pub(crate) fn pair(key: &str, value: &str, versions: [u64; 3]) -> Pair {
    let [create_revision, mod_revision, version] = versions;
    Pair { key: key.into(), value: value.into(), create_revision, mod_revision, version, ..Pair::default() }
}

pub(crate) fn history(parts: &[Vec<Event>]) -> History {
    History::from(parts.concat())
}

/// Neither checker has anything against it.
#[track_caller]
pub(crate) fn assert_legal(parts: &[Vec<Event>]) {
    let history = history(parts);
    if let Err(violation) = check_revisions(&history) {
        panic!("refused by revisions: {violation}");
    }
    match check_values(&history, Limits::default()) {
        Ok(report) => assert_eq!(report.gave_up, [""; 0]),
        Err(violation) => panic!("refused by values: {violation}"),
    }
}

/// What checker A has against it.
#[track_caller]
pub(crate) fn refused(parts: &[Vec<Event>]) -> Violation {
    check_revisions(&history(parts)).expect_err("refused by revisions")
}

/// The key and the calls that checker B can't bring into an order.
#[track_caller]
pub(crate) fn unordered(parts: &[Vec<Event>]) -> (String, Vec<u64>) {
    match check_values(&history(parts), Limits::default()) {
        Err(ValueViolation::NotLinearizable { key, stuck, .. }) => (key, stuck),
        other => panic!("not refused by values: {other:?}"),
    }
}
