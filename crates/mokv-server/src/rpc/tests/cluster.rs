//! The cluster service.

use mokv_proto::cluster::cluster_client::ClusterClient;
use mokv_proto::cluster::{
    AddMemberRequest, LeaveRequest, ListMembersRequest, PromoteMemberRequest, RemoveMemberRequest, Role, StatusRequest,
    TransferLeaderRequest,
};
use tonic::Code;
use tonic::transport::Channel;

use super::{Running, Setup, assert_invalid, reason};

async fn cluster(server: &Running) -> ClusterClient<Channel> {
    ClusterClient::new(server.channel().await)
}

#[tokio::test]
async fn the_status_is_the_nodes() {
    let server = Running::start(Setup { memory_quota: Some(1 << 20), ..Setup::default() }).await;
    server.fill([("a", "1"), ("b", "2")]).await;
    let status = cluster(&server).await.status(StatusRequest {}).await.expect("status").into_inner();
    let member = &server.node.members()[0];
    assert_eq!((status.name, status.node_id), (member.name.clone(), member.node_id));
    assert_eq!((status.revision, status.keys, status.memory_quota_bytes), (2, 2, 1 << 20));
    assert_eq!((status.state.as_str(), status.leader_id), ("leader", member.node_id));
    assert_eq!((status.ready, status.not_ready_reason.as_str(), status.disk_full), (true, "", false));
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(!status.state_hash.is_empty() && !status.cluster_id.is_empty() && status.memory_bytes > 0);
}

#[tokio::test]
async fn members_are_listed_with_their_roles() {
    let server = Running::start(Setup::default()).await;
    let members =
        cluster(&server).await.list_members(ListMembersRequest {}).await.expect("members").into_inner().members;
    assert_eq!(members.len(), 1);
    assert_eq!((members[0].role(), members[0].is_leader, members[0].lag), (Role::Voter, true, Some(0)));
    assert_eq!(members[0].node_id, server.node.members()[0].node_id);
}

#[tokio::test]
async fn members_that_are_none_are_refused() {
    let server = Running::start(Setup::default()).await;
    let mut cluster = cluster(&server).await;
    let nobody = || "nobody".to_owned();
    for result in [
        cluster.promote_member(PromoteMemberRequest { member: nobody() }).await.map(drop),
        cluster.remove_member(RemoveMemberRequest { member: nobody(), force: true }).await.map(drop),
        cluster.transfer_leader(TransferLeaderRequest { member: nobody() }).await.map(drop),
        cluster.leave(LeaveRequest { member: nobody() }).await.map(drop),
    ] {
        assert!(result.as_ref().expect_err("refused").message().contains("nobody"), "{result:?}");
        let (code, reason, _) = reason(result);
        assert_eq!((code, reason.as_str()), (Code::NotFound, "NOT_FOUND"));
    }

    let too_long = "n".repeat(1000);
    for member in ["", &too_long] {
        let member = || member.to_owned();
        assert_invalid(cluster.promote_member(PromoteMemberRequest { member: member() }).await, "member");
        assert_invalid(cluster.remove_member(RemoveMemberRequest { member: member(), force: false }).await, "member");
    }
    assert_invalid(cluster.leave(LeaveRequest { member: too_long.clone() }).await, "member");
    assert_invalid(cluster.transfer_leader(TransferLeaderRequest { member: too_long }).await, "member");
    let address = AddMemberRequest { rpc_addr: "http://node-1:8400".into(), learner: false };
    assert_invalid(cluster.add_member(address).await, "rpc_addr");
}

#[tokio::test]
async fn changes_that_can_not_be_made_say_why() {
    let server = Running::start(Setup::default()).await;
    let mut cluster = cluster(&server).await;
    let unreachable = AddMemberRequest { rpc_addr: "127.0.0.1:1".into(), learner: false };
    let (code, why, details) = reason(cluster.add_member(unreachable).await);
    assert_eq!((code, why.as_str()), (Code::Unavailable, "UNAVAILABLE"));
    assert!(details.retry_info().is_some());

    let only = server.node.members()[0].name.clone();
    let (code, why, _) = reason(cluster.remove_member(RemoveMemberRequest { member: only, force: false }).await);
    assert_eq!((code, why.as_str()), (Code::FailedPrecondition, "REFUSED"));
    let (code, why, _) = reason(cluster.transfer_leader(TransferLeaderRequest { member: String::new() }).await);
    assert_eq!((code, why.as_str()), (Code::FailedPrecondition, "REFUSED"));
}

#[tokio::test]
async fn the_last_member_may_leave() {
    let server = Running::start(Setup::default()).await;
    cluster(&server).await.leave(LeaveRequest::default()).await.expect("it leaves");
    server.node.left().await;
}
