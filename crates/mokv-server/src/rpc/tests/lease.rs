//! Leases and times to live, as clients see them.

use std::time::Duration;

use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{
    self, GetLeaseRequest, GrantLeaseRequest, KeepLeaseAliveRequest, ListLeasesRequest, RevokeLeaseRequest,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use super::{Running, Setup, assert_invalid, get, reason, set};

async fn grant(kv: &mut KvClient<Channel>, lease_id: u64, ttl: Duration) -> u64 {
    let request = GrantLeaseRequest { ttl_ms: ttl.as_millis() as u64, lease_id, request_id: None };
    let granted = kv.grant_lease(request).await.expect("grant").into_inner();
    assert_eq!(granted.ttl_ms, ttl.as_millis() as u64);
    granted.lease_id
}

fn of_lease(lease_id: u64) -> GetLeaseRequest {
    GetLeaseRequest { lease_id, keys: true }
}

/// Waits until a key is gone, and says for how long.
async fn gone(kv: &mut KvClient<Channel>, key: &str) -> Duration {
    let began = Instant::now();
    loop {
        match kv.get(get(key)).await {
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(20), "{key} stays"),
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status}");
                return began.elapsed();
            }
        }
    }
}

#[tokio::test]
async fn keys_end_with_their_lease() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let minute = Duration::from_secs(60);
    let (chosen, other) = (grant(&mut kv, 7, minute).await, grant(&mut kv, 0, minute).await);
    assert_eq!(chosen, 7);
    assert_ne!(other, 0);
    let taken = GrantLeaseRequest { ttl_ms: 60_000, lease_id: 7, request_id: None };
    assert!(
        matches!(reason(kv.grant_lease(taken).await), (Code::AlreadyExists, reason, _) if reason == "LEASE_EXISTS")
    );
    let mut ids = kv.list_leases(ListLeasesRequest {}).await.expect("list").into_inner().lease_ids;
    ids.sort_unstable();
    assert_eq!(ids, if other < 7 { [other, 7] } else { [7, other] });

    for key in ["b", "a"] {
        kv.set(api::SetRequest { lease_id: 7, ..set(key, "v") }).await.expect("set");
    }
    kv.set(set("stays", "v")).await.expect("set");
    let found = kv.get(get("a")).await.expect("get").into_inner();
    assert_eq!((found.lease_id, found.ttl_ms), (7, 0));
    let lease = kv.get_lease(of_lease(7)).await.expect("lease").into_inner();
    assert_eq!((lease.ttl_ms, &lease.keys[..]), (60_000, &["a".to_owned(), "b".to_owned()][..]));
    assert!((1..=60_000).contains(&lease.remaining_ms), "{}", lease.remaining_ms);
    let without = GetLeaseRequest { keys: false, ..of_lease(7) };
    assert!(kv.get_lease(without).await.expect("lease").into_inner().keys.is_empty());

    let revoked = kv.revoke_lease(RevokeLeaseRequest { lease_id: 7, request_id: None }).await.expect("revoke");
    assert_eq!(revoked.into_inner(), api::RevokeLeaseResponse { revision: 4, deleted: 2 });
    assert_eq!(server.node.store().stats().keys, 1);
    for gone in [
        reason(kv.get_lease(of_lease(7)).await),
        reason(kv.revoke_lease(RevokeLeaseRequest { lease_id: 7, request_id: None }).await),
        reason(kv.set(api::SetRequest { lease_id: 7, ..set("a", "v") }).await),
    ] {
        assert_eq!((gone.0, gone.1.as_str()), (Code::NotFound, "LEASE_NOT_FOUND"));
    }
}

#[tokio::test]
async fn what_no_lease_can_be_is_refused() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let of = |ttl_ms| GrantLeaseRequest { ttl_ms, lease_id: 0, request_id: None };
    assert_invalid(kv.grant_lease(of(999)).await, "ttl_ms");
    assert_invalid(kv.get_lease(of_lease(0)).await, "lease_id");
    assert_invalid(kv.revoke_lease(RevokeLeaseRequest::default()).await, "lease_id");
    let both = api::SetRequest { lease_id: 1, ttl_ms: 5, ..set("k", "v") };
    assert_invalid(kv.set(both).await, "ttl_ms");
}

