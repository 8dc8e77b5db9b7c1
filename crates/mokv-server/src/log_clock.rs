//! The leader's log time, and every node's guess of it.
//!
//! Log time begins where the log that this leader found ends, and goes on with the leader's monotonic clock. While there is
//! no leader it stands still, and no wall clock enters. So between two entries log time never passes faster than real time:
//! what is to live for a while lives at least that long, whatever becomes of leaders.
//!
//! That rests on the term. A clock that was set in one term may be ahead of a later one, because it did not stand still
//! in between; hence what it says may only go into the log in its own term ([`Stamp::term`]), which
//! [`Raft::propose`](crate::raft::Raft::propose) sees to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::mutants::mutant;
use crate::node::leads;
use crate::raft::Leadership;
use crate::store::{LogTime, Progress, Store};

/// A moment of log time, as the leader of a term has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The term; the moment is worth nothing in another one.
    pub term: u64,
    /// The moment.
    pub log_time: LogTime,
}

/// The decisions, without clocks or threads.
#[derive(Debug, Default)]
pub struct LogClock {
    /// Of the last term that this node led and whose entries it has applied.
    base: Option<Base>,
    /// The log time that was found applied last, and when it first was.
    applied: Option<(LogTime, Instant)>,
}

#[derive(Debug, Clone, Copy)]
struct Base {
    term: u64,
    log_time: LogTime,
    since: Instant,
}

impl LogClock {
    /// The moment, if this node leads in the term `leads` and has applied an entry of it: then it has applied all that
    /// leaders before it have stamped. `log_time` is that of the applied state, if that is asked for.
    pub fn stamp(
        &mut self,
        leads: Option<u64>,
        applied_term: u64,
        log_time: impl FnOnce() -> LogTime,
        now: Instant,
    ) -> Option<Stamp> {
        let term = leads?;
        let base = match self.base.filter(|base| base.term == term) {
            Some(base) => base,
            None if applied_term == term => *self.base.insert(Base { term, log_time: log_time(), since: now }),
            None => return None,
        };
        let passed = now.saturating_duration_since(base.since);
        let passed = if mutant!(LogTimeRunsFast) { 2 * passed } else { passed };
        Some(Stamp { term, log_time: base.log_time + passed })
    }

    /// Notes that the applied state has this log time.
    pub fn note_applied(&mut self, log_time: LogTime, now: Instant) {
        if self.applied.is_none_or(|(last, _)| last != log_time) {
            self.applied = Some((log_time, now));
        }
    }

    /// What log time may be by now, though nothing tells. A leader that is gone makes it too late.
    pub fn guess(&self, now: Instant) -> LogTime {
        self.applied.map_or_else(LogTime::default, |(log_time, since)| log_time + now.saturating_duration_since(since))
    }
}

/// The log clock of a node. Cheap to clone; clones are the same clock.
#[derive(Clone)]
pub struct SharedLogClock {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Mutex<LogClock>,
    leadership: watch::Receiver<Leadership>,
    progress: watch::Receiver<Progress>,
    store: Store,
}

impl SharedLogClock {
    /// The clock of a node with this state.
    pub fn new(leadership: watch::Receiver<Leadership>, store: Store) -> Self {
        let progress = store.progress();
        Self { inner: Arc::new(Inner { clock: Mutex::default(), leadership, progress, store }) }
    }

    fn clock(&self) -> MutexGuard<'_, LogClock> {
        self.inner.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment, if this node leads and knows it.
    pub fn stamp(&self) -> Option<Stamp> {
        let leads = Some(self.inner.leadership.borrow()).filter(|now| leads(now)).map(|now| now.term);
        let applied_term = self.inner.progress.borrow().applied.map_or(0, |at| at.term);
        // Asked for after the position: so the log time is that of the position, or of a later one.
        self.clock().stamp(leads, applied_term, || self.inner.store.log_time(), Instant::now())
    }

    /// Notes what the state has come to. Has to be called soon after each entry for [`SharedLogClock::remaining`] to be right.
    pub fn note_applied(&self) {
        self.clock().note_applied(self.inner.store.log_time(), Instant::now());
    }

