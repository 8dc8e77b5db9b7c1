//! How a write that is sent again takes effect once: the session with the cluster, and the numbers of its writes.
//!
//! The cluster remembers the answers of a session's writes from the first unanswered one on, and only so many. So a session
//! in which one write hangs while thousands are answered is left for a new one, and so is one that the cluster has forgotten
//! because it was idle while too many others came. Either happens only before a write may have taken effect.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mokv_proto::api::{OpenSessionRequest, RequestId};
use tokio::sync::OnceCell;
use tokio::time::timeout_at;

use crate::calls::Unanswered;
use crate::client::Client;
use crate::error::Error;
use crate::operation::{self, Answer, Operation, mismatch};
use crate::retry::{Effect, Limit};
use crate::routes::Want;

/// Writes from the first unanswered one to the last: half of what the cluster remembers of a session.
const WINDOW: u64 = 2048;
/// Sessions that one write may try.
const SESSIONS_MAX: u32 = 4;

/// The session that a client has with the cluster. It is opened with the first write.
#[derive(Debug, Default)]
pub(crate) struct ExactlyOnce {
    current: Mutex<Arc<ClusterSession>>,
}

#[derive(Debug, Default)]
struct ClusterSession {
    client_id: OnceCell<u64>,
    sequences: Mutex<Sequences>,
}

impl ExactlyOnce {
    /// Has a write carried out, once.
    pub(crate) async fn operate(&self, client: &Client, operation: &Operation, limit: Limit) -> Result<Answer, Error> {
        for _ in 0..SESSIONS_MAX {
            let session = self.current();
            let ticket = session.clone().ticket(client, limit).await?;
            let numbered = || {
                let mut operation = operation.clone();
                if let Some(id) = operation::request_id(&mut operation) {
                    *id = Some(ticket.request_id());
                }
                operation
            };
            match client.nodes.operate(Want::Write, Effect::Numbered, client.patience, limit, numbered).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::OtherSession) => self.leave(&session),
            }
        }
        Err(Error::Unavailable("the cluster forgets sessions as soon as they are opened".into()))
    }

    fn lock(&self) -> MutexGuard<'_, Arc<ClusterSession>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session for the next write.
    fn current(&self) -> Arc<ClusterSession> {
        let mut current = self.lock();
        if current.lock().is_full() {
            *current = Arc::default();
        }
        current.clone()
    }

    /// Lets further writes have another session, unless they have it already.
    fn leave(&self, session: &Arc<ClusterSession>) {
        let mut current = self.lock();
        if Arc::ptr_eq(&current, session) {
            *current = Arc::default();
        }
    }
}

impl ClusterSession {
    fn lock(&self) -> MutexGuard<'_, Sequences> {
        self.sequences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a write. Opens the session if need be, within the time of the write that needs it.
    async fn ticket(self: Arc<Self>, client: &Client, limit: Limit) -> Result<Ticket, Error> {
        // Apart: it happens once, and is as large as all that comes after it.
        let opened = self.client_id.get_or_try_init(|| Box::pin(open(client, limit)));
        // Another write, with another limit, may be opening it.
        let late = || Error::Unavailable(format!("no session within {:?}", limit.timeout));
        let client_id = *timeout_at(limit.deadline, opened).await.map_err(|_| late())??;
        let sequence = self.lock().begin();
        Ok(Ticket { session: self, client_id, sequence })
    }
}

/// Opened twice, the session that nobody uses gives way in time: harmless.
async fn open(client: &Client, limit: Limit) -> Result<u64, Error> {
    let open = || Operation::OpenSession(OpenSessionRequest {});
    match client.attempts(Want::Write, Effect::Harmless, limit, open).await? {
        Answer::OpenSession(opened) => Ok(opened.client_id),
        _ => Err(mismatch()),
    }
}

/// A write that is under way. Dropped, it is answered or given up; either way no answer is expected any more, and the
/// cluster may forget it.
struct Ticket {
    session: Arc<ClusterSession>,
    client_id: u64,
    sequence: u64,
}

impl Ticket {
    /// Anew for each attempt: what else is unanswered changes meanwhile.
    fn request_id(&self) -> RequestId {
        let first_unanswered = self.session.lock().first_unanswered();
        RequestId { client_id: self.client_id, sequence: self.sequence, first_unanswered }
    }
}

impl Drop for Ticket {
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

    /// Whether another write could be one too many for the cluster to remember.
    fn is_full(&self) -> bool {
        self.last + 1 - self.first_unanswered() >= WINDOW
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

    #[test]
    fn a_session_is_full_when_one_write_is_far_behind() {
        let mut sequences = Sequences::default();
        for sequence in 1..=WINDOW {
            assert!(!sequences.is_full());
            sequences.begin();
            if sequence > 1 {
                sequences.end(sequence);
            }
        }
        assert!(sequences.is_full());
        sequences.end(1);
        assert!(!sequences.is_full());
    }
}
