//! Three `mokv` processes on loopback that can be killed and started again.

use std::fs::File;
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{Consistency, GetRequest, ListRequest, SetRequest};
use mokv_proto::cluster::cluster_client::ClusterClient;
use mokv_proto::cluster::{AddMemberRequest, StatusRequest, StatusResponse};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Processes {
    pub(crate) nodes: Vec<Process>,
    pub(crate) dir: TempDir,
}

/// One node: its directory and its ports outlive its processes.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) addr: String,
    gossip: String,
    metrics_port: u16,
    data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Processes {
    /// Starts three processes and makes them one cluster.
    pub(crate) async fn start() -> Self {
        let dir = TempDir::new().expect("directory");
        let nodes = (0..3).map(|index| Process::new(dir.path(), index)).collect();
        let mut cluster = Self { nodes, dir };
        cluster.start_all();
        for index in 1..3 {
            let rpc_addr = cluster.nodes[index].addr.clone();
            eventually("the node joins", || async {
                let request = AddMemberRequest { rpc_addr: rpc_addr.clone(), learner: false };
                cluster.nodes[0].cluster().add_member(with_timeout(request)).await
            })
            .await;
        }
        cluster.wait_until_serving().await;
        cluster
    }

    pub(crate) fn start_all(&mut self) {
        for index in 0..3 {
            self.nodes[index].start(index == 0);
        }
    }

    /// Kills all processes before any of them can notice.
    pub(crate) fn kill_all(&mut self) {
        for node in &mut self.nodes {
            node.child.as_mut().expect("running").kill().expect("kill");
        }
        for node in &mut self.nodes {
            node.child.take().expect("running").wait().expect("wait");
        }
    }

    pub(crate) async fn wait_until_serving(&self) {
        for node in &self.nodes {
            eventually("a read works", || async {
                match node.get("none", Consistency::Linearizable).await {
                    Err(status) if status.code() == Code::NotFound => Ok(()),
                    other => other.map(drop),
                }
            })
            .await;
        }
    }

    pub(crate) async fn leader(&self) -> usize {
        eventually("there is a leader", || async {
            for (index, node) in self.nodes.iter().enumerate() {
                if node.status().await.is_ok_and(|status| status.state == "leader") {
                    return Ok(index);
                }
            }
            Err(Status::unavailable("no node leads"))
        })
        .await
    }

    /// Waits until all have applied the same entries, and checks that their states are the same.
    pub(crate) async fn assert_equal_states(&self) -> StatusResponse {
        eventually("all have applied the same", || async {
            let mut statuses = Vec::new();
            for node in &self.nodes {
                statuses.push(node.status().await?);
            }
            let first = statuses[0].clone();
            if statuses.iter().any(|status| status.applied_index != first.applied_index) {
                return Err(Status::unavailable("not all have applied the same"));
            }
            for status in &statuses {
                assert_eq!(status.state_hash, first.state_hash, "{} and {} differ", status.name, first.name);
            }
            Ok(first)
        })
        .await
    }
}

impl Process {
    fn new(dir: &Path, index: usize) -> Self {
        let name = format!("node-{index}");
        Self {
            addr: format!("127.0.0.1:{}", free_port()),
            gossip: format!("127.0.0.1:{}", free_port()),
            metrics_port: free_port(),
            data_dir: dir.join(&name),
            log: dir.join(format!("{name}.log")),
            name,
            child: None,
        }
    }

    pub(crate) fn start(&mut self, bootstrap: bool) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).expect("log");
        let (_, port) = self.addr.rsplit_once(':').expect("port");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
        command
            .args(["--node-name", &self.name, "--bind-addr", &self.gossip, "--rpc-port", port])
            .args(["--metrics-port", &self.metrics_port.to_string()])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(bootstrap.then_some("--bootstrap"))
            .env_remove("MOKV_ENDPOINTS")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("start"));
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr)).expect("address").connect_lazy()
    }

    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel())
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    pub(crate) async fn status(&self) -> Result<StatusResponse, Status> {
        Ok(self.cluster().status(with_timeout(StatusRequest {})).await?.into_inner())
    }

    pub(crate) async fn get(&self, key: &str, consistency: Consistency) -> Result<Vec<u8>, Status> {
        let request = GetRequest { key: key.into(), consistency: consistency.into(), min_revision: 0 };
        Ok(self.kv().get(with_timeout(request)).await?.into_inner().value.to_vec())
    }

    /// All keys that this node has.
    pub(crate) async fn local_keys(&self) -> Result<Vec<String>, Status> {
        let request = ListRequest { consistency: Consistency::Local.into(), keys_only: true, ..ListRequest::default() };
        let mut stream = self.kv().list(request).await?.into_inner();
        let mut keys = Vec::new();
        while let Some(pair) = stream.message().await? {
            keys.push(pair.key);
        }
        Ok(keys)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- {} said last:", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A port that nobody uses, below those that the operating system gives to outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + u16::try_from(std::process::id() % 200).unwrap_or(0) * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn set_request(key: &str, value: &str) -> Request<SetRequest> {
    with_timeout(SetRequest { key: key.into(), value: value.to_owned().into(), request_id: None })
}

pub(crate) fn with_timeout<T>(message: T) -> Request<T> {
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
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
