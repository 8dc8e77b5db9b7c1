//! What the state is: the same after replaying, from a snapshot and on every node, bounded where a bound was asked for, and
//! no larger after a long time than after a short one.

use std::collections::BTreeMap;
use std::time::Duration;

use mokv_check::{Answer, Op, Outcome, Read};
use mokv_sim::client::Client;
use mokv_sim::plan::Plan;
use mokv_sim::run::World;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::scenario::{
    Expected, PATIENCE, SEEDS, all_ready, client_at, each_seed, ensure, get, progress, serves, set, until,
};

/// What the store may hold. The load's keys and values alone are more.
const QUOTA: u64 = 12_000;

/// What may be under way when the quota is reached: a write of each client, and its session.
const OVER_QUOTA_MAX: u64 = 12_000;

/// How long the small soak lasts, and how often it is looked at.
const SOAK: Duration = Duration::from_secs(240);
const SOAK_TICK: Duration = Duration::from_secs(2);

#[test]
fn s38_replaying_the_log_and_loading_a_snapshot_make_the_same_state() {
    // Half of the runs replay everything, half of them have a snapshot every few entries.
    let plan =
        |seed| Plan { snapshot_log_bytes: if seed % 2 == 0 { 2 << 10 } else { 1 << 30 }, ..Plan::quiet(seed, 3) };
    each_seed(SEEDS, plan, |world| async move {
        let cluster = &world.cluster;
        let has_snapshots = cluster.plan().snapshot_log_bytes < 1 << 20;
        let load = world.load();
        progress(&world, 300).await?;
        load.stop().await;
        world.compare_states().await;
        let snapshot = |host: usize| cluster.running(host).map(|running| running.node.raft().progress().snapshot);
        if has_snapshots {
            until(&world, "snapshots", || (0..3).all(|host| snapshot(host) > Some(0))).await?;
        }
        let states = || -> Vec<_> {
            cluster.all_running().into_iter().map(|(_, running)| running.node.store().stats()).collect()
        };
        let before = states();
        for host in 0..3 {
            cluster.kill(host);
        }
        all_ready(&world).await?;
        let is_replayed = || states().iter().all(|stats| stats.applied > before[0].applied);
        until(&world, "everything is replayed", is_replayed).await?;
        world.compare_states().await;
        let after = states();
        // Nobody wrote: there are only the entries that new leaders begin with.
        let is_same = before.iter().zip(&after).all(|(before, after)| {
            (before.revision, before.keys, before.sessions) == (after.revision, after.keys, after.sessions)
        });
        ensure(is_same, format_args!("{before:?} became {after:?}"))?;

        // A node that begins with what a leader sends.
        let new = cluster.add_host();
        ensure(cluster.join(new, Instant::now() + PATIENCE).await, "the new node joins")?;
        world.compare_states().await;
        ensure((snapshot(new) > Some(0)) == has_snapshots, "the new node got a snapshot if there was one")?;
        serves(&world, new).await
    });
}

#[test]
fn s39_a_full_memory_refuses_growth_and_takes_deletes() {
    let plan = |seed| {
        let mut plan = Plan { memory_quota: Some(QUOTA), ..Plan::quiet(seed, 3) };
        (plan.load.keys, plan.load.padding_max, plan.load.writes) = (40, 1_000, 90);
        plan
    };
    each_seed(SEEDS, plan, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        let is_full = || world.trace.counts().contains_key("error.QUOTA_EXCEEDED");
        until(&world, "the quota is reached", is_full).await?;
        load.stop().await;
        let mut client = client_at(&world, 0, 60);
        let memory = || -> Vec<u64> {
            cluster.all_running().into_iter().map(|(_, running)| running.node.store().stats().memory_bytes).collect()
        };
        // Up to the brim: the clients' deletes may have made room again.
        let mut kept = Vec::new();
        loop {
            ensure(kept.len() < 100, "the quota is a bound")?;
            let (key, value) = (format!("fill-{}", kept.len()), format!("{}-{}", kept.len(), "x".repeat(500)));
            match client.write(Op::set(key.clone(), value), false).await {
                Outcome::Failed { reason } if reason.contains("QUOTA_EXCEEDED") => break,
                // Whether it had an effect does not matter here.
                _ => kept.push(key),
            }
        }
        world.compare_states().await;
        let full = memory();
        ensure(full.iter().all(|bytes| (QUOTA..QUOTA + OVER_QUOTA_MAX).contains(bytes)), format_args!("{full:?}"))?;
        for host in 0..3 {
            growth_is_refused(&world, host).await?;
        }
        ensure(memory() == full, "what was refused takes no memory")?;

        for prefix in ["fill-", "key-"] {
            delete_all(&mut client, prefix).await?;
        }
        let value = set(&mut client_at(&world, 1, 61), "room").await?;
        let found = get(&mut client, "room").await?;
        ensure(found.is_some_and(|pair| pair.value == value), "there is room again")?;
        // Above all of what was decided before the log.
        world.compare_states().await;
        Ok(())
    });
}

