//! What can go wrong, in terms of what the caller should do. The one place that reads a gRPC status: by the reason in its
//! `google.rpc.ErrorInfo` where mökv gave one, by its code and origin where something in between did.

use std::error::Error as StdError;
use std::iter;
use std::time::Duration;

use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt;

/// Whose reasons the client knows.
const DOMAIN: &str = "mokv";

/// Why a call was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No endpoint could answer. The call had no effect; try again later.
    #[error("unavailable: {0}")]
    Unavailable(String),

    /// The write may have taken effect, or may still. Read to find out, or send it again if doing it twice is harmless;
    /// a [`Session`](crate::Session) does that by itself, and safely.
    #[error("the outcome of the write is unknown: {0}")]
    OutcomeUnknown(String),

    /// The session gave way to others, because there are too many of them. Open a new one for further writes.
    #[error("the session has expired: open a new one")]
    SessionExpired {
        /// Whether an earlier attempt of the same write may have taken effect. None can any more.
        maybe_applied: bool,
    },

    /// The leader has no room on its disk. The write had no effect; it will work once there is room.
    #[error("{0}")]
    DiskFull(String),

    /// The store is as large as it may be. The write had no effect; deletes still work.
    #[error("{0}")]
    QuotaExceeded(String),

    /// What the call names does not exist. (A missing key is no error: [`Client::get`](crate::Client::get) says `None`.)
    #[error("{0}")]
    NotFound(String),

    /// The cluster is in no state for what was asked; the message says what would have to change. No effect.
    #[error("{0}")]
    Refused(String),

    /// The changes or the state of a revision were asked for that is no longer remembered.
    #[error("revision {oldest} is the oldest that is still remembered")]
    Compacted {
        /// The oldest revision that is; 0 if the server does not say.
        oldest: u64,
    },

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

/// What a call does to the cluster, which decides what a lost answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing, or nothing that doing it again would change: a lost answer is a failure like any other.
    Harmless,
    /// A write: without an answer its outcome is unknown.
    Write,
}

impl Error {
    /// The error of a call that ran out of time.
    pub(crate) fn timed_out(effect: Effect, after: Duration) -> Self {
        Self::lost(effect, format!("no answer within {after:?}"))
    }

    /// The error of a call whose answer is lost.
    fn lost(effect: Effect, reason: String) -> Self {
        match effect {
            Effect::Harmless => Self::Unavailable(reason),
            Effect::Write => Self::OutcomeUnknown(reason),
        }
    }

    pub(crate) fn from_status(status: &Status, effect: Effect) -> Self {
        let message = status.message().to_owned();
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        match info.as_ref().map(|info| info.reason.as_str()) {
            Some(
                "NO_LEADER"
                | "UNAVAILABLE"
                | "READ_TIMEOUT"
                | "REVISION_NOT_REACHED"
                | "SESSION_FULL"
                | "LIST_TOO_SLOW",
            ) => Self::Unavailable(message),
            Some("OUTCOME_UNKNOWN") => Self::lost(effect, message),
            Some("SESSION_EXPIRED") => Self::SessionExpired { maybe_applied: false },
            Some("DISK_FULL") => Self::DiskFull(message),
            Some("QUOTA_EXCEEDED") => Self::QuotaExceeded(message),
            Some("NOT_FOUND") => Self::NotFound(message),
            Some("REFUSED") => Self::Refused(message),
            Some("INVALID" | "REQUEST_TOO_LARGE") => Self::Invalid(message),
            Some("COMPACTED") => {
                let oldest = info.and_then(|info| info.metadata.get("oldest")?.parse().ok());
                Self::Compacted { oldest: oldest.unwrap_or(0) }
            }
            Some("LEASE_NOT_FOUND") => Self::NotFound(message),
            _ => Self::from_code(status, effect),
        }
    }

