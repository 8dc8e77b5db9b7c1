//! How well this node is itself, as far as it can tell (Lifeguard's local health).
//!
//! A node that hears of nobody in time, or has to object to its own death, is probably slow or cut off itself. The worse
//! its score, the longer it waits for answers before it accuses others.

use std::time::Duration;

/// The score: 0 is well.
#[derive(Debug)]
pub(super) struct Awareness {
    score: u32,
    /// The score stays below.
    limit: u32,
}

impl Awareness {
    pub(super) fn new(limit: u32) -> Self {
        Self { score: 0, limit: limit.max(1) }
    }

    pub(super) fn score(&self) -> u32 {
        self.score
    }

    /// Better by `-delta`, or worse by `delta`.
    pub(super) fn change(&mut self, delta: i64) {
        let score = (i64::from(self.score) + delta).clamp(0, i64::from(self.limit) - 1);
        self.score = u32::try_from(score).expect("clamped to the range of the limit");
    }

    /// How long to wait instead of `duration`.
    pub(super) fn scaled(&self, duration: Duration) -> Duration {
        duration * (self.score + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_in_its_range_and_scales() {
        let mut awareness = Awareness::new(8);
        awareness.change(-1);
        assert_eq!(awareness.score(), 0);
        assert_eq!(awareness.scaled(Duration::from_secs(1)), Duration::from_secs(1));
        awareness.change(3);
        assert_eq!(awareness.score(), 3);
        assert_eq!(awareness.scaled(Duration::from_secs(1)), Duration::from_secs(4));
        awareness.change(100);
        assert_eq!(awareness.score(), 7);
        awareness.change(-1);
        assert_eq!(awareness.score(), 6);
    }
}
