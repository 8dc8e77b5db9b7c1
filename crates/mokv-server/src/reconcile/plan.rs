//! What the membership should be, given what gossip sees: one change at a time, as a plain value.
//!
//! The rules, in the order of their weight:
//!
//! 1. No change is planned that its voters could not commit, or that leaves a set of voters of which fewer than a majority
//!    are healthy: heard of by the leader lately, and not failed, leaving or gone in gossip.
//! 2. A node gets a vote only when it has copied the data and was alive for [`Policy::stable_for`].
//! 3. A voter loses its place when it has left; when a node that came back under its name with another identity, on an
//!    empty disk, has caught up (one joint change swaps the two); or when gossip says that it failed, and the leader has
//!    not heard of it either, for [`Policy::failed_grace`]. Failures alone never leave fewer than
//!    [`Policy::voters_min`] voters: on how few disks an acknowledged write may be is the operator's to say.
//! 4. The voters are as many as there can be, up to [`Policy::voters_max`], in an odd number; the others stay learners, and
//!    one too many becomes one. The leader is never demoted. Whoever votes keeps its vote, unless another is healthier.
//! 5. What gossip has never shown to this node is nobody's business here: a member that an operator added, and that takes no
//!    part in gossip, is neither promoted nor demoted nor removed. It counts as healthy while the leader hears of it.
//!
//! A change leads to a membership in which the same peers ask for another change, or for none: no cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::{Peer, PeerState, PeerTags, Peers};
use crate::raft::types::{MemberInfo, NodeId};
use crate::raft::{Member, Members, MembersState};

/// How the membership follows gossip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// More voters make each write wait for more disks, and add little safety.
    pub voters_max: usize,
    /// Failures alone leave at least so many voters.
    pub voters_min: usize,
    /// A node that has been alive for so long may vote.
    pub stable_for: Duration,
    /// A member that has failed for so long is removed; `None`: never.
    pub failed_grace: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            voters_max: 7,
            voters_min: 3,
            stable_for: Duration::from_secs(1),
            failed_grace: Some(Duration::from_secs(600)),
        }
    }
}

/// What the leader sees.
pub struct View<'a> {
    /// The leader.
    pub node_id: NodeId,
    /// Its cluster.
    pub cluster_id: &'a str,
    /// The membership.
    pub members: &'a Members,
    /// A member that was heard of within this time can be reached.
    pub heard_within: Duration,
    /// The nodes in gossip; none where there is no gossip.
    pub peers: Option<&'a Peers>,
    /// What gossip has shown of the members so far.
    pub sightings: &'a Sightings,
    /// Nodes with which the last attempt failed a moment ago.
    pub deferred: &'a BTreeSet<NodeId>,
}

/// A change of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Finish a change that was interrupted between its two steps.
    FinishJoint {
        /// Whether those that lose their votes stay as learners.
        keep_removed: bool,
    },
    /// A member has another name or address.
    UpdateInfo(NodeId, MemberInfo),
    /// The leader itself has left gossip: another voter is to lead.
    HandOver,
    /// Change the voters, in one joint change.
    Voters {
        /// Learners that get a vote.
        promote: BTreeSet<NodeId>,
        /// Voters that become learners.
        demote: BTreeSet<NodeId>,
        /// Voters that are to be members no more. Where others are demoted they are learners at first.
        remove: BTreeSet<NodeId>,
    },
    /// A learner is to be a member no more.
    RemoveLearner(NodeId),
    /// A node in gossip is to copy the data.
    AddLearner(NodeId, MemberInfo),
}

