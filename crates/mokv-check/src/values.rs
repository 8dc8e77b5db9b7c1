//! Checker B: judges by values alone, with a search.
//!
//! Each key is a register that is set, deleted and read. The checker looks for an order of the calls on it that agrees
//! with real time and in which every read sees the last write, as Wing and Gong do, with Lowe's memory of where it has
//! been. It believes no revision, which checker A does; what A decides from revisions, B confirms without them.
//!
//! Left out are calls that failed; local reads, which promise no order; lists, which are more than reads of each key; and
//! every key that more than plain sets and deletes may write, such as transactions and time. A call whose fate is unknown may take effect at any time after its
//! beginning, or never.

use std::collections::{BTreeMap, HashSet};

use crate::answer::Answer;
use crate::calls::{Call, Calls, Fate, Malformed};
use crate::history::History;
use crate::op::{Consistency, Delete, Op, Read, Set};

/// How long to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most so many states are looked at for one key: each takes about a hundred bytes.
    pub steps_max: u64,
}

impl Default for Limits {
    /// A few seconds and some hundred megabytes for the worst key.
    fn default() -> Self {
        Self { steps_max: 2_000_000 }
    }
}

/// What checker B looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValueReport {
    /// The keys that were judged, and are legal.
    pub keys: usize,
    /// The calls on them.
    pub calls: usize,
    /// The states that were looked at.
    pub steps: u64,
    /// The keys on which the search met its limit: neither legal nor illegal.
    pub gave_up: Vec<String>,
    /// The keys that more than plain sets and deletes may write.
    pub left_out: usize,
}

/// Why a history can't be that of linearizable keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueViolation {
    /// The recording contradicts itself: it is not the store's fault.
    #[error("this is no history: {0}")]
    Malformed(#[from] Malformed),
    /// No order of a key's calls explains what they were answered.
    #[error(
        "no order explains the calls on {key:?}: after the best {ordered} of {calls} it is {}, and none of these can \
         follow: {stuck:?}",
        describe(value.as_deref())
    )]
    NotLinearizable {
        /// The key.
        key: String,
        /// The answered calls on it.
        calls: usize,
        /// How many of them an order explains, at most.
        ordered: usize,
        /// The value of the key after those.
        value: Option<String>,
        /// The ids of the calls of which one would have to come next.
        stuck: Vec<u64>,
    },
}

impl ValueViolation {
    /// The calls that it speaks of.
    pub fn calls(&self) -> &[u64] {
        match self {
            Self::Malformed(_) => &[],
            Self::NotLinearizable { stuck, .. } => stuck,
        }
    }
}

fn describe(value: Option<&str>) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| format!("{value:?}"))
}

/// Judges a history by its values.
///
/// # Errors
///
/// The [`ValueViolation`] of the first key that has one, also if the search gave up on others.
pub fn check_values(history: &History, limits: Limits) -> Result<ValueReport, ValueViolation> {
    let calls = Calls::of(history)?;
    let mut report = ValueReport::default();
    for (key, register) in registers(&calls) {
        let Some(register) = register else {
            report.left_out += 1;
            continue;
        };
        let found = register.search(limits);
        report.steps += found.steps;
        match found.end {
            End::Linearized => {
                report.keys += 1;
                report.calls += register.answered.len() + register.unknown.len();
            }
            End::GaveUp => report.gave_up.push(key.to_owned()),
            End::Stuck { ordered, value, stuck } => {
                let (key, calls, value) = (key.to_owned(), register.answered.len(), value.map(str::to_owned));
                return Err(ValueViolation::NotLinearizable { key, calls, ordered, value, stuck });
            }
        }
    }
    Ok(report)
}

/// What one call does to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action<'a> {
    Set(&'a str),
    /// Whether there was something to delete, if that is known.
    Delete(Option<bool>),
    Get(Option<&'a str>),
}

/// One call on a key.
#[derive(Debug, Clone, Copy)]
struct Step<'a> {
    id: u64,
    from: u64,
    /// `u64::MAX`: unknown.
    until: u64,
    action: Action<'a>,
}

/// The calls on one key, each list in the order of their beginnings.
#[derive(Default)]
struct Register<'a> {
    answered: Vec<Step<'a>>,
    unknown: Vec<Step<'a>>,
}

/// How far an order has come.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State<'a> {
    /// All answered calls before this one are in the order.
    first: usize,
    /// Those after it that are: a window, because a call that is not holds up all that began after its return.
    window: Vec<u64>,
    /// The unknown calls that took effect.
    unknown: Vec<u64>,
    value: Option<&'a str>,
}

