//! Each rule by itself.

use super::*;
use internal::{DeleteOutcome, OpenSessionOutcome, SetOutcome};

fn set_outcome(revision: u64, create_revision: u64, version: u64) -> OutcomeResult {
    OutcomeResult::Set(SetOutcome { revision, create_revision, version, mod_revision: revision, ..Default::default() })
}

fn delete_outcome(existed: bool, revision: u64) -> OutcomeResult {
    OutcomeResult::Delete(DeleteOutcome { existed, revision, ..Default::default() })
}

fn open(log: &mut Log) -> u64 {
    match log.one(command::open_session()) {
        OutcomeResult::OpenSession(OpenSessionOutcome { client_id }) => client_id,
        other => panic!("not opened: {other:?}"),
    }
}

#[test]
fn revisions_are_those_of_etcd() {
    let mut log = Log::new();
    assert_eq!(log.one(command::delete("a")), delete_outcome(false, 0));
    assert_eq!(log.one(command::set("a", "1")), set_outcome(1, 1, 1));
    assert_eq!(log.one(command::set("b", "1")), set_outcome(2, 2, 1));
    assert_eq!(log.one(command::set("a", "1")), set_outcome(3, 1, 2));
    assert_eq!(log.one(command::delete("a")), delete_outcome(true, 4));
    assert_eq!(log.one(command::delete("a")), delete_outcome(false, 4));
    assert_eq!(log.one(command::set("a", "2")), set_outcome(5, 5, 1));

    let record = Record { value: "2".into(), create_revision: 5, mod_revision: 5, version: 1, ..Record::default() };
    assert_eq!(log.store.get(b"a"), Lookup { revision: 5, record: Some(record) });
    assert_eq!(log.store.get(b"c"), Lookup { revision: 5, record: None });
}

#[test]
fn an_entry_moves_the_position_whatever_it_holds() {
    let mut log = Log::new();
    let progress = log.store.progress();
    assert!(log.store.checkpoint().is_none());
    log.apply(&[]);
    let at = log.next();
    log.store.apply_blank(at);
    assert_eq!(*progress.borrow(), Progress { applied: Some(at), revision: 0 });

    let at = log.next();
    log.store.apply_membership(at, "members".into(), &[]);
    log.one(command::set("a", "1"));
    let at = Position { term: 1, index: 4 };
    assert_eq!(*progress.borrow(), Progress { applied: Some(at), revision: 1 });
    let checkpoint = log.checkpoint();
    assert_eq!((checkpoint.applied(), checkpoint.membership().as_ref()), (at, &b"members"[..]));
}

#[test]
fn an_unknown_command_stops_the_entry_before_it_has_an_effect() {
    let mut log = Log::new();
    let at = log.next();
    let unknown = Command { id: None, op: None };
    let refused = log.store.apply(at, LogTime::default(), &[command::set("a", "1"), unknown]);
    assert_eq!(refused, Err(ApplyError::UnknownCommand { at, number: 1 }));
    assert_eq!(log.store.stats(), Store::new().stats());
}

#[test]
fn a_large_entry_is_applied_in_parts_and_whole() {
    let mut log = Log::new();
    let value = Bytes::from(vec![0; LOCKED_BYTES_MAX / 2]);
    let small = (0..200).map(|n| command::set(format!("small-{n}"), "1"));
    let large = (0..7).map(|n| command::set(format!("large-{n}"), value.clone()));
    let outcomes = log.apply(&small.chain(large).collect::<Vec<_>>());
    assert!((1..).zip(&outcomes).all(|(n, outcome)| outcome.result == Some(set_outcome(n, n, 1))));
    assert_eq!(outcomes.len(), 207);
    assert_eq!(log.store.stats().revision, 207);

    let known = |commands: &[Command]| locked_together(&known_commands(log.next(), commands).expect("known"));
    let mut known = known;
    assert_eq!(known(&vec![command::set("a", "1"); 100]), LOCKED_COMMANDS_MAX);
    assert_eq!(known(&vec![command::set("a", value); 100]), 2);
    assert_eq!(known(&[]), 0);
}

#[test]
fn what_a_reader_holds_stays() {
    let mut log = Log::new();
    log.one(command::set("a", "old"));
    let read = log.store.get(b"a").record.expect("a record");
    log.one(command::set("a", "new"));
    assert_eq!(read.value, "old");
}

