//! The keeper against scripts, and against a model in which every promise is written down.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::core::{Keeper, Renewal};
use crate::store::{Lease, LogTime};

const TTL: u64 = 10_000;

fn ms(millis: u64) -> LogTime {
    LogTime::from_millis(millis)
}

/// As granted at this time.
fn lease(id: u64, granted: u64) -> Lease {
    Lease { id, ttl: Duration::from_millis(TTL), deadline: ms(granted + TTL), keys: 0 }
}

#[test]
fn a_lease_that_nobody_keeps_is_doomed_at_its_deadline() {
    let state = |id| Some(lease(id, 0));
    let mut keeper = Keeper::begin(1, ms(0), []);
    keeper.learn(&lease(7, 0));
    assert_eq!(keeper.next_due(), Some(ms(10_000)));
    assert!(keeper.doom_due(ms(9_999), 10, state).is_empty());
    assert_eq!(keeper.doom_due(ms(10_000), 10, state), [7]);
    assert_eq!(keeper.renew(&lease(7, 0), ms(10_001)), Renewal::Doomed);
    assert_eq!(keeper.doom_due(ms(10_001), 10, state), [7], "until it is known to be gone");
    keeper.forget(7);
    assert!(keeper.is_empty() && keeper.next_due().is_none());
}

#[test]
fn a_renewal_counts_from_its_own_time_and_never_shortens() {
    let state = |id| Some(lease(id, 0));
    let mut keeper = Keeper::begin(1, ms(0), [lease(7, 0)]);
    assert_eq!(keeper.renew(&lease(7, 0), ms(9_999)), Renewal::Renewed);
    assert!(keeper.doom_due(ms(19_998), 10, state).is_empty());
    assert_eq!(keeper.renew(&lease(7, 0), ms(1)), Renewal::Renewed);
    assert_eq!(keeper.deadline(&lease(7, 0)), ms(19_999));
    assert_eq!(keeper.doom_due(ms(19_999), 10, state), [7]);
}

#[test]
fn a_new_leader_renews_what_it_finds() {
    let keeper = Keeper::begin(2, ms(9_000), [lease(7, 0), lease(8, 5_000)]);
    assert_eq!(keeper.deadline(&lease(7, 0)), ms(19_000));
    assert_eq!(keeper.deadline(&lease(8, 5_000)), ms(19_000));
}

#[test]
fn a_revocation_that_had_no_effect_spares() {
    let state = |id| Some(lease(id, 0));
    let mut keeper = Keeper::begin(1, ms(0), [lease(7, 0)]);
    assert_eq!(keeper.doom_due(ms(10_000), 10, state), [7]);
    keeper.spare(&[7]);
    assert_eq!(keeper.renew(&lease(7, 0), ms(10_010)), Renewal::Renewed);
    assert!(keeper.doom_due(ms(20_009), 10, state).is_empty());
}

#[test]
fn an_id_that_is_granted_again_is_another_lease() {
    let mut keeper = Keeper::begin(1, ms(0), [lease(7, 0)]);
    let again = lease(7, 9_000);
    assert!(keeper.doom_due(ms(10_000), 10, |_| Some(again)).is_empty());
    assert_eq!(keeper.next_due(), Some(ms(19_000)));
    assert_eq!(keeper.deadline(&again), ms(19_000));
    // One that was doomed as another one is not.
    assert_eq!(keeper.doom_due(ms(19_000), 10, |_| Some(again)), [7]);
    assert_eq!(keeper.renew(&lease(7, 19_500), ms(19_600)), Renewal::Renewed);
}

#[test]
fn revoked_leases_are_not_kept_for_ever() {
    let mut keeper = Keeper::begin(1, ms(0), (0..100).map(|id| lease(id, 0)));
    keeper.retain(|id| (id % 2 == 0).then(|| lease(id, 0)));
    assert_eq!(keeper.len(), 50);
    assert!(keeper.doom_due(ms(10_000), 100, |_| None).is_empty());
    assert!(keeper.is_empty());
}

