//! What each key was at each revision, as far as it is known.
//!
//! Each key has the list of writes that touched it, so a view of any revision is a binary search. With commits that is
//! all there is to know. Without, a gap may be the write of any *loose* call, one whose fate and revision are unknown;
//! a [`View`] then says what such a write may have done meanwhile, and whoever asks has to leave that open. What no loose
//! call can have done is certain even beside a gap.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::ledger::{Ledger, pairs};
use super::real_time::Floor;
use super::violation::{Fact, Violation};
use crate::answer::Answer;
use crate::calls::{Calls, Special};
use crate::op::{Op, Set};

/// A write of a key.
pub(super) struct Touch<'a> {
    pub(super) revision: u64,
    /// `None`: the key is absent from here on.
    pub(super) written: Option<Written<'a>>,
}

/// What a key has.
#[derive(Clone)]
pub(super) struct Written<'a> {
    pub(super) value: Cow<'a, str>,
    /// `None`: it depends on a gap, and no answer told.
    pub(super) versions: Option<Versions>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) create_revision: u64,
    pub(super) version: u64,
}

/// A key at a revision.
pub(super) struct View<'t, 'a> {
    /// The last write that is known.
    pub(super) last: Option<&'t Touch<'a>>,
    /// Whether a loose call may have put the key since then.
    pub(super) may_put: bool,
    /// Whether one may have deleted it.
    pub(super) may_delete: bool,
    /// Whether nothing is known of it.
    pub(super) is_open: bool,
    /// How many loose writes there can have been since then.
    gaps: u64,
}

/// All keys.
pub(super) struct Timeline<'a> {
    pub(super) keys: BTreeMap<&'a str, Vec<Touch<'a>>>,
    /// Whether there are no gaps, and all is certain.
    pub(super) complete: bool,
    gaps: Vec<u64>,
    loose: BTreeMap<&'a str, Loose>,
    /// Keys of which nothing is known, for want of commits.
    open: Special<'a>,
}

/// The lowest floors of the loose calls that may put a key, and of those that may delete it: none of them took a
/// revision up to there. `None`: there is no such call.
#[derive(Default)]
struct Loose {
    put: Option<u64>,
    delete: Option<u64>,
}

/// What the first answer says that shows a write.
struct Witness {
    call: u64,
    revision: u64,
    versions: Versions,
}

impl<'a> Timeline<'a> {
    pub(super) fn of(
        calls: &Calls<'a>,
        floors: &[Floor],
        ledger: &Ledger<'a>,
        gaps: Vec<u64>,
    ) -> Result<Self, Violation> {
        let mut loose: BTreeMap<&str, Loose> = BTreeMap::new();
        let mut witnesses = BTreeMap::new();
        if !gaps.is_empty() {
            for place in ledger.loose(calls) {
                let (puts, deletes) = calls.list[place].may_change();
                let lower = |known: &mut Option<u64>| {
                    let floor = floors[place].revision;
                    *known = Some(known.map_or(floor, |known| known.min(floor)));
                };
                puts.iter().for_each(|key| lower(&mut loose.entry(key).or_default().put));
                deletes.iter().for_each(|key| lower(&mut loose.entry(key).or_default().delete));
            }
            witnesses = self::witnesses(calls);
        }
        let complete = ledger.complete;
        let open = if complete { Special::default() } else { calls.special.clone() };
        let mut timeline = Self { keys: BTreeMap::new(), complete, gaps, loose, open };
        for (&revision, write) in &ledger.writes {
            for (&key, value) in &write.changes {
                if timeline.is_open(key) {
                    continue;
                }
                let witness = witnesses.get(&(revision, key));
                timeline.touch(key, revision, value.clone(), witness)?;
            }
        }
        Ok(timeline)
    }

    /// The key in a view of this revision.
    pub(super) fn view(&self, key: &str, revision: u64) -> View<'_, 'a> {
        let last = self.keys.get(key).and_then(|touches| {
            let later = touches.partition_point(|touch| touch.revision <= revision);
            touches[..later].last()
        });
        let after = last.map_or(0, |touch| touch.revision);
        let is_open = self.is_open(key);
        let mut view = View { last, may_put: false, may_delete: false, is_open, gaps: 0 };
        if let Some(loose) = self.loose.get(key) {
            let any = |floor: Option<u64>| floor.is_some_and(|floor| self.gaps_between(after.max(floor), revision) > 0);
            (view.may_put, view.may_delete) = (any(loose.put), any(loose.delete));
            view.gaps = self.gaps_between(after, revision);
        }
        view
    }

    /// Whether nothing is known of a key.
    pub(super) fn is_open(&self, key: &str) -> bool {
        self.open.has(key)
    }

    /// The keys of which something is known, from this one on.
    pub(super) fn keys_from(&self, first: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        let bounds = (Bound::Included(first), Bound::Unbounded);
        self.keys.range::<str, _>(bounds).map(|(key, _)| *key)
    }

