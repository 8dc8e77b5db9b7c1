//! Linearizable reads by read index, shared: one round is under way at a time, and all that arrive meanwhile share the
//! next one.
//!
//! A read may use a round only if the round began after the read did; so a read that arrives during a round waits for the
//! one after it. On a follower the round is one question to the leader.

use std::future::Future;

use mokv_proto::internal::LogId;
use tokio::sync::{mpsc, oneshot};

use crate::mutants::mutant;
use crate::raft::ReadIndexError;
use crate::runtime::Tasks;

/// Reads waiting for a round at most; more wait in their own task, within their deadline.
const QUEUE_MAX: usize = 64 * 1024;

type Answer<T> = Result<T, ReadIndexError>;

/// Where reads ask for an index. Cheap to clone; the task ends with the last clone.
#[derive(Debug)]
pub struct ReadGate<T = LogId> {
    queue: mpsc::Sender<oneshot::Sender<Answer<T>>>,
}

impl<T> Clone for ReadGate<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<T: Clone + Send + 'static> ReadGate<T> {
    /// Starts the task that runs the rounds; `round` is one of them.
    pub fn start<F, R>(tasks: &Tasks, round: F) -> Self
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Answer<T>> + Send + 'static,
    {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        tasks.spawn(run(round, waiting));
        Self { queue }
    }

    /// An index that covers every write acknowledged before this was called.
    ///
    /// # Errors
    ///
    /// See [`ReadIndexError`].
    pub async fn read_index(&self) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(reply).await.is_err() {
            return Err(ReadIndexError::NotLeader);
        }
        answer.await.unwrap_or(Err(ReadIndexError::NotLeader))
    }
}

async fn run<T, F, R>(round: F, mut queue: mpsc::Receiver<oneshot::Sender<Answer<T>>>)
where
    T: Clone,
    F: Fn() -> R,
    R: Future<Output = Answer<T>>,
{
    let mut readers = Vec::new();
    while queue.recv_many(&mut readers, QUEUE_MAX).await > 0 {
        readers.retain(|reader| !reader.is_closed());
        if readers.is_empty() {
            continue;
        }
        let answer = round().await;
        if mutant!(ReadJoinsRunningRound) {
            while let Ok(reader) = queue.try_recv() {
                readers.push(reader);
            }
        }
        for reader in readers.drain(..) {
            drop(reader.send(answer.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::runtime::DiskTasks;

    /// The rule that makes a shared round safe: an answer comes from a round that began after the question.
    #[tokio::test]
    async fn a_read_never_uses_a_round_that_began_before_it() {
        let tasks = Tasks::new(1, DiskTasks::Inline);
        let rounds = Arc::new(AtomicU64::new(0));
        let finish = Arc::new(Semaphore::new(0));
        let gate = ReadGate::start(&tasks, {
            let (rounds, finish) = (rounds.clone(), finish.clone());
            move || {
                let index = rounds.fetch_add(1, Ordering::SeqCst) + 1;
                let finish = finish.clone();
                async move {
                    finish.acquire().await.expect("open").forget();
                    Ok(LogId { term: 1, index })
                }
            }
        });
        let ask = || {
            let gate = gate.clone();
            tasks.spawn(async move { gate.read_index().await.expect("index").index })
        };

        let first = ask();
        while rounds.load(Ordering::SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        let meanwhile = [ask(), ask(), ask()];
        tokio::task::yield_now().await;
        finish.add_permits(1);
        assert_eq!(first.await.expect("first"), 1);
        finish.add_permits(1);
        for read in meanwhile {
            assert_eq!(read.await.expect("meanwhile"), 2);
        }
        assert_eq!(rounds.load(Ordering::SeqCst), 2);
    }
}
