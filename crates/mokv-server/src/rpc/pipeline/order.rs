//! In which order the operations of one stream run.
//!
//! Pure. Two operations conflict if both touch the same key and one of them may write it; one that touches more than one
//! key conflicts with all. An operation runs as soon as none that came before it and conflicts with it is unfinished:
//! neither earlier nor later.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

/// What an operation may read or write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Touches {
    /// One key.
    Key(Bytes, Access),
    /// Any keys.
    Everything,
}

/// What an operation does with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// An unfinished operation.
#[derive(Debug)]
pub(super) struct Place {
    ticket: u64,
    touches: Touches,
}

impl Place {
    /// Tells operations apart; later ones have higher tickets.
    pub(super) fn ticket(&self) -> u64 {
        self.ticket
    }
}

/// The unfinished operations of one stream.
///
/// Invariants: an operation is in one place, the queue of its key, `everything` or `held`; no queue is empty; `held` is
/// empty or begins with an operation that touches everything and waits for those in the queues or for `everything`.
#[derive(Debug, Default)]
pub(super) struct Order {
    last_ticket: u64,
    queues: BTreeMap<Bytes, Queue>,
    /// The operation that touches everything and runs; then no other does.
    everything: Option<u64>,
    /// Those from the first on that touches everything and waits.
    held: VecDeque<(u64, Touches)>,
}

/// The unfinished operations on one key.
#[derive(Debug, Default)]
struct Queue {
    readers: usize,
    is_written: bool,
    waiting: VecDeque<(u64, Access)>,
}

impl Order {
    /// Takes in the next operation. True if it runs at once; otherwise [`Order::leave`] says when.
    pub(super) fn arrive(&mut self, touches: Touches) -> (Place, bool) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let place = Place { ticket, touches: touches.clone() };
        let runs = if self.everything.is_some() || !self.held.is_empty() || !self.admits(&touches) {
            self.held.push_back((ticket, touches));
            false
        } else {
            self.enter(ticket, touches)
        };
        (place, runs)
    }

    /// An operation has finished, or gave up waiting. Returns the tickets of those that run now.
    pub(super) fn leave(&mut self, place: Place) -> Vec<u64> {
        let mut started = Vec::new();
        if let Ok(at) = self.held.binary_search_by_key(&place.ticket, |(ticket, _)| *ticket) {
            self.held.remove(at);
        } else {
            match place.touches {
                Touches::Everything => self.everything = None,
                Touches::Key(key, access) => self.leave_queue(&key, place.ticket, access, &mut started),
            }
        }
        self.release(&mut started);
        started
    }

    /// Whether an operation may pass those that touch everything.
    fn admits(&self, touches: &Touches) -> bool {
        match touches {
            Touches::Key(..) => true,
            Touches::Everything => self.queues.is_empty(),
        }
    }

    /// True if the operation runs now.
    fn enter(&mut self, ticket: u64, touches: Touches) -> bool {
        match touches {
            Touches::Everything => {
                self.everything = Some(ticket);
                true
            }
            Touches::Key(key, access) => {
                let queue = self.queues.entry(key).or_default();
                queue.waiting.push_back((ticket, access));
                queue.start_next().is_some()
            }
        }
    }

    fn leave_queue(&mut self, key: &Bytes, ticket: u64, access: Access, started: &mut Vec<u64>) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        match queue.waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            Ok(at) => drop(queue.waiting.remove(at)),
            Err(_) => match access {
                Access::Read => queue.readers -= 1,
                Access::Write => queue.is_written = false,
            },
        }
        while let Some(ticket) = queue.start_next() {
            started.push(ticket);
        }
        if queue.readers == 0 && !queue.is_written {
            self.queues.remove(key);
        }
    }

    /// Lets in those that waited for an operation that touches everything, or for its turn.
    fn release(&mut self, started: &mut Vec<u64>) {
        while self.everything.is_none() && self.held.front().is_some_and(|(_, touches)| self.admits(touches)) {
            let Some((ticket, touches)) = self.held.pop_front() else { break };
            if self.enter(ticket, touches) {
                started.push(ticket);
            }
        }
    }
}

impl Queue {
    /// Starts the operation that waits first, if it may run.
    fn start_next(&mut self) -> Option<u64> {
        let (ticket, access) = *self.waiting.front()?;
        match access {
            Access::Read if !self.is_written => self.readers += 1,
            Access::Write if !self.is_written && self.readers == 0 => self.is_written = true,
            _ => return None,
        }
        self.waiting.pop_front();
        Some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn conflict(one: &Touches, other: &Touches) -> bool {
        match (one, other) {
            (Touches::Everything, _) | (_, Touches::Everything) => true,
            (Touches::Key(one, Access::Read), Touches::Key(other, Access::Read)) if one == other => false,
            (Touches::Key(one, _), Touches::Key(other, _)) => one == other,
        }
    }

    /// The definition: those run before which nothing unfinished conflicts.
    fn may_run(unfinished: &[Place]) -> BTreeSet<u64> {
        let free = unfinished.iter().enumerate().filter(|(number, place)| {
            !unfinished[..*number].iter().any(|earlier| conflict(&earlier.touches, &place.touches))
        });
        free.map(|(_, place)| place.ticket).collect()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(Touches),
        /// One of the unfinished, whether it runs or not.
        Leave(Index),
        /// One of those that run.
        Finish(Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
        let key = (0..3_u8, access).prop_map(|(key, access)| Touches::Key(vec![key].into(), access));
        let touches = prop_oneof![6 => key, 1 => Just(Touches::Everything)];
        prop_oneof![
            5 => touches.prop_map(Step::Arrive),
            1 => any::<Index>().prop_map(Step::Leave),
            4 => any::<Index>().prop_map(Step::Finish),
        ]
    }

    proptest! {
        #[test]
        fn what_runs_is_what_nothing_before_it_conflicts_with(steps in prop::collection::vec(step(), 1..200)) {
            let mut order = Order::default();
            let mut unfinished: Vec<Place> = Vec::new();
            let mut running = BTreeSet::new();
            for step in steps {
                let leaves = match step {
                    Step::Arrive(touches) => {
                        let (place, runs) = order.arrive(touches);
                        if runs {
                            running.insert(place.ticket());
                        }
                        unfinished.push(place);
                        None
                    }
                    Step::Leave(which) => (!unfinished.is_empty()).then(|| which.index(unfinished.len())),
                    Step::Finish(which) if !running.is_empty() => {
                        let ticket = *running.iter().nth(which.index(running.len())).expect("in range");
                        unfinished.iter().position(|place| place.ticket() == ticket)
                    }
                    Step::Finish(_) => None,
                };
                if let Some(at) = leaves {
                    let place = unfinished.remove(at);
                    running.remove(&place.ticket());
                    let started = order.leave(place);
                    for ticket in started {
                        prop_assert!(running.insert(ticket), "{ticket} was started twice");
                    }
                }
                prop_assert_eq!(&running, &may_run(&unfinished));
            }
            for place in unfinished.drain(..) {
                order.leave(place);
            }
            prop_assert!(order.queues.is_empty() && order.everything.is_none() && order.held.is_empty());
        }
    }
}
