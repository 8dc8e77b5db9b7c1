//! Events reach all, once.

use bytes::Bytes;
use mokv_serf::serf::{EVENT_BYTES_MAX, Event, SendError};
use mokv_serf::wire::serf::UserEvent;
use rand::RngExt;

use crate::pool::{Node, Pool, codecs, secs, seeds};

fn told(node: &Node) -> Vec<(String, Bytes)> {
    let mut told: Vec<_> = node
        .said
        .events
        .iter()
        .filter_map(|event| match event {
            Event::User(UserEvent { name, payload, .. }) => Some((name.to_string(), payload.clone())),
            _ => None,
        })
        .collect();
    told.sort();
    told
}

#[test]
fn each_event_is_told_once_by_each_node() {
    for seed in seeds(15) {
        let codecs = codecs();
        let mut pool = Pool::formed_with(seed, 8, codecs[seed as usize % codecs.len()].1.clone());
        pool.loss = [0.0, 0.1, 0.25][seed as usize % 3];
        let mut expected = Vec::new();
        for i in 0..40 {
            let from = pool.rng.random_range(0..8);
            let payload = Bytes::from(format!("v{i}"));
            pool.act(from, |serf, now| serf.user_event(now, "deploy".into(), payload.clone(), i % 2 == 0))
                .expect("small");
            expected.push(("deploy".to_owned(), payload));
            let pause = pool.rng.random_range(0..200);
            pool.run(std::time::Duration::from_millis(pause));
        }
        expected.sort();
        // What gossip loses, exchanges of states bring.
        pool.wait("all to be told", |pool| pool.nodes().all(|node| told(node).len() >= 40));
        pool.run(secs(60));
        for node in pool.nodes() {
            assert_eq!(told(node), expected);
        }
    }
}

#[test]
fn an_event_that_is_too_large_is_refused() {
    let mut pool = Pool::formed(0, 2);
    let payload = Bytes::from(vec![0; EVENT_BYTES_MAX]);
    let refused = pool.act(0, |serf, now| serf.user_event(now, "e".into(), payload, false));
    assert!(matches!(refused, Err(SendError::TooLarge { size, max: EVENT_BYTES_MAX }) if size > EVENT_BYTES_MAX));
    let payload = Bytes::from(vec![0; EVENT_BYTES_MAX - 50]);
    pool.act(0, |serf, now| serf.user_event(now, "e".into(), payload, false)).expect("it fits");
    pool.wait("it to be told", |pool| told(pool.node(1)).len() == 1);
}

#[test]
fn a_newcomer_is_told_what_was_before_it_only_if_it_wants() {
    for wants in [false, true] {
        let mut pool = Pool::formed(0, 3);
        for i in 0..5 {
            let payload = format!("{i}").into();
            pool.act(0, |serf, now| serf.user_event(now, "old".into(), payload, false)).expect("small");
        }
        // Until it is old news, which nobody sends any more.
        pool.run(secs(60));
        if wants {
            pool.adjust = |config| config.ignore_old_events = false;
        }
        pool.start(3);
        pool.join(3, 1);
        pool.run(secs(60));
        assert_eq!(told(pool.node(3)).len(), if wants { 5 } else { 0 });
        pool.act(2, |serf, now| serf.user_event(now, "new".into(), Bytes::new(), false)).expect("small");
        pool.wait("the new one", |pool| told(pool.node(3)).iter().any(|(name, _)| name == "new"));
        assert_eq!(told(pool.node(0)).len(), 6);
    }
}
