//! Recordings that contradict themselves are no histories.

use mokv_check::{Event, Limits, Malformed, Outcome, Ruling, ValueViolation, Violation, check};

use crate::story::*;

#[track_caller]
fn assert_malformed(parts: &[Vec<Event>], expected: &Malformed) {
    let verdict = check(&history(parts), Limits::default());
    assert_eq!(verdict.ruling(), Ruling::Malformed);
    assert_eq!(verdict.revisions, Err(Violation::Malformed(expected.clone())));
    // Only checker A looks at commits.
    if let Err(violation) = verdict.values {
        assert_eq!(violation, ValueViolation::Malformed(expected.clone()));
    }
}

fn returned(id: u64, at: u64, result: Outcome) -> Vec<Event> {
    vec![Event::Return { id, at, result }]
}

#[test]
fn calls_and_returns_belong_together() {
    let set_x = || call(1, 5..6, set("x", "a"), wrote(1, 1, 1));
    assert_malformed(&[set_x(), pending(1, 7, delete("x"))], &Malformed::DuplicateCall { call: 1 });
    assert_malformed(&[set_x(), returned(2, 7, unknown())], &Malformed::NoSuchCall { call: 2 });
    assert_malformed(&[set_x(), commit_of(3, 1, &[put("x", "a")])], &Malformed::NoSuchCall { call: 3 });
    assert_malformed(&[set_x(), returned(1, 7, unknown())], &Malformed::ReturnedTwice { call: 1 });
    assert_malformed(&[pending(1, 5, set("x", "a")), returned(1, 4, unknown())], &Malformed::ReturnedEarly { call: 1 });
}

#[test]
fn answers_are_of_the_kind_that_was_asked_for() {
    let wrong = Malformed::WrongKind { call: 1 };
    assert_malformed(&[call(1, 0..1, set("x", "a"), deleted(1))], &wrong);
    assert_malformed(&[call(1, 0..1, get("x"), saw(1, pair("y", "a", [1, 1, 1])))], &wrong);
    assert_malformed(&[call(1, 0..1, txn(&[], &[txn_set("x", "a")], &[]), done(true, 1, &[]))], &wrong);
}

#[test]
fn values_are_unique() {
    let reused = |second| Malformed::ReusedValue { value: "a".into(), first: 1, second };
    assert_malformed(&[pending(1, 0, set("x", "a")), pending(2, 0, set("y", "a"))], &reused(2));
    assert_malformed(&[pending(1, 0, txn(&[], &[txn_set("x", "a")], &[txn_set("x", "a")]))], &reused(1));
}

#[test]
fn a_key_is_written_once_at_a_revision() {
    let twice = txn(&[], &[txn_set("x", "a"), txn_delete("x")], &[]);
    assert_malformed(&[pending(1, 0, twice)], &Malformed::WrittenTwice { call: 1, key: "x".into() });
    let changed = Malformed::ChangedTwice { node: 1, revision: 1, key: "x".into() };
    assert_malformed(&[pending(1, 0, set("x", "a")), commit(1, &[put("x", "a"), gone("x")])], &changed);
}
