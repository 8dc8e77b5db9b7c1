//! Legal histories are accepted; with one fact changed they are refused.

use std::cell::RefCell;
use std::collections::BTreeSet;

use mokv_check::{
    Answer, Change, Event, History, Limits, Op, Outcome, Pair, Seen, Set, Txn, TxnDone, TxnResult, Violation,
    check_revisions, check_values,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use crate::model::{Scope, Taps, plans, run};

const CASES: u32 = 1_000;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn legal_histories_are_accepted(plans in prop_oneof![plans(60, Scope::Plain), plans(60, Scope::All)]) {
        for taps in [Taps::None, Taps::Anonymous, Taps::Named] {
            let history = run(&plans, taps);
            if let Err(violation) = check_revisions(&history) {
                return Err(TestCaseError::fail(format!("{taps:?}: refused by revisions: {violation}\n{}", lines(&history))));
            }
            match check_values(&history, Limits::default()) {
                Ok(report) => prop_assert_eq!(report.gave_up, [""; 0]),
                Err(violation) => {
                    return Err(TestCaseError::fail(format!("refused by values: {violation}\n{}", lines(&history))));
                }
            }
        }
    }

    #[test]
    fn histories_survive_the_way_through_a_file(plans in plans(20, Scope::All)) {
        let history = run(&plans, Taps::Named);
        prop_assert_eq!(History::read(lines(&history).as_bytes()).expect("a history"), history);
    }
}

/// Every mutation on every history that has a place for it, at one of those places.
#[test]
fn a_wrong_fact_is_refused() {
    refuse_all(MUTATIONS, Scope::Plain, 40);
}

#[test]
fn a_wrong_fact_of_conditions_ranges_numbers_leases_and_watches_is_refused() {
    let named: Vec<(&str, Mutate, Taps)> = SPECIAL.iter().map(|(name, mutate)| (*name, *mutate, Taps::Named)).collect();
    refuse_all(&named, Scope::All, 80);
}

