//! Building the state from a snapshot.

use std::fmt;

use bytes::Bytes;
use mokv_proto::internal;
use prost::Message;

use super::Position;
use super::hash::StateHash;
use super::key::Key;
use super::leases::Leases;
use super::log_time::LogTime;
use super::pairs::Pairs;
use super::record::{Ends, Meta, Stored};
use super::sessions::Sessions;
use super::starts::MemberStarts;
use super::state::Settled;

/// Why a snapshot was refused. It is damaged, or was written by something else: nothing was changed, take another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The head says nothing that could be loaded.
    #[error("malformed snapshot head: {0}")]
    Head(&'static str),

    /// A session that can't have been in a state.
    #[error("malformed session {client_id} in a snapshot: {problem}")]
    Session {
        /// The session's client id.
        client_id: u64,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// A key names a lease that is not there.
    #[error("a key of a snapshot ends with the lease {lease_id}, which the snapshot does not have")]
    UnknownLease {
        /// The lease.
        lease_id: u64,
    },

    /// A pair is not after the one before it.
    #[error("pair {number} of a snapshot has a key that is not above the one before")]
    KeyOrder {
        /// Which pair, counted from 0.
        number: usize,
    },

    /// There are more or fewer pairs than the head says.
    #[error("the snapshot has {found} pairs where its head says {expected}")]
    KeyCount {
        /// What the head says.
        expected: u64,
        /// What came.
        found: u64,
    },

    /// What was loaded is not what the snapshot was taken of.
    #[error("the snapshot's content has the state hash {found} where its head says {expected}")]
    StateHash {
        /// What the head says.
        expected: StateHash,
        /// What came.
        found: StateHash,
    },
}

/// Takes in a snapshot: the head, then sessions and pairs as they come, then a check of the whole.
pub struct Loader {
    applied: Position,
    membership: Bytes,
    revision: u64,
    keys: u64,
    state_hash: StateHash,
    sessions: Sessions,
    starts: MemberStarts,
    leases: Leases,
    log_time: LogTime,
    pairs: Vec<(Key, Stored)>,
}

/// A state that was loaded and checked, for [`Store::replace`](super::Store::replace).
pub struct Loaded {
    pub(super) applied: Position,
    pub(super) pairs: Pairs,
    pub(super) sessions: Sessions,
    pub(super) starts: MemberStarts,
    pub(super) membership: Bytes,
    pub(super) log_time: LogTime,
}

impl Loader {
    /// Begins with a snapshot's head.
    ///
    /// # Errors
    ///
    /// [`LoadError::Head`].
    pub fn new(head: internal::SnapshotHead) -> Result<Self, LoadError> {
        let last = internal::LogId::decode(head.last_log_id).map_err(|_| LoadError::Head("no log position"))?;
        let state_hash = head.state_hash.as_ref().try_into().map_err(|_| LoadError::Head("no state hash"))?;
        Ok(Self {
            applied: Position { term: last.term, index: last.index },
            membership: head.membership,
            revision: head.revision,
            keys: head.keys,
            state_hash: StateHash::from_bytes(state_hash),
            sessions: Sessions::new(head.next_client_id),
            starts: MemberStarts::load(&head.starts),
            leases: Leases::load(head.next_lease_id, &head.leases).map_err(LoadError::Head)?,
            log_time: LogTime::from_millis(head.log_time_ms),
            pairs: Vec::new(),
        })
    }

    /// Takes in a session.
    ///
    /// # Errors
    ///
    /// [`LoadError::Session`].
    pub fn push_session(&mut self, session: internal::Session) -> Result<(), LoadError> {
        let client_id = session.client_id;
        self.sessions.load(session).map_err(|problem| LoadError::Session { client_id, problem })
    }

    /// Takes in a pair. Keys come in strictly ascending order. The bytes are copied.
    ///
    /// # Errors
    ///
    /// [`LoadError::KeyOrder`].
    pub fn push_pair(&mut self, pair: internal::Pair) -> Result<(), LoadError> {
        let key = Key::new(&pair.key);
        if self.pairs.last().is_some_and(|(last, _)| *last >= key) {
            return Err(LoadError::KeyOrder { number: self.pairs.len() });
        }
        let ends = Ends { lease_id: pair.lease_id, deadline_ms: pair.deadline_ms };
        let internal::Pair { create_revision, mod_revision, version, .. } = pair;
        let record = Stored::new(&pair.key, &pair.value, Meta { create_revision, mod_revision, version, ends });
        self.pairs.push((key, record));
        Ok(())
    }

    /// Checks that everything has come as it was.
    ///
    /// # Errors
    ///
    /// [`LoadError::KeyCount`], [`LoadError::UnknownLease`], [`LoadError::StateHash`].
    pub fn finish(self) -> Result<Loaded, LoadError> {
        let found = self.pairs.len() as u64;
        if found != self.keys {
            return Err(LoadError::KeyCount { expected: self.keys, found });
        }
        let pairs = Pairs::from_sorted(self.pairs, self.revision, self.leases)
            .map_err(|lease_id| LoadError::UnknownLease { lease_id })?;
        let found = Settled::new(Some(self.applied), &pairs, &self.sessions, &self.starts, self.log_time).hash;
        if found != self.state_hash {
            return Err(LoadError::StateHash { expected: self.state_hash, found });
        }
        let Self { applied, membership, sessions, starts, log_time, .. } = self;
        Ok(Loaded { applied, pairs, sessions, starts, membership, log_time })
    }
}

impl Loaded {
    /// The last log entry in the state.
    pub fn applied(&self) -> Position {
        self.applied
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("applied", &self.applied).finish_non_exhaustive()
    }
}
