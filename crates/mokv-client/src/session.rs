//! [`Session`]: a client that remembers what it has seen.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::Client;

/// A client whose reads never go behind what the session has seen: its own writes, and what it read before.
///
/// Linearizable reads keep that by themselves; [`Get::local`](crate::Get::local) reads on any node keep it through a
/// session, at the price of a short wait where the node has not come as far yet. What the session has seen is one number,
/// its [revision](Session::revision), which may be handed to another process.
///
/// ```no_run
/// # async fn example(client: mokv_client::Client) -> Result<(), mokv_client::Error> {
/// let session = client.session();
/// session.set("cart", "apples").await?;
/// let found = session.get("cart").local().await?.expect("what was just set, on whichever node");
///
/// // Elsewhere, with the revision in a cookie:
/// let revision = session.revision();
/// let other = client.session();
/// other.saw(revision);
/// # drop((found, other));
/// # Ok(())
/// # }
/// ```
///
/// It costs the cluster nothing; make one for each user of yours if you like. Clones share what they have seen.
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    token: Arc<Token>,
}

impl Session {
    pub(crate) fn new(client: &Client) -> Self {
        let token = Arc::new(Token::default());
        Self { client: client.with_token(token.clone()), token }
    }

    /// The highest revision that an answer to this session reflected.
    pub fn revision(&self) -> u64 {
        self.token.revision()
    }

    /// From now on reads reflect at least this revision.
    pub fn saw(&self, revision: u64) {
        self.token.saw(revision);
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The highest revision that was seen.
#[derive(Debug, Default)]
pub(crate) struct Token(AtomicU64);

impl Token {
    pub(crate) fn revision(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn saw(&self, revision: u64) {
        self.0.fetch_max(revision, Ordering::AcqRel);
    }
}
