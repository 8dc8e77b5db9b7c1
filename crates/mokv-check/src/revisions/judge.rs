//! Semantics: each answer is what the writes up to its revision make it.
//!
//! A write at revision r is judged by the keys at r-1 and those that it wrote itself, a view of revision R by those at R.

use super::effect::{Scene, effect};
use super::ledger::{Ledger, phantom};
use super::lives::Lives;
use super::timeline::{Timeline, View, Written};
use super::violation::{Fact, Violation, describe};
use crate::answer::{Answer, Pair, TxnDone, TxnResult};
use crate::calls::{Answered, Call, Calls, Changes};
use crate::op::{Condition, List, Op, Range, Txn, TxnOp};

/// Judges every answer, and the commits of calls whose answer does not tell all of it.
pub(super) fn check<'a>(
    calls: &Calls<'a>,
    ledger: &Ledger<'a>,
    timeline: &Timeline<'a>,
    lives: Option<&Lives<'a>>,
) -> Result<(), Violation> {
    let judge = Judge { calls, timeline, lives };
    for call in &calls.list {
        if let Some(answered) = call.answered() {
            judge.check_answer(call, answered)?;
        }
    }
    for (&revision, write) in &ledger.writes {
        let Some(call) = write.call.map(|place| &calls.list[place]) else { continue };
        let is_told = call.answered().is_some_and(|answered| answered.changes.is_some());
        if ledger.complete && !is_told {
            let expected = effect(call, timeline, lives, revision);
            if let Some(expected) = expected.filter(|expected| *expected != write.changes) {
                let (expected, found) = (describe(&expected), describe(&write.changes));
                return Err(Violation::WrongChanges { call: call.id, revision, expected, found });
            }
        } else if !ledger.complete && call.is_unknown() {
            judge.check_branch_of_unknown(call, revision, &write.changes)?;
        }
    }
    Ok(())
}

/// Who judges.
pub(super) struct Judge<'h, 'a> {
    pub(super) calls: &'h Calls<'a>,
    pub(super) timeline: &'h Timeline<'a>,
    pub(super) lives: Option<&'h Lives<'a>>,
}

