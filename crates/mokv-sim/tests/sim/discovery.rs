//! Nodes that find each other by gossip, and a membership that follows.

use std::collections::BTreeSet;
use std::time::Duration;

use mokv_sim::plan::{Discovery, Plan};
use mokv_sim::run::World;
use rand::RngExt;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use crate::scenario::{
    Expected, SEEDS, each_seed, ensure, from_nothing, generator, is_ready, leader, node_id, progress, refused, serves,
    until,
};

/// A member that has failed for so long is removed.
const GRACE: Duration = Duration::from_secs(8);

fn gossiping(nodes: usize) -> impl Fn(u64) -> Plan {
    move |seed| Plan { discovery: Discovery::Alone, ..Plan::quiet(seed, nodes) }
}

/// The clusters that the running nodes are in.
fn clusters(world: &World) -> BTreeSet<String> {
    let running = world.cluster.all_running().into_iter();
    running.filter_map(|(_, running)| running.node.data_dir().identity().cluster_id).collect()
}

fn voters(world: &World) -> usize {
    match &world.cluster.observer().voters()[..] {
        [voters] => voters.len(),
        _ => 0,
    }
}

async fn until_voters(world: &World, count: usize) -> Expected {
    until(world, format_args!("{count} voters"), || voters(world) == count).await
}

#[test]
fn s27_nodes_that_start_one_by_one_and_apart_form_one_cluster() {
    let plan = |seed| Plan { discovery: Discovery::Expect, ..Plan::quiet(seed, if seed % 3 == 0 { 5 } else { 3 }) };
    from_nothing(SEEDS, plan, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        for _ in 0..cluster.len() {
            let (from, to) = (rng.random_range(0..cluster.len()), rng.random_range(0..cluster.len()));
            cluster.net().cut(from, to);
        }
        for host in 0..cluster.len() {
            cluster.start(host);
            sleep(Duration::from_millis(rng.random_range(0..3000))).await;
            if rng.random_bool(0.3) {
                cluster.kill(rng.random_range(0..=host));
            }
        }
        ensure(clusters(&world).len() < 2, "two clusters")?;
        cluster.net().heal();
        (0..cluster.len()).for_each(|host| cluster.start(host));
        until_voters(&world, cluster.len()).await?;
        let first = clusters(&world);
        ensure(first.len() == 1, format_args!("{first:?}"))?;
        serves(&world, 0).await?;
        // A node that lost its disk is told to form a cluster as the others were.
        let lost = rng.random_range(0..cluster.len());
        let before = node_id(&world, lost)?;
        cluster.kill(lost);
        cluster.replace_disk(lost);
        cluster.start(lost);
        until(&world, "the new node takes the place of the old one", || {
            let voters = cluster.observer().voters();
            let new = cluster.node_id(lost);
            voters.len() == 1 && new.is_some_and(|new| voters[0].contains(&new)) && !voters[0].contains(&before)
        })
        .await?;
        ensure(clusters(&world) == first, "there is another cluster")
    });
}

