//! Requests of a follower's clients, over one stream to the leader.
//!
//! All that waits when the stream can take a message goes into it; answers come back many to a message, in any order.
//! One hop at most: what is forwarded to a node that does not lead comes back as [`ForwardFailure::NotLeader`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use mokv_proto::internal::forward_error::Kind;
use mokv_proto::internal::forward_item::Call;
use mokv_proto::internal::forward_result::Result as Answer;
use mokv_proto::internal::{
    Command, ForwardError, ForwardItem, ForwardRequest, ForwardResponse, ForwardResult, LogId, Outcome, ReadIndex,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::RequestError;
use crate::mutants::mutant;
use crate::peer::{Caller, Lane, MessageStream, Peer, PeerNetwork, Target};
use crate::raft::types::{MemberInfo, NodeId};
use crate::runtime::Tasks;

/// Items of one message at most.
const ITEMS_MAX: usize = 256;

/// Items waiting for the stream at most; more wait in their own task, within their deadline.
const QUEUE_MAX: usize = 16 * 1024;

/// Why the leader did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardFailure {
    /// It does not lead, or was not reached. No effect.
    NotLeader,
    /// The write may take effect, or may have.
    Unknown(String),
    /// The leader refused. No effect.
    Refused(RequestError),
}

/// Forwards to whoever leads. Cheap to clone.
#[derive(Clone)]
pub struct Forwarder {
    caller: Caller,
    peers: Arc<dyn PeerNetwork>,
    tasks: Tasks,
    link: Arc<Mutex<Option<Link>>>,
}

/// The stream to one leader.
struct Link {
    leader: (NodeId, MemberInfo),
    jobs: mpsc::Sender<Job>,
}

struct Job {
    call: Call,
    deadline: Instant,
    reply: oneshot::Sender<Result<Reply, ForwardFailure>>,
}

/// What the leader answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// A read index: the leader answered for its lease.
    pub by_lease: bool,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, by_lease: false }
    }
}

impl Forwarder {
    /// A forwarder for the node `caller`.
    pub fn new(tasks: &Tasks, caller: Caller, peers: Arc<dyn PeerNetwork>) -> Self {
        Self { caller, peers, tasks: tasks.clone(), link: Arc::default() }
    }

    /// Has the leader replicate and apply a command.
    ///
    /// # Errors
    ///
    /// See [`ForwardFailure`].
    pub async fn write(
        &self,
        leader: &(NodeId, MemberInfo),
        command: Command,
        deadline: Instant,
    ) -> Result<Outcome, ForwardFailure> {
        match self.ask(leader, Call::Command(command), deadline).await?.answer {
            Answer::Outcome(outcome) => Ok(outcome),
            _ => Err(ForwardFailure::Unknown("the leader's answer was not understood".into())),
        }
    }

    /// Asks the leader for a read index; with `lease` it may answer for its lease, and says whether it did.
    ///
    /// # Errors
    ///
    /// See [`ForwardFailure`].
    pub async fn read_index(
        &self,
        leader: &(NodeId, MemberInfo),
        lease: bool,
        deadline: Instant,
    ) -> Result<(LogId, bool), ForwardFailure> {
        match self.ask(leader, Call::ReadIndex(ReadIndex { lease }), deadline).await? {
            Reply { answer: Answer::ReadIndex(log_id), by_lease } => Ok((log_id, by_lease)),
            _ => Err(ForwardFailure::NotLeader),
        }
    }