#[test]
fn few_are_doomed_at_a_time() {
    let state = |id| Some(lease(id, 0));
    let mut keeper = Keeper::begin(1, ms(0), (0..100).map(|id| lease(id, 0)));
    assert_eq!(keeper.doom_due(ms(10_000), 3, state), [0, 1, 2]);
    assert_eq!(keeper.doom_due(ms(10_000), 3, state), [0, 1, 2]);
    assert_eq!(keeper.renew(&lease(3, 0), ms(10_000)), Renewal::Renewed, "it is not doomed yet");
    [0, 1, 2].into_iter().for_each(|id| keeper.forget(id));
    assert_eq!(keeper.doom_due(ms(10_000), 3, state), [4, 5, 6]);
}

/// What may happen to a cluster's leases.
#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Grant(u64, u64),
    Revoke(u64),
    KeepAlive(u64),
    /// Another leader takes over, after a while without one.
    Elect(u64),
    /// The leader looks what is due; whether the revocation takes effect, had none, or is not known.
    Look(Option<bool>),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 1..5_u64;
    prop_oneof![
        4 => (0..3_000_u64).prop_map(Step::Pass),
        2 => (id.clone(), 1..9_000_u64).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => id.clone().prop_map(Step::Revoke),
        3 => id.prop_map(Step::KeepAlive),
        1 => (0..5_000_u64).prop_map(Step::Elect),
        4 => prop_oneof![Just(Some(true)), Just(Some(false)), Just(None)].prop_map(Step::Look),
    ]
}

/// All that a client was told, in real time.
#[derive(Default)]
struct Model {
    /// The state.
    leases: BTreeMap<u64, Lease>,
    /// Until when each lives at least, and at most (if looked at).
    promised: BTreeMap<u64, u64>,
    real: u64,
    log_time: u64,
}

proptest! {
    #[test]
    fn no_lease_ends_before_what_was_promised(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::default();
        let mut keeper = Keeper::begin(1, ms(0), []);
        let mut term = 1;
        for step in steps {
            let now = ms(model.log_time);
            match step {
                Step::Pass(millis) => (model.real, model.log_time) = (model.real + millis, model.log_time + millis),
                Step::Grant(id, ttl) if !model.leases.contains_key(&id) => {
                    let ttl = Duration::from_millis(ttl);
                    let lease = Lease { id, ttl, deadline: now + ttl, keys: 0 };
                    model.leases.insert(id, lease);
                    model.promised.insert(id, model.real + u64::try_from(ttl.as_millis()).unwrap());
                    keeper.learn(&lease);
                }
                Step::Grant(..) => {}
                Step::Revoke(id) => { model.leases.remove(&id); }
                Step::KeepAlive(id) => {
                    let Some(lease) = model.leases.get(&id) else { continue };
                    if keeper.renew(lease, now) == Renewal::Renewed {
                        model.promised.insert(id, model.real + u64::try_from(lease.ttl.as_millis()).unwrap());
                    }
                }
                Step::Elect(outage) => {
                    // Log time stands still meanwhile.
                    (model.real, term) = (model.real + outage, term + 1);
                    keeper = Keeper::begin(term, now, model.leases.values().copied());
                }
                Step::Look(fate) => {
                    let doomed = keeper.doom_due(now, 2, |id| model.leases.get(&id).copied());
                    prop_assert!(doomed.len() <= 2);
                    for id in &doomed {
                        if model.leases.contains_key(id) {
                            prop_assert!(model.promised[id] <= model.real, "lease {id} ends early");
                        }
                    }
                    match fate {
                        Some(true) => doomed.iter().for_each(|id| {
                            model.leases.remove(id);
                            keeper.forget(*id);
                        }),
                        Some(false) => keeper.spare(&doomed),
                        None => {}
                    }
                }
            }
        }
        // None lives for ever, either.
        let end = ms(model.log_time + 20_000);
        for _ in 0..10 {
            for id in keeper.doom_due(end, 2, |id| model.leases.get(&id).copied()) {
                model.leases.remove(&id);
                keeper.forget(id);
            }
        }
        prop_assert!(model.leases.is_empty() && keeper.is_empty());
    }
}
