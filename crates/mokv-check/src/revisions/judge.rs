//! Semantics: each answer is what the writes up to its revision make it.
//!
//! A write at revision r is judged by the keys at r-1 and those that it wrote itself, a view of revision R by those at R.

use std::collections::BTreeSet;

use super::ledger::{Ledger, phantom};
use super::timeline::{Timeline, View, Written};
use super::violation::{Fact, Violation, describe};
use crate::calls::{Answered, Call, Calls, Changes};
use crate::history::{Answer, Compare, Op, Pair, TxnOp, TxnResult};

/// Judges every answer, and the commits of calls that have none.
pub(super) fn check(calls: &Calls<'_>, ledger: &Ledger<'_>, timeline: &Timeline<'_>) -> Result<(), Violation> {
    let judge = Judge { calls, timeline };
    for call in &calls.list {
        if let Some(answered) = call.answered() {
            judge.check_answer(call, answered)?;
        }
    }
    for (&revision, write) in &ledger.writes {
        let Some(call) = write.call.map(|place| &calls.list[place]).filter(|call| call.is_unknown()) else { continue };
        if ledger.complete {
            let expected = effect(call, timeline, revision).unwrap_or_default();
            if expected != write.changes {
                let (expected, found) = (describe(&expected), describe(&write.changes));
                return Err(Violation::WrongChanges { call: call.id, revision, expected, found });
            }
        } else {
            judge.check_branch_of_unknown(call, revision, &write.changes)?;
        }
    }
    Ok(())
}

/// What a call changes if it takes this revision. `None`: that depends on a gap.
pub(super) fn effect<'a>(call: &Call<'a>, timeline: &Timeline<'_>, revision: u64) -> Option<Changes<'a>> {
    let before = revision.saturating_sub(1);
    let existed = |key: &str| {
        let view = timeline.view(key, before);
        view.is_certain().then_some(view.written().is_some())
    };
    match call.op {
        Op::Set { key, value } => Some(Changes::from([(key.as_str(), Some(value.as_str()))])),
        Op::Delete { key } => Some(existed(key)?.then_some((key.as_str(), None)).into_iter().collect()),
        Op::Get { .. } | Op::List { .. } => Some(Changes::new()),
        Op::Txn { compare, then, otherwise } => {
            let mut changes = Changes::new();
            for op in if all_hold(compare, timeline, before)? { then } else { otherwise } {
                match op {
                    TxnOp::Set { key, value } => {
                        changes.insert(key, Some(value));
                    }
                    TxnOp::Delete { key } => {
                        if existed(key)? {
                            changes.insert(key, None);
                        }
                    }
                    TxnOp::Get { .. } => {}
                }
            }
            Some(changes)
        }
    }
}

/// Whether a transaction's compares hold in a view. `None`: that depends on a gap.
fn all_hold(compare: &[Compare], timeline: &Timeline<'_>, revision: u64) -> Option<bool> {
    let results: Vec<Option<bool>> = compare.iter().map(|compare| holds(compare, timeline, revision)).collect();
    if results.contains(&Some(false)) {
        return Some(false);
    }
    results.iter().all(Option::is_some).then_some(true)
}

fn holds(compare: &Compare, timeline: &Timeline<'_>, revision: u64) -> Option<bool> {
    let view = timeline.view(key_of(compare), revision);
    if !view.is_certain() {
        return None;
    }
    let written = view.written();
    Some(match compare {
        Compare::Value { expected, .. } => written.map(|written| written.value) == expected.as_deref(),
        Compare::ModRevision { expected, .. } => *expected == written.and(view.last).map_or(0, |touch| touch.revision),
        Compare::Version { expected, .. } => *expected == written.map_or(Some(0), |w| Some(w.versions?.version))?,
        Compare::CreateRevision { expected, .. } => {
            *expected == written.map_or(Some(0), |w| Some(w.versions?.create_revision))?
        }
    })
}

fn key_of(compare: &Compare) -> &str {
    match compare {
        Compare::Value { key, .. }
        | Compare::ModRevision { key, .. }
        | Compare::Version { key, .. }
        | Compare::CreateRevision { key, .. } => key,
    }
}

struct Judge<'h, 'a> {
    calls: &'h Calls<'a>,
    timeline: &'h Timeline<'a>,
}

impl Judge<'_, '_> {
    fn check_answer(&self, call: &Call<'_>, answered: &Answered<'_>) -> Result<(), Violation> {
        let at = Place { call: call.id, revision: answered.revision };
        // What it found: a write's revision is its own, so others come before.
        let before = if answered.changes.is_empty() { at.revision } else { at.revision.saturating_sub(1) };
        match (call.op, answered.answer) {
            (Op::Set { key, .. }, Answer::Set { create_revision, version, .. }) => {
                let view = self.timeline.view(key, at.revision);
                match view.written() {
                    Some(written) => at.check_versions(key, written, *create_revision, *version),
                    None => Ok(()),
                }
            }
            (Op::Delete { key }, Answer::Delete { existed, .. }) => self.check_existed(at, before, key, *existed),
            (Op::Get { key, .. }, Answer::Get { pair, .. }) => {
                self.check_pair(at, key, &self.timeline.view(key, at.revision), pair.as_ref())
            }
            (Op::List { prefix, .. }, Answer::List { pairs, .. }) => self.check_list(at, prefix, pairs),
            (Op::Txn { compare, then, otherwise }, Answer::Txn { succeeded, results, .. }) => {
                self.check_branch(at, before, compare, *succeeded)?;
                self.check_results(at, before, if *succeeded { then } else { otherwise }, results)
            }
            // Refused as malformed.
            _ => Ok(()),
        }
    }

