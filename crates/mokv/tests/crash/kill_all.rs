//! All nodes killed at once in the middle of writes, again and again, on the same directories.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mokv_proto::api::Consistency;

use crate::harness::{Processes, eventually, set_request};

const ROUNDS: u64 = 10;
const WRITERS: usize = 12;

/// Acknowledged writes of a round before the kill, so that it comes in the middle of many.
const ACKS_PER_ROUND: u64 = 500;

/// One writer's key counts up. What is there must be at least what was acknowledged last, and at most what was tried.
#[derive(Default)]
struct Counter {
    tried: AtomicU64,
    acknowledged: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_of_all_nodes() {
    let mut cluster = Processes::start().await;
    let counters: Arc<Vec<Counter>> = Arc::new((0..WRITERS).map(|_| Counter::default()).collect());
    let acks = Arc::new(AtomicU64::new(0));
    for round in 1..=ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (counters, acks, stop) = (counters.clone(), acks.clone(), stop.clone());
                let mut kv = cluster.nodes[writer % 3].kv();
                tokio::spawn(async move {
                    let counter = &counters[writer];
                    while !stop.load(Ordering::SeqCst) {
                        let next = counter.tried.fetch_add(1, Ordering::SeqCst) + 1;
                        if kv.set(set_request(&format!("writer-{writer}"), &next.to_string())).await.is_ok() {
                            counter.acknowledged.store(next, Ordering::SeqCst);
                            acks.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        while acks.load(Ordering::SeqCst) < round * ACKS_PER_ROUND {
            tokio::task::yield_now().await;
        }
        cluster.kill_all();
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.expect("writer");
        }

        cluster.start_all();
        cluster.wait_until_serving().await;
        for (writer, counter) in counters.iter().enumerate() {
            let key = format!("writer-{writer}");
            let read =
                eventually("a read works", || cluster.nodes[writer % 3].get(&key, Consistency::Linearizable)).await;
            let found: u64 = String::from_utf8(read).expect("text").parse().expect("number");
            let (acknowledged, tried) =
                (counter.acknowledged.load(Ordering::SeqCst), counter.tried.load(Ordering::SeqCst));
            assert!(
                (acknowledged..=tried).contains(&found),
                "round {round}: {key} is {found}, but {acknowledged} was acknowledged and {tried} tried"
            );
        }
        cluster.assert_equal_states().await;
    }
}
