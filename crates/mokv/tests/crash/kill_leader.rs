//! The leader killed in the middle of writes and started again at once, before anybody stands for election.
//!
//! A leader that led on in its old term after such a restart would write new entries where the others have those that it
//! lost with its memory: same term, same index, another content.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mokv_proto::api::Consistency;

use crate::harness::{Processes, eventually, set_request};

const ROUNDS: u64 = 6;
const WRITERS: usize = 16;

/// Acknowledged writes of a round before the kill.
const ACKS_PER_ROUND: u64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_comes_back_at_once_does_not_lead_on_in_its_old_term() {
    let mut cluster = Processes::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let acks = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (acks, stop) = (acks.clone(), stop.clone());
            let mut kv = cluster.nodes[writer % 3].kv();
            tokio::spawn(async move {
                let (mut next, mut acknowledged) = (0u64, 0);
                while !stop.load(Ordering::SeqCst) {
                    next += 1;
                    if kv.set(set_request(&format!("writer-{writer}"), &next.to_string())).await.is_ok() {
                        acknowledged = next;
                        acks.fetch_add(1, Ordering::SeqCst);
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
                acknowledged
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        while acks.load(Ordering::SeqCst) < round * ACKS_PER_ROUND {
            tokio::task::yield_now().await;
        }
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill();
        cluster.nodes[leader].start(false);
        cluster.wait_until_serving().await;
    }
    stop.store(true, Ordering::SeqCst);
    for (writer, acknowledged) in writers.into_iter().enumerate() {
        let acknowledged = acknowledged.await.expect("writer");
        let key = format!("writer-{writer}");
        let read = eventually("a read works", || cluster.nodes[0].get(&key, Consistency::Linearizable)).await;
        let found: u64 = String::from_utf8(read).expect("text").parse().expect("number");
        assert!(found >= acknowledged, "{key} is {found}, but {acknowledged} was acknowledged");
    }
    cluster.assert_equal_states().await;
}