/// Why something is not as it should be, and stays like that for now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Waiting {
    /// A member is to go, and the rest would not be safe without it.
    NoQuorumWithout(Vec<String>),
    /// A voter has failed for long, and without it too few would be left.
    TooFewWithout(Vec<String>),
    /// A node has the name of a member that is up.
    NameTaken(String),
    /// A node belongs to another cluster.
    OtherCluster {
        /// Its name.
        name: String,
        /// Its cluster.
        theirs: String,
        /// The cluster of this node.
        ours: String,
    },
    /// Several nodes claim to be the same.
    SameIdentity(Vec<String>),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoQuorumWithout(names) => write!(
                f,
                "{} should go, and stays a member: without a majority of healthy voters nothing is changed",
                names.join(", ")
            ),
            Self::TooFewWithout(names) => write!(
                f,
                "{} failed long ago, and stays a voter until another node takes its place: `mokv member remove` removes it \
                 all the same",
                names.join(", ")
            ),
            Self::NameTaken(name) => write!(
                f,
                "a node called {name} can't join: a member of that name is up. Each node needs a name of its own"
            ),
            Self::OtherCluster { name, theirs, ours } => write!(
                f,
                "{name} belongs to cluster {theirs}, this is cluster {ours}: clusters never merge. Give one of them other \
                 addresses to join, or move the data directory of {name} away and start it again"
            ),
            Self::SameIdentity(names) => write!(
                f,
                "{} have the same node id: one data directory is a copy of another. Stop one of them, move its directory \
                 away and start it again",
                names.join(" and ")
            ),
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The next change.
    pub change: Option<Change>,
    /// What can't be done.
    pub waiting: BTreeSet<Waiting>,
}

/// What gossip has shown of the members since this node started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Members that it has shown, and since when it shows them no more.
    members: BTreeMap<NodeId, Option<Instant>>,
}

impl Sightings {
    /// Takes note of what gossip shows now.
    pub fn update(&mut self, members: &Members, peers: &Peers, now: Instant) {
        let shown: BTreeSet<NodeId> = peers.values().filter_map(|peer| Some(peer.tags.as_ref()?.node_id)).collect();
        self.members.retain(|id, _| members.get(*id).is_some());
        for member in &members.members {
            match shown.contains(&member.node_id) {
                true => drop(self.members.insert(member.node_id, None)),
                false => {
                    if let Some(missing) = self.members.get_mut(&member.node_id) {
                        missing.get_or_insert(now);
                    }
                }
            }
        }
    }

    fn missing_since(&self, node_id: NodeId) -> Option<Instant> {
        self.members.get(&node_id).copied().flatten()
    }
}

/// Decides what is to be done next. The caller leads, and has peers that include itself.
pub fn plan(view: &View<'_>, policy: &Policy, now: Instant) -> Plan {
    let mut plan = Plan::default();
    let Some(peers) = view.peers else {
        plan.change = finish(view, |_| false);
        return plan;
    };
    let cluster = Cluster::new(view, policy, peers, now);
    cluster.foreigners(&mut plan.waiting);
    plan.change = match view.members.state {
        MembersState::Uncommitted => None,
        MembersState::Joint { .. } => finish(view, |id| cluster.stays(id)),
        // Without a majority nothing would be committed.
        MembersState::Settled if !cluster.can_commit() => {
            cluster.say_who_is_to_go(&mut plan.waiting);
            None
        }
        MembersState::Settled => cluster
            .update_info(&mut plan.waiting)
            .or_else(|| cluster.hand_over())
            .or_else(|| cluster.change_voters(&mut plan.waiting))
            .or_else(|| cluster.remove_learner())
            .or_else(|| cluster.add_learner(&mut plan.waiting)),
    };
    plan
}

/// The other half of a change that its leader did not live to finish. Who interrupted it is not known; a voter that gossip
/// would keep is kept, and can still be removed.
fn finish(view: &View<'_>, stays: impl Fn(NodeId) -> bool) -> Option<Change> {
    match &view.members.state {
        MembersState::Joint { leaving } => {
            Some(Change::FinishJoint { keep_removed: leaving.iter().any(|id| stays(*id)) })
        }
        _ => None,
    }
}

/// How a member is doing, as gossip sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Gossip has never shown it.
    Unknown,
    Alive {
        since: Instant,
    },
    Leaving,
    Left {
        since: Instant,
    },
    /// It failed, or gossip shows it no more.
    Gone {
        since: Instant,
    },
}

/// Why a member is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Left,
    /// This node has come in its place. It votes as soon as it can; until then its predecessor keeps its vote.
    Replaced(NodeId),
    Failed,
}

/// A member, and what there is to know of it.
struct Standing<'a> {
    member: &'a Member,
    presence: Presence,
    /// Whether the leader heard of it lately.
    is_reachable: bool,
    /// Whether it can be relied on.
    is_healthy: bool,
    /// Whether it may get a vote.
    is_ready: bool,
    going: Option<Reason>,
}

impl Standing<'_> {
    fn id(&self) -> NodeId {
        self.member.node_id
    }

    fn name(&self) -> String {
        self.member.info.name.clone()
    }
}

