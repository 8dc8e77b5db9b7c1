//! [`Peer`] over gRPC: both sides, and nothing but conversions.
//!
//! Each call carries its [`Envelope`] as metadata, which the receiving side checks before a message is decoded; the answer
//! carries which start of the other node it is from. A stream carries both once: it lives in one connection, between one
//! start of the one node and one of the other. What is learned of a later start meanwhile stops the next call, of which
//! there is one with every heartbeat.

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
    ForwardRequest, ForwardResponse, GreetRequest, GreetResponse, IdentifyRequest, IdentifyResponse,
    LeaderTransferRequest, LeaderTransferResponse, SnapshotChunk, SnapshotResponse, VoteRequest, VoteResponse,
};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::FRAME_BYTES;
use crate::incarnation::{Lineage, Start};
use crate::node::Node;
use crate::peer::{AnswerStream, Caller, Envelope, Lane, MessageStream, Peer, PeerNetwork, Target};
use crate::peer_service::PeerService;
use crate::raft::types::NodeId;

const CLUSTER: &str = "mokv-cluster";
const FROM: &str = "mokv-from";
const TO: &str = "mokv-to";
/// A [`Lineage`]: the incarnation, then the numbers in hexadecimal.
const START: &str = "mokv-start";
/// A [`Start`], in the same form.
const KNOWN: &str = "mokv-known";

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
            .max_frame_size(FRAME_BYTES)
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
        let start = lineage_text(caller.starts.own());
        Arc::new(GrpcPeer { caller: caller.clone(), start, to: target.node_id, channel })
    }
}

/// One node over one connection.
struct GrpcPeer {
    caller: Caller,
    /// The caller's own start, which never changes.
    start: String,
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

    fn to(&self) -> Result<NodeId, Status> {
        self.to.ok_or_else(|| Status::internal("a call to a node without its identity"))
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let to = self.to()?;
        let envelope = self.caller.envelope(to);
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let cluster_id = MetadataValue::try_from(envelope.cluster_id)
            .map_err(|_| Status::internal("the cluster id can't be sent"))?;
        metadata.insert(CLUSTER, cluster_id);
        metadata.insert(FROM, envelope.from.into());
        metadata.insert(TO, envelope.to.into());
        let text = |text: &str| MetadataValue::try_from(text).map_err(|_| Status::internal("a start can't be sent"));
        metadata.insert(START, text(&self.start)?);
        if let Some(known) = envelope.known {
            metadata.insert(KNOWN, text(&start_text(known.incarnation, &[known.number]))?);
        }
        Ok(request)
    }

    /// What came back, if it is from a node that is to be listened to.
    fn answer<T>(&self, answered: Result<Response<T>, Status>) -> Result<T, Status> {
        let response = answered.inspect_err(|status| self.caller.note_refusal(status))?;
        let start =
            answering_start(response.metadata()).ok_or_else(|| Status::internal("an answer without a start"))?;
        self.caller.admit_answer(self.to()?, &start)?;
        Ok(response.into_inner())
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
        Ok(self.answer(self.peer()?.append(self.request(Outgoing(requests))?).await)?.boxed())
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, Status> {
        self.answer(self.peer()?.vote(self.request(request)?).await)
    }

    async fn transfer_leader(&self, request: LeaderTransferRequest) -> Result<LeaderTransferResponse, Status> {
        self.answer(self.peer()?.transfer_leader(self.request(request)?).await)
    }

    async fn snapshot(&self, chunks: MessageStream<SnapshotChunk>) -> Result<SnapshotResponse, Status> {
        self.answer(self.peer()?.snapshot(self.request(Outgoing(chunks))?).await)
    }

    async fn forward(&self, requests: MessageStream<ForwardRequest>) -> Result<AnswerStream<ForwardResponse>, Status> {
        Ok(self.answer(self.peer()?.forward(self.request(Outgoing(requests))?).await)?.boxed())
    }

    async fn admin(&self, request: AdminRequest) -> Result<AdminResponse, Status> {
        self.answer(self.peer()?.admin(self.request(request)?).await)
    }

    async fn greet(&self, request: GreetRequest) -> Result<GreetResponse, Status> {
        self.answer(self.peer()?.greet(self.request(request)?).await)
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
    let start = lineage_text(node.starts().own());
    Checked { node, start, inner }
}

/// The service between members, with the check in front of it.
#[derive(Clone)]
pub struct Checked {
    node: Node,
    /// Which start of this node answers.
    start: String,
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
        let envelope = envelope(request.headers());
        let admitted = envelope.and_then(|envelope| {
            self.node.admit(&envelope)?;
            http::HeaderValue::from_str(&self.start).map_err(|_| Status::internal("a start can't be sent"))
        });
        let start = match admitted {
            Ok(start) => start,
            Err(status) => return Box::pin(std::future::ready(Ok(status.into_http()))),
        };
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            response.headers_mut().insert(START, start);
            Ok(response)
        })
    }
}

/// The service through which a node comes into a cluster.
pub fn join_service(node: Node) -> JoinServer<Answering> {
    JoinServer::new(Answering(PeerService::new(node)))
}

fn envelope(headers: &http::HeaderMap) -> Result<Envelope, Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| text(name).and_then(|value| value.parse().ok());
    let (cluster_id, start) = (text(CLUSTER).map(str::to_owned), text(START).and_then(lineage_from_text));
    let known = text(KNOWN).and_then(start_from_text).and_then(|(incarnation, numbers)| {
        let number = *numbers.first()?;
        Some(Start { incarnation, number })
    });
    match (cluster_id, number(FROM), number(TO), start) {
        (Some(cluster_id), Some(from), Some(to), Some(start)) => Ok(Envelope { cluster_id, from, to, start, known }),
        _ => Err(Status::failed_precondition("this service is for the members of a cluster, not for clients")),
    }
}

/// Which start of a node its answer is from.
fn answering_start(metadata: &MetadataMap) -> Option<Lineage> {
    lineage_from_text(metadata.get(START)?.to_str().ok()?)
}

fn lineage_text(lineage: &Lineage) -> String {
    start_text(lineage.start().incarnation, lineage.numbers())
}

fn lineage_from_text(text: &str) -> Option<Lineage> {
    let (incarnation, numbers) = start_from_text(text)?;
    Lineage::from_parts(incarnation, numbers)
}

fn start_text(incarnation: u64, numbers: &[u64]) -> String {
    numbers.iter().fold(incarnation.to_string(), |text, number| format!("{text} {number:016x}"))
}

fn start_from_text(text: &str) -> Option<(u64, Vec<u64>)> {
    let mut parts = text.split(' ');
    let incarnation = parts.next()?.parse().ok()?;
    let numbers: Result<_, _> = parts.map(|number| u64::from_str_radix(number, 16)).collect();
    Some((incarnation, numbers.ok()?))
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

    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        self.0.greet(request.into_inner()).await.map(Response::new)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_come_back_as_they_were() {
        for numbers in [&[][..], &[7], &[u64::MAX, 0]] {
            let lineage = numbers.iter().fold(Lineage::default(), |lineage, number| lineage.next(*number));
            assert_eq!(lineage_from_text(&lineage_text(&lineage)), Some(lineage));
        }
        for text in ["", "x", "1", "0 7", "1 7 7", "1 z", "1  7"] {
            assert_eq!(lineage_from_text(text), None, "{text}");
        }
    }
}
