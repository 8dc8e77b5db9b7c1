//! What is said of a node, and whether it is believed.
//!
//! Each node has an incarnation that it alone raises. A claim about an older one is out of date; of claims about the same
//! one, suspect beats alive, and dead beats both. So only the node itself can overrule what is said of it, by a higher
//! incarnation: it objects. What is news is passed on.

use std::time::Duration;

use crate::wire::Text;
use crate::wire::memberlist::{Alive, Dead, Liveness, META_BYTES_MAX, Message, Suspect, Versions};

use super::suspicion::Patience;
use super::{Fact, Gossip, Leaving, Node, Output};

/// The longest name that is believed, so that what is said of a node always fits into a datagram. Serf itself stops at 128.
pub const NAME_BYTES_MAX: usize = 256;

impl Gossip {
    /// A node is there.
    pub(super) fn alive(&mut self, now: Duration, alive: Alive, out: &mut Vec<Output>) {
        let about_me = self.nodes.is_me(&alive.node);
        if about_me && self.leaving != Leaving::No {
            return;
        }
        let Some(versions) = believable_versions(&alive) else {
            self.counters.messages_ignored += 1;
            return;
        };
        let Some(known) = self.nodes.get(&alive.node) else {
            self.alive_new(now, &alive, versions, out);
            return;
        };
        let moved = (known.addr, known.port) != (alive.addr, alive.port);
        if moved && !self.may_move(now, known) {
            self.counters.conflicts += 1;
            out.push(Output::Fact(Fact::Conflict { known: known.clone(), other: alive }));
        } else if about_me {
            self.alive_me(&alive, versions);
        } else if moved || alive.incarnation > known.incarnation {
            self.alive_known(now, alive, versions, out);
        }
    }

    /// Somebody says something of this node that it might not have said itself, or not in this run.
    fn alive_me(&mut self, alive: &Alive, versions: Versions) {
        let me = self.nodes.me();
        let newer = alive.incarnation > me.incarnation;
        // After a restart the incarnations may be equal and the rest not.
        let different = alive.meta != me.meta || versions != me.versions;
        if newer || (alive.incarnation == me.incarnation && different) {
            self.refute(alive.incarnation);
        }
    }

    fn alive_new(&mut self, now: Duration, alive: &Alive, versions: Versions, out: &mut Vec<Output>) {
        // No node has incarnation 0.
        if alive.incarnation == 0 || self.nodes.is_full() {
            self.counters.messages_ignored += 1;
            return;
        }
        let node = Node::new(now, alive, versions);
        self.nodes.insert(node.clone(), &mut self.rng);
        self.broadcast(alive.node.clone(), &Message::Alive(alive.clone()));
        out.push(Output::Fact(Fact::Joined(node)));
    }

    fn alive_known(&mut self, now: Duration, alive: Alive, versions: Versions, out: &mut Vec<Output>) {
        self.suspicions.end(&alive.node);
        let node = self.nodes.get_mut(&alive.node).expect("the caller found it");
        let (was_gone, meta_changed) = (node.is_gone(), node.meta != alive.meta);
        node.become_state(now, Liveness::Alive);
        *node = Node { since: node.since, ..Node::new(now, &alive, versions) };
        if was_gone {
            out.push(Output::Fact(Fact::Joined(node.clone())));
        } else if meta_changed {
            out.push(Output::Fact(Fact::Updated(node.clone())));
        }
        self.broadcast(alive.node.clone(), &Message::Alive(alive));
    }

    /// Whether a node of that name may be at another address now: the one that was known is gone, and not by mistake.
    fn may_move(&self, now: Duration, known: &Node) -> bool {
        match known.state {
            Liveness::Left => !self.nodes.is_me(&known.name),
            Liveness::Dead => self.config.dead_reclaim.is_some_and(|time| now.saturating_sub(known.since) > time),
            Liveness::Alive | Liveness::Suspect => false,
        }
    }

