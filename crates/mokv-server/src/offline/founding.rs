//! The first member of a new cluster that begins with a state: its log and its one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::RaftLogStorage;
use prost::Message;

use super::{Founded, IDS_SKIPPED, OfflineError};
use crate::disk::Disk;
use crate::raft::log::{Log, LogOptions};
use crate::raft::types::{self, MemberInfo, Membership, NodeId, StoredMembership, Vote};
use crate::runtime::Tasks;
use crate::snapshot::{SnapshotError, Snapshots};
use crate::store::{Position, Store};

/// What is to be made.
pub(super) struct Founding<'a> {
    pub(super) tasks: &'a Tasks,
    pub(super) disk: Arc<dyn Disk>,
    /// Where the log is to be. There is nothing yet.
    pub(super) log_dir: PathBuf,
    /// Where the snapshots are to be. There is nothing yet.
    pub(super) snapshot_dir: PathBuf,
    pub(super) cluster_id: String,
    pub(super) node_id: NodeId,
    pub(super) info: MemberInfo,
    /// The state to begin with.
    pub(super) store: &'a Store,
    /// No term before this one is free: somebody may have led, or voted, in it.
    pub(super) term: u64,
    pub(super) revisions_skipped: u64,
}

impl Founding<'_> {
    /// Makes log and snapshot, durably. On an error nothing is left of them, unless the disk does not even let files go.
    pub(super) async fn found(self) -> Result<Founded, OfflineError> {
        let (tasks, disk) = (self.tasks, self.disk.clone());
        let dirs = [self.log_dir.clone(), self.snapshot_dir.clone()];
        let founded = self.write().await;
        if founded.is_err() {
            let clearing = async move {
                for dir in &dirs {
                    clear(&*disk, dir).await;
                }
                Ok(())
            };
            // What remains is no node's, and in nobody's way.
            drop(tasks.run_disk("clear", clearing).await);
        }
        founded
    }

    async fn write(self) -> Result<Founded, OfflineError> {
        let Self { tasks, disk, log_dir, snapshot_dir, cluster_id, node_id, info, store, term, revisions_skipped } =
            self;
        if !store.skip(revisions_skipped, IDS_SKIPPED) {
            return Err(OfflineError::NoNumbers(revisions_skipped));
        }
        let applied = store.stats().applied;
        let at = Position { term, index: applied.map_or(0, |applied| applied.index + 1) };
        let log_id = types::log_id(at.term, at.index);
        let membership = Membership::new(vec![BTreeSet::from([node_id])], BTreeMap::from([(node_id, info)]));
        let membership = StoredMembership::new(Some(log_id), membership.expect("its voter is a member"));
        let encoded = types::stored_membership_to_proto(&membership).encode_to_vec();
        store.apply_membership(at, encoded.into(), &[node_id]);

        // The log first: a directory with a log and without an identity is started by nobody.
        let mut log = Log::open(tasks, disk.clone(), log_dir.clone(), LogOptions::default()).await?;
        let logged = async {
            log.save_committed(Some(log_id)).await?;
            // So that it leads in a term that is its own.
            log.save_vote(&Vote::new(term, node_id)).await?;
            log.purge(log_id).await?;
            log.close().await
        };
        logged.await.map_err(|source| OfflineError::Io { path: log_dir, source })?;
        let snapshots = Snapshots::open(tasks, disk, snapshot_dir.clone()).await?;
        let checkpoint = store.checkpoint().expect("an entry was applied");
        match snapshots.write(checkpoint, &cluster_id).await {
            Err(SnapshotError::DiskFull) => return Err(OfflineError::DiskFull(snapshot_dir)),
            written => written?,
        };
        let stats = store.stats();
        Ok(Founded {
            cluster_id,
            node_id,
            revision: stats.revision,
            keys: stats.keys,
            sessions: stats.sessions,
            state_hash: stats.state_hash,
        })
    }
}

/// Removes the files of a directory, as far as that goes.
async fn clear(disk: &dyn Disk, dir: &Path) {
    let Ok(names) = disk.list(dir).await else { return };
    for name in names {
        if let Err(error) = disk.remove(&dir.join(&name)).await {
            tracing::warn!(dir = %dir.display(), name, %error, "a left-over could not be removed");
        }
    }
    drop(disk.sync_dir(dir).await);
}
