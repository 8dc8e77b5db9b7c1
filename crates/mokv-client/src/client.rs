//! [`Client`]: reads, and writes without a session.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mokv_proto::api::{
    Consistency, DeleteRequest, DeleteResponse, GetRequest, GetResponse, ListRequest, OpenSessionRequest, RequestId,
    Server, SetRequest, SetResponse,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tonic::transport::{Channel, Endpoint};

use crate::calls::{Endpoints, Limit, Retry};
use crate::error::{Effect, Error};
use crate::list::List;
use crate::session::Session;

/// How long a call may take, unless [`Client::with_timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one cluster. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) timeout: Duration,
}

impl Client {
    /// A client of the cluster that some nodes belong to: `mokv://host:port[,host:port...]`, the scheme may be left out.
    ///
    /// Connections are made when they are needed. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if an endpoint is not host:port.
    pub fn connect(endpoints: &str) -> Result<Self, Error> {
        Self::over(endpoints, Endpoint::connect_lazy, rand::make_rng())
    }

    /// As [`Client::connect`], with all that is not deterministic put in by the caller, a simulator: `connect` turns the
    /// settings of an endpoint into a connection over its sockets, and how long the client pauses between attempts
    /// follows from `seed`.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub fn connect_over(endpoints: &str, connect: impl Fn(&Endpoint) -> Channel, seed: u64) -> Result<Self, Error> {
        Self::over(endpoints, connect, SmallRng::seed_from_u64(seed))
    }

    fn over(endpoints: &str, connect: impl Fn(&Endpoint) -> Channel, rng: SmallRng) -> Result<Self, Error> {
        let endpoints = Endpoints::parse(endpoints, connect, rng)?;
        Ok(Self { endpoints: Arc::new(endpoints), timeout: DEFAULT_TIMEOUT })
    }

    /// The same client with another limit on how long a call may take, all attempts included.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The limit of a call that begins now.
    pub(crate) fn limit(&self) -> Limit {
        Limit::from_now(self.timeout)
    }

    /// A session for writes that may be sent again and take effect once. It is opened with the first write.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// The value of a key; `None` if it has none. Reflects every write that was acknowledged, to anybody, before the call.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn get(&self, key: &str) -> Result<Option<GetResponse>, Error> {
        self.read(GetRequest { key: key.to_owned(), ..GetRequest::default() }).await
    }

    /// The value of a key as the asked node knows it: never wrong, possibly old, but not older than `min_revision`.
    ///
    /// # Errors
    ///
    /// See [`Error`]; [`Error::Unavailable`] if no node reached `min_revision` in time.
    pub async fn get_local(&self, key: &str, min_revision: u64) -> Result<Option<GetResponse>, Error> {
        let consistency = Consistency::Local.into();
        self.read(GetRequest { key: key.to_owned(), consistency, min_revision, ..GetRequest::default() }).await
    }

    async fn read(&self, message: GetRequest) -> Result<Option<GetResponse>, Error> {
        let sent = self.endpoints.call(Effect::Harmless, Retry::OnceEach, self.limit(), |attempt| {
            let request = attempt.request(message.clone());
            async move { attempt.kv().get(request).await }
        });
        match sent.await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a key. Once answered, the write is on disk on a majority of the voters.
    ///
    /// # Errors
    ///
    /// See [`Error`]; after [`Error::OutcomeUnknown`] the write may have taken effect. A [`Session`] retries by itself.
    pub async fn set(&self, key: &str, value: impl Into<Bytes>) -> Result<SetResponse, Error> {
        let message = SetRequest { key: key.to_owned(), value: value.into(), ..SetRequest::default() };
        self.send_set(message, Retry::OnceEach, self.limit(), || None).await
    }

    /// Deletes a key. Deleting a missing key succeeds; `existed` in the answer says which it was.
    ///
    /// # Errors
    ///
    /// As [`Client::set`].
    pub async fn delete(&self, key: &str) -> Result<DeleteResponse, Error> {
        let message = DeleteRequest { key: key.to_owned(), ..DeleteRequest::default() };
        self.send_delete(message, Retry::OnceEach, self.limit(), || None).await
    }

    /// The pairs of a range in the order of their keys, as of one revision. The default of [`ListRequest`] is every pair.
    ///
    /// The timeout bounds the wait for each pair, not the whole: a large store takes its time.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn list(&self, request: ListRequest) -> Result<List, Error> {
        List::start(self, request).await
    }

    /// The members of the cluster, as the nodes' clients reach them.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn servers(&self) -> Result<Vec<Server>, Error> {
        let answer = self.endpoints.call(Effect::Harmless, Retry::OnceEach, self.limit(), |attempt| async move {
            attempt.kv().get_servers(attempt.request(())).await
        });
        Ok(answer.await?.servers)
    }

    /// Opens a session. Opened twice, the one that nobody uses gives way in time: harmless.
    pub(crate) async fn open_session(&self, limit: Limit) -> Result<u64, Error> {
        let answer = self.endpoints.call(Effect::Harmless, Retry::UntilDeadline, limit, |attempt| async move {
            attempt.kv().open_session(attempt.request(OpenSessionRequest {})).await
        });
        Ok(answer.await?.client_id)
    }

    /// `request_id` is asked anew for each attempt: what else is unanswered changes meanwhile.
    pub(crate) async fn send_set(
        &self,
        message: SetRequest,
        retry: Retry,
        limit: Limit,
        request_id: impl Fn() -> Option<RequestId>,
    ) -> Result<SetResponse, Error> {
        let sent = self.endpoints.call(Effect::Write, retry, limit, |attempt| {
            let request = attempt.request(SetRequest { request_id: request_id(), ..message.clone() });
            async move { attempt.kv().set(request).await }
        });
        sent.await
    }

    /// As [`Client::send_set`].
    pub(crate) async fn send_delete(
        &self,
        message: DeleteRequest,
        retry: Retry,
        limit: Limit,
        request_id: impl Fn() -> Option<RequestId>,
    ) -> Result<DeleteResponse, Error> {
        let sent = self.endpoints.call(Effect::Write, retry, limit, |attempt| {
            let request = attempt.request(DeleteRequest { request_id: request_id(), ..message.clone() });
            async move { attempt.kv().delete(request).await }
        });
        sent.await
    }
}
