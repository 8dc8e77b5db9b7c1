//! Who comes, who goes, and what the others make of it.

use std::time::Duration;

use mokv_serf::serf::{Event, SendError, Status, TAGS_BYTES_MAX};
use mokv_serf::wire::memberlist::{PushPull, StreamMessage};
use mokv_serf::wire::serf::{self as wire, LeaveIntent, Message, Tags};
use rand::RngExt;

use crate::pool::{Pool, codecs, secs, seeds};

/// Each node joins some other one, whichever is up, while datagrams get lost.
#[test]
fn nodes_join_in_any_order() {
    for seed in seeds(20) {
        let mut pool = Pool::new(seed);
        let codecs = codecs();
        pool.codec = codecs[seed as usize % codecs.len()].1.clone();
        let size = pool.rng.random_range(2..=30);
        pool.loss = pool.rng.random_range(0.0..0.1);
        for i in 0..size {
            pool.start(i);
        }
        for i in 0..size {
            // Some join one that has not joined itself; together they are connected all the same.
            let other = if i == 0 { size - 1 } else { pool.rng.random_range(0..i) };
            pool.join(i, other);
            let pause = Duration::from_millis(pool.rng.random_range(0..2000));
            pool.run(pause);
        }
        let names = pool.names();
        pool.wait("all to know all", |pool| pool.agrees(Status::Alive, &names));
        for node in pool.nodes() {
            assert!(node.said.joins.iter().all(Result::is_ok));
            for name in &names {
                assert!(node.heard(Event::Joined, name) >= 1);
                assert!(node.member(name).expect("known").tags.contains_key(&"rpc_addr".into()));
            }
        }
    }
}

#[test]
fn a_node_that_leaves_is_left_and_never_failed() {
    for seed in seeds(20) {
        for size in [2, 3, 12] {
            let mut pool = Pool::formed(seed, size);
            pool.loss = if seed % 2 == 0 { 0.0 } else { 0.05 };
            pool.act(1, |serf, now| serf.leave(now));
            pool.wait_for(secs(12), "the goodbye", |pool| pool.node(1).said.left);
            let gone = pool.kill(1);
            assert_eq!(gone.heard(Event::Left, "n1"), 1, "of itself");
            pool.wait("the others to know", |pool| pool.others_have(1, Some(Status::Left)));
            pool.run(secs(60));
            for node in pool.nodes() {
                // Of some the goodbye comes first: gossip has no order.
                assert!(node.heard(Event::Leaving, "n1") <= 1);
                assert_eq!(node.heard(Event::Left, "n1"), 1);
                assert_eq!(node.heard(Event::Failed, "n1"), 0);
            }
        }
    }
}

#[test]
fn a_node_that_leaves_tells_so_before_it_says_goodbye() {
    let mut pool = Pool::formed(0, 3);
    let began = pool.now;
    pool.act(1, |serf, now| serf.leave(now));
    pool.wait("the others to hear", |pool| pool.others_have(1, Some(Status::Leaving)));
    assert_eq!(pool.node(1).status("n1"), Some(Status::Leaving));
    pool.wait("the goodbye", |pool| pool.node(1).said.left);
    assert!(pool.now - began >= secs(1), "it stays for the word to spread");
    assert!(pool.now - began < secs(4));
}

#[test]
fn a_node_that_is_alone_or_cut_off_leaves_too() {
    let mut pool = Pool::formed(0, 1);
    pool.act(0, |serf, now| serf.leave(now));
    pool.wait_for(secs(1), "one that is alone to leave", |pool| pool.node(0).said.left);

    let mut pool = Pool::formed(0, 3);
    pool.cut(&[0], &[1, 2]);
    pool.act(0, |serf, now| serf.leave(now));
    pool.wait_for(secs(12), "one that is cut off to leave", |pool| pool.node(0).said.left);
}

