//! What each command does to the pairs: one write, one revision.
//!
//! Everything here is total and decides by the state and the log time alone. What a command is refused for is looked for
//! before its first effect.

use bytes::Bytes;
use mokv_proto::internal::{
    self, Compare, Condition, DeleteOutcome, DeleteRangeOutcome, ExpireOutcome, GetOutcome, GrantLeaseOutcome,
    IncrementOutcome, RevokeLeaseOutcome, ScanOutcome, SetOutcome, Txn, TxnOp, TxnOutcome, TxnResult, compare,
    condition, txn_op, txn_result,
};

use super::log_time::LogTime;
use super::memory::outcome_pair_bytes;
use super::pairs::Pairs;
use super::record::{Ends, Stored};
use super::scan::KeyRange;
use crate::command::Rejection;
use crate::mutants::mutant;

/// How many keys one command of expiry deletes at most: about a millisecond under the lock. Part of the state machine.
pub const EXPIRED_MAX: usize = 1000;

/// How much the answers of one transaction hold, pairs counted with what they take beside key and value: the pair that
/// brings them to this is the last one of a scan, and the last one that comes with its value. Part of the state machine.
pub const TXN_RESULT_BYTES_MAX: usize = 1 << 20;

/// What the answers of a transaction may still hold.
struct Budget {
    bytes_left: usize,
    is_exceeded: bool,
}

impl Budget {
    fn new(bytes: usize) -> Self {
        Self { bytes_left: bytes, is_exceeded: false }
    }

    /// One answer by itself may be as large as a pair is.
    fn of_one() -> Self {
        Self::new(usize::MAX)
    }

    fn has_room(&mut self) -> bool {
        self.is_exceeded |= self.bytes_left == 0;
        self.bytes_left > 0
    }

    /// The pair as an answer has it.
    fn pair(&mut self, key: &[u8], stored: &Stored, with_value: bool) -> internal::Pair {
        let with_value = with_value && self.has_room();
        let pair = stored.export(key, with_value);
        self.bytes_left = self.bytes_left.saturating_sub(outcome_pair_bytes(&pair.key, &pair.value));
        pair
    }
}

impl Pairs {
    pub(super) fn set(&mut self, set: &internal::Set, now: LogTime) -> Result<SetOutcome, Rejection> {
        if set.lease_id != 0 && !self.leases.contains(set.lease_id) {
            return Err(Rejection::LeaseNotFound);
        }
        let outcome = self.set_uncommitted(set, now, &mut Budget::of_one());
        let revision = self.commit();
        Ok(SetOutcome { revision, ..outcome })
    }

    /// The outcome is still without its revision.
    fn set_uncommitted(&mut self, set: &internal::Set, now: LogTime, budget: &mut Budget) -> SetOutcome {
        let key = &set.key[..];
        // Most sets don't care what is there, and are spared a lookup.
        let cares = set.condition.is_some() || set.return_previous || set.keep_ttl || set.keep_value;
        let current = if cares { self.get(key).cloned() } else { None };
        let previous = current.as_ref().filter(|_| set.return_previous).map(|current| budget.pair(key, current, true));
        if !holds(set.condition.as_ref(), current.as_ref()) || (set.keep_value && current.is_none()) {
            let meta = current.as_ref().map(|current| current.meta()).unwrap_or_default();
            let (create_revision, version, mod_revision) = (meta.create_revision, meta.version, meta.mod_revision);
            return SetOutcome { revision: 0, create_revision, version, unmet: true, mod_revision, previous };
        }
        let ends = match &current {
            Some(current) if set.keep_ttl => current.ends(),
            _ => Ends { lease_id: set.lease_id, deadline_ms: deadline_ms(set.ttl_ms, now) },
        };
        let meta = match &current {
            Some(current) if set.keep_value => self.put(key, current.value(), ends),
            _ => self.put(key, &set.value, ends),
        };
        let (create_revision, version, mod_revision) = (meta.create_revision, meta.version, meta.mod_revision);
        SetOutcome { revision: 0, create_revision, version, unmet: false, mod_revision, previous }
    }

    pub(super) fn delete(&mut self, delete: &internal::Delete) -> DeleteOutcome {
        let outcome = self.delete_uncommitted(delete, &mut Budget::of_one());
        let revision = self.commit();
        DeleteOutcome { revision, ..outcome }
    }

    fn delete_uncommitted(&mut self, delete: &internal::Delete, budget: &mut Budget) -> DeleteOutcome {
        let key = &delete.key[..];
        if delete.condition.is_none() && !delete.return_previous {
            return DeleteOutcome { existed: self.remove(key), ..DeleteOutcome::default() };
        }
        let current = self.get(key).cloned();
        let previous =
            current.as_ref().filter(|_| delete.return_previous).map(|current| budget.pair(key, current, true));
        let existed = current.is_some();
        if !holds(delete.condition.as_ref(), current.as_ref()) {
            let mod_revision = current.as_ref().map_or(0, Stored::mod_revision);
            return DeleteOutcome { existed, revision: 0, unmet: true, mod_revision, previous };
        }
        self.remove(key);
        DeleteOutcome { existed, revision: 0, unmet: false, mod_revision: 0, previous }
    }

