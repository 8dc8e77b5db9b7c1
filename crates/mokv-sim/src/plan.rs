//! What a seed stands for: how large the cluster is, how it is tuned, which faults it meets, what its clients do.
//!
//! Each run has a random *subset* of the faults (a swarm): with all of them at once, none would have the time to develop its
//! consequences.

use std::time::Duration;

use mokv_server::formation::core::Mode;
use mokv_server::gossip::GossipOptions;
use mokv_server::node::{Limits, NodeOptions};
use mokv_server::raft::RaftOptions;
use mokv_server::raft::log::LogOptions;
use mokv_server::raft::network::NetworkOptions;
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::disk;
use crate::net::{Weather, gossip_addr};
use crate::seed;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed: what it wrote is still there.
    Kill,
    /// Machines lose their power: of what was not synced, anything may be there.
    PowerLoss,
    /// All processes or machines at once.
    Blackout,
    /// A process stands still for a while, as after SIGSTOP.
    Pause,
    /// A node is stopped and started as by an operator.
    Restart,
    /// The cluster falls into two parts.
    Partition,
    /// One direction between two nodes is cut.
    OneWay,
    /// Two parts have one node in common.
    Bridge,
    /// All connections of a node are reset.
    Reset,
    /// The way between two nodes becomes slow.
    SlowLink,
    /// A disk becomes slow.
    SlowDisk,
    /// A disk does not answer for a while.
    HungDisk,
    /// A disk is full for a while.
    FullDisk,
    /// A sync fails.
    FailedSync,
    /// A write fails.
    FailedWrite,
    /// A bit of a stopped node's files flips.
    BitFlip,
    /// A disk is lost, and a new node takes the place of the old one.
    LostDisk,
    /// A node gets an older copy of its disk back, after it has run on.
    OldDisk,
    /// Leadership is handed over.
    Transfer,
    /// A voter becomes a learner's successor: it is removed and joins again with its data gone.
    Reconfigure,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 20] = [
        Self::Kill,
        Self::PowerLoss,
        Self::Blackout,
        Self::Pause,
        Self::Restart,
        Self::Partition,
        Self::OneWay,
        Self::Bridge,
        Self::Reset,
        Self::SlowLink,
        Self::SlowDisk,
        Self::HungDisk,
        Self::FullDisk,
        Self::FailedSync,
        Self::FailedWrite,
        Self::BitFlip,
        Self::LostDisk,
        Self::OldDisk,
        Self::Transfer,
        Self::Reconfigure,
    ];
}

/// How nodes find each other, and become one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// Not at all: an operator adds each of them.
    Operator,
    /// By gossip. The first one forms a cluster, which takes the others in.
    Alone,
    /// By gossip. They form one together.
    Expect,
}

