//! Who is forgotten, and who is looked for.

use std::time::Duration;

use rand::RngExt;
use rand::seq::IteratorRandom;

use super::members::Status;
use super::{Purpose, Serf};
use crate::wire::Text;

/// How often it is looked whether gossip carries what is said.
const QUEUE_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// When each of the regular things is due.
#[derive(Debug)]
pub(super) struct Timers {
    pub(super) reap: Duration,
    pub(super) reconnect: Duration,
    pub(super) queue_check: Duration,
}

impl Timers {
    pub(super) fn new(now: Duration, reap_interval: Duration, reconnect_interval: Duration) -> Self {
        Self { reap: now + reap_interval, reconnect: now + reconnect_interval, queue_check: now + QUEUE_CHECK_INTERVAL }
    }

    pub(super) fn next(&self) -> Duration {
        self.reap.min(self.reconnect).min(self.queue_check)
    }
}

impl Serf {
    /// Does what is due.
    pub(super) fn run_timers(&mut self, now: Duration) {
        if now >= self.timers.reap {
            self.timers.reap = now + self.config.reap_interval;
            self.reap(now);
        }
        if now >= self.timers.reconnect {
            self.timers.reconnect = now + self.config.reconnect_interval;
            self.reconnect(now);
        }
        if now >= self.timers.queue_check {
            self.timers.queue_check = now + QUEUE_CHECK_INTERVAL;
            self.layer.broadcasts.check();
        }
        self.prune_due(now);
    }

    /// Forgets a member that somebody wants to be forgotten. One that is on its way out is given the time to go.
    pub(super) fn prune(&mut self, now: Duration, name: &Text) {
        match self.layer.members.all().get(name).map(|member| member.status) {
            Some(Status::Leaving) => {
                let due = now + self.config.broadcast_timeout + self.config.leave_propagate_delay;
                self.prunes.entry(name.clone()).or_insert(due);
            }
            Some(Status::Left) => {
                let event = self.layer.members.forget(name);
                self.emit(event);
            }
            Some(Status::Alive | Status::Failed) | None => {}
        }
    }

    fn prune_due(&mut self, now: Duration) {
        let due: Vec<Text> = self.prunes.iter().filter(|(_, due)| now >= **due).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.prunes.remove(&name);
            // Unless it objected meanwhile.
            let gone = self
                .layer
                .members
                .all()
                .get(&name)
                .is_some_and(|member| matches!(member.status, Status::Leaving | Status::Left));
            if gone {
                let event = self.layer.members.forget(&name);
                self.emit(event);
            }
        }
    }

    fn reap(&mut self, now: Duration) {
        let (failed_for, left_for) = (self.config.reconnect_timeout, self.config.tombstone_timeout);
        for event in self.layer.members.reap(now, failed_for, left_for) {
            self.emit(Some(event));
        }
        self.layer.members.reap_intents(now, self.config.recent_intent_timeout);
    }

    /// Tries to reach a failed member: after a partition somebody has to be the first. With as many failed as alive ones
    /// everybody tries; with fewer, so many of the pool that each failed one is tried about once a round.
    fn reconnect(&mut self, now: Duration) {
        let members = &self.layer.members;
        let failed = members.with(Status::Failed).count();
        let left = members.with(Status::Left).count();
        let alive = (members.all().len() - failed - left).max(1);
        if failed == 0 || self.rng.random::<f64>() > failed as f64 / alive as f64 {
            return;
        }
        let Some(member) = members.with(Status::Failed).choose(&mut self.rng) else {
            return;
        };
        let addr = member.addr;
        let id = self.gossip.join(now, addr, &mut self.layer, &mut self.effects);
        self.joins.insert(id, Purpose::Reconnect);
        self.counters.reconnects += 1;
    }
}
