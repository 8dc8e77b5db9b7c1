//! The pairs: one ordered map of the present, with what pins need of the past beside it.
//!
//! Every write takes the next revision. An overwrite or a removal hands the record that it supersedes to
//! [`Superseded`], which keeps it only if a pin looks at it: without pins a write costs one place in one map.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::iter::{self, Peekable};
use std::mem;
use std::ops::Bound;

use mokv_proto::internal::{DeleteOutcome, SetOutcome};

use super::history::{Compacted, Cursor, Found as FoundChanges, History, HistoryStats, Past};
use super::key::Key;
use super::memory::map_entry_bytes;
use super::record::Stored;
use super::scan::{ChunkLimit, Found, KeyRange, Order};
use super::superseded::{Superseded, Version};
use crate::mutants::mutant;

const ENTRY_BYTES: usize = map_entry_bytes(size_of::<Key>() + size_of::<Stored>());

/// Keys and their records, and the revision that they are at.
#[derive(Default)]
pub(super) struct Pairs {
    live: BTreeMap<Key, Stored>,
    superseded: Superseded,
    history: History,
    revision: u64,
    /// The sum of the live records' hashes.
    hash: u128,
    /// What the live pairs weigh.
    memory_bytes: usize,
}

impl Pairs {
    /// The pairs of a snapshot at `revision`, in strictly ascending order of their keys.
    pub(super) fn from_sorted(pairs: Vec<(Key, Stored)>, revision: u64) -> Self {
        let hash = pairs.iter().fold(0, |sum: u128, (_, record)| sum.wrapping_add(record.hash()));
        let memory_bytes = pairs.iter().map(|(key, record)| pair_bytes(key, record)).sum();
        let live = pairs.into_iter().collect();
        let (superseded, history) = (Superseded::default(), History::default().anew(revision));
        Self { live, superseded, history, revision, hash, memory_bytes }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Stored> {
        match Key::inline(key) {
            Some(key) => self.live.get(&key),
            None => self.live.get(key),
        }
    }

    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> SetOutcome {
        self.revision += 1;
        let revision = self.revision;
        let (create_revision, version) = match self.live.entry(Key::new(key)) {
            Entry::Vacant(place) => {
                let version = if mutant!(VersionLivesOn) { 2 } else { 1 };
                let record = Stored::new(key, value, revision, revision, version);
                self.hash = self.hash.wrapping_add(record.hash());
                self.memory_bytes += pair_bytes(place.key(), &record);
                self.history.record(revision, place.key(), Some(&record), None);
                place.insert(record);
                (revision, version)
            }
            Entry::Occupied(mut place) => {
                let (create_revision, version) = (place.get().create_revision(), place.get().version() + 1);
                let record = Stored::new(key, value, create_revision, revision, version);
                self.hash = self.hash.wrapping_add(record.hash()).wrapping_sub(place.get().hash());
                self.memory_bytes = self.memory_bytes + record.heap_bytes() - place.get().heap_bytes();
                let old = mem::replace(place.get_mut(), record);
                self.history.record(revision, place.key(), Some(place.get()), Some(&old));
                self.superseded.keep(place.key(), old, revision);
                (create_revision, version)
            }
        };
        SetOutcome { revision, create_revision, version, mod_revision: revision, ..SetOutcome::default() }
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> DeleteOutcome {
        let removed = match Key::inline(key) {
            Some(key) => self.live.remove_entry(&key),
            None => self.live.remove_entry(key),
        };
        let Some((key, record)) = removed else {
            self.revision += u64::from(mutant!(NothingTakesRevision));
            return DeleteOutcome { existed: false, revision: self.revision, ..DeleteOutcome::default() };
        };
        self.revision += 1;
        self.hash = self.hash.wrapping_sub(record.hash());
        self.memory_bytes -= pair_bytes(&key, &record);
        self.history.record(self.revision, &key, None, Some(&record));
        self.superseded.keep(&key, record, self.revision);
        DeleteOutcome { existed: true, revision: self.revision, ..DeleteOutcome::default() }
    }

    /// What a key had at a pinned revision.
    pub(super) fn get_at(&self, revision: u64, key: &[u8]) -> Option<&Stored> {
        let present = self.get(key).filter(|record| record.mod_revision() <= revision);
        present.or_else(|| Version::at(self.superseded.of(key), revision))
    }

    /// Looks at the next keys of a range as they were at a pinned revision.
    pub(super) fn scan(&self, revision: u64, range: &KeyRange, limit: ChunkLimit, order: Order) -> Found {
        let mut found = Found { pairs: Vec::new(), next: None };
        if range.is_empty() {
            return found;
        }
        let (mut bytes, mut last) = (0, None::<&Key>);
        for (looked_at, (key, live, versions)) in self.merged(range, order).enumerate() {
            if looked_at >= limit.entries_max.max(1) || bytes >= limit.bytes_max.max(1) {
                found.next = match order {
                    Order::Ascending => Some(key.clone()),
                    Order::Descending => last.cloned(),
                };
                break;
            }
            last = Some(key);
            let present = live.filter(|record| record.mod_revision() <= revision || mutant!(ListOfAnotherRevision));
            if let Some(record) = present.or_else(|| Version::at(versions, revision)) {
                bytes += key.as_slice().len() + record.value().len();
                found.pairs.push((key.clone(), record.clone()));
            }
        }
        found
    }

    /// How many of the next keys of a range there were at a pinned revision, and the first key that was not looked at.
    pub(super) fn count(&self, revision: u64, range: &KeyRange, keys_max: usize) -> (u64, Option<&Key>) {
        let mut count = 0;
        if range.is_empty() {
            return (count, None);
        }
        for (looked_at, (key, live, versions)) in self.merged(range, Order::Ascending).enumerate() {
            if looked_at >= keys_max.max(1) {
                return (count, Some(key));
            }
            let is_present = live.is_some_and(|record| record.mod_revision() <= revision);
            count += u64::from(is_present || Version::at(versions, revision).is_some());
        }
        (count, None)
    }

    /// The keys of a range that isn't empty, present and past, in order.
    fn merged(&self, range: &KeyRange, order: Order) -> impl Iterator<Item = (&Key, Option<&Stored>, &[Version])> {
        let end = range.end().map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_ref()));
        let bounds = (Bound::Included(range.start().as_ref()), end);
        let mut live = order.apply(self.live.range::<[u8], _>(bounds)).peekable();
        let mut past = order.apply(self.superseded.range(bounds)).peekable();
        iter::from_fn(move || {
            let key = match (live.peek(), past.peek()) {
                (Some((present, _)), Some((superseded, _))) => order.first(*present, *superseded),
                (present, superseded) => present.map(|(key, _)| *key).or(superseded.map(|(key, _)| *key))?,
            };
            let versions = take(&mut past, key).map_or(&[][..], Vec::as_slice);
            Some((key, take(&mut live, key), versions))
        })
    }

