//! How fast, and at what price. Prints; the limits are far from what is seen.

use std::time::Duration;

use super::network::Quality;
use super::pool::{Pool, What};

const SECOND: Duration = Duration::from_secs(1);

/// Some times, for their middle and their worst.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn middle(&mut self) -> f64 {
        self.0.sort();
        self.0[self.0.len() / 2].as_secs_f64()
    }

    fn worst(&self) -> f64 {
        self.0.iter().max().expect("there was a run").as_secs_f64()
    }
}

#[test]
#[allow(clippy::print_stdout)]
fn figures() {
    println!("LAN settings, seconds: middle / worst over the runs");
    println!("nodes  loss  news to all    first sees death  all know it    datagrams a node and second (idle)");
    for (count, loss, runs) in [
        (3, 0.0, 20),
        (3, 0.1, 20),
        (10, 0.0, 20),
        (10, 0.1, 20),
        (30, 0.0, 10),
        (30, 0.1, 10),
        (100, 0.0, 3),
        (100, 0.1, 3),
    ] {
        let (mut news, mut first, mut all) = (Times::default(), Times::default(), Times::default());
        let mut idle = 0.0;
        for seed in 0..runs {
            let mut pool = Pool::of(count, seed, Quality::lossy(loss));
            // What the joins left to say is said.
            pool.run_for(20 * SECOND);

            let (begin, datagrams) = (pool.now, pool.datagrams);
            pool.run_for(30 * SECOND);
            idle += (pool.datagrams - datagrams) as f64 / 30.0 / count as f64 / runs as f64;
            assert_eq!(pool.deaths(begin), 0);

            let begin = pool.now;
            pool.set_meta(1, "news");
            let told = |pool: &Pool| pool.learned_by_all(What::Updated, 1, begin);
            pool.expect(120 * SECOND, "all have the news", |pool| told(pool).is_some());
            news.0.push(told(&pool).expect("all have it").1);

            pool.run_for(5 * SECOND);
            let begin = pool.now;
            pool.kill(0);
            let dead = |pool: &Pool| pool.learned_by_all(What::Died, 0, begin);
            pool.expect(120 * SECOND, "all know that it is dead", |pool| dead(pool).is_some());
            let (first_saw, all_knew) = dead(&pool).expect("all know");
            first.0.push(first_saw);
            all.0.push(all_knew);
        }
        println!(
            "{count:5}  {loss:4.2}  {:5.2} / {:5.2}  {:6.2} / {:6.2}  {:6.2} / {:6.2}  {idle:6.2}",
            news.middle(),
            news.worst(),
            first.middle(),
            first.worst(),
            all.middle(),
            all.worst(),
        );
        assert!(loss > 0.0 || news.worst() < 5.0, "gossip alone should do that");
        assert!(all.worst() < 60.0);
    }
}
