//! The leader's care for leases: who was kept alive until when, and who is revoked.
//!
//! A keep-alive writes nothing. It is noted ([`core::Keeper`]), then a majority confirms that this node still leads, and only
//! then it is answered, if the lease is still in the state. So what is answered holds, whoever leads afterwards:
//!
//! - this leader revokes the lease not before the renewed deadline, because the renewal was noted before;
//! - leaders before it have decided nothing that this one had not applied when its keeper began;
//! - one after it was elected after the round began, and renews every lease when it takes over.
//!
//! A lease whose revocation was proposed is doomed: its keep-alive waits for what becomes of that. Keepers are of one
//! term ([`Stamp::term`]); a revocation has no effect in a log entry of another one.

pub mod core;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use self::core::{Keeper, Renewal};
use crate::log_clock::{SharedLogClock, Stamp};
use crate::mutants::mutant;
use crate::raft::ReadIndexError;
use crate::read_gate::ReadGate;
use crate::store::{Lease, LogTime, Progress, Store};

/// How often a keep-alive looks what became of a revocation, if nothing is applied meanwhile.
const DOOMED_RETRY: Duration = Duration::from_millis(50);

/// When so many leases more are kept than there were after the last sweep, those that are gone are forgotten.
const SWEEP_MIN: usize = 1024;

/// The leases of a node while it leads. Cheap to clone; clones are the same keeper.
#[derive(Clone)]
pub struct LeaseKeeper {
    inner: Arc<Inner>,
}

struct Inner {
    clock: SharedLogClock,
    store: Store,
    progress: watch::Receiver<Progress>,
    /// Rounds of this node as leader.
    gate: ReadGate,
    kept: Mutex<Kept>,
    keep_alives: AtomicU64,
}

#[derive(Default)]
struct Kept {
    keeper: Keeper,
    sweep_at: usize,
}

/// What is known of a lease that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTime {
    /// As granted.
    pub ttl: Duration,
    /// About how long it has still to live.
    pub remaining: Duration,
}

/// Leases that shall be revoked, as the leader of this term has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doomed {
    /// The term.
    pub term: u64,
    /// The leases.
    pub lease_ids: Vec<u64>,
}

/// What is due, and when to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The present.
    pub now: Stamp,
    /// Leases that shall be revoked, if there are any.
    pub doomed: Option<Doomed>,
    /// When the next one is due.
    pub next: Option<LogTime>,
}

impl LeaseKeeper {
    /// The keeper of a node; `gate` runs its rounds as leader.
    pub fn new(clock: SharedLogClock, store: Store, gate: ReadGate) -> Self {
        let progress = store.progress();
        let (kept, keep_alives) = (Mutex::default(), AtomicU64::default());
        Self { inner: Arc::new(Inner { clock, store, progress, gate, kept, keep_alives }) }
    }

