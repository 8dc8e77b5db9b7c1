//! What clients saw, and the judgement of it.
//!
//! Every call is kept with its beginning and its end, and ends in one of three ways: it was answered, it *failed* (it had
//! no effect, nor will it), or its outcome is *unknown*. Every write has a value of its own. The store numbers its writes
//! with revisions and an answer says which one it shows, so no search is needed to find an order that explains what was
//! seen: the revisions are the order, and it is right if
//!
//! 1. no two acknowledged writes share a revision,
//! 2. no call is answered at a revision that was outdated before it began: a write's is above, a read's not below, every
//!    revision that anybody was told of before,
//! 3. a read shows the last write of its key at its revision,
//! 4. in the end each key has what its last write gave it, and was written as often as acknowledged, or more by at most
//!    those whose outcome is unknown. Nothing that was refused shows anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use mokv_client::Pair;

/// One call of one client. Times count from the beginning of the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) key: String,
    pub(crate) begin: Duration,
    pub(crate) end: Duration,
    pub(crate) op: Op,
}

/// What was asked for, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Set { value: String, outcome: Outcome<Written> },
    Get(Outcome<Option<Found>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome<T> {
    Answered(T),
    /// Without effect, and why.
    Failed(String),
    /// With or without effect, and why nobody knows.
    Unknown(String),
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) revision: u64,
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) value: String,
    /// Of the last write to the key.
    pub(crate) mod_revision: u64,
    /// What the answer reflects.
    pub(crate) revision: u64,
}

/// How much was judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) calls: Vec<Call>,
}

impl History {
    /// Judges the calls by what every node has in the end. An error has all that is wrong.
    pub(crate) fn judge(&self, pairs: &[Pair]) -> Result<Counts, Vec<String>> {
        let mut judge = Judge { writes: Writes::of(self), faults: Vec::new() };
        judge.shared_revisions();
        judge.real_time(self);
        judge.reads(self);
        judge.end(pairs);
        if judge.faults.is_empty() { Ok(self.counts()) } else { Err(judge.faults) }
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for call in &self.calls {
            *match &call.op {
                Op::Set { outcome: Outcome::Answered(_), .. } => &mut counts.acknowledged,
                Op::Set { outcome: Outcome::Failed(_), .. } => &mut counts.failed,
                Op::Set { outcome: Outcome::Unknown(_), .. } => &mut counts.unknown,
                Op::Get(Outcome::Answered(_)) => &mut counts.reads,
                Op::Get(_) => continue,
            } += 1;
        }
        counts
    }

    /// All writes: when they ended, and how.
    pub(crate) fn writes(&self) -> impl Iterator<Item = (Duration, &Outcome<Written>)> {
        self.calls.iter().filter_map(|call| match &call.op {
            Op::Set { outcome, .. } => Some((call.end, outcome)),
            Op::Get(_) => None,
        })
    }

