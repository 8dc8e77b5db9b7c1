//! Each rule by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use super::model::{OURS, World, addr, name};
use crate::discovery::PeerState;
use crate::raft::MembersState;
use crate::raft::types::{MemberInfo, NodeId};
use crate::reconcile::{Change, Waiting};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(600);

fn ids(ids: &[NodeId]) -> BTreeSet<NodeId> {
    ids.iter().copied().collect()
}

fn voters(promote: &[NodeId], demote: &[NodeId], remove: &[NodeId]) -> Option<Change> {
    Some(Change::Voters { promote: ids(promote), demote: ids(demote), remove: ids(remove) })
}

#[test]
fn a_cluster_grows_by_odd_numbers_of_voters_up_to_the_cap() {
    let mut world = World::new(&[1]);
    assert_eq!(world.change(), None);
    for (node, votes) in [(2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (8, 7), (9, 7)] {
        world.up(node);
        world.pass(SECOND);
        world.settle();
        assert_eq!((world.members.len() as NodeId, world.voters().len()), (node, votes));
    }
    assert_eq!(world.learners(), [8, 9]);
}

#[test]
fn a_node_votes_when_it_has_the_data_and_is_stable_and_those_that_come_together_get_votes_together() {
    let mut world = World::new(&[1]);
    (2..=3).for_each(|node| world.up(node));
    assert_eq!(world.change(), Some(Change::AddLearner(2, MemberInfo { name: name(2), rpc_addr: addr(2) })));
    world.settle();
    assert_eq!(world.learners(), [2, 3], "they came just now");
    world.pass(SECOND);
    world.behind.insert(3);
    assert_eq!(world.change(), None, "one more would be an even number");
    world.behind.clear();
    world.silent.insert(3, world.now - MINUTE);
    assert_eq!(world.change(), None, "the leader does not hear of it");
    world.silent.clear();
    assert_eq!(world.change(), voters(&[2, 3], &[], &[]));
}

#[test]
fn who_has_left_is_removed_at_once_unless_the_rest_has_no_quorum() {
    let mut world = World::new(&[1, 2, 3, 4, 5]);
    world.set_state(5, PeerState::Leaving);
    assert_eq!(world.change(), None, "it is a member until it has left");
    world.set_state(5, PeerState::Left);
    assert_eq!(world.change(), voters(&[], &[4], &[5]), "and the voters stay odd");
    world.settle();
    assert_eq!((world.voters(), world.learners()), (vec![1, 2, 3], vec![4]));

    // The learner is there to take the place of the next.
    world.set_state(3, PeerState::Left);
    assert_eq!(world.change(), voters(&[4], &[], &[3]));
    world.settle();
    world.set_state(2, PeerState::Failed);
    world.set_state(4, PeerState::Left);
    // It is still there to agree, but the rest would have no quorum.
    world.silent.remove(&4);
    world.pass(3 * SECOND);
    let plan = world.plan();
    assert_eq!(plan.change, None);
    assert_eq!(plan.waiting, BTreeSet::from([Waiting::NoQuorumWithout(vec![name(4)])]));
}

#[test]
fn who_is_about_to_leave_or_has_just_gone_counts_for_nothing() {
    let mut world = World::new(&[1, 2, 3]);
    world.set_state(2, PeerState::Leaving);
    world.set_state(3, PeerState::Left);
    // Both still answer.
    world.silent.clear();
    world.pass(SECOND);
    let plan = world.plan();
    assert_eq!((plan.change, plan.waiting), (None, BTreeSet::from([Waiting::NoQuorumWithout(vec![name(3)])])));

    // The leader heard of all of them a moment ago, but not since gossip said that they are gone.
    let mut world = World::new(&[1, 2, 3, 4, 5]);
    world.set_state(3, PeerState::Failed);
    [4, 5].iter().for_each(|node| world.set_state(*node, PeerState::Left));
    assert_eq!(world.change(), None, "two of five can't agree on it");
}

#[test]
fn of_an_even_number_the_one_that_is_not_healthy_loses_its_vote() {
    let mut world = World::new(&[1, 2, 3, 4]);
    world.set_state(2, PeerState::Failed);
    assert_eq!(world.change(), voters(&[], &[2], &[]));
}

#[test]
fn a_node_that_could_not_be_taken_in_does_not_hold_up_others() {
    let mut world = World::new(&[1]);
    (2..=3).for_each(|node| world.up(node));
    world.deferred.insert(2);
    assert_eq!(world.change(), Some(Change::AddLearner(3, MemberInfo { name: name(3), rpc_addr: addr(3) })));
}

#[test]
fn two_nodes_are_one_voter_and_one_learner() {
    let mut world = World::new(&[1, 2]);
    assert_eq!(world.change(), voters(&[], &[2], &[]));
    world.leader = 2;
    assert_eq!(world.change(), voters(&[], &[1], &[]), "never the leader");
}

#[test]
fn who_has_failed_keeps_its_place_for_a_while_and_longer_if_too_few_would_be_left() {
    let mut world = World::new(&[1, 2, 3, 4, 5]);
    world.set_state(5, PeerState::Failed);
    world.pass(GRACE - SECOND);
    assert_eq!(world.change(), None);
    world.pass(SECOND);
    assert_eq!(world.change(), voters(&[], &[4], &[5]));
    let mut never = World::new(&[1, 2, 3, 4, 5]);
    never.policy.failed_grace = None;
    never.set_state(5, PeerState::Failed);
    never.pass(1000 * GRACE);
    assert_eq!(never.change(), None);

    // The leader hears of it: it is gossip that does not get through.
    world.silent.remove(&5);
    assert_eq!(world.change(), None);

    let mut three = World::new(&[1, 2, 3]);
    three.set_state(3, PeerState::Failed);
    three.pass(2 * GRACE);
    let plan = three.plan();
    assert_eq!((plan.change, plan.waiting), (None, BTreeSet::from([Waiting::TooFewWithout(vec![name(3)])])));
    // Until another one can take its place.
    three.up(4);
    three.pass(SECOND);
    let added = three.change().expect("a learner");
    three.apply(&added);
    assert_eq!(three.change(), voters(&[4], &[], &[3]));
}

#[test]
fn a_member_that_gossip_has_forgotten_has_failed_since_it_was_missed() {
    let mut world = World::new(&[1, 2, 3, 4, 5]);
    world.set_state(5, PeerState::Failed);
    world.pass(GRACE - SECOND);
    world.peers.remove(&name(5));
    world.pass(2 * SECOND);
    assert_eq!(world.change(), None, "it is missed only now");
    world.pass(GRACE);
    assert_eq!(world.change(), voters(&[], &[4], &[5]));
}

#[test]
fn what_gossip_has_never_shown_is_left_alone() {
    let mut world = World::new(&[1, 2, 3, 4]);
    for node in [3, 4] {
        world.peers.remove(&name(node));
    }
    world.sightings.clear();
    assert_eq!(world.change(), voters(&[], &[2], &[]), "of those that gossip knows one becomes a learner");
    world.settle();
    world.silent.insert(4, world.now);
    world.pass(10 * GRACE);
    assert_eq!(world.change(), None);
    // Without gossip nothing is done at all.
    let mut without = World::new(&[1, 2]);
    assert_eq!(without.plan_with(false).change, None);
}

#[test]
fn a_node_that_lost_its_disk_replaces_its_former_self_in_one_step() {
    let mut world = World::new(&[1, 2, 3]);
    world.silent.insert(3, world.now - MINUTE);
    world.up_as(30, &name(3));
    world.behind.insert(30);
    let info = MemberInfo { name: name(3), rpc_addr: addr(30) };
    assert_eq!(world.change(), Some(Change::AddLearner(30, info)));
    world.settle();
    assert_eq!((world.voters(), world.learners()), (vec![1, 2, 3], vec![30]), "first it has to catch up");
    world.behind.clear();
    world.pass(SECOND);
    assert_eq!(world.change(), voters(&[30], &[], &[3]));
    world.settle();
    assert_eq!((world.voters(), world.learners()), (vec![1, 2, 30], vec![]));

    // With a learner that waits for a vote, too: the place is its successor's.
    world.up(10);
    world.pass(SECOND);
    world.settle();
    assert_eq!(world.learners(), [10]);
    world.silent.insert(2, world.now - MINUTE);
    world.up_as(20, &name(2));
    world.settle();
    world.pass(SECOND);
    assert_eq!(world.change(), voters(&[20], &[], &[2]));
    world.settle();
    world.silent.insert(10, world.now);
    world.set_state(10, PeerState::Left);
    world.settle();

    // A former learner just goes.
    world.up(4);
    world.settle();
    world.silent.insert(4, world.now - MINUTE);
    world.up_as(40, &name(4));
    assert_eq!(world.change(), Some(Change::RemoveLearner(4)));
    world.settle();
    assert_eq!(world.learners(), [40]);
}

#[test]
fn a_second_node_of_a_name_does_not_push_out_one_that_is_up() {
    let mut world = World::new(&[1, 2, 3]);
    world.up_as(30, &name(3));
    world.pass(MINUTE);
    let plan = world.plan();
    assert_eq!((plan.change, plan.waiting), (None, BTreeSet::from([Waiting::NameTaken(name(3))])));
}

#[test]
fn an_address_follows_its_node() {
    let mut world = World::new(&[1, 2, 3]);
    world.tags(2).rpc_addr = "elsewhere:8400".into();
    let info = MemberInfo { name: name(2), rpc_addr: "elsewhere:8400".into() };
    assert_eq!(world.change(), Some(Change::UpdateInfo(2, info)));
    world.deferred.insert(2);
    assert_eq!(world.change(), None, "it did not answer there");
    world.deferred.clear();
    // A copy of its directory: which one is it?
    let mut copy = world.peers[&name(2)].clone();
    copy.name = "copy".into();
    world.peers.insert("copy".into(), copy);
    let plan = world.plan();
    assert_eq!(plan.waiting, BTreeSet::from([Waiting::SameIdentity(vec!["copy".into(), name(2)])]));
    assert_eq!(plan.change, None);
    // It was started under another name.
    world.peers.get_mut(&name(2)).expect("peer").state = PeerState::Failed;
    let info = MemberInfo { name: "copy".into(), rpc_addr: "elsewhere:8400".into() };
    assert_eq!(world.change(), Some(Change::UpdateInfo(2, info)));
    world.settle();
    assert_eq!(world.change(), None);
}

#[test]
fn strangers_are_never_members() {
    let mut world = World::new(&[1, 2, 3]);
    (4..=6).for_each(|node| world.up(node));
    world.tags(4).cluster_id = Some("theirs".into());
    world.peers.get_mut(&name(5)).expect("peer").tags = None;
    world.set_state(6, PeerState::Leaving);
    world.pass(MINUTE);
    let plan = world.plan();
    assert_eq!(plan.change, None);
    let other = Waiting::OtherCluster { name: name(4), theirs: "theirs".into(), ours: OURS.into() };
    assert!(other.to_string().contains("n4 belongs to cluster theirs, this is cluster ours"), "{other}");
    assert_eq!(plan.waiting, BTreeSet::from([other]));
}

#[test]
fn a_member_that_was_away_for_long_is_welcome_back() {
    let mut world = World::new(&[1, 2, 3, 4, 5]);
    world.set_state(5, PeerState::Failed);
    world.pass(GRACE);
    world.settle();
    assert_eq!((world.voters(), world.learners()), (vec![1, 2, 3], vec![4]));
    world.set_state(5, PeerState::Alive);
    world.pass(SECOND);
    world.settle();
    assert_eq!(world.voters(), [1, 2, 3, 4, 5]);
}

#[test]
fn an_interrupted_change_is_finished_first() {
    let mut world = World::new(&[1, 2, 3]);
    world.up(4);
    world.state = MembersState::Joint { leaving: ids(&[3]) };
    let finish = |keep_removed| Some(Change::FinishJoint { keep_removed });
    assert_eq!(world.change(), finish(true), "it is up: it can still be removed");
    assert_eq!(world.plan_with(false).change, finish(false), "an operator began it");
    world.set_state(3, PeerState::Left);
    assert_eq!(world.change(), finish(false));
    world.state = MembersState::Uncommitted;
    assert_eq!(world.change(), None, "it may yet be undone");
}

#[test]
fn a_leader_that_has_left_hands_over_first() {
    let mut world = World::new(&[1, 2, 3]);
    world.set_state(1, PeerState::Left);
    world.silent.clear();
    assert_eq!(world.change(), Some(Change::HandOver));
    world.leader = 2;
    assert_eq!(world.change(), voters(&[], &[3], &[1]));
}

#[test]
fn nothing_is_planned_without_a_majority() {
    let mut world = World::new(&[1, 2, 3]);
    world.up(4);
    world.set_state(2, PeerState::Failed);
    world.set_state(3, PeerState::Left);
    world.pass(2 * GRACE);
    let plan = world.plan();
    assert_eq!(plan.change, None);
    assert_eq!(plan.waiting, BTreeSet::from([Waiting::NoQuorumWithout(vec![name(2), name(3)])]));
}

/// Scenario 29.
#[test]
fn s29_two_of_five_fail_and_one_flaps() {
    let mut world = World::new(&[1, 2, 3, 4, 5]);
    for node in [4, 5] {
        world.set_state(node, PeerState::Failed);
    }
    let began = world.now;
    let mut removed_at = None;
    while world.now - began < 2 * GRACE {
        for state in [PeerState::Failed, PeerState::Alive] {
            world.set_state(3, state);
            world.pass(7 * SECOND);
            let quorum = world.voters().len() / 2 + 1;
            let healthy = world.voters().into_iter().filter(|id| world.is_healthy(*id)).count();
            match world.change() {
                None => {}
                Some(change) => {
                    assert!(healthy >= quorum, "{healthy} of {quorum} when {change:?}");
                    assert_eq!((removed_at, Some(&change)), (None, voters(&[], &[], &[4, 5]).as_ref()));
                    removed_at = Some(world.now - began);
                    world.apply(&change);
                }
            }
        }
    }
    let removed_at = removed_at.expect("removed in the end");
    assert!(removed_at >= GRACE && removed_at < GRACE + MINUTE, "{removed_at:?}");
    assert_eq!(world.voters(), [1, 2, 3]);
}
