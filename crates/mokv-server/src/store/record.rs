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
#[derive(Clone)]
pub(super) struct Stored(ThinArc<Head, u8>);

struct Head {
    meta: Meta,
    /// What the pair adds to the state hash; kept so that an overwrite need not read the old value. In halves, because
    /// a `u128` would align the whole allocation to 16 bytes.
    hash: [u64; 2],
}

impl Stored {
    /// Copies a value.
    pub(super) fn new(key: &[u8], value: &[u8], meta: Meta) -> Self {
        let hash = hash::halves(hash::pair(key, value, &meta));
        Self(ThinArc::from_header_and_slice(Head { meta, hash }, value))
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.0.slice
    }

    pub(super) fn meta(&self) -> &Meta {
        &self.0.header.header.meta
    }

    pub(super) fn create_revision(&self) -> u64 {
        self.meta().create_revision
    }

    pub(super) fn mod_revision(&self) -> u64 {
        self.meta().mod_revision
    }

    pub(super) fn version(&self) -> u64 {
        self.meta().version
    }

    pub(super) fn ends(&self) -> Ends {
        self.meta().ends
    }

    pub(super) fn hash(&self) -> u128 {
        hash::whole(self.0.header.header.hash)
    }

    /// Bytes of the allocation. The head is followed by the slice's length and preceded by the reference count.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Head>() + 2 * size_of::<usize>() + self.value().len() + ALLOCATION_BYTES
    }

    /// The pair as outcomes have it; its value is shared, or left out.
    pub(super) fn export(&self, key: &[u8], with_value: bool) -> internal::Pair {
        let Meta { create_revision, mod_revision, version, ends } = *self.meta();
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
        let Meta { create_revision, mod_revision, version, ends } = *stored.meta();
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
