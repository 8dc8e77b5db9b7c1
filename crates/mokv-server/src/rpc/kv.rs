//! `api.KV`: checks what clients ask, passes it on to the node, and puts the answer into their words.
//!
//! Promises that a request that is refused here had no effect, and that nothing is taken from a request that is not
//! wholly understood. Leaves consistency, retries and routing to the node.

use mokv_proto::api::kv_server::Kv;
use mokv_proto::api::{
    self, DeleteRequest, DeleteResponse, GetRequest, GetResponse, GetServersResponse, ListRequest, OpenSessionRequest,
    OpenSessionResponse, Server, SetRequest, SetResponse,
};
use mokv_proto::internal;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::list::{ListStream, Query};
use super::{deadline, status, watch};
use crate::command::{self, Command, OutcomeResult, RequestId};
use crate::members::MemberView;
use crate::node::{Consistency, Freshness, Node};
use crate::store::KeyRange;

/// The metadata of a List's response that says which revision it shows.
pub const REVISION: &str = "mokv-revision";

/// The service.
pub(super) struct KvService {
    node: Node,
}

impl KvService {
    pub(super) fn new(node: Node) -> Self {
        Self { node }
    }

    fn deadline(&self, metadata: &MetadataMap) -> Instant {
        deadline::of_call(metadata, self.node.limits().request_timeout)
    }

    async fn write(&self, command: Command, deadline: Instant) -> Result<OutcomeResult, Status> {
        let outcome = self.node.write(command, deadline).await.map_err(|error| status::from_error(&error))?;
        outcome.result.ok_or_else(|| status::internal("the state machine gave no outcome"))
    }

    async fn read_barrier(&self, consistency: i32, min_revision: u64, deadline: Instant) -> Result<(), Status> {
        let consistency = match api::Consistency::try_from(consistency) {
            Ok(api::Consistency::Linearizable) => Consistency::Linearizable,
            Ok(api::Consistency::Lease) => Consistency::Lease,
            Ok(api::Consistency::Local) => Consistency::Local,
            Err(_) => {
                return Err(status::invalid("consistency", format!("{consistency} is none that this node knows")));
            }
        };
        let freshness = Freshness { consistency, min_revision, max_staleness: None };
        let read = self.node.read_barrier(freshness, deadline);
        read.await.map(drop).map_err(|error| status::from_error(&error))
    }

    fn check_key(&self, key: &str) -> Result<(), Status> {
        if key.is_empty() {
            return Err(status::invalid("key", "a key has at least one byte"));
        }
        check_size("key", key.len(), self.node.limits().key_bytes_max)
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    type ListStream = ListStream;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let GetRequest { key, consistency, min_revision, .. } = request.into_inner();
        self.check_key(&key)?;
        self.read_barrier(consistency, min_revision, deadline).await?;
        let found = self.node.store().get(key.as_bytes());
        let Some(record) = found.record else { return Err(status::no_value(&key, found.revision)) };
        Ok(Response::new(GetResponse {
            key,
            value: record.value,
            revision: found.revision,
            create_revision: record.create_revision,
            mod_revision: record.mod_revision,
            version: record.version,
            ..GetResponse::default()
        }))
    }

