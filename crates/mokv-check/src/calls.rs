//! A history as the checkers look at it: each call with its return, each answer with what it says was changed, each
//! token with who writes it, each watch with what it was told.
//!
//! What is refused here is no history at all: that is the recorder's mistake, not the store's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::answer::{Answer, Outcome, TxnDone, TxnResult};
use crate::history::{Change, Event, History};
use crate::op::{Delete, Op, Range, Set, Txn, TxnOp};
use crate::watch::{Seen, Watch};

/// What a write transaction does to its keys: the new value, or `None` where it deletes.
pub(crate) type Changes<'a> = BTreeMap<&'a str, Option<Cow<'a, str>>>;

/// Why a history can't be judged: the recording contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Two calls have one id.
    #[error("two calls have the id {call}")]
    DuplicateCall {
        /// The id.
        call: u64,
    },
    /// Something speaks of a call that is not in the history.
    #[error("there is no call {call}, but a return or a commit of it")]
    NoSuchCall {
        /// The id.
        call: u64,
    },
    /// A call returned twice.
    #[error("call {call} returned twice")]
    ReturnedTwice {
        /// The call.
        call: u64,
    },
    /// A call returned before it was made.
    #[error("call {call} returned before it was made")]
    ReturnedEarly {
        /// The call.
        call: u64,
    },
    /// An answer is none to what was asked.
    #[error("the answer to call {call} is not of the kind that was asked for")]
    WrongKind {
        /// The call.
        call: u64,
    },
    /// A token is written in two places.
    #[error("the value {value:?} is written twice, by calls {first} and {second}: values have to be unique")]
    ReusedValue {
        /// The token.
        value: String,
        /// A call that writes it.
        first: u64,
        /// Another, or the same.
        second: u64,
    },
    /// A list of operations of a transaction writes a key twice.
    #[error("the transaction of call {call} writes {key:?} twice")]
    WrittenTwice {
        /// The call.
        call: u64,
        /// The key.
        key: String,
    },
    /// A commit names a key twice.
    #[error("the commit of revision {revision} on node {node} changes {key:?} twice")]
    ChangedTwice {
        /// The node.
        node: u64,
        /// The revision.
        revision: u64,
        /// The key.
        key: String,
    },
}

/// One call, from its beginning to its end.
pub(crate) struct Call<'a> {
    pub(crate) id: u64,
    pub(crate) at: u64,
    pub(crate) op: &'a Op,
    /// When it returned, whatever it returned; `None` if it never did.
    pub(crate) returned: Option<u64>,
    pub(crate) fate: Fate<'a>,
}

/// How a call ended.
pub(crate) enum Fate<'a> {
    Answered(Answered<'a>),
    Failed,
    /// Or it has not ended.
    Unknown,
}

/// What an answer says.
pub(crate) struct Answered<'a> {
    pub(crate) answer: &'a Answer,
    /// Of the write, or of the view if nothing was changed; `None`: it says none.
    pub(crate) revision: Option<u64>,
    /// Whether something was changed. Otherwise it was a view.
    pub(crate) wrote: bool,
    /// What was changed; `None`: that follows from what there was.
    pub(crate) changes: Option<Changes<'a>>,
}

/// One watch, and what it was told, in that order.
pub(crate) struct Watching<'a> {
    pub(crate) id: u64,
    pub(crate) at: u64,
    pub(crate) watch: &'a Watch,
    pub(crate) seen: Vec<(u64, &'a Seen)>,
}

/// Where a token is written.
pub(crate) struct Token<'a> {
    /// The place of the call in [`Calls::list`].
    pub(crate) call: usize,
    pub(crate) key: &'a str,
    /// Whether it is written by the `then` or the `otherwise` of a transaction; `None` for a set.
    pub(crate) branch: Option<bool>,
}

/// All calls of a history.
pub(crate) struct Calls<'a> {
    pub(crate) list: Vec<Call<'a>>,
    pub(crate) watches: Vec<Watching<'a>>,
    pub(crate) clocks: Clocks,
    places: BTreeMap<u64, usize>,
    tokens: BTreeMap<&'a str, Token<'a>>,
    pub(crate) special: Special<'a>,
}

