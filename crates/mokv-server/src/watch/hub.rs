//! Who waits for a change of what, and who is woken by one. A plain value: it is told of changes and says whom to wake.

use std::collections::{BTreeMap, btree_map};
use std::mem;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::ranges::RangeMap;
use crate::mutants::mutant;
use crate::store::KeyRange;

/// There is no more waiting: the node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

/// Those who watch, by what they watch.
///
/// A watcher waits here only when it has seen all that the hub has, so while it waits nothing that it watches has changed
/// up to `position`: it need not read what lies behind.
pub(super) struct Hub {
    keys: BTreeMap<Bytes, Group>,
    ranges: RangeMap<Group>,
    /// All changes up to this revision have been here.
    position: u64,
    next_id: u64,
    watchers: usize,
    waiting: usize,
    busy: Busy,
    is_closed: bool,
}

/// Those who have not come back to wait since they were woken, or given something: when each last had all that there was.
type Busy = BTreeMap<u64, Instant>;

/// The watchers of one key or one range.
#[derive(Default)]
struct Group {
    members: usize,
    waiting: BTreeMap<u64, Waiting>,
    /// The revision of the change that woke each. They have not been here since.
    woken: BTreeMap<u64, u64>,
}

struct Waiting {
    /// The watcher has seen everything up to here, which may be ahead of the hub.
    seen: u64,
    waker: Waker,
}

impl Group {
    /// Wakes those who have not seen `revision`.
    fn wake(&mut self, revision: u64, now: Instant, busy: &mut Busy, wakers: &mut Vec<Waker>) {
        if self.waiting.is_empty() {
            return;
        }
        for (id, waiting) in mem::take(&mut self.waiting) {
            if waiting.seen < revision {
                self.woken.insert(id, revision);
                busy.insert(id, now);
                wakers.push(waiting.waker);
            } else {
                self.waiting.insert(id, waiting);
            }
        }
    }

    /// Wakes all, to look for themselves at what came after `position`.
    fn wake_all(&mut self, position: u64, now: Instant, busy: &mut Busy, wakers: &mut Vec<Waker>) {
        for (id, waiting) in mem::take(&mut self.waiting) {
            self.woken.insert(id, waiting.seen.max(position) + 1);
            busy.insert(id, now);
            wakers.push(waiting.waker);
        }
    }
}

impl Hub {
    /// Nobody watches, and everything up to `position` is past.
    pub(super) fn new(position: u64, rng: SmallRng) -> Self {
        Self {
            keys: BTreeMap::new(),
            ranges: RangeMap::new(rng),
            position,
            next_id: 0,
            watchers: 0,
            waiting: 0,
            busy: Busy::new(),
            is_closed: false,
        }
    }

    /// Takes in a watcher.
    pub(super) fn join(&mut self, range: &KeyRange) -> u64 {
        match self.group(range) {
            Some(group) => group.members += 1,
            None => {
                let group = Group { members: 1, ..Group::default() };
                match range.only_key() {
                    Some(key) => drop(self.keys.insert(key.clone(), group)),
                    None => self.ranges.insert(range.clone(), group),
                }
            }
        }
        self.watchers += 1;
        self.next_id += 1;
        self.next_id
    }

    /// A watcher is gone.
    pub(super) fn leave(&mut self, id: u64, range: &KeyRange) {
        self.stop_waiting(id, range);
        self.busy.remove(&id);
        let Some(group) = self.group(range) else { unreachable!("a watcher leaves once") };
        group.members -= 1;
        let is_empty = group.members == 0;
        match range.only_key() {
            _ if !is_empty => {}
            Some(key) => drop(self.keys.remove(key)),
            None => self.ranges.remove(range),
        }
        self.watchers -= 1;
    }

    /// A watcher is given changes: the last ones that there are, or not.
    pub(super) fn give(&mut self, id: u64, are_last: bool, now: Instant) {
        match self.busy.entry(id) {
            btree_map::Entry::Vacant(place) => drop(place.insert(now)),
            btree_map::Entry::Occupied(mut since) if are_last => drop(since.insert(now)),
            btree_map::Entry::Occupied(_) => {}
        }
    }

    /// How many watchers have not had all that there was for so long, or have not taken what they were given.
    pub(super) fn behind_for(&self, duration: Duration, now: Instant) -> usize {
        self.busy.values().filter(|since| now.duration_since(**since) >= duration).count()
    }

