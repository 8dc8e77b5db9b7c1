//! Conditions, previous values, numbers, ranges and transactions, as clients see them.

use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{
    self, CountRequest, DeleteRangeRequest, IncrementRequest, TxnOp, TxnRequest, txn_op, txn_result,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Running, Setup, assert_invalid, delete, get, reason, set};

fn on(is: api::condition::Is) -> Option<api::Condition> {
    Some(api::Condition { is: Some(is) })
}

fn op(op: txn_op::Op) -> TxnOp {
    TxnOp { op: Some(op) }
}

async fn value(kv: &mut KvClient<Channel>, key: &str) -> Option<String> {
    match kv.get(get(key)).await {
        Ok(found) => Some(String::from_utf8_lossy(&found.into_inner().value).into_owned()),
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => panic!("{status}"),
    }
}

#[tokio::test]
async fn a_write_waits_on_its_condition() {
    use api::condition::Is;
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let only = |is, value: &'static str| api::SetRequest { condition: on(is), ..set("k", value) };

    let refused = kv.set(only(Is::Present(true), "1")).await.expect("an answer").into_inner();
    assert_eq!((refused.ok, refused.revision, refused.mod_revision), (false, 0, 0));
    let created = kv.set(only(Is::ModRevision(0), "2")).await.expect("an answer").into_inner();
    assert_eq!((created.ok, created.revision, created.mod_revision), (true, 1, 1));
    let refused = kv.set(only(Is::Absent(true), "3")).await.expect("an answer").into_inner();
    assert_eq!((refused.ok, refused.mod_revision, refused.version), (false, 1, 1));
    assert!(!kv.set(only(Is::ModRevision(7), "4")).await.expect("an answer").into_inner().ok);
    assert!(kv.set(only(Is::ModRevision(1), "5")).await.expect("an answer").into_inner().ok);
    assert_eq!(value(&mut kv, "k").await.as_deref(), Some("5"));

    let only = |is| api::DeleteRequest { condition: on(is), ..delete("k") };
    let refused = kv.delete(only(Is::ModRevision(1))).await.expect("an answer").into_inner();
    assert_eq!((refused.ok, refused.existed, refused.mod_revision), (false, true, 2));
    let deleted = kv.delete(only(Is::ModRevision(2))).await.expect("an answer").into_inner();
    assert_eq!((deleted.ok, deleted.existed, deleted.revision), (true, true, 3));
}

#[tokio::test]
async fn what_was_there_before_is_told_on_request() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let with = |value: &'static str| api::SetRequest { return_previous: true, ..set("k", value) };
    assert_eq!(kv.set(with("1")).await.expect("set").into_inner().previous, None);
    let previous = kv.set(with("2")).await.expect("set").into_inner().previous.expect("a value");
    assert_eq!((previous.value.as_ref(), previous.mod_revision, previous.version), (&b"1"[..], 1, 1));
    assert_eq!(kv.set(set("k", "3")).await.expect("set").into_inner().previous, None);
    let with = api::DeleteRequest { return_previous: true, ..delete("k") };
    let previous = kv.delete(with.clone()).await.expect("delete").into_inner().previous.expect("a value");
    assert_eq!((previous.key.as_str(), previous.value.as_ref()), ("k", &b"3"[..]));
    assert_eq!(kv.delete(with).await.expect("delete").into_inner().previous, None);
}

#[tokio::test]
async fn numbers_are_added_to() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let add = |key: &str, delta| IncrementRequest { key: key.into(), delta, ..Default::default() };
    let sum = kv.increment(add("n", 5)).await.expect("increment").into_inner();
    assert_eq!(sum, api::IncrementResponse { value: 5, revision: 1, create_revision: 1, version: 1 });
    assert_eq!(kv.increment(add("n", -7)).await.expect("increment").into_inner().value, -2);
    assert_eq!(value(&mut kv, "n").await.as_deref(), Some("-2"));
    kv.set(set("text", "five")).await.expect("set");
    for refused in [kv.increment(add("text", 1)).await, kv.increment(add("n", i64::MIN)).await] {
        let (code, reason, _) = reason(refused);
        assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "NOT_A_NUMBER"));
    }
}

