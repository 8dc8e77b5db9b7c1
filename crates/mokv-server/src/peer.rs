//! The network seam: what the nodes of one cluster say to each other, as typed calls.
//!
//! A node answers these calls with [`PeerService`](crate::peer_service::PeerService) and makes them through a
//! [`PeerNetwork`]. In production there is gRPC between the two (`rpc::peer`); a simulator hands the messages over with
//! delays, losses and cuts of its own.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use mokv_proto::internal::{
    AdminRequest, AdminResponse, AdoptRequest, AdoptResponse, AppendRequest, AppendResponse, FormRequest, FormResponse,
    ForwardRequest, ForwardResponse, IdentifyRequest, IdentifyResponse, LeaderTransferRequest, LeaderTransferResponse,
    SnapshotChunk, SnapshotResponse, VoteRequest, VoteResponse,
};
use tokio::sync::watch;
use tonic::Status;

use crate::mutants::mutant;
use crate::raft::types::NodeId;

/// A boxed stream of messages. Where it comes from another node, it also ends when the connection breaks.
pub type MessageStream<T> = Pin<Box<dyn Stream<Item = T> + Send + 'static>>;

/// A stream of answers. An error is its last item.
pub type AnswerStream<T> = MessageStream<Result<T, Status>>;

/// The calls between nodes; `peer.proto` says what each means. A call that does not arrive is [`tonic::Code::Unavailable`].
///
/// Deadlines are the caller's: it drops the future, or the stream, when it has waited enough.
#[tonic::async_trait]
pub trait Peer: Send + Sync + 'static {
    /// Log entries and heartbeats, answered in order.
    async fn append(&self, requests: MessageStream<AppendRequest>) -> Result<AnswerStream<AppendResponse>, Status>;
    /// A vote, or the question whether it would be granted.
    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, Status>;
    /// Takes over leadership.
    async fn transfer_leader(&self, request: LeaderTransferRequest) -> Result<LeaderTransferResponse, Status>;
    /// A whole snapshot.
    async fn snapshot(&self, chunks: MessageStream<SnapshotChunk>) -> Result<SnapshotResponse, Status>;
    /// Requests of a follower's clients.
    async fn forward(&self, requests: MessageStream<ForwardRequest>) -> Result<AnswerStream<ForwardResponse>, Status>;
    /// A change of the membership.
    async fn admin(&self, request: AdminRequest) -> Result<AdminResponse, Status>;
    /// Who the node is.
    async fn identify(&self, request: IdentifyRequest) -> Result<IdentifyResponse, Status>;
    /// Takes the node into a cluster.
    async fn adopt(&self, request: AdoptRequest) -> Result<AdoptResponse, Status>;
    /// Where the node stands with the cluster that is being formed.
    async fn form(&self, request: FormRequest) -> Result<FormResponse, Status>;
}

/// What shares a connection. Large transfers must not delay heartbeats, so each kind has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Log entries.
    Log,
    /// Heartbeats, votes, transfer of leadership.
    Heartbeat,
    /// Snapshots.
    Snapshot,
    /// Forwarded requests, joining, administration.
    Forward,
}

/// Who is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The node that is meant; `None` while only its address is known, which [`Peer::identify`] changes.
    pub node_id: Option<NodeId>,
    /// Where it answers, host:port. A name is resolved on every connection.
    pub rpc_addr: String,
}

/// Who calls and who is meant: travels with each call and is checked by the receiver before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The caller's cluster.
    pub cluster_id: String,
    /// The caller.
    pub from: NodeId,
    /// The node that is meant.
    pub to: NodeId,
}

impl Envelope {
    /// Refuses a call that was meant for another cluster or another node.
    ///
    /// # Errors
    ///
    /// `FAILED_PRECONDITION`, naming both sides.
    pub fn check(&self, cluster_id: Option<&str>, node_id: NodeId) -> Result<(), Status> {
        match cluster_id {
            _ if mutant!(EnvelopeIgnored) => Ok(()),
            None => Err(Status::failed_precondition(format!(
                "node {node_id} is in no cluster yet; node {} of cluster {} called it",
                self.from, self.cluster_id
            ))),
            Some(ours) if ours != self.cluster_id => Err(Status::failed_precondition(format!(
                "node {node_id} belongs to cluster {ours}, not to {} of node {}: two clusters share an address",
                self.cluster_id, self.from
            ))),
            Some(_) if self.to != node_id => Err(Status::failed_precondition(format!(
                "this is node {node_id}, not node {}: the node that had this address was replaced",
                self.to
            ))),
            Some(_) => Ok(()),
        }
    }
}

/// The node on whose behalf calls are made. Its cluster may be known only later.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The node.
    pub node_id: NodeId,
    /// Its cluster; `None` while it is in none.
    pub cluster_id: watch::Receiver<Option<String>>,
}

impl Caller {
    /// What a call to `to` carries now.
    pub fn envelope(&self, to: NodeId) -> Envelope {
        let cluster_id = self.cluster_id.borrow().clone().unwrap_or_default();
        Envelope { cluster_id, from: self.node_id, to }
    }
}

/// Reaches other nodes.
pub trait PeerNetwork: Send + Sync + 'static {
    /// A way for `caller` to call `target`. Nothing is connected before the first call, and a broken connection is made
    /// again by the next one.
    fn peer(&self, caller: &Caller, target: &Target, lane: Lane) -> Arc<dyn Peer>;

    /// Where a node says that it is, if anybody heard it: the second address to try.
    fn address_of(&self, _node_id: NodeId) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misdelivered_call_is_refused() {
        let envelope = Envelope { cluster_id: "a".into(), from: 1, to: 2 };
        assert!(envelope.check(Some("a"), 2).is_ok());
        for (cluster_id, node_id) in [(Some("b"), 2), (Some("a"), 3), (None, 2)] {
            let refused = envelope.check(cluster_id, node_id).expect_err("misdelivered");
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        }
    }
}
