//! `mokv.cluster.v1.Cluster`: who is in the cluster, who joins and leaves, who leads.
//!
//! Checks and translates; the node decides. Which member a name means is looked up where the change is made, on the
//! leader.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use mokv_proto::cluster::cluster_server::Cluster;
use mokv_proto::cluster::{
    self as proto, AddMemberRequest, AddMemberResponse, LeaveRequest, LeaveResponse, ListMembersRequest,
    ListMembersResponse, PromoteMemberRequest, PromoteMemberResponse, RemoveMemberRequest, RemoveMemberResponse,
    SaveSnapshotRequest, SaveSnapshotResponse, StatusRequest, StatusResponse, TransferLeaderRequest,
    TransferLeaderResponse,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::{deadline, status};
use crate::discovery::Peer;
use crate::error::RequestError;
use crate::freshness::{Consistency, Freshness};
use crate::members::{peer_state_to_proto, view_to_proto};
use crate::node::{Node, Readiness};
use crate::snapshot::{SnapshotError, SnapshotStream};
use crate::status::NodeStatus;

/// A new member first copies the data, which takes longer than any other request. It is as long as its caller says,
/// within this.
const CHANGE_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Snapshots that are saved at once. Each costs the store memory for every key that changes meanwhile.
const SAVES_MAX: usize = 2;

/// Bytes of a member's name or address: those of a host name, and a port.
const NAME_BYTES_MAX: usize = 260;

/// The service.
pub(super) struct ClusterService {
    node: Node,
    /// One permit for each snapshot that may be saved.
    saves: Arc<Semaphore>,
}

impl ClusterService {
    pub(super) fn new(node: Node) -> Self {
        Self { node, saves: Arc::new(Semaphore::new(SAVES_MAX)) }
    }

    fn deadline(&self, metadata: &MetadataMap) -> Instant {
        match deadline::of_caller(metadata) {
            Some(deadline) => deadline.min(Instant::now() + CHANGE_TIMEOUT_MAX),
            None => Instant::now() + self.node.limits().request_timeout,
        }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(status_to_proto(self.node.status())))
    }

    async fn list_members(&self, _: Request<ListMembersRequest>) -> Result<Response<ListMembersResponse>, Status> {
        let members = self.node.members().into_iter().map(view_to_proto).collect();
        let peers = self.node.peers();
        let peers = peers.iter().flat_map(|peers| peers.values()).map(peer_to_proto).collect();
        Ok(Response::new(ListMembersResponse { members, peers }))
    }

    async fn add_member(&self, request: Request<AddMemberRequest>) -> Result<Response<AddMemberResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let AddMemberRequest { rpc_addr, learner } = request.into_inner();
        check_address(&rpc_addr)?;
        let member = self.node.add_member(rpc_addr, learner, deadline).await.map_err(failed)?;
        Ok(Response::new(AddMemberResponse { member: Some(view_to_proto(member)) }))
    }

    async fn promote_member(
        &self,
        request: Request<PromoteMemberRequest>,
    ) -> Result<Response<PromoteMemberResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let member = request.into_inner().member;
        check_member(&member)?;
        let member = self.node.promote_member(&member, deadline).await.map_err(failed)?;
        Ok(Response::new(PromoteMemberResponse { member: Some(view_to_proto(member)) }))
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<RemoveMemberResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let RemoveMemberRequest { member, force } = request.into_inner();
        check_member(&member)?;
        self.node.remove_member(&member, force, deadline).await.map_err(failed)?;
        Ok(Response::new(RemoveMemberResponse {}))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let member = request.into_inner().member;
        if !member.is_empty() {
            check_member(&member)?;
        }
        let leader_id = self.node.transfer_leader(&member, deadline).await.map_err(failed)?;
        Ok(Response::new(TransferLeaderResponse { leader_id }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let member = request.into_inner().member;
        if !member.is_empty() {
            check_member(&member)?;
        }
        self.node.leave_member(&member, deadline).await.map_err(failed)?;
        Ok(Response::new(LeaveResponse {}))
    }

    type SaveSnapshotStream = BoxStream<'static, Result<SaveSnapshotResponse, Status>>;

    async fn save_snapshot(
        &self,
        request: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        let unavailable = |reason: &str| failed(RequestError::Unavailable { reason: reason.into() });
        let permit = self.saves.clone().try_acquire_owned();
        let permit = permit.map_err(|_| unavailable("two snapshots are being saved already: ask another node"))?;
        // The caller's deadline, if there is one, is that of the whole stream.
        let limit = Instant::now() + self.node.limits().request_timeout;
        let deadline = deadline::of_caller(request.metadata()).map_or(limit, |deadline| deadline.min(limit));
        let freshness = Freshness { consistency: Consistency::Linearizable, min_revision: 0, max_staleness: None };
        self.node.read_barrier(freshness, deadline).await.map_err(failed)?;
        let checkpoint = self.node.store().checkpoint().ok_or_else(|| unavailable("it has no state yet"))?;
        let cluster_id = self.node.data_dir().identity().cluster_id.unwrap_or_default();
        let snapshot = SnapshotStream::start(self.node.tasks(), checkpoint, &cluster_id);
        let pieces = stream::try_unfold((snapshot, permit), |(mut snapshot, permit)| async move {
            let piece = snapshot.next().await.map_err(|error| save_failed(&error))?;
            Ok(piece.map(|data| (SaveSnapshotResponse { data }, (snapshot, permit))))
        });
        Ok(Response::new(pieces.boxed()))
    }
}

