//! Processes, machines and nodes that come, go, stop and are replaced.

use std::collections::BTreeSet;
use std::time::Duration;

use mokv_check::{Event, Op, Outcome};
use mokv_server::disk::Disk;
use mokv_sim::plan::Plan;
use mokv_sim::run::World;
use rand::RngExt;
use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep};

use crate::scenario::{
    Expected, SEEDS, all_ready, client_at, each_seed, ensure, generator, get, is_ready, join_instead_of, leader,
    node_id, progress, refused, serves, set, three, until,
};

/// What a client may be told while nodes are restarted: it can send the same again, or does not know.
const RETRYABLE: [&str; 8] = [
    "NO_LEADER",
    "UNAVAILABLE",
    "READ_TIMEOUT",
    "REVISION_NOT_REACHED",
    "OUTCOME_UNKNOWN",
    "connection refused",
    "the node died",
    "the answer was lost",
];

/// Nobody waits longer than this for a write while one node is stopped in an orderly way.
const GAP_MAX: Duration = Duration::from_secs(1);

/// Several elections.
const SEVERAL_ELECTIONS: Duration = Duration::from_secs(10);

#[test]
fn s15_what_was_acknowledged_survives_the_end_of_all_nodes_at_once() {
    let plan = |seed| Plan::quiet(seed, if seed % 4 == 0 { 1 } else { 3 });
    each_seed(SEEDS, plan, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        let load = world.load();
        let mut client = client_at(&world, 0, 50);
        let mut acknowledged = Vec::new();
        for round in 0..4 {
            progress(&world, 20).await?;
            let key = format!("mark-{round}");
            let value = set(&mut client, &key).await?;
            // At the moment of the answer.
            let by_power = rng.random_bool(0.7);
            (0..cluster.len()).for_each(|host| if by_power { cluster.cut_power(host) } else { cluster.kill(host) });
            ensure(cluster.all_running().is_empty(), "all nodes are down")?;
            acknowledged.push((key, value));
            all_ready(&world).await?;
            for (key, value) in &acknowledged {
                let found = get(&mut client, key).await?;
                ensure(found.is_some_and(|pair| pair.value == *value), format_args!("{key} is lost"))?;
            }
        }
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s21_a_node_with_an_empty_disk_is_a_new_one_and_the_old_one_never_votes() {
    each_seed(SEEDS, three, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        progress(&world, 20).await?;
        let leading = leader(&world).await?;
        let (lost, witness) = ((leading + 1) % 3, (leading + 2) % 3);
        let old = cluster.running(lost).ok_or("it runs")?.node.status();
        cluster.kill(lost);
        cluster.replace_disk(lost);
        cluster.start(lost);
        until(&world, "the node on the empty disk runs", || cluster.running(lost).is_some()).await?;
        let new = cluster.running(lost).ok_or("it runs")?.node.status();
        ensure(new.name == old.name, "it has the name of the old one")?;
        ensure(new.node_id != old.node_id, "it has an id of its own")?;
        ensure(new.cluster_id.is_none() && !is_ready(&world, lost), "it is in no cluster")?;

        // Two of three are left by their number. One of them is at the address of a voter, but has nothing of what that
        // one promised.
        nobody_is_elected(&world, leading, witness).await?;
        let own = cluster.running(lost).ok_or("it runs")?.node.status();
        ensure(own.cluster_id.is_none() && own.term == 0, "it has taken no part")?;

        // Nor can it become a voter beside the one whose place it takes.
        cluster.start(leading);
        until(&world, "the others are ready", || is_ready(&world, leading) && is_ready(&world, witness)).await?;
        ensure(!cluster.join(lost, Instant::now() + GAP_MAX).await, "a second member of one name")?;
        let is_told = world.trace.recent().iter().any(|event| event.contains("remove it first"));
        ensure(is_told, "the operator is told what to do first")?;
        join_instead_of(&world, lost, old.node_id).await?;
        serves(&world, lost).await?;
        load.stop().await;
        ensure(node_id(&world, lost)? == new.node_id, "the new node stays who it is")
    });
}

#[test]
fn s23_a_second_process_on_a_data_directory_is_refused() {
    each_seed(SEEDS, three, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        progress(&world, 20).await?;
        let first = generator(&world).random_range(0..3);
        // The same machine: another address, the same directory.
        let second = cluster.add_host();
        let before = cluster.disk(first).list("/data".as_ref()).await.map_err(|error| error.to_string())?;
        let why = refused(&world, second, cluster.disk(first).clone()).await?;
        ensure(why.contains("in use by another process"), format_args!("it says why: {why}"))?;
        let after = cluster.disk(first).list("/data".as_ref()).await.map_err(|error| error.to_string())?;
        ensure(before == after, "it leaves the directory alone")?;
        serves(&world, first).await?;

        cluster.replace_disk(second);
        ensure(cluster.join(second, Instant::now() + SEVERAL_ELECTIONS).await, "with its own directory it may join")?;
        load.stop().await;
        Ok(())
    });
}

