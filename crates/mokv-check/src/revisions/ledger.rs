//! Order: which write took which revision.
//!
//! With commits, they say it: one change set per revision, the same on all nodes, none missing. Without, the answers
//! say it, and what views show of writes whose own answer is not known; revisions of which nobody tells are *gaps*.
//! Each write has at most one revision and each revision at most one write.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::violation::{Violation, describe};
use crate::answer::{Answer, Pair, TxnDone, TxnResult};
use crate::calls::{Calls, Changes, Fate, changes_of};
use crate::history::{Event, History};
use crate::op::{Delete, Op, Set, Txn, TxnOp};

/// One revision.
pub(super) struct Write<'a> {
    /// From the commits; without, from the answer or, of a transaction whose answer is not known, all that the branch
    /// may have changed.
    pub(super) changes: Changes<'a>,
    /// `None`: a commit that doesn't tell whose it is, see [`super::adoption`], or one that is nobody's.
    pub(super) call: Option<usize>,
    /// Whether it is time's: see [`super::lives`].
    pub(super) by_time: bool,
    /// Whether nobody told whose it is, and another call might have written just that.
    pub(super) is_guess: bool,
}

/// All revisions of which something is known.
pub(super) struct Ledger<'a> {
    pub(super) writes: BTreeMap<u64, Write<'a>>,
    /// The revision of each call's write, in the order of [`Calls::list`].
    revisions: Vec<Option<u64>>,
    /// Of writes and views.
    pub(super) highest: u64,
    /// Whether there are commits, and so no gaps.
    pub(super) complete: bool,
}

/// What nodes applied at a revision.
struct Applied<'a> {
    node: u64,
    changes: Changes<'a>,
    call: Option<u64>,
    by_time: bool,
}

impl<'a> Ledger<'a> {
    pub(super) fn of(history: &'a History, calls: &Calls<'a>) -> Result<Self, Violation> {
        let mut ledger =
            Self { writes: BTreeMap::new(), revisions: vec![None; calls.list.len()], highest: 0, complete: false };
        let commits = commits(history)?;
        let claims = claims(calls)?;
        if commits.is_empty() {
            ledger.take_answers(calls, &claims)?;
            ledger.take_pairs(calls)?;
        } else {
            ledger.complete = true;
            ledger.take_commits(calls, commits, &claims)?;
            ledger.check_commits(calls, &claims)?;
        }
        Ok(ledger)
    }

    /// The revision of a call's write, if it has one and it is known.
    pub(super) fn revision_of(&self, place: usize) -> Option<u64> {
        self.revisions[place]
    }

    /// The calls that may have written without anybody knowing when.
    pub(super) fn loose(&self, calls: &Calls<'_>) -> Vec<usize> {
        let loose = |place: &usize| {
            let call = &calls.list[*place];
            call.is_unknown() && call.may_write() && self.revisions[*place].is_none()
        };
        (0..calls.list.len()).filter(loose).collect()
    }

    /// The revisions of which nothing is known, lowest first. There may be very many, if an answer is nonsense.
    pub(super) fn gaps(&self) -> impl Iterator<Item = u64> {
        (1..=self.highest).filter(|revision| !self.writes.contains_key(revision))
    }

    /// Says whose write a revision is.
    pub(super) fn settle(&mut self, revision: u64, place: usize) {
        self.revisions[place] = Some(revision);
        if let Some(write) = self.writes.get_mut(&revision) {
            write.call = Some(place);
        }
    }

    fn take_answers(&mut self, calls: &Calls<'a>, claims: &BTreeMap<u64, usize>) -> Result<(), Violation> {
        for (&revision, &place) in claims {
            // Where the answer doesn't tell what was changed, those keys are special.
            let changes = calls.list[place].answered().and_then(|answered| answered.changes.clone());
            self.add(calls, revision, changes.unwrap_or_default(), place)?;
        }
        self.highest = calls.list.iter().filter_map(|call| call.answered()?.revision).max().unwrap_or(0);
        Ok(())
    }

    /// A view that shows a value also shows which revision its write took.
    fn take_pairs(&mut self, calls: &Calls<'a>) -> Result<(), Violation> {
        for call in &calls.list {
            for pair in call.answered().map(|answered| pairs(answered.answer)).unwrap_or_default() {
                if shows_no_values(call.op) || calls.is_special(&pair.key) {
                    continue;
                }
                let token = calls.token(&pair.value).filter(|token| token.key == pair.key);
                let Some(token) = token else { return Err(phantom(call.id, pair)) };
                let writer = &calls.list[token.call];
                if !writer.is_unknown() {
                    // Whether the pair is right is decided where it is compared; here is only who else claims to be it.
                    refuse_effect(calls, token.call, pair.mod_revision)?;
                    continue;
                }
                if self.revisions[token.call] != Some(pair.mod_revision) {
                    self.add(calls, pair.mod_revision, branch_changes(writer.op, token.branch), token.call)?;
                }
            }
        }
        self.highest = self.highest.max(self.writes.keys().next_back().copied().unwrap_or(0));
        Ok(())
    }

