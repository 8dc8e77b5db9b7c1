//! The client when nodes, links and answers fail.

use std::cell::Cell;
use std::time::Duration;

use mokv_client::Error;
use tokio::time::{Instant, sleep};

use crate::harness::{CLIENTS, PATIENCE, Setup, name};

#[test]
fn a_client_goes_on_with_the_endpoints_that_answer() {
    Setup::default().run(|world| async move {
        let leader = world.leader().await;
        let [first, second] = world.followers().await[..] else { panic!("two followers") };
        let client = world.client_of([first, second, leader]);
        client.set("key", "value").await.expect("set");

        // Whoever is away costs a call a second at most: here one that crashed.
        world.crash(first).await;
        let began = Instant::now();
        client.get("key").await.expect("get").expect("is there");
        assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());

        // And one that vanished besides.
        turmoil::hold(CLIENTS, name(second));
        let began = Instant::now();
        client.get("key").await.expect("get").expect("is there");
        let took = began.elapsed();
        assert!(took < Duration::from_millis(2200), "{took:?}");

        // From then on they are not asked.
        let began = Instant::now();
        client.set("key", "newer").await.expect("set");
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    });
}

#[test]
fn a_client_of_little_patience_leaves_a_node_that_vanished() {
    Setup::default().run(|world| async move {
        let client = world.client().with_timeout(Duration::from_millis(800));
        client.set("key", "value").await.expect("set");
        turmoil::hold(CLIENTS, name(0));
        let began = Instant::now();
        // Shorter than connecting may take, so that no call gets to another endpoint by itself.
        while client.set("key", "newer").await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(3), "every call begins with the node that vanished");
        }
    });
}

#[test]
fn a_session_counts_once_over_resets_and_partitions() {
    Setup::default().run(|world| async move {
        let session = world.client().with_timeout(PATIENCE).session();
        let done = Cell::new(false);
        let writing = async {
            for number in 1..=60 {
                let written = session.set("counter", number.to_string()).await.expect("written in the end");
                assert_eq!(written.version, number);
                sleep(Duration::from_millis(world.random(0..200))).await;
            }
            done.set(true);
        };
        let troubling = async {
            while !done.get() {
                let index = world.random(0..3) as usize;
                let pause = Duration::from_millis(world.random(200..3000));
                match world.random(0..3) {
                    0 => {
                        world.crash(index).await;
                        sleep(pause).await;
                        world.start(index).await;
                        world.until("it runs", PATIENCE, || world.running(index).is_some()).await;
                    }
                    1 => {
                        turmoil::partition(CLIENTS, name(index));
                        sleep(pause).await;
                        turmoil::repair(CLIENTS, name(index));
                    }
                    _ => {
                        // Requests arrive, and their answers don't.
                        (0..3).for_each(|index| turmoil::partition_oneway(name(index), CLIENTS));
                        sleep(pause).await;
                        (0..3).for_each(|index| turmoil::repair_oneway(name(index), CLIENTS));
                    }
                }
                sleep(Duration::from_millis(world.random(0..2000))).await;
            }
        };
        tokio::join!(writing, troubling);
        world.settle(PATIENCE).await;
        let counter = world.client().get("counter").await.expect("get").expect("is there");
        assert_eq!((counter.version, &counter.value[..]), (60, &b"60"[..]));
    });
}

#[test]
fn what_was_not_sent_has_failed_and_what_was_sent_is_unknown() {
    Setup::default().run(|world| async move {
        let leader = world.leader().await;
        let client = world.client_of([leader]).at_most_once().with_timeout(Duration::from_secs(3));

        turmoil::partition(CLIENTS, name(leader));
        let refused = client.set("not-sent", "value").await.expect_err("no connection");
        assert!(matches!(refused, Error::Unavailable(_)), "{refused:?}");
        turmoil::repair(CLIENTS, name(leader));
        assert_eq!(client.get("not-sent").await.expect("get"), None);

        turmoil::partition_oneway(name(leader), CLIENTS);
        let lost = client.set("sent", "value").await.expect_err("no answer");
        assert!(matches!(lost, Error::OutcomeUnknown(_)), "{lost:?}");
        let lost = client.get("sent").await.expect_err("no answer");
        assert!(matches!(lost, Error::Unavailable(_)), "{lost:?}");
        turmoil::repair_oneway(name(leader), CLIENTS);
        let written = world.client().get("sent").await.expect("get").expect("it took effect");
        assert_eq!(written.version, 1);
    });
}
