//! Who belongs to the pool, and how each of them is doing, as Serf has it: what memberlist found out, and what the nodes
//! said that they are about to do.
//!
//! memberlist alone can't tell a node that left from one that crashed while others still spread the word. Serf can: a node
//! says first that it will leave (an *intent*), and whoever disappears after that has left; whoever disappears without has
//! failed. Intents carry Lamport times, and the newest one counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::warn;

use super::output::Event;
use crate::gossip::Node;
use crate::wire::Text;
use crate::wire::memberlist::Versions;
use crate::wire::serf::{LamportTime, Tags, decode_tags};

/// Intents of unknown nodes that are remembered; anybody can name any number of nodes.
const INTENTS_MAX: usize = 1 << 16;

/// How a member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It answers.
    Alive,
    /// It said that it is about to leave.
    Leaving,
    /// It left, or somebody said that it is to be taken for one that did.
    Left,
    /// It stopped answering.
    Failed,
}

/// A member of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name: what tells it from the others.
    pub name: Text,
    /// Where it is.
    pub addr: SocketAddr,
    /// What it says of itself.
    pub tags: Tags,
    /// How it is doing.
    pub status: Status,
    /// What it speaks.
    pub versions: Versions,
    /// When it last joined or left.
    pub time: LamportTime,
    /// Since when this node takes it for what `status` says.
    pub since: Duration,
}

/// What somebody intends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intention {
    Join,
    Leave,
}

/// An intent of a node that is not known yet: gossip overtakes itself.
#[derive(Debug)]
struct Intent {
    intention: Intention,
    time: LamportTime,
    heard: Duration,
}

/// What came of an intent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// It was new: others should hear of it.
    pub(super) is_news: bool,
    /// What it changed.
    pub(super) event: Option<Event>,
}

/// All members.
///
/// Invariant: no intent is kept of a node that is a member.
#[derive(Debug, Default)]
pub(super) struct Members {
    known: BTreeMap<Text, Member>,
    intents: BTreeMap<Text, Intent>,
}

impl Members {
    /// All of them, by name.
    pub(super) fn all(&self) -> &BTreeMap<Text, Member> {
        &self.known
    }

    /// Those that are in this state.
    pub(super) fn with(&self, status: Status) -> impl Iterator<Item = &Member> {
        self.known.values().filter(move |member| member.status == status)
    }

    /// How many are alive.
    pub(super) fn alive(&self) -> usize {
        self.with(Status::Alive).count()
    }

    /// memberlist found it, again or for the first time.
    pub(super) fn joined(&mut self, now: Duration, node: &Node) -> Event {
        let intent = self.intents.remove(&node.name);
        let member = self.known.entry(node.name.clone()).or_insert_with(|| Member {
            name: node.name.clone(),
            addr: SocketAddr::new(node.addr, node.port),
            tags: Tags::new(),
            status: Status::Alive,
            versions: node.versions,
            time: 0,
            since: now,
        });
        describe(member, node);
        member.since = now;
        member.status = Status::Alive;
        if let Some(intent) = intent {
            member.time = intent.time;
            if intent.intention == Intention::Leave {
                member.status = Status::Leaving;
            }
        }
        Event::Joined(member.clone())
    }

    /// It says something else of itself than before.
    pub(super) fn updated(&mut self, now: Duration, node: &Node) -> Event {
        match self.known.get_mut(&node.name) {
            Some(member) => {
                describe(member, node);
                Event::Updated(member.clone())
            }
            // Forgotten here, but there.
            None => self.joined(now, node),
        }
    }

