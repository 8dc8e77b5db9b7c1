//! Changing who is in the cluster, and who leads. The leader does it; every other node passes the request on.
//!
//! A new node is first a learner that copies the data, and votes only when it has caught up: quorum never depends on a
//! node that has nothing. Each step can be repeated, so a call that was cut off is simply made again.

use std::collections::BTreeSet;
use std::time::Duration;

use mokv_proto::cluster;
use mokv_proto::internal::admin_request::Change;
use mokv_proto::internal::{AdminRequest, AdoptRequest, IdentifyRequest, IdentifyResponse, RemovedNotice};
use tokio::time::{Instant, sleep, timeout_at};

use crate::discovery::PeerState;
use crate::error::RequestError;
use crate::forward;
use crate::maintenance;
use crate::node::{Node, leads};
use crate::peer::Target;
use crate::peer_service::admin_error;
use crate::raft::types::{MemberInfo, NodeId};
use crate::raft::{ChangeError, Member, Members, MembersChange, MembersState};

/// How often a condition of the cluster is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// A voter counts as reachable if the leader heard from it within this many election timeouts.
const REACHABLE_TIMEOUTS: u32 = 2;

/// How long a leader tries to tell a member that it is removed. One that is up hears it in far less.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// A member, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its identity.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it answers.
    pub rpc_addr: String,
    /// Whether it votes.
    pub is_voter: bool,
    /// Whether it leads, as far as this node knows.
    pub is_leader: bool,
    /// Entries that it lacks; only the leader knows.
    pub lag: Option<u64>,
    /// How long ago the leader heard from it; only the leader knows.
    pub last_heard: Option<Duration>,
    /// How it is doing, as this node's gossip sees it; none if it does not.
    pub gossip: Option<PeerState>,
}

/// What a change of the membership needs next.
enum Step {
    /// Nothing: it is done.
    Done,
    /// This, if the membership is still the one that was looked at.
    Change(MembersChange),
    /// That something else comes about first.
    Wait,
}

impl Node {
    /// The members, in the order of their names.
    pub fn members(&self) -> Vec<MemberView> {
        let mut members: Vec<MemberView> = self.raft().members().iter().map(|member| self.view_of(member)).collect();
        members.sort_by(|a, b| (&a.name, a.node_id).cmp(&(&b.name, b.node_id)));
        members
    }

    /// Takes the node at `rpc_addr` into the cluster, as a voter once it has caught up unless `learner` is set.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. Where time runs out the node stays a learner; the same call goes on from there.
    pub async fn add_member(
        &self,
        rpc_addr: String,
        learner: bool,
        deadline: Instant,
    ) -> Result<MemberView, RequestError> {
        self.change(Change::Add(cluster::AddMemberRequest { rpc_addr, learner }), deadline).await
    }

    /// Gives the learner `member` (a node id or a name) a vote when it has caught up.
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub async fn promote_member(&self, member: &str, deadline: Instant) -> Result<MemberView, RequestError> {
        self.change(Change::Promote(cluster::PromoteMemberRequest { member: member.into() }), deadline).await
    }

    /// Removes `member` (a node id or a name) for good.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. Refused where fewer than a majority of the remaining voters were heard of lately, unless
    /// `force` is set.
    pub async fn remove_member(&self, member: &str, force: bool, deadline: Instant) -> Result<(), RequestError> {
        let request = cluster::RemoveMemberRequest { member: member.into(), force };
        self.change(Change::Remove(request), deadline).await.map(drop)
    }

    /// Hands leadership to `member` (a node id or a name), or to the fittest voter if that is empty; answers with the
    /// new leader.
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub async fn transfer_leader(&self, member: &str, deadline: Instant) -> Result<NodeId, RequestError> {
        let request = cluster::TransferLeaderRequest { member: member.into() };
        self.change(Change::Transfer(request), deadline).await.map(|leader| leader.node_id)
    }

