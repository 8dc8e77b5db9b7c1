//! What is in memory of the log: where each entry is on the disk, the latest entries themselves, and the state beside
//! them. No I/O.
//!
//! Invariants:
//! - Entries have consecutive indexes; the last one has the last position, or there is none and it is the purged one.
//! - What is not durable yet is cached; what is not cached has a place on the disk.
//! - Entries below `durable_end` are durable.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use super::segment::Place;
use crate::raft::types::{self, Entry, LogId, Vote};
use crate::store::LogTime;

/// What an entry takes beyond its batch or its membership, on the disk and in memory, at most.
pub const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// What a node takes in a membership, names and addresses of common length.
const MEMBER_BYTES: u64 = 128;

/// Log times are remembered this far apart.
const TIMES_APART: Duration = Duration::from_secs(1);

/// An entry that is not the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry {found} where entry {expected} belongs")]
pub(super) struct OutOfOrder {
    pub(super) found: u64,
    pub(super) expected: u64,
}

struct Slot {
    term: u64,
    /// Bytes of all entries up to this one, since the log was opened.
    bytes_end: u64,
    place: Option<Place>,
}

/// An entry to be read from the disk.
#[derive(Clone)]
pub(super) struct Located {
    pub(super) log_id: LogId,
    pub(super) place: Place,
}

/// The entries of a range: first those on the disk, then those that were in memory.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) on_disk: Vec<Located>,
    pub(super) cached: Vec<Entry>,
}

/// The log in memory.
pub(super) struct Tail {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Bytes of all entries before the first slot.
    bytes_before: u64,
    /// The last entries.
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    cache_bytes_max: u64,
    durable_end: u64,
    /// Of some entries, ascending: the index, and the log time. Of those before the first slot at least the last one.
    times: VecDeque<(u64, LogTime)>,
}

impl Tail {
    /// An empty log that keeps at most `cache_bytes_max` bytes of durable entries in memory.
    pub(super) fn new(cache_bytes_max: u64) -> Self {
        Self {
            vote: None,
            committed: None,
            purged: None,
            last: None,
            first: 0,
            slots: VecDeque::new(),
            bytes_before: 0,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            durable_end: 0,
            times: VecDeque::new(),
        }
    }

    /// The position of the last entry; the purged one if there is no entry.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    /// The position up to which entries were purged.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The index of the first entry, or of the next one if there is none.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The index after the last durable entry.
    pub(super) fn durable_end(&self) -> u64 {
        self.durable_end
    }

    /// Whether an entry could have any index, because there was none before.
    fn is_untouched(&self) -> bool {
        self.last.is_none()
    }

    /// Adds an entry, which is not durable yet.
    pub(super) fn append(&mut self, entry: Entry) -> Result<(), OutOfOrder> {
        let index = entry.log_id.index;
        if self.is_untouched() {
            self.first = index;
            self.durable_end = index;
        } else if index != self.end() {
            return Err(OutOfOrder { found: index, expected: self.end() });
        }
        self.remember_time(&entry);
        let bytes = weight(&entry);
        let term = entry.log_id.leader_id.term;
        self.slots.push_back(Slot { term, bytes_end: self.bytes_end() + bytes, place: None });
        self.last = Some(entry.log_id);
        self.cache.push_back(entry);
        self.cache_bytes += bytes;
        self.evict();
        Ok(())
    }

    /// Says where entries are that have become durable, from `first` on. Those that are gone by now are passed over.
    pub(super) fn durable(&mut self, first: u64, places: impl IntoIterator<Item = Place>) {
        for (index, place) in (first..).zip(places) {
            if let Some(slot) = index.checked_sub(self.first).and_then(|at| self.slots.get_mut(at as usize)) {
                slot.place = Some(place);
                self.durable_end = index + 1;
            }
        }
        self.evict();
    }

