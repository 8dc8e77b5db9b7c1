//! Many operations over one stream.
//!
//! The stream of answers does the work: when the transport has room for an answer it takes in what the caller sent, starts
//! it, and answers with all that is ready, many to a message. So a caller that takes no answers is not listened to, and
//! there is nothing but the operations that are under way, which are bounded in number and in bytes.
//!
//! Reads are answered from memory at the moment that they are sent, and those that came together share one barrier: a
//! linearizable read costs little more than its lookup. So do the writes of single keys that came together: they share a
//! proposal.

mod order;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, Stream, StreamExt};
use mokv_proto::api;
use mokv_proto::api::pipeline_operation::Operation;
use mokv_proto::api::pipeline_result::Result as Told;
use prost::Message;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Status;

use self::order::{Access, Order, Place, Touches};
use super::operations::{Operations, PointWrite, PointWriteKind};
use super::{deadline, status};
use crate::command::{Command, OutcomeResult};
use crate::node::{Consistency, Freshness};

/// Operations of one stream under way at most: some milliseconds of what one stream can carry. More wait in the transport,
/// and then at the caller.
const OPERATIONS_MAX: usize = 4096;

/// Bytes of their requests, beyond which no message is taken.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// An answer takes no further result once it has so many bytes: as many as the transport sends at a time.
const RESPONSE_BYTES: usize = 32 << 10;

/// What a result takes beside key and value, about.
const RESULT_BYTES: usize = 32;

/// Writes that are proposed together, at most, and bytes of their requests.
const WRITES_MAX: usize = 512;
const WRITES_BYTES_MAX: usize = 256 << 10;

/// What is known of an operation until it is answered.
#[derive(Debug)]
struct Ticket {
    number: u64,
    /// Bytes of the request.
    bytes: usize,
    /// If it is ordered.
    place: Option<Place>,
}

/// A Get of the newest value that needs nothing but its barrier.
#[derive(Debug)]
struct Read {
    ticket: Ticket,
    key: String,
}

/// What came of something that was waited for.
enum Done {
    Operation(Ticket, Result<Told, Status>),
    /// Writes that were proposed together, each with its own end.
    Writes(Vec<(Ticket, PointWriteKind)>, Vec<Result<OutcomeResult, Status>>),
    /// A barrier, and the reads behind it.
    Barrier(Vec<Read>, Result<Consistency, Status>),
}

/// What can be answered at once.
enum Ready {
    Told(u64, Result<Told, Status>),
    Read(Read, Consistency),
}

/// The answers to one stream.
struct Pipeline {
    operations: Operations,
    requests: BoxStream<'static, Result<api::PipelineRequest, Status>>,
    order: Order,
    /// Wakes the operations that wait for their turn.
    turns: BTreeMap<u64, oneshot::Sender<()>>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    ready: VecDeque<Ready>,
    /// Not answered yet.
    under_way: usize,
    bytes_under_way: usize,
    /// Completes with the status to end with when nothing more is to be taken from the stream.
    closing: BoxFuture<'static, Status>,
    /// When the caller gives up the stream, if it said so.
    given_up: Option<BoxFuture<'static, ()>>,
    end: End,
}

/// How far the stream is from its end.
enum End {
    /// More may come.
    Open,
    /// What is under way is answered, then this is said.
    Closing(Result<(), Status>),
    Over,
}

/// Answers the operations of a stream until it ends, its caller gives it up, or the server begins to stop.
pub(super) fn answers(
    operations: Operations,
    requests: impl Stream<Item = Result<api::PipelineRequest, Status>> + Send + 'static,
    given_up: Option<Instant>,
    mut stopping: watch::Receiver<bool>,
) -> BoxStream<'static, Result<api::PipelineResponse, Status>> {
    let closing = async move {
        drop(stopping.wait_for(|stopping| *stopping).await);
        status::stopping()
    };
    let pipeline = Pipeline {
        operations,
        requests: requests.boxed(),
        order: Order::default(),
        turns: BTreeMap::new(),
        running: FuturesUnordered::new(),
        ready: VecDeque::new(),
        under_way: 0,
        bytes_under_way: 0,
        closing: closing.boxed(),
        given_up: given_up.map(|at| sleep_until(at).boxed()),
        end: End::Open,
    };
    pipeline.boxed()
}

