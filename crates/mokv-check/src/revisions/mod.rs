//! Checker A: judges by revisions, without a search.
//!
//! Every write has a revision of its own, and every view names the revision that it shows. So there is only one order to
//! consider, and three questions: is it an order ([`ledger`], [`adoption`]), does it agree with real time
//! ([`real_time`]), and does it explain every answer ([`timeline`], [`effect`], [`judge`])? A history that passes is
//! strictly serializable in just that order; lost updates, write skew and every other anomaly are excluded at once. It
//! takes O(n log n), and what is asked of a range as many steps as there are keys in it.
//!
//! Two more follow: did nothing end before its time ([`lives`]), and did watchers see all of it, in order ([`watches`])?
//!
//! # With and without commits
//!
//! With [commits](crate::Event::Commit) everything is decided. Without, revisions of which no answer tells are gaps, each
//! of them some write whose fate is unknown, and the verdict is weaker, never wrong: no legal history is refused, and what
//! is let pass is only what unknown writes, each at one gap after its call, can explain *key by key*:
//!
//! - an unknown write that nobody saw may be taken for the reason why a key was absent, why a delete found something, why
//!   a version was skipped, or why a compare failed, several times over;
//! - an effect that comes twice is seen only where a view showed both or the revisions run out;
//! - acknowledged writes that nobody read any more may be lost, as long as nobody takes their revision;
//! - keys that anything but sets and deletes of themselves may write, or that time may delete, are not judged, nor are leases
//!   and watches, beyond their order.

mod adoption;
mod effect;
mod judge;
mod ledger;
mod lives;
mod real_time;
mod timeline;
mod violation;
mod watches;

pub use violation::{Fact, Violation};

use crate::calls::Calls;
use crate::history::History;
use ledger::Ledger;
use lives::Lives;
use real_time::Floors;
use timeline::Timeline;

/// What checker A looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevisionReport {
    /// All calls.
    pub calls: usize,
    /// Those that were answered.
    pub answered: usize,
    /// Those of which nobody knows the fate, and which may write.
    pub unknown: usize,
    /// Those of them that did write.
    pub unknown_applied: usize,
    /// The highest revision.
    pub revisions: u64,
    /// The revisions of which nothing is known.
    pub gaps: usize,
    /// Whether there were commits.
    pub commits: bool,
}

/// Judges a history by its revisions.
///
/// # Errors
///
/// The first [`Violation`] that was found. Without one the history is legal.
pub fn check_revisions(history: &History) -> Result<RevisionReport, Violation> {
    let calls = Calls::of(history)?;
    let floors = Floors::of(&calls);
    let mut ledger = Ledger::of(history, &calls)?;
    real_time::check(&calls, &floors, &ledger)?;
    let floors = &floors.of_calls;
    let gaps = if ledger.complete { Vec::new() } else { adoption::gaps(&calls, floors, &ledger)? };
    let mut report = RevisionReport {
        calls: calls.list.len(),
        answered: calls.list.iter().filter(|call| call.answered().is_some()).count(),
        unknown: 0,
        unknown_applied: 0,
        revisions: ledger.highest,
        gaps: gaps.len(),
        commits: ledger.complete,
    };
    let timeline = Timeline::of(&calls, floors, &ledger, gaps)?;
    adoption::adopt(&calls, floors, &mut ledger, &timeline)?;
    let lives = ledger.complete.then(|| Lives::of(&calls, &ledger, &timeline));
    judge::check(&calls, &ledger, &timeline, lives.as_ref())?;
    if let Some(lives) = &lives {
        lives::check(history, &calls, &timeline, lives)?;
    }
    watches::check(&calls, &ledger, &timeline, lives.as_ref())?;
    for (place, call) in calls.list.iter().enumerate() {
        if call.is_unknown() && call.may_write() {
            report.unknown += 1;
            report.unknown_applied += usize::from(ledger.revision_of(place).is_some());
        }
    }
    Ok(report)
}
