//! What writes answer, as JSON has it.

use mokv_client::{Deleted, DeletedRange, Incremented, Written};
use serde::Serialize;

use crate::pair::Found;

/// Of a set.
#[derive(Debug, Serialize)]
pub(crate) struct SetAnswer {
    ok: bool,
    revision: u64,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Found>,
}

impl From<Written> for SetAnswer {
    fn from(written: Written) -> Self {
        Self {
            ok: written.ok,
            revision: written.revision,
            create_revision: written.create_revision,
            mod_revision: written.mod_revision,
            version: written.version,
            previous: written.previous.map(Found::from),
        }
    }
}

/// Of the delete of a key.
#[derive(Debug, Serialize)]
pub(crate) struct DeleteAnswer {
    ok: bool,
    existed: bool,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Found>,
}

impl From<Deleted> for DeleteAnswer {
    fn from(deleted: Deleted) -> Self {
        let previous = deleted.previous.map(Found::from);
        Self { ok: deleted.ok, existed: deleted.existed, revision: deleted.revision, previous }
    }
}

/// Of the delete of a range.
#[derive(Debug, Serialize)]
pub(crate) struct DeleteRangeAnswer {
    deleted: u64,
    revision: u64,
}

impl From<DeletedRange> for DeleteRangeAnswer {
    fn from(deleted: DeletedRange) -> Self {
        Self { deleted: deleted.deleted, revision: deleted.revision }
    }
}

/// Of an increment.
#[derive(Debug, Serialize)]
pub(crate) struct IncrementAnswer {
    value: i64,
    revision: u64,
    create_revision: u64,
    version: u64,
}

impl From<Incremented> for IncrementAnswer {
    fn from(incremented: Incremented) -> Self {
        Self {
            value: incremented.value,
            revision: incremented.revision,
            create_revision: incremented.create_revision,
            version: incremented.version,
        }
    }
}

/// `deleted 3 keys`
pub(crate) fn deleted_keys(count: u64) -> String {
    if count == 1 { "deleted 1 key".to_owned() } else { format!("deleted {count} keys") }
}
