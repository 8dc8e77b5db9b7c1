//! A node: composes the parts and routes requests between them. Decides nothing that a part could decide.
//!
//! Every node takes every request. A write goes to the proposer of the node that leads, over one hop at most; a
//! linearizable read asks for a read index, waits until this node has applied it, and is answered from this node's
//! memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mokv_proto::internal::forward_item::Call;
use mokv_proto::internal::forward_result::Result as Answer;
use mokv_proto::internal::txn_op::Op as TxnOperation;
use mokv_proto::internal::{KeepAlive, LeaseState, LeaseTime as AskLeaseTime, ReadIndex, Txn};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::addresses::Addresses;
use crate::command::{Command, Group, Op, Outcome, OutcomeResult};
use crate::departure::{Departure, DepartureError};
use crate::discovery::{PeerState, Peers};
use crate::disk::Disk;
use crate::error::RequestError;
use crate::expiry::{self, Expired};
use crate::formation::core::{Me, Mode};
use crate::formation::{Formation, Outlook, Parts, Surroundings};
use crate::forward::{ForwardFailure, Forwarder, Reply};
pub use crate::freshness::{Consistency, Freshness};
use crate::identity::{DataDir, IdentityError};
use crate::incarnation::{self, Starts};
use crate::introduction::{Introduction, Newcomer};
use crate::lease_keeper::LeaseKeeper;
pub use crate::lease_keeper::LeaseTime;
use crate::log_clock::SharedLogClock;
use crate::maintenance;
use crate::mutants::mutant;
use crate::peer::{Caller, Envelope, Lane, PeerNetwork, Target};
use crate::proposer::{Proposer, Proposing};
use crate::raft::log::{Log, LogError, LogOptions};
use crate::raft::types::{self, NodeId, log_id_from_proto};
use crate::raft::{Leadership, ProposeError, Raft, RaftOptions, ReadIndexError, Role, StartError};
use crate::read_rounds::{Means, ReadRounds, leader_changed};
use crate::reconcile::{self, Following, Policy};
use crate::room::{self, Rooms};
use crate::runtime::Tasks;
use crate::snapshot::{SnapshotError, Snapshots};
use crate::status::NodeStatus;
use crate::store::{LogTime, Store};
use crate::watch::Watches;

#[cfg(test)]
mod crash_tests;

/// How long a request that was refused by a node that does not lead waits for news before it looks again.
const LEADER_RETRY: Duration = Duration::from_millis(20);

/// A node without room that has not reached a read's index within this time lacks entries that it can't take.
const CATCH_UP_MAX: Duration = Duration::from_millis(200);

/// How long a node that was refused tries to note that on its disk.
const REFUSAL_NOTED_MAX: Duration = Duration::from_secs(1);

/// A node waits this part of the shortest election timeout for answers before it votes.
const INTRODUCTION_PART: u32 = 2;

/// What a node needs from the world. All that is not deterministic comes in here.
pub struct Seams {
    /// Tasks and random numbers.
    pub tasks: Tasks,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Other nodes.
    pub peers: Arc<dyn PeerNetwork>,
    /// What gossip sees of them. Without: a node that is to form a cluster forms it at once, and only alone.
    pub surroundings: Option<Surroundings>,
}

/// Bounds on what a request may say. Checked at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key.
    pub key_bytes_max: usize,
    /// Bytes of a value.
    pub value_bytes_max: usize,
    /// Bytes of a request.
    pub request_bytes_max: usize,
    /// How long a request may take, whatever its own deadline says.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 4096,
            value_bytes_max: 1 << 20,
            request_bytes_max: 4 << 20,
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// How a node behaves.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The name, for people.
    pub name: String,
    /// Where others reach this node, host:port.
    pub rpc_addr: String,
    /// How the node comes into a cluster if the directory is empty.
    pub mode: Mode,
    /// Consensus.
    pub raft: RaftOptions,
    /// The log.
    pub log: LogOptions,
    /// Bounds on requests.
    pub limits: Limits,
    /// Bytes that the store may hold before writes that let it grow are refused.
    pub memory_quota: Option<u64>,
    /// Bytes of log since the last snapshot that bring the next one. As much log is kept behind a snapshot, for members
    /// that were away for a while.
    pub snapshot_log_bytes: u64,
    /// Bytes of changes that are remembered: for watches that fall behind or begin in the past, and for reads of older
    /// revisions.
    pub history_bytes: u64,
    /// Whether this node, while it leads, answers reads for its lease that may be answered so: see
    /// [`LEASE_PART`](crate::raft::LEASE_PART).
    pub lease_reads: bool,
}