    /// A node does not answer, somebody says.
    pub(super) fn suspect(&mut self, now: Duration, suspect: Suspect) {
        let Some(node) = self.accused(&suspect.node, &suspect.from, suspect.incarnation) else { return };
        if self.suspicions.contains(&suspect.node) {
            if self.suspicions.confirm(&suspect.node, &suspect.from) {
                self.counters.confirmations += 1;
                self.broadcast(suspect.node.clone(), &Message::Suspect(suspect));
            }
            return;
        }
        if node.state != Liveness::Alive {
            return;
        }
        if self.nodes.is_me(&suspect.node) {
            self.refute(suspect.incarnation);
            return;
        }
        self.counters.suspicions += 1;
        let config = &self.config;
        let (mult, max_mult) = (config.suspicion_mult, config.suspicion_max_mult);
        let patience = Patience::new(mult, max_mult, config.probe_interval, self.nodes.len());
        let node = self.nodes.get_mut(&suspect.node).expect("it was just found");
        node.incarnation = suspect.incarnation;
        node.become_state(now, Liveness::Suspect);
        self.suspicions.begin(now, suspect.node.clone(), suspect.from.clone(), patience);
        self.broadcast(suspect.node.clone(), &Message::Suspect(suspect));
    }

    /// A node is gone, somebody says.
    pub(super) fn dead(&mut self, now: Duration, dead: Dead, out: &mut Vec<Output>) {
        let Some(node) = self.accused(&dead.node, &dead.from, dead.incarnation) else { return };
        if node.is_gone() {
            return;
        }
        if self.nodes.is_me(&dead.node) {
            self.refute(dead.incarnation);
            return;
        }
        self.suspicions.end(&dead.node);
        let node = self.nodes.get_mut(&dead.node).expect("it was just found");
        node.incarnation = dead.incarnation;
        node.become_state(now, if dead.from == dead.node { Liveness::Left } else { Liveness::Dead });
        out.push(Output::Fact(Fact::Gone(node.clone())));
        self.broadcast(dead.node.clone(), &Message::Dead(dead));
    }

    /// A suspected node did not object in time.
    pub(super) fn declare_dead(&mut self, now: Duration, name: Text, out: &mut Vec<Output>) {
        let incarnation = self.nodes.get(&name).expect("only known nodes are suspected").incarnation;
        self.counters.deaths += 1;
        self.dead(now, Dead { incarnation, node: name, from: self.config.name.clone() }, out);
    }

    /// Objects to what is said of this node: that is news about a higher incarnation than `incarnation`.
    fn refute(&mut self, incarnation: u32) {
        self.counters.refutations += 1;
        self.awareness.change(1);
        let me = self.nodes.me_mut();
        me.incarnation = me.incarnation.max(incarnation).saturating_add(1);
        let alive = me.to_alive();
        self.broadcast(alive.node.clone(), &Message::Alive(alive));
    }

    /// The node that something bad is said of, if it is known and the claim is not out of date.
    fn accused(&self, node: &Text, from: &Text, incarnation: u32) -> Option<&Node> {
        let passable = from.as_bytes().len() <= NAME_BYTES_MAX;
        self.nodes.get(node).filter(|node| passable && incarnation >= node.incarnation)
    }
}

/// What a node speaks, if the claim that it is alive can be passed on and does no harm. Of a node without versions, or with
/// impossible ones, the others would hear too, and then refuse every exchange of states that it appears in.
fn believable_versions(alive: &Alive) -> Option<Versions> {
    let name = alive.node.as_bytes().len();
    let fits = (1..=NAME_BYTES_MAX).contains(&name) && alive.meta.len() <= META_BYTES_MAX && alive.port != 0;
    alive.versions.filter(|v| {
        let protocol = v.protocol_min > 0 && (v.protocol_min..=v.protocol_max).contains(&v.protocol);
        fits && protocol && (v.delegate_min..=v.delegate_max).contains(&v.delegate)
    })
}
