//! Answers that the writes don't explain: wrong histories, each beside its legal twin.

use mokv_check::{Compare, Event, Fact, Pair, Target, TxnResult, Violation};

use crate::story::*;

fn mismatch(call: u64, revision: u64, key: &str, fact: Fact, expected: &str, found: &str) -> Violation {
    let (key, expected, found) = (key.to_owned(), expected.to_owned(), found.to_owned());
    Violation::Mismatch { call, revision, key, fact, expected, found }
}

/// x = a, y = b, x deleted, at revisions 1, 2, 3.
fn three_writes() -> Vec<Event> {
    [
        call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
        call(2, 2..3, set("y", "b"), wrote(2, 2, 1)),
        call(3, 4..5, delete("x"), deleted(3)),
    ]
    .concat()
}

#[test]
fn a_read_sees_the_last_write() {
    let story = |value| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..3, set("x", "b"), wrote(2, 1, 2)),
            call(3, 4..5, get("x"), saw(2, value)),
        ]
    };
    assert_legal(&story(pair("x", "b", [1, 2, 2])));
    let old = story(pair("x", "a", [1, 1, 1]));
    assert_eq!(refused(&old), mismatch(3, 2, "x", Fact::Value, "\"b\"", "\"a\""));
    assert_eq!(unordered(&old), ("x".to_owned(), vec![3]));
}

#[test]
fn a_read_sees_that_nothing_was_deleted() {
    let story = |outcome| [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, get("x"), outcome)];
    assert_legal(&story(saw(1, pair("x", "a", [1, 1, 1]))));
    assert_eq!(refused(&story(saw_none(1))), mismatch(2, 1, "x", Fact::Value, "\"a\"", "none"));
    assert_eq!(unordered(&story(saw_none(1))), ("x".to_owned(), vec![2]));
}

#[test]
fn nobody_sees_what_nobody_wrote() {
    let story = |value| {
        [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, get("x"), saw(1, pair("x", value, [1, 1, 1])))]
    };
    assert_legal(&story("a"));
    assert_eq!(refused(&story("b")), Violation::Phantom { call: 2, key: "x".into(), value: "b".into() });
    assert_eq!(unordered(&story("b")), ("x".to_owned(), vec![2]));
    // Also where commits say what was written.
    let with_commit = |value| [story(value).concat(), commit(1, &[put("x", "a")])];
    assert_legal(&with_commit("a"));
    assert_eq!(refused(&with_commit("b")), Violation::Phantom { call: 2, key: "x".into(), value: "b".into() });
}

#[test]
fn a_value_is_not_seen_under_another_key() {
    let story = |key| {
        [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, get(key), saw(1, pair(key, "a", [1, 1, 1])))]
    };
    assert_legal(&story("x"));
    assert_eq!(refused(&story("y")), Violation::Phantom { call: 2, key: "y".into(), value: "a".into() });
}

#[test]
fn versions_count_the_writes() {
    let story =
        |version| [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, set("x", "b"), wrote(2, 1, version))];
    assert_legal(&story(2));
    assert_eq!(refused(&story(1)), mismatch(2, 2, "x", Fact::Version, "2", "1"));
    assert_eq!(refused(&story(3)), mismatch(2, 2, "x", Fact::Version, "2", "3"));
}

#[test]
fn the_creation_of_a_key_is_kept() {
    let story =
        |create| [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, set("x", "b"), wrote(2, create, 2))];
    assert_legal(&story(1));
    assert_eq!(refused(&story(2)), mismatch(2, 2, "x", Fact::CreateRevision, "1", "2"));
}

#[test]
fn a_deleted_key_is_created_again() {
    let story = |create, version| [three_writes(), call(4, 6..7, set("x", "c"), wrote(4, create, version))];
    assert_legal(&story(4, 1));
    assert_eq!(refused(&story(1, 2)), mismatch(4, 4, "x", Fact::CreateRevision, "4", "1"));
    assert_eq!(refused(&story(4, 2)), mismatch(4, 4, "x", Fact::Version, "1", "2"));
}

#[test]
fn a_read_shows_the_versions_of_the_write() {
    let story = |versions| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..3, set("x", "b"), wrote(2, 1, 2)),
            call(3, 4..5, get("x"), saw(2, pair("x", "b", versions))),
            commit(1, &[put("x", "a")]),
            commit(2, &[put("x", "b")]),
        ]
    };
    assert_legal(&story([1, 2, 2]));
    assert_eq!(refused(&story([2, 2, 2])), mismatch(3, 2, "x", Fact::CreateRevision, "1", "2"));
    assert_eq!(refused(&story([1, 1, 2])), mismatch(3, 2, "x", Fact::ModRevision, "2", "1"));
    assert_eq!(refused(&story([1, 2, 1])), mismatch(3, 2, "x", Fact::Version, "2", "1"));
}

