//! [`Session`]: writes that may be sent again and take effect once.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mokv_proto::api::{DeleteRequest, DeleteResponse, RequestId, SetRequest, SetResponse};
use tokio::sync::OnceCell;
use tokio::time::timeout_at;

use crate::calls::{Limit, Retry};
use crate::client::Client;
use crate::error::{Effect, Error};

/// A session with the cluster, for exactly-once writes.
///
/// The cluster remembers the answers of a session's writes, so a write whose answer was lost is sent again, to another
/// node even, and takes effect once. One session serves a whole process: share it by reference, its writes may be under
/// way side by side. A session that has not written for long may have given way to others ([`Error::SessionExpired`]).
#[derive(Debug)]
pub struct Session {
    client: Client,
    client_id: OnceCell<u64>,
    sequences: Mutex<Sequences>,
}

impl Session {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, client_id: OnceCell::new(), sequences: Mutex::default() }
    }

    /// Sets a key, trying until it is answered or the client's timeout is over.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn set(&self, key: &str, value: impl Into<Bytes>) -> Result<SetResponse, Error> {
        let message = SetRequest { key: key.to_owned(), value: value.into(), ..SetRequest::default() };
        let limit = self.client.limit();
        let ticket = self.ticket(limit).await?;
        self.client.send_set(message, Retry::UntilDeadline, limit, || Some(ticket.request_id())).await
    }

    /// Deletes a key, trying until it is answered or the client's timeout is over.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn delete(&self, key: &str) -> Result<DeleteResponse, Error> {
        let message = DeleteRequest { key: key.to_owned(), ..DeleteRequest::default() };
        let limit = self.client.limit();
        let ticket = self.ticket(limit).await?;
        self.client.send_delete(message, Retry::UntilDeadline, limit, || Some(ticket.request_id())).await
    }

    /// Opens the session if need be, within the time of the write that needs it.
    async fn ticket(&self, limit: Limit) -> Result<Ticket<'_>, Error> {
        let opened = self.client_id.get_or_try_init(|| self.client.open_session(limit));
        // Another write, with another limit, may be opening it.
        let opened = timeout_at(limit.deadline, opened).await;
        let client_id = *opened.unwrap_or_else(|_| Err(Error::timed_out(Effect::Harmless, limit.timeout)))?;
        Ok(Ticket { session: self, client_id, sequence: self.lock().begin() })
    }

    fn lock(&self) -> MutexGuard<'_, Sequences> {
        self.sequences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write that is under way. Dropped, it is answered or given up; either way no answer is expected any more, and the
/// cluster may forget it.
struct Ticket<'a> {
    session: &'a Session,
    client_id: u64,
    sequence: u64,
}

impl Ticket<'_> {
    fn request_id(&self) -> RequestId {
        let first_unanswered = self.session.lock().first_unanswered();
        RequestId { client_id: self.client_id, sequence: self.sequence, first_unanswered }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.session.lock().end(self.sequence);
    }
}

/// The sequence numbers of a session, from 1 on.
#[derive(Debug, Default)]
struct Sequences {
    last: u64,
    unanswered: BTreeSet<u64>,
}

impl Sequences {
    fn begin(&mut self) -> u64 {
        self.last += 1;
        self.unanswered.insert(self.last);
        self.last
    }

    fn end(&mut self, sequence: u64) {
        self.unanswered.remove(&sequence);
    }

    fn first_unanswered(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_unanswered_moves_with_the_slowest() {
        let mut sequences = Sequences::default();
        assert_eq!([sequences.begin(), sequences.begin(), sequences.begin()], [1, 2, 3]);
        sequences.end(2);
        assert_eq!(sequences.first_unanswered(), 1);
        sequences.end(1);
        assert_eq!(sequences.first_unanswered(), 3);
        sequences.end(3);
        assert_eq!(sequences.first_unanswered(), 4);
        assert_eq!(sequences.begin(), 4);
        assert_eq!(sequences.first_unanswered(), 4);
    }
}
