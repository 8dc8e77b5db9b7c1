//! Messages that all nodes are to hear: each is sent a limited number of times, to whoever comes next.
//!
//! Those sent least often go first, so that news is not held up by what most have heard already. That number of sends grows
//! with the logarithm of the pool, which is what an epidemic needs to reach (almost) everybody; exchanges of whole states
//! find the rest.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::wire::Text;

/// How often a message is sent in a pool of `nodes` nodes.
pub fn sends_max(retransmit_mult: u32, nodes: usize) -> u32 {
    retransmit_mult * ((nodes + 1) as f64).log10().ceil() as u32
}

/// Names a message that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BroadcastId(u64);

/// The order of sending: fewest sends, then largest (what is small finds a gap later), then newest.
type Rank = (u32, Reverse<usize>, Reverse<BroadcastId>);

#[derive(Debug)]
struct Broadcast {
    message: Bytes,
    /// What it is about, if a newer message about the same takes its place.
    about: Option<Text>,
}

/// The queue. Invariants: `ranks` has every message of `queue`; `about` has exactly those that are about something.
#[derive(Debug, Default)]
pub struct Broadcasts {
    queue: BTreeMap<Rank, Broadcast>,
    ranks: BTreeMap<BroadcastId, Rank>,
    about: BTreeMap<Text, BroadcastId>,
    next_id: u64,
}

impl Broadcasts {
    /// Queues a message, in the place of one about the same.
    pub fn push(&mut self, about: Option<Text>, message: Bytes) -> BroadcastId {
        let id = BroadcastId(self.next_id);
        self.next_id += 1;
        if let Some(older) = about.as_ref().and_then(|about| self.about.insert(about.clone(), id)) {
            let rank = self.ranks.remove(&older).expect("it is queued as long as it is in `about`");
            self.queue.remove(&rank);
        }
        self.insert((0, Reverse(message.len()), Reverse(id)), Broadcast { message, about });
        id
    }

    /// Takes messages that fit into `limit` bytes, when each takes `overhead` more than its length. A message that has been
    /// taken `sends_max` times is gone.
    pub fn take(&mut self, overhead: usize, limit: usize, sends_max: u32) -> Vec<Bytes> {
        let (mut taken, mut again) = (Vec::new(), Vec::new());
        let mut free = limit;
        let mut sends = self.queue.first_key_value().map_or(0, |(rank, _)| rank.0);
        while free > overhead {
            // The largest that fits among those sent that often, or else the first of those sent more often.
            let first = (sends, Reverse(free - overhead), Reverse(BroadcastId(u64::MAX)));
            let Some((&rank, broadcast)) = self.queue.range(first..).next() else { break };
            if rank.0 > sends {
                sends = rank.0;
                continue;
            }
            free -= overhead + broadcast.message.len();
            taken.push(broadcast.message.clone());
            let broadcast = self.remove(rank);
            if sends + 1 < sends_max {
                again.push(((sends + 1, rank.1, rank.2), broadcast));
            } else if let Some(about) = broadcast.about {
                self.about.remove(&about);
            }
        }
        // Only now, so that none is taken twice.
        for (rank, broadcast) in again {
            self.insert(rank, broadcast);
        }
        taken
    }

    /// Whether a message still has to be sent, once more at least.
    pub fn is_queued(&self, id: BroadcastId) -> bool {
        self.ranks.contains_key(&id)
    }

    /// Drops all but `keep` messages: those sent most often first.
    pub fn prune(&mut self, keep: usize) {
        while self.queue.len() > keep {
            let (&rank, _) = self.queue.last_key_value().expect("there are more than `keep`");
            if let Some(about) = self.remove(rank).about {
                self.about.remove(&about);
            }
        }
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn insert(&mut self, rank: Rank, broadcast: Broadcast) {
        self.ranks.insert(rank.2.0, rank);
        self.queue.insert(rank, broadcast);
        debug_assert_eq!(self.queue.len(), self.ranks.len());
    }

    fn remove(&mut self, rank: Rank) -> Broadcast {
        self.ranks.remove(&rank.2.0);
        self.queue.remove(&rank).expect("taken from the queue")
    }
}