    fn check_existed(&self, at: Place, before: u64, key: &str, existed: bool) -> Result<(), Violation> {
        let view = self.timeline.view(key, before);
        let possible = if existed { view.may_be_present() } else { view.may_be_absent() };
        if possible { Ok(()) } else { Err(at.mismatch(key, Fact::Existed, !existed, existed)) }
    }

    fn check_pair(&self, at: Place, key: &str, view: &View<'_, '_>, pair: Option<&Pair>) -> Result<(), Violation> {
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
        if written.value != pair.value {
            return Err(self.wrong_value(at, pair, format!("{:?}", written.value)));
        }
        if touch.revision != pair.mod_revision {
            return Err(at.mismatch(key, Fact::ModRevision, touch.revision, pair.mod_revision));
        }
        at.check_versions(key, written, pair.create_revision, pair.version)
    }

    fn wrong_value(&self, at: Place, pair: &Pair, expected: String) -> Violation {
        if self.calls.token(&pair.value).is_none_or(|token| token.key != pair.key) {
            return phantom(at.call, pair);
        }
        at.mismatch(&pair.key, Fact::Value, expected, format!("{:?}", pair.value))
    }

    fn check_list(&self, at: Place, prefix: &str, pairs: &[Pair]) -> Result<(), Violation> {
        for (number, pair) in pairs.iter().enumerate() {
            let after = number.checked_sub(1).map(|before| pairs[before].key.as_str());
            if !pair.key.starts_with(prefix) {
                return Err(at.mismatch(&pair.key, Fact::Order, format!("keys that begin with {prefix:?}"), "it"));
            }
            if after.is_some_and(|after| after >= pair.key.as_str()) {
                return Err(at.mismatch(&pair.key, Fact::Order, format!("a key after {after:?}"), "it"));
            }
        }
        // Both are in the order of the keys.
        let mut listed = pairs.iter().peekable();
        for (&key, _) in self.timeline.keys.range(prefix..).take_while(|(key, _)| key.starts_with(prefix)) {
            if let Some(unknown) = listed.next_if(|pair| pair.key.as_str() < key) {
                return Err(self.wrong_value(at, unknown, "none".to_owned()));
            }
            let pair = listed.next_if(|pair| pair.key == key);
            self.check_pair(at, key, &self.timeline.view(key, at.revision), pair)?;
        }
        match listed.next() {
            Some(unknown) => Err(self.wrong_value(at, unknown, "none".to_owned())),
            None => Ok(()),
        }
    }

    fn check_branch(&self, at: Place, before: u64, compare: &[Compare], succeeded: bool) -> Result<(), Violation> {
        match all_hold(compare, self.timeline, before) {
            Some(expected) if expected != succeeded => {
                let (key, name) = (compare.first().map_or("", key_of), |then| if then { "then" } else { "otherwise" });
                Err(at.mismatch(key, Fact::Branch, name(expected), name(succeeded)))
            }
            _ => Ok(()),
        }
    }

    fn check_results(&self, at: Place, before: u64, ops: &[TxnOp], results: &[TxnResult]) -> Result<(), Violation> {
        let mut own = BTreeSet::new();
        for (op, result) in ops.iter().zip(results) {
            match (op, result) {
                (TxnOp::Set { key, .. }, _) => {
                    own.insert(key);
                }
                (TxnOp::Delete { key }, TxnResult::Delete { existed }) => {
                    self.check_existed(at, before, key, *existed)?;
                    own.insert(key);
                }
                (TxnOp::Get { key }, TxnResult::Get { pair }) => {
                    let view = self.timeline.view(key, if own.contains(key) { at.revision } else { before });
                    self.check_pair(at, key, &view, pair.as_ref())?;
                }
                // Refused as malformed.
                _ => {}
            }
        }
        Ok(())
    }

    /// Without commits, a view that shows a transaction's value shows which branch it took.
    fn check_branch_of_unknown(&self, call: &Call<'_>, revision: u64, found: &Changes<'_>) -> Result<(), Violation> {
        let Some(expected) = effect(call, self.timeline, revision) else { return Ok(()) };
        let sets =
            |changes: &Changes<'_>| changes.values().flatten().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        if sets(&expected) == sets(found) {
            return Ok(());
        }
        let (expected, found) = (describe(&expected), describe(found));
        Err(Violation::WrongChanges { call: call.id, revision, expected, found })
    }
}

/// Where an answer stands.
#[derive(Clone, Copy)]
struct Place {
    call: u64,
    revision: u64,
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

    fn mismatch(self, key: &str, fact: Fact, expected: impl ToString, found: impl ToString) -> Violation {
        let (expected, found) = (expected.to_string(), found.to_string());
        Violation::Mismatch { call: self.call, revision: self.revision, key: key.to_owned(), fact, expected, found }
    }
}
