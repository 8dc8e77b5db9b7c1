//! The pairs: one ordered map of the present, with what pins need of the past beside it.
//!
//! Every write that changes something takes the next revision, however many pairs it changes. An overwrite or a removal hands the record that it supersedes to
//! [`Superseded`], which keeps it only if a pin looks at it: without pins a write costs one place in one map.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::{self, Peekable};
use std::mem;
use std::ops::Bound;

use super::history::{Compacted, Cursor, Found as FoundChanges, History, HistoryStats, Past};
use super::key::Key;
use super::leases::Leases;
use super::log_time::LogTime;
use super::memory::map_entry_bytes;
use super::record::{Ends, Meta, Stored};
use super::scan::{ChunkLimit, Found, KeyRange, Order};
use super::superseded::{Superseded, Version};
use crate::mutants::mutant;

const ENTRY_BYTES: usize = map_entry_bytes(size_of::<Key>() + size_of::<Stored>());
const DEADLINE_BYTES: usize = map_entry_bytes(size_of::<(u64, Key)>());

/// Keys and their records, what ends them, and the revision that they are at.
///
/// Invariants: a key is in `deadlines` exactly if its record has a deadline, under that; it is among the keys of a lease
/// exactly if its record names that lease, and there is that lease.
#[derive(Default)]
pub(super) struct Pairs {
    live: BTreeMap<Key, Stored>,
    deadlines: BTreeSet<(u64, Key)>,
    pub(super) leases: Leases,
    superseded: Superseded,
    history: History,
    revision: u64,
    /// Whether the write that is under way has changed anything.
    is_changed: bool,
    /// The sum of the live records' hashes.
    hash: u128,
    /// What the live pairs weigh, and their places in `deadlines`.
    memory_bytes: usize,
}

impl Pairs {
    /// The pairs of a snapshot at `revision`, in strictly ascending order of their keys. `Err` is a lease that a key names and
    /// that is not there.
    pub(super) fn from_sorted(pairs: Vec<(Key, Stored)>, revision: u64, leases: Leases) -> Result<Self, u64> {
        let history = History::default().anew(revision);
        let mut loaded = Self { leases, history, revision, ..Self::default() };
        for (key, record) in &pairs {
            loaded.hash = loaded.hash.wrapping_add(record.hash());
            loaded.memory_bytes += pair_bytes(key, record);
            let ends = record.ends();
            if ends.lease_id != 0 && !loaded.leases.contains(ends.lease_id) {
                return Err(ends.lease_id);
            }
            loaded.bind(key, ends);
        }
        loaded.live = pairs.into_iter().collect();
        Ok(loaded)
    }

    /// The revision goes on from a later one. Nobody has pinned one.
    pub(super) fn skip_revisions(&mut self, revisions: u64) {
        debug_assert_eq!(self.pins(), 0, "what is pinned is told by its revision");
        self.revision += revisions;
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Stored> {
        match Key::inline(key) {
            Some(key) => self.live.get(&key),
            None => self.live.get(key),
        }
    }

    /// Writes a pair, as part of the write that comes next.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8], ends: Ends) -> Meta {
        let mod_revision = self.revision + 1;
        let place = Key::new(key);
        let (new, old) = match self.live.entry(place.clone()) {
            Entry::Vacant(vacant) => {
                let version = if mutant!(VersionLivesOn) { 2 } else { 1 };
                let meta = Meta { create_revision: mod_revision, mod_revision, version, ends };
                (vacant.insert(Stored::new(key, value, meta)).clone(), None)
            }
            Entry::Occupied(mut occupied) => {
                let (create_revision, version) = (occupied.get().create_revision(), occupied.get().version() + 1);
                let new = Stored::new(key, value, Meta { create_revision, mod_revision, version, ends });
                let old = occupied.insert(new.clone());
                (new, Some(old))
            }
        };
        self.changed(&place, Some(&new), old);
        new.meta()
    }