#[test]
fn a_delete_says_whether_the_key_existed() {
    let story = |outcome| [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, delete("x"), outcome)];
    assert_legal(&story(deleted(2)));
    assert_eq!(refused(&story(found_nothing(1))), mismatch(2, 1, "x", Fact::Existed, "true", "false"));
    assert_eq!(unordered(&story(found_nothing(1))), ("x".to_owned(), vec![2]));
}

#[test]
fn a_delete_of_nothing_found_nothing() {
    let story = |outcome| [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, delete("y"), outcome)];
    assert_legal(&story(found_nothing(1)));
    assert_eq!(refused(&story(deleted(2))), mismatch(2, 2, "y", Fact::Existed, "false", "true"));
    assert_eq!(unordered(&story(deleted(2))), ("y".to_owned(), vec![2]));
}

#[test]
fn a_deleted_key_is_not_listed() {
    let story = |pairs: &[Pair]| [three_writes(), call(4, 6..7, list(""), listed(3, pairs))];
    let [x, y] = [pair("x", "a", [1, 1, 1]), pair("y", "b", [2, 2, 1])];
    assert_legal(&story(std::slice::from_ref(&y)));
    assert_eq!(refused(&story(&[x, y])), mismatch(4, 3, "x", Fact::Value, "none", "\"a\""));
}

#[test]
fn a_list_misses_no_key() {
    let story = |pairs: &[Pair]| [three_writes(), call(4, 0..7, list(""), listed(2, pairs))];
    let [x, y] = [pair("x", "a", [1, 1, 1]), pair("y", "b", [2, 2, 1])];
    // A view of revision 2 after 3 was answered would be stale, but this one began before.
    assert_legal(&story(&[x.clone(), y.clone()]));
    assert_eq!(refused(&story(&[x])), mismatch(4, 2, "y", Fact::Value, "\"b\"", "none"));
    assert_eq!(refused(&story(&[y])), mismatch(4, 2, "x", Fact::Value, "\"a\"", "none"));
}

#[test]
fn a_list_shows_no_key_that_nobody_wrote() {
    let story = |pairs: &[Pair]| {
        let one = [call(1, 0..1, set("m", "a"), wrote(1, 1, 1)), commit(1, &[put("m", "a")])].concat();
        [one, call(2, 2..3, list(""), listed(1, pairs))]
    };
    let m = || pair("m", "a", [1, 1, 1]);
    assert_legal(&story(&[m()]));
    let phantom = |key: &str| Violation::Phantom { call: 2, key: key.into(), value: "b".into() };
    assert_eq!(refused(&story(&[pair("k", "b", [1, 1, 1]), m()])), phantom("k"));
    assert_eq!(refused(&story(&[m(), pair("z", "b", [1, 1, 1])])), phantom("z"));
}

#[test]
fn a_list_is_not_torn_between_two_revisions() {
    let story = |y| {
        [
            call(1, 0..9, set("x", "a"), wrote(1, 1, 1)),
            call(2, 0..9, set("y", "b"), wrote(2, 2, 1)),
            call(3, 0..9, set("x", "c"), wrote(3, 1, 2)),
            call(4, 0..9, set("y", "d"), wrote(4, 2, 2)),
            call(5, 0..9, list(""), listed(2, &[pair("x", "a", [1, 1, 1]), y])),
        ]
    };
    assert_legal(&story(pair("y", "b", [2, 2, 1])));
    assert_eq!(refused(&story(pair("y", "d", [2, 4, 2]))), mismatch(5, 2, "y", Fact::Value, "\"b\"", "\"d\""));
}

#[test]
fn a_list_is_in_order_and_within_its_prefix() {
    let story = |prefix, pairs: &[Pair]| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..3, set("xy", "b"), wrote(2, 2, 1)),
            call(3, 4..5, list(prefix), listed(2, pairs)),
        ]
    };
    let [x, xy] = [pair("x", "a", [1, 1, 1]), pair("xy", "b", [2, 2, 1])];
    assert_legal(&story("x", &[x.clone(), xy.clone()]));
    let order = |pairs: &[Pair]| match refused(&story("x", pairs)) {
        Violation::Mismatch { key, fact: Fact::Order, .. } => key,
        other => panic!("{other}"),
    };
    assert_eq!(order(&[xy.clone(), x.clone()]), "x");
    assert_eq!(order(&[x.clone(), x.clone(), xy.clone()]), "x");
    assert_legal(&story("xy", std::slice::from_ref(&xy)));
    assert!(matches!(refused(&story("xy", &[x, xy])), Violation::Mismatch { fact: Fact::Order, .. }));
}

