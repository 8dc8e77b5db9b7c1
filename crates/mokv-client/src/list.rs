//! [`List`]: the pairs of a range, as they arrive.

use std::time::Duration;

use mokv_proto::api::{GetResponse, ListRequest};
use tokio::time::timeout;
use tonic::{Request, Response, Streaming};

use crate::calls::Retry;
use crate::client::Client;
use crate::error::{Effect, Error};

/// The header in which the server names the revision, ahead of the first pair.
const REVISION_HEADER: &str = "mokv-revision";

/// The pairs of a range, in the order of their keys and as of one revision.
#[derive(Debug)]
pub struct List {
    pairs: Streaming<GetResponse>,
    revision: Option<u64>,
    timeout: Duration,
}

impl List {
    pub(crate) async fn start(client: &Client, message: ListRequest) -> Result<Self, Error> {
        let sent = client.endpoints.call(Effect::Harmless, Retry::OnceEach, client.limit(), |attempt| {
            // Without a gRPC deadline: that would bound the whole stream.
            let request = Request::new(message.clone());
            async move {
                let (headers, pairs, _) = attempt.kv().list(request).await?.into_parts();
                let revision = headers.get(REVISION_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
                Ok(Response::new((pairs, revision)))
            }
        });
        let (pairs, revision) = sent.await?;
        Ok(Self { pairs, revision, timeout: client.timeout })
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
    pub async fn next(&mut self) -> Result<Option<GetResponse>, Error> {
        match timeout(self.timeout, self.pairs.message()).await {
            Ok(Ok(pair)) => Ok(pair),
            Ok(Err(status)) => Err(Error::from_status(&status, Effect::Harmless)),
            Err(_) => Err(Error::timed_out(Effect::Harmless, self.timeout)),
        }
    }
}