#[tokio::test]
async fn ranges_are_counted_and_deleted() {
    let server = Running::start(Setup::default()).await;
    server.fill([("a", "1"), ("aa", "2"), ("b", "3"), ("ö", "4")]).await;
    let mut kv = server.kv().await;
    let count = |prefix: &str, start: &str, end: &str| CountRequest {
        prefix: prefix.into(),
        start: start.into(),
        end: end.into(),
        ..Default::default()
    };
    for (request, expected) in
        [(count("", "", ""), 4), (count("a", "", ""), 2), (count("", "aa", "ö"), 2), (count("c", "", ""), 0)]
    {
        let counted = kv.count(request.clone()).await.expect("count").into_inner();
        assert_eq!((counted.count, counted.revision), (expected, 4), "{request:?}");
    }
    let range = |prefix: &str, all| DeleteRangeRequest { prefix: prefix.into(), all, ..Default::default() };
    assert_invalid(kv.delete_range(range("", false)).await, "all");
    let deleted = kv.delete_range(range("a", false)).await.expect("delete").into_inner();
    assert_eq!(deleted, api::DeleteRangeResponse { deleted: 2, revision: 5 });
    let nothing = kv.delete_range(range("a", false)).await.expect("delete").into_inner();
    assert_eq!(nothing, api::DeleteRangeResponse { deleted: 0, revision: 5 });
    assert_eq!(kv.delete_range(range("", true)).await.expect("delete").into_inner().deleted, 2);
    assert_eq!(server.node.store().stats().keys, 0);
    let count = CountRequest { revision: 4, ..count("", "", "") };
    assert_eq!(kv.count(count).await.expect("count").into_inner().count, 4, "as it was");
}

#[tokio::test]
async fn a_transaction_does_one_of_two_things_at_once() {
    let server = Running::start(Setup::default()).await;
    server.fill([("a", "1"), ("b", "2")]).await;
    let mut kv = server.kv().await;
    let is = |value: &'static str| api::Compare {
        key: "a".into(),
        target: Some(api::compare::Target::Value(value.into())),
        ..Default::default()
    };
    let transaction = |value| TxnRequest {
        compare: vec![is(value)],
        then: vec![
            op(txn_op::Op::Set(set("a", "3"))),
            op(txn_op::Op::Get(get("a"))),
            op(txn_op::Op::Delete(delete("b"))),
            op(txn_op::Op::List(api::ListRequest::default())),
        ],
        otherwise: vec![op(txn_op::Op::Get(get("none")))],
        request_id: None,
    };
    let done = kv.txn(transaction("1")).await.expect("txn").into_inner();
    assert_eq!((done.succeeded, done.revision), (true, 3));
    let results: Vec<_> = done.results.into_iter().filter_map(|result| result.result).collect();
    let [
        txn_result::Result::Set(set),
        txn_result::Result::Get(found),
        txn_result::Result::Delete(deleted),
        txn_result::Result::List(list),
    ] = &results[..]
    else {
        panic!("{results:?}")
    };
    assert_eq!((set.ok, set.revision, set.version), (true, 3, 2));
    let found = found.pair.as_ref().expect("a pair");
    assert_eq!((found.value.as_ref(), found.revision), (&b"3"[..], 3));
    assert!(deleted.existed);
    assert_eq!((list.pairs.len(), list.more), (1, false));

    let done = kv.txn(transaction("1")).await.expect("txn").into_inner();
    assert_eq!((done.succeeded, done.revision), (false, 3));
    assert!(matches!(&done.results[0].result, Some(txn_result::Result::Get(api::TxnGetResult { pair: None }))));
    assert_eq!(value(&mut kv, "a").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn a_transaction_that_makes_no_sense_changes_nothing() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let twice = TxnRequest { then: vec![op(txn_op::Op::Set(set("a", "1"))); 2], ..Default::default() };
    assert_invalid(kv.txn(twice).await, "then[1]");
    let unknown_lease = TxnRequest {
        then: vec![
            op(txn_op::Op::Set(set("a", "1"))),
            op(txn_op::Op::Set(api::SetRequest { lease_id: 9, ..set("b", "2") })),
        ],
        ..Default::default()
    };
    assert_eq!(reason(kv.txn(unknown_lease).await).1, "LEASE_NOT_FOUND");
    assert_eq!(server.node.store().stats().revision, 0);
}

#[tokio::test]
async fn older_revisions_are_read_while_they_are_remembered() {
    let server = Running::start(Setup::default()).await;
    server.fill([("k", "1"), ("k", "2"), ("l", "3")]).await;
    let mut kv = server.kv().await;
    let at = |revision| api::GetRequest { revision, ..get("k") };
    for (revision, expected) in [(1, "1"), (2, "2"), (3, "2"), (0, "2")] {
        let found = kv.get(at(revision)).await.expect("get").into_inner();
        assert_eq!(
            (found.value.as_ref(), found.revision),
            (expected.as_bytes(), if revision == 0 { 3 } else { revision })
        );
    }
    let (code, reason, details) = reason(kv.get(at(4)).await);
    assert_eq!((code, reason.as_str()), (Code::OutOfRange, "FUTURE_REVISION"));
    assert_eq!(details.error_info().expect("info").metadata["newest"], "3");
    let missing: Result<_, Status> = kv.get(api::GetRequest { revision: 2, ..get("l") }).await;
    assert_eq!(super::reason(missing).2.error_info().expect("info").metadata["revision"], "2");
}
