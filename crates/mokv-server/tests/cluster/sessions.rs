//! A write that is sent again takes effect once, wherever and whenever it is sent.

use mokv_proto::api::{OpenSessionRequest, RequestId};
use mokv_proto::cluster::TransferLeaderRequest;
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::{Cluster, eventually};

async fn open(cluster: &Cluster) -> u64 {
    cluster.nodes[0].kv().open_session(OpenSessionRequest {}).await.expect("session").into_inner().client_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_gets_the_first_answer_after_a_new_leader_and_a_restart() {
    let mut cluster = Cluster::start(3).await;
    let client_id = open(&cluster).await;
    let id = RequestId { client_id, sequence: 1, first_unanswered: 1 };
    let first = cluster.nodes[0].set_once("key", "first", Some(id)).await.expect("set");
    cluster.nodes[1].set("key", "second").await.expect("set");
    for node in &cluster.nodes {
        assert_eq!(node.set_once("key", "first", Some(id)).await.expect("repeat"), first);
    }

    let leader = cluster.leader().await;
    let transfer = TransferLeaderRequest::default();
    cluster.nodes[leader].cluster().transfer_leader(transfer).await.expect("transfer");
    assert_eq!(cluster.nodes[leader].set_once("key", "first", Some(id)).await.expect("repeat"), first);

    for index in 0..3 {
        cluster.stop_node(index).await;
        cluster.start_node(index).await;
        cluster.wait_until_serving().await;
    }
    let repeated = eventually("a repeat works", || cluster.nodes[2].set_once("key", "first", Some(id))).await;
    assert_eq!(repeated, first);
    assert_eq!(&cluster.nodes[0].get("key").await.expect("get").value[..], b"second");
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_session_is_refused_without_effect() {
    let cluster = Cluster::start(1).await;
    let id = RequestId { client_id: 4711, sequence: 1, first_unanswered: 1 };
    let refused = cluster.nodes[0].set_once("key", "value", Some(id)).await.expect_err("unknown session");
    assert_eq!(refused.code(), Code::Aborted);
    assert_eq!(refused.get_error_details().error_info().expect("a reason").reason, "SESSION_EXPIRED");
    assert_eq!(cluster.nodes[0].get("key").await.expect_err("no effect").code(), Code::NotFound);
}
