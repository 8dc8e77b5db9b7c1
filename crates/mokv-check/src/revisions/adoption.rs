//! Finds calls for the revisions of which nobody tells whose they are.
//!
//! Such a write is one of a *loose* call, whose fate is unknown. It suffices that there is *some* way to give each
//! revision a loose call of its own: what nobody saw can't contradict anything else.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::effect;
use super::ledger::Ledger;
use super::real_time::Floor;
use super::timeline::Timeline;
use super::violation::{Violation, describe};
use crate::calls::{Calls, Changes};
use crate::history::Op;

/// The gaps of a history without commits, lowest first, if loose calls can have filled them.
///
/// A loose call fits each gap above its floor, and no other. So the calls that fit a gap also fit every later one, and by
/// Hall's theorem there is a call for each gap if and only if at least n calls fit the n-th gap, for every n.
pub(super) fn gaps(calls: &Calls<'_>, floors: &[Floor], ledger: &Ledger<'_>) -> Result<Vec<u64>, Violation> {
    let writes = |place: &usize| !matches!(calls.list[*place].op, Op::Get { .. } | Op::List { .. });
    let mut loose: Vec<u64> =
        ledger.loose(calls).into_iter().filter(writes).map(|place| floors[place].revision).collect();
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

/// Gives each commit that doesn't tell whose it is a loose call that may have written just that. Such commits only
/// delete.
///
/// A delete call fits every commit that deletes just its key, above its floor. Taking the commits upwards, whichever free
/// call is taken leaves one that is as good: all that fit this commit fit every later one of the key. So the first free
/// call is never a wrong choice. A transaction fits where its branch deletes just these keys, which depends on the
/// state; if there are some, a call that was taken may have to be exchanged for another (an augmenting path), which
/// finds a way if there is one.
pub(super) fn adopt(
    calls: &Calls<'_>,
    floors: &[Floor],
    ledger: &mut Ledger<'_>,
    timeline: &Timeline<'_>,
) -> Result<(), Violation> {
    let orphans: Vec<(u64, &Changes<'_>)> =
        ledger.writes.iter().filter(|(_, write)| write.call.is_none()).map(|(r, write)| (*r, &write.changes)).collect();
    let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for place in ledger.loose(calls) {
        for key in calls.list[place].may_change().1 {
            by_key.entry(key).or_default().push(place);
        }
    }
    let fitting = |(revision, changes): &(u64, &Changes<'_>)| -> Vec<usize> {
        let fits = |place: &&usize| {
            let in_time = floors[**place].revision < *revision;
            in_time && effect(&calls.list[**place], timeline, *revision).is_some_and(|effect| effect == **changes)
        };
        let candidates = changes.keys().next().and_then(|key| by_key.get(key));
        candidates.into_iter().flatten().filter(fits).copied().collect()
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
