//! The nodes that are known, and the order in which they are probed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IteratorRandom, SliceRandom};

use crate::wire::Text;
use crate::wire::memberlist::{Alive, Liveness, NodeState, Versions};

/// How many nodes are kept at most: as many as memberlist takes in one exchange.
pub const NODES_MAX: usize = 1 << 20;

/// A node, as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name.
    pub name: Text,
    /// Where it is.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// The tags, as the layer above encodes them.
    pub meta: Bytes,
    /// What it speaks.
    pub versions: Versions,
    /// How it is doing.
    pub state: Liveness,
    /// The newest incarnation of it that was heard of.
    pub incarnation: u32,
    /// Since when it is doing so.
    pub since: Duration,
}

impl Node {
    pub(super) fn new(now: Duration, alive: &Alive, versions: Versions) -> Self {
        Self {
            name: alive.node.clone(),
            addr: alive.addr,
            port: alive.port,
            meta: alive.meta.clone(),
            versions,
            state: Liveness::Alive,
            incarnation: alive.incarnation,
            since: now,
        }
    }

    /// Where it is.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.addr, self.port)
    }

    /// Whether it is dead or has left.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, Liveness::Dead | Liveness::Left)
    }

    /// Whether it understands what came with this version of memberlist's protocol.
    pub(super) fn speaks(&self, protocol: u8) -> bool {
        self.versions.protocol_max >= protocol
    }

    /// It changes its state, or keeps it.
    pub(super) fn become_state(&mut self, now: Duration, state: Liveness) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }

    /// The claim that it is alive.
    pub(super) fn to_alive(&self) -> Alive {
        Alive {
            incarnation: self.incarnation,
            node: self.name.clone(),
            addr: self.addr,
            port: self.port,
            meta: self.meta.clone(),
            versions: Some(self.versions),
        }
    }

    /// For an exchange of whole states.
    pub(super) fn to_state(&self) -> NodeState {
        NodeState {
            name: self.name.clone(),
            addr: self.addr,
            port: self.port,
            meta: self.meta.clone(),
            incarnation: self.incarnation,
            state: self.state,
            versions: Some(self.versions),
        }
    }
}

/// All nodes, this one included. Invariant: `order` has each name of `by_name` once.
#[derive(Debug)]
pub(super) struct Nodes {
    by_name: BTreeMap<Text, Node>,
    /// The order of probes.
    order: Vec<Text>,
    /// Who is next in `order`.
    next: usize,
    /// This node. It is always there.
    me: Text,
}

impl Nodes {
    pub(super) fn new(me: Node) -> Self {
        Self {
            order: vec![me.name.clone()],
            next: 0,
            me: me.name.clone(),
            by_name: BTreeMap::from([(me.name.clone(), me)]),
        }
    }

    pub(super) fn me(&self) -> &Node {
        &self.by_name[&self.me]
    }

    pub(super) fn me_mut(&mut self) -> &mut Node {
        self.by_name.get_mut(&self.me).expect("this node is never removed")
    }

    pub(super) fn is_me(&self, name: &Text) -> bool {
        *name == self.me
    }

    pub(super) fn get(&self, name: &Text) -> Option<&Node> {
        self.by_name.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &Text) -> Option<&mut Node> {
        self.by_name.get_mut(name)
    }

