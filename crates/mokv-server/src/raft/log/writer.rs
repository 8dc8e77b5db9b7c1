//! The log's one writer: it takes what was requested in its order, writes it, and says when it is durable.
//!
//! Requests that wait together form a group, which one sync makes durable. Truncations and purges end the group before
//! them: the writer changes the log in memory for a truncation only when the entries are durable that it may drop, so
//! nothing that was dropped is acknowledged later.
//!
//! A failed write or sync is final: what waits and what comes is refused, nothing is tried again. A full disk is not a
//! failure as long as the reserve lasts: while it is not known whether the next segment can be made, the writer stays in
//! the first half of the current one. So when it turns out that it can't, there is half a segment left, of which callers
//! may have five eighths under way at that moment ([`UNDER_WAY_SHARE`]). Two eighths are for the entries that a new leader
//! needs before it can lead ([`ALLOWANCE_SHARE`]), the rest is for the votes to come.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use openraft::storage::IOFlushed;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::error::{LogFailure, is_full};
use super::mark::{Mark, MarkFile};
use super::metrics::LogMetrics;
use super::record::{self, RECORDS_AT, Record, State};
use super::recovery::{Recovered, Written};
use super::segment::{Place, Segment};
use super::tail::Tail;
use super::{LogOptions, LogStatus};
use crate::disk::Disk;
use crate::mutants::mutant;
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};
use crate::runtime::Tasks;

/// A group is not made larger than this by further requests: those that wait for it should not wait for a device to
/// write megabytes more.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// This part of a segment may be under way, appended and not yet durable, when it turns out that the disk is full.
pub(super) const UNDER_WAY_SHARE: Share = Share(5);

/// This part of a segment may be appended from then on, entry by entry and only if nobody can lead without: see
/// [`Log::take_allowance`](super::Log::take_allowance).
pub(super) const ALLOWANCE_SHARE: Share = Share(2);

/// This part of a segment is for votes, and for the first entry of this node as a leader. What is left of half a segment.
pub(super) const VOTES_SHARE: Share = Share(8 - UNDER_WAY_SHARE.0 - ALLOWANCE_SHARE.0);

/// Sixteenths of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share(u64);

impl Share {
    pub(super) fn of(self, segment_bytes: u64) -> u64 {
        segment_bytes / 16 * self.0
    }
}

/// Tells the outcome of a request.
pub(super) type Done = oneshot::Sender<io::Result<()>>;

/// What the writer is asked for.
pub(super) enum Request {
    /// Entries that are in the tail already.
    Append {
        entries: Vec<Entry>,
        flushed: IOFlushed<TypeConfig>,
    },
    Vote {
        vote: Vote,
        done: Done,
    },
    /// Entries from this index on are dropped, in the tail too.
    Truncate {
        from: u64,
        done: Done,
    },
    /// The tail doesn't have these entries any more.
    Purge {
        upto: LogId,
    },
    /// Try again to make a spare segment, if there is none.
    Reserve,
    Close {
        done: Done,
    },
}

/// What the log's parts share.
pub(super) struct Shared {
    tail: Mutex<Tail>,
    pub(super) status: watch::Sender<LogStatus>,
    pub(super) metrics: LogMetrics,
    allowance: Mutex<Allowance>,
}

/// Bytes of entries that may be appended while there is no room.
struct Allowance {
    whole: u64,
    left: u64,
}

impl Shared {
    /// `segment_left`: the bytes of the current segment that are free.
    pub(super) fn new(tail: Tail, has_room: bool, segment_bytes: u64, segment_left: u64) -> Self {
        let status = watch::Sender::new(LogStatus { has_room, failure: None });
        let whole = ALLOWANCE_SHARE.of(segment_bytes);
        // Some of it may have been taken before a restart.
        let left = whole.min(segment_left.saturating_sub(VOTES_SHARE.of(segment_bytes)));
        let allowance = Mutex::new(Allowance { whole, left });
        Self { tail: Mutex::new(tail), status, metrics: LogMetrics::new(), allowance }
    }