fn save_failed(error: &SnapshotError) -> Status {
    match error {
        SnapshotError::TooSlow(stalled) => status::save_too_slow(*stalled),
        SnapshotError::Cancelled => failed(RequestError::Unavailable { reason: "it is stopping".into() }),
        error => failed(RequestError::Refused(error.to_string())),
    }
}

fn failed(error: RequestError) -> Status {
    status::from_error(&error)
}

fn check_member(member: &str) -> Result<(), Status> {
    match member.len() {
        0 => Err(status::invalid("member", "it needs a member's name or node id")),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(status::invalid("member", format!("no member is called {}", status::shown(member)))),
    }
}

/// `host:port`, with IPv6 addresses in brackets.
fn check_address(rpc_addr: &str) -> Result<(), Status> {
    let bad = |why: &str| {
        let description = format!("{} {why}; it has to be host:port, as in node-1:8400", status::shown(rpc_addr));
        Err(status::invalid("rpc_addr", description))
    };
    let Some((host, port)) = rpc_addr.rsplit_once(':') else { return bad("has no port") };
    let in_brackets = host.starts_with('[') && host.ends_with(']');
    let host_is_odd = |c: char| c.is_whitespace() || c.is_control() || "/@?#".contains(c) || (c == ':' && !in_brackets);
    if host.is_empty() || host.chars().any(host_is_odd) || rpc_addr.len() > NAME_BYTES_MAX {
        return bad("names no host");
    }
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|digit| digit.is_ascii_digit()) => Ok(()),
        _ => bad("has no valid port"),
    }
}

fn peer_to_proto(peer: &Peer) -> proto::Peer {
    let tags = peer.tags.clone();
    let (node_id, cluster_id, rpc_addr, version) = tags.map_or_else(Default::default, |tags| {
        (tags.node_id, tags.cluster_id.unwrap_or_default(), tags.rpc_addr, tags.version)
    });
    proto::Peer {
        name: peer.name.clone(),
        state: peer_state_to_proto(Some(peer.state)).into(),
        since_ms: peer.since.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
        gossip_addr: peer.gossip_addr.to_string(),
        node_id,
        cluster_id,
        rpc_addr,
        version,
    }
}

fn status_to_proto(status: NodeStatus) -> StatusResponse {
    let (ready, not_ready_reason) = match status.readiness {
        Readiness::Ready => (true, String::new()),
        Readiness::NotReady(reason) | Readiness::NoLeader(reason) => (false, reason),
    };
    StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: status.name,
        node_id: status.node_id,
        cluster_id: status.cluster_id.unwrap_or_default(),
        rpc_addr: status.rpc_addr,
        state: status.state.to_owned(),
        leader_id: status.leader_id.unwrap_or_default(),
        term: status.term,
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        revision: status.revision,
        keys: status.keys,
        memory_bytes: status.memory_bytes,
        memory_quota_bytes: status.memory_quota_bytes.unwrap_or_default(),
        state_hash: status.state_hash,
        sessions: status.sessions,
        ready,
        not_ready_reason,
        disk_full: status.disk_full,
        warning: status.warning.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["node-1:8400", "127.0.0.1:1", "[::1]:65535", "mokv-0.mokv.default.svc.cluster.local:8400"] {
            check_address(good).unwrap_or_else(|status| panic!("{good}: {status}"));
        }
        let long = format!("{}:8400", "a".repeat(300));
        for bad in ["", "node-1", "node-1:", ":8400", "node-1:0", "node-1:65536", "node-1:+1", "http://node-1:8400"] {
            check_address(bad).expect_err(bad);
        }
        for bad in ["::1:8400", "node 1:8400", "user@node-1:8400", "node-1:8400/", &long] {
            check_address(bad).expect_err(bad);
        }
    }
}
