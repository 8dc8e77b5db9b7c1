//! Reads, writes, and what is refused.

use std::time::Duration;

use mokv_proto::api::{self, Consistency, RequestId};
use mokv_proto::cluster::StatusRequest;
use mokv_proto::cluster::cluster_client::ClusterClient;
use prost::Message;
use tokio::time::Instant;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::{Running, Setup, assert_invalid, delete, get, reason, set};

#[tokio::test]
async fn a_pair_is_set_read_and_deleted() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;

    let created = kv.set(set("k", "v1")).await.expect("set").into_inner();
    assert_eq!(
        created,
        api::SetResponse { ok: true, revision: 1, create_revision: 1, version: 1, mod_revision: 1, previous: None }
    );
    kv.set(set("other", "")).await.expect("an empty value is a value");
    let changed = kv.set(set("k", "v2")).await.expect("set").into_inner();
    assert_eq!(
        changed,
        api::SetResponse { ok: true, revision: 3, create_revision: 1, version: 2, mod_revision: 3, previous: None }
    );

    let found = kv.get(get("k")).await.expect("get").into_inner();
    let expected = api::GetResponse {
        key: "k".into(),
        value: "v2".into(),
        revision: 3,
        create_revision: 1,
        mod_revision: 3,
        version: 2,
        ..Default::default()
    };
    assert_eq!(found, expected);

    let deleted = kv.delete(delete("k")).await.expect("delete").into_inner();
    assert_eq!(deleted, api::DeleteResponse { ok: true, existed: true, revision: 4, ..Default::default() });
    let again = kv.delete(delete("k")).await.expect("deleting nothing succeeds").into_inner();
    assert_eq!(again, api::DeleteResponse { ok: true, existed: false, revision: 4, ..Default::default() });

    let missing = kv.get(get("k")).await;
    assert_eq!(missing.as_ref().expect_err("gone").message(), "no value for key: k");
    assert!(matches!(reason(missing), (Code::NotFound, reason, _) if reason == "NOT_FOUND"));
}

#[tokio::test]
async fn keys_and_values_have_their_limits() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let (longest, too_long) = ("k".repeat(16), "k".repeat(17));

    kv.set(set(&longest, vec![0; 1 << 20])).await.expect("the largest pair there may be");
    assert_eq!(kv.get(get(&longest)).await.expect("get").into_inner().value.len(), 1 << 20);
    for key in ["", &too_long] {
        assert_invalid(kv.get(get(key)).await, "key");
        assert_invalid(kv.set(set(key, "v")).await, "key");
        assert_invalid(kv.delete(delete(key)).await, "key");
    }
    assert_invalid(kv.set(set("k", vec![0; (1 << 20) + 1])).await, "value");

    let (code, reason, _) = reason(kv.set(set("k", vec![0; 2 << 20])).await);
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
    assert_eq!(server.node.store().stats().revision, 1, "what is refused has no effect");
}

#[tokio::test]
async fn a_key_that_is_no_text_is_refused() {
    #[derive(Clone, PartialEq, Message)]
    struct RawGet {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
    }
    let server = Running::start(Setup::default()).await;
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.expect("ready");
    let codec = ProstCodec::<RawGet, api::GetResponse>::default();
    let path = PathAndQuery::from_static("/api.KV/Get");
    let (code, reason, _) = reason(grpc.unary(Request::new(RawGet { key: vec![0xff] }), path, codec).await);
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID"));
}

#[tokio::test]
async fn a_read_is_as_fresh_as_asked() {
    let mut setup = Setup::default();
    setup.limits.request_timeout = Duration::from_millis(50);
    let server = Running::start(setup).await;
    server.fill([("k", "v1")]).await;
    let mut kv = server.kv().await;

    for consistency in [Consistency::Linearizable, Consistency::Local] {
        let fresh =
            api::GetRequest { key: "k".into(), consistency: consistency.into(), min_revision: 1, ..Default::default() };
        assert_eq!(kv.get(fresh.clone()).await.expect("get").into_inner().revision, 1);
        let (code, reason, details) = reason(kv.get(api::GetRequest { min_revision: 2, ..fresh }).await);
        assert_eq!((code, reason.as_str()), (Code::Unavailable, "REVISION_NOT_REACHED"));
        assert!(details.retry_info().is_some());
        assert_eq!(details.error_info().expect("info").metadata["reached"], "1");
    }
    assert_invalid(kv.get(api::GetRequest { consistency: 7, ..get("k") }).await, "consistency");
}

