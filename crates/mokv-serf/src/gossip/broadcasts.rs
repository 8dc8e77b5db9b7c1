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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sends_follow_the_size_of_the_pool() {
        let sends = [0, 1, 9, 10, 99, 100, 999, 1000].map(|nodes| sends_max(4, nodes));
        assert_eq!(sends, [0, 4, 4, 8, 8, 12, 12, 16]);
    }

    fn message(len: usize, byte: u8) -> Bytes {
        vec![byte; len].into()
    }

    #[test]
    fn news_goes_before_what_was_sent_and_the_large_before_the_small() {
        let mut queue = Broadcasts::default();
        queue.push(None, message(10, 1));
        assert_eq!(queue.take(2, 100, 3), [message(10, 1)]);
        queue.push(None, message(3, 2));
        queue.push(None, message(20, 3));
        queue.push(None, message(3, 4));
        assert_eq!(queue.take(2, 100, 3), [message(20, 3), message(3, 4), message(3, 2), message(10, 1)]);
        // 22 bytes: the largest, and nothing beside it. What was sent twice is still last.
        assert_eq!(queue.take(2, 22, 3), [message(20, 3)]);
        assert_eq!(queue.take(2, 12, 3), [message(3, 4), message(3, 2)]);
        assert_eq!(queue.take(2, 100, 3), [message(20, 3), message(10, 1), message(3, 4), message(3, 2)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_is_about_the_same_is_replaced() {
        let mut queue = Broadcasts::default();
        let (a, b) = (Text::from("a"), Text::from("b"));
        let first = queue.push(Some(a.clone()), message(5, 1));
        let other = queue.push(Some(b), message(5, 2));
        assert_eq!(queue.take(2, 100, 9).len(), 2);
        let second = queue.push(Some(a.clone()), message(5, 3));
        assert!(!queue.is_queued(first) && queue.is_queued(second) && queue.is_queued(other));
        assert_eq!(queue.take(2, 100, 1), [message(5, 3), message(5, 2)]);
        assert!(!queue.is_queued(second));
        // Gone, so there is nothing to replace.
        queue.push(Some(a), message(5, 4));
        assert_eq!(queue.len(), 1);
    }

    /// The same, by looking through everything each time.
    #[derive(Default)]
    struct Model(Vec<Entry>);

    #[derive(Clone)]
    struct Entry {
        sends: u32,
        id: BroadcastId,
        about: Option<Text>,
        message: Bytes,
    }

    impl Entry {
        fn rank(&self) -> Rank {
            (self.sends, Reverse(self.message.len()), Reverse(self.id))
        }
    }

    impl Model {
        fn push(&mut self, id: BroadcastId, about: Option<Text>, message: Bytes) {
            self.0.retain(|entry| about.is_none() || entry.about != about);
            self.0.push(Entry { sends: 0, id, about, message });
        }

        fn take(&mut self, overhead: usize, limit: usize, sends_max: u32) -> Vec<Bytes> {
            let (mut free, mut sent) = (limit, Vec::new());
            loop {
                let fits = |entry: &&Entry| entry.message.len() + overhead <= free && free > overhead;
                let best = self.0.iter().filter(fits).map(Entry::rank).min();
                let Some(place) = self.0.iter().position(|entry| Some(entry.rank()) == best) else { break };
                let entry = self.0.remove(place);
                free -= overhead + entry.message.len();
                sent.push(entry);
            }
            let taken = sent.iter().map(|entry| entry.message.clone()).collect();
            let again = sent.into_iter().map(|entry| Entry { sends: entry.sends + 1, ..entry });
            self.0.extend(again.filter(|entry| entry.sends < sends_max));
            taken
        }

        fn prune(&mut self, keep: usize) {
            self.0.sort_by_key(Entry::rank);
            self.0.truncate(keep);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Option<u8>, usize),
        Take(usize, u32),
        Prune(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (proptest::option::of(0u8..6), 0usize..40).prop_map(|(about, len)| Step::Push(about, len)),
            4 => (0usize..120, 1u32..6).prop_map(|(limit, sends)| Step::Take(limit, sends)),
            1 => (0usize..12).prop_map(Step::Prune),
        ]
    }

    proptest! {
        #[test]
        fn the_queue_does_what_the_model_does(steps in proptest::collection::vec(step(), 0..80), overhead in 0usize..4) {
            let (mut queue, mut model) = (Broadcasts::default(), Model::default());
            for (i, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(about, len) => {
                        let about = about.map(|about| Text::from(about.to_string()));
                        let message = message(len, i as u8);
                        let id = queue.push(about.clone(), message.clone());
                        model.push(id, about, message);
                    }
                    Step::Take(limit, sends) => {
                        let taken = queue.take(overhead, limit, sends);
                        let used = taken.iter().map(|message| message.len() + overhead).sum::<usize>();
                        prop_assert!(used <= limit);
                        prop_assert_eq!(taken, model.take(overhead, limit, sends));
                    }
                    Step::Prune(keep) => {
                        queue.prune(keep);
                        model.prune(keep);
                    }
                }
                prop_assert_eq!(queue.len(), model.0.len());
                prop_assert!(model.0.iter().all(|entry| queue.is_queued(entry.id)));
                let named = model.0.iter().filter(|entry| entry.about.is_some()).count();
                prop_assert_eq!(queue.about.len(), named);
            }
        }
    }
}