    /// Takes so many bytes of the allowance, if there are as many.
    pub(super) fn take_allowance(&self, bytes: u64) -> bool {
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let left = allowance.left.checked_sub(bytes);
        allowance.left = left.unwrap_or(allowance.left);
        left.is_some()
    }

    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_room(&self, has_room: bool) {
        if has_room {
            // There is a whole segment now, and half of one when it turns out that there is none after it.
            let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
            allowance.left = allowance.whole;
        }
        self.status.send_if_modified(|status| std::mem::replace(&mut status.has_room, has_room) != has_room);
    }

    /// The first failure stays.
    fn fail(&self, failure: LogFailure) {
        self.status.send_if_modified(|status| {
            let first = status.failure.is_none();
            if first {
                tracing::error!("{failure}; the node has to stop, nothing more is acknowledged");
                status.failure = Some(failure);
            }
            first
        });
    }
}

/// Who waits for a group.
enum Waiting {
    Append(IOFlushed<TypeConfig>),
    Done(Done),
}

impl Waiting {
    fn complete(self, result: io::Result<()>) {
        match self {
            Self::Append(flushed) => flushed.io_completed(result),
            // Who asked may have gone.
            Self::Done(done) => drop(done.send(result)),
        }
    }
}

/// What is written but not yet durable.
#[derive(Default)]
struct Group {
    /// Records that are not written yet.
    buffer: Vec<u8>,
    /// The index of the first entry.
    first: u64,
    places: Vec<Place>,
    waiting: Vec<Waiting>,
    /// Whether the mark has to be durable too before anybody is told.
    sync_mark: bool,
}

/// The segment after the current one.
enum Spare {
    Ready(Segment),
    Making(oneshot::Receiver<Result<Option<Segment>, LogFailure>>),
    /// There was no room for it.
    Missing,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    tasks: Tasks,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: LogOptions,
    rng: SmallRng,
    requests: mpsc::Receiver<Request>,
    /// Oldest first. The last one is written to.
    segments: VecDeque<Written>,
    /// Where the group's buffer goes in the last segment.
    offset: u64,
    last_record: u64,
    synced_record: u64,
    /// As the last record of a state has it.
    state: State,
    purged: Option<LogId>,
    spare: Spare,
    /// Answered when the last removal of segments is over.
    removal: Option<oneshot::Receiver<()>>,
    mark: MarkFile,
    group: Group,
    closing: bool,
}

impl Writer {
    /// The writer of a log that was opened. `recovered.tail` is in `shared` by now.
    pub(super) fn new(
        shared: Arc<Shared>,
        tasks: &Tasks,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: LogOptions,
        requests: mpsc::Receiver<Request>,
        recovered: Recovered,
    ) -> Self {
        let purged = shared.tail().purged();
        Self {
            shared,
            rng: tasks.rng(),
            tasks: tasks.clone(),
            disk,
            dir,
            options,
            requests,
            segments: recovered.segments,
            offset: recovered.offset,
            last_record: recovered.last_record,
            synced_record: recovered.last_record,
            state: recovered.state,
            purged,
            spare: recovered.spare.map_or(Spare::Missing, Spare::Ready),
            removal: None,
            mark: recovered.mark,
            group: Group::default(),
            closing: false,
        }
    }

    /// Writes until the log is closed, or nobody is left to ask.
    pub(super) async fn run(mut self) {
        if let Err(failure) = self.write_groups().await {
            self.shared.fail(failure.clone());
            let group = std::mem::take(&mut self.group);
            group.waiting.into_iter().for_each(|waiting| waiting.complete(Err((&failure).into())));
            while let Some(request) = self.requests.recv().await {
                if let Some(waiting) = request.into_waiting() {
                    waiting.complete(Err((&failure).into()));
                }
            }
        }
    }