struct Cluster<'a> {
    view: &'a View<'a>,
    policy: &'a Policy,
    peers: &'a Peers,
    standings: BTreeMap<NodeId, Standing<'a>>,
}

impl<'a> Cluster<'a> {
    fn new(view: &'a View<'a>, policy: &'a Policy, peers: &'a Peers, now: Instant) -> Self {
        let standings = view.members.members.iter().map(|member| {
            let presence = presence(view, peers, member.node_id);
            let is_leader = member.node_id == view.node_id;
            let is_reachable = is_leader || is_heard(member, presence, view.heard_within, now);
            let is_alive = matches!(presence, Presence::Alive { .. });
            let is_stable = matches!(presence, Presence::Alive { since } if since + policy.stable_for <= now);
            let standing = Standing {
                member,
                presence,
                is_reachable,
                is_healthy: is_leader || is_reachable && (is_alive || presence == Presence::Unknown),
                is_ready: !member.is_voter && is_reachable && is_stable && member.has_caught_up(),
                going: None,
            };
            (member.node_id, standing)
        });
        let mut cluster = Self { view, policy, peers, standings: standings.collect() };
        let going: Vec<(NodeId, Reason)> =
            cluster.standings.values().filter_map(|of| Some((of.id(), cluster.reason_to_go(of, now)?))).collect();
        for (node_id, reason) in going {
            if let Some(of) = cluster.standings.get_mut(&node_id) {
                of.going = Some(reason);
                of.is_ready = false;
            }
        }
        cluster
    }

    fn reason_to_go(&self, of: &Standing<'_>, now: Instant) -> Option<Reason> {
        if matches!(of.presence, Presence::Left { .. }) {
            return Some(Reason::Left);
        }
        // While the leader hears of a member it is not gone, whatever gossip says.
        if let Some(successor) = self.successor(of) {
            return Some(Reason::Replaced(successor));
        }
        match (of.presence, self.policy.failed_grace) {
            (Presence::Gone { since }, Some(grace)) if since + grace <= now && !of.member.was_heard_within(grace) => {
                Some(Reason::Failed)
            }
            _ => None,
        }
    }

    /// The node that is alive under the name of a member which is not.
    fn successor(&self, of: &Standing<'_>) -> Option<NodeId> {
        let is_heard = of.member.was_heard_within(self.view.heard_within);
        if is_heard || matches!(of.presence, Presence::Alive { .. }) {
            return None;
        }
        let namesake = self.peers.get(&of.member.info.name)?;
        self.candidate(namesake).map(|tags| tags.node_id).filter(|id| *id != of.id())
    }

    /// What a peer says of itself, if it is alive and may be a member of this cluster.
    fn candidate(&self, peer: &'a Peer) -> Option<&'a PeerTags> {
        let tags = peer.tags.as_ref().filter(|_| peer.state == PeerState::Alive)?;
        tags.cluster_id.as_ref().is_none_or(|theirs| theirs == self.view.cluster_id).then_some(tags)
    }

    fn foreigners(&self, waiting: &mut BTreeSet<Waiting>) {
        for (theirs, names) in foreign_clusters(self.peers, self.view.cluster_id) {
            let ours = self.view.cluster_id.to_owned();
            waiting.extend(names.into_iter().map(|name| Waiting::OtherCluster {
                name,
                theirs: theirs.clone(),
                ours: ours.clone(),
            }));
        }
    }

    fn voters(&self) -> impl Iterator<Item = &Standing<'a>> {
        self.standings.values().filter(|of| of.member.is_voter)
    }

