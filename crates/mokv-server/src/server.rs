//! The life of one server process: what is opened in which order, and closed in the reverse.
//!
//! Stopping: not ready, leadership handed over (requests are still answered meanwhile), no new connections, what is under
//! way finished, consensus ended, log closed. One grace period bounds it all. Stopping is not leaving: the node stays a
//! member. A node that has left its cluster stops like that by itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use mokv_serf::agent::{Transport, UdpTcp};

use crate::config::{Config, EncryptKey, KeySource};
use crate::disk::{self, OsDisk};
use crate::gossip::{self, Feed, Gossip, GossipOptions};
use crate::join_addrs::{self, Lookup};
use crate::node::{Limits, Node, NodeError, NodeOptions, Seams};
use crate::raft::RaftOptions;
use crate::raft::log::LogOptions;
use crate::raft::network::NetworkOptions;
use crate::reconcile::Policy;
use crate::rpc;
use crate::rpc::peer::GrpcNetwork;
use crate::runtime::{Tasks, WallClock};

/// Of the grace period, the part that handing leadership over may take; an election takes as long in the worst case.
const HAND_OVER_PART: u32 = 3;

/// An append that has not reached a follower's disk after so many election timeouts won't help any more.
const APPEND_TIMEOUT_PART: u32 = 2;

/// A snapshot that makes no progress for so long is given up, and sent again. Loading one of some gigabytes takes less.
const SNAPSHOT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a server did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A port could not be opened.
    #[error("can't listen on {address} for {what}: {source}")]
    Listen {
        /// What the port is for.
        what: &'static str,
        /// Where.
        address: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The random number generator or another service of the operating system failed.
    #[error("the operating system failed: {0}")]
    System(#[from] io::Error),
    /// Gossip can't be set up as the configuration says.
    #[error("gossip: {0}")]
    Gossip(String),
    /// The node did not start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The node stopped because it could not go on safely: a disk that failed, or a state that can't be explained.
    #[error("the node stopped because going on would not be safe: {0}")]
    Failed(String),
}

/// The open ports of a server. Tests bind port 0.
pub struct Listeners {
    /// gRPC, public and between nodes.
    pub rpc: TcpListener,
    /// Metrics and probes.
    pub metrics: TcpListener,
}

impl Listeners {
    /// Opens the ports that `config` names.
    ///
    /// # Errors
    ///
    /// [`RunError::Listen`].
    pub async fn bind(config: &Config) -> Result<Self, RunError> {
        Ok(Self {
            rpc: listen("gRPC", &config.rpc_listen_addr()).await?,
            metrics: listen("metrics", &config.metrics_listen_addr()).await?,
        })
    }
}

async fn listen(what: &'static str, address: &str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { what, address: address.to_owned(), source })
}

async fn listen_to_gossip(config: &Config) -> Result<UdpTcp, RunError> {
    let address = config.gossip_listen_addr();
    let failed = |source| RunError::Listen { what: "gossip", address: address.clone(), source };
    UdpTcp::bind(look_up(&address).await.map_err(failed)?).await.map_err(failed)
}

/// The first address that a host and port stand for.
async fn look_up(address: &str) -> io::Result<SocketAddr> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("{address} stands for no address"));
    join_addrs::system_lookup(address.to_owned()).await?.into_iter().next().ok_or_else(unknown)
}

/// Runs a production server until `shutdown` completes.
///
/// # Errors
///
/// See [`RunError`]. After a clean stop: `Ok`.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let gossip_listener = listen_to_gossip(&config).await?;
        let listeners = Listeners::bind(&config).await?;
        let tasks = Tasks::from_os()?;
        let gossip = gossip_options(&config).await?;
        let (feed, surroundings) = gossip::feed();
        let seams = Seams {
            tasks: tasks.clone(),
            disk: Arc::new(OsDisk),
            peers: Arc::new(GrpcNetwork::default()),
            surroundings: Some(surroundings),
        };
        let serving = Serving {
            options: node_options(&config),
            gossip: Some(GossipSetup { listener: gossip_listener, options: gossip, feed, policy: policy(&config) }),
            listeners,
            grace: config.shutdown_grace,
        };
        match tasks.scope(serving.run(seams, shutdown.as_mut())).await? {
            Ended::Stopped | Ended::Left => return Ok(()),
            Ended::Dissolved => tracing::info!("starting again as a new node"),
        }
    }
}

