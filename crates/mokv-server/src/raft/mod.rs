//! Consensus: the one place that drives openraft.
//!
//! The rest of the server knows these verbs: propose, read index, members and their changes, transfer of leadership,
//! status, shutdown. openraft's types stay below this module; only [`types`] are shared with the log and the snapshots.
//!
//! Owns the log, the snapshots and the store's writing side. Promises: a proposal that is answered is on disk on a
//! majority and applied here; a read index covers every write acknowledged before it was asked for.

pub mod log;
pub mod network;
pub mod state_machine;
pub mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mokv_proto::internal;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use openraft::storage::{RaftLogStorage, Snapshot};
use openraft::{
    ChangeMembers, Config, Instant, LinearizerOption, Precondition, RaftMetrics, ReadPolicy, ServerState,
    SnapshotPolicy,
};
use tokio::sync::watch;

use self::log::Log;
use self::network::{Network, NetworkOptions};
use self::state_machine::StateMachine;
use self::types::{
    MemberInfo, NodeId, SnapshotMeta, TypeConfig, log_id_from_proto, log_id_to_proto, stored_membership_from_proto,
    vote_from_proto, vote_to_proto,
};
use crate::command::{Batch, Outcome};
use crate::metrics::ConsensusMetrics;
use crate::mutants::mutant;
use crate::peer::{AnswerStream, Caller, MessageStream, PeerNetwork};
use crate::runtime::Tasks;
use crate::snapshot::{SnapshotInfo, Snapshots};
use crate::store::Store;

/// Entries that one message to a follower carries at most; bytes are bounded by the log's reader.
const APPEND_ENTRIES_MAX: u64 = 1024;

/// A leader that answers for its lease relies on what a majority has acknowledged for this part of `election_timeout_max`.
///
/// Whoever has acknowledged a leader helps nobody else to leadership for `election_timeout_max`, by its own clock, and this
/// time begins after the leader sent what was acknowledged. So nobody else leads, and no write can be missing, as long as
/// the leader's clock runs no slower than 0.4 of another node's, and the timeouts are the same on all nodes. Two
/// cases are beside that rule:
///
/// - A node that was started again does not know what it has acknowledged. It helps nobody for as long after each start:
///   see [`introduction`](crate::introduction).
/// - A leader that hands over lets its successor be elected at once, but answers no reads from then on.
///
/// Followers are told of a leader every `heartbeat_interval`, several times in this part; so it costs no reads.
pub const LEASE_PART: f64 = 0.4;

/// How consensus behaves.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// How often a leader tells its followers that it lives.
    pub heartbeat_interval: Duration,
    /// A follower that heard nothing for the lease (`election_timeout_max`) and a random time between the two stands for
    /// election.
    pub election_timeout_min: Duration,
    /// See `election_timeout_min`.
    pub election_timeout_max: Duration,
    /// Deadlines of the calls between members.
    pub network: NetworkOptions,
}

impl RaftOptions {
    fn config(&self) -> Result<Config, openraft::ConfigError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Config {
            cluster_name: "mokv".into(),
            heartbeat_interval: millis(self.heartbeat_interval),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            install_snapshot_timeout: millis(Duration::from_secs(24 * 3600)),
            max_payload_entries: APPEND_ENTRIES_MAX,
            // Snapshots and purging follow the bytes of the log, not its entries: see `maintenance`.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            // A partial partition must not keep a leader alive that can't commit (openraft #2080).
            quorum_loss_probe_interval: Some(2 * millis(self.election_timeout_max)),
            enable_pre_vote: Some(true),
            // A node asks the others before its first vote, and that may be the one for itself: see `introduction`.
            enable_elect: false,
            // A restarted leader stands for election like everybody else. If it led on in its old term, it would write
            // new entries where its followers have ones that it had sent, but not yet synced.
            enable_leader_restore: Some(mutant!(LeaderRestored)),
            ..Config::default()
        }
        .validate()
    }
}

