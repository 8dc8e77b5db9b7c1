//! Rounds of the read index: who runs them, and what a node learns from them.
//!
//! Reads wait at four gates: for a round of this node as leader, or of whoever leads; each confirmed by a majority, or where
//! that is enough, by the leader's lease. A follower's round is one question to the leader.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mokv_proto::internal::LogId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::forward::Forwarder;
use crate::freshness::FreshSince;
use crate::mutants::mutant;
use crate::raft::types::NodeId;
use crate::raft::{Leadership, Raft, ReadIndexError};
use crate::read_gate::ReadGate;
use crate::runtime::Tasks;

/// An index, and whether the leader answered for its lease.
pub type LeaseIndex = (LogId, bool);

/// The gates of a node. Cheap to clone.
#[derive(Clone)]
pub struct ReadRounds {
    leader: ReadGate,
    leader_lease: ReadGate<LeaseIndex>,
    any: ReadGate,
    any_lease: ReadGate<LeaseIndex>,
    fresh: Arc<Mutex<FreshSince>>,
}

/// What rounds are made with.
pub struct Means {
    /// This node.
    pub node_id: NodeId,
    /// Consensus.
    pub raft: Raft,
    /// Reaches another leader.
    pub forwarder: Forwarder,
    /// How long a leader is waited for.
    pub timeout: Duration,
    /// Whether this node, as leader, answers for its lease.
    pub lease_reads: bool,
}

impl ReadRounds {
    /// Starts the tasks.
    pub fn start(tasks: &Tasks, means: Means) -> Self {
        let Means { node_id, raft, forwarder, timeout, lease_reads } = means;
        let leadership = raft.leadership();
        let leader = ReadGate::start(tasks, {
            let raft = raft.clone();
            move || {
                let raft = raft.clone();
                async move { raft.read_index().await }
            }
        });
        let leader_lease = ReadGate::start(tasks, {
            let leader = leader.clone();
            move || {
                let (raft, leader) = (raft.clone(), leader.clone());
                async move {
                    match lease_reads {
                        true => raft.lease_index().await.map(|log_id| (log_id, true)),
                        false => leader.read_index().await.map(|log_id| (log_id, false)),
                    }
                }
            }
        });
        let fresh = Arc::<Mutex<FreshSince>>::default();
        let question = Question { node_id, leadership, forwarder, timeout };
        let any = ReadGate::start(tasks, {
            let (question, leader, fresh) = (question.clone(), leader.clone(), fresh.clone());
            move || {
                let (question, leader, fresh) = (question.clone(), leader.clone(), fresh.clone());
                async move {
                    let began = Instant::now();
                    let own = async { leader.read_index().await.map(|log_id| (log_id, false)) };
                    let (log_id, _) = question.ask(false, own).await?;
                    fresh.lock().unwrap_or_else(PoisonError::into_inner).note_round(began, log_id.index);
                    Ok(log_id)
                }
            }
        });
        let any_lease = ReadGate::start(tasks, {
            let leader_lease = leader_lease.clone();
            move || {
                let (question, leader_lease) = (question.clone(), leader_lease.clone());
                async move { question.ask(true, async { leader_lease.read_index().await }).await }
            }
        });
        Self { leader, leader_lease, any, any_lease, fresh }
    }

    /// Rounds of this node as leader, confirmed by a majority.
    pub fn leader(&self) -> &ReadGate {
        &self.leader
    }

    /// Rounds of this node as leader, for its lease if it is allowed to.
    pub fn leader_lease(&self) -> &ReadGate<LeaseIndex> {
        &self.leader_lease
    }

    /// Rounds of whoever leads, confirmed by a majority.
    pub fn any(&self) -> &ReadGate {
        &self.any
    }

    /// Rounds of whoever leads, for its lease if it is allowed to.
    pub fn any_lease(&self) -> &ReadGate<LeaseIndex> {
        &self.any_lease
    }

    /// Whether a state that has applied this index is known to be at most so old.
    pub fn is_fresh(&self, max_staleness: Duration, applied: u64) -> bool {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        mutant!(StaleReadServed) || fresh.is_within(max_staleness, applied, Instant::now())
    }
}

/// One round for this node's readers.
#[derive(Clone)]
struct Question {
    node_id: NodeId,
    leadership: watch::Receiver<Leadership>,
    forwarder: Forwarder,
    timeout: Duration,
}

impl Question {
    /// `own` is the round if this node leads.
    async fn ask(
        self,
        lease: bool,
        own: impl Future<Output = Result<LeaseIndex, ReadIndexError>>,
    ) -> Result<LeaseIndex, ReadIndexError> {
        let leadership = self.leadership.borrow().clone();
        match leadership.leader {
            None => Err(ReadIndexError::NotLeader),
            Some((id, _)) if id == self.node_id => own.await,
            Some(leader) => {
                let deadline = Instant::now() + self.timeout;
                tokio::select! {
                    biased;
                    answer = self.forwarder.read_index(&leader, lease, deadline) => {
                        answer.map_err(|_| ReadIndexError::NotLeader)
                    }
                    // A leader that was cut off must not hold up the readers of its successor.
                    () = leader_changed(self.leadership.clone(), leader.0) => Err(ReadIndexError::NotLeader),
                    () = sleep_until(deadline) => Err(ReadIndexError::NotLeader),
                }
            }
        }
    }
}

/// Completes when another node leads, or none is known to.
pub async fn leader_changed(mut leadership: watch::Receiver<Leadership>, from: NodeId) {
    let changed = leadership.wait_for(|now| now.leader.as_ref().map(|(id, _)| *id) != Some(from));
    if changed.await.is_err() {
        std::future::pending::<()>().await;
    }
}