/// Everything that is decided before a run begins.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The run's seed.
    pub seed: u64,
    /// Nodes, all of them voters.
    pub nodes: usize,
    /// How long faults and clients go on.
    pub safety: Duration,
    /// Whether there are faults and clients already while the cluster forms.
    pub is_young: bool,
    /// The faults.
    pub faults: Vec<Fault>,
    /// Between two faults, on average.
    pub fault_interval: Duration,
    /// How nodes find each other.
    pub discovery: Discovery,
    /// See [`Policy::failed_grace`](mokv_server::reconcile::Policy::failed_grace). Where whoever is down comes back, nobody is
    /// removed for it.
    pub failed_grace: Option<Duration>,
    /// What the network does.
    pub weather: Weather,
    /// The base of every node's timeouts.
    pub heartbeat: Duration,
    /// How much faster or slower a node's clock runs, by node: its timeouts are scaled by it.
    pub clock_rates: Vec<f64>,
    /// The log's segments.
    pub segment_bytes: u64,
    /// The log's cache.
    pub cache_bytes: u64,
    /// See [`NodeOptions::snapshot_log_bytes`].
    pub snapshot_log_bytes: u64,
    /// A disk that works as it should takes up to this long for a sync.
    pub sync_max: Duration,
    /// See [`NodeOptions::memory_quota`].
    pub memory_quota: Option<u64>,
    /// See [`Limits::request_timeout`].
    pub request_timeout: Duration,
    /// See [`NodeOptions::history_bytes`].
    pub history_bytes: u64,
    /// See [`NodeOptions::lease_reads`]. Safe with all [`Plan::clock_rates`] there are.
    pub lease_reads: bool,
    /// What the clients do.
    pub load: Load,
}

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Load {
    /// Clients, each with one call at a time.
    pub clients: usize,
    /// Clients that share one session.
    pub per_session: usize,
    /// Keys.
    pub keys: usize,
    /// A client waits up to this long between two calls.
    pub think_max: Duration,
    /// How long a client waits for an answer.
    pub timeout: Duration,
    /// Values are padded by up to this many bytes.
    pub padding_max: usize,
    /// Of 100 calls, those that write.
    pub writes: u32,
    /// Of 100 writes, those in a session.
    pub in_session: u32,
    /// Of 100 reads, those that any state will do for.
    pub local: u32,
    /// Whether they use the whole data model, and watch; otherwise they set, delete, get and list.
    pub whole: bool,
}

impl Plan {
    /// What `seed` stands for.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = seed::generator(seed, "plan");
        let rng = &mut rng;
        let nodes = one_of(rng, &[1, 3, 3, 3, 3, 3, 3, 5, 5, 7]);
        let mut faults = Fault::ALL.to_vec();
        faults.shuffle(rng);
        faults.truncate(rng.random_range(1..=6));
        faults.sort();
        let heartbeat = Duration::from_millis(rng.random_range(40..200));
        let is_drifting = rng.random_bool(0.3);
        let clock_rates = (0..nodes + 2).map(|_| if is_drifting { rng.random_range(0.67..1.5) } else { 1.0 }).collect();
        let mut plan = Self {
            seed,
            nodes,
            safety: Duration::from_secs(rng.random_range(6..16)),
            is_young: rng.random_bool(0.3),
            faults,
            fault_interval: Duration::from_millis(rng.random_range(300..2500)),
            discovery: one_of(rng, &[Discovery::Operator, Discovery::Operator, Discovery::Alone, Discovery::Expect]),
            failed_grace: None,
            weather: weather(rng),
            heartbeat,
            clock_rates,
            segment_bytes: one_of(rng, &[4 << 10, 8 << 10, 16 << 10, 64 << 10, 256 << 10]),
            cache_bytes: one_of(rng, &[0, 1 << 10, 16 << 10, 1 << 20]),
            snapshot_log_bytes: one_of(rng, &[128, 1 << 10, 8 << 10, 64 << 10, 1 << 20]),
            sync_max: Duration::from_micros(one_of(rng, &[800, 800, 800, 10_000, 100_000])),
            memory_quota: rng.random_bool(0.15).then(|| rng.random_range(2_000..20_000)),
            request_timeout: Duration::from_secs(rng.random_range(1..10)),
            load: load(rng),
            history_bytes: one_of(rng, &[2 << 10, 16 << 10, 64 << 20, 64 << 20]),
            lease_reads: rng.random_bool(0.5),
        };
        if plan.memory_quota.is_some() || plan.faults.contains(&Fault::FullDisk) {
            // A refusal is delicate where an attempt before it may have had an effect.
            plan.load.in_session = 100;
            plan.fault_interval = plan.fault_interval.min(Duration::from_millis(700));
            plan.faults.push(Fault::Kill);
        }
        plan
    }

    /// A plan for a named scenario: three nodes, ordinary tuning and load, and no faults but those that it brings itself.
    pub fn quiet(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            nodes,
            safety: Duration::from_secs(8),
            is_young: false,
            faults: Vec::new(),
            fault_interval: Duration::from_secs(1),
            discovery: Discovery::Operator,
            failed_grace: None,
            weather: Weather::default(),
            heartbeat: Duration::from_millis(100),
            clock_rates: vec![1.0; nodes + 2],
            segment_bytes: 16 << 10,
            cache_bytes: 16 << 10,
            snapshot_log_bytes: 32 << 10,
            sync_max: disk::Behaviour::default().sync_max,
            memory_quota: None,
            request_timeout: Duration::from_secs(5),
            history_bytes: 64 << 20,
            lease_reads: false,
            load: Load {
                clients: 5,
                per_session: 1,
                keys: 4,
                think_max: Duration::from_millis(30),
                timeout: Duration::from_secs(3),
                padding_max: 200,
                writes: 60,
                in_session: 50,
                local: 30,
                whole: false,
            },
        }
    }

    /// How the node on this host, one of so many, takes part in gossip, if it does.
    pub fn gossip_options(&self, host: usize, hosts: usize, rpc_addr: String) -> Option<GossipOptions> {
        let all = 0..hosts;
        (self.discovery != Discovery::Operator).then(|| GossipOptions {
            name: format!("node-{host}"),
            advertise: gossip_addr(host),
            rpc_addr,
            join_addrs: all.map(|host| gossip_addr(host).to_string()).collect(),
            keyring: None,
        })
    }

    /// How the node on this host is started.
    pub fn node_options(&self, host: usize, rpc_addr: String) -> NodeOptions {
        let heartbeat_interval = self.heartbeat.mul_f64(self.clock_rates[host % self.clock_rates.len()]);
        NodeOptions {
            data_dir: "/data".into(),
            name: format!("node-{host}"),
            rpc_addr,
            mode: match self.discovery {
                Discovery::Expect => Mode::Expect(self.nodes),
                _ if host == 0 => Mode::Alone,
                _ => Mode::Join,
            },
            raft: RaftOptions {
                heartbeat_interval,
                election_timeout_min: 4 * heartbeat_interval,
                election_timeout_max: 7 * heartbeat_interval,
                network: NetworkOptions {
                    append_timeout: 14 * heartbeat_interval,
                    snapshot_idle_timeout: Duration::from_secs(10),
                },
            },
            log: LogOptions { segment_bytes: self.segment_bytes, cache_bytes_max: self.cache_bytes },
            limits: Limits { request_timeout: self.request_timeout, ..Limits::default() },
            memory_quota: self.memory_quota,
            snapshot_log_bytes: self.snapshot_log_bytes,
            history_bytes: self.history_bytes,
            lease_reads: self.lease_reads,
        }
    }
}

