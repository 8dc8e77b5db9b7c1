//! What a scan is asked for and what it answers.

use std::iter;

use bytes::{Bytes, BytesMut};
use mokv_proto::internal;

use super::key::Key;
use super::log_time::LogTime;
use super::record::{Record, Stored};

/// A range of keys: at or after a start, before an end. Narrowed step by step; a range that holds nothing is fine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    start: Bytes,
    end: Option<Bytes>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        // The first key after them: without the trailing 0xff bytes, and one higher. All 0xff has no such key.
        let end = start.iter().rposition(|byte| *byte != u8::MAX).map(|last| {
            let mut end = start[..=last].to_vec();
            end[last] += 1;
            end.into()
        });
        Self { start, end }
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let end = Some([&start[..], &[0]].concat().into());
        Self { start, end }
    }

    /// Those of these keys that are at or after `key`.
    #[must_use]
    pub fn starting_at(mut self, key: impl Into<Bytes>) -> Self {
        self.start = self.start.max(key.into());
        self
    }

    /// Those of these keys that are before `key`.
    #[must_use]
    pub fn ending_before(mut self, key: impl Into<Bytes>) -> Self {
        let key = key.into();
        self.end = Some(match self.end.take() {
            Some(end) => end.min(key),
            None => key,
        });
        self
    }

    /// The first key that may be in the range.
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// The first key after the range; `None` if it has no bound.
    pub fn end(&self) -> Option<&Bytes> {
        self.end.as_ref()
    }

    /// The only key that can be in the range, if it was made as [`KeyRange::key`] makes it.
    pub fn only_key(&self) -> Option<&Bytes> {
        let end = self.end.as_ref()?.strip_suffix(&[0])?;
        (end == self.start).then_some(&self.start)
    }

    /// Whether a key is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// In which order a scan goes through its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Ascending,
    Descending,
}

impl Order {
    /// The items, which are in ascending order, in this one.
    pub(super) fn apply<I: DoubleEndedIterator>(self, mut items: I) -> impl Iterator<Item = I::Item> {
        iter::from_fn(move || match self {
            Self::Ascending => items.next(),
            Self::Descending => items.next_back(),
        })
    }

    /// Which of two comes first.
    pub(super) fn first<T: Ord>(self, a: T, b: T) -> T {
        match self {
            Self::Ascending => a.min(b),
            Self::Descending => a.max(b),
        }
    }
}

/// How much one chunk of a scan may hold, and so for how long writers wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimit {
    /// At most so many keys are looked at; at least one is.
    pub entries_max: usize,
    /// The chunk ends with the pair that brings its keys and values to so many bytes.
    pub bytes_max: usize,
}

impl Default for ChunkLimit {
    /// About 0.1 ms.
    fn default() -> Self {
        Self { entries_max: 1000, bytes_max: 256 * 1024 }
    }
}

/// A key and its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Bytes,
    /// Its record.
    pub record: Record,
}

impl From<Pair> for internal::Pair {
    fn from(pair: Pair) -> Self {
        Self {
            key: pair.key,
            value: pair.record.value,
            create_revision: pair.record.create_revision,
            mod_revision: pair.record.mod_revision,
            version: pair.record.version,
            lease_id: pair.record.lease_id,
            deadline_ms: LogTime::to_wire(pair.record.deadline),
        }
    }
}

/// A part of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The pairs in the order of the scan. May be empty though more follow: keys that are younger than the pin are
    /// looked at and left out.
    pub pairs: Vec<Pair>,
    /// Where to go on: [`KeyRange::starting_at`] this key, or [`KeyRange::ending_before`] it if the scan goes back. `None`: the
    /// range is done.
    pub next: Option<Bytes>,
}

/// A chunk as it is collected under the lock; [`Chunk`] is made of it afterwards.
pub(super) struct Found {
    pub(super) pairs: Vec<(Key, Stored)>,
    /// As [`Chunk::next`].
    pub(super) next: Option<Key>,
}

impl From<Found> for Chunk {
    fn from(found: Found) -> Self {
        // One allocation for all keys of the chunk.
        let mut keys = BytesMut::with_capacity(found.pairs.iter().map(|(key, _)| key.as_slice().len()).sum());
        let pairs = found.pairs.into_iter().map(|(key, stored)| {
            keys.extend_from_slice(key.as_slice());
            Pair { key: keys.split().freeze(), record: stored.into() }
        });
        Self { pairs: pairs.collect(), next: found.next.map(|key| Bytes::copy_from_slice(key.as_slice())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(KeyRange::prefix("ab").end(), Some(&Bytes::from("ac")));
        assert_eq!(KeyRange::prefix(&b"a\xff\xff"[..]).end(), Some(&Bytes::from("b")));
        assert_eq!(KeyRange::prefix(&b"\xff"[..]).end(), None);
        assert_eq!(KeyRange::prefix(""), KeyRange::all());
    }

    #[test]
    fn one_key_is_a_range() {
        let range = KeyRange::key("a");
        assert_eq!(range.only_key(), Some(&Bytes::from("a")));
        assert!(range.contains(b"a") && !range.contains(b"a\0") && !range.contains(b""));
        for other in [KeyRange::prefix("a"), KeyRange::all(), KeyRange::prefix("a").ending_before("a\0\0")] {
            assert_eq!(other.only_key(), None);
        }
    }

    #[test]
    fn ranges_only_get_narrower() {
        let range = KeyRange::prefix("b").starting_at("a").ending_before("z");
        assert_eq!(range, KeyRange::prefix("b"));
        let range = range.starting_at("ba").ending_before("bb");
        assert_eq!((range.start().as_ref(), range.end()), (&b"ba"[..], Some(&Bytes::from("bb"))));
        assert!(!range.is_empty());
        assert!(range.contains(b"ba") && range.contains(b"baa"));
        assert!(!range.contains(b"b") && !range.contains(b"bb") && KeyRange::all().contains(b""));
        assert!(range.starting_at("bb").is_empty());
    }
}
