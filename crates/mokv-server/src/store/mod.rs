//! The store: the replicated state machine, in memory.
//!
//! It owns the pairs, their revisions, and the sessions that make repeated writes take effect once. It promises that
//! the same log brings the same state on every node, and the same [`StateHash`]: there is no clock, no randomness and
//! no I/O in here. Waiting, freshness and durability are the callers' concern.
//!
//! # Revisions
//!
//! As in etcd: the store begins at revision 0, and each write that changes it takes the next one. A record knows the
//! revision at which its key came to be, that of its last write, and how many writes there were in between. A write
//! of the same value is a write; a deletion of nothing and a refused command take no revision.
//!
//! # Locking
//!
//! The state is under one reader-writer lock that nobody holds for long: [`Store::apply`] for a few commands, a read
//! for one lookup, a scan for one chunk. A view of many keys is a [`Pin`]: instead of copying the state, or holding
//! the lock, it makes writers keep what they supersede. A panic under the lock leaves a state that nobody can
//! explain, so every later call panics too, and the process has to end.

mod hash;
mod history;
mod key;
mod known;
mod leases;
mod load;
mod log_time;
mod memory;
mod pairs;
mod pin;
mod record;
mod scan;
mod sessions;
mod starts;
mod state;
mod superseded;
#[cfg(test)]
mod tests;
mod view;
mod writes;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::watch;

pub use hash::StateHash;
pub use history::{Change, Changes, Compacted, Cursor, HISTORY_BYTES, HistoryStats};
pub use leases::{LEASES_MAX, Lease};
pub use load::{LoadError, Loaded, Loader};
pub use log_time::LogTime;
pub use pin::{Checkpoint, Pin};
pub use record::Record;
pub use scan::{Chunk, ChunkLimit, KeyRange, Pair};
pub use sessions::{ANSWERS_BYTES_MAX, ANSWERS_MAX, SESSIONS_MAX};
pub use view::{View, ViewError};
pub use writes::{EXPIRED_MAX, TXN_RESULT_BYTES_MAX};

use crate::command::{Command, Op, Outcome, RequestId};
use crate::incarnation::Start;
use crate::raft::types::NodeId;
use record::Stored;
use state::State;

/// At most so many commands are applied under one lock: about 0.1 ms.
const LOCKED_COMMANDS_MAX: usize = 64;

/// No further command is applied under the same lock once so many bytes of values were: copying and hashing them takes
/// about 0.1 ms.
const LOCKED_BYTES_MAX: usize = 256 * 1024;

const POISONED: &str = "a thread panicked in the store: its state can't be trusted";

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The entry's index.
    pub index: u64,
}

/// How far the store has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last log entry in the state.
    pub applied: Option<Position>,
    /// The revision of the state.
    pub revision: u64,
}

/// The answer to a point read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The revision of the store that the answer reflects.
    pub revision: u64,
    /// The key's record, if it has one.
    pub record: Option<Record>,
}

/// What is known of the store. All but memory and pins is as of the last log entry that was applied as a whole, so
/// that nodes with equal `applied` can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The last log entry in the state.
    pub applied: Option<Position>,
    /// The revision of the state.
    pub revision: u64,
    /// The number of pairs.
    pub keys: u64,
    /// The number of sessions.
    pub sessions: u64,
    /// The number of leases.
    pub leases: u64,
    /// The log time that the state has come to.
    pub log_time: LogTime,
    /// The fingerprint of the state.
    pub state_hash: StateHash,
    /// Bytes of keys, values and what it takes to hold them, superseded records that are pinned included: an estimate
    /// of what the allocator was asked for.
    pub memory_bytes: u64,
    /// The number of pins, those of checkpoints included.
    pub pins: u64,
}

impl Stats {
    /// Whether any user has ever written.
    pub fn is_taken(&self) -> bool {
        self.revision > 0 || self.sessions > 0 || self.leases > 0
    }
}

/// Why an entry was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The entry holds a command that this version doesn't know. Nothing of the entry was applied; going on without it
    /// would make this node's state another one, so it has to stop and to be upgraded.
    #[error("command {number} of log entry {} (term {}) is none that this version knows: upgrade this node", at.index, at.term)]
    UnknownCommand {
        /// The entry.
        at: Position,
        /// Which of its commands, counted from 0.
        number: usize,
    },
}

