//! Joining, leaving, and handing leadership over.

use std::sync::atomic::{AtomicBool, Ordering};

use mokv_proto::cluster::{ListMembersRequest, RemoveMemberRequest, TransferLeaderRequest};
use mokv_proto::internal::peer_client::PeerClient;
use mokv_proto::internal::{self};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::harness::{Cluster, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_without_a_failed_call() {
    let cluster = Cluster::start(3).await;
    let done = AtomicBool::new(false);
    let writing = |index: usize| {
        let (node, done) = (&cluster.nodes[index], &done);
        async move {
            let mut count = 0;
            while !done.load(Ordering::SeqCst) {
                node.set(&format!("key-{index}"), &count.to_string()).await.expect("no write fails");
                node.get(&format!("key-{index}")).await.expect("no read fails");
                count += 1;
            }
            count
        }
    };
    let transferring = async {
        for _ in 0..5 {
            let from = cluster.leader().await;
            let request = TransferLeaderRequest::default();
            cluster.nodes[from].cluster().transfer_leader(request).await.expect("transfer");
            assert_ne!(cluster.leader().await, from);
        }
        done.store(true, Ordering::SeqCst);
    };
    let (a, b, c, ()) = tokio::join!(writing(0), writing(1), writing(2), transferring);
    assert!(a > 0 && b > 0 && c > 0);
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_leader_hands_over_and_stays_a_member() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[0].set("key", "value").await.expect("set");
    let leader = cluster.leader().await;
    cluster.stop_node(leader).await;
    let other = cluster.leader().await;
    assert_ne!(other, leader);
    cluster.nodes[other].set("key", "other").await.expect("set");
    cluster.start_node(leader).await;
    cluster.wait_until_serving().await;
    let members = cluster.nodes[other].cluster().list_members(ListMembersRequest {}).await.expect("members");
    assert_eq!(members.into_inner().members.len(), 3);
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_and_keep_a_quorum() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[0].set("key", "value").await.expect("set");
    let new = cluster.add_node().await;
    cluster.join(new, false).await;
    cluster.join(new, false).await; // harmless
    assert_eq!(&cluster.nodes[new].get("key").await.expect("get").value[..], b"value");

    // The leader removes itself, asked through another node.
    let leader = cluster.leader().await;
    let name = cluster.nodes[leader].name.clone();
    let through = &cluster.nodes[cluster.follower().await];
    through.cluster().remove_member(RemoveMemberRequest { member: name.clone(), force: false }).await.expect("remove");
    eventually("another node leads", || async {
        let members = through.cluster().list_members(ListMembersRequest {}).await?.into_inner().members;
        let led = members.iter().any(|member| member.is_leader && member.name != name);
        if led && members.len() == 3 { Ok(()) } else { Err(tonic::Status::unavailable("not yet")) }
    })
    .await;
    eventually("writes go on", || through.set("key", "other")).await;

    let unknown = RemoveMemberRequest { member: "nobody".into(), force: false };
    assert_eq!(through.cluster().remove_member(unknown).await.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_cost_the_quorum_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let down = cluster.follower().await;
    let healthy = (0..3).find(|index| *index != leader && *index != down).expect("third");
    cluster.stop_node(down).await;
    let silent = cluster.nodes[down].name.clone();
    eventually("the leader has not heard from the stopped node for a while", || async {
        let members = cluster.nodes[leader].cluster().list_members(ListMembersRequest {}).await?.into_inner().members;
        let member = members.into_iter().find(|member| member.name == silent).expect("a member still");
        if member.last_heard_ms > Some(2500) { Ok(()) } else { Err(tonic::Status::unavailable("not yet")) }
    })
    .await;
    let request = RemoveMemberRequest { member: cluster.nodes[healthy].name.clone(), force: false };
    let refused = cluster.nodes[leader].cluster().remove_member(request).await.expect_err("one of two would be left");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_another_cluster_and_clients_are_refused_between_nodes() {
    let ours = Cluster::start(1).await;
    let theirs = Cluster::start(1).await;
    let request = mokv_proto::cluster::AddMemberRequest { rpc_addr: theirs.nodes[0].addr.to_string(), learner: false };
    let refused = ours.nodes[0].cluster().add_member(request).await.expect_err("another cluster");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");

    let channel = Endpoint::from_shared(format!("http://{}", ours.nodes[0].addr)).expect("address").connect_lazy();
    let mut peer = PeerClient::new(channel);
    let vote = || internal::VoteRequest {
        vote: Some(internal::Vote { term: 99, ..Default::default() }),
        ..Default::default()
    };
    let refused = peer.vote(vote()).await.expect_err("a client");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let status = ours.nodes[0].status().await.expect("status");
    for (cluster, to) in [("another", status.node_id), (status.cluster_id.as_str(), status.node_id + 1)] {
        let mut request = Request::new(vote());
        request.metadata_mut().insert("mokv-cluster", cluster.parse().expect("text"));
        request.metadata_mut().insert("mokv-from", 1.into());
        request.metadata_mut().insert("mokv-to", to.into());
        assert_eq!(peer.vote(request).await.expect_err("misdelivered").code(), Code::FailedPrecondition);
    }
    assert_eq!(ours.nodes[0].status().await.expect("status").term, status.term, "no vote was looked at");
}
