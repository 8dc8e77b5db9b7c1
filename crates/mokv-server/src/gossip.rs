//! This node in gossip: what it says of itself, through whom it joins the others, and what it sees of them.
//!
//! Facts go up as [`Peers`]; nothing else in the server knows of Serf. Membership follows these facts elsewhere
//! ([`reconcile`](crate::reconcile), [`formation`](crate::formation)): here nothing is decided.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mokv_serf::agent::{Agent, Members, Stopped, Transport};
use mokv_serf::gossip;
use mokv_serf::serf::{self, Member, SendError, Status};
use mokv_serf::wire::keyring::Keyring;
use mokv_serf::wire::serf::Tags;
use mokv_serf::wire::{Codec, Text};
use rand::RngExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::discovery::{Peer, PeerState, PeerTags, Peers};
use crate::formation::Surroundings;
use crate::identity::DataDir;
use crate::join_addrs::{self, Lookup, Tries};
use crate::raft::types::NodeId;
use crate::runtime::Tasks;

/// How often a node that has joined looks whether one of those that it was told to join through is out of sight. Gossip
/// itself tries those again that failed, but not those that left, or that it has never seen: two halves of a pool, each
/// without a member of the other, find each other only so.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// Who the node is in gossip, and whom it joins.
#[derive(Debug, Clone)]
pub struct GossipOptions {
    /// Its name.
    pub name: String,
    /// Where others reach its gossip.
    pub advertise: SocketAddr,
    /// Where others reach its gRPC, host:port.
    pub rpc_addr: String,
    /// Those that it joins through, host:port; names are looked up again each time.
    pub join_addrs: Vec<String>,
    /// The keys that gossip is encrypted with.
    pub keyring: Option<Keyring>,
}

/// Where the facts go. Made before the node, which looks at them while it starts.
#[derive(Debug)]
pub struct Feed {
    peers: watch::Sender<Arc<Peers>>,
    has_joined: watch::Sender<bool>,
}

/// A feed, and its other end.
pub fn feed() -> (Feed, Surroundings) {
    let (peers, peers_seen) = watch::channel(Arc::default());
    let (has_joined, joined) = watch::channel(false);
    (Feed { peers, has_joined }, Surroundings { peers: peers_seen, has_joined: joined })
}

impl Feed {
    /// What was published last.
    pub fn peers(&self) -> watch::Receiver<Arc<Peers>> {
        self.peers.subscribe()
    }
}

/// The node's gossip. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gossip {
    agent: Agent,
}

impl Gossip {
    /// Starts gossip for the node whose directory this is.
    ///
    /// # Errors
    ///
    /// If what the node says of itself is too long for gossip: its name and addresses.
    pub fn start(
        tasks: &Tasks,
        data_dir: &DataDir,
        transport: Arc<dyn Transport>,
        lookup: Arc<Lookup>,
        options: GossipOptions,
        feed: Feed,
    ) -> Result<Self, SendError> {
        let identity = data_dir.identity();
        let config = gossip::Config::lan(Text::from(options.name.as_str()), options.advertise);
        let codec = Codec { label: Default::default(), compression: true, keyring: options.keyring.clone() };
        let mut config = serf::Config::new(config, codec);
        config.tags = tags(identity.node_id, identity.cluster_id.as_deref(), &options.rpc_addr);
        let seed = tasks.rng().random::<[u8; 32]>();
        let spawner = tasks.clone();
        let agent = Agent::spawn(config, transport, seed, move |task| drop(spawner.spawn(task)))?;
        let Feed { peers, has_joined } = feed;
        tasks.spawn(publish(agent.clone(), peers));
        tasks.spawn(introduce(agent.clone(), data_dir.clone(), options.rpc_addr.clone()));
        tasks.spawn(join(agent.clone(), lookup, options, has_joined));
        Ok(Self { agent })
    }

    /// Tells the others that this node has left for good, and waits until they can know.
    pub async fn leave(&self) {
        self.agent.leave().await;
    }

    /// Stops without a word, as for a restart.
    pub fn shutdown(&self) {
        self.agent.shutdown();
    }

    /// Completes when gossip can't go on, and says why: another node has this one's name.
    pub async fn failed(&self) -> String {
        match self.agent.stopped().await {
            Stopped::NameTaken => {
                "another node in gossip has the name of this one, and the others side with it: give each node \
                                   a name of its own (--node-name)"
                    .into()
            }
            Stopped::Shutdown | Stopped::Aborted => std::future::pending().await,
        }
    }

    /// The agent, for its counters and keys.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }
}

