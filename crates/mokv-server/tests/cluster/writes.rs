//! Writes through any node, and what their callers are told when the cluster can't take them.

use mokv_proto::api::{Consistency, ListRequest};
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{Cluster, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_takes_writes_and_shows_them_at_once() {
    let cluster = Cluster::start(3).await;
    for (index, writer) in cluster.nodes.iter().enumerate() {
        let key = format!("key-{index}");
        let written = writer.set(&key, "value").await.expect("set");
        assert!(written.ok);
        for reader in &cluster.nodes {
            let read = reader.get(&key).await.expect("get");
            assert_eq!((&read.value[..], read.mod_revision, read.version), (&b"value"[..], written.revision, 1));
            assert!(read.revision >= written.revision);
        }
    }
    let again = cluster.nodes[1].set("key-0", "other").await.expect("set");
    let read = cluster.nodes[2].get("key-0").await.expect("get");
    assert_eq!((read.create_revision, read.mod_revision, read.version), (1, again.revision, 2));

    assert!(cluster.nodes[2].delete("key-1").await.expect("delete"));
    assert!(!cluster.nodes[0].delete("key-1").await.expect("delete of what is not there"));
    assert_eq!(cluster.nodes[1].get("key-1").await.expect_err("deleted").code(), Code::NotFound);
    let keys: Vec<String> =
        cluster.nodes[1].list(ListRequest::default()).await.expect("list").into_iter().map(|pair| pair.key).collect();
    assert_eq!(keys, ["key-0", "key-2"]);
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_get_a_revision_each() {
    let cluster = Cluster::start(3).await;
    let writers = (0..300).map(|n| {
        let node = &cluster.nodes[n % 3];
        async move { node.set(&format!("key-{n}"), "value").await.expect("set").revision }
    });
    let mut revisions = futures_util::future::join_all(writers).await;
    revisions.sort_unstable();
    let first = revisions[0];
    assert_eq!(revisions, (first..first + 300).collect::<Vec<u64>>());
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_writes_and_fresh_reads_fail_in_time_and_local_reads_go_on() {
    let mut cluster = Cluster::start_with(3, |options| {
        options.limits.request_timeout = std::time::Duration::from_secs(3);
    })
    .await;
    cluster.nodes[0].set("key", "value").await.expect("set");
    let last = cluster.follower().await;
    cluster.nodes[last].get("key").await.expect("applied everywhere that answers");
    for index in 0..3 {
        if index != last {
            cluster.stop_node(index).await;
        }
    }
    let node = &cluster.nodes[last];
    let refused = node.set("key", "other").await.expect_err("no majority");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let details = refused.get_error_details();
    let reason = details.error_info().expect("a reason").reason.as_str();
    assert!(["NO_LEADER", "OUTCOME_UNKNOWN"].contains(&reason), "{refused:?}");
    assert_eq!(node.get("key").await.expect_err("no majority").code(), Code::Unavailable);
    assert_eq!(&node.get_at("key", Consistency::Local, 0).await.expect("local read").value[..], b"value");
    eventually("it says that it is not ready", || async {
        if node.status().await?.ready { Err(tonic::Status::unavailable("ready")) } else { Ok(()) }
    })
    .await;

    for index in 0..3 {
        if index != last {
            cluster.start_node(index).await;
        }
    }
    cluster.wait_until_serving().await;
    cluster.nodes[last].set("key", "third").await.expect("a majority is back");
    cluster.assert_equal_states().await;
}
