//! What every gRPC call passes on its way in and out: it is counted and timed, a handler that panics is answered for,
//! and what the gRPC library refused by itself is put into our words.
//!
//! Costs a unary call no allocation.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Body as HttpBody, Service};
use tonic::service::Routes;
use tonic::{Code, Status};

use super::status;
use crate::metrics::GrpcMetrics;
use crate::metrics::grpc::{Call, CallType};

/// The services behind the edge.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    routes: Routes,
    metrics: Arc<GrpcMetrics>,
}

impl Edge {
    pub(super) fn new(routes: Routes, metrics: Arc<GrpcMetrics>) -> Self {
        Self { routes: routes.prepare(), metrics }
    }
}

impl Service<Request<Body>> for Edge {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let call = self.metrics.start(request.uri().path());
        Answering { handler: self.routes.call(request), call: Some(call) }
    }
}

/// A call that is being answered.
#[derive(Debug)]
pub(super) struct Answering {
    handler: <Routes as Service<Request<Body>>>::Future,
    /// Taken when there is an answer.
    call: Option<Call>,
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A handler that panicked is not polled again, and what it shares with others is behind locks that say so.
        let handler = AssertUnwindSafe(|| Pin::new(&mut self.handler).poll(cx));
        let response = match catch_unwind(handler) {
            Ok(polled) => {
                let Ok(response) = ready!(polled);
                response
            }
            Err(panic) => panicked(panic.as_ref()).into_http(),
        };
        let call = self.call.take().expect("a call is answered once");
        Poll::Ready(Ok(answered(call, response)))
    }
}

/// The panic itself, with its place, was reported by the panic hook.
fn panicked(panic: &(dyn Any + Send)) -> Status {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(message = message.unwrap_or("?"), "a request handler panicked: this is a bug");
    status::internal("the request failed in a way that it never should; the server's log says more")
}

fn answered(call: Call, response: Response<Body>) -> Response<Body> {
    // An answer without a body has its status among the headers; a body has it behind.
    let Some(code) = code_of(response.headers()) else {
        if call.call_type() == CallType::Unary {
            call.end(Code::Ok);
            return response;
        }
        return response.map(|body| Body::new(CountedBody { body, call: Some(call) }));
    };
    let ours = match call.call_type() {
        CallType::Unknown => None,
        _ => response.extensions().get().and_then(status::of_library),
    };
    call.end(ours.as_ref().map_or(code, Status::code));
    ours.map_or(response, Status::into_http)
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(&Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// A stream of answers, which ends its call.
struct CountedBody {
    body: Body,
    /// Taken at the end.
    call: Option<Call>,
}

impl CountedBody {
    fn end(&mut self, code: Code) {
        if let Some(call) = self.call.take() {
            call.end(code);
        }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code_of) {
                    self.end(code);
                }
            }
            Some(Err(status)) => self.end(status.code()),
            None => self.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