/// Why a node did not start. Nothing was changed beyond what a crash at this point could have left.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory is in use, unreadable, or of another version.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node has left its cluster.
    #[error(transparent)]
    Departure(#[from] DepartureError),
    /// The log can't be trusted.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A snapshot can't be trusted.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log begins after what the newest snapshot covers: a snapshot was removed.
    #[error(
        "the newest snapshot covers entries up to {snapshot}, but the log has dropped those up to {purged}: a snapshot is \
         missing. Put it back, or move the data directory away and let this node join as a new one"
    )]
    MissingSnapshot {
        /// The last entry in a snapshot; 0 if there is none.
        snapshot: u64,
        /// The last entry that was dropped from the log.
        purged: u64,
    },
    /// Consensus did not start.
    #[error(transparent)]
    Raft(#[from] StartError),
    /// The cluster could not be formed.
    #[error("this node could not form a cluster: {0}")]
    Bootstrap(String),
}

/// Whether the node is fit to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It knows a leader and has caught up.
    Ready,
    /// Why not.
    NotReady(String),
    /// Why not: nobody leads, or whoever does is not reached.
    NoLeader(String),
}

/// One running node. Cheap to clone; clones are the same node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    options: NodeOptions,
    tasks: Tasks,
    data_dir: DataDir,
    caller: Caller,
    peers: Arc<Addresses>,
    departure: Departure,
    /// The gossip that the membership follows.
    following: watch::Sender<Option<Following>>,
    store: Store,
    watches: Watches,
    log: Log,
    snapshots: Snapshots,
    raft: Raft,
    formation: Formation,
    proposer: Proposer,
    clock: SharedLogClock,
    keeper: LeaseKeeper,
    expired: Expired,
    rounds: ReadRounds,
    forwarder: Forwarder,
    introduction: Introduction,
    readiness: watch::Receiver<Readiness>,
    /// See [`room::start`].
    is_majority_full: watch::Receiver<bool>,
    draining: watch::Sender<bool>,
}

impl Node {
    /// Starts a node on its data directory. Must be called inside [`Tasks::scope`].
    ///
    /// # Errors
    ///
    /// See [`NodeError`].
    pub async fn start(seams: Seams, options: NodeOptions) -> Result<Self, NodeError> {
        let Seams { tasks, disk, peers, surroundings } = seams;
        let peers = Arc::new(Addresses::new(peers));
        let data_dir = DataDir::open(&tasks, disk.clone(), options.data_dir.clone(), &options.name).await?;
        let departure = Departure::open(&tasks, disk.clone(), options.data_dir.clone()).await?;
        let node_id = data_dir.identity().node_id;
        let log = Log::open(&tasks, disk.clone(), data_dir.log_dir(), options.log.clone()).await?;
        let snapshots = Snapshots::open(&tasks, disk, data_dir.snapshot_dir()).await?;
        check_no_gap(&log, &snapshots)?;
        let store = Store::with_history(options.history_bytes);
        let last = last_entry(&log, &snapshots);
        // Whatever may keep this node from starting has been looked at: a start that fails is none.
        let starts = Starts::new(node_id, data_dir.begin_start().await?, store.clone());
        let caller = Caller { node_id, cluster_id: data_dir.watch_cluster_id(), starts };
        let raft = Raft::start(
            caller.clone(),
            &options.raft,
            &tasks,
            log.clone(),
            snapshots.clone(),
            store.clone(),
            peers.clone(),
        )
        .await?;
        let formation = Formation::start(
            Me { name: options.name.clone(), rpc_addr: options.rpc_addr.clone(), mode: options.mode },
            Parts {
                tasks: tasks.clone(),
                data_dir: data_dir.clone(),
                raft: raft.clone(),
                store: store.clone(),
                caller: caller.clone(),
                peers: peers.clone(),
                surroundings,
            },
        );
        let formation = formation.await.map_err(NodeError::Bootstrap)?;

        let introduction = Introduction::start(
            &tasks,
            Newcomer {
                caller: caller.clone(),
                raft: raft.clone(),
                peers: peers.clone(),
                last,
                patience: options.raft.election_timeout_min / INTRODUCTION_PART,
                lease: options.raft.election_timeout_max,
            },
        );
        tasks.spawn(incarnation::record(caller.starts.clone(), raft.clone(), log.clone()));
        let watches = Watches::start(&tasks, store.clone());
        let forwarder = Forwarder::new(&tasks, caller.clone(), peers.clone());
        let rounds = ReadRounds::start(
            &tasks,
            Means {
                node_id,
                raft: raft.clone(),
                forwarder: forwarder.clone(),
                timeout: options.limits.request_timeout,
                lease_reads: options.lease_reads,
            },
        );
        let clock = SharedLogClock::new(raft.leadership(), store.clone());
        let keeper = LeaseKeeper::new(clock.clone(), store.clone(), rounds.leader().clone());
        let proposing = Proposing { raft: raft.clone(), clock: clock.clone(), keeper: keeper.clone() };
        let proposer = Proposer::start(&tasks, proposing);
        let (draining, drained) = watch::channel(false);
        let readiness = maintenance::watch_readiness(
            &tasks,
            maintenance::Watched {
                raft: raft.clone(),
                log: log.clone(),
                store: store.clone(),
                gate: rounds.any().clone(),
                outlook: formation.outlook(),
            },
            drained,
        );
        maintenance::start(
            &tasks,
            maintenance::Duties {
                raft: raft.clone(),
                log: log.clone(),
                store: store.clone(),
                snapshot_log_bytes: options.snapshot_log_bytes,
            },
        );
        let is_majority_full = room::start(
            &tasks,
            Rooms { caller: caller.clone(), raft: raft.clone(), log: log.clone(), peers: peers.clone() },
        );
        let inner = Inner {
            options,
            tasks,
            data_dir,
            caller,
            peers,
            departure,
            following: watch::Sender::default(),
            store,
            watches,
            log,
            snapshots,
            raft,
            formation,
            proposer,
            clock,
            keeper,
            expired: Expired::default(),
            rounds,
            forwarder,
            introduction,
            readiness,
            is_majority_full,
            draining,
        };
        let node = Self { inner: Arc::new(inner) };
        reconcile::start(&node, node.inner.following.subscribe());
        expiry::start(&node, node.inner.expired.clone());
        Ok(node)
    }

