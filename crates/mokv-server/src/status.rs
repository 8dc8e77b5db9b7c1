//! What a node says of itself, in plain values: collected by the node, shown by the cluster service and the metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::discovery::PeerState;
use crate::metrics::{ConsensusStats, HistogramSnapshot};
use crate::node::Readiness;
use crate::raft::types::NodeId;
use crate::store::{HistoryStats, LogTime};
use crate::watch::WatchStats;

/// The state of a node at one moment. Its parts are read one after another, not atomically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// The name, for people.
    pub name: String,
    /// The identity.
    pub node_id: NodeId,
    /// The cluster, if the node is in one.
    pub cluster_id: Option<String>,
    /// Where others reach the node, host:port.
    pub rpc_addr: String,
    /// What it is in its cluster: leader, follower, candidate, learner or stopped.
    pub state: &'static str,
    /// The leader that it knows.
    pub leader_id: Option<NodeId>,
    /// How often it saw a new leader since it started.
    pub leader_changes: u64,
    /// The term that it knows.
    pub term: u64,
    /// The last entry in its log.
    pub last_log_index: u64,
    /// The last entry that it knows to be committed.
    pub committed_index: u64,
    /// The last entry that it has applied.
    pub applied_index: u64,
    /// The last entry that a snapshot on its disk covers.
    pub snapshot_index: u64,
    /// The size of that snapshot.
    pub snapshot_bytes: u64,
    /// The size of the log on its disk.
    pub log_bytes: u64,
    /// How much log time lies between the oldest entry in the log and the state, to a second. None while no entry has a time.
    pub log_age: Option<Duration>,
    /// How long each sync of the log took.
    pub log_syncs: HistogramSnapshot,
    /// Bytes written to the log since the node started.
    pub log_bytes_written: u64,
    /// Entries written to the log since the node started.
    pub log_entries_written: u64,
    /// What consensus has counted.
    pub consensus: ConsensusStats,
    /// How many nodes are in which state, as gossip sees them; none without gossip.
    pub gossip: Option<BTreeMap<PeerState, u64>>,
    /// The revision of the store.
    pub revision: u64,
    /// Keys in the store.
    pub keys: u64,
    /// Bytes of keys, values and what the store needs to hold them.
    pub memory_bytes: u64,
    /// Bytes that the store may hold before writes that let it grow are refused.
    pub memory_quota_bytes: Option<u64>,
    /// A fingerprint of the whole state, in hexadecimal.
    pub state_hash: String,
    /// Open sessions.
    pub sessions: u64,
    /// Consistent views that are being read.
    pub pins: u64,
    /// The changes that it remembers.
    pub history: HistoryStats,
    /// Those who watch.
    pub watches: WatchStats,
    /// The time of the state, in which deadlines are.
    pub log_time: LogTime,
    /// Leases.
    pub leases: u64,
    /// Keep-alives that the node has answered as leader.
    pub keep_alives: u64,
    /// Keys that ended by themselves while the node led.
    pub expired_keys: u64,
    /// Whether the node is fit to serve.
    pub readiness: Readiness,
    /// Whether the log finds no room on the disk.
    pub disk_full: bool,
    /// What an operator has to know, though the node serves.
    pub warning: Option<String>,
}

impl NodeStatus {
    /// Whether the node leads.
    pub fn is_leader(&self) -> bool {
        self.leader_id == Some(self.node_id)
    }
}
