//! `api.KV`: takes calls in, and leaves what they ask for to [`Operations`].

use futures_util::stream::BoxStream;
use mokv_proto::api::kv_server::Kv;
use mokv_proto::api::{self, GetServersResponse, ListRequest, Server};
use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use super::list::{ListStream, Query};
use super::operations::Operations;
use super::{convert, deadline, lease, pipeline, watch};
use crate::members::MemberView;
use crate::node::Node;

/// The metadata of a List's response that says which revision it shows.
pub const REVISION: &str = "mokv-revision";

/// The metadata of a List's response that says how fresh it is: the name of an `api.Consistency`.
pub const CONSISTENCY: &str = "mokv-consistency";

/// The service.
pub(super) struct KvService {
    operations: Operations,
    /// Whether the server has begun to stop: then streams that may last for ever end.
    stopping: tokio::sync::watch::Receiver<bool>,
}

impl KvService {
    pub(super) fn new(node: Node, stopping: tokio::sync::watch::Receiver<bool>) -> Self {
        Self { operations: Operations::new(node), stopping }
    }

    fn node(&self) -> &Node {
        self.operations.node()
    }

    fn deadline(&self, metadata: &MetadataMap) -> Instant {
        deadline::of_call(metadata, self.operations.limits().request_timeout)
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    type ListStream = ListStream;
    type WatchStream = watch::WatchStream;
    type PipelineStream = BoxStream<'static, Result<api::PipelineResponse, Status>>;
    type KeepLeaseAliveStream = BoxStream<'static, Result<api::KeepLeaseAliveResponse, Status>>;

    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.get(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn set(&self, request: Request<api::SetRequest>) -> Result<Response<api::SetResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.set(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Result<Response<api::DeleteResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.delete(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<api::DeleteRangeRequest>,
    ) -> Result<Response<api::DeleteRangeResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.delete_range(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn increment(
        &self,
        request: Request<api::IncrementRequest>,
    ) -> Result<Response<api::IncrementResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.increment(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn txn(&self, request: Request<api::TxnRequest>) -> Result<Response<api::TxnResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.txn(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn count(&self, request: Request<api::CountRequest>) -> Result<Response<api::CountResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.count(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn grant_lease(
        &self,
        request: Request<api::GrantLeaseRequest>,
    ) -> Result<Response<api::GrantLeaseResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.grant_lease(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn revoke_lease(
        &self,
        request: Request<api::RevokeLeaseRequest>,
    ) -> Result<Response<api::RevokeLeaseResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.revoke_lease(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn get_lease(
        &self,
        request: Request<api::GetLeaseRequest>,
    ) -> Result<Response<api::GetLeaseResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        self.operations.get_lease(request.into_inner(), deadline).await.map(Response::new)
    }

    async fn open_session(
        &self,
        request: Request<api::OpenSessionRequest>,
    ) -> Result<Response<api::OpenSessionResponse>, Status> {
        self.operations.open_session(self.deadline(request.metadata())).await.map(Response::new)
    }

    async fn list_leases(
        &self,
        request: Request<api::ListLeasesRequest>,
    ) -> Result<Response<api::ListLeasesResponse>, Status> {
        self.operations.list_leases(self.deadline(request.metadata())).await.map(Response::new)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListStream>, Status> {
        let until = self.deadline(request.metadata());
        let deadline = deadline::of_caller(request.metadata());
        let request = request.into_inner();
        let ListRequest { prefix, start, end, limit, keys_only, consistency, min_revision, reverse, .. } = request;
        let ListRequest { revision, max_staleness_ms, .. } = request;
        let range = convert::range(prefix, start, end, self.operations.limits())?;
        let freshness = convert::freshness(consistency, min_revision, max_staleness_ms)?;
        let freshness = convert::freshness_at(revision, freshness);
        let served = self.operations.read_barrier(freshness, until).await?;

        let view = self.operations.view(revision)?;
        let revision = view.revision();
        let limit = if limit == 0 { u64::MAX } else { limit };
        let query = Query { range, limit, keys_only, reverse, deadline };
        let remaining = self.operations.remaining();
        let mut response = Response::new(ListStream::start(self.node().tasks(), view, query, remaining));
        response.metadata_mut().insert(REVISION, revision.into());
        let served = convert::served(served).as_str_name();
        response.metadata_mut().insert(CONSISTENCY, MetadataValue::from_static(served));
        Ok(response)
    }

    async fn watch(&self, request: Request<api::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        watch::watch(self.node(), request).await
    }

    async fn pipeline(
        &self,
        request: Request<Streaming<api::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let given_up = deadline::of_caller(request.metadata());
        let (operations, stopping) = (self.operations.clone(), self.stopping.clone());
        Ok(Response::new(pipeline::answers(operations, request.into_inner(), given_up, stopping)))
    }

    async fn keep_lease_alive(
        &self,
        request: Request<Streaming<api::KeepLeaseAliveRequest>>,
    ) -> Result<Response<Self::KeepLeaseAliveStream>, Status> {
        let (operations, stopping) = (self.operations.clone(), self.stopping.clone());
        Ok(Response::new(lease::keep_alives(operations, request.into_inner(), stopping)))
    }

    async fn get_servers(&self, _: Request<()>) -> Result<Response<GetServersResponse>, Status> {
        let servers = self.node().members().into_iter().map(server).collect();
        Ok(Response::new(GetServersResponse { servers }))
    }
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
