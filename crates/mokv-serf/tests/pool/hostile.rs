//! What others send need not be well meant.

use std::time::Duration;

use bytes::Bytes;
use mokv_serf::serf::{Event, Status};
use mokv_serf::wire::keyring::Keyring;
use mokv_serf::wire::serf::{JoinIntent, LamportTime, LeaveIntent, Message, Query, QueryResponse, Relay, UserEvent};
use mokv_serf::wire::{Codec, memberlist};
use rand::{Rng, RngExt};

use crate::pool::{Pool, codecs, secs, seeds};

fn noise(pool: &mut Pool, size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    pool.rng.fill_bytes(&mut bytes);
    bytes.into()
}

#[test]
fn garbage_is_counted_and_dropped() {
    for seed in seeds(5) {
        for (name, codec) in codecs() {
            let encrypted = codec.keyring.is_some();
            let mut pool = Pool::formed_with(seed, 3, codec);
            let before = pool.node(0).serf.counters();
            for _ in 0..300 {
                let size = pool.rng.random_range(0..200);
                let bytes = noise(&mut pool, size);
                pool.inject(0, bytes);
            }
            pool.run(secs(10));
            let after = pool.node(0).serf.counters();
            let refused = after.datagrams_refused - before.datagrams_refused;
            assert!(refused > 250, "{name}: {refused}");
            assert!(!encrypted || refused == 300, "{name}: {refused}");
            let names = pool.names();
            assert!(pool.agrees(Status::Alive, &names), "{name}");
        }
    }
}

/// Another key, another label, none where there should be one, and the other way round.
#[test]
fn what_is_for_another_pool_is_counted_and_dropped() {
    let others = codecs();
    for (i, (name, ours)) in codecs().into_iter().enumerate() {
        let mut pool = Pool::formed_with(0, 2, ours.clone());
        for (j, (other, theirs)) in others.iter().enumerate() {
            // A pool that compresses is no other pool.
            if i == j || (i < 2 && j < 2) {
                continue;
            }
            let intent = Message::Join(JoinIntent { time: 1 << 40, node: "n0".into() });
            let message = memberlist::Message::User(intent.encode()).encode();
            let bytes = theirs.seal(&[message], false, &mut pool.rng);
            let before = pool.node(0).serf.counters().datagrams_refused;
            pool.inject(0, bytes);
            pool.run(secs(1));
            assert_eq!(pool.node(0).serf.counters().datagrams_refused, before + 1, "{name} got {other}");
            assert!(pool.node(0).member("n0").expect("itself").time < 100);
        }
    }
    let wrong = Codec { keyring: Some(Keyring::new([[9; 32]]).expect("a key")), ..Codec::default() };
    let mut pool = Pool::formed_with(0, 2, codecs()[3].1.clone());
    let bytes = wrong.seal(&[Bytes::from_static(b"\x08hello")], true, &mut pool.rng);
    pool.inject(0, bytes);
    pool.run(secs(1));
    assert_eq!(pool.node(0).serf.counters().datagrams_refused, 1);
}

/// One message with a huge time must not keep anybody from being heard ever after; the last times of all are not believed.
#[test]
fn huge_times_do_no_lasting_harm() {
    for time in [1 << 63, LamportTime::MAX - (1 << 48), LamportTime::MAX - 1, LamportTime::MAX] {
        let mut pool = Pool::formed(0, 4);
        let believed = time < LamportTime::MAX - (1 << 47);
        for message in [
            Message::Join(JoinIntent { time, node: "n1".into() }),
            Message::Leave(LeaveIntent { time, node: "n2".into(), prune: false }),
            Message::Leave(LeaveIntent { time, node: "nobody".into(), prune: true }),
            Message::UserEvent(UserEvent { time, name: "e".into(), payload: Bytes::new(), coalesce: false }),
            Message::Query(query(time)),
        ] {
            pool.forge(0, &message);
        }
        pool.run(secs(40));
        let names = pool.names();
        pool.wait("n2 to object", |pool| pool.agrees(Status::Alive, &names));
        let refused = pool.node(0).serf.counters().times_refused;
        assert_eq!(refused, if believed { 0 } else { 5 }, "{time}");
        for node in pool.nodes() {
            for member in node.serf.members().values() {
                assert_eq!(member.time > 1 << 62, believed && ["n1", "n2"].contains(&&*member.name.to_string()));
            }
        }

        // All goes on: events, queries, goodbyes, a newcomer, somebody who is made to leave.
        pool.forget();
        pool.act(3, |serf, now| serf.user_event(now, "after".into(), Bytes::new(), false)).expect("small");
        pool.wait("an event", |pool| {
            let told = |event: &Event| matches!(event, Event::User(event) if event.name == "after".into());
            pool.nodes().all(|node| node.said.events.iter().filter(|event| told(event)).count() == 1)
        });
        pool.start(4);
        pool.join(4, 0);
        let names = pool.names();
        pool.wait("a newcomer", |pool| pool.agrees(Status::Alive, &names));
        pool.act(1, |serf, now| serf.leave(now));
        pool.wait("a goodbye", |pool| pool.node(1).said.left);
        pool.kill(1);
        pool.wait("a goodbye to be heard", |pool| pool.others_have(1, Some(Status::Left)));
        pool.kill(2);
        pool.wait("a crash", |pool| pool.others_have(2, Some(Status::Failed)));
        pool.act(0, |serf, now| serf.force_leave(now, &"n2".into(), false));
        pool.wait("somebody to be made to leave", |pool| pool.others_have(2, Some(Status::Left)));
    }
}

