//! [`Peer`] over gRPC: both sides, and nothing but conversions.
//!
//! Each call carries its [`Envelope`] as metadata, which the receiving side checks before a message is decoded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use mokv_proto::internal::join_client::JoinClient;
use mokv_proto::internal::join_server::{Join, JoinServer};
use mokv_proto::internal::peer_client::PeerClient;
use mokv_proto::internal::peer_server::{Peer as PeerRpc, PeerServer};
use mokv_proto::internal::{
    AdminRequest, AdminResponse, AdoptRequest, AdoptResponse, AppendRequest, AppendResponse, FormRequest, FormResponse,
    ForwardRequest, ForwardResponse, IdentifyRequest, IdentifyResponse, LeaderTransferRequest, LeaderTransferResponse,
    SnapshotChunk, SnapshotResponse, VoteRequest, VoteResponse,
};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::node::Node;
use crate::peer::{AnswerStream, Caller, Envelope, Lane, MessageStream, Peer, PeerNetwork, Target};
use crate::peer_service::PeerService;

const CLUSTER: &str = "mokv-cluster";
const FROM: &str = "mokv-from";
const TO: &str = "mokv-to";

/// A node that is up answers a connection attempt in far less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection on which nothing comes back for this long after a ping is broken. Together with the interval it bounds
/// how long a call waits for a machine that vanished.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How often an idle or silent connection is pinged.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// Messages between nodes are bounded by what the sending side puts into one; this is a guard against nonsense.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Flow control window, large enough for a few appends of the largest size to be under way.
const WINDOW_BYTES: u32 = 8 << 20;

/// Reaches other nodes over gRPC. Connections are shared by lane and address, opened when needed and reopened when they
/// break; names are resolved each time.
pub struct GrpcNetwork {
    connect: Box<Connect>,
    channels: Mutex<BTreeMap<(String, Lane), Channel>>,
}

/// Turns the settings of a connection into one that is made when it is first used. Nothing but the sockets under it are
/// its choice: production takes the operating system's, a simulator its own.
pub type Connect = dyn Fn(&Endpoint) -> Channel + Send + Sync;

impl Default for GrpcNetwork {
    /// Over TCP.
    fn default() -> Self {
        Self::new(Endpoint::connect_lazy)
    }
}

impl GrpcNetwork {
    /// A network over the sockets that `connect` opens.
    pub fn new(connect: impl Fn(&Endpoint) -> Channel + Send + Sync + 'static) -> Self {
        Self { connect: Box::new(connect), channels: Mutex::default() }
    }

    fn channel(&self, rpc_addr: &str, lane: Lane) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (rpc_addr.to_owned(), lane);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{rpc_addr}"))
            .map_err(|error| Status::invalid_argument(format!("{rpc_addr} is no address: {error}")))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let channel = (self.connect)(&endpoint);
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}

impl PeerNetwork for GrpcNetwork {
    fn peer(&self, caller: &Caller, target: &Target, lane: Lane) -> Arc<dyn Peer> {
        let channel = self.channel(&target.rpc_addr, lane);
        Arc::new(GrpcPeer { caller: caller.clone(), to: target.node_id, channel })
    }
}

/// One node over one connection.
struct GrpcPeer {
    caller: Caller,
    to: Option<u64>,
    /// The error stands for an address that is none.
    channel: Result<Channel, Status>,
}

impl GrpcPeer {
    fn peer(&self) -> Result<PeerClient<Channel>, Status> {
        let client = PeerClient::new(self.channel.clone()?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn join(&self) -> Result<JoinClient<Channel>, Status> {
        Ok(JoinClient::new(self.channel.clone()?))
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let to = self.to.ok_or_else(|| Status::internal("a call to a node without its identity"))?;
        let envelope = self.caller.envelope(to);
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let cluster_id = MetadataValue::try_from(envelope.cluster_id)
            .map_err(|_| Status::internal("the cluster id can't be sent"))?;
        metadata.insert(CLUSTER, cluster_id);
        metadata.insert(FROM, envelope.from.into());
        metadata.insert(TO, envelope.to.into());
        Ok(request)
    }
}

/// A stream of requests as a type with a name: the compiler can't see through a boxed one in generated code.
struct Outgoing<T>(MessageStream<T>);

impl<T> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(context)
    }
}

