//! What can be wrong with a history, as the revisions tell it.

use std::borrow::Cow;
use std::fmt;

use crate::calls::{Changes, Malformed};

/// Why a history can't be that of a store that keeps its promises. Calls are named by their ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The recording contradicts itself: it is not the store's fault.
    #[error("this is no history: {0}")]
    Malformed(#[from] Malformed),
    /// A write at revision 0, which is that of the empty store.
    #[error("a write is said to have taken revision 0, but the first is 1 (call {})", OrNobody(*call))]
    RevisionZero {
        /// Whose write, if anybody knows.
        call: Option<u64>,
    },
    /// Two writes took one revision.
    #[error("revision {revision} was taken twice, by the writes of call {first} and of call {second}")]
    RevisionReused {
        /// The revision.
        revision: u64,
        /// One of the calls.
        first: u64,
        /// The other.
        second: u64,
    },
    /// One write took effect twice, or elsewhere than it was answered.
    #[error("the write of call {call} has two revisions, {first} and {second}")]
    DuplicateEffect {
        /// The call.
        call: u64,
        /// The revision that it was answered with, or that was seen first.
        first: u64,
        /// The other.
        second: u64,
    },
    /// A revision that no write can have taken.
    #[error("no write took revision {revision}, or can have, but there are later ones, up to {highest}")]
    Gap {
        /// The lowest such revision.
        revision: u64,
        /// The highest of the history.
        highest: u64,
    },
    /// Two nodes applied different writes at one revision.
    #[error("at revision {revision} node {first_node} applied [{first}], but node {second_node} [{second}]")]
    NodesDisagree {
        /// The revision.
        revision: u64,
        /// A node.
        first_node: u64,
        /// What it applied, and for whom.
        first: String,
        /// Another, or the same at another time.
        second_node: u64,
        /// What that applied.
        second: String,
    },
    /// A write was acknowledged, but no node applied it.
    #[error("the write of call {call} was acknowledged at revision {revision}, but no node applied it")]
    NotCommitted {
        /// The call.
        call: u64,
        /// The revision in its answer.
        revision: u64,
    },
    /// A write that was said to have failed took effect.
    #[error("call {call} was said to have failed without effect, but its write is there, at revision {revision}")]
    FailedTookEffect {
        /// The call.
        call: u64,
        /// The revision of the write.
        revision: u64,
    },
    /// A call that was answered as having changed nothing changed something.
    #[error("call {call} was answered as having changed nothing, but its write is there, at revision {revision}")]
    ViewTookEffect {
        /// The call.
        call: u64,
        /// The revision of the write.
        revision: u64,
    },
    /// A commit that is no call's.
    #[error("a node applied [{changes}] at revision {revision}, but no call can have written that")]
    Nobody {
        /// The revision.
        revision: u64,
        /// What was applied.
        changes: String,
    },
    /// A write did something else than was asked.
    #[error("the write of call {call} at revision {revision} should have been [{expected}], but was [{found}]")]
    WrongChanges {
        /// The call.
        call: u64,
        /// The revision.
        revision: u64,
        /// What it should have changed.
        expected: String,
        /// What it changed.
        found: String,
    },
    /// A view with a value that nobody wrote to that key.
    #[error("call {call} saw {key:?} = {value:?}, which nobody wrote")]
    Phantom {
        /// The call that saw it.
        call: u64,
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A linearizable view is older than something that was answered before the call.
    #[error(
        "call {call} saw revision {revision}, but revision {floor} had been answered, to call {by}, before it began"
    )]
    Stale {
        /// The call.
        call: u64,
        /// The revision of its view.
        revision: u64,
        /// The highest revision that was answered before the call.
        floor: u64,
        /// To whom.
        by: u64,
    },
    /// A write takes effect before something that was answered before it was called for.
    #[error(
        "the write of call {call} took revision {revision}, but revision {floor} had been answered, to call {by}, before it \
         began"
    )]
    BeforeItsCall {
        /// The call.
        call: u64,
        /// The revision of its write.
        revision: u64,
        /// The highest revision that was answered before the call.
        floor: u64,
        /// To whom.
        by: u64,
    },
    /// A view is older than was asked for.
    #[error("call {call} saw revision {revision}, but asked for {min_revision} or later")]
    BelowMinimum {
        /// The call.
        call: u64,
        /// The revision of its view.
        revision: u64,
        /// What it asked for.
        min_revision: u64,
    },
    /// A view of a revision that no write took.
    #[error("call {call} saw revision {revision}, but the highest that was ever applied is {highest}")]
    Future {
        /// The call.
        call: u64,
        /// The revision of its view.
        revision: u64,
        /// The highest that was applied.
        highest: u64,
    },
    /// A view shows another revision than was asked for.
    #[error("call {call} saw revision {revision}, but asked for {asked}")]
    OtherRevision {
        /// The call.
        call: u64,
        /// The revision of its view.
        revision: u64,
        /// The one it asked for.
        asked: u64,
    },
    /// A key ended before its ttl was over.
    #[error(
        "{key:?} was gone at {at} us, at revision {revision}, but call {call} gave it a ttl that could not be over before \
         {until} us"
    )]
    KeyEndsEarly {
        /// The key.
        key: String,
        /// The revision at which it ended.
        revision: u64,
        /// The call that wrote it.
        call: u64,
        /// When it was known to have ended.
        at: u64,
        /// When it might have ended first.
        until: u64,
    },
    /// What ended by time is not what had to end together.
    #[error("at revision {revision} time should have brought about [{expected}], but did [{found}]")]
    WrongExpiry {
        /// The revision.
        revision: u64,
        /// What had to end, as far as what did end tells.
        expected: String,
        /// What did.
        found: String,
    },
    /// A lease ended before it was over.
    #[error(
        "lease {lease} had ended at {at} us, revision {revision}, but was promised to call {call} until {until} us"
    )]
    LeaseEndsEarly {
        /// The lease.
        lease: u64,
        /// The revision at which it ended.
        revision: u64,
        /// The grant or keep-alive that was answered.
        call: u64,
        /// When it was known to have ended.
        at: u64,
        /// When it might have ended first.
        until: u64,
    },
    /// A lease was said not to exist while it did.
    #[error("call {call} was told that there is no lease {lease}, which was promised to call {by} beyond that")]
    LeaseMissing {
        /// The call.
        call: u64,
        /// The lease.
        lease: u64,
        /// The grant or keep-alive that was answered.
        by: u64,
    },
    /// A lease was said to exist after its end.
    #[error("call {call} was told that lease {lease} lives, which had ended at {ended} us")]
    LeaseLivesOn {
        /// The call.
        call: u64,
        /// The lease.
        lease: u64,
        /// When that was known.
        ended: u64,
    },
    /// A watcher was not told what happened, all of it, in order, each once.
    #[error("at revision {revision} watch {watch} should have been told [{expected}], but was [{found}]")]
    WrongEvents {
        /// The watch.
        watch: u64,
        /// The first revision that is wrong.
        revision: u64,
        /// What happened to its keys.
        expected: String,
        /// What it was told of this revision.
        found: String,
    },
    /// A watcher was told something of a revision that it had seen, or of a later one than the answer speaks of.
    #[error("watch {watch} had seen all up to revision {progress}, and then was told of {revision}")]
    WatchOutOfOrder {
        /// The watch.
        watch: u64,
        /// What it was told of.
        revision: u64,
        /// Up to where it had seen all.
        progress: u64,
    },
    /// An answer is not what the history makes it.
    #[error(
        "the answer to call {call} at revision {revision} is wrong in {fact} of {key:?}: expected {expected}, found {found}"
    )]
    Mismatch {
        /// The call.
        call: u64,
        /// The revision in its answer.
        revision: u64,
        /// The key; for [`Fact::Branch`] that of the first compare, for [`Fact::Order`] the first that is out of order.
        key: String,
        /// What about it.
        fact: Fact,
        /// What follows from the writes up to then.
        expected: String,
        /// What was answered.
        found: String,
    },
}

