//! Times to live.

use std::time::Duration;

use mokv_server::command::{self, Batch};
use mokv_server::raft::ProposeError;
use mokv_server::store::LogTime;
use tokio::time::{Instant, sleep, sleep_until};

use crate::harness::{Cluster, run, set_with_ttl};

const TTL: Duration = Duration::from_secs(60);

/// How much later than due a key may go while there is a leader.
const LATE_MAX: Duration = Duration::from_millis(200);

#[test]
fn a_key_goes_when_its_time_is_over_and_at_the_same_revision_everywhere() {
    run(async {
        let cluster = Cluster::start(3).await;
        let began = Instant::now();
        for (key, seconds) in [("a", 10), ("b", 20), ("c", 20), ("d", 30)] {
            cluster.write(cluster.follower().await, set_with_ttl(key, Duration::from_secs(seconds))).await;
        }
        for (key, seconds) in [("a", 10), ("b", 20), ("d", 30)] {
            let due = Duration::from_secs(seconds);
            sleep_until(began + due - Duration::from_millis(1)).await;
            assert!(cluster.has(0, key).await, "{key} went early");
            let mut revisions = Vec::new();
            for index in 0..3 {
                revisions.push(cluster.gone(index, key).await);
            }
            assert!(began.elapsed() < due + LATE_MAX, "{key} went {:?} after it was due", began.elapsed() - due);
            assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{key}: {revisions:?}");
        }
        cluster.assert_equal_states().await;
        assert_eq!(cluster.node(cluster.leader().await).status().expired_keys, 4);
    });
}

/// Log time stands still while there is no leader, and then goes on.
#[test]
fn a_new_leader_neither_shortens_a_time_to_live_nor_begins_it_again() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let began = Instant::now();
        let leader = cluster.leader().await;
        cluster.write(leader, set_with_ttl("key", TTL)).await;
        sleep_until(began + Duration::from_secs(40)).await;
        // What the leader's clock says is known from entries alone.
        cluster.write(leader, set_with_ttl("other", 10 * TTL)).await;
        let killed = Instant::now();
        cluster.kill(leader);
        let next = cluster.leader().await;
        cluster.write(next, set_with_ttl("another", 10 * TTL)).await;
        let outage = killed.elapsed();
        sleep_until(began + TTL - Duration::from_millis(1)).await;
        assert!(cluster.has(next, "key").await, "its time was shortened");
        cluster.gone(next, "key").await;
        let late = began.elapsed() - TTL;
        assert!(late <= outage + LATE_MAX, "{late:?} late after an outage of {outage:?}");
    });
}

/// What nobody wrote down passes again: an idle leader's time is lost with it.
#[test]
fn time_that_no_entry_told_of_passes_again() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        cluster.write(leader, set_with_ttl("key", TTL)).await;
        let began = Instant::now();
        for _ in 0..3 {
            let leader = cluster.leader().await;
            sleep(Duration::from_secs(30)).await;
            cluster.kill(leader);
            cluster.start_node(leader).await;
            cluster.leader().await;
            assert!(cluster.has(0, "key").await);
        }
        cluster.gone(0, "key").await;
        assert!(began.elapsed() > TTL + Duration::from_secs(60));
        cluster.assert_equal_states().await;
    });
}

#[test]
fn every_node_can_tell_about_how_long_a_key_has_still_to_live() {
    run(async {
        let cluster = Cluster::start(3).await;
        let began = Instant::now();
        cluster.write(0, set_with_ttl("key", TTL)).await;
        assert!(cluster.has(1, "key").await && cluster.has(2, "key").await);
        sleep(Duration::from_secs(20)).await;
        for index in 0..3 {
            let deadline = cluster.node(index).store().get(b"key").record.expect("key").deadline.expect("deadline");
            let remaining = cluster.node(index).remaining(deadline);
            let about = TTL - began.elapsed();
            // Others hear of an entry a heartbeat or two later.
            assert!(remaining.abs_diff(about) < Duration::from_millis(500), "node {index}: {remaining:?}");
        }
    });
}

/// A clock that was set in an earlier term may be ahead of log time.
#[test]
fn what_is_stamped_is_only_proposed_in_its_own_term() {
    run(async {
        let cluster = Cluster::start(1).await;
        cluster.write(0, command::set("key", "value")).await;
        let raft = cluster.node(0).raft();
        let batch = || Batch::new(&[command::set("key", "value")], LogTime::from_millis(1));
        assert!(raft.propose(batch(), Some(raft.term())).await.is_ok());
        assert_eq!(raft.propose(batch(), Some(raft.term() - 1)).await, Err(ProposeError::NotLeader));
        assert_eq!(cluster.node(0).store().get(b"key").record.expect("key").version, 2);
    });
}

#[test]
fn a_key_lives_whatever_becomes_of_a_leader_that_stood_still() {
    run(async {
        let cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let ttl = Duration::from_secs(3);
        cluster.write(leader, set_with_ttl("old", ttl)).await;
        cluster.node(leader).tasks().pause();
        let next = cluster.leader_without(&[leader]).await;
        sleep(10 * ttl).await;
        let began = Instant::now();
        cluster.write(next, set_with_ttl("key", ttl)).await;
        cluster.node(leader).tasks().resume();
        sleep_until(began + ttl - Duration::from_millis(1)).await;
        assert!(cluster.has(next, "key").await, "it went early");
        cluster.gone(next, "key").await;
        assert!(began.elapsed() < ttl + LATE_MAX, "{:?}", began.elapsed());
        cluster.assert_equal_states().await;
    });
}
