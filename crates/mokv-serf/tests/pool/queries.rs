//! Queries are answered by those that they are meant for.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use mokv_serf::serf::{Event, QUERY_BYTES_MAX, QueryAnswer, QueryId, QueryOptions, SendError};
use mokv_serf::wire::serf::{Filter, Tags};

use crate::pool::{Pool, codecs, secs, seeds};

/// Each node answers the queries that it was told, once, with its name.
fn answer_all(pool: &mut Pool) {
    let size = pool.nodes().count();
    for i in 0..size {
        for event in pool.take_events(i) {
            if let Event::Query(query) = event {
                pool.act(i, |serf, now| serf.respond(now, &query, Pool::name(i).into())).expect("in time");
            }
        }
    }
}

/// Asks, has all answer, and says who sent word and who answered what.
fn ask(pool: &mut Pool, from: usize, options: QueryOptions) -> (Vec<String>, BTreeMap<String, Bytes>) {
    let id = pool.act(from, |serf, now| serf.query(now, "load".into(), "x".into(), options)).expect("small");
    let mut rounds = 0;
    while !finished(pool, from, id) {
        pool.run(Duration::from_millis(200));
        answer_all(pool);
        rounds += 1;
        assert!(rounds < 100, "the query never ends");
    }
    let (mut acks, mut answers) = (Vec::new(), BTreeMap::new());
    for (of, answer) in &pool.node(from).said.answers {
        assert_eq!(*of, id);
        match answer {
            QueryAnswer::Ack(node) => acks.push(node.to_string()),
            QueryAnswer::Response { from, payload } => {
                assert!(answers.insert(from.to_string(), payload.clone()).is_none(), "{from} twice");
            }
            QueryAnswer::Finished => {}
        }
    }
    acks.sort();
    pool.forget();
    (acks, answers)
}

fn finished(pool: &Pool, from: usize, id: QueryId) -> bool {
    pool.node(from).said.answers.contains(&(id, QueryAnswer::Finished))
}

#[test]
fn all_answer_and_send_word_if_asked() {
    for (name, codec) in codecs() {
        let mut pool = Pool::formed_with(0, 12, codec);
        let names = pool.names();
        let (acks, answers) = ask(&mut pool, 3, QueryOptions { ack: true, ..QueryOptions::default() });
        assert_eq!(acks, names, "{name}");
        assert_eq!(answers.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>(), "{name}");
        assert!(answers.iter().all(|(name, answer)| *answer == *name));

        let (acks, answers) = ask(&mut pool, 3, QueryOptions::default());
        assert_eq!((acks.len(), answers.len()), (0, 12), "{name}");
    }
}

#[test]
fn only_those_that_are_meant_answer() {
    let mut pool = Pool::formed(0, 6);
    for i in [1, 4] {
        let tags = Tags::from([("role".into(), format!("web-{i}").into())]);
        pool.act(i, |serf, now| serf.set_tags(now, tags)).expect("small");
    }
    let mut who = |filters| -> Vec<String> {
        let options = QueryOptions { filters, ack: true, ..QueryOptions::default() };
        let (acks, answers) = ask(&mut pool, 0, options);
        assert_eq!(acks, answers.keys().cloned().collect::<Vec<_>>());
        acks
    };
    let nodes = Filter::Nodes(vec!["n4".into(), "n5".into(), "nobody".into()]);
    let web = Filter::Tag { tag: "role".into(), expr: "^web-[0-9]$".into() };
    assert_eq!(who(vec![nodes.clone()]), ["n4", "n5"]);
    assert_eq!(who(vec![web.clone()]), ["n1", "n4"]);
    assert_eq!(who(vec![nodes, web]), ["n4"]);
}

#[test]
fn a_query_lasts_as_long_as_it_says() {
    let mut pool = Pool::formed(0, 12);
    let timeout = pool.node(0).serf.query_timeout();
    assert_eq!(timeout, Duration::from_millis(200 * 16 * 2), "12 nodes have two digits");
    for (asked, expected) in [(None, timeout), (Some(secs(1)), secs(1))] {
        let began = pool.now;
        let options = QueryOptions { timeout: asked, ..QueryOptions::default() };
        let id = pool.act(0, |serf, now| serf.query(now, "q".into(), Bytes::new(), options)).expect("small");
        pool.wait("the end", |pool| finished(pool, 0, id));
        assert_eq!(pool.now - began, expected);
    }
}

