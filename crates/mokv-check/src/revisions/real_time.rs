//! Real time: what was answered before a call began lies before it.
//!
//! The *floor* of a call is the highest revision that anybody had been answered when it began, by a view, a write or a
//! watch. Three rules say all there is about time: a linearizable view shows its floor or later, one that may be so old
//! the floor of that time or later, and a write takes a revision above its floor, also one whose fate is not known.
//!
//! The last rule also bounds views from above. A view of revision R that returned before the write of some r <= R was
//! called for is part of that write's floor, which is then R >= r. So once each revision has its call, no view can be
//! from the future, and no watch ahead of what had happened.

use super::ledger::Ledger;
use super::violation::Violation;
use crate::calls::{Call, Calls};
use crate::op::{Consistency, Read};

/// The highest revision that was answered before a call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Floor {
    pub(super) revision: u64,
    /// To whom: the id of a call. Of no meaning at revision 0.
    pub(super) by: u64,
}

/// All floors.
pub(super) struct Floors {
    /// When each of them began: after that time, in ascending order.
    steps: Vec<(u64, Floor)>,
    /// Of each call, in the order of [`Calls::list`].
    pub(super) of_calls: Vec<Floor>,
}

impl Floors {
    pub(super) fn of(calls: &Calls<'_>) -> Self {
        let answers = calls.list.iter().filter_map(|call| {
            let (revision, at) = (call.answered()?.revision?, call.returned?);
            Some((at, Floor { revision, by: call.id }))
        });
        let told = calls.watches.iter().flat_map(|watching| {
            let floor = |revision| Floor { revision, by: watching.id };
            watching.seen.iter().map(move |(at, seen)| (*at, floor(seen.revision)))
        });
        let mut moments: Vec<(u64, Floor)> = answers.chain(told).collect();
        moments.sort_by_key(|(at, floor)| (*at, floor.revision));
        let mut floors = Self { steps: Vec::new(), of_calls: Vec::new() };
        for (at, floor) in moments {
            if floors.steps.last().map_or(0, |(_, last)| last.revision) < floor.revision {
                floors.steps.push((at, floor));
            }
        }
        floors.of_calls = calls.list.iter().map(|call| floors.at(call.at)).collect();
        floors
    }

    /// What had been answered before this time. A call and a return of the same microsecond may have been in either order,
    /// so that the call does not have to know of the return.
    pub(super) fn at(&self, time: u64) -> Floor {
        let before = self.steps.partition_point(|(at, _)| *at < time);
        before.checked_sub(1).map_or_else(Floor::default, |last| self.steps[last].1)
    }
}

/// Judges all views, and all writes whose revision is known.
pub(super) fn check(calls: &Calls<'_>, floors: &Floors, ledger: &Ledger<'_>) -> Result<(), Violation> {
    for (place, (call, floor)) in calls.list.iter().zip(&floors.of_calls).enumerate() {
        if let Some(revision) = ledger.revision_of(place) {
            check_write(call, revision, *floor)?;
        } else if let Some(revision) = call.answered().and_then(|answered| answered.revision) {
            check_view(calls, floors, call, revision, *floor)?;
        }
    }
    for watching in calls.watches.iter().filter(|watching| !watching.watch.local && watching.watch.start_revision == 0)
    {
        let floor = floors.at(watching.at);
        if let Some((_, seen)) = watching.seen.first().filter(|(_, seen)| seen.revision < floor.revision) {
            return Err(stale(watching.id, seen.revision, floor));
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

/// What changed nothing is a view; what might have changed something and did not is a linearizable one.
fn check_view(
    calls: &Calls<'_>,
    floors: &Floors,
    call: &Call<'_>,
    revision: u64,
    floor: Floor,
) -> Result<(), Violation> {
    let Read { consistency, min_revision, max_staleness_ms, at_revision } = call.op.read().unwrap_or_default();
    if at_revision > 0 {
        return match revision == at_revision {
            true => Ok(()),
            false => Err(Violation::OtherRevision { call: call.id, revision, asked: at_revision }),
        };
    }
    if revision < min_revision {
        return Err(Violation::BelowMinimum { call: call.id, revision, min_revision });
    }
    let floor = match consistency {
        Consistency::Linearizable | Consistency::Lease => floor,
        Consistency::Local if max_staleness_ms == 0 => return Ok(()),
        Consistency::Local => floors.at(call.at.saturating_sub(calls.clocks.most(max_staleness_ms))),
    };
    if revision < floor.revision {
        return Err(stale(call.id, revision, floor));
    }
    Ok(())
}

fn stale(call: u64, revision: u64, floor: Floor) -> Violation {
    Violation::Stale { call, revision, floor: floor.revision, by: floor.by }
}
