//! What is done to files and data directories while no node runs on them: a backup is checked ([`inspect`]), a new cluster
//! begins with one ([`restore`]), or with what one member of a cluster has that has lost the others for good ([`Survivor`]).
//!
//! Both beginnings go the same way. A state is made by the code that a node makes it by: a snapshot is loaded, entries are
//! applied. Then comes one more entry, the membership of a new cluster with a new id and one member with a new id, and a
//! snapshot of that is all that the new member has ([`founding`](self) writes it). It looks to every part of a node as if it
//! had purged its log up to there, so it leads alone as soon as it is started, and others join it as they join any leader.
//!
//! Promises: everything is durable before success is reported, and what makes it count is one atomic write, of the
//! identity, at the end. Until then a directory that is restored into is no node's, and one that is recovered is what it was
//! before. Nobody of another cluster can get in: every call between nodes carries the cluster's id.
//!
//! # Numbers that were given away
//!
//! A backup is a point of a history that went on. Its clients know revisions, and ids of sessions and leases, that the
//! restored state has not given away yet. An id must never mean two clients, so the ids go on [`IDS_SKIPPED`] later. How far
//! the revision skips is for the operator to say: see [`Founder::revisions_skipped`].

mod founding;
mod inspect;
mod recover;
mod restore;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use inspect::{Inspection, inspect};
pub use recover::{Survey, Survivor, SurvivorMember};
pub use restore::restore;

use crate::departure::DepartureError;
use crate::disk::Disk;
use crate::identity::IdentityError;
use crate::node::NodeError;
use crate::raft::log::LogError;
use crate::raft::types::NodeId;
use crate::runtime::Tasks;
use crate::snapshot::codec::DecodeError;
use crate::snapshot::{LooseSnapshot, SnapshotError};
use crate::store::{LoadError, StateHash};

/// More than a cluster gives away between a backup and its end, and few enough for any number of restores.
pub const IDS_SKIPPED: u64 = 1 << 32;

/// What a new cluster has to be told that begins with an old state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Founder {
    /// The name of its first member, until that is started under another one.
    pub name: String,
    /// By so much the store's revision goes up, with no change in between. With more than the old cluster wrote since, no
    /// revision that somebody has seen comes again: who resumes a watch at one is told that it is compacted, and who demands
    /// to read at least one is answered.
    pub revisions_skipped: u64,
}

/// The new cluster, of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founded {
    /// Its id.
    pub cluster_id: String,
    /// The member's.
    pub node_id: NodeId,
    /// The store's revision.
    pub revision: u64,
    /// Pairs.
    pub keys: u64,
    /// Sessions.
    pub sessions: u64,
    /// The fingerprint of the state. Another one than that of the state it came from: ids were skipped, and the starts of the
    /// old members are forgotten.
    pub state_hash: StateHash,
}

/// Why a file or a directory could not be used. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// There is no such file.
    #[error("there is no file {}", .0.display())]
    NoFile(PathBuf),
    /// A file is not what was written.
    #[error(
        "{} is damaged {problem}: use another backup. `mokv snapshot save` makes one while a majority of a cluster is up, and \
         the last two of a node are in its data directory, under snapshots/",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: DecodeError,
    },
    /// A file decodes, but not to the state that it says it is.
    #[error("{} is not of the state that it names ({problem}): use another backup", .path.display())]
    WrongState {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: LoadError,
    },
    /// The data directory can't be used for this.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node has left its cluster.
    #[error(transparent)]
    Departure(#[from] DepartureError),
    /// The log can't be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A snapshot of the data directory can't be read or written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Log and snapshots of the data directory don't meet.
    #[error("{0}")]
    Node(Box<NodeError>),
    /// The node is in no cluster.
    #[error("the node in {} is in no cluster: there is nothing to recover", .0.display())]
    InNoCluster(PathBuf),
    /// The node has no state yet.
    #[error("the node in {} has not got anything of its cluster's data yet: recover another one", .0.display())]
    Empty(PathBuf),
    /// The node needs nobody else.
    #[error("the node in {} is the only voter of its cluster: start it, it needs nobody else", .0.display())]
    OnlyVoter(PathBuf),
    /// The revision can't go up so far.
    #[error("the revision can't be raised by {0}: there are not so many numbers left")]
    NoNumbers(u64),
    /// The log can't be read, or has an entry that this version does not know.
    #[error("the log can't be applied to the state: {0}")]
    Apply(io::Error),
    /// No room for what is to be made. Nothing is left of the attempt.
    #[error("no room on the disk for {}: free some, or use another disk", .0.display())]
    DiskFull(PathBuf),
    /// The disk failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// Reads a backup, all of it.
async fn load(tasks: &Tasks, disk: Arc<dyn Disk>, path: &Path) -> Result<LooseSnapshot, OfflineError> {
    LooseSnapshot::load(tasks, disk, path.to_owned()).await.map_err(|error| match error {
        SnapshotError::Gone(path) => OfflineError::NoFile(path),
        SnapshotError::Damaged { path, problem } => OfflineError::Damaged { path, problem },
        SnapshotError::WrongState { path, problem } => OfflineError::WrongState { path, problem },
        other => other.into(),
    })
}
