//! What a call changes, from what there was.

use std::borrow::Cow;

use super::lives::Lives;
use super::timeline::{Timeline, View, Written};
use crate::calls::{Call, Changes};
use crate::op::{Compare, Condition, Delete, Op, Range, Set, Target, Txn, TxnOp};

/// What an operation finds: the keys before its revision, and as they are at it where the same transaction has written
/// them already, which it does once.
pub(super) struct Scene<'s, 'a> {
    pub(super) timeline: &'s Timeline<'a>,
    /// `None`: it is not known yet, or not at all.
    pub(super) lives: Option<&'s Lives<'a>>,
    before: u64,
    revision: u64,
    own_keys: Vec<&'s str>,
    own_ranges: Vec<&'s Range>,
}

/// What a call changes if it takes this revision. `None`: that depends on what is not known.
pub(super) fn effect<'a>(
    call: &Call<'a>,
    timeline: &Timeline<'a>,
    lives: Option<&Lives<'a>>,
    revision: u64,
) -> Option<Changes<'a>> {
    let mut scene = Scene::of(timeline, lives, revision, true);
    let mut changes = Changes::new();
    match call.op {
        Op::Set(set) => scene.set(set, &mut changes)?,
        Op::Delete(delete) => scene.delete(delete, &mut changes)?,
        Op::DeleteRange { range } => scene.delete_range(range, &mut changes)?,
        Op::Increment { key, delta, .. } => {
            let number = match scene.known(key)? {
                None => Some(0),
                Some(written) => written.value.parse::<i64>().ok(),
            };
            if let Some(sum) = number.and_then(|number| number.checked_add(*delta)) {
                changes.insert(key, Some(Cow::Owned(sum.to_string())));
            }
        }
        Op::Txn(txn) => scene.txn(txn, &mut changes)?,
        Op::RevokeLease { lease } => {
            let keys = scene.lives?.keys_of(timeline, *lease, scene.before)?;
            changes.extend(keys.into_iter().map(|key| (key, None)));
        }
        Op::Get { .. }
        | Op::List(_)
        | Op::Count { .. }
        | Op::GrantLease { .. }
        | Op::KeepAlive { .. }
        | Op::GetLease { .. } => {}
    }
    Some(changes)
}

impl<'s, 'a> Scene<'s, 'a> {
    /// What is found at this revision, by what took it or by what only looked.
    pub(super) fn of(timeline: &'s Timeline<'a>, lives: Option<&'s Lives<'a>>, revision: u64, wrote: bool) -> Self {
        // A write's revision is its own, so others come before.
        let before = if wrote { revision.saturating_sub(1) } else { revision };
        Self { timeline, lives, before, revision, own_keys: Vec::new(), own_ranges: Vec::new() }
    }

    /// What there is of a key now.
    pub(super) fn view(&self, key: &str) -> View<'s, 'a> {
        let is_own = self.own_keys.contains(&key) || self.own_ranges.iter().any(|range| range.contains(key));
        self.timeline.view(key, if is_own { self.revision } else { self.before })
    }

    /// From now on this key is as it is at the revision.
    pub(super) fn wrote(&mut self, key: &'s str) {
        self.own_keys.push(key);
    }

    /// From now on these keys are.
    pub(super) fn wrote_range(&mut self, range: &'s Range) {
        self.own_ranges.push(range);
    }