    pub(crate) async fn change(&self, change: Change, deadline: Instant) -> Result<MemberView, RequestError> {
        let leader = self.raft().leadership().borrow().leader.clone();
        let Some((leader_id, info)) = leader else {
            return Err(RequestError::NoLeader { waited: Duration::ZERO });
        };
        if leader_id == self.node_id() {
            return self.change_as_leader(change, deadline).await.map(view_from_proto);
        }
        let timeout_ms = forward::millis(deadline.saturating_duration_since(Instant::now()));
        let peer = self.peer(&Target { node_id: Some(leader_id), rpc_addr: info.rpc_addr });
        match timeout_at(deadline, peer.admin(AdminRequest { change: Some(change), timeout_ms })).await {
            Ok(Ok(response)) => Ok(view_from_proto(response.member.unwrap_or_default())),
            Ok(Err(status)) => Err(admin_error(&status)),
            Err(_) => Err(RequestError::OutcomeUnknown { reason: "the leader did not answer in time".into() }),
        }
    }

    /// Changes the membership if this node leads.
    pub(crate) async fn change_as_leader(
        &self,
        change: Change,
        deadline: Instant,
    ) -> Result<cluster::Member, RequestError> {
        let doing = async {
            match change {
                Change::Add(request) => self.add(request).await,
                Change::Promote(request) => {
                    let member = find(&self.settled().await?.members, &request.member)?;
                    self.promote(member.node_id).await
                }
                Change::Remove(request) => self.remove(request).await,
                Change::Transfer(request) => self.transfer(&request.member, deadline).await,
                Change::Leave(_) | Change::Removed(_) => {
                    Err(RequestError::Invalid("this is for the member that it is about, not for the leader".into()))
                }
            }
        };
        match timeout_at(deadline, doing).await {
            Ok(result) => result.map(view_to_proto),
            Err(_) => Err(RequestError::OutcomeUnknown {
                reason: "the change was not finished in time: call again to go on with it".into(),
            }),
        }
    }

    /// The membership, once no change is under way that another call, or another leader, has begun.
    async fn settled(&self) -> Result<Members, RequestError> {
        loop {
            let members = self.raft().membership();
            if members.state == MembersState::Settled {
                return Ok(members);
            }
            if !leads(&self.raft().leadership().borrow()) {
                return Err(RequestError::Unavailable { reason: "leadership changed: call again".into() });
            }
            sleep(POLL).await;
        }
    }

    /// Decides on a settled membership what to do next and does it on just that one, until all is done: what another call
    /// changes in between is decided on anew. Answers with the index of the last entry that this took. Bounded by the
    /// caller's deadline.
    async fn change_settled(
        &self,
        mut decide: impl FnMut(&Members) -> Result<Step, RequestError>,
    ) -> Result<Option<u64>, RequestError> {
        let mut index = None;
        loop {
            let members = self.settled().await?;
            let change = match decide(&members)? {
                Step::Done => return Ok(index),
                Step::Change(change) => change,
                Step::Wait => {
                    sleep(POLL).await;
                    continue;
                }
            };
            match self.raft().change_members(&members, change).await {
                Ok(at) => index = Some(at),
                // Another change came first; or this leader is about to hand over, or has just lost its majority.
                Err(ChangeError::InProgress) => sleep(POLL).await,
                Err(ChangeError::NotLeader) if leads(&self.raft().leadership().borrow()) => sleep(POLL).await,
                Err(ChangeError::NotLeader) => {
                    return Err(RequestError::Unavailable { reason: "leadership changed: call again".into() });
                }
                Err(ChangeError::Refused(why)) => return Err(RequestError::Refused(why)),
                Err(ChangeError::Unknown(reason)) => return Err(RequestError::OutcomeUnknown { reason }),
            }
        }
    }