fn refuse_all(mutations: &[(&str, Mutate, Taps)], scope: Scope, calls_max: usize) {
    let mut runner = TestRunner::new(config());
    let tried = RefCell::new(vec![0; mutations.len()]);
    let given = (plans(calls_max, scope), any::<Index>());
    let outcome = runner.run(&given, |(plans, at)| {
        for (&(name, mutate, taps), tried) in mutations.iter().zip(tried.borrow_mut().iter_mut()) {
            let history = run(&plans, taps);
            if scope == Scope::All && highest(&history).unwrap_or(0) == 0 {
                continue;
            }
            let mutants: Vec<History> = (0..history.events.len()).filter_map(|place| mutate(&history, place)).collect();
            if mutants.is_empty() {
                continue;
            }
            *tried += 1;
            let mutant = at.get(&mutants);
            match check_revisions(mutant) {
                Ok(_) => return Err(TestCaseError::fail(format!("{name}: accepted\n{}", lines(mutant)))),
                Err(Violation::Malformed(malformed)) => {
                    return Err(TestCaseError::fail(format!("{name}: no history: {malformed}\n{}", lines(mutant))));
                }
                Err(_) => {}
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    for ((name, ..), tried) in mutations.iter().zip(tried.into_inner()) {
        // The rarest has a place in one of eight: chance is no reason to fail.
        assert!(tried > CASES / 20, "{name}: tried on {tried} histories only");
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) }
}

fn lines(history: &History) -> String {
    let mut text = Vec::new();
    history.write(&mut text).expect("written");
    String::from_utf8(text).expect("UTF-8")
}

/// Changes one fact at a place, if it is one there that can't be otherwise.
type Mutate = fn(&History, usize) -> Option<History>;

/// With commits that tell whose they are, nothing is left to guess, so that each of these is wrong for certain.
const MUTATIONS: &[(&str, Mutate, Taps)] = &[
    ("a commit is missing", drop_revision, Taps::Named),
    ("a node has other changes", change_commit, Taps::Named),
    ("two revisions are exchanged", swap_revisions, Taps::Named),
    ("a commit is of another call", change_owner, Taps::Named),
    ("an answer has the next revision", next_revision, Taps::Named),
    ("a version is one more", more_versions, Taps::Named),
    ("a create_revision is one less", older_creation, Taps::Named),
    ("a value is another's", another_value, Taps::Named),
    ("a value is nobody's, without commits", phantom_value, Taps::None),
    ("a pair is missing", no_pair, Taps::Named),
    ("a delete says the opposite", opposite_delete, Taps::Named),
    ("a transaction says the opposite", opposite_branch, Taps::Named),
    ("a write that took effect is said to have failed", failed, Taps::Named),
    ("a write took effect before its call", late_call, Taps::Anonymous),
    ("a read is stale", late_read, Taps::Anonymous),
];

/// These are about what only commits tell.
const SPECIAL: &[(&str, Mutate)] = &[
    ("a watcher misses an event", missed_event),
    ("a watcher is told of an event twice", doubled_event),
    ("a watcher is told half of a revision", split_revision),
    ("a watcher is told things in another order", swapped_events),
    ("a watcher is said to have seen what there is not", progress_ahead),
    ("an event has another version", another_version_in_event),
    ("a watch does not begin with all there is", missing_in_list_first),
    ("a sum is one more", larger_sum),
    ("a number of keys is one more", larger_count),
    ("a condition did not hold for another reason", another_reason),
    ("a key has another lease", another_lease),
    ("another previous value is shown", another_previous),
    ("a key ended early", early_expiry),
    ("another key ended on one node", another_expiry),
    ("nobody tells that keys have ended", expiry_not_told),
];

fn with(history: &History, place: usize, event: Event) -> Option<History> {
    let mut events = history.events.clone();
    events[place] = event;
    Some(History { events })
}

/// The history with another answer at a place, where there is one that can be changed so.
fn with_answer(history: &History, place: usize, change: impl FnOnce(&mut Answer) -> Option<()>) -> Option<History> {
    let mut event = history.events[place].clone();
    let Event::Return { result: Outcome::Ok { answer }, .. } = &mut event else { return None };
    change(answer)?;
    with(history, place, event)
}

/// The pair that an answer shows first.
fn pair_of(answer: &mut Answer) -> Option<&mut Pair> {
    match answer {
        Answer::Get { pair, .. } => pair.as_mut(),
        Answer::List { pairs, .. } => pairs.first_mut(),
        Answer::Txn { done, .. } => done.results.iter_mut().find_map(|result| match result {
            TxnResult::Get { pair } => pair.as_mut(),
            _ => None,
        }),
        _ => None,
    }
}

fn op_of(history: &History, call: u64) -> Option<&Op> {
    history.events.iter().find_map(|event| match event {
        Event::Call { id, op, .. } if *id == call => Some(op),
        _ => None,
    })
}

fn commits(history: &History) -> impl Iterator<Item = (u64, u64, &Vec<Change>)> {
    history.events.iter().filter_map(|event| match event {
        Event::Commit { node: 1, revision, changes, call } => Some((*revision, call.unwrap_or(0), changes)),
        _ => None,
    })
}

fn answered(history: &History) -> BTreeSet<u64> {
    let ok = |event: &Event| match event {
        Event::Return { id, result: Outcome::Ok { .. }, .. } => Some(*id),
        _ => None,
    };
    history.events.iter().filter_map(ok).collect()
}

/// Not the last, which nobody may have noticed.
fn drop_revision(history: &History, place: usize) -> Option<History> {
    let Event::Commit { revision: dropped, .. } = history.events[place] else { return None };
    commits(history).any(|(revision, ..)| revision > dropped).then_some(())?;
    let mut events = history.events.clone();
    events.retain(|event| !matches!(event, Event::Commit { revision, .. } if *revision == dropped));
    Some(History { events })
}

/// Every commit is told of by node 1, so there is always one that says the opposite, or the call.
fn change_commit(history: &History, place: usize) -> Option<History> {
    let mut event = history.events[place].clone();
    let Event::Commit { changes, .. } = &mut event else { return None };
    changes[0] = match &changes[0] {
        Change::Put { key, .. } => Change::Delete { key: key.clone() },
        Change::Delete { key } => Change::Put { key: key.clone(), value: "new".to_owned() },
    };
    with(history, place, event)
}

/// One of an answered call, which knows its revision.
fn swap_revisions(history: &History, place: usize) -> Option<History> {
    let Event::Commit { node: 1, revision: first, call: Some(call), .. } = history.events[place] else { return None };
    answered(history).contains(&call).then_some(())?;
    let second = first + 1;
    commits(history).any(|(revision, ..)| revision == second).then_some(())?;
    let mut events = history.events.clone();
    for event in &mut events {
        if let Event::Commit { revision, .. } = event {
            *revision = if *revision == first {
                second
            } else if *revision == second {
                first
            } else {
                *revision
            };
        }
    }
    Some(History { events })
}

fn change_owner(history: &History, place: usize) -> Option<History> {
    let mut event = history.events[place].clone();
    let Event::Commit { node: 1, revision, call, .. } = &mut event else { return None };
    let other = commits(history).find(|(other, ..)| *other != *revision).map(|(_, other, _)| other)?;
    *call = Some(other);
    with(history, place, event)
}

/// A write has just its own revision; the highest view is then one of nothing.
fn next_revision(history: &History, place: usize) -> Option<History> {
    let highest = commits(history).map(|(revision, ..)| revision).max()?;
    let Event::Return { id, .. } = history.events[place] else { return None };
    let wrote = commits(history).any(|(_, call, _)| call == id);
    with_answer(history, place, |answer| {
        let (Answer::Set { revision, .. }
        | Answer::Delete { revision, .. }
        | Answer::Get { revision, .. }
        | Answer::List { revision, .. }
        | Answer::Txn { revision, .. }) = answer
        else {
            return None;
        };
        *revision += 1;
        (wrote || *revision > highest).then_some(())
    })
}

fn more_versions(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| {
        match answer {
            Answer::Set { version, .. } => *version += 1,
            other => pair_of(other)?.version += 1,
        }
        Some(())
    })
}

fn older_creation(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| {
        match answer {
            Answer::Set { create_revision, .. } => *create_revision -= 1,
            other => pair_of(other)?.create_revision -= 1,
        }
        Some(())
    })
}

/// Another value that was written, to whatever key.
fn another_value(history: &History, place: usize) -> Option<History> {
    let values = || {
        history.events.iter().filter_map(|event| match event {
            Event::Call { op: Op::Set(Set { value, .. }), .. } => Some(value),
            _ => None,
        })
    };
    with_answer(history, place, |answer| {
        let pair = pair_of(answer)?;
        pair.value = values().find(|value| **value != pair.value)?.clone();
        Some(())
    })
}

fn phantom_value(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| {
        pair_of(answer)?.value.push('?');
        Some(())
    })
}