    fn take_commits(
        &mut self,
        calls: &Calls<'a>,
        commits: BTreeMap<u64, Applied<'a>>,
        claims: &BTreeMap<u64, usize>,
    ) -> Result<(), Violation> {
        for (revision, applied) in commits {
            if revision == 0 {
                return Err(Violation::RevisionZero { call: applied.call });
            }
            self.highest = revision;
            let Applied { changes, by_time, .. } = applied;
            let writer = if by_time { None } else { self.writer(calls, revision, applied.call, &changes)? };
            match writer.or(claims.get(&revision).copied()) {
                Some(place) if by_time => {
                    return Err(Violation::NotCommitted { call: calls.list[place].id, revision });
                }
                Some(place) => {
                    refuse_effect(calls, place, revision)?;
                    self.add(calls, revision, changes, place)?;
                }
                None => drop(self.writes.insert(revision, Write { changes, call: None, by_time, is_guess: !by_time })),
            }
        }
        Ok(())
    }

    /// Commits are complete, and the answers agree with them.
    fn check_commits(&self, calls: &Calls<'a>, claims: &BTreeMap<u64, usize>) -> Result<(), Violation> {
        for (&revision, &place) in claims {
            let call = &calls.list[place];
            let Some(write) = self.writes.get(&revision) else {
                return Err(Violation::NotCommitted { call: call.id, revision });
            };
            if let Some(other) = write.call.filter(|other| *other != place) {
                return Err(Violation::RevisionReused { revision, first: calls.list[other].id, second: call.id });
            }
            // What an answer doesn't tell follows from what there was, and is judged with the answer.
            let said = call.answered().and_then(|answered| answered.changes.as_ref());
            if let Some(said) = said.filter(|said| **said != write.changes) {
                let (expected, found) = (describe(said), describe(&write.changes));
                return Err(Violation::WrongChanges { call: call.id, revision, expected, found });
            }
        }
        if let Some(revision) = self.gaps().next() {
            return Err(Violation::Gap { revision, highest: self.highest });
        }
        for call in &calls.list {
            let revision = call.answered().and_then(|answered| answered.revision);
            if let Some(revision) = revision.filter(|revision| *revision > self.highest) {
                return Err(Violation::Future { call: call.id, revision, highest: self.highest });
            }
        }
        Ok(())
    }

    /// Whose write a commit is, by the tap's word or by a unique value. `None`: it has none.
    fn writer(
        &self,
        calls: &Calls<'a>,
        revision: u64,
        call: Option<u64>,
        changes: &Changes<'a>,
    ) -> Result<Option<usize>, Violation> {
        if let Some(id) = call {
            return Ok(Some(calls.place(id)?));
        }
        let values = || changes.iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        if let Some((key, token)) = values().find_map(|(key, value)| Some((key, calls.token(value)?))) {
            // The first to have a value is who writes it; a set that keeps the value of its key shows it again.
            let is_kept = calls.is_special(key) && self.revisions[token.call].is_some_and(|first| first < revision);
            return Ok((!is_kept).then_some(token.call));
        }
        // A sum is nobody's token.
        match values().find(|(key, _)| !calls.is_special(key)) {
            Some(_) => Err(Violation::Nobody { revision, changes: describe(changes) }),
            None => Ok(None),
        }
    }

    fn add(&mut self, calls: &Calls<'a>, revision: u64, changes: Changes<'a>, place: usize) -> Result<(), Violation> {
        let call = calls.list[place].id;
        if let Some(first) = self.revisions[place] {
            return Err(Violation::DuplicateEffect { call, first, second: revision });
        }
        if let Some(other) =
            self.writes.insert(revision, Write { changes, call: Some(place), by_time: false, is_guess: false })
        {
            // Commits are added once a revision, so the other comes from a call.
            let first = other.call.map_or(call, |other| calls.list[other].id);
            return Err(Violation::RevisionReused { revision, first, second: call });
        }
        self.revisions[place] = Some(revision);
        Ok(())
    }
}

/// The revisions that answers say to have taken.
fn claims(calls: &Calls<'_>) -> Result<BTreeMap<u64, usize>, Violation> {
    let mut claims = BTreeMap::new();
    for (place, call) in calls.list.iter().enumerate() {
        let Some(revision) = call.answered().filter(|answered| answered.wrote).and_then(|answered| answered.revision)
        else {
            continue;
        };
        if let Some(first) = claims.insert(revision, place) {
            let first = calls.list[first].id;
            return Err(Violation::RevisionReused { revision, first, second: call.id });
        }
    }
    Ok(claims)
}

