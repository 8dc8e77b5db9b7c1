//! The answering side of [`Peer`]: what other nodes ask of this one.
//!
//! Who calls and who is meant has been checked before a call gets here ([`Caller::admit`](crate::peer::Caller::admit)).

use std::time::Duration;

use futures_util::StreamExt;
use mokv_proto::internal::admin_request::Change;
use mokv_proto::internal::snapshot_chunk::Part;
use mokv_proto::internal::{
    AdminRequest, AdminResponse, AdoptRequest, AdoptResponse, AppendRequest, AppendResponse, FormRequest, FormResponse,
    ForwardRequest, ForwardResponse, GreetRequest, GreetResponse, IdentifyRequest, IdentifyResponse,
    LeaderTransferRequest, LeaderTransferResponse, SnapshotChunk, SnapshotHeader, SnapshotResponse, VoteRequest,
    VoteResponse,
};
use tokio::time::Instant;
use tonic::Status;

use crate::admission::Admission;
use crate::error::RequestError;
use crate::forward;
use crate::node::Node;
use crate::peer::{AnswerStream, MessageStream, Peer};

/// Answers other nodes on behalf of one node.
#[derive(Clone)]
pub struct PeerService {
    node: Node,
}

impl PeerService {
    /// The answers of `node`.
    pub fn new(node: Node) -> Self {
        Self { node }
    }

