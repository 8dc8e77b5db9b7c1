//! Nodes that come and go, what gossip says of them, and a membership that plans change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::{Peer, PeerState, PeerTags, Peers};
use crate::raft::types::{MemberInfo, NodeId};
use crate::raft::{Member, Members, MembersState};
use crate::reconcile::{Change, Plan, Policy, Sightings, View, plan};

pub(super) const OURS: &str = "ours";

/// As with the default timeouts.
const HEARD_WITHIN: Duration = Duration::from_millis(2800);

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) info: MemberInfo,
    pub(super) is_voter: bool,
}

/// Everything that there is to see. The test moves the clock.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) leader: NodeId,
    pub(super) members: BTreeMap<NodeId, Record>,
    pub(super) state: MembersState,
    pub(super) peers: Peers,
    /// Since when the leader has not heard of these.
    pub(super) silent: BTreeMap<NodeId, Instant>,
    /// Nodes that lack data.
    pub(super) behind: BTreeSet<NodeId>,
    pub(super) deferred: BTreeSet<NodeId>,
    /// What each node that is up has seen.
    pub(super) sightings: BTreeMap<NodeId, Sightings>,
    pub(super) policy: Policy,
}

impl World {
    /// A cluster of these voters, all of which have been up for long. Node n is called `n<n>`.
    pub(super) fn new(voters: &[NodeId]) -> Self {
        let mut world = Self {
            now: Instant::now(),
            leader: voters[0],
            members: BTreeMap::new(),
            state: MembersState::Settled,
            peers: Peers::new(),
            silent: BTreeMap::new(),
            behind: BTreeSet::new(),
            deferred: BTreeSet::new(),
            sightings: BTreeMap::new(),
            policy: Policy::default(),
        };
        for id in voters {
            world.up(*id);
            world.member(*id, true);
        }
        world.pass(Duration::from_secs(3600));
        world
    }

    /// A member, whatever gossip says.
    pub(super) fn member(&mut self, id: NodeId, is_voter: bool) {
        let info = MemberInfo { name: name(id), rpc_addr: addr(id) };
        self.members.insert(id, Record { info, is_voter });
    }

    /// A node that is up, in gossip.
    pub(super) fn up(&mut self, id: NodeId) {
        self.up_as(id, &name(id));
    }

    /// A node that is up under the name of another.
    pub(super) fn up_as(&mut self, id: NodeId, name: &str) {
        self.silent.remove(&id);
        let tags = PeerTags {
            node_id: id,
            cluster_id: self.members.contains_key(&id).then(|| OURS.to_owned()),
            rpc_addr: addr(id),
            version: "1".into(),
        };
        let peer = Peer {
            name: name.to_owned(),
            gossip_addr: ([127, 0, 0, 1], 1).into(),
            state: PeerState::Alive,
            since: self.now,
            tags: Some(tags),
        };
        self.peers.insert(name.to_owned(), peer);
    }

    /// Gossip has another opinion of a node. Whoever does not answer is silent from now on.
    pub(super) fn set_state(&mut self, id: NodeId, state: PeerState) {
        let now = self.now;
        if state == PeerState::Alive {
            self.silent.remove(&id);
        } else {
            self.silent.entry(id).or_insert(now);
        }
        let peer = self.peers.values_mut().find(|peer| peer.tags.as_ref().is_some_and(|tags| tags.node_id == id));
        let peer = peer.expect("in gossip");
        (peer.state, peer.since) = (state, now);
    }

    pub(super) fn tags(&mut self, id: NodeId) -> &mut PeerTags {
        let tags = self.peers.values_mut().filter_map(|peer| peer.tags.as_mut());
        tags.into_iter().find(|tags| tags.node_id == id).expect("in gossip")
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.look();
        self.now += time;
    }

    /// Everybody who is up looks at gossip.
    fn look(&mut self) {
        let members = self.membership();
        let looking: Vec<NodeId> = self.members.keys().copied().filter(|id| !self.silent.contains_key(id)).collect();
        for id in looking {
            self.sightings.entry(id).or_default().update(&members, &self.peers, self.now);
        }
    }

