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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytes::Bytes;

    use super::*;
    use crate::wire::memberlist::Liveness;
    use crate::wire::serf::encode_tags;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn node(name: &str) -> Node {
        Node {
            name: name.into(),
            addr: Ipv4Addr::LOCALHOST.into(),
            port: 7946,
            meta: encode_tags(&Tags::from([("role".into(), "web".into())])),
            versions: Versions::OURS,
            state: Liveness::Alive,
            incarnation: 1,
            since: Duration::ZERO,
        }
    }

    /// A member `a` that joined at 5.
    fn members() -> Members {
        let mut members = Members::default();
        members.joined(secs(0), &node("a"));
        assert!(members.join_intent(secs(0), &"a".into(), 5).is_news);
        members
    }

    fn status(members: &Members) -> (Status, LamportTime, Duration) {
        let member = &members.all()[&"a".into()];
        (member.status, member.time, member.since)
    }

    #[test]
    fn who_disappears_after_an_intent_has_left() {
        let (mut members, a) = (members(), "a".into());
        let heard = members.leave_intent(secs(1), &a, 6);
        assert!(heard.is_news && matches!(heard.event, Some(Event::Leaving(_))));
        assert_eq!(status(&members), (Status::Leaving, 6, secs(1)));
        assert!(matches!(members.gone(secs(2), &a, false), Some(Event::Left(_))));
        assert_eq!(status(&members), (Status::Left, 6, secs(2)));
        assert_eq!(members.gone(secs(3), &a, true), None, "once");
    }

    #[test]
    fn who_disappears_without_has_failed_unless_it_said_so() {
        let (mut members, a) = (members(), "a".into());
        assert!(matches!(members.gone(secs(2), &a, false), Some(Event::Failed(_))));
        assert_eq!(status(&members), (Status::Failed, 5, secs(2)));
        members.joined(secs(3), &node("a"));
        assert_eq!(status(&members), (Status::Alive, 5, secs(3)));
        assert!(matches!(members.gone(secs(4), &a, true), Some(Event::Left(_))));
        assert_eq!(members.gone(secs(4), &"nobody".into(), true), None);
    }

    #[test]
    fn only_later_intents_count() {
        let (mut members, a) = (members(), "a".into());
        for time in [0, 4, 5] {
            assert_eq!(members.leave_intent(secs(1), &a, time), Heard::default());
            assert_eq!(members.join_intent(secs(1), &a, time), Heard::default());
        }
        members.leave_intent(secs(1), &a, 7);
        assert_eq!(members.join_intent(secs(2), &a, 7), Heard::default());
        let heard = members.join_intent(secs(2), &a, 8);
        assert!(heard.is_news && matches!(heard.event, Some(Event::Updated(_))));
        assert_eq!(status(&members), (Status::Alive, 8, secs(2)));
        assert_eq!(members.join_intent(secs(3), &a, 9), Heard { is_news: true, event: None });
    }

    /// Else two intents could chase each other through the pool for ever.
    #[test]
    fn an_intent_that_changes_nothing_is_news_once() {
        let (mut members, a) = (members(), "a".into());
        members.leave_intent(secs(1), &a, 6);
        assert_eq!(members.leave_intent(secs(2), &a, 7), Heard { is_news: true, event: None });
        assert_eq!(members.leave_intent(secs(2), &a, 7), Heard::default());
        members.gone(secs(3), &a, false);
        assert_eq!(members.leave_intent(secs(4), &a, 8), Heard { is_news: true, event: None });
        assert_eq!(status(&members), (Status::Left, 8, secs(3)));
    }

    #[test]
    fn a_failed_one_that_is_said_to_leave_has_left() {
        let (mut members, a) = (members(), "a".into());
        members.gone(secs(1), &a, false);
        let heard = members.leave_intent(secs(2), &a, 6);
        assert!(heard.is_news && matches!(heard.event, Some(Event::Left(_))));
        assert_eq!(status(&members), (Status::Left, 6, secs(2)));
    }

    #[test]
    fn the_newest_intent_of_an_unknown_node_is_remembered() {
        for (intents, expected) in [
            (vec![(Intention::Leave, 3)], (Status::Leaving, 3)),
            (vec![(Intention::Leave, 3), (Intention::Join, 4)], (Status::Alive, 4)),
            (vec![(Intention::Leave, 4), (Intention::Join, 3)], (Status::Leaving, 4)),
            (vec![(Intention::Join, 4), (Intention::Leave, 4)], (Status::Alive, 4)),
        ] {
            let (mut members, a) = (Members::default(), "a".into());
            let mut newest = None;
            for (intention, time) in intents {
                let heard = match intention {
                    Intention::Join => members.join_intent(secs(0), &a, time),
                    Intention::Leave => members.leave_intent(secs(0), &a, time),
                };
                assert_eq!(heard, Heard { is_news: Some(time) > newest, event: None });
                newest = newest.max(Some(time));
            }
            members.joined(secs(1), &node("a"));
            assert_eq!(status(&members), (expected.0, expected.1, secs(1)));
        }
    }

    #[test]
    fn intents_are_forgotten_and_bounded() {
        let (mut members, a) = (Members::default(), "a".into());
        members.leave_intent(secs(0), &a, 3);
        members.reap_intents(secs(300), secs(300));
        assert!(!members.leave_intent(secs(300), &a, 3).is_news);
        members.reap_intents(secs(301), secs(300));
        assert!(members.leave_intent(secs(301), &a, 3).is_news);

        for i in 1..INTENTS_MAX {
            assert!(members.join_intent(secs(302), &format!("n{i}").into(), 1).is_news);
        }
        assert!(!members.join_intent(secs(302), &"one more".into(), 1).is_news);
        assert!(members.join_intent(secs(302), &"n1".into(), 2).is_news, "of those that are there");
    }

    #[test]
    fn the_dead_are_forgotten_each_in_its_time() {
        let mut members = Members::default();
        for name in ["alive", "failed", "left", "leaving"] {
            members.joined(secs(0), &node(name));
        }
        members.leave_intent(secs(0), &"leaving".into(), 1);
        members.gone(secs(10), &"failed".into(), false);
        members.gone(secs(10), &"left".into(), true);
        assert_eq!(members.reap(secs(110), secs(100), secs(200)), []);
        assert!(
            matches!(&members.reap(secs(111), secs(100), secs(200))[..], [Event::Reaped(m)] if m.name == "failed".into())
        );
        assert!(
            matches!(&members.reap(secs(211), secs(100), secs(200))[..], [Event::Reaped(m)] if m.name == "left".into())
        );
        assert_eq!(members.reap(secs(9999), secs(100), secs(200)), []);
        assert_eq!(members.alive(), 1);
    }

    #[test]
    fn what_a_node_says_of_itself_is_taken_over() {
        let mut members = members();
        let mut changed = node("a");
        changed.port = 1;
        changed.meta = Bytes::from_static(b"\xff\xc1");
        assert!(matches!(members.updated(secs(9), &changed), Event::Updated(_)));
        let member = &members.all()[&"a".into()];
        assert_eq!((member.addr.port(), member.tags.len()), (1, 0), "and tags that can't be read are none");
        assert_eq!(status(&members), (Status::Alive, 5, secs(0)));
        assert!(matches!(members.updated(secs(9), &node("b")), Event::Joined(_)), "forgotten here, but there");
    }
}