    /// Waits for a change after `seen`, everything up to which the watcher has seen. Ready with a revision up to which
    /// nothing that it watches has changed since.
    pub(super) fn wait(&mut self, id: u64, range: &KeyRange, seen: u64, waker: &Waker) -> Poll<Result<u64, Closed>> {
        if self.is_closed {
            return Poll::Ready(Err(Closed));
        }
        let position = self.position;
        let Some(group) = self.group(range) else { unreachable!("a watcher waits before it leaves") };
        if let Some(revision) = group.woken.remove(&id) {
            return Poll::Ready(Ok(if mutant!(WatchSkipsRevision) { revision } else { revision - 1 }));
        }
        match group.waiting.entry(id) {
            btree_map::Entry::Occupied(mut waiting) => waiting.get_mut().waker.clone_from(waker),
            // What lies between has to be read: nobody has looked at it for this watcher.
            btree_map::Entry::Vacant(_) if position > seen => return Poll::Ready(Ok(seen)),
            btree_map::Entry::Vacant(place) => {
                place.insert(Waiting { seen, waker: waker.clone() });
                self.waiting += 1;
                self.busy.remove(&id);
            }
        }
        Poll::Pending
    }

    /// Ends the waiting of a watcher, if it waits. Answers as [`Hub::wait`] does.
    pub(super) fn stop_waiting(&mut self, id: u64, range: &KeyRange) -> Option<u64> {
        let position = self.position;
        let group = self.group(range)?;
        if let Some(waiting) = group.waiting.remove(&id) {
            self.waiting -= 1;
            return Some(waiting.seen.max(position));
        }
        group.woken.remove(&id).map(|revision| revision - 1)
    }

    /// Whether nobody waits: then nobody needs to be told of changes, only that they were ([`Hub::pass`]).
    pub(super) fn is_idle(&self) -> bool {
        self.waiting == 0
    }

    /// How many there are.
    pub(super) fn watchers(&self) -> usize {
        self.watchers
    }

    /// Up to where changes have been here.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// A key has changed. Those who are to be woken are added to `wakers`.
    pub(super) fn change(&mut self, key: &[u8], revision: u64, now: Instant, wakers: &mut Vec<Waker>) {
        let before = wakers.len();
        if let Some(group) = self.keys.get_mut(key) {
            group.wake(revision, now, &mut self.busy, wakers);
        }
        self.ranges.visit(key, |group| group.wake(revision, now, &mut self.busy, wakers));
        self.waiting -= wakers.len() - before;
    }

    /// All changes up to `position` have been here.
    pub(super) fn pass(&mut self, position: u64) {
        self.position = self.position.max(position);
    }

    /// Changes up to `position` were missed: everybody has to look.
    pub(super) fn miss(&mut self, position: u64, now: Instant, wakers: &mut Vec<Waker>) {
        self.wake_everybody(now, wakers);
        self.pass(position);
    }

    /// Ends all waiting, for good.
    pub(super) fn close(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        self.is_closed = true;
        self.wake_everybody(now, wakers);
    }

    fn wake_everybody(&mut self, now: Instant, wakers: &mut Vec<Waker>) {
        let (position, busy) = (self.position, &mut self.busy);
        self.keys.values_mut().for_each(|group| group.wake_all(position, now, busy, wakers));
        self.ranges.visit_all(|group| group.wake_all(position, now, busy, wakers));
        self.waiting = 0;
    }

