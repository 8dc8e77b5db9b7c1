//! An operation as the contract has it, and its answer: the same for a [`pipeline`](crate::pipeline) and for unary calls.

use std::time::Duration;

use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{GetResponse, RequestId, pipeline_operation, pipeline_result};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::error::Error;

pub(crate) use pipeline_operation::Operation;
/// The answer to an operation. An error is none: that is a [`Status`].
pub(crate) use pipeline_result::Result as Answer;

/// What an operation is called in traces.
pub(crate) fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Get(_) => "get",
        Operation::Set(_) => "set",
        Operation::Delete(_) => "delete",
        Operation::DeleteRange(_) => "delete_range",
        Operation::Increment(_) => "increment",
        Operation::Txn(_) => "txn",
        Operation::Count(_) => "count",
        Operation::OpenSession(_) => "open_session",
        Operation::GrantLease(_) => "grant_lease",
        Operation::RevokeLease(_) => "revoke_lease",
        Operation::GetLease(_) => "get_lease",
    }
}

/// Where a write says that it may be sent again; `None` for what needs not say so.
pub(crate) fn request_id(operation: &mut Operation) -> Option<&mut Option<RequestId>> {
    match operation {
        Operation::Set(request) => Some(&mut request.request_id),
        Operation::Delete(request) => Some(&mut request.request_id),
        Operation::DeleteRange(request) => Some(&mut request.request_id),
        Operation::Increment(request) => Some(&mut request.request_id),
        Operation::Txn(request) => Some(&mut request.request_id),
        Operation::GrantLease(request) => Some(&mut request.request_id),
        Operation::RevokeLease(request) => Some(&mut request.request_id),
        // A session that is opened twice: the one that nobody uses gives way in time.
        Operation::Get(_) | Operation::Count(_) | Operation::OpenSession(_) | Operation::GetLease(_) => None,
    }
}

/// The revision of the store that an answer reflects; 0 if it says none.
pub(crate) fn revision(answer: &Answer) -> u64 {
    match answer {
        Answer::Get(answer) => answer.revision,
        Answer::Set(answer) => answer.revision,
        Answer::Delete(answer) => answer.revision,
        Answer::DeleteRange(answer) => answer.revision,
        Answer::Increment(answer) => answer.revision,
        Answer::Txn(answer) => answer.revision,
        Answer::Count(answer) => answer.revision,
        Answer::GrantLease(answer) => answer.revision,
        Answer::RevokeLease(answer) => answer.revision,
        Answer::OpenSession(_) | Answer::GetLease(_) | Answer::Error(_) => 0,
    }
}

/// Makes the unary call of an operation, and tells the server how long it waits.
pub(crate) async fn unary(
    mut kv: KvClient<Channel>,
    operation: Operation,
    timeout: Duration,
) -> Result<Answer, Status> {
    Ok(match operation {
        Operation::Get(message) => Answer::Get(kv.get(request(message, timeout)).await?.into_inner()),
        Operation::Set(message) => Answer::Set(kv.set(request(message, timeout)).await?.into_inner()),
        Operation::Delete(message) => Answer::Delete(kv.delete(request(message, timeout)).await?.into_inner()),
        Operation::DeleteRange(message) => {
            Answer::DeleteRange(kv.delete_range(request(message, timeout)).await?.into_inner())
        }
        Operation::Increment(message) => Answer::Increment(kv.increment(request(message, timeout)).await?.into_inner()),
        Operation::Txn(message) => Answer::Txn(kv.txn(request(message, timeout)).await?.into_inner()),
        Operation::Count(message) => Answer::Count(kv.count(request(message, timeout)).await?.into_inner()),
        Operation::OpenSession(message) => {
            Answer::OpenSession(kv.open_session(request(message, timeout)).await?.into_inner())
        }
        Operation::GrantLease(message) => {
            Answer::GrantLease(kv.grant_lease(request(message, timeout)).await?.into_inner())
        }
        Operation::RevokeLease(message) => {
            Answer::RevokeLease(kv.revoke_lease(request(message, timeout)).await?.into_inner())
        }
        Operation::GetLease(message) => Answer::GetLease(kv.get_lease(request(message, timeout)).await?.into_inner()),
    })
}

fn request<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// The answer to a Get that says that the key has no value, if that is what an error says.
pub(crate) fn absence(status: &Status) -> Option<Answer> {
    if status.code() != Code::NotFound {
        return None;
    }
    let info = status.get_details_error_info();
    let revision = info.and_then(|info| info.metadata.get("revision")?.parse().ok()).unwrap_or(0);
    Some(Answer::Get(GetResponse { revision, ..GetResponse::default() }))
}

/// The error of an answer to another question.
pub(crate) fn mismatch() -> Error {
    Error::Unexpected { code: Code::Ok, message: "an answer to another question".into() }
}
