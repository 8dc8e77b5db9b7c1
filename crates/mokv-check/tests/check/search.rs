//! Checker B against every order there is, on histories that are as often illegal as legal.

use std::collections::BTreeSet;

use mokv_check::{Answer, Event, History, Limits, Op, Outcome, Pair, Read, ValueViolation, check_values};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::story::{assert_legal, call, get, saw, set, unknown};

#[derive(Debug, Clone, Copy)]
enum Action {
    Set,
    Delete {
        existed: bool,
    },
    /// Of the call at this place, if it is a set.
    Get {
        of: usize,
    },
}

#[derive(Debug, Clone, Copy)]
struct Step {
    action: Action,
    from: u64,
    lasts: u64,
    known: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        Just(Action::Set),
        any::<bool>().prop_map(|existed| Action::Delete { existed }),
        (0..9_usize).prop_map(|of| Action::Get { of }),
    ];
    (action, 0..12_u64, 0..12_u64, prop::bool::weighted(0.75)).prop_map(|(action, from, lasts, known)| Step {
        action,
        from,
        lasts,
        known,
    })
}

/// Tries every order.
fn has_order(steps: &[Step], done: &BTreeSet<usize>, value: Option<usize>) -> bool {
    let rest = || (0..steps.len()).filter(|place| !done.contains(place));
    if rest().all(|place| !steps[place].known) {
        return true;
    }
    let deadline = rest().filter(|place| steps[*place].known).map(|place| steps[place].from + steps[place].lasts).min();
    rest().any(|place| {
        let Step { action, from, known, .. } = steps[place];
        if deadline.is_some_and(|deadline| from > deadline) {
            return false;
        }
        let next = match action {
            Action::Set => Some(place),
            Action::Delete { existed } if known && existed != value.is_some() => return false,
            Action::Delete { .. } => None,
            Action::Get { of } if known && seen(steps, of) != value => return false,
            Action::Get { .. } => value,
        };
        let mut done = done.clone();
        done.insert(place);
        has_order(steps, &done, next)
    })
}

fn seen(steps: &[Step], of: usize) -> Option<usize> {
    steps.get(of).filter(|step| matches!(step.action, Action::Set)).map(|_| of)
}

fn recorded(steps: &[Step]) -> History {
    let key = || "x".to_owned();
    let value = |place: usize| format!("v{place}");
    let call_of = |(place, step): (usize, &Step)| {
        let (op, answer) = match step.action {
            Action::Set => {
                let answer = Answer::Set { revision: 0, create_revision: 0, version: 0, previous: None };
                (Op::set("x", value(place)), answer)
            }
            Action::Delete { existed } => (Op::delete("x"), Answer::Delete { existed, revision: 0, previous: None }),
            Action::Get { of } => {
                let pair = |of| Pair { key: key(), value: value(of), ..Pair::default() };
                let pair = seen(steps, of).map(pair);
                (Op::Get { key: key(), read: Read::linearizable() }, Answer::Get { revision: 0, pair })
            }
        };
        let result = if step.known { Outcome::Ok { answer } } else { unknown() };
        call(place as u64, step.from..step.from + step.lasts, op, result)
    };
    History { events: steps.iter().enumerate().flat_map(call_of).collect() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5_000) })]

    #[test]
    fn the_search_finds_an_order_if_there_is_one(steps in vec(step(), 0..7)) {
        let found = match check_values(&recorded(&steps), Limits::default()) {
            Ok(report) => {
                prop_assert_eq!(report.gave_up, [""; 0]);
                true
            }
            Err(ValueViolation::NotLinearizable { .. }) => false,
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert_eq!(found, has_order(&steps, &BTreeSet::new(), None));
    }
}

#[test]
fn a_search_that_is_too_long_is_given_up() {
    // All at once, and read in the order that is tried last.
    let sets = (1..=12).map(|id| call(id, 0..100, set("x", &format!("v{id}")), unknown()));
    let reads = (1..=12).map(|id| {
        let value = format!("v{}", 13 - id);
        call(100 + id, 100 * id..100 * id + 1, get("x"), saw(id, crate::story::pair("x", &value, [1, id, id])))
    });
    let parts: Vec<Vec<Event>> = sets.chain(reads).collect();
    assert_legal(&parts);
    let report = check_values(&crate::story::history(&parts), Limits { steps_max: 5 }).expect("no violation");
    assert_eq!((report.keys, report.gave_up), (0, vec!["x".to_owned()]));
}

#[test]
fn long_calls_among_very_many_find_their_place() {
    // Two reads that last longer than 200 writes, each read at once, and saw one of those.
    let story = |seen: u64| {
        let saw_write = |id: u64| saw(id, crate::story::pair("x", &format!("v{id}"), [1, id, id]));
        let first = call(1_000, 0..2_000, get("x"), saw_write(100));
        let second = call(1_001, 150..2_000, get("x"), saw_write(seen));
        let write = |id| call(id, 10 * id..10 * id + 5, set("x", &format!("v{id}")), crate::story::wrote(id, 1, id));
        let read = |id| call(500 + id, 10 * id + 6..10 * id + 8, get("x"), saw_write(id));
        let before = call(1_002, 0..1, get("x"), crate::story::saw_none(0));
        [first, second, before].into_iter().chain((1..=200).flat_map(|id| [write(id), read(id)])).collect::<Vec<_>>()
    };
    assert_legal(&story(150));
    // It began when 13 had been replaced.
    assert_eq!(crate::story::unordered(&story(13)), ("x".to_owned(), vec![1_001]));
}

#[test]
fn what_transactions_write_is_left_out() {
    let write = crate::story::txn(&[], &[crate::story::txn_set("x", "a")], &[]);
    let done = |revision| crate::story::done(true, revision, &[crate::story::txn_wrote(1, 1)]);
    let parts = [
        call(1, 0..1, write, done(1)),
        call(2, 2..3, get("x"), saw(1, crate::story::pair("x", "a", [1, 1, 1]))),
        call(3, 4..5, set("y", "b"), crate::story::wrote(2, 2, 1)),
    ];
    assert_legal(&parts);
    let report = check_values(&crate::story::history(&parts), Limits::default()).expect("legal");
    assert_eq!((report.keys, report.calls, report.left_out), (1, 1, 1));
}
