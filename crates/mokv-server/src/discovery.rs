//! The other nodes, as gossip sees them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::time::Instant;

use crate::raft::types::NodeId;

/// A node, as gossip sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where its gossip is.
    pub gossip_addr: SocketAddr,
    /// How it is doing.
    pub state: PeerState,
    /// Since when it is in this state, or has these tags, as far as this node saw.
    pub since: Instant,
    /// What it says of itself; none if it is no mökv node.
    pub tags: Option<PeerTags>,
}

/// What a mökv node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTags {
    /// Who it is.
    pub node_id: NodeId,
    /// The cluster that it belongs to; none if it is in none yet.
    pub cluster_id: Option<String>,
    /// Where its gRPC is.
    pub rpc_addr: String,
    /// The version of its program.
    pub version: String,
}

/// How a peer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// It answers.
    Alive,
    /// It said that it is about to leave for good.
    Leaving,
    /// It has left for good.
    Left,
    /// It stopped answering.
    Failed,
}

/// All of them, by name; this node is one.
pub type Peers = BTreeMap<String, Peer>;
