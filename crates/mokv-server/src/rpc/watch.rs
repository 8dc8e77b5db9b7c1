//! The stream of a Watch.
//!
//! It has no task and no queue: it is asked for the next answer when there is room for one, and reads on from its cursor.
//! While the caller's window is full it is not asked, and holds nothing; how far it has fallen behind is found when it
//! reads on. A list that comes first is read like that, too: each answer takes a view of the revision that the list is of,
//! which lasts as long as the changes since then are remembered, and without those the watch could not go on anyway.

use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use mokv_proto::api::{self, GetResponse, WatchEvent, WatchRequest, WatchResponse, watch_event};
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status};

use super::{deadline, status};
use crate::node::{Limits, Node};
use crate::store::{Change, Changes, ChunkLimit, Compacted, KeyRange, Pair, Record, ViewError};
use crate::watch::{WatchError, Watcher};

/// The answers to a Watch.
pub(super) type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

/// More often nobody needs to hear that nothing happened.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Begins a watch.
pub(super) async fn watch(node: &Node, request: Request<WatchRequest>) -> Result<Response<WatchStream>, Status> {
    let until = deadline::of_call(request.metadata(), node.limits().request_timeout);
    let deadline = deadline::of_caller(request.metadata());
    let request = request.into_inner();
    let range = range(&request, node.limits())?;
    let shape = Shape::of(&request)?;
    let freshness = convert::freshness(request.consistency, 0, 0)?;
    let after = match request.start_revision {
        0 => {
            let barrier = node.read_barrier(freshness, until);
            barrier.await.map_err(|error| status::from_error(&error))?;
            node.store().revision()
        }
        start => start - 1,
    };
    check_remembered(node, after)?;
    let watcher = node.watches().watch(range.clone(), after).map_err(|error| status::too_many_watches(&error))?;
    let next = if request.list_first { Next::List(range) } else { Next::Begin };
    let progress_at = shape.progress_interval.map(|interval| Instant::now() + interval);
    let answers =
        Answers { node: node.clone(), watcher, shape, next, begin: after, goes_on: false, deadline, progress_at };
    Ok(Response::new(stream::unfold(answers, Answers::next).boxed()))
}

/// A call that is refused says so itself, not its stream.
fn check_remembered(node: &Node, after: u64) -> Result<(), Status> {
    let oldest = node.store().history().oldest;
    if after >= oldest { Ok(()) } else { Err(compacted(Compacted { oldest })) }
}

fn range(request: &WatchRequest, limits: &Limits) -> Result<KeyRange, Status> {
    let WatchRequest { key, prefix, start, end, .. } = request;
    if key.is_empty() {
        return Ok(convert::range(prefix.clone(), start.clone(), end.clone(), limits)?);
    }
    if !(prefix.is_empty() && start.is_empty() && end.is_empty()) {
        return Err(status::invalid("key", "a watch is of one key or of a range, not of both"));
    }
    convert::check_key(key, limits)?;
    Ok(KeyRange::key(key.clone()))
}

/// What the answers of a watch have in them.
struct Shape {
    previous: bool,
    keys_only: bool,
    puts: bool,
    deletes: bool,
    /// `None`: nothing is said while nothing happens.
    progress_interval: Option<Duration>,
}

impl Shape {
    fn of(request: &WatchRequest) -> Result<Self, Status> {
        if request.list_first && request.start_revision > 0 {
            return Err(status::invalid("list_first", "the list is of the newest revision: leave start_revision out"));
        }
        if request.no_puts && request.no_deletes {
            return Err(status::invalid("no_deletes", "without puts and deletes there is nothing to watch"));
        }
        let progress_interval = match Duration::from_millis(request.progress_interval_ms) {
            Duration::ZERO => None,
            interval if interval >= PROGRESS_INTERVAL_MIN => Some(interval),
            _ => {
                let description = format!("0 or at least {}", PROGRESS_INTERVAL_MIN.as_millis());
                return Err(status::invalid("progress_interval_ms", description));
            }
        };
        Ok(Self {
            previous: request.previous,
            keys_only: request.keys_only,
            puts: !request.no_puts,
            deletes: !request.no_deletes,
            progress_interval,
        })
    }