    /// memberlist lost it, or heard that it is gone: in its own words, if `said_so`.
    ///
    /// HashiCorp's Serf takes a node for failed whose last word it heard, but not the intent before. A node says good-bye to
    /// memberlist only when it leaves, so here that is enough: in a network that loses packets, who leaves is not failed.
    pub(super) fn gone(&mut self, now: Duration, name: &Text, said_so: bool) -> Option<Event> {
        let member = self.known.get_mut(name)?;
        match member.status {
            Status::Alive if !said_so => {
                member.turn(now, Status::Failed);
                Some(Event::Failed(member.clone()))
            }
            Status::Alive | Status::Leaving => {
                member.turn(now, Status::Left);
                Some(Event::Left(member.clone()))
            }
            Status::Left | Status::Failed => None,
        }
    }

    /// Somebody says that it has joined.
    pub(super) fn join_intent(&mut self, now: Duration, name: &Text, time: LamportTime) -> Heard {
        let Some(member) = self.known.get_mut(name) else {
            return self.remember(now, name, Intention::Join, time);
        };
        if time <= member.time {
            return Heard::default();
        }
        member.time = time;
        let was_leaving = member.status == Status::Leaving;
        if was_leaving {
            member.turn(now, Status::Alive);
        }
        Heard { is_news: true, event: was_leaving.then(|| Event::Updated(member.clone())) }
    }

    /// Somebody says that it is about to leave, or is to be taken for one that did.
    pub(super) fn leave_intent(&mut self, now: Duration, name: &Text, time: LamportTime) -> Heard {
        let Some(member) = self.known.get_mut(name) else {
            return self.remember(now, name, Intention::Leave, time);
        };
        if time <= member.time {
            return Heard::default();
        }
        // Even if nothing else changes: else two such intents could chase each other through the pool for ever.
        member.time = time;
        let event = match member.status {
            Status::Alive => {
                member.turn(now, Status::Leaving);
                Some(Event::Leaving(member.clone()))
            }
            Status::Failed => {
                member.turn(now, Status::Left);
                Some(Event::Left(member.clone()))
            }
            Status::Leaving | Status::Left => None,
        };
        Heard { is_news: true, event }
    }

    /// When it last joined or left.
    pub(super) fn time(&self, name: &Text) -> LamportTime {
        self.known.get(name).map_or(0, |member| member.time)
    }

    /// Forgets it.
    pub(super) fn forget(&mut self, name: &Text) -> Option<Event> {
        self.known.remove(name).map(Event::Reaped)
    }

    /// Forgets those that have been gone for too long.
    pub(super) fn reap(&mut self, now: Duration, failed_for: Duration, left_for: Duration) -> Vec<Event> {
        let overdue = |member: &Member| match member.status {
            Status::Alive | Status::Leaving => false,
            Status::Failed => now.saturating_sub(member.since) > failed_for,
            Status::Left => now.saturating_sub(member.since) > left_for,
        };
        let names: Vec<Text> =
            self.known.values().filter(|member| overdue(member)).map(|member| member.name.clone()).collect();
        names.iter().filter_map(|name| self.forget(name)).collect()
    }

    /// Forgets intents of nodes that did not come.
    pub(super) fn reap_intents(&mut self, now: Duration, after: Duration) {
        self.intents.retain(|_, intent| now.saturating_sub(intent.heard) <= after);
    }

    fn remember(&mut self, now: Duration, name: &Text, intention: Intention, time: LamportTime) -> Heard {
        let is_news = match self.intents.get(name) {
            Some(known) => time > known.time,
            None => self.intents.len() < INTENTS_MAX,
        };
        if is_news {
            let intent = Intent { intention, time, heard: now };
            self.intents.insert(name.clone(), intent);
        }
        Heard { is_news, event: None }
    }
}

impl Member {
    fn turn(&mut self, now: Duration, status: Status) {
        self.status = status;
        self.since = now;
    }
}

/// Takes over what memberlist knows.
fn describe(member: &mut Member, node: &Node) {
    member.addr = SocketAddr::new(node.addr, node.port);
    member.versions = node.versions;
    member.tags = decode_tags(&node.meta).unwrap_or_else(|error| {
        warn!(node = %node.name, %error, "tags that can't be read");
        Tags::new()
    });
}
