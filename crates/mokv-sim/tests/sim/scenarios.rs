//! Named scenarios. The history, the invariants and the recovery at the end are judged in each; what a test asserts comes
//! on top.

use std::time::Duration;

use mokv_check::{Op, Outcome, Read};
use mokv_sim::client::Client;
use mokv_sim::cluster::Excuse;
use mokv_sim::run::World;
use tokio::time::{Instant, sleep};

use crate::scenario::{is_ok, scenario, set};

const SEEDS: u64 = 12;

/// An election and all that belongs to it take less.
const FAILOVER_MAX: Duration = Duration::from_secs(5);

fn leader(world: &World) -> usize {
    world.cluster.leader().expect("somebody leads")
}

fn follower(world: &World) -> usize {
    let leader = leader(world);
    (0..world.cluster.len()).find(|host| *host != leader).expect("a follower")
}

fn client(world: &World, number: u64) -> Client {
    Client::alone(number, &world.cluster, &world.recorder)
}

/// Cuts a host off from all others.
fn isolate(world: &World, host: usize) {
    for other in (0..world.cluster.len()).filter(|other| *other != host) {
        world.cluster.net().cut(host, other);
        world.cluster.net().cut(other, host);
    }
}

/// Waits until another host than `old` leads.
async fn another_leader(world: &World, old: usize) -> usize {
    let cluster = &world.cluster;
    let deadline = Instant::now() + FAILOVER_MAX;
    assert!(cluster.wait(deadline, || cluster.leader().is_some_and(|now| now != old)).await, "no other leader");
    leader(world)
}

#[test]
fn s01_a_deposed_leader_answers_no_linearizable_read() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let old = leader(&world);
            assert!(is_ok(&set(&mut client(&world, 1), "k").await));
            isolate(&world, old);
            let new = another_leader(&world, old).await;
            assert!(is_ok(&set(&mut client(&world, 2).at(new), "k").await));
            // The history would be illegal with the old value.
            let mut reader = client(&world, 3).at(old).with_timeout(Duration::from_secs(1));
            assert!(!is_ok(&reader.get("k", Read::linearizable()).await), "nobody confirmed that it leads");
            assert!(is_ok(&reader.get("k", Read::local(0)).await), "an old value will do");
            world.cluster.net().heal();
        },
    );
}

#[test]
fn s02_a_leader_that_stood_still_for_long_does_no_harm() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let old = leader(&world);
            let load = world.load();
            sleep(Duration::from_secs(1)).await;
            world.cluster.pause(old);
            let new = another_leader(&world, old).await;
            assert!(is_ok(&set(&mut client(&world, 100).at(new), "k").await));
            sleep(Duration::from_secs(2)).await;
            world.cluster.resume(old);
            sleep(Duration::from_secs(2)).await;
            load.stop().await;
        },
    );
}

#[test]
fn s03_a_cut_in_any_direction_is_served_through() {
    for to_leader in [true, false] {
        for of_leader in [true, false] {
            scenario(
                4,
                |_| {},
                |world| async move {
                    let (leader, follower) = (leader(&world), follower(&world));
                    let third = (0..3).find(|host| *host != leader && *host != follower).expect("three");
                    let (one, other) = if of_leader { (leader, follower) } else { (follower, third) };
                    let (from, to) = if to_leader { (other, one) } else { (one, other) };
                    world.cluster.net().cut(from, to);
                    let mut client = client(&world, 1);
                    let deadline = Instant::now() + Duration::from_secs(10);
                    while !is_ok(&set(&mut client, "k").await) {
                        assert!(Instant::now() < deadline, "not served within 10 s");
                    }
                    world.cluster.net().heal();
                },
            );
        }
    }
}

#[test]
fn s04_a_bridge_inflates_no_terms() {
    scenario(
        SEEDS,
        |plan| plan.nodes = 3,
        |world| async move {
            let leader = leader(&world);
            let follower = follower(&world);
            let third = (0..3).find(|host| *host != leader && *host != follower).expect("three");
            let term = |world: &World| world.cluster.running(leader).expect("up").node.status().term;
            let before = term(&world);
            // The leader reaches both, they don't reach each other.
            world.cluster.net().cut(follower, third);
            world.cluster.net().cut(third, follower);
            let load = world.load();
            sleep(Duration::from_secs(10)).await;
            load.stop().await;
            assert!(term(&world) <= before + 1, "from term {before} to {}", term(&world));
            world.cluster.net().heal();
        },
    );
}