    /// See [`History::changes`].
    pub(super) fn changes(&self, from: Cursor, range: &KeyRange, limit: ChunkLimit) -> Result<FoundChanges, Compacted> {
        self.history.changes(from, range, limit, self.revision)
    }

    /// What has happened after `revision`.
    pub(super) fn past(&self, revision: u64) -> Result<Past, Compacted> {
        self.history.past(revision)
    }

    pub(super) fn history_stats(&self) -> HistoryStats {
        self.history.stats()
    }

    /// These come in the place of `before`, and remember as much.
    pub(super) fn succeed(&mut self, before: &Self) {
        self.history = before.history.anew(self.revision);
    }

    /// Remembers so much of what comes from now on.
    pub(super) fn remember(&mut self, bytes_max: usize) {
        self.history = History::new(bytes_max, self.revision);
    }

    /// Keeps the present until [`Pairs::release`] of its revision, which is returned.
    pub(super) fn pin(&mut self) -> u64 {
        self.superseded.pin(self.revision);
        self.revision
    }

    /// Ends one [`Pairs::pin`]. If it was the last, what was kept is returned as a whole, for the caller to drop where
    /// nobody waits for it; otherwise see [`Pairs::collect`].
    pub(super) fn release(&mut self, revision: u64) -> Option<Superseded> {
        self.superseded.release(revision);
        (!self.superseded.is_pinned()).then(|| mem::take(&mut self.superseded))
    }

    /// See [`Superseded::collect`].
    pub(super) fn collect(&mut self, handles_max: usize) -> Option<Vec<Stored>> {
        self.superseded.collect(handles_max)
    }

    pub(super) fn pins(&self) -> usize {
        self.superseded.pins()
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.superseded.memory_bytes()
    }

    /// [`Pairs::hash`] and [`Pairs::memory_bytes`], counted anew.
    #[cfg(test)]
    pub(super) fn recount(&self) -> (u128, usize) {
        let anew = |(key, r): (&Key, &Stored)| {
            let copy = Stored::new(key.as_slice(), r.value(), r.create_revision(), r.mod_revision(), r.version());
            (copy.hash(), pair_bytes(key, &copy))
        };
        assert_eq!(self.history.recount(), self.history.stats());
        let zero = (0, self.superseded.recount());
        self.live.iter().map(anew).fold(zero, |(hash, bytes), (h, b)| (hash.wrapping_add(h), bytes + b))
    }
}

/// Takes the next item if it is of this key.
fn take<'a, V>(items: &mut Peekable<impl Iterator<Item = (&'a Key, &'a V)>>, key: &Key) -> Option<&'a V> {
    items.next_if(|(next, _)| *next == key).map(|(_, item)| item)
}

fn pair_bytes(key: &Key, record: &Stored) -> usize {
    ENTRY_BYTES + key.heap_bytes() + record.heap_bytes()
}