#[tokio::test]
async fn without_a_leader_only_local_reads_are_answered() {
    let server = Running::start(Setup::leaderless()).await;
    let mut kv = server.kv().await;

    for result in [kv.get(get("k")).await.map(drop), kv.set(set("k", "v")).await.map(drop)] {
        let (code, reason, details) = reason(result);
        assert_eq!((code, reason.as_str()), (Code::Unavailable, "NO_LEADER"));
        assert!(details.retry_info().is_some());
    }
    let local = api::GetRequest { consistency: Consistency::Local.into(), ..get("k") };
    assert!(matches!(reason(kv.get(local).await), (Code::NotFound, _, _)));
    let status = ClusterClient::new(server.channel().await).status(StatusRequest {}).await.expect("status");
    assert_eq!((status.get_ref().leader_id, status.get_ref().ready), (0, false));
}

#[tokio::test]
async fn an_answer_comes_before_the_callers_deadline() {
    let mut setup = Setup::leaderless();
    setup.limits.request_timeout = Duration::from_secs(60);
    let server = Running::start(setup).await;
    let mut kv = server.kv().await;

    let timeout = Duration::from_secs(2);
    let mut request = Request::new(get("k"));
    request.set_timeout(timeout);
    let began = Instant::now();
    // Had the client given up by itself, there would be no reason.
    let (code, reason, _) = reason(kv.get(request).await);
    assert_eq!((code, reason.as_str()), (Code::Unavailable, "NO_LEADER"));
    assert!(began.elapsed() < timeout, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_repeated_write_takes_effect_once() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let client_id = kv.open_session(api::OpenSessionRequest {}).await.expect("open").into_inner().client_id;
    assert_ne!(client_id, 0);

    let request_id = Some(RequestId { client_id, sequence: 1, first_unanswered: 1 });
    let write = api::SetRequest { request_id, ..set("k", "v") };
    let first = kv.set(write.clone()).await.expect("set").into_inner();
    let repeated = kv.set(write).await.expect("set").into_inner();
    assert_eq!(first, repeated);
    assert_eq!(server.node.store().stats().revision, first.revision);

    let other = api::DeleteRequest { request_id, ..delete("k") };
    assert_invalid(kv.delete(other).await, "request_id.sequence");
    assert_eq!(server.node.store().stats().keys, 1);

    let unknown = RequestId { client_id: client_id + 1, sequence: 1, first_unanswered: 1 };
    let (code, reason, _) = reason(kv.set(api::SetRequest { request_id: Some(unknown), ..set("k", "v") }).await);
    assert_eq!((code, reason.as_str()), (Code::Aborted, "SESSION_EXPIRED"));
}

#[tokio::test]
async fn a_request_id_makes_sense_or_is_refused() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    for ((client_id, sequence, first_unanswered), field) in [
        ((0, 1, 1), "request_id.client_id"),
        ((1, 0, 0), "request_id.sequence"),
        ((1, 1, 0), "request_id.first_unanswered"),
        ((1, 1, 2), "request_id.first_unanswered"),
    ] {
        let request_id = Some(RequestId { client_id, sequence, first_unanswered });
        assert_invalid(kv.set(api::SetRequest { request_id, ..set("k", "v") }).await, field);
        assert_invalid(kv.delete(api::DeleteRequest { request_id, ..delete("k") }).await, field);
    }
}

#[tokio::test]
async fn a_full_store_still_deletes() {
    let server = Running::start(Setup { memory_quota: Some(1), ..Setup::default() }).await;
    let mut kv = server.kv().await;
    kv.set(set("k", "v")).await.expect("the store was empty");

    let (code, reason, details) = reason(kv.set(set("l", "v")).await);
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));
    assert_eq!(details.quota_failure().expect("QuotaFailure").violations[0].subject, "memory");
    kv.delete(delete("k")).await.expect("deletes always work");
}

#[tokio::test]
async fn values_are_never_in_messages() {
    let server = Running::start(Setup { memory_quota: Some(1), ..Setup::default() }).await;
    let mut kv = server.kv().await;
    kv.set(set("k", "v")).await.expect("the store was empty");
    for request in [set("k", "secret"), set("", "secret"), set("k", "secret".repeat(1 << 18))] {
        let status = kv.set(request).await.expect_err("refused");
        assert!(!format!("{status:?}").contains("secret"), "{status:?}");
    }
}

#[tokio::test]
async fn servers_are_the_members() {
    let server = Running::start(Setup::default()).await;
    let servers = server.kv().await.get_servers(()).await.expect("servers").into_inner().servers;
    let member = &server.node.members()[0];
    let expected = api::Server {
        id: member.name.clone(),
        rpc_addr: member.rpc_addr.clone(),
        is_leader: true,
        node_id: member.node_id,
        is_voter: true,
    };
    assert_eq!(servers, [expected]);
}