impl<'a> Judge<'_, 'a> {
    fn check_answer(&self, call: &Call<'a>, answered: &Answered<'a>) -> Result<(), Violation> {
        // What has none shows no key.
        let Some(revision) = answered.revision else { return Ok(()) };
        let at = Place { call: call.id, revision };
        let scene = Scene::of(self.timeline, self.lives, revision, answered.wrote);
        match (call.op, answered.answer) {
            (Op::Set(set), Answer::Set { create_revision, version, previous, .. }) => {
                self.check_condition(at, &scene, &set.key, set.condition, true)?;
                if set.previous {
                    self.check_pair(at, &set.key, &scene.view(&set.key), previous.as_ref(), false)?;
                }
                self.check_own_versions(at, &set.key, *create_revision, *version)
            }
            (Op::Set(set), Answer::Unmet { mod_revision, .. }) => {
                self.check_mod_revision(at, &scene, &set.key, *mod_revision)?;
                // An absent key has no value to keep.
                let condition = if set.keep_value && *mod_revision == 0 { None } else { set.condition };
                self.check_condition(at, &scene, &set.key, condition, false)
            }
            (Op::Delete(delete), Answer::Delete { existed, previous, .. }) => {
                self.check_condition(at, &scene, &delete.key, delete.condition, true)?;
                self.check_existed(at, &scene, &delete.key, *existed)?;
                match delete.previous {
                    true => self.check_pair(at, &delete.key, &scene.view(&delete.key), previous.as_ref(), false),
                    false => Ok(()),
                }
            }
            (Op::Delete(delete), Answer::Unmet { mod_revision, .. }) => {
                self.check_mod_revision(at, &scene, &delete.key, *mod_revision)?;
                self.check_condition(at, &scene, &delete.key, delete.condition, false)
            }
            (Op::DeleteRange { range }, Answer::DeleteRange { deleted: count, .. })
            | (Op::Count { range, .. }, Answer::Count { count, .. }) => self.check_count(at, &scene, range, *count),
            (Op::Increment { key, .. }, Answer::Increment { create_revision, version, .. }) => {
                self.check_sum(at, call, key)?;
                self.check_own_versions(at, key, *create_revision, *version)
            }
            (Op::Get { key, .. }, Answer::Get { pair, .. }) => {
                self.check_pair(at, key, &scene.view(key), pair.as_ref(), false)
            }
            (Op::List(list), Answer::List { pairs, .. }) => {
                let is_cut = list.limit > 0 && pairs.len() as u64 == list.limit;
                self.check_list(at, &scene, list, pairs, is_cut)
            }
            (Op::Txn(txn), Answer::Txn { done, .. }) => self.check_txn(at, &mut { scene }, txn, done),
            (Op::RevokeLease { lease }, Answer::RevokeLease { deleted, .. }) => {
                let before = revision - u64::from(answered.wrote);
                let expected = self.lives.and_then(|lives| lives.keys_of(self.timeline, *lease, before));
                match expected.map(|keys| keys.len() as u64) {
                    Some(expected) if expected != *deleted => {
                        Err(at.mismatch(&format!("lease {lease}"), Fact::Count, expected, deleted))
                    }
                    _ => Ok(()),
                }
            }
            // They tell of no key, or were refused as malformed.
            _ => Ok(()),
        }
    }

    /// The condition of a write held if it was done, or did not if it was not.
    fn check_condition(
        &self,
        at: Place,
        scene: &Scene<'_, 'a>,
        key: &str,
        condition: Option<Condition>,
        done: bool,
    ) -> Result<(), Violation> {
        match condition.and_then(|condition| scene.meets(key, condition)) {
            Some(expected) if expected != done => Err(at.mismatch(key, Fact::Condition, expected, done)),
            _ => Ok(()),
        }
    }

    fn check_mod_revision(&self, at: Place, scene: &Scene<'_, 'a>, key: &str, found: u64) -> Result<(), Violation> {
        match scene.mod_revision(key) {
            Some(expected) if expected != found => Err(at.mismatch(key, Fact::ModRevision, expected, found)),
            _ => Ok(()),
        }
    }

    fn check_own_versions(&self, at: Place, key: &str, create: u64, version: u64) -> Result<(), Violation> {
        let view = self.timeline.view(key, at.revision);
        match view.written() {
            Some(written) if !view.is_open => at.check_versions(key, written, create, version),
            _ => Ok(()),
        }
    }

    /// A sum is that of what there was and what was added.
    fn check_sum(&self, at: Place, call: &Call<'a>, key: &str) -> Result<(), Violation> {
        let Some(expected) = effect(call, self.timeline, self.lives, at.revision) else { return Ok(()) };
        match call.answered().and_then(|answered| answered.changes.as_ref()) {
            Some(said) if *said != expected => Err(at.mismatch(key, Fact::Value, describe(&expected), describe(said))),
            _ => Ok(()),
        }
    }

    fn check_existed(&self, at: Place, scene: &Scene<'_, 'a>, key: &str, existed: bool) -> Result<(), Violation> {
        let view = scene.view(key);
        let possible = if existed { view.may_be_present() } else { view.may_be_absent() };
        if possible { Ok(()) } else { Err(at.mismatch(key, Fact::Existed, !existed, existed)) }
    }

    fn check_count(&self, at: Place, scene: &Scene<'_, 'a>, range: &Range, count: u64) -> Result<(), Violation> {
        match scene.present(range).map(|keys| keys.len() as u64) {
            Some(expected) if expected != count => Err(at.mismatch(range.first(), Fact::Count, expected, count)),
            _ => Ok(()),
        }
    }

    pub(super) fn check_pair(
        &self,
        at: Place,
        key: &str,
        view: &View<'_, 'a>,
        pair: Option<&Pair>,
        keys_only: bool,
    ) -> Result<(), Violation> {
        if view.is_open {
            return Ok(());
        }
        let Some(pair) = pair else {
            let expected = view.written().map_or_else(String::new, |written| format!("{:?}", written.value));
            let possible = view.may_be_absent();
            return if possible { Ok(()) } else { Err(at.mismatch(key, Fact::Value, expected, "none")) };
        };
        // Without commits, every write that a view showed is known, and so is in the timeline: a loose write can only be
        // why a key is absent, not why it has another value.
        let (Some(touch), Some(written)) = (view.last, view.written()) else {
            return Err(self.wrong_value(at, pair, "none".to_owned()));
        };
        if *pair.value != *(if keys_only { "" } else { &*written.value }) {
            return Err(self.wrong_value(at, pair, format!("{:?}", written.value)));
        }
        if touch.revision != pair.mod_revision {
            return Err(at.mismatch(key, Fact::ModRevision, touch.revision, pair.mod_revision));
        }
        let lease = self.lives.and_then(|lives| lives.lease(key, touch.revision));
        if let Some(lease) = lease.filter(|lease| *lease != pair.lease) {
            return Err(at.mismatch(key, Fact::Lease, lease, pair.lease));
        }
        at.check_versions(key, written, pair.create_revision, pair.version)
    }

    fn wrong_value(&self, at: Place, pair: &Pair, expected: String) -> Violation {
        let is_written = self.calls.token(&pair.value).is_some_and(|token| token.key == pair.key);
        if !is_written && !self.calls.is_special(&pair.key) {
            return phantom(at.call, pair);
        }
        at.mismatch(&pair.key, Fact::Value, expected, format!("{:?}", pair.value))
    }

    /// `is_cut`: there may be more pairs behind the last one.
    pub(super) fn check_list(
        &self,
        at: Place,
        scene: &Scene<'_, 'a>,
        list: &List,
        pairs: &[Pair],
        is_cut: bool,
    ) -> Result<(), Violation> {
        let mut pairs: Vec<&Pair> = pairs.iter().collect();
        let last = pairs.last().map(|pair| pair.key.as_str());
        if list.limit > 0 && pairs.len() as u64 > list.limit {
            let limit = format!("at most {} keys", list.limit);
            return Err(at.mismatch(last.unwrap_or_default(), Fact::Order, limit, pairs.len()));
        }
        if list.reverse {
            pairs.reverse();
        }
        for (number, pair) in pairs.iter().enumerate() {
            let after = number.checked_sub(1).map(|before| pairs[before].key.as_str());
            if !list.range.contains(&pair.key) {
                return Err(at.mismatch(&pair.key, Fact::Order, format!("keys of {:?}", list.range), "it"));
            }
            if after.is_some_and(|after| after >= pair.key.as_str()) {
                return Err(at.mismatch(&pair.key, Fact::Order, format!("a key after {after:?}"), "it"));
            }
        }
        if list.keys_only && !self.timeline.complete {
            // Without their values nobody knows whose writes they show.
            let valued = pairs.into_iter().find(|pair| !pair.value.is_empty());
            return valued.map_or(Ok(()), |pair| Err(phantom(at.call, pair)));
        }
        let is_behind = |key: &str| match last {
            _ if !is_cut => false,
            None => true,
            Some(last) if list.reverse => key < last,
            Some(last) => key > last,
        };
        // Both are in the order of the keys.
        let mut listed = pairs.into_iter().filter(|pair| !self.timeline.is_open(&pair.key)).peekable();
        let keys = self.timeline.keys_from(list.range.first()).filter(|key| list.range.contains(key));
        for key in keys.filter(|key| !is_behind(key)) {
            if let Some(unknown) = listed.next_if(|pair| pair.key.as_str() < key) {
                return Err(self.wrong_value(at, unknown, "none".to_owned()));
            }
            let pair = listed.next_if(|pair| pair.key == key);
            self.check_pair(at, key, &scene.view(key), pair, list.keys_only)?;
        }
        match listed.next() {
            Some(unknown) => Err(self.wrong_value(at, unknown, "none".to_owned())),
            None => Ok(()),
        }
    }

    fn check_txn<'s>(
        &self,
        at: Place,
        scene: &mut Scene<'s, 'a>,
        txn: &'s Txn,
        done: &TxnDone,
    ) -> Result<(), Violation> {
        if let Some(expected) = scene.all_hold(&txn.compare).filter(|expected| *expected != done.succeeded) {
            let key = txn.compare.first().map_or("", |compare| &compare.key);
            let name = |then| if then { "then" } else { "otherwise" };
            return Err(at.mismatch(key, Fact::Branch, name(expected), name(done.succeeded)));
        }
        for (op, result) in (if done.succeeded { &txn.then } else { &txn.otherwise }).iter().zip(&done.results) {
            match (op, result) {
                (TxnOp::Set(set), TxnResult::Set { create_revision, version, previous }) => {
                    if set.previous {
                        self.check_pair(at, &set.key, &scene.view(&set.key), previous.as_ref(), false)?;
                    }
                    self.check_own_versions(at, &set.key, *create_revision, *version)?;
                    scene.wrote(&set.key);
                }
                (TxnOp::Delete(delete), TxnResult::Delete { existed, previous }) => {
                    self.check_existed(at, scene, &delete.key, *existed)?;
                    if delete.previous {
                        self.check_pair(at, &delete.key, &scene.view(&delete.key), previous.as_ref(), false)?;
                    }
                    scene.wrote(&delete.key);
                }
                (TxnOp::DeleteRange { range }, TxnResult::DeleteRange { deleted }) => {
                    self.check_count(at, scene, range, *deleted)?;
                    scene.wrote_range(range);
                }
                (TxnOp::Get { key }, TxnResult::Get { pair }) => {
                    self.check_pair(at, key, &scene.view(key), pair.as_ref(), false)?;
                }
                // Without commits the pairs of its lists are not known.
                (TxnOp::List(list), TxnResult::List { pairs, more }) if self.timeline.complete => {
                    self.check_list(at, scene, list, pairs, *more)?;
                }
                (TxnOp::Txn(txn), TxnResult::Txn(done)) => self.check_txn(at, scene, txn, done)?,
                // Refused as malformed.
                _ => {}
            }
        }
        Ok(())
    }

    /// Without commits, a view that shows a transaction's value shows which branch it took.
    fn check_branch_of_unknown(&self, call: &Call<'a>, revision: u64, found: &Changes<'_>) -> Result<(), Violation> {
        let Some(expected) = effect(call, self.timeline, None, revision) else { return Ok(()) };
        let sets = |changes: &Changes<'_>| {
            let is_known = |key: &str| !self.timeline.is_open(key);
            let values = changes.iter().filter(|(key, _)| is_known(key)).filter_map(|(_, value)| value.as_deref());
            values.map(str::to_owned).collect::<Vec<_>>()
        };
        if sets(&expected) == sets(found) {
            return Ok(());
        }
        let (expected, found) = (describe(&expected), describe(found));
        Err(Violation::WrongChanges { call: call.id, revision, expected, found })
    }
}

/// Where an answer stands.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Or a watch.
    pub(super) call: u64,
    pub(super) revision: u64,
}

impl Place {
    fn check_versions(self, key: &str, written: &Written<'_>, create: u64, version: u64) -> Result<(), Violation> {
        let Some(expected) = written.versions else { return Ok(()) };
        if expected.create_revision != create {
            return Err(self.mismatch(key, Fact::CreateRevision, expected.create_revision, create));
        }
        if expected.version != version {
            return Err(self.mismatch(key, Fact::Version, expected.version, version));
        }
        Ok(())
    }

    pub(super) fn mismatch(self, key: &str, fact: Fact, expected: impl ToString, found: impl ToString) -> Violation {
        let (expected, found) = (expected.to_string(), found.to_string());
        Violation::Mismatch { call: self.call, revision: self.revision, key: key.to_owned(), fact, expected, found }
    }
}
