//! Reads of a range: [`ListKeys`] asks, [`List`] is the pairs as they arrive.

use std::future::IntoFuture;
use std::time::Duration;

use mokv_proto::api::{Consistency, GetResponse, ListRequest};
use tokio::time::{timeout, timeout_at};
use tonic::{Request, Streaming};

use crate::calls::Opened;
use crate::client::{Client, Sent};
use crate::error::Error;
use crate::pair::Pair;
use crate::read::read_options;
use crate::retry::Limit;
use crate::routes::NodeRef;

/// The header in which the server names the revision, ahead of the first pair.
const REVISION_HEADER: &str = "mokv-revision";

/// A list is not taken for broken before so long a silence.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// A read of a range of keys. See [`Client::list`].
#[derive(Debug, Clone)]
#[must_use = "a request is sent when it is awaited"]
pub struct ListKeys {
    client: Client,
    request: ListRequest,
}

impl ListKeys {
    pub(crate) fn new(client: &Client, request: ListRequest) -> Self {
        Self { client: client.clone(), request }
    }

    /// At most so many pairs; 0 means all.
    pub fn limit(mut self, limit: u64) -> Self {
        self.request.limit = limit;
        self
    }

    /// Leave the values out.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.request.reverse = true;
        self
    }

    read_options!();
}

impl IntoFuture for ListKeys {
    type Output = Result<List, Error>;
    type IntoFuture = Sent<List>;

    fn into_future(mut self) -> Self::IntoFuture {
        self.request.min_revision = self.client.seen().max(self.request.min_revision);
        Box::pin(List::start(self.client, self.request))
    }
}

/// The pairs of a range, in the order of their keys and as of one revision.
///
/// Should the node that sends them fail, another one goes on: at the same revision, after the last pair that came.
#[derive(Debug)]
pub struct List {
    client: Client,
    /// What is still to come.
    request: ListRequest,
    node: NodeRef,
    pairs: Streaming<GetResponse>,
    revision: Option<u64>,
    ended: bool,
}

impl List {
    async fn start(client: Client, request: ListRequest) -> Result<Self, Error> {
        let Opened { node, stream: (pairs, revision) } = open(&client, client.limit(), &request).await?;
        client.saw(revision.unwrap_or(0));
        Ok(Self { client, request, node, pairs, revision, ended: false })
    }

    /// The revision of the store that all pairs are of; `None` if the server does not say.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// The next pair; `None` after the last. After an error the list is incomplete: begin again.
    ///
    /// # Errors
    ///
    /// See [`Error`]; [`Error::Compacted`] if no node that could go on remembers the revision.
    pub async fn next(&mut self) -> Result<Option<Pair>, Error> {
        if self.ended {
            return Ok(None);
        }
        let limit = self.client.limit();
        let late = || Error::Unavailable(format!("no pair within {:?}", limit.timeout));
        match timeout_at(limit.deadline, self.next_until(limit)).await {
            Ok(next) => next,
            Err(_) => {
                self.client.avoid(self.node);
                Err(late())
            }
        }
    }

    async fn next_until(&mut self, limit: Limit) -> Result<Option<Pair>, Error> {
        loop {
            // A node that is busy sends something all the same; one that hangs does not get all the time that there is.
            let patience = (limit.timeout / 2).max(SILENCE_MIN);
            let error = match timeout(patience, self.pairs.message()).await {
                Ok(Ok(Some(pair))) => {
                    self.passed(&pair);
                    return Ok(Some(pair.into()));
                }
                Ok(Ok(None)) => {
                    self.ended = true;
                    return Ok(None);
                }
                Ok(Err(status)) => match Error::of_stream(&status) {
                    error @ Error::Unavailable(_) => error,
                    error => return Err(error),
                },
                Err(_) => Error::Unavailable(format!("nothing within {patience:?}")),
            };
            self.client.avoid(self.node);
            // All of it is of one revision, or of none.
            let Some(revision) = self.revision else { return Err(error) };
            self.request.revision = revision;
            let Opened { node, stream: (pairs, _) } = open(&self.client, limit, &self.request).await?;
            (self.node, self.pairs) = (node, pairs);
        }
    }

    /// Lets the list begin after a pair, should it have to begin again.
    fn passed(&mut self, pair: &GetResponse) {
        if self.request.reverse {
            self.request.end.clone_from(&pair.key);
        } else {
            self.request.start = format!("{}\0", pair.key);
        }
        if self.request.limit > 0 {
            self.request.limit -= 1;
            // 0 is no limit, and this was the last.
            self.ended = self.request.limit == 0;
        }
    }

    /// All pairs that are still to come.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn all(mut self) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = self.next().await? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// Opens a stream of pairs, and says of which revision they are.
async fn open(
    client: &Client,
    limit: Limit,
    message: &ListRequest,
) -> Result<Opened<(Streaming<GetResponse>, Option<u64>)>, Error> {
    let opened = client.open(limit, |attempt| {
        // Without a gRPC deadline: that would bound the whole stream.
        let request = Request::new(message.clone());
        async move {
            let (headers, pairs, _) = attempt.kv().list(request).await?.into_parts();
            let revision = headers.get(REVISION_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
            Ok((pairs, revision))
        }
    });
    opened.await
}
