//! Log time: the only clock that the state machine knows.
//!
//! Each batch carries the log time of the leader that proposed it; the state keeps the highest that it saw. So deadlines
//! pass at the same place of the log on every node, and while there is no leader, time stands still.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// A point in log time, in milliseconds since the cluster began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogTime(u64);

impl LogTime {
    /// So many milliseconds after the beginning.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the beginning.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// What is said as 0 where there is none, as in the protocol buffers.
    pub(super) fn from_wire(millis: u64) -> Option<Self> {
        (millis > 0).then_some(Self(millis))
    }

    /// Inverse of [`LogTime::from_wire`].
    pub(super) fn to_wire(at: Option<Self>) -> u64 {
        at.map_or(0, |at| at.0)
    }

    /// The end of a time to live that begins now. Never zero.
    pub(super) fn after(self, ttl_ms: u64) -> Self {
        Self(self.0.saturating_add(ttl_ms).max(1))
    }
}

impl Add<Duration> for LogTime {
    type Output = Self;

    /// What begins a millisecond counts as all of it, so that nothing ends early.
    fn add(self, duration: Duration) -> Self {
        let millis = duration.as_nanos().div_ceil(1_000_000);
        Self(self.0.saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_millisecond_counts_as_all_of_it() {
        let at = LogTime::from_millis(5);
        assert_eq!(at + Duration::from_millis(2), LogTime::from_millis(7));
        assert_eq!(at + Duration::from_nanos(1), LogTime::from_millis(6));
        assert_eq!(at + Duration::MAX, LogTime::from_millis(u64::MAX));
        assert_eq!(at.saturating_duration_since(at + Duration::from_millis(2)), Duration::ZERO);
    }
}
