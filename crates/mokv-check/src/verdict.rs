//! Both checkers together.

use crate::history::History;
use crate::revisions::{RevisionReport, Violation, check_revisions};
use crate::values::{Limits, ValueReport, ValueViolation, check_values};

/// What both checkers say of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Checker A: by revisions.
    pub revisions: Result<RevisionReport, Violation>,
    /// Checker B: by values.
    pub values: Result<ValueReport, ValueViolation>,
}

/// A verdict in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// No violation.
    Legal,
    /// A violation.
    Illegal,
    /// No violation by revisions, but for some keys the search for an order of their values met its limit.
    GaveUp,
    /// The recording contradicts itself, so there is nothing to judge.
    Malformed,
}

impl Verdict {
    /// The verdict in a word.
    pub fn ruling(&self) -> Ruling {
        match (&self.revisions, &self.values) {
            (Err(Violation::Malformed(_)), _) | (_, Err(ValueViolation::Malformed(_))) => Ruling::Malformed,
            (Err(_), _) | (_, Err(_)) => Ruling::Illegal,
            (Ok(_), Ok(values)) if !values.gave_up.is_empty() => Ruling::GaveUp,
            (Ok(_), Ok(_)) => Ruling::Legal,
        }
    }
}

/// Judges a history by both checkers.
pub fn check(history: &History, limits: Limits) -> Verdict {
    Verdict { revisions: check_revisions(history), values: check_values(history, limits) }
}