/// How fast the clocks of the nodes run, of 100.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    fastest: u64,
    slowest: u64,
}

/// Keys that are written not only by sets and deletes of themselves, or that time may delete: without commits, nothing is
/// known of them.
#[derive(Clone, Default)]
pub(crate) struct Special<'a> {
    keys: BTreeSet<&'a str>,
    ranges: Vec<&'a Range>,
}

impl Clocks {
    /// At least so much time passes while any node's clock counts so much, in microseconds.
    pub(crate) fn least(self, milliseconds: u64) -> u64 {
        milliseconds.saturating_mul(1000 * 100) / self.fastest
    }

    /// At most so much, likewise.
    pub(crate) fn most(self, milliseconds: u64) -> u64 {
        milliseconds.saturating_mul(1000 * 100).div_ceil(self.slowest)
    }
}

impl<'a> Calls<'a> {
    /// Brings together what belongs together.
    pub(crate) fn of(history: &'a History) -> Result<Self, Malformed> {
        let mut calls = Self {
            list: Vec::new(),
            watches: Vec::new(),
            clocks: Clocks { fastest: 100, slowest: 100 },
            places: BTreeMap::new(),
            tokens: BTreeMap::new(),
            special: Special::default(),
        };
        let mut watches = BTreeMap::new();
        for event in &history.events {
            match event {
                Event::Call { id, at, op, .. } => {
                    calls.add(Call { id: *id, at: *at, op, returned: None, fate: Fate::Unknown })?;
                }
                Event::Watch { id, at, watch, .. } => {
                    if watches.insert(*id, calls.watches.len()).is_some() {
                        return Err(Malformed::DuplicateCall { call: *id });
                    }
                    calls.watches.push(Watching { id: *id, at: *at, watch, seen: Vec::new() });
                }
                Event::Clocks { fastest_percent, slowest_percent } => {
                    calls.clocks = Clocks { fastest: (*fastest_percent).max(1), slowest: (*slowest_percent).max(1) };
                }
                Event::Return { .. }
                | Event::Commit { .. }
                | Event::Expiry { .. }
                | Event::Seen { .. }
                | Event::Unwatch { .. } => {}
            }
        }
        if let Some(call) = watches.keys().find(|id| calls.places.contains_key(id)) {
            return Err(Malformed::DuplicateCall { call: *call });
        }
        for event in &history.events {
            match event {
                Event::Return { id, at, result } => {
                    let place = calls.place(*id)?;
                    calls.list[place].end(*at, result)?;
                }
                Event::Seen { id, at, seen } => {
                    let place = watches.get(id).ok_or(Malformed::NoSuchCall { call: *id })?;
                    let watching = &mut calls.watches[*place];
                    if *at < watching.seen.last().map_or(watching.at, |(last, _)| *last) {
                        return Err(Malformed::ReturnedEarly { call: *id });
                    }
                    watching.seen.push((*at, seen));
                }
                _ => {}
            }
        }
        calls.special = Special::of(&calls.list);
        Ok(calls)
    }

    /// The place of a call in [`Calls::list`].
    pub(crate) fn place(&self, id: u64) -> Result<usize, Malformed> {
        self.places.get(&id).copied().ok_or(Malformed::NoSuchCall { call: id })
    }

