//! Reads of a range: [`ListKeys`] asks, [`List`] is the pairs as they arrive.

use std::future::IntoFuture;
use std::time::Duration;

use mokv_proto::api::{Consistency, GetResponse, ListRequest};
use tokio::time::timeout;
use tonic::{Request, Streaming};

use crate::calls::{NodeRef, Opened};
use crate::client::{Client, Sent};
use crate::error::{Effect, Error};
use crate::pair::Pair;
use crate::read::read_options;

/// The header in which the server names the revision, ahead of the first pair.
const REVISION_HEADER: &str = "mokv-revision";

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
#[derive(Debug)]
pub struct List {
    client: Client,
    node: NodeRef,
    pairs: Streaming<GetResponse>,
    revision: Option<u64>,
}

impl List {
    async fn start(client: Client, message: ListRequest) -> Result<Self, Error> {
        let opened = client.open(client.limit(), |attempt| {
            // Without a gRPC deadline: that would bound the whole stream.
            let request = Request::new(message.clone());
            async move {
                let (headers, pairs, _) = attempt.kv().list(request).await?.into_parts();
                let revision = headers.get(REVISION_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
                Ok((pairs, revision))
            }
        });
        let Opened { node, stream: (pairs, revision) } = opened.await?;
        client.saw(revision.unwrap_or(0));
        Ok(Self { client, node, pairs, revision })
    }

    /// The revision of the store that all pairs are of; `None` if the server does not say.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }

    /// The next pair; `None` after the last. After an error the list is incomplete: begin again.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn next(&mut self) -> Result<Option<Pair>, Error> {
        let patience = self.client.timeout;
        match timeout(patience, self.pairs.message()).await {
            Ok(Ok(pair)) => Ok(pair.map(Pair::from)),
            Ok(Err(status)) => Err(Error::from_status(&status, Effect::Harmless)),
            Err(_) => {
                self.client.avoid(self.node);
                Err(Error::timed_out(Effect::Harmless, patience))
            }
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
