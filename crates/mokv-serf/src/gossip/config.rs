//! How a node gossips.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::wire::Text;
use crate::wire::memberlist::Versions;

/// Who this node is, and how it gossips. All nodes of a pool should have the same numbers.
///
/// [`lan`](Self::lan) and [`local`](Self::local) have the numbers of memberlist's presets of the same names.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name: what identifies the node among the others.
    pub name: Text,
    /// Where the others find it.
    pub addr: IpAddr,
    /// The port, of datagrams and of streams.
    pub port: u16,
    /// What it speaks.
    pub versions: Versions,

    /// From one probe to the next. Also how long an answer may take, by whatever way; a node that is not well itself
    /// waits for a multiple of it.
    pub probe_interval: Duration,
    /// How long a direct answer may take until others are asked to try.
    pub probe_timeout: Duration,
    /// How many others are asked to try.
    pub indirect_probes: usize,
    /// The worst health score is one less: what the probe interval is multiplied by at most.
    pub health_score_max: u32,

    /// How many probe intervals a suspected node has for its objection, if enough others suspect it too. Grows with the
    /// logarithm of the number of nodes.
    pub suspicion_mult: u32,
    /// How many times as long it has if nobody else suspects it.
    pub suspicion_max_mult: u32,

    /// From one round of gossip to the next.
    pub gossip_interval: Duration,
    /// To how many nodes a round goes.
    pub gossip_nodes: usize,
    /// A message is sent this many times, times the logarithm of the number of nodes.
    pub retransmit_mult: u32,
    /// How long a dead node is still gossiped to, so that it can object; and how long it is remembered at least.
    pub gossip_to_the_dead: Duration,
    /// How much fits into a datagram, without what the layers around it take ([`Codec`](crate::wire)).
    pub packet_bytes_max: usize,

    /// From one exchange of whole states to the next, in a pool of up to 32 nodes; longer in a larger one.
    pub push_pull_interval: Duration,
    /// How long an exchange over a stream may take.
    pub stream_timeout: Duration,
    /// After which time the name of a dead node may be taken by a node with another address; none if it has to be
    /// forgotten first. That of a node that left is free at once.
    pub dead_reclaim: Option<Duration>,
}

impl Config {
    /// For nodes in one network.
    pub fn lan(name: Text, addr: SocketAddr) -> Self {
        Self {
            name,
            addr: addr.ip().to_canonical(),
            port: addr.port(),
            versions: Versions::OURS,
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            health_score_max: 8,
            suspicion_mult: 4,
            suspicion_max_mult: 6,
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            retransmit_mult: 4,
            gossip_to_the_dead: Duration::from_secs(30),
            packet_bytes_max: PACKET_BYTES_MAX,
            push_pull_interval: Duration::from_secs(30),
            stream_timeout: Duration::from_secs(10),
            dead_reclaim: None,
        }
    }

    /// For nodes on one machine, which hear of each other sooner.
    pub fn local(name: Text, addr: SocketAddr) -> Self {
        Self {
            probe_timeout: Duration::from_millis(200),
            indirect_probes: 1,
            suspicion_mult: 3,
            gossip_interval: Duration::from_millis(100),
            retransmit_mult: 2,
            gossip_to_the_dead: Duration::from_secs(15),
            push_pull_interval: Duration::from_secs(15),
            stream_timeout: Duration::from_secs(1),
            ..Self::lan(name, addr)
        }
    }

    /// Where the others find it.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port)
    }
}

/// What memberlist puts into a datagram: it passes every usual network in one piece.
pub const PACKET_BYTES_MAX: usize = 1400;