    /// Who writes this value.
    pub(crate) fn token(&self, value: &str) -> Option<&Token<'a>> {
        self.tokens.get(value)
    }

    /// Whether a key may be written otherwise than by sets and deletes of itself, or deleted by time.
    pub(crate) fn is_special(&self, key: &str) -> bool {
        self.special.has(key)
    }

    fn add(&mut self, call: Call<'a>) -> Result<(), Malformed> {
        let (id, op, place) = (call.id, call.op, self.list.len());
        if self.places.insert(id, place).is_some() {
            return Err(Malformed::DuplicateCall { call: id });
        }
        self.list.push(call);
        match op {
            Op::Set(set) => self.add_token(set, place, None),
            Op::Txn(txn) => {
                for (ops, branch) in [(&txn.then, true), (&txn.otherwise, false)] {
                    Written::default().add(ops).map_err(|key| Malformed::WrittenTwice { call: id, key })?;
                    self.add_branch(place, ops, branch)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add_branch(&mut self, place: usize, ops: &'a [TxnOp], branch: bool) -> Result<(), Malformed> {
        for op in ops {
            match op {
                TxnOp::Set(set) => self.add_token(set, place, Some(branch))?,
                TxnOp::Txn(Txn { then, otherwise, .. }) => {
                    self.add_branch(place, then, branch)?;
                    self.add_branch(place, otherwise, branch)?;
                }
                TxnOp::Delete(_) | TxnOp::DeleteRange { .. } | TxnOp::Get { .. } | TxnOp::List(_) => {}
            }
        }
        Ok(())
    }

    fn add_token(&mut self, set: &'a Set, call: usize, branch: Option<bool>) -> Result<(), Malformed> {
        if set.keep_value {
            return Ok(());
        }
        let (value, second) = (set.value.as_str(), self.list[call].id);
        match self.tokens.insert(value, Token { call, key: &set.key, branch }) {
            None => Ok(()),
            Some(old) => Err(Malformed::ReusedValue { value: value.to_owned(), first: self.list[old.call].id, second }),
        }
    }
}

/// What the operations of a list write, of which none may be written twice.
#[derive(Default)]
struct Written<'a> {
    keys: BTreeSet<&'a str>,
    ranges: Vec<&'a Range>,
}

impl<'a> Written<'a> {
    /// An error is a key that is written twice.
    fn add(&mut self, ops: &'a [TxnOp]) -> Result<(), String> {
        for op in ops {
            match op {
                TxnOp::Set(Set { key, .. }) | TxnOp::Delete(Delete { key, .. }) => {
                    let is_deleted = self.ranges.iter().any(|range| range.contains(key));
                    if is_deleted || !self.keys.insert(key) {
                        return Err(key.clone());
                    }
                }
                TxnOp::DeleteRange { range } => {
                    if let Some(key) = self.keys.iter().find(|key| range.contains(key)) {
                        return Err((*key).to_owned());
                    }
                    self.ranges.push(range);
                }
                TxnOp::Txn(Txn { then, otherwise, .. }) => {
                    self.add(then)?;
                    self.add(otherwise)?;
                }
                TxnOp::Get { .. } | TxnOp::List(_) => {}
            }
        }
        Ok(())
    }
}

impl<'a> Special<'a> {
    /// Whether this key is one.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.contains(key) || self.ranges.iter().any(|range| range.contains(key))
    }

    fn of(calls: &[Call<'a>]) -> Self {
        let mut special = Self::default();
        for call in calls.iter().filter(|call| !matches!(call.fate, Fate::Failed)) {
            match call.op {
                Op::Set(set) => special.add_set(set),
                Op::DeleteRange { range } => special.ranges.push(range),
                Op::Increment { key, .. } => drop(special.keys.insert(key)),
                Op::Txn(txn) => special.add_txn(txn, false),
                _ => {}
            }
        }
        special
    }

    fn add_set(&mut self, set: &'a Set) {
        if set.ttl_ms > 0 || set.lease > 0 || set.keep_ttl || set.keep_value {
            self.keys.insert(&set.key);
        }
    }

    fn add_txn(&mut self, txn: &'a Txn, is_within: bool) {
        for op in txn.then.iter().chain(&txn.otherwise) {
            match op {
                TxnOp::Set(Set { key, .. }) | TxnOp::Delete(Delete { key, .. }) if is_within => {
                    self.keys.insert(key);
                }
                TxnOp::Set(set) => self.add_set(set),
                TxnOp::DeleteRange { range } => self.ranges.push(range),
                TxnOp::Txn(txn) => self.add_txn(txn, true),
                TxnOp::Delete(_) | TxnOp::Get { .. } | TxnOp::List(_) => {}
            }
        }
    }
}

impl<'a> Call<'a> {
    /// What it was answered, if it was.
    pub(crate) fn answered(&self) -> Option<&Answered<'a>> {
        match &self.fate {
            Fate::Answered(answered) => Some(answered),
            Fate::Failed | Fate::Unknown => None,
        }
    }

    /// Whether nobody knows if it had an effect.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.fate, Fate::Unknown)
    }

    /// Whether it can take a revision.
    pub(crate) fn may_write(&self) -> bool {
        match self.op {
            Op::Set(_) | Op::Delete(_) | Op::DeleteRange { .. } | Op::Increment { .. } | Op::RevokeLease { .. } => true,
            Op::Txn(Txn { then, otherwise, .. }) => then.iter().chain(otherwise).any(may_write),
            Op::Get { .. }
            | Op::List(_)
            | Op::Count { .. }
            | Op::GrantLease { .. }
            | Op::KeepAlive { .. }
            | Op::GetLease { .. } => false,
        }
    }

    /// The keys that it may put, and those that it may delete, by name.
    pub(crate) fn may_change(&self) -> (Vec<&'a str>, Vec<&'a str>) {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        match self.op {
            Op::Set(Set { key, .. }) | Op::Increment { key, .. } => puts.push(key.as_str()),
            Op::Delete(Delete { key, .. }) => deletes.push(key.as_str()),
            Op::Txn(txn) => {
                txn.each(&mut |op| match op {
                    TxnOp::Set(Set { key, .. }) => puts.push(key),
                    TxnOp::Delete(Delete { key, .. }) => deletes.push(key),
                    _ => {}
                });
            }
            _ => {}
        }
        (puts, deletes)
    }

    /// Whether it may change this key. A revocation may change any.
    pub(crate) fn may_touch(&self, key: &str) -> bool {
        let (puts, deletes) = self.may_change();
        let mut is_in_range = false;
        match self.op {
            Op::DeleteRange { range } => is_in_range = range.contains(key),
            Op::RevokeLease { .. } => is_in_range = true,
            Op::Txn(txn) => {
                txn.each(&mut |op| is_in_range |= matches!(op, TxnOp::DeleteRange { range } if range.contains(key)));
            }
            _ => {}
        }
        is_in_range || puts.contains(&key) || deletes.contains(&key)
    }

    /// What it sets, in all its lists.
    pub(crate) fn sets(&self) -> Vec<&'a Set> {
        let mut sets = Vec::new();
        match self.op {
            Op::Set(set) => sets.push(set),
            Op::Txn(txn) => txn.each(&mut |op| {
                if let TxnOp::Set(set) = op {
                    sets.push(set);
                }
            }),
            _ => {}
        }
        sets
    }

    /// How often it writes a key that time will delete, at most.
    pub(crate) fn mortal_writes(&self) -> usize {
        match self.op {
            Op::Increment { ttl_ms, .. } => usize::from(*ttl_ms > 0),
            _ => self.sets().into_iter().filter(|set| set.ttl_ms > 0 || set.lease > 0).count(),
        }
    }

    fn end(&mut self, at: u64, result: &'a Outcome) -> Result<(), Malformed> {
        if self.returned.replace(at).is_some() {
            return Err(Malformed::ReturnedTwice { call: self.id });
        }
        if at < self.at {
            return Err(Malformed::ReturnedEarly { call: self.id });
        }
        self.fate = match result {
            Outcome::Ok { answer } => {
                let said = said(self.op, answer).ok_or(Malformed::WrongKind { call: self.id })?;
                Fate::Answered(said)
            }
            Outcome::Failed { .. } => Fate::Failed,
            Outcome::Unknown { .. } => Fate::Unknown,
        };
        Ok(())
    }
}

