//! A cluster in one process, and the conditions that tests wait for.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{
    Consistency, DeleteRequest, GetRequest, GetResponse, ListRequest, RequestId, SetRequest, SetResponse,
};
use mokv_proto::cluster::cluster_client::ClusterClient;
use mokv_proto::cluster::{AddMemberRequest, StatusRequest, StatusResponse};
use mokv_server::disk::OsDisk;
use mokv_server::formation::core::Mode;
use mokv_server::node::{Limits, NodeOptions, Seams};
use mokv_server::raft::RaftOptions;
use mokv_server::raft::log::LogOptions;
use mokv_server::raft::network::NetworkOptions;
use mokv_server::rpc::peer::GrpcNetwork;
use mokv_server::runtime::Tasks;
use mokv_server::server::{Listeners, RunError, Serving};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster whose nodes can be stopped and started again.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<TestNode>,
    options: fn(&mut NodeOptions),
    dir: TempDir,
}

/// One node: its directory and its addresses outlive its runs.
pub(crate) struct TestNode {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    metrics: SocketAddr,
    pub(crate) data_dir: PathBuf,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), RunError>>,
}

impl Cluster {
    /// Starts `count` nodes and makes them one cluster.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    /// As [`Cluster::start`], with options changed.
    pub(crate) async fn start_with(count: usize, options: fn(&mut NodeOptions)) -> Self {
        let mut cluster = Self { nodes: Vec::new(), options, dir: TempDir::new().expect("directory") };
        for _ in 0..count {
            cluster.add_node().await;
        }
        for index in 1..count {
            cluster.join(index, false).await;
        }
        cluster.wait_until_serving().await;
        cluster
    }

    /// Starts one more node, which is in no cluster yet unless it is the first.
    pub(crate) async fn add_node(&mut self) -> usize {
        let index = self.nodes.len();
        let name = format!("node-{index}");
        let data_dir = self.dir.path().join(&name);
        let (addr, metrics) = (free_addr(), free_addr());
        self.nodes.push(TestNode { name, addr, metrics, data_dir, running: None });
        self.start_node(index).await;
        index
    }

    /// Starts a node that is not running.
    pub(crate) async fn start_node(&mut self, index: usize) {
        let change = self.options;
        let node = &mut self.nodes[index];
        assert!(node.running.is_none(), "{} runs already", node.name);
        let mut options = options(&node.name, node.data_dir.clone(), node.addr);
        options.mode = if index == 0 { Mode::Alone } else { Mode::Join };
        change(&mut options);
        let tasks = Tasks::from_os().expect("seed");
        let seams = Seams {
            tasks: tasks.clone(),
            disk: Arc::new(OsDisk),
            peers: Arc::new(GrpcNetwork::default()),
            surroundings: None,
        };
        let listeners = Listeners {
            rpc: TcpListener::bind(node.addr).await.expect("rpc port"),
            metrics: TcpListener::bind(node.metrics).await.expect("metrics port"),
        };
        let serving = Serving { options, gossip: None, listeners, grace: Duration::from_secs(10) };
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            let shutdown = async { drop(stopped.await) };
            let ended = tasks.scope(serving.run(seams, shutdown)).await.map(drop);
            if let Err(error) = &ended {
                eprintln!("the node ended: {error}");
            }
            ended
        });
        node.running = Some(Running { stop, ended });
    }

    /// Stops a node as SIGTERM does.
    pub(crate) async fn stop_node(&mut self, index: usize) {
        let running = self.nodes[index].running.take().expect("running");
        drop(running.stop);
        running.ended.await.expect("no panic").expect("a clean stop");
    }

    /// Starts a node that can't run, and returns what it says.
    pub(crate) async fn start_refused(&mut self, index: usize) -> String {
        self.start_node(index).await;
        let running = self.nodes[index].running.take().expect("running");
        running.ended.await.expect("no panic").expect_err("refused").to_string()
    }

    /// Makes a node a member.
    pub(crate) async fn join(&self, index: usize, learner: bool) {
        let rpc_addr = self.nodes[index].addr.to_string();
        eventually("the node joins", || async {
            let request = AddMemberRequest { rpc_addr: rpc_addr.clone(), learner };
            self.nodes[0].cluster().add_member(with_timeout(request)).await
        })
        .await;
    }

    /// Waits until a linearizable read works through every running node.
    pub(crate) async fn wait_until_serving(&self) {
        for node in self.nodes.iter().filter(|node| node.running.is_some()) {
            eventually("a read works", || async {
                match node.get("none").await {
                    Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
                    other => other.map(drop),
                }
            })
            .await;
        }
    }

    /// The index of the node that leads.
    pub(crate) async fn leader(&self) -> usize {
        eventually("there is a leader", || async {
            for (index, node) in self.nodes.iter().enumerate() {
                if node.running.is_some() && node.status().await?.state == "leader" {
                    return Ok(index);
                }
            }
            Err(Status::unavailable("no node leads"))
        })
        .await
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        (0..self.nodes.len()).find(|index| *index != leader && self.nodes[*index].running.is_some()).expect("follower")
    }

    /// Waits until all running nodes have applied the same entries, and checks that their states are the same.
    pub(crate) async fn assert_equal_states(&self) {
        eventually("all have applied the same", || async {
            let mut statuses = Vec::new();
            for node in self.nodes.iter().filter(|node| node.running.is_some()) {
                statuses.push(node.status().await?);
            }
            let first = &statuses[0];
            if statuses.iter().any(|status| status.applied_index != first.applied_index) {
                return Err(Status::unavailable("not all have applied the same"));
            }
            for status in &statuses {
                assert_eq!(status.state_hash, first.state_hash, "{} and {} differ", status.name, first.name);
                assert_eq!((status.revision, status.keys), (first.revision, first.keys));
            }
            Ok(())
        })
        .await;
    }
}