    fn wants(&self, change: &Change) -> bool {
        if change.new.is_some() { self.puts } else { self.deletes }
    }
}

/// What comes next.
enum Next {
    /// The list goes on with this range.
    List(KeyRange),
    /// Nothing but the revision with which the watch begins.
    Begin,
    Changes,
    /// Nothing: the watch has failed.
    End,
}

/// A watch under way.
struct Answers {
    node: Node,
    watcher: Watcher,
    shape: Shape,
    next: Next,
    /// The revision after which the watch begins, and that of the list.
    begin: u64,
    /// The last answer had `more`.
    goes_on: bool,
    /// When the caller gives up, if it said so.
    deadline: Option<Instant>,
    /// When something has to be said.
    progress_at: Option<Instant>,
}

impl Answers {
    async fn next(mut self) -> Option<(Result<WatchResponse, Status>, Self)> {
        let answer = match &self.next {
            Next::List(range) => {
                let range = range.clone();
                self.list(&range)
            }
            Next::Begin => {
                self.next = Next::Changes;
                Ok(WatchResponse { revision: self.begin, ..WatchResponse::default() })
            }
            Next::Changes => self.changes().await,
            Next::End => return None,
        };
        match &answer {
            Ok(answer) => {
                self.goes_on = answer.more;
                self.progress_at = self.shape.progress_interval.map(|interval| Instant::now() + interval);
                self.node.watches().count_events(answer.events.len());
            }
            Err(_) => self.next = Next::End,
        }
        Some((answer, self))
    }

    /// The next part of the list.
    fn list(&mut self, range: &KeyRange) -> Result<WatchResponse, Status> {
        let mut answer = WatchResponse { revision: self.begin, ..WatchResponse::default() };
        self.next = Next::Changes;
        // Before the first write there is nothing, and no revision to ask for.
        if self.begin == 0 {
            return Ok(answer);
        }
        let view = self.node.store().view(self.begin).map_err(|error| match error {
            ViewError::Compacted(error) => compacted(error),
            ViewError::Future { .. } => status::internal("the store lost a revision"),
        })?;
        let chunk = view.scan(range, ChunkLimit::default());
        let pairs = chunk.pairs.into_iter().map(|Pair { key, record }| self.pair(key, record, self.begin));
        answer.pairs = pairs.collect::<Result<_, _>>()?;
        if let Some(next) = chunk.next {
            answer.more = true;
            self.next = Next::List(range.clone().starting_at(next));
        }
        Ok(answer)
    }

