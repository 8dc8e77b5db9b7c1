//! Snapshots on disk: a whole state in one file, written in the background, loaded at a start, sent to nodes that lag.
//!
//! [`Snapshots`] owns a directory. It promises that a file which has a snapshot's name is complete and durable, that the
//! last two are there, and that what is loaded or sent is what was written, checked byte by byte ([`codec`] has the
//! format). All that writing needs is a checkpoint of the store, whose writers go on meanwhile. When to take a snapshot,
//! which one to start from and what to purge from the log is up to the caller.

pub mod codec;
mod files;
mod loose;
mod reader;
mod receiver;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codec::{DecodeError, ItemTooLarge};
pub use files::{SnapshotInfo, Snapshots};
pub use loose::LooseSnapshot;
pub use reader::SnapshotReader;
pub use receiver::SnapshotReceiver;
pub use stream::SnapshotStream;

use crate::store::LoadError;

/// What an operator can do about a snapshot that can't be used.
const REMEDY: &str = "move the file away and start again: the node then uses the snapshot before it, if its log goes on \
                      from there; otherwise remove the data directory and let the node join again as a new one";

/// Why a snapshot was not written, received, sent or loaded. The complete snapshots are as they were before.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No room on the disk. Nothing is left of the attempt: try again later.
    #[error("no room on the disk for a snapshot: it is put off until there is some")]
    DiskFull,

    /// A complete snapshot is not what was written. Nothing of it was used. The snapshot before it, if there is one, is
    /// as good if the log still has all entries that follow on it.
    #[error("the snapshot {path} is damaged {problem}; {REMEDY}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: DecodeError,
    },

    /// A complete snapshot decodes, but not to the state that it says it is. Nothing of it was used. As for
    /// [`SnapshotError::Damaged`], the one before it may help.
    #[error("the snapshot {path} is not of the state that it names: {problem}; {REMEDY}")]
    WrongState {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: LoadError,
    },

    /// The file has the name of another snapshot: somebody renamed it. Nothing of it was used.
    #[error("the snapshot {path} is another one's by its content: give it back its name {name}")]
    WrongName {
        /// The file.
        path: PathBuf,
        /// The name that its content asks for.
        name: String,
    },

    /// The bytes received are not a snapshot: damaged on the way, or the sender is at fault. Nothing is left of them:
    /// have it sent again.
    #[error("what was received is not a snapshot, {0}")]
    Invalid(#[from] DecodeError),

    /// More or fewer bytes were received than announced. Nothing is left of them: have it sent again.
    #[error("{received} bytes of a snapshot were received instead of {expected}")]
    WrongSize {
        /// Bytes announced.
        expected: u64,
        /// Bytes received.
        received: u64,
    },

    /// A key, value, session or membership is too large for a snapshot. Nothing is left of the attempt, and none will
    /// succeed before the item is gone.
    #[error(transparent)]
    ItemTooLarge(#[from] ItemTooLarge),

    /// The snapshot has given way to newer ones, or somebody removed it: take [`Snapshots::latest`].
    #[error("the snapshot {0} is not there any more")]
    Gone(PathBuf),

    /// The caller hung up before it was complete, or the node is stopping. Nothing is left of it.
    #[error("given up before it was complete")]
    Cancelled,

    /// Who receives it took nothing for this long. It was given up, because the store keeps for it what changes meanwhile.
    #[error("nothing of the snapshot was taken for {0:?}: it was given up")]
    TooSlow(Duration),

    /// The disk failed. What is on it is unknown: stop the process.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

impl SnapshotError {
    /// What a failed call on `path` means.
    fn from_disk(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io { path: path.into(), source },
        }
    }
}
