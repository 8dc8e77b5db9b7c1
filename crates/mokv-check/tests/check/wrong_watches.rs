//! Watches: wrong histories, each beside its legal twin.

use mokv_check::{Event, Range, Seen, Violation, Watch, WatchEvent, Watched};

use crate::story::*;

/// x = a, then x = b and y = c at one revision, then x deleted.
fn writes() -> Vec<Event> {
    let both = txn(&[], &[txn_set("x", "b"), txn_set("y", "c")], &[]);
    [
        call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
        call(2, 2..3, both, done(true, 2, &[txn_wrote(1, 2), txn_wrote(2, 1)])),
        call(3, 4..5, delete("x"), deleted(3)),
        commit(1, &[put("x", "a")]),
        commit(2, &[put("x", "b"), put("y", "c")]),
        commit_of(3, 3, &[gone("x")]),
    ]
    .concat()
}

fn watch(at: u64, watch: Watch) -> Vec<Event> {
    vec![Event::Watch { id: 9, client: 9, at, watch }]
}

fn from(start_revision: u64) -> Watch {
    Watch { start_revision, ..Watch::default() }
}

fn told(at: u64, revision: u64, events: &[WatchEvent]) -> Vec<Event> {
    vec![Event::Seen { id: 9, at, seen: Seen { revision, events: events.to_vec(), ..Seen::default() } }]
}

fn told_part(at: u64, revision: u64, events: &[WatchEvent]) -> Vec<Event> {
    vec![Event::Seen { id: 9, at, seen: Seen { revision, events: events.to_vec(), more: true, ..Seen::default() } }]
}

fn is_put(key: &str, value: &str, versions: [u64; 3]) -> WatchEvent {
    WatchEvent { key: key.into(), revision: versions[1], pair: Some(pair(key, value, versions)), previous: None }
}

fn is_gone(key: &str, revision: u64) -> WatchEvent {
    WatchEvent { key: key.into(), revision, pair: None, previous: None }
}

fn all() -> [WatchEvent; 4] {
    [is_put("x", "a", [1, 1, 1]), is_put("x", "b", [1, 2, 2]), is_put("y", "c", [2, 2, 1]), is_gone("x", 3)]
}

fn wrong_events(revision: u64, expected: &str, found: &str) -> Violation {
    Violation::WrongEvents { watch: 9, revision, expected: expected.into(), found: found.into() }
}

#[test]
fn a_watcher_sees_every_event_once_and_in_order() {
    let story = |events: &[WatchEvent]| [writes(), watch(6, from(1)), told(7, 3, events)];
    let [a, b, c, d] = all();
    assert_legal(&story(&[a.clone(), b.clone(), c.clone(), d.clone()]));
    let missed = story(&[a.clone(), b.clone(), c.clone()]);
    assert_eq!(refused(&missed), wrong_events(3, "\"x\" deleted", ""));
    let twice = story(&[a.clone(), a.clone(), b.clone(), c.clone(), d.clone()]);
    assert_eq!(refused(&twice), wrong_events(1, "\"x\" = \"a\"", "\"x\" = \"a\", \"x\" = \"a\""));
    let swapped = story(&[b, c, a, d]);
    assert_eq!(refused(&swapped), Violation::WatchOutOfOrder { watch: 9, revision: 1, progress: 2 });
}

#[test]
fn a_revision_comes_whole_or_is_said_to_go_on() {
    let [a, b, c, d] = all();
    let story = |part: fn(u64, u64, &[WatchEvent]) -> Vec<Event>| {
        [
            writes(),
            watch(6, from(1)),
            part(7, 2, &[a.clone(), b.clone()]),
            told(8, 2, std::slice::from_ref(&c)),
            told(9, 3, std::slice::from_ref(&d)),
        ]
    };
    assert_legal(&story(told_part));
    assert_eq!(refused(&story(told)), wrong_events(2, "\"x\" = \"b\", \"y\" = \"c\"", "\"x\" = \"b\""));
}

