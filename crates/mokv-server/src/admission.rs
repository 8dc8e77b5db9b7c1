//! What a follower lets into its log. A storage error is final for consensus, so what has no room on the disk is refused
//! before consensus sees it: the stream of appends ends, and the leader tries again later. Heartbeats go on.
//!
//! Two bounds make sure that what is let in fits into what the log has reserved. Of each stream, no more is under way than
//! the reserve holds when it turns out that the disk is full; and then only that goes on without which nobody could lead:
//! the first entry of a new leader, and what it has from the terms before, as long as the log's allowance lasts. What the
//! log has already takes no room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, stream};
use mokv_proto::internal::entry::Payload;
use mokv_proto::internal::{AppendRequest, Entry};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::peer::MessageStream;
use crate::raft::log::{ENTRY_OVERHEAD_BYTES, Log};

/// Looks at the requests of one stream. Cheap to clone; clones look at the same stream.
#[derive(Clone)]
pub struct Admission {
    log: Log,
    free: Arc<Semaphore>,
    bytes_max: u32,
    /// What the requests that have no answer yet take, oldest first.
    under_way: Arc<Mutex<VecDeque<OwnedSemaphorePermit>>>,
}

impl Admission {
    /// For a new stream of appends to `log`.
    pub fn new(log: Log) -> Self {
        let bytes_max = u32::try_from(log.reserve_bytes()).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(bytes_max as usize));
        Self { log, free, bytes_max, under_way: Arc::default() }
    }

    /// The requests that may be appended, each as soon as it may. Ends with the first entry that may not.
    pub fn admit(&self, requests: MessageStream<AppendRequest>) -> MessageStream<AppendRequest> {
        let admitted = stream::unfold(Some((requests, self.clone())), |state| async move {
            let (mut requests, admission) = state?;
            let (affordable, is_all) = admission.affordable(requests.next().await?).await?;
            Some((affordable, is_all.then_some((requests, admission))))
        });
        admitted.boxed()
    }

    /// The oldest request has its answer: its entries are on the disk, or were refused by consensus.
    pub fn answered(&self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }

    /// The request, or as much of it as may be appended, and whether that is all of it. `None` if it is nothing.
    async fn affordable(&self, mut request: AppendRequest) -> Option<(AppendRequest, bool)> {
        let bytes: u64 = request.entries.iter().map(bytes_of).sum();
        // One that is larger than the reserve goes alone.
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        let permit = self.free.clone().acquire_many_owned(share).await.ok()?;
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).push_back(permit);
        if self.log.has_room() || request.entries.is_empty() {
            return Some((request, true));
        }
        let (term, whole) = (request.vote.as_ref().map_or(0, |vote| vote.term), request.entries.len());
        // Beside its entries, an append brings a record of what is committed, and perhaps one of what is dropped.
        let mut first = ENTRY_OVERHEAD_BYTES;
        let is_affordable = |entry: &&Entry| {
            // To find out what a follower has, a new leader sends what it may have: that takes no room.
            let is_there = entry.log_id.is_some_and(|at| self.log.has(at.term, at.index));
            is_there
                || is_needed_to_lead(entry, term)
                    && self.log.take_allowance(bytes_of(entry) + std::mem::take(&mut first))
        };
        let affordable = request.entries.iter().take_while(is_affordable).count();
        if affordable < whole {
            tracing::warn!("entries refused: no room on the disk");
            request.entries.truncate(affordable);
        }
        (affordable > 0).then_some((request, affordable == whole))
    }
}

/// What an entry takes on the disk, at most.
fn bytes_of(entry: &Entry) -> u64 {
    entry.encoded_len() as u64 + ENTRY_OVERHEAD_BYTES
}

/// Whether a leader can't commit the first entry of its term without this one. Writes of its own term come after it.
fn is_needed_to_lead(entry: &Entry, term: u64) -> bool {
    let is_earlier = entry.log_id.is_some_and(|log_id| log_id.term < term);
    is_earlier || !matches!(entry.payload, Some(Payload::Batch(_)))
}