    /// Has the leader answer a call. What is no command has no effect that a second one would not have, and never fails as
    /// [`ForwardFailure::Unknown`] on the way.
    ///
    /// # Errors
    ///
    /// See [`ForwardFailure`].
    pub async fn ask(
        &self,
        leader: &(NodeId, MemberInfo),
        call: Call,
        deadline: Instant,
    ) -> Result<Reply, ForwardFailure> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs(leader);
        if jobs.send(Job { call, deadline, reply }).await.is_err() {
            return Err(ForwardFailure::NotLeader);
        }
        // A job that is dropped without an answer was never sent.
        answer.await.unwrap_or(Err(ForwardFailure::NotLeader))
    }

    /// The way to the stream to `leader`, which is opened if there is none.
    fn jobs(&self, leader: &(NodeId, MemberInfo)) -> mpsc::Sender<Job> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = link.as_ref().filter(|link| link.leader == *leader && !link.jobs.is_closed()) {
            return link.jobs.clone();
        }
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let target = Target { node_id: Some(leader.0), rpc_addr: leader.1.rpc_addr.clone() };
        let peer = self.peers.peer(&self.caller, &target, Lane::Forward);
        self.tasks.spawn(run_link(peer, queue));
        *link = Some(Link { leader: leader.clone(), jobs: jobs.clone() });
        jobs
    }
}

/// Runs a stream until it breaks, or until the forwarder has turned to another leader and all is answered.
async fn run_link(peer: Arc<dyn Peer>, queue: mpsc::Receiver<Job>) {
    let pending = Pending::default();
    let numbered = pending.clone();
    let requests = stream::unfold(queue, |mut queue| async move {
        let mut jobs = Vec::new();
        (queue.recv_many(&mut jobs, ITEMS_MAX).await > 0).then_some((jobs, queue))
    });
    let requests = requests.map(move |jobs| numbered.number(jobs));
    match peer.forward(requests.boxed()).await {
        Ok(mut answers) => loop {
            match answers.next().await {
                Some(Ok(response)) => pending.settle(response),
                Some(Err(status)) => break pending.fail(status.message()),
                None => break pending.fail("the stream to the leader ended"),
            }
        },
        Err(status) => pending.fail(status.message()),
    }
}

/// What was sent and not answered yet.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<Unanswered>>);

#[derive(Default)]
struct Unanswered {
    last_number: u64,
    jobs: BTreeMap<u64, (bool, oneshot::Sender<Result<Reply, ForwardFailure>>)>,
    /// Callers that have gone are dropped when there are this many entries.
    sweep_at: usize,
}

impl Pending {
    fn lock(&self) -> std::sync::MutexGuard<'_, Unanswered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self, jobs: Vec<Job>) -> ForwardRequest {
        let mut unanswered = self.lock();
        if unanswered.jobs.len() >= unanswered.sweep_at {
            unanswered.jobs.retain(|_, (_, reply)| !reply.is_closed());
            unanswered.sweep_at = (2 * unanswered.jobs.len()).max(4 * ITEMS_MAX);
        }
        let now = Instant::now();
        let mut items = Vec::with_capacity(jobs.len());
        for job in jobs {
            // Its caller has gone: it was never sent, and need not be.
            if job.reply.is_closed() {
                continue;
            }
            unanswered.last_number += 1;
            let number = unanswered.last_number;
            let is_write = matches!(job.call, Call::Command(_));
            unanswered.jobs.insert(number, (is_write, job.reply));
            let timeout_ms = millis(job.deadline.saturating_duration_since(now));
            items.push(ForwardItem { number, call: Some(job.call), timeout_ms });
        }
        ForwardRequest { items }
    }

    fn settle(&self, response: ForwardResponse) {
        let mut unanswered = self.lock();
        for result in response.results {
            if let Some((_, reply)) = unanswered.jobs.remove(&result.number) {
                drop(reply.send(match result.result {
                    Some(Answer::Error(error)) => Err(failure(error)),
                    Some(answer) => Ok(Reply { answer, by_lease: result.by_lease }),
                    None => Err(ForwardFailure::Unknown("the leader's answer was not understood".into())),
                }));
            }
        }
    }

    fn fail(&self, reason: &str) {
        for (is_write, reply) in std::mem::take(&mut self.lock().jobs).into_values() {
            let failure = if is_write && !mutant!(UnknownSaidToHaveFailed) {
                ForwardFailure::Unknown(reason.to_owned())
            } else {
                ForwardFailure::NotLeader
            };
            drop(reply.send(Err(failure)));
        }
    }
}

