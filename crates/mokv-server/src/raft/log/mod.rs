//! The Raft log on disk, with the vote and the committed position.
//!
//! Owns the log's directory: segment files of records (`record`) and the mark (`mark`). Promises: what was
//! acknowledged survives a crash and a loss of power; what was not acknowledged is there or is not, in order; a log that
//! lost something acknowledged is refused when it is opened, not repaired (`recovery`). Leaves to others: what entries
//! mean, when to take snapshots and purge, and to refuse requests while there is no room.
//!
//! Everything is appended: entries, truncations, votes and committed positions are records in one sequence. So one sync
//! makes a group of requests durable, whatever they are; recovery reads the sequence to the point where it stops; and
//! nothing on the disk is ever overwritten that a reader or a crash could still need. Only what has to be known without
//! reading the sequence is in a second file, the mark: where the log begins and how far it reaches at least.
//!
//! One task writes (`writer`), one reads what is no longer in memory (`reader`). All that is in memory is in one
//! place (`tail`), behind a lock that is held for moments.

use std::fmt;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{FutureExt, Stream, TryStreamExt, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot, watch};

use crate::disk::Disk;
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};
use crate::runtime::Tasks;
use crate::store::LogTime;

mod error;
mod mark;
mod metrics;
mod reader;
mod record;
mod recovery;
mod segment;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{LogError, LogFailure};
pub use metrics::LogMetrics;
pub use tail::ENTRY_OVERHEAD_BYTES;

use reader::ReadRequest;
use tail::Tail;
use writer::{Done, Request, Shared, UNDER_WAY_SHARE, Writer};

/// Requests that wait for the writer; who has more to ask waits. More than openraft has under way in common.
const REQUESTS_MAX: usize = 4096;

/// Readings that wait for the reader: there is about one reader for each peer.
const READS_MAX: usize = 64;

/// What is read for one message to a peer, or for one step of replaying: large enough that the message costs little, small
/// enough that heartbeats don't wait behind it.
const BATCH_BYTES_MAX: u64 = 1 << 20;

/// Segments are at least this large: their header takes 512 bytes.
const SEGMENT_BYTES_MIN: u64 = 4 << 10;

/// Segments are at most this large: recovery reads them as a whole.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Settings of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// The size of a segment in bytes, from 4 KiB to 1 GiB; what is outside is taken as the nearest. Takes effect with the
    /// next new segment.
    pub segment_bytes: u64,
    /// How many bytes of durable entries are kept in memory. What is not yet durable always is.
    pub cache_bytes_max: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, cache_bytes_max: 64 << 20 }
    }
}

/// Whether the log can go on.
#[derive(Debug, Clone)]
pub struct LogStatus {
    /// Whether the next segment has its room on the disk. While it has not, proposals and appends from the leader have to
    /// be refused before the log sees them; see [`Log::reserve_bytes`] and [`Log::take_allowance`].
    pub has_room: bool,
    /// Why the log stopped for good, if it did.
    pub failure: Option<LogFailure>,
}

/// The log of one node. Cheap to clone; clones are the same log.
#[derive(Clone)]
pub struct Log {
    reader: LogReader,
    requests: mpsc::Sender<Request>,
    reserve_bytes: u64,
}

