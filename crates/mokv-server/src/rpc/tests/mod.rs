//! The services over the wire: a real client on a loopback connection.

mod agreement;
mod cluster;
mod http;
mod kv;
mod lease;
mod list;
mod pipeline;
mod server;
mod txn;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mokv_proto::api;
use mokv_proto::api::kv_client::KvClient;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::peer::GrpcNetwork;
use super::{DOMAIN, Server, Service};
use crate::disk::OsDisk;
use crate::formation::core::Mode;
use crate::node::{Limits, Node, NodeOptions, Readiness, Seams};
use crate::raft::RaftOptions;
use crate::raft::log::LogOptions;
use crate::raft::network::NetworkOptions;
use crate::runtime::Tasks;

/// What a test needs its node to be.
struct Setup {
    /// Whether the node forms a cluster of its own; otherwise it has no leader.
    leads: bool,
    limits: Limits,
    memory_quota: Option<u64>,
    history_bytes: u64,
}

impl Default for Setup {
    fn default() -> Self {
        let limits = Limits {
            key_bytes_max: 16,
            value_bytes_max: 1 << 20,
            request_bytes_max: 2 << 20,
            request_timeout: Duration::from_secs(10),
        };
        Self { leads: true, limits, memory_quota: None, history_bytes: 64 << 20 }
    }
}

impl Setup {
    /// A node without a leader, which gives up soon.
    fn leaderless() -> Self {
        let mut setup = Self { leads: false, ..Self::default() };
        setup.limits.request_timeout = Duration::from_millis(50);
        setup
    }

    /// A node of its own, on a disk of its own, and ready if it leads.
    async fn node(self) -> (Node, TempDir) {
        let dir = TempDir::new().expect("directory");
        let options = NodeOptions {
            data_dir: dir.path().join("data"),
            name: "node-0".into(),
            rpc_addr: "127.0.0.1:8400".into(),
            mode: if self.leads { Mode::Alone } else { Mode::Join },
            raft: RaftOptions {
                heartbeat_interval: Duration::from_millis(50),
                election_timeout_min: Duration::from_millis(150),
                election_timeout_max: Duration::from_millis(300),
                network: NetworkOptions {
                    append_timeout: Duration::from_secs(1),
                    snapshot_idle_timeout: Duration::from_secs(1),
                },
            },
            log: LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() },
            limits: self.limits,
            memory_quota: self.memory_quota,
            snapshot_log_bytes: 64 << 20,
            history_bytes: self.history_bytes,
            lease_reads: false,
        };
        let tasks = Tasks::from_os().expect("seed");
        let seams = Seams {
            tasks: tasks.clone(),
            disk: Arc::new(OsDisk),
            peers: Arc::new(GrpcNetwork::default()),
            surroundings: None,
        };
        let node = tasks.scope(Node::start(seams, options)).await.expect("start");
        if self.leads {
            let ready = |readiness: &Readiness| *readiness == Readiness::Ready;
            node.readiness().wait_for(ready).await.expect("ready");
        }
        (node, dir)
    }
}

/// A running gRPC server over a node.
struct Running {
    node: Node,
    address: SocketAddr,
    metrics: Arc<crate::metrics::GrpcMetrics>,
    health: super::Health,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
    _dir: TempDir,
}

impl Running {
    async fn start(setup: Setup) -> Self {
        let (node, dir) = setup.node().await;
        Self::serve(node.clone(), dir, Server::new(node)).await
    }

    async fn start_with(setup: Setup, service: impl Service) -> Self {
        let (node, dir) = setup.node().await;
        Self::serve(node.clone(), dir, Server::new(node).with(service)).await
    }

    async fn serve(node: Node, dir: TempDir, server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel();
        let (metrics, health) = (server.metrics(), server.health());
        let served = node.tasks().spawn(server.serve(listener, async { drop(stopped.await) }));
        Self { node, address, metrics, health, stop, served, _dir: dir }
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).expect("uri").connect().await.expect("connect")
    }

    async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }

    /// Writes pairs, in this order: the first has revision 1.
    async fn fill<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let mut kv = self.kv().await;
        for (key, value) in pairs {
            kv.set(set(key, value.to_owned())).await.expect("set");
        }
    }
}

fn get(key: &str) -> api::GetRequest {
    api::GetRequest { key: key.into(), ..Default::default() }
}

fn set(key: &str, value: impl Into<Bytes>) -> api::SetRequest {
    api::SetRequest { key: key.into(), value: value.into(), request_id: None, ..Default::default() }
}

fn delete(key: &str) -> api::DeleteRequest {
    api::DeleteRequest { key: key.into(), request_id: None, ..Default::default() }
}

/// The code, the reason and all details of an error of ours.
#[track_caller]
fn reason<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String, ErrorDetails) {
    let status = result.expect_err("an error");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, DOMAIN);
    (status.code(), info.reason.clone(), details)
}

/// Asserts that a request was refused because of this field.
#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(result: Result<T, Status>, field: &str) {
    let (code, reason, details) = reason(result);
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID"));
    let violations = &details.bad_request().expect("BadRequest").field_violations;
    assert_eq!(violations.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), [field]);
}

/// The samples of a metrics page by name and labels, after checking its form.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').expect("a name and its help").0;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert_eq!(kind.split_once(' ').expect("a name and its kind").0, family);
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            assert!(series.starts_with(family), "{line} is not of {family}");
            let earlier = samples.insert(series.to_owned(), value.parse().expect("a number"));
            assert_eq!(earlier, None, "{series} appears twice");
        }
    }
    samples
}
