//! Disks that fill up while clients are at work: writes are refused, reads go on, no process ends, and service comes back by
//! itself when there is room.

use std::time::Duration;

use mokv_check::{Op, Outcome, Read};
use mokv_sim::client::Client;
use mokv_sim::plan::Plan;
use mokv_sim::run::{self, World};
use tokio::time::{Instant, sleep};

const SEEDS: u64 = 20;

/// Within this time of a change, the cluster does what it can do then: an election, or two ticks of the nodes' duties and a
/// message that waits to be sent again.
const PATIENCE: Duration = Duration::from_secs(3);

/// For a disk to be found full, somebody has to fill the file that the log has begun.
const FILLING_MAX: Duration = Duration::from_secs(60);

/// How long disks stay full: several times what a hand-over is given.
const PLATEAU: Duration = Duration::from_secs(25);

/// What a node has to do with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    Succeed,
    AreRefused,
}

fn for_each_seed<F, R>(scenario: F)
where
    F: Fn(World) -> R,
    R: Future<Output = ()>,
{
    for seed in 0..SEEDS {
        let report = run::direct(&Plan::quiet(seed, 3), false, |world| async {
            world.cluster.form().await;
            scenario(world).await;
        });
        assert_eq!(report.violation, None, "seed {seed}: {:#?}", report.recent);
        assert!(report.counts.get("error.DISK_FULL").is_some_and(|refused| *refused > 0), "seed {seed}");
    }
}

/// The disks of these hosts have no room but what their files take now: what a node frees is taken too.
fn squeeze(world: &World, hosts: &[usize]) {
    for host in hosts {
        let disk = world.cluster.disk(*host);
        disk.set_capacity(Some(disk.used()));
    }
}

async fn until_found_full(world: &World, full: &[usize]) {
    let deadline = Instant::now() + FILLING_MAX;
    let is_found = || {
        squeeze(world, full);
        full.iter().all(|host| world.cluster.running(*host).is_some_and(|running| running.node.status().disk_full))
    };
    if !world.cluster.wait(deadline, is_found).await {
        world.trace.violate(format_args!("the disks of {full:?} were not found full"));
    }
}

/// Whether the node has no room and lacks entries that another one has applied.
fn is_behind(world: &World, host: usize) -> bool {
    let statuses = world.cluster.all_running().into_iter().map(|(host, running)| (host, running.node.status()));
    let statuses: Vec<_> = statuses.collect();
    let applied_max = statuses.iter().map(|(_, status)| status.applied_index).max();
    statuses.iter().any(|(of, status)| *of == host && status.disk_full && Some(status.applied_index) < applied_max)
}