#[test]
fn s05_clients_of_a_truncated_tail_learn_that_they_know_nothing() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let old = leader(&world);
            isolate(&world, old);
            let mut lonely = client(&world, 1).at(old).with_timeout(Duration::from_secs(1));
            let written = set(&mut lonely, "k").await;
            assert!(matches!(written, Outcome::Unknown { .. }), "{written:?}");
            let new = another_leader(&world, old).await;
            assert!(is_ok(&set(&mut client(&world, 2).at(new), "k").await));
            world.cluster.net().heal();
        },
    );
}

#[test]
fn s06_a_retry_has_one_effect_over_snapshots_and_restarts() {
    scenario(
        SEEDS,
        |plan| {
            plan.snapshot_log_bytes = 1 << 10;
            plan.load.in_session = 100;
        },
        |world| async move {
            let load = world.load();
            for round in 0..6 {
                sleep(Duration::from_millis(700)).await;
                let host = if round % 2 == 0 { world.cluster.leader().unwrap_or(0) } else { round % 3 };
                world.cluster.kill(host);
                sleep(Duration::from_millis(300)).await;
                world.cluster.start(host);
            }
            load.stop().await;
            assert!(world.trace.counts().contains_key("client.retry"));
        },
    );
}

#[test]
fn s08_a_new_leader_answers_only_after_an_entry_of_its_term() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let mut writer = client(&world, 1);
            let mut reader = client(&world, 2);
            for _ in 0..3 {
                let old = leader(&world);
                assert!(is_ok(&set(&mut writer, "k").await));
                world.cluster.kill(old);
                let new = another_leader(&world, old).await;
                // Illegal if it missed the write above.
                reader = reader.at(new);
                drop(reader.get("k", Read::linearizable()).await);
                world.cluster.start(old);
                sleep(Duration::from_secs(2)).await;
            }
        },
    );
}

#[test]
fn s09_requests_go_on_while_leadership_moves() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let load = world.load();
            for _ in 0..5 {
                sleep(Duration::from_millis(500)).await;
                drop(world.cluster.transfer().await);
            }
            load.stop().await;
            assert!(world.trace.counts()["leaders"] > 2);
        },
    );
}

#[test]
fn s12_a_slow_follower_catches_up_though_snapshots_are_frequent() {
    scenario(
        SEEDS,
        |plan| plan.snapshot_log_bytes = 1 << 10,
        |world| async move {
            let follower = follower(&world);
            world.cluster.kill(follower);
            let load = world.load();
            sleep(Duration::from_secs(3)).await;
            world.cluster.disk_control(follower).set(|behaviour| behaviour.sync_max = Duration::from_millis(40));
            world.cluster.start(follower);
            sleep(Duration::from_secs(4)).await;
            load.stop().await;
            assert!(world.trace.counts().contains_key("peer.Snapshot"));
        },
    );
}

#[test]
fn s15_power_loss_of_all_nodes_under_load_loses_nothing() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let load = world.load();
            for _ in 0..4 {
                sleep(Duration::from_secs(1)).await;
                (0..3).for_each(|host| world.cluster.cut_power(host));
                (0..3).for_each(|host| world.cluster.start(host));
            }
            sleep(Duration::from_secs(2)).await;
            load.stop().await;
        },
    );
}

#[test]
fn s16_a_failed_sync_ends_the_node_and_acknowledges_nothing() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let leader = leader(&world);
            let load = world.load();
            sleep(Duration::from_millis(500)).await;
            world.cluster.excuse(leader, Excuse::FailedCall);
            world.cluster.disk_control(leader).set(|behaviour| behaviour.fail_sync = true);
            another_leader(&world, leader).await;
            assert!(world.cluster.ended(leader).is_some_and(|why| why.contains("sync")), "it ended and says why");
            world.cluster.start(leader);
            load.stop().await;
        },
    );
}