    /// Renews a lease. `None`: there is none any more.
    ///
    /// # Errors
    ///
    /// See [`ReadIndexError`]. The lease may live longer than it would have.
    pub async fn keep_alive(&self, id: u64) -> Result<Option<LeaseTime>, ReadIndexError> {
        let mut asked = false;
        loop {
            let Some(lease) = self.inner.store.lease(id) else {
                // It may have been granted by a leader before this one.
                if asked {
                    return Ok(None);
                }
                self.inner.confirm().await?;
                asked = true;
                continue;
            };
            let Some(renewal) = self.note(&lease) else {
                // This node does not lead, or has not yet applied what it found. A round tells, or brings it there.
                self.inner.confirm().await?;
                if self.inner.clock.stamp().is_none() {
                    return Err(ReadIndexError::NotLeader);
                }
                continue;
            };
            if renewal == Renewal::Doomed {
                self.inner.progressed().await;
                if self.inner.clock.stamp().is_none() {
                    return Err(ReadIndexError::NotLeader);
                }
                continue;
            }
            if !mutant!(KeepAliveUnconfirmed) {
                self.inner.confirm().await?;
            }
            match self.inner.store.lease(id) {
                Some(now) if now.deadline == lease.deadline => {
                    self.inner.keep_alives.fetch_add(1, Ordering::Relaxed);
                    return Ok(Some(LeaseTime { ttl: now.ttl, remaining: now.ttl }));
                }
                // It was revoked, and granted again: that is another one, which is not renewed yet.
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// How long a lease has still to live. `None`: there is none.
    ///
    /// # Errors
    ///
    /// See [`ReadIndexError`].
    pub async fn lease_time(&self, id: u64) -> Result<Option<LeaseTime>, ReadIndexError> {
        self.inner.confirm().await?;
        let Some(lease) = self.inner.store.lease(id) else { return Ok(None) };
        let (kept, now) = self.begun().ok_or(ReadIndexError::NotLeader)?;
        let remaining = kept.keeper.deadline(&lease).saturating_duration_since(now.log_time);
        Ok(Some(LeaseTime { ttl: lease.ttl, remaining }))
    }

    /// Takes in a lease that this node, as leader, has granted.
    pub fn granted(&self, id: u64) {
        let Some((mut kept, _)) = self.begun() else { return };
        if let Some(lease) = self.inner.store.lease(id) {
            kept.keeper.learn(&lease);
        }
        if kept.keeper.len() >= kept.sweep_at {
            kept.keeper.retain(|id| self.inner.store.lease(id));
            kept.sweep_at = 2 * kept.keeper.len() + SWEEP_MIN;
        }
    }

    /// What is due now; `limit` leases at most. From here on those are not renewed. `None`: this node does not lead, or does
    /// not know the time yet.
    pub fn due(&self, limit: usize) -> Option<Due> {
        let (mut kept, now) = self.begun()?;
        let lease_ids = kept.keeper.doom_due(now.log_time, limit, |id| self.inner.store.lease(id));
        let doomed = (!lease_ids.is_empty()).then_some(Doomed { term: now.term, lease_ids });
        Some(Due { now, doomed, next: kept.keeper.next_due() })
    }

    /// The revocation was applied, or will be, or not: whoever is gone is forgotten.
    pub fn settle(&self, doomed: &Doomed) {
        let mut kept = self.inner.kept();
        for id in doomed.lease_ids.iter().filter(|id| self.inner.store.lease(**id).is_none()) {
            kept.keeper.forget(*id);
        }
    }

    /// The revocation was refused, and had no effect.
    pub fn spare(&self, doomed: &Doomed) {
        let mut kept = self.inner.kept();
        if kept.keeper.term() == doomed.term {
            kept.keeper.spare(&doomed.lease_ids);
        }
    }

    /// Keep-alives that this node has answered as leader.
    pub fn keep_alives(&self) -> u64 {
        self.inner.keep_alives.load(Ordering::Relaxed)
    }

    /// The keeper of the present term, and the present. `None`: see [`SharedLogClock::stamp`].
    fn begun(&self) -> Option<(MutexGuard<'_, Kept>, Stamp)> {
        let mut kept = self.inner.kept();
        // The present is looked at under the lock: what is noted before another is no later.
        let now = self.inner.clock.stamp()?;
        if kept.keeper.term() != now.term {
            kept.keeper = Keeper::begin(now.term, now.log_time, self.inner.store.leases());
            kept.sweep_at = 2 * kept.keeper.len() + SWEEP_MIN;
        }
        Some((kept, now))
    }

    fn note(&self, lease: &Lease) -> Option<Renewal> {
        let (mut kept, now) = self.begun()?;
        Some(kept.keeper.renew(lease, now.log_time))
    }
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when a majority has confirmed that this node led after the call, and the state has all that was acknowledged
    /// before.
    async fn confirm(&self) -> Result<(), ReadIndexError> {
        let index = self.gate.read_index().await?.index;
        let mut progress = self.progress.clone();
        let applied = progress.wait_for(|progress| progress.applied.is_some_and(|at| at.index >= index)).await;
        applied.map(drop).map_err(|_| ReadIndexError::NotLeader)
    }

    /// Returns when something was applied, or after a while.
    async fn progressed(&self) {
        let mut progress = self.progress.clone();
        progress.mark_unchanged();
        drop(timeout(DOOMED_RETRY, progress.changed()).await);
    }
}