#[test]
fn a_node_that_crashes_is_failed_and_alive_again_when_it_is_back() {
    for seed in seeds(10) {
        let mut pool = Pool::formed(seed, 5);
        pool.kill(2);
        pool.wait("the crash to be seen", |pool| pool.others_have(2, Some(Status::Failed)));
        pool.forget();
        pool.start(2);
        pool.join(2, 4);
        let names = pool.names();
        pool.wait("it to be back", |pool| pool.agrees(Status::Alive, &names));
        pool.run(secs(60));
        assert!(pool.agrees(Status::Alive, &names), "and to stay");
        for node in pool.nodes().filter(|node| node.serf.members().len() == 5) {
            assert_eq!(node.heard(Event::Failed, "n2"), 0);
        }
    }
}

/// What was said of the earlier run is newer than anything that the new one has said: it has to object.
#[test]
fn a_node_that_left_and_is_back_objects_to_its_old_goodbye() {
    for seed in seeds(10) {
        let mut pool = Pool::formed(seed, 4);
        pool.act(3, |serf, now| serf.leave(now));
        pool.wait("the goodbye", |pool| pool.node(3).said.left);
        pool.kill(3);
        pool.wait("the others to know", |pool| pool.others_have(3, Some(Status::Left)));
        pool.run(secs(5));
        pool.start(3);
        pool.join(3, 0);
        let names = pool.names();
        pool.wait("it to be back", |pool| pool.agrees(Status::Alive, &names));
        assert!(pool.node(3).serf.counters().intents_refuted >= 1);
        pool.run(secs(90));
        assert!(pool.agrees(Status::Alive, &names), "and to stay");
        let time = |i: usize| pool.node(i).member("n3").expect("known").time;
        assert_eq!([time(0), time(1), time(2)], [time(3); 3], "all have its last word");

        // And its next goodbye counts.
        pool.act(3, |serf, now| serf.leave(now));
        pool.wait("the next goodbye", |pool| pool.others_have(3, Some(Status::Left)));
    }
}

#[test]
fn a_failed_member_that_is_made_to_leave_has_left() {
    let mut pool = Pool::formed(0, 4);
    pool.kill(3);
    pool.wait("the crash to be seen", |pool| pool.others_have(3, Some(Status::Failed)));
    pool.act(0, |serf, now| serf.force_leave(now, &"n3".into(), false));
    pool.wait_for(secs(5), "all to take it for left", |pool| pool.others_have(3, Some(Status::Left)));
    for node in pool.nodes() {
        assert_eq!(node.heard(Event::Left, "n3"), 1);
    }

    // Back it is alive, as every node that left.
    pool.start(3);
    pool.join(3, 1);
    let names = pool.names();
    pool.wait("it to be back", |pool| pool.agrees(Status::Alive, &names));
}

#[test]
fn a_member_that_is_pruned_is_forgotten() {
    let mut pool = Pool::formed(0, 5);
    pool.kill(3);
    pool.act(4, |serf, now| serf.leave(now));
    pool.wait("the goodbye", |pool| pool.node(4).said.left);
    pool.kill(4);
    pool.wait("both to be seen", |pool| {
        pool.others_have(3, Some(Status::Failed)) && pool.others_have(4, Some(Status::Left))
    });
    for name in ["n3", "n4"] {
        pool.act(0, |serf, now| serf.force_leave(now, &name.into(), true));
    }
    pool.wait_for(secs(5), "all to forget them", |pool| pool.others_have(3, None) && pool.others_have(4, None));
    pool.run(secs(90));
    assert!(pool.others_have(3, None) && pool.others_have(4, None), "for good");
    for node in pool.nodes() {
        assert_eq!([node.heard(Event::Reaped, "n3"), node.heard(Event::Reaped, "n4")], [1, 1]);
    }
}

