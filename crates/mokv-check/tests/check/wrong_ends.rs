//! Keys and leases that end, and reads that may be old: wrong histories, each beside its legal twin.

use mokv_check::{Answer, Change, Event, Op, Outcome, Pair, Read, Set, Violation};

use crate::story::*;

fn ok(answer: Answer) -> Outcome {
    Outcome::Ok { answer }
}

fn expiry(at: u64, revision: u64, keys: &[&str], leases: &[u64]) -> Vec<Event> {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    vec![Event::Expiry { node: 1, at, revision, keys, leases: leases.to_vec() }]
}

fn set_with(key: &str, value: &str, how: Set) -> Op {
    Op::Set(Set { key: key.into(), value: value.into(), ..how })
}

fn with_ttl(ttl_ms: u64) -> Set {
    Set { ttl_ms, ..Set::default() }
}

fn with_lease(lease: u64) -> Set {
    Set { lease, ..Set::default() }
}

/// Lease 7 for 5 ms at 1,000 us, and x with it at revision 1.
fn leased() -> Vec<Event> {
    [
        call(1, 1_000..1_100, Op::GrantLease { ttl_ms: 5, lease: 7 }, ok(Answer::GrantLease { lease: 7, revision: 0 })),
        call(2, 1_200..1_300, set_with("x", "a", with_lease(7)), wrote(1, 1, 1)),
        commit_of(2, 1, &[put("x", "a")]),
    ]
    .concat()
}

#[test]
fn a_ttl_counts_from_the_call_of_the_write() {
    let story = |at| {
        [
            call(1, 1_000..1_500, set_with("x", "a", with_ttl(3)), wrote(1, 1, 1)),
            commit(1, &[put("x", "a")]),
            expiry(at, 2, &["x"], &[]),
        ]
    };
    assert_legal(&story(4_000));
    let early = Violation::KeyEndsEarly { key: "x".into(), revision: 2, call: 1, at: 3_999, until: 4_000 };
    assert_eq!(refused(&story(3_999)), early);
}

#[test]
fn a_ttl_is_over_sooner_by_a_fast_clock() {
    let story = |fastest_percent| {
        [
            vec![Event::Clocks { fastest_percent, slowest_percent: 100 }],
            call(1, 0..500, set_with("x", "a", with_ttl(3)), wrote(1, 1, 1)),
            commit(1, &[put("x", "a")]),
            expiry(2_000, 2, &["x"], &[]),
        ]
    };
    assert_legal(&story(150));
    assert!(matches!(refused(&story(149)), Violation::KeyEndsEarly { .. }));
}

#[test]
fn a_write_takes_the_ttl_away_unless_it_is_to_stay() {
    let story = |keep_ttl| {
        let again = set_with("x", "b", Set { keep_ttl, ..Set::default() });
        [
            call(1, 0..100, set_with("x", "a", with_ttl(3)), wrote(1, 1, 1)),
            call(2, 200..300, again, wrote(2, 1, 2)),
            [commit(1, &[put("x", "a")]), commit(2, &[put("x", "b")])].concat(),
            expiry(5_000, 3, &["x"], &[]),
        ]
    };
    assert_legal(&story(true));
    let wrong = Violation::WrongExpiry { revision: 3, expected: "nothing".into(), found: "\"x\" deleted".into() };
    assert_eq!(refused(&story(false)), wrong);
}

#[test]
fn a_lease_takes_all_its_keys_along_and_nothing_else() {
    let story = |keys: &[&str]| {
        [
            leased(),
            call(3, 1_400..1_500, set_with("y", "b", with_lease(7)), wrote(2, 2, 1)),
            call(4, 1_400..1_500, set("z", "c"), wrote(3, 3, 1)),
            [commit_of(3, 2, &[put("y", "b")]), commit(3, &[put("z", "c")])].concat(),
            expiry(7_000, 4, keys, &[7]),
        ]
    };
    assert_legal(&story(&["x", "y"]));
    for keys in [&["x"][..], &["x", "y", "z"]] {
        assert!(matches!(refused(&story(keys)), Violation::WrongExpiry { revision: 4, .. }));
    }
}

