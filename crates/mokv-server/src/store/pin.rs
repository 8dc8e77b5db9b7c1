//! Views of the store that stay as they are while it changes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mokv_proto::internal;
use prost::Message;

use super::hash::StateHash;
use super::log_time::LogTime;
use super::record::Record;
use super::scan::{Chunk, ChunkLimit, Found, KeyRange, Order};
use super::sessions::ByClient;
use super::state::State;
use super::{Position, Shared};

/// How many superseded records are looked at under one lock when a pin is released: some ten microseconds.
const COLLECTED_MAX: usize = 64;

/// The pairs as they were at one revision.
///
/// Making one costs no copy. While it lives, records that it needs are kept when they are superseded; dropping it
/// frees those that only it needed, about half a microsecond for each. Other callers wait for small parts of that at
/// most, but the dropping thread for all of it. After a snapshot was installed, what was pinned before is freed as a
/// whole with the last of its pins.
pub struct Pin {
    shared: Arc<Shared>,
    generation: u64,
    revision: u64,
}

impl Pin {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self::locked(shared, &mut shared.write())
    }

    /// A pin by one who holds the lock.
    pub(super) fn locked(shared: &Arc<Shared>, state: &mut State) -> Self {
        Self { shared: Arc::clone(shared), generation: state.generation, revision: state.pairs.pin() }
    }

    /// The revision that is pinned.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The next pairs of a range in the order of their keys, as of the pin. Writers wait for one chunk at most; the
    /// caller goes on with [`Chunk::next`].
    pub fn scan(&self, range: &KeyRange, limit: ChunkLimit) -> Chunk {
        self.find(range, limit, Order::Ascending).into()
    }

    /// The same from the last key of the range to the first.
    pub fn scan_back(&self, range: &KeyRange, limit: ChunkLimit) -> Chunk {
        self.find(range, limit, Order::Descending).into()
    }

    /// What a key had.
    pub fn get(&self, key: &[u8]) -> Option<Record> {
        let state = self.shared.read();
        let stored = state.pairs_of(self.generation).get_at(self.revision, key).cloned();
        drop(state);
        stored.map(Record::from)
    }

    /// How many keys the next part of a range has, and where to go on: [`KeyRange::starting_at`] that key. `None`: the range
    /// is done. Bytes are not counted.
    pub fn count(&self, range: &KeyRange, limit: ChunkLimit) -> (u64, Option<Bytes>) {
        let state = self.shared.read();
        let (count, next) = state.pairs_of(self.generation).count(self.revision, range, limit.entries_max);
        (count, next.map(|key| Bytes::copy_from_slice(key.as_slice())))
    }

    pub(super) fn find(&self, range: &KeyRange, limit: ChunkLimit, order: Order) -> Found {
        self.shared.read().pairs_of(self.generation).scan(self.revision, range, limit, order)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // Each statement ends the lock before it drops what was freed.
        let garbage = self.shared.write().release(self.generation, self.revision);
        drop(garbage);
        while let Some(records) = self.shared.collect(COLLECTED_MAX) {
            drop(records);
        }
    }
}

/// The whole state between two log entries: what a snapshot is made of.
pub struct Checkpoint {
    pub(super) pin: Pin,
    pub(super) applied: Position,
    pub(super) membership: Bytes,
    pub(super) keys: usize,
    pub(super) state_hash: StateHash,
    pub(super) next_client_id: u64,
    pub(super) sessions: Arc<ByClient>,
    pub(super) starts: Vec<internal::MemberStart>,
    pub(super) log_time: LogTime,
    pub(super) next_lease_id: u64,
    pub(super) leases: Vec<internal::Lease>,
}

impl Checkpoint {
    /// The last log entry in the state.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// The membership at that point, as it was given to [`Store::apply_membership`](super::Store::apply_membership);
    /// empty if none was.
    pub fn membership(&self) -> &Bytes {
        &self.membership
    }

    /// The store's revision.
    pub fn revision(&self) -> u64 {
        self.pin.revision()
    }

    /// The number of pairs.
    pub fn keys(&self) -> u64 {
        self.keys as u64
    }

    /// The state hash.
    pub fn state_hash(&self) -> StateHash {
        self.state_hash
    }

    /// The head of the snapshot.
    pub fn head(&self, cluster_id: impl Into<String>) -> internal::SnapshotHead {
        let last_log_id = internal::LogId { term: self.applied.term, index: self.applied.index };
        internal::SnapshotHead {
            last_log_id: last_log_id.encode_to_vec().into(),
            membership: self.membership.clone(),
            revision: self.revision(),
            keys: self.keys(),
            state_hash: Bytes::copy_from_slice(&self.state_hash.to_bytes()),
            next_client_id: self.next_client_id,
            cluster_id: cluster_id.into(),
            starts: self.starts.clone(),
            log_time_ms: self.log_time.as_millis(),
            next_lease_id: self.next_lease_id,
            leases: self.leases.clone(),
        }
    }

    /// The sessions, in the order of their client ids.
    pub fn sessions(&self) -> impl Iterator<Item = internal::Session> {
        self.sessions.iter().map(|(client_id, session)| session.export(*client_id))
    }

    /// The next pairs of a range. See [`Pin::scan`].
    pub fn scan(&self, range: &KeyRange, limit: ChunkLimit) -> Chunk {
        self.pin.scan(range, limit)
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut checkpoint = f.debug_struct("Checkpoint");
        checkpoint.field("applied", &self.applied).field("revision", &self.revision()).finish_non_exhaustive()
    }
}