/// What a node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Follows without a vote, or is in no cluster.
    Learner,
    /// Follows a leader and votes.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Consensus has ended.
    Stopped,
}

impl Role {
    /// The name, as the status shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Stopped => "stopped",
        }
    }
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// What this node is.
    pub role: Role,
    /// The leader and where it answers.
    pub leader: Option<(NodeId, MemberInfo)>,
    /// The term that this node knows of.
    pub term: u64,
    /// How often this node saw another leader than before, since it started.
    pub leader_changes: u64,
    /// Why consensus ended for this node: the process must stop.
    pub failure: Option<String>,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub node_id: NodeId,
    /// Its name and address.
    pub info: MemberInfo,
    /// Whether it votes.
    pub is_voter: bool,
    /// Entries that it lacks; only the leader knows.
    pub lag: Option<u64>,
    /// How long ago the leader heard from it; only the leader knows.
    pub last_heard: Option<Duration>,
    /// Whether the leader knows of an entry that it has. A member of which it knows none may lack all, a snapshot
    /// included: then a small lag only says that the log is short.
    pub has_entries: bool,
}

/// A learner votes when it lacks at most this many entries; what is missing then arrives within a round or two.
pub(crate) const PROMOTE_LAG_MAX: u64 = 64;

impl Member {
    /// Whether it has so much of the log that it may vote. Only the leader knows.
    pub fn has_caught_up(&self) -> bool {
        self.has_entries && self.lag.is_some_and(|lag| lag <= PROMOTE_LAG_MAX)
    }

    /// Whether the leader heard from it within this time. Only the leader knows.
    pub fn was_heard_within(&self, limit: Duration) -> bool {
        self.last_heard.is_some_and(|ago| ago < limit)
    }
}

/// The latest membership in a node's log, and which one it is: what [`Raft::change_members`] is decided on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The members.
    pub members: Vec<Member>,
    /// Whether it can be relied on, and built on.
    pub state: MembersState,
    /// The entry that brought it.
    log_id: Option<types::LogId>,
}

/// How far a membership is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MembersState {
    /// It is committed, and no change is under way.
    #[default]
    Settled,
    /// It may yet be undone. Until it is committed a node may seem to have a vote, or to be gone.
    Uncommitted,
    /// It is in the middle of a change: two sets of voters have to agree.
    Joint {
        /// Voters of the old set alone: they lose their votes when the change is finished.
        leaving: BTreeSet<NodeId>,
    },
}

impl Members {
    /// A membership that is in no log.
    #[cfg(test)]
    pub(crate) fn of(members: Vec<Member>, state: MembersState) -> Self {
        Self { members, state, log_id: None }
    }

    /// The member of this identity.
    pub fn get(&self, node_id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node_id == node_id)
    }

    /// Those that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_voter)
    }

    /// Whether the leader has not heard from a voter since it was elected.
    pub fn is_partly_unheard(&self) -> bool {
        self.voters().any(|member| member.last_heard.is_none())
    }

    /// The index of the entry that brought it; 0 before there is a cluster.
    pub fn index(&self) -> u64 {
        self.log_id.map_or(0, |log_id| log_id.index)
    }
}

/// One change of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembersChange {
    /// A node begins to copy the data, without a vote.
    AddLearner(NodeId, MemberInfo),
    /// A member has another name or address.
    SetInfo(NodeId, MemberInfo),
    /// Learners get votes and voters lose theirs, all in one joint change.
    Voters {
        /// Learners that get a vote.
        add: BTreeSet<NodeId>,
        /// Voters that lose theirs.
        remove: BTreeSet<NodeId>,
        /// Whether these stay as learners.
        keep_removed: bool,
    },
    /// A learner is no member any more.
    RemoveLearner(NodeId),
    /// A change that was interrupted between its two steps is finished.
    Finish {
        /// Whether the voters that lose their votes stay as learners.
        keep_removed: bool,
    },
}