    /// Drops the entries from this index on.
    pub(super) fn truncate(&mut self, from: u64) {
        let kept = from.saturating_sub(self.first) as usize;
        if kept >= self.slots.len() {
            return;
        }
        let cache_first = self.cache_first();
        self.slots.truncate(kept);
        self.times.truncate(self.times.partition_point(|(index, _)| *index < from));
        self.cache.truncate(self.end().saturating_sub(cache_first) as usize);
        self.cache_bytes = self.bytes_of(self.cache_first()..self.end());
        self.durable_end = self.durable_end.min(self.end());
        self.last = match self.slots.back() {
            Some(slot) => Some(types::log_id(slot.term, self.end() - 1)),
            None => self.purged,
        };
    }

    /// Drops the entries up to this position. All of them, if it is beyond the last.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        let dropped = (upto.index + 1).saturating_sub(self.first).min(self.slots.len() as u64);
        let cached = self.cache_first()..self.end();
        let bytes_dropped = self.bytes_of(self.first..self.first + dropped);
        self.slots.drain(..dropped as usize);
        self.first += dropped;
        self.bytes_before += bytes_dropped;
        let uncached = self.first.saturating_sub(cached.start).min(self.cache.len() as u64);
        self.cache.drain(..uncached as usize);
        self.cache_bytes = self.bytes_of(self.cache_first()..self.end());
        self.purged = Some(upto);
        if self.slots.is_empty() {
            self.first = upto.index + 1;
            self.last = Some(upto);
        }
        self.durable_end = self.durable_end.max(upto.index + 1);
        self.times.drain(..self.times_before_first().saturating_sub(1));
    }

    /// The entries of a range that are there, in their order, up to `bytes_max`, but at least one.
    pub(super) fn read(&self, range: Range<u64>, bytes_max: u64) -> Reading {
        let range = range.start.max(self.first)..range.end.min(self.end());
        if range.is_empty() {
            return Reading::default();
        }
        let limit = self.bytes_up_to(range.start).saturating_add(bytes_max);
        let slots = self.slots.range((range.start - self.first) as usize..(range.end - self.first) as usize);
        let within = slots.take_while(|slot| slot.bytes_end <= limit).count().max(1) as u64;
        let range = range.start..range.start + within;
        let split = self.cache_first().clamp(range.start, range.end);
        let on_disk = (range.start..split).map(|index| {
            let slot = &self.slots[(index - self.first) as usize];
            let place = slot.place.clone().expect("what is not cached has a place");
            Located { log_id: types::log_id(slot.term, index), place }
        });
        let cached = (split..range.end).map(|index| self.cache[(index - self.cache_first()) as usize].clone());
        Reading { on_disk: on_disk.collect(), cached: cached.collect() }
    }

    /// Whether the entry in this position is there, or has been purged.
    pub(super) fn has(&self, term: u64, index: u64) -> bool {
        match index.checked_sub(self.first) {
            Some(at) => self.slots.get(at as usize).is_some_and(|slot| slot.term == term),
            None => !self.is_untouched(),
        }
    }

    /// The log time of the first entry, or less than a second before it; where it has none, of the last before it that has
    /// one. None if there is no entry.
    pub(super) fn oldest_time(&self) -> Option<LogTime> {
        let before = self.times_before_first();
        self.times.get(before.saturating_sub(1)).filter(|_| !self.slots.is_empty()).map(|(_, time)| *time)
    }

    /// Bytes of the entries after this index, about as they are on the disk.
    pub(super) fn bytes_since(&self, index: u64) -> u64 {
        self.bytes_end() - self.bytes_up_to(index.saturating_add(1))
    }

    /// The last index whose entry, and all before it, can go so that at least `bytes` of entries stay; 0 if none can.
    pub(super) fn droppable_keeping(&self, bytes: u64) -> u64 {
        let droppable_end = self.bytes_end().saturating_sub(bytes);
        let droppable = self.slots.partition_point(|slot| slot.bytes_end <= droppable_end) as u64;
        if droppable == 0 { 0 } else { self.first + droppable - 1 }
    }

    /// How many of the times are those of the first entry or of one before it.
    fn times_before_first(&self) -> usize {
        self.times.partition_point(|(index, _)| *index <= self.first)
    }

    fn remember_time(&mut self, entry: &Entry) {
        let openraft::EntryPayload::Normal(batch) = &entry.payload else { return };
        let time = batch.log_time();
        if self.times.back().is_none_or(|(_, last)| time >= *last + TIMES_APART) {
            self.times.push_back((entry.log_id.index, time));
        }
    }

    /// Bytes of the entries before this index.
    fn bytes_up_to(&self, index: u64) -> u64 {
        match index.saturating_sub(self.first).min(self.slots.len() as u64) {
            0 => self.bytes_before,
            count => self.slots[count as usize - 1].bytes_end,
        }
    }

    fn bytes_end(&self) -> u64 {
        self.slots.back().map_or(self.bytes_before, |slot| slot.bytes_end)
    }

    fn bytes_of(&self, range: Range<u64>) -> u64 {
        self.bytes_up_to(range.end) - self.bytes_up_to(range.start)
    }

    fn cache_first(&self) -> u64 {
        self.end() - self.cache.len() as u64
    }

    fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max && self.cache_first() < self.durable_end {
            let first = self.cache_first();
            self.cache_bytes -= self.bytes_of(first..first + 1);
            self.cache.pop_front();
        }
    }
}