struct Found<'a> {
    steps: u64,
    end: End<'a>,
}

enum End<'a> {
    Linearized,
    GaveUp,
    Stuck { ordered: usize, value: Option<&'a str>, stuck: Vec<u64> },
}

/// The keys; `None` where more than plain sets and deletes may have written.
fn registers<'a>(calls: &Calls<'a>) -> BTreeMap<&'a str, Option<Register<'a>>> {
    let mut registers: BTreeMap<&str, Option<Register<'_>>> = BTreeMap::new();
    for call in &calls.list {
        if !is_plain(call.op) && !matches!(call.fate, Fate::Failed) {
            let (puts, deletes) = call.may_change();
            registers.extend(puts.into_iter().chain(deletes).map(|key| (key, None)));
            continue;
        }
        let Some((key, step)) = step(call) else { continue };
        let register = registers.entry(key).or_insert_with(|| Some(Register::default()));
        if calls.is_special(key) {
            *register = None;
        } else if let Some(register) = register {
            if step.until == u64::MAX { register.unknown.push(step) } else { register.answered.push(step) }
        }
    }
    for register in registers.values_mut().flatten() {
        register.answered.sort_by_key(|step| step.from);
        register.unknown.sort_by_key(|step| step.from);
        register.drop_unseen();
    }
    registers
}

/// Whether it is a read, or a set or delete without conditions.
fn is_plain(op: &Op) -> bool {
    match op {
        Op::Set(Set { condition, .. }) | Op::Delete(Delete { condition, .. }) => condition.is_none(),
        Op::Txn(_) => false,
        // What else writes makes its keys special.
        _ => true,
    }
}

/// What a call says of a key, if it does.
fn step<'a>(call: &Call<'a>) -> Option<(&'a str, Step<'a>)> {
    let answer = match &call.fate {
        Fate::Answered(answered) => Some(answered.answer),
        Fate::Unknown => None,
        Fate::Failed => return None,
    };
    let (key, action) = match (call.op, answer) {
        (Op::Set(Set { key, value, .. }), _) => (key, Action::Set(value)),
        (Op::Delete(Delete { key, .. }), Some(Answer::Delete { existed, .. })) => (key, Action::Delete(Some(*existed))),
        (Op::Delete(Delete { key, .. }), None) => (key, Action::Delete(None)),
        (Op::Get { key, read }, Some(Answer::Get { pair, .. })) if is_fresh(*read) => {
            (key, Action::Get(pair.as_ref().map(|pair| pair.value.as_str())))
        }
        _ => return None,
    };
    let until = if answer.is_some() { call.returned? } else { u64::MAX };
    Some((key, Step { id: call.id, from: call.at, until, action }))
}

/// Whether a read reflects what was acknowledged before it.
fn is_fresh(read: Read) -> bool {
    read.consistency != Consistency::Local && read.at_revision == 0
}

impl<'a> Register<'a> {
    /// Leaves out unknown sets that can't matter, since each doubles the search: nobody read the value, and no delete
    /// found something, which it might have been. In an order with such a set, nothing between it and the next write
    /// looked at the key, so the order without it is as good.
    fn drop_unseen(&mut self) {
        let seen: HashSet<&str> = self.answered.iter().filter_map(|step| step.action.seen()).collect();
        let found = self.answered.iter().any(|step| step.action == Action::Delete(Some(true)));
        if !found {
            self.unknown.retain(|step| !matches!(step.action, Action::Set(value) if !seen.contains(value)));
        }
    }

