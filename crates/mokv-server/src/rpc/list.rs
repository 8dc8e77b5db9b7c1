//! The stream of a List: a consistent view, read chunk by chunk as the caller takes it.
//!
//! A task of its own reads the view and waits for room, because only a task can notice that a caller takes nothing any
//! more: the transport asks a stream for nothing while the caller's window is full. When the caller goes away the stream
//! is dropped, the task sees that at once, and the view is released. At most one chunk waits here.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::vec;

use futures_util::Stream;
use mokv_proto::api::GetResponse;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{convert, status};
use crate::runtime::Tasks;
use crate::store::{ChunkLimit, KeyRange, LogTime, View};

/// A caller that takes nothing for so long loses its stream: a view that is kept costs the store memory for every key
/// that changes meanwhile.
const STALL_MAX: Duration = Duration::from_secs(30);

/// What to list.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) range: KeyRange,
    /// Pairs at most.
    pub(super) limit: u64,
    /// Whether values are left out.
    pub(super) keys_only: bool,
    /// Whether the last pair comes first.
    pub(super) reverse: bool,
    /// When the caller gives up, if it said so.
    pub(super) deadline: Option<Instant>,
}

/// The answers to a List.
#[derive(Debug)]
pub(super) struct ListStream {
    chunk: vec::IntoIter<GetResponse>,
    chunks: mpsc::Receiver<Vec<GetResponse>>,
    /// `None` when its end was reported.
    reader: Option<JoinHandle<Result<(), Status>>>,
}

impl ListStream {
    /// Starts reading `view`, which is released when the stream ends or is dropped. `remaining` says how long something
    /// with a deadline has still to live.
    pub(super) fn start(
        tasks: &Tasks,
        view: View,
        query: Query,
        remaining: impl Fn(LogTime) -> Duration + Send + Sync + 'static,
    ) -> Self {
        let (sender, chunks) = mpsc::channel(1);
        let reader = tasks.spawn(read(view, query, remaining, sender));
        Self { chunk: Vec::new().into_iter(), chunks, reader: Some(reader) }
    }
}

impl Stream for ListStream {
    type Item = Result<GetResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pair) = self.chunk.next() {
                return Poll::Ready(Some(Ok(pair)));
            }
            if let Some(chunk) = ready!(self.chunks.poll_recv(cx)) {
                self.chunk = chunk.into_iter();
                continue;
            }
            let Some(reader) = self.reader.as_mut() else { return Poll::Ready(None) };
            let ended = ready!(Pin::new(reader).poll(cx)).unwrap_or_else(|error| Err(reader_failed(&error)));
            self.reader = None;
            return Poll::Ready(ended.err().map(Err));
        }
    }
}

fn reader_failed(error: &JoinError) -> Status {
    match error.is_cancelled() {
        true => status::from_error(&crate::error::RequestError::Unavailable { reason: "the node is stopping".into() }),
        false => status::internal("the list failed"),
    }
}

/// Reads the view to its end, or until the receiver is gone.
async fn read(
    view: View,
    mut query: Query,
    remaining: impl Fn(LogTime) -> Duration,
    chunks: mpsc::Sender<Vec<GetResponse>>,
) -> Result<(), Status> {
    loop {
        let stalled = Instant::now() + STALL_MAX;
        let until = query.deadline.map_or(stalled, |deadline| deadline.min(stalled));
        let room = match timeout_at(until, chunks.reserve()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Ok(()),
            Err(_) if until < stalled => return Err(status::deadline_exceeded()),
            Err(_) => return Err(status::list_too_slow(STALL_MAX)),
        };
        let (pairs, more) = next_chunk(&view, &mut query, &remaining)?;
        room.send(pairs);
        if !more || query.limit == 0 {
            return Ok(());
        }
    }
}