/// Reads the log. Cheap to clone.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
    reads: mpsc::Sender<ReadRequest>,
    batch_bytes_max: u64,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = self.tail();
        f.debug_struct("Log").field("first", &tail.first()).field("last", &tail.last()).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the log in `dir`, which is created with an empty log if there is none. Only one may be open at a time: the
    /// caller holds the lock of the data directory.
    ///
    /// # Errors
    ///
    /// The log lost something, is of a newer version, or the disk failed; then nothing was changed, except that an
    /// unfinished last write may have been cleared. A full disk is no error: see [`LogStatus::has_room`].
    pub async fn open(
        tasks: &Tasks,
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        mut options: LogOptions,
    ) -> Result<Self, LogError> {
        options.segment_bytes = options.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let recovery = {
            let (disk, dir, options, mut rng) = (disk.clone(), dir.clone(), options.clone(), tasks.rng());
            async move { Ok(recovery::recover(&*disk, &dir, &options, &mut rng).await) }
        };
        let mut recovered = tasks.run_disk("log-open", recovery).await.map_err(LogError::io("open", &dir))??;

        let tail = std::mem::replace(&mut recovered.tail, Tail::new(0));
        let current = &recovered.segments.back().expect("there is always one").segment;
        let left = current.size.saturating_sub(recovered.offset);
        let shared = Arc::new(Shared::new(tail, recovered.spare.is_some(), options.segment_bytes, left));
        let (requests, requested) = mpsc::channel(REQUESTS_MAX);
        let (reads, asked) = mpsc::channel(READS_MAX);
        let reserve_bytes = UNDER_WAY_SHARE.of(options.segment_bytes);
        // Members have segments of the same size: a message that is larger than the reserve could not be waited with.
        let batch_bytes_max = BATCH_BYTES_MAX.min(reserve_bytes / 2);
        let writer = Writer::new(shared.clone(), tasks, disk, dir.clone(), options, requested, recovered);
        tasks.spawn_disk("log", writer.run().boxed()).map_err(LogError::io("open", &dir))?;
        tasks.spawn_disk("log-read", reader::run(asked).boxed()).map_err(LogError::io("open", &dir))?;
        Ok(Self { reader: LogReader { shared, reads, batch_bytes_max }, requests, reserve_bytes })
    }

    /// Follows whether the log can go on. When it has failed, the process should end.
    pub fn status(&self) -> watch::Receiver<LogStatus> {
        self.reader.shared.status.subscribe()
    }

    /// Whether the next segment has its room on the disk: see [`LogStatus::has_room`].
    pub fn has_room(&self) -> bool {
        self.reader.shared.status.borrow().has_room
    }

    /// Asks the writer to try again to get the room that is missing. [`LogStatus::has_room`] tells the outcome.
    pub fn try_reserve(&self) {
        // If the queue is full there is no need to ask: something is written.
        drop(self.requests.try_send(Request::Reserve));
    }

    /// How many bytes of entries may be under way, appended and not yet durable, so that all of them have room in the
    /// moment when [`LogStatus::has_room`] turns false. An entry counts with its batch and [`ENTRY_OVERHEAD_BYTES`]. Who
    /// has more under way risks that a full disk ends the process.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// Whether the entry in this position is in the log, durable or not, or was purged.
    pub fn has(&self, term: u64, index: u64) -> bool {
        self.tail().has(term, index)
    }

    /// Takes so many bytes, counted as for [`Log::reserve_bytes`] and with another [`ENTRY_OVERHEAD_BYTES`] for each append,
    /// for entries without which nobody can lead. While there is no room, they may be appended if this returns true. The
    /// allowance is whole again when there is room.
    pub fn take_allowance(&self, bytes: u64) -> bool {
        self.reader.shared.take_allowance(bytes)
    }

    /// The position of the last entry, durable or not; the purged one if there is no entry.
    pub fn last(&self) -> Option<LogId> {
        self.tail().last()
    }

    /// The index up to which the log is durable or purged.
    pub fn durable_index(&self) -> Option<u64> {
        self.tail().durable_end().checked_sub(1)
    }

    /// The position up to which entries were purged.
    pub fn purged(&self) -> Option<LogId> {
        self.tail().purged()
    }

    /// The log time of the first entry, or less than a second before it; where it has none, of the last before it that has
    /// one. None if there is no entry.
    pub fn oldest_time(&self) -> Option<LogTime> {
        self.tail().oldest_time()
    }

    /// Bytes of the entries after this index, about as they are on the disk.
    pub fn bytes_since(&self, index: u64) -> u64 {
        self.tail().bytes_since(index)
    }

    /// The last index up to which entries can be dropped so that at least `bytes` of them stay; 0 if there are fewer.
    pub fn droppable_keeping(&self, bytes: u64) -> u64 {
        self.tail().droppable_keeping(bytes)
    }

    /// What the log has counted since it was opened.
    pub fn metrics(&self) -> &LogMetrics {
        &self.reader.shared.metrics
    }

    /// Waits until all that was requested is durable, and ends the log: later requests fail.
    ///
    /// # Errors
    ///
    /// The log has failed, or was closed before.
    pub async fn close(&self) -> io::Result<()> {
        self.ask(|done| Request::Close { done }).await
    }

    fn tail(&self) -> std::sync::MutexGuard<'_, Tail> {
        self.reader.shared.tail()
    }

    /// Has a request done by the writer.
    async fn ask(&self, request: impl FnOnce(Done) -> Request) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_| self.ended())?;
        outcome.await.map_err(|_| self.ended())?
    }

    /// Why the writer doesn't answer.
    fn ended(&self) -> io::Error {
        match &self.reader.shared.status.borrow().failure {
            Some(failure) => failure.into(),
            None => io::Error::new(io::ErrorKind::BrokenPipe, "the log is closed"),
        }
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged(), last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.ask(|done| Request::Vote { vote, done }).await?;
        self.tail().vote = Some(vote);
        Ok(())
    }

    /// Only notes the position. It becomes durable with the next group, once its entry is.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.tail().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let queue = self.requests.reserve().await.map_err(|_| self.ended())?;
        // Queued under the lock: the writer gets entries in the order in which the tail has them.
        let mut tail = self.tail();
        for entry in &entries {
            tail.append(entry.clone()).map_err(io::Error::other)?;
        }
        queue.send(Request::Append { entries, flushed: callback });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |last| last.index + 1);
        self.ask(|done| Request::Truncate { from, done }).await
    }

    /// The entries are gone when this returns; their segments go later.
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let queue = self.requests.reserve().await.map_err(|_| self.ended())?;
        let mut tail = self.tail();
        tail.purge(upto);
        queue.send(Request::Purge { upto });
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        self.read(indexes(&range), u64::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start..end, self.batch_bytes_max).await?;
        // openraft sends what it gets. If the first of them were purged meanwhile, there would be a gap in what a follower
        // is told to append, and no follower goes on from that. Nothing makes it wait, and send a snapshot in the end.
        let is_whole = entries.first().is_some_and(|first| first.log_id.index == start);
        Ok(if is_whole { entries } else { Vec::new() })
    }

    /// Reads as the stream is consumed: a restart replays more than should be in memory at once.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        let range = {
            let (range, tail) = (indexes(&range), self.shared.tail());
            range.start.max(tail.first())..range.end.min(tail.end())
        };
        let batches = stream::try_unfold((self.clone(), range), |(reader, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let batch = reader.read(range.clone(), BATCH_BYTES_MAX).await?;
            if batch.first().is_none_or(|entry| entry.log_id.index != range.start) {
                let error = format!("entry {} was dropped while it was about to be read", range.start);
                return Err(io::Error::other(error));
            }
            let rest = range.start + batch.len() as u64..range.end;
            Ok(Some((stream::iter(batch.into_iter().map(Ok)), (reader, rest))))
        });
        batches.try_flatten()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail().vote)
    }
}

impl LogReader {
    /// The entries of a range that are there, as they are at this moment, up to `bytes_max`, but at least one.
    async fn read(&self, range: Range<u64>, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let reading = self.shared.tail().read(range, bytes_max);
        if reading.on_disk.is_empty() {
            return Ok(reading.cached);
        }
        let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the log's reader has ended");
        let (done, outcome) = oneshot::channel();
        let request = ReadRequest { entries: reading.on_disk, done };
        self.reads.send(request).await.map_err(|_| ended())?;
        let mut entries = outcome.await.map_err(|_| ended())??;
        entries.extend(reading.cached);
        Ok(entries)
    }
}

fn indexes(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}