    fn search(&self, limits: Limits) -> Found<'a> {
        let mut start = State { first: 0, window: Vec::new(), unknown: Vec::new(), value: None };
        self.take_reads(&mut start);
        let mut best = (self.ordered(&start), start.clone());
        let mut seen = HashSet::from([start.clone()]);
        let mut open = vec![start];
        let mut steps = 0;
        while let Some(state) = open.pop() {
            if state.first == self.answered.len() {
                return Found { steps, end: End::Linearized };
            }
            steps += 1;
            if steps > limits.steps_max {
                return Found { steps, end: End::GaveUp };
            }
            let ordered = self.ordered(&state);
            if ordered > best.0 {
                best = (ordered, state.clone());
            }
            let next = self.successors(&state);
            // The last is looked at first: answered calls by their beginnings, and the unknown ones when all else fails.
            open.extend(next.into_iter().rev().filter(|state| seen.insert(state.clone())));
        }
        let (ordered, state) = best;
        let stuck = self.next_answered(&state).map(|place| self.answered[place].id).collect();
        Found { steps, end: End::Stuck { ordered, value: state.value, stuck } }
    }

    /// What can follow a state, by one write each.
    fn successors(&self, state: &State<'a>) -> Vec<State<'a>> {
        let mut next = Vec::new();
        for place in self.next_answered(state) {
            if let Some(value) = self.answered[place].action.apply(state.value) {
                let mut state = state.clone();
                state.value = value;
                state.take(place);
                next.push(state);
            }
        }
        let deadline = self.deadline(state);
        for (place, step) in self.unknown.iter().enumerate().take_while(|(_, step)| step.from <= deadline) {
            // What changes nothing may as well never happen.
            let changed = step.action.apply(state.value).filter(|value| *value != state.value);
            if let Some(value) = changed.filter(|_| !bit(&state.unknown, place)) {
                let mut state = state.clone();
                state.value = value;
                set_bit(&mut state.unknown, place);
                next.push(state);
            }
        }
        next.iter_mut().for_each(|state| self.take_reads(state));
        next
    }

    /// Takes all that can come next and leaves the value as it is. That is never a wrong choice: in any order that goes
    /// on from here, they can be moved to here.
    fn take_reads(&self, state: &mut State<'a>) {
        loop {
            let idle = |place: &usize| self.answered[*place].action.apply(state.value) == Some(state.value);
            let Some(place) = self.next_answered(state).find(idle) else { return };
            state.take(place);
        }
    }

    /// The answered calls of which each may come next: those that began before the first of the rest returned.
    fn next_answered(&self, state: &State<'a>) -> impl Iterator<Item = usize> {
        let deadline = self.deadline(state);
        let (first, window) = (state.first, state.window.clone());
        let begun = self.answered[first..].iter().take_while(move |step| step.from <= deadline);
        begun.enumerate().filter(move |(offset, _)| !bit(&window, *offset)).map(move |(offset, _)| first + offset)
    }

    /// The first return of the answered calls that are not in the order yet.
    fn deadline(&self, state: &State<'a>) -> u64 {
        let mut deadline = u64::MAX;
        for (offset, step) in self.answered[state.first..].iter().enumerate() {
            if step.from > deadline {
                break;
            }
            if !bit(&state.window, offset) {
                deadline = deadline.min(step.until);
            }
        }
        deadline
    }

    fn ordered(&self, state: &State<'a>) -> usize {
        state.first + state.window.iter().map(|word| word.count_ones() as usize).sum::<usize>()
    }
}

impl<'a> Action<'a> {
    /// The value afterwards; `None`: it can't have been answered so in front of this value.
    fn apply(self, value: Option<&'a str>) -> Option<Option<&'a str>> {
        match self {
            Self::Set(value) => Some(Some(value)),
            Self::Delete(None) => Some(None),
            Self::Delete(Some(existed)) => (existed == value.is_some()).then_some(None),
            Self::Get(expected) => (expected == value).then_some(value),
        }
    }

    fn seen(self) -> Option<&'a str> {
        match self {
            Self::Get(value) => value,
            Self::Set(_) | Self::Delete(_) => None,
        }
    }
}

impl State<'_> {
    fn take(&mut self, place: usize) {
        set_bit(&mut self.window, place - self.first);
        // Equal states have to look equal: the window begins at a call that is not in the order, and ends at one that is.
        let whole = self.window.iter().take_while(|word| **word == u64::MAX).count();
        let rest = self.window.get(whole).map_or(0, |word| word.trailing_ones() as usize);
        self.shift(whole * 64 + rest);
    }

    fn shift(&mut self, by: usize) {
        self.first += by;
        let (words, bits) = (by / 64, by % 64);
        self.window.drain(..words);
        if bits > 0 {
            for at in 0..self.window.len() {
                let above = self.window.get(at + 1).map_or(0, |word| word << (64 - bits));
                self.window[at] = (self.window[at] >> bits) | above;
            }
        }
        while self.window.last() == Some(&0) {
            self.window.pop();
        }
    }
}

fn bit(words: &[u64], at: usize) -> bool {
    words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn set_bit(words: &mut Vec<u64>, at: usize) {
    if words.len() <= at / 64 {
        words.resize(at / 64 + 1, 0);
    }
    words[at / 64] |= 1 << (at % 64);
}
