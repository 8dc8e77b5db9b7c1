//! The metrics port: metrics for Prometheus, probes for Kubernetes, over plain HTTP/1.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | every metric, in Prometheus' text format |
//! | `/livez` | 200 while the process is up |
//! | `/readyz` | 200 while the node is fit to serve, else 503 with the reason |
//! | `/` | this list |

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::incoming::accept;
use crate::metrics::{self, GrpcMetrics};
use crate::node::{Node, Readiness};
use crate::runtime::WallClock;

/// Connections at one time; a scraper and a few probes need one each. More wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;

/// How long a request's headers may take, an idle connection's next request included. Longer than the usual interval
/// between two scrapes would only keep connections of scrapers that are gone.
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection is closed at this age, after the answer that is under way, so that one that hangs does not stay.
const AGE_MAX: Duration = Duration::from_secs(300);

/// How long the answer that is under way may take then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 16 << 10;

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static(metrics::CONTENT_TYPE);

const INDEX: &str = "\
mökv

/metrics  every metric, in Prometheus' text format
/livez    200 while the process is up
/readyz   200 while the node is fit to serve, else 503 with the reason
";

struct Pages {
    node: Node,
    grpc: Arc<GrpcMetrics>,
    /// When this process began, since the Unix epoch.
    started: Duration,
}

/// Answers until `shutdown` completes. Connections then end by themselves within seconds.
pub async fn serve(
    listener: TcpListener,
    node: Node,
    grpc: Arc<GrpcMetrics>,
    clock: WallClock,
    shutdown: impl Future<Output = ()>,
) {
    let tasks = node.tasks().clone();
    let pages = Arc::new(Pages { node, grpc, started: clock.now() });
    let (_stop, stopping) = watch::channel(());
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut shutdown = pin!(shutdown);
    loop {
        let next = async {
            let permit = free.clone().acquire_owned().await;
            (permit, accept(&listener).await)
        };
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            (permit, tcp) = next => {
                let connection = answer_all(tcp, pages.clone(), stopping.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
        }
    }
}

async fn answer_all(tcp: TcpStream, pages: Arc<Pages>, mut stopping: watch::Receiver<()>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = pages.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(tcp), service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        // What goes wrong on a connection is its client's to see.
        _ = connection.as_mut() => return,
        // Never sent; dropped when the server stops.
        _ = stopping.changed() => {}
        () = sleep(AGE_MAX) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(timeout(CLOSE_TIMEOUT, connection).await);
}

impl Pages {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, "this is for reading: GET\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            "/" => page(StatusCode::OK, INDEX),
            "/metrics" => self.metrics(),
            "/livez" => page(StatusCode::OK, "ok\n"),
            "/readyz" => match &*self.node.readiness().borrow() {
                Readiness::Ready => match &self.node.formation().outlook().borrow().warning {
                    None => page(StatusCode::OK, "ok\n"),
                    Some(warning) => page(StatusCode::OK, format!("ok, but {warning}\n")),
                },
                Readiness::NotReady(reason) | Readiness::NoLeader(reason) => {
                    page(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
                }
            },
            _ => page(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n"),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let text = metrics::page(&self.node.status(), &self.node.members(), &self.grpc, self.started);
        let mut response = page(StatusCode::OK, text);
        response.headers_mut().insert(CONTENT_TYPE, METRICS);
        response
    }
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PLAIN);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
