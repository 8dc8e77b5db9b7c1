//! What is told to everybody.
//!
//! Serf's messages travel with those of memberlist, in the room that these leave; intents first, then queries, then events.

use bytes::Bytes;
use tracing::warn;

use crate::gossip::{BroadcastId, Broadcasts as Queue};
use crate::wire::memberlist;

/// A queue of this length is a sign that more is said than gossip can carry.
const QUEUE_WARN: usize = 128;

/// More than this is not kept: what was sent most often goes first.
const QUEUE_MAX: usize = 4096;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Intent,
    Query,
    Event,
}

/// Serf's queues.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    intents: Queue,
    queries: Queue,
    events: Queue,
}

impl Broadcasts {
    /// Adds an encoded Serf message.
    pub(super) fn push(&mut self, kind: Kind, message: Bytes) -> BroadcastId {
        let queue = match kind {
            Kind::Intent => &mut self.intents,
            Kind::Query => &mut self.queries,
            Kind::Event => &mut self.events,
        };
        let id = queue.push(None, memberlist::Message::User(message).encode());
        queue.prune(QUEUE_MAX);
        id
    }

    /// Whether an intent still has to be sent, once more at least.
    pub(super) fn is_queued(&self, intent: BroadcastId) -> bool {
        self.intents.is_queued(intent)
    }

    /// What goes into a packet that has `room`, of which each message takes its size and `overhead`.
    pub(super) fn take(&mut self, overhead: usize, mut room: usize, sends_max: u32) -> Vec<Bytes> {
        let mut taken = Vec::new();
        for queue in [&mut self.intents, &mut self.queries, &mut self.events] {
            let more = queue.take(overhead, room, sends_max);
            room -= more.iter().map(|message| message.len() + overhead).sum::<usize>();
            taken.extend(more);
        }
        taken
    }

    /// Says so if gossip does not keep up.
    pub(super) fn check(&self) {
        for (what, queue) in [("intents", &self.intents), ("queries", &self.queries), ("events", &self.events)] {
            if queue.len() >= QUEUE_WARN {
                warn!(what, waiting = queue.len(), "more is said than gossip can carry");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that takes `size` bytes in a packet, its type included.
    fn message(size: usize) -> Bytes {
        vec![0; size - 1].into()
    }

    #[test]
    fn intents_come_before_queries_and_these_before_events() {
        let mut broadcasts = Broadcasts::default();
        broadcasts.push(Kind::Event, message(40));
        broadcasts.push(Kind::Query, message(30));
        broadcasts.push(Kind::Intent, message(20));
        let mut sizes = |room| -> Vec<usize> { broadcasts.take(2, room, 4).iter().map(Bytes::len).collect() };
        assert_eq!(sizes(54), [20, 30]);
        assert_eq!(sizes(200), [20, 30, 40]);
    }

    #[test]
    fn a_full_queue_loses_what_was_sent_most_often() {
        let mut broadcasts = Broadcasts::default();
        let first = broadcasts.push(Kind::Intent, message(10));
        broadcasts.take(2, 12, 4);
        let second = broadcasts.push(Kind::Intent, message(10));
        for _ in 2..QUEUE_MAX {
            broadcasts.push(Kind::Intent, message(10));
        }
        assert!(broadcasts.is_queued(first));
        broadcasts.push(Kind::Intent, message(10));
        assert!(!broadcasts.is_queued(first) && broadcasts.is_queued(second));
        assert_eq!(broadcasts.intents.len(), QUEUE_MAX);
    }
}
