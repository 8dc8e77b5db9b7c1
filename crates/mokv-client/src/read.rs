//! Reads of one answer: [`Get`] and [`Count`]. [`List`](crate::List) has its own file.

use std::future::IntoFuture;
use std::time::Duration;

use mokv_proto::api::{Consistency, CountRequest, GetRequest};

use crate::client::{Client, Sent};
use crate::error::Error;
use crate::operation::{Answer, Operation, mismatch};
use crate::pair::{Counted, Found, Pair};

/// What every read can be told.
macro_rules! read_options {
    () => {
        /// How fresh the answer has to be. [`Consistency::Linearizable`], if nothing is said.
        pub fn consistency(mut self, consistency: Consistency) -> Self {
            self.request.consistency = consistency.into();
            self
        }

        /// The answer comes from the asked node's memory: never wrong, possibly old. Through a
        /// [`Session`](crate::Session) it is not older than what the session has seen.
        pub fn local(self) -> Self {
            self.consistency(Consistency::Local)
        }

        /// The answer reflects at least this revision.
        pub fn min_revision(mut self, revision: u64) -> Self {
            self.request.min_revision = revision;
            self
        }

        /// With [`Self::local`]: the answer is at most about so old, or the node asks the leader.
        pub fn max_staleness(mut self, staleness: Duration) -> Self {
            // 0 is no bound in the contract.
            self.request.max_staleness_ms = crate::client::millis(staleness).max(1);
            self
        }

        /// As of this revision, not the newest one. [`Error::Compacted`] if the node does not remember it.
        pub fn at_revision(mut self, revision: u64) -> Self {
            self.request.revision = revision;
            self
        }

        /// How long the call may take, all attempts included, instead of the client's timeout.
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.client.timeout = timeout;
            self
        }
    };
}
pub(crate) use read_options;

/// A read of a key. See [`Client::get`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct Get {
    client: Client,
    request: GetRequest,
}

impl Get {
    pub(crate) fn new(client: &Client, key: String) -> Self {
        Self { client: client.clone(), request: GetRequest { key, ..GetRequest::default() } }
    }

    read_options!();

    /// The same read; the answer also says at which revision there was no value, and how fresh it is.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn found(mut self) -> Result<Found, Error> {
        let asked = self.request.consistency();
        self.request.min_revision = self.client.seen().max(self.request.min_revision);
        match self.client.operate(Operation::Get(self.request)).await? {
            Answer::Get(answer) => {
                let found = Found::from(answer);
                // The error by which a server says that there is no value does not say how fresh it is.
                Ok(if found.pair.is_none() { Found { served: asked, ..found } } else { found })
            }
            _ => Err(mismatch()),
        }
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Pair>, Error>;
    type IntoFuture = Sent<Option<Pair>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.found().await?.pair) })
    }
}

/// A count of keys. See [`Client::count`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct Count {
    client: Client,
    request: CountRequest,
}

impl Count {
    pub(crate) fn new(client: &Client, request: CountRequest) -> Self {
        Self { client: client.clone(), request }
    }

    read_options!();
}

impl IntoFuture for Count {
    type Output = Result<Counted, Error>;
    type IntoFuture = Sent<Counted>;

    fn into_future(mut self) -> Self::IntoFuture {
        self.request.min_revision = self.client.seen().max(self.request.min_revision);
        Box::pin(async move {
            match self.client.operate(Operation::Count(self.request)).await? {
                Answer::Count(answer) => Ok(answer.into()),
                _ => Err(mismatch()),
            }
        })
    }
}
