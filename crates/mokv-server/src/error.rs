//! What can go wrong with a request, in terms of what the caller should do and of what was left behind.

use std::time::Duration;

use crate::command::Rejection;

/// Why a read or a write was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No leader was found in time. The request had no effect; try again.
    #[error("no leader after {waited:?}: fewer than a majority of the voters are up, or an election is under way")]
    NoLeader {
        /// How long the request waited for one.
        waited: Duration,
    },

    /// The write was on its way when its leader was lost or its time ran out: it may take effect, or may have.
    /// Only a write with a request id may be sent again without the risk of a second effect.
    #[error("the outcome of the write is unknown: {reason}")]
    OutcomeUnknown {
        /// What happened.
        reason: String,
    },

    /// The leader has no room on its disk, or most voters have none. No effect; reads go on, writes once there is room.
    #[error("no room on the disks of the leader or of most voters: free some, and writing goes on by itself")]
    DiskFull,

    /// The store is as large as it may be. No effect; deletes still work.
    #[error("the store holds {used} of at most {quota} bytes: delete something or raise the memory quota")]
    QuotaExceeded {
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        quota: u64,
    },

    /// The node is stopping, or has more requests waiting than it takes. No effect; ask another node or try again.
    #[error("the node can't take the request now: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },

    /// This node did not reach `min_revision` in time. Ask another node or try again.
    #[error("this node has reached revision {reached}, not {wanted}, after {waited:?}")]
    RevisionNotReached {
        /// What the caller asked for.
        wanted: u64,
        /// What the node has.
        reached: u64,
        /// How long the request waited.
        waited: Duration,
    },

    /// The read was not confirmed as up to date in time. Try again.
    #[error("the read was not confirmed by a majority after {waited:?}")]
    ReadTimeout {
        /// How long the request waited.
        waited: Duration,
    },

    /// The state machine refused the write, on every node alike. No effect.
    #[error("the write was refused: {0:?}")]
    Rejected(Rejection),

    /// The cluster is in no state for what was asked. No effect; the message says what would have to change.
    #[error("{0}")]
    Refused(String),

    /// The request names something that does not exist. No effect.
    #[error("{0}")]
    NotFound(String),

    /// The request says something that can't be done. No effect; don't send it again.
    #[error("{0}")]
    Invalid(String),
}