    fn group(&mut self, range: &KeyRange) -> Option<&mut Group> {
        match range.only_key() {
            Some(key) => self.keys.get_mut(key),
            None => self.ranges.get_mut(range),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn hub(position: u64) -> Hub {
        Hub::new(position, SmallRng::seed_from_u64(1))
    }

    fn wait(hub: &mut Hub, id: u64, range: &KeyRange, seen: u64) -> Poll<Result<u64, Closed>> {
        hub.wait(id, range, seen, Waker::noop())
    }

    fn change(hub: &mut Hub, key: &str, revision: u64) -> usize {
        let mut wakers = Vec::new();
        hub.change(key.as_bytes(), revision, Instant::now(), &mut wakers);
        hub.pass(revision);
        wakers.len()
    }

    #[test]
    fn only_those_are_woken_whose_keys_change() {
        let mut hub = hub(7);
        let ranges = [KeyRange::key("a"), KeyRange::prefix("a"), KeyRange::key("b"), KeyRange::all()];
        let ids = ranges.each_ref().map(|range| hub.join(range));
        for (id, range) in ids.iter().zip(&ranges) {
            assert_eq!(wait(&mut hub, *id, range, 7), Poll::Pending);
        }
        assert_eq!(change(&mut hub, "ab", 8), 2);
        assert_eq!(wait(&mut hub, ids[1], &ranges[1], 7), Poll::Ready(Ok(7)));
        assert_eq!(wait(&mut hub, ids[0], &ranges[0], 7), Poll::Pending);
        assert_eq!(change(&mut hub, "b", 9), 1);
        // What it was woken for first, though it has not come since.
        assert_eq!(wait(&mut hub, ids[3], &ranges[3], 7), Poll::Ready(Ok(7)));
        // Revision 8 was none of its business.
        assert_eq!(wait(&mut hub, ids[2], &ranges[2], 7), Poll::Ready(Ok(8)));
    }

    #[test]
    fn nobody_waits_with_something_left_to_read() {
        let mut hub = hub(7);
        let range = KeyRange::key("a");
        let id = hub.join(&range);
        assert_eq!(wait(&mut hub, id, &range, 6), Poll::Ready(Ok(6)));
        assert!(hub.is_idle());
        assert_eq!(wait(&mut hub, id, &range, 9), Poll::Pending);
        assert_eq!(change(&mut hub, "a", 9), 0, "it has seen that");
        assert_eq!(change(&mut hub, "a", 10), 1);
        assert!(hub.is_idle());
        assert_eq!(wait(&mut hub, id, &range, 9), Poll::Ready(Ok(9)));
    }

    #[test]
    fn who_stops_waiting_knows_how_far_nothing_happened() {
        let mut hub = hub(7);
        let range = KeyRange::prefix("a");
        let id = hub.join(&range);
        assert_eq!(hub.stop_waiting(id, &range), None);
        assert_eq!(wait(&mut hub, id, &range, 8), Poll::Pending);
        assert_eq!(hub.stop_waiting(id, &range), Some(8));
        assert_eq!(wait(&mut hub, id, &range, 8), Poll::Pending);
        change(&mut hub, "b", 9);
        assert_eq!(hub.stop_waiting(id, &range), Some(9));
        assert_eq!(wait(&mut hub, id, &range, 9), Poll::Pending);
        change(&mut hub, "b", 10);
        change(&mut hub, "a", 11);
        change(&mut hub, "a", 12);
        assert_eq!(hub.stop_waiting(id, &range), Some(10));
        hub.leave(id, &range);
        assert_eq!((hub.watchers(), hub.is_idle()), (0, true));
        assert!(hub.group(&range).is_none());
    }

    #[test]
    fn who_is_behind_is_counted_until_there_is_nothing_left() {
        let mut hub = hub(7);
        let range = KeyRange::key("a");
        let id = hub.join(&range);
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let behind = |hub: &Hub, now| hub.behind_for(Duration::from_secs(2), at(now));
        assert_eq!(behind(&hub, 9), 0, "it was given nothing");
        hub.give(id, false, at(1));
        hub.give(id, false, at(2));
        assert_eq!((behind(&hub, 2), behind(&hub, 3)), (0, 1), "it still lacks some");
        hub.give(id, true, at(3));
        assert_eq!((behind(&hub, 4), behind(&hub, 5)), (0, 1), "it does not take them");
        assert_eq!(wait(&mut hub, id, &range, 7), Poll::Pending);
        assert_eq!(behind(&hub, 9), 0);
        hub.change(b"a", 8, at(9), &mut Vec::new());
        assert_eq!((behind(&hub, 10), behind(&hub, 11)), (0, 1), "it does not come to read them");
        hub.leave(id, &range);
        assert_eq!(behind(&hub, 11), 0);
    }

    #[test]
    fn everybody_looks_for_themselves_where_changes_were_missed() {
        let mut hub = hub(7);
        let ranges = [KeyRange::key("a"), KeyRange::prefix("b")];
        let ids = ranges.each_ref().map(|range| hub.join(range));
        assert_eq!(wait(&mut hub, ids[0], &ranges[0], 7), Poll::Pending);
        assert_eq!(wait(&mut hub, ids[1], &ranges[1], 9), Poll::Pending);
        let mut wakers = Vec::new();
        hub.miss(20, Instant::now(), &mut wakers);
        assert_eq!((wakers.len(), hub.is_idle(), hub.position()), (2, true, 20));
        assert_eq!(wait(&mut hub, ids[0], &ranges[0], 7), Poll::Ready(Ok(7)));
        assert_eq!(wait(&mut hub, ids[1], &ranges[1], 9), Poll::Ready(Ok(9)));
        assert_eq!(wait(&mut hub, ids[1], &ranges[1], 20), Poll::Pending);
        hub.close(Instant::now(), &mut wakers);
        assert_eq!(wakers.len(), 3);
        assert_eq!(wait(&mut hub, ids[1], &ranges[1], 20), Poll::Ready(Err(Closed)));
    }
}