#[test]
fn progress_is_never_ahead_of_what_happened() {
    let story = |revision| [writes(), watch(6, from(4)), told(7, revision, &[])];
    assert_legal(&story(3));
    assert_eq!(refused(&story(4)), Violation::Future { call: 9, revision: 4, highest: 3 });
    // Nor of what had happened by then.
    let early = |revision| [writes(), watch(0, from(1)), told(2, revision, &all()[..revision as usize])];
    assert_legal(&early(1));
    let ahead = [writes(), watch(0, from(1)), told(3, 3, &all())];
    assert_eq!(refused(&ahead), Violation::BeforeItsCall { call: 3, revision: 3, floor: 3, by: 9 });
}

#[test]
fn progress_does_not_go_back() {
    let story = |second| [writes(), watch(6, from(1)), told(7, 3, &all()), told(8, second, &[])];
    assert_legal(&story(3));
    assert_eq!(refused(&story(2)), Violation::WatchOutOfOrder { watch: 9, revision: 2, progress: 3 });
}

#[test]
fn a_watch_from_now_begins_with_what_was_acknowledged() {
    let story = |local, begin| {
        let watched = Watch { local, ..Watch::default() };
        let rest: Vec<WatchEvent> = all().into_iter().filter(|event| event.revision > begin).collect();
        [writes(), watch(6, watched), told(7, begin, &[]), told(8, 3, &rest)]
    };
    assert_legal(&story(false, 3));
    assert_legal(&story(true, 1));
    assert_eq!(refused(&story(false, 1)), Violation::Stale { call: 9, revision: 1, floor: 3, by: 3 });
}

#[test]
fn a_watcher_is_told_of_its_keys_and_kinds_only() {
    let story = |watched: Watch, events: &[WatchEvent]| [writes(), watch(6, watched), told(7, 3, events)];
    let [a, b, c, d] = all();
    let y = || Watch { keys: Watched::Key("y".into()), ..from(1) };
    assert_legal(&story(y(), std::slice::from_ref(&c)));
    assert_eq!(
        refused(&story(y(), &[b.clone(), c.clone()])),
        wrong_events(2, "\"y\" = \"c\"", "\"x\" = \"b\", \"y\" = \"c\"")
    );
    let gone = || Watch { no_puts: true, keys: Watched::Range(Range::prefix("x")), ..from(1) };
    assert_legal(&story(gone(), std::slice::from_ref(&d)));
    assert_eq!(refused(&story(gone(), &[a, d])), wrong_events(1, "nothing", "\"x\" = \"a\""));
}

#[test]
fn what_there_was_comes_first_and_whole() {
    let story = |pairs: &[mokv_check::Pair]| {
        let watched = Watch { list_first: true, ..Watch::default() };
        let seen = Seen { revision: 3, pairs: pairs.to_vec(), ..Seen::default() };
        [writes(), watch(6, watched), vec![Event::Seen { id: 9, at: 7, seen }]]
    };
    let y = pair("y", "c", [2, 2, 1]);
    assert_legal(&story(std::slice::from_ref(&y)));
    assert!(matches!(refused(&story(&[])), Violation::Mismatch { call: 9, revision: 3, .. }));
    let x = pair("x", "b", [1, 2, 2]);
    assert!(matches!(refused(&story(&[x, y])), Violation::Mismatch { call: 9, revision: 3, .. }));
}

#[test]
fn an_event_shows_what_was_there_before() {
    let story = |previous: Option<mokv_check::Pair>| {
        let watched = Watch { previous: true, keys: Watched::Key("x".into()), ..from(3) };
        let event = WatchEvent { previous, ..is_gone("x", 3) };
        [writes(), watch(6, watched), told(7, 3, &[event])]
    };
    assert_legal(&story(Some(pair("x", "b", [1, 2, 2]))));
    assert!(matches!(refused(&story(Some(pair("x", "a", [1, 1, 1])))), Violation::Mismatch { call: 9, .. }));
    assert!(matches!(refused(&story(None)), Violation::Mismatch { call: 9, .. }));
}
