//! What is bounded, and what no version may take for something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;

use super::*;
use crate::snapshot::codec::ITEM_BYTES_MAX;
use internal::{Compare, Condition, Txn, TxnOp, TxnOutcome, TxnResult, compare, txn_op, txn_result};

/// The default of `max-value-bytes`.
const VALUE_BYTES_MAX: usize = 1 << 20;

fn txn(ops: Vec<txn_op::Op>) -> Command {
    let then = ops.into_iter().map(|op| TxnOp { op: Some(op) }).collect();
    command::of(Op::Txn(Txn { then, ..Txn::default() }))
}

fn scan(keys_only: bool) -> txn_op::Op {
    txn_op::Op::Scan(internal::Scan { keys_only, ..internal::Scan::default() })
}

fn get(key: &'static str) -> txn_op::Op {
    txn_op::Op::Get(internal::Get { key: key.into() })
}

fn done(outcome: OutcomeResult) -> TxnOutcome {
    match outcome {
        OutcomeResult::Txn(txn) => txn,
        other => panic!("not done: {other:?}"),
    }
}

fn pair_got(result: &TxnResult) -> &internal::Pair {
    match &result.result {
        Some(txn_result::Result::Get(got)) => got.pair.as_ref().expect("a pair"),
        other => panic!("no get: {other:?}"),
    }
}

fn swap(value_bytes: usize) -> Command {
    let value = vec![b'x'; value_bytes].into();
    command::of(Op::Set(internal::Set { key: "k".into(), value, return_previous: true, ..Default::default() }))
}

#[test]
fn the_largest_value_can_be_read_in_a_transaction() {
    let mut log = Log::new();
    log.one(command::set("k", vec![0; VALUE_BYTES_MAX]));
    let outcome = done(log.one(txn(vec![get("k"), get("k")])));
    assert_eq!(pair_got(&outcome.results[0]).value.len(), VALUE_BYTES_MAX);
    assert_eq!(pair_got(&outcome.results[1]).value.len(), 0, "what comes after it has no room");
    assert!(outcome.truncated);
}

#[test]
fn the_answers_of_a_transaction_are_bounded_however_small_the_pairs_are() {
    let mut log = Log::new();
    for chunk in (0..60_000_u32).collect::<Vec<_>>().chunks(1000) {
        log.apply(&chunk.iter().map(|n| command::set(n.to_be_bytes()[1..].to_vec(), "")).collect::<Vec<_>>());
    }
    let outcome = done(log.one(txn(vec![scan(true), scan(true)])));
    assert!(outcome.truncated);
    assert!(outcome.encoded_len() <= TXN_RESULT_BYTES_MAX, "{} bytes", outcome.encoded_len());
    let Some(txn_result::Result::Scan(first)) = &outcome.results[0].result else { panic!("no scan") };
    assert!(first.more && first.pairs.len() == TXN_RESULT_BYTES_MAX.div_ceil(128 + 3), "{} pairs", first.pairs.len());
}

#[test]
fn a_session_holds_so_many_bytes_of_answers_and_fits_in_a_snapshot() {
    let mut log = Log::new();
    log.one(command::open_session());
    log.one(swap(VALUE_BYTES_MAX));
    let mut sequence = 0;
    loop {
        sequence += 1;
        assert!(sequence < 100, "it holds more and more");
        let revision = log.store.stats().revision;
        let outcome = log.one(of_session(1, sequence, 1, swap(VALUE_BYTES_MAX)));
        if outcome == rejected(Rejection::SessionFull) {
            assert_eq!(log.store.stats().revision, revision, "without effect");
            break;
        }
        check_counters(&log.store);
    }
    let answers = ANSWERS_BYTES_MAX / VALUE_BYTES_MAX;
    assert!((answers..=answers + 1).contains(&(sequence as usize - 1)), "{sequence} answers");
    // What it can hold beside: the last answer, if values may be larger than they are by default, and small ones.
    let session = log.checkpoint().sessions().next().expect("a session");
    assert!(session.encoded_len() + 7 * VALUE_BYTES_MAX + ANSWERS_MAX * 64 < ITEM_BYTES_MAX);
    assert!(log.store.stats().memory_bytes as usize > session.encoded_len());
    // An answer that the client has makes room.
    let outcome = log.one(of_session(1, sequence, 3, swap(1)));
    assert!(matches!(outcome, OutcomeResult::Set(_)), "{outcome:?}");
    check_counters(&log.store);
}

