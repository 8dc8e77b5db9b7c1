//! Histories of a mökv store, and the checkers that judge them.
//!
//! A [`History`] is what clients saw, and optionally what nodes applied. It knows nothing of the server, so that what
//! judges the server shares no mistake with it.

mod answer;
mod calls;
mod history;
mod op;
mod revisions;
mod values;
mod verdict;
mod watch;

pub use answer::{Answer, Outcome, Pair, TxnDone, TxnResult};
pub use calls::Malformed;
pub use history::{Change, Event, History, ReadError};
pub use op::{Compare, Comparison, Condition, Consistency, Delete, List, Op, Range, Read, Set, Target, Txn, TxnOp};
pub use revisions::{Fact, RevisionReport, Violation, check_revisions};
pub use values::{Limits, ValueReport, ValueViolation, check_values};
pub use verdict::{Ruling, Verdict, check};
pub use watch::{Seen, Watch, WatchEvent, Watched};
