//! The rules of the data model: conditions, ends of keys, leases, transactions.

use super::*;
use internal::{Compare, Condition, SetOutcome, Txn, TxnOp, compare, condition, txn_op, txn_result};

fn with(key: &str, value: &str, change: impl FnOnce(&mut internal::Set)) -> Command {
    command::of(Op::Set(set_op(key, value, change)))
}

fn set_op(key: &str, value: &str, change: impl FnOnce(&mut internal::Set)) -> internal::Set {
    let mut set = internal::Set { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    change(&mut set);
    set
}

fn condition(is: condition::Is) -> Option<Condition> {
    Some(Condition { is: Some(is) })
}

fn set_result(outcome: OutcomeResult) -> SetOutcome {
    match outcome {
        OutcomeResult::Set(set) => set,
        other => panic!("not set: {other:?}"),
    }
}

fn rejection(outcome: OutcomeResult) -> Rejection {
    match outcome {
        OutcomeResult::Rejected(reason) => Rejection::try_from(reason).expect("a known reason"),
        other => panic!("not rejected: {other:?}"),
    }
}

fn value(log: &Log, key: &str) -> Option<String> {
    log.store.get(key.as_bytes()).record.map(|record| String::from_utf8_lossy(&record.value).into_owned())
}

fn grant(log: &mut Log, id: u64, ttl_ms: u64) -> u64 {
    match log.one(command::grant_lease(id, std::time::Duration::from_millis(ttl_ms))) {
        OutcomeResult::GrantLease(granted) => granted.lease_id,
        other => panic!("not granted: {other:?}"),
    }
}

fn expired(outcome: OutcomeResult) -> (u64, u64) {
    match outcome {
        OutcomeResult::Expire(expired) => (expired.revision, expired.deleted),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_whose_condition_does_not_hold_changes_nothing() {
    let mut log = Log::new();
    let table = [
        (condition::Is::Absent(true), true),
        (condition::Is::Absent(true), false),
        (condition::Is::Present(true), true),
        (condition::Is::ModRevision(1), false),
        (condition::Is::ModRevision(2), true),
    ];
    for (is, holds) in table {
        let before = log.store.stats().revision;
        let outcome = set_result(log.one(with("k", "v", |set| {
            set.condition = condition(is);
            set.return_previous = true;
        })));
        assert_eq!(outcome.unmet, !holds, "{is:?}");
        assert_eq!(log.store.stats().revision, before + u64::from(holds), "{is:?}");
        assert_eq!(outcome.revision, log.store.stats().revision);
        assert_eq!(outcome.previous.is_some(), before > 0);
    }
    let delete = |is| {
        command::of(Op::Delete(internal::Delete { key: "k".into(), condition: condition(is), return_previous: true }))
    };
    let OutcomeResult::Delete(unmet) = log.one(delete(condition::Is::ModRevision(2))) else { panic!("no delete") };
    assert!(unmet.unmet && unmet.existed && unmet.mod_revision == 3 && unmet.revision == 3);
    let OutcomeResult::Delete(met) = log.one(delete(condition::Is::ModRevision(3))) else { panic!("no delete") };
    assert!(!met.unmet && met.existed && met.revision == 4);
    assert_eq!(met.previous.expect("what it had").version, 3);
    assert!(set_result(log.one(with("k", "v", |set| set.keep_value = true))).unmet, "there is no value to keep");
}

#[test]
fn a_key_ends_at_its_deadline_and_not_before() {
    let mut log = Log::new();
    log.log_time = LogTime::from_millis(100);
    log.one(with("a", "1", |set| set.ttl_ms = 50));
    log.one(with("b", "1", |set| set.ttl_ms = 40));
    assert_eq!(log.store.next_deadline(), Some(LogTime::from_millis(140)));
    log.log_time = LogTime::from_millis(139);
    assert_eq!(expired(log.one(command::expire_keys())), (2, 0));
    log.log_time = LogTime::from_millis(150);
    assert_eq!(expired(log.one(command::expire_keys())), (3, 2), "both in one revision");
    assert_eq!(log.store.next_deadline(), None);

    // Log time does not go back.
    log.log_time = LogTime::from_millis(1);
    log.one(with("c", "1", |set| set.ttl_ms = 50));
    assert_eq!(log.store.next_deadline(), Some(LogTime::from_millis(200)));
    // A plain set takes the end away, one that keeps it does not, whatever it says itself.
    log.one(with("c", "2", |set| (set.keep_ttl, set.ttl_ms) = (true, 1)));
    assert_eq!(log.store.next_deadline(), Some(LogTime::from_millis(200)));
    log.one(with("c", "", |set| (set.keep_value, set.ttl_ms) = (true, 500)));
    assert_eq!(log.store.next_deadline(), Some(LogTime::from_millis(650)));
    assert_eq!(value(&log, "c").as_deref(), Some("2"));
    log.one(command::set("c", "3"));
    assert_eq!(log.store.next_deadline(), None);
}

#[test]
fn the_keys_of_a_lease_end_with_it() {
    let mut log = Log::new();
    assert_eq!(grant(&mut log, 2, 1000), 2);
    assert_eq!(grant(&mut log, 0, 1000), 1);
    assert_eq!(grant(&mut log, 0, 1000), 3, "the next one that is free");
    assert_eq!(rejection(log.one(command::grant_lease(3, std::time::Duration::from_secs(1)))), Rejection::LeaseExists);
    assert_eq!(rejection(log.one(with("k", "v", |set| set.lease_id = 9))), Rejection::LeaseNotFound);
    assert_eq!(log.store.stats().revision, 0, "leases take no revision");

    for key in ["b", "a", "c"] {
        log.one(with(key, "v", |set| set.lease_id = 2));
    }
    log.one(command::set("c", "without"));
    log.one(with("a", "again", |set| set.lease_id = 1));
    assert_eq!(log.store.lease_keys(2), Some(vec![Bytes::from("b")]));
    log.one(with("d", "v", |set| set.lease_id = 2));
    let OutcomeResult::RevokeLease(revoked) = log.one(command::revoke_lease(2)) else { panic!("not revoked") };
    assert_eq!((revoked.revision, revoked.deleted), (7, 2));
    assert_eq!(rejection(log.one(command::revoke_lease(2))), Rejection::LeaseNotFound);
    assert_eq!([value(&log, "a"), value(&log, "b"), value(&log, "c")].map(|v| v.is_some()), [true, false, true]);

    // Only a leader of the entry's own term decides what has expired, and not of a lease that was granted since.
    assert_eq!(expired(log.one(command::expire_leases(1, vec![1]))), (7, 0));
    log.log_time = LogTime::from_millis(999);
    assert_eq!(expired(log.one(command::expire_leases(1, vec![1]))), (7, 0));
    log.log_time = LogTime::from_millis(1000);
    assert_eq!(expired(log.one(command::expire_leases(2, vec![1]))), (7, 0));
    assert!(log.store.lease(1).is_some());
    assert_eq!(expired(log.one(command::expire_leases(1, vec![1, 2]))), (8, 1));
    assert_eq!(log.store.leases().iter().map(|lease| lease.id).collect::<Vec<_>>(), [3]);
}

#[test]
fn numbers_are_added_up() {
    let mut log = Log::new();
    let add = |delta, ttl_ms| command::of(Op::Increment(internal::Increment { key: "n".into(), delta, ttl_ms }));
    let sum = |outcome| match outcome {
        OutcomeResult::Increment(sum) => sum.value,
        other => panic!("{other:?}"),
    };
    assert_eq!(sum(log.one(add(5, 100))), 5);
    assert_eq!(sum(log.one(add(-7, 9999))), -2);
    assert_eq!(log.store.next_deadline(), Some(LogTime::from_millis(100)), "the first one said when it ends");
    log.one(command::set("n", i64::MAX.to_string()));
    assert_eq!(rejection(log.one(add(1, 0))), Rejection::NotANumber);
    log.one(command::set("n", "seven"));
    assert_eq!(rejection(log.one(add(1, 0))), Rejection::NotANumber);
    assert_eq!(value(&log, "n").as_deref(), Some("seven"));
}

#[test]
fn a_transaction_is_one_revision_or_nothing() {
    let mut log = Log::new();
    log.apply(&[command::set("a", "1"), command::set("b", "2"), command::set("c", "3")]);
    let compare = |key: &str, range_end: Option<&str>, operator, target| Compare {
        key: key.to_owned().into(),
        range_end: range_end.map(|end| end.to_owned().into()),
        operator,
        target: Some(target),
    };
    let op = |op| TxnOp { op: Some(op) };
    let txn = |compare, then, otherwise| command::of(Op::Txn(Txn { compare, then, otherwise }));
    let get = |key: &str| op(txn_op::Op::Get(internal::Get { key: key.to_owned().into() }));
    let equal = compare::Operator::Equal.into();

    let command = txn(
        vec![
            compare("a", None, equal, compare::Target::Value("1".into())),
            compare("a", Some("c"), compare::Operator::Less.into(), compare::Target::Version(2)),
            compare("x", Some(""), equal, compare::Target::Version(9)),
        ],
        vec![
            op(txn_op::Op::Set(set_op("a", "new", |_| {}))),
            get("a"),
            op(txn_op::Op::DeleteRange(internal::DeleteRange { start: "b".into(), end: "".into() })),
            op(txn_op::Op::Scan(internal::Scan::default())),
            op(txn_op::Op::Txn(Txn {
                compare: vec![compare("b", None, equal, compare::Target::ModRevision(0))],
                then: vec![op(txn_op::Op::Set(set_op("d", "within", |_| {})))],
                otherwise: vec![],
            })),
        ],
        vec![],
    );
    let OutcomeResult::Txn(done) = log.one(command) else { panic!("not done") };
    assert!(done.succeeded);
    assert_eq!((done.revision, log.store.stats().revision), (4, 4));
    let results: Vec<_> = done.results.into_iter().map(|result| result.result.expect("a result")).collect();
    let txn_result::Result::Get(got) = &results[1] else { panic!("{results:?}") };
    assert_eq!(got.pair.as_ref().map(|pair| (&pair.value[..], pair.version)), Some((&b"new"[..], 2)));
    let txn_result::Result::DeleteRange(deleted) = &results[2] else { panic!("{results:?}") };
    assert_eq!((deleted.deleted, deleted.revision), (2, 4));
    let txn_result::Result::Scan(scanned) = &results[3] else { panic!("{results:?}") };
    assert_eq!(scanned.pairs.iter().map(|pair| &pair.key[..]).collect::<Vec<_>>(), [b"a"]);
    let txn_result::Result::Txn(within) = &results[4] else { panic!("{results:?}") };
    assert!(within.succeeded && within.revision == 4);
    assert_eq!(value(&log, "d").as_deref(), Some("within"));

    // What names a lease that is not there has no effect at all.
    let command = txn(
        vec![],
        vec![
            op(txn_op::Op::Set(set_op("a", "lost", |_| {}))),
            op(txn_op::Op::Set(set_op("z", "lost", |set| set.lease_id = 7))),
        ],
        vec![],
    );
    assert_eq!(rejection(log.one(command)), Rejection::LeaseNotFound);
    assert_eq!(log.store.stats().revision, 4);
    // Nothing but reads, and comparisons that don't hold: no revision.
    let command = txn(vec![compare("a", None, equal, compare::Target::Version(7))], vec![], vec![get("nothing")]);
    let OutcomeResult::Txn(done) = log.one(command) else { panic!("not done") };
    assert!(!done.succeeded);
    assert_eq!((done.revision, log.store.stats().revision), (4, 4));
}

#[test]
fn the_answers_of_a_transaction_are_bounded() {
    let mut log = Log::new();
    let large = "x".repeat(TXN_RESULT_BYTES_MAX / 4);
    for key in ["a", "b", "c", "d", "e"] {
        log.one(command::set(key, large.clone()));
    }
    let op = |op| TxnOp { op: Some(op) };
    let scan = internal::Scan { reverse: true, ..Default::default() };
    let get = internal::Get { key: "a".into() };
    let txn = Txn { then: vec![op(txn_op::Op::Scan(scan)), op(txn_op::Op::Get(get))], ..Default::default() };
    let OutcomeResult::Txn(done) = log.one(command::of(Op::Txn(txn))) else { panic!("not done") };
    assert!(done.truncated);
    let Some(txn_result::Result::Scan(scanned)) = &done.results[0].result else { panic!("no scan") };
    assert_eq!((scanned.pairs.len(), scanned.more), (4, true), "the last one goes beyond");
    let Some(txn_result::Result::Get(got)) = &done.results[1].result else { panic!("no get") };
    let pair = got.pair.as_ref().expect("it is there");
    assert_eq!((pair.value.len(), pair.version), (0, 1), "without its value");
}

#[test]
fn a_snapshot_has_leases_and_deadlines() {
    let mut log = Log::new();
    log.log_time = LogTime::from_millis(10);
    grant(&mut log, 7, 1000);
    grant(&mut log, 0, 1000);
    log.one(with("a", "1", |set| set.lease_id = 7));
    log.one(with("b", "1", |set| set.ttl_ms = 5));
    let checkpoint = log.checkpoint();
    let mut loader = Loader::new(checkpoint.head("c")).expect("head");
    checkpoint.sessions().for_each(|session| loader.push_session(session).expect("session"));
    let chunk = checkpoint.scan(&KeyRange::all(), ChunkLimit::default());
    chunk.pairs.into_iter().for_each(|pair| loader.push_pair(pair.into()).expect("pair"));
    let copy = Store::new();
    copy.replace(loader.finish().expect("the same state"));
    assert_eq!(copy.stats().state_hash, log.store.stats().state_hash);
    assert_eq!((copy.leases(), copy.next_deadline()), (log.store.leases(), log.store.next_deadline()));
    assert_eq!(copy.log_time(), LogTime::from_millis(10));

    let mut head = log.checkpoint().head("c");
    head.leases.retain(|lease| lease.lease_id != 7);
    let mut loader = Loader::new(head).expect("head");
    let chunk = log.checkpoint().scan(&KeyRange::all(), ChunkLimit::default());
    chunk.pairs.into_iter().for_each(|pair| loader.push_pair(pair.into()).expect("pair"));
    assert_eq!(loader.finish().err(), Some(LoadError::UnknownLease { lease_id: 7 }));
}
