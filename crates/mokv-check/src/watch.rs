//! What a watcher asks for, and what it is told.

use serde::{Deserialize, Serialize};

use crate::answer::Pair;
use crate::op::{Range, is_false, is_zero};

/// What a watcher asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Of these keys.
    pub keys: Watched,
    /// From this revision on; 0: from the newest on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_revision: u64,
    /// What may be old when the watch begins, where it begins with the newest revision.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local: bool,
    /// First what there is.
    #[serde(default, skip_serializing_if = "is_false")]
    pub list_first: bool,
    /// Events show what the key had.
    #[serde(default, skip_serializing_if = "is_false")]
    pub previous: bool,
    /// Pairs come without values.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keys_only: bool,
    /// Without the events of puts.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_puts: bool,
    /// Without those of deletions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_deletes: bool,
}

/// The keys of a watch: one, or a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    /// This one.
    Key(String),
    /// These.
    Range(Range),
}

/// One answer to a watcher.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The watcher has seen all up to here; with `more`: up to the revision before.
    pub revision: u64,
    /// What happened, in order.
    pub events: Vec<WatchEvent>,
    /// What there was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
    /// The revision, or the list, goes on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchEvent {
    /// The key.
    pub key: String,
    /// The revision at which it happened.
    pub revision: u64,
    /// What it has now; `None`: it was deleted.
    pub pair: Option<Pair>,
    /// What it had, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Pair>,
}

impl Default for Watched {
    fn default() -> Self {
        Self::Range(Range::default())
    }
}

impl Watched {
    /// Whether this key is one of them.
    pub fn has(&self, key: &str) -> bool {
        match self {
            Self::Key(one) => one == key,
            Self::Range(range) => range.contains(key),
        }
    }
}
