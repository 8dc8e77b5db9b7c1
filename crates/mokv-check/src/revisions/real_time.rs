//! Real time: what was answered before a call began lies before it.
//!
//! The *floor* of a call is the highest revision that anybody had been answered when it began, by a view or a write.
//! Two rules say all there is about time: a linearizable view shows its floor or later, and a write takes a revision
//! above its floor, also one whose fate is not known.
//!
//! The second rule also bounds views from above. A view of revision R that returned before the write of some r <= R was
//! called for is part of that write's floor, which is then R >= r. So once each revision has its call, no view can be
//! from the future.

use super::ledger::Ledger;
use super::violation::Violation;
use crate::calls::{Call, Calls};
use crate::history::{Consistency, Op, Read};

/// The highest revision that was answered before a call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Floor {
    pub(super) revision: u64,
    /// To whom: the id of a call. Of no meaning at revision 0.
    by: u64,
}

/// The floor of each call, in the order of [`Calls::list`].
pub(super) fn floors(calls: &Calls<'_>) -> Vec<Floor> {
    // A call and a return of the same microsecond may have been in either order: `false` sorts first, so that the call
    // does not have to know of the return.
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * calls.list.len());
    for (place, call) in calls.list.iter().enumerate() {
        moments.push((call.at, false, place));
        moments.extend(call.answered().and(call.returned).map(|at| (at, true, place)));
    }
    moments.sort_unstable();
    let mut floors = vec![Floor::default(); calls.list.len()];
    let mut now = Floor::default();
    for (_, returned, place) in moments {
        let call = &calls.list[place];
        match call.answered() {
            Some(answered) if returned => {
                if answered.revision > now.revision {
                    now = Floor { revision: answered.revision, by: call.id };
                }
            }
            _ => floors[place] = now,
        }
    }
    floors
}

/// Judges all views, and all writes whose revision is known.
pub(super) fn check(calls: &Calls<'_>, floors: &[Floor], ledger: &Ledger<'_>) -> Result<(), Violation> {
    for (place, (call, floor)) in calls.list.iter().zip(floors).enumerate() {
        if let Some(revision) = ledger.revision_of(place) {
            check_write(call, revision, *floor)?;
        } else if let Some(answered) = call.answered() {
            check_view(call, answered.revision, *floor)?;
        }
    }
    Ok(())
}

fn check_write(call: &Call<'_>, revision: u64, floor: Floor) -> Result<(), Violation> {
    if revision == 0 {
        return Err(Violation::RevisionZero { call: Some(call.id) });
    }
    if revision <= floor.revision {
        return Err(Violation::BeforeItsCall { call: call.id, revision, floor: floor.revision, by: floor.by });
    }
    Ok(())
}

/// What changed nothing is a view; a delete or a transaction that did is a linearizable one.
fn check_view(call: &Call<'_>, revision: u64, floor: Floor) -> Result<(), Violation> {
    let read = match call.op {
        Op::Get { read, .. } | Op::List { read, .. } => *read,
        Op::Set { .. } | Op::Delete { .. } | Op::Txn { .. } => Read::linearizable(),
    };
    if revision < read.min_revision {
        return Err(Violation::BelowMinimum { call: call.id, revision, min_revision: read.min_revision });
    }
    if read.consistency == Consistency::Linearizable && revision < floor.revision {
        return Err(Violation::Stale { call: call.id, revision, floor: floor.revision, by: floor.by });
    }
    Ok(())
}
