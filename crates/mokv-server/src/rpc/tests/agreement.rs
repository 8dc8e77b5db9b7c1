//! The same operations through calls of their own and through one stream, against two fresh nodes: they agree.

use futures_util::TryStreamExt;
use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::pipeline_operation::Operation;
use mokv_proto::api::pipeline_result::Result as Told;
use mokv_proto::api::{self, PipelineError};
use proptest::prelude::*;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use super::pipeline::{Stream, of};
use super::{Running, Setup};

/// What came of an operation, without what depends on the time.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Told(Told),
    Failed { code: Code, message: String, reason: String },
}

impl Outcome {
    fn of_call(result: Result<Told, Status>) -> Self {
        match result {
            Ok(told) => Self::of_stream(told),
            Err(status) => Self::failed(&status),
        }
    }

    fn of_stream(told: Told) -> Self {
        match told {
            Told::Error(PipelineError { code, message, details }) => {
                Self::failed(&Status::with_details(Code::from(code), message, details))
            }
            told => Self::Told(timeless(told)),
        }
    }

    fn failed(status: &Status) -> Self {
        let reason = status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default();
        Self::Failed { code: status.code(), message: status.message().to_owned(), reason }
    }

    /// Operations on different keys have no order, and so no fixed revisions.
    fn without_revisions(self) -> Self {
        match self {
            Self::Told(told) => Self::Told(without_revisions(told)),
            failed @ Self::Failed { .. } => failed,
        }
    }
}

/// Every pair in an answer.
fn pairs(told: &mut Told) -> Vec<&mut api::GetResponse> {
    match told {
        Told::Get(found) => vec![found],
        Told::Set(set) => set.previous.iter_mut().collect(),
        Told::Delete(delete) => delete.previous.iter_mut().collect(),
        Told::Txn(txn) => txn_pairs(txn),
        _ => Vec::new(),
    }
}

fn txn_pairs(txn: &mut api::TxnResponse) -> Vec<&mut api::GetResponse> {
    use api::txn_result::Result;
    let results = txn.results.iter_mut().filter_map(|result| result.result.as_mut());
    let pairs = results.map(|result| match result {
        Result::Get(found) => found.pair.iter_mut().collect(),
        Result::Set(set) => set.previous.iter_mut().collect(),
        Result::Delete(delete) => delete.previous.iter_mut().collect(),
        Result::List(list) => list.pairs.iter_mut().collect(),
        Result::Txn(txn) => txn_pairs(txn),
        Result::DeleteRange(_) => Vec::new(),
    });
    pairs.flatten().collect()
}

fn timeless(mut told: Told) -> Told {
    for pair in pairs(&mut told) {
        pair.ttl_ms = pair.ttl_ms.min(1);
    }
    if let Told::GetLease(lease) = &mut told {
        lease.remaining_ms = lease.remaining_ms.min(1);
    }
    told
}

fn without_revisions(mut told: Told) -> Told {
    for pair in pairs(&mut told) {
        (pair.revision, pair.create_revision, pair.mod_revision) = (0, 0, 0);
    }
    match &mut told {
        Told::Set(set) => without_set_revisions(set),
        Told::Delete(delete) => (delete.revision, delete.mod_revision) = (0, 0),
        Told::DeleteRange(range) => range.revision = 0,
        Told::Increment(sum) => (sum.revision, sum.create_revision) = (0, 0),
        Told::Txn(txn) => without_txn_revisions(txn),
        Told::Count(count) => count.revision = 0,
        Told::GrantLease(lease) => lease.revision = 0,
        Told::RevokeLease(lease) => lease.revision = 0,
        _ => {}
    }
    told
}

fn without_set_revisions(set: &mut api::SetResponse) {
    (set.revision, set.create_revision, set.mod_revision) = (0, 0, 0);
}