/// Where this node stands in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last entry in the log.
    pub last_log: u64,
    /// The last entry known to be committed.
    pub committed: u64,
    /// The last entry that a snapshot covers.
    pub snapshot: u64,
    /// The last entry that was dropped from the log.
    pub purged: u64,
}

/// Why a batch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead, or can't reach a majority. The batch had no effect.
    #[error("this node does not lead")]
    NotLeader,
    /// The batch may take effect yet.
    #[error("{0}")]
    Unknown(String),
}

/// Why there is no read index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader,
    /// No majority confirmed in time that this node still leads.
    #[error("no majority confirmed the leader: {0}")]
    NoQuorum(String),
}

/// Why the membership did not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This node does not lead. No effect.
    #[error("this node does not lead")]
    NotLeader,
    /// Another change is under way, or the membership is another than that which was decided on. No effect.
    #[error("another change of the membership is under way")]
    InProgress,
    /// The change makes no sense now. No effect.
    #[error("{0}")]
    Refused(String),
    /// The change may take effect yet.
    #[error("{0}")]
    Unknown(String),
}

/// Why consensus did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The timeouts don't fit together.
    #[error("invalid consensus options: {0}")]
    Options(#[from] openraft::ConfigError),
    /// The log or a snapshot could not be read.
    #[error("consensus could not start: {0}")]
    Storage(String),
}

/// The consensus of one node. Cheap to clone.
#[derive(Clone)]
pub struct Raft {
    node_id: NodeId,
    raft: openraft::Raft<TypeConfig, StateMachine>,
    leadership: watch::Receiver<Leadership>,
    transfer_retry: Duration,
    /// For how long this node, as leader, relies on what a majority has acknowledged.
    lease: Duration,
    /// Taken while this node makes a change of the membership, so that it doesn't finish its own as an interrupted one.
    /// Nobody waits for it.
    changing: Arc<tokio::sync::Mutex<()>>,
    counters: Arc<ConsensusMetrics>,
}