#[test]
fn an_answer_that_is_late_or_large_is_not_sent() {
    let mut pool = Pool::formed(0, 2);
    let options = QueryOptions { timeout: Some(secs(2)), ..QueryOptions::default() };
    pool.act(0, |serf, now| serf.query(now, "q".into(), Bytes::new(), options)).expect("small");
    let received = |pool: &Pool| {
        pool.node(1).said.events.iter().find_map(|event| match event {
            Event::Query(query) => Some(query.clone()),
            _ => None,
        })
    };
    pool.wait("the query", |pool| received(pool).is_some());
    let query = received(&pool).expect("it came");
    let large = Bytes::from(vec![0; QUERY_BYTES_MAX]);
    let refused = pool.act(1, |serf, now| serf.respond(now, &query, large));
    assert!(matches!(refused, Err(SendError::TooLarge { .. })));
    pool.run(secs(3));
    let refused = pool.act(1, |serf, now| serf.respond(now, &query, Bytes::new()));
    assert_eq!(refused, Err(SendError::TooLate));
    let large = Bytes::from(vec![0; QUERY_BYTES_MAX]);
    let refused = pool.act(0, |serf, now| serf.query(now, "q".into(), large, QueryOptions::default()));
    assert!(matches!(refused, Err(SendError::TooLarge { .. })));
}

/// The way straight back is cut; with others in between, the answer comes all the same.
#[test]
fn answers_come_over_others_if_asked() {
    for seed in seeds(10) {
        let mut pool = Pool::formed(seed, 5);
        let way = (Pool::addr(4), Pool::addr(0));
        let mut answers = |relay_factor| {
            pool.cuts.insert(way);
            let (acks, answers) =
                ask(&mut pool, 0, QueryOptions { relay_factor, ack: true, ..QueryOptions::default() });
            assert_eq!(acks, answers.keys().cloned().collect::<Vec<_>>());
            pool.cuts.clear();
            // Whoever was suspected is not any more.
            pool.run(secs(10));
            acks.contains(&"n4".to_owned())
        };
        assert!(!answers(0));
        // Now and then gossip misses a node.
        assert!((0..3).any(|_| answers(3)));
        assert!(!answers(5), "not worth it with so few nodes");
    }
}

/// How much a lossy network costs, and what relays bring back.
#[test]
fn most_answers_arrive_while_datagrams_get_lost() {
    let (mut plain, mut relayed) = (0, 0);
    let seeds = seeds(10);
    for seed in &seeds {
        let mut pool = Pool::formed(*seed, 8);
        pool.loss = 0.3;
        plain += ask(&mut pool, 0, QueryOptions::default()).1.len();
        relayed += ask(&mut pool, 0, QueryOptions { relay_factor: 3, ..QueryOptions::default() }).1.len();
    }
    let all = 8 * seeds.len();
    if seeds.len() > 1 {
        assert!(plain > all / 2 && relayed > plain, "{plain} and {relayed} of {all}");
    }
}

#[test]
fn a_ping_is_answered_by_word_alone() {
    let mut pool = Pool::formed(0, 4);
    let options = QueryOptions { ack: true, ..QueryOptions::default() };
    let id = pool.act(0, |serf, now| serf.query(now, "_serf_ping".into(), Bytes::new(), options)).expect("small");
    pool.wait("the end", |pool| finished(pool, 0, id));
    let answers = &pool.node(0).said.answers;
    assert_eq!(answers.iter().filter(|(_, answer)| matches!(answer, QueryAnswer::Ack(_))).count(), 4);
    assert_eq!(answers.len(), 5);
    for node in pool.nodes() {
        assert!(!node.said.events.iter().any(|event| matches!(event, Event::Query(_))), "it is Serf's own");
    }
}