fn one_of<T: Copy>(rng: &mut SmallRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

fn weather(rng: &mut SmallRng) -> Weather {
    let latency_min = Duration::from_micros(rng.random_range(20..500));
    let spread_max = one_of(rng, &[1_000, 5_000, 40_000]);
    let latency_max = latency_min + Duration::from_micros(rng.random_range(100..spread_max));
    let seldom = |rng: &mut SmallRng, max: f64| if rng.random_bool(0.4) { rng.random_range(0.0..max) } else { 0.0 };
    Weather {
        latency_min,
        latency_max,
        loss: seldom(rng, 0.05),
        duplicate: seldom(rng, 0.03),
        reset: seldom(rng, 0.002),
    }
}

fn load(rng: &mut SmallRng) -> Load {
    let clients = rng.random_range(2..9);
    Load {
        clients,
        per_session: rng.random_range(1..=clients.min(4)),
        keys: rng.random_range(1..8),
        think_max: Duration::from_millis(one_of(rng, &[5, 20, 60, 200])),
        timeout: Duration::from_millis(rng.random_range(500..6_000)),
        padding_max: one_of(rng, &[0, 50, 500, 3_000]),
        writes: rng.random_range(20..90),
        in_session: one_of(rng, &[0, 50, 100]),
        local: one_of(rng, &[0, 20, 60]),
        whole: true,
    }
}