#[test]
fn a_lease_lives_as_long_as_it_was_promised() {
    let story = |at, answer| {
        [leased(), call(3, 4_000..4_500, Op::KeepAlive { lease: 7 }, ok(answer)), expiry(at, 2, &["x"], &[7])]
    };
    let alive = || Answer::KeepAlive { ttl_ms: 5 };
    assert_legal(&story(9_000, alive()));
    let early = Violation::LeaseEndsEarly { lease: 7, revision: 2, call: 3, at: 8_999, until: 9_000 };
    assert_eq!(refused(&story(8_999, alive())), early);
    // By its grant alone it would have been over.
    assert_eq!(
        refused(&story(6_000, alive())),
        Violation::LeaseEndsEarly { lease: 7, revision: 2, call: 3, at: 6_000, until: 9_000 }
    );
}

#[test]
fn a_lease_is_not_missing_while_it_is_promised() {
    let story = |at| [leased(), call(3, 1_200..at, Op::KeepAlive { lease: 7 }, ok(Answer::NoLease))];
    assert_legal(&story(6_000));
    assert_eq!(refused(&story(5_999)), Violation::LeaseMissing { call: 3, lease: 7, by: 1 });
    // Unless somebody may have revoked it.
    assert_legal(&[story(5_999).concat(), pending(4, 2_000, Op::RevokeLease { lease: 7 })]);
}

#[test]
fn a_lease_that_has_ended_is_not_kept_alive() {
    let story = |at| {
        [
            leased(),
            expiry(7_000, 2, &["x"], &[7]),
            call(3, at..9_000, Op::KeepAlive { lease: 7 }, ok(Answer::KeepAlive { ttl_ms: 5 })),
        ]
    };
    // The call may have come before the end, but not have been answered so.
    assert!(matches!(refused(&story(6_000)), Violation::LeaseEndsEarly { .. }));
    let revoked = |at| {
        [
            leased(),
            call(3, 2_000..2_500, Op::RevokeLease { lease: 7 }, ok(Answer::RevokeLease { revision: 2, deleted: 1 })),
            commit_of(3, 2, &[gone("x")]),
            call(4, at..3_000, Op::KeepAlive { lease: 7 }, ok(Answer::KeepAlive { ttl_ms: 5 })),
        ]
    };
    assert_legal(&revoked(2_500));
    assert_eq!(refused(&revoked(2_501)), Violation::LeaseLivesOn { call: 4, lease: 7, ended: 2_500 });
}

#[test]
fn a_revocation_deletes_the_keys_of_its_lease() {
    let story = |changes: &[Change], deleted| {
        let answer = ok(Answer::RevokeLease { revision: 3, deleted });
        [
            leased(),
            call(3, 1_400..1_500, set("y", "b"), wrote(2, 2, 1)),
            commit(2, &[put("y", "b")]),
            call(4, 2_000..2_500, Op::RevokeLease { lease: 7 }, answer),
            commit_of(4, 3, changes),
        ]
    };
    assert_legal(&story(&[gone("x")], 1));
    assert!(matches!(refused(&story(&[gone("x")], 2)), Violation::Mismatch { call: 4, .. }));
    assert!(matches!(refused(&story(&[gone("y")], 1)), Violation::WrongChanges { call: 4, .. }));
}

#[test]
fn a_pair_shows_the_lease_that_it_ends_with() {
    let story = |lease| {
        let pair = Pair { lease, ..pair("x", "a", [1, 1, 1]) };
        [leased(), call(3, 2_000..2_100, get("x"), saw(1, pair))]
    };
    assert_legal(&story(7));
    assert!(matches!(refused(&story(0)), Violation::Mismatch { call: 3, .. }));
}

#[test]
fn a_local_read_is_at_most_so_old() {
    let story = |max_staleness_ms| {
        let read = Read { max_staleness_ms, ..Read::local(0) };
        [
            call(1, 0..1_000, set("x", "a"), wrote(1, 1, 1)),
            call(2, 4_000..4_100, Op::Get { key: "x".into(), read }, saw_none(0)),
        ]
    };
    assert_legal(&story(0));
    assert_legal(&story(3));
    assert_eq!(refused(&story(2)), Violation::Stale { call: 2, revision: 0, floor: 1, by: 1 });
}

#[test]
fn a_read_of_a_revision_shows_that_one() {
    let story = |revision, pair| {
        let read = Read { at_revision: 1, ..Read::linearizable() };
        [
            call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
            call(2, 2..3, set("x", "b"), wrote(2, 1, 2)),
            call(3, 4..5, Op::Get { key: "x".into(), read }, saw(revision, pair)),
        ]
    };
    assert_legal(&story(1, pair("x", "a", [1, 1, 1])));
    let other = story(2, pair("x", "b", [1, 2, 2]));
    assert_eq!(refused(&other), Violation::OtherRevision { call: 3, revision: 2, asked: 1 });
}
