//! What the store keeps of a pair beside its key: the value and what is known of it, in one allocation.

use bytes::Bytes;
use mokv_proto::internal;
use triomphe::ThinArc;

use super::hash;
use super::log_time::LogTime;
use super::memory::ALLOCATION_BYTES;

/// A value with its revisions, as readers get it. It stays as it is whatever is written afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The revision at which the key came to be, since it was last absent.
    pub create_revision: u64,
    /// The revision of the last write to the key.
    pub mod_revision: u64,
    /// How many times the key was written since it came to be; 1 after the first.
    pub version: u64,
    /// The lease that the key ends with; 0 if none.
    pub lease_id: u64,
    /// When the key ends by itself.
    pub deadline: Option<LogTime>,
}

/// What a record says beside its value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) create_revision: u64,
    pub(super) mod_revision: u64,
    pub(super) version: u64,
    pub(super) ends: Ends,
}

/// How a key ends by itself: with a lease, at a deadline, or not at all. Zeros stand for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) lease_id: u64,
    pub(super) deadline_ms: u64,
}

/// A record in the store. A pointer: cloning shares it.
///
/// Most keys don't end by themselves; so how one does is not in the head but behind the value, where there is anything to
/// say.
#[derive(Clone)]
pub(super) struct Stored(ThinArc<Head, u8>);

struct Head {
    create_revision: u64,
    mod_revision: u64,
    /// In its highest bit: whether an [`Ends`] follows the value.
    version: u64,
    /// What the pair adds to the state hash; kept so that an overwrite need not read the old value. In halves, because
    /// a `u128` would align the whole allocation to 16 bytes.
    hash: [u64; 2],
}

/// No key is ever written so often.
const HAS_ENDS: u64 = 1 << 63;

/// An [`Ends`] behind a value: lease id and deadline.
const ENDS_BYTES: usize = 16;

impl Stored {
    /// Copies a value.
    pub(super) fn new(key: &[u8], value: &[u8], meta: Meta) -> Self {
        let hash = hash::halves(hash::pair(key, value, &meta));
        let Meta { create_revision, mod_revision, version, ends } = meta;
        if ends == Ends::default() {
            let head = Head { create_revision, mod_revision, version, hash };
            return Self(ThinArc::from_header_and_slice(head, value));
        }
        let [lease_id, deadline] = [ends.lease_id, ends.deadline_ms].map(u64::to_le_bytes);
        let head = Head { create_revision, mod_revision, version: version | HAS_ENDS, hash };
        Self(ThinArc::from_header_and_slice(head, &[value, &lease_id, &deadline].concat()))
    }

    pub(super) fn value(&self) -> &[u8] {
        let slice = &self.0.slice;
        if self.has_ends() { &slice[..slice.len() - ENDS_BYTES] } else { slice }
    }

    pub(super) fn meta(&self) -> Meta {
        let Head { create_revision, mod_revision, .. } = *self.head();
        Meta { create_revision, mod_revision, version: self.version(), ends: self.ends() }
    }

    pub(super) fn create_revision(&self) -> u64 {
        self.head().create_revision
    }

    pub(super) fn mod_revision(&self) -> u64 {
        self.head().mod_revision
    }

    pub(super) fn version(&self) -> u64 {
        self.head().version & !HAS_ENDS
    }

    pub(super) fn ends(&self) -> Ends {
        if !self.has_ends() {
            return Ends::default();
        }
        let (words, _) = self.0.slice[self.value().len()..].as_chunks();
        let [lease_id, deadline_ms] = [words[0], words[1]].map(u64::from_le_bytes);
        Ends { lease_id, deadline_ms }
    }

    pub(super) fn hash(&self) -> u128 {
        hash::whole(self.head().hash)
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    fn has_ends(&self) -> bool {
        self.head().version & HAS_ENDS != 0
    }

    /// Bytes of the allocation. The head is followed by the slice's length and preceded by the reference count.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Head>() + 2 * size_of::<usize>() + self.0.slice.len() + ALLOCATION_BYTES
    }

    /// The pair as outcomes have it; its value is shared, or left out.
    pub(super) fn export(&self, key: &[u8], with_value: bool) -> internal::Pair {
        let Meta { create_revision, mod_revision, version, ends } = self.meta();
        internal::Pair {
            key: Bytes::copy_from_slice(key),
            value: if with_value { Bytes::from_owner(self.clone()) } else { Bytes::new() },
            create_revision,
            mod_revision,
            version,
            lease_id: ends.lease_id,
            deadline_ms: ends.deadline_ms,
        }
    }
}

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        self.value()
    }
}

impl From<Stored> for Record {
    /// Shares the value; nothing is copied.
    fn from(stored: Stored) -> Self {
        let Meta { create_revision, mod_revision, version, ends } = stored.meta();
        Self {
            create_revision,
            mod_revision,
            version,
            lease_id: ends.lease_id,
            deadline: LogTime::from_wire(ends.deadline_ms),
            value: Bytes::from_owner(stored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_key_ends_is_kept_and_costs_nothing_where_it_does_not() {
        let stored = |ends| {
            let meta = Meta { create_revision: 1, mod_revision: 2, version: 3, ends };
            (Stored::new(b"key", b"value", meta), meta)
        };
        let (plain, _) = stored(Ends::default());
        for lease_id in [0, 7, u64::MAX] {
            for deadline_ms in [0, 1, u64::MAX] {
                let ends = Ends { lease_id, deadline_ms };
                let (stored, meta) = stored(ends);
                assert_eq!((stored.value(), stored.meta()), (&b"value"[..], meta));
                let more = if ends == Ends::default() { 0 } else { ENDS_BYTES };
                assert_eq!(stored.heap_bytes(), plain.heap_bytes() + more);
                assert_eq!(stored.hash() == plain.hash(), more == 0);
                let record = Record::from(stored);
                assert_eq!((&record.value[..], record.version, record.lease_id), (&b"value"[..], 3, lease_id));
                assert_eq!(record.deadline, LogTime::from_wire(deadline_ms));
            }
        }
    }
}
