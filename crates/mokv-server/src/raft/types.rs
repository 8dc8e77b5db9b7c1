//! openraft's type parameters, and the conversions between its values and ours on disk and on the wire.

use std::collections::{BTreeMap, BTreeSet};

use mokv_proto::internal;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;

use crate::command::{Batch, Outcomes};
use crate::runtime::NodeRuntime;

/// The identity of a node: random, never zero, and kept in its data directory. An empty disk is a new node.
pub type NodeId = u64;

/// What the membership says of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberInfo {
    /// The node's name, for people.
    pub name: String,
    /// Where it answers, host:port. Names are resolved on each connection.
    pub rpc_addr: String,
}

openraft::declare_raft_types!(
    /// openraft's types as mökv uses them: the Raft of the paper, with one leader a term.
    pub TypeConfig:
        D = Batch,
        R = Outcomes,
        NodeId = NodeId,
        Node = MemberInfo,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = NodeRuntime,
);

/// A vote, or a leadership that was granted.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// A position in the log.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// Voters, and nodes that follow without a vote.
pub type Membership = openraft::Membership<NodeId, MemberInfo>;
/// A membership and the entry that brought it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot is of.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// A message that decoded as protobuf but says nothing that Raft could mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed Raft message: {0}")]
pub struct Malformed(pub &'static str);

/// A log position from its parts.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(leader_id_std::LeaderId::<u64, u64>::new(term, 0).to_committed(), index)
}

/// Encodes a log position.
pub fn log_id_to_proto(id: &LogId) -> internal::LogId {
    internal::LogId { term: id.leader_id.term, index: id.index }
}

/// Decodes a log position.
pub fn log_id_from_proto(id: &internal::LogId) -> LogId {
    log_id(id.term, id.index)
}

/// Encodes a vote.
pub fn vote_to_proto(vote: &Vote) -> internal::Vote {
    internal::Vote { term: vote.leader_id.term, node_id: vote.leader_id.voted_for, committed: vote.committed }
}

/// Decodes a vote.
pub fn vote_from_proto(vote: &internal::Vote) -> Vote {
    let mut decoded = Vote::new(vote.term, vote.node_id);
    decoded.committed = vote.committed;
    decoded
}

/// Encodes a membership.
pub fn membership_to_proto(membership: &Membership) -> internal::Membership {
    let configs = membership.get_joint_config().iter();
    internal::Membership {
        configs: configs.map(|voters| internal::Voters { node_ids: voters.iter().copied().collect() }).collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| internal::Node { node_id: *id, name: node.name.clone(), rpc_addr: node.rpc_addr.clone() })
            .collect(),
    }
}

/// Decodes a membership.
///
/// # Errors
///
/// A voter is not among the nodes, or there are more than two sets of voters.
pub fn membership_from_proto(membership: internal::Membership) -> Result<Membership, Malformed> {
    // Before there is a cluster.
    if membership.configs.is_empty() && membership.nodes.is_empty() {
        return Ok(Membership::default());
    }
    let nodes: BTreeMap<NodeId, MemberInfo> = membership
        .nodes
        .into_iter()
        .map(|node| (node.node_id, MemberInfo { name: node.name, rpc_addr: node.rpc_addr }))
        .collect();
    let configs: Vec<BTreeSet<NodeId>> =
        membership.configs.into_iter().map(|voters| voters.node_ids.into_iter().collect()).collect();
    if configs.len() > 2 {
        return Err(Malformed("more than two sets of voters"));
    }
    Membership::new(configs, nodes).map_err(|_| Malformed("a voter that is not a node"))
}

/// Encodes a membership with its position.
pub fn stored_membership_to_proto(stored: &StoredMembership) -> internal::StoredMembership {
    internal::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

/// Decodes a membership with its position.
///
/// # Errors
///
/// As [`membership_from_proto`].
pub fn stored_membership_from_proto(stored: internal::StoredMembership) -> Result<StoredMembership, Malformed> {
    let log_id = stored.log_id.as_ref().map(log_id_from_proto);
    Ok(StoredMembership::new(log_id, membership_from_proto(stored.membership.unwrap_or_default())?))
}

/// Encodes a log entry.
pub fn entry_to_proto(entry: &Entry) -> internal::Entry {
    use internal::entry::Payload;
    internal::Entry {
        log_id: Some(log_id_to_proto(&entry.log_id)),
        payload: match &entry.payload {
            openraft::EntryPayload::Blank => None,
            openraft::EntryPayload::Normal(batch) => Some(Payload::Batch(batch.encoded().clone())),
            openraft::EntryPayload::Membership(membership) => {
                Some(Payload::Membership(membership_to_proto(membership)))
            }
        },
    }
}

/// Decodes a log entry.
///
/// # Errors
///
/// It has no position, or a membership that is none.
pub fn entry_from_proto(entry: internal::Entry) -> Result<Entry, Malformed> {
    use internal::entry::Payload;
    let log_id = entry.log_id.ok_or(Malformed("an entry without a position"))?;
    Ok(Entry {
        log_id: log_id_from_proto(&log_id),
        payload: match entry.payload {
            None => openraft::EntryPayload::Blank,
            Some(Payload::Batch(batch)) => openraft::EntryPayload::Normal(Batch::from_encoded(batch)),
            Some(Payload::Membership(membership)) => {
                openraft::EntryPayload::Membership(membership_from_proto(membership)?)
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use crate::store::LogTime;

    fn node(n: u64) -> MemberInfo {
        MemberInfo { name: format!("node-{n}"), rpc_addr: format!("127.0.0.1:{}", 8400 + n) }
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let nodes: BTreeMap<NodeId, MemberInfo> = (1..=4).map(|n| (n, node(n))).collect();
        let joint = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2, 4])];
        let membership = Membership::new(joint, nodes).expect("membership");
        let payloads = [
            openraft::EntryPayload::Blank,
            openraft::EntryPayload::Normal(Batch::new(&[command::set("k", "v")], LogTime::from_millis(3))),
            openraft::EntryPayload::Membership(membership),
        ];
        for payload in payloads {
            let entry = Entry { log_id: log_id(3, 8), payload };
            assert_eq!(entry_from_proto(entry_to_proto(&entry)).expect("decode"), entry);
        }
    }

    #[test]
    fn votes_come_back_as_they_were() {
        for vote in [Vote::new(3, 7), Vote::new_committed(4, 9)] {
            assert_eq!(vote_from_proto(&vote_to_proto(&vote)), vote);
        }
    }

    #[test]
    fn no_membership_comes_back_as_it_was() {
        let none = StoredMembership::default();
        assert_eq!(stored_membership_from_proto(stored_membership_to_proto(&none)).expect("decode"), none);
        assert_eq!(stored_membership_from_proto(internal::StoredMembership::default()).expect("decode"), none);
    }

    #[test]
    fn a_membership_with_an_unknown_voter_is_refused() {
        let config = internal::Voters { node_ids: vec![1] };
        let membership = internal::Membership { configs: vec![config], nodes: vec![] };
        assert!(membership_from_proto(membership).is_err());
    }
}