/// Deletes all keys with the prefix, none of which may be refused.
async fn delete_all(client: &mut Client, prefix: &str) -> Expected {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.list(prefix, Read::linearizable()).await {
            Outcome::Ok { answer: Answer::List { pairs, .. } } if pairs.is_empty() => return Ok(()),
            Outcome::Ok { answer: Answer::List { pairs, .. } } => {
                for pair in pairs {
                    let deleted = client.write(Op::delete(pair.key.clone()), false).await;
                    let is_refused = matches!(&deleted, Outcome::Failed { reason } if reason.contains("QUOTA"));
                    ensure(!is_refused, format_args!("a delete of {}: {deleted:?}", pair.key))?;
                }
            }
            outcome => ensure(Instant::now() < deadline, format_args!("can't list {prefix}: {outcome:?}"))?,
        }
    }
}

async fn growth_is_refused(world: &World, host: usize) -> Expected {
    let mut client = client_at(world, host, 70 + host as u64);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let op = Op::set(format!("refused-{host}"), client.token());
        match client.write(op, false).await {
            Outcome::Failed { reason } if reason.contains("QUOTA_EXCEEDED") => break,
            outcome @ Outcome::Ok { .. } => return Err(format!("growth through {host}: {outcome:?}")),
            // Its answer was lost, perhaps.
            outcome => ensure(Instant::now() < deadline, format_args!("growth through {host}: {outcome:?}"))?,
        }
    }
    let op = Op::set(format!("refused-{host}"), client.token());
    match client.write(op, true).await {
        Outcome::Failed { .. } => Ok(()),
        outcome => Err(format!("a session through {host}: {outcome:?}")),
    }
}

/// What may only grow as much as the data does.
fn measured(world: &World) -> BTreeMap<String, u64> {
    let mut sizes = BTreeMap::from([("tasks".to_owned(), Handle::current().metrics().num_alive_tasks() as u64)]);
    for (host, running) in world.cluster.all_running() {
        let (disk, stats) = (world.cluster.disk(host), running.node.store().stats());
        sizes.extend([
            (format!("{host}: bytes on disk"), disk.used() as u64),
            (format!("{host}: files"), disk.paths().len() as u64),
            (format!("{host}: memory"), stats.memory_bytes),
            (format!("{host}: sessions"), stats.sessions),
            (format!("{host}: pins"), stats.pins),
        ]);
    }
    sizes
}

/// What eight hours of real time show is another matter: here everything that the nodes hold themselves is looked at.
#[test]
fn s42_disk_memory_sessions_and_tasks_stay_flat_under_a_steady_load() {
    let plan = |seed| {
        let mut plan = Plan { snapshot_log_bytes: 8 << 10, segment_bytes: 8 << 10, ..Plan::quiet(seed, 3) };
        plan.load.think_max = Duration::from_millis(400);
        plan
    };
    each_seed(0..3, plan, |world| async move {
        let load = world.load();
        // The highest of each, in each third of the time.
        let mut highest = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
        let begin = Instant::now();
        let revision = world.cluster.observer().revision();
        while begin.elapsed() < SOAK {
            let third = (3 * begin.elapsed().as_millis() / SOAK.as_millis()) as usize;
            for (what, size) in measured(&world) {
                let max: &mut u64 = highest[third].entry(what).or_default();
                *max = size.max(*max);
            }
            sleep(SOAK_TICK).await;
        }
        load.stop().await;
        ensure(world.cluster.observer().revision() > revision + 1_000, "a load")?;
        let [_, middle, last] = highest;
        for (what, size) in last {
            // A third more than before is no growth: values and groups differ in size.
            let bound = middle[&what] + middle[&what] / 3 + 2;
            ensure(size <= bound, format_args!("{what} grew from {} to {size}", middle[&what]))?;
        }
        Ok(())
    });
}
