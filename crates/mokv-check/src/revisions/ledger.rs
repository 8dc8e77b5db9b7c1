//! Order: which write took which revision.
//!
//! With commits, they say it: one change set per revision, the same on all nodes, none missing. Without, the answers
//! say it, and what views show of writes whose own answer is not known; revisions of which nobody tells are *gaps*.
//! Each write has at most one revision and each revision at most one write.

use std::collections::BTreeMap;

use super::violation::{Violation, describe};
use crate::calls::{Calls, Changes, Fate, changes_of};
use crate::history::{Answer, Event, History, Op, Pair, TxnOp, TxnResult};

/// One revision.
pub(super) struct Write<'a> {
    /// From the commits; without, from the answer or, of a transaction whose answer is not known, all that the branch
    /// may have changed.
    pub(super) changes: Changes<'a>,
    /// `None`: a commit that doesn't tell whose it is, see [`super::adoption`].
    pub(super) call: Option<usize>,
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
        let loose = |place: &usize| calls.list[*place].is_unknown() && self.revisions[*place].is_none();
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
            let changes = calls.list[place].answered().map(|answered| answered.changes.clone()).unwrap_or_default();
            self.add(calls, revision, changes, place)?;
        }
        self.highest = calls.list.iter().filter_map(|call| Some(call.answered()?.revision)).max().unwrap_or(0);
        Ok(())
    }

    /// A view that shows a value also shows which revision its write took.
    fn take_pairs(&mut self, calls: &Calls<'a>) -> Result<(), Violation> {
        for call in &calls.list {
            for pair in call.answered().map(|answered| pairs(answered.answer)).unwrap_or_default() {
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
            match writer(calls, revision, &applied)?.or(claims.get(&revision).copied()) {
                Some(place) => {
                    refuse_effect(calls, place, revision)?;
                    self.add(calls, revision, applied.changes, place)?;
                }
                None => {
                    self.writes.insert(revision, Write { changes: applied.changes, call: None });
                }
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
            if let Some(answered) = call.answered().filter(|answered| answered.changes != write.changes) {
                let (expected, found) = (describe(&answered.changes), describe(&write.changes));
                return Err(Violation::WrongChanges { call: call.id, revision, expected, found });
            }
        }
        if let Some(revision) = self.gaps().next() {
            return Err(Violation::Gap { revision, highest: self.highest });
        }
        for call in &calls.list {
            if let Some(answered) = call.answered().filter(|answered| answered.revision > self.highest) {
                return Err(Violation::Future { call: call.id, revision: answered.revision, highest: self.highest });
            }
        }
        Ok(())
    }

    fn add(&mut self, calls: &Calls<'a>, revision: u64, changes: Changes<'a>, place: usize) -> Result<(), Violation> {
        let call = calls.list[place].id;
        if let Some(first) = self.revisions[place] {
            return Err(Violation::DuplicateEffect { call, first, second: revision });
        }
        if let Some(other) = self.writes.insert(revision, Write { changes, call: Some(place) }) {
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
        let Some(answered) = call.answered().filter(|answered| !answered.changes.is_empty()) else { continue };
        if let Some(first) = claims.insert(answered.revision, place) {
            let (revision, first) = (answered.revision, calls.list[first].id);
            return Err(Violation::RevisionReused { revision, first, second: call.id });
        }
    }
    Ok(claims)
}

/// What was applied at each revision.
fn commits(history: &History) -> Result<BTreeMap<u64, Applied<'_>>, Violation> {
    let mut commits: BTreeMap<u64, Applied<'_>> = BTreeMap::new();
    for event in &history.events {
        let Event::Commit { node, revision, changes, call } = event else { continue };
        let applied = Applied { node: *node, changes: changes_of(*node, *revision, changes)?, call: *call };
        let Some(known) = commits.get_mut(revision) else {
            commits.insert(*revision, applied);
            continue;
        };
        let other_call = known.call.zip(applied.call).is_some_and(|(known, applied)| known != applied);
        if known.changes != applied.changes || other_call {
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

/// Whose write a commit is, by the tap's word or by a unique value. `None`: it only deletes.
fn writer(calls: &Calls<'_>, revision: u64, applied: &Applied<'_>) -> Result<Option<usize>, Violation> {
    if let Some(id) = applied.call {
        return Ok(Some(calls.place(id)?));
    }
    let Some(value) = applied.changes.values().find_map(|value| *value) else { return Ok(None) };
    match calls.token(value) {
        Some(token) => Ok(Some(token.call)),
        None => Err(Violation::Nobody { revision, changes: describe(&applied.changes) }),
    }
}

/// A write that can't have taken this revision: it failed, changed nothing, or took another.
fn refuse_effect(calls: &Calls<'_>, place: usize, revision: u64) -> Result<(), Violation> {
    let call = &calls.list[place];
    match &call.fate {
        Fate::Failed => Err(Violation::FailedTookEffect { call: call.id, revision }),
        Fate::Answered(answered) if answered.changes.is_empty() => {
            Err(Violation::ViewTookEffect { call: call.id, revision })
        }
        Fate::Answered(answered) if answered.revision != revision => {
            Err(Violation::DuplicateEffect { call: call.id, first: answered.revision, second: revision })
        }
        Fate::Answered(_) | Fate::Unknown => Ok(()),
    }
}

/// The pairs that an answer shows.
pub(super) fn pairs<'a>(answer: &'a Answer) -> Vec<&'a Pair> {
    match answer {
        Answer::Set { .. } | Answer::Delete { .. } => Vec::new(),
        Answer::Get { pair, .. } => pair.iter().collect(),
        Answer::List { pairs, .. } => pairs.iter().collect(),
        Answer::Txn { results, .. } => {
            let shown = |result: &'a TxnResult| match result {
                TxnResult::Get { pair } => pair.as_ref(),
                TxnResult::Set | TxnResult::Delete { .. } => None,
            };
            results.iter().filter_map(shown).collect()
        }
    }
}

pub(super) fn phantom(call: u64, pair: &Pair) -> Violation {
    Violation::Phantom { call, key: pair.key.clone(), value: pair.value.clone() }
}

/// What a write changes if it takes this branch. A key that it deletes is absent afterwards, whether it existed or not.
fn branch_changes<'a>(op: &'a Op, branch: Option<bool>) -> Changes<'a> {
    match op {
        Op::Set { key, value } => Changes::from([(key.as_str(), Some(value.as_str()))]),
        Op::Txn { then, otherwise, .. } => {
            let change = |op: &'a TxnOp| match op {
                TxnOp::Set { key, value } => Some((key.as_str(), Some(value.as_str()))),
                TxnOp::Delete { key } => Some((key.as_str(), None)),
                TxnOp::Get { .. } => None,
            };
            (if branch == Some(true) { then } else { otherwise }).iter().filter_map(change).collect()
        }
        Op::Delete { .. } | Op::Get { .. } | Op::List { .. } => Changes::new(),
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
