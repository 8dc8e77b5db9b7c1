//! Whether this node is leaving its cluster for good, or has left it.
//!
//! A node that left, or that was removed and heard of it, never takes part again: its identity is gone from the
//! membership, and what it has grows old. So the data directory gets a file, `left`, and no node starts on it any more;
//! the data stays where it is, for people:
//!
//! ```text
//! # mökv: this node has left its cluster and does not start again. See docs/operations.md
//! node-id = 5577006791947779410
//! cluster-id = 0f2c9a4be67d4c5e9a3b1d2c4e5f6071
//! ```
//!
//! That there is such a file counts, not what it says. While a node leaves, it says so to whoever asks who it is
//! (`IdentifyResponse.leaving`), so that nobody takes in again what is on its way out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::disk::{self, Disk};
use crate::identity::{DataDir, Identity, IdentityError};
use crate::runtime::Tasks;

/// The name of the file.
pub const FILE: &str = "left";
const HEADER: &str = "# mökv: this node has left its cluster and does not start again. See docs/operations.md";

/// Why no node starts on a data directory.
#[derive(Debug, thiserror::Error)]
pub enum DepartureError {
    /// Its node is no member any more.
    #[error(
        "the node of {} has left its cluster, or was removed from it: move that directory away, or name another, and \
         this node joins as a new one",
        .0.display()
    )]
    Left(PathBuf),
    /// The data directory is in use, unreadable, or of another version.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The disk failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// How far a node is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Staying,
    Leaving,
    Left,
}

/// The departure of one node. Cheap to clone.
#[derive(Clone)]
pub struct Departure {
    tasks: Tasks,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    stage: watch::Sender<Stage>,
}

/// A node that leaves, until this is dropped without [`Departure::finish`].
pub struct Leaving<'a>(&'a Departure);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.stage.send_if_modified(|stage| {
            let is_given_up = *stage == Stage::Leaving;
            if is_given_up {
                *stage = Stage::Staying;
            }
            is_given_up
        });
    }
}

impl Departure {
    /// Looks whether the node of the data directory `dir` may start.
    ///
    /// # Errors
    ///
    /// See [`DepartureError`].
    pub async fn open(tasks: &Tasks, disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, DepartureError> {
        let path = dir.join(FILE);
        let looking = {
            let (disk, path) = (disk.clone(), path.clone());
            async move {
                match disk::read(&*disk, &path).await {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                    Err(error) => Err(error),
                }
            }
        };
        match tasks.run_disk("departure", looking).await {
            Ok(false) => Ok(Self { tasks: tasks.clone(), disk, path, stage: watch::Sender::new(Stage::Staying) }),
            Ok(true) => Err(DepartureError::Left(dir)),
            Err(source) => Err(DepartureError::Io { path, source }),
        }
    }

    /// Begins to leave. `None` while another call is at it.
    pub fn begin(&self) -> Option<Leaving<'_>> {
        let begun = self.stage.send_if_modified(|stage| {
            let is_first = *stage == Stage::Staying;
            if is_first {
                *stage = Stage::Leaving;
            }
            is_first
        });
        begun.then_some(Leaving(self))
    }

    /// Whether the node leaves, or has left.
    pub fn has_begun(&self) -> bool {
        *self.stage.borrow() != Stage::Staying
    }

    /// Waits while a call is at leaving; says whether the node has left then.
    pub async fn settled(&self) -> bool {
        let mut stage = self.stage.subscribe();
        // The sender is `self`.
        stage.wait_for(|stage| *stage != Stage::Leaving).await.is_ok_and(|stage| *stage == Stage::Left)
    }