fn without_txn_revisions(txn: &mut api::TxnResponse) {
    use api::txn_result::Result;
    txn.revision = 0;
    for result in txn.results.iter_mut().filter_map(|result| result.result.as_mut()) {
        match result {
            Result::Set(set) => without_set_revisions(set),
            Result::Delete(delete) => (delete.revision, delete.mod_revision) = (0, 0),
            Result::DeleteRange(range) => range.revision = 0,
            Result::Txn(txn) => without_txn_revisions(txn),
            Result::Get(_) | Result::List(_) => {}
        }
    }
}

async fn call(kv: &mut KvClient<Channel>, operation: Operation) -> Result<Told, Status> {
    match operation {
        Operation::Get(get) => kv.get(get).await.map(Response::into_inner).map(Told::Get),
        Operation::Set(set) => kv.set(set).await.map(Response::into_inner).map(Told::Set),
        Operation::Delete(delete) => kv.delete(delete).await.map(Response::into_inner).map(Told::Delete),
        Operation::DeleteRange(range) => kv.delete_range(range).await.map(Response::into_inner).map(Told::DeleteRange),
        Operation::Increment(add) => kv.increment(add).await.map(Response::into_inner).map(Told::Increment),
        Operation::Txn(txn) => kv.txn(txn).await.map(Response::into_inner).map(Told::Txn),
        Operation::Count(count) => kv.count(count).await.map(Response::into_inner).map(Told::Count),
        Operation::OpenSession(open) => kv.open_session(open).await.map(Response::into_inner).map(Told::OpenSession),
        Operation::GrantLease(grant) => kv.grant_lease(grant).await.map(Response::into_inner).map(Told::GrantLease),
        Operation::RevokeLease(revoke) => {
            kv.revoke_lease(revoke).await.map(Response::into_inner).map(Told::RevokeLease)
        }
        Operation::GetLease(get) => kv.get_lease(get).await.map(Response::into_inner).map(Told::GetLease),
    }
}