    /// In the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> + Clone {
        self.by_name.values()
    }

    /// How many there are, the dead that are not yet forgotten included.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_name.len() >= NODES_MAX
    }

    /// Whether anybody else is there, or may be.
    pub(super) fn anybody_else(&self) -> bool {
        self.iter().any(|node| !self.is_me(&node.name) && !node.is_gone())
    }

    /// Adds a node at a random place in the order of probes: were it the last for everybody, nobody would probe it until
    /// the end of everybody's round.
    pub(super) fn insert(&mut self, node: Node, rng: &mut StdRng) {
        let name = node.name.clone();
        let older = self.by_name.insert(name.clone(), node);
        debug_assert!(older.is_none(), "a node is inserted once");
        let (place, last) = (rng.random_range(0..=self.order.len()), self.order.len());
        self.order.push(name);
        self.order.swap(place, last);
    }

    /// Up to `count` different nodes out of the others that `pick` takes.
    pub(super) fn sample(&self, rng: &mut StdRng, count: usize, pick: impl Fn(&Node) -> bool) -> Vec<Node> {
        let others = self.iter().filter(|node| !self.is_me(&node.name) && pick(node));
        others.sample(rng, count).into_iter().cloned().collect()
    }

    /// The node to probe next: each of the others in turn, in a new order each time round. At the end of a round those are
    /// forgotten that have been gone for `keep`.
    pub(super) fn next_to_probe(&mut self, now: Duration, keep: Duration, rng: &mut StdRng) -> Option<Node> {
        // Twice: the rest of this round, and the next one.
        for _ in 0..2 {
            while let Some(name) = self.order.get(self.next) {
                self.next += 1;
                let node = &self.by_name[name];
                if !self.is_me(name) && !node.is_gone() {
                    return Some(node.clone());
                }
            }
            self.begin_round(now, keep, rng);
        }
        None
    }

    fn begin_round(&mut self, now: Duration, keep: Duration, rng: &mut StdRng) {
        let me = &self.me;
        self.by_name.retain(|name, node| name == me || !node.is_gone() || now.saturating_sub(node.since) <= keep);
        self.order.retain(|name| self.by_name.contains_key(name));
        self.order.shuffle(rng);
        self.next = 0;
        debug_assert_eq!(self.order.len(), self.by_name.len());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    const KEEP: Duration = Duration::from_secs(30);

    fn node(name: &str, state: Liveness, since: Duration) -> Node {
        Node {
            name: name.into(),
            addr: [127, 0, 0, 1].into(),
            port: 7946,
            meta: Bytes::new(),
            versions: Versions::OURS,
            state,
            incarnation: 1,
            since,
        }
    }

    fn nodes(rng: &mut StdRng, count: usize) -> Nodes {
        let mut nodes = Nodes::new(node("me", Liveness::Alive, Duration::ZERO));
        for i in 0..count {
            nodes.insert(node(&format!("n{i}"), Liveness::Alive, Duration::ZERO), rng);
        }
        nodes
    }

    #[test]
    fn each_round_has_every_node_once_in_an_order_of_its_own() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut nodes = nodes(&mut rng, 20);
        let mut round = || -> Vec<Text> {
            (0..20).map(|_| nodes.next_to_probe(Duration::ZERO, KEEP, &mut rng).expect("a node").name).collect()
        };
        // The order of the first round came from the insertions, with this node somewhere in it.
        let (first, second) = (round(), round());
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 20);
        assert_eq!(second.iter().collect::<BTreeSet<_>>().len(), 20);
        assert_ne!(first, second);
    }

    #[test]
    fn the_gone_are_skipped_and_forgotten_at_the_end_of_a_round() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut nodes = Nodes::new(node("me", Liveness::Left, Duration::ZERO));
        nodes.insert(node("dead", Liveness::Dead, Duration::from_secs(10)), &mut rng);
        nodes.insert(node("left", Liveness::Left, Duration::from_secs(10)), &mut rng);
        nodes.insert(node("suspect", Liveness::Suspect, Duration::ZERO), &mut rng);
        for now in [40, 40, 41] {
            let probed = nodes.next_to_probe(Duration::from_secs(now), KEEP, &mut rng).map(|node| node.name);
            assert_eq!(probed, Some("suspect".into()));
            let known = nodes.iter().map(|node| node.name.to_string()).collect::<Vec<_>>();
            assert_eq!(known, if now == 40 { vec!["dead", "left", "me", "suspect"] } else { vec!["me", "suspect"] });
        }
    }

    #[test]
    fn a_node_alone_probes_nobody() {
        let mut rng = StdRng::seed_from_u64(3);
        assert_eq!(nodes(&mut rng, 0).next_to_probe(Duration::ZERO, KEEP, &mut rng), None);
    }

    #[test]
    fn a_sample_is_of_others_all_different() {
        let mut rng = StdRng::seed_from_u64(4);
        let nodes = nodes(&mut rng, 5);
        for _ in 0..50 {
            let sample = nodes.sample(&mut rng, 3, |node| node.name != Text::from("n0"));
            let names = sample.iter().map(|node| node.name.to_string()).collect::<BTreeSet<_>>();
            assert_eq!(names.len(), 3);
            assert!(names.iter().all(|name| ["n1", "n2", "n3", "n4"].contains(&name.as_str())), "{names:?}");
        }
        assert_eq!(nodes.sample(&mut rng, 9, |_| true).len(), 5);
    }
}
