//! Leaving for good: the membership first, then the process.
//!
//! A member leaves by itself, so whoever is asked passes the question on to it. It hands leadership over if it leads, has
//! the leader take it out of the membership, which is refused where the rest could not go on, notes on its disk that it
//! is out, and ends ([`Node::left`]). A member that does not answer is removed by the leader. A cluster of one may end
//! like this, too.

use std::time::Duration;

use mokv_proto::cluster::RemoveMemberRequest;
use mokv_proto::internal::admin_request::Change;
use mokv_proto::internal::{AdminRequest, LeaveNotice};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::RequestError;
use crate::forward;
use crate::maintenance;
use crate::members::find;
use crate::node::{Node, leads};
use crate::peer::Target;
use crate::peer_service::admin_error;
use crate::raft::Member;

/// How often a condition of the cluster is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// Of the time that there is, the part in which a member that is to leave has to answer before it is removed without.
const ANSWER_PART: u32 = 2;

impl Node {
    /// Lets `member` (a node id or a name; empty: this node) leave for good.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. Where the outcome is unknown, the same call goes on from there.
    pub async fn leave_member(&self, member: &str, deadline: Instant) -> Result<(), RequestError> {
        if member.is_empty() {
            return self.leave(deadline).await;
        }
        let leaving = find(&self.raft().members(), member)?;
        if leaving.node_id == self.node_id() {
            return self.leave(deadline).await;
        }
        let limit = deadline.saturating_duration_since(Instant::now()) / ANSWER_PART;
        let target = Target { node_id: Some(leaving.node_id), rpc_addr: leaving.info.rpc_addr.clone() };
        let request = AdminRequest { change: Some(Change::Leave(LeaveNotice {})), timeout_ms: forward::millis(limit) };
        let asked = timeout_at(Instant::now() + limit, self.peer(&target).admin(request)).await;
        match asked.map(|answer| answer.map_err(|status| admin_error(&status))) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error @ (RequestError::Refused(_) | RequestError::NotFound(_) | RequestError::Invalid(_)))) => {
                Err(error)
            }
            // It is down, or can't reach the leader.
            Ok(Err(_)) | Err(_) => match self.remove_member(&leaving.node_id.to_string(), false, deadline).await {
                Err(RequestError::NotFound(_)) => Ok(()),
                removed => removed,
            },
        }
    }

    /// Takes this node out of its cluster for good. When this has succeeded, [`Node::left`] completes.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. Unless it has left, the node stays a member and goes on.
    pub async fn leave(&self, deadline: Instant) -> Result<(), RequestError> {
        loop {
            let Some(_leaving) = self.departure().begin() else {
                // Another call is at it, and leads to the same.
                match timeout_at(deadline, self.departure().settled()).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => continue,
                    Err(_) => return Err(unfinished()),
                }
            };
            timeout_at(deadline, self.leave_membership(deadline)).await.unwrap_or_else(|_| Err(unfinished()))?;
            self.note_left().await;
            return Ok(());
        }
    }

    /// Completes when this node is no member any more, by its own wish or by somebody else's, and has heard of it: then
    /// its process has to end. It does not start again on this data directory.
    pub async fn left(&self) {
        self.departure().left().await;
    }

    /// This node is out.
    pub(crate) async fn note_left(&self) {
        tracing::warn!("this node is no member of its cluster any more, and stops");
        self.departure().finish(&self.data_dir().identity()).await;
    }

    /// The leader says that the entry at `index` removed this node.
    pub(crate) async fn note_removed(&self, index: u64) -> Result<(), RequestError> {
        let members = self.raft().membership();
        // A notice that was on its way for long.
        if members.index() > index && members.get(self.node_id()).is_some() {
            return Err(RequestError::Refused("this node is a member again".into()));
        }
        self.note_left().await;
        Ok(())
    }

    async fn leave_membership(&self, deadline: Instant) -> Result<(), RequestError> {
        loop {
            let members = self.raft().members();
            if members.is_empty() {
                return Err(RequestError::Refused("this node is in no cluster".into()));
            }
            if members.iter().all(|member| member.node_id == self.node_id()) {
                return Ok(());
            }
            if !leads(&self.raft().leadership().borrow()) {
                let request = RemoveMemberRequest { member: self.node_id().to_string(), force: false };
                match self.change(Change::Remove(request), deadline).await {
                    Ok(_) | Err(RequestError::NotFound(_)) => return Ok(()),
                    Err(error @ (RequestError::Refused(_) | RequestError::Invalid(_))) => return Err(error),
                    // There is no leader at the moment, or another one by now.
                    Err(_) => sleep(POLL).await,
                }
                continue;
            }
            let others = || members.iter().filter(|member| member.node_id != self.node_id());
            if others().any(|member| member.is_voter && self.is_reachable(member)) {
                let grace = self.options().raft.election_timeout_max;
                maintenance::hand_over(self.node_id(), self.raft(), |to| self.is_reachable(to), grace).await;
            } else if let Some(heir) = others().find(|member| !member.is_voter && self.may_succeed(member)) {
                self.promote(heir.node_id).await?;
            } else {
                return Err(RequestError::Refused(
                    "no other member has caught up enough to lead: what was written would be out of reach".into(),
                ));
            }
        }
    }

    fn may_succeed(&self, member: &Member) -> bool {
        self.is_reachable(member) && member.has_caught_up()
    }
}

fn unfinished() -> RequestError {
    RequestError::OutcomeUnknown { reason: "leaving was not finished in time: call again to go on with it".into() }
}