    fn learners(&self) -> impl Iterator<Item = &Standing<'a>> {
        self.standings.values().filter(|of| !of.member.is_voter)
    }

    /// Whether a member of which nobody knows why it is about to lose its vote had better stay.
    fn stays(&self, node_id: NodeId) -> bool {
        let of = self.standings.get(&node_id);
        of.is_some_and(|of| of.going.is_none() && matches!(of.presence, Presence::Alive { .. } | Presence::Gone { .. }))
    }

    /// Whether a majority of the voters can be reached.
    fn can_commit(&self) -> bool {
        self.standings.get(&self.view.node_id).is_some_and(|leader| leader.member.is_voter)
            && is_majority(self.voters().filter(|of| of.is_reachable).count(), self.voters().count())
    }

    fn say_who_is_to_go(&self, waiting: &mut BTreeSet<Waiting>) {
        let going = self.standings.values().filter(|of| of.going.is_some() && of.id() != self.view.node_id);
        let names: Vec<String> = going.map(Standing::name).collect();
        if !names.is_empty() {
            waiting.insert(Waiting::NoQuorumWithout(names));
        }
    }

    fn update_info(&self, waiting: &mut BTreeSet<Waiting>) -> Option<Change> {
        let mut update = None;
        for of in self.standings.values() {
            let alive: Vec<(&Peer, &PeerTags)> = self
                .peers
                .values()
                .filter_map(|peer| Some((peer, self.candidate(peer)?)))
                .filter(|(_, tags)| tags.node_id == of.id())
                .collect();
            match alive[..] {
                [] => {}
                [(peer, tags)] => {
                    let known = &of.member.info;
                    let others = || self.standings.values().filter(|other| other.id() != of.id());
                    let is_free = others().all(|other| other.member.info.name != peer.name);
                    let name = if is_free { &peer.name } else { &known.name };
                    let info = MemberInfo { name: name.clone(), rpc_addr: tags.rpc_addr.clone() };
                    if info != *known && !self.view.deferred.contains(&of.id()) {
                        update = update.or(Some(Change::UpdateInfo(of.id(), info)));
                    }
                }
                [..] => {
                    let names = alive.iter().map(|(peer, _)| peer.name.clone()).collect();
                    waiting.insert(Waiting::SameIdentity(names));
                }
            }
        }
        update
    }

    fn hand_over(&self) -> Option<Change> {
        let leader = self.standings.get(&self.view.node_id)?;
        let has_heir = self.voters().any(|of| of.is_healthy && of.id() != leader.id());
        (matches!(leader.presence, Presence::Left { .. }) && has_heir).then_some(Change::HandOver)
    }

    fn change_voters(&self, waiting: &mut BTreeSet<Waiting>) -> Option<Change> {
        let is_ready = |id: &NodeId| self.standings.get(id).is_some_and(|of| of.is_ready);
        let goes = |of: &Standing<'_>| match of.going {
            // It hands over first.
            _ if of.id() == self.view.node_id => false,
            Some(Reason::Replaced(successor)) => is_ready(&successor),
            Some(Reason::Left | Reason::Failed) => true,
            None => false,
        };
        let mut going: BTreeSet<NodeId> = self.voters().filter(|of| goes(of)).map(Standing::id).collect();
        let mut voters = self.voters_without(&going);
        let failed = |id: &NodeId| self.standings.get(id).is_some_and(|of| of.going == Some(Reason::Failed));
        if voters.len() < self.policy.voters_min && going.iter().any(failed) {
            waiting.insert(Waiting::TooFewWithout(self.names(going.iter().filter(|id| failed(id)))));
            going.retain(|id| !failed(id));
            voters = self.voters_without(&going);
        }
        let before: BTreeSet<NodeId> = self.voters().map(Standing::id).collect();
        if voters == before {
            return None;
        }
        let stay: BTreeSet<NodeId> = before.difference(&going).copied().collect();
        if !self.is_safe(&stay) || !self.is_safe(&voters) {
            let affected = if going.is_empty() { before.difference(&voters).copied().collect() } else { going };
            waiting.insert(Waiting::NoQuorumWithout(self.names(affected.iter())));
            return None;
        }
        Some(Change::Voters {
            promote: voters.difference(&before).copied().collect(),
            demote: stay.difference(&voters).copied().collect(),
            remove: going,
        })
    }

    /// The voters that there should be when those `going` are gone.
    fn voters_without(&self, going: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let fixed = |of: &Standing<'_>| of.id() == self.view.node_id || of.presence == Presence::Unknown;
        let mut stay: Vec<&Standing<'_>> = self.voters().filter(|of| !going.contains(&of.id())).collect();
        stay.sort_by_key(|of| (!fixed(of), !of.is_healthy, of.name(), of.id()));
        let mut ready: Vec<&Standing<'_>> = self.learners().filter(|of| of.is_ready).collect();
        // A successor has the first claim to the place that becomes free.
        let succeeds = |id: NodeId| self.voters().any(|of| of.going == Some(Reason::Replaced(id)));
        ready.sort_by_key(|of| (!succeeds(of.id()), of.name(), of.id()));
        let fixed = stay.iter().filter(|of| fixed(of)).count();
        let possible = self.policy.voters_max.min(stay.len() + ready.len());
        let odd = if possible.is_multiple_of(2) { possible.saturating_sub(1) } else { possible };
        stay.into_iter().chain(ready).take(odd.max(fixed).max(1)).map(Standing::id).collect()
    }

    fn is_safe(&self, voters: &BTreeSet<NodeId>) -> bool {
        let healthy = voters.iter().filter(|id| self.standings.get(id).is_some_and(|of| of.is_healthy));
        is_majority(healthy.count(), voters.len())
    }

    fn names<'i>(&self, ids: impl Iterator<Item = &'i NodeId>) -> Vec<String> {
        ids.filter_map(|id| self.standings.get(id)).map(Standing::name).collect()
    }

    fn remove_learner(&self) -> Option<Change> {
        self.learners().find(|of| of.going.is_some()).map(|of| Change::RemoveLearner(of.id()))
    }

    fn add_learner(&self, waiting: &mut BTreeSet<Waiting>) -> Option<Change> {
        let mut add = None;
        for peer in self.peers.values() {
            let Some(tags) = self.candidate(peer) else { continue };
            if self.standings.contains_key(&tags.node_id) || tags.node_id == self.view.node_id {
                continue;
            }
            let namesake = self.standings.values().find(|of| of.member.info.name == peer.name);
            if namesake.is_some_and(|of| self.successor(of) != Some(tags.node_id)) {
                waiting.insert(Waiting::NameTaken(peer.name.clone()));
            } else if !self.view.deferred.contains(&tags.node_id) {
                let info = MemberInfo { name: peer.name.clone(), rpc_addr: tags.rpc_addr.clone() };
                add = add.or(Some(Change::AddLearner(tags.node_id, info)));
            }
        }
        add
    }
}

