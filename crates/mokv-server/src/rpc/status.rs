//! What a caller is told when a request fails: a gRPC status with `google.rpc` details.
//!
//! Every error has an `ErrorInfo` of the domain [`DOMAIN`] whose reason a program can act on; the message is for people.
//! `RetryInfo` is there exactly where the request had no effect and may succeed when it is sent again. Values never
//! appear in a message, and keys only in part where they are long.
//!
//! | reason | code | more details | effect |
//! |---|---|---|---|
//! | `NO_LEADER` | `UNAVAILABLE` | `RetryInfo` | none |
//! | `UNAVAILABLE` | `UNAVAILABLE` | `RetryInfo` | none |
//! | `READ_TIMEOUT` | `UNAVAILABLE` | `RetryInfo` | none |
//! | `REVISION_NOT_REACHED` | `UNAVAILABLE` | `RetryInfo`; metadata `wanted`, `reached` | none |
//! | `OUTCOME_UNKNOWN` | `UNAVAILABLE` | | **unknown** |
//! | `DISK_FULL` | `RESOURCE_EXHAUSTED` | `RetryInfo` | none |
//! | `QUOTA_EXCEEDED` | `RESOURCE_EXHAUSTED` | `QuotaFailure`; metadata `used`, `quota` | none |
//! | `SESSION_FULL` | `RESOURCE_EXHAUSTED` | | none |
//! | `TOO_MANY_LEASES` | `RESOURCE_EXHAUSTED` | | none |
//! | `REQUEST_TOO_LARGE` | `RESOURCE_EXHAUSTED` | | none |
//! | `SESSION_EXPIRED` | `ABORTED` | | none |
//! | `SEQUENCE_FORGOTTEN` | `ABORTED` | | none now; perhaps earlier |
//! | `INVALID` | `INVALID_ARGUMENT` | `BadRequest` naming the field | none |
//! | `REFUSED` | `FAILED_PRECONDITION` | | none |
//! | `NOT_A_NUMBER` | `FAILED_PRECONDITION` | | none |
//! | `NOT_FOUND` | `NOT_FOUND` | of a key: metadata `revision` | none |
//! | `LEASE_NOT_FOUND` | `NOT_FOUND` | | none |
//! | `LEASE_EXISTS` | `ALREADY_EXISTS` | | none |
//! | `FUTURE_REVISION` | `OUT_OF_RANGE` | metadata `newest` | none |
//! | `UNIMPLEMENTED` | `UNIMPLEMENTED` | | none |
//! | `COMPACTED` | `OUT_OF_RANGE` | metadata `oldest`: the first revision that can be asked for | none |
//! | `TOO_MANY_WATCHES` | `RESOURCE_EXHAUSTED` | | none |
//! | `LIST_TOO_SLOW` | `ABORTED` | | none |
//! | `SAVE_TOO_SLOW` | `ABORTED` | | none |
//! | `DEADLINE_EXCEEDED` | `DEADLINE_EXCEEDED` | | none |
//! | `INTERNAL` | `INTERNAL` | | unknown: a bug |

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::command::Rejection;
use crate::error::RequestError;
use crate::store::{Compacted, ViewError};
use crate::watch::TooManyWatchers;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "mokv";

/// An election takes a second or two; most callers find its end with few retries.
const RETRY_ELECTION: Duration = Duration::from_millis(250);

/// A node that is overloaded, or a read that was not confirmed: soon.
const RETRY_SOON: Duration = Duration::from_millis(100);

/// Room on a disk comes from a person or a snapshot, not within milliseconds.
const RETRY_DISK: Duration = Duration::from_secs(5);

/// Characters of a key that a message shows. Messages travel in headers, which are bounded.
const SHOWN_CHARS_MAX: usize = 128;

