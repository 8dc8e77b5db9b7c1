//! What can go wrong, in terms of what the caller should do. The one place that reads a gRPC status: by the reason in its
//! `google.rpc.ErrorInfo` where mökv gave one, by its code and origin where something in between did.

use std::error::Error as StdError;
use std::iter;

use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt;

/// Whose reasons the client knows.
const DOMAIN: &str = "mokv";

/// Why a call was not answered.
///
/// All but [`Error::OutcomeUnknown`] (and, of writes, [`Error::Unexpected`]) say that the call had no effect and will have
/// none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No node could answer in time. The call had no effect; try again later.
    #[error("unavailable: {0}")]
    Unavailable(String),

    /// The write may have taken effect, or may still. Read to find out, or send it again if doing it twice is harmless.
    #[error("the outcome of the write is unknown: {0}")]
    OutcomeUnknown(String),

    /// The leader has no room on its disk. The write had no effect; it will work once there is room.
    #[error("{0}")]
    DiskFull(String),

    /// The store is as large as it may be, or has as many leases as there may be. The write had no effect; deletes still
    /// work.
    #[error("{0}")]
    QuotaExceeded(String),

    /// What the call names does not exist: a lease, a member. (A missing key is no error: [`Client::get`](crate::Client::get)
    /// says `None`.)
    #[error("{0}")]
    NotFound(String),

    /// What the call would make exists: a lease of that id.
    #[error("{0}")]
    AlreadyExists(String),

    /// What the call asks for is no longer remembered: a read at an old revision, a watch from one on.
    #[error("{message}")]
    Compacted {
        /// The oldest revision that the asked node remembers; 0 if it does not say.
        oldest: u64,
        /// What the server said.
        message: String,
    },

    /// The store or the cluster is in no state for what was asked; the message says what would have to change. No effect.
    #[error("{0}")]
    Refused(String),

    /// The call says something that can't be done. No effect; don't send it again.
    #[error("{0}")]
    Invalid(String),

    /// The server answered something that this client does not know: a fault, or a server of another version.
    #[error("unexpected answer ({code:?}): {message}")]
    Unexpected {
        /// The gRPC status code.
        code: Code,
        /// What the server said.
        message: String,
    },
}

impl Error {
    /// The error of a call with no further attempts: a stream that broke, which does no harm.
    pub(crate) fn of_stream(status: &Status) -> Self {
        match Failure::from_status(status) {
            Failure::Final(error) => error,
            Failure::Fault { code, message } => Self::Unexpected { code, message },
            Failure::Unreachable(reason)
            | Failure::Unfit(reason)
            | Failure::Unavailable(reason)
            | Failure::Unknown(reason)
            | Failure::Lost(reason)
            | Failure::Late(reason)
            | Failure::NoSession(reason)
            | Failure::SessionFull(reason) => Self::Unavailable(reason),
        }
    }
}

/// Why an attempt came to nothing, in terms of what that says of the node and of the effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection: no effect.
    Unreachable(String),
    /// The node can't serve at present: it knows no leader, or is stopping. No effect.
    Unfit(String),
    /// It could not serve this call. No effect.
    Unavailable(String),
    /// The node said that it does not know: perhaps an effect.
    Unknown(String),
    /// The node failed midway: perhaps an effect.
    Fault { code: Code, message: String },
    /// The connection broke: perhaps an effect.
    Lost(String),
    /// The attempt's time ran out: perhaps an effect.
    Late(String),
    /// The cluster does not know the session: no effect of this attempt, nor of others from now on.
    NoSession(String),
    /// The session has too many answers to remember: no effect.
    SessionFull(String),
    /// Nobody would answer differently. No effect of this attempt, unless the error says so.
    Final(Error),
}

impl Failure {
    pub(crate) fn late() -> Self {
        Self::Late("no answer in time".into())
    }

    pub(crate) fn from_status(status: &Status) -> Self {
        let message = status.message().to_owned();
        let Some(info) = status.get_details_error_info().filter(|info| info.domain == DOMAIN) else {
            return Self::from_code(status);
        };
        match info.reason.as_str() {
            "NO_LEADER" | "UNAVAILABLE" | "READ_TIMEOUT" => Self::Unfit(message),
            "REVISION_NOT_REACHED" | "LIST_TOO_SLOW" | "SAVE_TOO_SLOW" => Self::Unavailable(message),
            "OUTCOME_UNKNOWN" => Self::Unknown(message),
            "SESSION_EXPIRED" => Self::NoSession(message),
            "SESSION_FULL" => Self::SessionFull(message),
            "DISK_FULL" => Self::Final(Error::DiskFull(message)),
            "QUOTA_EXCEEDED" | "TOO_MANY_LEASES" => Self::Final(Error::QuotaExceeded(message)),
            "NOT_FOUND" | "LEASE_NOT_FOUND" => Self::Final(Error::NotFound(message)),
            "LEASE_EXISTS" => Self::Final(Error::AlreadyExists(message)),
            "REFUSED" | "NOT_A_NUMBER" => Self::Final(Error::Refused(message)),
            "INVALID" | "REQUEST_TOO_LARGE" | "FUTURE_REVISION" => Self::Final(Error::Invalid(message)),
            "COMPACTED" => {
                let oldest = info.metadata.get("oldest").and_then(|oldest| oldest.parse().ok()).unwrap_or(0);
                Self::Final(Error::Compacted { oldest, message })
            }
            _ => Self::from_code(status),
        }
    }