    /// From now on the membership follows these peers, of which this node is one, while this node leads.
    pub fn follow_peers(&self, peers: watch::Receiver<Arc<Peers>>, policy: Policy) {
        self.inner.following.send_replace(Some(Following { peers, policy }));
    }

    /// The nodes in gossip, as this one sees them; none without gossip.
    pub fn peers(&self) -> Option<Arc<Peers>> {
        self.inner.following.borrow().as_ref().map(|following| following.peers.borrow().clone())
    }

    /// How a node is doing, as gossip sees it.
    pub(crate) fn gossip_of(&self, node_id: NodeId) -> Option<PeerState> {
        let peers = self.peers()?;
        let claims = peers.values().filter(|peer| peer.tags.as_ref().is_some_and(|tags| tags.node_id == node_id));
        claims.map(|peer| peer.state).min()
    }

    /// Where nodes are by now.
    pub(crate) fn note_addresses(&self, peers: &Peers) {
        self.inner.peers.update(peers);
    }

    /// Whether this node leaves its cluster, or has left it.
    pub(crate) fn departure(&self) -> &Departure {
        &self.inner.departure
    }

    /// The identity of this node.
    pub fn node_id(&self) -> NodeId {
        self.inner.caller.node_id
    }

    /// How this node was started.
    pub fn options(&self) -> &NodeOptions {
        &self.inner.options
    }

    /// Bounds on requests.
    pub fn limits(&self) -> &Limits {
        &self.inner.options.limits
    }

    /// The data in memory.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Those who watch the data change.
    pub fn watches(&self) -> &Watches {
        &self.inner.watches
    }

    /// The log on disk.
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// The snapshots on disk.
    pub fn snapshots(&self) -> &Snapshots {
        &self.inner.snapshots
    }

    /// Consensus.
    pub fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// How the node comes into a cluster.
    pub fn formation(&self) -> &Formation {
        &self.inner.formation
    }

    /// The data directory.
    pub fn data_dir(&self) -> &DataDir {
        &self.inner.data_dir
    }

    /// How far this node has asked the others since it started.
    pub fn introduction(&self) -> &Introduction {
        &self.inner.introduction
    }

    /// Which start of this node it is, and what it knows of the others'.
    pub fn starts(&self) -> &Starts {
        &self.inner.caller.starts
    }

    /// Lets in a call of another node, or refuses it.
    ///
    /// # Errors
    ///
    /// See [`Caller::admit`].
    pub fn admit(&self, envelope: &Envelope) -> Result<(), tonic::Status> {
        self.inner.caller.admit(envelope)
    }

    /// Tasks and random numbers.
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// Reaches another node by its address, and by its identity where that is known.
    pub fn peer(&self, target: &Target) -> Arc<dyn crate::peer::Peer> {
        self.inner.peers.peer(&self.inner.caller, target, Lane::Forward)
    }