/// Somebody who is there can't be made to leave by others.
#[test]
fn a_member_that_is_alive_objects_to_being_made_to_leave() {
    for seed in seeds(10) {
        for prune in [false, true] {
            let mut pool = Pool::formed(seed, 4);
            pool.act(0, |serf, now| serf.force_leave(now, &"n2".into(), prune));
            assert_eq!(pool.node(0).status("n2"), Some(Status::Leaving));
            let names = pool.names();
            pool.wait("it to object", |pool| pool.agrees(Status::Alive, &names));
            pool.run(secs(60));
            assert!(pool.agrees(Status::Alive, &names), "and to stay");
            for node in pool.nodes() {
                assert_eq!(node.heard(Event::Left, "n2") + node.heard(Event::Reaped, "n2"), 0);
            }
        }
    }
}

/// Whoever heard the other word first takes one of the same time for the newer one.
#[test]
fn a_member_objects_to_a_word_as_new_as_its_own() {
    let mut pool = Pool::formed(0, 2);
    let time = pool.node(1).member("n1").expect("itself").time;
    for (leave, refuted) in [(time - 1, 0), (time, 1), (time, 1)] {
        pool.forge(1, &Message::Leave(LeaveIntent { time: leave, node: "n1".into(), prune: false }));
        pool.run(secs(1));
        assert_eq!(pool.node(1).serf.counters().intents_refuted, refuted);
    }
    assert!(pool.node(1).member("n1").expect("itself").time > time);
}

/// It never hears the intent itself, only that the others know something newer of it than its own word.
#[test]
fn a_member_objects_to_what_gossip_did_not_bring() {
    for seed in seeds(10) {
        let mut pool = Pool::formed(seed, 3);
        pool.cuts.extend([(Pool::addr(0), Pool::addr(1)), (Pool::addr(2), Pool::addr(1))]);
        pool.act(0, |serf, now| serf.force_leave(now, &"n1".into(), false));
        pool.wait_for(secs(2), "the others to hear", |pool| pool.others_have(1, Some(Status::Leaving)));
        pool.run(secs(1));
        pool.cuts.clear();
        let names = pool.names();
        pool.wait("it to object", |pool| pool.agrees(Status::Alive, &names));
    }
}

/// The others may know from memberlist alone that a node left, so that their time of it is the same.
#[test]
fn who_left_in_the_eyes_of_others_has_not_failed() {
    let mut pool = Pool::formed(0, 3);
    pool.kill(2);
    pool.wait("the crash to be seen", |pool| pool.others_have(2, Some(Status::Failed)));
    let time = pool.node(0).member("n2").expect("known").time;
    let theirs = wire::PushPull {
        status_times: [("n2".into(), time)].into(),
        left_members: vec!["n2".into()],
        ..wire::PushPull::default()
    };
    let user_state = Message::PushPull(theirs).encode();
    let state = PushPull { join: false, nodes: Vec::new(), user_state };
    let answer = pool.act(0, |serf, now| serf.answer(now, StreamMessage::PushPull(state)));
    assert!(answer.is_some());
    assert_eq!(pool.node(0).status("n2"), Some(Status::Left));
}

/// It is on its way out, and gets the time to go.
#[test]
fn a_leaving_member_that_is_pruned_is_forgotten_a_little_later() {
    let mut pool = Pool::formed(0, 3);
    pool.cut(&[2], &[0, 1]);
    let began = pool.now;
    pool.act(0, |serf, now| serf.force_leave(now, &"n2".into(), true));
    pool.wait("the others to know", |pool| pool.node(1).status("n2") == Some(Status::Leaving));
    pool.wait("them to forget it", |pool| pool.node(0).status("n2").is_none());
    assert!(pool.now - began >= secs(6));
    assert_eq!(pool.node(0).heard(Event::Failed, "n2"), 0);
}