/// The store. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held from the beginning of an entry to its end; a checkpoint is made between them.
    applying: Mutex<()>,
    state: RwLock<State>,
    progress: watch::Sender<Progress>,
}

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                applying: Mutex::new(()),
                state: RwLock::new(State::new()),
                progress: watch::Sender::default(),
            }),
        }
    }

    /// An empty store that remembers so many bytes of changes. See [`Store::changes`].
    pub fn with_history(bytes_max: u64) -> Self {
        let store = Self::new();
        store.shared.write().pairs.remember(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        store
    }

    /// Applies the commands of one log entry, in their order, at its log time. Entries come in the order of the log, each
    /// once. A log time before that of the state is taken for that.
    ///
    /// Readers can see the first commands of an entry before the last: each command is a transaction of its own.
    ///
    /// # Errors
    ///
    /// [`ApplyError::UnknownCommand`]; then no command had an effect.
    pub fn apply(&self, at: Position, log_time: LogTime, commands: &[Command]) -> Result<Vec<Outcome>, ApplyError> {
        let known = known_commands(at, commands)?;
        let mut outcomes = Vec::with_capacity(known.len());
        let _applying = self.shared.applying();
        let mut rest = &known[..];
        loop {
            let (now, later) = rest.split_at(locked_together(rest));
            let mut state = self.shared.write();
            state.log_time = state.log_time.max(log_time);
            outcomes.extend(now.iter().map(|(id, op)| state.execute(*id, op, at.term)));
            if later.is_empty() {
                state.settle(at);
                break;
            }
            rest = later;
        }
        self.shared.publish();
        Ok(outcomes)
    }

    /// Applies a log entry that changes the membership. `encoded` is kept as it is, for snapshots; `members` are all nodes
    /// in it.
    pub fn apply_membership(&self, at: Position, encoded: Bytes, members: &[NodeId]) {
        let _applying = self.shared.applying();
        let mut state = self.shared.write();
        state.membership = encoded;
        state.starts.retain(members);
        state.settle(at);
        drop(state);
        self.shared.publish();
    }

    /// Applies a log entry that changes nothing.
    pub fn apply_blank(&self, at: Position) {
        let _applying = self.shared.applying();
        self.shared.write().settle(at);
        self.shared.publish();
    }

    /// Leaves out the next numbers that this state would give away: so many revisions, and so many ids of clients. For a
    /// state whose history ends here while another one went on from an earlier point of it: what that one has given away is
    /// not given away again. Its pairs and sessions stay as they are.
    ///
    /// False, and no effect, if there are not so many numbers.
    pub fn skip(&self, revisions: u64, ids: u64) -> bool {
        let _applying = self.shared.applying();
        let skipped = self.shared.write().skip(revisions, ids);
        self.shared.publish();
        skipped
    }

    /// Puts a snapshot in the place of the state, at once. Existing pins go on answering from what they pinned.
    pub fn replace(&self, loaded: Loaded) {
        let _applying = self.shared.applying();
        let garbage = self.shared.write().replace(loaded);
        self.shared.publish();
        drop(garbage);
    }

    /// Reads one key.
    pub fn get(&self, key: &[u8]) -> Lookup {
        let state = self.shared.read();
        let revision = state.pairs.revision();
        let stored = state.pairs.get(key).cloned();
        drop(state);
        Lookup { revision, record: stored.map(Record::from) }
    }

    /// The log time that the state has come to.
    pub fn log_time(&self) -> LogTime {
        self.shared.read().log_time
    }

    /// When the first key ends by a deadline of its own.
    pub fn next_deadline(&self) -> Option<LogTime> {
        self.shared.read().pairs.next_deadline()
    }

    /// A lease.
    pub fn lease(&self, id: u64) -> Option<Lease> {
        self.shared.read().pairs.leases.get(id)
    }

    /// The keys that end with a lease, in order; `None` if there is no such lease.
    pub fn lease_keys(&self, id: u64) -> Option<Vec<Bytes>> {
        let state = self.shared.read();
        let keys = state.pairs.leases.keys(id)?;
        Some(keys.iter().map(|key| Bytes::copy_from_slice(key.as_slice())).collect())
    }

    /// All leases, by ascending id.
    pub fn leases(&self) -> Vec<Lease> {
        self.shared.read().pairs.leases.iter().collect()
    }

    /// The revision of the state.
    pub fn revision(&self) -> u64 {
        self.shared.read().pairs.revision()
    }

    /// The next changes of the keys in a range, whole revisions of them where they fit the limit.
    ///
    /// # Errors
    ///
    /// [`Compacted`]: some of them are forgotten.
    pub fn changes(&self, from: Cursor, range: &KeyRange, limit: ChunkLimit) -> Result<Changes, Compacted> {
        let found = self.shared.read().pairs.changes(from, range, limit);
        found.map(Changes::from)
    }

    /// All pairs as they were at a revision; 0 is the present one.
    ///
    /// # Errors
    ///
    /// See [`ViewError`].
    pub fn view(&self, revision: u64) -> Result<View, ViewError> {
        View::new(&self.shared, revision)
    }

    /// What is known of the past.
    pub fn history(&self) -> HistoryStats {
        self.shared.read().pairs.history_stats()
    }

    /// The newest start of a member that is recorded.
    pub fn start_of(&self, node_id: NodeId) -> Option<Start> {
        self.shared.read().starts.get(node_id)
    }

    /// Pins the present revision: a view of all pairs that stays as it is. Takes well under a microsecond.
    pub fn pin(&self) -> Pin {
        Pin::new(&self.shared)
    }

    /// Pins the whole state between two log entries, waiting for the end of the one that is being applied. As cheap as
    /// [`Store::pin`], but the next use of a session copies the map of sessions, and each session is copied before
    /// it changes. `None` while nothing was applied: there is nothing to take a snapshot of.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let _between_entries = self.shared.applying();
        let applied = self.shared.read().settled.progress.applied?;
        let pin = self.pin();
        let state = self.shared.read();
        Some(Checkpoint {
            pin,
            applied,
            membership: state.membership.clone(),
            keys: state.settled.keys,
            state_hash: state.settled.hash,
            next_client_id: state.sessions.next_client_id(),
            sessions: state.sessions.share(),
            starts: state.starts.export(),
            log_time: state.settled.log_time,
            next_lease_id: state.pairs.leases.next_id(),
            leases: state.pairs.leases.export(),
        })
    }

    /// What is known of the store.
    pub fn stats(&self) -> Stats {
        let state = self.shared.read();
        let settled = state.settled;
        Stats {
            applied: settled.progress.applied,
            revision: settled.progress.revision,
            keys: settled.keys as u64,
            sessions: settled.sessions as u64,
            leases: settled.leases as u64,
            log_time: settled.log_time,
            state_hash: settled.hash,
            memory_bytes: state.memory_bytes() as u64,
            pins: state.pins() as u64,
        }
    }

    /// How far the store has come, published with the end of each entry: for those who wait until something is
    /// applied.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("progress", &*self.shared.progress.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    fn applying(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().expect(POISONED)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect(POISONED)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect(POISONED)
    }

    /// See [`superseded::Superseded::collect`].
    fn collect(&self, handles_max: usize) -> Option<Vec<Stored>> {
        self.write().pairs.collect(handles_max)
    }

    fn publish(&self) {
        let progress = self.read().settled.progress;
        self.progress.send_replace(progress);
    }
}

/// A command without its optional parts.
type Known<'a> = (Option<&'a RequestId>, &'a Op);

fn known_commands(at: Position, commands: &[Command]) -> Result<Vec<Known<'_>>, ApplyError> {
    let known = commands.iter().enumerate().map(|(number, command)| match known::operation(command) {
        Some(op) => Ok((command.id.as_ref(), op)),
        None => Err(ApplyError::UnknownCommand { at, number }),
    });
    known.collect()
}

/// How many of the commands to apply under one lock.
fn locked_together(commands: &[Known<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |(_, op): &&Known<'_>| {
        let room = bytes < LOCKED_BYTES_MAX;
        bytes += match op {
            Op::Set(set) => set.value.len(),
            // May touch many keys: nothing else after it.
            Op::DeleteRange(_) | Op::Txn(_) | Op::RevokeLease(_) | Op::ExpireKeys(_) | Op::ExpireLeases(_) => {
                LOCKED_BYTES_MAX
            }
            Op::Delete(_) | Op::Increment(_) | Op::GrantLease(_) | Op::OpenSession(_) | Op::RecordStart(_) => 0,
        };
        room
    };
    commands.iter().take(LOCKED_COMMANDS_MAX).take_while(fits).count()
}
