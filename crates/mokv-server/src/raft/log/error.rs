//! Why a log could not be opened, and why an open one can't go on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::Damage;

/// What to do about a log that lost something. Its node promised to have it, so it may not go on without.
const REMEDY: &str = "If the rest of the cluster is up, stop this node, move its data directory away and let it join as a \
                      new one: the others have its data. Keep the directory until it has caught up";

/// A log that was not opened. Nothing was changed on the disk.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed. Try again once it works.
    #[error("could not {doing} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },

    /// Bytes that were durable have changed.
    #[error("{} is damaged at offset {offset}: {damage}. {REMEDY}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it the damaged part begins.
        offset: u64,
        /// What is wrong.
        damage: String,
    },

    /// Records that were durable are not there: the log was cut, or files were replaced by older ones.
    #[error(
        "{} went back in time: the log ends there at offset {offset} with record {last}, but record {known} was durable. {REMEDY}",
        .path.display()
    )]
    WentBack {
        /// The file with the last record.
        path: PathBuf,
        /// Where the next record should be.
        offset: u64,
        /// The last record that is there.
        last: u64,
        /// The last record that is known to have been durable.
        known: u64,
    },

    /// A file of the log is not there.
    #[error("{} is missing. {REMEDY}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },

    /// The file is of a later version of mökv. Start that one.
    #[error(
        "{} was written by a newer mökv, in format version {version}: this one can't read it. Start the newer one",
        .path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl LogError {
    /// For `map_err` of a disk call.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_path_buf(), source }
    }

    pub(super) fn damaged(path: &Path, offset: u64, damage: &Damage) -> Self {
        match damage {
            Damage::NewerVersion(version) => Self::NewerVersion { path: path.into(), version: *version },
            damage => Self::Damaged { path: path.into(), offset, damage: damage.to_string() },
        }
    }
}

/// Why an open log stopped for good. What it had acknowledged is durable; of the rest nothing is known. The process
/// should end: only a restart finds out what the disk has.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log can't go on: could not {doing} {}: {source}", .path.display())]
pub struct LogFailure {
    /// What was tried.
    pub doing: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// What the disk said.
    pub source: Arc<io::Error>,
}

impl LogFailure {
    /// For `map_err` of a disk call.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { doing, path: path.to_path_buf(), source: Arc::new(source) }
    }
}

impl From<&LogFailure> for io::Error {
    fn from(failure: &LogFailure) -> Self {
        Self::new(failure.source.kind(), failure.clone())
    }
}

/// Whether the disk has no room, which is no fault of its.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