fn key() -> impl Strategy<Value = String> {
    // The empty one is refused.
    prop_oneof![1 => Just(""), 8 => Just("a"), 8 => Just("ab"), 8 => Just("b"), 4 => Just("ö")].prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = bytes::Bytes> {
    prop_oneof![Just("1"), Just("2"), Just("-7"), Just("text"), Just("")].prop_map(bytes::Bytes::from)
}

/// With `exact`: also what depends on the order of all operations, as when they come one by one.
fn condition(exact: bool) -> impl Strategy<Value = Option<api::Condition>> {
    use api::condition::Is;
    let is = prop_oneof![
        Just(Is::Absent(true)),
        Just(Is::Present(true)),
        Just(Is::Present(false)),
        (0..if exact { 30_u64 } else { 1 }).prop_map(Is::ModRevision),
    ];
    prop_oneof![3 => Just(None), 1 => is.prop_map(|is| Some(api::Condition { is: Some(is) }))]
}

fn request_id(exact: bool) -> BoxedStrategy<Option<api::RequestId>> {
    if !exact {
        return Just(None).boxed();
    }
    let id = (0..3_u64, 0..8_u64, 1..3_u64).prop_map(|(client_id, sequence, first_unanswered)| api::RequestId {
        client_id,
        sequence,
        first_unanswered,
    });
    prop_oneof![3 => Just(None), 1 => id.prop_map(Some)].boxed()
}

prop_compose! {
    fn set(exact: bool)(
        key in key(),
        value in value(),
        condition in condition(exact),
        request_id in request_id(exact),
        ttl_ms in prop_oneof![4 => Just(0_u64), 1 => Just(1_000_000), 1 => Just(u64::MAX)],
        lease_id in prop_oneof![6 => Just(0_u64), 1 => 1..4_u64],
        return_previous: bool,
        keep_ttl in prop::bool::weighted(0.2),
        keep_value in prop::bool::weighted(0.1),
    ) -> api::SetRequest {
        api::SetRequest {
            key, value, request_id, ttl_ms, lease_id, condition, return_previous, keep_ttl, keep_value,
        }
    }
}

prop_compose! {
    fn delete(exact: bool)(
        key in key(),
        condition in condition(exact),
        request_id in request_id(exact),
        return_previous: bool,
    ) -> api::DeleteRequest {
        api::DeleteRequest { key, request_id, condition, return_previous }
    }
}

prop_compose! {
    fn delete_range(exact: bool)(
        prefix in key(),
        end in prop_oneof![2 => Just(""), 1 => Just("ab")],
        all in prop::bool::weighted(0.1),
        request_id in request_id(exact),
    ) -> api::DeleteRangeRequest {
        api::DeleteRangeRequest { prefix, start: String::new(), end: end.into(), request_id, all }
    }
}

prop_compose! {
    fn get(exact: bool)(
        key in key(),
        local in prop::bool::weighted(0.3),
        revision in if exact { (0..20_u64).boxed() } else { Just(0).boxed() },
        consistency in prop_oneof![8 => 0..3_i32, 1 => Just(9)],
    ) -> api::GetRequest {
        // A local read of a revision that is not there yet waits for it.
        let consistency = if local && revision == 0 { 1 } else if consistency == 1 { 0 } else { consistency };
        api::GetRequest { key, consistency, revision, ..Default::default() }
    }
}

fn compare() -> impl Strategy<Value = api::Compare> {
    use api::compare::Target;
    let target = prop_oneof![
        (0..3_u64).prop_map(Target::Version),
        value().prop_map(Target::Value),
        (0..3_u64).prop_map(Target::LeaseId),
    ];
    let range_end = prop_oneof![4 => Just(""), 1 => Just("b"), 1 => Just("\0")];
    (key(), range_end, 0..5_i32, target).prop_map(|(key, range_end, operator, target)| api::Compare {
        key,
        range_end: range_end.into(),
        operator,
        target: Some(target),
    })
}

fn txn(exact: bool) -> impl Strategy<Value = api::TxnRequest> {
    use api::txn_op::Op;
    let set = (key(), value(), any::<bool>()).prop_map(|(key, value, return_previous)| {
        Op::Set(api::SetRequest { key, value, return_previous, ..Default::default() })
    });
    let delete = key().prop_map(|key| Op::Delete(api::DeleteRequest { key, ..Default::default() }));
    let range = key().prop_map(|prefix| Op::DeleteRange(api::DeleteRangeRequest { prefix, ..Default::default() }));
    let get = key().prop_map(|key| Op::Get(api::GetRequest { key, ..Default::default() }));
    let list = (key(), 0..3_u64, any::<bool>(), any::<bool>()).prop_map(|(prefix, limit, keys_only, reverse)| {
        Op::List(api::ListRequest { prefix, limit, keys_only, reverse, ..Default::default() })
    });
    let leaf = prop_oneof![3 => set, 1 => delete, 1 => range, 2 => get, 1 => list];
    let op = leaf.prop_recursive(2, 8, 3, |inner| {
        let ops = prop::collection::vec(inner.prop_map(|op| api::TxnOp { op: Some(op) }), 0..3);
        (prop::collection::vec(compare(), 0..2), ops.clone(), ops).prop_map(|(compare, then, otherwise)| {
            Op::Txn(api::TxnRequest { compare, then, otherwise, request_id: None })
        })
    });
    let ops = || prop::collection::vec(op.clone().prop_map(|op| api::TxnOp { op: Some(op) }), 0..4);
    (prop::collection::vec(compare(), 0..3), ops(), ops(), request_id(exact))
        .prop_map(|(compare, then, otherwise, request_id)| api::TxnRequest { compare, then, otherwise, request_id })
}

fn increment(exact: bool) -> impl Strategy<Value = api::IncrementRequest> {
    let delta = prop_oneof![4 => -9..10_i64, 1 => Just(i64::MAX)];
    (key(), delta, request_id(exact)).prop_map(|(key, delta, request_id)| api::IncrementRequest {
        key,
        delta,
        request_id,
        ttl_ms: 0,
    })
}

fn operation(exact: bool) -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => set(exact).prop_map(Operation::Set),
        3 => delete(exact).prop_map(Operation::Delete),
        1 => delete_range(exact).prop_map(Operation::DeleteRange),
        6 => get(exact).prop_map(Operation::Get),
        3 => increment(exact).prop_map(Operation::Increment),
        3 => txn(exact).prop_map(Operation::Txn),
        1 => key().prop_map(|prefix| Operation::Count(api::CountRequest { prefix, ..Default::default() })),
        1 => (1..4_u64).prop_map(|lease_id| {
            Operation::RevokeLease(api::RevokeLeaseRequest { lease_id, request_id: None })
        }),
    ]
}

