//! Histories of a mökv store, and the checkers that judge them.
//!
//! A [`History`] is what clients saw, and optionally what nodes applied. It knows nothing of the server, so that what
//! judges the server shares no mistake with it.

mod calls;
mod history;
mod revisions;
mod values;
mod verdict;

pub use calls::Malformed;
pub use history::{
    Answer, Change, Compare, Consistency, Event, History, Op, Outcome, Pair, Read, ReadError, TxnOp, TxnResult,
};
pub use revisions::{Fact, RevisionReport, Violation, check_revisions};
pub use values::{Limits, ValueReport, ValueViolation, check_values};
pub use verdict::{Ruling, Verdict, check};
