//! Checking a backup.

use std::path::Path;
use std::sync::Arc;

use mokv_proto::internal::LogId;

use super::{OfflineError, load};
use crate::disk::Disk;
use crate::runtime::Tasks;
use crate::snapshot::codec;
use crate::store::{StateHash, Store};

/// What a backup has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The cluster that it is of.
    pub cluster_id: String,
    /// The last log entry in it.
    pub last_log_id: LogId,
    /// The store's revision.
    pub revision: u64,
    /// Pairs.
    pub keys: u64,
    /// Sessions.
    pub sessions: u64,
    /// Leases.
    pub leases: u64,
    /// Bytes of the file.
    pub size: u64,
    /// The fingerprint of the state, as it was found, which is as it should be.
    pub state_hash: StateHash,
}

/// Checks a snapshot file: every byte, and that the state it holds has the fingerprint that it names. Takes as much memory as
/// a node with that state.
///
/// # Errors
///
/// [`OfflineError::NoFile`], [`OfflineError::Damaged`], [`OfflineError::WrongState`] and [`OfflineError::Snapshot`].
pub async fn inspect(tasks: &Tasks, disk: Arc<dyn Disk>, path: &Path) -> Result<Inspection, OfflineError> {
    let backup = load(tasks, disk, path).await?;
    let last_log_id =
        codec::last_log_id(&backup.head).map_err(|problem| OfflineError::Damaged { path: path.to_owned(), problem })?;
    let store = Store::new();
    store.replace(backup.state);
    let stats = store.stats();
    Ok(Inspection {
        cluster_id: backup.head.cluster_id,
        last_log_id,
        revision: stats.revision,
        keys: stats.keys,
        sessions: stats.sessions,
        leases: backup.head.leases.len() as u64,
        size: backup.size,
        state_hash: stats.state_hash,
    })
}
