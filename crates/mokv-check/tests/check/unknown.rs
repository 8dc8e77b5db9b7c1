//! Writes whose fate nobody knows: what they may explain, and what not.

use mokv_check::{Event, Fact, RevisionReport, Violation, check_revisions};

use crate::story::*;

/// x = a at revision 1, with its commit.
fn x_is_a() -> Vec<Event> {
    [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), commit(1, &[put("x", "a")])].concat()
}

fn nobody(revision: u64) -> Violation {
    Violation::Nobody { revision, changes: "\"x\" deleted".into() }
}

#[test]
fn an_unknown_write_may_have_happened_or_not() {
    let write = pending(2, 2, set("x", "b"));
    assert_legal(&[x_is_a(), write.clone()]);
    let report = check_revisions(&history(&[x_is_a(), write, commit(2, &[put("x", "b")])])).expect("legal");
    let expected =
        RevisionReport { calls: 2, answered: 1, unknown: 1, unknown_applied: 1, revisions: 2, gaps: 0, commits: true };
    assert_eq!(report, expected);
}

#[test]
fn a_delete_is_that_of_an_unknown_call_for_the_key() {
    let story = |key| [x_is_a(), pending(2, 2, delete(key)), commit(2, &[gone("x")])];
    assert_legal(&story("x"));
    assert_eq!(refused(&story("y")), nobody(2));
}

#[test]
fn a_delete_is_not_that_of_a_later_call() {
    let story =
        |at| [x_is_a(), commit(2, &[gone("x")]), call(2, 2..4, get("x"), saw_none(2)), pending(3, at, delete("x"))];
    assert_legal(&story(4));
    assert_eq!(refused(&story(5)), nobody(2));
}

#[test]
fn an_unknown_delete_takes_effect_once() {
    let story = |second: Vec<Event>| {
        [
            x_is_a(),
            pending(2, 2, delete("x")),
            second,
            call(4, 2..9, set("x", "b"), wrote(3, 3, 1)),
            [commit(2, &[gone("x")]), commit(3, &[put("x", "b")]), commit(4, &[gone("x")])].concat(),
        ]
    };
    assert_legal(&story(pending(3, 2, delete("x"))));
    assert_eq!(refused(&story(Vec::new())), nobody(4));
}

#[test]
fn a_delete_of_nothing_takes_no_revision() {
    let story = |key| [x_is_a(), pending(2, 2, delete(key)), commit_of(2, 2, &[gone(key)])];
    assert_legal(&story("x"));
    let nothing =
        Violation::WrongChanges { call: 2, revision: 2, expected: "nothing".into(), found: "\"y\" deleted".into() };
    assert_eq!(refused(&story("y")), nothing);
}

#[test]
fn deletes_are_given_to_calls_such_that_all_find_one() {
    // The transaction can only be the first, since later x is not "a" any more; so the delete has to be the second,
    // though it would also do for the first.
    let while_a = equal("x", mokv_check::Target::Value("a".into()));
    let story = |compare| {
        [
            x_is_a(),
            pending(2, 2, delete("x")),
            pending(3, 2, txn(&[compare], &[txn_delete("x")], &[])),
            call(4, 2..9, set("x", "b"), wrote(3, 3, 1)),
            [commit(2, &[gone("x")]), commit(3, &[put("x", "b")]), commit(4, &[gone("x")])].concat(),
        ]
    };
    assert_legal(&story(while_a));
    assert_eq!(refused(&story(is_absent("x"))), nobody(4));
}

#[test]
fn an_unknown_transaction_does_what_its_branch_says() {
    let story = |value| {
        let write = txn(&[is_absent("x")], &[txn_set("y", "b")], &[txn_set("y", "c")]);
        [x_is_a(), pending(2, 2, write), commit(2, &[put("y", value)])]
    };
    assert_legal(&story("c"));
    let expected = "\"y\" = \"c\"".to_owned();
    let found = "\"y\" = \"b\"".to_owned();
    assert_eq!(refused(&story("b")), Violation::WrongChanges { call: 2, revision: 2, expected, found });
}