    /// Without a reason of mökv's: the transport, a proxy, or another kind of server.
    fn from_code(status: &Status) -> Self {
        if causes(status).any(|error| error.is::<ConnectError>()) {
            return Self::Unreachable(format!("can't connect: {}", describe(status)));
        }
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::Final(Error::NotFound(message)),
            Code::InvalidArgument | Code::OutOfRange => Self::Final(Error::Invalid(message)),
            Code::FailedPrecondition => Self::Final(Error::Refused(message)),
            Code::AlreadyExists => Self::Final(Error::AlreadyExists(message)),
            Code::Cancelled | Code::DeadlineExceeded => Self::Late(format!("no answer in time ({message})")),
            Code::Unavailable => Self::Lost(message),
            // Only errors of the transport have a cause: the connection broke under the call.
            _ if status.source().is_some() => Self::Lost(format!("the connection broke: {}", describe(status))),
            code @ (Code::Internal | Code::Unknown) => Self::Fault { code, message },
            code => Self::Final(Error::Unexpected { code, message }),
        }
    }
}

/// Why a connection or stream broke, in words: the deepest cause says most.
pub(crate) fn describe(status: &Status) -> String {
    causes(status).last().map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// What lies below an error of the transport, the deepest cause last.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    iter::successors(status.source(), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn with_reason(code: Code, reason: &str, domain: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, domain, [("oldest".to_owned(), "7".to_owned())]);
        Status::with_error_details(code, "m", details)
    }

    #[test]
    fn reasons_say_more_than_codes() {
        let text = || "m".to_owned();
        let unexpected = |code| Failure::Final(Error::Unexpected { code, message: text() });
        let table = [
            (Code::Unavailable, "NO_LEADER", Failure::Unfit(text())),
            (Code::Unavailable, "UNAVAILABLE", Failure::Unfit(text())),
            (Code::Unavailable, "READ_TIMEOUT", Failure::Unfit(text())),
            (Code::Unavailable, "REVISION_NOT_REACHED", Failure::Unavailable(text())),
            (Code::Aborted, "LIST_TOO_SLOW", Failure::Unavailable(text())),
            (Code::Aborted, "SAVE_TOO_SLOW", Failure::Unavailable(text())),
            (Code::Unavailable, "OUTCOME_UNKNOWN", Failure::Unknown(text())),
            (Code::Aborted, "SESSION_EXPIRED", Failure::NoSession(text())),
            (Code::ResourceExhausted, "SESSION_FULL", Failure::SessionFull(text())),
            (Code::ResourceExhausted, "DISK_FULL", Failure::Final(Error::DiskFull(text()))),
            (Code::ResourceExhausted, "QUOTA_EXCEEDED", Failure::Final(Error::QuotaExceeded(text()))),
            (Code::ResourceExhausted, "TOO_MANY_LEASES", Failure::Final(Error::QuotaExceeded(text()))),
            (Code::NotFound, "NOT_FOUND", Failure::Final(Error::NotFound(text()))),
            (Code::NotFound, "LEASE_NOT_FOUND", Failure::Final(Error::NotFound(text()))),
            (Code::AlreadyExists, "LEASE_EXISTS", Failure::Final(Error::AlreadyExists(text()))),
            (Code::InvalidArgument, "INVALID", Failure::Final(Error::Invalid(text()))),
            (Code::ResourceExhausted, "REQUEST_TOO_LARGE", Failure::Final(Error::Invalid(text()))),
            (Code::OutOfRange, "FUTURE_REVISION", Failure::Final(Error::Invalid(text()))),
            (Code::OutOfRange, "COMPACTED", Failure::Final(Error::Compacted { oldest: 7, message: text() })),
            (Code::FailedPrecondition, "REFUSED", Failure::Final(Error::Refused(text()))),
            (Code::FailedPrecondition, "NOT_A_NUMBER", Failure::Final(Error::Refused(text()))),
            (Code::Aborted, "SEQUENCE_FORGOTTEN", unexpected(Code::Aborted)),
            (Code::Internal, "INTERNAL", Failure::Fault { code: Code::Internal, message: text() }),
        ];
        for (code, reason, expected) in table {
            assert_eq!(Failure::from_status(&with_reason(code, reason, DOMAIN)), expected, "{reason}");
        }
    }

    #[test]
    fn without_a_reason_of_ours_an_answer_may_be_lost() {
        let lost = [
            // What a proxy says is no promise of ours.
            with_reason(Code::Unavailable, "NO_LEADER", "proxy"),
            Status::unavailable("m"),
            Status::from_error("broken pipe".into()),
        ];
        for status in lost {
            assert!(matches!(Failure::from_status(&status), Failure::Lost(_)), "{status:?}");
        }
        for status in [Status::deadline_exceeded("m"), Status::cancelled("m")] {
            assert!(matches!(Failure::from_status(&status), Failure::Late(_)), "{status:?}");
        }
    }

    #[test]
    fn without_a_reason_the_code_speaks() {
        let table = [
            (Code::NotFound, Error::NotFound("m".into())),
            (Code::InvalidArgument, Error::Invalid("m".into())),
            (Code::FailedPrecondition, Error::Refused("m".into())),
            (Code::Unimplemented, Error::Unexpected { code: Code::Unimplemented, message: "m".into() }),
        ];
        for (code, expected) in table {
            assert_eq!(Failure::from_status(&Status::new(code, "m")), Failure::Final(expected), "{code:?}");
        }
    }
}
