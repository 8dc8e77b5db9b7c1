//! Without faults, but with losses: all learn of all, of news, of deaths and of leaves.

use std::time::Duration;

use super::network::Quality;
use super::pool::{Pool, What};
use super::seeds;

const SECOND: Duration = Duration::from_secs(1);

/// Sizes of pools, shares of datagrams that get lost, and how many seeds of each.
const POOLS: [(usize, f64, u64); 8] =
    [(2, 0.0, 5), (3, 0.0, 10), (3, 0.3, 20), (5, 0.1, 20), (10, 0.3, 10), (30, 0.1, 3), (100, 0.0, 1), (100, 0.3, 1)];

fn each_pool(run: impl Fn(Pool, usize, f64)) {
    for (count, loss, runs) in POOLS {
        seeds::each(runs, |seed| run(Pool::of(count, seed, Quality::lossy(loss)), count, loss));
    }
}

#[test]
fn a_run_follows_from_its_seed() {
    let run = |seed| {
        let mut pool = Pool::of(5, seed, Quality::lossy(0.1));
        pool.kill(2);
        pool.run_for(30 * SECOND);
        pool.digest()
    };
    seeds::each(3, |seed| {
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed), run(seed + 1));
    });
}

#[test]
fn news_reaches_everybody() {
    each_pool(|mut pool, count, _| {
        let begin = pool.now;
        pool.set_meta(count - 1, "news");
        // What gossip did not bring, an exchange of states will.
        pool.expect(120 * SECOND, "all have the news", |pool| {
            pool.learned_by_all(What::Updated, count - 1, begin).is_some()
        });
    });
}

#[test]
fn nobody_who_lives_is_taken_for_dead() {
    each_pool(|mut pool, _, loss| {
        let begin = pool.now;
        pool.run_for(120 * SECOND);
        // Suspicions there are, when datagrams get lost; the time for objections is long enough. Only where every third
        // is lost it sometimes is not, in a small pool that has nobody to confirm or refute it.
        assert!(pool.deaths(begin) == 0 || loss > 0.2, "{} deaths", pool.deaths(begin));
        pool.expect(60 * SECOND, "all are well in the end", Pool::converged);
        if loss == 0.0 {
            let suspicions = pool.running().map(|host| pool.gossip(host).counters().suspicions);
            assert_eq!(suspicions.sum::<u64>(), 0);
            assert!(pool.running().all(|host| pool.gossip(host).health_score() == 0));
        }
    });
}

#[test]
fn a_killed_node_is_found_dead_by_all() {
    each_pool(|mut pool, count, _| {
        let begin = pool.now;
        pool.kill(0);
        let limit = 120 * SECOND;
        pool.expect(limit, "all know that it is dead", |pool| pool.learned_by_all(What::Died, 0, begin).is_some());
        assert!(pool.seen.iter().all(|seen| seen.at < begin || seen.about == 0), "and nobody else");
        pool.expect(limit, "all others are well", Pool::converged);

        // It comes back, with nothing in its memory.
        let begin = pool.now;
        pool.start(0);
        pool.expect(limit, "it is back", |pool| pool.learned_by_all(What::Joined, 0, begin).is_some());
        pool.expect(limit, "all know all", Pool::converged);
        assert_eq!(pool.running().count(), count);
    });
}

#[test]
fn a_node_that_leaves_is_not_taken_for_dead() {
    each_pool(|mut pool, _, loss| {
        // A leave is told a few times only: where every third datagram is lost, all of them may be.
        if loss > 0.2 {
            return;
        }
        let begin = pool.now;
        pool.leave(1);
        pool.expect(10 * SECOND, "it has told that it leaves", |pool| pool.has_left(1));
        pool.kill(1);
        pool.expect(120 * SECOND, "all know it", |pool| pool.learned_by_all(What::Left, 1, begin).is_some());
        // Forgotten at the end of a round of probes, and free for whoever comes.
        pool.expect(240 * SECOND, "it is forgotten", |pool| pool.running().all(|host| pool.view(host, 1).is_none()));
        assert_eq!(pool.deaths(begin), 0);
    });
}
