//! What a node asks before its first vote: whether the others know better than its own disk.
//!
//! A node that has just started greets all members that it can reach. Each greeting carries the node's start, so that a copy
//! of a data directory is refused by who knows a later one; and the answers say what a disk that went back in time has
//! forgotten: up to where the leader was told that this node has the log (then the node ends), and the newest vote of whom
//! this node may have voted for (in that term and before it, this node grants no vote again).
//!
//! Until all have answered, or the time is over, no vote is granted, nothing that a leader sends is taken in, and this node
//! does not stand for election. The time is a part of an election timeout, so that nodes that start together still find a
//! leader as soon as ever, and a node whose peers are all away goes on without them.
//!
//! One more thing is forgotten, with any disk: when this node acknowledged its leader last. From then on it helps nobody
//! else to leadership for `election_timeout_max`, and the leader may rely on that ([`LEASE_PART`](crate::raft::LEASE_PART)).
//! So for that time after the start it neither votes nor stands for election, unless that leader has answered and leads no
//! more. Which one it was is on the disk: a vote is synced before a leader is acknowledged. A leader that hands over
//! relies on nothing any more, so its successor gets the vote.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use mokv_proto::internal::{AppendRequest, GreetRequest, GreetResponse, Vote, VoteRequest, VoteResponse};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::incarnation::REMEDY;
use crate::mutants::mutant;
use crate::peer::{Caller, Lane, MessageStream, PeerNetwork, Target};
use crate::raft::types::{LogId, NodeId, log_id_from_proto};
use crate::raft::{Member, Raft};
use crate::runtime::Tasks;

/// A member that can't be reached is tried again after this time: nodes that start together come up one after the other.
const RETRY: Duration = Duration::from_millis(50);

/// Whom a node asks, and about what.
pub struct Newcomer {
    /// This node.
    pub caller: Caller,
    /// Consensus. It stands for no election before [`Raft::allow_elections`].
    pub raft: Raft,
    /// Reaches the members.
    pub peers: Arc<dyn PeerNetwork>,
    /// The last entry on the disk when the node started, whether in the log or in a snapshot.
    pub last: Option<LogId>,
    /// How long it waits for those that don't answer.
    pub patience: Duration,
    /// For how long a leader may rely on an acknowledgement.
    pub lease: Duration,
}

/// How far the introduction of this node has come. Cheap to clone.
#[derive(Clone)]
pub struct Introduction {
    state: watch::Receiver<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// Who has answered, and whether it leads.
    answers: BTreeMap<NodeId, bool>,
    /// The newest vote of which an answer told.
    newest_vote: Option<Vote>,
    is_over: bool,
    may_vote: bool,
}

impl Introduction {
    /// Begins to ask.
    pub fn start(tasks: &Tasks, newcomer: Newcomer) -> Self {
        let (publish, state) = watch::channel(State::default());
        tasks.spawn(newcomer.introduce(publish));
        Self { state }
    }

    /// Waits until all members have answered that can be reached.
    pub async fn over(&self) {
        // A node that is ending waits for nothing.
        drop(self.state.clone().wait_for(|state| state.is_over).await);
    }

    /// Waits until this node may help another one to leadership.
    pub async fn may_vote(&self, request: &VoteRequest) {
        let forgets = mutant!(LeaseForgotten) || request.leadership_transfer;
        drop(self.state.clone().wait_for(|state| state.may_vote || (state.is_over && forgets)).await);
    }

    /// The requests of a leader, as soon as they may be taken in. Ends with the first one of a term before that of the newest
    /// vote: this node may have voted for its successor, and what it acknowledges now would count for both.
    pub fn gate(&self, requests: MessageStream<AppendRequest>) -> MessageStream<AppendRequest> {
        let gated = stream::unfold((requests, self.clone()), |(mut requests, introduction)| async move {
            let request = requests.next().await?;
            introduction.over().await;
            let is_current = introduction.is_current(request.vote.as_ref());
            is_current.then_some((request, (requests, introduction)))
        });
        gated.boxed()
    }

    /// Whether a leader by this vote leads in the term of the newest one, or later.
    pub fn is_current(&self, vote: Option<&Vote>) -> bool {
        let newest = self.state.borrow().newest_vote;
        newest.is_none_or(|newest| vote.is_some_and(|vote| vote.term >= newest.term))
    }

    /// The refusal of a vote in a term in which this node may have voted before, and have forgotten it.
    pub fn refusal(&self, request: &VoteRequest, own_term: u64) -> Option<VoteResponse> {
        let newest = self.state.borrow().newest_vote?;
        let asked = request.vote.as_ref().map_or(0, |vote| vote.term);
        // Whoever asks hears of the newest vote, as from a node that has it: otherwise it would never go beyond it.
        let is_open = asked <= newest.term && own_term <= newest.term;
        is_open.then_some(VoteResponse { vote: Some(newest), granted: false, last_log_id: None })
    }
}

