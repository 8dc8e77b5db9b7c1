//! The past: changes and views against a model that keeps every revision whole.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::store::history::History;
use crate::store::key::Key;
use crate::store::record::Meta;

type Map = BTreeMap<Bytes, Record>;

/// A store beside all that it ever was.
struct Run {
    log: Log,
    revisions: Vec<Map>,
}

impl Run {
    fn new(history_bytes: u64) -> Self {
        Self { log: Log { store: Store::with_history(history_bytes), ..Log::new() }, revisions: vec![Map::new()] }
    }

    fn now(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    /// Applies commands and notes the states that they lead to. What each should lead to is for other tests.
    fn apply(&mut self, commands: &[Command]) {
        for command in commands {
            self.log.apply(std::slice::from_ref(command));
            let revision = self.log.store.revision();
            if revision == self.now() {
                continue;
            }
            assert_eq!(revision, self.now() + 1);
            let mut map = Map::new();
            let pairs = self.log.store.pin();
            let mut rest = KeyRange::all();
            loop {
                let chunk = pairs.scan(&rest, ChunkLimit::default());
                map.extend(chunk.pairs.into_iter().map(|pair| (pair.key, pair.record)));
                let Some(next) = chunk.next else { break };
                rest = rest.starting_at(next);
            }
            self.revisions.push(map);
        }
        check_counters(&self.log.store);
    }

    fn range(&self, revision: u64, range: &KeyRange) -> Vec<Pair> {
        let map = &self.revisions[revision as usize];
        let inside = map.iter().filter(|(key, _)| range.contains(key));
        inside.map(|(key, record)| Pair { key: key.clone(), record: record.clone() }).collect()
    }

    /// The changes that lead from a revision to the one after it, by key.
    fn changes(&self, revision: u64, range: &KeyRange) -> BTreeMap<Bytes, Change> {
        let (before, after) = (&self.revisions[revision as usize - 1], &self.revisions[revision as usize]);
        let keys = before.keys().chain(after.keys()).filter(|key| range.contains(key));
        let changes = keys.map(|key| {
            let (old, new) = (before.get(key).cloned(), after.get(key).cloned());
            (key.clone(), Change { key: key.clone(), revision, new, old })
        });
        changes.filter(|(_, change)| change.new != change.old).collect()
    }

    /// Reads all changes of a range after a revision.
    fn check_changes(&self, after: u64, range: &KeyRange, limit: ChunkLimit) {
        let mut came: BTreeMap<u64, BTreeMap<Bytes, Change>> = BTreeMap::new();
        let mut from = Cursor::after(after);
        let mut is_end = false;
        while !is_end {
            let chunk = self.log.store.changes(from, range, limit).expect("remembered");
            assert!(chunk.changes.len() <= limit.entries_max.max(1));
            assert!(chunk.next != from || chunk.is_end, "there is a way on");
            assert!(chunk.changes.is_sorted_by_key(|change| change.revision));
            let begun = from.revision() + u64::from(from.is_within());
            let last = chunk.next.revision() + u64::from(chunk.next.is_within());
            for change in chunk.changes {
                assert!((begun..=last).contains(&change.revision), "{change:?} from {from:?} to {:?}", chunk.next);
                let twice = came.entry(change.revision).or_default().insert(change.key.clone(), change);
                assert_eq!(twice, None);
            }
            if chunk.next.is_within() {
                assert_eq!(last, from.revision() + 1, "only one revision is split at a time");
            }
            (from, is_end) = (chunk.next, chunk.is_end);
        }
        assert_eq!(from, Cursor::after(after.max(self.now())));
        let expected = (after + 1..=self.now()).map(|revision| (revision, self.changes(revision, range)));
        let expected: BTreeMap<_, _> = expected.filter(|(_, changes)| !changes.is_empty()).collect();
        assert_eq!(came, expected);
    }
}

/// A view under test: what it still has to bring, in both directions.
struct Reading {
    view: View,
    up: Option<KeyRange>,
    down: Option<KeyRange>,
    count: Option<KeyRange>,
    ascending: Vec<Pair>,
    descending: Vec<Pair>,
    counted: u64,
}

impl Reading {
    fn new(view: View, range: &KeyRange) -> Self {
        let rest = || Some(range.clone());
        let (up, down, count) = (rest(), rest(), rest());
        Self { view, up, down, count, ascending: Vec::new(), descending: Vec::new(), counted: 0 }
    }

    /// Reads on; `false` when everything was read.
    fn next(&mut self, limit: ChunkLimit) -> bool {
        if let Some(range) = self.up.take() {
            let chunk = self.view.scan(&range, limit);
            assert!(chunk.pairs.len() <= limit.entries_max.max(1));
            self.ascending.extend(chunk.pairs);
            self.up = chunk.next.map(|next| range.starting_at(next));
        }
        if let Some(range) = self.down.take() {
            let chunk = self.view.scan_back(&range, limit);
            assert!(chunk.pairs.len() <= limit.entries_max.max(1));
            self.descending.extend(chunk.pairs);
            self.down = chunk.next.map(|next| range.ending_before(next));
        }
        if let Some(range) = self.count.take() {
            let (count, next) = self.view.count(&range, limit);
            self.counted += count;
            self.count = next.map(|next| range.starting_at(next));
        }
        self.up.is_some() || self.down.is_some() || self.count.is_some()
    }