#[test]
fn an_unknown_transaction_does_what_its_branch_says_as_views_show() {
    let story = |value| {
        let write = txn(&[is_absent("x")], &[txn_set("y", "b")], &[txn_set("y", "c")]);
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            pending(2, 2, write),
            call(3, 2..5, get("y"), saw(2, pair("y", value, [2, 2, 1]))),
        ]
    };
    assert_legal(&story("c"));
    assert!(matches!(refused(&story("b")), Violation::WrongChanges { call: 2, revision: 2, .. }));
}

#[test]
fn a_gap_needs_an_unknown_write_that_was_called_in_time() {
    let story = |at| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            pending(2, at, set("y", "b")),
            call(3, 2..3, set("x", "c"), wrote(3, 1, 2)),
        ]
    };
    assert_legal(&story(3));
    assert_eq!(refused(&story(4)), Violation::Gap { revision: 2, highest: 3 });
}

#[test]
fn each_gap_needs_an_unknown_write_of_its_own() {
    let story = |last| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            pending(2, 0, set("y", "b")),
            call(3, 2..3, set("x", "c"), wrote(last, 1, 2)),
        ]
    };
    assert_legal(&story(3));
    assert_eq!(refused(&story(4)), Violation::Gap { revision: 3, highest: 4 });
}

#[test]
fn an_unknown_delete_explains_an_absence_after_its_call() {
    let story =
        |lost: Vec<Event>| [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), lost, call(3, 4..5, get("x"), saw_none(2))];
    assert_legal(&story(pending(2, 2, delete("x"))));
    let other_key = Violation::Mismatch {
        call: 3,
        revision: 2,
        key: "x".into(),
        fact: Fact::Value,
        expected: "\"a\"".into(),
        found: "none".into(),
    };
    assert_eq!(refused(&story(pending(2, 2, delete("y")))), other_key);
    assert_eq!(refused(&story(pending(2, 6, delete("x")))), Violation::Gap { revision: 2, highest: 2 });
}

#[test]
fn an_unknown_write_explains_a_version() {
    let story = |key, versions: [u64; 2]| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            pending(2, 2, set(key, "b")),
            call(3, 4..5, set("x", "c"), wrote(3, versions[0], versions[1])),
        ]
    };
    let wrong = |key, versions| match refused(&story(key, versions)) {
        Violation::Mismatch { call: 3, fact, .. } => fact,
        other => panic!("{other}"),
    };
    assert_legal(&story("x", [1, 3]));
    assert_eq!(wrong("x", [1, 4]), Fact::Version);
    assert_eq!(wrong("x", [3, 1]), Fact::CreateRevision);
    assert_eq!(wrong("x", [2, 2]), Fact::CreateRevision);
    assert_legal(&story("y", [1, 2]));
    assert_eq!(wrong("y", [1, 3]), Fact::Version);
}

#[test]
fn an_unknown_delete_explains_a_new_creation() {
    let story = |version| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            pending(2, 2, delete("x")),
            call(3, 4..5, set("x", "c"), wrote(3, 3, version)),
            call(4, 6..7, set("x", "d"), wrote(4, 3, 2)),
        ]
    };
    assert_legal(&story(1));
    assert!(matches!(refused(&story(2)), Violation::Mismatch { call: 3, fact: Fact::Version, .. }));
}

#[test]
fn an_unknown_write_that_nobody_read_may_be_what_was_deleted() {
    let story = |at| {
        [pending(1, at, set("x", "a")), call(2, 0..5, delete("x"), deleted(2)), call(3, 6..7, get("x"), saw_none(2))]
    };
    assert_legal(&story(5));
    assert_eq!(unordered(&story(6)).0, "x");
    assert_eq!(refused(&story(6)), Violation::Gap { revision: 1, highest: 2 });
}

#[test]
fn an_unknown_write_explains_an_earlier_creation() {
    let story = |version| [pending(1, 0, set("x", "a")), call(2, 0..5, set("x", "b"), wrote(2, 1, version))];
    assert_legal(&story(2));
    for version in [1, 3] {
        assert!(matches!(refused(&story(version)), Violation::Mismatch { call: 2, fact: Fact::Version, .. }));
    }
}
