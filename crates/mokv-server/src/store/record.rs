//! What the store keeps of a pair beside its key: the value and what is known of it, in one allocation.

use bytes::Bytes;
use triomphe::ThinArc;

use super::hash;
use super::memory::ALLOCATION_BYTES;

/// A value with its revisions, as readers get it. It stays as it is whatever is written afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The revision at which the key came to be, since it was last absent.
    pub create_revision: u64,
    /// The revision of the last write to the key.
    pub mod_revision: u64,
    /// How many times the key was written since it came to be; 1 after the first.
    pub version: u64,
}

/// A record in the store. A pointer: cloning shares it.
#[derive(Clone)]
pub(super) struct Stored(ThinArc<Head, u8>);

struct Head {
    create_revision: u64,
    mod_revision: u64,
    version: u64,
    /// What the pair adds to the state hash; kept so that an overwrite need not read the old value. In halves, because
    /// a `u128` would align the whole allocation to 16 bytes.
    hash: [u64; 2],
}

impl Stored {
    /// Copies a value.
    pub(super) fn new(key: &[u8], value: &[u8], create_revision: u64, mod_revision: u64, version: u64) -> Self {
        let hash = hash::halves(hash::pair(key, value, create_revision, mod_revision, version));
        Self(ThinArc::from_header_and_slice(Head { create_revision, mod_revision, version, hash }, value))
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.0.slice
    }

    pub(super) fn create_revision(&self) -> u64 {
        self.0.header.header.create_revision
    }

    pub(super) fn mod_revision(&self) -> u64 {
        self.0.header.header.mod_revision
    }

    pub(super) fn version(&self) -> u64 {
        self.0.header.header.version
    }

    pub(super) fn hash(&self) -> u128 {
        hash::whole(self.0.header.header.hash)
    }

    /// Bytes of the allocation. The head is followed by the slice's length and preceded by the reference count.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Head>() + 2 * size_of::<usize>() + self.value().len() + ALLOCATION_BYTES
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
        Self {
            create_revision: stored.create_revision(),
            mod_revision: stored.mod_revision(),
            version: stored.version(),
            value: Bytes::from_owner(stored),
        }
    }
}
