//! Who is there, as memberlist has it.
//!
//! SWIM: each node probes one other at a time and tells what it sees to some random others, so that the load of a node does
//! not grow with the pool. Lifeguard, on top of it: a node that is slow itself is slow to accuse others. What is learned
//! comes out as [`Fact`]s; what this module does not know is what Serf adds (intents, tags, events): that is the
//! [`Delegate`]'s.
//!
//! Pure: each call gets the time (since any fixed start, never going back) and adds to a list of [`Output`]s that the caller
//! has to carry out, in order. [`Gossip::next_tick`] says when [`Gossip::tick`] wants to be called at the latest.
//!
//! The parts: `claims` decides what to believe of what is said of a node, `probe` finds out who answers, `exchange`
//! compares whole states; [`Broadcasts`] spreads news.
//!
//! Invariants: this node is always among the nodes, and alive until it leaves. A node is suspected exactly as long as it
//! has a deadline in `suspicions`. Everything that others can make grow has a limit: nodes ([`NODES_MAX`]), the queue (one
//! message a node), probes for others (`RELAYS_MAX`).

mod awareness;
mod broadcasts;
mod claims;
mod config;
mod counters;
mod exchange;
mod node;
mod probe;
mod suspicion;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::wire::Text;
use crate::wire::memberlist::{Ack, Alive, Dead, Liveness, Message, StreamMessage};

use awareness::Awareness;
use node::Nodes;
use probe::{Probe, Relays};
use suspicion::Suspicions;

pub use broadcasts::{BroadcastId, Broadcasts, sends_max};
pub use claims::NAME_BYTES_MAX;
pub use config::{Config, PACKET_BYTES_MAX};
pub use counters::Counters;
pub use node::{NODES_MAX, Node};

/// What the head of a compound message takes.
const COMPOUND_HEAD_BYTES: usize = 2;
/// What each message in a compound message takes more than its length.
const COMPOUND_PART_BYTES: usize = 2;
/// How many messages a compound message can have: their number is one byte.
const COMPOUND_PARTS_MAX: usize = 255;

/// The layer above.
pub trait Delegate {
    /// Messages for everybody, encoded ([`Message::User`]), that fit into `limit` bytes when each takes `overhead` more than
    /// its length.
    fn broadcasts(&mut self, overhead: usize, limit: usize) -> Vec<Bytes>;

    /// What it adds to an exchange of whole states, encoded.
    fn local_state(&mut self, join: bool) -> Bytes;
}

/// Names a stream that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(u64);

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Send {
        /// To whom.
        to: SocketAddr,
        /// Messages, encoded: at least one.
        messages: Vec<Bytes>,
        /// Whether it is to have a checksum: the receiver is known to understand it.
        crc: bool,
    },
    /// Open a stream, write the message, and read the answer if there is one. Then call [`Gossip::dial_finished`].
    Dial {
        /// For [`Gossip::dial_finished`].
        id: DialId,
        /// To whom.
        to: SocketAddr,
        /// The message.
        message: StreamMessage,
        /// Whether an answer is to be waited for.
        awaits_answer: bool,
        /// How long all of that may take.
        timeout: Duration,
    },
    /// Something to know.
    Fact(Fact),
}

/// Something that the layer above should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A node is there: a new one, or one that was gone.
    Joined(Node),
    /// The tags of a node changed.
    Updated(Node),
    /// A node is gone: it is dead or has left.
    Gone(Node),
    /// A node claims the name of another that has another address. The claim was ignored.
    Conflict {
        /// The one that is known: perhaps this node.
        known: Node,
        /// The one that claims the name.
        other: Alive,
    },
    /// A message for the layer above.
    User(Bytes),
    /// What the layer above at another node added to an exchange of whole states.
    RemoteState {
        /// Whether one of the two has just joined.
        join: bool,
        /// What was added.
        state: Bytes,
    },
    /// A [`Gossip::join`] is over.
    JoinFinished {
        /// Which.
        id: DialId,
        /// How many nodes the answer had, or why there was none.
        result: Result<usize, String>,
    },
    /// That this node leaves has been told as often as any other news.
    Left,
}

/// How far this node is in leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The others are being told.
    Telling(BroadcastId),
    Told,
}