/// The next pairs, which are then no longer in the query; and whether the range has more.
fn next_chunk(
    view: &View,
    query: &mut Query,
    remaining: &impl Fn(LogTime) -> Duration,
) -> Result<(Vec<GetResponse>, bool), Status> {
    let wanted = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let limit = ChunkLimit::default();
    let limit = ChunkLimit { entries_max: limit.entries_max.min(wanted), ..limit };
    let mut chunk = match query.reverse {
        false => view.scan(&query.range, limit),
        true => view.scan_back(&query.range, limit),
    };
    chunk.pairs.truncate(wanted);
    query.limit -= chunk.pairs.len() as u64;
    let more = chunk.next.is_some();
    if let Some(next) = chunk.next {
        let range = std::mem::take(&mut query.range);
        query.range = if query.reverse { range.ending_before(next) } else { range.starting_at(next) };
    }
    let pairs = chunk.pairs.into_iter().map(|mut pair| {
        if query.keys_only {
            pair.record.value = Default::default();
        }
        convert::stored_pair(pair, view.revision(), remaining)
    });
    Ok((pairs.collect::<Result<_, _>>()?, more))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tonic::Code;

    use super::*;
    use crate::command;
    use crate::runtime::DiskTasks;
    use crate::store::{LogTime, Position, Store};

    fn start(tasks: &Tasks, store: &Store, query: Query) -> ListStream {
        ListStream::start(tasks, store.view(0).expect("the present"), query, |_| Duration::ZERO)
    }

    fn query(limit: u64, deadline: Option<Instant>) -> Query {
        Query { range: KeyRange::all(), limit, keys_only: false, reverse: false, deadline }
    }

    /// As many pairs as fill several chunks.
    fn filled_store() -> Store {
        let store = Store::new();
        let commands: Vec<_> = (0..5000).map(|n| command::set(format!("key-{n:05}"), "v")).collect();
        store.apply(Position { term: 1, index: 1 }, LogTime::default(), &commands).expect("apply");
        store
    }

    #[tokio::test]
    async fn a_list_has_every_pair_up_to_its_limit() {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let store = filled_store();
        for (limit, expected) in [(u64::MAX, 5000), (0, 0), (1, 1), (1000, 1000), (1001, 1001), (6000, 5000)] {
            let list = start(&tasks, &store, query(limit, None));
            let pairs: Vec<GetResponse> = list.map(|pair| pair.expect("pair")).collect().await;
            assert_eq!(pairs.len(), expected, "{limit}");
            assert!(pairs.iter().enumerate().all(|(n, pair)| pair.key == format!("key-{n:05}")), "{limit}");

            let list = start(&tasks, &store, Query { reverse: true, ..query(limit, None) });
            let pairs: Vec<GetResponse> = list.map(|pair| pair.expect("pair")).collect().await;
            assert_eq!(pairs.len(), expected, "{limit}");
            let backwards = |(n, pair): (usize, &GetResponse)| pair.key == format!("key-{:05}", 4999 - n);
            assert!(pairs.iter().enumerate().all(backwards), "{limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_loses_its_view() {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let store = filled_store();
        let mut list = start(&tasks, &store, query(u64::MAX, None));
        list.next().await.expect("first").expect("pair");
        assert_eq!(store.stats().pins, 1);
        tokio::time::sleep(STALL_MAX * 2).await;
        assert_eq!(store.stats().pins, 0);
        let ends: Vec<Code> = list.filter_map(async |pair| pair.err().map(|status| status.code())).collect().await;
        assert_eq!(ends, [Code::Aborted]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_caller_keeps_its_view_while_it_takes_something() {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let store = filled_store();
        let mut list = start(&tasks, &store, query(u64::MAX, None));
        for n in 0..5000 {
            list.next().await.expect("not cut").unwrap_or_else(|status| panic!("{n}: {status}"));
            tokio::time::sleep(STALL_MAX / 2000).await;
        }
        assert!(list.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_ends_with_its_deadline() {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let store = filled_store();
        let deadline = Some(Instant::now() + STALL_MAX / 2);
        let list = start(&tasks, &store, query(u64::MAX, deadline));
        tokio::time::sleep(STALL_MAX).await;
        let ends: Vec<Code> = list.filter_map(async |pair| pair.err().map(|status| status.code())).collect().await;
        assert_eq!(ends, [Code::DeadlineExceeded]);
    }

    #[tokio::test]
    async fn a_list_that_nobody_wants_releases_its_view() {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let store = filled_store();
        drop(start(&tasks, &store, query(u64::MAX, None)));
        while store.stats().pins > 0 {
            tokio::task::yield_now().await;
        }
    }
}