/// What the node says of itself.
fn tags(node_id: NodeId, cluster_id: Option<&str>, rpc_addr: &str) -> Tags {
    let tag = |name: &str, value: &str| (Text::from(name), Text::from(value));
    Tags::from([
        tag("id", &node_id.to_string()),
        tag("cluster", cluster_id.unwrap_or_default()),
        tag("rpc_addr", rpc_addr),
        tag("version", env!("CARGO_PKG_VERSION")),
    ])
}

/// What another node says of itself, if it is one of ours.
fn read_tags(tags: &Tags) -> Option<PeerTags> {
    let tag = |name: &str| tags.get(&Text::from(name))?.as_str();
    Some(PeerTags {
        node_id: tag("id")?.parse().ok()?,
        cluster_id: tag("cluster").filter(|id| !id.is_empty()).map(str::to_owned),
        rpc_addr: tag("rpc_addr")?.to_owned(),
        version: tag("version").unwrap_or_default().to_owned(),
    })
}

/// The peers that these members are. What has not changed keeps its time.
fn peers(members: &Members, before: &Peers, now: Instant) -> Peers {
    // A name that is no text is none of ours: our nodes have names that can be written down.
    let named = members.values().filter_map(|member| Some((member.name.as_str()?.to_owned(), member)));
    named
        .map(|(name, member)| {
            let mut peer = peer(name.clone(), member, now);
            if let Some(known) = before.get(&name)
                && (known.state, &known.tags, known.gossip_addr) == (peer.state, &peer.tags, peer.gossip_addr)
            {
                peer.since = known.since;
            }
            (name, peer)
        })
        .collect()
}

fn peer(name: String, member: &Member, now: Instant) -> Peer {
    let state = match member.status {
        Status::Alive => PeerState::Alive,
        Status::Leaving => PeerState::Leaving,
        Status::Left => PeerState::Left,
        Status::Failed => PeerState::Failed,
    };
    Peer { name, gossip_addr: member.addr, state, since: now, tags: read_tags(&member.tags) }
}

/// Publishes the peers whenever they change.
async fn publish(agent: Agent, feed: watch::Sender<Arc<Peers>>) {
    let mut members = agent.members();
    loop {
        let now = peers(&members.borrow_and_update(), &feed.borrow(), Instant::now());
        feed.send_if_modified(|before| {
            let is_news = **before != now;
            if is_news {
                *before = Arc::new(now);
            }
            is_news
        });
        if members.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the others when the node has come into a cluster.
async fn introduce(agent: Agent, data_dir: DataDir, rpc_addr: String) {
    let mut cluster_id = data_dir.watch_cluster_id();
    loop {
        if cluster_id.changed().await.is_err() {
            return;
        }
        let identity = data_dir.identity();
        let tags = tags(identity.node_id, identity.cluster_id.as_deref(), &rpc_addr);
        if let Err(error) = agent.set_tags(tags).await {
            tracing::warn!(%error, "gossip can't be told which cluster this node is in");
        }
    }
}

/// Joins, and goes on looking for those that it was told to join through.
async fn join(agent: Agent, lookup: Arc<Lookup>, options: GossipOptions, has_joined: watch::Sender<bool>) {
    let mut tries = Tries::default();
    let is_own = |address: &SocketAddr| join_addrs::is_own(address, &agent.local_addr(), &options.advertise);
    loop {
        let found = join_addrs::resolve(&options.join_addrs, is_own, &*lookup).await;
        let seen = alive(&agent.members().borrow());
        let missing: Vec<SocketAddr> =
            found.addresses.iter().copied().filter(|address| !seen.contains(address)).collect();
        let result = match missing.is_empty() {
            true => Ok(0),
            false => agent.join(&missing).await.map_err(|error| error.to_string()),
        };
        // One that answers is enough: gossip brings the others.
        let is_connected = found.is_alone() || found.addresses.len() > missing.len() || result.is_ok();
        let pause = match (is_connected, result) {
            (true, result) => {
                if tries.worked() || !*has_joined.borrow() && !found.is_alone() {
                    tracing::info!(joined = result.unwrap_or_default(), "in gossip with others");
                }
                has_joined.send_replace(true);
                LOOK_AGAIN
            }
            (false, result) => {
                let reason = result.err().unwrap_or_default();
                let problem = found.problems.iter().cloned().chain([reason]).filter(|part| !part.is_empty());
                let (pause, news) = tries.failed(problem.collect::<Vec<_>>().join("; "));
                if let Some(problem) = news {
                    tracing::warn!(problem, "can't join gossip yet, trying again");
                }
                pause
            }
        };
        sleep(pause).await;
    }
}

fn alive(members: &Members) -> BTreeSet<SocketAddr> {
    members.values().filter(|member| member.status == Status::Alive).map(|member| member.addr).collect()
}
