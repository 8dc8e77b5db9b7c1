//! Where nodes are by now, as far as gossip knows.
//!
//! The membership has an address for each member, which is that of yesterday when machines or pods got new ones over night.
//! Then nobody could reach anybody, and nobody would lead and write down the new ones. So who does not reach a member
//! tries the address that gossip has. Nothing is misdelivered: a call names the node that is meant.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::discovery::{PeerState, Peers};
use crate::peer::{Caller, Lane, Peer, PeerNetwork, Target};
use crate::raft::types::NodeId;

/// A network that also knows what gossip says of addresses.
pub struct Addresses {
    network: Arc<dyn PeerNetwork>,
    known: Mutex<BTreeMap<NodeId, String>>,
}

impl Addresses {
    /// Of the nodes that `network` reaches. None is known yet.
    pub fn new(network: Arc<dyn PeerNetwork>) -> Self {
        Self { network, known: Mutex::default() }
    }

    /// Takes what gossip has now. Of several nodes that claim to be the same the one that is up is believed.
    pub fn update(&self, peers: &Peers) {
        let mut known = BTreeMap::new();
        for is_alive in [false, true] {
            for peer in peers.values().filter(|peer| (peer.state == PeerState::Alive) == is_alive) {
                if let Some(tags) = &peer.tags {
                    known.insert(tags.node_id, tags.rpc_addr.clone());
                }
            }
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

impl PeerNetwork for Addresses {
    fn peer(&self, caller: &Caller, target: &Target, lane: Lane) -> Arc<dyn Peer> {
        self.network.peer(caller, target, lane)
    }

    fn address_of(&self, node_id: NodeId) -> Option<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&node_id).cloned()
    }
}