/// What an answer says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Its value, or that it has none.
    Value,
    /// The revision of its last write.
    ModRevision,
    /// The revision at which it came to be.
    CreateRevision,
    /// The number of writes since then.
    Version,
    /// Whether it existed before it was deleted.
    Existed,
    /// Which list of operations was done.
    Branch,
    /// Its place in a list: keys come in order, each once, of the range, no more than were asked for.
    Order,
    /// The lease that it ends with.
    Lease,
    /// Whether the condition of the write held.
    Condition,
    /// The number of keys of a range; the key is where it begins.
    Count,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "the value",
            Self::ModRevision => "mod_revision",
            Self::CreateRevision => "create_revision",
            Self::Version => "the version",
            Self::Existed => "the existence",
            Self::Branch => "the branch, by the compare",
            Self::Order => "the place",
            Self::Lease => "the lease",
            Self::Condition => "the condition",
            Self::Count => "the number of keys from",
        })
    }
}

impl Violation {
    /// The calls that it speaks of.
    pub fn calls(&self) -> Vec<u64> {
        match self {
            Self::Malformed(_)
            | Self::Gap { .. }
            | Self::NodesDisagree { .. }
            | Self::Nobody { .. }
            | Self::WrongExpiry { .. } => Vec::new(),
            Self::WrongEvents { watch, .. } | Self::WatchOutOfOrder { watch, .. } => vec![*watch],
            Self::LeaseMissing { call, by, .. } => vec![*call, *by],
            Self::RevisionZero { call } => call.iter().copied().collect(),
            Self::RevisionReused { first, second, .. } => vec![*first, *second],
            Self::Stale { call, by, .. } | Self::BeforeItsCall { call, by, .. } => vec![*call, *by],
            Self::DuplicateEffect { call, .. }
            | Self::NotCommitted { call, .. }
            | Self::FailedTookEffect { call, .. }
            | Self::ViewTookEffect { call, .. }
            | Self::WrongChanges { call, .. }
            | Self::Phantom { call, .. }
            | Self::BelowMinimum { call, .. }
            | Self::OtherRevision { call, .. }
            | Self::KeyEndsEarly { call, .. }
            | Self::LeaseEndsEarly { call, .. }
            | Self::LeaseLivesOn { call, .. }
            | Self::Future { call, .. }
            | Self::Mismatch { call, .. } => vec![*call],
        }
    }