#[tonic::async_trait]
impl Peer for GrpcPeer {
    async fn append(&self, requests: MessageStream<AppendRequest>) -> Result<AnswerStream<AppendResponse>, Status> {
        Ok(self.peer()?.append(self.request(Outgoing(requests))?).await?.into_inner().boxed())
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, Status> {
        Ok(self.peer()?.vote(self.request(request)?).await?.into_inner())
    }

    async fn transfer_leader(&self, request: LeaderTransferRequest) -> Result<LeaderTransferResponse, Status> {
        Ok(self.peer()?.transfer_leader(self.request(request)?).await?.into_inner())
    }

    async fn snapshot(&self, chunks: MessageStream<SnapshotChunk>) -> Result<SnapshotResponse, Status> {
        Ok(self.peer()?.snapshot(self.request(Outgoing(chunks))?).await?.into_inner())
    }

    async fn forward(&self, requests: MessageStream<ForwardRequest>) -> Result<AnswerStream<ForwardResponse>, Status> {
        Ok(self.peer()?.forward(self.request(Outgoing(requests))?).await?.into_inner().boxed())
    }

    async fn admin(&self, request: AdminRequest) -> Result<AdminResponse, Status> {
        Ok(self.peer()?.admin(self.request(request)?).await?.into_inner())
    }

    async fn identify(&self, request: IdentifyRequest) -> Result<IdentifyResponse, Status> {
        Ok(self.join()?.identify(request).await?.into_inner())
    }

    async fn adopt(&self, request: AdoptRequest) -> Result<AdoptResponse, Status> {
        Ok(self.join()?.adopt(request).await?.into_inner())
    }

    async fn form(&self, request: FormRequest) -> Result<FormResponse, Status> {
        Ok(self.join()?.form(request).await?.into_inner())
    }
}

/// The answering side.
pub struct Answering(PeerService);

/// The service between members of a cluster. A call that is not for this node is refused before its messages are
/// decoded.
pub fn peer_service(node: Node) -> Checked {
    let inner = PeerServer::new(Answering(PeerService::new(node.clone())))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Checked { node, inner }
}

/// The service between members, with the check in front of it.
#[derive(Clone)]
pub struct Checked {
    node: Node,
    inner: PeerServer<Answering>,
}

impl NamedService for Checked {
    const NAME: &'static str = PeerServer::<Answering>::NAME;
}

impl Service<http::Request<Body>> for Checked {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let identity = self.node.data_dir().identity();
        let checked = envelope(request.headers())
            .and_then(|envelope| envelope.check(identity.cluster_id.as_deref(), identity.node_id));
        match checked {
            Ok(()) => self.inner.call(request),
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

/// The service through which a node comes into a cluster.
pub fn join_service(node: Node) -> JoinServer<Answering> {
    JoinServer::new(Answering(PeerService::new(node)))
}

fn envelope(headers: &http::HeaderMap) -> Result<Envelope, Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| text(name).and_then(|value| value.parse().ok());
    match (text(CLUSTER), number(FROM), number(TO)) {
        (Some(cluster_id), Some(from), Some(to)) => Ok(Envelope { cluster_id: cluster_id.to_owned(), from, to }),
        _ => Err(Status::failed_precondition("this service is for the members of a cluster, not for clients")),
    }
}

/// The messages of a stream, which ends when the connection breaks.
fn messages<T: Send + 'static>(stream: Streaming<T>) -> MessageStream<T> {
    unbroken(stream).boxed()
}

fn unbroken<T>(stream: impl Stream<Item = Result<T, Status>>) -> impl Stream<Item = T> {
    stream
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(|message| std::future::ready(message.ok()))
}

#[tonic::async_trait]
impl PeerRpc for Answering {
    type AppendStream = AnswerStream<AppendResponse>;
    type ForwardStream = AnswerStream<ForwardResponse>;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        self.0.append(messages(request.into_inner())).await.map(Response::new)
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        self.0.vote(request.into_inner()).await.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<LeaderTransferRequest>,
    ) -> Result<Response<LeaderTransferResponse>, Status> {
        self.0.transfer_leader(request.into_inner()).await.map(Response::new)
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<SnapshotResponse>, Status> {
        self.0.snapshot(messages(request.into_inner())).await.map(Response::new)
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        self.0.forward(messages(request.into_inner())).await.map(Response::new)
    }

    async fn admin(&self, request: Request<AdminRequest>) -> Result<Response<AdminResponse>, Status> {
        self.0.admin(request.into_inner()).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl Join for Answering {
    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<IdentifyResponse>, Status> {
        self.0.identify(request.into_inner()).await.map(Response::new)
    }

    async fn adopt(&self, request: Request<AdoptRequest>) -> Result<Response<AdoptResponse>, Status> {
        self.0.adopt(request.into_inner()).await.map(Response::new)
    }

    async fn form(&self, request: Request<FormRequest>) -> Result<Response<FormResponse>, Status> {
        self.0.form(request.into_inner()).await.map(Response::new)
    }
}