impl Raft {
    /// Starts consensus on what the log and the snapshots hold: when this returns, the store has everything that this
    /// node knew to be committed.
    ///
    /// # Errors
    ///
    /// See [`StartError`]. Nothing was started.
    pub async fn start(
        caller: Caller,
        options: &RaftOptions,
        tasks: &Tasks,
        mut log: Log,
        snapshots: Snapshots,
        store: Store,
        peers: Arc<dyn PeerNetwork>,
    ) -> Result<Self, StartError> {
        let config = Arc::new(options.config()?);
        drop_overruled(&mut log, &snapshots).await.map_err(|error| StartError::Storage(error.to_string()))?;
        let node_id = caller.node_id;
        let counters = Arc::<ConsensusMetrics>::default();
        let state_machine = StateMachine::new(store, snapshots.clone(), caller.cluster_id.clone(), counters.clone());
        let network = Network::new(caller, peers, snapshots, options.network, counters.clone());
        let raft = openraft::Raft::new(node_id, config, network, log, state_machine)
            .await
            .map_err(|error| StartError::Storage(error.to_string()))?;
        let (publish, leadership) = watch::channel(leadership(&raft.metrics().borrow_watched()));
        tasks.spawn(publish_leadership(raft.clone(), publish));
        let transfer_retry = options.election_timeout_min / 2;
        let lease = options.election_timeout_max.mul_f64(LEASE_PART);
        Ok(Self { node_id, raft, leadership, transfer_retry, lease, changing: Arc::default(), counters })
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &ConsensusMetrics {
        &self.counters
    }

    /// Whether this node has ever been in a cluster.
    pub async fn is_initialized(&self) -> bool {
        self.raft.is_initialized().await.unwrap_or(false)
    }

    /// Gives this node the first membership of its cluster, all of them voters. Each of them may be given it, as long as it is
    /// the same.
    ///
    /// # Errors
    ///
    /// The node is in a cluster already, or its log failed.
    pub async fn initialize(&self, members: BTreeMap<NodeId, MemberInfo>) -> Result<(), ChangeError> {
        self.raft.initialize(members).await.map_err(|error| ChangeError::Refused(error.to_string()))
    }

    /// From now on this node may stand for election.
    pub fn allow_elections(&self) {
        self.raft.runtime_config().elect(true);
    }

    /// The term that this node knows of.
    pub fn term(&self) -> u64 {
        self.raft.metrics().borrow_watched().vote.leader_id.term
    }

    /// The leader of the newest term that this node knows of, if one was elected and made itself known: whoever it acknowledged
    /// last.
    pub fn acknowledged_leader(&self) -> Option<NodeId> {
        let vote = self.raft.metrics().borrow_watched().vote;
        vote.committed.then_some(vote.leader_id.voted_for)
    }

    /// Who leads; changes are seen as they come.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Replicates and applies a batch; with a term only if this node still leads in that one. The proposal is queued when this
    /// is first polled: futures polled in turn propose in that order.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`].
    pub async fn propose(&self, batch: Batch, term: Option<u64>) -> Result<Vec<Outcome>, ProposeError> {
        let (responder, result) = ProgressResponder::complete_only();
        let write = self.raft.write(batch).responder(responder);
        let write = match term {
            Some(term) => write.with_leader(term),
            None => write,
        };
        let unknown = |fatal: &dyn std::fmt::Display| ProposeError::Unknown(fatal.to_string());
        write.await.map_err(|fatal| unknown(&fatal))?;
        match result.await.map_err(|_| unknown(&"consensus has stopped"))? {
            Ok(response) => Ok(response.data.0),
            Err(ClientWriteError::ForwardToLeader(_)) => Err(ProposeError::NotLeader),
            Err(error) => Err(unknown(&error)),
        }
    }

    /// An index such that a state that has applied it reflects every write acknowledged before this was called.
    /// Confirmed by a round to a majority.
    ///
    /// # Errors
    ///
    /// See [`ReadIndexError`].
    pub async fn read_index(&self) -> Result<internal::LogId, ReadIndexError> {
        if mutant!(ReadIndexUnconfirmed) {
            let metrics = self.raft.metrics();
            let committed = metrics.borrow_watched().cluster_committed;
            return committed.as_ref().map(log_id_to_proto).ok_or(ReadIndexError::NotLeader);
        }
        self.confirmed_index(ReadPolicy::ReadIndex.into()).await
    }

    /// As [`Raft::read_index`], but confirmed by what a majority has acknowledged a moment ago, if it has: see
    /// [`LEASE_PART`].
    ///
    /// # Errors
    ///
    /// See [`ReadIndexError`].
    pub async fn lease_index(&self) -> Result<internal::LogId, ReadIndexError> {
        self.confirmed_index(LinearizerOption::new(Some(self.lease), true)).await
    }

    async fn confirmed_index(&self, confirmation: LinearizerOption) -> Result<internal::LogId, ReadIndexError> {
        match self.raft.get_read_linearizer(confirmation).await {
            Ok(linearizer) => Ok(log_id_to_proto(linearizer.read_log_id().log_id())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(ReadIndexError::NotLeader),
            Err(error) => Err(ReadIndexError::NoQuorum(error.to_string())),
        }
    }

    /// The members, as the latest membership in this node's log has them.
    pub fn members(&self) -> Vec<Member> {
        self.membership().members
    }

    /// The latest membership in this node's log.
    pub fn membership(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let state = match &stored.membership().get_joint_config()[..] {
            [old, new] => MembersState::Joint { leaving: old.difference(new).copied().collect() },
            _ if *stored.log_id() <= metrics.cluster_committed || mutant!(MembershipUncommitted) => {
                MembersState::Settled
            }
            _ => MembersState::Uncommitted,
        };
        Members { members: self.members_in(&metrics), state, log_id: *stored.log_id() }
    }

    fn members_in(&self, metrics: &RaftMetrics<TypeConfig>) -> Vec<Member> {
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let last_log = metrics.last_log_index.unwrap_or(0);
        let is_leader = |id: &NodeId| *id == self.node_id && metrics.replication.is_some();
        let matched = |id: &NodeId| metrics.replication.as_ref()?.get(id).copied();
        let lag = |id: &NodeId| match is_leader(id) {
            true => Some(0),
            false => Some(last_log.saturating_sub(matched(id)?.map_or(0, |log_id| log_id.index))),
        };
        let heard = |id: &NodeId| metrics.heartbeat.as_ref()?.get(id)?.as_ref().map(|at| at.elapsed());
        membership
            .nodes()
            .map(|(id, info)| Member {
                node_id: *id,
                info: info.clone(),
                is_voter: voters.contains(id),
                lag: lag(id),
                last_heard: if *id == self.node_id { Some(Duration::ZERO) } else { heard(id) },
                has_entries: is_leader(id) || matched(id).is_some_and(|log_id| log_id.is_some()),
            })
            .collect()
    }

    /// Where this node stands in the log.
    pub fn progress(&self) -> Progress {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |log_id: &Option<types::LogId>| log_id.as_ref().map_or(0, |log_id| log_id.index);
        Progress {
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.local_committed).max(index(&metrics.cluster_committed)),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
        }
    }

    /// Changes the membership, if it is still `on`, the one that the caller decided on. Answers with the index of the
    /// entry that completed the change.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub async fn change_members(&self, on: &Members, change: MembersChange) -> Result<u64, ChangeError> {
        let Ok(_alone) = self.changing.try_lock() else { return Err(ChangeError::InProgress) };
        let ids = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<NodeId>>();
        let (change, keep_removed) = match change {
            MembersChange::AddLearner(id, info) => (ChangeMembers::AddNodes(BTreeMap::from([(id, info)])), true),
            MembersChange::SetInfo(id, info) => (ChangeMembers::SetNodes(BTreeMap::from([(id, info)])), true),
            MembersChange::RemoveLearner(id) => (ChangeMembers::RemoveNodes(ids(&[id])), true),
            MembersChange::Voters { add, remove, keep_removed } => {
                let voters = on.voters().map(|member| member.node_id).chain(add);
                (ChangeMembers::ReplaceAllVoters(voters.filter(|id| !remove.contains(id)).collect()), keep_removed)
            }
            MembersChange::Finish { keep_removed } => (ChangeMembers::AddVoterIds(ids(&[])), keep_removed),
        };
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: on.log_id };
        match self.raft.change_membership_if(change, keep_removed, [unchanged]).await {
            Ok(done) => Ok(done.log_id.index),
            Err(RaftError::APIError(error)) => Err(match error {
                ClientWriteError::ForwardToLeader(_) => ChangeError::NotLeader,
                ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))
                | ClientWriteError::PreconditionFailed(_) => ChangeError::InProgress,
                ClientWriteError::ChangeMembershipError(error) => ChangeError::Refused(error.to_string()),
                error @ ClientWriteError::LogEntryDiscarded(_) => ChangeError::Unknown(error.to_string()),
            }),
            Err(RaftError::Fatal(fatal)) => Err(ChangeError::Unknown(fatal.to_string())),
        }
    }

    /// Starts handing leadership to `to`; [`Raft::leadership`] shows whether it worked. No effect unless this node leads.
    ///
    /// From here on the leader proposes nothing and sends no heartbeats, whatever becomes of it. The member is asked once: it
    /// may not get the question, or not have its log on the disk in time. So whoever wants it to work asks again, this member
    /// or another one, after [`Raft::transfer_retry`]; a member that stands for election already ignores that.
    pub async fn transfer_leader(&self, to: NodeId) {
        if let Err(fatal) = self.raft.trigger().transfer_leader(to).await {
            tracing::warn!(%fatal, "leadership can't be handed over");
        }
    }

    /// How long a transfer may take before it is asked for again: longer than one that works, shorter than an election.
    pub fn transfer_retry(&self) -> Duration {
        self.transfer_retry
    }

    /// Stands for election now, if the others would have it.
    pub async fn stand_for_election(&self) {
        if let Err(fatal) = self.raft.trigger().elect(true).await {
            tracing::warn!(%fatal, "no election");
        }
    }

    /// Starts a snapshot in the background.
    pub async fn start_snapshot(&self) {
        if let Err(fatal) = self.raft.trigger().snapshot().await {
            tracing::warn!(%fatal, "no snapshot");
        }
    }

    /// Drops log entries up to `index` that a snapshot covers.
    pub async fn purge(&self, index: u64) {
        if let Err(fatal) = self.raft.trigger().purge_log(index).await {
            tracing::warn!(%fatal, "the log was not purged");
        }
    }

    /// Ends consensus on this node. The log is the caller's to close.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus ended badly");
        }
    }
}