/// The bytes that an entry is taken to have.
fn weight(entry: &Entry) -> u64 {
    ENTRY_OVERHEAD_BYTES
        + match &entry.payload {
            openraft::EntryPayload::Blank => 0,
            openraft::EntryPayload::Normal(batch) => batch.encoded().len() as u64,
            openraft::EntryPayload::Membership(membership) => MEMBER_BYTES * membership.nodes().count() as u64,
        }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::command::{self, Batch};
    use crate::disk::sim::SimDisk;
    use crate::raft::log::segment::Segment;

    #[derive(Debug, Clone)]
    enum Step {
        Append {
            len: usize,
        },
        /// All entries that aren't become durable.
        Durable,
        Truncate {
            back: u64,
        },
        Purge {
            ahead: i64,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..300_usize).prop_map(|len| Step::Append { len }),
            2 => Just(Step::Durable),
            1 => (0..6_u64).prop_map(|back| Step::Truncate { back }),
            1 => (-6..4_i64).prop_map(|ahead| Step::Purge { ahead }),
        ];
        proptest::collection::vec(step, 0..60)
    }

    /// The log as one would write it down.
    #[derive(Debug, Default)]
    struct Model {
        entries: BTreeMap<u64, Entry>,
        durable: u64,
        purged: Option<LogId>,
        end: u64,
    }

    fn entry(index: u64, len: usize) -> Entry {
        let commands = [command::set("k", vec![0; len])];
        let payload = match len % 3 {
            0 => openraft::EntryPayload::Blank,
            _ => openraft::EntryPayload::Normal(Batch::new(&commands, LogTime::from_millis(400 * index))),
        };
        Entry { log_id: types::log_id(1 + index / 5, index), payload }
    }

    async fn some_place() -> Place {
        let disk = SimDisk::default();
        let dir = std::path::Path::new("/d");
        crate::disk::Disk::create_dir(&disk, dir).await.expect("directory");
        let segment = Segment::create(&disk, dir, 1, 4096, 1).await.expect("segment");
        Place { segment: std::sync::Arc::new(segment), offset: 0, bytes: 0 }
    }

    fn step(tail: &mut Tail, model: &mut Model, place: &Place, step: &Step) {
        match step {
            Step::Append { len } => {
                let entry = entry(model.end, *len);
                model.entries.insert(model.end, entry.clone());
                model.end += 1;
                tail.append(entry).expect("the next entry");
            }
            Step::Durable => {
                tail.durable(model.durable, vec![place.clone(); (model.end - model.durable) as usize]);
                model.durable = model.end;
            }
            Step::Truncate { back } => {
                let from = model.end.saturating_sub(*back).max(model.purged.map_or(0, |purged| purged.index + 1));
                model.entries.retain(|index, _| *index < from);
                model.end = from;
                model.durable = model.durable.min(from);
                tail.truncate(from);
            }
            Step::Purge { ahead } => {
                let index = model.end.saturating_add_signed(*ahead);
                let upto = types::log_id(1 + index / 5, index);
                if model.purged.is_none_or(|purged| purged.index < index) {
                    model.purged = Some(upto);
                    model.entries.retain(|entry, _| *entry > index);
                    model.end = model.end.max(index + 1);
                    model.durable = model.durable.max(index + 1);
                }
                tail.purge(upto);
            }
        }
    }

    fn check(tail: &Tail, model: &Model, range: Range<u64>, bytes_max: u64) -> Result<(), TestCaseError> {
        let last = model.entries.values().last().map(|entry| entry.log_id).or(model.purged);
        prop_assert_eq!((tail.last(), tail.purged()), (last, model.purged));
        if last.is_some() {
            prop_assert_eq!((tail.end(), tail.durable_end()), (model.end, model.durable));
        }
        let cached: u64 = tail.cache.iter().map(weight).sum();
        prop_assert_eq!(tail.cache_bytes, cached);
        prop_assert!(cached <= tail.cache_bytes_max || tail.cache_first() >= tail.durable_end());
        let first = model.entries.values().next().map(|entry| &entry.payload);
        match first {
            None => prop_assert_eq!(tail.oldest_time(), None),
            Some(openraft::EntryPayload::Normal(batch)) => {
                let (first, oldest) = (batch.log_time(), tail.oldest_time().expect("one"));
                prop_assert!(oldest <= first && first < oldest + TIMES_APART, "{oldest} for {first}");
            }
            Some(_) => {}
        }
        let since: u64 = model.entries.range(range.start + 1..).map(|(_, entry)| weight(entry)).sum();
        prop_assert_eq!(tail.bytes_since(range.start), since);

        let mut bytes = 0;
        let mut expected = model.entries.range(range.clone()).map(|(_, entry)| entry).collect::<Vec<_>>();
        let within = expected.iter().take_while(|entry| {
            bytes += weight(entry);
            bytes <= bytes_max
        });
        expected.truncate(within.count().max(1));
        let reading = tail.read(range, bytes_max);
        let located = reading.on_disk.iter().map(|located| located.log_id);
        let found: Vec<LogId> = located.chain(reading.cached.iter().map(|entry| entry.log_id)).collect();
        prop_assert_eq!(found, expected.iter().map(|entry| entry.log_id).collect::<Vec<_>>());
        prop_assert!(
            expected.iter().rev().zip(reading.cached.iter().rev()).all(|(expected, found)| *expected == found)
        );
        Ok(())
    }

    proptest! {
        #[test]
        fn it_has_what_a_simple_model_has(
            steps in steps(),
            cache_bytes_max in prop_oneof![Just(0), 0..2000_u64, Just(u64::MAX)],
            reads in proptest::collection::vec((0..40_u64, 0..20_u64, 0..1500_u64), 60),
        ) {
            let place = futures_executor::block_on(some_place());
            let (mut tail, mut model) = (Tail::new(cache_bytes_max), Model::default());
            for (one, (start, len, bytes_max)) in steps.iter().zip(reads) {
                step(&mut tail, &mut model, &place, one);
                check(&tail, &model, start..start + len, bytes_max)?;
            }
        }
    }

    #[test]
    fn an_entry_out_of_order_is_refused() {
        let mut tail = Tail::new(0);
        tail.append(entry(3, 1)).expect("the first entry may have any index");
        for index in [2, 3, 5] {
            assert_eq!(tail.append(entry(index, 1)), Err(OutOfOrder { found: index, expected: 4 }));
        }
    }
}