    /// How long nobody's write was acknowledged, at most, in a span of time.
    pub(crate) fn longest_gap(&self, from: Duration, until: Duration) -> Duration {
        let acknowledged = self.writes().filter(|(_, outcome)| matches!(outcome, Outcome::Answered(_)));
        let mut ends: Vec<Duration> =
            acknowledged.map(|(end, _)| end).filter(|end| (from..until).contains(end)).collect();
        ends.extend([from, until]);
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// The writes of one key.
#[derive(Default)]
struct Writes<'a> {
    /// By key and value.
    by_value: BTreeMap<(&'a str, &'a str), &'a Outcome<Written>>,
    /// Acknowledged ones by key and revision.
    by_revision: BTreeMap<(&'a str, u64), &'a str>,
    all_revisions: Vec<u64>,
}

impl<'a> Writes<'a> {
    fn of(history: &'a History) -> Self {
        let mut writes = Self::default();
        for call in &history.calls {
            if let Op::Set { value, outcome } = &call.op {
                let before = writes.by_value.insert((&call.key, value), outcome);
                assert_eq!(before, None, "the load wrote {value} to {} twice", call.key);
                if let Outcome::Answered(Written { revision }) = outcome {
                    writes.by_revision.insert((&call.key, *revision), value);
                    writes.all_revisions.push(*revision);
                }
            }
        }
        writes
    }

    /// What is wrong with a value that the key is said to have since `mod_revision`, as of `revision`.
    fn explain(&self, key: &str, value: &str, mod_revision: u64, revision: u64) -> Option<String> {
        let later = self.by_revision.range((key, mod_revision + 1)..=(key, revision.max(mod_revision + 1))).next();
        if let Some(((_, at), lost)) = later.filter(|((_, at), _)| *at <= revision) {
            return Some(format!(
                "has {value:?} of revision {mod_revision} at {revision}, though {lost:?} was written at {at}"
            ));
        }
        match self.by_value.get(&(key, value)) {
            None => Some(format!("has {value:?}, which nobody wrote")),
            Some(Outcome::Failed(why)) => Some(format!("has {value:?}, which was refused: {why}")),
            Some(Outcome::Answered(written)) if written.revision != mod_revision => {
                Some(format!("has {value:?} since revision {mod_revision}, acknowledged was {}", written.revision))
            }
            Some(_) => None,
        }
    }
}

struct Judge<'a> {
    writes: Writes<'a>,
    faults: Vec<String>,
}

impl Judge<'_> {
    fn shared_revisions(&mut self) {
        let revisions = &mut self.writes.all_revisions;
        revisions.sort_unstable();
        let twice = revisions.windows(2).filter(|pair| pair[0] == pair[1]);
        self.faults.extend(twice.map(|pair| format!("two writes were acknowledged with revision {}", pair[0])));
    }

    fn real_time(&mut self, history: &History) {
        let told = history.calls.iter().filter_map(|call| match &call.op {
            Op::Set { outcome: Outcome::Answered(Written { revision }), .. } => Some((call, *revision, true)),
            Op::Get(Outcome::Answered(Some(Found { revision, .. }))) => Some((call, *revision, false)),
            _ => None,
        });
        let mut by_end: Vec<_> = told.collect();
        let mut by_begin = by_end.clone();
        by_end.sort_by_key(|(call, ..)| call.end);
        by_begin.sort_by_key(|(call, ..)| call.begin);
        let mut ended = by_end.into_iter().peekable();
        let mut floor = 0;
        for (call, revision, is_write) in by_begin {
            while let Some((_, told, _)) = ended.next_if(|(before, ..)| before.end < call.begin) {
                floor = floor.max(told);
            }
            if revision < floor || (is_write && revision == floor) {
                self.faults.push(format!("revision {floor} was known to somebody before this began: {call:?}"));
            }
        }
    }

    fn reads(&mut self, history: &History) {
        // When the first write to a key was acknowledged.
        let mut written: BTreeMap<&str, Duration> = BTreeMap::new();
        for call in &history.calls {
            if let Op::Set { outcome: Outcome::Answered(_), .. } = &call.op {
                let first = written.entry(&call.key).or_insert(call.end);
                *first = call.end.min(*first);
            }
        }
        for call in &history.calls {
            let fault = match &call.op {
                Op::Get(Outcome::Answered(Some(Found { value, mod_revision, revision }))) => {
                    self.writes.explain(&call.key, value, *mod_revision, *revision)
                }
                Op::Get(Outcome::Answered(None)) if written.get(&*call.key).is_some_and(|end| *end < call.begin) => {
                    Some("has nothing, though it was written".to_owned())
                }
                _ => None,
            };
            self.faults.extend(fault.map(|fault| format!("{} {fault}: {call:?}", call.key)));
        }
    }