    fn finish(mut self, run: &Run, range: &KeyRange, limit: ChunkLimit) {
        while self.next(limit) {}
        let expected = run.range(self.view.revision(), range);
        assert_eq!(self.counted, expected.len() as u64);
        assert_eq!(self.ascending, expected);
        self.descending.reverse();
        assert_eq!(self.descending, expected);
        let map = &run.revisions[self.view.revision() as usize];
        for key in KEYS {
            assert_eq!(self.view.get(key.as_bytes()), map.get(key.as_bytes()).cloned());
        }
    }
}

/// Few, so that they meet; one is longer than what is kept in place, and two differ by a zero.
const KEYS: [&str; 7] = ["a", "a\0", "b", "ba", "c", "a key that is longer than 22 bytes", "d"];

fn keys() -> impl Strategy<Value = Bytes> {
    prop::sample::select(&KEYS[..]).prop_map(Bytes::from)
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => (keys(), vec(any::<u8>(), 0..40)).prop_map(|(key, value)| command::set(key, value)),
        2 => keys().prop_map(command::delete),
    ]
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        2 => Just(KeyRange::all()),
        1 => keys().prop_map(KeyRange::key),
        1 => keys().prop_map(KeyRange::prefix),
        2 => (keys(), keys()).prop_map(|(start, end)| KeyRange::all().starting_at(start).ending_before(end)),
    ]
}

fn limits() -> impl Strategy<Value = ChunkLimit> {
    (0..5_usize, 0..100_usize).prop_map(|(entries_max, bytes_max)| ChunkLimit { entries_max, bytes_max })
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<Command>),
    /// Begins to read a view of a revision.
    View(Index, KeyRange),
    /// Reads on.
    Next(Index, ChunkLimit),
    Changes(Index, KeyRange, ChunkLimit),
    /// Goes on with a snapshot.
    Replace,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(commands(), 0..12).prop_map(Step::Apply),
        4 => (any::<Index>(), ranges()).prop_map(|(revision, range)| Step::View(revision, range)),
        4 => (any::<Index>(), limits()).prop_map(|(view, limit)| Step::Next(view, limit)),
        3 => (any::<Index>(), ranges(), limits())
            .prop_map(|(after, range, limit)| Step::Changes(after, range, limit)),
        1 => Just(Step::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The history is so small that it forgets all the time.
    #[test]
    fn the_past_is_what_it_was(history_bytes in 0..6000_u64, steps in vec(steps(), 1..60), limit in limits()) {
        let mut run = Run::new(history_bytes);
        let mut views: Vec<(Reading, KeyRange)> = Vec::new();
        for step in steps {
            let oldest = run.log.store.history().oldest;
            match step {
                Step::Apply(commands) => run.apply(&commands),
                Step::View(revision, range) => {
                    let revision = revision.index(run.revisions.len() + 1) as u64;
                    match run.log.store.view(revision) {
                        Ok(view) => {
                            prop_assert_eq!(view.revision(), if revision == 0 { run.now() } else { revision });
                            prop_assert!(view.revision() >= oldest && view.revision() <= run.now());
                            views.push((Reading::new(view, &range), range));
                        }
                        Err(ViewError::Compacted(compacted)) => {
                            prop_assert_eq!(compacted, Compacted { oldest });
                            prop_assert!(revision > 0 && revision < oldest);
                        }
                        Err(ViewError::Future { newest }) => {
                            prop_assert_eq!(newest, run.now());
                            prop_assert!(revision > newest);
                        }
                    }
                }
                Step::Next(view, limit) if !views.is_empty() => {
                    let view = view.index(views.len());
                    views[view].0.next(limit);
                }
                Step::Next(..) => {}
                Step::Changes(after, range, limit) => {
                    let after = after.index(run.revisions.len() + 1) as u64;
                    match after >= oldest {
                        true => run.check_changes(after, &range, limit),
                        false => {
                            let refused = run.log.store.changes(Cursor::after(after), &range, limit);
                            prop_assert_eq!(refused, Err(Compacted { oldest }));
                        }
                    }
                }
                Step::Replace => {
                    run.log.apply(&[]);
                    let loaded = reload(&run.log.checkpoint()).expect("a good snapshot");
                    run.log.store.replace(loaded);
                    prop_assert_eq!(run.log.store.history(), HistoryStats { bytes: 0, oldest: run.now() });
                }
            }
        }
        for (reading, range) in views {
            reading.finish(&run, &range, limit);
        }
        prop_assert_eq!(run.log.store.stats().pins, 0);
    }

    /// Revisions of many changes, which only some commands make.
    #[test]
    fn a_history_is_the_end_of_a_list(
        bytes_max in 0..20_000_usize,
        revisions in vec(vec(keys(), 1..30), 0..60),
        from in any::<Index>(),
        limit in limits(),
    ) {
        let mut history = History::new(bytes_max, 0);
        let mut list = Vec::new();
        for (revision, keys) in (1..).zip(&revisions) {
            for key in keys {
                let old = Stored::new(key, b"value", Meta { create_revision: 1, mod_revision: 1, version: 1, ..Meta::default() });
                history.record(revision, &Key::new(key), None, Some(&old));
                list.push((revision, key.clone()));
            }
            prop_assert_eq!(history.recount(), history.stats());
        }
        let oldest = history.stats().oldest;
        let now = revisions.len() as u64;
        let after = oldest + from.index((now - oldest) as usize + 1) as u64;

        let (mut from, mut came) = (Cursor::after(after), Vec::new());
        loop {
            let chunk: Changes = history.changes(from, &KeyRange::all(), limit, now).expect("remembered").into();
            prop_assert!(!chunk.next.is_within() || chunk.next.revision() == from.revision());
            came.extend(chunk.changes.into_iter().map(|change| (change.revision, change.key)));
            from = chunk.next;
            let up_to = from.revision();
            if !from.is_within() {
                let whole = list.iter().filter(|(revision, _)| *revision > after && *revision <= up_to).count();
                prop_assert_eq!(came.len(), whole, "whole revisions up to {}", up_to);
            }
            if chunk.is_end {
                break;
            }
        }
        let begin = list.partition_point(|(revision, _)| *revision <= after);
        prop_assert_eq!(&came[..], &list[begin..]);
        let past = history.past(after).expect("remembered");
        let shared = past.entries().map(|entry| Bytes::copy_from_slice(entry.key.as_slice()));
        prop_assert!(shared.eq(list[begin..].iter().map(|(_, key)| key.clone())));
    }
}

