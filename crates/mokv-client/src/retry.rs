//! What to do when an attempt fails. Pure: it is told what happened and when, and says how the call goes on.
//!
//! | the attempt | a read | a write in a session | a write without one |
//! |---|---|---|---|
//! | had no effect, and another may succeed | again | again | again |
//! | may have had an effect | again | again: the cluster knows it by its number | ends, outcome unknown |
//! | was answered for good | ends | ends | ends |
//!
//! *Again* is at once on the nodes that were not asked yet in this round, then after a pause. A call ends by its deadline,
//! with what the last round came to. An effect that was possible once stays possible: then a failure is reported as unknown.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Failure};
use crate::routes::NodeRef;

/// How long the first attempt of a read waits for a sign of the node, and each further one twice as long.
const READ_TRY: Duration = Duration::from_secs(1);
/// As long for a write: what it waits for takes longer, a disk and perhaps an election, and asking twice costs more.
const WRITE_TRY: Duration = Duration::from_secs(2);
/// The pause after the first round in which no node answered; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// About the time that an election takes.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Of the time that a call has: with less than this part of it left, no further attempt is begun. Servers answer by then,
/// with a reason that is worth more than one more try.
const LAST_PART: u32 = 10;

/// What a call does to the cluster, which decides what a lost answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing, or nothing that doing it again would change: a lost answer is a failure like any other.
    Harmless,
    /// A write that the cluster knows by its number when it comes again.
    Numbered,
    /// Any other write: without an answer its outcome is unknown, and it must not be sent again.
    Write,
}

/// When a call is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// At the deadline.
    UntilDeadline,
    /// At the deadline, or as soon as no node takes a connection.
    UntilNobodyIsThere,
    /// When each node was asked once.
    OnceEach,
}

/// How long a call may take, all that is done for it included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

impl Limit {
    /// The limit of a call that begins now.
    pub(crate) fn from_now(timeout: Duration) -> Self {
        Self { timeout, deadline: Instant::now() + timeout }
    }
}

/// How a call goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// With another attempt, at once.
    Again,
    /// With another round, after a pause.
    After(Duration),
    /// Not at all.
    GiveUp(Error),
    /// Not in this session, which the cluster has forgotten or which is full. Nothing of the write was done nor will be.
    OtherSession,
}

/// A call, and what its attempts came to.
#[derive(Debug)]
pub(crate) struct Retry {
    effect: Effect,
    patience: Patience,
    limit: Limit,
    /// Asked in this round.
    tried: Vec<NodeRef>,
    /// Rounds that came to nothing.
    rounds: u32,
    /// Attempts that ran out of their time.
    late: u32,
    /// An earlier attempt may have taken effect.
    is_unknown: bool,
    /// Somebody took a connection.
    is_somebody_there: bool,
    /// Why each node could not answer the last time that it was asked.
    reasons: BTreeMap<String, String>,
}

impl Retry {
    pub(crate) fn new(effect: Effect, patience: Patience, limit: Limit) -> Self {
        Self {
            effect,
            patience,
            limit,
            tried: Vec::new(),
            rounds: 0,
            late: 0,
            is_unknown: false,
            is_somebody_there: false,
            reasons: BTreeMap::new(),
        }
    }

    /// Who was asked in this round.
    pub(crate) fn tried(&self) -> &[NodeRef] {
        &self.tried
    }

    /// How long the next attempt may take. A node that is alone gets all the time that there is.
    pub(crate) fn until(&self, now: Instant, is_alone: bool) -> Instant {
        let first = match self.effect {
            Effect::Harmless => READ_TRY,
            Effect::Numbered => WRITE_TRY,
            // Whom it was sent to has to answer: nobody else may be asked.
            Effect::Write => return self.limit.deadline,
        };
        if is_alone || self.patience == Patience::OnceEach {
            return self.limit.deadline;
        }
        (now + first.saturating_mul(1 << self.late.min(10))).min(self.limit.deadline)
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, at: NodeRef, address: &str, failure: Failure, now: Instant) -> Next {
        self.tried.push(at);
        self.is_somebody_there |= !matches!(failure, Failure::Unreachable(_));
        self.late += u32::from(matches!(failure, Failure::Late(_)));
        let (reason, may_have_effect) = match failure {
            Failure::Unreachable(reason) | Failure::Unfit(reason) | Failure::Unavailable(reason) => (reason, false),
            Failure::Fault { code, message } if self.effect == Effect::Harmless => {
                return Next::GiveUp(Error::Unexpected { code, message });
            }
            Failure::Fault { message, .. } => (message, true),
            Failure::Unknown(reason) | Failure::Lost(reason) | Failure::Late(reason) => {
                (reason, self.effect != Effect::Harmless)
            }
            Failure::NoSession(reason) if self.is_unknown => return Next::GiveUp(Error::OutcomeUnknown(reason)),
            Failure::NoSession(_) => return Next::OtherSession,
            Failure::SessionFull(_) if !self.is_unknown => return Next::OtherSession,
            // Room comes as other writes are answered.
            Failure::SessionFull(reason) => (reason, false),
            Failure::Final(error) if self.is_unknown => return Next::GiveUp(self.unknown(error.to_string())),
            Failure::Final(error) => return Next::GiveUp(error),
        };
        self.reasons.insert(address.to_owned(), reason);
        self.is_unknown |= may_have_effect;
        if (may_have_effect && self.effect == Effect::Write) || !self.has_time(now) {
            return Next::GiveUp(self.error());
        }
        Next::Again
    }

    /// All nodes worth it were asked in this round. `draw` is between 0 and 1.
    pub(crate) fn round_ended(&mut self, now: Instant, draw: f64) -> Next {
        let nobody = self.patience == Patience::UntilNobodyIsThere && !self.is_somebody_there;
        if self.patience == Patience::OnceEach || nobody {
            return Next::GiveUp(self.error());
        }
        // Half of it is chance, so that the clients of a lost leader don't come back all at once.
        let doubled = PAUSE_MIN.saturating_mul(1 << self.rounds.min(10)).min(PAUSE_MAX);
        let pause = doubled.mul_f64(0.5 + draw / 2.0);
        if !self.has_time(now + pause) {
            return Next::GiveUp(self.error());
        }
        self.rounds += 1;
        self.tried.clear();
        Next::After(pause)
    }

    fn has_time(&self, at: Instant) -> bool {
        self.limit.deadline.saturating_duration_since(at) > self.limit.timeout / LAST_PART
    }

    /// What the call ends with if it ends now.
    pub(crate) fn error(&self) -> Error {
        let reasons: Vec<_> = self.reasons.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
        match reasons.join("; ") {
            reasons if self.is_unknown => Error::OutcomeUnknown(reasons),
            reasons => Error::Unavailable(reasons),
        }
    }

    fn unknown(&self, last: String) -> Error {
        let reasons: Vec<_> = self.reasons.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
        Error::OutcomeUnknown(format!("{}; then: {last}", reasons.join("; ")))
    }
}