    fn end(&mut self, pairs: &[Pair]) {
        // Acknowledged and unknown.
        let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for ((key, _), outcome) in &self.writes.by_value {
            let (acknowledged, unknown) = counts.entry(key).or_default();
            match outcome {
                Outcome::Answered(_) => *acknowledged += 1,
                Outcome::Unknown(_) => *unknown += 1,
                Outcome::Failed(_) => {}
            }
        }
        for pair in pairs {
            let value = String::from_utf8_lossy(&pair.value);
            let fault = self.writes.explain(&pair.key, &value, pair.mod_revision, u64::MAX);
            self.faults.extend(fault.map(|fault| format!("in the end {} {fault}", pair.key)));
            let (acknowledged, unknown) = counts.remove(&*pair.key).unwrap_or_default();
            if !(acknowledged..=acknowledged + unknown).contains(&pair.version) {
                self.faults.push(format!(
                    "{} was written {} times, but {acknowledged} writes were acknowledged, and {unknown} are unknown",
                    pair.key, pair.version
                ));
            }
        }
        let lost = counts.into_iter().filter(|(_, (acknowledged, _))| *acknowledged > 0);
        self.faults.extend(
            lost.map(|(key, (acknowledged, _))| format!("{key} is lost, with {acknowledged} acknowledged writes")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(key: &str, begin: u64, op: Op) -> Call {
        let begin = Duration::from_millis(begin);
        Call { client: 0, key: key.into(), begin, end: begin + Duration::from_millis(5), op }
    }

    fn set(key: &str, value: &str, begin: u64, outcome: Outcome<Written>) -> Call {
        call(key, begin, Op::Set { value: value.into(), outcome })
    }

    fn acknowledged(revision: u64) -> Outcome<Written> {
        Outcome::Answered(Written { revision })
    }

    fn get(key: &str, begin: u64, value: &str, mod_revision: u64, revision: u64) -> Call {
        let found = Found { value: value.into(), mod_revision, revision };
        call(key, begin, Op::Get(Outcome::Answered(Some(found))))
    }

    fn pair(key: &str, value: &str, mod_revision: u64, version: u64) -> Pair {
        let value = value.to_owned().into();
        Pair { key: key.into(), value, mod_revision, version, revision: 9, create_revision: 1, ..Default::default() }
    }

    /// k: a at 1, b unknown, c at 3; b was there at 2.
    fn good() -> (Vec<Call>, Vec<Pair>) {
        let calls = vec![
            set("k", "a", 0, acknowledged(1)),
            set("k", "b", 10, Outcome::Unknown(String::new())),
            get("k", 20, "b", 2, 2),
            set("k", "c", 30, acknowledged(3)),
            set("k", "d", 40, Outcome::Failed(String::new())),
            set("l", "e", 50, acknowledged(4)),
        ];
        (calls, vec![pair("k", "c", 3, 3), pair("l", "e", 4, 1)])
    }

    #[test]
    fn a_right_history_is_accepted() {
        let (calls, pairs) = good();
        let counts = Counts { acknowledged: 3, failed: 1, unknown: 1, reads: 1 };
        assert_eq!(History { calls }.judge(&pairs), Ok(counts));
    }

    #[test]
    fn each_wrong_one_is_found() {
        type Change = fn(&mut Vec<Call>, &mut Vec<Pair>);
        let table: [(&str, Change); 11] = [
            ("is lost", |_, pairs| drop(pairs.pop())),
            ("though \"c\" was written at 3", |_, pairs| pairs[0] = pair("k", "b", 2, 2)),
            ("which was refused", |_, pairs| pairs[0] = pair("k", "d", 5, 3)),
            ("which nobody wrote", |_, pairs| pairs[0] = pair("k", "x", 5, 3)),
            ("was written 2 times", |_, pairs| pairs[1] = pair("l", "e", 4, 2)),
            ("was written 1 times", |_, pairs| pairs[0] = pair("k", "c", 3, 1)),
            ("acknowledged was 4", |_, pairs| pairs[1] = pair("l", "e", 5, 1)),
            ("two writes were acknowledged", |calls, _| calls[5] = set("l", "e", 50, acknowledged(3))),
            ("revision 4 was known", |calls, _| calls.push(get("k", 60, "c", 3, 3))),
            ("though \"c\" was written at 3", |calls, _| calls.push(get("k", 60, "b", 2, 4))),
            ("has nothing", |calls, _| calls.push(call("k", 60, Op::Get(Outcome::Answered(None))))),
        ];
        for (expected, change) in table {
            let (mut calls, mut pairs) = good();
            change(&mut calls, &mut pairs);
            let faults = History { calls }.judge(&pairs).expect_err(expected);
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
        }
    }

    #[test]
    fn a_gap_is_measured_between_acknowledgements() {
        let (calls, _) = good();
        let millis = Duration::from_millis;
        assert_eq!(History { calls }.longest_gap(millis(5), millis(56)), millis(30));
    }
}