impl Newcomer {
    async fn introduce(self, publish: watch::Sender<State>) {
        let start = Instant::now();
        let own_term = self.raft.term();
        let relying = self.raft.acknowledged_leader().filter(|leader| *leader != self.caller.node_id);
        let members = self.raft.members();
        let others: Vec<_> = members.iter().filter(|member| member.node_id != self.caller.node_id).collect();
        if others.iter().any(|member| member.is_voter) && !mutant!(FirstVoteUnasked) {
            let asking = join_all(others.iter().map(|member| self.greet(member, own_term, &publish)));
            if timeout(self.patience, asking).await.is_err() {
                let answers = publish.borrow().answers.len();
                tracing::info!(answers, members = others.len(), "going on without the answers of all members");
            }
            publish.send_modify(|state| state.is_over = true);
            let leads_no_more = |leader| publish.borrow().answers.get(&leader) == Some(&false);
            if relying.is_some_and(|leader| !leads_no_more(leader)) && !mutant!(LeaseForgotten) {
                sleep_until(start + self.lease).await;
            }
        }
        publish.send_modify(|state| (state.is_over, state.may_vote) = (true, true));
        self.raft.allow_elections();
    }

    /// Asks one member until it answers.
    async fn greet(&self, member: &Member, own_term: u64, publish: &watch::Sender<State>) {
        let target = Target { node_id: Some(member.node_id), rpc_addr: member.info.rpc_addr.clone() };
        let peer = self.peers.peer(&self.caller, &target, Lane::Forward);
        let answer = loop {
            match peer.greet(GreetRequest { node_id: self.caller.node_id }).await {
                Ok(answer) => break answer,
                Err(status) => tracing::debug!(member = member.node_id, %status, "no answer to a greeting"),
            }
            sleep(RETRY).await;
        };
        if let Some(lost) = lost(&answer, own_term, self.last) {
            self.caller.starts.refuse(&format!(
                "this data directory went back in time: node {}, which leads, was told that entries up to {lost} are on its \
                 disk, where they end with {}. {REMEDY}",
                member.node_id,
                self.last.map_or_else(|| "none".into(), |last| last.to_string()),
            ));
        }
        publish.send_modify(|state| {
            let newest = |vote: &Option<Vote>| vote.map(|vote| (vote.term, vote.committed));
            if newest(&answer.vote) > newest(&state.newest_vote) {
                state.newest_vote = answer.vote;
            }
            state.answers.insert(member.node_id, answer.leads);
        });
    }
}

/// The entry that this node has told a leader to have, and has no more.
///
/// What a leader knows to match was never dropped as long as nobody led in a later term; and who has followed a later leader
/// has its term on the disk.
fn lost(answer: &GreetResponse, own_term: u64, last: Option<LogId>) -> Option<LogId> {
    let term = answer.vote.as_ref()?.term;
    let matched = answer.matched.as_ref().map(log_id_from_proto)?;
    (own_term <= term && last < Some(matched)).then_some(matched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{log_id, log_id_to_proto};

    fn vote(term: u64) -> Option<Vote> {
        Some(Vote { term, node_id: 2, committed: true })
    }

    #[test]
    fn an_entry_is_lost_that_the_leader_of_this_nodes_term_was_told_of() {
        let answer =
            |term| GreetResponse { vote: vote(term), matched: Some(log_id_to_proto(&log_id(5, 100))), leads: true };
        let lost_of = |term, own_term, last| lost(&answer(term), own_term, last);
        assert_eq!(lost_of(5, 5, Some(log_id(5, 100))), None);
        assert_eq!(lost_of(5, 5, Some(log_id(5, 99))), Some(log_id(5, 100)));
        assert_eq!(lost_of(5, 4, Some(log_id(4, 99))), Some(log_id(5, 100)), "it has even forgotten the term");
        assert_eq!(lost_of(5, 5, None), Some(log_id(5, 100)));
        // A leader of a later term may have had it dropped.
        assert_eq!(lost_of(5, 6, Some(log_id(5, 99))), None);
        assert_eq!(lost(&GreetResponse { vote: vote(5), ..GreetResponse::default() }, 5, None), None);
    }

    #[test]
    fn no_vote_is_granted_in_a_term_that_others_know() {
        let newest_vote = vote(5);
        let (_, state) = watch::channel(State { newest_vote, is_over: true, ..State::default() });
        let introduction = Introduction { state };
        let asked = |term| VoteRequest { vote: vote(term), ..VoteRequest::default() };
        let refusal = introduction.refusal(&asked(5), 4).expect("refused");
        assert_eq!((refusal.granted, refusal.vote), (false, newest_vote));
        assert!(introduction.refusal(&asked(4), 5).is_some());
        assert!(introduction.refusal(&asked(6), 5).is_none(), "a later term");
        assert!(introduction.refusal(&asked(5), 6).is_none(), "what its own disk says is enough");
        assert!(introduction.is_current(vote(5).as_ref()) && !introduction.is_current(vote(4).as_ref()));
    }
}
