//! What a node has promised on its way into its first cluster, and how the identity file says so.
//!
//! ```text
//! turn = 1
//! promise = 0f2c9a4be67d4c5e9a3b1d2c4e5f6071
//! founder = 5577006791947779410 0 node-0 10.0.0.1:8400
//! founder = 8674665223082153551 0 node-1 10.0.0.2:8400
//! without = 8674665223082153551
//! ```
//!
//! One line a founder: its node id, its turn, its name, its address. The rules are those of
//! [`formation`](crate::formation).

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::raft::types::NodeId;

/// More members than this are no first membership, but nonsense.
const FOUNDERS_MAX: usize = 64;

/// Bytes of a founder's name or address: those of a host name, and a port.
const TEXT_BYTES_MAX: usize = 260;

/// A cluster that shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Chosen by whoever proposes it; no two proposals have the same.
    pub cluster_id: String,
    /// The first members.
    pub founders: Vec<Founder>,
}

/// A node that shall be one of the first members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    /// Its identity.
    pub node_id: NodeId,
    /// Its turn when this was proposed.
    pub turn: u64,
    /// Its name.
    pub name: String,
    /// Where it answers, host:port.
    pub rpc_addr: String,
}

impl Proposal {
    /// Whether it can be kept and carried out: the texts come from another node.
    pub fn is_sound(&self) -> bool {
        let is_text = |text: &str| {
            (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
        };
        let ids: BTreeSet<NodeId> = self.founders.iter().map(|founder| founder.node_id).collect();
        self.cluster_id.len() == 32
            && self.cluster_id.bytes().all(|digit| digit.is_ascii_hexdigit())
            && (1..=FOUNDERS_MAX).contains(&self.founders.len())
            && ids.len() == self.founders.len()
            && !ids.contains(&0)
            && self.founders.iter().all(|founder| is_text(&founder.name) && is_text(&founder.rpc_addr))
    }

    /// What it says of a node.
    pub fn founder(&self, node_id: NodeId) -> Option<&Founder> {
        self.founders.iter().find(|founder| founder.node_id == node_id)
    }

    /// So many of its members have to be there for anything to be committed.
    pub fn majority(&self) -> usize {
        self.founders.len() / 2 + 1
    }
}

/// A promise that a node has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// What it was made to.
    pub proposal: Proposal,
    /// Founders that this node takes for lost. While there are any, it won't be the first to form the cluster, and won't
    /// follow one of them into it.
    pub without: BTreeSet<NodeId>,
}

/// A node's promises.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pledge {
    /// How many promises it has made or refused. Each proposal is for one turn of each of its founders.
    pub turn: u64,
    /// The one that holds. In a cluster: the one that has made it, until consensus has its membership.
    pub promise: Option<Promise>,
}

impl Pledge {
    /// The lines of the identity file.
    pub(super) fn encode(&self, text: &mut String) {
        // Writing to a string can't fail.
        if self.turn > 0 {
            let _ = writeln!(text, "turn = {}", self.turn);
        }
        let Some(Promise { proposal, without }) = &self.promise else { return };
        let _ = writeln!(text, "promise = {}", proposal.cluster_id);
        for Founder { node_id, turn, name, rpc_addr } in &proposal.founders {
            let _ = writeln!(text, "founder = {node_id} {turn} {name} {rpc_addr}");
        }
        if !without.is_empty() {
            let ids: Vec<String> = without.iter().map(NodeId::to_string).collect();
            let _ = writeln!(text, "without = {}", ids.join(" "));
        }
    }

    /// Reads the values of the lines with a name. `None`: they make no sense.
    pub(super) fn decode<'a, I>(values: impl Fn(&'static str) -> I) -> Option<Self>
    where
        I: Iterator<Item = &'a str>,
    {
        let turn = values("turn").next().map_or(Some(0), |turn| turn.parse().ok())?;
        let Some(cluster_id) = values("promise").next() else { return Some(Self { turn, promise: None }) };
        let founders = values("founder").map(decode_founder).collect::<Option<Vec<_>>>()?;
        let proposal = Proposal { cluster_id: cluster_id.to_owned(), founders };
        let without = values("without").next().unwrap_or_default().split_whitespace();
        let without = without.map(|id| id.parse().ok()).collect::<Option<BTreeSet<NodeId>>>()?;
        proposal.is_sound().then_some(Self { turn, promise: Some(Promise { proposal, without }) })
    }
}

fn decode_founder(line: &str) -> Option<Founder> {
    let mut parts = line.split(' ');
    let founder = Founder {
        node_id: parts.next()?.parse().ok()?,
        turn: parts.next()?.parse().ok()?,
        name: parts.next()?.to_owned(),
        rpc_addr: parts.next()?.to_owned(),
    };
    parts.next().is_none().then_some(founder)
}