/// The status for a request that failed. The one place that decides it.
pub(super) fn from_error(error: &RequestError) -> Status {
    let message = error.to_string();
    match error {
        RequestError::NoLeader { .. } => retriable("NO_LEADER", message, [], RETRY_ELECTION),
        RequestError::Unavailable { .. } => retriable("UNAVAILABLE", message, [], RETRY_SOON),
        RequestError::ReadTimeout { .. } => retriable("READ_TIMEOUT", message, [], RETRY_SOON),
        RequestError::RevisionNotReached { wanted, reached, .. } => {
            let metadata = [("wanted", wanted.to_string()), ("reached", reached.to_string())];
            retriable("REVISION_NOT_REACHED", message, metadata, RETRY_SOON)
        }
        RequestError::OutcomeUnknown { .. } => plain(Code::Unavailable, "OUTCOME_UNKNOWN", message),
        RequestError::DiskFull => {
            let mut details = details("DISK_FULL", []);
            details.set_retry_info(Some(RETRY_DISK));
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        RequestError::QuotaExceeded { used, quota } => {
            let mut details = details("QUOTA_EXCEEDED", [("used", used.to_string()), ("quota", quota.to_string())]);
            details.add_quota_failure_violation("memory", message.clone());
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        RequestError::Rejected(rejection) => rejected(*rejection),
        RequestError::Refused(_) => plain(Code::FailedPrecondition, "REFUSED", message),
        RequestError::NotFound(_) => plain(Code::NotFound, "NOT_FOUND", message),
        RequestError::Invalid(_) => plain(Code::InvalidArgument, "INVALID", message),
    }
}

fn rejected(rejection: Rejection) -> Status {
    match rejection {
        Rejection::SessionExpired => plain(
            Code::Aborted,
            "SESSION_EXPIRED",
            "the session is unknown: it was evicted or never opened; open another one",
        ),
        Rejection::SequenceForgotten => plain(
            Code::Aborted,
            "SEQUENCE_FORGOTTEN",
            "the sequence is below the session's first unanswered one: its answer is forgotten",
        ),
        Rejection::SessionFull => plain(
            Code::ResourceExhausted,
            "SESSION_FULL",
            "the session has too many answers outstanding: raise first_unanswered as they arrive",
        ),
        Rejection::LeaseNotFound => plain(Code::NotFound, "LEASE_NOT_FOUND", "there is no such lease"),
        Rejection::LeaseExists => plain(Code::AlreadyExists, "LEASE_EXISTS", "there is such a lease already"),
        Rejection::TooManyLeases => {
            plain(Code::ResourceExhausted, "TOO_MANY_LEASES", "there are as many leases as there may be: revoke some")
        }
        Rejection::NotANumber => plain(
            Code::FailedPrecondition,
            "NOT_A_NUMBER",
            "the value is not the decimal text of a 64-bit signed number, or the sum is none",
        ),
        Rejection::Unspecified => internal("the state machine refused the write without a reason"),
    }
}

/// A field of the request says something that can't be done.
pub(super) fn invalid(field: impl Into<String>, description: impl Into<String>) -> Status {
    let (field, description) = (field.into(), description.into());
    let message = if field.is_empty() { description.clone() } else { format!("{field}: {description}") };
    let mut details = details("INVALID", []);
    details.add_bad_request_violation(field, description);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The key has no value, as of a revision.
pub(super) fn no_value(key: &str, revision: u64) -> Status {
    let details = details("NOT_FOUND", [("revision", revision.to_string())]);
    Status::with_error_details(Code::NotFound, format!("no value for key: {}", shown(key)), details)
}

/// The node can't show a revision.
pub(super) fn no_view(error: &ViewError) -> Status {
    match error {
        ViewError::Compacted(Compacted { oldest }) => compacted(*oldest),
        ViewError::Future { newest } => {
            let details = details("FUTURE_REVISION", [("newest", newest.to_string())]);
            Status::with_error_details(Code::OutOfRange, error.to_string(), details)
        }
    }
}

/// The node takes nothing more from a stream. What it took before was answered; the rest had no effect.
pub(super) fn stopping() -> Status {
    from_error(&RequestError::Unavailable { reason: "it is stopping".into() })
}

/// An operation of a stream waited for earlier ones until its time was over.
pub(super) fn turn_missed() -> Status {
    let reason = "earlier operations of the stream on the same key took all of its time".into();
    from_error(&RequestError::Unavailable { reason })
}

/// An operation that a newer version may know.
pub(super) fn unknown_operation() -> Status {
    plain(Code::Unimplemented, "UNIMPLEMENTED", "the operation is none that this node knows")
}

/// What was asked for is forgotten here. `oldest` is the first revision for which the same can be asked.
pub(super) fn compacted(oldest: u64) -> Status {
    let message = format!("this node no longer remembers that revision: the oldest one is {oldest}");
    Status::with_error_details(Code::OutOfRange, message, details("COMPACTED", [("oldest", oldest.to_string())]))
}

/// The node has as many watches as it takes.
pub(super) fn too_many_watches(error: &TooManyWatchers) -> Status {
    plain(Code::ResourceExhausted, "TOO_MANY_WATCHES", error.to_string())
}

/// The reader of a list did not take what it asked for.
pub(super) fn list_too_slow(stalled: Duration) -> Status {
    let message = format!("nothing of the list was taken for {stalled:?}: list again, from the last key received on");
    plain(Code::Aborted, "LIST_TOO_SLOW", message)
}

/// The reader of a snapshot did not take what it asked for.
pub(super) fn save_too_slow(stalled: Duration) -> Status {
    let message =
        format!("nothing of the snapshot was taken for {stalled:?}: begin again, to a place that takes it faster");
    plain(Code::Aborted, "SAVE_TOO_SLOW", message)
}

/// The caller's deadline has passed while an answer was on its way.
pub(super) fn deadline_exceeded() -> Status {
    plain(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline of the call has passed")
}

/// A bug of ours.
pub(super) fn internal(message: impl Into<String>) -> Status {
    plain(Code::Internal, "INTERNAL", message)
}

/// What the gRPC library refused before a service saw it, as we would have said it; `None` for every other status.
///
/// It answers a message over the size limit with `OUT_OF_RANGE`, and one that does not decode (a key that is not UTF-8,
/// say) with `INTERNAL`. Ours always have details.
pub(super) fn of_library(status: &Status) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        Code::OutOfRange => Some(plain(Code::ResourceExhausted, "REQUEST_TOO_LARGE", status.message())),
        Code::Internal => {
            let message = format!("the request is malformed: {}", status.message());
            Some(plain(Code::InvalidArgument, "INVALID", message))
        }
        _ => None,
    }
}

/// A key as messages show it.
pub(super) fn shown(key: &str) -> String {
    match key.char_indices().nth(SHOWN_CHARS_MAX) {
        None => key.to_owned(),
        Some((cut, _)) => format!("{}... ({} bytes)", &key[..cut], key.len()),
    }
}

fn plain(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, details(reason, []))
}

fn retriable<const N: usize>(reason: &str, message: String, metadata: [(&str, String); N], after: Duration) -> Status {
    let mut details = details(reason, metadata);
    details.set_retry_info(Some(after));
    Status::with_error_details(Code::Unavailable, message, details)
}

fn details<const N: usize>(reason: &str, metadata: [(&str, String); N]) -> ErrorDetails {
    ErrorDetails::with_error_info(reason, DOMAIN, metadata.map(|(name, value)| (name.to_owned(), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code, reason, whether a retry is invited; for each error there is.
    #[test]
    fn every_error_has_its_status() {
        let waited = Duration::from_secs(1);
        let text = || "why".to_owned();
        let table = [
            (RequestError::NoLeader { waited }, Code::Unavailable, "NO_LEADER", true),
            (RequestError::OutcomeUnknown { reason: text() }, Code::Unavailable, "OUTCOME_UNKNOWN", false),
            (RequestError::DiskFull, Code::ResourceExhausted, "DISK_FULL", true),
            (RequestError::QuotaExceeded { used: 2, quota: 1 }, Code::ResourceExhausted, "QUOTA_EXCEEDED", false),
            (RequestError::Unavailable { reason: text() }, Code::Unavailable, "UNAVAILABLE", true),
            (
                RequestError::RevisionNotReached { wanted: 2, reached: 1, waited },
                Code::Unavailable,
                "REVISION_NOT_REACHED",
                true,
            ),
            (RequestError::ReadTimeout { waited }, Code::Unavailable, "READ_TIMEOUT", true),
            (RequestError::Rejected(Rejection::SessionExpired), Code::Aborted, "SESSION_EXPIRED", false),
            (RequestError::Rejected(Rejection::SequenceForgotten), Code::Aborted, "SEQUENCE_FORGOTTEN", false),
            (RequestError::Rejected(Rejection::SessionFull), Code::ResourceExhausted, "SESSION_FULL", false),
            (RequestError::Rejected(Rejection::LeaseNotFound), Code::NotFound, "LEASE_NOT_FOUND", false),
            (RequestError::Rejected(Rejection::LeaseExists), Code::AlreadyExists, "LEASE_EXISTS", false),
            (RequestError::Rejected(Rejection::TooManyLeases), Code::ResourceExhausted, "TOO_MANY_LEASES", false),
            (RequestError::Rejected(Rejection::NotANumber), Code::FailedPrecondition, "NOT_A_NUMBER", false),
            (RequestError::Rejected(Rejection::Unspecified), Code::Internal, "INTERNAL", false),
            (RequestError::Refused(text()), Code::FailedPrecondition, "REFUSED", false),
            (RequestError::NotFound(text()), Code::NotFound, "NOT_FOUND", false),
            (RequestError::Invalid(text()), Code::InvalidArgument, "INVALID", false),
        ];
        for (error, code, reason, retry) in table {
            let status = from_error(&error);
            let details = status.get_error_details();
            let info = details.error_info().expect("every error has an ErrorInfo");
            assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, DOMAIN), "{error}");
            assert_eq!(details.retry_info().is_some_and(|info| info.retry_delay.is_some()), retry, "{error}");
            assert!(!status.message().is_empty(), "{error:?}");
        }
    }

    #[test]
    fn figures_are_in_the_details() {
        let status = from_error(&RequestError::QuotaExceeded { used: 20, quota: 10 });
        let details = status.get_error_details();
        assert_eq!(details.error_info().expect("info").metadata["used"], "20");
        assert_eq!(details.error_info().expect("info").metadata["quota"], "10");
        assert_eq!(details.quota_failure().expect("quota failure").violations[0].subject, "memory");

        let status = from_error(&RequestError::RevisionNotReached { wanted: 7, reached: 5, waited: RETRY_SOON });
        assert_eq!(status.get_error_details().error_info().expect("info").metadata["wanted"], "7");
        for (status, reason, figure) in [
            (no_view(&ViewError::Compacted(Compacted { oldest: 7 })), "COMPACTED", "oldest"),
            (no_view(&ViewError::Future { newest: 7 }), "FUTURE_REVISION", "newest"),
        ] {
            let details = status.get_error_details();
            let info = details.error_info().expect("info");
            assert_eq!((status.code(), info.reason.as_str()), (Code::OutOfRange, reason));
            assert_eq!(info.metadata[figure], "7");
        }
        assert_eq!(no_value("k", 9).get_error_details().error_info().expect("info").metadata["revision"], "9");
    }

    #[test]
    fn a_long_key_is_shown_in_part() {
        assert_eq!(no_value("k", 1).message(), "no value for key: k");
        let status = no_value(&"ö".repeat(2000), 1);
        assert_eq!(status.message(), format!("no value for key: {}... (4000 bytes)", "ö".repeat(128)));
    }

    #[test]
    fn refusals_of_the_library_are_put_into_our_words() {
        let reason = |status: Status| {
            let status = of_library(&status)?;
            Some((status.code(), status.get_error_details().error_info()?.reason.clone()))
        };
        assert_eq!(reason(Status::out_of_range("5 > 4")), Some((Code::ResourceExhausted, "REQUEST_TOO_LARGE".into())));
        assert_eq!(reason(Status::internal("bad tag")), Some((Code::InvalidArgument, "INVALID".into())));
        assert_eq!(reason(Status::unavailable("x")), None);
        assert_eq!(reason(internal("ours")), None);
    }
}
