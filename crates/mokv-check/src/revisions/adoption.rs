//! Finds calls for the revisions of which nobody tells whose they are.
//!
//! Such a write is one of a *loose* call, whose fate is unknown. It suffices that there is *some* way to give each
//! revision a loose call of its own: what nobody saw can't contradict anything else.

use std::collections::{BTreeMap, BTreeSet};

use super::effect::effect;
use super::ledger::{Ledger, Write};
use super::lives::Lives;
use super::real_time::Floor;
use super::timeline::Timeline;
use super::violation::{Violation, describe};
use crate::calls::{Call, Calls, Changes, Fate};
use crate::op::{Op, Set};

/// The gaps of a history without commits, lowest first, if loose calls can have filled them.
///
/// A loose call fits each gap above its floor, and no other. So the calls that fit a gap also fit every later one, and by
/// Hall's theorem there is a call for each gap if and only if at least n calls fit the n-th gap, for every n.
pub(super) fn gaps(calls: &Calls<'_>, floors: &[Floor], ledger: &Ledger<'_>) -> Result<Vec<u64>, Violation> {
    let mut loose: Vec<u64> = ledger.loose(calls).into_iter().map(|place| floors[place].revision).collect();
    // Time deletes what a write gave it to delete, once.
    for (call, floor) in calls.list.iter().zip(floors).filter(|(call, _)| !matches!(call.fate, Fate::Failed)) {
        loose.extend(std::iter::repeat_n(floor.revision, call.mortal_writes()));
    }
    loose.sort_unstable();
    let mut gaps = Vec::new();
    for gap in ledger.gaps() {
        gaps.push(gap);
        if loose.partition_point(|floor| *floor < gap) < gaps.len() {
            return Err(Violation::Gap { revision: gap, highest: ledger.highest });
        }
    }
    Ok(gaps)
}

/// Gives each commit that doesn't tell whose it is a loose call that may have written just that. Such commits delete, add
/// to numbers, or keep a value.
///
/// A delete call fits every commit that deletes just its key, above its floor. Taking the commits upwards, whichever free
/// call is taken leaves one that is as good: all that fit this commit fit every later one of the key. So the first free
/// call is never a wrong choice. A transaction fits where its branch deletes just these keys, which depends on the
/// state; if there are some, a call that was taken may have to be exchanged for another (an augmenting path), which
/// finds a way if there is one.
pub(super) fn adopt<'a>(
    calls: &Calls<'a>,
    floors: &[Floor],
    ledger: &mut Ledger<'a>,
    timeline: &Timeline<'a>,
) -> Result<(), Violation> {
    let lives = Lives::of(calls, ledger, timeline);
    let is_orphan = |write: &&Write<'_>| write.call.is_none() && !write.by_time;
    let writes = ledger.writes.iter().filter(|(_, write)| is_orphan(write));
    let orphans: Vec<(u64, &Changes<'_>)> = writes.map(|(revision, write)| (*revision, &write.changes)).collect();
    let loose = ledger.loose(calls);
    let fitting = |(revision, changes): &(u64, &Changes<'_>)| -> Vec<usize> {
        let fits = |place: &&usize| {
            let call = &calls.list[**place];
            let touches = || changes.keys().next().is_some_and(|key| call.may_touch(key));
            floors[**place].revision < *revision
                && touches()
                && may_be(call, calls, timeline, &lives, *revision, changes)
        };
        loose.iter().filter(fits).copied().collect()
    };
    let mut matching = Matching { fitting: orphans.iter().map(fitting).collect(), taken: BTreeMap::new() };
    for (orphan, (revision, changes)) in orphans.iter().enumerate() {
        if !matching.place(orphan, &mut BTreeSet::new()) {
            return Err(Violation::Nobody { revision: *revision, changes: describe(changes) });
        }
    }
    let found: Vec<(u64, usize)> = matching.taken.iter().map(|(call, orphan)| (orphans[*orphan].0, *call)).collect();
    for (revision, place) in found {
        ledger.settle(revision, place);
    }
    Ok(())
}

/// Whether a write may be this call's.
fn may_be<'a>(
    call: &Call<'a>,
    calls: &Calls<'a>,
    timeline: &Timeline<'a>,
    lives: &Lives<'a>,
    revision: u64,
    found: &Changes<'_>,
) -> bool {
    match (effect(call, timeline, Some(lives), revision), call.op) {
        (Some(effect), _) => effect == *found,
        // With commits, all that is not known is the lease of a key whose last write was given to some call.
        (None, Op::RevokeLease { lease }) => {
            found.iter().all(|(key, value)| value.is_none() && may_have(calls, key, *lease))
        }
        (None, _) => timeline.complete,
    }
}

/// Whether some call sets this key with this lease.
fn may_have(calls: &Calls<'_>, key: &str, lease: u64) -> bool {
    let is_it = |set: &Set| set.key == key && set.lease == lease;
    calls.list.iter().any(|call| call.sets().into_iter().any(is_it))
}

/// A bipartite matching, built one orphan after another.
struct Matching {
    /// The calls that fit each orphan.
    fitting: Vec<Vec<usize>>,
    /// The orphan that each call was given to.
    taken: BTreeMap<usize, usize>,
}

impl Matching {
    /// Finds a call for an orphan, a free one or one whose orphan can do with another.
    fn place(&mut self, orphan: usize, tried: &mut BTreeSet<usize>) -> bool {
        let free = self.fitting[orphan].iter().find(|call| !self.taken.contains_key(call));
        if let Some(&call) = free {
            self.taken.insert(call, orphan);
            return true;
        }
        for at in 0..self.fitting[orphan].len() {
            let call = self.fitting[orphan][at];
            if tried.insert(call) && self.place(self.taken[&call], tried) {
                self.taken.insert(call, orphan);
                return true;
            }
        }
        false
    }
}
