//! Followers that are far behind, or new: by snapshot, while writes go on.

use mokv_proto::api::Consistency;
use mokv_server::node::NodeOptions;
use tonic::Status;

use crate::harness::{Cluster, eventually};

/// Snapshots and segments so small that a test sees many of them.
fn tiny(options: &mut NodeOptions) {
    options.snapshot_log_bytes = 64 << 10;
    options.log.segment_bytes = 32 << 10;
}

async fn fill(cluster: &Cluster, through: usize, from: usize, to: usize) {
    let value = "x".repeat(512);
    for base in (from..to).step_by(50) {
        let writes = (base..(base + 50).min(to)).map(|n| {
            let (node, value) = (&cluster.nodes[through], &value);
            async move { node.set(&format!("key-{n:05}"), value).await.expect("set") }
        });
        futures_util::future::join_all(writes).await;
    }
}

/// Waits until the log in front of the snapshots has been dropped, so that only a snapshot can help.
async fn wait_until_purged(cluster: &Cluster, index: usize) {
    eventually("a snapshot covers the first writes", || async {
        let status = cluster.nodes[index].status().await?;
        if status.snapshot_index > 5 { Ok(()) } else { Err(Status::unavailable("no snapshot yet")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_and_one_that_was_away_catch_up_by_snapshot() {
    let mut cluster = Cluster::start_with(3, tiny).await;
    let away = cluster.follower().await;
    fill(&cluster, cluster.leader().await, 0, 200).await;
    cluster.stop_node(away).await;
    let leader = cluster.leader().await;
    fill(&cluster, leader, 100, 1500).await;
    wait_until_purged(&cluster, leader).await;

    let new = cluster.add_node().await;
    let joining = cluster.join(new, false);
    let writing = fill(&cluster, leader, 1500, 2000);
    tokio::join!(joining, writing);
    cluster.start_node(away).await;
    cluster.wait_until_serving().await;
    cluster.assert_equal_states().await;
    for node in &cluster.nodes {
        for n in (0..2000).step_by(97) {
            let read = node.get_at(&format!("key-{n:05}"), Consistency::Local, 0).await.expect("local read");
            assert_eq!(read.value.len(), 512);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_from_snapshot_and_log_to_the_same_state() {
    let mut cluster = Cluster::start_with(3, tiny).await;
    fill(&cluster, 0, 0, 1000).await;
    wait_until_purged(&cluster, 0).await;
    fill(&cluster, 0, 900, 1000).await;
    cluster.assert_equal_states().await;
    let before = cluster.nodes[0].status().await.expect("status");
    for index in 0..3 {
        cluster.stop_node(index).await;
    }
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.wait_until_serving().await;
    cluster.assert_equal_states().await;
    let after = cluster.nodes[0].status().await.expect("status");
    // The hash is another one: three more starts are in the state.
    assert_eq!((after.revision, after.keys), (before.revision, before.keys));
    for n in (0..1000).step_by(97) {
        let read = cluster.nodes[0].get_at(&format!("key-{n:05}"), Consistency::Local, 0).await.expect("local read");
        assert_eq!(read.value.len(), 512);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_snapshots_were_removed_is_refused() {
    let mut cluster = Cluster::start_with(1, tiny).await;
    fill(&cluster, 0, 0, 1000).await;
    wait_until_purged(&cluster, 0).await;
    fill(&cluster, 0, 0, 1000).await;
    let first_segment = cluster.nodes[0].data_dir.join("log/00000000000000000001.seg");
    eventually("the log is purged", || async {
        if first_segment.exists() { Err(Status::unavailable("not yet")) } else { Ok(()) }
    })
    .await;
    cluster.stop_node(0).await;
    std::fs::remove_dir_all(cluster.nodes[0].data_dir.join("snapshots")).expect("remove");
    let refused = cluster.start_refused(0).await;
    assert!(refused.contains("a snapshot is missing"), "{refused}");
}