/// The state of the gossip. See the module.
#[derive(Debug)]
pub struct Gossip {
    config: Config,
    rng: StdRng,
    nodes: Nodes,
    suspicions: Suspicions,
    awareness: Awareness,
    broadcasts: Broadcasts,
    leaving: Leaving,

    /// The node that is being probed.
    probe: Option<Probe>,
    relays: Relays,
    /// The exchange of whole states that goes on.
    push_pull: Option<DialId>,
    joins: BTreeSet<DialId>,
    next_seq_no: u32,
    next_dial: u64,

    /// When the next of each begins.
    probe_at: Duration,
    gossip_at: Duration,
    push_pull_at: Duration,
    /// When this node last ran.
    ran_at: Duration,
    counters: Counters,
}

impl Gossip {
    /// A node that knows nobody, with these tags, at most [`META_BYTES_MAX`](crate::wire::memberlist::META_BYTES_MAX) bytes of them: the
    /// others would not believe more.
    pub fn new(config: Config, meta: Bytes, mut rng: StdRng, now: Duration) -> Self {
        let alive = Alive {
            incarnation: 1,
            node: config.name.clone(),
            addr: config.addr,
            port: config.port,
            meta,
            versions: Some(config.versions),
        };
        let mut broadcasts = Broadcasts::default();
        let me = Node::new(now, &alive, config.versions);
        broadcasts.push(Some(config.name.clone()), Message::Alive(alive).encode());
        // At a random phase: nodes that start together should not do everything at the same instant.
        let mut phase = |interval: Duration| now + rng.random_range(Duration::ZERO..=interval);
        Self {
            probe_at: phase(config.probe_interval),
            gossip_at: phase(config.gossip_interval),
            push_pull_at: phase(config.push_pull_interval),
            ran_at: now,
            nodes: Nodes::new(me),
            suspicions: Suspicions::default(),
            awareness: Awareness::new(config.health_score_max),
            broadcasts,
            leaving: Leaving::No,
            probe: None,
            relays: Relays::default(),
            push_pull: None,
            joins: BTreeSet::new(),
            // Not from 0: what is still on the way to an earlier run of this node must not answer for this one.
            next_seq_no: rng.random(),
            next_dial: 0,
            counters: Counters::default(),
            config,
            rng,
        }
    }

    /// A message of a datagram.
    pub fn receive(
        &mut self,
        now: Duration,
        from: SocketAddr,
        message: Message,
        d: &mut dyn Delegate,
        out: &mut Vec<Output>,
    ) {
        self.wake(now);
        self.counters.messages_received += 1;
        match message {
            Message::Ping(ping) => self.pinged(from, ping, d, out),
            Message::IndirectPing(request) => self.asked_to_probe(now, from, request, d, out),
            Message::Ack(ack) => self.acked(ack.seq_no, d, out),
            Message::Nack(nack) => self.nacked(nack.seq_no),
            Message::Suspect(suspect) => self.suspect(now, suspect),
            Message::Alive(alive) => self.alive(now, alive, out),
            Message::Dead(dead) => self.dead(now, dead, out),
            Message::User(bytes) => out.push(Output::Fact(Fact::User(bytes))),
        }
        self.finish_leaving(out);
    }

    /// A message that somebody sent over a stream; what is returned goes back.
    pub fn answer(
        &mut self,
        now: Duration,
        message: StreamMessage,
        d: &mut dyn Delegate,
        out: &mut Vec<Output>,
    ) -> Option<StreamMessage> {
        self.wake(now);
        match message {
            StreamMessage::PushPull(state) => Some(self.exchanged(now, state, d, out)),
            StreamMessage::Ping(ping) if self.is_meant(&ping.node) => {
                Some(StreamMessage::Ack(Ack { seq_no: ping.seq_no, payload: Bytes::new() }))
            }
            StreamMessage::User(bytes) => {
                out.push(Output::Fact(Fact::User(bytes)));
                None
            }
            StreamMessage::Ping(_) | StreamMessage::Ack(_) | StreamMessage::Error(_) => None,
        }
    }