#[test]
fn s19_damage_is_refused_and_the_others_serve() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let host = follower(&world);
            let load = world.load();
            sleep(Duration::from_secs(1)).await;
            let node_id = world.cluster.node_id(host).expect("started");
            world.cluster.kill(host);
            world.cluster.excuse(host, Excuse::Damage);
            let disk = world.cluster.disk(host);
            let identity = disk.paths().into_iter().find(|path| path.ends_with("identity")).expect("identity");
            disk.edit(&identity, |bytes| bytes[10] ^= 4);
            world.cluster.start(host);
            let deadline = Instant::now() + FAILOVER_MAX;
            let names_the_file = || world.cluster.ended(host).is_some_and(|why| why.contains("identity"));
            assert!(world.cluster.wait(deadline, names_the_file).await, "{:?}", world.cluster.ended(host));
            assert!(
                is_ok(&set(&mut client(&world, 100), "k").await) || is_ok(&set(&mut client(&world, 101), "k").await)
            );
            world.cluster.replace_disk(host);
            let deadline = Instant::now() + Duration::from_secs(20);
            assert!(world.cluster.remove(node_id, deadline).await && world.cluster.join(host, deadline).await);
            load.stop().await;
        },
    );
}

#[test]
fn s21_an_empty_disk_is_a_new_node() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let host = follower(&world);
            let old = world.cluster.node_id(host).expect("started");
            world.cluster.kill(host);
            world.cluster.replace_disk(host);
            world.cluster.start(host);
            let deadline = Instant::now() + Duration::from_secs(20);
            assert!(world.cluster.wait(deadline, || world.cluster.node_id(host).is_some()).await);
            assert_ne!(world.cluster.node_id(host), Some(old));
            // It is no member before the old one is removed: the name is taken, and the old id never votes again.
            assert!(world.cluster.remove(old, deadline).await && world.cluster.join(host, deadline).await);
        },
    );
}

#[test]
fn s24_a_leader_whose_syncs_are_slow_brings_no_storm_of_elections() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let leader = leader(&world);
            let before = world.cluster.running(leader).expect("up").node.status().term;
            world.cluster.disk_control(leader).set(|behaviour| behaviour.sync_max = Duration::from_secs(2));
            let load = world.load();
            sleep(Duration::from_secs(15)).await;
            load.stop().await;
            world.cluster.disk_control(leader).set(|behaviour| behaviour.sync_max = Duration::from_millis(1));
            let after = world.cluster.running(leader).expect("up").node.status().term;
            assert!(after <= before + 3, "from term {before} to {after}");
        },
    );
}

#[test]
fn s39_a_full_memory_refuses_growth_and_takes_deletions() {
    scenario(
        SEEDS,
        |plan| plan.memory_quota = Some(3_000),
        |world| async move {
            let mut client = client(&world, 1);
            let mut refused = None;
            for number in 0..100 {
                let written = set(&mut client, &format!("k{number}")).await;
                if let Outcome::Failed { reason } = written {
                    refused = Some(reason);
                    break;
                }
            }
            assert!(refused.is_some_and(|reason| reason.contains("QUOTA_EXCEEDED")));
            assert!(is_ok(&client.write(Op::Delete { key: "k0".into() }, false).await));
        },
    );
}

#[test]
fn s41_a_leader_that_is_stopped_under_load_leaves_a_short_gap() {
    scenario(
        SEEDS,
        |_| {},
        |world| async move {
            let leader = leader(&world);
            let load = world.load();
            sleep(Duration::from_secs(1)).await;
            let begin = Instant::now();
            let stopped = world.cluster.clone();
            let stopping = async move { stopped.stop(leader).await };
            let taken = async {
                another_leader(&world, leader).await;
                begin.elapsed()
            };
            let ((), gap) = tokio::join!(stopping, taken);
            assert!(gap < Duration::from_secs(1), "{gap:?}");
            world.cluster.start(leader);
            load.stop().await;
        },
    );
}