/// What other members ask of this node's consensus.
impl Raft {
    /// Takes a stream of appends; the answers come when the entries are on disk.
    pub fn append(&self, requests: MessageStream<internal::AppendRequest>) -> AnswerStream<internal::AppendResponse> {
        // A request that makes no sense ends the stream, as a broken connection would.
        let requests = requests.map(network::append_from_proto).scan((), |(), request| {
            std::future::ready(request.inspect_err(|error| tracing::warn!(%error, "an append was ignored")).ok())
        });
        let answers = self.raft.stream_append(Box::pin(requests)).map(|answer| match answer {
            Ok(result) => Ok(network::append_result_to_proto(result)),
            Err(fatal) => Err(stopped(fatal)),
        });
        answers.boxed()
    }

    /// Votes, or says whether it would.
    pub async fn vote(&self, request: internal::VoteRequest) -> Result<internal::VoteResponse, tonic::Status> {
        let vote = request.vote.as_ref().ok_or_else(|| tonic::Status::invalid_argument("no vote"))?;
        let question = VoteRequest {
            vote: vote_from_proto(vote),
            last_log_id: request.last_log_id.as_ref().map(log_id_from_proto),
            leadership_transfer: request.leadership_transfer,
        };
        let answer = if request.pre_vote { self.raft.pre_vote(question).await } else { self.raft.vote(question).await };
        let answer = answer.map_err(stopped)?;
        Ok(internal::VoteResponse {
            vote: Some(vote_to_proto(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(log_id_to_proto),
        })
    }

    /// What the member `asking`, which has just started, may have forgotten.
    pub fn greeting(&self, asking: NodeId) -> internal::GreetResponse {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&asking)?.as_ref());
        internal::GreetResponse {
            vote: Some(vote_to_proto(&metrics.vote)),
            matched: matched.map(log_id_to_proto),
            leads: metrics.replication.is_some(),
        }
    }

