//! kill -9 in the middle of writes, again and again, on the same directories.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::{Cluster, SMALL_AND_QUICK};
use crate::load::{Load, Reach};
use crate::tools::{number, say};

/// Acknowledged writes before a kill, so that it comes in the middle of many.
const WRITES: u64 = 200;

/// Nobody is left who remembers: all that counts is on the disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_of_all_nodes() {
    const ROUNDS: usize = 6;
    let mut cluster = Cluster::start(&SMALL_AND_QUICK).await;
    let load = Load::start(&cluster, Reach::All);
    for _ in 0..ROUNDS {
        load.progress(WRITES).await;
        cluster.kill_all();
        cluster.start_all();
        cluster.serving().await;
    }
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("all nodes killed {ROUNDS} times: {counts:?}"));
}

/// A leader that led on in its old term after such a restart would write new entries where the others have those that it
/// lost with its memory: same term, same index, another content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_comes_back_at_once_does_not_lead_on_in_its_old_term() {
    const ROUNDS: usize = 6;
    // Elections of the usual length: the leader has to be back before anybody stands for one.
    let mut cluster = Cluster::start(&[]).await;
    let load = Load::start(&cluster, Reach::All);
    for _ in 0..ROUNDS {
        load.progress(WRITES).await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start(false);
        cluster.serving().await;
    }
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("leader killed and back at once {ROUNDS} times: {counts:?}"));
}

/// The leader, a follower or all of them; back at once, or after the others went on without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_random_lose_and_double_nothing() {
    let kills = number("MOKV_FAULTS_KILLS", 50);
    let seed = number("MOKV_FAULTS_SEED", 1);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(&SMALL_AND_QUICK).await;
    let load = Load::start(&cluster, Reach::All);
    let mut killed = 0;
    while killed < kills {
        load.progress(random.random_range(1..WRITES)).await;
        if random.random_ratio(1, 6) {
            cluster.kill_all();
            killed += cluster.nodes.len();
            cluster.start_all();
        } else {
            let leader = cluster.leader().await;
            let victim = if random.random_bool(0.5) { leader } else { random.random_range(0..3) };
            cluster.nodes[victim].kill();
            killed += 1;
            if random.random_bool(0.5) {
                load.progress(WRITES).await;
            }
            cluster.nodes[victim].start(victim == 0);
        }
        cluster.serving().await;
    }
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("{killed} kills with seed {seed}: {counts:?}"));
}