    /// Whether the node is fit to serve; changes are seen as they come.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.inner.readiness.clone()
    }

    /// What there is to say of the node now.
    pub fn status(&self) -> NodeStatus {
        let inner = &*self.inner;
        let identity = inner.data_dir.identity();
        let leadership = inner.raft.leadership().borrow().clone();
        let (progress, stats, log) = (inner.raft.progress(), inner.store.stats(), inner.log.metrics());
        NodeStatus {
            name: inner.options.name.clone(),
            node_id: identity.node_id,
            cluster_id: identity.cluster_id,
            rpc_addr: inner.options.rpc_addr.clone(),
            state: leadership.role.as_str(),
            leader_id: leadership.leader.map(|(id, _)| id),
            leader_changes: leadership.leader_changes,
            term: leadership.term,
            last_log_index: progress.last_log,
            committed_index: progress.committed,
            applied_index: stats.applied.map_or(0, |at| at.index),
            snapshot_index: progress.snapshot,
            snapshot_bytes: inner.snapshots.latest().map_or(0, |snapshot| snapshot.size),
            log_bytes: inner.log.bytes_since(progress.purged),
            log_age: inner.log.oldest_time().map(|oldest| stats.log_time.saturating_duration_since(oldest)),
            log_syncs: log.syncs(),
            log_bytes_written: log.bytes_written(),
            log_entries_written: log.entries_written(),
            consensus: inner.raft.counters().stats(),
            gossip: self.peers().map(|peers| {
                peers.values().fold(BTreeMap::new(), |mut states, peer| {
                    *states.entry(peer.state).or_default() += 1;
                    states
                })
            }),
            revision: stats.revision,
            keys: stats.keys,
            memory_bytes: stats.memory_bytes,
            memory_quota_bytes: inner.options.memory_quota,
            state_hash: stats.state_hash.to_string(),
            sessions: stats.sessions,
            pins: stats.pins,
            history: inner.store.history(),
            watches: inner.watches.stats(),
            log_time: stats.log_time,
            leases: stats.leases,
            keep_alives: inner.keeper.keep_alives(),
            expired_keys: inner.expired.keys(),
            readiness: inner.readiness.borrow().clone(),
            disk_full: !inner.log.has_room(),
            warning: inner.formation.outlook().borrow().warning.clone(),
        }
    }

    /// Replicates and applies a command, wherever the leader is.
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub async fn write(&self, command: Command, deadline: Instant) -> Result<Outcome, RequestError> {
        self.write_after(None, command, deadline).await
    }

    /// As [`Node::write`] for each of them, side by side; where this node leads, in one batch.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]: each has its own.
    pub async fn write_all(&self, commands: Vec<Command>, deadline: Instant) -> Vec<Result<Outcome, RequestError>> {
        let side_by_side = |failed: Option<ForwardFailure>| {
            join_all(commands.iter().map(move |command| self.write_after(failed.clone(), command.clone(), deadline)))
        };
        // What is refused to one of them may not be to another.
        let is_leader = leads(&self.inner.raft.leadership().borrow());
        if !is_leader || self.refusal().is_some() {
            return side_by_side(None).await;
        }
        let began = Instant::now();
        match timeout_at(deadline, self.propose(Group::new(&commands))).await {
            Ok(Ok(outcomes)) => outcomes.into_iter().map(accepted).collect(),
            Ok(Err(failure)) => side_by_side(Some(failure)).await,
            Err(_) => commands.iter().map(|_| Err(not_committed(began))).collect(),
        }
    }

    /// Writes a command of which a first attempt may have failed.
    async fn write_after(
        &self,
        mut failed: Option<ForwardFailure>,
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, RequestError> {
        let began = Instant::now();
        let mut leadership = self.inner.raft.leadership();
        // Whether an earlier try may have had an effect.
        let mut tried = false;
        loop {
            let leader = leadership.borrow_and_update().leader.clone();
            let failed = failed.take();
            let attempt = async {
                if let Some(failed) = failed {
                    return Err(failed);
                }
                match &leader {
                    None => Err(ForwardFailure::NotLeader),
                    Some((id, _)) if *id == self.node_id() => self.write_as_leader(&command).await,
                    Some(leader) => self.inner.forwarder.write(leader, command.clone(), deadline).await,
                }
            };
            match timeout_at(deadline, attempt).await {
                Ok(Ok(outcome)) => return accepted(outcome).map_err(|error| in_the_end(error, tried)),
                Ok(Err(ForwardFailure::Unknown(reason))) if command.id.is_none() && !mutant!(RetryWithoutId) => {
                    return Err(RequestError::OutcomeUnknown { reason });
                }
                Ok(Err(ForwardFailure::Refused(error))) => return Err(in_the_end(error, tried)),
                Ok(Err(ForwardFailure::NotLeader)) if !tried => {
                    self.await_leader(&mut leadership, leader.is_some(), began, deadline).await?;
                }
                // With a request id, another try has no second effect.
                Ok(Err(ForwardFailure::Unknown(_) | ForwardFailure::NotLeader)) => {
                    tried = true;
                    let waited = self.await_leader(&mut leadership, leader.is_some(), began, deadline).await;
                    waited.map_err(|error| RequestError::OutcomeUnknown { reason: error.to_string() })?;
                }
                Err(_) => return Err(not_committed(began)),
            }
        }
    }

    /// Waits for news of the leader. `known`: the one that is known refused, which it may not do for long.
    async fn await_leader(
        &self,
        leadership: &mut watch::Receiver<Leadership>,
        known: bool,
        began: Instant,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let until = if known { deadline.min(Instant::now() + LEADER_RETRY) } else { deadline };
        match timeout_at(until, leadership.changed()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(RequestError::Unavailable { reason: "the node is stopping".into() }),
            Err(_) if Instant::now() < deadline => Ok(()),
            Err(_) => Err(RequestError::NoLeader { waited: began.elapsed() }),
        }
    }

    /// Replicates and applies a command if this node leads.
    pub(crate) async fn write_as_leader(&self, command: &Command) -> Result<Outcome, ForwardFailure> {
        match self.refusal() {
            Some(RequestError::QuotaExceeded { .. }) if !grows(command) => {}
            Some(refusal) => return Err(ForwardFailure::Refused(refusal)),
            None => {}
        }
        let outcomes = self.propose(Group::new([command])).await?;
        outcomes.into_iter().next().ok_or_else(|| ForwardFailure::Unknown("it had no outcome".into()))
    }

    /// Why this node, as leader, does not take a write that makes the store larger.
    fn refusal(&self) -> Option<RequestError> {
        if !self.inner.log.has_room() || *self.inner.is_majority_full.borrow() {
            return Some(RequestError::DiskFull);
        }
        let quota = self.inner.options.memory_quota?;
        let used = self.inner.store.stats().memory_bytes;
        (used >= quota).then_some(RequestError::QuotaExceeded { used, quota })
    }

    async fn propose(&self, group: Group) -> Result<Vec<Outcome>, ForwardFailure> {
        self.inner.proposer.propose(group).await.map_err(|error| match error {
            ProposeError::NotLeader => ForwardFailure::NotLeader,
            ProposeError::Unknown(reason) => ForwardFailure::Unknown(reason),
        })
    }

    /// Returns when a read of [`Node::store`] is as fresh as asked.
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub async fn read_barrier(&self, freshness: Freshness, deadline: Instant) -> Result<Consistency, RequestError> {
        let began = Instant::now();
        let Freshness { consistency, min_revision, max_staleness } = freshness;
        let wanted = match (consistency, max_staleness) {
            (Consistency::Local, Some(max)) if !self.inner.rounds.is_fresh(max, self.applied()) => {
                Consistency::Linearizable
            }
            (wanted, _) => wanted,
        };
        let served = match wanted {
            Consistency::Local => Consistency::Local,
            _ if mutant!(ReadWithoutIndex) => wanted,
            _ => {
                let (read_index, served) = self.read_index(wanted, began, deadline).await?;
                self.await_applied(read_index, began, deadline).await?;
                served
            }
        };
        if min_revision == 0 || mutant!(MinRevisionIgnored) {
            return Ok(served);
        }
        let mut progress = self.inner.store.progress();
        let reached = progress.wait_for(|progress| progress.revision >= min_revision);
        match timeout_at(deadline, reached).await.is_ok_and(|reached| reached.is_ok()) {
            true => Ok(served),
            false => Err(RequestError::RevisionNotReached {
                wanted: min_revision,
                reached: self.inner.store.stats().revision,
                waited: began.elapsed(),
            }),
        }
    }

    /// Renews a lease to its whole time to live, which is the answer; `None`: there is no such lease any more.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. The lease may have been renewed.
    pub async fn keep_alive(&self, lease_id: u64, deadline: Instant) -> Result<Option<Duration>, RequestError> {
        let lease = self.ask_for_lease(Call::KeepAlive(KeepAlive { lease_id }), deadline).await?;
        Ok(lease.map(|lease| lease.ttl))
    }

    /// How long a lease has still to live; `None`: there is no such lease.
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub async fn lease_time(&self, lease_id: u64, deadline: Instant) -> Result<Option<LeaseTime>, RequestError> {
        self.ask_for_lease(Call::LeaseTime(AskLeaseTime { lease_id }), deadline).await
    }

    /// About how long it is until then, as far as this node can tell: it guesses log time by its own clock.
    pub fn remaining(&self, deadline: LogTime) -> Duration {
        self.inner.clock.remaining(deadline)
    }

    /// Log time.
    pub(crate) fn log_clock(&self) -> &SharedLogClock {
        &self.inner.clock
    }

    /// The leases, while this node leads.
    pub(crate) fn lease_keeper(&self) -> &LeaseKeeper {
        &self.inner.keeper
    }

    /// Asks whoever leads about a lease. Repeating that does no harm.
    async fn ask_for_lease(&self, call: Call, deadline: Instant) -> Result<Option<LeaseTime>, RequestError> {
        let began = Instant::now();
        let mut leadership = self.inner.raft.leadership();
        loop {
            let leader = leadership.borrow_and_update().leader.clone();
            let asked = async {
                match &leader {
                    None => Err(ForwardFailure::NotLeader),
                    Some((id, _)) if *id == self.node_id() => self.answer_forwarded(call.clone(), deadline).await,
                    Some(leader) => tokio::select! {
                        biased;
                        reply = self.inner.forwarder.ask(leader, call.clone(), deadline) => reply,
                        () = leader_changed(self.inner.raft.leadership(), leader.0) => Err(ForwardFailure::NotLeader),
                    },
                }
            };
            match timeout_at(deadline, asked).await {
                Ok(Ok(Reply { answer: Answer::Lease(state), .. })) => return Ok(lease_from_proto(state)),
                Ok(Err(ForwardFailure::Refused(error))) => return Err(error),
                Ok(_) => self.await_leader(&mut leadership, leader.is_some(), began, deadline).await?,
                Err(_) => return Err(RequestError::ReadTimeout { waited: began.elapsed() }),
            }
        }
    }

    /// The last entry that the state has.
    fn applied(&self) -> u64 {
        self.inner.store.stats().applied.map_or(0, |at| at.index)
    }

    /// Returns when the state has the entry.
    async fn await_applied(&self, index: u64, began: Instant, deadline: Instant) -> Result<(), RequestError> {
        let mut progress = self.inner.store.progress();
        let applied = progress
            .wait_for(|progress| mutant!(ReadBeforeApply) || progress.applied.is_some_and(|at| at.index >= index));
        tokio::select! {
            biased;
            applied = timeout_at(deadline, applied) => match applied.is_ok_and(|applied| applied.is_ok()) {
                true => Ok(()),
                false => Err(RequestError::ReadTimeout { waited: began.elapsed() }),
            },
            () = self.stays_behind() => {
                let reason = "its disk is full, and it lacks what the others have written since: ask another node";
                Err(RequestError::Unavailable { reason: reason.into() })
            }
        }
    }

    /// Completes when this node has had no room for a while: whoever waits for an entry then had better ask another node.
    async fn stays_behind(&self) {
        let mut log = self.inner.log.status();
        if log.wait_for(|now| !now.has_room).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(CATCH_UP_MAX).await;
    }

    /// An index for a read that wants to be so fresh, and how fresh it will be.
    async fn read_index(
        &self,
        wanted: Consistency,
        began: Instant,
        deadline: Instant,
    ) -> Result<(u64, Consistency), RequestError> {
        let mut leadership = self.inner.raft.leadership();
        loop {
            let known = leadership.borrow_and_update().leader.is_some();
            let round = async {
                match wanted {
                    Consistency::Lease => self.inner.rounds.any_lease().read_index().await,
                    _ => self.inner.rounds.any().read_index().await.map(|log_id| (log_id, false)),
                }
            };
            match timeout_at(deadline, round).await {
                Ok(Ok((log_id, true))) => return Ok((log_id.index, Consistency::Lease)),
                Ok(Ok((log_id, false))) => return Ok((log_id.index, Consistency::Linearizable)),
                Ok(Err(ReadIndexError::NotLeader)) => {
                    self.await_leader(&mut leadership, known, began, deadline).await?;
                }
                // The leader lost its majority, perhaps because there is a new one: ask again.
                Ok(Err(ReadIndexError::NoQuorum(_))) => {
                    self.await_leader(&mut leadership, true, began, deadline).await?;
                }
                Err(_) => return Err(RequestError::ReadTimeout { waited: began.elapsed() }),
            }
        }
    }

    /// What a follower forwarded to this node as the leader.
    pub(crate) async fn answer_forwarded(&self, call: Call, deadline: Instant) -> Result<Reply, ForwardFailure> {
        let (rounds, keeper) = (&self.inner.rounds, &self.inner.keeper);
        let is_write = matches!(call, Call::Command(_));
        let answered = async {
            let not_leader = |_: ReadIndexError| ForwardFailure::NotLeader;
            match call {
                Call::Command(command) => Ok(Answer::Outcome(self.write_as_leader(&command).await?).into()),
                Call::ReadIndex(ReadIndex { lease: false }) => {
                    Ok(Answer::ReadIndex(rounds.leader().read_index().await.map_err(not_leader)?).into())
                }
                Call::ReadIndex(ReadIndex { lease: true }) => {
                    let (log_id, by_lease) = rounds.leader_lease().read_index().await.map_err(not_leader)?;
                    Ok(Reply { answer: Answer::ReadIndex(log_id), by_lease })
                }
                Call::KeepAlive(KeepAlive { lease_id }) => {
                    Ok(lease_to_proto(keeper.keep_alive(lease_id).await.map_err(not_leader)?))
                }
                Call::LeaseTime(AskLeaseTime { lease_id }) => {
                    Ok(lease_to_proto(keeper.lease_time(lease_id).await.map_err(not_leader)?))
                }
            }
        };
        match timeout_at(deadline, answered).await {
            Ok(reply) => reply,
            Err(_) if is_write => Err(ForwardFailure::Unknown("it was not committed in time".into())),
            Err(_) => Err(ForwardFailure::NotLeader),
        }
    }

    /// Completes when the node can't go on, and says why: consensus has failed, or the log has, or others know that its data
    /// directory is an old copy. Then the process has to end.
    pub async fn failed(&self) -> String {
        let mut leadership = self.inner.raft.leadership();
        let mut log = self.inner.log.status();
        let consensus = async {
            let failed = leadership.wait_for(|now| now.failure.is_some()).await;
            failed.map_or_else(|_| "consensus ended".into(), |now| now.failure.clone().unwrap_or_default())
        };
        // Consensus learns of it only from the next request to the log, of which there may be none.
        let log = async {
            let failed = log.wait_for(|now| now.failure.is_some() && !mutant!(LogFailureIgnored)).await;
            failed.ok().and_then(|now| now.failure.as_ref().map(ToString::to_string))
        };
        tokio::select! {
            biased;
            why = self.refused() => why,
            why = consensus => why,
            Some(why) = log => why,
            else => "the log ended".into(),
        }
    }

    /// Completes when others have refused this node and that is on its disk, so that no later start asks them again.
    async fn refused(&self) -> String {
        let mut refused = self.starts().refused();
        // The sender lives in `self`.
        let why = refused.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()).unwrap_or_default();
        match timeout(REFUSAL_NOTED_MAX, self.inner.data_dir.refuse(&why)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the refusal could not be noted"),
            Err(_) => tracing::error!("the refusal could not be noted in time"),
        }
        why
    }

    /// Stops being ready, and hands leadership over if this node leads. Requests are still answered, and forwarded to
    /// the new leader.
    pub async fn hand_over(&self, grace: Duration) {
        self.inner.draining.send_replace(true);
        maintenance::hand_over(self.node_id(), &self.inner.raft, |_| true, grace).await;
    }

    /// Completes when the node's cluster has to go: it met another one, has no other member, and never took a write. Then
    /// [`Node::dissolve`] ends it.
    pub async fn must_dissolve(&self) {
        let mut outlook = self.inner.formation.outlook();
        if outlook.wait_for(|outlook: &Outlook| outlook.must_dissolve).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the node, and makes its directory that of a new one, which a cluster can take in. Not so if a write came in
    /// after all: then it is only ended.
    ///
    /// # Errors
    ///
    /// The disk failed; the directory is still that of this node.
    pub async fn dissolve(&self) -> Result<(), IdentityError> {
        self.inner.raft.shutdown().await;
        // What was acknowledged is applied, and nothing more will be.
        let renewed = match self.inner.store.stats().is_taken() {
            true => Ok(()),
            false => self.inner.data_dir.start_anew().await,
        };
        self.shutdown().await;
        renewed
    }

    /// Ends the node: consensus, then the log, then all tasks. What was acknowledged is on disk.
    pub async fn shutdown(&self) {
        self.inner.raft.shutdown().await;
        if let Err(error) = self.inner.log.close().await {
            tracing::error!(%error, "the log was not closed cleanly");
        }
        self.inner.tasks.abort();
        self.inner.data_dir.close();
    }
}

