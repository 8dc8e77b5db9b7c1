//! Which write took which revision: wrong histories, each beside its legal twin.

use mokv_check::{Event, Target, TxnResult, Violation};

use crate::story::*;

#[test]
fn a_revision_is_not_used_twice() {
    let story =
        |second| [call(1, 0..5, set("x", "a"), wrote(1, 1, 1)), call(2, 0..5, set("y", "b"), wrote(second, second, 1))];
    assert_legal(&story(2));
    assert_eq!(refused(&story(1)), Violation::RevisionReused { revision: 1, first: 1, second: 2 });
}

#[test]
fn a_commit_is_of_the_call_that_was_answered_so() {
    let story = |first, second| {
        [
            call(1, 0..5, set("x", "a"), wrote(1, 1, 1)),
            pending(2, 0, set("x", "b")),
            commit(1, &[put("x", first)]),
            commit(2, &[put("x", second)]),
        ]
    };
    assert_legal(&story("a", "b"));
    assert_eq!(refused(&story("b", "a")), Violation::DuplicateEffect { call: 1, first: 1, second: 2 });
}

#[test]
fn there_is_no_gap() {
    let story =
        |last| [call(1, 0..5, set("x", "a"), wrote(1, 1, 1)), call(2, 6..7, set("y", "b"), wrote(last, last, 1))];
    assert_legal(&story(2));
    assert_eq!(refused(&story(3)), Violation::Gap { revision: 2, highest: 3 });
}

#[test]
fn there_is_no_gap_between_commits() {
    let story = |last| {
        let writes = [pending(1, 0, set("x", "a")), pending(2, 0, set("y", "b")), pending(3, 0, set("z", "c"))];
        [writes.concat(), commit(1, &[put("x", "a")]), commit(last, &[put("y", "b")])]
    };
    assert_legal(&story(2));
    assert_eq!(refused(&story(3)), Violation::Gap { revision: 2, highest: 3 });
}

#[test]
fn revisions_begin_at_one() {
    let story = |revision| [call(1, 0..5, set("x", "a"), wrote(revision, revision, 1))];
    assert_legal(&story(1));
    assert_eq!(refused(&story(0)), Violation::RevisionZero { call: Some(1) });
    assert_eq!(
        refused(&[pending(1, 0, set("x", "a")), commit(0, &[put("x", "a")])]),
        Violation::RevisionZero { call: None }
    );
}

#[test]
fn nodes_apply_the_same() {
    let story = |value: &str| {
        let other = Event::Commit { node: 2, revision: 1, changes: vec![put("x", value)], call: None };
        [pending(1, 0, set("x", "a")), pending(2, 0, set("x", "b")), commit(1, &[put("x", "a")]), vec![other]]
    };
    assert_legal(&story("a"));
    let [first, second] = ["\"x\" = \"a\"", "\"x\" = \"b\""].map(str::to_owned);
    let disagree = Violation::NodesDisagree { revision: 1, first_node: 1, first, second_node: 2, second };
    assert_eq!(refused(&story("b")), disagree);
}

#[test]
fn nodes_apply_for_the_same_call() {
    let story = |call| {
        let other = Event::Commit { node: 2, revision: 2, changes: vec![gone("x")], call: Some(call) };
        let deletes = [pending(2, 0, delete("x")), pending(3, 0, delete("x"))].concat();
        let first = call_and_commit_of_x();
        [first, deletes, commit_of(2, 2, &[gone("x")]), vec![other]]
    };
    assert_legal(&story(2));
    assert!(matches!(refused(&story(3)), Violation::NodesDisagree { revision: 2, .. }));
}

fn call_and_commit_of_x() -> Vec<Event> {
    [call(1, 0..5, set("x", "a"), wrote(1, 1, 1)), commit(1, &[put("x", "a")])].concat()
}

#[test]
fn an_acknowledged_write_does_not_vanish() {
    let story = |kept: bool| {
        let last = if kept { commit(2, &[put("y", "b")]) } else { Vec::new() };
        [call_and_commit_of_x(), call(2, 6..7, set("y", "b"), wrote(2, 2, 1)), last]
    };
    assert_legal(&story(true));
    assert_eq!(refused(&story(false)), Violation::NotCommitted { call: 2, revision: 2 });
}

#[test]
fn an_acknowledged_write_is_not_replaced() {
    // A new leader that lost the write gives its revision to another.
    let story = |value| {
        [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), pending(2, 0, set("x", "b")), commit(1, &[put("x", value)])]
    };
    assert_legal(&story("a"));
    assert_eq!(refused(&story("b")), Violation::RevisionReused { revision: 1, first: 2, second: 1 });
}

#[test]
fn a_retried_write_takes_effect_once() {
    let story = |last: &[mokv_check::Change]| {
        [
            call(1, 0..9, set("x", "a"), wrote(1, 1, 1)),
            pending(2, 0, set("x", "b")),
            pending(3, 0, set("x", "c")),
            commit(1, &[put("x", "a")]),
            commit(2, &[put("x", "b")]),
            commit(3, last),
        ]
    };
    assert_legal(&story(&[put("x", "c")]));
    assert_eq!(refused(&story(&[put("x", "a")])), Violation::DuplicateEffect { call: 1, first: 1, second: 3 });
    assert_eq!(refused(&story(&[put("x", "b")])), Violation::DuplicateEffect { call: 2, first: 2, second: 3 });
}

