//! Histories of a mökv store, and the checkers that judge them.
//!
//! A [`History`] is what clients saw, and optionally what nodes applied. It knows nothing of the server, so that what
//! judges the server shares no mistake with it.

mod history;

pub use history::{
    Answer, Change, Compare, Consistency, Event, History, Op, Outcome, Pair, Read, ReadError, TxnOp, TxnResult,
};