    /// Without a reason of mökv's: the transport, a proxy, or another kind of server.
    fn from_code(status: &Status, effect: Effect) -> Self {
        let causes = || causes(status);
        if causes().any(|error| error.is::<ConnectError>()) {
            let cause = causes().last().map(ToString::to_string).unwrap_or_default();
            return Self::Unavailable(format!("can't connect: {cause}"));
        }
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound(message),
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid(message),
            Code::FailedPrecondition => Self::Refused(message),
            Code::Cancelled | Code::DeadlineExceeded => Self::lost(effect, format!("no answer in time ({message})")),
            Code::Unavailable => Self::lost(effect, message),
            // Only errors of the transport have a cause: the connection broke under the call.
            _ if status.source().is_some() => {
                let cause = causes().last().map(ToString::to_string).unwrap_or_default();
                Self::lost(effect, format!("the connection broke: {cause}"))
            }
            // A handler that failed midway.
            Code::Unknown | Code::Internal if effect == Effect::Write => Self::OutcomeUnknown(message),
            code => Self::Unexpected { code, message },
        }
    }
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
        Status::with_error_details(code, "m", ErrorDetails::with_error_info(reason, domain, []))
    }

    #[test]
    fn reasons_say_more_than_codes() {
        let unavailable = || Error::Unavailable("m".into());
        let table = [
            (Code::Unavailable, "NO_LEADER", unavailable()),
            (Code::Unavailable, "UNAVAILABLE", unavailable()),
            (Code::Unavailable, "READ_TIMEOUT", unavailable()),
            (Code::Unavailable, "REVISION_NOT_REACHED", unavailable()),
            (Code::ResourceExhausted, "SESSION_FULL", unavailable()),
            (Code::Unavailable, "OUTCOME_UNKNOWN", Error::OutcomeUnknown("m".into())),
            (Code::Aborted, "SESSION_EXPIRED", Error::SessionExpired { maybe_applied: false }),
            (Code::ResourceExhausted, "DISK_FULL", Error::DiskFull("m".into())),
            (Code::ResourceExhausted, "QUOTA_EXCEEDED", Error::QuotaExceeded("m".into())),
            (Code::NotFound, "NOT_FOUND", Error::NotFound("m".into())),
            (Code::InvalidArgument, "INVALID", Error::Invalid("m".into())),
            (Code::ResourceExhausted, "REQUEST_TOO_LARGE", Error::Invalid("m".into())),
            (Code::FailedPrecondition, "REFUSED", Error::Refused("m".into())),
            (Code::Aborted, "LIST_TOO_SLOW", unavailable()),
            (Code::Aborted, "SEQUENCE_FORGOTTEN", Error::Unexpected { code: Code::Aborted, message: "m".into() }),
        ];
        for (code, reason, expected) in table {
            assert_eq!(Error::from_status(&with_reason(code, reason, DOMAIN), Effect::Write), expected, "{reason}");
        }
    }

    #[test]
    fn a_lost_answer_is_unknown_for_writes_only() {
        let lost = [
            with_reason(Code::Unavailable, "OUTCOME_UNKNOWN", DOMAIN),
            // What a proxy says is no promise of ours.
            with_reason(Code::Unavailable, "NO_LEADER", "proxy"),
            Status::unavailable("m"),
            Status::deadline_exceeded("m"),
            Status::cancelled("m"),
            Status::from_error("broken pipe".into()),
        ];
        for status in lost {
            assert!(matches!(Error::from_status(&status, Effect::Write), Error::OutcomeUnknown(_)), "{status:?}");
            assert!(matches!(Error::from_status(&status, Effect::Harmless), Error::Unavailable(_)), "{status:?}");
        }
        assert!(matches!(Error::from_status(&Status::internal("m"), Effect::Write), Error::OutcomeUnknown(_)));
        assert!(matches!(Error::from_status(&Status::internal("m"), Effect::Harmless), Error::Unexpected { .. }));
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
            assert_eq!(Error::from_status(&Status::new(code, "m"), Effect::Write), expected, "{code:?}");
        }
    }
}