    /// A stream that was asked for is closed: with an answer, without one, or it failed.
    pub fn dial_finished(
        &mut self,
        now: Duration,
        id: DialId,
        result: Result<Option<StreamMessage>, String>,
        out: &mut Vec<Output>,
    ) {
        self.wake(now);
        if self.joins.remove(&id) {
            let result = self.answered(now, true, result, out);
            out.push(Output::Fact(Fact::JoinFinished { id, result }));
        } else if self.push_pull == Some(id) {
            self.push_pull = None;
            // If it failed, another node is asked the next time; whether this one is well, the probes find out.
            let _ = self.answered(now, false, result, out);
        } else {
            self.acked_by_stream(id, result);
        }
    }

    /// Does what is due. Has to be called at [`next_tick`](Self::next_tick), and may be at any time.
    pub fn tick(&mut self, now: Duration, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        self.wake(now);
        self.tick_relays(now, d, out);
        self.tick_probe(now, d, out);
        while let Some(node) = self.suspicions.expired(now) {
            self.declare_dead(now, node, out);
        }
        if self.gossip_at <= now {
            self.gossip(now, d, out);
            self.gossip_at = after(now, self.gossip_at, self.config.gossip_interval);
        }
        if self.push_pull_at <= now {
            self.begin_push_pull(d, out);
            let interval = exchange::interval(self.config.push_pull_interval, self.nodes.len());
            self.push_pull_at = after(now, self.push_pull_at, interval);
        }
        self.finish_leaving(out);
    }

    /// When something will be due, if nothing happens before.
    pub fn next_tick(&self) -> Duration {
        let fixed = self.gossip_at.min(self.push_pull_at).min(self.next_probe_step());
        let others = [self.relays.next_deadline(), self.suspicions.next_deadline()];
        others.into_iter().flatten().fold(fixed, Duration::min)
    }

    /// Joins the pool of the node at `to`: exchanges whole states with it. [`Fact::JoinFinished`] tells the end.
    pub fn join(&mut self, now: Duration, to: SocketAddr, d: &mut dyn Delegate, out: &mut Vec<Output>) -> DialId {
        self.wake(now);
        let id = self.dial_push_pull(to, true, d, out);
        self.joins.insert(id);
        id
    }

    /// Tells the others that this node leaves. [`Fact::Left`] says that they have been told. Until the caller stops for
    /// good, it should go on: the node still answers and passes on what it hears.
    pub fn leave(&mut self, now: Duration, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        self.wake(now);
        if self.leaving != Leaving::No {
            return;
        }
        let me = self.nodes.me_mut();
        me.become_state(now, Liveness::Left);
        let dead = Dead { incarnation: me.incarnation, node: me.name.clone(), from: me.name.clone() };
        let id = self.broadcasts.push(Some(dead.node.clone()), Message::Dead(dead).encode());
        self.leaving = Leaving::Telling(id);
        self.gossip(now, d, out);
        self.finish_leaving(out);
    }

    /// Changes the tags, as the layer above encodes them (at most [`META_BYTES_MAX`](crate::wire::memberlist::META_BYTES_MAX) bytes), and tells the others.
    pub fn set_meta(&mut self, now: Duration, meta: Bytes) {
        self.wake(now);
        let me = self.nodes.me_mut();
        me.meta = meta;
        if self.leaving == Leaving::No {
            me.incarnation = me.incarnation.saturating_add(1);
            let alive = me.to_alive();
            self.broadcast(alive.node.clone(), &Message::Alive(alive));
        }
    }

    /// Sends a message of the layer above to one node.
    pub fn send_user(&mut self, to: SocketAddr, bytes: Bytes, out: &mut Vec<Output>) {
        self.send_all(to, vec![Message::User(bytes).encode()], false, out);
    }

