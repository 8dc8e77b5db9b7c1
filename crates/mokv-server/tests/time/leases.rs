//! Leases, and who keeps them alive.

use std::time::Duration;

use mokv_server::command::{self, OutcomeResult};
use tokio::time::{Instant, sleep, sleep_until};

use crate::harness::{Cluster, eventually, run, set_with_lease};

const TTL: Duration = Duration::from_secs(10);

/// How much later than due a lease may go while there is a leader.
const LATE_MAX: Duration = Duration::from_millis(200);

impl Cluster {
    /// A lease, with one key.
    async fn grant(&self, through: usize, key: &str) -> u64 {
        let OutcomeResult::GrantLease(granted) = self.write(through, command::grant_lease(0, TTL)).await else {
            panic!("no lease");
        };
        self.write(through, set_with_lease(key, granted.lease_id)).await;
        granted.lease_id
    }

    /// Renews a lease through a node, trying again while there is no leader.
    async fn keep_alive(&self, through: usize, id: u64) -> Option<Duration> {
        eventually("a keep-alive", || async {
            let deadline = Instant::now() + Duration::from_secs(5);
            self.node(through).keep_alive(id, deadline).await.map_err(|error| error.to_string())
        })
        .await
    }
}

#[test]
fn a_lease_that_nobody_keeps_goes_with_its_keys_in_one_revision() {
    run(async {
        let cluster = Cluster::start(3).await;
        let began = Instant::now();
        let follower = cluster.follower().await;
        let id = cluster.grant(follower, "a").await;
        cluster.write(follower, set_with_lease("b", id)).await;
        sleep_until(began + TTL - Duration::from_millis(1)).await;
        assert!(cluster.has(follower, "a").await, "it went early");
        let mut revisions = Vec::new();
        for index in 0..3 {
            revisions.push(cluster.gone(index, "a").await);
            revisions.push(cluster.gone(index, "b").await);
        }
        assert!(began.elapsed() < TTL + LATE_MAX, "{:?}", began.elapsed());
        assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
        assert_eq!(cluster.keep_alive(follower, id).await, None);
        cluster.assert_equal_states().await;
    });
}

#[test]
fn a_lease_lives_as_long_as_it_is_kept_alive_through_any_node() {
    run(async {
        let cluster = Cluster::start(3).await;
        let id = cluster.grant(0, "key").await;
        let entries = |cluster: &Cluster| cluster.node(0).raft().progress().last_log;
        let before = entries(&cluster);
        for round in 0..9 {
            sleep(TTL - Duration::from_millis(50)).await;
            assert_eq!(cluster.keep_alive(round % 3, id).await, Some(TTL));
            let deadline = Instant::now() + Duration::from_secs(5);
            let lease = cluster.node((round + 1) % 3).lease_time(id, deadline).await.expect("answer").expect("lease");
            assert_eq!(lease.ttl, TTL);
            assert!(lease.remaining <= TTL && TTL - lease.remaining < Duration::from_millis(50), "{lease:?}");
        }
        assert_eq!(entries(&cluster), before, "keep-alives cost the log nothing");
        assert!(cluster.has(0, "key").await);
        let last = Instant::now();
        cluster.gone(0, "key").await;
        assert!(last.elapsed() > TTL - Duration::from_millis(50) && last.elapsed() < TTL + LATE_MAX);
    });
}

#[test]
fn what_is_revoked_or_never_was_can_not_be_kept_alive() {
    run(async {
        let cluster = Cluster::start(3).await;
        let follower = cluster.follower().await;
        let id = cluster.grant(follower, "key").await;
        assert_eq!(cluster.keep_alive(follower, id).await, Some(TTL));
        cluster.write(follower, command::revoke_lease(id)).await;
        for index in 0..3 {
            assert_eq!(cluster.keep_alive(index, id).await, None);
            assert_eq!(cluster.keep_alive(index, 12_345).await, None);
            let deadline = Instant::now() + Duration::from_secs(5);
            assert_eq!(cluster.node(index).lease_time(id, deadline).await.expect("answer"), None);
        }
        assert!(!cluster.has(0, "key").await);
    });
}

#[test]
fn a_new_leader_renews_every_lease() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let id = cluster.grant(leader, "key").await;
        sleep(TTL - Duration::from_millis(500)).await;
        let kept = Instant::now();
        assert_eq!(cluster.keep_alive(leader, id).await, Some(TTL));
        cluster.kill(leader);
        let next = cluster.leader().await;
        let taken_over = Instant::now();
        sleep_until(kept + TTL - Duration::from_millis(1)).await;
        assert!(cluster.has(next, "key").await, "it went before what was promised");
        cluster.gone(next, "key").await;
        assert!(taken_over.elapsed() < TTL + Duration::from_secs(1), "{:?}", taken_over.elapsed());
    });
}

#[test]
fn a_leader_that_stood_still_for_ten_times_to_live_revokes_nothing() {
    run(async {
        let cluster = Cluster::start(3).await;
        let old = cluster.leader().await;
        let id = cluster.grant(old, "key").await;
        cluster.node(old).tasks().pause();
        let next = cluster.leader_without(&[old]).await;
        let began = Instant::now();
        while began.elapsed() < 10 * TTL {
            assert_eq!(cluster.keep_alive(next, id).await, Some(TTL));
            sleep(TTL / 2).await;
        }
        // What it finds due at once, it can't have committed.
        cluster.node(old).tasks().resume();
        sleep(TTL / 4).await;
        for index in [next, old] {
            assert!(cluster.has(index, "key").await);
            assert_eq!(cluster.keep_alive(index, id).await, Some(TTL));
        }
        cluster.assert_equal_states().await;
    });
}

/// It may have been deposed, and the next leader may revoke the lease.
#[test]
fn a_leader_that_is_cut_off_promises_nothing() {
    run(async {
        let cluster = Cluster::start(3).await;
        let old = cluster.leader().await;
        let id = cluster.grant(old, "key").await;
        cluster.isolate(old);
        let deadline = Instant::now() + Duration::from_secs(2);
        cluster.node(old).keep_alive(id, deadline).await.expect_err("nobody confirmed it");
        let next = cluster.leader_without(&[old]).await;
        assert!(cluster.has(next, "key").await);
        cluster.gone(next, "key").await;
        let deadline = Instant::now() + Duration::from_secs(2);
        cluster.node(old).keep_alive(id, deadline).await.expect_err("nobody confirmed it");
        cluster.network.heal();
        assert_eq!(cluster.keep_alive(old, id).await, None);
        cluster.gone(old, "key").await;
    });
}

#[test]
fn leases_that_come_after_a_leader_began_are_kept_as_well() {
    run(async {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        let next = cluster.leader().await;
        sleep(TTL).await;
        let began = Instant::now();
        cluster.grant(next, "key").await;
        sleep_until(began + TTL - Duration::from_millis(1)).await;
        assert!(cluster.has(next, "key").await);
        cluster.gone(next, "key").await;
        assert!(began.elapsed() < TTL + LATE_MAX);
    });
}
