//! The newest start of each member that the cluster knows: see [`incarnation`](crate::incarnation).

use std::collections::BTreeMap;

use mokv_proto::internal::{MemberStart, RecordStart};

use super::hash;
use crate::incarnation::{Lineage, Start};
use crate::raft::types::NodeId;

/// The starts of the members. Those of nodes that were removed are forgotten, so there are as few as there are members.
#[derive(Clone, Default)]
pub(super) struct MemberStarts {
    by_node: BTreeMap<NodeId, Start>,
    hash: u128,
}

impl MemberStarts {
    /// Records a start, if it comes after the one that is known.
    pub(super) fn record(&mut self, record: &RecordStart) {
        let Some(lineage) = Lineage::from_parts(record.incarnation, record.numbers.clone()) else { return };
        let known = self.get(record.node_id);
        if known.is_none_or(|known| lineage.check_after(known).is_ok()) {
            self.insert(record.node_id, lineage.start());
        }
    }

    /// Forgets all nodes but these.
    pub(super) fn retain(&mut self, members: &[NodeId]) {
        let Self { by_node, hash } = self;
        by_node.retain(|node_id, start| {
            let is_member = members.contains(node_id);
            if !is_member {
                *hash = hash.wrapping_sub(hash::start(*node_id, start.incarnation, start.number));
            }
            is_member
        });
    }

    pub(super) fn get(&self, node_id: NodeId) -> Option<Start> {
        self.by_node.get(&node_id).copied()
    }

    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    /// The starts as a snapshot has them.
    pub(super) fn export(&self) -> Vec<MemberStart> {
        let starts = self.by_node.iter();
        starts
            .map(|(id, start)| MemberStart { node_id: *id, incarnation: start.incarnation, number: start.number })
            .collect()
    }

    /// Takes in the starts of a snapshot.
    pub(super) fn load(starts: &[MemberStart]) -> Self {
        let mut loaded = Self::default();
        for start in starts {
            loaded.insert(start.node_id, Start { incarnation: start.incarnation, number: start.number });
        }
        loaded
    }

    fn insert(&mut self, node_id: NodeId, start: Start) {
        if let Some(old) = self.by_node.insert(node_id, start) {
            self.hash = self.hash.wrapping_sub(hash::start(node_id, old.incarnation, old.number));
        }
        self.hash = self.hash.wrapping_add(hash::start(node_id, start.incarnation, start.number));
    }
}