/// Snapshot and log have to meet: what neither has is lost to this node.
pub(crate) fn check_no_gap(log: &Log, snapshots: &Snapshots) -> Result<(), NodeError> {
    let snapshot = snapshots.latest().map_or(0, |snapshot| snapshot.last_log_id.index);
    match log.purged() {
        Some(purged) if purged.index > snapshot => Err(NodeError::MissingSnapshot { snapshot, purged: purged.index }),
        _ => Ok(()),
    }
}

/// The last entry that this node has on its disk.
fn last_entry(log: &Log, snapshots: &Snapshots) -> Option<types::LogId> {
    let snapshot = snapshots.latest().map(|snapshot| log_id_from_proto(&snapshot.last_log_id));
    log.last().max(snapshot)
}

fn lease_to_proto(lease: Option<LeaseTime>) -> Reply {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let state = lease.map_or_else(LeaseState::default, |lease| LeaseState {
        remaining_ms: Some(millis(lease.remaining)),
        ttl_ms: millis(lease.ttl),
    });
    Answer::Lease(state).into()
}

fn lease_from_proto(state: LeaseState) -> Option<LeaseTime> {
    let remaining = Duration::from_millis(state.remaining_ms?);
    Some(LeaseTime { ttl: Duration::from_millis(state.ttl_ms), remaining })
}