    fn membership(&self) -> Members {
        let members = self.members.iter().map(|(id, record)| Member {
            node_id: *id,
            info: record.info.clone(),
            is_voter: record.is_voter,
            lag: Some(if self.behind.contains(id) { 1_000_000 } else { 0 }),
            last_heard: Some(self.silent.get(id).map_or(Duration::ZERO, |since| self.now - *since)),
            has_entries: !self.behind.contains(id),
        });
        Members::of(members.collect(), self.state.clone())
    }

    pub(super) fn plan_with(&mut self, has_gossip: bool) -> Plan {
        self.look();
        let view = View {
            node_id: self.leader,
            cluster_id: OURS,
            members: &self.membership(),
            heard_within: HEARD_WITHIN,
            peers: has_gossip.then_some(&self.peers),
            sightings: self.sightings.entry(self.leader).or_default(),
            deferred: &self.deferred,
        };
        plan(&view, &self.policy, self.now)
    }

    pub(super) fn plan(&mut self) -> Plan {
        self.plan_with(true)
    }

    pub(super) fn change(&mut self) -> Option<Change> {
        self.plan().change
    }

    /// Does what is planned until nothing is, and returns what was done.
    pub(super) fn settle(&mut self) -> Vec<Change> {
        let mut done = Vec::new();
        let mut seen = vec![self.members.clone()];
        while let Some(change) = self.change() {
            self.apply(&change);
            done.push(change);
            assert!(!seen.contains(&self.members), "in a circle: {done:#?}");
            seen.push(self.members.clone());
        }
        done
    }

    /// The membership after a change. Nodes that are added get the data at once, unless they are said to be behind.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::FinishJoint { .. } | Change::HandOver => panic!("not by these tests: {change:?}"),
            Change::UpdateInfo(id, info) => self.members.get_mut(id).expect("a member").info = info.clone(),
            Change::RemoveLearner(id) => {
                let removed = self.members.remove(id).expect("a member");
                assert!(!removed.is_voter);
            }
            Change::AddLearner(id, info) => {
                let replaced = self.members.insert(*id, Record { info: info.clone(), is_voter: false });
                assert_eq!(replaced, None, "no member before");
                self.tags(*id).cluster_id = Some(OURS.into());
            }
            Change::Voters { promote, demote, remove } => {
                assert!(!promote.is_empty() || !demote.is_empty() || !remove.is_empty());
                for id in promote {
                    let member = self.members.get_mut(id).expect("a member");
                    assert!(!member.is_voter, "{id} has a vote already");
                    member.is_voter = true;
                }
                for id in demote.iter().chain(remove) {
                    let member = self.members.get_mut(id).expect("a member");
                    assert!(member.is_voter, "{id} has no vote");
                    member.is_voter = false;
                    if demote.is_empty() {
                        self.members.remove(id);
                    }
                }
            }
        }
    }

    pub(super) fn voters(&self) -> Vec<NodeId> {
        self.members.iter().filter(|(_, record)| record.is_voter).map(|(id, _)| *id).collect()
    }

    pub(super) fn learners(&self) -> Vec<NodeId> {
        self.members.iter().filter(|(_, record)| !record.is_voter).map(|(id, _)| *id).collect()
    }

    /// Whether a node answers, and gossip knows.
    pub(super) fn is_healthy(&self, id: NodeId) -> bool {
        let says = |peer: &Peer| peer.tags.as_ref().is_some_and(|tags| tags.node_id == id);
        let peer = self.peers.values().find(|peer| says(peer));
        !self.silent.contains_key(&id) && peer.is_some_and(|peer| peer.state == PeerState::Alive)
    }
}

pub(super) fn name(id: NodeId) -> String {
    format!("n{id}")
}

pub(super) fn addr(id: NodeId) -> String {
    format!("host-{id}:8400")
}
