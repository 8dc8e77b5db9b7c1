//! Operations of many callers over one stream to a node.
//!
//! All that waits when the stream can take a message goes into it, and answers come back many to a message. It promises
//! that each caller learns what became of its operation: answered, not sent, or lost. What that means for the effect is the
//! caller's to say.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{PipelineError, PipelineOperation, PipelineRequest, PipelineResponse, PipelineResult};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::client::millis;
use crate::operation::{Answer, Operation};

/// Operations of one message at most.
const OPERATIONS_MAX: usize = 512;
/// A message with several operations is not larger than this: a single one may be as large as a server takes.
const MESSAGE_BYTES: usize = 256 << 10;
/// A stream on which nothing was asked for so long is closed: an idle client costs a server nothing.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// A server that had no pipeline may have been replaced by a newer one after so long.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What became of an operation that was not answered.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The server has no pipeline. No effect.
    NotSupported,
    /// The stream was not opened, for this reason, which also says what that means for the effect.
    NotOpened(Status),
    /// The stream ended before it was sent, for a reason or because nobody needed it. No effect.
    NotSent(Option<Status>),
    /// The stream broke when it was under way.
    Lost(Status),
    /// It was not sent in time. No effect.
    LateUnsent,
    /// It was sent, and not answered in time.
    Late,
}

/// The way to one node.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    way: Mutex<Way>,
}

#[derive(Debug, Default)]
enum Way {
    /// No stream was needed yet.
    #[default]
    None,
    /// To the newest stream, which may have ended.
    Stream(mpsc::UnboundedSender<Job>),
    /// The server had none at that time.
    NotSupported(Instant),
}

/// When a node was last heard of.
#[derive(Debug, Clone)]
pub(crate) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    pub(crate) fn never() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(crate) fn is_since(&self, then: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|heard| heard > then)
    }
}

#[derive(Debug)]
struct Job {
    operation: Operation,
    deadline: Instant,
    stage: Arc<Stage>,
    reply: oneshot::Sender<Result<Answer, Failed>>,
}

/// Whether an operation is on its way. Either the stream takes it or its caller takes it back, never both.
#[derive(Debug, Default)]
struct Stage(AtomicU8);

