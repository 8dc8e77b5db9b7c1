//! Leases, and the stream that keeps them alive.

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use mokv_proto::api;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use super::operations::{Operations, sequence_reused};
use super::{convert, status};
use crate::command::{OutcomeResult, Rejection};
use crate::error::RequestError;
use crate::node::{Consistency, Freshness};

/// Keep-alives of one stream under way at most; more wait in the transport.
const KEEP_ALIVES_MAX: usize = 256;

/// The keys of a lease that an answer names take at most so many bytes.
const KEYS_BYTES_MAX: usize = 1 << 20;

impl Operations {
    pub(super) async fn grant_lease(
        &self,
        request: api::GrantLeaseRequest,
        deadline: Instant,
    ) -> Result<api::GrantLeaseResponse, Status> {
        let ttl_ms = request.ttl_ms;
        match self.write(convert::grant_lease(request)?, deadline).await? {
            OutcomeResult::GrantLease(outcome) => {
                Ok(api::GrantLeaseResponse { lease_id: outcome.lease_id, ttl_ms, revision: outcome.revision })
            }
            _ => Err(sequence_reused()),
        }
    }

    pub(super) async fn revoke_lease(
        &self,
        request: api::RevokeLeaseRequest,
        deadline: Instant,
    ) -> Result<api::RevokeLeaseResponse, Status> {
        match self.write(convert::revoke_lease(request)?, deadline).await? {
            OutcomeResult::RevokeLease(outcome) => {
                Ok(api::RevokeLeaseResponse { revision: outcome.revision, deleted: outcome.deleted })
            }
            _ => Err(sequence_reused()),
        }
    }

    pub(super) async fn get_lease(
        &self,
        request: api::GetLeaseRequest,
        deadline: Instant,
    ) -> Result<api::GetLeaseResponse, Status> {
        let api::GetLeaseRequest { lease_id, keys } = request;
        convert::check_lease_id(lease_id)?;
        let time = self.node().lease_time(lease_id, deadline).await.map_err(|error| status::from_error(&error))?;
        let lease = time.ok_or_else(not_found)?;
        let (keys, more) = if keys { self.lease_keys(lease_id, deadline).await? } else { (Vec::new(), false) };
        Ok(api::GetLeaseResponse {
            lease_id,
            ttl_ms: convert::millis(lease.ttl),
            remaining_ms: convert::millis(lease.remaining),
            keys,
            more,
        })
    }

    /// The keys that an answer has room for, and whether there are more.
    async fn lease_keys(&self, lease_id: u64, deadline: Instant) -> Result<(Vec<String>, bool), Status> {
        self.read_barrier(LINEARIZABLE, deadline).await?;
        let all = self.node().store().lease_keys(lease_id).ok_or_else(not_found)?;
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for key in all {
            bytes += key.len();
            if bytes > KEYS_BYTES_MAX {
                return Ok((keys, true));
            }
            keys.push(convert::text(key)?);
        }
        Ok((keys, false))
    }

    pub(super) async fn list_leases(&self, deadline: Instant) -> Result<api::ListLeasesResponse, Status> {
        self.read_barrier(LINEARIZABLE, deadline).await?;
        let lease_ids = self.node().store().leases().into_iter().map(|lease| lease.id).collect();
        Ok(api::ListLeasesResponse { lease_ids })
    }

    async fn keep_alive(&self, lease_id: u64) -> Result<api::KeepLeaseAliveResponse, Status> {
        convert::check_lease_id(lease_id)?;
        let deadline = Instant::now() + self.limits().request_timeout;
        let kept = self.node().keep_alive(lease_id, deadline).await.map_err(|error| status::from_error(&error))?;
        Ok(api::KeepLeaseAliveResponse { lease_id, ttl_ms: kept.map_or(0, convert::millis) })
    }
}

const LINEARIZABLE: Freshness =
    Freshness { consistency: Consistency::Linearizable, min_revision: 0, max_staleness: None };

fn not_found() -> Status {
    status::from_error(&RequestError::Rejected(Rejection::LeaseNotFound))
}

/// Answers to a stream of keep-alives, each in its turn. It ends with the first that fails, with the requests, or when the
/// server begins to stop.
pub(super) fn keep_alives(
    operations: Operations,
    requests: impl Stream<Item = Result<api::KeepLeaseAliveRequest, Status>> + Send + 'static,
    stopping: watch::Receiver<bool>,
) -> BoxStream<'static, Result<api::KeepLeaseAliveResponse, Status>> {
    let answers = requests.map(move |request| {
        let operations = operations.clone();
        async move {
            let request = request.map_err(|status| status::of_library(&status).unwrap_or(status))?;
            operations.keep_alive(request.lease_id).await
        }
    });
    let mut stop = stopping.clone();
    let stopped = async move { drop(stop.wait_for(|stopping| *stopping).await) };
    let end = stream::once(async move { stopping.borrow().then(|| Err(status::stopping())) });
    answers.buffered(KEEP_ALIVES_MAX).take_until(stopped).chain(end.filter_map(std::future::ready)).boxed()
}