    /// The revisions that it speaks of.
    pub fn revisions(&self) -> Vec<u64> {
        match self {
            Self::Malformed(_) | Self::Phantom { .. } | Self::LeaseMissing { .. } | Self::LeaseLivesOn { .. } => {
                Vec::new()
            }
            Self::RevisionZero { .. } => vec![0],
            Self::DuplicateEffect { first, second, .. } => vec![*first, *second],
            Self::Stale { revision, floor, .. } | Self::BeforeItsCall { revision, floor, .. } => {
                vec![*revision, *floor]
            }
            Self::RevisionReused { revision, .. }
            | Self::Gap { revision, .. }
            | Self::NodesDisagree { revision, .. }
            | Self::NotCommitted { revision, .. }
            | Self::FailedTookEffect { revision, .. }
            | Self::ViewTookEffect { revision, .. }
            | Self::Nobody { revision, .. }
            | Self::WrongChanges { revision, .. }
            | Self::BelowMinimum { revision, .. }
            | Self::OtherRevision { revision, .. }
            | Self::KeyEndsEarly { revision, .. }
            | Self::WrongExpiry { revision, .. }
            | Self::LeaseEndsEarly { revision, .. }
            | Self::WrongEvents { revision, .. }
            | Self::WatchOutOfOrder { revision, .. }
            | Self::Future { revision, .. }
            | Self::Mismatch { revision, .. } => vec![*revision],
        }
    }
}

/// Changes, for people.
pub(super) fn describe(changes: &Changes<'_>) -> String {
    if changes.is_empty() {
        return "nothing".to_owned();
    }
    let one = |(key, value): (&&str, &Option<Cow<'_, str>>)| match value {
        Some(value) => format!("{key:?} = {value:?}"),
        None => format!("{key:?} deleted"),
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

struct OrNobody(Option<u64>);

impl fmt::Display for OrNobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(call) => write!(f, "{call}"),
            None => f.write_str("unknown"),
        }
    }
}