/// Bytes that say when they are gone.
struct Watched(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_loaded_does_not_hold_on_to_the_block_that_it_came_in() {
    let mut log = Log::new();
    log.one(command::open_session());
    log.one(swap(100));
    log.one(of_session(1, 1, 1, swap(10)));
    log.one(of_session(1, 2, 1, txn(vec![get("k")])));
    let checkpoint = log.checkpoint();
    let session = checkpoint.sessions().next().expect("a session");
    let is_gone = Arc::new(AtomicBool::new(false));
    let block = Bytes::from_owner(Watched(session.encode_to_vec(), Arc::clone(&is_gone)));
    let mut loader = Loader::new(checkpoint.head("cluster")).expect("a head");
    loader.push_session(internal::Session::decode(block).expect("a session")).expect("a good session");
    assert!(is_gone.load(Ordering::Relaxed));
}

#[test]
fn there_are_so_many_leases() {
    let mut log = Log::new();
    let grant = |id| command::grant_lease(id, Duration::from_secs(1));
    for _ in 0..LEASES_MAX / 1000 {
        log.apply(&vec![grant(0); 1000]);
    }
    assert_eq!(log.store.stats().leases, LEASES_MAX as u64);
    assert_eq!(log.one(grant(0)), rejected(Rejection::TooManyLeases));
    assert_eq!(log.one(grant(u64::MAX)), rejected(Rejection::TooManyLeases));
    assert_eq!(log.one(grant(7)), rejected(Rejection::LeaseExists));
    log.one(command::revoke_lease(7));
    assert!(matches!(log.one(grant(0)), OutcomeResult::GrantLease(_)));
    assert!(log.checkpoint().head("cluster").encoded_len() < ITEM_BYTES_MAX / 2);
    check_counters(&log.store);
}

#[test]
fn so_many_keys_expire_at_once_and_those_that_were_due_first() {
    let mut log = Log::new();
    let keys = EXPIRED_MAX as u64 + 10;
    let set = |n: u64| {
        let key = format!("{n}").into();
        command::of(Op::Set(internal::Set { key, ttl_ms: keys - n, ..Default::default() }))
    };
    log.apply(&(0..keys).map(set).collect::<Vec<_>>());
    log.log_time = LogTime::from_millis(keys);
    let OutcomeResult::Expire(expired) = log.one(command::expire_keys()) else { panic!("not expired") };
    assert_eq!((expired.revision, expired.deleted), (keys + 1, EXPIRED_MAX as u64));
    for n in 0..10 {
        assert!(log.store.get(format!("{n}").as_bytes()).record.is_some());
    }
    let OutcomeResult::Expire(expired) = log.one(command::expire_keys()) else { panic!("not expired") };
    assert_eq!((expired.revision, expired.deleted), (keys + 2, 10));
    assert_eq!(log.store.stats().keys, 0);
}

#[test]
fn commands_that_may_be_long_are_the_last_under_their_lock() {
    let mut log = Log::new();
    let at = log.next();
    let small = command::set("k", "v");
    let long = [
        command::of(Op::DeleteRange(internal::DeleteRange::default())),
        command::revoke_lease(1),
        command::expire_keys(),
        command::expire_leases(1, vec![1]),
        txn(vec![scan(false)]),
        swap(LOCKED_BYTES_MAX),
    ];
    for command in long {
        let commands = [small.clone(), command, small.clone()];
        assert_eq!(locked_together(&known_commands(at, &commands).expect("known")), 2);
    }
    let short = [command::delete("k"), command::grant_lease(0, Duration::from_secs(1)), command::open_session()];
    assert_eq!(locked_together(&known_commands(at, &vec![short; 20].concat()).expect("known")), 60);
}

/// What a later version knows and this one doesn't decodes to nothing. To take that for no condition, or for a comparison
/// that does not hold, would make this node's state another one.
#[test]
fn what_is_unknown_within_a_command_stops_the_entry() {
    let mut log = Log::new();
    let key = Bytes::from("k");
    let unknown = Some(Condition { is: None });
    let set = internal::Set { key: key.clone(), condition: unknown, ..Default::default() };
    let delete = internal::Delete { key: key.clone(), condition: unknown, ..Default::default() };
    let compare = |operator, target| {
        let compare = vec![Compare { key: key.clone(), range_end: None, operator, target }];
        Txn { compare, ..Txn::default() }
    };
    let target = Some(compare::Target::Version(1));
    let op = |op| Txn { otherwise: vec![TxnOp { op }], ..Txn::default() };
    let within = |txn| op(Some(txn_op::Op::Txn(txn)));
    log.one(command::of(Op::Txn(within(compare(3, target.clone())))));
    let before = log.store.stats();
    let commands = [
        Op::Set(set.clone()),
        Op::Delete(delete.clone()),
        Op::Txn(op(None)),
        Op::Txn(compare(0, None)),
        Op::Txn(compare(4, target)),
        Op::Txn(op(Some(txn_op::Op::Set(set)))),
        Op::Txn(within(op(Some(txn_op::Op::Delete(delete))))),
        Op::Txn(within(op(None))),
        Op::Txn(within(compare(0, None))),
    ];
    for unknown in commands {
        let at = log.next();
        let later = LogTime::from_millis(1);
        let refused = log.store.apply(at, later, &[command::set("a", "1"), command::of(unknown.clone())]);
        assert_eq!(refused, Err(ApplyError::UnknownCommand { at, number: 1 }), "{unknown:?}");
        assert_eq!(log.store.stats(), before);
    }
    assert_eq!(log.store.log_time(), LogTime::default());
}
