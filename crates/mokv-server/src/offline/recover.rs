//! A new cluster out of what one member has of a cluster that has lost its majority for good.
//!
//! Which entries count? All that are in this member's log. Those after the last one that it knew to be committed may have
//! been acknowledged: a leader tells its followers only with the next message. None of them contradicts what was: the log is
//! one history. Lost is what was acknowledged without this member; nobody who is left can say how much that is.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use rand::Rng;

use super::founding::Founding;
use super::{Founded, Founder, OfflineError};
use crate::departure::Departure;
use crate::disk::Disk;
use crate::identity::{DataDir, Identity, fresh_cluster_id};
use crate::node::check_no_gap;
use crate::raft::drop_overruled;
use crate::raft::log::{Log, LogOptions};
use crate::raft::state_machine::{StateMachine, decode_membership};
use crate::raft::types::{LogId, MemberInfo, NodeId, log_id};
use crate::runtime::Tasks;
use crate::snapshot::Snapshots;
use crate::store::{StateHash, Store};

/// A member of the cluster that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurvivorMember {
    /// Its identity.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it answered.
    pub rpc_addr: String,
    /// Whether it had a vote.
    pub is_voter: bool,
}

/// What a member has, and what the others may have had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The cluster that was.
    pub cluster_id: String,
    /// This member's identity there.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// The last entry that it has. Of several members that are left, the one with the highest term, and of those the one with
    /// the highest index, has the most.
    pub last: LogId,
    /// The last entry that it knows to be committed. Those after it may have been acknowledged; they are kept.
    pub committed: Option<LogId>,
    /// The store's revision after the last entry.
    pub revision: u64,
    /// Pairs.
    pub keys: u64,
    /// The fingerprint of the state.
    pub state_hash: StateHash,
    /// The members by the last membership that it has, itself included.
    pub members: Vec<SurvivorMember>,
}

/// A member of a cluster that has lost its majority, with everything that it has applied. Its data directory is locked while
/// this lives, and is as it was; as a start does it, the unfinished last write of a crash is cleared.
pub struct Survivor {
    tasks: Tasks,
    disk: Arc<dyn Disk>,
    data_dir: DataDir,
    store: Store,
    /// No term before it is free.
    term: u64,
    survey: Survey,
}

impl Survivor {
    /// Opens a data directory on which no node runs, and applies all that is in its log.
    ///
    /// # Errors
    ///
    /// See [`OfflineError`].
    pub async fn open(tasks: &Tasks, disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, OfflineError> {
        let data_dir = DataDir::open_existing(tasks, disk.clone(), dir.clone()).await?;
        Departure::open(tasks, disk.clone(), dir.clone()).await?;
        let Identity { node_id, name, cluster_id, .. } = data_dir.identity();
        let cluster_id = cluster_id.ok_or_else(|| OfflineError::InNoCluster(dir.clone()))?;

        let mut log = Log::open(tasks, disk.clone(), data_dir.log_dir(), LogOptions::default()).await?;
        let snapshots = Snapshots::open(tasks, disk.clone(), data_dir.snapshot_dir()).await?;
        check_no_gap(&log, &snapshots).map_err(|error| OfflineError::Node(Box::new(error)))?;
        let failed = |source| OfflineError::Io { path: data_dir.log_dir(), source };
        drop_overruled(&mut log, &snapshots).await.map_err(failed)?;
        let store = Store::new();
        apply_all(&mut log, &snapshots, &store, &data_dir).await?;
        let committed = log.read_committed().await.map_err(failed)?;
        let vote = log.get_log_reader().await.read_vote().await.map_err(failed)?;
        log.close().await.map_err(failed)?;

        let last = last_applied(&store).ok_or_else(|| OfflineError::Empty(dir.clone()))?;
        let members = members(&store).map_err(OfflineError::Apply)?;
        let others = members.iter().filter(|member| member.is_voter && member.node_id != node_id);
        if others.count() == 0 {
            return Err(OfflineError::OnlyVoter(dir));
        }
        let stats = store.stats();
        let survey = Survey {
            cluster_id,
            node_id,
            name,
            last,
            committed: committed.min(Some(last)),
            revision: stats.revision,
            keys: stats.keys,
            state_hash: stats.state_hash,
            members,
        };
        let term = last.leader_id.term.max(vote.map_or(0, |vote| vote.leader_id.term));
        Ok(Self { tasks: tasks.clone(), disk, data_dir, store, term, survey })
    }

    /// What there is, and what may be lost.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Makes the directory that of the only member of a new cluster, with all that this member has. All of it is durable when
    /// this returns. The old log, snapshots and identity stay beside the new ones.
    ///
    /// # Errors
    ///
    /// See [`OfflineError`]; the directory is still that of the old member.
    pub async fn recover(self, founder: &Founder) -> Result<Founded, OfflineError> {
        let Self { tasks, disk, data_dir, store, term, survey } = self;
        let generation = data_dir.next_generation().await?;
        let heir = Identity::new(new_node_id(&tasks, survey.node_id), founder.name.clone());
        let own = survey.members.iter().find(|member| member.node_id == survey.node_id);
        let founding = Founding {
            tasks: &tasks,
            disk,
            log_dir: data_dir.log_dir_of(generation),
            snapshot_dir: data_dir.snapshot_dir_of(generation),
            cluster_id: fresh_cluster_id(&tasks),
            node_id: heir.node_id,
            info: MemberInfo {
                name: founder.name.clone(),
                rpc_addr: own.map(|own| own.rpc_addr.clone()).unwrap_or_default(),
            },
            store: &store,
            term,
            revisions_skipped: founder.revisions_skipped,
        };
        let founded = founding.found().await?;
        data_dir.succeed(Identity { cluster_id: Some(founded.cluster_id.clone()), generation, ..heir }).await?;
        data_dir.close();
        Ok(founded)
    }
}

/// An identity that nobody has had.
fn new_node_id(tasks: &Tasks, old: NodeId) -> NodeId {
    let mut rng = tasks.rng();
    loop {
        match rng.next_u64() {
            0 => {}
            id if id == old => {}
            id => return id,
        }
    }
}

/// The newest snapshot, and every entry after it.
async fn apply_all(
    log: &mut Log,
    snapshots: &Snapshots,
    store: &Store,
    data_dir: &DataDir,
) -> Result<(), OfflineError> {
    if let Some(newest) = snapshots.latest() {
        store.replace(snapshots.load(&newest).await?);
    }
    let next = store.stats().applied.map_or(0, |applied| applied.index + 1);
    let mut state_machine =
        StateMachine::new(store.clone(), snapshots.clone(), data_dir.watch_cluster_id(), Arc::default());
    let mut reader = log.get_log_reader().await;
    let entries = reader.entries_stream(next..).await;
    let entries = entries.map(|entry| entry.map(|entry| (entry, None)));
    state_machine.apply(std::pin::pin!(entries)).await.map_err(OfflineError::Apply)
}

fn last_applied(store: &Store) -> Option<LogId> {
    let applied = store.stats().applied?;
    Some(log_id(applied.term, applied.index))
}

fn members(store: &Store) -> io::Result<Vec<SurvivorMember>> {
    let Some(checkpoint) = store.checkpoint() else { return Ok(Vec::new()) };
    let stored = decode_membership(checkpoint.membership())?;
    let membership = stored.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    let member = |(id, info): (&NodeId, &MemberInfo)| SurvivorMember {
        node_id: *id,
        name: info.name.clone(),
        rpc_addr: info.rpc_addr.clone(),
        is_voter: voters.contains(id),
    };
    Ok(membership.nodes().map(member).collect())
}