    async fn add(&self, request: cluster::AddMemberRequest) -> Result<MemberView, RequestError> {
        let rpc_addr = request.rpc_addr;
        let newcomer = self.identify(&rpc_addr).await?;
        let node_id = newcomer.node_id;
        let known = self.settled().await?;
        self.check_newcomer(&newcomer, &rpc_addr, &known)?;
        if known.get(node_id).is_none() {
            self.adopt(&newcomer, &rpc_addr).await?;
        }
        let info = MemberInfo { name: newcomer.name.clone(), rpc_addr: rpc_addr.clone() };
        let add = |members: &Members| {
            self.check_newcomer(&newcomer, &rpc_addr, members)?;
            match members.get(node_id) {
                Some(_) => Ok(Step::Done),
                None => Ok(Step::Change(MembersChange::AddLearner(node_id, info.clone()))),
            }
        };
        self.change_settled(add).await?;
        match request.learner {
            true => self.view(node_id),
            false => self.promote(node_id).await,
        }
    }

    /// Asks the node at an address who it is.
    pub(crate) async fn identify(&self, rpc_addr: &str) -> Result<IdentifyResponse, RequestError> {
        let peer = self.peer(&Target { node_id: None, rpc_addr: rpc_addr.to_owned() });
        peer.identify(IdentifyRequest {}).await.map_err(|status| RequestError::Unavailable {
            reason: format!("no mökv node answers at {rpc_addr}: {}", status.message()),
        })
    }

    fn check_newcomer(&self, newcomer: &IdentifyResponse, rpc_addr: &str, known: &Members) -> Result<(), RequestError> {
        if let Some(member) = known.get(newcomer.node_id) {
            return match member.info.rpc_addr == rpc_addr {
                true => Ok(()),
                false => Err(RequestError::Refused(format!(
                    "node {} is a member already, at {}",
                    newcomer.name, member.info.rpc_addr
                ))),
            };
        }
        self.check_welcome(newcomer)?;
        match known.members.iter().find(|member| member.info.name == newcomer.name) {
            Some(namesake) => Err(RequestError::Refused(format!(
                "a member is called {} already (node {}, at {}): remove it first if this node takes its place",
                newcomer.name, namesake.node_id, namesake.info.rpc_addr
            ))),
            None => Ok(()),
        }
    }

    /// Whether a node may become a member at all, whatever the membership is.
    pub(crate) fn check_welcome(&self, newcomer: &IdentifyResponse) -> Result<(), RequestError> {
        let ours = self.data_dir().identity().cluster_id.unwrap_or_default();
        if !newcomer.cluster_id.is_empty() && newcomer.cluster_id != ours {
            return Err(RequestError::Refused(format!(
                "node {} belongs to another cluster ({}): a node joins with an empty data directory",
                newcomer.name, newcomer.cluster_id
            )));
        }
        match newcomer.leaving {
            true => Err(RequestError::Refused(format!(
                "node {} is leaving, or was removed: a node joins with an empty data directory",
                newcomer.name
            ))),
            false => Ok(()),
        }
    }

    /// Takes a node that is in no cluster into this one. No effect if it is in this one.
    pub(crate) async fn adopt(&self, newcomer: &IdentifyResponse, rpc_addr: &str) -> Result<(), RequestError> {
        let cluster_id = self.data_dir().identity().cluster_id.unwrap_or_default();
        let peer = self.peer(&Target { node_id: None, rpc_addr: rpc_addr.to_owned() });
        let adopted = peer.adopt(AdoptRequest { cluster_id, node_id: newcomer.node_id }).await;
        adopted.map(drop).map_err(|status| admin_error(&status))
    }

    pub(crate) async fn promote(&self, node_id: NodeId) -> Result<MemberView, RequestError> {
        let promote = |members: &Members| {
            let member = members.get(node_id).ok_or_else(|| no_member_any_more(node_id))?;
            Ok(match (member.is_voter, member.has_caught_up()) {
                (true, _) => Step::Done,
                (false, false) => Step::Wait,
                (false, true) => Step::Change(MembersChange::Voters {
                    add: BTreeSet::from([node_id]),
                    remove: BTreeSet::new(),
                    keep_removed: true,
                }),
            })
        };
        self.change_settled(promote).await?;
        self.view(node_id)
    }

