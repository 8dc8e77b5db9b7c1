//! A history as the checkers look at it: each call with its return, each answer with what it says was changed, each
//! token with who writes it.
//!
//! What is refused here is no history at all: that is the recorder's mistake, not the store's.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Answer, Change, Event, History, Op, Outcome, TxnOp, TxnResult};

/// What a write transaction does to its keys: the new value, or `None` where it deletes.
pub(crate) type Changes<'a> = BTreeMap<&'a str, Option<&'a str>>;

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
    /// Of the write, or of the view if nothing was changed.
    pub(crate) revision: u64,
    /// Empty: it was a view.
    pub(crate) changes: Changes<'a>,
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
    places: BTreeMap<u64, usize>,
    tokens: BTreeMap<&'a str, Token<'a>>,
}

impl<'a> Calls<'a> {
    /// Brings together what belongs together.
    pub(crate) fn of(history: &'a History) -> Result<Self, Malformed> {
        let mut calls = Self { list: Vec::new(), places: BTreeMap::new(), tokens: BTreeMap::new() };
        for event in &history.events {
            if let Event::Call { id, at, op, .. } = event {
                calls.add(Call { id: *id, at: *at, op, returned: None, fate: Fate::Unknown })?;
            }
        }
        for event in &history.events {
            if let Event::Return { id, at, result } = event {
                let place = calls.place(*id)?;
                calls.list[place].end(*at, result)?;
            }
        }
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

    fn add(&mut self, call: Call<'a>) -> Result<(), Malformed> {
        let (id, op, place) = (call.id, call.op, self.list.len());
        if self.places.insert(id, place).is_some() {
            return Err(Malformed::DuplicateCall { call: id });
        }
        self.list.push(call);
        match op {
            Op::Set { key, value } => self.add_token(value, Token { call: place, key, branch: None }),
            Op::Txn { then, otherwise, .. } => {
                self.add_branch(place, then, true)?;
                self.add_branch(place, otherwise, false)
            }
            Op::Delete { .. } | Op::Get { .. } | Op::List { .. } => Ok(()),
        }
    }

    fn add_branch(&mut self, place: usize, ops: &'a [TxnOp], branch: bool) -> Result<(), Malformed> {
        let mut written = BTreeSet::new();
        for op in ops {
            let key = match op {
                TxnOp::Set { key, value } => {
                    self.add_token(value, Token { call: place, key, branch: Some(branch) })?;
                    key
                }
                TxnOp::Delete { key } => key,
                TxnOp::Get { .. } => continue,
            };
            if !written.insert(key) {
                return Err(Malformed::WrittenTwice { call: self.list[place].id, key: key.clone() });
            }
        }
        Ok(())
    }

    fn add_token(&mut self, value: &'a str, token: Token<'a>) -> Result<(), Malformed> {
        let second = self.list[token.call].id;
        match self.tokens.insert(value, token) {
            None => Ok(()),
            Some(old) => Err(Malformed::ReusedValue { value: value.to_owned(), first: self.list[old.call].id, second }),
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

    /// The keys that it may put, and those that it may delete.
    pub(crate) fn may_change(&self) -> (Vec<&'a str>, Vec<&'a str>) {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        match self.op {
            Op::Set { key, .. } => puts.push(key.as_str()),
            Op::Delete { key } => deletes.push(key.as_str()),
            Op::Txn { then, otherwise, .. } => {
                for op in then.iter().chain(otherwise) {
                    match op {
                        TxnOp::Set { key, .. } => puts.push(key),
                        TxnOp::Delete { key } => deletes.push(key),
                        TxnOp::Get { .. } => {}
                    }
                }
            }
            Op::Get { .. } | Op::List { .. } => {}
        }
        (puts, deletes)
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

/// What a commit says was changed.
pub(crate) fn changes_of(node: u64, revision: u64, list: &[Change]) -> Result<Changes<'_>, Malformed> {
    let mut changes = Changes::new();
    for change in list {
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value.as_str())),
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
    let (revision, changes) = match (op, answer) {
        (Op::Set { key, value }, Answer::Set { revision, .. }) => {
            (*revision, Changes::from([(key.as_str(), Some(value.as_str()))]))
        }
        (Op::Delete { key }, Answer::Delete { existed, revision }) => {
            (*revision, existed.then_some((key.as_str(), None)).into_iter().collect())
        }
        (Op::Get { key, .. }, Answer::Get { revision, pair }) => {
            let other = pair.as_ref().is_some_and(|pair| pair.key != *key);
            (!other).then_some((*revision, Changes::new()))?
        }
        (Op::List { .. }, Answer::List { revision, .. }) => (*revision, Changes::new()),
        (Op::Txn { then, otherwise, .. }, Answer::Txn { succeeded, revision, results }) => {
            (*revision, txn_changes(if *succeeded { then } else { otherwise }, results)?)
        }
        _ => return None,
    };
    Some(Answered { answer, revision, changes })
}

fn txn_changes<'a>(ops: &'a [TxnOp], results: &[TxnResult]) -> Option<Changes<'a>> {
    if ops.len() != results.len() {
        return None;
    }
    let mut changes = Changes::new();
    for (op, result) in ops.iter().zip(results) {
        match (op, result) {
            (TxnOp::Set { key, value }, TxnResult::Set) => {
                changes.insert(key, Some(value));
            }
            (TxnOp::Delete { key }, TxnResult::Delete { existed }) => {
                if *existed {
                    changes.insert(key, None);
                }
            }
            (TxnOp::Get { key }, TxnResult::Get { pair }) => {
                if pair.as_ref().is_some_and(|pair| pair.key != *key) {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(changes)
}
