//! Who says that it joins or leaves, and how this node leaves itself.

use std::time::Duration;

use super::broadcasts::Kind;
use super::members::{Heard, Status};
use super::output::Output;
use super::{Serf, output};
use crate::gossip::BroadcastId;
use crate::wire::Text;
use crate::wire::serf::{JoinIntent, LeaveIntent, Message};

/// How far this node is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It is a member.
    Alive,
    /// It tells that it will leave. This has to go round before memberlist says good-bye, or the node would be taken for one
    /// that failed.
    Telling {
        /// The intent.
        intent: BroadcastId,
        until: Duration,
    },
    /// memberlist says good-bye.
    Parting { until: Duration },
    /// It goes on answering while the word spreads.
    Spreading { until: Duration },
    /// That's all.
    Left,
}

impl Life {
    /// When something is to be done although nothing comes.
    pub(super) fn deadline(self) -> Option<Duration> {
        match self {
            Self::Telling { until, .. } | Self::Parting { until } | Self::Spreading { until } => Some(until),
            Self::Alive | Self::Left => None,
        }
    }
}

impl Serf {
    /// Leaves the pool: the others see it as left, not as failed. [`Output::Left`] follows within a few seconds; until then
    /// this node has to go on. Just to stop, without leaving, drop it.
    pub fn leave(&mut self, now: Duration) {
        if self.life != Life::Alive {
            return;
        }
        let time = self.layer.clock.advance();
        let name = self.config.gossip.name.clone();
        let intent = LeaveIntent { time, node: name.clone(), prune: false };
        let heard = self.layer.members.leave_intent(now, &name, time);
        self.emit(heard.event);
        if self.others_alive() {
            let intent = self.layer.broadcasts.push(Kind::Intent, Message::Leave(intent).encode());
            self.life = Life::Telling { intent, until: now + self.config.broadcast_timeout };
        } else {
            self.part(now);
        }
        self.settle(now);
    }

    /// Says that a failed member is to be taken for one that left, everywhere; with `prune`, that it is to be forgotten. A
    /// member that is alive objects, and stays.
    pub fn force_leave(&mut self, now: Duration, node: &Text, prune: bool) {
        let intent = LeaveIntent { time: self.layer.clock.advance(), node: node.clone(), prune };
        let message = Message::Leave(intent.clone()).encode();
        // As if somebody had said it: unknown or our own name, it is for the rules to judge.
        if self.hear_leave(now, &intent) && self.others_alive() {
            self.layer.broadcasts.push(Kind::Intent, message);
        }
        self.settle(now);
    }

    /// Tells that this node is here, later than whatever else is said of it.
    pub(super) fn tell_join(&mut self, now: Duration) {
        let intent = JoinIntent { time: self.layer.clock.advance(), node: self.config.gossip.name.clone() };
        let heard = self.layer.members.join_intent(now, &intent.node, intent.time);
        self.emit(heard.event);
        self.layer.broadcasts.push(Kind::Intent, Message::Join(intent).encode());
    }

    /// Objects to what is said of this node.
    pub(super) fn object(&mut self, now: Duration) {
        self.counters.intents_refuted += 1;
        self.tell_join(now);
    }

    /// Hears a join intent, and says whether others should.
    pub(super) fn hear_join(&mut self, now: Duration, intent: &JoinIntent) -> bool {
        if !self.believe(|layer| &mut layer.clock, intent.time) {
            return false;
        }
        if intent.node == self.config.gossip.name && self.life != Life::Alive {
            // Somebody's old word does not keep this node.
            return false;
        }
        let heard = self.layer.members.join_intent(now, &intent.node, intent.time);
        self.heard(heard)
    }

    /// Hears a leave intent, and says whether others should.
    pub(super) fn hear_leave(&mut self, now: Duration, intent: &LeaveIntent) -> bool {
        if !self.believe(|layer| &mut layer.clock, intent.time) {
            return false;
        }
        if intent.node == self.config.gossip.name && self.life == Life::Alive {
            // One of the same time as our last word too: whoever heard it before that word takes it for the newer one.
            if intent.time >= self.layer.members.time(&intent.node) {
                self.object(now);
            }
            return false;
        }
        let heard = self.layer.members.leave_intent(now, &intent.node, intent.time);
        let is_news = self.heard(heard);
        if is_news && intent.prune {
            self.prune(now, &intent.node);
        }
        is_news
    }

    /// The next step on the way out, if it is time for one.
    pub(super) fn go_on_leaving(&mut self, now: Duration) {
        match self.life {
            Life::Telling { intent, until } if now >= until || !self.layer.broadcasts.is_queued(intent) => {
                self.part(now);
            }
            Life::Parting { until } if now >= until => self.parted(now),
            Life::Spreading { until } if now >= until => {
                self.life = Life::Left;
                self.outputs.push(Output::Left);
            }
            _ => {}
        }
    }

    /// memberlist has said good-bye.
    pub(super) fn parted(&mut self, now: Duration) {
        if matches!(self.life, Life::Parting { .. }) {
            let name = self.config.gossip.name.clone();
            let event = self.layer.members.gone(now, &name, true);
            self.emit(event);
            let spread = if self.others_alive() { self.config.leave_propagate_delay } else { Duration::ZERO };
            self.life = Life::Spreading { until: now + spread };
        }
    }

    fn part(&mut self, now: Duration) {
        self.life = Life::Parting { until: now + self.config.broadcast_timeout };
        self.gossip.leave(now, &mut self.layer, &mut self.effects);
    }

    /// Whether there is anybody to tell something.
    fn others_alive(&self) -> bool {
        self.layer.members.with(Status::Alive).any(|member| member.name != self.config.gossip.name)
    }

    fn heard(&mut self, heard: Heard) -> bool {
        self.emit(heard.event);
        heard.is_news
    }

    pub(super) fn emit(&mut self, event: Option<output::Event>) {
        self.outputs.extend(event.map(Output::Event));
    }
}
