//! `grpc.health.v1.Health`: whether the process is up, and whether the node is fit to serve.
//!
//! | service | `SERVING` while |
//! |---|---|
//! | `""`, `liveness` | the process is up; never depends on the cluster, so that nobody restarts a node for want of a quorum |
//! | `readiness` | the node knows a leader and has caught up |
//!
//! All of them are `NOT_SERVING` from the moment that the server begins to stop, and streams of `Watch` end then.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use crate::node::Readiness;

/// The health of one server. Cheap to clone; clones are the same server's.
#[derive(Debug, Clone)]
pub struct Health {
    readiness: watch::Receiver<Readiness>,
    stopping: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy)]
enum Aspect {
    Liveness,
    Readiness,
}

impl Health {
    pub(super) fn new(readiness: watch::Receiver<Readiness>) -> Self {
        Self { readiness, stopping: watch::Sender::new(false) }
    }

    /// Reports from now on that nothing is served. The first step of stopping: who balances load by health needs time
    /// to see it while requests are still answered.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether the server has begun to stop; changes are seen as they come.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    fn status(&self, aspect: Aspect) -> ServingStatus {
        let serving = match (*self.stopping.borrow(), aspect) {
            (true, _) => false,
            (false, Aspect::Liveness) => true,
            (false, Aspect::Readiness) => *self.readiness.borrow() == Readiness::Ready,
        };
        if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
    }

    /// The status now, and then each time that it has changed.
    fn watch(&self, aspect: Option<Aspect>) -> impl Stream<Item = ServingStatus> + use<> {
        let watching = (self.clone(), self.stopping.subscribe(), None);
        stream::unfold(watching, move |(mut health, mut stopping, last)| async move {
            loop {
                let status = aspect.map_or(ServingStatus::ServiceUnknown, |aspect| health.status(aspect));
                if last != Some(status) {
                    return Some((status, (health, stopping, Some(status))));
                }
                if *stopping.borrow_and_update() {
                    return None;
                }
                tokio::select! {
                    biased;
                    stop = stopping.changed() => stop.ok()?,
                    ready = health.readiness.changed() => ready.ok()?,
                }
            }
        })
    }
}

fn aspect(service: &str) -> Option<Aspect> {
    match service {
        "" | "liveness" => Some(Aspect::Liveness),
        "readiness" => Some(Aspect::Readiness),
        _ => None,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match aspect(&request.get_ref().service) {
            Some(aspect) => Ok(Response::new(response(self.status(aspect)))),
            None => Err(Status::not_found("unknown service: there are liveness and readiness")),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let statuses = Health::watch(self, aspect(&request.get_ref().service));
        Ok(Response::new(statuses.map(|status| Ok(response(status))).boxed()))
    }
}