    /// What happens next, or that nothing did.
    async fn changes(&mut self) -> Result<WatchResponse, Status> {
        loop {
            let changes = tokio::select! {
                biased;
                changes = self.watcher.changes() => Some(changes.map_err(failed)?),
                () = at(self.deadline) => return Err(status::deadline_exceeded()),
                () = at(self.progress_at) => None,
            };
            let answer = match changes {
                Some(changes) => self.events(changes)?,
                None => self.progress(),
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }

    /// An answer with changes; `None` if there is nothing to say.
    fn events(&self, changes: Changes) -> Result<Option<WatchResponse>, Status> {
        let (revision, more) = (changes.next.revision(), changes.next.is_within());
        let wanted = changes.changes.into_iter().filter(|change| self.shape.wants(change));
        let events = wanted.map(|change| self.event(change)).collect::<Result<Vec<_>, _>>()?;
        // The end of a revision is told to one who waits for it, whatever is in it.
        let is_awaited = self.goes_on && !more;
        let answer = WatchResponse { revision: revision + u64::from(more), events, pairs: Vec::new(), more };
        Ok((is_awaited || !answer.events.is_empty()).then_some(answer))
    }

    /// Says how far nothing happened, where that is known.
    fn progress(&mut self) -> Option<WatchResponse> {
        self.progress_at = self.shape.progress_interval.map(|interval| Instant::now() + interval);
        let revision = self.watcher.progress()?;
        Some(WatchResponse { revision, ..WatchResponse::default() })
    }

    fn event(&self, change: Change) -> Result<WatchEvent, Status> {
        let Change { key, revision, new, old } = change;
        let previous = old.filter(|_| self.shape.previous).map(|old| self.pair(key.clone(), old, revision - 1));
        let (kind, pair) = match new {
            Some(new) => (watch_event::Kind::Put, self.pair(key, new, revision)?),
            None => {
                let key = convert::text(key)?;
                let pair = GetResponse { key, revision, mod_revision: revision, ..GetResponse::default() };
                (watch_event::Kind::Delete, pair)
            }
        };
        Ok(WatchEvent { kind: kind.into(), pair: Some(pair), previous: previous.transpose()? })
    }

    fn pair(&self, key: bytes::Bytes, record: Record, revision: u64) -> Result<api::GetResponse, Status> {
        let remaining = |deadline| self.node.remaining(deadline);
        let mut pair = convert::answer(convert::text(key)?, record, revision, &remaining);
        if self.shape.keys_only {
            pair.value.clear();
        }
        Ok(pair)
    }
}

/// Never without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn failed(error: WatchError) -> Status {
    match error {
        WatchError::Compacted(error) => compacted(error),
        WatchError::Stopping => {
            let reason = error.to_string();
            status::from_error(&crate::error::RequestError::Unavailable { reason })
        }
    }
}

/// The changes after `oldest` are there, so the first revision with which a watch can begin is the next one.
fn compacted(error: Compacted) -> Status {
    status::compacted(error.oldest + 1)
}

mod convert {
    use super::*;
    use crate::node::{Consistency, Freshness};
    use crate::store::LogTime;

    fn size(field: &'static str, bytes: usize, bytes_max: usize) -> Result<(), Status> {
        match bytes <= bytes_max {
            true => Ok(()),
            false => Err(status::invalid(field, format!("{bytes} bytes are too long: at most {bytes_max}"))),
        }
    }

    pub(super) fn check_key(key: &str, limits: &Limits) -> Result<(), Status> {
        size("key", key.len(), limits.key_bytes_max)
    }

    pub(super) fn range(prefix: String, start: String, end: String, limits: &Limits) -> Result<KeyRange, Status> {
        for (field, bound) in [("prefix", &prefix), ("start", &start), ("end", &end)] {
            size(field, bound.len(), limits.key_bytes_max + 1)?;
        }
        if !end.is_empty() && start > end {
            return Err(status::invalid("end", "it is before the start"));
        }
        let range = KeyRange::prefix(prefix).starting_at(start);
        Ok(if end.is_empty() { range } else { range.ending_before(end) })
    }

    pub(super) fn freshness(consistency: i32, min_revision: u64, _: u64) -> Result<Freshness, Status> {
        let consistency = match api::Consistency::try_from(consistency) {
            Ok(api::Consistency::Linearizable) => Consistency::Linearizable,
            Ok(api::Consistency::Lease) => Consistency::Lease,
            Ok(api::Consistency::Local) => Consistency::Local,
            Err(_) => {
                return Err(status::invalid("consistency", format!("{consistency} is none that this node knows")));
            }
        };
        Ok(Freshness { consistency, min_revision, max_staleness: None })
    }

    pub(super) fn answer(
        key: String,
        record: Record,
        revision: u64,
        _: &impl Fn(LogTime) -> Duration,
    ) -> api::GetResponse {
        api::GetResponse {
            key,
            value: record.value,
            revision,
            create_revision: record.create_revision,
            mod_revision: record.mod_revision,
            version: record.version,
            ..GetResponse::default()
        }
    }

    pub(super) fn text(key: bytes::Bytes) -> Result<String, Status> {
        String::from_utf8(key.into()).map_err(|_| status::internal("a key that is not UTF-8"))
    }
}
