//! What calls answer, in words of the client.

use std::time::Duration;

use bytes::Bytes;
use mokv_proto::api::{
    Consistency, CountResponse, DeleteRangeResponse, DeleteResponse, GetResponse, IncrementResponse, SetResponse,
};

/// A key with its value and all that the store knows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// The value. Empty where only keys were asked for.
    pub value: Bytes,
    /// The revision of the store that this reflects.
    pub revision: u64,
    /// The revision at which the key came to be, since it was last absent.
    pub create_revision: u64,
    /// The revision of the last write to the key.
    pub mod_revision: u64,
    /// How many times the key was written since it came to be; 1 after the first.
    pub version: u64,
    /// The lease that the key ends with.
    pub lease_id: Option<u64>,
    /// About how long the key has still to live, if it was set with a ttl.
    pub ttl: Option<Duration>,
}

impl From<GetResponse> for Pair {
    fn from(found: GetResponse) -> Self {
        Self {
            key: found.key,
            value: found.value,
            revision: found.revision,
            create_revision: found.create_revision,
            mod_revision: found.mod_revision,
            version: found.version,
            lease_id: Some(found.lease_id).filter(|id| *id != 0),
            ttl: Some(found.ttl_ms).filter(|ttl| *ttl != 0).map(Duration::from_millis),
        }
    }
}

/// What a read of a key found, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The key's; `None` if it has no value.
    pub pair: Option<Pair>,
    /// The revision of the store that the answer reflects; 0 if the server does not say.
    pub revision: u64,
    /// How fresh the answer is: as asked for, or better.
    pub served: Consistency,
}

impl From<GetResponse> for Found {
    fn from(found: GetResponse) -> Self {
        let (revision, served) = (found.revision, found.served());
        // Every key has a character at least: an answer without one says that there is no value.
        Self { pair: (!found.key.is_empty()).then(|| found.into()), revision, served }
    }
}

/// What a set has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// False only if the condition did not hold: then nothing was written.
    pub ok: bool,
    /// The revision of this write: the key's mod_revision. Where nothing was written: of the store.
    pub revision: u64,
    /// When the key came to be; 0 if it is absent.
    pub create_revision: u64,
    /// The key's last write, this one or, where nothing was written, that which is there; 0 if it is absent.
    pub mod_revision: u64,
    /// How many times the key was written since it came to be; 0 if it is absent.
    pub version: u64,
    /// What the key had before, if that was asked for and there was a value.
    pub previous: Option<Pair>,
}

impl From<SetResponse> for Written {
    fn from(answer: SetResponse) -> Self {
        Self {
            ok: answer.ok,
            revision: answer.revision,
            create_revision: answer.create_revision,
            mod_revision: answer.mod_revision,
            version: answer.version,
            previous: answer.previous.map(Pair::from),
        }
    }
}

/// What a delete has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// False only if the condition did not hold: then nothing was deleted.
    pub ok: bool,
    /// Whether the key had a value.
    pub existed: bool,
    /// The revision of this write, or of the store where nothing was deleted.
    pub revision: u64,
    /// Where the condition did not hold: the revision of the key's last write, 0 if it is absent.
    pub mod_revision: u64,
    /// What the key had, if that was asked for and there was a value.
    pub previous: Option<Pair>,
}

impl From<DeleteResponse> for Deleted {
    fn from(answer: DeleteResponse) -> Self {
        Self {
            ok: answer.ok,
            existed: answer.existed,
            revision: answer.revision,
            mod_revision: answer.mod_revision,
            previous: answer.previous.map(Pair::from),
        }
    }
}

/// What deleting a range has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedRange {
    /// How many keys were deleted.
    pub deleted: u64,
    /// The revision of this write, or of the store where nothing was deleted.
    pub revision: u64,
}

impl From<DeleteRangeResponse> for DeletedRange {
    fn from(answer: DeleteRangeResponse) -> Self {
        Self { deleted: answer.deleted, revision: answer.revision }
    }
}

/// What an increment has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incremented {
    /// The sum.
    pub value: i64,
    /// The revision of this write.
    pub revision: u64,
    /// When the key came to be.
    pub create_revision: u64,
    /// How many times the key was written since it came to be.
    pub version: u64,
}

impl From<IncrementResponse> for Incremented {
    fn from(answer: IncrementResponse) -> Self {
        Self {
            value: answer.value,
            revision: answer.revision,
            create_revision: answer.create_revision,
            version: answer.version,
        }
    }
}

/// How many keys there are, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// The revision of the store that the answer reflects.
    pub revision: u64,
    /// How fresh the answer is: as asked for, or better.
    pub served: Consistency,
}

impl From<CountResponse> for Counted {
    fn from(answer: CountResponse) -> Self {
        Self { count: answer.count, revision: answer.revision, served: answer.served() }
    }
}