/// Nodes that are up and belong to other clusters, by cluster.
pub fn foreign_clusters(peers: &Peers, ours: &str) -> BTreeMap<String, Vec<String>> {
    let mut clusters = BTreeMap::<String, Vec<String>>::new();
    for peer in peers.values().filter(|peer| peer.state == PeerState::Alive) {
        let theirs = peer.tags.as_ref().and_then(|tags| tags.cluster_id.as_ref());
        if let Some(theirs) = theirs.filter(|theirs| *theirs != ours) {
            clusters.entry(theirs.clone()).or_default().push(peer.name.clone());
        }
    }
    clusters
}

/// How a node is doing. Of several that claim its identity, the one that is best off: a node that was started under
/// another name leaves the old one behind as failed.
fn presence(view: &View<'_>, peers: &Peers, node_id: NodeId) -> Presence {
    let claims = peers.values().filter(|peer| {
        peer.tags.as_ref().is_some_and(|tags| {
            tags.node_id == node_id && tags.cluster_id.as_deref().is_none_or(|theirs| theirs == view.cluster_id)
        })
    });
    let rank = |peer: &&Peer| match peer.state {
        PeerState::Alive => 0,
        PeerState::Leaving => 1,
        PeerState::Failed => 2,
        PeerState::Left => 3,
    };
    match (claims.min_by_key(rank), view.sightings.missing_since(node_id)) {
        (Some(peer), _) => match peer.state {
            PeerState::Alive => Presence::Alive { since: peer.since },
            PeerState::Leaving => Presence::Leaving,
            PeerState::Failed => Presence::Gone { since: peer.since },
            PeerState::Left => Presence::Left { since: peer.since },
        },
        (None, Some(since)) => Presence::Gone { since },
        (None, None) => Presence::Unknown,
    }
}

/// Whether the leader heard of a member lately, and since gossip said that it is gone.
fn is_heard(member: &Member, presence: Presence, within: Duration, now: Instant) -> bool {
    let Some(ago) = member.last_heard.filter(|ago| *ago < within) else { return false };
    match presence {
        Presence::Left { since } | Presence::Gone { since } => since + ago < now,
        Presence::Unknown | Presence::Alive { .. } | Presence::Leaving => true,
    }
}

fn is_majority(some: usize, all: usize) -> bool {
    some > all / 2
}
