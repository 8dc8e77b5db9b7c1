//! What pins need and the present no longer has: superseded records, kept beside the present as long as a pin looks
//! at a revision at which they were the key's record.
//!
//! A record is needed by the pins from its own revision to the one before that which superseded it. It is kept on the
//! list of the newest of those pins; when that is released, the list is gone through, and what an older pin needs too
//! moves on to the list of that one. So a release looks at what its pin held last and at nothing else, and a record
//! moves at most once per pin that needs it.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

use super::key::Key;
use super::memory::{map_entry_bytes, vec_entry_bytes};
use super::record::Stored;

/// A record and the revision that superseded it.
pub(super) struct Version {
    superseded_at: u64,
    record: Stored,
}

impl Version {
    /// Finds the version of a key that was its record at a revision. `versions` are in the order of their revisions.
    pub(super) fn at(versions: &[Self], revision: u64) -> Option<&Stored> {
        let next = versions.partition_point(|version| version.superseded_at <= revision);
        let record = &versions.get(next)?.record;
        (record.mod_revision() <= revision).then_some(record)
    }
}

/// Names one version.
struct Handle {
    key: Key,
    superseded_at: u64,
}

/// What a version weighs beside its record: it, its handle, and its share of a map from the key.
const VERSION_BYTES: usize = vec_entry_bytes(size_of::<Version>() + size_of::<Handle>())
    + map_entry_bytes(size_of::<Key>() + size_of::<Vec<Version>>());

#[derive(Default)]
struct PinnedRevision {
    pins: usize,
    /// The versions of which this is the newest pin.
    kept: Vec<Handle>,
}

/// Pinned revisions and the superseded records that they need.
///
/// Invariants: versions of a key are in ascending order, and no key has an empty list; each version has exactly one
/// handle, on the list of a pinned revision or among the released.
#[derive(Default)]
pub(super) struct Superseded {
    versions: BTreeMap<Key, Vec<Version>>,
    pinned: BTreeMap<u64, PinnedRevision>,
    /// Lists of pins that are gone, to be gone through by [`Superseded::collect`].
    released: Vec<Vec<Handle>>,
    memory_bytes: usize,
}

impl Superseded {
    /// Keeps what is the state at `revision`, the present one, until [`Superseded::release`].
    pub(super) fn pin(&mut self, revision: u64) {
        self.pinned.entry(revision).or_default().pins += 1;
    }

    /// Ends one [`Superseded::pin`]. What only it needed goes with [`Superseded::collect`].
    pub(super) fn release(&mut self, revision: u64) {
        let btree_map::Entry::Occupied(mut pinned) = self.pinned.entry(revision) else {
            unreachable!("only a pinned revision is released");
        };
        pinned.get_mut().pins -= 1;
        if pinned.get().pins == 0 {
            self.released.push(pinned.remove().kept);
        }
    }

    /// Takes in the record that a write at `revision` superseded, if a pin needs it.
    pub(super) fn keep(&mut self, key: &Key, record: Stored, revision: u64) {
        let Some(mut newest) = self.pinned.last_entry() else { return };
        if *newest.key() < record.mod_revision() {
            return;
        }
        newest.get_mut().kept.push(Handle { key: key.clone(), superseded_at: revision });
        self.memory_bytes += version_bytes(key, &record);
        self.versions.entry(key.clone()).or_default().push(Version { superseded_at: revision, record });
    }

    /// Goes through at most `handles_max` handles of released pins. Returns the records that no pin needs any more,
    /// for the caller to drop where nobody waits for it; `None` if there was nothing to go through.
    pub(super) fn collect(&mut self, handles_max: usize) -> Option<Vec<Stored>> {
        let list = self.released.last_mut()?;
        let handles = list.split_off(list.len().saturating_sub(handles_max));
        if list.is_empty() {
            self.released.pop();
        }
        Some(handles.into_iter().filter_map(|handle| self.settle(handle)).collect())
    }

    /// Finds the newest pin that needs a version, or removes the version.
    fn settle(&mut self, handle: Handle) -> Option<Stored> {
        let btree_map::Entry::Occupied(mut versions) = self.versions.entry(handle.key.clone()) else {
            unreachable!("a handle names a version");
        };
        let place = versions.get().partition_point(|version| version.superseded_at < handle.superseded_at);
        let needed_from = versions.get()[place].record.mod_revision();
        if let Some((_, pinned)) = self.pinned.range_mut(needed_from..handle.superseded_at).next_back() {
            pinned.kept.push(handle);
            return None;
        }
        let record = versions.get_mut().remove(place).record;
        if versions.get().is_empty() {
            versions.remove();
        }
        self.memory_bytes -= version_bytes(&handle.key, &record);
        Some(record)
    }

    /// The versions of a key.
    pub(super) fn of(&self, key: &[u8]) -> &[Version] {
        self.versions.get(key).map_or(&[], Vec::as_slice)
    }

    /// The keys of a range that have versions, with them.
    pub(super) fn range(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> btree_map::Range<'_, Key, Vec<Version>> {
        self.versions.range::<[u8], _>(bounds)
    }

    /// How many pins there are.
    pub(super) fn pins(&self) -> usize {
        self.pinned.values().map(|pinned| pinned.pins).sum()
    }

    pub(super) fn is_pinned(&self) -> bool {
        !self.pinned.is_empty()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// [`Superseded::memory_bytes`], counted anew; the invariants are checked on the way.
    #[cfg(test)]
    pub(super) fn recount(&self) -> usize {
        let kept = self.pinned.values().map(|pinned| &pinned.kept);
        let handles = kept.chain(&self.released).flatten();
        let mut names: Vec<_> = handles.map(|handle| (handle.key.clone(), handle.superseded_at)).collect();
        names.sort();
        let versions = self.versions.iter().flat_map(|(key, versions)| versions.iter().map(move |v| (key, v)));
        assert!(versions.clone().map(|(key, v)| (key.clone(), v.superseded_at)).eq(names), "one handle per version");
        assert!(self.versions.values().all(|versions| !versions.is_empty()));
        versions.map(|(key, version)| version_bytes(key, &version.record)).sum()
    }
}

fn version_bytes(key: &Key, record: &Stored) -> usize {
    VERSION_BYTES + 2 * key.heap_bytes() + record.heap_bytes()
}
