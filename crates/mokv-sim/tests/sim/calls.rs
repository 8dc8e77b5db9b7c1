//! Calls that a scenario makes itself, as often and to whom it likes, where a client would decide that.

use std::time::Duration;

use mokv_check::{Answer, Op, Outcome};
use mokv_proto::api::{OpenSessionRequest, RequestId, SetRequest, SetResponse};
use mokv_proto::cluster::TransferLeaderRequest;
use mokv_server::raft::types::NodeId;
use mokv_sim::run::World;
use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use mokv_sim::cluster::Running;

/// How long a call may take, if the scenario has nothing else in mind.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A write in a session. However often it is sent, it is one call of the history.
pub(crate) struct SessionWrite {
    call: u64,
    id: RequestId,
    key: String,
    value: String,
}

impl SessionWrite {
    /// The write with this number in a session. It is not sent yet.
    pub(crate) fn new(world: &World, client_id: u64, sequence: u64, key: &str) -> Self {
        let id = RequestId { client_id, sequence, first_unanswered: 1 };
        let value = format!("session {client_id} write {sequence}");
        let op = Op::set(key, value.clone());
        // Nobody else has this number.
        let call = world.recorder.call(10_000 + 10 * client_id + sequence, op);
        world.recorder.request(client_id, sequence, call);
        Self { call, id, key: key.into(), value }
    }

    /// Sends it to a node, once.
    pub(crate) async fn send(&self, world: &World, host: usize, timeout: Duration) -> Result<SetResponse, Status> {
        let message = SetRequest {
            key: self.key.clone(),
            value: self.value.clone().into(),
            request_id: Some(self.id),
            ..Default::default()
        };
        call(world, host, message, timeout, |running, request| async move { running.kv().set(request).await }).await
    }

    /// The answer that counts.
    pub(crate) fn answered(&self, world: &World, answer: &SetResponse) {
        let SetResponse { revision, create_revision, version, .. } = *answer;
        world.recorder.answer(
            self.call,
            Outcome::Ok { answer: Answer::Set { revision, create_revision, version, previous: None } },
        );
    }

    /// It had no effect, and will have none.
    pub(crate) fn failed(&self, world: &World, status: &Status) {
        world.recorder.answer(self.call, Outcome::Failed { reason: reason(status) });
    }
}

/// Opens a session through a node.
pub(crate) async fn open_session(world: &World, host: usize) -> Result<u64, Status> {
    let open = |running: Running, request| async move { running.kv().open_session(request).await };
    Ok(call(world, host, OpenSessionRequest {}, CALL_TIMEOUT, open).await?.client_id)
}

/// Asks a node to have leadership handed to this one.
pub(crate) async fn transfer(world: &World, host: usize, to: NodeId, timeout: Duration) -> Result<(), Status> {
    let message = TransferLeaderRequest { member: to.to_string() };
    let transfer = |running: Running, request| async move { running.operator().transfer_leader(request).await };
    call(world, host, message, timeout, transfer).await.map(drop)
}

/// The reason in an error.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}

/// One call to a node, which is told how long it may take. Nothing but the node ends it.
async fn call<Q, A, R>(
    world: &World,
    host: usize,
    message: Q,
    timeout: Duration,
    call: impl FnOnce(Running, Request<Q>) -> R,
) -> Result<A, Status>
where
    A: Send + 'static,
    R: Future<Output = Result<Response<A>, Status>> + Send + 'static,
{
    let running = world.cluster.running(host).ok_or_else(|| Status::unavailable("the node is down"))?;
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    let calling = running.node.tasks().clone().spawn(call(running, request));
    calling.await.map_err(|_| Status::unavailable("the node died"))?.map(Response::into_inner)
}
