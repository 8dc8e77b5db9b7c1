//! Ends what is due, while this node leads: keys whose time to live is over, and leases that nobody kept alive.
//!
//! It only proposes. Which keys go is decided where the entry is applied, by the log time that the entry carries; so they go
//! at the same revision on every node, and not before their time, whoever proposed that. Of leases the leader knows
//! best, see [`lease_keeper`](crate::lease_keeper).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::command::{self, Command, OutcomeResult};
use crate::forward::ForwardFailure;
use crate::lease_keeper::{Doomed, Due};
use crate::node::{Node, leads};
use crate::store::Progress;

/// What is due is looked for at most so often: under load an entry is applied every few hundred microseconds.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// What was refused is proposed again after this time.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// Leases of one revocation at most. The keys of each go in one revision, so a command should not have too many.
const LEASES_TOGETHER_MAX: usize = 64;

/// What has expired. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Expired {
    keys: Arc<AtomicU64>,
}

impl Expired {
    /// Keys that ended with their time to live, or with a lease that was not kept alive, while this node led.
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }
}

/// Starts looking.
pub(crate) fn start(node: &Node, expired: Expired) {
    let expiry = Expiry { node: node.clone(), progress: node.store().progress(), expired };
    node.tasks().spawn(expiry.run());
}

struct Expiry {
    node: Node,
    progress: watch::Receiver<Progress>,
    expired: Expired,
}

impl Expiry {
    async fn run(mut self) {
        let mut leadership = self.node.raft().leadership();
        loop {
            self.progress.borrow_and_update();
            leadership.borrow_and_update();
            self.node.log_clock().note_applied();
            let next = match self.node.lease_keeper().due(LEASES_TOGETHER_MAX) {
                Some(due) => self.expire_in_term(due).await,
                None => None,
            };
            let until_next = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return },
                changed = self.progress.changed() => if changed.is_err() { return },
                () = until_next => {}
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// As [`Expiry::expire`], but gives up what a leader that was deposed has proposed: it may wait for its fate for long.
    async fn expire_in_term(&self, due: Due) -> Option<Instant> {
        let term = due.now.term;
        let mut leadership = self.node.raft().leadership();
        let deposed = leadership.wait_for(|now| !leads(now) || now.term != term);
        tokio::select! {
            biased;
            next = self.expire(due) => next,
            _ = deposed => None,
        }
    }

    /// Proposes what is due, and answers when to look again at the latest.
    async fn expire(&self, due: Due) -> Option<Instant> {
        let key_due = self.node.store().next_deadline();
        let keys = key_due.is_some_and(|deadline| deadline <= due.now.log_time);
        if due.doomed.is_none() && !keys {
            let first = due.next.into_iter().chain(key_due).min()?;
            return Some(Instant::now() + first.saturating_duration_since(due.now.log_time));
        }
        let keys = async { if keys { self.propose(command::expire_keys()).await } else { Proposed::Applied } };
        let (keys, leases) = futures_util::join!(keys, self.revoke(due.doomed));
        let is_refused = [keys, leases].contains(&Proposed::Refused);
        Some(Instant::now() + if is_refused { REFUSED_PAUSE } else { Duration::ZERO })
    }

    async fn revoke(&self, doomed: Option<Doomed>) -> Proposed {
        let Some(doomed) = doomed else { return Proposed::Applied };
        let proposed = self.propose(command::expire_leases(doomed.term, doomed.lease_ids.clone())).await;
        match proposed {
            Proposed::Refused => self.node.lease_keeper().spare(&doomed),
            Proposed::Applied | Proposed::Unknown => self.node.lease_keeper().settle(&doomed),
        }
        proposed
    }

    async fn propose(&self, command: Command) -> Proposed {
        match self.node.write_as_leader(&command).await {
            Ok(outcome) => {
                if let Some(OutcomeResult::Expire(done)) = outcome.result {
                    self.expired.keys.fetch_add(done.deleted, Ordering::Relaxed);
                }
                Proposed::Applied
            }
            Err(ForwardFailure::Unknown(_)) => Proposed::Unknown,
            Err(ForwardFailure::NotLeader | ForwardFailure::Refused(_)) => Proposed::Refused,
        }
    }
}

/// What became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proposed {
    Applied,
    /// It may take effect yet.
    Unknown,
    /// It had no effect.
    Refused,
}
