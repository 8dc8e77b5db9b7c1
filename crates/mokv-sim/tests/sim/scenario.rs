//! What the scenarios have in common: their seeds, what they expect, and how they wait for it.

use std::fmt::Display;
use std::future::Future;
use std::ops::Range;
use std::sync::Once;
use std::time::Duration;

use mokv_check::{Answer, Op, Outcome, Pair, Read};
use mokv_server::disk::sim::SimDisk;
use mokv_server::raft::types::NodeId;
use mokv_sim::client::Client;
use mokv_sim::cluster::{self, Excuse};
use mokv_sim::plan::Plan;
use mokv_sim::run::{self, World};
use mokv_sim::seed;
use rand::rngs::SmallRng;
use tokio::time::Instant;

/// Seeds of most scenarios.
pub(crate) const SEEDS: Range<u64> = 0..12;

/// Whatever has to happen happens within this time: as long as a cluster may take to recover.
pub(crate) const PATIENCE: Duration = run::RECOVERY_MAX;

/// What did not come as expected.
pub(crate) type Expected<T = ()> = Result<T, String>;

/// Directs the scenario on a formed cluster of each seed's plan, and has it judged.
pub(crate) fn each_seed<F, R>(seeds: Range<u64>, plan: impl Fn(u64) -> Plan, scenario: F)
where
    F: Fn(World) -> R,
    R: Future<Output = Expected>,
{
    from_nothing(seeds, plan, |world| async {
        world.cluster.form().await;
        scenario(world).await
    });
}

/// Directs the scenario on each seed's plan, of which nothing runs yet, and has it judged.
pub(crate) fn from_nothing<F, R>(seeds: Range<u64>, plan: impl Fn(u64) -> Plan, scenario: F)
where
    F: Fn(World) -> R,
    R: Future<Output = Expected>,
{
    static HOOK: Once = Once::new();
    HOOK.call_once(cluster::note_panics);
    let only = std::env::var("MOKV_SIM_SEED").ok().map(|seed| seed.parse().expect("MOKV_SIM_SEED is a number"));
    let seeds = only.map_or(seeds, |seed| seed..seed + 1);
    let scenario = &scenario;
    for seed in seeds {
        let report = run::direct(&plan(seed), only.is_some(), |world| async move {
            if let Err(why) = scenario(world.clone()).await {
                world.trace.violate(why);
            }
        });
        if let Some(violation) = report.violation {
            panic!("{}\nseed {seed}: {violation}\nagain: MOKV_SIM_SEED={seed}", report.recent.join("\n"));
        }
    }
}

/// Three nodes, ordinary tuning and load.
pub(crate) fn three(seed: u64) -> Plan {
    Plan::quiet(seed, 3)
}

/// The random numbers of a scenario.
pub(crate) fn generator(world: &World) -> SmallRng {
    seed::generator(world.cluster.plan().seed, "scenario")
}

/// It holds, or the scenario ends here.
pub(crate) fn ensure(holds: bool, what: impl Display) -> Expected {
    if holds { Ok(()) } else { Err(what.to_string()) }
}

/// Waits until it holds.
pub(crate) async fn until(world: &World, what: impl Display, holds: impl Fn() -> bool) -> Expected {
    let is_reached = world.cluster.wait(Instant::now() + PATIENCE, holds).await;
    ensure(is_reached, format_args!("not within {PATIENCE:?}: {what}"))
}

/// The host that leads, as soon as one does.
pub(crate) async fn leader(world: &World) -> Expected<usize> {
    until(world, "a leader", || world.cluster.leader().is_some()).await?;
    world.cluster.leader().ok_or_else(|| "the leader is gone".into())
}

/// Waits until so many more writes are committed.
pub(crate) async fn progress(world: &World, writes: u64) -> Expected {
    let goal = world.cluster.observer().revision() + writes;
    until(world, "writes go on", || world.cluster.observer().revision() >= goal).await
}

/// Whether the node on a host runs and is fit to serve.
pub(crate) fn is_ready(world: &World, host: usize) -> bool {
    world.cluster.is_ready(host)
}

/// Starts what is down and waits until all nodes are fit to serve.
pub(crate) async fn all_ready(world: &World) -> Expected {
    (0..world.cluster.len()).for_each(|host| world.cluster.start(host));
    until(world, "all nodes are ready", || (0..world.cluster.len()).all(|host| is_ready(world, host))).await
}

/// A client of one node, with a number of its own.
pub(crate) fn client_at(world: &World, host: usize, number: u64) -> Client {
    Client::alone(number, &world.cluster, &world.recorder).at(host).with_timeout(Duration::from_secs(5))
}

/// Sets a key to a value that nobody else writes, until that is acknowledged. Returns the value.
pub(crate) async fn set(client: &mut Client, key: &str) -> Expected<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = client.token();
        match client.write(Op::set(key, value.clone()), true).await {
            Outcome::Ok { .. } => return Ok(value),
            outcome => ensure(Instant::now() < deadline, format_args!("can't set {key}: {outcome:?}"))?,
        }
    }
}

/// What a linearizable read finds, as soon as one is answered.
pub(crate) async fn get(client: &mut Client, key: &str) -> Expected<Option<Pair>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.get(key, Read::linearizable()).await {
            Outcome::Ok { answer: Answer::Get { pair, .. } } => return Ok(pair),
            outcome => ensure(Instant::now() < deadline, format_args!("can't get {key}: {outcome:?}"))?,
        }
    }
}

/// Writes and linearizable reads through the node on this host succeed.
pub(crate) async fn serves(world: &World, host: usize) -> Expected {
    let mut client = client_at(world, host, 700 + host as u64);
    let key = format!("served-{host}");
    let value = set(&mut client, &key).await?;
    let found = get(&mut client, &key).await?;
    ensure(found.is_some_and(|pair| pair.value == value), format_args!("host {host} does not read what it wrote"))
}

/// The id of the node on a host.
pub(crate) fn node_id(world: &World, host: usize) -> Expected<NodeId> {
    world.cluster.node_id(host).ok_or_else(|| format!("host {host} has no node"))
}

/// Starts the node on this disk, which has to refuse it. Returns why it does.
pub(crate) async fn refused(world: &World, host: usize, disk: SimDisk) -> Expected<String> {
    world.cluster.set_disk(host, disk);
    world.cluster.excuse(host, Excuse::Damage);
    world.cluster.start(host);
    until(world, format_args!("host {host} decides"), || {
        world.cluster.ended(host).is_some() || world.cluster.running(host).is_some()
    })
    .await?;
    world.cluster.ended(host).ok_or_else(|| format!("host {host} starts with what it should refuse"))
}

/// Removes the node whose data is lost, and makes a new one on an empty disk of the same host a member.
pub(crate) async fn replace(world: &World, host: usize) -> Expected {
    let lost = node_id(world, host)?;
    world.cluster.replace_disk(host);
    join_instead_of(world, host, lost).await
}

/// Removes this node, and makes the one that runs on the host a member.
pub(crate) async fn join_instead_of(world: &World, host: usize, lost: NodeId) -> Expected {
    let deadline = Instant::now() + PATIENCE;
    ensure(world.cluster.remove(lost, deadline).await, "the lost node can't be removed")?;
    ensure(world.cluster.join(host, deadline).await, "the new node can't join")
}
