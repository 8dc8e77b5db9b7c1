//! The recent past: every change of a pair, in the order in which it happened, with the record that it replaced.
//!
//! It is what watches read, and what the present is undone with to show an older revision. It is bounded in bytes and
//! forgets whole revisions, the oldest first; it is not part of the replicated state. A node that restarts fills it again
//! from the log that it replays; with a snapshot it begins anew.
//!
//! The changes lie in segments that are shared once they are full. So a reader of the past takes pointers under the
//! store's lock and reads without it, and forgetting frees a segment at a time.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::key::Key;
use super::memory::vec_entry_bytes;
use super::record::{Record, Stored};
use super::scan::{ChunkLimit, KeyRange};

/// What a store remembers if nobody says: some hundred thousand changes of small pairs.
pub const HISTORY_BYTES: u64 = 64 << 20;

/// A segment is full with so many changes: freeing them takes some ten microseconds.
const SEGMENT_CHANGES_MAX: usize = 512;

/// A segment is full with this part of what is remembered, so that forgetting one is forgetting little.
const SEGMENT_PART: usize = 32;

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The revision of the write.
    pub revision: u64,
    /// What the key has since then; `None`: it was deleted.
    pub new: Option<Record>,
    /// What it had before; `None`: it was absent.
    pub old: Option<Record>,
}

/// How far a reader of the changes has come. It holds nothing: what it points at may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Every change up to this revision was seen.
    after: u64,
    /// Of the next revision, the changes before this one were seen, too.
    within: Option<u64>,
}

impl Cursor {
    /// All changes after `revision` are still to be seen.
    pub fn after(revision: u64) -> Self {
        Self { after: revision, within: None }
    }

    /// Up to which revision everything was seen.
    pub fn revision(self) -> u64 {
        self.after
    }

    /// Whether a part of the next revision was seen, too.
    pub fn is_within(self) -> bool {
        self.within.is_some()
    }
}

/// Some changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// In their order. May be empty though more follow: changes of other keys are looked at and left out.
    pub changes: Vec<Change>,
    /// Where to go on. It is within a revision only if a single revision is larger than the limit.
    pub next: Cursor,
    /// Whether these are the last ones by now.
    pub is_end: bool,
}

/// What is asked for is no longer remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the revisions before {oldest} are forgotten")]
pub struct Compacted {
    /// The oldest revision that there is a view of; the changes after it are remembered.
    pub oldest: u64,
}

/// What is known of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryStats {
    /// Bytes of what is remembered beyond the present state: an estimate, as [`Stats::memory_bytes`](super::Stats).
    pub bytes: u64,
    /// The oldest revision that there is a view of.
    pub oldest: u64,
}

/// A change as it is kept.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: Key,
    revision: u64,
    new: Option<Stored>,
    pub(super) old: Option<Stored>,
}

impl Entry {
    /// What is kept only for the past. The new record is the present one, or the old one of a later change.
    fn bytes(&self) -> usize {
        vec_entry_bytes(size_of::<Self>()) + self.key.heap_bytes() + self.old.as_ref().map_or(0, Stored::heap_bytes)
    }

    /// Bytes of keys and values, as a limit counts them.
    fn content_bytes(&self) -> usize {
        let value = |record: &Option<Stored>| record.as_ref().map_or(0, |record| record.value().len());
        self.key.as_slice().len() + value(&self.new) + value(&self.old)
    }
}

impl From<Entry> for Change {
    fn from(entry: Entry) -> Self {
        Self {
            key: Bytes::copy_from_slice(entry.key.as_slice()),
            revision: entry.revision,
            new: entry.new.map(Record::from),
            old: entry.old.map(Record::from),
        }
    }
}

#[derive(Default)]
struct Segment {
    /// The number of the first change.
    first: u64,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Segment {
    fn last_revision(&self) -> Option<u64> {
        self.entries.last().map(|entry| entry.revision)
    }
}

/// The changes after a revision, up to the newest of the store, shared with it.
pub(super) struct Past {
    segments: Vec<Arc<Segment>>,
    rest: Vec<Entry>,
    after: u64,
}

impl Past {
    /// The changes, in their order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.segments.iter().flat_map(|segment| &segment.entries).chain(&self.rest);
        entries.skip_while(|entry| entry.revision <= self.after)
    }
}

/// The changes that are remembered.
///
/// Invariants: changes are numbered without a gap, and their revisions don't descend; every change above `oldest` is
/// here, whole; no segment but the open one is empty.
pub(super) struct History {
    full: VecDeque<Arc<Segment>>,
    open: Segment,
    bytes: usize,
    bytes_max: usize,
    oldest: u64,
}

impl History {
    /// Nothing of what was before `revision`.
    pub(super) fn new(bytes_max: usize, revision: u64) -> Self {
        Self { full: VecDeque::new(), open: Segment::default(), bytes: 0, bytes_max, oldest: revision }
    }

    /// A history of the same size, of what comes after `revision`.
    pub(super) fn anew(&self, revision: u64) -> Self {
        Self::new(self.bytes_max, revision)
    }

    /// Takes in a change. Records are shared.
    pub(super) fn record(&mut self, revision: u64, key: &Key, new: Option<&Stored>, old: Option<&Stored>) {
        if revision <= self.oldest {
            // The rest of a revision that is larger than all that may be remembered.
            return;
        }
        let entry = Entry { key: key.clone(), revision, new: new.cloned(), old: old.cloned() };
        debug_assert!(self.open.last_revision().is_none_or(|last| last <= revision));
        let bytes = entry.bytes();
        self.open.entries.push(entry);
        self.open.bytes += bytes;
        self.bytes += bytes;
        let is_full = self.open.bytes >= self.bytes_max / SEGMENT_PART;
        if is_full || self.open.entries.len() >= SEGMENT_CHANGES_MAX {
            self.seal();
        }
        while self.bytes > self.bytes_max {
            self.forget();
        }
    }