/// Whole milliseconds, as deadlines travel.
pub fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The leader's side: answers each item with `handle`, many at once, in any order.
pub fn serve<H, F>(requests: MessageStream<ForwardRequest>, handle: H) -> MessageStream<ForwardResponse>
where
    H: Fn(Call, Instant) -> F + Send + 'static,
    F: Future<Output = Result<Reply, ForwardFailure>> + Send + 'static,
{
    requests
        .flat_map(|request| stream::iter(request.items))
        .map(move |item| {
            let deadline = Instant::now() + Duration::from_millis(item.timeout_ms.into());
            let answer = item.call.map(|call| handle(call, deadline));
            async move {
                let reply = match answer {
                    Some(answer) => answer.await.unwrap_or_else(|failure| Answer::Error(error(failure)).into()),
                    None => Answer::Error(error(ForwardFailure::Unknown("not understood".into()))).into(),
                };
                ForwardResult { number: item.number, result: Some(reply.answer), by_lease: reply.by_lease }
            }
        })
        .buffer_unordered(QUEUE_MAX)
        .ready_chunks(ITEMS_MAX)
        .map(|results| ForwardResponse { results })
        .boxed()
}

fn error(failure: ForwardFailure) -> ForwardError {
    let (kind, message) = match failure {
        ForwardFailure::NotLeader => (Kind::NotLeader, String::new()),
        ForwardFailure::Unknown(reason) => (Kind::UnknownOutcome, reason),
        ForwardFailure::Refused(RequestError::DiskFull) => (Kind::DiskFull, String::new()),
        ForwardFailure::Refused(RequestError::QuotaExceeded { used, quota }) => {
            return ForwardError { kind: Kind::Quota.into(), message: String::new(), used, quota };
        }
        ForwardFailure::Refused(other) => (Kind::Unavailable, other.to_string()),
    };
    ForwardError { kind: kind.into(), message, used: 0, quota: 0 }
}

fn failure(error: ForwardError) -> ForwardFailure {
    match error.kind() {
        Kind::NotLeader => ForwardFailure::NotLeader,
        Kind::DiskFull => ForwardFailure::Refused(RequestError::DiskFull),
        Kind::Quota => ForwardFailure::Refused(RequestError::QuotaExceeded { used: error.used, quota: error.quota }),
        Kind::Unavailable => ForwardFailure::Refused(RequestError::Unavailable { reason: error.message }),
        Kind::UnknownOutcome | Kind::Unspecified => ForwardFailure::Unknown(error.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_back_as_they_were() {
        let failures = [
            ForwardFailure::NotLeader,
            ForwardFailure::Unknown("lost".into()),
            ForwardFailure::Refused(RequestError::DiskFull),
            ForwardFailure::Refused(RequestError::QuotaExceeded { used: 5, quota: 4 }),
        ];
        for sent in failures {
            assert_eq!(failure(error(sent.clone())), sent);
        }
    }

    #[tokio::test]
    async fn unsent_jobs_have_no_effect_and_sent_writes_are_unknown() {
        let pending = Pending::default();
        let job = |call| {
            let (reply, answer) = oneshot::channel();
            (Job { call, deadline: Instant::now(), reply }, answer)
        };
        let (write, write_answer) = job(Call::Command(crate::command::set("k", "v")));
        let (read, read_answer) = job(Call::ReadIndex(ReadIndex { lease: false }));
        let (gone, _) = job(Call::ReadIndex(ReadIndex { lease: false }));
        assert_eq!(pending.number(vec![write, read, gone]).items.len(), 2);
        pending.fail("cut");
        assert_eq!(write_answer.await.expect("answer"), Err(ForwardFailure::Unknown("cut".into())));
        assert_eq!(read_answer.await.expect("answer"), Err(ForwardFailure::NotLeader));
    }
}