impl TestNode {
    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr)).expect("address").connect_lazy()
    }

    /// A client of the public service.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel())
    }

    /// A client of the operators' service.
    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        cluster_client(self.addr)
    }

    pub(crate) async fn status(&self) -> Result<StatusResponse, Status> {
        Ok(self.cluster().status(with_timeout(StatusRequest {})).await?.into_inner())
    }

    pub(crate) async fn set(&self, key: &str, value: &str) -> Result<SetResponse, Status> {
        self.set_once(key, value, None).await
    }

    pub(crate) async fn set_once(&self, key: &str, value: &str, id: Option<RequestId>) -> Result<SetResponse, Status> {
        let request =
            SetRequest { key: key.into(), value: value.to_owned().into(), request_id: id, ..Default::default() };
        Ok(self.kv().set(with_timeout(request)).await?.into_inner())
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<bool, Status> {
        let request = DeleteRequest { key: key.into(), request_id: None, ..Default::default() };
        Ok(self.kv().delete(with_timeout(request)).await?.into_inner().existed)
    }

    pub(crate) async fn get(&self, key: &str) -> Result<GetResponse, Status> {
        self.get_at(key, Consistency::Linearizable, 0).await
    }

    pub(crate) async fn get_at(
        &self,
        key: &str,
        consistency: Consistency,
        min_revision: u64,
    ) -> Result<GetResponse, Status> {
        let request =
            GetRequest { key: key.into(), consistency: consistency.into(), min_revision, ..Default::default() };
        Ok(self.kv().get(with_timeout(request)).await?.into_inner())
    }

    /// All pairs of a range, in the order in which they came.
    pub(crate) async fn list(&self, request: ListRequest) -> Result<Vec<GetResponse>, Status> {
        let mut stream = self.kv().list(with_timeout(request)).await?.into_inner();
        let mut pairs = Vec::new();
        while let Some(pair) = stream.message().await? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// The options of a node of a test.
pub(crate) fn options(name: &str, data_dir: PathBuf, addr: SocketAddr) -> NodeOptions {
    NodeOptions {
        data_dir,
        name: name.to_owned(),
        rpc_addr: addr.to_string(),
        mode: Mode::Join,
        raft: RaftOptions {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(1000),
            network: NetworkOptions {
                append_timeout: Duration::from_secs(2),
                snapshot_idle_timeout: Duration::from_secs(30),
            },
        },
        log: LogOptions::default(),
        limits: Limits::default(),
        memory_quota: None,
        snapshot_log_bytes: 64 << 20,
        history_bytes: 64 << 20,
        lease_reads: false,
    }
}

/// A client of the operators' service of the node at this address.
pub(crate) fn cluster_client(addr: SocketAddr) -> ClusterClient<Channel> {
    ClusterClient::new(Endpoint::from_shared(format!("http://{addr}")).expect("address").connect_lazy())
}

/// An address that nobody uses, below those that the operating system gives to outgoing connections.
pub(crate) fn free_addr() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + u16::try_from(std::process::id() % 200).unwrap_or(0) * 100;
    loop {
        let addr = SocketAddr::from(([127, 0, 0, 1], base + NEXT.fetch_add(1, Ordering::Relaxed) % 1000));
        if std::net::TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

fn with_timeout<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(10));
    request
}

/// Repeats until it succeeds.
pub(crate) async fn eventually<T, F>(what: &str, attempt: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, Status>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(status) if Instant::now() > deadline => panic!("not in {PATIENCE:?}: {what}: {status:?}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
