//! How a write that is sent again takes effect once: the session with the cluster, and the numbers of its writes.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mokv_proto::api::{OpenSessionRequest, RequestId};
use tokio::sync::OnceCell;
use tokio::time::timeout_at;

use crate::calls::{Limit, Retry};
use crate::client::Client;
use crate::error::{Effect, Error};
use crate::operation::{Answer, Operation, mismatch};

/// The session that a client has with the cluster. It is opened with the first write.
#[derive(Debug, Default)]
pub(crate) struct ExactlyOnce {
    client_id: OnceCell<u64>,
    sequences: Mutex<Sequences>,
}

impl ExactlyOnce {
    /// Opens the session if need be, within the time of the write that needs it.
    pub(crate) async fn ticket(&self, client: &Client, limit: Limit) -> Result<Ticket<'_>, Error> {
        let open = async || {
            let operation = Operation::OpenSession(OpenSessionRequest {});
            match client.attempts(operation, Effect::Harmless, Retry::UntilDeadline, limit, || None).await? {
                Answer::OpenSession(opened) => Ok(opened.client_id),
                _ => Err(mismatch()),
            }
        };
        let opened = self.client_id.get_or_try_init(open);
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
pub(crate) struct Ticket<'a> {
    session: &'a ExactlyOnce,
    client_id: u64,
    sequence: u64,
}

impl Ticket<'_> {
    pub(crate) fn request_id(&self) -> RequestId {
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
