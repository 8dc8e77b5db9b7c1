//! Losses and delays at random, under load; and that a seed repeats itself.

use std::time::Duration;

use futures_util::future;
use mokv_client::Session;
use mokv_server::status::NodeStatus;
use tokio::time::{Instant, sleep};

use crate::harness::{PATIENCE, Setup, World, name};

/// How long the weather is bad.
const LENGTH: Duration = Duration::from_secs(12);

/// One for each writer.
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

fn bad() -> Setup {
    let network = |network: &mut turmoil::Builder| {
        // A link that was cut is mended by one in so many of the messages that follow.
        network.repair_rate(0.2).max_message_latency(Duration::from_millis(40));
    };
    Setup { network, ..Setup::default() }
}

/// What a writer knows of its key in the end.
#[derive(Debug, Default)]
struct Known {
    acknowledged: u64,
    last_acknowledged: u64,
    unknown: u64,
}

/// Writes one number after the other to a key of its own.
async fn write(world: &World, session: &Session, key: &str, until: Instant) -> Known {
    let mut known = Known::default();
    for number in 1.. {
        if Instant::now() > until {
            break;
        }
        match session.set(key, number.to_string()).await {
            Ok(written) => {
                known.acknowledged += 1;
                known.last_acknowledged = number;
                assert!(known.acknowledged <= written.version && written.version <= known.acknowledged + known.unknown);
            }
            Err(_) => known.unknown += 1,
        }
        sleep(Duration::from_millis(world.random(1..100))).await;
    }
    known
}

/// Several writers in one session.
async fn write_all(world: &World) -> Vec<Known> {
    let until = Instant::now() + LENGTH;
    let session = world.client().with_timeout(Duration::from_secs(4)).session();
    future::join_all(KEYS.map(|key| write(world, &session, key, until))).await
}

/// A workload in bad weather.
async fn storm(world: World) -> (NodeStatus, Duration) {
    world.set_loss_rate(world.random(1..8) as f64 / 2000.0).await;
    let known = write_all(&world).await;
    world.set_loss_rate(0.0).await;
    world.mend();
    check(&world, known).await
}

/// Waits until the cluster is well again, and checks that it has what the writers know. Returns what it has come to, and
/// when.
async fn check(world: &World, known: Vec<Known>) -> (NodeStatus, Duration) {
    let status = world.settle(PATIENCE).await;
    let client = world.client();
    for (key, known) in KEYS.into_iter().zip(known) {
        let found = client.get(key).await.expect("get").expect("is there");
        let number: u64 = std::str::from_utf8(&found.value).expect("text").parse().expect("a number");
        assert!(known.acknowledged > 0, "{key} was never written");
        assert!(number >= known.last_acknowledged, "{key} is {number}: {known:?}");
        let times = known.acknowledged..=known.acknowledged + known.unknown;
        assert!(times.contains(&found.version), "{key} was written {} times: {known:?}", found.version);
    }
    (status, turmoil::sim_elapsed().expect("within the simulation"))
}

#[test]
fn after_losses_and_delays_all_nodes_are_equal_and_have_what_was_acknowledged() {
    bad().run(|world| async move { drop(storm(world).await) });
}

/// One fault after the other, between the nodes: at most one host is away at a time.
async fn trouble(world: &World) {
    let until = Instant::now() + LENGTH;
    while Instant::now() < until {
        let (one, other) = (world.random(0..3) as usize, world.random(1..3) as usize);
        let other = (one + other) % 3;
        let pause = Duration::from_millis(world.random(100..7000));
        match world.random(0..5) {
            0 => turmoil::partition(name(one), name(other)),
            1 => turmoil::partition_oneway(name(one), name(other)),
            2 => turmoil::hold(name(one), name(other)),
            3 => {
                turmoil::partition(name(one), name(other));
                turmoil::partition(name(one), name(3 - one - other));
            }
            _ => {
                world.crash(one).await;
                sleep(pause / 2).await;
                world.start(one).await;
            }
        }
        sleep(pause).await;
        world.mend();
        sleep(Duration::from_millis(world.random(0..1500))).await;
    }
}

#[test]
fn after_faults_of_every_kind_all_nodes_are_equal_and_have_what_was_acknowledged() {
    bad().run(|world| async move {
        let (known, ()) = tokio::join!(write_all(&world), trouble(&world));
        check(&world, known).await;
    });
}

#[test]
fn a_seed_gives_the_same_run() {
    let run = |seed| {
        let (status, ended) = bad().run_seed(seed, storm);
        (status.committed_index, status.state_hash, status.term, status.cluster_id, ended)
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}