#[test]
fn a_repeated_write_takes_effect_once() {
    let mut log = Log::new();
    let client = open(&mut log);
    assert_eq!(client, 1);
    // Writes of a session may arrive in any order.
    for sequence in [2, 1] {
        let write = of_session(client, sequence, 1, command::set("a", "1"));
        let first = log.one(write.clone());
        log.one(command::set("a", "2"));
        assert_eq!(log.one(write), first);
        assert_eq!(log.store.get(b"a").record.expect("a record").value, "2");
    }
    let repeated = of_session(client, 3, 1, command::delete("a"));
    assert_eq!(log.one(repeated.clone()), delete_outcome(true, 5));
    assert_eq!(log.one(repeated), delete_outcome(true, 5));
    assert_eq!(open(&mut log), 2);
}

#[test]
fn a_session_that_is_opened_twice_by_one_request_is_one() {
    let mut log = Log::new();
    let client = open(&mut log);
    let request = of_session(client, 1, 1, command::open_session());
    assert_eq!(log.one(request.clone()), log.one(request));
    assert_eq!(log.store.stats().sessions, 2);
}

#[test]
fn a_write_of_an_unknown_session_is_refused() {
    let mut log = Log::new();
    let write = of_session(7, 1, 1, command::set("a", "1"));
    assert_eq!(log.one(write), rejected(Rejection::SessionExpired));
    assert_eq!(log.store.get(b"a"), Lookup { revision: 0, record: None });
}

#[test]
fn an_answer_is_forgotten_when_the_client_has_it() {
    let mut log = Log::new();
    let client = open(&mut log);
    let write = |sequence, mark| of_session(client, sequence, mark, command::set("a", "1"));
    log.one(write(1, 1));
    log.one(write(2, 2));
    assert_eq!(log.one(write(1, 1)), rejected(Rejection::SequenceForgotten));
    assert_eq!(log.one(write(0, 0)), rejected(Rejection::SequenceForgotten));
    assert_eq!(log.store.get(b"a").revision, 2);
    // An older mark, which a write that was overtaken has, forgets nothing and brings nothing back.
    log.one(write(4, 4));
    assert_eq!(log.one(write(5, 2)), set_outcome(4, 1, 4));
    assert_eq!(log.one(write(3, 2)), rejected(Rejection::SequenceForgotten));
    // A mark above the write itself counts as the write.
    assert_eq!(log.one(write(6, 99)), set_outcome(5, 1, 5));
    assert_eq!(log.one(write(7, 99)), set_outcome(6, 1, 6));
    check_counters(&log.store);
}

#[test]
fn a_session_holds_so_many_answers() {
    let mut log = Log::new();
    let client = open(&mut log);
    let write = |sequence, mark| of_session(client, sequence, mark, command::set("a", "1"));
    let full = ANSWERS_MAX as u64;
    log.apply(&(1..=full).map(|sequence| write(sequence, 1)).collect::<Vec<_>>());
    assert_eq!(log.one(write(full + 1, 1)), rejected(Rejection::SessionFull));
    assert_eq!(log.store.get(b"a").revision, full);
    assert_eq!(log.one(write(full, 1)), set_outcome(full, 1, full));
    assert_eq!(log.one(write(full + 1, 2)), set_outcome(full + 1, 1, full + 1));
    check_counters(&log.store);
}

#[test]
fn the_least_recently_used_session_gives_way() {
    let mut log = Log::new();
    log.apply(&vec![command::open_session(); SESSIONS_MAX]);
    let write = |client| of_session(client, 1, 1, command::set("a", "1"));
    log.one(write(1));
    open(&mut log);
    assert_eq!(log.store.stats().sessions, SESSIONS_MAX as u64);
    assert_eq!(log.one(write(2)), rejected(Rejection::SessionExpired));
    assert_eq!(log.one(write(1)), set_outcome(1, 1, 1));
    check_counters(&log.store);
}

