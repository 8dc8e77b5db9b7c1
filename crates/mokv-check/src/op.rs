//! What clients ask of the store.

use serde::{Deserialize, Serialize};

/// What a client asks of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Sets a key.
    Set(Set),
    /// Deletes a key. Deleting a missing key succeeds and takes no revision.
    Delete(Delete),
    /// Deletes every key of a range, at one revision. Deleting nothing takes none.
    DeleteRange {
        /// The keys.
        range: Range,
    },
    /// Adds to the number that a key has, as decimal text; none counts as 0.
    Increment {
        /// The key.
        key: String,
        /// What is added.
        delta: i64,
        /// If the key comes to be: it lives so long. 0: it stays.
        #[serde(default, skip_serializing_if = "is_zero")]
        ttl_ms: u64,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
        /// How fresh the answer has to be.
        read: Read,
    },
    /// Reads pairs, in the order of the keys' bytes.
    List(List),
    /// Counts the keys of a range.
    Count {
        /// The keys.
        range: Range,
        /// How fresh the answer has to be.
        read: Read,
    },
    /// Compares, then does one of two lists of operations, all at one revision.
    Txn(Txn),
    /// Makes a lease. It takes no revision, nor do the other calls on leases, but for a revocation that deletes keys.
    GrantLease {
        /// How long it lives when it is not kept alive.
        ttl_ms: u64,
        /// Its id; 0: the store chooses.
        lease: u64,
    },
    /// Ends a lease and deletes its keys.
    RevokeLease {
        /// Its id.
        lease: u64,
    },
    /// Renews a lease.
    KeepAlive {
        /// Its id.
        lease: u64,
    },
    /// Asks for a lease.
    GetLease {
        /// Its id.
        lease: u64,
    },
}

/// Sets a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// The key.
    pub key: String,
    /// A token that is written only here, in the whole history. Of no meaning with `keep_value`.
    pub value: String,
    /// The key lives so long, unless it is written again; 0: it stays.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ttl_ms: u64,
    /// The key ends with this lease; 0: with none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lease: u64,
    /// What has to be so, or nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// The ttl or the lease that the key has stays. Otherwise a set without them takes them away.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep_ttl: bool,
    /// The value that the key has stays; if it has none, nothing is written.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep_value: bool,
    /// The answer shows what the key had.
    #[serde(default, skip_serializing_if = "is_false")]
    pub previous: bool,
}

/// Deletes a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// The key.
    pub key: String,
    /// What has to be so, or nothing is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// The answer shows what the key had.
    #[serde(default, skip_serializing_if = "is_false")]
    pub previous: bool,
}

/// What has to be so for a write to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The key has no value.
    Absent,
    /// The key has a value.
    Present,
    /// The key's last write has this revision.
    ModRevision(u64),
}

/// Keys: those that satisfy all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// They begin with this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// They are this or come after it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub start: String,
    /// They come before this; empty: there is no bound.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub end: String,
}

/// Reads pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// The keys.
    pub range: Range,
    /// At most so many; 0: all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub limit: u64,
    /// From the last key to the first.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reverse: bool,
    /// The pairs come without values.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keys_only: bool,
    /// How fresh the answer has to be. Of no meaning in a transaction.
    pub read: Read,
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// Whether it reflects what was acknowledged before it began.
    pub consistency: Consistency,
    /// It reflects at least this revision.
    pub min_revision: u64,
    /// A local read reflects what was acknowledged so long before it began; 0: it need not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_staleness_ms: u64,
    /// It shows this revision; 0: any that is fresh enough.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub at_revision: u64,
}

/// Whether a read reflects what was acknowledged before it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// It does.
    #[default]
    Linearizable,
    /// It does, if clocks run alike.
    Lease,
    /// It reflects a state that the store had once.
    Local,
}

/// Compares, then does one of two lists of operations. They take effect one after another, each sees those before it. No
/// list writes a key twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Txn {
    /// All of them have to hold for `then`.
    pub compare: Vec<Compare>,
    /// What is done if they hold.
    pub then: Vec<TxnOp>,
    /// What is done if one does not.
    pub otherwise: Vec<TxnOp>,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum TxnOp {
    /// Sets a key, without a condition.
    Set(Set),
    /// Deletes a key, without a condition.
    Delete(Delete),
    /// Deletes every key of a range.
    DeleteRange {
        /// The keys.
        range: Range,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: String,
    },
    /// Reads pairs.
    List(List),
    /// A transaction within.
    Txn(Txn),
}

/// A comparison: of one key, or of each key of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// The key, or the first one.
    pub key: String,
    /// Every key before this; empty: there is no bound. `None`: one key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<String>,
    /// How what the key has stands to the target.
    pub is: Comparison,
    /// What is compared, and with what.
    pub target: Target,
}

/// How one thing stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they say it")]
pub enum Comparison {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What is compared, and with what. An absent key has versions and lease 0, and no comparison of its value holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The number of writes since the key came to be.
    Version(u64),
    /// The revision at which the key came to be.
    CreateRevision(u64),
    /// The revision of the last write.
    ModRevision(u64),
    /// The value.
    Value(String),
    /// The lease that the key ends with.
    Lease(u64),
}

impl Op {
    /// Sets a key, and nothing else.
    pub fn set(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Set(Set { key: key.into(), value: value.into(), ..Set::default() })
    }

    /// Deletes a key, and nothing else.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete(Delete { key: key.into(), ..Delete::default() })
    }

    /// Reads every pair whose key begins with the prefix.
    pub fn list(prefix: impl Into<String>, read: Read) -> Self {
        Self::List(List { range: Range::prefix(prefix), read, ..List::default() })
    }

    /// How fresh a read has to be; `None`: it is none.
    pub fn read(&self) -> Option<Read> {
        match self {
            Self::Get { read, .. } | Self::Count { read, .. } | Self::List(List { read, .. }) => Some(*read),
            _ => None,
        }
    }
}

impl Range {
    /// Every key that begins with this.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// Whether it has this key.
    pub fn contains(&self, key: &str) -> bool {
        key.starts_with(&self.prefix) && *key >= *self.start && (self.end.is_empty() || *key < *self.end)
    }

    /// No key before this is in it.
    pub(crate) fn first(&self) -> &str {
        self.prefix.as_str().max(&self.start)
    }
}

impl Compare {
    /// The keys that are compared.
    pub(crate) fn has(&self, key: &str) -> bool {
        match &self.range_end {
            None => *key == *self.key,
            Some(end) => *key >= *self.key && (end.is_empty() || *key < **end),
        }
    }
}

impl Comparison {
    /// Whether it holds between what there is and what it is compared with.
    pub fn holds<T: Ord + ?Sized>(self, found: &T, target: &T) -> bool {
        match self {
            Self::Equal => found == target,
            Self::Greater => found > target,
            Self::Less => found < target,
            Self::NotEqual => found != target,
        }
    }
}

impl Read {
    /// Reflects what was acknowledged before it began.
    pub fn linearizable() -> Self {
        Self::default()
    }

    /// Reflects a state that the store had once, at this revision or later.
    pub fn local(min_revision: u64) -> Self {
        Self { consistency: Consistency::Local, min_revision, ..Self::default() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
pub(crate) fn is_false(flag: &bool) -> bool {
    !flag
}
