//! Snapshots that are sent while the cluster changes, and to nodes that are slow.

use std::time::Duration;

use futures_util::future::join_all;
use mokv_check::{Op, Outcome};
use mokv_sim::plan::Plan;
use mokv_sim::run::World;
use tokio::time::{Instant, sleep};

use crate::scenario::{
    Expected, PATIENCE, all_ready, client_at, each_seed, ensure, leader, node_id, progress, three, until,
};

/// Values that make a snapshot of several chunks, of 1 MiB each.
const LARGE_VALUES: u64 = 36;
const LARGE_BYTES: usize = 100_000;

/// Chunks that such a snapshot has at least, its header among them.
const CHUNKS_MIN: u64 = 5;

/// How long a slow follower is watched, and how often.
const WINDOW: Duration = Duration::from_secs(5);
const WINDOWS: u64 = 4;

/// A follower that lacks what the log has dropped needs one snapshot, and few more if the log is dropped meanwhile.
const SNAPSHOTS_MAX: u64 = 5;

fn count(world: &World, what: &str) -> u64 {
    world.trace.counts().get(what).copied().unwrap_or(0)
}

fn applied(world: &World, host: usize) -> u64 {
    let running = world.cluster.running(host);
    running.and_then(|running| running.node.store().stats().applied).map_or(0, |at| at.index)
}

fn purged(world: &World, host: usize) -> u64 {
    world.cluster.running(host).map_or(0, |running| running.node.raft().progress().purged)
}

/// Puts a state into the cluster that takes several chunks to send.
async fn fill(world: &World) -> Expected {
    let writes = (0..LARGE_VALUES).map(|number| {
        let mut client = client_at(world, number as usize % 3, 800 + number);
        let value = format!("{}{}", client.token(), ".".repeat(LARGE_BYTES));
        async move { client.write(Op::set(format!("large-{number}"), value), true).await }
    });
    let written = join_all(writes).await.into_iter().filter(|outcome| matches!(outcome, Outcome::Ok { .. })).count();
    ensure(written as u64 > LARGE_VALUES - 3, format_args!("only {written} large values were written"))
}

#[test]
fn s11_a_snapshot_that_breaks_at_each_chunk_is_installed_in_the_end() {
    let plan = |seed| {
        let mut plan = Plan { snapshot_log_bytes: 256 << 10, segment_bytes: 1 << 20, ..three(seed) };
        plan.load.clients = 2;
        plan
    };
    each_seed(0..6, plan, |world| async move {
        fill(&world).await?;
        let load = world.load();
        until(&world, "the log does not have everything", || (0..3).all(|host| purged(&world, host) > 0)).await?;
        let leader = leader(&world).await?;
        let leaving = (leader + 1) % 3;
        let left = node_id(&world, leaving)?;
        let joining = world.cluster.add_host();
        world.cluster.net().break_snapshots();
        let deadline = Instant::now() + 2 * PATIENCE;
        let changing = async {
            until(&world, "a snapshot breaks", || count(&world, "fault.snapshot broken") > 0).await?;
            ensure(world.cluster.remove(left, deadline).await, "a member can't be removed")?;
            world.cluster.kill(leaving);
            world.cluster.replace_disk(leaving);
            Expected::Ok(())
        };
        let (joined, changed) = tokio::join!(world.cluster.join(joining, deadline), changing);
        changed?;
        ensure(joined, "the new node could not join")?;
        let broken = count(&world, "fault.snapshot broken");
        ensure(broken >= CHUNKS_MIN, format_args!("only {broken} snapshots broke"))?;
        ensure(count(&world, "net.snapshot received") > 0, "no snapshot came through")?;
        ensure(world.cluster.join(leaving, deadline).await, "the replacement could not join")?;
        let voters = world.cluster.observer().voters();
        ensure(voters.len() == 1 && voters[0].len() == 4, format_args!("voters {voters:?}"))?;
        load.stop().await;
        world.compare_states().await;
        Ok(())
    });
}

#[test]
fn s12_a_slow_follower_catches_up_while_the_log_is_short() {
    let plan = |seed| Plan { snapshot_log_bytes: 1 << 10, segment_bytes: 4 << 10, cache_bytes: 0, ..three(seed) };
    each_seed(0..8, plan, |world| async move {
        let load = world.load();
        let leader = leader(&world).await?;
        let (slow, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let before = applied(&world, slow);
        world.cluster.kill(slow);
        until(&world, "the log begins later", || {
            [leader, other].iter().all(|host| purged(&world, *host) > before + 10)
        })
        .await?;
        for host in [leader, other] {
            world.cluster.net().slow_down(host, slow, Duration::from_millis(100));
            world.cluster.net().slow_down(slow, host, Duration::from_millis(100));
        }
        world.cluster.disk_control(slow).set(|behaviour| behaviour.sync_max = Duration::from_millis(100));
        let begin = count(&world, "peer.Snapshot");
        world.cluster.start(slow);
        for _ in 0..WINDOWS {
            let at = applied(&world, leader);
            until(&world, "the slow follower catches up", || applied(&world, slow) > at).await?;
            sleep(WINDOW).await;
        }
        progress(&world, 10).await?;
        let sent = count(&world, "peer.Snapshot") - begin;
        ensure(sent > 0, "no snapshot was sent")?;
        ensure(sent <= SNAPSHOTS_MAX, format_args!("{sent} snapshots were sent"))?;
        load.stop().await;
        all_ready(&world).await
    });
}