#[test]
fn an_update_is_not_lost() {
    let compare = [equal("x", Target::ModRevision(1))];
    let update = |value| txn(&compare, &[txn_set("x", value)], &[]);
    let story = |second| {
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..5, update("b"), done(true, 2, &[txn_wrote(1, 2)])),
            call(3, 2..5, update("c"), second),
        ]
    };
    assert_legal(&story(done(false, 2, &[])));
    let lost = story(done(true, 3, &[txn_wrote(1, 3)]));
    assert_eq!(refused(&lost), mismatch(3, 3, "x", Fact::Branch, "otherwise", "then"));
}

#[test]
fn there_is_no_write_skew() {
    let story = |second| {
        [
            call(1, 0..5, txn(&[is_absent("y")], &[txn_set("x", "a")], &[]), done(true, 1, &[txn_wrote(1, 1)])),
            call(2, 0..5, txn(&[is_absent("x")], &[txn_set("y", "b")], &[]), second),
        ]
    };
    assert_legal(&story(done(false, 1, &[])));
    assert_eq!(
        refused(&story(done(true, 2, &[txn_wrote(2, 1)]))),
        mismatch(2, 2, "x", Fact::Branch, "otherwise", "then")
    );
}

#[test]
fn a_compare_that_holds_is_not_refused() {
    let story = |compare: Compare| {
        let write = txn(&[compare], &[txn_set("x", "b")], &[]);
        [call(1, 0..1, set("x", "a"), wrote(1, 1, 1)), call(2, 2..3, write, done(false, 1, &[]))]
    };
    let is = |target| equal("x", target);
    let wrong = |compare| refused(&story(compare)) == mismatch(2, 1, "x", Fact::Branch, "then", "otherwise");
    assert_legal(&story(is(Target::Value("b".into()))));
    assert!(wrong(is(Target::Value("a".into()))));
    assert_legal(&story(is(Target::Version(2))));
    assert!(wrong(is(Target::Version(1))));
    assert_legal(&story(is(Target::CreateRevision(0))));
    assert!(wrong(is(Target::CreateRevision(1))));
    assert_legal(&story(is(Target::ModRevision(0))));
    assert!(wrong(is(Target::ModRevision(1))));
}

#[test]
fn a_transaction_sees_its_own_writes_and_those_before() {
    let story = |x: Option<Pair>, y: Option<Pair>| {
        let ops = [txn_get("x"), txn_set("x", "b"), txn_get("x"), txn_get("y")];
        let before = Some(pair("x", "a", [1, 1, 1]));
        let results =
            [TxnResult::Get { pair: before }, txn_wrote(1, 2), TxnResult::Get { pair: x }, TxnResult::Get { pair: y }];
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..3, txn(&[], &ops, &[]), done(true, 2, &results)),
            call(3, 2..5, set("y", "c"), wrote(3, 3, 1)),
        ]
    };
    let own = || Some(pair("x", "b", [1, 2, 2]));
    assert_legal(&story(own(), None));
    assert_eq!(refused(&story(None, None)), mismatch(2, 2, "x", Fact::Value, "\"b\"", "none"));
    let later = Some(pair("y", "c", [3, 3, 1]));
    assert_eq!(refused(&story(own(), later)), mismatch(2, 2, "y", Fact::Value, "none", "\"c\""));
}

#[test]
fn a_transaction_is_seen_whole() {
    let story = |pairs: &[Pair]| {
        let both = txn(&[], &[txn_set("x", "a"), txn_set("y", "b")], &[]);
        [
            call(1, 0..5, both, done(true, 1, &[txn_wrote(1, 1), txn_wrote(1, 1)])),
            call(2, 0..5, list(""), listed(1, pairs)),
        ]
    };
    let [x, y] = [pair("x", "a", [1, 1, 1]), pair("y", "b", [1, 1, 1])];
    assert_legal(&story(&[x.clone(), y]));
    assert_eq!(refused(&story(&[x])), mismatch(2, 1, "y", Fact::Value, "\"b\"", "none"));
}

#[test]
fn a_transaction_says_what_it_deleted() {
    let story = |existed, revision| {
        let clear = txn(&[], &[txn_delete("x")], &[]);
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..3, clear, done(true, revision, &[TxnResult::Delete { existed, previous: None }])),
        ]
    };
    assert_legal(&story(true, 2));
    assert_eq!(refused(&story(false, 1)), mismatch(2, 1, "x", Fact::Existed, "true", "false"));
}