    /// The node that answers.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What to answer if the log has all that a snapshot covers. A leader whose answers are held up sends one that nobody
    /// needs; and openraft does not expect one that ends before the log does (it ends a node with debug assertions).
    fn has_already(&self, header: &SnapshotHeader) -> Result<Option<SnapshotResponse>, Status> {
        let log = self.node.log();
        let covered = header.last_log_id.filter(|last| log.has(last.term, last.index));
        match covered {
            None => Ok(None),
            // The leader takes the answer for an acknowledgement.
            Some(last) if log.durable_index() < Some(last.index) => {
                Err(Status::unavailable("its entries are here, and not on the disk yet"))
            }
            Some(_) => Ok(Some(self.node.raft().snapshot_taken())),
        }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn append(&self, requests: MessageStream<AppendRequest>) -> Result<AnswerStream<AppendResponse>, Status> {
        let admission = Admission::new(self.node.log().clone());
        let requests = self.node.introduction().gate(requests);
        let answers = self.node.raft().append(admission.admit(requests));
        Ok(answers.inspect(move |_| admission.answered()).boxed())
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, Status> {
        let introduction = self.node.introduction();
        introduction.may_vote(&request).await;
        match introduction.refusal(&request, self.node.raft().term()) {
            Some(refusal) => Ok(refusal),
            None => self.node.raft().vote(request).await,
        }
    }

    async fn transfer_leader(&self, request: LeaderTransferRequest) -> Result<LeaderTransferResponse, Status> {
        self.node.introduction().over().await;
        self.node.raft().take_over(request).await
    }

    async fn snapshot(&self, mut chunks: MessageStream<SnapshotChunk>) -> Result<SnapshotResponse, Status> {
        let Some(Part::Header(header)) = chunks.next().await.and_then(|chunk| chunk.part) else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let failed = |error: crate::snapshot::SnapshotError| Status::unavailable(error.to_string());
        self.node.introduction().over().await;
        if !self.node.introduction().is_current(header.vote.as_ref()) {
            return Err(Status::unavailable("there is a leader of a later term"));
        }
        if let Some(answer) = self.has_already(&header)? {
            return Ok(answer);
        }
        let mut receiver = self.node.snapshots().receiver().map_err(failed)?;
        while let Some(chunk) = chunks.next().await {
            let Some(Part::Data(data)) = chunk.part else {
                return Err(Status::invalid_argument("a snapshot has one header"));
            };
            receiver.write(data).await.map_err(failed)?;
        }
        let info = receiver.finish(header.size).await.map_err(failed)?;
        // It may have come by the stream of appends meanwhile.
        if let Some(answer) = self.has_already(&header)? {
            return Ok(answer);
        }
        self.node.raft().install_snapshot(header, info).await
    }

    async fn forward(&self, requests: MessageStream<ForwardRequest>) -> Result<AnswerStream<ForwardResponse>, Status> {
        let node = self.node.clone();
        let answers = forward::serve(requests, move |call, deadline| {
            let node = node.clone();
            async move { node.answer_forwarded(call, deadline).await }
        });
        Ok(answers.map(Ok).boxed())
    }

    async fn admin(&self, request: AdminRequest) -> Result<AdminResponse, Status> {
        let deadline = Instant::now() + Duration::from_millis(request.timeout_ms.into());
        let change = request.change.ok_or_else(|| Status::invalid_argument("no change"))?;
        let member = match change {
            // Who is meant was checked with the envelope.
            Change::Leave(_) => self.node.leave(deadline).await.map(|()| None),
            Change::Removed(notice) => self.node.note_removed(notice.index).await.map(|()| None),
            change => self.node.change_as_leader(change, deadline).await.map(Some),
        };
        Ok(AdminResponse { member: member.map_err(|error| admin_status(&error))? })
    }

    async fn greet(&self, request: GreetRequest) -> Result<GreetResponse, Status> {
        Ok(self.node.raft().greeting(request.node_id))
    }

    async fn identify(&self, _request: IdentifyRequest) -> Result<IdentifyResponse, Status> {
        let identity = self.node.data_dir().identity();
        Ok(IdentifyResponse {
            node_id: identity.node_id,
            name: self.node.options().name.clone(),
            cluster_id: identity.cluster_id.unwrap_or_default(),
            rpc_addr: self.node.options().rpc_addr.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            disk_full: !self.node.log().has_room(),
            leaving: self.node.departure().has_begun(),
        })
    }

    async fn adopt(&self, request: AdoptRequest) -> Result<AdoptResponse, Status> {
        let identity = self.node.data_dir().identity();
        if request.node_id != identity.node_id {
            return Err(Status::failed_precondition(format!(
                "this is node {}, not node {}",
                identity.node_id, request.node_id
            )));
        }
        let adopted = self.node.data_dir().set_cluster_id(&request.cluster_id).await;
        adopted.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(AdoptResponse {})
    }

    async fn form(&self, request: FormRequest) -> Result<FormResponse, Status> {
        self.node.formation().answer(request).await
    }
}

/// How an error of a membership change travels; [`admin_error`] is the way back.
fn admin_status(error: &RequestError) -> Status {
    let message = error.to_string();
    match error {
        RequestError::Refused(_) => Status::failed_precondition(message),
        RequestError::NotFound(_) => Status::not_found(message),
        RequestError::Invalid(_) => Status::invalid_argument(message),
        RequestError::OutcomeUnknown { reason } => Status::unknown(reason.clone()),
        _ => Status::unavailable(message),
    }
}

/// The error that a leader answered a membership change with.
pub(crate) fn admin_error(status: &Status) -> RequestError {
    let message = status.message().to_owned();
    match status.code() {
        tonic::Code::FailedPrecondition => RequestError::Refused(message),
        tonic::Code::NotFound => RequestError::NotFound(message),
        tonic::Code::InvalidArgument => RequestError::Invalid(message),
        tonic::Code::Unknown => RequestError::OutcomeUnknown { reason: message },
        _ => RequestError::Unavailable { reason: message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_errors_come_back_as_they_were() {
        let errors = [
            RequestError::Refused("no quorum".into()),
            RequestError::NotFound("no member".into()),
            RequestError::Invalid("no address".into()),
            RequestError::OutcomeUnknown { reason: "lost".into() },
        ];
        for error in errors {
            assert_eq!(admin_error(&admin_status(&error)), error);
        }
    }
}