    pub(super) fn delete_range(&mut self, range: &internal::DeleteRange) -> DeleteRangeOutcome {
        let deleted = self.delete_range_uncommitted(range);
        DeleteRangeOutcome { deleted, revision: self.commit() }
    }

    fn delete_range_uncommitted(&mut self, range: &internal::DeleteRange) -> u64 {
        let keys: Vec<_> = self.range(&key_range(&range.start, &range.end)).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.remove(key.as_slice());
        }
        keys.len() as u64
    }

    pub(super) fn increment(
        &mut self,
        increment: &internal::Increment,
        now: LogTime,
    ) -> Result<IncrementOutcome, Rejection> {
        let current = self.get(&increment.key).cloned();
        let before: i64 = match &current {
            None => 0,
            Some(current) => {
                let text = std::str::from_utf8(current.value()).map_err(|_| Rejection::NotANumber)?;
                text.parse().map_err(|_| Rejection::NotANumber)?
            }
        };
        let value = before.checked_add(increment.delta).ok_or(Rejection::NotANumber)?;
        let ends = match &current {
            Some(current) => current.ends(),
            None => Ends { lease_id: 0, deadline_ms: deadline_ms(increment.ttl_ms, now) },
        };
        let meta = self.put(&increment.key, value.to_string().as_bytes(), ends);
        let revision = self.commit();
        Ok(IncrementOutcome { value, revision, create_revision: meta.create_revision, version: meta.version })
    }

    /// A transaction is refused as a whole if one of its sets names a lease that is not there: also one in a list that is not
    /// done, where that is of a transaction within.
    pub(super) fn txn(&mut self, txn: &Txn, now: LogTime) -> Result<TxnOutcome, Rejection> {
        let succeeded = self.succeeds(txn);
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if !self.has_leases_of(ops) {
            return Err(Rejection::LeaseNotFound);
        }
        let mut budget = Budget::new(TXN_RESULT_BYTES_MAX);
        let mut outcome = self.do_all(succeeded, ops, now, &mut budget);
        outcome.truncated = budget.is_exceeded;
        set_revision(&mut outcome, self.commit());
        Ok(outcome)
    }

    fn has_leases_of(&self, ops: &[TxnOp]) -> bool {
        ops.iter().all(|op| match &op.op {
            Some(txn_op::Op::Set(set)) => set.lease_id == 0 || self.leases.contains(set.lease_id),
            Some(txn_op::Op::Txn(txn)) => self.has_leases_of(&txn.then) && self.has_leases_of(&txn.otherwise),
            _ => true,
        })
    }

    fn do_all(&mut self, succeeded: bool, ops: &[TxnOp], now: LogTime, budget: &mut Budget) -> TxnOutcome {
        let results = ops.iter().map(|op| TxnResult { result: op.op.as_ref().map(|op| self.do_one(op, now, budget)) });
        TxnOutcome { succeeded, revision: 0, results: results.collect(), truncated: false }
    }

    fn do_one(&mut self, op: &txn_op::Op, now: LogTime, budget: &mut Budget) -> txn_result::Result {
        match op {
            txn_op::Op::Set(set) => txn_result::Result::Set(self.set_uncommitted(set, now, budget)),
            txn_op::Op::Delete(delete) => txn_result::Result::Delete(self.delete_uncommitted(delete, budget)),
            txn_op::Op::DeleteRange(range) => {
                let deleted = self.delete_range_uncommitted(range);
                txn_result::Result::DeleteRange(DeleteRangeOutcome { deleted, revision: 0 })
            }
            txn_op::Op::Get(get) => {
                let pair = self.get(&get.key).map(|stored| budget.pair(&get.key, stored, true));
                txn_result::Result::Get(GetOutcome { pair })
            }
            txn_op::Op::Scan(scan) => txn_result::Result::Scan(self.scan_in_txn(scan, budget)),
            txn_op::Op::Txn(txn) => {
                let succeeded = self.succeeds(txn);
                let ops = if succeeded { &txn.then } else { &txn.otherwise };
                txn_result::Result::Txn(self.do_all(succeeded, ops, now, budget))
            }
        }
    }

    fn scan_in_txn(&self, scan: &internal::Scan, budget: &mut Budget) -> ScanOutcome {
        let range = key_range(&scan.start, &scan.end);
        let limit = if scan.limit == 0 { u64::MAX } else { scan.limit };
        let mut found = ScanOutcome::default();
        let mut add = |(key, stored): (&super::key::Key, &Stored)| {
            found.more = found.pairs.len() as u64 >= limit || !budget.has_room();
            if !found.more {
                found.pairs.push(budget.pair(key.as_slice(), stored, !scan.keys_only));
            }
            !found.more
        };
        match scan.reverse {
            false => self.range(&range).all(&mut add),
            true => self.range(&range).rev().all(&mut add),
        };
        found
    }

    /// Whether all comparisons of a transaction hold.
    fn succeeds(&self, txn: &Txn) -> bool {
        txn.compare.iter().all(|compare| match &compare.range_end {
            _ if mutant!(TxnComparesNothing) => true,
            None => compares(compare, self.get(&compare.key)),
            Some(end) => {
                let range = key_range(&compare.key, end);
                self.range(&range).all(|(_, stored)| compares(compare, Some(stored)))
            }
        })
    }

    pub(super) fn grant_lease(
        &mut self,
        grant: &internal::GrantLease,
        now: LogTime,
    ) -> Result<GrantLeaseOutcome, Rejection> {
        let lease_id = self.leases.grant(grant.lease_id, grant.ttl_ms, now)?;
        Ok(GrantLeaseOutcome { lease_id, revision: self.commit() })
    }

    pub(super) fn revoke_lease(&mut self, lease_id: u64) -> Result<RevokeLeaseOutcome, Rejection> {
        if !self.leases.contains(lease_id) {
            return Err(Rejection::LeaseNotFound);
        }
        let deleted = self.revoke_uncommitted(lease_id);
        Ok(RevokeLeaseOutcome { revision: self.commit(), deleted })
    }

    fn revoke_uncommitted(&mut self, lease_id: u64) -> u64 {
        let keys = self.leases.revoke(lease_id).unwrap_or_default();
        for key in &keys {
            self.remove(key.as_slice());
        }
        keys.len() as u64
    }

    /// Revokes, in one write, those of the leases whose time is over even if nobody ever kept them alive. The others were
    /// granted after this was decided: another lease had the id then.
    pub(super) fn expire_leases(&mut self, lease_ids: &[u64], now: LogTime) -> ExpireOutcome {
        let mut deleted = 0;
        for id in lease_ids {
            if self.leases.get(*id).is_some_and(|lease| lease.deadline <= now) {
                deleted += self.revoke_uncommitted(*id);
            }
        }
        ExpireOutcome { revision: self.commit(), deleted }
    }

    /// Deletes the keys whose deadline has come, those that were due first, in one write.
    pub(super) fn expire_keys(&mut self, now: LogTime) -> ExpireOutcome {
        let mut deleted = 0;
        while deleted < EXPIRED_MAX as u64
            && let Some(key) = self.due(now)
        {
            self.remove(key.as_slice());
            deleted += 1;
        }
        ExpireOutcome { revision: self.commit(), deleted }
    }
}

