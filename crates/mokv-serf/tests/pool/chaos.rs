//! Everything at once, as a seed says; then peace, in which all have to agree on what is so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use mokv_serf::serf::{Event, Status};
use mokv_serf::wire::serf::Tags;
use rand::RngExt;

use crate::pool::{Pool, codecs, secs, seeds};

/// How the others may see each node that is gone.
#[derive(Default)]
struct Gone {
    seen: BTreeMap<usize, Vec<Status>>,
    /// Those that left at some time. Who never knew that it was back takes it for left although it crashed.
    left: BTreeSet<usize>,
}

impl Gone {
    fn crashed(&mut self, i: usize) {
        let seen = if self.left.contains(&i) { vec![Status::Failed, Status::Left] } else { vec![Status::Failed] };
        self.seen.insert(i, seen);
    }

    /// Whoever is cut off does not hear a goodbye.
    fn left(&mut self, i: usize, is_heard: bool) {
        self.left.insert(i);
        self.seen.insert(i, if is_heard { vec![Status::Left] } else { vec![Status::Failed, Status::Left] });
    }
}

#[test]
fn after_any_history_all_agree() {
    for seed in seeds(30) {
        let mut pool = Pool::new(seed);
        let codecs = codecs();
        pool.codec = codecs[seed as usize % codecs.len()].1.clone();
        pool.delay_max = Duration::from_millis(50);
        let size = pool.rng.random_range(3..=10);
        pool.form(size);
        pool.loss = pool.rng.random_range(0.0..0.2);
        let mut gone = Gone::default();
        for _ in 0..20 {
            disturb(&mut pool, size, &mut gone);
            let pause = Duration::from_millis(pool.rng.random_range(0..8000));
            pool.run(pause);
        }
        pool.loss = 0.0;
        pool.cuts.clear();
        // Until the last join has timed out.
        pool.run(secs(12));
        rejoin(&mut pool, size);
        pool.wait_for(secs(600), "all to agree", |pool| {
            pool.nodes().all(|node| {
                (0..size).all(|i| match (node.status(&Pool::name(i)), gone.seen.get(&i)) {
                    (seen, None) => seen == Some(Status::Alive),
                    (Some(status), Some(seen)) => seen.contains(&status),
                    // A node that came back need not know who went while it was away.
                    (None, Some(_)) => true,
                })
            })
        });
        pool.run(secs(60));
        let names = pool.names();
        assert!(pool.agrees(Status::Alive, &names), "and stay so");
        once(&pool);
    }
}

/// Whoever joins tries until it has, which is not Serf's business; nor can it help a node whose acquaintances all left
/// while it was cut off.
fn rejoin(pool: &mut Pool, size: usize) {
    let running: Vec<usize> = (0..size).filter(|i| pool.is_running(*i)).collect();
    let knows = |a: usize, b: usize| {
        matches!(pool.node(a).status(&Pool::name(b)), Some(Status::Alive | Status::Leaving | Status::Failed))
    };
    let mut reached = vec![running[0]];
    let mut next = 0;
    while next < reached.len() {
        let from = reached[next];
        for i in &running {
            if !reached.contains(i) && (knows(from, *i) || knows(*i, from)) {
                reached.push(*i);
            }
        }
        next += 1;
    }
    for i in running {
        if !reached.contains(&i) {
            pool.join(i, reached[0]);
        }
    }
}

fn disturb(pool: &mut Pool, size: usize, gone: &mut Gone) {
    let i = pool.rng.random_range(0..size);
    let other = pool.rng.random_range(0..size);
    match pool.rng.random_range(0..8) {
        0 if pool.is_running(i) && gone.seen.len() + 2 < size => {
            pool.kill(i);
            gone.crashed(i);
        }
        1 if pool.is_running(i) && gone.seen.len() + 2 < size => {
            pool.act(i, |serf, now| serf.leave(now));
            pool.wait_for(secs(12), "a goodbye", |pool| pool.node(i).said.left);
            pool.kill(i);
            gone.left(i, pool.cuts.is_empty());
        }
        2 | 3 if !pool.is_running(i) && pool.is_running(other) => {
            pool.start(i);
            pool.join(i, other);
            gone.seen.remove(&i);
        }
        4 if i != other => pool.cut(&[i], &[other]),
        5 => pool.cuts.clear(),
        6 if pool.is_running(i) => {
            let tags = Tags::from([("at".into(), format!("{:?}", pool.now).into())]);
            pool.act(i, |serf, now| serf.set_tags(now, tags)).expect("small");
        }
        7 if pool.is_running(i) => {
            let name = format!("e{:?}", pool.now).into();
            pool.act(i, |serf, now| serf.user_event(now, name, Bytes::new(), false)).expect("small");
        }
        _ => {}
    }
}

/// No node told an event twice.
fn once(pool: &Pool) {
    for node in pool.nodes() {
        let mut told = BTreeMap::new();
        for event in &node.said.events {
            if let Event::User(event) = event {
                *told.entry((event.time, event.name.clone())).or_insert(0) += 1;
            }
        }
        assert!(told.values().all(|times| *times == 1), "{told:?}");
    }
}