    /// A node that is known, dead ones for a while too.
    pub fn node(&self, name: &Text) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// All nodes that are known, this one included, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> + Clone {
        self.nodes.iter()
    }

    /// How this node is doing itself: 0 is well.
    pub fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many messages wait to be spread.
    pub fn queued(&self) -> usize {
        self.broadcasts.len()
    }

    /// If this process did not run for a while (it was stopped, or its machine slept), that is no evidence against others:
    /// whoever was about to be declared dead gets that much more time, and the probe that went on says nothing.
    fn wake(&mut self, now: Duration) {
        let late = now.saturating_sub(self.next_tick().max(self.ran_at));
        self.ran_at = self.ran_at.max(now);
        if late >= self.config.probe_interval {
            self.suspicions.postpone(late);
            self.abandon_probe(now);
        }
    }

    /// One round of gossip.
    fn gossip(&mut self, now: Duration, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        let to_the_dead = self.config.gossip_to_the_dead;
        let nodes = self.nodes.sample(&mut self.rng, self.config.gossip_nodes, |node| match node.state {
            Liveness::Alive | Liveness::Suspect => true,
            Liveness::Dead => now.saturating_sub(node.since) <= to_the_dead,
            Liveness::Left => false,
        });
        for node in nodes {
            let limit = self.config.packet_bytes_max.saturating_sub(COMPOUND_HEAD_BYTES);
            let messages = self.take_broadcasts(limit, d);
            if messages.is_empty() {
                return;
            }
            self.send_all(node.socket_addr(), messages, node.speaks(CRC_PROTOCOL), out);
        }
    }

    /// What is to be spread and fits into `limit` bytes: memberlist's first.
    fn take_broadcasts(&mut self, limit: usize, d: &mut dyn Delegate) -> Vec<Bytes> {
        let sends = sends_max(self.config.retransmit_mult, self.nodes.len());
        let mut messages = self.broadcasts.take(COMPOUND_PART_BYTES, limit, sends);
        let used = messages.iter().map(|message| COMPOUND_PART_BYTES + message.len()).sum::<usize>();
        let left = limit.saturating_sub(used);
        if left > COMPOUND_PART_BYTES + 1 {
            messages.append(&mut d.broadcasts(COMPOUND_PART_BYTES, left));
        }
        messages
    }

    /// Sends a message, with as much news as fits beside it.
    fn send(&mut self, to: SocketAddr, message: &Message, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        let mut messages = vec![message.encode()];
        let used = COMPOUND_HEAD_BYTES + COMPOUND_PART_BYTES + messages[0].len();
        let mut news = self.take_broadcasts(self.config.packet_bytes_max.saturating_sub(used), d);
        messages.append(&mut news);
        self.send_all(to, messages, false, out);
    }

    /// Sends messages that fit into a datagram.
    fn send_all(&mut self, to: SocketAddr, mut messages: Vec<Bytes>, crc: bool, out: &mut Vec<Output>) {
        while !messages.is_empty() {
            let rest = messages.split_off(messages.len().min(COMPOUND_PARTS_MAX));
            self.counters.datagrams_sent += 1;
            self.counters.messages_sent += messages.len() as u64;
            out.push(Output::Send { to, messages, crc });
            messages = rest;
        }
    }

    /// Queues news about a node, in the place of older news.
    fn broadcast(&mut self, about: Text, message: &Message) {
        self.broadcasts.push(Some(about), message.encode());
    }

    /// Whether a message that names its receiver is for this node.
    fn is_meant(&self, name: &Text) -> bool {
        name.is_empty() || self.nodes.is_me(name)
    }

    fn finish_leaving(&mut self, out: &mut Vec<Output>) {
        if let Leaving::Telling(id) = self.leaving
            && (!self.broadcasts.is_queued(id) || !self.nodes.anybody_else())
        {
            self.leaving = Leaving::Told;
            out.push(Output::Fact(Fact::Left));
        }
    }

    fn seq_no(&mut self) -> u32 {
        self.next_seq_no = self.next_seq_no.wrapping_add(1);
        self.next_seq_no
    }

    fn dial_id(&mut self) -> DialId {
        self.next_dial += 1;
        DialId(self.next_dial)
    }
}

/// The version of memberlist's protocol that brought pings over streams.
const STREAM_PING_PROTOCOL: u8 = 3;
/// That brought nacks.
const NACK_PROTOCOL: u8 = 4;
/// That brought checksums.
const CRC_PROTOCOL: u8 = 5;

/// The first time after `now` in a row of times `interval` apart: what was missed is not made up for.
fn after(now: Duration, due: Duration, interval: Duration) -> Duration {
    let next = due + interval;
    if next > now { next } else { now + interval }
}