    async fn write_groups(&mut self) -> Result<(), LogFailure> {
        while !self.closing {
            let Some(request) = self.requests.recv().await else { break };
            self.take(request).await?;
            while !self.closing
                && self.group.buffer.len() < GROUP_BYTES_MAX
                && let Ok(request) = self.requests.try_recv()
            {
                self.take(request).await?;
            }
            self.finish_group().await?;
        }
        Ok(())
    }

    async fn take(&mut self, request: Request) -> Result<(), LogFailure> {
        match request {
            Request::Append { entries, flushed } => {
                // First: a failure has to reach everybody.
                let is_early = mutant!(FlushedOutOfOrder) && !self.group.waiting.is_empty();
                match is_early || mutant!(AcknowledgeBeforeSync) {
                    true => Waiting::Append(flushed).complete(Ok(())),
                    false => self.group.waiting.push(Waiting::Append(flushed)),
                }
                self.append(entries).await
            }
            Request::Vote { vote, done } => {
                match mutant!(VoteBeforeSync) {
                    true => Waiting::Done(done).complete(Ok(())),
                    false => self.group.waiting.push(Waiting::Done(done)),
                }
                // A lost vote could be cast twice, so it gets a mark: damage to it is noticed.
                self.group.sync_mark = true;
                self.put_state(State { vote: Some(vote), ..self.state }).await
            }
            Request::Truncate { from, done } => {
                self.finish_group().await?;
                self.group.waiting.push(Waiting::Done(done));
                self.truncate(from).await
            }
            Request::Purge { upto } => {
                self.finish_group().await?;
                self.purge(upto).await
            }
            Request::Reserve => self.reserve(),
            Request::Close { done } => {
                self.closing = true;
                // A committed position is written when its entry is durable: it may be waiting in this group.
                self.finish_group().await?;
                // Who opens the log next must not meet them at work.
                self.settle_spare().await?;
                self.settle_removal().await;
                self.group.waiting.push(Waiting::Done(done));
                self.group.sync_mark = true;
                self.put_state(State { committed: self.committed(), ..self.state }).await
            }
        }
    }

    async fn append(&mut self, entries: Vec<Entry>) -> Result<(), LogFailure> {
        for entry in entries {
            let index = entry.log_id.index;
            let place = self.put(&Record::entry(&entry)).await?;
            let written = self.segments.back_mut().expect("there is always one");
            written.index_max = written.index_max.max(Some(index));
            if self.group.places.is_empty() {
                self.group.first = index;
            }
            self.group.places.push(place);
        }
        Ok(())
    }

    async fn truncate(&mut self, from: u64) -> Result<(), LogFailure> {
        {
            let mut tail = self.shared.tail();
            if from >= tail.end() {
                return Ok(());
            }
            tail.truncate(from);
        }
        if mutant!(TruncationForgotten) {
            return Ok(());
        }
        self.put(&Record::Truncation(from)).await.map(drop)
    }

    /// Notes the purge in the mark, durably, and drops the segments that have nothing else.
    async fn purge(&mut self, upto: LogId) -> Result<(), LogFailure> {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        self.purged = Some(upto);
        let mut dropped = Vec::new();
        while self.segments.len() > 1 && self.segments[0].index_max.is_none_or(|index| index <= upto.index) {
            dropped.extend(self.segments.pop_front());
        }
        let mark = self.mark_now();
        self.mark.replace(mark).await.map_err(LogFailure::io("write", self.mark.path()))?;
        if dropped.is_empty() {
            return Ok(());
        }
        self.settle_removal().await;
        self.remove(dropped)
    }

