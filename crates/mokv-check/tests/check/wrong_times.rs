//! What was answered before a call began lies before it: wrong histories, each beside its legal twin.

use mokv_check::{Outcome, Violation};

use crate::story::*;

#[test]
fn a_linearizable_read_is_not_stale() {
    let story = |seen| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..3, set("x", "b"), wrote(2, 1, 2)),
            call(3, 4..5, get("x"), seen),
        ]
    };
    assert_legal(&story(saw(2, pair("x", "b", [1, 2, 2]))));
    let stale = story(saw(1, pair("x", "a", [1, 1, 1])));
    assert_eq!(refused(&stale), Violation::Stale { call: 3, revision: 1, floor: 2, by: 2 });
    assert_eq!(unordered(&stale), ("x".to_owned(), vec![3]));
}

#[test]
fn a_linearizable_list_is_not_stale() {
    let story = |seen| [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, list(""), seen)];
    assert_legal(&story(listed(1, &[pair("x", "a", [1, 1, 1])])));
    assert_eq!(refused(&story(listed(0, &[]))), Violation::Stale { call: 2, revision: 0, floor: 1, by: 1 });
}

#[test]
fn a_delete_that_finds_nothing_is_not_stale() {
    let story = |outcome| [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, delete("y"), outcome)];
    assert_legal(&story(found_nothing(1)));
    assert_eq!(refused(&story(found_nothing(0))), Violation::Stale { call: 2, revision: 0, floor: 1, by: 1 });
}

#[test]
fn reads_of_two_clients_do_not_go_back() {
    let story = |second| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            // Under way all the time: either value may be read, but not first the new one.
            call(2, 2..20, set("x", "b"), wrote(2, 1, 2)),
            call(3, 3..4, get("x"), saw(2, pair("x", "b", [1, 2, 2]))),
            call(4, 5..6, get("x"), second),
        ]
    };
    assert_legal(&story(saw(2, pair("x", "b", [1, 2, 2]))));
    let back = story(saw(1, pair("x", "a", [1, 1, 1])));
    assert_eq!(refused(&back), Violation::Stale { call: 4, revision: 1, floor: 2, by: 3 });
    assert_eq!(unordered(&back).0, "x");
}

#[test]
fn writes_take_effect_in_real_time() {
    let story = |first, second| {
        [call(1, 0..1, set("x", "a"), wrote(first, first, 1)), call(2, 2..3, set("y", "b"), wrote(second, second, 1))]
    };
    assert_legal(&story(1, 2));
    assert_eq!(refused(&story(2, 1)), Violation::BeforeItsCall { call: 2, revision: 1, floor: 2, by: 1 });
}

#[test]
fn a_write_is_not_seen_before_it_is_asked_for() {
    let story = |until| {
        [call(1, 0..until, get("x"), saw(1, pair("x", "a", [1, 1, 1]))), call(2, 5..6, set("x", "a"), wrote(1, 1, 1))]
    };
    // At the same microsecond, the clock can't tell.
    assert_legal(&story(5));
    assert_eq!(refused(&story(4)), Violation::BeforeItsCall { call: 2, revision: 1, floor: 1, by: 1 });
    assert_eq!(unordered(&story(4)), ("x".to_owned(), vec![1]));
}

#[test]
fn an_unknown_write_is_not_seen_before_it_is_asked_for() {
    let story = |until| {
        [call(1, 0..until, get("x"), saw(1, pair("x", "a", [1, 1, 1]))), call(2, 5..6, set("x", "a"), unknown())]
    };
    assert_legal(&story(5));
    assert_eq!(refused(&story(4)), Violation::BeforeItsCall { call: 2, revision: 1, floor: 1, by: 1 });
    assert_eq!(unordered(&story(4)), ("x".to_owned(), vec![1]));
}

#[test]
fn an_unknown_write_is_not_applied_before_it_is_asked_for() {
    let story = |at| {
        [
            pending(1, at, set("x", "a")),
            call(2, 0..4, set("y", "b"), wrote(2, 2, 1)),
            commit(1, &[put("x", "a")]),
            commit(2, &[put("y", "b")]),
        ]
    };
    assert_legal(&story(4));
    assert_eq!(refused(&story(5)), Violation::BeforeItsCall { call: 1, revision: 1, floor: 2, by: 2 });
}

#[test]
fn a_local_read_may_be_old_but_not_older_than_asked_for() {
    let story = |min| {
        let seen = saw(1, pair("x", "a", [1, 1, 1]));
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..3, set("x", "b"), wrote(2, 1, 2)),
            call(3, 4..5, get_local("x", min), seen),
        ]
    };
    assert_legal(&story(1));
    assert_eq!(refused(&story(2)), Violation::BelowMinimum { call: 3, revision: 1, min_revision: 2 });
}

#[test]
fn a_local_read_is_not_from_the_future() {
    let story = |until| {
        [
            call(1, 0..until, get_local("x", 0), saw(1, pair("x", "a", [1, 1, 1]))),
            call(2, 5..6, set("x", "a"), wrote(1, 1, 1)),
        ]
    };
    assert_legal(&story(5));
    assert_eq!(refused(&story(4)), Violation::BeforeItsCall { call: 2, revision: 1, floor: 1, by: 1 });
}

#[test]
fn what_a_local_read_saw_is_there_for_everybody() {
    let story = |seen: Outcome| {
        [
            pending(1, 0, set("x", "a")),
            call(2, 1..2, get_local("x", 0), saw(1, pair("x", "a", [1, 1, 1]))),
            call(3, 3..4, get("x"), seen),
        ]
    };
    assert_legal(&story(saw(1, pair("x", "a", [1, 1, 1]))));
    assert_eq!(refused(&story(saw_none(0))), Violation::Stale { call: 3, revision: 0, floor: 1, by: 2 });
}
