//! Exchanges of whole states ("push/pull"): how a node joins, and how what gossip missed is found in the end.

use std::net::SocketAddr;
use std::time::Duration;

use crate::wire::memberlist::{Alive, Dead, Liveness, NodeState, PushPull, StreamMessage, Suspect, Versions};

use super::{Delegate, DialId, Fact, Gossip, Output};

/// From this number of nodes on, exchanges become rarer: each is as large as the pool.
const NODES_FREQUENT: usize = 32;

/// From one exchange to the next in a pool of `nodes` nodes.
pub(super) fn interval(base: Duration, nodes: usize) -> Duration {
    if nodes <= NODES_FREQUENT {
        return base;
    }
    let doublings = (nodes as f64 / NODES_FREQUENT as f64).log2().ceil();
    base * (doublings as u32 + 1)
}

impl Gossip {
    pub(super) fn begin_push_pull(&mut self, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        if self.push_pull.is_some() {
            return;
        }
        let node = self.nodes.sample(&mut self.rng, 1, |node| node.state == Liveness::Alive).pop();
        if let Some(node) = node {
            self.push_pull = Some(self.dial_push_pull(node.socket_addr(), false, d, out));
        }
    }

    pub(super) fn dial_push_pull(
        &mut self,
        to: SocketAddr,
        join: bool,
        d: &mut dyn Delegate,
        out: &mut Vec<Output>,
    ) -> DialId {
        let id = self.dial_id();
        let message = StreamMessage::PushPull(self.state(join, d));
        let timeout = self.config.stream_timeout;
        out.push(Output::Dial { id, to, message, awaits_answer: true, timeout });
        id
    }

    /// Somebody sent its state. The answer is what was known before.
    pub(super) fn exchanged(
        &mut self,
        now: Duration,
        theirs: PushPull,
        d: &mut dyn Delegate,
        out: &mut Vec<Output>,
    ) -> StreamMessage {
        let ours = self.state(theirs.join, d);
        let join = theirs.join;
        // The refusal is the other side's to notice too, from the answer.
        let _ = self.merge(now, join, theirs, out);
        StreamMessage::PushPull(ours)
    }

    /// The answer to an exchange that this node began; its number of nodes.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        join: bool,
        result: Result<Option<StreamMessage>, String>,
        out: &mut Vec<Output>,
    ) -> Result<usize, String> {
        match result? {
            Some(StreamMessage::PushPull(theirs)) => self.merge(now, join, theirs, out),
            Some(StreamMessage::Error(why)) => Err(why.to_string()),
            Some(_) => Err("the answer is none to an exchange of states".into()),
            None => Err("no answer".into()),
        }
    }

    fn state(&self, join: bool, d: &mut dyn Delegate) -> PushPull {
        let nodes = self.nodes.iter().map(|node| node.to_state()).collect();
        PushPull { join, nodes, user_state: d.local_state(join) }
    }

    fn merge(&mut self, now: Duration, join: bool, theirs: PushPull, out: &mut Vec<Output>) -> Result<usize, String> {
        if let Err(why) = self.verify_versions(&theirs.nodes) {
            self.counters.merges_refused += 1;
            return Err(why);
        }
        self.counters.merges += 1;
        let count = theirs.nodes.len();
        for node in theirs.nodes {
            self.merge_node(now, node, out);
        }
        if !theirs.user_state.is_empty() {
            out.push(Output::Fact(Fact::RemoteState { join, state: theirs.user_state }));
        }
        Ok(count)
    }

    /// What another node knows of one, as if it had been gossiped.
    fn merge_node(&mut self, now: Duration, node: NodeState, out: &mut Vec<Output>) {
        let NodeState { name, addr, port, meta, incarnation, state, versions } = node;
        match state {
            Liveness::Alive => {
                self.alive(now, Alive { incarnation, node: name, addr, port, meta, versions }, out);
            }
            Liveness::Left => self.dead(now, Dead { incarnation, from: name.clone(), node: name }, out),
            // Whoever is dead for another node may object here first.
            Liveness::Suspect | Liveness::Dead => {
                self.suspect(now, Suspect { incarnation, node: name, from: self.config.name.clone() });
            }
        }
    }

    /// Whether all nodes, theirs and ours, speak versions that all those that are alive understand.
    fn verify_versions(&self, theirs: &[NodeState]) -> Result<(), String> {
        let theirs = theirs.iter().map(|node| (&node.name, node.state, node.versions));
        let ours = self.nodes.iter().map(|node| (&node.name, node.state, Some(node.versions)));
        let all = || theirs.clone().chain(ours.clone());

        let alive = || all().filter(|(_, state, _)| *state == Liveness::Alive).filter_map(|(.., versions)| versions);
        let range = |min: fn(Versions) -> u8, max: fn(Versions) -> u8| {
            (alive().map(min).max().unwrap_or(0), alive().map(max).min().unwrap_or(u8::MAX))
        };
        let protocol = range(|v| v.protocol_min, |v| v.protocol_max);
        let delegate = range(|v| v.delegate_min, |v| v.delegate_max);
        let none =
            Versions { protocol_min: 0, protocol_max: 0, protocol: 0, delegate_min: 0, delegate_max: 0, delegate: 0 };
        for (name, _, versions) in all() {
            let versions = versions.unwrap_or(none);
            for (what, version, (min, max)) in
                [("memberlist", versions.protocol, protocol), ("Serf", versions.delegate, delegate)]
            {
                if !(min..=max).contains(&version) {
                    return Err(format!("{name} speaks {what} protocol {version}, not one of {min} to {max}"));
                }
            }
        }
        Ok(())
    }
}