/// Without the host that leads, the others elect nobody, and the term does not grow.
async fn nobody_is_elected(world: &World, leading: usize, witness: usize) -> Expected {
    let cluster = &world.cluster;
    cluster.kill(leading);
    let term = || cluster.running(witness).map(|running| running.node.status().term);
    let before = term();
    let is_elected = cluster.wait(Instant::now() + SEVERAL_ELECTIONS, || cluster.leader().is_some()).await;
    ensure(!is_elected, "a vote of the lost node elects somebody")?;
    ensure(term() == before, format_args!("the term stays at {before:?}, it is {:?}", term()))?;
    Ok(())
}

/// With one version: what two of them have to add to this is that they read each other's messages and files.
#[test]
fn s40_while_nodes_are_restarted_one_by_one_errors_are_retryable() {
    each_seed(SEEDS, three, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        let mut hosts = [0, 1, 2];
        hosts.shuffle(&mut generator(&world));
        let mut led = BTreeSet::new();
        for host in hosts {
            progress(&world, 20).await?;
            led.extend(cluster.leader());
            cluster.stop(host).await;
            ensure(!cluster.is_up(host), "it has stopped")?;
            progress(&world, 20).await?;
            led.extend(cluster.leader());
            cluster.start(host);
            until(&world, "it is ready again", || is_ready(&world, host)).await?;
        }
        load.stop().await;
        ensure(led.len() > 1, "leadership has changed")?;
        for event in world.recorder.history().events {
            let Event::Return { result: Outcome::Failed { reason } | Outcome::Unknown { reason }, .. } = event else {
                continue;
            };
            let is_retryable = RETRYABLE.iter().any(|known| reason.contains(known));
            ensure(is_retryable, format_args!("a client is told {reason}"))?;
        }
        Ok(())
    });
}

#[test]
fn s41_a_leader_that_is_stopped_hands_over_and_writes_go_on_within_a_second() {
    each_seed(SEEDS, three, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        progress(&world, 50).await?;
        let old = leader(&world).await?;
        let begin = world.trace.now();
        cluster.stop(old).await;
        let new = cluster.leader().ok_or("a new leader leads when the old one has stopped")?;
        ensure(new != old, "leadership has changed")?;
        progress(&world, 50).await?;
        sleep(2 * GAP_MAX).await;
        let gap = longest_gap(&world, begin);
        ensure(gap < GAP_MAX, format_args!("no write was acknowledged for {gap:?}"))?;
        cluster.start(old);
        load.stop().await;
        Ok(())
    });
}

/// The longest time from then to now in which no write was acknowledged.
fn longest_gap(world: &World, begin: u64) -> Duration {
    let history = world.recorder.history();
    let is_write = |event: &Event| match event {
        Event::Call { id, op: Op::Set(_) | Op::Delete(_), .. } => Some(*id),
        _ => None,
    };
    let writes: BTreeSet<u64> = history.events.iter().filter_map(is_write).collect();
    let acknowledged = history.events.iter().filter_map(|event| match event {
        Event::Return { id, at, result: Outcome::Ok { .. } } if writes.contains(id) && *at >= begin => Some(*at),
        _ => None,
    });
    let mut times: Vec<u64> = acknowledged.chain([begin, world.trace.now()]).collect();
    times.sort_unstable();
    Duration::from_micros(times.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default())
}