    async fn remove(&self, request: cluster::RemoveMemberRequest) -> Result<MemberView, RequestError> {
        let leaving = find(&self.settled().await?.members, &request.member)?;
        let view = self.view_of(&leaving);
        let node_id = leaving.node_id;
        let began = Instant::now();
        let remove = |members: &Members| {
            let Some(member) = members.get(node_id) else { return Ok(Step::Done) };
            if !member.is_voter {
                return Ok(Step::Change(MembersChange::RemoveLearner(node_id)));
            }
            if !request.force {
                match self.check_quorum_without(member, members) {
                    Ok(()) => {}
                    // A leader that has just been elected has not heard of all that are up.
                    Err(_) if began.elapsed() < self.reachable_within() && members.is_partly_unheard() => {
                        return Ok(Step::Wait);
                    }
                    Err(why) => return Err(why),
                }
            }
            Ok(Step::Change(MembersChange::Voters {
                add: BTreeSet::new(),
                remove: BTreeSet::from([node_id]),
                keep_removed: false,
            }))
        };
        if let Some(index) = self.change_settled(remove).await? {
            self.tell_removed(&leaving, index).await;
        }
        Ok(view)
    }

    /// A voter that was heard of within this time can be reached.
    pub(crate) fn reachable_within(&self) -> Duration {
        REACHABLE_TIMEOUTS * self.options().raft.election_timeout_max
    }

    /// Whether this node, which leads, heard of the member lately.
    pub(crate) fn is_reachable(&self, member: &Member) -> bool {
        member.was_heard_within(self.reachable_within())
    }

    fn check_quorum_without(&self, leaving: &Member, members: &Members) -> Result<(), RequestError> {
        let remaining = members.voters().filter(|member| member.node_id != leaving.node_id);
        let (voters, reachable) = remaining.fold((0, 0), |(voters, reachable), member| {
            (voters + 1, reachable + usize::from(self.is_reachable(member)))
        });
        if reachable < voters / 2 + 1 {
            return Err(RequestError::Refused(format!(
                "without {} only {reachable} of {voters} voters would be reachable, fewer than a majority: bring the \
                 others back first, or force it",
                leaving.info.name
            )));
        }
        Ok(())
    }

    /// Tells a node that the entry at `index` removed it, so that it stops. One that can't be told stays out all the same:
    /// nobody asks for its vote, and nobody gives it one while there is a leader.
    pub(crate) async fn tell_removed(&self, member: &Member, index: u64) {
        if member.node_id == self.node_id() {
            return self.note_left().await;
        }
        let peer = self.peer(&Target { node_id: Some(member.node_id), rpc_addr: member.info.rpc_addr.clone() });
        let notice = AdminRequest {
            change: Some(Change::Removed(RemovedNotice { index })),
            timeout_ms: forward::millis(TELL_TIMEOUT),
        };
        let told = tokio::time::timeout(TELL_TIMEOUT, peer.admin(notice)).await;
        if !told.is_ok_and(|told| told.is_ok()) {
            tracing::info!(member = member.info.name, "a member was removed, and could not be told");
        }
    }