#[test]
fn a_pin_sees_its_revision() {
    let mut log = Log::new();
    log.apply(&[command::set("a", "1"), command::set("b", "1"), command::set("d", "1")]);
    let pin = log.store.pin();
    log.apply(&[command::set("a", "2"), command::delete("b"), command::set("c", "2"), command::set("b", "2")]);
    let newer = log.store.pin();
    log.apply(&[command::delete("a"), command::delete("b")]);

    let keys_and_values = |pin: &Pin, range| {
        let pairs = scan_all(|range| pin.scan(range, ChunkLimit { entries_max: 1, bytes_max: 1 }), range);
        pairs.iter().map(|pair| [&pair.key[..], b"=", &pair.value].concat()).collect::<Vec<_>>().join(&b' ')
    };
    assert_eq!((pin.revision(), newer.revision()), (3, 7));
    assert_eq!(keys_and_values(&pin, KeyRange::all()), b"a=1 b=1 d=1");
    assert_eq!(keys_and_values(&newer, KeyRange::all()), b"a=2 b=2 c=2 d=1");
    assert_eq!(keys_and_values(&pin, KeyRange::all().starting_at("b").ending_before("d")), b"b=1");
    assert_eq!(keys_and_values(&pin, KeyRange::all().starting_at("d").ending_before("b")), b"");
    assert_eq!(keys_and_values(&log.store.pin(), KeyRange::all()), b"c=2 d=1");
}

#[test]
fn a_chunk_is_bounded_by_entries_and_bytes() {
    let mut log = Log::new();
    log.apply(&(0..9).map(|n| command::set(format!("{n}"), "123456789")).collect::<Vec<_>>());
    let pin = log.store.pin();
    let chunk = |entries_max, bytes_max| {
        let chunk = pin.scan(&KeyRange::all(), ChunkLimit { entries_max, bytes_max });
        (chunk.pairs.len(), chunk.next)
    };
    assert_eq!(chunk(4, 1000), (4, Some("4".into())));
    assert_eq!(chunk(9, 1000), (9, None));
    assert_eq!(chunk(9, 20), (2, Some("2".into())));
    assert_eq!(chunk(9, 21), (3, Some("3".into())));
    assert_eq!(chunk(0, 0), (1, Some("1".into())));
}

#[test]
fn releasing_frees_what_only_that_pin_needed() {
    let mut log = Log::new();
    let mut held = vec![log.store.stats().memory_bytes];
    let mut pins = Vec::new();
    for n in 0..5 {
        log.one(command::set("a", format!("{n}")));
        pins.push(log.store.pin());
        held.push(log.store.stats().memory_bytes);
    }
    log.one(command::delete("a"));
    let version = held[3] - held[2];
    let all = log.store.stats().memory_bytes;
    for (released, at) in [2, 3, 0].into_iter().enumerate() {
        pins.remove(at);
        assert_eq!(log.store.stats().memory_bytes, all - version * (released as u64 + 1));
        check_counters(&log.store);
    }
    drop(pins);
    assert_eq!(log.store.stats().memory_bytes, held[0]);
    assert_eq!(log.store.stats().pins, 0);
}

#[test]
fn a_version_that_an_older_pin_needs_too_outlives_the_newer() {
    let mut log = Log::new();
    log.one(command::set("a", "1"));
    let older = log.store.pin();
    log.one(command::set("b", "1"));
    let newer = log.store.pin();
    log.one(command::set("a", "2"));
    drop(newer);
    let chunk = older.scan(&KeyRange::all(), ChunkLimit::default());
    assert_eq!((chunk.pairs.len(), &chunk.pairs[0].record.value[..]), (1, &b"1"[..]));
    check_counters(&log.store);
}

#[test]
fn a_loaded_store_is_the_one_that_was_saved() {
    let mut log = Log::new();
    let at = log.next();
    log.store.apply_membership(at, "members".into(), &[]);
    let clients = [open(&mut log), open(&mut log)];
    let write = of_session(clients[0], 1, 1, command::set("a", "1"));
    let outcome = log.one(write.clone());
    log.apply(&[command::set("key", "2"), command::set("a key of more than 22 bytes", ""), command::set("key", "3")]);

    let loaded = reload(&log.checkpoint()).expect("a good snapshot");
    assert_eq!(Some(loaded.applied()), log.store.stats().applied);
    let copy = Store::new();
    copy.replace(loaded);
    assert_eq!(copy.stats(), log.store.stats());
    assert_eq!(*copy.progress().borrow(), *log.store.progress().borrow());
    assert_eq!(copy.checkpoint().expect("applied").head("c"), log.checkpoint().head("c"));
    check_counters(&copy);
    // It goes on as the original does.
    let more = [write, command::open_session(), command::delete("key")];
    let at = log.next();
    let outcomes = log.store.apply(at, LogTime::default(), &more).expect("known");
    assert_eq!(outcomes[0].result, Some(outcome));
    assert_eq!(copy.apply(at, LogTime::default(), &more).expect("known"), outcomes);
    assert_eq!(copy.stats(), log.store.stats());
}