fn no_pair(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| match answer {
        Answer::Get { pair, .. } => pair.take().map(drop),
        Answer::List { pairs, .. } => pairs.pop().map(drop),
        _ => None,
    })
}

fn opposite_delete(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| match answer {
        Answer::Delete { existed, .. } => {
            *existed = !*existed;
            Some(())
        }
        _ => None,
    })
}

/// To a branch that does nothing, which needs no results.
fn opposite_branch(history: &History, place: usize) -> Option<History> {
    let Event::Return { id, .. } = history.events[place] else { return None };
    let Some(Op::Txn(Txn { compare, otherwise, .. })) = op_of(history, id) else { return None };
    (otherwise.is_empty() && compare[0].range_end.is_none()).then_some(())?;
    with_answer(history, place, |answer| match answer {
        Answer::Txn { done, .. } if done.succeeded => {
            *done = TxnDone::default();
            Some(())
        }
        _ => None,
    })
}

fn failed(history: &History, place: usize) -> Option<History> {
    let Event::Return { id, at, .. } = history.events[place] else { return None };
    commits(history).any(|(_, call, _)| call == id).then_some(())?;
    with(history, place, Event::Return { id, at, result: Outcome::Failed { reason: String::new() } })
}

/// The call of a set that somebody saw is moved behind everything that returned.
fn late_call(history: &History, place: usize) -> Option<History> {
    let Event::Call { id, client, op: Op::Set(Set { key, value, .. }), .. } = &history.events[place] else {
        return None;
    };
    let put = Change::Put { key: key.clone(), value: value.clone() };
    let (revision, ..) = commits(history).find(|(_, _, changes)| changes.contains(&put))?;
    let seen = history.events.iter().any(|event| match event {
        Event::Return { id: other, result: Outcome::Ok { answer }, .. } => {
            other != id && revision_of(answer) >= revision
        }
        _ => false,
    });
    seen.then_some(())?;
    let end = end(history);
    let op = Op::set(key, value);
    let mut mutant = with(history, place, Event::Call { id: *id, client: *client, at: end + 1, op })?;
    for event in &mut mutant.events {
        if let Event::Return { id: other, at, .. } = event
            && other == id
        {
            *at = end + 2;
        }
    }
    Some(mutant)
}

/// A linearizable read that does not show the highest revision that was answered is moved behind its answer.
fn late_read(history: &History, place: usize) -> Option<History> {
    let Event::Return { id, result: Outcome::Ok { answer: Answer::Get { revision, .. } }, .. } = &history.events[place]
    else {
        return None;
    };
    let linearizable =
        matches!(op_of(history, *id)?, Op::Get { read, .. } if *read == mokv_check::Read::linearizable());
    let newer = history.events.iter().any(|event| match event {
        Event::Return { result: Outcome::Ok { answer }, .. } => revision_of(answer) > *revision,
        _ => false,
    });
    (linearizable && newer).then_some(())?;
    let end = end(history);
    let mut mutant = history.clone();
    for event in &mut mutant.events {
        match event {
            Event::Call { id: other, at, .. } if other == id => *at = end + 1,
            Event::Return { id: other, at, .. } if other == id => *at = end + 2,
            _ => {}
        }
    }
    Some(mutant)
}