    /// About how long it is until then.
    pub fn remaining(&self, deadline: LogTime) -> Duration {
        let now = match self.stamp() {
            Some(stamp) => stamp.log_time,
            None => self.clock().guess(Instant::now()),
        };
        // The state may be ahead of what was noted of it: what was just given a ttl never seems to live longer than that.
        deadline.saturating_duration_since(now.max(self.inner.store.log_time()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command;
    use crate::raft::Role;
    use crate::store::Position;

    fn ms(millis: u64) -> LogTime {
        LogTime::from_millis(millis)
    }

    /// A clock, and what it is told, in milliseconds since the test began.
    struct Script {
        clock: LogClock,
        start: Instant,
    }

    impl Script {
        fn new() -> Self {
            Self { clock: LogClock::default(), start: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn stamp(&mut self, leads: Option<u64>, applied_term: u64, log_time: u64, now: u64) -> Option<u64> {
            let now = self.at(now);
            self.clock.stamp(leads, applied_term, || ms(log_time), now).map(|stamp| stamp.log_time.as_millis())
        }
    }

    #[test]
    fn a_leader_goes_on_where_the_log_ends() {
        let mut script = Script::new();
        assert_eq!(script.stamp(None, 1, 500, 0), None, "a follower");
        assert_eq!(script.stamp(Some(2), 1, 500, 10), None, "what leaders before it stamped may not be applied yet");
        assert_eq!(script.stamp(Some(2), 2, 700, 20), Some(700));
        assert_eq!(script.stamp(Some(2), 2, 700, 120), Some(800));
        assert_eq!(script.stamp(Some(2), 2, 800, 130), Some(810), "its own stamps are behind it");
    }

    #[test]
    fn a_leader_that_is_elected_again_forgets_the_time_in_between() {
        let mut script = Script::new();
        assert_eq!(script.stamp(Some(2), 2, 700, 0), Some(700));
        assert_eq!(script.stamp(None, 2, 700, 1_000), None);
        assert_eq!(script.stamp(Some(4), 3, 750, 9_000), None);
        assert_eq!(script.stamp(Some(4), 4, 750, 9_100), Some(750));
        assert_eq!(script.stamp(Some(4), 4, 750, 9_200), Some(850));
    }

    #[test]
    fn others_guess_by_their_own_clock() {
        let mut script = Script::new();
        assert_eq!(script.clock.guess(script.at(0)), ms(0));
        let mut note = |log_time, now| {
            let now = script.start + Duration::from_millis(now);
            script.clock.note_applied(ms(log_time), now);
            script.clock.guess(now + Duration::from_millis(100)).as_millis()
        };
        assert_eq!(note(500, 0), 600);
        assert_eq!(note(500, 200), 800, "it went on meanwhile");
        assert_eq!(note(550, 300), 650, "there was no leader for a while");
    }

    #[test]
    fn what_was_just_written_has_no_more_left_than_it_was_given() {
        let follower = Leadership { role: Role::Follower, leader: None, term: 1, leader_changes: 0, failure: None };
        let (_leadership, leadership) = watch::channel(follower);
        let store = Store::new();
        let clock = SharedLogClock::new(leadership, store.clone());
        clock.note_applied();
        let write = command::set("k", "v");
        store.apply(Position { term: 1, index: 1 }, ms(5_000), &[write]).expect("applied");
        // Nothing was noted of it yet.
        assert!(clock.remaining(ms(6_000)) <= Duration::from_secs(1));
    }

    proptest! {
        /// Leaders follow each other; what they stamp never goes back, and never runs ahead of real time.
        #[test]
        fn log_time_never_passes_faster_than_real_time(
            steps in prop::collection::vec((0_usize..3, 0_u64..500, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let start = Instant::now();
            let mut clocks = [LogClock::default(), LogClock::default(), LogClock::default()];
            // The state, as all nodes apply it.
            let (mut log_time, mut stamped_at) = (LogTime::default(), 0);
            let (mut term, mut leader, mut now) = (1, 0, 0);
            for (node, pass, elect, has_applied) in steps {
                now += pass;
                if elect {
                    (term, leader) = (term + 1, node);
                }
                let applied_term = if has_applied { term } else { term - 1 };
                let at = start + Duration::from_millis(now);
                for (node, clock) in clocks.iter_mut().enumerate() {
                    let leads = (node == leader).then_some(term);
                    let Some(stamp) = clock.stamp(leads, applied_term, || log_time, at) else { continue };
                    prop_assert_eq!((node, stamp.term), (leader, term));
                    prop_assert!(stamp.log_time >= log_time, "it went back");
                    let passed = stamp.log_time.saturating_duration_since(log_time);
                    prop_assert!(passed <= Duration::from_millis(now - stamped_at), "it ran ahead");
                    (log_time, stamped_at) = (stamp.log_time, now);
                }
            }
        }
    }
}