#[test]
fn a_retried_write_takes_effect_once_as_views_show() {
    let story = |last| {
        [
            call(1, 0..9, set("x", "a"), unknown()),
            call(2, 0..9, set("x", "b"), unknown()),
            call(3, 10..11, get("x"), saw(1, pair("x", "a", [1, 1, 1]))),
            call(4, 10..11, get("x"), saw(2, pair("x", last, [1, 2, 2]))),
        ]
    };
    assert_legal(&story("b"));
    assert_eq!(refused(&story("a")), Violation::DuplicateEffect { call: 1, first: 1, second: 2 });
}

#[test]
fn a_failed_write_has_no_effect() {
    let story = |outcome| [call(1, 0..1, set("x", "a"), outcome), commit(1, &[put("x", "a")])];
    assert_legal(&story(unknown()));
    assert_eq!(refused(&story(failed())), Violation::FailedTookEffect { call: 1, revision: 1 });
}

#[test]
fn a_failed_write_is_not_seen() {
    let story =
        |outcome| [call(1, 0..1, set("x", "a"), outcome), call(2, 2..3, get("x"), saw(1, pair("x", "a", [1, 1, 1])))];
    assert_legal(&story(unknown()));
    assert_eq!(refused(&story(failed())), Violation::FailedTookEffect { call: 1, revision: 1 });
    assert_eq!(unordered(&story(failed())), ("x".to_owned(), vec![2]));
}

#[test]
fn a_failed_compare_changes_nothing() {
    let story = |changes: &[mokv_check::Change], results: &[TxnResult]| {
        let compare = [equal("x", Target::Version(7))];
        let otherwise = if results.is_empty() { vec![] } else { vec![txn_set("x", "c")] };
        [
            call_and_commit_of_x(),
            call(2, 6..7, txn(&compare, &[txn_set("x", "b")], &otherwise), done(false, 2, results)),
            commit_of(2, 2, changes),
        ]
    };
    assert_legal(&story(&[put("x", "c")], &[txn_wrote(1, 2)]));
    assert_eq!(refused(&story(&[put("x", "b")], &[])), Violation::ViewTookEffect { call: 2, revision: 2 });
}

#[test]
fn a_delete_that_found_nothing_changes_nothing() {
    let story = |outcome| [call_and_commit_of_x(), call(2, 6..7, delete("x"), outcome), commit_of(2, 2, &[gone("x")])];
    assert_legal(&story(deleted(2)));
    assert_eq!(refused(&story(found_nothing(2))), Violation::ViewTookEffect { call: 2, revision: 2 });
}

#[test]
fn a_transaction_is_not_split() {
    let both = txn(&[], &[txn_set("x", "a"), txn_set("y", "b")], &[]);
    let story = |commits: &[Vec<Event>]| {
        [call(1, 0..5, both.clone(), done(true, 1, &[txn_wrote(1, 1), txn_wrote(1, 1)])), commits.concat()]
    };
    assert_legal(&story(&[commit(1, &[put("y", "b"), put("x", "a")])]));
    let split = story(&[commit(1, &[put("x", "a")]), commit(2, &[put("y", "b")])]);
    assert_eq!(refused(&split), Violation::DuplicateEffect { call: 1, first: 1, second: 2 });
    let half = Violation::WrongChanges {
        call: 1,
        revision: 1,
        expected: "\"x\" = \"a\", \"y\" = \"b\"".into(),
        found: "\"x\" = \"a\"".into(),
    };
    assert_eq!(refused(&story(&[commit(1, &[put("x", "a")])])), half);
}

#[test]
fn a_write_does_what_was_asked() {
    let story = |key| [pending(1, 0, set("x", "a")), commit(1, &[put(key, "a")])];
    assert_legal(&story("x"));
    let elsewhere = Violation::WrongChanges {
        call: 1,
        revision: 1,
        expected: "\"x\" = \"a\"".into(),
        found: "\"y\" = \"a\"".into(),
    };
    assert_eq!(refused(&story("y")), elsewhere);
}

#[test]
fn a_commit_is_somebodys() {
    let story = |value| [pending(1, 0, set("x", "a")), commit(1, &[put("x", value)])];
    assert_legal(&story("a"));
    assert_eq!(refused(&story("b")), Violation::Nobody { revision: 1, changes: "\"x\" = \"b\"".into() });
}

#[test]
fn a_commit_changes_something() {
    let story = |changes: &[mokv_check::Change]| [pending(1, 0, set("x", "a")), commit(1, changes)];
    assert_legal(&story(&[put("x", "a")]));
    assert_eq!(refused(&story(&[])), Violation::Nobody { revision: 1, changes: "nothing".into() });
}

#[test]
fn no_view_is_of_a_revision_that_nobody_took() {
    let story = |revision| [call_and_commit_of_x(), call(2, 6..7, get("x"), saw(revision, pair("x", "a", [1, 1, 1])))];
    assert_legal(&story(1));
    assert_eq!(refused(&story(2)), Violation::Future { call: 2, revision: 2, highest: 1 });
    // Without commits, the same by the gap that it leaves.
    let story = |revision| {
        [
            call(1, 0..5, set("x", "a"), wrote(1, 1, 1)),
            call(2, 6..7, get("x"), saw(revision, pair("x", "a", [1, 1, 1]))),
        ]
    };
    assert_legal(&story(1));
    assert_eq!(refused(&story(2)), Violation::Gap { revision: 2, highest: 2 });
    assert_eq!(refused(&story(u64::MAX)), Violation::Gap { revision: 2, highest: u64::MAX });
}
