//! What the store answers.

use serde::{Deserialize, Serialize};

use crate::op::is_zero;

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It was answered.
    Ok {
        /// By this.
        answer: Answer,
    },
    /// It had no effect and never will.
    Failed {
        /// Why, for people.
        reason: String,
    },
    /// It may have had an effect, or may have one later.
    Unknown {
        /// Why, for people.
        reason: String,
    },
}

/// What a successful call was answered. Its kind is that of the [`Op`](crate::Op).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To a set that wrote.
    Set {
        /// The revision of this write.
        revision: u64,
        /// The revision at which the key came to be, since it was last absent.
        create_revision: u64,
        /// How many times the key was written since then.
        version: u64,
        /// What the key had, if that was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Pair>,
    },
    /// To a delete that was done, whether it found something or not.
    Delete {
        /// Whether the key had a value.
        existed: bool,
        /// The revision of this write; where nothing was deleted, of the view that showed it.
        revision: u64,
        /// What the key had, if that was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Pair>,
    },
    /// To a set or a delete whose condition did not hold, and to a set that was to keep the value of an absent key.
    Unmet {
        /// The revision of the view that showed it.
        revision: u64,
        /// Of the key; 0: it is absent.
        mod_revision: u64,
    },
    /// To a delete of a range.
    DeleteRange {
        /// How many keys were deleted.
        deleted: u64,
        /// The revision of this write; where nothing was deleted, of the view that showed it.
        revision: u64,
    },
    /// To an increment.
    Increment {
        /// The sum.
        value: i64,
        /// The revision of this write.
        revision: u64,
        /// The revision at which the key came to be, since it was last absent.
        create_revision: u64,
        /// How many times the key was written since then.
        version: u64,
    },
    /// To a get.
    Get {
        /// The revision of the view.
        revision: u64,
        /// `None`: the key is absent.
        pair: Option<Pair>,
    },
    /// To a list.
    List {
        /// The revision of the view.
        revision: u64,
        /// In the order that was asked for.
        pairs: Vec<Pair>,
    },
    /// To a count.
    Count {
        /// The revision of the view.
        revision: u64,
        /// How many keys there are.
        count: u64,
    },
    /// To a transaction.
    Txn {
        /// The revision of this write; where nothing was changed, of the view.
        revision: u64,
        /// What was done.
        done: TxnDone,
    },
    /// To the grant of a lease.
    GrantLease {
        /// The lease.
        lease: u64,
        /// The revision of the view in which it came to be.
        revision: u64,
    },
    /// To the revocation of a lease that there was.
    RevokeLease {
        /// The revision of this write; where no key was deleted, of the view.
        revision: u64,
        /// How many keys were deleted.
        deleted: u64,
    },
    /// To a keep-alive of a lease that there is.
    KeepAlive {
        /// It lives so long from now on.
        ttl_ms: u64,
    },
    /// To a question for a lease that there is.
    GetLease {
        /// As granted.
        ttl_ms: u64,
        /// How long it has still to live.
        remaining_ms: u64,
        /// The keys that end with it.
        keys: Vec<String>,
    },
    /// The lease that the call names does not exist; it changed nothing.
    NoLease,
}

/// What was done in a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TxnDone {
    /// Whether all compares held.
    pub succeeded: bool,
    /// One for each operation of the list that was done.
    pub results: Vec<TxnResult>,
}

/// A key as a read shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The key.
    pub key: String,
    /// Its value; empty if it was left out.
    pub value: String,
    /// The revision at which the key came to be, since it was last absent.
    pub create_revision: u64,
    /// The revision of the last write.
    pub mod_revision: u64,
    /// How many times the key was written since it came to be; 1 after the first.
    pub version: u64,
    /// The lease that the key ends with; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lease: u64,
}

/// What came of one operation of a transaction. Its kind is that of the [`TxnOp`](crate::TxnOp).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case", deny_unknown_fields)]
pub enum TxnResult {
    /// Of a set.
    Set {
        /// The revision at which the key came to be, since it was last absent.
        create_revision: u64,
        /// How many times the key was written since then.
        version: u64,
        /// What the key had, if that was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Pair>,
    },
    /// Of a delete.
    Delete {
        /// Whether the key had a value.
        existed: bool,
        /// What the key had, if that was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Pair>,
    },
    /// Of a delete of a range.
    DeleteRange {
        /// How many keys were deleted.
        deleted: u64,
    },
    /// Of a get.
    Get {
        /// `None`: the key is absent.
        pair: Option<Pair>,
    },
    /// Of a list.
    List {
        /// In the order that was asked for.
        pairs: Vec<Pair>,
        /// There are more.
        more: bool,
    },
    /// Of a transaction within.
    Txn(TxnDone),
}

impl Answer {
    /// The revision of the write or of the view; `None`: it says none.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Set { revision, .. }
            | Self::Delete { revision, .. }
            | Self::Unmet { revision, .. }
            | Self::DeleteRange { revision, .. }
            | Self::Increment { revision, .. }
            | Self::Get { revision, .. }
            | Self::List { revision, .. }
            | Self::Count { revision, .. }
            | Self::Txn { revision, .. }
            | Self::GrantLease { revision, .. }
            | Self::RevokeLease { revision, .. } => Some(*revision),
            Self::KeepAlive { .. } | Self::GetLease { .. } | Self::NoLease => None,
        }
    }
}