    /// The number of gaps above `after` and up to `upto`.
    fn gaps_between(&self, after: u64, upto: u64) -> u64 {
        let below = |revision: u64| self.gaps.partition_point(|gap| *gap <= revision);
        below(upto).saturating_sub(below(after)) as u64
    }

    fn touch(
        &mut self,
        key: &'a str,
        revision: u64,
        value: Option<Cow<'a, str>>,
        witness: Option<&Witness>,
    ) -> Result<(), Violation> {
        let written = match value {
            None => None,
            Some(value) => {
                // The ledger has no write at revision 0.
                let before = self.view(key, revision - 1);
                let certain = before.next_versions(revision);
                if let (None, Some(witness)) = (certain, witness) {
                    self.check_witness(key, revision, &before, witness)?;
                }
                Some(Written { value, versions: certain.or(witness.map(|witness| witness.versions)) })
            }
        };
        self.keys.entry(key).or_default().push(Touch { revision, written });
        Ok(())
    }

    /// Where versions depend on a gap, what an answer says of them is believed if some loose writes explain it.
    fn check_witness(
        &self,
        key: &str,
        revision: u64,
        before: &View<'_, '_>,
        witness: &Witness,
    ) -> Result<(), Violation> {
        let Versions { create_revision, version } = witness.versions;
        let wrong = |fact, expected: String, found: u64| {
            let (call, key, found) = (witness.call, key.to_owned(), found.to_string());
            Err(Violation::Mismatch { call, revision: witness.revision, key, fact, expected, found })
        };
        let after = before.last.map_or(0, |touch| touch.revision);
        if create_revision > after {
            // It came to be after the last known write: by this one, or by a loose one.
            let absent = before.written().is_none() || before.may_delete;
            let loose = self.loose.get(key).and_then(|loose| loose.put);
            let by_loose = loose.is_some_and(|floor| create_revision > floor)
                && create_revision < revision
                && self.gaps.binary_search(&create_revision).is_ok();
            if !absent || !(create_revision == revision || by_loose) {
                return wrong(
                    Fact::CreateRevision,
                    "a revision at which it can have come to be".into(),
                    create_revision,
                );
            }
            // This write, the one that made the key, and any number of those between them.
            let (least, most) = match create_revision == revision {
                true => (1, 1),
                false => (2, 1 + self.gaps_between(create_revision - 1, revision)),
            };
            if version < least || version > most {
                return wrong(Fact::Version, format!("from {least} to {most}"), version);
            }
            return Ok(());
        }
        let Some(written) = before.written() else {
            return wrong(Fact::CreateRevision, format!("more than {after}"), create_revision);
        };
        let Some(known) = written.versions else { return Ok(()) };
        if create_revision != known.create_revision {
            return wrong(
                Fact::CreateRevision,
                format!("{} or more than {after}", known.create_revision),
                create_revision,
            );
        }
        let least = known.version + 1;
        let most = if before.may_put { least + before.gaps } else { least };
        if version < least || version > most {
            return wrong(Fact::Version, format!("from {least} to {most}"), version);
        }
        Ok(())
    }
}

impl<'a> View<'_, 'a> {
    /// What the last known write left.
    pub(super) fn written(&self) -> Option<&Written<'a>> {
        self.last.and_then(|touch| touch.written.as_ref())
    }

    /// Whether that is still so.
    pub(super) fn is_certain(&self) -> bool {
        !self.may_put && !self.may_delete && !self.is_open
    }

    /// Whether the key can be absent.
    pub(super) fn may_be_absent(&self) -> bool {
        self.written().is_none() || self.may_delete || self.is_open
    }

    /// Whether the key can be present.
    pub(super) fn may_be_present(&self) -> bool {
        self.written().is_some() || self.may_put || self.is_open
    }

    /// The versions after a put right after this view, if they are certain.
    fn next_versions(&self, revision: u64) -> Option<Versions> {
        if !self.is_certain() {
            return None;
        }
        match self.written() {
            None => Some(Versions { create_revision: revision, version: 1 }),
            Some(written) => written.versions.map(|old| Versions { version: old.version + 1, ..old }),
        }
    }
}

/// What answers say of the versions of each write, by revision and key.
fn witnesses<'a>(calls: &Calls<'a>) -> BTreeMap<(u64, &'a str), Witness> {
    let mut witnesses = BTreeMap::new();
    for call in &calls.list {
        let Some(answered) = call.answered() else { continue };
        let mut tell = |key: &'a str, at, create_revision, version| {
            let versions = Versions { create_revision, version };
            let witness = Witness { call: call.id, revision: answered.revision.unwrap_or(at), versions };
            witnesses.entry((at, key)).or_insert(witness);
        };
        if let (Op::Set(Set { key, .. }), Answer::Set { revision, create_revision, version, .. }) =
            (call.op, answered.answer)
        {
            tell(key, *revision, *create_revision, *version);
        }
        for pair in pairs(answered.answer) {
            tell(&pair.key, pair.mod_revision, pair.create_revision, pair.version);
        }
    }
    witnesses
}