    /// Removes segments, on a task of its own: freeing their blocks takes a while. They are closed there too.
    fn remove(&mut self, segments: Vec<Written>) -> Result<(), LogFailure> {
        let (done, removal) = oneshot::channel();
        let (shared, disk, dir) = (self.shared.clone(), self.disk.clone(), self.dir.clone());
        let removing = async move {
            for Written { segment, .. } in segments {
                disk.remove(&segment.path).await.map_err(LogFailure::io("remove", &segment.path))?;
            }
            disk.sync_dir(&dir).await.map_err(LogFailure::io("sync", &dir))
        };
        let task = removing.map(move |removed| {
            removed.unwrap_or_else(|failure| shared.fail(failure));
            done.send(()).ok();
        });
        self.removal = Some(removal);
        self.tasks.spawn_disk("log-purge", task.boxed()).map_err(LogFailure::io("purge", &self.dir))
    }

    async fn settle_removal(&mut self) {
        if let Some(removal) = self.removal.take() {
            // Its failure is in the status; a task that was aborted has none.
            drop(removal.await);
        }
    }

    /// The saved committed position, or an earlier one while its entry is not durable.
    fn committed(&self) -> Option<LogId> {
        let tail = self.shared.tail();
        let durable = |committed: &LogId| committed.index < tail.durable_end();
        tail.committed.filter(durable).max(self.state.committed)
    }

    async fn put_state(&mut self, state: State) -> Result<(), LogFailure> {
        if state != self.state {
            self.state = state;
            self.put(&Record::State(state)).await?;
        }
        Ok(())
    }

    /// Adds a record to the group.
    async fn put(&mut self, record: &Record) -> Result<Place, LogFailure> {
        let bytes = record.bytes() as u64;
        let current = self.current();
        let left = current.size.saturating_sub(self.offset + self.group.buffer.len() as u64);
        if left < bytes {
            self.rotate(bytes).await?;
        } else if left - bytes < current.size / 2 {
            // The reserve begins: whoever appends has to know from here on whether there will be a next segment.
            self.settle_spare().await?;
        }
        Ok(self.encode(record))
    }

    fn encode(&mut self, record: &Record) -> Place {
        self.last_record += 1;
        let (begin, segment) = (self.group.buffer.len(), self.current().clone());
        record::encode(&mut self.group.buffer, &segment.salt, self.last_record, self.synced_record, record);
        let bytes = self.group.buffer.len() - begin;
        Place { segment, offset: (self.offset + begin as u64) as u32, bytes: bytes as u32 }
    }

    /// Goes on in the next segment, which is large enough for a record of this many bytes.
    async fn rotate(&mut self, bytes: u64) -> Result<(), LogFailure> {
        // Recovery relies on this order: a segment is durable, and the mark says so, before the next one has records.
        self.sync().await?;
        self.write_mark(true).await?;
        self.settle_spare().await?;
        let Spare::Ready(mut segment) = std::mem::replace(&mut self.spare, Spare::Missing) else {
            let full = io::Error::new(io::ErrorKind::StorageFull, "more was appended than the reserve has room for");
            return Err(LogFailure::io("extend", &self.dir)(full));
        };
        let state = Record::State(self.state);
        let needed = RECORDS_AT + state.bytes() as u64 + bytes;
        if segment.size < needed {
            segment.file.set_size(needed).await.map_err(LogFailure::io("extend", &segment.path))?;
            segment.size = needed;
        }
        let next = segment.sequence + 1;
        self.segments.push_back(Written { segment: Arc::new(segment), index_max: None });
        self.offset = RECORDS_AT;
        self.make_spare(next)?;
        self.encode(&state);
        Ok(())
    }

    fn make_spare(&mut self, sequence: u64) -> Result<(), LogFailure> {
        let (made, spare) = oneshot::channel();
        let (shared, disk, dir) = (self.shared.clone(), self.disk.clone(), self.dir.clone());
        let (size, salt) = (self.options.segment_bytes, self.rng.next_u64());
        let making = async move {
            let outcome = match Segment::create(&*disk, &dir, sequence, size, salt).await {
                Ok(segment) => {
                    shared.set_room(true);
                    Ok(Some(segment))
                }
                Err(error) if is_full(&error) => {
                    tracing::warn!(dir = %dir.display(), "the disk is full: no room for the log's next segment");
                    shared.set_room(false);
                    Ok(None)
                }
                Err(error) => {
                    let failure = LogFailure::io("create", &Segment::path_in(&dir, sequence))(error);
                    shared.fail(failure.clone());
                    Err(failure)
                }
            };
            drop(made.send(outcome));
        };
        self.spare = Spare::Making(spare);
        self.tasks.spawn_disk("log-spare", making.boxed()).map_err(LogFailure::io("extend", &self.dir))
    }

