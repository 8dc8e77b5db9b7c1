//! Reads on followers: linearizable by read index, local by choice.

use mokv_proto::api::{Consistency, ListRequest};
use tonic::Code;

use crate::harness::Cluster;

/// On a quiet cluster, where nothing else would tell a follower what is committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_shows_every_write_that_was_acknowledged_before() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    for n in 0..200 {
        let written = cluster.nodes[leader].set("key", &n.to_string()).await.expect("set");
        let read = cluster.nodes[follower].get("key").await.expect("get");
        assert_eq!(read.value, n.to_string().as_bytes());
        assert!(read.revision >= written.revision);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_read_with_a_revision_shows_that_revision() {
    let cluster = Cluster::start(3).await;
    for n in 0..100 {
        let written = cluster.nodes[n % 3].set("key", &n.to_string()).await.expect("set");
        for node in &cluster.nodes {
            let read = node.get_at("key", Consistency::Local, written.revision).await.expect("get");
            assert_eq!(read.value, n.to_string().as_bytes());
        }
    }
    let revision = cluster.nodes[0].status().await.expect("status").revision;
    let mut request = tonic::Request::new(mokv_proto::api::GetRequest {
        key: "key".into(),
        consistency: Consistency::Local.into(),
        min_revision: revision + 1000,
        ..Default::default()
    });
    request.set_timeout(std::time::Duration::from_millis(300));
    let refused = cluster.nodes[0].kv().get(request).await.expect_err("the future");
    assert!(matches!(refused.code(), Code::Unavailable | Code::DeadlineExceeded), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_one_revision_while_writes_go_on() {
    let cluster = Cluster::start(3).await;
    for n in 0..500 {
        cluster.nodes[0].set(&format!("key-{n:03}"), "0").await.expect("set");
    }
    let writing = async {
        for round in 1..4 {
            for n in (0..500).step_by(7) {
                cluster.nodes[1].set(&format!("key-{n:03}"), &round.to_string()).await.expect("set");
            }
        }
    };
    let reading = async {
        for _ in 0..20 {
            let pairs = cluster.nodes[2].list(ListRequest::default()).await.expect("list");
            assert_eq!(pairs.len(), 500);
            let revision = pairs[0].revision;
            assert!(pairs.iter().all(|pair| pair.revision == revision && pair.mod_revision <= revision));
        }
    };
    tokio::join!(writing, reading);
}
