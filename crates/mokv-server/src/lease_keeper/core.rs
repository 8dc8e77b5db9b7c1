//! Which leases live until when, as the leader of one term has it.
//!
//! Renewals are in memory alone, so a keep-alive costs the log nothing; a new leader does not know them, and renews every
//! lease. All times are log time.
//!
//! Invariants, in the term of the keeper:
//! - A lease is doomed not before its deadline, which is the latest of: that of its grant; the beginning of the keeper and
//!   its ttl; each renewal and its ttl.
//! - What is doomed is not renewed, unless it is known that its revocation had no effect.

use std::collections::{BTreeMap, BTreeSet};

use crate::mutants::mutant;
use crate::store::{Lease, LogTime};

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives for its whole ttl from now on, if this node still leads.
    Renewed,
    /// Its revocation is under way.
    Doomed,
}

/// The leases of one term.
#[derive(Debug, Default)]
pub struct Keeper {
    term: u64,
    leases: BTreeMap<u64, Kept>,
    /// Deadlines of those that are not doomed.
    deadlines: BTreeSet<(LogTime, u64)>,
    doomed: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Which grant of this id it is: its deadline is that of no other.
    granted: LogTime,
    deadline: LogTime,
}

impl Kept {
    fn is_of(&self, lease: &Lease) -> bool {
        self.granted == lease.deadline
    }
}

impl Keeper {
    /// The keeper of a leader whose log time is `now`, and whose state has all that leaders before it have decided. Renews
    /// every lease: whoever kept one alive under another leader was promised no more than its ttl.
    pub fn begin(term: u64, now: LogTime, leases: impl IntoIterator<Item = Lease>) -> Self {
        let mut keeper = Self { term, ..Self::default() };
        for lease in leases {
            let renewed = if mutant!(NewLeaderKeepsDeadlines) { lease.deadline } else { now + lease.ttl };
            keeper.keep(&lease, renewed);
        }
        keeper
    }

    /// The term; 0 if none has begun.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// How many leases are kept; those that were revoked are forgotten when they are due.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Takes in a lease of the state, if it is new.
    pub fn learn(&mut self, lease: &Lease) {
        if !self.leases.get(&lease.id).is_some_and(|kept| kept.is_of(lease)) {
            self.keep(lease, lease.deadline);
        }
    }

    /// Renews a lease of the state.
    pub fn renew(&mut self, lease: &Lease, now: LogTime) -> Renewal {
        self.learn(lease);
        if self.doomed.contains(&lease.id) {
            return Renewal::Doomed;
        }
        let deadline = self.leases.get(&lease.id).map_or(lease.deadline, |kept| kept.deadline);
        self.keep(lease, deadline.max(now + lease.ttl));
        Renewal::Renewed
    }

    /// Until when a lease lives, at least.
    pub fn deadline(&self, lease: &Lease) -> LogTime {
        self.leases.get(&lease.id).filter(|kept| kept.is_of(lease)).map_or(lease.deadline, |kept| kept.deadline)
    }

    /// When the next lease is due; the beginning of time if one is doomed.
    pub fn next_due(&self) -> Option<LogTime> {
        match self.doomed.is_empty() {
            true => self.deadlines.first().map(|(deadline, _)| *deadline),
            false => Some(LogTime::default()),
        }
    }

    /// Dooms those that are due, as `state` still has them, and answers with all that are doomed, `limit` at most. From here
    /// on they are not renewed, until their revocation is applied ([`Keeper::forget`]) or had no effect ([`Keeper::spare`]).
    pub fn doom_due(&mut self, now: LogTime, limit: usize, state: impl Fn(u64) -> Option<Lease>) -> Vec<u64> {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now || self.doomed.len() >= limit {
                break;
            }
            match state(id) {
                None => self.forget(id),
                // It was revoked, and granted again.
                Some(lease) if !self.leases.get(&id).is_some_and(|kept| kept.is_of(&lease)) => {
                    self.keep(&lease, lease.deadline);
                }
                Some(_) => {
                    self.deadlines.pop_first();
                    self.doomed.insert(id);
                }
            }
        }
        self.doomed.iter().take(limit).copied().collect()
    }

    /// The revocation of these is known to have had no effect: they may be renewed again.
    pub fn spare(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(kept) = self.leases.get(id).filter(|_| self.doomed.remove(id)) {
                self.deadlines.insert((kept.deadline, *id));
            }
        }
    }

    /// The state has no such lease any more.
    pub fn forget(&mut self, id: u64) {
        self.doomed.remove(&id);
        if let Some(kept) = self.leases.remove(&id) {
            self.deadlines.remove(&(kept.deadline, id));
        }
    }

    /// Forgets those that the state does not have.
    pub fn retain(&mut self, state: impl Fn(u64) -> Option<Lease>) {
        let gone: Vec<u64> = self.leases.keys().copied().filter(|id| state(*id).is_none()).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    fn keep(&mut self, lease: &Lease, deadline: LogTime) {
        self.forget(lease.id);
        self.leases.insert(lease.id, Kept { granted: lease.deadline, deadline });
        self.deadlines.insert((deadline, lease.id));
    }
}
