//! A snapshot file that lies somewhere else than in a node's directory, under whatever name: a backup.

use std::path::PathBuf;
use std::sync::Arc;

use mokv_proto::internal::SnapshotHead;

use super::SnapshotError;
use super::files::{load_file, run};
use super::reader::CheckedFile;
use crate::disk::Disk;
use crate::runtime::Tasks;
use crate::store::Loaded;

/// What a file has, all of it read and checked.
#[derive(Debug)]
pub struct LooseSnapshot {
    /// What it is of.
    pub head: SnapshotHead,
    /// The state.
    pub state: Loaded,
    /// Bytes of the file.
    pub size: u64,
}

impl LooseSnapshot {
    /// Reads a file to its end.
    ///
    /// # Errors
    ///
    /// As [`Snapshots::load`](super::Snapshots::load), except that any name will do.
    pub async fn load(tasks: &Tasks, disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, SnapshotError> {
        let open = || CheckedFile::open(disk.clone(), path.clone(), None);
        let opening = open();
        let reading = async move {
            let mut file = opening.await?;
            let head = file.head().await?;
            Ok((head, file.size()))
        };
        let (head, size) = run(tasks, "snapshot-head", &path, reading).await?;
        let file = run(tasks, "snapshot-open", &path, open()).await?;
        let state = load_file(tasks, file).await?;
        Ok(Self { head, state, size })
    }
}
