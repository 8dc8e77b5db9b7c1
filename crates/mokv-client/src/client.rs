//! [`Client`]: what can be asked of a cluster.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mokv_proto::api::Server;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tonic::transport::{Channel, Endpoint};
use tracing::Instrument;

use crate::address::Target;
use crate::calls::{Nodes, Unanswered};
use crate::error::Error;
use crate::exactly_once::ExactlyOnce;
use crate::lease::Keeper;
use crate::list::ListKeys;
use crate::operation::{self, Answer, Operation};
use crate::range::KeyRange;
use crate::read::{Count, Get};
use crate::retry::{Effect, Limit, Patience};
use crate::routes::Want;
use crate::session::{Session, Token};
use crate::txn::{Transact, Txn};
use crate::write::{Delete, DeleteRange, Increment, Set};

/// How long a call may take, unless [`Client::with_timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that is under way.
pub(crate) type Sent<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A client of one cluster. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) timeout: Duration,
    pub(crate) patience: Patience,
    /// Writes are sent once, if anything may have come of it.
    is_at_most_once: bool,
    exactly_once: Arc<ExactlyOnce>,
    token: Option<Arc<Token>>,
    pub(crate) keeper: Arc<Keeper>,
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
    pub fn connect_over(
        endpoints: &str,
        connect: impl Fn(&Endpoint) -> Channel + Send + Sync + 'static,
        seed: u64,
    ) -> Result<Self, Error> {
        Self::over(endpoints, connect, SmallRng::seed_from_u64(seed))
    }

    fn over(
        endpoints: &str,
        connect: impl Fn(&Endpoint) -> Channel + Send + Sync + 'static,
        rng: SmallRng,
    ) -> Result<Self, Error> {
        let target = Target::parse(endpoints)?;
        Ok(Self {
            timeout: target.timeout.unwrap_or(DEFAULT_TIMEOUT),
            nodes: Arc::new(Nodes::new(target, connect, rng)),
            patience: Patience::UntilDeadline,
            is_at_most_once: false,
            exactly_once: Arc::default(),
            token: None,
            keeper: Arc::default(),
        })
    }

    /// The same client with another limit on how long a call may take, all attempts included.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same client, but its writes are not repeated when their answer is lost: the call then ends with
    /// [`Error::OutcomeUnknown`]. For a process that writes once and ends: it saves the round trip by which the cluster
    /// learns of the client, and a place among the clients that it remembers.
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.is_at_most_once = true;
        self
    }

    /// The same client, but its calls end as soon as no node takes a connection: for a person who waits, and has perhaps
    /// mistyped an address. Otherwise they go on until the timeout, because nodes come back.
    #[must_use]
    pub fn fail_fast(mut self) -> Self {
        self.patience = Patience::UntilNobodyIsThere;
        self
    }

    /// A session: a client whose reads, also local ones, never go behind what the session has seen.
    pub fn session(&self) -> Session {
        Session::new(self)
    }

    /// The client with which a session is a client.
    pub(crate) fn with_token(&self, token: Arc<Token>) -> Self {
        Self { token: Some(token), ..self.clone() }
    }

    /// The value of a key; `None` if it has none. Reflects every write that was acknowledged, to anybody, before the call,
    /// unless it is told to be less strict.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn get(&self, key: impl Into<String>) -> Get {
        Get::new(self, key.into())
    }

    /// The pairs of a range in the order of their keys, as of one revision.
    ///
    /// The timeout bounds the wait for each pair, not the whole: a large store takes its time.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn list(&self, range: KeyRange) -> ListKeys {
        ListKeys::new(self, range.to_list())
    }

    /// How many keys a range has.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn count(&self, range: KeyRange) -> Count {
        Count::new(self, range.into_count())
    }

    /// Sets a key. Once answered, the write is on disk on a majority of the voters.
    ///
    /// # Errors
    ///
    /// See [`Error`]; after [`Error::OutcomeUnknown`] the write may have taken effect.
    pub fn set(&self, key: impl Into<String>, value: impl Into<Bytes>) -> Set {
        Set::new(self, key.into(), value.into())
    }

    /// Gives a key another ttl or lease, or with neither takes them away; the value stays what it is. If the key has no
    /// value, [`Written::ok`](crate::Written::ok) is false.
    ///
    /// # Errors
    ///
    /// As [`Client::set`].
    pub fn touch(&self, key: impl Into<String>) -> Set {
        Set::keeping_value(self, key.into())
    }

    /// Deletes a key. Deleting a missing key succeeds; [`Deleted::existed`](crate::Deleted::existed) says which it was.
    ///
    /// # Errors
    ///
    /// As [`Client::set`].
    pub fn delete(&self, key: impl Into<String>) -> Delete {
        Delete::new(self, key.into())
    }

    /// Deletes every key of a range, in one revision.
    ///
    /// # Errors
    ///
    /// As [`Client::set`].
    pub fn delete_range(&self, range: KeyRange) -> DeleteRange {
        DeleteRange::new(self, range.into_delete())
    }

    /// Adds to a number that is kept as decimal text. A key without a value counts as 0.
    ///
    /// # Errors
    ///
    /// As [`Client::set`]; [`Error::Refused`] if the value is no 64-bit signed number, or the sum is none.
    pub fn increment(&self, key: impl Into<String>, delta: i64) -> Increment {
        Increment::new(self, key.into(), delta)
    }

    /// Compares, then does one of two lists of operations, all in one revision.
    ///
    /// # Errors
    ///
    /// As [`Client::set`].
    pub fn txn(&self, txn: Txn) -> Transact {
        Transact::new(self, txn)
    }

    /// The members of the cluster, as the nodes' clients reach them.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn servers(&self) -> Result<Vec<Server>, Error> {
        let answer =
            self.ask(Effect::Harmless, |attempt| async move { attempt.kv().get_servers(attempt.request(())).await });
        Ok(answer.await?.servers)
    }

    /// The limit of a call that begins now.
    pub(crate) fn limit(&self) -> Limit {
        Limit::from_now(self.timeout)
    }

    /// What a read has to reflect at least: what the session has seen.
    pub(crate) fn seen(&self) -> u64 {
        self.token.as_ref().map_or(0, |token| token.revision())
    }

    /// Notes what an answer reflects.
    pub(crate) fn saw(&self, revision: u64) {
        if let Some(token) = &self.token {
            token.saw(revision);
        }
    }

    /// Has an operation carried out within the client's timeout: a write exactly once, however many attempts that takes.
    pub(crate) async fn operate(&self, mut operation: Operation) -> Result<Answer, Error> {
        let limit = self.limit();
        let span = tracing::debug_span!("mokv", operation = operation::name(&operation));
        let is_write = operation::request_id(&mut operation).is_some();
        let answered = match is_write && !self.is_at_most_once {
            true => self.exactly_once.operate(self, &operation, limit).instrument(span).await,
            false => {
                let (want, effect) =
                    if is_write { (Want::Write, Effect::Write) } else { (Want::Read, Effect::Harmless) };
                self.attempts(want, effect, limit, || operation.clone()).instrument(span).await
            }
        };
        let answer = answered?;
        self.saw(operation::revision(&answer));
        Ok(answer)
    }

    /// Has an operation carried out that is in no session.
    pub(crate) async fn attempts(
        &self,
        want: Want,
        effect: Effect,
        limit: Limit,
        operation: impl Fn() -> Operation,
    ) -> Result<Answer, Error> {
        self.nodes.operate(want, effect, self.patience, limit, operation).await.map_err(Unanswered::into_error)
    }
}

/// Whole milliseconds, not fewer than the duration has.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