    /// Waits for the spare segment that is being made.
    async fn settle_spare(&mut self) -> Result<(), LogFailure> {
        let Spare::Making(made) = &mut self.spare else { return Ok(()) };
        let ended = |_| LogFailure::io("extend", &self.dir)(io::Error::other("the task ended"));
        self.spare = made.await.map_err(ended)??.map_or(Spare::Missing, Spare::Ready);
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), LogFailure> {
        if let Spare::Making(made) = &mut self.spare
            && let Ok(outcome) = made.try_recv()
        {
            self.spare = outcome?.map_or(Spare::Missing, Spare::Ready);
        }
        match self.spare {
            Spare::Missing => self.make_spare(self.current().sequence + 1),
            Spare::Making(_) | Spare::Ready(_) => Ok(()),
        }
    }

    /// Makes the group durable and tells those who wait for it.
    async fn finish_group(&mut self) -> Result<(), LogFailure> {
        let has_records = !self.group.buffer.is_empty();
        if has_records {
            // Costs no sync of its own, and a restart replays nearly all that was committed.
            self.put_state(State { committed: self.committed(), ..self.state }).await?;
            self.sync().await?;
        }
        if !self.group.places.is_empty() {
            let places = std::mem::take(&mut self.group.places);
            self.shared.metrics.group(places.len());
            self.shared.tail().durable(self.group.first, places);
        }
        if has_records || self.group.sync_mark {
            self.write_mark(self.group.sync_mark).await?;
        }
        let group = std::mem::take(&mut self.group);
        group.waiting.into_iter().for_each(|waiting| waiting.complete(Ok(())));
        self.group.buffer = group.buffer;
        Ok(())
    }

    /// Writes the group's records and makes them durable.
    async fn sync(&mut self) -> Result<(), LogFailure> {
        let segment = self.current().clone();
        let buffer = &mut self.group.buffer;
        segment.file.write_at(self.offset, buffer).await.map_err(LogFailure::io("write", &segment.path))?;
        self.shared.metrics.wrote(buffer.len());
        self.offset += buffer.len() as u64;
        buffer.clear();
        let begin = Instant::now();
        if !mutant!(SkipLogSync) {
            segment.file.sync().await.map_err(LogFailure::io("sync", &segment.path))?;
        }
        self.shared.metrics.synced(begin.elapsed());
        self.synced_record = self.last_record;
        Ok(())
    }

    fn mark_now(&self) -> Mark {
        let first_segment = self.segments[0].segment.sequence;
        Mark { first_segment, last_record: self.synced_record, purged: self.purged }
    }

    async fn write_mark(&mut self, durably: bool) -> Result<(), LogFailure> {
        let mark = self.mark_now();
        let mut written = self.mark.write(mark).await;
        if durably && written.is_ok() {
            written = self.mark.sync().await;
        }
        written.map_err(LogFailure::io("write", self.mark.path()))
    }

    fn current(&self) -> &Arc<Segment> {
        &self.segments.back().expect("there is always one").segment
    }
}

impl Request {
    fn into_waiting(self) -> Option<Waiting> {
        match self {
            Self::Append { flushed, .. } => Some(Waiting::Append(flushed)),
            Self::Vote { done, .. } | Self::Truncate { done, .. } | Self::Close { done } => Some(Waiting::Done(done)),
            Self::Purge { .. } | Self::Reserve => None,
        }
    }
}