#[test]
fn s29_two_of_five_that_fail_are_removed_and_one_that_flaps_stays() {
    let plan = |seed| Plan { failed_grace: Some(GRACE), ..gossiping(5)(seed) };
    each_seed(0..6, plan, |world| async move {
        let cluster = &world.cluster;
        until_voters(&world, 5).await?;
        let load = world.load();
        let leading = leader(&world).await?;
        let others: Vec<usize> = (0..5).filter(|host| *host != leading).collect();
        let (dead, flapping) = (&others[..2], others[2]);
        dead.iter().for_each(|host| cluster.abandon(*host));
        let flapper = node_id(&world, flapping)?;
        for _ in 0..12 {
            cluster.pause(flapping);
            sleep(Duration::from_millis(800)).await;
            cluster.resume(flapping);
            sleep(Duration::from_millis(1200)).await;
            ensure(voters(&world) != 1 && voters(&world) != 2, "too few are left to vote")?;
        }
        until_voters(&world, 3).await?;
        ensure(cluster.observer().voters()[0].contains(&flapper), "the one that flaps was removed")?;
        progress(&world, 20).await?;
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s30_a_change_whose_leader_dies_half_way_is_finished_by_the_next() {
    let plan = |seed| Plan { sync_max: Duration::from_millis(120), ..gossiping(3)(seed) };
    each_seed(SEEDS, plan, |world| async move {
        let cluster = &world.cluster;
        until_voters(&world, 3).await?;
        let load = world.load();
        for host in [cluster.add_host(), cluster.add_host()] {
            cluster.start(host);
        }
        let is_joint = || cluster.observer().voters().len() == 2;
        until(&world, "a joint membership", || is_joint() || voters(&world) == 5).await?;
        if !is_joint() {
            // It took less than a look.
            load.stop().await;
            return Ok(());
        }
        let leading = leader(&world).await?;
        cluster.kill(leading);
        until(&world, "another leader", || cluster.leader().is_some_and(|host| host != leading)).await?;
        until_voters(&world, 5).await?;
        cluster.start(leading);
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s31_while_nodes_join_leave_and_die_the_quorum_is_kept() {
    each_seed(SEEDS, gossiping(3), |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        until_voters(&world, 3).await?;
        let load = world.load();
        for _ in 0..4 {
            let new = [cluster.add_host(), cluster.add_host()];
            new.iter().for_each(|host| cluster.start(*host));
            let victim = *members(&world).choose(&mut rng).ok_or("somebody is there")?;
            cluster.kill(victim);
            sleep(Duration::from_millis(rng.random_range(0..2000))).await;
            cluster.start(victim);
            until_voters(&world, 5).await?;
            progress(&world, 10).await?;
            for _ in 0..2 {
                let leaving = *members(&world).choose(&mut rng).ok_or("somebody is there")?;
                until(&world, "who leaves is ready", || is_ready(&world, leaving)).await?;
                while let Err(status) = cluster.leave(leaving).await {
                    world.trace.note(format_args!("{leaving} can't leave: {status}"));
                    ensure(status.code() != tonic::Code::Internal, status)?;
                    if cluster.is_gone(leaving) {
                        break;
                    }
                    sleep(Duration::from_millis(200)).await;
                }
                until(&world, "its process ends", || cluster.is_gone(leaving)).await?;
            }
            until_voters(&world, 3).await?;
            progress(&world, 10).await?;
        }
        load.stop().await;
        Ok(())
    });
}

/// The hosts that are not gone.
fn members(world: &World) -> Vec<usize> {
    (0..world.cluster.len()).filter(|host| !world.cluster.is_gone(*host)).collect()
}

#[test]
fn s31_a_node_that_has_left_does_not_come_back() {
    each_seed(0..4, gossiping(3), |world| async move {
        let cluster = &world.cluster;
        // The fourth one copies the data, and has no vote.
        let (leaving, learner, spare) = (2, cluster.add_host(), cluster.add_host());
        cluster.start(learner);
        until(&world, "all are ready", || (0..4).all(|host| is_ready(&world, host))).await?;
        until_voters(&world, 3).await?;
        cluster.leave(leaving).await.map_err(|status| status.to_string())?;
        until(&world, "its process ends", || cluster.is_gone(leaving)).await?;
        until_voters(&world, 3).await?;
        let why = refused(&world, spare, cluster.disk(leaving).copy()).await?;
        ensure(why.contains("has left its cluster"), why)?;
        cluster.abandon(spare);
        Ok(())
    });
}

#[test]
fn s32_nodes_that_swap_their_addresses_are_found_again() {
    each_seed(SEEDS, gossiping(3), |world| async move {
        let cluster = &world.cluster;
        until_voters(&world, 3).await?;
        let load = world.load();
        progress(&world, 10).await?;
        let (one, other) = (node_id(&world, 1)?, node_id(&world, 2)?);
        cluster.kill(1);
        cluster.kill(2);
        let (first, second) = (cluster.disk(1), cluster.disk(2));
        cluster.set_disk(1, second);
        cluster.set_disk(2, first);
        cluster.start(1);
        cluster.start(2);
        until(&world, "all are ready", || (0..3).all(|host| is_ready(&world, host))).await?;
        ensure(cluster.node_id(1) == Some(other) && cluster.node_id(2) == Some(one), "they have swapped")?;
        for host in 0..3 {
            serves(&world, host).await?;
        }
        load.stop().await;
        until_voters(&world, 3).await
    });
}