fn query(time: LamportTime) -> Query {
    Query {
        time,
        id: 7,
        addr: "10.9.9.9".parse().expect("an address"),
        port: 1,
        source_node: "nobody".into(),
        filters: Vec::new(),
        flags: Query::ACK,
        relay_factor: 255,
        timeout: i64::MIN,
        name: "q".into(),
        payload: Bytes::new(),
    }
}

/// Messages that are well formed and make no sense, from somebody who has the keys: nothing but what Serf's rules allow
/// comes of them.
#[test]
fn messages_that_make_no_sense_do_no_harm() {
    for seed in seeds(10) {
        let mut pool = Pool::formed(seed, 4);
        let addr = Pool::addr(0).ip();
        let response = |from: &str| QueryResponse {
            time: 1,
            id: 1,
            from: from.into(),
            flags: 0,
            payload: Bytes::from_static(b"\x08"),
        };
        // Answers to nobody's question, straight and over others, to itself, within each other.
        let inner = Message::QueryResponse(response("n9")).encode();
        let mut relay = inner;
        for _ in 0..20 {
            relay = Message::Relay(Relay { addr, port: 7946, node: "n0".into(), message: relay }).encode();
        }
        for message in [
            Message::QueryResponse(response("n1")),
            Message::KeyRequest(Bytes::from_static(&[1; 16])),
            Message::ConflictResponse(None),
            Message::Leave(LeaveIntent { time: 0, node: "n1".into(), prune: true }),
            Message::Join(JoinIntent { time: 0, node: "".into() }),
        ] {
            pool.forge(0, &message);
        }
        let relay = memberlist::Message::User(relay).encode();
        let bytes = pool.codec.seal(&[relay], false, &mut pool.rng);
        pool.inject(1, bytes);
        for name in ["_serf_", "_serf_conflict", "_serf_install-key", "_serf_unheard-of"] {
            for payload in [Bytes::new(), Bytes::from_static(b"\x07\xc1"), noise(&mut pool, 50)] {
                let time = pool.rng.random_range(1..20);
                let id = pool.rng.random();
                pool.forge(0, &Message::Query(Query { name: name.into(), id, payload, ..query(time) }));
            }
        }
        pool.run(secs(30));
        let names = pool.names();
        assert!(pool.agrees(Status::Alive, &names));
        for node in pool.nodes() {
            assert!(!node.said.name_taken && node.said.keyrings.is_empty() && node.said.answers.is_empty());
        }
        assert_eq!(pool.node(0).serf.counters().messages_refused, 2);
    }
}

/// Whoever makes up answers to a query is counted once a name, and not without end.
#[test]
fn made_up_answers_are_bounded() {
    let mut pool = Pool::formed(0, 2);
    let mut asked = None;
    let id = pool
        .act(0, |serf, now| serf.query(now, "q".into(), Bytes::new(), mokv_serf::serf::QueryOptions::default()))
        .expect("small");
    pool.wait("the query", |pool| pool.node(1).said.events.iter().any(|event| matches!(event, Event::Query(_))));
    for event in &pool.node(1).said.events {
        if let Event::Query(query) = event {
            asked = Some(query.query.clone());
        }
    }
    let asked = asked.expect("it came");
    for i in 0..1000 {
        let from = format!("made up {}", i / 2).into();
        let answer = QueryResponse { time: asked.time, id: asked.id, from, flags: 0, payload: Bytes::new() };
        pool.forge(0, &Message::QueryResponse(answer));
    }
    pool.run(secs(10));
    let answers = pool.node(0).said.answers.iter().filter(|(of, _)| *of == id).count();
    assert!((50..100).contains(&answers), "{answers}");
}

/// Real packets, a bit of which is another: nothing panics, and those of an encrypted pool are dropped, every one.
#[test]
fn packets_with_a_wrong_bit_do_no_harm() {
    for seed in seeds(10) {
        for (name, codec) in codecs() {
            let encrypted = codec.keyring.is_some();
            let mut pool = Pool::formed_with(seed, 3, codec);
            let before = pool.node(0).serf.counters().datagrams_refused;
            let intents = ["n0", "n1", "n2"].map(|node| {
                let leave = LeaveIntent { time: 50, node: node.into(), prune: false };
                memberlist::Message::User(Message::Leave(leave).encode()).encode()
            });
            for _ in 0..200 {
                let mut bytes = pool.codec.seal(&intents, true, &mut pool.rng).to_vec();
                let bit = pool.rng.random_range(0..bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                pool.inject(0, bytes.into());
            }
            pool.run(Duration::from_secs(5));
            let refused = pool.node(0).serf.counters().datagrams_refused - before;
            assert!(if encrypted { refused == 200 } else { refused > 190 }, "{name}: {refused}");
            let names = pool.names();
            pool.wait("all to be well", |pool| pool.agrees(Status::Alive, &names));
        }
    }
}
