//! Views of the store at a revision that may be an older one.
//!
//! An older revision is the present one with the changes since then undone. Nothing is copied for that when the view is
//! made: it pins the present, and holds on to the changes that it has to undo. Each chunk goes through those that are in
//! its part of the range, so it costs some ten nanoseconds for each change since the revision.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::history::{Compacted, Past};
use super::key::Key;
use super::pin::Pin;
use super::record::{Record, Stored};
use super::scan::{Chunk, ChunkLimit, Found, KeyRange, Order};

/// Why there is no view of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// It is no longer remembered.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// The store has not come so far.
    #[error("the store is at revision {newest} yet")]
    Future {
        /// The store's revision.
        newest: u64,
    },
}

/// All pairs as they were at one revision. It stays as it is, and readable, whatever is written or forgotten meanwhile;
/// so long it costs what a [`Pin`] costs, and the changes that it undoes are not freed.
pub struct View {
    /// The store when the view was made.
    pin: Pin,
    revision: u64,
    /// What has happened from `revision` to that of the pin. `None`: nothing.
    past: Option<Past>,
}

impl View {
    pub(super) fn new(shared: &Arc<Shared>, revision: u64) -> Result<Self, ViewError> {
        let mut state = shared.write();
        let newest = state.pairs.revision();
        let past = match revision {
            0 => None,
            future if future > newest => return Err(ViewError::Future { newest }),
            present if present == newest => None,
            old => Some(state.pairs.past(old)?),
        };
        let revision = if revision == 0 { newest } else { revision };
        Ok(Self { pin: Pin::locked(shared, &mut state), revision, past })
    }

    /// The revision that is shown.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What a key had.
    pub fn get(&self, key: &[u8]) -> Option<Record> {
        let changed = self.past.as_ref().and_then(|past| past.entries().find(|entry| entry.key.as_slice() == key));
        match changed {
            Some(entry) => entry.old.clone().map(Record::from),
            None => self.pin.get(key),
        }
    }

    /// The next pairs of a range in the order of their keys. See [`Pin::scan`].
    pub fn scan(&self, range: &KeyRange, limit: ChunkLimit) -> Chunk {
        self.find(range, limit, Order::Ascending).into()
    }

    /// The next pairs of a range from its last key on. See [`Pin::scan_back`].
    pub fn scan_back(&self, range: &KeyRange, limit: ChunkLimit) -> Chunk {
        self.find(range, limit, Order::Descending).into()
    }

    /// How many keys the next part of a range has. See [`Pin::count`].
    pub fn count(&self, range: &KeyRange, limit: ChunkLimit) -> (u64, Option<Bytes>) {
        if self.past.is_none() {
            return self.pin.count(range, limit);
        }
        let found = self.find(range, limit, Order::Ascending);
        (found.pairs.len() as u64, found.next.map(|key| Bytes::copy_from_slice(key.as_slice())))
    }

    fn find(&self, range: &KeyRange, limit: ChunkLimit, order: Order) -> Found {
        let present = self.pin.find(range, limit, order);
        let Some(past) = &self.past else { return present };
        // The part of the range of which this chunk will say everything.
        let mut part = Part { range: range.clone(), next: None, order };
        if let Some(next) = present.next {
            part.end_at(next);
        }
        let mut undone: BTreeMap<Key, Option<Stored>> = BTreeMap::new();
        for entry in past.entries() {
            if !part.range.contains(entry.key.as_slice()) {
                continue;
            }
            // The first change has what was there before all of them.
            if let Entry::Vacant(place) = undone.entry(entry.key.clone()) {
                place.insert(entry.old.clone());
                if undone.len() > limit.entries_max.max(1) {
                    part.leave_last(&mut undone);
                }
            }
        }
        let mut pairs: BTreeMap<Key, Stored> = present.pairs.into_iter().collect();
        pairs.retain(|key, _| part.range.contains(key.as_slice()));
        for (key, old) in undone {
            match old {
                Some(record) => drop(pairs.insert(key, record)),
                None => drop(pairs.remove(&key)),
            }
        }
        part.fill(pairs, limit)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// The beginning of a range, in an order.
struct Part {
    range: KeyRange,
    /// See [`Found::next`]. `None`: the part is all of the range.
    next: Option<Key>,
    order: Order,
}

impl Part {
    fn end_at(&mut self, next: Key) {
        let bound = Bytes::copy_from_slice(next.as_slice());
        let range = self.range.clone();
        self.range = match self.order {
            Order::Ascending => range.ending_before(bound),
            Order::Descending => range.starting_at(bound),
        };
        self.next = Some(next);
    }

    /// Leaves the last key to the next part.
    fn leave_last<V>(&mut self, of: &mut BTreeMap<Key, V>) {
        let last = match self.order {
            Order::Ascending => of.pop_last(),
            Order::Descending => of.pop_first(),
        };
        if let Some((key, _)) = last {
            self.end_before(&key);
        }
    }

    fn end_before(&mut self, key: &Key) {
        self.end_at(match self.order {
            Order::Ascending => key.clone(),
            Order::Descending => Key::new(&[key.as_slice(), &[0]].concat()),
        });
    }

    /// A chunk of the part's pairs, as many as the limit allows.
    fn fill(mut self, pairs: BTreeMap<Key, Stored>, limit: ChunkLimit) -> Found {
        let order = self.order;
        let mut chunk: Vec<(Key, Stored)> = Vec::with_capacity(pairs.len().min(limit.entries_max.max(1)));
        let mut bytes = 0;
        for (key, record) in order.apply(pairs.into_iter()) {
            if chunk.len() >= limit.entries_max.max(1) || bytes >= limit.bytes_max.max(1) {
                self.end_before(&key);
                break;
            }
            bytes += key.as_slice().len() + record.value().len();
            chunk.push((key, record));
        }
        Found { pairs: chunk, next: self.next }
    }
}