fn revision_of(answer: &Answer) -> u64 {
    answer.revision().unwrap_or(0)
}

fn end(history: &History) -> u64 {
    let at = |event: &Event| match event {
        Event::Call { at, .. } | Event::Return { at, .. } => *at,
        _ => 0,
    };
    history.events.iter().map(at).max().unwrap_or(0)
}

/// What a watcher is told at a place, where that can be changed so.
fn with_seen(history: &History, place: usize, change: impl FnOnce(&mut Seen) -> Option<()>) -> Option<History> {
    let mut event = history.events[place].clone();
    let Event::Seen { seen, .. } = &mut event else { return None };
    change(seen)?;
    with(history, place, event)
}

fn missed_event(history: &History, place: usize) -> Option<History> {
    with_seen(history, place, |seen| seen.events.pop().map(drop))
}

fn doubled_event(history: &History, place: usize) -> Option<History> {
    with_seen(history, place, |seen| {
        let twin = seen.events.last()?.clone();
        seen.events.push(twin);
        Some(())
    })
}

/// The rest of the revision comes in the next answer.
fn split_revision(history: &History, place: usize) -> Option<History> {
    with_seen(history, place, |seen| {
        (seen.more && !seen.events.is_empty()).then_some(())?;
        seen.more = false;
        Some(())
    })
}

fn swapped_events(history: &History, place: usize) -> Option<History> {
    with_seen(history, place, |seen| {
        let last = seen.events.len().checked_sub(1)?;
        (seen.events[0].revision != seen.events[last].revision).then_some(())?;
        seen.events.swap(0, last);
        Some(())
    })
}

fn progress_ahead(history: &History, place: usize) -> Option<History> {
    let highest = highest(history)?;
    with_seen(history, place, |seen| {
        (seen.revision == highest && !seen.events.is_empty()).then_some(())?;
        seen.revision += 1;
        Some(())
    })
}

fn another_version_in_event(history: &History, place: usize) -> Option<History> {
    with_seen(history, place, |seen| {
        seen.events.last_mut()?.pair.as_mut()?.version += 1;
        Some(())
    })
}

fn missing_in_list_first(history: &History, place: usize) -> Option<History> {
    with_seen(history, place, |seen| seen.pairs.pop().map(drop))
}

fn highest(history: &History) -> Option<u64> {
    let revision = |event: &Event| match event {
        Event::Commit { revision, .. } | Event::Expiry { revision, .. } => Some(*revision),
        _ => None,
    };
    history.events.iter().filter_map(revision).max()
}

fn larger_sum(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| match answer {
        Answer::Increment { value, .. } => {
            *value += 1;
            Some(())
        }
        _ => None,
    })
}

fn larger_count(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| match answer {
        Answer::Count { count, .. } | Answer::DeleteRange { deleted: count @ 1.., .. } => {
            *count += 1;
            Some(())
        }
        _ => None,
    })
}

fn another_reason(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| match answer {
        Answer::Unmet { mod_revision, .. } => {
            *mod_revision += 1;
            Some(())
        }
        _ => None,
    })
}

fn another_lease(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| {
        pair_of(answer)?.lease += 1;
        Some(())
    })
}

fn another_previous(history: &History, place: usize) -> Option<History> {
    with_answer(history, place, |answer| match answer {
        Answer::Set { previous: Some(pair), .. } | Answer::Delete { previous: Some(pair), .. } => {
            pair.version += 1;
            Some(())
        }
        _ => None,
    })
}

/// On all nodes, and not because of a lease, of which nobody may know that it lives.
fn early_expiry(history: &History, place: usize) -> Option<History> {
    let Event::Expiry { revision: early, ref keys, ref leases, .. } = history.events[place] else { return None };
    (leases.is_empty() && !keys.is_empty()).then_some(())?;
    let mut mutant = history.clone();
    for event in &mut mutant.events {
        if let Event::Expiry { revision, at, leases, .. } = event
            && (*revision, leases.is_empty()) == (early, true)
        {
            *at = 0;
        }
    }
    Some(mutant)
}

/// One node says that another key went.
fn another_expiry(history: &History, place: usize) -> Option<History> {
    let mut event = history.events[place].clone();
    let Event::Expiry { keys, .. } = &mut event else { return None };
    keys.last_mut()?.push('?');
    with(history, place, event)
}

/// On no node.
fn expiry_not_told(history: &History, place: usize) -> Option<History> {
    let Event::Expiry { revision: missing, ref keys, .. } = history.events[place] else { return None };
    (!keys.is_empty() && missing < highest(history)?).then_some(())?;
    let mut events = history.events.clone();
    events.retain(
        |event| !matches!(event, Event::Expiry { revision, keys, .. } if *revision == missing && !keys.is_empty()),
    );
    Some(History { events })
}