impl Stream for Pipeline {
    type Item = Result<api::PipelineResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let pipeline = &mut *self;
        if pipeline.given_up.as_mut().is_some_and(|given_up| given_up.poll_unpin(cx).is_ready()) {
            pipeline.give_up();
        }
        while pipeline.take_request(cx) {}
        while let Poll::Ready(Some(done)) = pipeline.running.poll_next_unpin(cx) {
            pipeline.settle(done);
        }
        if !pipeline.ready.is_empty() {
            return Poll::Ready(Some(Ok(pipeline.response())));
        }
        if pipeline.under_way > 0 || matches!(pipeline.end, End::Open) {
            return Poll::Pending;
        }
        match std::mem::replace(&mut pipeline.end, End::Over) {
            End::Closing(Err(status)) => Poll::Ready(Some(Err(status))),
            End::Open | End::Closing(Ok(())) | End::Over => Poll::Ready(None),
        }
    }
}

impl Pipeline {
    /// Starts the operations of the next message. False if none is there, or none is to be taken.
    fn take_request(&mut self, cx: &mut Context<'_>) -> bool {
        if !matches!(self.end, End::Open) {
            return false;
        }
        if let Poll::Ready(status) = self.closing.poll_unpin(cx) {
            self.end = End::Closing(Err(status));
            return false;
        }
        // Each answer frees room, and brings us here again.
        if self.under_way >= OPERATIONS_MAX || self.bytes_under_way >= REQUEST_BYTES_MAX {
            return false;
        }
        match self.requests.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(request))) => {
                self.start_all(request.operations);
                return true;
            }
            Poll::Ready(Some(Err(status))) => {
                self.end = End::Closing(Err(status::of_library(&status).unwrap_or(status)));
            }
            Poll::Ready(None) => self.end = End::Closing(Ok(())),
            Poll::Pending => {}
        }
        false
    }

    fn start_all(&mut self, operations: Vec<api::PipelineOperation>) {
        let (mut barriers, mut writes) = (Barriers::default(), Writes::default());
        for api::PipelineOperation { number, timeout_ms, operation, unordered } in operations {
            let Some(operation) = operation else {
                self.under_way += 1;
                self.ready.push_back(Ready::Told(number, Err(status::unknown_operation())));
                continue;
            };
            let mut ticket = Ticket { number, bytes: weight(&operation), place: None };
            self.under_way += 1;
            self.bytes_under_way += ticket.bytes;
            let turn = if unordered { None } else { self.queue(&operation, &mut ticket) };
            let write = match operation {
                Operation::Get(get) if turn.is_none() && get.revision == 0 => {
                    match self.operations.freshness_of(&get) {
                        Ok(freshness) => barriers.add(freshness, timeout_ms, Read { ticket, key: get.key }),
                        Err(status) => self.settle(Done::Operation(ticket, Err(status))),
                    }
                    continue;
                }
                Operation::Set(set) if turn.is_none() => PointWrite::Set(set),
                Operation::Delete(delete) if turn.is_none() => PointWrite::Delete(delete),
                Operation::Increment(increment) if turn.is_none() => PointWrite::Increment(increment),
                operation => {
                    self.start(ticket, operation, timeout_ms, turn);
                    continue;
                }
            };
            match self.operations.command_of(write) {
                Ok((kind, command)) => writes.add(timeout_ms, ticket, kind, command),
                Err(status) => self.settle(Done::Operation(ticket, Err(status))),
            }
        }
        for group in writes.0 {
            self.start_writes(group);
        }
        for (freshness, timeout_ms, reads) in barriers.0 {
            self.start_reads(freshness, timeout_ms, reads);
        }
    }

    /// Puts an operation among those of the stream that touch the same key. Where it can't run at once: what it waits for.
    fn queue(&mut self, operation: &Operation, ticket: &mut Ticket) -> Option<oneshot::Receiver<()>> {
        let (place, runs) = self.order.arrive(touches(operation)?);
        let turn = (!runs).then(|| {
            let (turn, my_turn) = oneshot::channel();
            self.turns.insert(place.ticket(), turn);
            my_turn
        });
        ticket.place = Some(place);
        turn
    }

    fn start(&mut self, ticket: Ticket, operation: Operation, timeout_ms: u32, turn: Option<oneshot::Receiver<()>>) {
        let deadline = deadline::of_operation(timeout_ms, self.operations.limits().request_timeout);
        let operations = self.operations.clone();
        self.running.push(
            async move {
                if let Some(turn) = turn
                    && timeout_at(deadline, turn).await.is_err()
                {
                    return Done::Operation(ticket, Err(status::turn_missed()));
                }
                Done::Operation(ticket, operations.run(operation, deadline).await)
            }
            .boxed(),
        );
    }

    fn start_writes(&mut self, group: WriteGroup) {
        let WriteGroup { timeout_ms, tickets, commands, .. } = group;
        let deadline = deadline::of_operation(timeout_ms, self.operations.limits().request_timeout);
        let operations = self.operations.clone();
        self.running.push(
            async move {
                let results = operations.write_all(commands, deadline).await;
                Done::Writes(tickets, results)
            }
            .boxed(),
        );
    }

    fn start_reads(&mut self, freshness: Freshness, timeout_ms: u32, reads: Vec<Read>) {
        let deadline = deadline::of_operation(timeout_ms, self.operations.limits().request_timeout);
        let operations = self.operations.clone();
        self.running.push(
            async move {
                let passed = operations.read_barrier(freshness, deadline).await;
                Done::Barrier(reads, passed)
            }
            .boxed(),
        );
    }

    fn settle(&mut self, done: Done) {
        match done {
            Done::Operation(ticket, told) => {
                let number = self.leave(ticket);
                self.ready.push_back(Ready::Told(number, told));
            }
            Done::Writes(tickets, results) => {
                debug_assert_eq!(tickets.len(), results.len(), "one end a write");
                for ((ticket, kind), result) in tickets.into_iter().zip(results) {
                    let told = result.and_then(|result| self.operations.told_of(kind, result));
                    self.settle(Done::Operation(ticket, told));
                }
            }
            Done::Barrier(reads, Ok(served)) => {
                self.ready.extend(reads.into_iter().map(|read| Ready::Read(read, served)));
            }
            Done::Barrier(reads, Err(status)) => {
                for read in reads {
                    self.settle(Done::Operation(read.ticket, Err(status.clone())));
                }
            }
        }
    }

    /// Lets those run that waited for an operation. Returns its number.
    fn leave(&mut self, ticket: Ticket) -> u64 {
        self.bytes_under_way -= ticket.bytes;
        if let Some(place) = ticket.place {
            self.turns.remove(&place.ticket());
            for next in self.order.leave(place) {
                if let Some(turn) = self.turns.remove(&next) {
                    // It may have missed its turn; then it leaves by itself.
                    let _ = turn.send(());
                }
            }
        }
        ticket.number
    }

    /// What is ready, as much of it as one message takes.
    fn response(&mut self) -> api::PipelineResponse {
        let mut results = Vec::with_capacity(self.ready.len().min(RESPONSE_BYTES / RESULT_BYTES));
        let mut bytes = 0;
        while bytes < RESPONSE_BYTES
            && let Some(ready) = self.ready.pop_front()
        {
            let (number, told) = match ready {
                Ready::Told(number, told) => (number, told),
                Ready::Read(Read { ticket, key }, served) => {
                    let found = self.operations.look_up(key, 0, served);
                    (self.leave(ticket), found.map(Told::Get))
                }
            };
            self.under_way -= 1;
            let told = told.unwrap_or_else(|status| Told::Error(error(&status)));
            bytes += RESULT_BYTES + told_bytes(&told);
            results.push(api::PipelineResult { number, result: Some(told) });
        }
        api::PipelineResponse { results }
    }

    /// Nobody waits for answers any more.
    fn give_up(&mut self) {
        self.running.clear();
        self.ready.clear();
        self.under_way = 0;
        self.given_up = None;
        self.end = End::Closing(Err(status::deadline_exceeded()));
    }
}

