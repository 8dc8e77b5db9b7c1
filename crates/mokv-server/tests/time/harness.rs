//! A cluster on a paused clock.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mokv_server::command::{self, Command, Outcome, OutcomeResult};
use mokv_server::disk::sim::SimDisk;
use mokv_server::error::RequestError;
use mokv_server::formation::core::Mode;
use mokv_server::node::{Consistency, Freshness, Limits, Node, NodeOptions, Seams};
use mokv_server::peer_service::PeerService;
use mokv_server::raft::log::LogOptions;
use mokv_server::raft::network::NetworkOptions;
use mokv_server::raft::{RaftOptions, Role};
use mokv_server::runtime::{DiskTasks, Tasks};
use tokio::time::{Instant, sleep};

use crate::network::Network;

pub(crate) const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(1200);

/// Longer than any wait of these tests; on this clock it costs nothing.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<TestNode>,
    pub(crate) network: Network,
    lease_reads: bool,
    starts: u64,
}

pub(crate) struct TestNode {
    pub(crate) addr: String,
    disk: SimDisk,
    running: Option<Node>,
}

/// Runs a test on a paused clock, in one thread.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().expect("runtime").block_on(test);
}

impl Cluster {
    /// Starts so many nodes and makes them one cluster.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, false).await
    }

    /// As [`Cluster::start`], perhaps with lease reads.
    pub(crate) async fn start_with(count: usize, lease_reads: bool) -> Self {
        let mut cluster = Self { nodes: Vec::new(), network: Network::default(), lease_reads, starts: 0 };
        for index in 0..count {
            let addr = format!("node-{index}:8400");
            cluster.nodes.push(TestNode { addr, disk: SimDisk::default(), running: None });
            cluster.start_node(index).await;
        }
        for index in 1..count {
            let addr = cluster.nodes[index].addr.clone();
            eventually("a node joins", || async {
                let deadline = Instant::now() + Duration::from_secs(5);
                cluster
                    .node(0)
                    .add_member(addr.clone(), false, deadline)
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            })
            .await;
        }
        cluster
    }

    /// Starts a node that is not running.
    pub(crate) async fn start_node(&mut self, index: usize) {
        self.starts += 1;
        let node = &mut self.nodes[index];
        let tasks = Tasks::new(self.starts, DiskTasks::Inline);
        let seams = Seams {
            tasks: tasks.clone(),
            disk: Arc::new(node.disk.clone()),
            peers: self.network.of_node(&node.addr),
            surroundings: None,
        };
        let options = NodeOptions {
            data_dir: "/data".into(),
            name: format!("node-{index}"),
            rpc_addr: node.addr.clone(),
            mode: if index == 0 { Mode::Alone } else { Mode::Join },
            raft: RaftOptions {
                heartbeat_interval: Duration::from_millis(150),
                election_timeout_min: Duration::from_millis(600),
                election_timeout_max: ELECTION_TIMEOUT_MAX,
                network: NetworkOptions {
                    append_timeout: Duration::from_secs(2),
                    snapshot_idle_timeout: Duration::from_secs(10),
                },
            },
            log: LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() },
            limits: Limits::default(),
            memory_quota: None,
            snapshot_log_bytes: 64 << 20,
            lease_reads: self.lease_reads,
            history_bytes: 64 << 20,
        };
        let started = tasks.scope(Node::start(seams, options)).await.expect("start");
        self.network.up(&node.addr, PeerService::new(started.clone()));
        node.running = Some(started);
    }

    /// Ends a node as kill -9 does.
    pub(crate) fn kill(&mut self, index: usize) {
        let node = self.nodes[index].running.take().expect("running");
        self.network.down(&self.nodes[index].addr);
        node.tasks().abort();
        node.data_dir().close();
        self.nodes[index].disk = self.nodes[index].disk.copy();
    }

    /// Cuts a node off from all others.
    pub(crate) fn isolate(&self, index: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.network.cut(&self.nodes[index].addr, &self.nodes[other].addr);
        }
    }

    /// Cuts two nodes off from each other.
    pub(crate) fn cut(&self, a: usize, b: usize) {
        self.network.cut(&self.nodes[a].addr, &self.nodes[b].addr);
    }

    pub(crate) fn node(&self, index: usize) -> &Node {
        self.nodes[index].running.as_ref().expect("running")
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].running.is_some())
    }

    /// The node that leads in the newest term, of those that are not in `without`.
    pub(crate) async fn leader_without(&self, without: &[usize]) -> usize {
        eventually("there is a leader", || async {
            let leads = |index: &usize| {
                let now = self.node(*index).raft().leadership().borrow().clone();
                (now.role == Role::Leader).then_some((now.term, *index))
            };
            let candidates = self.running().filter(|index| !without.contains(index));
            candidates.filter_map(|index| leads(&index)).max().map(|(_, index)| index).ok_or_else(|| "none".to_owned())
        })
        .await
    }

    pub(crate) async fn leader(&self) -> usize {
        self.leader_without(&[]).await
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.running().find(|index| *index != leader).expect("follower")
    }

    /// Writes through a node, trying again while there is no leader.
    pub(crate) async fn write(&self, index: usize, command: Command) -> OutcomeResult {
        let written = eventually("a write", || async {
            let deadline = Instant::now() + Duration::from_secs(5);
            match self.node(index).write(command.clone(), deadline).await {
                Ok(Outcome { result: Some(result) }) => Ok(Ok(result)),
                Ok(Outcome { result: None }) => Err("no outcome".to_owned()),
                Err(error @ RequestError::Rejected(_)) => Ok(Err(error)),
                Err(error) => Err(error.to_string()),
            }
        });
        written.await.expect("accepted")
    }

    /// Whether a node has the key, as a linearizable read sees it.
    pub(crate) async fn has(&self, index: usize, key: &str) -> bool {
        let freshness = Freshness { consistency: Consistency::Linearizable, min_revision: 0, max_staleness: None };
        eventually("a read", || async {
            let deadline = Instant::now() + Duration::from_secs(5);
            let served = self.node(index).read_barrier(freshness, deadline).await;
            served.map(|_| self.node(index).store().get(key.as_bytes()).record.is_some()).map_err(|e| e.to_string())
        })
        .await
    }

    /// Waits until a node does not have the key in its memory any more, and answers at which revision it went.
    pub(crate) async fn gone(&self, index: usize, key: &str) -> u64 {
        eventually("the key goes", || async {
            let found = self.node(index).store().get(key.as_bytes());
            if found.record.is_none() { Ok(found.revision) } else { Err("it is there".to_owned()) }
        })
        .await
    }

    /// Waits until all running nodes have applied the same, and checks that it brought the same.
    pub(crate) async fn assert_equal_states(&self) {
        eventually("all have applied the same", || async {
            let stats: Vec<_> = self.running().map(|index| self.node(index).store().stats()).collect();
            if stats.iter().any(|one| one.applied != stats[0].applied) {
                return Err("not all have applied the same".to_owned());
            }
            assert!(stats.iter().all(|one| one.state_hash == stats[0].state_hash), "states differ");
            Ok(())
        })
        .await;
    }
}

/// A write that lives for a while.
pub(crate) fn set_with_ttl(key: &str, ttl: Duration) -> Command {
    let mut command = command::set(key.to_owned(), "value");
    if let Some(command::Op::Set(set)) = &mut command.op {
        set.ttl_ms = millis(ttl);
    }
    command
}

/// A write that lives as long as a lease.
pub(crate) fn set_with_lease(key: &str, lease_id: u64) -> Command {
    let mut command = command::set(key.to_owned(), "value");
    if let Some(command::Op::Set(set)) = &mut command.op {
        set.lease_id = lease_id;
    }
    command
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("small")
}

/// Repeats until it succeeds.
pub(crate) async fn eventually<T, F>(what: &str, attempt: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("not in {PATIENCE:?}: {what}: {error}"),
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}