/// What was applied at each revision.
fn commits(history: &History) -> Result<BTreeMap<u64, Applied<'_>>, Violation> {
    let mut commits: BTreeMap<u64, Applied<'_>> = BTreeMap::new();
    for event in &history.events {
        let (node, revision, applied) = match event {
            Event::Commit { node, revision, changes, call } => {
                let changes = changes_of(*node, *revision, changes)?;
                (node, revision, Applied { node: *node, changes, call: *call, by_time: false })
            }
            // Leases may end without keys.
            Event::Expiry { node, revision, keys, .. } if !keys.is_empty() => {
                let changes = keys.iter().map(|key| (key.as_str(), None)).collect();
                (node, revision, Applied { node: *node, changes, call: None, by_time: true })
            }
            _ => continue,
        };
        let Some(known) = commits.get_mut(revision) else {
            commits.insert(*revision, applied);
            continue;
        };
        let other_call = known.call.zip(applied.call).is_some_and(|(known, applied)| known != applied);
        if known.changes != applied.changes || known.by_time != applied.by_time || other_call {
            return Err(Violation::NodesDisagree {
                revision: *revision,
                first_node: known.node,
                first: known.describe(),
                second_node: *node,
                second: applied.describe(),
            });
        }
        known.call = known.call.or(applied.call);
    }
    Ok(commits)
}

/// A write that can't have taken this revision: it failed, changed nothing, or took another.
fn refuse_effect(calls: &Calls<'_>, place: usize, revision: u64) -> Result<(), Violation> {
    let call = &calls.list[place];
    match &call.fate {
        Fate::Failed => Err(Violation::FailedTookEffect { call: call.id, revision }),
        Fate::Answered(answered) if !answered.wrote => Err(Violation::ViewTookEffect { call: call.id, revision }),
        Fate::Answered(answered) => match answered.revision {
            Some(first) if first != revision => {
                Err(Violation::DuplicateEffect { call: call.id, first, second: revision })
            }
            _ => Ok(()),
        },
        Fate::Unknown => Ok(()),
    }
}

/// Whether the pairs that it shows come without values.
fn shows_no_values(op: &Op) -> bool {
    matches!(op, Op::List(list) if list.keys_only)
}

/// The pairs that an answer shows, with their values, as of its revision or within it.
pub(super) fn pairs(answer: &Answer) -> Vec<&Pair> {
    match answer {
        Answer::Set { previous, .. } | Answer::Delete { previous, .. } => previous.iter().collect(),
        Answer::Get { pair, .. } => pair.iter().collect(),
        Answer::List { pairs, .. } => pairs.iter().collect(),
        Answer::Txn { done, .. } => {
            let mut pairs = Vec::new();
            pairs_of(done, &mut pairs);
            pairs
        }
        _ => Vec::new(),
    }
}

fn pairs_of<'a>(done: &'a TxnDone, pairs: &mut Vec<&'a Pair>) {
    for result in &done.results {
        match result {
            TxnResult::Set { previous: pair, .. }
            | TxnResult::Delete { previous: pair, .. }
            | TxnResult::Get { pair } => {
                pairs.extend(pair);
            }
            TxnResult::Txn(done) => pairs_of(done, pairs),
            // It may have left the values out.
            TxnResult::List { .. } | TxnResult::DeleteRange { .. } => {}
        }
    }
}

pub(super) fn phantom(call: u64, pair: &Pair) -> Violation {
    Violation::Phantom { call, key: pair.key.clone(), value: pair.value.clone() }
}

/// What a write changes if it takes this branch, as far as that doesn't follow from what there was. A key that it deletes is
/// absent afterwards, whether it existed or not.
fn branch_changes<'a>(op: &'a Op, branch: Option<bool>) -> Changes<'a> {
    let put = |set: &'a Set| (set.key.as_str(), Some(Cow::Borrowed(set.value.as_str())));
    match op {
        Op::Set(set) => Changes::from([put(set)]),
        Op::Txn(Txn { then, otherwise, .. }) => {
            let change = |op: &'a TxnOp| match op {
                TxnOp::Set(set) => Some(put(set)),
                TxnOp::Delete(Delete { key, .. }) => Some((key.as_str(), None)),
                // Their keys are special.
                TxnOp::DeleteRange { .. } | TxnOp::Txn(_) => None,
                TxnOp::Get { .. } | TxnOp::List(_) => None,
            };
            (if branch == Some(true) { then } else { otherwise }).iter().filter_map(change).collect()
        }
        _ => Changes::new(),
    }
}

impl Applied<'_> {
    fn describe(&self) -> String {
        match self.call {
            Some(call) => format!("{}, for call {call}", describe(&self.changes)),
            None => describe(&self.changes),
        }
    }
}