#[test]
fn pins_outlive_a_snapshot_that_is_installed() {
    let mut log = Log::new();
    log.one(command::set("a", "1"));
    let loaded = reload(&log.checkpoint()).expect("a good snapshot");
    log.one(command::set("a", "2"));
    let (pin, other) = (log.store.pin(), log.store.pin());
    log.one(command::set("a", "3"));
    log.store.replace(loaded);

    assert_eq!(log.store.get(b"a").record.expect("a record").value, "1");
    assert_eq!((log.store.stats().revision, log.store.stats().pins), (1, 2));
    drop(other);
    let chunk = pin.scan(&KeyRange::all(), ChunkLimit::default());
    assert_eq!((chunk.pairs.len(), &chunk.pairs[0].record.value[..]), (1, &b"2"[..]));
    let both = log.store.stats().memory_bytes;
    drop(pin);
    assert!(log.store.stats().memory_bytes < both);
    assert_eq!(log.store.stats().pins, 0);
    check_counters(&log.store);
}

#[test]
fn a_checkpoint_keeps_its_sessions() {
    let mut log = Log::new();
    let client = open(&mut log);
    log.one(of_session(client, 1, 1, command::set("a", "1")));
    let checkpoint = log.checkpoint();
    let before: Vec<_> = checkpoint.sessions().collect();
    log.one(of_session(client, 2, 2, command::set("a", "2")));
    open(&mut log);
    assert_eq!(checkpoint.sessions().collect::<Vec<_>>(), before);
    assert_eq!(before[0].answers.len(), 1);
    reload(&checkpoint).expect("a consistent checkpoint");
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let mut log = Log::new();
    let client = open(&mut log);
    log.apply(&[of_session(client, 1, 1, command::set("a", "1")), command::set("b", "2")]);
    let checkpoint = log.checkpoint();
    let head = checkpoint.head("cluster");
    let sessions: Vec<_> = checkpoint.sessions().collect();
    let pairs = scan_all(|range| checkpoint.scan(range, ChunkLimit::default()), KeyRange::all());
    let load = |head: &internal::SnapshotHead, sessions: &[internal::Session], pairs: &[internal::Pair]| {
        let mut loader = Loader::new(head.clone())?;
        sessions.iter().try_for_each(|session| loader.push_session(session.clone()))?;
        pairs.iter().try_for_each(|pair| loader.push_pair(pair.clone()))?;
        loader.finish().map(|_| ())
    };
    assert_eq!(load(&head, &sessions, &pairs), Ok(()));

    let cut = internal::SnapshotHead { state_hash: Bytes::new(), ..head.clone() };
    assert_eq!(load(&cut, &sessions, &pairs), Err(LoadError::Head("no state hash")));
    assert_eq!(load(&head, &sessions, &pairs[..1]), Err(LoadError::KeyCount { expected: 2, found: 1 }));
    let twice = [pairs[0].clone(), pairs[0].clone()];
    assert_eq!(load(&head, &sessions, &twice), Err(LoadError::KeyOrder { number: 1 }));
    let mut changed = pairs.clone();
    changed[1].value = "3".into();
    assert!(matches!(load(&head, &sessions, &changed), Err(LoadError::StateHash { .. })));
    assert!(matches!(load(&head, &[], &pairs), Err(LoadError::StateHash { .. })));
    let twice = [sessions[0].clone(), sessions[0].clone()];
    assert!(matches!(load(&head, &twice, &pairs), Err(LoadError::Session { client_id: 1, .. })));
    let never_granted = [internal::Session { client_id: 2, ..sessions[0].clone() }];
    assert!(matches!(load(&head, &never_granted, &pairs), Err(LoadError::Session { client_id: 2, .. })));
}