    /// Takes over leadership, if the log is complete.
    pub async fn take_over(
        &self,
        request: internal::LeaderTransferRequest,
    ) -> Result<internal::LeaderTransferResponse, tonic::Status> {
        let from = request.from_leader.as_ref().ok_or_else(|| tonic::Status::invalid_argument("no leader"))?;
        let last_log_id = request.last_log_id.as_ref().map(log_id_from_proto);
        let request = TransferLeaderRequest::new(vote_from_proto(from), request.to_node_id, last_log_id);
        let answer = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
        let refused = answer.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(internal::LeaderTransferResponse { refused })
    }

    /// The answer to a snapshot that is installed, or need not be.
    pub fn snapshot_taken(&self) -> internal::SnapshotResponse {
        internal::SnapshotResponse { vote: Some(vote_to_proto(&self.raft.metrics().borrow_watched().vote)) }
    }

    /// Installs a snapshot that was received whole.
    pub async fn install_snapshot(
        &self,
        header: internal::SnapshotHeader,
        info: SnapshotInfo,
    ) -> Result<internal::SnapshotResponse, tonic::Status> {
        let vote = header.vote.as_ref().ok_or_else(|| tonic::Status::invalid_argument("no vote"))?;
        let membership = stored_membership_from_proto(header.membership.unwrap_or_default())
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
        let last_log_id = header.last_log_id.as_ref().map(log_id_from_proto);
        let meta = SnapshotMeta { last_log_id, last_membership: membership };
        let snapshot = Snapshot { meta, snapshot: info };
        let answer = self.raft.install_full_snapshot(vote_from_proto(vote), snapshot).await.map_err(stopped)?;
        Ok(internal::SnapshotResponse { vote: Some(vote_to_proto(&answer.vote)) })
    }
}