/// Has no order with those around it in a stream, which it may concern.
fn apart() -> impl Strategy<Value = Operation> {
    let ttl_ms = prop_oneof![5 => Just(1_000_000_u64), 1 => Just(5)];
    prop_oneof![
        2 => (0..4_u64, ttl_ms).prop_map(|(lease_id, ttl_ms)| {
            Operation::GrantLease(api::GrantLeaseRequest { ttl_ms, lease_id, request_id: None })
        }),
        1 => (0..4_u64).prop_map(|lease_id| {
            Operation::GetLease(api::GetLeaseRequest { lease_id, keys: true })
        }),
        1 => Just(Operation::OpenSession(api::OpenSessionRequest {})),
    ]
}

/// Runs messages of operations through a stream and one by one, and compares.
async fn compare_ways(messages: Vec<Vec<Operation>>, exact: bool) {
    let (by_call, by_stream) = (Running::start(Setup::default()).await, Running::start(Setup::default()).await);
    let mut kv = by_call.kv().await;
    let mut stream = Stream::open(&mut by_stream.kv().await).await;
    let seen = |outcome: Outcome| if exact { outcome } else { outcome.without_revisions() };
    for message in messages {
        let streamed = stream.run(message.iter().cloned().map(of)).await;
        for (operation, told) in message.into_iter().zip(streamed) {
            let called = Outcome::of_call(call(&mut kv, operation.clone()).await);
            assert_eq!(seen(Outcome::of_stream(told)), seen(called), "{operation:?}");
        }
    }
    let stats = |server: &Running| {
        let stats = server.node.store().stats();
        (stats.revision, stats.keys, stats.sessions)
    };
    assert_eq!(stats(&by_call), stats(&by_stream));
    let (called, streamed) = (all(&by_call).await, all(&by_stream).await);
    assert!(called.into_iter().map(&seen).eq(streamed.into_iter().map(&seen)));
}

/// Every pair of a node.
async fn all(server: &Running) -> Vec<Outcome> {
    let pairs = server.kv().await.list(api::ListRequest::default()).await.expect("list").into_inner();
    let pairs: Vec<api::GetResponse> = pairs.try_collect().await.expect("pairs");
    pairs.into_iter().map(|pair| Outcome::of_stream(Told::Get(pair))).collect()
}

fn run(messages: Vec<Vec<Operation>>, exact: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(compare_ways(messages, exact));
}

proptest! {
    // Each starts two nodes on real disks.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Down to revisions and errors.
    #[test]
    fn one_by_one_they_agree_on_everything(
        operations in prop::collection::vec(prop_oneof![6 => operation(true), 1 => apart()], 1..120),
    ) {
        run(operations.into_iter().map(|operation| vec![operation]).collect(), true);
    }

    /// Many at a time: on everything that does not depend on the order of operations on different keys.
    #[test]
    fn many_at_a_time_they_agree_on_each_key(
        messages in prop::collection::vec(
            prop_oneof![
                3 => prop::collection::vec(operation(false), 1..60),
                1 => apart().prop_map(|operation| vec![operation]),
            ],
            1..12,
        ),
    ) {
        run(messages, false);
    }
}