    async fn transfer(&self, to: &str, deadline: Instant) -> Result<MemberView, RequestError> {
        let grace = deadline.saturating_duration_since(Instant::now());
        if to.is_empty() {
            maintenance::hand_over(self.node_id(), self.raft(), |_| true, grace).await;
        } else {
            let to = find(&self.raft().members(), to)?;
            if !to.is_voter {
                return Err(RequestError::Refused(format!("{} is a learner and can't lead", to.info.name)));
            }
            if to.node_id != self.node_id() {
                self.raft().transfer_leader(to.node_id).await;
                let mut leadership = self.raft().leadership();
                let taken = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|(id, _)| *id != self.node_id()));
                taken.await.map_err(|_| RequestError::Unavailable { reason: "the node is stopping".into() })?;
            }
        }
        let leader = self.raft().leadership().borrow().leader.as_ref().map(|(id, _)| *id);
        match leader {
            Some(id) if to.is_empty() && id == self.node_id() => {
                Err(RequestError::Refused("no other voter has caught up enough to lead".into()))
            }
            Some(id) => self.view(id),
            None => Err(RequestError::NoLeader { waited: grace }),
        }
    }

    fn view_of(&self, member: &Member) -> MemberView {
        let leader = self.raft().leadership().borrow().leader.as_ref().map(|(id, _)| *id);
        MemberView {
            is_leader: leader == Some(member.node_id),
            node_id: member.node_id,
            name: member.info.name.clone(),
            rpc_addr: member.info.rpc_addr.clone(),
            is_voter: member.is_voter,
            lag: member.lag,
            last_heard: member.last_heard,
            gossip: self.gossip_of(member.node_id),
        }
    }

    fn view(&self, node_id: NodeId) -> Result<MemberView, RequestError> {
        let found = self.members().into_iter().find(|member| member.node_id == node_id);
        found.ok_or_else(|| no_member_any_more(node_id))
    }
}

/// The member with this node id or this name.
pub(crate) fn find(members: &[Member], id_or_name: &str) -> Result<Member, RequestError> {
    let id = id_or_name.parse::<NodeId>().ok();
    let found = members.iter().find(|member| Some(member.node_id) == id || member.info.name == id_or_name);
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = members.iter().map(|member| member.info.name.as_str()).collect();
        RequestError::NotFound(format!("no member is called {id_or_name}; there are {}", names.join(", ")))
    })
}

fn no_member_any_more(node_id: NodeId) -> RequestError {
    RequestError::NotFound(format!("node {node_id} is no member any more"))
}

/// A member, as messages have it.
pub(crate) fn view_to_proto(view: MemberView) -> cluster::Member {
    let role = if view.is_voter { cluster::Role::Voter } else { cluster::Role::Learner };
    cluster::Member {
        node_id: view.node_id,
        name: view.name,
        rpc_addr: view.rpc_addr,
        role: role.into(),
        is_leader: view.is_leader,
        lag: view.lag,
        last_heard_ms: view.last_heard.map(|ago| ago.as_millis().try_into().unwrap_or(u64::MAX)),
        gossip: peer_state_to_proto(view.gossip).into(),
    }
}

/// How a peer is doing, as messages have it.
pub(crate) fn peer_state_to_proto(state: Option<PeerState>) -> cluster::PeerState {
    match state {
        None => cluster::PeerState::Unknown,
        Some(PeerState::Alive) => cluster::PeerState::Alive,
        Some(PeerState::Leaving) => cluster::PeerState::Leaving,
        Some(PeerState::Left) => cluster::PeerState::Left,
        Some(PeerState::Failed) => cluster::PeerState::Failed,
    }
}

fn peer_state_from_proto(state: cluster::PeerState) -> Option<PeerState> {
    match state {
        cluster::PeerState::Unknown => None,
        cluster::PeerState::Alive => Some(PeerState::Alive),
        cluster::PeerState::Leaving => Some(PeerState::Leaving),
        cluster::PeerState::Left => Some(PeerState::Left),
        cluster::PeerState::Failed => Some(PeerState::Failed),
    }
}

fn view_from_proto(member: cluster::Member) -> MemberView {
    MemberView {
        is_voter: member.role() == cluster::Role::Voter,
        gossip: peer_state_from_proto(member.gossip()),
        node_id: member.node_id,
        name: member.name,
        rpc_addr: member.rpc_addr,
        is_leader: member.is_leader,
        lag: member.lag,
        last_heard: member.last_heard_ms.map(Duration::from_millis),
    }
}
