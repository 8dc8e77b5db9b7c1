//! Time: which keys end, and when they and their leases may.
//!
//! A key ends with its lease, or when its own ttl is over; which of them it has, its last write says. Nothing ends early:
//! a ttl counts from the call of the write at the earliest, a lease from that of its grant or of a keep-alive that was
//! answered, by the fastest clock there is. What ends does so at one revision, with all keys that it takes along.
//!
//! It needs commits: without them nobody knows what there was.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::Ledger;
use super::timeline::Timeline;
use super::violation::{Violation, describe};
use crate::answer::Answer;
use crate::calls::{Call, Calls, Changes};
use crate::history::{Event, History};
use crate::op::{Op, Set};

/// How a key ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// With this lease; 0: with none.
    lease: u64,
    /// By its own ttl.
    ttl: Option<Ttl>,
    /// Whether nobody knows, since nobody told whose the write is.
    is_open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ttl {
    call: u64,
    /// The end of a key that was written when the call was made.
    until: u64,
}

/// How all keys end, by the revisions of their last writes.
pub(super) struct Lives<'a> {
    by_write: BTreeMap<(&'a str, u64), Life>,
}

/// That a lease lives, as an answer promised.
struct Promise {
    call: u64,
    /// When the call was made, and when it was answered.
    from: u64,
    answered: u64,
    until: u64,
    is_grant: bool,
}

/// Something ended by time, as it was told first.
struct Expiry<'h> {
    at: u64,
    revision: u64,
    keys: &'h [String],
    leases: &'h [u64],
}

impl<'a> Lives<'a> {
    /// What the writes say.
    pub(super) fn of(calls: &Calls<'a>, ledger: &Ledger<'a>, timeline: &Timeline<'a>) -> Self {
        let mut lives = Self { by_write: BTreeMap::new() };
        for (&revision, write) in &ledger.writes {
            let call = write.call.map(|place| &calls.list[place]);
            for (key, value) in write.changes.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))) {
                let view = timeline.view(key, revision - 1);
                let before = view.written().and(view.last).map(|touch| lives.life(key, touch.revision));
                let life = match call {
                    Some(call) if !write.is_guess => life_by(calls, call, key, value, before),
                    _ => Life { is_open: true, ..Life::default() },
                };
                if life != Life::default() {
                    lives.by_write.insert((key, revision), life);
                }
            }
        }
        lives
    }

    /// The lease that a key ends with which was written at this revision; 0: none. `None`: nobody knows.
    pub(super) fn lease(&self, key: &str, written: u64) -> Option<u64> {
        let life = self.life(key, written);
        (!life.is_open).then_some(life.lease)
    }

    /// The keys that end with a lease, in a view. `None`: that is not known.
    pub(super) fn keys_of(&self, timeline: &Timeline<'a>, lease: u64, revision: u64) -> Option<Vec<&'a str>> {
        let mut keys = Vec::new();
        for key in timeline.keys_from("") {
            let view = timeline.view(key, revision);
            if let Some(touch) = view.written().and(view.last)
                && self.lease(key, touch.revision)? == lease
            {
                keys.push(key);
            }
        }
        Some(keys)
    }

    fn life(&self, key: &str, written: u64) -> Life {
        self.by_write.get(&(key, written)).copied().unwrap_or_default()
    }
}

/// How a key ends that this call has given this value.
fn life_by(calls: &Calls<'_>, call: &Call<'_>, key: &str, value: &str, before: Option<Life>) -> Life {
    let ttl = |milliseconds: u64| {
        let until = call.at + calls.clocks.least(milliseconds);
        (milliseconds > 0).then_some(Ttl { call: call.id, until })
    };
    if let Op::Increment { ttl_ms, .. } = call.op {
        return before.unwrap_or(Life { ttl: ttl(*ttl_ms), ..Life::default() });
    }
    let is_it = |set: &&Set| set.key == key && (set.keep_value || set.value == value);
    match call.sets().into_iter().find(is_it) {
        Some(set) if set.keep_ttl => before.unwrap_or_default(),
        Some(set) => Life { lease: set.lease, ttl: ttl(set.ttl_ms), is_open: false },
        None => Life::default(),
    }
}

/// Judges what ended by time, and what was said of leases.
pub(super) fn check(
    history: &History,
    calls: &Calls<'_>,
    timeline: &Timeline<'_>,
    lives: &Lives<'_>,
) -> Result<(), Violation> {
    let promises = promises(calls);
    let expiries = expiries(history);
    for expiry in &expiries {
        check_keys(expiry, timeline, lives)?;
        for lease in expiry.leases {
            check_lease(expiry, *lease, &promises)?;
        }
    }
    for call in &calls.list {
        check_life_of_lease(call, calls, &expiries, &promises)?;
    }
    Ok(())
}

