//! Watches: the changes of a key or a range, in the order of their revisions, each revision whole and once.
//!
//! A watcher is a cursor in the store's history and nothing else: it reads on when it is asked to, so one that is slow
//! costs nobody anything, and one that is too slow finds that what it lacks is forgotten. A watcher that has read everything
//! waits in the hub; one task looks at each change once and wakes those whom it concerns.
//!
//! It promises that a watcher is told of every change of what it watches, or that some are forgotten; and never of anything
//! that was not applied here, which only committed entries are.

mod hub;
mod ranges;

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::Instant;

use self::hub::{Closed, Hub};
use crate::runtime::Tasks;
use crate::store::{Changes, ChunkLimit, Compacted, Cursor, KeyRange, Store};

/// Watchers at one time. Each costs some kilobytes, most of it for its stream.
pub const WATCHERS_MAX: usize = 100_000;

/// A watcher that has not had all that there was for so long is slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Why there are no more changes for a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Some that it has not seen are forgotten. It can begin again, with what there is.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The node stops. The changes go on at any other node.
    #[error("the node is stopping")]
    Stopping,
}

/// There are too many watchers here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are {WATCHERS_MAX} watches already")]
pub struct TooManyWatchers;

/// What is known of all watchers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// How many there are.
    pub watchers: u64,
    /// How many of them have been behind for over a second: they take changes more slowly than those come, or not at all.
    pub slow: u64,
    /// How many events they were sent.
    pub events: u64,
    /// How many ended because what they lacked was forgotten.
    pub compacted: u64,
}

/// The watchers of a store. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Watches {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    hub: Mutex<Hub>,
    events: AtomicU64,
    compacted: AtomicU64,
}

impl Watches {
    /// Starts the task that looks at what changes. When it ends with the others of the node, so do all watches.
    pub fn start(tasks: &Tasks, store: Store) -> Self {
        let hub = Mutex::new(Hub::new(store.revision(), tasks.rng()));
        let shared = Arc::new(Shared { store, hub, events: AtomicU64::new(0), compacted: AtomicU64::new(0) });
        let watches = Self { shared };
        tasks.spawn(look_at_changes(EndOfTask(watches.clone())));
        watches
    }

    /// Watches a range from the first change after a revision on, which may be one to come.
    ///
    /// # Errors
    ///
    /// [`TooManyWatchers`].
    pub fn watch(&self, range: KeyRange, after: u64) -> Result<Watcher, TooManyWatchers> {
        let mut hub = self.shared.hub();
        if hub.watchers() >= WATCHERS_MAX {
            return Err(TooManyWatchers);
        }
        let id = hub.join(&range);
        drop(hub);
        Ok(Watcher { shared: self.shared.clone(), id, range, cursor: Cursor::after(after), is_within: false })
    }

    /// Ends all watches, now and for good.
    pub fn close(&self) {
        self.shared.wake(|hub, wakers| hub.close(Instant::now(), wakers));
    }

    /// Counts events that were sent to watchers.
    pub fn count_events(&self, events: usize) {
        self.shared.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// What is known of all watchers.
    pub fn stats(&self) -> WatchStats {
        let hub = self.shared.hub();
        let (watchers, slow) = (hub.watchers(), hub.behind_for(SLOW_AFTER, Instant::now()));
        drop(hub);
        WatchStats {
            watchers: watchers as u64,
            slow: slow as u64,
            events: self.shared.events.load(Ordering::Relaxed),
            compacted: self.shared.compacted.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Each call leaves the hub whole, so one that panicked has spoilt nothing.
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the hub, and wakes those who are to be woken when it is free again.
    fn wake(&self, act: impl FnOnce(&mut Hub, &mut Vec<Waker>)) {
        let mut wakers = Vec::new();
        act(&mut self.hub(), &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// One who watches.
pub struct Watcher {
    shared: Arc<Shared>,
    id: u64,
    range: KeyRange,
    cursor: Cursor,
    /// Whether what was returned last is the part of a revision.
    is_within: bool,
}

impl Watcher {
    /// The next changes: at least one, or none where the rest of a revision of which parts came has none. Waits for them.
    /// What is read is read once, so this may be dropped at any time and called again.
    ///
    /// # Errors
    ///
    /// See [`WatchError`].
    pub async fn changes(&mut self) -> Result<Changes, WatchError> {
        loop {
            let changes = self.shared.store.changes(self.cursor, &self.range, ChunkLimit::default());
            let changes = changes.inspect_err(|_| {
                self.shared.compacted.fetch_add(1, Ordering::Relaxed);
            })?;
            self.cursor = changes.next;
            let ends_revision = self.is_within && !self.cursor.is_within();
            if !changes.changes.is_empty() || ends_revision {
                self.is_within = self.cursor.is_within();
                self.shared.hub().give(self.id, changes.is_end, Instant::now());
                return Ok(changes);
            }
            match changes.is_end {
                true => self.wait().await?,
                // Others want to run, too, while this one passes over what it doesn't watch.
                false => yield_now().await,
            }
        }
    }

    async fn wait(&mut self) -> Result<(), WatchError> {
        let Self { shared, id, range, cursor, .. } = self;
        let seen = cursor.revision();
        let woken = poll_fn(|cx| shared.hub().wait(*id, range, seen, cx.waker())).await;
        let seen = woken.map_err(|Closed| WatchError::Stopping)?;
        *cursor = Cursor::after(seen);
        Ok(())
    }

    /// Up to which revision everything that this watches was returned. `None` if the store has not come so far, or the last
    /// revision was returned in part. For the time between two calls of [`Watcher::changes`].
    pub fn progress(&mut self) -> Option<u64> {
        let waited = self.shared.hub().stop_waiting(self.id, &self.range);
        if let Some(seen) = waited {
            self.cursor = Cursor::after(seen);
        }
        let seen = self.cursor.revision();
        (!self.cursor.is_within() && seen <= self.shared.store.revision()).then_some(seen)
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("range", &self.range).field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.hub().leave(self.id, &self.range);
    }
}

/// Nobody wakes anybody any more when the task is gone.
struct EndOfTask(Watches);

impl Drop for EndOfTask {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn look_at_changes(watches: EndOfTask) {
    let shared = &*watches.0.shared;
    let mut progress = shared.store.progress();
    let mut cursor = Cursor::after(shared.hub().position());
    // The sender lives in the store.
    while progress.changed().await.is_ok() {
        let newest = progress.borrow_and_update().revision;
        while !look(shared, &mut cursor, newest) {
            yield_now().await;
        }
    }
}

/// Looks at the next changes of a store that has come to `newest`; `true` if there are no more.
fn look(shared: &Shared, cursor: &mut Cursor, newest: u64) -> bool {
    let mut hub = shared.hub();
    if hub.is_idle() {
        // Who comes to wait has seen as much, or looks for itself.
        hub.pass(newest);
        *cursor = Cursor::after(hub.position());
        return true;
    }
    drop(hub);
    let Ok(changes) = shared.store.changes(*cursor, &KeyRange::all(), ChunkLimit::default()) else {
        shared.wake(|hub, wakers| hub.miss(newest, Instant::now(), wakers));
        *cursor = Cursor::after(newest);
        return true;
    };
    shared.wake(|hub, wakers| {
        let now = Instant::now();
        changes.changes.iter().for_each(|change| hub.change(&change.key, change.revision, now, wakers));
        hub.pass(changes.next.revision());
    });
    *cursor = changes.next;
    changes.is_end
}