/// Whether applying the command can make the store larger for good.
fn grows(command: &Command) -> bool {
    match &command.op {
        Some(Op::Set(_) | Op::Increment(_) | Op::OpenSession(_) | Op::GrantLease(_)) => true,
        Some(Op::Txn(txn)) => sets(txn),
        _ => false,
    }
}

/// Whether either branch of a transaction sets a key.
fn sets(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).any(|op| match &op.op {
        Some(TxnOperation::Set(_)) => true,
        Some(TxnOperation::Txn(txn)) => sets(txn),
        _ => false,
    })
}

/// What a refusal means in the end: that of the last attempt says nothing of those before it.
fn in_the_end(error: RequestError, tried: bool) -> RequestError {
    match tried && !mutant!(RefusalHidesAttempt) {
        true => RequestError::OutcomeUnknown {
            reason: format!("an earlier attempt may take effect; the last one: {error}"),
        },
        false => error,
    }
}

fn not_committed(since: Instant) -> RequestError {
    RequestError::OutcomeUnknown { reason: format!("it was not committed within {:?}", since.elapsed()) }
}

/// Turns the state machine's refusal into an error.
fn accepted(outcome: Outcome) -> Result<Outcome, RequestError> {
    match outcome.result {
        Some(OutcomeResult::Rejected(rejection)) => {
            let rejection = crate::command::Rejection::try_from(rejection).unwrap_or_default();
            Err(RequestError::Rejected(rejection))
        }
        _ => Ok(outcome),
    }
}

