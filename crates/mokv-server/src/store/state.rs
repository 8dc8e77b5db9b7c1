//! The state under the store's lock, and what each command does to it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::mem;

use bytes::Bytes;
use mokv_proto::internal::{OpenSessionOutcome, RecordStartOutcome};

use super::hash::Counters;
use super::hash::StateHash;
use super::load::Loaded;
use super::log_time::LogTime;
use super::pairs::Pairs;
use super::sessions::{Admission, Sessions};
use super::starts::MemberStarts;
use super::superseded::Superseded;
use super::{Position, Progress};
use crate::command::{Op, Outcome, OutcomeResult, RequestId};
use crate::mutants::mutant;

/// No number is skipped to beyond this: more are left than will ever be used, also by programs whose integers have a sign.
const NUMBER_MAX: u64 = 1 << 62;

/// The replicated state, and the pins on it.
pub(super) struct State {
    pub(super) pairs: Pairs,
    pub(super) sessions: Sessions,
    pub(super) starts: MemberStarts,
    pub(super) membership: Bytes,
    /// The highest that a batch carried.
    pub(super) log_time: LogTime,
    pub(super) settled: Settled,
    /// Which `pairs` these are: a snapshot that is installed begins the next generation.
    pub(super) generation: u64,
    /// Pairs that a snapshot replaced while they were pinned. They change no more.
    retired: BTreeMap<u64, Pairs>,
}

/// What is said of the state: as of the last whole entry, also while the next one is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) progress: Progress,
    pub(super) keys: usize,
    pub(super) sessions: usize,
    pub(super) leases: usize,
    pub(super) log_time: LogTime,
    pub(super) hash: StateHash,
}

impl Settled {
    pub(super) fn new(
        applied: Option<Position>,
        pairs: &Pairs,
        sessions: &Sessions,
        starts: &MemberStarts,
        log_time: LogTime,
    ) -> Self {
        let sum = pairs.hash().wrapping_add(sessions.hash()).wrapping_add(starts.hash());
        let counters = Counters {
            revision: pairs.revision(),
            next_client_id: sessions.next_client_id(),
            log_time,
            next_lease_id: pairs.leases.next_id(),
        };
        Self {
            progress: Progress { applied, revision: pairs.revision() },
            keys: pairs.len(),
            sessions: sessions.len(),
            leases: pairs.leases.len(),
            log_time,
            hash: StateHash::of(sum.wrapping_add(pairs.leases.hash()), &counters),
        }
    }
}

/// What nobody needs any more. Dropping it may take long: not under the lock.
pub(super) type Garbage = (Option<Pairs>, Option<Superseded>);

impl State {
    pub(super) fn new() -> Self {
        let (pairs, sessions, starts) = (Pairs::default(), Sessions::new(1), MemberStarts::default());
        let log_time = LogTime::default();
        let settled = Settled::new(None, &pairs, &sessions, &starts, log_time);
        let (membership, retired) = (Bytes::new(), BTreeMap::new());
        Self { pairs, sessions, starts, membership, log_time, settled, generation: 0, retired }
    }

    /// Executes one command of an entry of this term. Total: whatever the command says, all nodes come to the same outcome.
    pub(super) fn execute(&mut self, id: Option<&RequestId>, op: &Op, term: u64) -> Outcome {
        let Some(id) = id else { return self.perform(op, term) };
        match self.sessions.admit(id) {
            Admission::New => {
                let outcome = self.perform(op, term);
                if !mutant!(SessionForgets) {
                    self.sessions.remember(id, outcome.clone());
                }
                outcome
            }
            Admission::Repeated(outcome) => outcome,
            Admission::Refused(reason) => Outcome { result: Some(OutcomeResult::Rejected(reason.into())) },
        }
    }