fn node_options(config: &Config) -> NodeOptions {
    NodeOptions {
        data_dir: config.data_dir.clone(),
        name: config.node_name.clone(),
        rpc_addr: config.advertise_addr.clone(),
        mode: config.mode,
        raft: RaftOptions {
            heartbeat_interval: config.heartbeat_interval,
            election_timeout_min: config.election_timeout_min,
            election_timeout_max: config.election_timeout_max,
            network: NetworkOptions {
                append_timeout: APPEND_TIMEOUT_PART * config.election_timeout_max,
                snapshot_idle_timeout: SNAPSHOT_IDLE_TIMEOUT,
            },
        },
        log: LogOptions { segment_bytes: config.log_segment_bytes, ..LogOptions::default() },
        limits: Limits {
            key_bytes_max: config.max_key_bytes,
            value_bytes_max: config.max_value_bytes,
            request_bytes_max: config.max_request_bytes,
            request_timeout: config.request_timeout,
        },
        memory_quota: config.memory_quota,
        snapshot_log_bytes: config.snapshot_log_bytes,
        history_bytes: config.history_bytes,
        lease_reads: config.lease_reads,
    }
}

fn policy(config: &Config) -> Policy {
    Policy { voters_max: config.voters_max, failed_grace: config.failed_grace, ..Policy::default() }
}

async fn gossip_options(config: &Config) -> Result<GossipOptions, RunError> {
    let advertise = &config.advertise_gossip_addr;
    let unusable = |reason: String| RunError::Gossip(reason);
    let advertise = look_up(advertise).await.map_err(|error| {
        unusable(format!("{advertise}, which others are told to reach this node at, can't be resolved: {error}"))
    })?;
    let key = match &config.encrypt_key {
        None => None,
        Some(KeySource::Given(key)) => Some(key.clone()),
        Some(KeySource::File(path)) => {
            let failed = |reason: String| unusable(format!("{}: {reason}", path.display()));
            let text = disk::read(&OsDisk, path).await.map_err(|error| failed(error.to_string()))?;
            Some(String::from_utf8_lossy(&text).parse().map_err(failed)?)
        }
    };
    Ok(GossipOptions {
        name: config.node_name.clone(),
        advertise,
        rpc_addr: config.advertise_addr.clone(),
        join_addrs: config.start_join_addrs.clone(),
        keyring: key.map(EncryptKey::into_keyring),
    })
}

/// How a server ended that did as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// It has left its cluster.
    Left,
    /// Its cluster had to go, and its directory is that of a new node: it has to be started again.
    Dissolved,
}

/// How a server takes part in gossip.
pub struct GossipSetup {
    /// Its open port.
    pub listener: UdpTcp,
    /// Who it is there, and whom it joins.
    pub options: GossipOptions,
    /// The other end of the seams' surroundings.
    pub feed: Feed,
    /// How the membership follows.
    pub policy: Policy,
}

/// A server that is about to run.
pub struct Serving {
    /// How the node behaves.
    pub options: NodeOptions,
    /// Its gossip, if it takes part in it.
    pub gossip: Option<GossipSetup>,
    /// Where it listens.
    pub listeners: Listeners,
    /// How long stopping may take.
    pub grace: Duration,
}

