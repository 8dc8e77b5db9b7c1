//! The operations of `api.KV`, whichever way they come: as calls of their own, or many in a stream.
//!
//! Promises that a request that is refused here had no effect. Leaves consistency, retries and routing to the node.

use std::time::Duration;

use mokv_proto::api;
use mokv_proto::api::pipeline_operation::Operation;
use mokv_proto::api::pipeline_result::Result as Told;
use tokio::time::Instant;
use tonic::Status;

use super::{convert, status, txn};
use crate::command::{self, Command, Outcome, OutcomeResult};
use crate::error::RequestError;
use crate::node::{Consistency, Freshness, Limits, Node};
use crate::store::{ChunkLimit, KeyRange, LogTime, View};

/// A write of one key.
pub(super) enum PointWrite {
    Set(api::SetRequest),
    Delete(api::DeleteRequest),
    Increment(api::IncrementRequest),
}

/// Which of them it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum PointWriteKind {
    Set,
    Delete,
    Increment,
}

/// What can be asked of a node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Operations {
    node: Node,
}

impl Operations {
    pub(super) fn new(node: Node) -> Self {
        Self { node }
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn limits(&self) -> &Limits {
        self.node.limits()
    }

    /// Does what one operation of a stream asks for.
    pub(super) async fn run(&self, operation: Operation, deadline: Instant) -> Result<Told, Status> {
        match operation {
            Operation::Get(get) => self.get(get, deadline).await.map(Told::Get),
            Operation::Set(set) => self.set(set, deadline).await.map(Told::Set),
            // Apart, so that the future of a common operation is small.
            other => Box::pin(self.run_other(other, deadline)).await,
        }
    }

    async fn run_other(&self, operation: Operation, deadline: Instant) -> Result<Told, Status> {
        match operation {
            Operation::Get(get) => self.get(get, deadline).await.map(Told::Get),
            Operation::Set(set) => self.set(set, deadline).await.map(Told::Set),
            Operation::Delete(delete) => self.delete(delete, deadline).await.map(Told::Delete),
            Operation::DeleteRange(range) => self.delete_range(range, deadline).await.map(Told::DeleteRange),
            Operation::Increment(increment) => self.increment(increment, deadline).await.map(Told::Increment),
            Operation::Txn(txn) => self.txn(txn, deadline).await.map(Told::Txn),
            Operation::Count(count) => self.count(count, deadline).await.map(Told::Count),
            Operation::OpenSession(_) => self.open_session(deadline).await.map(Told::OpenSession),
            Operation::GrantLease(grant) => self.grant_lease(grant, deadline).await.map(Told::GrantLease),
            Operation::RevokeLease(revoke) => self.revoke_lease(revoke, deadline).await.map(Told::RevokeLease),
            Operation::GetLease(get) => self.get_lease(get, deadline).await.map(Told::GetLease),
        }
    }

    pub(super) async fn get(&self, request: api::GetRequest, deadline: Instant) -> Result<api::GetResponse, Status> {
        let freshness = self.freshness_of(&request)?;
        let served = self.read_barrier(freshness, deadline).await?;
        self.look_up(request.key, request.revision, served)
    }

    /// How fresh the answer to a Get has to be, if it can be answered.
    pub(super) fn freshness_of(&self, request: &api::GetRequest) -> Result<Freshness, Status> {
        convert::check_key(&request.key, self.limits())?;
        let api::GetRequest { consistency, min_revision, max_staleness_ms, revision, .. } = *request;
        Ok(convert::freshness_at(revision, convert::freshness(consistency, min_revision, max_staleness_ms)?))
    }

    /// Answers a Get from memory, after its barrier.
    pub(super) fn look_up(&self, key: String, revision: u64, served: Consistency) -> Result<api::GetResponse, Status> {
        let (reflected, record) = match revision {
            0 => {
                let found = self.node.store().get(key.as_bytes());
                (found.revision, found.record)
            }
            _ => (revision, self.view(revision)?.get(key.as_bytes())),
        };
        let Some(record) = record else { return Err(status::no_value(&key, reflected)) };
        let answer = convert::answer(key, record, reflected, &self.remaining());
        Ok(api::GetResponse { served: convert::served(served).into(), ..answer })
    }

    pub(super) async fn set(&self, request: api::SetRequest, deadline: Instant) -> Result<api::SetResponse, Status> {
        let command = convert::set(request, self.limits())?;
        self.told_of_set(self.write(command, deadline).await?)
    }

    fn told_of_set(&self, result: OutcomeResult) -> Result<api::SetResponse, Status> {
        match result {
            OutcomeResult::Set(outcome) => convert::set_response(outcome, &self.remaining()),
            _ => Err(sequence_reused()),
        }
    }

    pub(super) async fn delete(
        &self,
        request: api::DeleteRequest,
        deadline: Instant,
    ) -> Result<api::DeleteResponse, Status> {
        let command = convert::delete(request, self.limits())?;
        self.told_of_delete(self.write(command, deadline).await?)
    }

    fn told_of_delete(&self, result: OutcomeResult) -> Result<api::DeleteResponse, Status> {
        match result {
            OutcomeResult::Delete(outcome) => convert::delete_response(outcome, &self.remaining()),
            _ => Err(sequence_reused()),
        }
    }

    pub(super) async fn delete_range(
        &self,
        request: api::DeleteRangeRequest,
        deadline: Instant,
    ) -> Result<api::DeleteRangeResponse, Status> {
        let command = convert::delete_range(request, self.limits())?;
        match self.write(command, deadline).await? {
            OutcomeResult::DeleteRange(outcome) => Ok(convert::delete_range_response(outcome)),
            _ => Err(sequence_reused()),
        }
    }

    pub(super) async fn increment(
        &self,
        request: api::IncrementRequest,
        deadline: Instant,
    ) -> Result<api::IncrementResponse, Status> {
        let command = convert::increment(request, self.limits())?;
        told_of_increment(self.write(command, deadline).await?)
    }

    /// The command of a point write, if it can be carried out.
    pub(super) fn command_of(&self, write: PointWrite) -> Result<(PointWriteKind, Command), Status> {
        Ok(match write {
            PointWrite::Set(set) => (PointWriteKind::Set, convert::set(set, self.limits())?),
            PointWrite::Delete(delete) => (PointWriteKind::Delete, convert::delete(delete, self.limits())?),
            PointWrite::Increment(increment) => {
                (PointWriteKind::Increment, convert::increment(increment, self.limits())?)
            }
        })
    }

    /// What to say of a point write.
    pub(super) fn told_of(&self, kind: PointWriteKind, result: OutcomeResult) -> Result<Told, Status> {
        match kind {
            PointWriteKind::Set => self.told_of_set(result).map(Told::Set),
            PointWriteKind::Delete => self.told_of_delete(result).map(Told::Delete),
            PointWriteKind::Increment => told_of_increment(result).map(Told::Increment),
        }
    }

    pub(super) async fn txn(&self, request: api::TxnRequest, deadline: Instant) -> Result<api::TxnResponse, Status> {
        let command = txn::txn(request, self.limits())?;
        match self.write(command, deadline).await? {
            OutcomeResult::Txn(outcome) => txn::txn_response(outcome, &self.remaining()),
            _ => Err(sequence_reused()),
        }
    }

    pub(super) async fn count(
        &self,
        request: api::CountRequest,
        deadline: Instant,
    ) -> Result<api::CountResponse, Status> {
        let api::CountRequest { prefix, start, end, consistency, min_revision, max_staleness_ms, revision } = request;
        let mut range = convert::range(prefix, start, end, self.limits())?;
        let freshness = convert::freshness(consistency, min_revision, max_staleness_ms)?;
        let freshness = convert::freshness_at(revision, freshness);
        let served = self.read_barrier(freshness, deadline).await?;
        let view = self.view(revision)?;
        let mut count = 0;
        while let Some(rest) = count_chunk(&view, range, &mut count) {
            range = rest;
            if Instant::now() >= deadline {
                return Err(status::deadline_exceeded());
            }
            tokio::task::yield_now().await;
        }
        Ok(api::CountResponse { count, revision: view.revision(), served: convert::served(served).into() })
    }

    pub(super) async fn open_session(&self, deadline: Instant) -> Result<api::OpenSessionResponse, Status> {
        match self.write(command::open_session(), deadline).await? {
            OutcomeResult::OpenSession(opened) => Ok(api::OpenSessionResponse { client_id: opened.client_id }),
            _ => Err(status::internal("the opening of a session had the outcome of another command")),
        }
    }

    pub(super) async fn write(&self, command: Command, deadline: Instant) -> Result<OutcomeResult, Status> {
        result(self.node.write(command, deadline).await)
    }

    /// Many writes at once, each with its own end.
    pub(super) async fn write_all(
        &self,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> Vec<Result<OutcomeResult, Status>> {
        self.node.write_all(commands, deadline).await.into_iter().map(result).collect()
    }

    pub(super) async fn read_barrier(&self, freshness: Freshness, deadline: Instant) -> Result<Consistency, Status> {
        self.node.read_barrier(freshness, deadline).await.map_err(|error| status::from_error(&error))
    }

    /// All pairs as of a revision; 0 is the newest.
    pub(super) fn view(&self, revision: u64) -> Result<View, Status> {
        self.node.store().view(revision).map_err(|error| status::no_view(&error))
    }

    /// How long something with a deadline has still to live.
    pub(super) fn remaining(&self) -> impl Fn(LogTime) -> Duration + Send + 'static {
        let node = self.node.clone();
        move |deadline| node.remaining(deadline)
    }
}

fn result(written: Result<Outcome, RequestError>) -> Result<OutcomeResult, Status> {
    let outcome = written.map_err(|error| status::from_error(&error))?;
    outcome.result.ok_or_else(|| status::internal("the state machine gave no outcome"))
}

fn told_of_increment(result: OutcomeResult) -> Result<api::IncrementResponse, Status> {
    match result {
        OutcomeResult::Increment(outcome) => Ok(convert::increment_response(outcome)),
        _ => Err(sequence_reused()),
    }
}

/// Counts a part of a range; the rest is returned, if there is one.
fn count_chunk(view: &View, range: KeyRange, count: &mut u64) -> Option<KeyRange> {
    let (counted, next) = view.count(&range, ChunkLimit::default());
    *count += counted;
    next.map(|next| range.starting_at(next))
}

/// The remembered outcome is that of another kind of write.
pub(super) fn sequence_reused() -> Status {
    status::invalid("request_id.sequence", "it was used for another write before: each write needs its own")
}
