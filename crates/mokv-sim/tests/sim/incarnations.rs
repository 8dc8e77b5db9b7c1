//! Data directories that went back in time, or of which there are two.

use mokv_server::disk::sim::SimDisk;
use mokv_sim::cluster::Excuse;
use mokv_sim::run::World;
use rand::RngExt;
use tokio::time::Instant;

use crate::scenario::{
    Expected, PATIENCE, SEEDS, all_ready, each_seed, ensure, generator, leader, node_id, progress, refused, replace,
    serves, three, until,
};

/// How often an old copy is started before it meets anybody: it counts further than the original did.
const LONELY_STARTS: usize = 3;

/// How a backup comes to be, and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backup {
    /// It is made while the node is stopped.
    OfStopped,
    /// And it is started several times before it meets anybody.
    StartedAlone,
    /// It is made while the node runs, which goes on for long: by what is written in it, the next start is in order.
    OfRunning,
}

#[test]
fn s22_an_old_backup_is_refused_by_those_who_know_better() {
    each_seed(SEEDS, three, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        progress(&world, 20).await?;
        let host = generator(&world).random_range(0..3);
        let kind = [Backup::OfStopped, Backup::StartedAlone, Backup::OfRunning][(cluster.plan().seed % 3) as usize];
        let backup = match kind {
            Backup::OfRunning => cluster.disk(host).crash(|_| true),
            Backup::OfStopped | Backup::StartedAlone => {
                cluster.stop(host).await;
                cluster.disk(host).copy()
            }
        };
        // It votes in later terms, without the backup.
        all_ready(&world).await?;
        for _ in 0..2 {
            change_leader(&world).await?;
            progress(&world, 10).await?;
        }
        cluster.stop(host).await;
        if kind == Backup::StartedAlone {
            cluster.isolate(host);
        }
        let id = node_id(&world, host)?;
        start_old(&world, host, backup).await?;
        if kind == Backup::StartedAlone {
            for _ in 1..LONELY_STARTS {
                cluster.kill(host);
                cluster.start(host);
                until(&world, "the backup runs", || cluster.running(host).is_some()).await?;
            }
            cluster.net().heal();
        }
        until(&world, format_args!("a backup ({kind:?}) is refused"), || cluster.ended(host).is_some()).await?;
        let why = cluster.ended(host).ok_or("it has ended")?;
        // What ran on may have been started again since.
        let is_expected = why.contains("old copy") || kind == Backup::OfRunning && why.contains("went back in time");
        ensure(is_expected && why.contains("move the data directory away"), format_args!("it says why: {why}"))?;
        ensure(node_id(&world, host)? == id, "it passed for the node that it was")?;

        // Whoever is started again and again is not asked again.
        let why = refused(&world, host, cluster.disk(host)).await?;
        ensure(why.contains("was refused before"), format_args!("it says why: {why}"))?;
        serves(&world, (host + 1) % 3).await?;
        replace(&world, host).await?;
        load.stop().await;
        Ok(())
    });
}

/// With the leader of the old term on one side and that of the new one on the other, a node that forgot on which side it was
/// would make majorities of both.
#[test]
fn s22_an_old_backup_joins_no_second_majority() {
    each_seed(SEEDS, three, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        progress(&world, 20).await?;
        let old = leader(&world).await?;
        let others = [(old + 1) % 3, (old + 2) % 3];
        let backups = others.map(|host| cluster.disk(host).crash(|_| true));
        // One of those that are cut off from the leader elects the other.
        cluster.isolate(old);
        until(&world, "a new leader", || cluster.leader().is_some_and(|leader| leader != old)).await?;
        progress(&world, 10).await?;
        let elected = leader(&world).await?;
        let voter = usize::from(others[0] == elected);
        let (victim, backup) = (others[voter], backups[voter].clone());
        cluster.kill(victim);
        cluster.net().heal();
        cluster.net().cut(old, elected);
        cluster.net().cut(elected, old);
        start_old(&world, victim, backup).await?;
        // It may be refused, or follow who leads; what it must not do the observer sees.
        cluster.wait(Instant::now() + PATIENCE / 10, || cluster.ended(victim).is_some()).await;
        cluster.net().heal();
        cluster.kill(victim);
        replace(&world, victim).await?;
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s23_of_a_cloned_directory_and_its_original_one_is_refused() {
    each_seed(SEEDS, three, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        let load = world.load();
        progress(&world, 20).await?;
        let first = rng.random_range(0..3);
        let is_live = rng.random_bool(0.3);
        if !is_live {
            cluster.stop(first).await;
        }
        let clone = cluster.disk(first).crash(|_| true);
        cluster.excuse(first, Excuse::Damage);
        cluster.start(first);
        if rng.random_bool(0.5) {
            until(&world, "the original runs", || cluster.running(first).is_some()).await?;
            change_leader(&world).await?;
        }
        let second = cluster.add_host();
        start_old(&world, second, clone).await?;
        let has_ended = |host| cluster.ended(host).is_some();
        until(&world, "one of both is refused", || has_ended(first) || has_ended(second)).await?;
        // A majority is left whichever it was.
        for other in (0..3).filter(|host| *host != first) {
            serves(&world, other).await?;
        }
        if has_ended(second) && !has_ended(first) {
            serves(&world, first).await?;
        }
        cluster.kill(first);
        cluster.kill(second);
        replace(&world, first).await?;
        cluster.replace_disk(second);
        ensure(cluster.join(second, Instant::now() + PATIENCE).await, "with its own directory it may join")?;
        load.stop().await;
        Ok(())
    });
}

/// Starts a node on an old copy of its disk, or of another one's.
async fn start_old(world: &World, host: usize, disk: SimDisk) -> Expected {
    world.cluster.set_disk(host, disk.copy());
    world.cluster.excuse(host, Excuse::OldDisk);
    world.cluster.start(host);
    until(world, "the node starts", || world.cluster.running(host).is_some() || world.cluster.ended(host).is_some())
        .await
}

/// Ends the leader's process, waits for another leader, and starts it again.
async fn change_leader(world: &World) -> Expected {
    let cluster = &world.cluster;
    let old = leader(world).await?;
    cluster.kill(old);
    until(world, "another leader", || cluster.leader().is_some()).await?;
    all_ready(world).await
}
