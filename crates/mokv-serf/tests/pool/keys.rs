//! The keys of a pool change while it runs.

use bytes::Bytes;
use mokv_serf::serf::{KeyCommand, KeyReport, Status};
use mokv_serf::wire::Codec;
use mokv_serf::wire::keyring::Keyring;

use crate::pool::{Pool, secs, seeds};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 16] = [2; 16];

fn encrypted() -> Codec {
    Codec { keyring: Some(Keyring::new([OLD]).expect("a key")), ..Codec::default() }
}

fn key(key: &[u8]) -> Bytes {
    Bytes::copy_from_slice(key)
}

/// Has all nodes do it, and says what they said.
fn command(pool: &mut Pool, from: usize, command: KeyCommand) -> KeyReport {
    pool.forget();
    pool.act(from, |serf, now| serf.key_command(now, command)).expect("sent");
    pool.wait("the report", |pool| !pool.node(from).said.key_reports.is_empty());
    pool.node(from).said.key_reports[0].clone()
}

/// Now and then gossip misses a node; then it is said again, as an operator would.
fn command_all(pool: &mut Pool, from: usize, step: &KeyCommand) -> KeyReport {
    let mut report = command(pool, from, step.clone());
    for _ in 0..3 {
        if report.is_complete() {
            break;
        }
        report = command(pool, from, step.clone());
    }
    report
}

#[test]
fn the_key_is_changed_while_the_pool_runs() {
    for seed in seeds(10) {
        let mut pool = Pool::formed_with(seed, 10, encrypted());
        let began = pool.now;
        for step in [KeyCommand::Install(key(&NEW)), KeyCommand::Use(key(&NEW)), KeyCommand::Remove(key(&OLD))] {
            let report = command_all(&mut pool, 3, &step);
            assert!(report.is_done(), "{step:?}: {report:?}");
            assert_eq!((report.nodes, report.answered), (10, 10));
            for node in pool.nodes() {
                assert!(!node.said.keyrings.is_empty(), "to be kept");
                assert_eq!(node.said.keyrings.last(), node.serf.codec().keyring.as_ref());
            }
            pool.run(secs(5));
        }
        assert!(pool.now - began < secs(60), "no need to wait for the time to be over");

        let report = command_all(&mut pool, 7, &KeyCommand::List);
        let text = "AgICAgICAgICAgICAgICAg==";
        assert_eq!(report.keys, [(text.into(), 10)].into());
        assert_eq!(report.primary_keys, [(text.into(), 10)].into());

        for node in pool.nodes() {
            let counters = node.serf.counters();
            assert_eq!(counters.gossip.suspicions, 0, "no false suspicion");
            assert_eq!(counters.datagrams_refused, 0);
        }

        // A node that missed it is out; one that has it is in.
        pool.start(10);
        pool.join(10, 0);
        pool.run(secs(20));
        assert!(pool.node(10).said.joins[0].is_err());
        assert!(pool.others_have(10, None));
        pool.codec.keyring = Some(Keyring::new([NEW]).expect("a key"));
        pool.start(11);
        pool.join(11, 0);
        pool.wait("the one with the key", |pool| pool.node(0).status("n11") == Some(Status::Alive));
    }
}

#[test]
fn what_cannot_be_done_is_said_by_each_node() {
    let mut pool = Pool::formed_with(0, 3, encrypted());
    for (step, why) in [
        (KeyCommand::Remove(key(&OLD)), "primary"),
        (KeyCommand::Use(key(&NEW)), "not in the keyring"),
        (KeyCommand::Install(key(b"short")), "bytes"),
    ] {
        let report = command(&mut pool, 0, step);
        assert!(report.is_complete() && !report.is_done());
        assert_eq!(report.errors.len(), 3);
        assert!(report.errors.values().all(|error| error.contains(why)), "{report:?}");
        assert!(pool.nodes().all(|node| node.said.keyrings.is_empty()));
    }

    let mut pool = Pool::formed(0, 3);
    for step in [KeyCommand::Install(key(&NEW)), KeyCommand::List] {
        let report = command(&mut pool, 0, step);
        assert!(report.errors.len() == 3 && report.errors.values().all(|error| error.contains("not enabled")));
    }
}

#[test]
fn a_node_that_does_not_answer_is_missing_in_the_report() {
    let mut pool = Pool::formed_with(0, 4, encrypted());
    pool.kill(2);
    let report = command(&mut pool, 0, KeyCommand::List);
    assert_eq!((report.nodes, report.answered, report.is_complete()), (4, 3, false));
}

/// A keyring and an answer have limits: each key is tried on whatever comes, and the list has to fit into a packet.
#[test]
fn keys_are_bounded() {
    let mut pool = Pool::formed_with(0, 2, encrypted());
    for i in 1..=63_u8 {
        let mut new = OLD;
        new[0] = 100 + i;
        assert!(command(&mut pool, 0, KeyCommand::Install(key(&new))).is_done(), "{i}");
    }
    let report = command(&mut pool, 0, KeyCommand::Install(key(&NEW)));
    assert!(report.errors.values().all(|error| error.contains("64 keys")));
    assert_eq!(report.errors.len(), 2);
    let report = command(&mut pool, 0, KeyCommand::List);
    assert!(report.is_done() && report.keys.len() > 10);
    assert_eq!(report.primary_keys.values().sum::<usize>(), 2);
}