    fn perform(&mut self, op: &Op, term: u64) -> Outcome {
        let (pairs, now) = (&mut self.pairs, self.log_time);
        let result = match op {
            Op::Set(set) => pairs.set(set, now).map(OutcomeResult::Set),
            Op::Delete(delete) => Ok(OutcomeResult::Delete(pairs.delete(delete))),
            Op::DeleteRange(range) => Ok(OutcomeResult::DeleteRange(pairs.delete_range(range))),
            Op::Increment(increment) => pairs.increment(increment, now).map(OutcomeResult::Increment),
            Op::Txn(txn) => pairs.txn(txn, now).map(OutcomeResult::Txn),
            Op::GrantLease(grant) => pairs.grant_lease(grant, now).map(OutcomeResult::GrantLease),
            Op::RevokeLease(revoke) => pairs.revoke_lease(revoke.lease_id).map(OutcomeResult::RevokeLease),
            Op::ExpireKeys(_) => Ok(OutcomeResult::Expire(pairs.expire_keys(now))),
            // Decided by a leader that was deposed since, even if it leads again.
            Op::ExpireLeases(expire) if expire.term != term && !mutant!(ExpiryOfAnotherTerm) => {
                Ok(OutcomeResult::Expire(pairs.expire_leases(&[], now)))
            }
            Op::ExpireLeases(expire) => Ok(OutcomeResult::Expire(pairs.expire_leases(&expire.lease_ids, now))),
            Op::OpenSession(_) => {
                Ok(OutcomeResult::OpenSession(OpenSessionOutcome { client_id: self.sessions.open() }))
            }
            Op::RecordStart(record) => {
                self.starts.record(record);
                Ok(OutcomeResult::RecordStart(RecordStartOutcome {}))
            }
        };
        Outcome { result: Some(result.unwrap_or_else(|reason| OutcomeResult::Rejected(reason.into()))) }
    }

    /// Ends an entry.
    pub(super) fn settle(&mut self, at: Position) {
        debug_assert!(self.settled.progress.applied < Some(at), "entries are applied in order, each once");
        self.settled = Settled::new(Some(at), &self.pairs, &self.sessions, &self.starts, self.log_time);
    }

    /// See [`Store::skip`](super::Store::skip).
    pub(super) fn skip(&mut self, revisions: u64, ids: u64) -> bool {
        let enough = |next: u64, skipped: u64| next.checked_add(skipped).is_some_and(|next| next <= NUMBER_MAX);
        if !enough(self.pairs.revision(), revisions) || !enough(self.sessions.next_client_id(), ids) {
            return false;
        }
        self.pairs.skip_revisions(revisions);
        self.sessions.skip_ids(ids);
        let applied = self.settled.progress.applied;
        self.settled = Settled::new(applied, &self.pairs, &self.sessions, &self.starts, self.log_time);
        true
    }

    /// Puts other pairs and sessions in the place of these. Pinned pairs stay for their pins.
    pub(super) fn replace(&mut self, loaded: Loaded) -> Garbage {
        let mut pairs = loaded.pairs;
        pairs.succeed(&self.pairs);
        let old = mem::replace(&mut self.pairs, pairs);
        if !mutant!(SnapshotKeepsOldSessions) || self.sessions.len() == 0 {
            self.sessions = loaded.sessions;
        }
        self.membership = loaded.membership;
        self.starts = loaded.starts;
        self.log_time = loaded.log_time;
        self.settled = Settled::new(Some(loaded.applied), &self.pairs, &self.sessions, &self.starts, self.log_time);
        let generation = self.generation;
        self.generation += 1;
        if old.pins() == 0 {
            return (Some(old), None);
        }
        self.retired.insert(generation, old);
        (None, None)
    }

    /// The pairs of a generation that is the present one or pinned.
    pub(super) fn pairs_of(&self, generation: u64) -> &Pairs {
        if generation == self.generation { &self.pairs } else { &self.retired[&generation] }
    }

    /// Ends a pin.
    pub(super) fn release(&mut self, generation: u64, revision: u64) -> Garbage {
        if generation == self.generation {
            return (None, self.pairs.release(revision));
        }
        let Entry::Occupied(mut retired) = self.retired.entry(generation) else {
            unreachable!("pinned pairs stay for their pins");
        };
        let superseded = retired.get_mut().release(revision);
        let pairs = superseded.is_some().then(|| retired.remove());
        (pairs, superseded)
    }

    pub(super) fn pins(&self) -> usize {
        self.pairs.pins() + self.retired.values().map(Pairs::pins).sum::<usize>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let retired: usize = self.retired.values().map(Pairs::memory_bytes).sum();
        self.pairs.memory_bytes() + retired + self.sessions.memory_bytes()
    }
}