/// Whether a node with this role leads.
pub(crate) fn leads(leadership: &Leadership) -> bool {
    leadership.role == Role::Leader
}

#[cfg(test)]
mod tests {
    use mokv_proto::internal::TxnOp;

    use super::*;
    use crate::command;

    #[test]
    fn what_can_only_free_memory_is_let_in_beyond_the_quota() {
        let txn = |ops: Vec<TxnOperation>| Command {
            id: None,
            op: Some(Op::Txn(Txn {
                otherwise: ops.into_iter().map(|op| TxnOp { op: Some(op) }).collect(),
                ..Txn::default()
            })),
        };
        let (set, delete) = (TxnOperation::Set(Default::default()), TxnOperation::Delete(Default::default()));
        let within = |op: &TxnOperation| match txn(vec![op.clone()]).op {
            Some(Op::Txn(txn)) => TxnOperation::Txn(txn),
            _ => unreachable!(),
        };
        assert!(grows(&command::set("k", "v")) && !grows(&command::delete("k")));
        assert!(grows(&txn(vec![delete.clone(), set.clone()])) && grows(&txn(vec![within(&set)])));
        assert!(!grows(&txn(vec![delete.clone(), within(&delete)])));
        assert!(!grows(&command::expire_keys()) && !grows(&command::revoke_lease(1)));
        assert!(grows(&command::grant_lease(1, Duration::from_secs(1))));
    }

    /// The leader may have died after it sent the write on, and its successor may have no room.
    #[test]
    fn a_refusal_does_not_hide_that_an_earlier_attempt_may_take_effect() {
        assert_eq!(in_the_end(RequestError::DiskFull, false), RequestError::DiskFull);
        assert!(matches!(in_the_end(RequestError::DiskFull, true), RequestError::OutcomeUnknown { .. }));
    }
}
