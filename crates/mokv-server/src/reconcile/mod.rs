//! The membership follows gossip.
//!
//! Every node runs the loop; only that of the leader acts. It compares the peers in gossip with the membership whenever
//! one of them changes, and every few hundred milliseconds, so no event can be missed; what is to be done next is decided
//! by [`plan()`], and done on just the membership that was decided on. An interrupted change of the membership is finished
//! here too, with or without gossip.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mokv_proto::internal::IdentifyResponse;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

pub use self::plan::{Change, Plan, Policy, Sightings, View, Waiting, foreign_clusters, plan};
use crate::discovery::Peers;
use crate::error::RequestError;
use crate::maintenance;
use crate::node::{Node, leads};
use crate::raft::types::{MemberInfo, NodeId};
use crate::raft::{ChangeError, Member, Members, MembersChange};

/// What changes without an event: time, and how far learners have come.
const TICK: Duration = Duration::from_millis(250);

/// A change that takes longer is interrupted; what is left of it is finished, or decided anew.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// A node that is up says who it is in far less.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node that could not be taken in, or did not answer at its new address, is left alone; each further failure
/// doubles it.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// And at most this long.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The gossip that a node follows.
#[derive(Clone)]
pub struct Following {
    /// The nodes in it, this one included.
    pub peers: watch::Receiver<Arc<Peers>>,
    /// How to follow it.
    pub policy: Policy,
}

/// Starts the loop of a node. `following`: there may be no gossip, or none yet.
pub(crate) fn start(node: &Node, following: watch::Receiver<Option<Following>>) {
    let reconciler = Reconciler {
        node: node.clone(),
        following,
        sightings: Sightings::default(),
        deferred: BTreeMap::new(),
        waiting: BTreeSet::new(),
    };
    node.tasks().spawn(reconciler.run());
}

struct Reconciler {
    node: Node,
    following: watch::Receiver<Option<Following>>,
    sightings: Sightings,
    deferred: BTreeMap<NodeId, Deferred>,
    /// What was said to wait.
    waiting: BTreeSet<Waiting>,
}

/// A node with which the last attempt failed.
struct Deferred {
    until: Instant,
    pause: Duration,
}

/// Why a change was not made.
enum Failure {
    /// The membership or its leader is another by now: look again.
    Overtaken(String),
    /// The node did not answer as it should.
    Node(NodeId, String),
}

