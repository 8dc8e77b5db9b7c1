//! Everything that can go wrong, then nothing more: all nodes find each other again.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use super::network::{Host, Quality};
use super::pool::Pool;
use super::seeds;

const SECOND: Duration = Duration::from_secs(1);

/// Cuts the hosts into two parts.
fn cut_in_two(pool: &mut Pool, count: usize, is_left: impl Fn(Host) -> bool) {
    for a in 0..count {
        for b in (0..a).filter(|b| is_left(a) != is_left(*b)) {
            pool.network.cut(a, b);
        }
    }
}

#[test]
fn faults_partition_and_heal() {
    for (count, loss, runs) in [(3, 0.0, 5), (5, 0.3, 10), (10, 0.1, 5), (30, 0.1, 2)] {
        seeds::each(runs, |seed| {
            let mut pool = Pool::of(count, seed, Quality::lossy(loss));
            cut_in_two(&mut pool, count, |host| host < count / 2);
            pool.expect(240 * SECOND, "each part is alone", |pool| {
                (0..count).all(|a| {
                    (0..count).all(|b| {
                        let known = pool.view(a, b).is_some_and(|node| !node.is_gone());
                        known != pool.network.is_cut(a, b)
                    })
                })
            });
            // Long enough for each to forget the other, so that only the layer above still knows.
            pool.run_for(120 * SECOND);
            pool.network.heal();
            pool.expect(300 * SECOND, "all know all", Pool::converged);
        });
    }
}

#[test]
fn faults_one_link_only() {
    // Two nodes that can't reach each other, and both reach the others: indirect probes keep them.
    for count in [4, 10] {
        seeds::each(5, |seed| {
            let mut pool = Pool::of(count, seed, Quality::lossy(0.0));
            let begin = pool.now;
            pool.network.cut(0, 1);
            pool.run_for(300 * SECOND);
            assert_eq!(pool.deaths(begin), 0);
            let suspicions = pool.running().map(|host| pool.gossip(host).counters().suspicions);
            assert_eq!(suspicions.sum::<u64>(), 0);
            assert!(pool.converged());
        });
    }
}

#[test]
fn faults_only_streams_get_through() {
    for count in [3, 5] {
        seeds::each(5, |seed| {
            let mut pool = Pool::of(count, seed, Quality::lossy(0.0));
            let begin = pool.now;
            pool.network.lose_datagrams_of(0);
            pool.run_for(120 * SECOND);
            assert_eq!(pool.deaths(begin), 0);
            assert!((1..count).any(|host| pool.gossip(host).counters().probes_by_stream > 0));
        });
    }
}

#[test]
fn faults_short_pauses_kill_nobody() {
    for count in [5, 10] {
        seeds::each(10, |seed| {
            let mut pool = Pool::of(count, seed, Quality::lossy(0.0));
            let mut rng = seeds::generator(seed, "pauses");
            let begin = pool.now;
            for _ in 0..20 {
                let victim = rng.random_range(0..count);
                let incarnation = pool.gossip(victim).node(&format!("node-{victim}").into()).map(|n| n.incarnation);
                pool.pause(victim, rng.random_range(SECOND..=3 * SECOND));
                pool.expect(4 * SECOND, "it runs again", |pool| !pool.is_paused(victim));
                pool.expect(60 * SECOND, "all are well", Pool::converged);
                assert!(
                    pool.gossip(victim).node(&format!("node-{victim}").into()).map(|n| n.incarnation) >= incarnation
                );
            }
            assert_eq!(pool.deaths(begin), 0);
        });
    }
}

#[test]
fn faults_a_slow_network_kills_nobody() {
    // Many answers come after the probe has asked others, and out of order.
    let quality = Quality { loss: 0.02, delay: Duration::from_millis(1)..=Duration::from_millis(300) };
    for count in [3, 10] {
        seeds::each(5, |seed| {
            let mut pool = Pool::of(count, seed, quality.clone());
            let begin = pool.now;
            pool.run_for(300 * SECOND);
            assert_eq!(pool.deaths(begin), 0);
            let relays = pool.running().map(|host| pool.gossip(host).counters().relays).sum::<u64>();
            assert!(relays > 0);
            pool.expect(60 * SECOND, "all are well", Pool::converged);
        });
    }
}

#[test]
fn faults_a_node_that_hardly_runs_kills_nobody_else() {
    for count in [3, 10] {
        seeds::each(5, |seed| {
            let mut pool = Pool::of(count, seed, Quality::lossy(0.0));
            let mut rng = seeds::generator(seed, "pauses");
            let begin = pool.now;
            for _ in 0..60 {
                pool.pause(0, rng.random_range(SECOND..=10 * SECOND));
                pool.expect(11 * SECOND, "it runs again", |pool| !pool.is_paused(0));
                pool.run_for(rng.random_range(Duration::ZERO..=SECOND));
            }
            // It may be taken for dead itself, and comes back.
            assert!(pool.seen.iter().all(|seen| seen.at < begin || seen.about == 0));
            pool.expect(120 * SECOND, "all are well", Pool::converged);
        });
    }
}

#[test]
fn faults_of_all_kinds() {
    for (count, runs) in [(3, 20), (5, 30), (10, 10), (30, 2)] {
        seeds::each(runs, |seed| {
            let mut rng = seeds::generator(seed, "faults");
            let slowest = Duration::from_millis(rng.random_range(1..=300));
            let quality = Quality { loss: rng.random_range(0.0..=0.3), delay: Duration::ZERO..=slowest };
            let mut pool = Pool::of(count, seed, quality);
            for _ in 0..20 {
                fault(&mut pool, count, &mut rng);
                pool.run_for(rng.random_range(SECOND..=20 * SECOND));
            }
            pool.network.heal();
            for host in 0..count {
                if !pool.is_running(host) {
                    pool.start(host);
                }
            }
            pool.expect(600 * SECOND, "all know all", Pool::converged);
        });
    }
}

fn fault(pool: &mut Pool, count: usize, rng: &mut StdRng) {
    let victim = rng.random_range(0..count);
    match rng.random_range(0..8) {
        0 | 1 if pool.is_running(victim) => pool.kill(victim),
        0 | 1 => pool.start(victim),
        2 => {
            // A restart that nobody may have noticed.
            if pool.is_running(victim) {
                pool.kill(victim);
            }
            pool.start(victim);
        }
        3 | 4 if pool.is_running(victim) => pool.pause(victim, rng.random_range(SECOND..=60 * SECOND)),
        5 => {
            let left = (0..count).sample(rng, count / 2);
            cut_in_two(pool, count, |host| left.contains(&host));
        }
        6 => pool.network.cut(victim, (victim + 1) % count),
        _ => pool.network.heal(),
    }
}