/// Reads of one message by what they wait for.
#[derive(Default)]
struct Barriers(Vec<(Freshness, u32, Vec<Read>)>);

impl Barriers {
    fn add(&mut self, freshness: Freshness, timeout_ms: u32, read: Read) {
        // Those of one caller mostly want the same as the one before.
        match self.0.last_mut().filter(|last| (last.0, last.1) == (freshness, timeout_ms)) {
            Some((.., reads)) => reads.push(read),
            None => self.0.push((freshness, timeout_ms, vec![read])),
        }
    }
}

/// Writes of one message by their time.
#[derive(Default)]
struct Writes(Vec<WriteGroup>);

struct WriteGroup {
    timeout_ms: u32,
    /// Bytes of the requests.
    bytes: usize,
    tickets: Vec<(Ticket, PointWriteKind)>,
    commands: Vec<Command>,
}

impl Writes {
    fn add(&mut self, timeout_ms: u32, ticket: Ticket, kind: PointWriteKind, command: Command) {
        let has_room = |last: &&mut WriteGroup| {
            last.timeout_ms == timeout_ms
                && last.commands.len() < WRITES_MAX
                && last.bytes + ticket.bytes <= WRITES_BYTES_MAX
        };
        match self.0.last_mut().filter(has_room) {
            Some(last) => {
                last.bytes += ticket.bytes;
                last.tickets.push((ticket, kind));
                last.commands.push(command);
            }
            None => self.0.push(WriteGroup {
                timeout_ms,
                bytes: ticket.bytes,
                tickets: vec![(ticket, kind)],
                commands: vec![command],
            }),
        }
    }
}