/// What time deleted had to be deleted, and all of it that belongs together.
fn check_keys(expiry: &Expiry<'_>, timeline: &Timeline<'_>, lives: &Lives<'_>) -> Result<(), Violation> {
    let Expiry { at, revision, keys, leases } = *expiry;
    // Without keys it takes no revision.
    let before = if keys.is_empty() { revision } else { revision - 1 };
    let mut expected: BTreeSet<&str> = BTreeSet::new();
    for lease in leases {
        let Some(keys) = lives.keys_of(timeline, *lease, before) else { return Ok(()) };
        expected.extend(keys);
    }
    for key in keys {
        let view = timeline.view(key, before);
        let Some(touch) = view.last.filter(|touch| touch.written.is_some()) else { continue };
        let Life { ttl, is_open, .. } = lives.life(key, touch.revision);
        if is_open {
            expected.insert(key);
        }
        if let Some(Ttl { call, until }) = ttl {
            if until > at {
                return Err(Violation::KeyEndsEarly { key: key.clone(), revision, call, at, until });
            }
            expected.insert(key);
        }
    }
    let found: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
    if expected != found {
        let gone = |keys: BTreeSet<&str>| describe(&keys.into_iter().map(|key| (key, None)).collect::<Changes<'_>>());
        return Err(Violation::WrongExpiry { revision, expected: gone(expected), found: gone(found) });
    }
    Ok(())
}

fn check_lease(expiry: &Expiry<'_>, lease: u64, promises: &BTreeMap<u64, Vec<Promise>>) -> Result<(), Violation> {
    let promises = promises.get(&lease).map_or(&[][..], Vec::as_slice);
    // What was promised after the end is of another lease with this id, if there was one.
    let is_of_another = |promise: &Promise| promise.from > expiry.at && grants(promises) > 1;
    let is_broken = |promise: &&Promise| promise.until > expiry.at && !is_of_another(promise);
    match promises.iter().find(is_broken) {
        Some(Promise { call, until, .. }) => {
            let (revision, at) = (expiry.revision, expiry.at);
            Err(Violation::LeaseEndsEarly { lease, revision, call: *call, at, until: *until })
        }
        None => Ok(()),
    }
}

/// A lease is there as long as it was promised, unless somebody revokes it, and not any more after its end.
fn check_life_of_lease(
    call: &Call<'_>,
    calls: &Calls<'_>,
    expiries: &[Expiry<'_>],
    promises: &BTreeMap<u64, Vec<Promise>>,
) -> Result<(), Violation> {
    let (Some(answered), Some(returned)) = (call.answered(), call.returned) else { return Ok(()) };
    let (Op::KeepAlive { lease } | Op::GetLease { lease } | Op::RevokeLease { lease }) = call.op else { return Ok(()) };
    let promises = promises.get(lease).map_or(&[][..], Vec::as_slice);
    let revocations =
        || calls.list.iter().filter(|other| matches!(other.op, Op::RevokeLease { lease: of } if of == lease));
    if *answered.answer == Answer::NoLease {
        let is_revoked = revocations().any(|other| other.id != call.id && other.at <= returned);
        let holds = |promise: &&Promise| promise.answered < call.at && promise.until > returned;
        return match promises.iter().find(holds).filter(|_| !is_revoked) {
            Some(promise) => Err(Violation::LeaseMissing { call: call.id, lease: *lease, by: promise.call }),
            None => Ok(()),
        };
    }
    let expired = expiries.iter().filter(|expiry| expiry.leases.contains(lease)).map(|expiry| expiry.at);
    let is_end = |other: &&Call<'_>| {
        let answer = other.answered().map(|answered| answered.answer);
        other.id != call.id && matches!(answer, Some(Answer::RevokeLease { .. }))
    };
    let ends = expired.chain(revocations().filter(is_end).filter_map(|other| other.returned));
    let is_unique = grants(promises) == 1 && !may_be_granted(calls, *lease);
    match ends.filter(|end| *end < call.at && is_unique).max() {
        Some(ended) => Err(Violation::LeaseLivesOn { call: call.id, lease: *lease, ended }),
        None => Ok(()),
    }
}

/// How many leases are known to have had this id.
fn grants(promises: &[Promise]) -> usize {
    promises.iter().filter(|promise| promise.is_grant).count()
}

/// Whether a grant may have made this lease of which nobody knows anything.
fn may_be_granted(calls: &Calls<'_>, lease: u64) -> bool {
    let may = |call: &Call<'_>| matches!(call.op, Op::GrantLease { lease: id, .. } if *id == 0 || *id == lease);
    calls.list.iter().any(|call| call.is_unknown() && may(call))
}

fn promises(calls: &Calls<'_>) -> BTreeMap<u64, Vec<Promise>> {
    let mut promises: BTreeMap<u64, Vec<Promise>> = BTreeMap::new();
    for call in &calls.list {
        let (Some(said), Some(answered)) = (call.answered(), call.returned) else { continue };
        let (lease, ttl_ms, is_grant) = match (call.op, said.answer) {
            (Op::GrantLease { ttl_ms, .. }, Answer::GrantLease { lease, .. }) => (*lease, *ttl_ms, true),
            (Op::KeepAlive { lease }, Answer::KeepAlive { ttl_ms }) => (*lease, *ttl_ms, false),
            _ => continue,
        };
        let until = call.at + calls.clocks.least(ttl_ms);
        promises.entry(lease).or_default().push(Promise { call: call.id, from: call.at, answered, until, is_grant });
    }
    promises
}

/// What ended by time, each as it was told first.
fn expiries(history: &History) -> Vec<Expiry<'_>> {
    let mut first: BTreeMap<(u64, &[String], &[u64]), u64> = BTreeMap::new();
    for event in &history.events {
        if let Event::Expiry { at, revision, keys, leases, .. } = event {
            let known = first.entry((*revision, keys, leases)).or_insert(*at);
            *known = (*known).min(*at);
        }
    }
    first.into_iter().map(|((revision, keys, leases), at)| Expiry { at, revision, keys, leases }).collect()
}