impl Serving {
    /// Runs until `shutdown` completes, or the node has left its cluster. Must be called inside [`Tasks::scope`].
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub async fn run(self, seams: Seams, shutdown: impl Future<Output = ()> + Send) -> Result<Ended, RunError> {
        let tasks = seams.tasks.clone();
        let node = Node::start(seams, self.options).await?;
        let (stop, stopping) = watch::channel(Stop::No);
        let grpc = rpc::Server::new(node.clone())
            .with(rpc::peer::peer_service(node.clone()))
            .with(rpc::peer::join_service(node.clone()));
        let metrics = grpc.metrics();
        announce(&node, &self.listeners, self.gossip.as_ref());
        let gossip = self.gossip.map(|gossip| start_gossip(&tasks, &node, gossip)).transpose()?;
        let mut serving = tasks.spawn(grpc.serve(self.listeners.rpc, reached(stopping.clone(), Stop::Drain)));
        let page = rpc::http::serve(
            self.listeners.metrics,
            node.clone(),
            metrics,
            WallClock::System,
            reached(stopping, Stop::Now),
        );
        tasks.spawn(page);

        let ended = tokio::select! {
            biased;
            () = shutdown => Ok(Ended::Stopped),
            () = node.must_dissolve() => Ok(Ended::Dissolved),
            () = node.left() => Ok(Ended::Left),
            reason = node.failed() => Err(RunError::Failed(reason)),
            reason = gossip_failed(gossip.as_ref()) => Err(RunError::Failed(reason)),
            served = &mut serving => Err(RunError::Failed(format!("gRPC ended: {served:?}"))),
        };
        match &ended {
            Ok(_) => tracing::info!(grace = ?self.grace, "stopping"),
            Err(error) => tracing::error!(%error, "stopping"),
        }
        let deadline = Instant::now() + self.grace;
        if ended.is_ok() {
            node.hand_over(self.grace / HAND_OVER_PART).await;
            stop.send_replace(Stop::Drain);
            // Streams between nodes end with consensus, not before: wait for them only as long as is left.
            let drained = timeout_at(deadline.min(Instant::now() + self.grace / HAND_OVER_PART), &mut serving).await;
            tracing::debug!(complete = drained.is_ok(), "requests drained");
        }
        stop.send_replace(Stop::Now);
        if let (Some(gossip), Ok(Ended::Left)) = (&gossip, &ended) {
            drop(timeout_at(deadline, gossip.leave()).await);
        }
        if matches!(ended, Ok(Ended::Dissolved)) {
            node.dissolve().await.map_err(NodeError::Identity)?;
        } else if timeout_at(deadline, node.shutdown()).await.is_err() {
            tracing::warn!("the grace period is over: what was not acknowledged is given up");
        }
        ended
    }
}

/// How far stopping has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    Drain,
    Now,
}

async fn reached(mut stopping: watch::Receiver<Stop>, stage: Stop) {
    // A sender that is gone has stopped, too.
    drop(stopping.wait_for(|now| *now >= stage).await);
}

/// Begins when this node answers: from then on others may call it.
fn start_gossip(tasks: &Tasks, node: &Node, setup: GossipSetup) -> Result<Gossip, RunError> {
    let GossipSetup { listener, mut options, feed, policy } = setup;
    if options.advertise.port() == 0 {
        options.advertise.set_port(listener.local_addr().port());
    }
    node.follow_peers(feed.peers(), policy);
    let lookup: Arc<Lookup> = Arc::new(join_addrs::system_lookup);
    let started = Gossip::start(tasks, node.data_dir(), Arc::new(listener), lookup, options, feed);
    started.map_err(|error| RunError::Gossip(error.to_string()))
}

async fn gossip_failed(gossip: Option<&Gossip>) -> String {
    match gossip {
        Some(gossip) => gossip.failed().await,
        None => std::future::pending().await,
    }
}

fn announce(node: &Node, listeners: &Listeners, gossip: Option<&GossipSetup>) {
    let address = |listener: &TcpListener| listener.local_addr().map(|at: SocketAddr| at.to_string());
    let gossip = gossip.map(|gossip| gossip.listener.local_addr().to_string());
    tracing::info!(
        name = node.options().name,
        node_id = node.node_id(),
        data_dir = %node.options().data_dir.display(),
        rpc = address(&listeners.rpc).unwrap_or_default(),
        gossip = gossip.unwrap_or_default(),
        metrics = address(&listeners.metrics).unwrap_or_default(),
        "serving"
    );
}