    /// Removes a pair, as part of the write that comes next. False if there is none.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let removed = match Key::inline(key) {
            Some(key) => self.live.remove_entry(&key),
            None => self.live.remove_entry(key),
        };
        let Some((key, old)) = removed else { return false };
        self.changed(&key, None, Some(old));
        true
    }

    /// Ends a write: it has the next revision, if it changed anything. Returns the revision that the pairs have now.
    pub(super) fn commit(&mut self) -> u64 {
        if mem::take(&mut self.is_changed) || mutant!(NothingTakesRevision) {
            self.revision += 1;
        }
        self.revision
    }

    /// A pair has changed: every change comes by here.
    fn changed(&mut self, key: &Key, new: Option<&Stored>, old: Option<Stored>) {
        self.is_changed = true;
        self.history.record(self.revision + 1, key, new, old.as_ref());
        if let Some(new) = new {
            self.hash = self.hash.wrapping_add(new.hash());
            self.memory_bytes += pair_bytes(key, new);
            self.bind(key, new.ends());
        }
        if let Some(old) = old {
            self.hash = self.hash.wrapping_sub(old.hash());
            self.memory_bytes -= pair_bytes(key, &old);
            self.unbind(key, old.ends(), new.map(Stored::ends).unwrap_or_default());
            self.superseded.keep(key, old, self.revision + 1);
        }
    }

    /// The key ends so from now on.
    fn bind(&mut self, key: &Key, ends: Ends) {
        if ends.lease_id != 0 {
            self.leases.attach(ends.lease_id, key);
        }
        if ends.deadline_ms != 0 && self.deadlines.insert((ends.deadline_ms, key.clone())) {
            self.memory_bytes += DEADLINE_BYTES + key.heap_bytes();
        }
    }

    /// The key does not end as it did, unless it ends `now` in the same way.
    fn unbind(&mut self, key: &Key, ends: Ends, now: Ends) {
        if ends.lease_id != 0 && ends.lease_id != now.lease_id {
            self.leases.detach(ends.lease_id, key);
        }
        if ends.deadline_ms != 0
            && ends.deadline_ms != now.deadline_ms
            && self.deadlines.remove(&(ends.deadline_ms, key.clone()))
        {
            self.memory_bytes -= DEADLINE_BYTES + key.heap_bytes();
        }
    }

    /// The key that ends first by its own deadline, if that has come by `now`.
    pub(super) fn due(&self, now: LogTime) -> Option<Key> {
        let (deadline_ms, key) = self.deadlines.first()?;
        (*deadline_ms <= now.as_millis() || mutant!(ExpireEarly)).then(|| key.clone())
    }

    /// The first deadline of a key's own.
    pub(super) fn next_deadline(&self) -> Option<LogTime> {
        self.deadlines.first().map(|(deadline_ms, _)| LogTime::from_millis(*deadline_ms))
    }

    /// The pairs of a range as they are, in order.
    pub(super) fn range(&self, range: &KeyRange) -> impl DoubleEndedIterator<Item = (&Key, &Stored)> {
        let bounds = bounds(range);
        // A map refuses to be asked for a range that ends before it begins.
        let present = (!range.is_empty()).then(|| self.live.range::<[u8], _>(bounds));
        present.into_iter().flatten()
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
        let bounds = bounds(range);
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
        self.memory_bytes + self.superseded.memory_bytes() + self.leases.memory_bytes()
    }

    /// [`Pairs::hash`] and [`Pairs::memory_bytes`], counted anew; the invariants are checked on the way.
    #[cfg(test)]
    pub(super) fn recount(&self) -> (u128, usize) {
        let leases = Leases::load(self.leases.next_id(), &self.leases.export()).expect("leases");
        let copies = self.live.iter().map(|(key, r)| (key.clone(), Stored::new(key.as_slice(), r.value(), r.meta())));
        let anew = Self::from_sorted(copies.collect(), self.revision, leases).expect("keys of leases that are there");
        assert_eq!(self.leases.recount(), (self.leases.hash(), self.leases.memory_bytes()));
        assert_eq!(anew.deadlines, self.deadlines);
        assert!(anew.leases.iter().eq(self.leases.iter()));
        assert!(anew.leases.iter().all(|lease| anew.leases.keys(lease.id) == self.leases.keys(lease.id)));
        assert_eq!(self.history.recount(), self.history.stats());
        (anew.hash, anew.memory_bytes() + self.superseded.recount())
    }
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let end = range.end().map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_ref()));
    (Bound::Included(range.start().as_ref()), end)
}

/// Takes the next item if it is of this key.
fn take<'a, V>(items: &mut Peekable<impl Iterator<Item = (&'a Key, &'a V)>>, key: &Key) -> Option<&'a V> {
    items.next_if(|(next, _)| *next == key).map(|(_, item)| item)
}

fn pair_bytes(key: &Key, record: &Stored) -> usize {
    ENTRY_BYTES + key.heap_bytes() + record.heap_bytes()
}
