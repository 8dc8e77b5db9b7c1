//! The edge: the one place that knows public messages and gRPC.
//!
//! Owns the gRPC port and the metrics port. Promises that what is malformed, too large or too much is refused here with a
//! precise status, before it costs more than its own connection. Leaves every decision about data to the node.

mod cluster;
mod convert;
mod deadline;
mod edge;
mod health;
pub mod http;
mod incoming;
mod kv;
mod lease;
mod list;
mod operations;
pub mod peer;
mod pipeline;
mod status;
mod txn;
mod watch;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mokv_proto::PUBLIC_DESCRIPTORS;
use mokv_proto::api::kv_server::KvServer;
use mokv_proto::cluster::cluster_server::ClusterServer;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport;
use tonic_health::pb::health_server::HealthServer;

pub use self::health::Health;
pub use self::incoming::Listener;
pub use self::kv::{CONSISTENCY, REVISION};
pub use self::status::DOMAIN;
use crate::metrics::GrpcMetrics;
use crate::node::Node;
use crate::watch::Watches;

// Connections have no maximum age: closing one in use, however gracefully, makes common clients (tonic's among them)
// report requests that were about to be sent as cancelled, and those of a write can't tell that it had no effect.

/// How often a silent connection is asked whether anybody is there, and how long it may take to say so. Together they
/// bound how long a machine that vanished holds a connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls at one time on one connection, watches included, which stay. More wait at the client.
const STREAMS_MAX: u32 = 16 << 10;

/// A piece of a message is not larger than this. The protocol's 16 KiB would have each of them written and read by calls of
/// the operating system of its own.
pub(crate) const FRAME_BYTES: u32 = 256 << 10;

/// What a peer may send before it has to wait: per call, enough for a few large values on their way; and per
/// connection, which bounds what a connection can make us hold.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Headers of one call.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// A gRPC service.
pub trait Service:
    tonic::codegen::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Service for S where
    S: tonic::codegen::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The gRPC server of a node.
#[derive(Debug)]
pub struct Server {
    routes: Routes,
    watches: Watches,
    health: Health,
    metrics: Arc<GrpcMetrics>,
}

impl Server {
    /// The public services over `node`: `api.KV`, `mokv.cluster.v1.Cluster`, health and reflection.
    ///
    /// A message larger than [`Limits::request_bytes_max`](crate::node::Limits::request_bytes_max) is refused before it is
    /// read, with `RESOURCE_EXHAUSTED`.
    pub fn new(node: Node) -> Self {
        let request_bytes_max = node.limits().request_bytes_max;
        let (health, watches) = (Health::new(node.readiness()), node.watches().clone());
        let kv = kv::KvService::new(node.clone(), health.stopping());
        let kv = KvServer::new(kv).max_decoding_message_size(request_bytes_max);
        let cluster = ClusterServer::new(cluster::ClusterService::new(node));
        let routes = Routes::new(kv).add_service(cluster).add_service(HealthServer::new(health.clone()));
        let metrics = GrpcMetrics::new(&[PUBLIC_DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]);
        Self { routes: add_reflection(routes), watches, health, metrics: Arc::new(metrics) }
    }

    /// Serves another service on the same port.
    #[must_use]
    pub fn with(mut self, service: impl Service) -> Self {
        self.routes = self.routes.add_service(service);
        self
    }

    /// Counts the calls.
    pub fn metrics(&self) -> Arc<GrpcMetrics> {
        self.metrics.clone()
    }

    /// What the health service reports.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// The services without a port, for callers in the same process: what comes in has passed no connection.
    pub fn into_service(
        self,
    ) -> impl tonic::codegen::Service<
        Request<Body>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static {
        edge::Edge::new(self.routes, self.metrics)
    }

    /// Answers calls until `shutdown` completes; then takes no connections and no calls any more, ends the watches, and
    /// returns when the last call that was under way has ended. How long that may take is for the caller to bound.
    ///
    /// # Errors
    ///
    /// None that a client or the network could bring about.
    pub async fn serve(
        self,
        listener: impl Listener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), transport::Error> {
        let Self { routes, watches, health, metrics } = self;
        let stopping = async move {
            shutdown.await;
            health.stop();
            // They would never end by themselves.
            watches.close();
        };
        transport::Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .max_concurrent_streams(STREAMS_MAX)
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .serve_with_incoming_shutdown(edge::Edge::new(routes, metrics), incoming::connections(listener), stopping)
            .await
    }
}

/// Reflection in both versions: newer tools ask for the first, older ones know only the second.
fn add_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = builder().build_v1().expect("descriptors are generated");
    let v1alpha = builder().build_v1alpha().expect("descriptors are generated");
    routes.add_service(v1).add_service(v1alpha)
}