    /// Completes when the node has left.
    pub async fn left(&self) {
        let mut stage = self.stage.subscribe();
        if stage.wait_for(|stage| *stage == Stage::Left).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The node is no member any more. Completed even if the caller does not wait for it.
    pub async fn finish(&self, identity: &Identity) {
        if *self.stage.borrow() == Stage::Left {
            return;
        }
        let cluster_id = identity.cluster_id.as_deref().unwrap_or_default();
        let text = format!("{HEADER}\nnode-id = {}\ncluster-id = {cluster_id}\n", identity.node_id);
        let this = self.clone();
        let finishing = self.tasks.spawn(async move {
            let (disk, path) = (this.disk.clone(), this.path.clone());
            let writing = async move { disk::write_atomically(&*disk, &path, text.as_bytes()).await };
            if let Err(error) = this.tasks.run_disk("departure", writing).await {
                // It is out, noted or not.
                tracing::error!(%error, file = %this.path.display(), "that this node has left could not be noted: move its data directory away");
            }
            this.stage.send_replace(Stage::Left);
        });
        drop(finishing.await);
    }
}

/// Makes the data directory of a node that has left that of a new one, which can join again. What the old one had is the
/// cluster's, which goes on without it, and is removed. No effect on any other directory.
///
/// # Errors
///
/// See [`DepartureError`]. No node starts on the directory then; the next call goes on from there.
pub async fn begin_again(tasks: &Tasks, disk: Arc<dyn Disk>, dir: PathBuf, name: &str) -> Result<bool, DepartureError> {
    match Departure::open(tasks, disk.clone(), dir.clone()).await {
        Ok(_) => return Ok(false),
        Err(DepartureError::Left(_)) => {}
        Err(error) => return Err(error),
    }
    let data_dir = DataDir::open(tasks, disk.clone(), dir.clone(), name).await?;
    let old = data_dir.identity();
    for emptied in [data_dir.log_dir(), data_dir.snapshot_dir()] {
        let (disk, path) = (disk.clone(), emptied.clone());
        let emptying = tasks.run_disk("departure", async move { remove_files(&*disk, &path).await });
        emptying.await.map_err(|source| DepartureError::Io { path: emptied, source })?;
    }
    // Not before, so that what is left of a node that ended here is found again.
    data_dir.start_anew().await?;
    let path = dir.join(FILE);
    let forgetting = {
        let path = path.clone();
        async move {
            disk::remove_if_present(&*disk, &path).await?;
            disk.sync_dir(disk::parent(&path)).await
        }
    };
    tasks.run_disk("departure", forgetting).await.map_err(|source| DepartureError::Io { path, source })?;
    data_dir.close();
    tracing::info!(left = old.node_id, dir = %dir.display(), "the node has left its cluster: starting as a new one");
    Ok(true)
}

async fn remove_files(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let names = match disk.list(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    for name in names {
        disk.remove(&dir.join(name)).await?;
    }
    disk.sync_dir(dir).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::runtime::DiskTasks;

    async fn open(disk: &SimDisk) -> Result<Departure, DepartureError> {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        disk.create_dir("/data".as_ref()).await.expect("directory");
        Departure::open(&tasks, Arc::new(disk.clone()), "/data".into()).await
    }

    #[tokio::test]
    async fn who_has_left_does_not_start_again_even_without_power() {
        let disk = SimDisk::default();
        let departure = open(&disk).await.expect("nobody has left");
        assert!(!departure.has_begun());
        drop(departure.begin().expect("the first"));
        assert!(!departure.has_begun(), "it was given up");
        open(&disk).await.expect("nobody has left");

        let leaving = departure.begin().expect("again");
        assert!(departure.begin().is_none(), "one at a time");
        let identity = Identity { cluster_id: Some("c".into()), ..Identity::new(7, "a".into()) };
        departure.finish(&identity).await;
        drop(leaving);
        departure.left().await;
        assert!(departure.has_begun() && departure.settled().await);
        let refused = open(&disk.crash(|_| false)).await.err().expect("it has left");
        assert!(matches!(refused, DepartureError::Left(_)), "{refused}");
    }

    #[tokio::test]
    async fn who_has_left_begins_again_without_what_it_had() {
        let disk = SimDisk::default();
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let again = |disk: &SimDisk| {
            let (tasks, disk) = (tasks.clone(), Arc::new(disk.clone()));
            async move { begin_again(&tasks, disk, "/data".into(), "a").await.expect("begin again") }
        };
        let departure = open(&disk).await.expect("nobody has left");
        let dir = || async { DataDir::open(&tasks, Arc::new(disk.clone()), "/data".into(), "a").await.expect("open") };
        let data_dir = dir().await;
        let old = data_dir.identity();
        let entries = data_dir.log_dir();
        disk.create_dir(&entries).await.expect("directory");
        disk::write_atomically(&disk, &entries.join("entries"), b"what it had").await.expect("write");
        data_dir.close();
        assert!(!again(&disk).await, "it has not left");
        assert_eq!(dir().await.identity().node_id, old.node_id);

        departure.finish(&old).await;
        dir().await.close();
        assert!(again(&disk).await);
        let disk = disk.crash(|_| false);
        open(&disk).await.expect("it has not left: it is another one");
        let data_dir = DataDir::open(&tasks, Arc::new(disk.clone()), "/data".into(), "a").await.expect("open");
        assert_ne!(data_dir.identity().node_id, old.node_id);
        assert_eq!(data_dir.identity().cluster_id, None);
        assert_eq!(disk.list(&entries).await.expect("list"), Vec::<String>::new());
    }
}