    /// The keys of a range that have a value, if that is known.
    pub(super) fn present(&self, range: &Range) -> Option<Vec<&'a str>> {
        self.timeline.complete.then_some(())?;
        let keys = self.timeline.keys_from(range.first()).filter(|key| range.contains(key));
        Some(keys.filter(|key| self.view(key).written().is_some()).collect())
    }

    /// Whether a condition holds.
    pub(super) fn meets(&self, key: &str, condition: Condition) -> Option<bool> {
        let mod_revision = self.mod_revision(key)?;
        Some(match condition {
            Condition::Absent => mod_revision == 0,
            Condition::Present => mod_revision > 0,
            Condition::ModRevision(expected) => mod_revision > 0 && mod_revision == expected,
        })
    }

    /// The revision of a key's last write; 0: it is absent. `None`: that is not known.
    pub(super) fn mod_revision(&self, key: &str) -> Option<u64> {
        let view = self.view(key);
        view.is_certain().then(|| view.written().and(view.last).map_or(0, |touch| touch.revision))
    }

    /// Whether a transaction's compares hold.
    pub(super) fn all_hold(&self, compare: &[Compare]) -> Option<bool> {
        all(compare.iter().map(|compare| self.holds(compare)))
    }

    fn holds(&self, compare: &Compare) -> Option<bool> {
        if compare.range_end.is_none() {
            return self.holds_for(&compare.key, compare);
        }
        self.timeline.complete.then_some(())?;
        let keys = self.timeline.keys_from(&compare.key).filter(|key| compare.has(key));
        let present = keys.filter(|key| self.view(key).written().is_some());
        all(present.map(|key| self.holds_for(key, compare)))
    }

    fn holds_for(&self, key: &str, compare: &Compare) -> Option<bool> {
        let view = self.view(key);
        view.is_certain().then_some(())?;
        let written = view.written();
        let mod_revision = written.and(view.last).map_or(0, |touch| touch.revision);
        let versions = || match written {
            None => Some((0, 0)),
            Some(written) => written.versions.map(|versions| (versions.create_revision, versions.version)),
        };
        let is = compare.is;
        Some(match &compare.target {
            Target::Version(target) => is.holds(&versions()?.1, target),
            Target::CreateRevision(target) => is.holds(&versions()?.0, target),
            Target::ModRevision(target) => is.holds(&mod_revision, target),
            Target::Value(target) => written.is_some_and(|written| is.holds(written.value.as_ref(), target.as_str())),
            Target::Lease(target) => is.holds(&self.lives?.lease(key, mod_revision)?, target),
        })
    }

    /// What a key has, if that is known.
    fn known(&self, key: &str) -> Option<Option<&'s Written<'a>>> {
        let view = self.view(key);
        view.is_certain().then(|| view.last.and_then(|touch| touch.written.as_ref()))
    }

    fn set(&mut self, set: &'a Set, changes: &mut Changes<'a>) -> Option<()> {
        if let Some(condition) = set.condition
            && !self.meets(&set.key, condition)?
        {
            return Some(());
        }
        let value = match set.keep_value {
            false => Some(Cow::Borrowed(set.value.as_str())),
            true => self.known(&set.key)?.map(|written| written.value.clone()),
        };
        if let Some(value) = value {
            changes.insert(&set.key, Some(value));
        }
        Some(())
    }

    fn delete(&mut self, delete: &'a Delete, changes: &mut Changes<'a>) -> Option<()> {
        let mod_revision = self.mod_revision(&delete.key)?;
        let is_met = match delete.condition {
            Some(condition) => self.meets(&delete.key, condition)?,
            None => true,
        };
        if is_met && mod_revision > 0 {
            changes.insert(&delete.key, None);
        }
        Some(())
    }

    fn delete_range(&mut self, range: &Range, changes: &mut Changes<'a>) -> Option<()> {
        changes.extend(self.present(range)?.into_iter().map(|key| (key, None)));
        Some(())
    }

    fn txn(&mut self, txn: &'a Txn, changes: &mut Changes<'a>) -> Option<()>
    where
        'a: 's,
    {
        for op in if self.all_hold(&txn.compare)? { &txn.then } else { &txn.otherwise } {
            match op {
                TxnOp::Set(set) => {
                    self.set(set, changes)?;
                    self.wrote(&set.key);
                }
                TxnOp::Delete(delete) => {
                    self.delete(delete, changes)?;
                    self.wrote(&delete.key);
                }
                TxnOp::DeleteRange { range } => {
                    self.delete_range(range, changes)?;
                    self.wrote_range(range);
                }
                TxnOp::Txn(within) => self.txn(within, changes)?,
                TxnOp::Get { .. } | TxnOp::List(_) => {}
            }
        }
        Some(())
    }
}

/// Whether all hold, of which it is not known of each.
fn all(holds: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for one in holds {
        match one {
            Some(false) => return Some(false),
            Some(true) => {}
            None => all = None,
        }
    }
    all
}