#[test]
fn a_history_forgets_no_more_than_it_has_to() {
    let mut log = Log { store: Store::with_history(100_000), ..Log::new() };
    for n in 0..10_000 {
        log.one(command::set(format!("key-{}", n % 10), "value"));
        let HistoryStats { bytes, oldest } = log.store.history();
        assert!(bytes <= 100_000);
        assert!(oldest == 0 || bytes > 95_000, "{bytes} bytes since {oldest}");
    }
    assert_eq!(log.store.changes(Cursor::after(1), &KeyRange::all(), ChunkLimit::default()), {
        let oldest = log.store.history().oldest;
        Err(Compacted { oldest })
    });
}

#[test]
fn a_change_larger_than_the_history_is_forgotten_whole() {
    let mut log = Log { store: Store::with_history(1000), ..Log::new() };
    log.one(command::set("a", vec![0; 2000]));
    log.one(command::set("b", "1"));
    assert_eq!(log.store.history().oldest, 0, "what is present is no past");
    log.one(command::delete("a"));
    assert_eq!(log.store.history(), HistoryStats { bytes: 0, oldest: 3 });
    log.one(command::set("b", "2"));
    let changes = log.store.changes(Cursor::after(3), &KeyRange::all(), ChunkLimit::default()).expect("remembered");
    assert_eq!((changes.changes.len(), changes.next, changes.is_end), (1, Cursor::after(4), true));
}

#[test]
fn a_view_outlives_what_it_undoes() {
    let mut log = Log { store: Store::with_history(2000), ..Log::new() };
    for n in 0..10 {
        log.one(command::set(format!("key-{n}"), "old"));
    }
    log.one(command::delete("key-3"));
    let view = log.store.view(10).expect("remembered");
    for n in 0..1000 {
        log.one(command::set(format!("key-{}", n % 10), "new"));
    }
    assert!(log.store.history().oldest > 900);
    let chunk = view.scan(&KeyRange::all(), ChunkLimit::default());
    assert_eq!(chunk.pairs.len(), 10);
    assert!(chunk.pairs.iter().all(|pair| pair.record.value == "old"));
    assert_eq!(view.get(b"key-3").map(|record| record.mod_revision), Some(4));
}

#[test]
fn one_command_in_an_entry_of_many_is_one_revision_for_readers() {
    let mut log = Log::new();
    log.apply(&[command::set("a", "1"), command::set("b", "1"), command::delete("a"), command::delete("a")]);
    let limit = ChunkLimit { entries_max: 2, ..ChunkLimit::default() };
    let first = log.store.changes(Cursor::after(0), &KeyRange::all(), limit).expect("remembered");
    assert_eq!((first.changes.len(), first.next, first.is_end), (2, Cursor::after(2), false));
    let rest = log.store.changes(first.next, &KeyRange::all(), limit).expect("remembered");
    let [change] = &rest.changes[..] else { panic!("{rest:?}") };
    assert_eq!((change.revision, change.new.as_ref(), rest.is_end), (3, None, true));
    assert_eq!(change.old.as_ref().map(|old| old.mod_revision), Some(1));
}