impl Reconciler {
    async fn run(mut self) {
        let mut leadership = self.node.raft().leadership();
        let mut following = self.following.borrow_and_update().clone();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return },
                changed = self.following.changed() => match changed {
                    Ok(()) => following = self.following.borrow_and_update().clone(),
                    Err(_) => return,
                },
                () = peers_changed(&mut following) => {}
                _ = ticks.tick() => {}
            }
            // One change may make the next one possible.
            while self.step(&mut following).await {}
        }
    }

    /// Looks at everything and makes the next change. Whether it made one.
    async fn step(&mut self, following: &mut Option<Following>) -> bool {
        let now = Instant::now();
        let members = self.node.raft().membership();
        let policy = following.as_ref().map(|following| following.policy.clone()).unwrap_or_default();
        let peers = following.as_mut().map(|following| following.peers.borrow_and_update().clone());
        if let Some(peers) = &peers {
            self.sightings.update(&members, peers, now);
            self.node.note_addresses(peers);
        }
        // Without room, an entry would have to come out of the reserve.
        if !leads(&self.node.raft().leadership().borrow()) || !self.node.log().has_room() {
            self.deferred.clear();
            self.waiting.clear();
            return false;
        }
        let cluster_id = self.node.data_dir().identity().cluster_id.unwrap_or_default();
        let deferred = self.deferred.iter().filter(|(_, deferred)| deferred.until > now).map(|(id, _)| *id).collect();
        let view = View {
            node_id: self.node.node_id(),
            cluster_id: &cluster_id,
            members: &members,
            heard_within: self.node.reachable_within(),
            peers: peers.as_deref(),
            sightings: &self.sightings,
            deferred: &deferred,
        };
        let Plan { change, waiting } = plan(&view, &policy, now);
        self.say(waiting);
        match change {
            Some(change) => self.make(&members, change).await,
            None => false,
        }
    }

    /// Says what has to wait, once.
    fn say(&mut self, waiting: BTreeSet<Waiting>) {
        for news in waiting.difference(&self.waiting) {
            tracing::warn!("{news}");
        }
        self.waiting = waiting;
    }

    async fn make(&mut self, members: &Members, change: Change) -> bool {
        tracing::info!(change = describe(&change, members), "changing the membership");
        match timeout(CHANGE_TIMEOUT, self.carry_out(members, &change)).await {
            Ok(Ok(())) => {
                if let Some(node_id) = subject(&change) {
                    self.deferred.remove(&node_id);
                }
                true
            }
            Ok(Err(Failure::Overtaken(why))) => {
                tracing::info!(why, "the membership was not changed");
                false
            }
            Ok(Err(Failure::Node(node_id, why))) => {
                self.defer(node_id, &why);
                false
            }
            Err(_) => {
                tracing::warn!("the change of the membership is not done after {CHANGE_TIMEOUT:?}");
                if let Some(node_id) = subject(&change) {
                    self.defer(node_id, "no answer");
                }
                false
            }
        }
    }

    fn defer(&mut self, node_id: NodeId, why: &str) {
        let known = self.deferred.get(&node_id);
        let pause = known.map_or(RETRY_MIN, |deferred| (2 * deferred.pause).min(RETRY_MAX));
        if known.is_none() {
            tracing::warn!(node_id, why, "a node in gossip can't be reached, or taken in; trying again now and then");
        }
        self.deferred.insert(node_id, Deferred { until: Instant::now() + pause, pause });
    }

    async fn carry_out(&self, members: &Members, change: &Change) -> Result<(), Failure> {
        let raft = self.node.raft();
        let change = match change.clone() {
            Change::FinishJoint { keep_removed } => MembersChange::Finish { keep_removed },
            Change::RemoveLearner(node_id) => MembersChange::RemoveLearner(node_id),
            Change::Voters { promote, demote, remove } => MembersChange::Voters {
                keep_removed: !demote.is_empty(),
                add: promote,
                remove: demote.into_iter().chain(remove).collect(),
            },
            Change::UpdateInfo(node_id, info) => {
                if node_id != self.node.node_id() {
                    self.identify(node_id, &info).await?;
                }
                MembersChange::SetInfo(node_id, info)
            }
            Change::AddLearner(node_id, info) => {
                let newcomer = self.identify(node_id, &info).await?;
                let failed = |error: RequestError| Failure::Node(node_id, error.to_string());
                self.node.check_welcome(&newcomer).map_err(failed)?;
                self.node.adopt(&newcomer, &info.rpc_addr).await.map_err(failed)?;
                MembersChange::AddLearner(node_id, info)
            }
            Change::HandOver => {
                let may_lead = |to: &Member| self.node.is_reachable(to);
                maintenance::hand_over(self.node.node_id(), raft, may_lead, CHANGE_TIMEOUT).await;
                return Err(Failure::Overtaken("leadership was to be handed over".into()));
            }
        };
        match raft.change_members(members, change).await {
            Ok(_) => Ok(()),
            Err(error @ (ChangeError::InProgress | ChangeError::NotLeader | ChangeError::Unknown(_))) => {
                Err(Failure::Overtaken(error.to_string()))
            }
            Err(ChangeError::Refused(why)) => {
                tracing::error!(why, "a change of the membership was refused");
                Err(Failure::Overtaken(why))
            }
        }
    }

    /// Makes sure that it is this node that answers at this address.
    async fn identify(&self, node_id: NodeId, info: &MemberInfo) -> Result<IdentifyResponse, Failure> {
        let failed = |why: String| Failure::Node(node_id, why);
        let asked = timeout(IDENTIFY_TIMEOUT, self.node.identify(&info.rpc_addr)).await;
        let found = asked.map_err(|_| failed(format!("no answer from {}", info.rpc_addr)))?;
        let found = found.map_err(|error| failed(error.to_string()))?;
        match found.node_id == node_id {
            true => Ok(found),
            false => Err(failed(format!("at {} is node {}, not {node_id}", info.rpc_addr, found.node_id))),
        }
    }
}

/// Completes when the peers have changed.
async fn peers_changed(following: &mut Option<Following>) {
    let is_over = match following {
        Some(following) => following.peers.changed().await.is_err(),
        None => true,
    };
    if is_over {
        std::future::pending::<()>().await;
    }
}

/// The one node that a change is about, and that may be at fault when it fails.
fn subject(change: &Change) -> Option<NodeId> {
    match change {
        Change::UpdateInfo(node_id, _) | Change::AddLearner(node_id, _) => Some(*node_id),
        Change::FinishJoint { .. } | Change::HandOver | Change::Voters { .. } | Change::RemoveLearner(_) => None,
    }
}

/// A change, for people.
fn describe(change: &Change, members: &Members) -> String {
    let name = |id: &NodeId| members.get(*id).map_or_else(|| id.to_string(), |member| member.info.name.clone());
    let names = |ids: &BTreeSet<NodeId>| ids.iter().map(name).collect::<Vec<_>>().join(", ");
    match change {
        Change::FinishJoint { .. } => "an interrupted change is finished".into(),
        Change::UpdateInfo(id, info) => format!("{} is {} at {}", name(id), info.name, info.rpc_addr),
        Change::HandOver => "another node is to lead".into(),
        Change::RemoveLearner(id) => format!("{} goes", name(id)),
        Change::AddLearner(id, info) => format!("{} (node {id}, at {}) copies the data", info.name, info.rpc_addr),
        Change::Voters { promote, demote, remove } => {
            let parts = [("gets a vote", promote), ("becomes a learner", demote), ("goes", remove)];
            let parts = parts.iter().filter(|(_, ids)| !ids.is_empty());
            parts.map(|(what, ids)| format!("{} {what}", names(ids))).collect::<Vec<_>>().join("; ")
        }
    }
}