#[tokio::test]
async fn a_lease_lives_while_it_is_kept_alive() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let ttl = Duration::from_secs(1);
    let lease_id = grant(&mut kv, 0, ttl).await;
    kv.set(api::SetRequest { lease_id, ..set("k", "v") }).await.expect("set");

    let (requests, sent) = mpsc::channel(16);
    let mut answers = kv.keep_lease_alive(ReceiverStream::new(sent)).await.expect("open").into_inner();
    let began = Instant::now();
    while began.elapsed() < ttl * 3 {
        for lease_id in [lease_id, lease_id + 1] {
            requests.send(KeepLeaseAliveRequest { lease_id }).await.expect("open");
        }
        for (lease_id, ttl_ms) in [(lease_id, 1000), (lease_id + 1, 0)] {
            let answer = answers.message().await.expect("answer").expect("one each, in order");
            assert_eq!(answer, api::KeepLeaseAliveResponse { lease_id, ttl_ms });
        }
        kv.get(get("k")).await.expect("it is there");
    }
    let left = gone(&mut kv, "k").await;
    assert!(left < ttl * 3, "{left:?}");
    requests.send(KeepLeaseAliveRequest { lease_id }).await.expect("open");
    assert_eq!(answers.message().await.expect("answer").expect("one").ttl_ms, 0, "it is over");
    requests.send(KeepLeaseAliveRequest { lease_id: 0 }).await.expect("open");
    assert_invalid(answers.message().await, "lease_id");
}

#[tokio::test]
async fn a_stream_of_keep_alives_ends_with_the_server() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let (requests, sent) = mpsc::channel(16);
    let mut answers = kv.keep_lease_alive(ReceiverStream::new(sent)).await.expect("open").into_inner();
    requests.send(KeepLeaseAliveRequest { lease_id: 7 }).await.expect("open");
    assert_eq!(answers.message().await.expect("answer").expect("one").ttl_ms, 0);
    server.stop.send(()).expect("running");
    let (code, reason, _) = reason(answers.message().await);
    assert_eq!((code, reason.as_str()), (Code::Unavailable, "UNAVAILABLE"));
    server.served.await.expect("task").expect("nothing is left to wait for");
}

#[tokio::test]
async fn a_key_lives_as_long_as_it_was_told_to() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let began = Instant::now();
    let ttl = Duration::from_millis(500);
    kv.set(api::SetRequest { ttl_ms: 500, ..set("k", "v") }).await.expect("set");
    let left = kv.get(get("k")).await.expect("get").into_inner().ttl_ms;
    assert!((1..=500).contains(&left), "{left}");
    // Whatever else is written, and whoever reads.
    kv.set(api::SetRequest { keep_ttl: true, ..set("k", "w") }).await.expect("set");
    gone(&mut kv, "k").await;
    assert!(began.elapsed() >= ttl, "{:?}", began.elapsed());

    kv.set(api::SetRequest { ttl_ms: 500, ..set("k", "v") }).await.expect("set");
    kv.set(set("k", "w")).await.expect("set");
    assert_eq!(kv.get(get("k")).await.expect("get").into_inner().ttl_ms, 0, "a set without one takes it away");
    let touch = api::SetRequest { keep_value: true, ttl_ms: 60_000, ..set("k", "") };
    assert!(kv.set(touch.clone()).await.expect("set").into_inner().ok);
    let found = kv.get(get("k")).await.expect("get").into_inner();
    assert_eq!(found.value, "w");
    assert!(found.ttl_ms > 50_000, "{}", found.ttl_ms);
    let missing = api::SetRequest { key: "none".into(), ..touch };
    assert!(!kv.set(missing).await.expect("set").into_inner().ok);
}