#[test]
fn tags_reach_all() {
    let mut pool = Pool::formed(0, 6);
    let tags = Tags::from([("role".into(), "web".into())]);
    pool.act(2, |serf, now| serf.set_tags(now, tags.clone())).expect("small");
    assert_eq!(pool.node(2).heard(Event::Updated, "n2"), 1);
    pool.wait_for(secs(5), "the tags", |pool| {
        pool.nodes().all(|node| node.member("n2").is_some_and(|member| member.tags == tags))
    });
    for node in pool.nodes() {
        assert_eq!(node.heard(Event::Updated, "n2"), 1);
    }

    let large = Tags::from([("role".into(), "x".repeat(TAGS_BYTES_MAX).into())]);
    let refused = pool.act(2, |serf, now| serf.set_tags(now, large));
    assert!(matches!(refused, Err(SendError::TooLarge { max: TAGS_BYTES_MAX, .. })));
    assert_eq!(pool.node(2).member("n2").expect("itself").tags, tags);
}

#[test]
fn who_is_gone_for_long_is_forgotten() {
    let mut pool = Pool::new(0);
    pool.adjust = |config| {
        config.reconnect_timeout = secs(100);
        config.tombstone_timeout = secs(300);
    };
    pool.form(4);
    pool.act(3, |serf, now| serf.leave(now));
    pool.kill(2);
    pool.wait("the goodbye", |pool| pool.node(3).said.left);
    pool.kill(3);
    pool.wait("the crash to be seen", |pool| pool.others_have(2, Some(Status::Failed)));
    pool.run(secs(80));
    assert!(pool.others_have(2, Some(Status::Failed)) && pool.others_have(3, Some(Status::Left)));
    pool.wait_for(secs(40), "the failed one to be forgotten", |pool| pool.others_have(2, None));
    pool.run(secs(100));
    assert!(pool.others_have(3, Some(Status::Left)));
    pool.wait_for(secs(160), "the other one to be forgotten", |pool| pool.others_have(3, None));
    for node in pool.nodes() {
        assert_eq!([node.heard(Event::Reaped, "n2"), node.heard(Event::Reaped, "n3")], [1, 1]);
    }
}

/// memberlist forgets a dead node after a while; Serf goes on looking for it.
#[test]
fn halves_of_a_pool_find_each_other_after_a_long_partition() {
    for seed in seeds(5) {
        let mut pool = Pool::formed(seed, 6);
        pool.cut(&[0, 1, 2], &[3, 4, 5]);
        pool.wait("the halves to lose each other", |pool| {
            [0, 1, 2].iter().all(|i| pool.node(*i).with(Status::Failed).len() == 3)
                && [3, 4, 5].iter().all(|i| pool.node(*i).with(Status::Failed).len() == 3)
        });
        pool.run(secs(300));
        pool.cuts.clear();
        let names = pool.names();
        pool.wait("the halves to find each other", |pool| pool.agrees(Status::Alive, &names));
        let reconnects: u64 = pool.nodes().map(|node| node.serf.counters().reconnects).sum();
        assert!(reconnects > 0);
        assert!(pool.nodes().all(|node| node.said.joins.is_empty()), "nobody asked for it");
    }
}

/// A leave intent may come before the word that the node is there.
#[test]
fn an_intent_that_comes_first_is_remembered_for_a_while() {
    for (wait, expected) in [(secs(60), Status::Leaving), (secs(400), Status::Alive)] {
        let mut pool = Pool::formed(0, 2);
        // Nobody objects: the newcomer is not told.
        pool.start(2);
        let intent = LeaveIntent { time: 100, node: "n2".into(), prune: false };
        pool.forge(0, &Message::Leave(intent));
        pool.run(wait);
        assert_eq!(pool.node(0).status("n2"), None);
        pool.join(2, 0);
        pool.wait("the newcomer", |pool| pool.node(0).status("n2").is_some());
        assert_eq!(pool.node(0).status("n2"), Some(expected));
        let names = pool.names();
        pool.wait("it to be alive", |pool| pool.agrees(Status::Alive, &names));
    }
}