    fn seal(&mut self) {
        let next = self.open.first + self.open.entries.len() as u64;
        let full = mem::replace(&mut self.open, Segment { first: next, ..Segment::default() });
        self.full.push_back(Arc::new(full));
    }

    /// Forgets the oldest segment, and with it what of its last revision is in the next one.
    fn forget(&mut self) {
        if self.full.is_empty() {
            self.seal();
        }
        let Some(segment) = self.full.pop_front() else { return };
        self.bytes -= segment.bytes;
        self.oldest = segment.last_revision().unwrap_or(self.oldest).max(self.oldest);
    }

    /// The next changes in a range, of a store that is at revision `now`. Looks at no more than the limit.
    pub(super) fn changes(
        &self,
        from: Cursor,
        range: &KeyRange,
        limit: ChunkLimit,
        now: u64,
    ) -> Result<Found, Compacted> {
        self.check(from.after)?;
        let mut found = Found { entries: Vec::new(), next: Cursor::after(now.max(from.after)), is_end: true };
        let (mut bytes, mut first, mut last, mut whole) = (0, None, None, 0);
        for (looked_at, (number, entry)) in self.unseen(from).enumerate() {
            let revision = entry.revision;
            if last != Some(revision) {
                // All before is whole revisions.
                whole = found.entries.len();
            }
            if looked_at >= limit.entries_max.max(1) || bytes >= limit.bytes_max.max(1) {
                let splits = last == Some(revision) && first == last;
                if !splits {
                    found.entries.truncate(whole);
                }
                found.next = Cursor { after: revision - 1, within: splits.then_some(number) };
                found.is_end = false;
                break;
            }
            if range.contains(entry.key.as_slice()) {
                bytes += entry.content_bytes();
                found.entries.push(entry.clone());
            }
            first = first.or(Some(revision));
            last = Some(revision);
        }
        Ok(found)
    }

    /// The changes after `revision`, shared.
    pub(super) fn past(&self, revision: u64) -> Result<Past, Compacted> {
        self.check(revision)?;
        let begin = self.full.partition_point(|segment| segment.last_revision() <= Some(revision));
        let segments = self.full.range(begin..).cloned().collect();
        Ok(Past { segments, rest: self.open.entries.clone(), after: revision })
    }

    pub(super) fn check(&self, after: u64) -> Result<(), Compacted> {
        match after >= self.oldest {
            true => Ok(()),
            false => Err(Compacted { oldest: self.oldest }),
        }
    }

    pub(super) fn stats(&self) -> HistoryStats {
        HistoryStats { bytes: self.bytes as u64, oldest: self.oldest }
    }

    /// What a cursor has not seen, with the changes' numbers.
    fn unseen(&self, cursor: Cursor) -> impl Iterator<Item = (u64, &Entry)> {
        let seen = move |number: u64, entry: &Entry| match cursor.within {
            Some(next) => number < next,
            None => entry.revision <= cursor.after,
        };
        let is_seen = |segment: &Segment| {
            let last = segment.entries.last();
            last.is_none_or(|last| seen(segment.first + segment.entries.len() as u64 - 1, last))
        };
        let begin = self.full.partition_point(|segment| is_seen(segment));
        let segments = self.full.range(begin..).map(|segment| &**segment).chain([&self.open]);
        segments.flat_map(move |segment| {
            let number = |place: usize| segment.first + place as u64;
            // In all segments but the first this is 0.
            let begin = partition_point(&segment.entries, |place, entry| seen(number(place), entry));
            (begin..).map(number).zip(&segment.entries[begin..])
        })
    }

    /// What [`History::stats`] says, counted anew; the invariants are checked on the way.
    #[cfg(test)]
    pub(super) fn recount(&self) -> HistoryStats {
        let segments: Vec<&Segment> = self.full.iter().map(|segment| &**segment).chain([&self.open]).collect();
        for pair in segments.windows(2) {
            assert!(!pair[0].entries.is_empty());
            assert_eq!(pair[0].first + pair[0].entries.len() as u64, pair[1].first);
            assert!(pair[1].entries.first().is_none_or(|next| pair[0].last_revision() <= Some(next.revision)));
        }
        assert!(self.bytes <= self.bytes_max);
        let bytes = segments.iter().flat_map(|segment| &segment.entries).map(Entry::bytes).sum::<usize>();
        HistoryStats { bytes: bytes as u64, oldest: self.oldest }
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new(HISTORY_BYTES as usize, 0)
    }
}

/// [`slice::partition_point`] with the place.
fn partition_point<T>(items: &[T], before: impl Fn(usize, &T) -> bool) -> usize {
    let (mut low, mut high) = (0, items.len());
    while low < high {
        let middle = low.midpoint(high);
        if before(middle, &items[middle]) { low = middle + 1 } else { high = middle }
    }
    low
}

/// Changes as they are collected under the lock; [`Changes`] are made of them afterwards.
pub(super) struct Found {
    entries: Vec<Entry>,
    next: Cursor,
    is_end: bool,
}

impl From<Found> for Changes {
    fn from(found: Found) -> Self {
        let changes = found.entries.into_iter().map(Change::from).collect();
        Self { changes, next: found.next, is_end: found.is_end }
    }
}
