//! The metrics port.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::http::serve;
use super::{Running, Setup, get, samples};
use crate::runtime::WallClock;

struct Pages {
    grpc: Running,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Pages {
    async fn start(setup: Setup) -> Self {
        let grpc = Running::start(setup).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel();
        let clock = WallClock::Fixed(Duration::from_secs(1_700_000_000));
        let shutdown = async { drop(stopped.await) };
        let served = serve(listener, grpc.node.clone(), grpc.metrics.clone(), clock, shutdown);
        let served = grpc.node.tasks().spawn(served);
        Self { grpc, address, stop, served }
    }

    /// The status, the headers and the body of an answer.
    async fn ask(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut connection = TcpStream::connect(self.address).await.expect("connect");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        let status = head.split_whitespace().nth(1).expect("status").parse().expect("number");
        (status, head.to_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn metrics_have_what_dashboards_ask_for() {
    let pages = Pages::start(Setup { memory_quota: Some(1000), ..Setup::default() }).await;
    pages.grpc.fill([("a", "1"), ("b", "2")]).await;
    pages.grpc.kv().await.get(get("a")).await.expect("get");

    let (status, head, body) = pages.ask("GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let samples = samples(&body);
    let get = r#"{grpc_type="unary",grpc_service="api.KV",grpc_method="Get"}"#;
    for (series, value) in [
        (format!("mokv_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
        ("mokv_ready".into(), 1.0),
        ("mokv_raft_has_leader".into(), 1.0),
        ("mokv_raft_is_leader".into(), 1.0),
        ("mokv_raft_leader_changes_total".into(), 1.0),
        ("mokv_raft_voters".into(), 1.0),
        (format!("mokv_raft_replication_lag_entries{{peer=\"{}\"}}", pages.grpc.node.members()[0].name), 0.0),
        ("mokv_raft_proposals_pending".into(), 0.0),
        ("mokv_raft_proposals_failed_total".into(), 0.0),
        ("mokv_snapshot_write_seconds_count".into(), 0.0),
        ("mokv_log_disk_full".into(), 0.0),
        ("mokv_store_keys".into(), 2.0),
        ("mokv_store_revision".into(), 2.0),
        ("mokv_store_memory_quota_bytes".into(), 1000.0),
        ("mokv_store_pins".into(), 0.0),
        ("mokv_store_sessions".into(), 0.0),
        (format!("grpc_server_started_total{get}"), 1.0),
        (format!("grpc_server_handling_seconds_count{get}"), 1.0),
        ("process_start_time_seconds".into(), 1_700_000_000.0),
    ] {
        assert_eq!(samples.get(&series), Some(&value), "{series}");
    }
    for series in [
        "mokv_raft_term",
        "mokv_raft_committed_index",
        "mokv_raft_applied_index",
        "mokv_store_memory_bytes",
        "mokv_log_fsync_seconds_count",
        "mokv_log_oldest_entry_age_seconds",
        "mokv_raft_proposals_total",
        "mokv_snapshot_index",
        #[cfg(target_os = "linux")]
        "process_resident_memory_bytes",
    ] {
        assert!(samples.contains_key(series), "{series}");
    }
    for series in ["mokv_raft_commit_seconds_count", "mokv_store_apply_seconds_count"] {
        assert!(samples[series] >= 2.0, "{series}");
    }
}

#[tokio::test]
async fn probes_tell_liveness_from_readiness() {
    let pages = Pages::start(Setup::default()).await;
    assert_eq!(pages.ask("GET", "/livez").await.0, 200);
    assert_eq!(pages.ask("GET", "/readyz").await.0, 200);

    pages.grpc.node.hand_over(Duration::from_secs(1)).await;
    assert_eq!(pages.ask("GET", "/livez").await.0, 200);
    let (status, _, body) = pages.ask("GET", "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "the node is stopping\n"));
}

#[tokio::test]
async fn other_questions_are_answered_in_kind() {
    let pages = Pages::start(Setup::default()).await;
    assert!(pages.ask("GET", "/").await.2.contains("/metrics"));
    assert_eq!(pages.ask("GET", "/nonsense").await.0, 404);
    let (status, head, _) = pages.ask("POST", "/metrics").await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let (status, _, body) = pages.ask("HEAD", "/metrics").await;
    assert_eq!((status, body.as_str()), (200, ""));
}

#[tokio::test]
async fn idle_connections_end_when_the_server_stops() {
    let pages = Pages::start(Setup::default()).await;
    let mut idle = TcpStream::connect(pages.address).await.expect("connect");
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n").await.expect("write");
    let mut first = [0; 16];
    idle.read_exact(&mut first).await.expect("an answer");
    pages.stop.send(()).expect("running");
    pages.served.await.expect("served");
    // Not only when it has been idle for too long.
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(5), idle.read_to_end(&mut rest)).await;
    ended.expect("at once").expect("an orderly end");
}