/// Drops the end of a log that contradicts the newest snapshot.
///
/// A leader's snapshot is complete on the disk before openraft hears of it and drops the entries that it overrules. If the
/// process ends in between, both are there, and openraft would refuse them for ever.
pub(crate) async fn drop_overruled(log: &mut Log, snapshots: &Snapshots) -> std::io::Result<()> {
    let Some(snapshot) = snapshots.latest().map(|info| log_id_from_proto(&info.last_log_id)) else { return Ok(()) };
    // Of two logs with an entry in the snapshot's last place, the one of an older term never had the snapshot's.
    let is_overruled = log.last().is_some_and(|last| last < snapshot && last.index >= snapshot.index);
    if !is_overruled {
        return Ok(());
    }
    // What was committed is in the snapshot, and can't have been overruled.
    let kept = log.read_committed().await?.max(log.purged());
    tracing::info!(last = ?log.last(), ?snapshot, ?kept, "dropping the end of the log: the snapshot has overruled it");
    log.truncate_after(kept).await
}

fn stopped(error: impl std::fmt::Display) -> tonic::Status {
    tonic::Status::unavailable(format!("consensus has stopped on this node: {error}"))
}

async fn publish_leadership(raft: openraft::Raft<TypeConfig, StateMachine>, publish: watch::Sender<Leadership>) {
    let mut metrics = raft.metrics();
    // A term has one leader.
    let mut last_led = None;
    loop {
        let mut now = leadership(&metrics.borrow_watched());
        publish.send_if_modified(|last| {
            let another = now.leader.is_some() && Some(now.term) > last_led;
            now.leader_changes = last.leader_changes + u64::from(another);
            if another {
                last_led = Some(now.term);
            }
            let changed = *last != now;
            if changed {
                *last = now;
            }
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

fn leadership(metrics: &RaftMetrics<TypeConfig>) -> Leadership {
    let info = |id: NodeId| Some((id, metrics.membership_config.membership().get_node(&id)?.clone()));
    let failure = match &metrics.running_state {
        Ok(()) | Err(openraft::errors::Fatal::Stopped) => None,
        Err(fatal) => Some(fatal.to_string()),
    };
    let role = match (&metrics.running_state, metrics.state) {
        (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
        (_, ServerState::Learner) => Role::Learner,
        (_, ServerState::Follower) => Role::Follower,
        (_, ServerState::Candidate) => Role::Candidate,
        (_, ServerState::Leader) => Role::Leader,
    };
    let leader = metrics.current_leader.and_then(info);
    Leadership { role, leader, term: metrics.current_term, leader_changes: 0, failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these costs data or liveness without, and openraft's default is the other value.
    #[test]
    fn what_safety_rests_on_is_set() {
        let options = RaftOptions {
            heartbeat_interval: Duration::from_millis(150),
            election_timeout_min: Duration::from_millis(600),
            election_timeout_max: Duration::from_millis(1000),
            network: NetworkOptions {
                append_timeout: Duration::from_secs(2),
                snapshot_idle_timeout: Duration::from_secs(60),
            },
        };
        let config = options.config().expect("valid");
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        assert!(!config.enable_elect);
        assert_eq!(config.quorum_loss_probe_interval, Some(2000));
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
    }
}