    async fn set(&self, request: Request<SetRequest>) -> Result<Response<SetResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let SetRequest { key, value, request_id, .. } = request.into_inner();
        self.check_key(&key)?;
        check_size("value", value.len(), self.node.limits().value_bytes_max)?;
        let command = Command { id: request_id.map(checked_id).transpose()?, ..command::set(key, value) };
        match self.write(command, deadline).await? {
            OutcomeResult::Set(internal::SetOutcome { revision, create_revision, version, .. }) => {
                Ok(Response::new(SetResponse { ok: true, revision, create_revision, version, ..Default::default() }))
            }
            _ => Err(sequence_reused()),
        }
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let DeleteRequest { key, request_id, .. } = request.into_inner();
        self.check_key(&key)?;
        let command = Command { id: request_id.map(checked_id).transpose()?, ..command::delete(key) };
        match self.write(command, deadline).await? {
            OutcomeResult::Delete(internal::DeleteOutcome { existed, revision, .. }) => {
                Ok(Response::new(DeleteResponse { ok: true, existed, revision, ..Default::default() }))
            }
            _ => Err(sequence_reused()),
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListStream>, Status> {
        let until = self.deadline(request.metadata());
        let deadline = deadline::of_caller(request.metadata());
        let request = request.into_inner();
        let key_bytes_max = self.node.limits().key_bytes_max;
        for (field, bound) in [("prefix", &request.prefix), ("start", &request.start), ("end", &request.end)] {
            // A page begins at the last key of the one before and a NUL, and that key may be as long as keys get.
            check_size(field, bound.len(), key_bytes_max + 1)?;
        }
        if !request.end.is_empty() && request.start > request.end {
            return Err(status::invalid("end", "it is before the start"));
        }
        self.read_barrier(request.consistency, request.min_revision, until).await?;

        let pin = self.node.store().pin();
        let revision = pin.revision();
        let query = Query {
            range: range(&request),
            limit: if request.limit == 0 { u64::MAX } else { request.limit },
            keys_only: request.keys_only,
            deadline,
        };
        let mut response = Response::new(ListStream::start(self.node.tasks(), pin, query));
        response.metadata_mut().insert(REVISION, revision.into());
        Ok(response)
    }

    async fn get_servers(&self, _: Request<()>) -> Result<Response<GetServersResponse>, Status> {
        let servers = self.node.members().into_iter().map(server).collect();
        Ok(Response::new(GetServersResponse { servers }))
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        match self.write(command::open_session(), self.deadline(request.metadata())).await? {
            OutcomeResult::OpenSession(internal::OpenSessionOutcome { client_id }) => {
                Ok(Response::new(OpenSessionResponse { client_id }))
            }
            _ => Err(status::internal("the opening of a session had the outcome of another command")),
        }
    }

    type WatchStream = watch::WatchStream;
    type PipelineStream = futures_util::stream::BoxStream<'static, Result<api::PipelineResponse, Status>>;
    type KeepLeaseAliveStream = futures_util::stream::BoxStream<'static, Result<api::KeepLeaseAliveResponse, Status>>;

    async fn delete_range(
        &self,
        _: Request<api::DeleteRangeRequest>,
    ) -> Result<Response<api::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("delete_range"))
    }

    async fn increment(&self, _: Request<api::IncrementRequest>) -> Result<Response<api::IncrementResponse>, Status> {
        Err(Status::unimplemented("increment"))
    }

    async fn txn(&self, _: Request<api::TxnRequest>) -> Result<Response<api::TxnResponse>, Status> {
        Err(Status::unimplemented("txn"))
    }

    async fn count(&self, _: Request<api::CountRequest>) -> Result<Response<api::CountResponse>, Status> {
        Err(Status::unimplemented("count"))
    }

    async fn grant_lease(
        &self,
        _: Request<api::GrantLeaseRequest>,
    ) -> Result<Response<api::GrantLeaseResponse>, Status> {
        Err(Status::unimplemented("grant_lease"))
    }

    async fn revoke_lease(
        &self,
        _: Request<api::RevokeLeaseRequest>,
    ) -> Result<Response<api::RevokeLeaseResponse>, Status> {
        Err(Status::unimplemented("revoke_lease"))
    }

    async fn get_lease(&self, _: Request<api::GetLeaseRequest>) -> Result<Response<api::GetLeaseResponse>, Status> {
        Err(Status::unimplemented("get_lease"))
    }

    async fn list_leases(
        &self,
        _: Request<api::ListLeasesRequest>,
    ) -> Result<Response<api::ListLeasesResponse>, Status> {
        Err(Status::unimplemented("list_leases"))
    }

    async fn watch(&self, request: Request<api::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        watch::watch(&self.node, request).await
    }

    async fn pipeline(
        &self,
        _: Request<tonic::Streaming<api::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Err(Status::unimplemented("pipeline"))
    }

    async fn keep_lease_alive(
        &self,
        _: Request<tonic::Streaming<api::KeepLeaseAliveRequest>>,
    ) -> Result<Response<Self::KeepLeaseAliveStream>, Status> {
        Err(Status::unimplemented("keep_lease_alive"))
    }
}

fn check_size(field: &'static str, bytes: usize, bytes_max: usize) -> Result<(), Status> {
    match bytes <= bytes_max {
        true => Ok(()),
        false => Err(status::invalid(field, format!("{bytes} bytes are too long: at most {bytes_max}"))),
    }
}

fn checked_id(id: api::RequestId) -> Result<RequestId, Status> {
    let api::RequestId { client_id, sequence, first_unanswered } = id;
    if client_id == 0 {
        return Err(status::invalid("request_id.client_id", "it comes from OpenSession and is never 0"));
    }
    if sequence == 0 {
        return Err(status::invalid("request_id.sequence", "sequences start at 1"));
    }
    if first_unanswered == 0 || first_unanswered > sequence {
        let description = format!("the answer to {sequence} itself is still missing: 1 to {sequence} are possible");
        return Err(status::invalid("request_id.first_unanswered", description));
    }
    Ok(RequestId { client_id, sequence, first_unanswered })
}

/// The remembered outcome is that of another kind of write.
fn sequence_reused() -> Status {
    status::invalid("request_id.sequence", "it was used for another write before: each write needs its own")
}

fn range(request: &ListRequest) -> KeyRange {
    let range = KeyRange::prefix(request.prefix.clone()).starting_at(request.start.clone());
    if request.end.is_empty() { range } else { range.ending_before(request.end.clone()) }
}

fn server(member: MemberView) -> Server {
    Server {
        id: member.name,
        rpc_addr: member.rpc_addr,
        is_leader: member.is_leader,
        node_id: member.node_id,
        is_voter: member.is_voter,
    }
}