/// The node on `host` serves reads, and does with writes what it has to.
async fn probe(world: &World, host: usize, writes: Writes, full: &[usize]) {
    let number = 100 + host as u64;
    let mut client = Client::alone(number, &world.cluster, &world.recorder).at(host).with_timeout(PATIENCE);
    let deadline = Instant::now() + PATIENCE;
    loop {
        squeeze(world, full);
        let found = client.get("key-0", Read::linearizable()).await;
        match found {
            Outcome::Ok { .. } => break,
            // It can't take what the others write, and says so.
            Outcome::Failed { reason } if reason.contains("UNAVAILABLE") && is_behind(world, host) => break,
            found if Instant::now() > deadline => {
                return world.trace.violate(format_args!("no read through {host} with {full:?} full: {found:?}"));
            }
            _ => {}
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        squeeze(world, full);
        let op = Op::set(format!("probe-{host}"), format!("{host}-{}", world.trace.now()));
        let is_as_expected = |outcome: &Outcome| match (writes, outcome) {
            (Writes::Succeed, outcome) => matches!(outcome, Outcome::Ok { .. }),
            (Writes::AreRefused, Outcome::Failed { reason }) => reason.contains("DISK_FULL"),
            (Writes::AreRefused, _) => false,
        };
        match client.write(op, false).await {
            written if is_as_expected(&written) => return,
            written if Instant::now() > deadline => {
                let why = format_args!("a write through {host} with {full:?} full: {writes:?}, but {written:?}");
                return world.trace.violate(why);
            }
            _ => {}
        }
    }
}

async fn probe_all(world: &World, writes: Writes, full: &[usize]) {
    let (a, b, c) = (probe(world, 0, writes, full), probe(world, 1, writes, full), probe(world, 2, writes, full));
    tokio::join!(a, b, c);
}

/// For a while everything is as it has to be, and nobody stands for election.
async fn stay(world: &World, writes: Writes, full: &[usize]) {
    let term = || world.cluster.all_running().iter().map(|(_, running)| running.node.status().term).max();
    let (begin, until) = (term(), Instant::now() + PLATEAU);
    while Instant::now() < until && world.trace.violation().is_none() {
        probe_all(world, writes, full).await;
        sleep(Duration::from_millis(200)).await;
    }
    if term() != begin {
        world.trace.violate(format_args!("the term went from {begin:?} to {:?} while {full:?} were full", term()));
    }
}

async fn relieve(world: &World) {
    (0..world.cluster.len()).for_each(|host| world.cluster.disk(host).set_capacity(None));
    probe_all(world, Writes::Succeed, &[]).await;
}

/// The leader's first, so that leadership has to go from one to the next.
#[test]
fn disks_that_fill_one_after_the_other() {
    for_each_seed(|world| async move {
        let load = world.load();
        let mut full = Vec::new();
        while full.len() < 2 {
            let leader = world.cluster.leader().filter(|leader| !full.contains(leader));
            full.extend(leader.or_else(|| (0..3).find(|host| !full.contains(host))));
            until_found_full(&world, &full).await;
            let writes = if full.len() == 1 { Writes::Succeed } else { Writes::AreRefused };
            probe_all(&world, writes, &full).await;
            stay(&world, writes, &full).await;
        }
        squeeze(&world, &[0, 1, 2]);
        stay(&world, Writes::AreRefused, &[0, 1, 2]).await;
        relieve(&world).await;
        load.stop().await;
    });
}

#[test]
fn disks_that_fill_together() {
    for_each_seed(|world| async move {
        let load = world.load();
        sleep(Duration::from_secs(1)).await;
        squeeze(&world, &[0, 1, 2]);
        until_some_are_full(&world).await;
        probe_all(&world, Writes::AreRefused, &[0, 1, 2]).await;
        stay(&world, Writes::AreRefused, &[0, 1, 2]).await;
        relieve(&world).await;
        load.stop().await;
    });
}

/// Two are enough: nobody can write then, so the third may never find that out.
async fn until_some_are_full(world: &World) {
    let deadline = Instant::now() + FILLING_MAX;
    let is_found = || {
        squeeze(world, &[0, 1, 2]);
        world.cluster.all_running().iter().filter(|(_, running)| running.node.status().disk_full).count() >= 2
    };
    if !world.cluster.wait(deadline, is_found).await {
        world.trace.violate("no majority of the disks was found full");
    }
}

/// An election needs an entry, for which the nodes have to have kept room.
#[test]
fn a_leader_that_dies_while_all_disks_are_full_is_replaced() {
    for_each_seed(|world| async move {
        let load = world.load();
        sleep(Duration::from_secs(1)).await;
        until_some_are_full(&world).await;
        probe_all(&world, Writes::AreRefused, &[0, 1, 2]).await;
        let Some(leader) = world.cluster.leader() else { return world.trace.violate("nobody leads") };
        let others: Vec<usize> = (0..3).filter(|host| *host != leader).collect();
        if others.iter().any(|host| is_behind(&world, *host)) {
            // It can't take what it lacks: without the leader there would be no majority that has everything.
            (0..3).for_each(|host| world.cluster.disk(host).set_capacity(None));
            load.stop().await;
            return;
        }
        world.cluster.kill(leader);
        // The lease of the dead one, and an election.
        sleep(PATIENCE).await;
        for host in &others {
            probe(&world, *host, Writes::AreRefused, &[0, 1, 2]).await;
        }
        (0..3).for_each(|host| world.cluster.disk(host).set_capacity(None));
        for host in &others {
            probe(&world, *host, Writes::Succeed, &[]).await;
        }
        world.cluster.start(leader);
        load.stop().await;
    });
}