impl Txn {
    /// All its operations, of both lists and of those within.
    pub(crate) fn each<'a>(&'a self, visit: &mut impl FnMut(&'a TxnOp)) {
        for op in self.then.iter().chain(&self.otherwise) {
            visit(op);
            if let TxnOp::Txn(within) = op {
                within.each(visit);
            }
        }
    }
}

fn may_write(op: &TxnOp) -> bool {
    match op {
        TxnOp::Set(_) | TxnOp::Delete(_) | TxnOp::DeleteRange { .. } => true,
        TxnOp::Txn(Txn { then, otherwise, .. }) => then.iter().chain(otherwise).any(may_write),
        TxnOp::Get { .. } | TxnOp::List(_) => false,
    }
}

/// What a commit says was changed.
pub(crate) fn changes_of(node: u64, revision: u64, list: &[Change]) -> Result<Changes<'_>, Malformed> {
    let mut changes = Changes::new();
    for change in list {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(Cow::Borrowed(value.as_str()))),
            Change::Delete { key } => (key, None),
        };
        if changes.insert(key, value).is_some() {
            return Err(Malformed::ChangedTwice { node, revision, key: key.clone() });
        }
    }
    Ok(changes)
}

/// What an answer says; `None` if it is no answer to this operation.
fn said<'a>(op: &'a Op, answer: &'a Answer) -> Option<Answered<'a>> {
    let mut said = Said::default();
    match (op, answer) {
        (Op::Set(set), Answer::Set { .. }) => said.set(set),
        (Op::Set(set), Answer::Unmet { .. }) => (set.condition.is_some() || set.keep_value).then_some(())?,
        (Op::Delete(delete), Answer::Delete { existed, .. }) => said.delete(&delete.key, *existed),
        (Op::Delete(delete), Answer::Unmet { .. }) => delete.condition.is_some().then_some(())?,
        (Op::DeleteRange { .. }, Answer::DeleteRange { deleted, .. })
        | (Op::RevokeLease { .. }, Answer::RevokeLease { deleted, .. }) => said.some(*deleted),
        (Op::Increment { key, .. }, Answer::Increment { value, .. }) => {
            said.wrote = true;
            said.changes.insert(key, Some(Cow::Owned(value.to_string())));
        }
        (Op::Get { key, .. }, Answer::Get { pair, .. }) => {
            pair.as_ref().is_none_or(|pair| pair.key == *key).then_some(())?;
        }
        (Op::Txn(txn), Answer::Txn { done, .. }) => said.txn(txn, done)?,
        (Op::List(_), Answer::List { .. })
        | (Op::Count { .. }, Answer::Count { .. })
        | (Op::GrantLease { .. }, Answer::GrantLease { .. })
        | (Op::KeepAlive { .. }, Answer::KeepAlive { .. })
        | (Op::GetLease { .. }, Answer::GetLease { .. })
        | (
            Op::Set(_) | Op::Txn(_) | Op::RevokeLease { .. } | Op::KeepAlive { .. } | Op::GetLease { .. },
            Answer::NoLease,
        ) => {}
        _ => return None,
    }
    let changes = said.is_exact.then_some(said.changes);
    Some(Answered { answer, revision: answer.revision(), wrote: said.wrote, changes })
}

