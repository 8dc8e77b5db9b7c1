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
    ForwardRequest, ForwardResponse, GreetRequest, GreetResponse, IdentifyRequest, IdentifyResponse,
    LeaderTransferRequest, LeaderTransferResponse, SnapshotChunk, SnapshotResponse, VoteRequest, VoteResponse,
};
use tokio::sync::watch;
use tonic::Status;

use crate::incarnation::{self, Lineage, Start, Starts};
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
    /// What a node that has just started asks.
    async fn greet(&self, request: GreetRequest) -> Result<GreetResponse, Status>;
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
    /// Which start of the caller this is.
    pub start: Lineage,
    /// Which start of the node that is meant the caller knows.
    pub known: Option<Start>,
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
    /// Which start of it this is, and what it knows of the others'.
    pub starts: Starts,
}

impl Caller {
    /// What a call to `to` carries now.
    pub fn envelope(&self, to: NodeId) -> Envelope {
        let cluster_id = self.cluster_id.borrow().clone().unwrap_or_default();
        let (start, known) = (self.starts.own().clone(), self.starts.known(to));
        Envelope { cluster_id, from: self.node_id, to, start, known }
    }

    /// Lets in a call of another node to this one, or refuses it.
    ///
    /// # Errors
    ///
    /// As [`Envelope::check`]; `DATA_LOSS` if the caller's start contradicts what this node knows, so that the caller has to
    /// end; `UNAVAILABLE` if this node has to.
    pub fn admit(&self, envelope: &Envelope) -> Result<(), Status> {
        envelope.check(self.cluster_id.borrow().as_deref(), self.node_id)?;
        if let Some(known) = envelope.known {
            self.starts.hear_of_self(envelope.from, known);
        }
        if self.starts.refused().borrow().is_some() {
            return Err(Status::unavailable(format!("node {} must not take part any more", self.node_id)));
        }
        self.starts.hear(envelope.from, &envelope.start).map_err(|contradiction| {
            tracing::warn!(node_id = envelope.from, %contradiction, "a call is refused: the caller's data directory is a copy");
            Status::data_loss(incarnation::old_copy(self.node_id, contradiction))
        })
    }

    /// Lets in the answer of the node `from`, whose start this is.
    ///
    /// # Errors
    ///
    /// `UNAVAILABLE` if a node must not be listened to whose start contradicts what this node knows.
    pub fn admit_answer(&self, from: NodeId, start: &Lineage) -> Result<(), Status> {
        self.starts.hear(from, start).map_err(|contradiction| {
            tracing::warn!(node_id = from, %contradiction, "an answer is ignored: the data directory behind it is a copy");
            Status::unavailable(format!("node {from} answers from an old copy of its data directory: {contradiction}"))
        })
    }

    /// Looks at how another node has refused a call: this one may have to end.
    pub fn note_refusal(&self, status: &Status) {
        if status.code() == tonic::Code::DataLoss {
            self.starts.refuse(status.message());
        }
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
        let envelope = Envelope { cluster_id: "a".into(), from: 1, to: 2, start: Lineage::default(), known: None };
        assert!(envelope.check(Some("a"), 2).is_ok());
        for (cluster_id, node_id) in [(Some("b"), 2), (Some("a"), 3), (None, 2)] {
            let refused = envelope.check(cluster_id, node_id).expect_err("misdelivered");
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        }
    }

    fn caller(node_id: NodeId, numbers: &[u64]) -> Caller {
        let own = numbers.iter().fold(Lineage::default(), |lineage, number| lineage.next(*number));
        let starts = Starts::new(node_id, own, crate::store::Store::new());
        Caller { node_id, cluster_id: watch::channel(Some("a".into())).1, starts }
    }

    #[test]
    fn an_old_copy_is_refused_by_who_knows_better_and_ends() {
        let (now, copy, witness) = (caller(1, &[11, 12]), caller(1, &[11, 13]), caller(2, &[21]));
        witness.admit(&now.envelope(2)).expect("the first that is heard of");
        let refused = witness.admit(&copy.envelope(2)).expect_err("a copy");
        assert_eq!(refused.code(), tonic::Code::DataLoss);
        witness.admit_answer(1, copy.starts.own()).expect_err("nor is it listened to");
        copy.note_refusal(&refused);
        assert!(copy.starts.refused().borrow().is_some());
        copy.admit(&caller(3, &[31]).envelope(1)).expect_err("it takes part in nothing");
        now.admit(&witness.envelope(1)).expect("the original goes on");
    }

    #[test]
    fn an_old_copy_ends_when_somebody_calls_who_knows_better() {
        let (now, copy, witness) = (caller(1, &[11, 12]), caller(1, &[11]), caller(2, &[21]));
        witness.admit_answer(1, now.starts.own()).expect("the first that is heard of");
        let refused = copy.admit(&witness.envelope(1)).expect_err("a copy");
        assert_eq!(refused.code(), tonic::Code::Unavailable, "it is not the caller that has to end");
        assert!(copy.starts.refused().borrow().is_some());
    }
}
