//! Whether there is room for what is written: on this node's disk, and while it leads, on those of the other voters.
//!
//! Each node looks for room on its own disk again and again. A leader asks the others, too: where most voters have none,
//! nothing can be committed, and a write is better refused than accepted and never answered. A leader without room hands
//! over, but only to a voter that has some, and only if most have: otherwise the next one could do no more than this one,
//! and until it leads nobody could read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mokv_proto::internal::IdentifyRequest;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::maintenance;
use crate::node::leads;
use crate::peer::{Caller, Lane, PeerNetwork, Target};
use crate::raft::log::Log;
use crate::raft::types::NodeId;
use crate::raft::{Member, Raft};
use crate::runtime::Tasks;

/// How often room is looked for, and others are asked. When a disk has room again, its node finds out within one of these,
/// and its leader within another one.
const TICK: Duration = Duration::from_millis(400);

/// A node that has not answered by then is asked again with the next tick.
const ASK_TIMEOUT: Duration = Duration::from_millis(400);

/// A leader that can't write hands over at most this often.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(10);

/// Looks after the room of one node.
pub struct Rooms {
    /// This node.
    pub caller: Caller,
    /// Consensus.
    pub raft: Raft,
    /// The log.
    pub log: Log,
    /// Reaches the other voters.
    pub peers: Arc<dyn PeerNetwork>,
}

/// What the voters say of their disks. Those that don't answer are in neither set.
#[derive(Debug, Default, PartialEq, Eq)]
struct Survey {
    voters: usize,
    with_room: BTreeSet<NodeId>,
    full: BTreeSet<NodeId>,
}

impl Survey {
    /// Too few are left that could write.
    fn is_majority_full(&self) -> bool {
        self.voters - self.full.len() < self.majority()
    }

    fn has_majority_room(&self) -> bool {
        self.with_room.len() >= self.majority()
    }

    fn majority(&self) -> usize {
        self.voters / 2 + 1
    }
}

/// Starts looking. The watch tells whether this node leads and most voters have no room.
pub fn start(tasks: &Tasks, rooms: Rooms) -> watch::Receiver<bool> {
    let (publish, is_majority_full) = watch::channel(false);
    tasks.spawn(reserve(rooms.log.clone()));
    tasks.spawn(rooms.run(tasks.clone(), publish));
    is_majority_full
}

/// A loop of its own: nothing that it has to wait for keeps the node from going on when there is room.
async fn reserve(log: Log) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !log.has_room() {
            log.try_reserve();
        }
    }
}

impl Rooms {
    async fn run(self, tasks: Tasks, publish: watch::Sender<bool>) {
        let mut leadership = self.raft.leadership();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_hand_over: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                // A new leader has to know at once.
                changed = leadership.changed() => if changed.is_err() { return },
                _ = ticks.tick() => {}
            }
            if !leads(&leadership.borrow_and_update()) {
                publish.send_replace(false);
                continue;
            }
            let survey = self.ask().await;
            publish.send_replace(survey.is_majority_full());
            let recently = last_hand_over.is_some_and(|at| at.elapsed() < HAND_OVER_PAUSE);
            if !self.log.has_room() && survey.has_majority_room() && !recently {
                tracing::warn!("no room on the disk for the log: another node shall lead");
                last_hand_over = Some(Instant::now());
                let (node_id, raft) = (self.caller.node_id, self.raft.clone());
                tasks.spawn(async move {
                    let with_room = |member: &Member| survey.with_room.contains(&member.node_id);
                    maintenance::hand_over(node_id, &raft, with_room, HAND_OVER_PAUSE).await;
                });
            }
        }
    }

    /// Asks all voters at once.
    async fn ask(&self) -> Survey {
        let voters: Vec<Member> = self.raft.members().into_iter().filter(|member| member.is_voter).collect();
        let mut survey = Survey { voters: voters.len(), ..Survey::default() };
        for (node_id, is_full) in join_all(voters.into_iter().map(|voter| self.is_full(voter))).await {
            match is_full {
                Some(true) => drop(survey.full.insert(node_id)),
                Some(false) => drop(survey.with_room.insert(node_id)),
                None => {}
            }
        }
        survey
    }

    async fn is_full(&self, voter: Member) -> (NodeId, Option<bool>) {
        let node_id = voter.node_id;
        if node_id == self.caller.node_id {
            return (node_id, Some(!self.log.has_room()));
        }
        let target = Target { node_id: Some(node_id), rpc_addr: voter.info.rpc_addr };
        let peer = self.peers.peer(&self.caller, &target, Lane::Forward);
        let answer = timeout(ASK_TIMEOUT, peer.identify(IdentifyRequest {})).await.ok().and_then(Result::ok);
        // Another node may have its address by now.
        (node_id, answer.filter(|answer| answer.node_id == node_id).map(|answer| answer.disk_full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(voters: usize, with_room: &[NodeId], full: &[NodeId]) -> Survey {
        Survey { voters, with_room: with_room.iter().copied().collect(), full: full.iter().copied().collect() }
    }

    /// Nobody may take silence for an answer: neither to refuse writes nor to hand over.
    #[test]
    fn who_does_not_answer_is_neither_full_nor_has_room() {
        for (survey, is_majority_full, has_majority_room) in [
            (survey(1, &[1], &[]), false, true),
            (survey(1, &[], &[1]), true, false),
            (survey(3, &[1, 2], &[3]), false, true),
            (survey(3, &[1], &[3]), false, false),
            (survey(3, &[1], &[2, 3]), true, false),
            (survey(4, &[1, 2], &[3, 4]), true, false),
            (survey(5, &[], &[4, 5]), false, false),
        ] {
            assert_eq!(survey.is_majority_full(), is_majority_full, "{survey:?}");
            assert_eq!(survey.has_majority_room(), has_majority_room, "{survey:?}");
        }
    }
}
