//! Group commit: concurrent writes become one log entry.
//!
//! One task takes whatever has queued up, never waiting for more, and proposes it as one [`Batch`]; a few batches are
//! under way at once, so that disk, network and apply overlap. An idle system commits a single write at once. Writes
//! are proposed in the order in which they were queued.
//!
//! A batch carries the log time of the moment in which it is put together, and is proposed in the term of that moment only.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use crate::command::{Batch, Group, Outcome, OutcomeResult};
use crate::lease_keeper::LeaseKeeper;
use crate::log_clock::SharedLogClock;
use crate::raft::{ProposeError, Raft};
use crate::runtime::Tasks;
use crate::store::LogTime;

/// Commands of one batch at most, unless a single group has more.
const BATCH_COMMANDS_MAX: usize = 1024;

/// Bytes of one batch at most, unless a single group is larger.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Batches under way at most: enough to keep the disk busy while the one before is being replicated and applied; more
/// would only make the batches smaller.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// Writes waiting at most; those that come when it is full wait in their own task, within their deadline.
const QUEUE_MAX: usize = 16 * 1024;

/// Where writes are handed in. Cheap to clone; the task ends with the last clone.
#[derive(Debug, Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    group: Group,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Vec<Outcome>, ProposeError>>;

/// What a proposer works with.
#[derive(Clone)]
pub struct Proposing {
    /// Consensus.
    pub raft: Raft,
    /// What batches are stamped with.
    pub clock: SharedLogClock,
    /// Learns which leases were granted.
    pub keeper: LeaseKeeper,
}

type Proposal = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Proposer {
    /// Starts the task that proposes.
    pub fn start(tasks: &Tasks, to: Proposing) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tasks.spawn(run(to, waiting));
        Self { queue }
    }

    /// Replicates and applies commands, in one batch. Dropping the future gives them up if they were not proposed yet.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]: it is the same for all of them.
    pub async fn propose(&self, group: Group) -> Result<Vec<Outcome>, ProposeError> {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Waiting { group, reply }).await.is_err() {
            return Err(ProposeError::NotLeader);
        }
        answer.await.unwrap_or_else(|_| Err(ProposeError::Unknown("the node is stopping".into())))
    }
}

async fn run(to: Proposing, mut queue: mpsc::Receiver<Waiting>) {
    let mut waiting = VecDeque::new();
    let mut in_flight: FuturesUnordered<Proposal> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            received = receive(&mut queue, &mut waiting), if in_flight.len() < BATCHES_IN_FLIGHT_MAX => {
                if !received {
                    break;
                }
                if let Some(proposal) = next_batch(&to, &mut waiting) {
                    in_flight.push(proposal);
                }
            }
        }
    }
    while in_flight.next().await.is_some() {}
}

/// Waits until there is something to propose. False when nobody can hand in anything any more.
async fn receive(queue: &mut mpsc::Receiver<Waiting>, waiting: &mut VecDeque<Waiting>) -> bool {
    if waiting.is_empty() {
        match queue.recv().await {
            Some(first) => waiting.push_back(first),
            None => return false,
        }
    }
    while waiting.len() < BATCH_COMMANDS_MAX {
        match queue.try_recv() {
            Ok(next) => waiting.push_back(next),
            Err(_) => break,
        }
    }
    true
}

/// Takes the next batch off the front. `None` if everybody in it has given up.
fn next_batch(to: &Proposing, waiting: &mut VecDeque<Waiting>) -> Option<Proposal> {
    let (mut bytes, mut commands) = (0, 0);
    let (mut groups, mut replies) = (Vec::new(), Vec::new());
    while let Some(next) = waiting.front() {
        let (more_bytes, more_commands) = (next.group.bytes(), next.group.commands());
        let is_too_much = bytes + more_bytes > BATCH_BYTES_MAX || commands + more_commands > BATCH_COMMANDS_MAX;
        if !groups.is_empty() && is_too_much {
            break;
        }
        let Some(Waiting { group, reply }) = waiting.pop_front() else { break };
        // Its caller has answered "unknown" already: proposing it now would only do harm.
        if reply.is_closed() {
            continue;
        }
        bytes += more_bytes;
        commands += more_commands;
        groups.push(group);
        replies.push((reply, more_commands));
    }
    if groups.is_empty() {
        return None;
    }
    let to = to.clone();
    Some(Box::pin(async move {
        let result = to.propose(groups).await;
        answer(replies, result);
    }))
}

impl Proposing {
    async fn propose(&self, groups: Vec<Group>) -> Result<Vec<Outcome>, ProposeError> {
        // A leader that does not know the time yet says so: then it is that of the state.
        let proposed = self.raft.counters().propose(groups.iter().map(Group::commands).sum());
        let stamp = self.clock.stamp();
        let log_time = stamp.map_or_else(LogTime::default, |stamp| stamp.log_time);
        let batch = Batch::of_groups(&groups, log_time);
        let outcomes = self.raft.propose(batch, stamp.map(|stamp| stamp.term)).await?;
        proposed.applied();
        for outcome in &outcomes {
            if let Some(OutcomeResult::GrantLease(granted)) = &outcome.result {
                self.keeper.granted(granted.lease_id);
            }
        }
        Ok(outcomes)
    }
}

/// Hands each caller its part: the outcomes of so many commands. Callers that have gone are passed over.
fn answer(replies: Vec<(Reply, usize)>, result: Result<Vec<Outcome>, ProposeError>) {
    match result {
        Ok(outcomes) => {
            let commands: usize = replies.iter().map(|(_, commands)| commands).sum();
            debug_assert_eq!(commands, outcomes.len(), "one outcome a command");
            let mut outcomes = outcomes.into_iter();
            for (reply, commands) in replies {
                drop(reply.send(Ok(outcomes.by_ref().take(commands).collect())));
            }
        }
        Err(error) => {
            for (reply, _) in replies {
                drop(reply.send(Err(error.clone())));
            }
        }
    }
}