/// What an answer says was changed.
struct Said<'a> {
    wrote: bool,
    is_exact: bool,
    changes: Changes<'a>,
}

impl Default for Said<'_> {
    fn default() -> Self {
        Self { wrote: false, is_exact: true, changes: Changes::new() }
    }
}

impl<'a> Said<'a> {
    fn set(&mut self, set: &'a Set) {
        self.wrote = true;
        match set.keep_value {
            true => self.is_exact = false,
            false => drop(self.changes.insert(&set.key, Some(Cow::Borrowed(set.value.as_str())))),
        }
    }

    fn delete(&mut self, key: &'a str, existed: bool) {
        if existed {
            self.wrote = true;
            self.changes.insert(key, None);
        }
    }

    /// So many keys were deleted, and it is not said which.
    fn some(&mut self, deleted: u64) {
        if deleted > 0 {
            (self.wrote, self.is_exact) = (true, false);
        }
    }

    fn txn(&mut self, txn: &'a Txn, done: &'a TxnDone) -> Option<()> {
        let ops = if done.succeeded { &txn.then } else { &txn.otherwise };
        (ops.len() == done.results.len()).then_some(())?;
        for (op, result) in ops.iter().zip(&done.results) {
            match (op, result) {
                (TxnOp::Set(set), TxnResult::Set { .. }) => self.set(set),
                (TxnOp::Delete(delete), TxnResult::Delete { existed, .. }) => self.delete(&delete.key, *existed),
                (TxnOp::DeleteRange { .. }, TxnResult::DeleteRange { deleted }) => self.some(*deleted),
                (TxnOp::Get { key }, TxnResult::Get { pair }) => {
                    pair.as_ref().is_none_or(|pair| pair.key == *key).then_some(())?;
                }
                (TxnOp::List(_), TxnResult::List { .. }) => {}
                (TxnOp::Txn(txn), TxnResult::Txn(done)) => self.txn(txn, done)?,
                _ => return None,
            }
        }
        Some(())
    }
}