impl Stage {
    const QUEUED: u8 = 0;
    const SENT: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// False if it was withdrawn.
    fn send(&self) -> bool {
        self.0.compare_exchange(Self::QUEUED, Self::SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// False if it was sent.
    fn withdraw(&self) -> bool {
        self.0.compare_exchange(Self::QUEUED, Self::WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Pipeline {
    /// Has the node carry out an operation, over the stream that there is or a new one. It is handed over at once, so that
    /// what waits for the answer is small.
    pub(crate) fn call(
        &self,
        kv: impl FnOnce() -> KvClient<Channel>,
        heard: &Heard,
        operation: Operation,
        deadline: Instant,
    ) -> impl Future<Output = Result<Answer, Failed>> {
        let (reply, answer) = oneshot::channel();
        let stage = Arc::<Stage>::default();
        let queue = self.queue(kv, heard);
        let is_supported = queue.is_some();
        if let Some(queue) = queue {
            // One that is not taken is dropped.
            drop(queue.send(Job { operation, deadline, stage: stage.clone(), reply }));
        }
        async move {
            if !is_supported {
                return Err(Failed::NotSupported);
            }
            match timeout_at(deadline, answer).await {
                Ok(Ok(Err(Failed::NotSupported))) => {
                    *self.lock() = Way::NotSupported(Instant::now());
                    Err(Failed::NotSupported)
                }
                Ok(Ok(answered)) => answered,
                // The stream had ended, or the runtime does.
                Ok(Err(_)) => Err(Failed::NotSent(None)),
                Err(_) if stage.withdraw() => Err(Failed::LateUnsent),
                Err(_) => Err(Failed::Late),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of a stream, which is opened if there is none; `None` if the server has no pipeline.
    fn queue(&self, kv: impl FnOnce() -> KvClient<Channel>, heard: &Heard) -> Option<mpsc::UnboundedSender<Job>> {
        let mut way = self.lock();
        match &*way {
            Way::Stream(queue) if !queue.is_closed() => return Some(queue.clone()),
            Way::NotSupported(since) if since.elapsed() < ASK_AGAIN_AFTER => return None,
            Way::None | Way::Stream(_) | Way::NotSupported(_) => {}
        }
        // Bounded by the callers, who wait each for their one operation.
        let (sender, jobs) = mpsc::unbounded_channel();
        tokio::spawn(Stream::new(jobs, heard.clone()).run(kv()));
        *way = Way::Stream(sender.clone());
        Some(sender)
    }
}

/// One stream, from its opening to its end.
struct Stream {
    jobs: mpsc::UnboundedReceiver<Job>,
    /// Found no room in the last message.
    held: Option<Job>,
    pending: Pending,
    heard: Heard,
    sent: Instant,
}

/// Why a stream ended.
enum End {
    /// It never began.
    NotOpened(Status),
    Broken(Status),
    /// Nobody needs it.
    Closed,
}

/// A place for a message.
type Permit<'a> = mpsc::Permit<'a, PipelineRequest>;

impl Stream {
    fn new(jobs: mpsc::UnboundedReceiver<Job>, heard: Heard) -> Self {
        Self { jobs, held: None, pending: Pending::default(), heard, sent: Instant::now() }
    }

    async fn run(mut self, mut kv: KvClient<Channel>) {
        let (requests, body) = mpsc::channel(1);
        let end = match self.open(kv.pipeline(ReceiverStream::new(body)), &requests).await {
            Ok(answers) => self.pass(answers, &requests).await,
            Err(status) => End::NotOpened(status),
        };
        self.jobs.close();
        self.pending.fail(&end);
        while let Some(job) = self.held.take().or_else(|| self.jobs.try_recv().ok()) {
            // Who does not listen has withdrawn it.
            drop(job.reply.send(Err(end.of_unsent())));
        }
    }

    /// Waits until the stream is open. What is asked meanwhile goes with it.
    async fn open(
        &mut self,
        opening: impl Future<Output = Result<Response<Streaming<PipelineResponse>>, Status>>,
        requests: &mpsc::Sender<PipelineRequest>,
    ) -> Result<Streaming<PipelineResponse>, Status> {
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return opened.map(Response::into_inner),
                Some((permit, job)) = next(requests, &mut self.held, &mut self.jobs) => self.send(permit, job).await,
            }
        }
    }

    /// Passes operations on and answers back.
    async fn pass(
        &mut self,
        mut answers: Streaming<PipelineResponse>,
        requests: &mpsc::Sender<PipelineRequest>,
    ) -> End {
        let mut is_needed = true;
        loop {
            let is_idle = self.pending.is_empty();
            if is_idle && !is_needed {
                return End::Closed;
            }
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(response)) => {
                        self.heard.now();
                        self.pending.settle(response);
                    }
                    Ok(None) => return End::Broken(Status::unavailable("the node ended the stream")),
                    Err(status) => return End::Broken(status),
                },
                job = next(requests, &mut self.held, &mut self.jobs), if is_needed => match job {
                    Some((permit, job)) => self.send(permit, job).await,
                    None => is_needed = false,
                },
                () = sleep_until(self.sent + IDLE_MAX), if is_idle => return End::Closed,
            }
        }
    }

    /// Sends an operation, and all that came meanwhile.
    async fn send(&mut self, permit: Permit<'_>, first: Job) {
        // Callers that were woken together get to ask together: no time passes, but other tasks run.
        yield_now().await;
        self.sent = Instant::now();
        let (mut operations, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(job) = next {
            bytes += job.operation.encoded_len();
            if bytes > MESSAGE_BYTES && !operations.is_empty() {
                self.held = Some(job);
                break;
            }
            operations.extend(self.pending.begin(job, self.sent));
            next = if operations.len() < OPERATIONS_MAX { self.jobs.try_recv().ok() } else { None };
        }
        if !operations.is_empty() {
            permit.send(PipelineRequest { operations });
        }
    }
}

/// The next operation, when there is a place for a message with it; `None` if there will be none.
async fn next<'a>(
    requests: &'a mpsc::Sender<PipelineRequest>,
    held: &mut Option<Job>,
    jobs: &mut mpsc::UnboundedReceiver<Job>,
) -> Option<(Permit<'a>, Job)> {
    let permit = requests.reserve().await.ok()?;
    let job = match held.take() {
        Some(job) => job,
        None => jobs.recv().await?,
    };
    Some((permit, job))
}

impl End {
    /// What becomes of an operation that was sent.
    fn of_sent(&self) -> Failed {
        match self {
            Self::NotOpened(status) if status.code() == Code::Unimplemented => Failed::NotSupported,
            Self::NotOpened(status) => Failed::NotOpened(status.clone()),
            Self::Broken(status) => Failed::Lost(status.clone()),
            Self::Closed => Failed::NotSent(None),
        }
    }

    /// And of one that was not.
    fn of_unsent(&self) -> Failed {
        match self {
            Self::NotOpened(status) if status.code() == Code::Unimplemented => Failed::NotSupported,
            Self::NotOpened(status) | Self::Broken(status) => Failed::NotSent(Some(status.clone())),
            Self::Closed => Failed::NotSent(None),
        }
    }
}

/// Operations that were sent and are not answered yet.
#[derive(Debug, Default)]
struct Pending {
    last_number: u64,
    replies: BTreeMap<u64, oneshot::Sender<Result<Answer, Failed>>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// An operation is sent now; `None` if its caller has taken it back or gone.
    fn begin(&mut self, job: Job, now: Instant) -> Option<PipelineOperation> {
        if job.reply.is_closed() || !job.stage.send() {
            return None;
        }
        self.last_number += 1;
        self.replies.insert(self.last_number, job.reply);
        let timeout_ms = time_on_server(job.deadline.saturating_duration_since(now));
        // Each caller waits for its answer before it goes on: what is under way at once has no order.
        let operation = Some(job.operation);
        Some(PipelineOperation { number: self.last_number, timeout_ms, operation, unordered: true })
    }

    fn settle(&mut self, response: PipelineResponse) {
        for PipelineResult { number, result } in response.results {
            // A caller that has gone, or a number that this stream never had.
            let Some(reply) = self.replies.remove(&number) else { continue };
            let answer = match result {
                Some(answer) => Ok(answer),
                None => Err(Failed::Lost(Status::internal("an answer that says nothing"))),
            };
            drop(reply.send(answer));
        }
    }

    fn fail(&mut self, end: &End) {
        for (_, reply) in std::mem::take(&mut self.replies) {
            drop(reply.send(Err(end.of_sent())));
        }
    }
}

/// How long a server is to go on for a caller who waits so long, in milliseconds. A little shorter, so that operations
/// that came together share what they wait for: servers look at each length of time apart.
fn time_on_server(time_left: Duration) -> u32 {
    // 0 would say that there is no limit.
    let time_left = u32::try_from(millis(time_left)).unwrap_or(u32::MAX).max(1);
    // Of the six highest bits.
    let step = 1 << (u32::BITS - time_left.leading_zeros()).saturating_sub(6);
    time_left / step * step
}

/// The status that an error stands for.
pub(crate) fn status(error: PipelineError) -> Status {
    Status::with_details(Code::from(error.code), error.message, error.details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_on_the_server_are_few_and_hardly_shorter() {
        let on_server = |millis| time_on_server(Duration::from_millis(millis));
        assert_eq!([on_server(0), on_server(1), on_server(63), on_server(993), on_server(1000)], [1, 1, 63, 992, 992]);
        assert_eq!([on_server(1999), on_server(2000), on_server(1 << 20)], [1984, 1984, 1 << 20]);
        assert_eq!(time_on_server(Duration::MAX), 63 << 26);
        for left in (1..100_000).step_by(7) {
            let shorter = u64::from(on_server(left));
            assert!(shorter <= left && shorter >= left - left / 32, "{left}: {shorter}");
        }
    }
}
