//! SIGTERM of the leader in the middle of writes.

use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::load::{Load, Reach};
use crate::tools::say;

const ROUNDS: usize = 3;

/// Hand-over takes a round trip. An election would take twice as long as this.
const GAP_MAX: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_hands_over() {
    let mut cluster = Cluster::start(&[]).await;
    let load = Load::start(&cluster, Reach::All);
    let mut spans = Vec::new();
    for _ in 0..ROUNDS {
        load.progress(500).await;
        let leader = cluster.leader().await;
        let begin = load.now();
        cluster.nodes[leader].signal(Signal::TERM);
        let status = cluster.nodes[leader].exit().await;
        assert!(status.success(), "{status}: {}", cluster.nodes[leader].said());
        load.progress(500).await;
        spans.push((begin, load.now()));
        cluster.nodes[leader].start(false);
        cluster.serving().await;
    }
    let history = load.stop().await;
    let gaps: Vec<Duration> = spans.into_iter().map(|(begin, end)| history.longest_gap(begin, end)).collect();
    let counts = cluster.judge(&history).await;
    say(format_args!("leader stopped {ROUNDS} times, longest time without an acknowledged write {gaps:?}: {counts:?}"));
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "no write was acknowledged for {gaps:?}");
}
