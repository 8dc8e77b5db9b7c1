//! Operating the cluster: status, members, leadership.

use mokv_proto::cluster::{
    AddMemberRequest, LeaveRequest, ListMembersRequest, ListMembersResponse, Member, PromoteMemberRequest,
    RemoveMemberRequest, StatusRequest, StatusResponse, TransferLeaderRequest,
};
use tonic::Code;

use crate::client::Client;
use crate::error::Error;
use crate::retry::Effect;

impl Client {
    /// What a node knows about itself and its cluster: the first endpoint that answers.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        let answer = self.ask(Effect::Harmless, |attempt| async move {
            attempt.cluster().status(attempt.request(StatusRequest {})).await
        });
        answer.await
    }

    /// The members of the cluster, voters and learners.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        Ok(self.members_and_peers().await?.members)
    }

    /// The members, and the nodes that the asked one sees in gossip, those in no cluster or another one included.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn members_and_peers(&self) -> Result<ListMembersResponse, Error> {
        let answer = self.ask(Effect::Harmless, |attempt| async move {
            attempt.cluster().list_members(attempt.request(ListMembersRequest {})).await
        });
        answer.await
    }

    /// Takes the node at `rpc_addr` (host:port), whose data directory is empty, into the cluster: as a learner that
    /// copies the data, then, unless `learner` is set, as a voter. Repeating it is harmless.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn add_member(&self, rpc_addr: &str, learner: bool) -> Result<Member, Error> {
        let answer = self.ask(Effect::Harmless, |attempt| {
            let request = attempt.request(AddMemberRequest { rpc_addr: rpc_addr.to_owned(), learner });
            async move { attempt.cluster().add_member(request).await }
        });
        member_of(answer.await?.member)
    }

    /// Turns a learner, named by its name or node id, into a voter. Repeating it is harmless.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn promote_member(&self, member: &str) -> Result<Member, Error> {
        let answer = self.ask(Effect::Harmless, |attempt| {
            let request = attempt.request(PromoteMemberRequest { member: member.to_owned() });
            async move { attempt.cluster().promote_member(request).await }
        });
        member_of(answer.await?.member)
    }

    /// Removes a member, named by its name or node id, for good. With `force` even where fewer than a majority of the
    /// remaining voters can be reached.
    ///
    /// # Errors
    ///
    /// See [`Error`]; [`Error::Refused`] where the rest could not go on without it.
    pub async fn remove_member(&self, member: &str, force: bool) -> Result<(), Error> {
        let answer = self.ask(Effect::Write, |attempt| {
            let request = attempt.request(RemoveMemberRequest { member: member.to_owned(), force });
            async move { attempt.cluster().remove_member(request).await }
        });
        answer.await.map(drop)
    }

    /// Lets a member, named by its name or node id, leave for good: then its process ends. Repeating it is harmless.
    ///
    /// # Errors
    ///
    /// See [`Error`]; [`Error::Refused`] where the rest could not go on without it.
    pub async fn leave(&self, member: &str) -> Result<(), Error> {
        let answer = self.ask(Effect::Write, |attempt| {
            let request = attempt.request(LeaveRequest { member: member.to_owned() });
            async move { attempt.cluster().leave(request).await }
        });
        answer.await.map(drop)
    }

    /// Hands leadership to a voter, named by its name or node id, or to the one that has the most of the log. Answers
    /// the node id of the new leader.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<u64, Error> {
        let answer = self.ask(Effect::Write, |attempt| {
            let request = attempt.request(TransferLeaderRequest { member: to.unwrap_or_default().to_owned() });
            async move { attempt.cluster().transfer_leader(request).await }
        });
        Ok(answer.await?.leader_id)
    }
}

fn member_of(member: Option<Member>) -> Result<Member, Error> {
    member.ok_or_else(|| Error::Unexpected { code: Code::Ok, message: "an answer without the member".into() })
}