/// What an operation may read or write; `None` if no key.
fn touches(operation: &Operation) -> Option<Touches> {
    let key = |key: &String, access| Some(Touches::Key(Bytes::copy_from_slice(key.as_bytes()), access));
    match operation {
        Operation::Get(get) => key(&get.key, Access::Read),
        Operation::Set(set) => key(&set.key, Access::Write),
        Operation::Delete(delete) => key(&delete.key, Access::Write),
        Operation::Increment(increment) => key(&increment.key, Access::Write),
        // The keys of a lease are deleted with it.
        Operation::DeleteRange(_) | Operation::Txn(_) | Operation::Count(_) | Operation::RevokeLease(_) => {
            Some(Touches::Everything)
        }
        Operation::OpenSession(_) | Operation::GrantLease(_) | Operation::GetLease(_) => None,
    }
}

/// Bytes that a request takes, about.
fn weight(operation: &Operation) -> usize {
    match operation {
        Operation::Get(get) => get.key.len(),
        Operation::Set(set) => set.key.len() + set.value.len(),
        Operation::Txn(txn) => txn.encoded_len(),
        Operation::DeleteRange(range) => range.encoded_len(),
        Operation::Count(count) => count.encoded_len(),
        Operation::Delete(delete) => delete.key.len(),
        Operation::Increment(increment) => increment.key.len(),
        Operation::OpenSession(_) | Operation::GrantLease(_) | Operation::RevokeLease(_) | Operation::GetLease(_) => 0,
    }
}

/// Bytes of a result that can be large, about.
fn told_bytes(told: &Told) -> usize {
    let pair = |pair: &api::GetResponse| pair.key.len() + pair.value.len();
    match told {
        Told::Get(found) => pair(found),
        Told::Set(set) => set.previous.as_ref().map_or(0, pair),
        Told::Delete(delete) => delete.previous.as_ref().map_or(0, pair),
        Told::Txn(txn) => txn.encoded_len(),
        Told::GetLease(lease) => lease.encoded_len(),
        Told::Error(error) => error.encoded_len(),
        Told::DeleteRange(_)
        | Told::Increment(_)
        | Told::Count(_)
        | Told::OpenSession(_)
        | Told::GrantLease(_)
        | Told::RevokeLease(_) => 0,
    }
}

fn error(status: &Status) -> api::PipelineError {
    api::PipelineError {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Bytes::copy_from_slice(status.details()),
    }
}