fn deadline_ms(ttl_ms: u64, now: LogTime) -> u64 {
    LogTime::to_wire((ttl_ms > 0).then(|| now.after(ttl_ms)))
}

fn key_range(start: &Bytes, end: &Bytes) -> KeyRange {
    let range = KeyRange::all().starting_at(start.clone());
    if end.is_empty() { range } else { range.ending_before(end.clone()) }
}

/// Whether a write's condition holds.
fn holds(condition: Option<&Condition>, current: Option<&Stored>) -> bool {
    if mutant!(ConditionIgnored) {
        return true;
    }
    match condition.and_then(|condition| condition.is.as_ref()) {
        None => true,
        Some(condition::Is::Absent(absent)) => current.is_none() == *absent,
        Some(condition::Is::Present(present)) => current.is_some() == *present,
        Some(condition::Is::ModRevision(revision)) => current.map_or(0, Stored::mod_revision) == *revision,
    }
}

/// Whether one comparison holds for one key.
fn compares(compare: &Compare, current: Option<&Stored>) -> bool {
    let meta = current.map(|current| current.meta()).unwrap_or_default();
    let ordering = match &compare.target {
        None => return false,
        Some(compare::Target::Version(version)) => meta.version.cmp(version),
        Some(compare::Target::CreateRevision(revision)) => meta.create_revision.cmp(revision),
        Some(compare::Target::ModRevision(revision)) => meta.mod_revision.cmp(revision),
        Some(compare::Target::LeaseId(lease_id)) => meta.ends.lease_id.cmp(lease_id),
        Some(compare::Target::Value(value)) => match current {
            None => return false,
            Some(current) => current.value().cmp(value),
        },
    };
    match compare.operator() {
        compare::Operator::Equal => ordering.is_eq(),
        compare::Operator::NotEqual => ordering.is_ne(),
        compare::Operator::Greater => ordering.is_gt(),
        compare::Operator::Less => ordering.is_lt(),
    }
}

/// All parts of a transaction have its revision.
fn set_revision(outcome: &mut TxnOutcome, revision: u64) {
    outcome.revision = revision;
    for result in &mut outcome.results {
        match &mut result.result {
            Some(txn_result::Result::Set(set)) => set.revision = revision,
            Some(txn_result::Result::Delete(delete)) => delete.revision = revision,
            Some(txn_result::Result::DeleteRange(range)) => range.revision = revision,
            Some(txn_result::Result::Txn(txn)) => set_revision(txn, revision),
            Some(txn_result::Result::Get(_) | txn_result::Result::Scan(_)) | None => {}
        }
    }
}
