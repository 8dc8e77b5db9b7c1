//! Serf: what it adds to memberlist.
//!
//! memberlist ([`gossip`]) knows who answers. Serf adds what nodes say that they will do (leave, or stay), so
//! that who left can be told from who failed; Lamport clocks, by which the newer of two such words is known; who is
//! forgotten, and who is looked for; events that are told to all, queries that are answered, the keys of the pool.
//!
//! Pure, like the layer below: [`Serf`] gets the time (since any fixed start, never going back) and whatever arrives, and
//! [`take_outputs`](Serf::take_outputs) has what is to be done. It has the [`Codec`] too, since keys change while it runs;
//! so datagrams are bytes here. Streams are decoded by the shell, with [`Serf::codec`].
//!
//! The parts: `members` and `intents` (who is in which state, and why), `events`, `queries`, `internal_queries` (keys among
//! them), `conflict` (two nodes of one name), `reaper`.

mod broadcasts;
mod clock;
mod config;
mod conflict;
mod counters;
mod events;
mod intents;
mod internal_queries;
mod layer;
mod members;
mod output;
mod queries;
mod reaper;
mod recent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tracing::debug;

use crate::gossip::{self, DialId, Fact, Gossip};
use crate::wire::memberlist::{Liveness, META_BYTES_MAX, StreamMessage};
use crate::wire::serf::{JoinIntent, LamportTime, LeaveIntent, Message, PushPull, Tags, UserEvent, encode_tags};
use crate::wire::{Codec, Text};
use broadcasts::Kind;
use clock::Clock;
use intents::Life;
use layer::Layer;
use queries::Asked;
use reaper::Timers;

pub use config::Config;
pub use counters::Counters;
pub use events::EVENT_BYTES_MAX;
pub use internal_queries::{KeyCommand, KeyReport};
pub use members::{Member, Status};
pub use output::{Event, Output, Query, QueryAnswer, QueryId};
pub use queries::{QUERY_BYTES_MAX, QueryOptions};

/// What the tags may take, encoded: they travel with each word that a node is alive.
pub const TAGS_BYTES_MAX: usize = META_BYTES_MAX;

/// Why something was not sent. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It has to be smaller.
    #[error("it takes {size} bytes, more than the {max} that fit")]
    TooLarge {
        /// What it takes, encoded.
        size: usize,
        /// What it may take.
        max: usize,
    },
    /// Wait until some are finished.
    #[error("too many queries are under way")]
    TooMany,
    /// Nobody waits for the answer any more.
    #[error("the time for an answer is over")]
    TooLate,
}

impl SendError {
    fn check(size: usize, max: usize) -> Result<(), Self> {
        if size > max { Err(Self::TooLarge { size, max }) } else { Ok(()) }
    }
}

/// Why a node joins another one's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Somebody wants it.
    Join,
    /// To see whether a failed member is back.
    Reconnect,
}

/// A node of a pool.
#[derive(Debug)]
pub struct Serf {
    config: Config,
    gossip: Gossip,
    layer: Layer,
    rng: StdRng,
    /// How far it is on its way out.
    life: Life,
    /// The joins that are under way.
    joins: BTreeMap<DialId, Purpose>,
    /// The queries of this node that are under way.
    asked: BTreeMap<QueryId, Asked>,
    /// When members are forgotten that somebody wants to be.
    prunes: BTreeMap<Text, Duration>,
    timers: Timers,
    counters: Counters,
    /// What the layer below wants, not yet looked at.
    effects: Vec<gossip::Output>,
    outputs: Vec<Output>,
}

impl Serf {
    /// A node that is alone. `rng` also makes the nonces of the encryption: it has to be seeded from something that nobody
    /// can guess and that does not repeat.
    ///
    /// # Errors
    ///
    /// If the tags are too large.
    pub fn new(config: Config, mut rng: StdRng, now: Duration) -> Result<Self, SendError> {
        let meta = meta(&config.tags)?;
        let mut below = config.gossip.clone();
        below.packet_bytes_max = below.packet_bytes_max.saturating_sub(config.codec.overhead());
        let mut serf = Self {
            gossip: Gossip::new(below, meta, StdRng::from_rng(&mut rng), now),
            layer: Layer::new(config.gossip.retransmit_mult),
            rng,
            life: Life::Alive,
            joins: BTreeMap::new(),
            asked: BTreeMap::new(),
            prunes: BTreeMap::new(),
            timers: Timers::new(now, config.reap_interval, config.reconnect_interval),
            counters: Counters::default(),
            effects: Vec::new(),
            outputs: Vec::new(),
            config,
        };
        if let Some(me) = serf.gossip.node(&serf.config.gossip.name) {
            let event = serf.layer.members.joined(now, me);
            serf.emit(Some(event));
        }
        Ok(serf)
    }

    /// A datagram came. One that can't be read is counted and dropped.
    pub fn receive(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) {
        match self.config.codec.open(datagram) {
            Ok(messages) => {
                for message in messages {
                    self.gossip.receive(now, from, message, &mut self.layer, &mut self.effects);
                }
            }
            Err(error) => {
                self.counters.datagrams_refused += 1;
                debug!(%from, %error, "a datagram is dropped");
            }
        }
        self.settle(now);
    }

    /// A message came over a stream that somebody opened; what is returned goes back.
    pub fn answer(&mut self, now: Duration, message: StreamMessage) -> Option<StreamMessage> {
        let answer = self.gossip.answer(now, message, &mut self.layer, &mut self.effects);
        self.settle(now);
        answer
    }

    /// A stream that was asked for ([`Output::Dial`]) came to its end: with an answer, without, or not at all.
    pub fn dial_finished(&mut self, now: Duration, id: DialId, result: Result<Option<StreamMessage>, String>) {
        self.gossip.dial_finished(now, id, result, &mut self.effects);
        self.settle(now);
    }

    /// Does what is due. To be called at [`next_tick`](Self::next_tick) or earlier.
    pub fn tick(&mut self, now: Duration) {
        self.gossip.tick(now, &mut self.layer, &mut self.effects);
        self.run_timers(now);
        self.finish_queries(now);
        self.settle(now);
    }

    /// When something is due although nothing comes.
    pub fn next_tick(&self) -> Duration {
        let others = [self.life.deadline(), self.next_query_deadline(), self.prunes.values().min().copied()];
        let regular = self.gossip.next_tick().min(self.timers.next());
        others.into_iter().flatten().fold(regular, Duration::min)
    }

    /// What is to be done, in this order.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Joins the pool of the node at this address. [`Output::JoinFinished`] tells what came of it.
    pub fn join(&mut self, now: Duration, to: SocketAddr) -> DialId {
        let id = self.gossip.join(now, to, &mut self.layer, &mut self.effects);
        self.joins.insert(id, Purpose::Join);
        self.settle(now);
        id
    }

    /// Says something else of this node.
    ///
    /// # Errors
    ///
    /// If the tags are too large; those from before stay.
    pub fn set_tags(&mut self, now: Duration, tags: Tags) -> Result<(), SendError> {
        let meta = meta(&tags)?;
        self.config.tags = tags;
        self.gossip.set_meta(now, meta);
        if let Some(me) = self.gossip.node(&self.config.gossip.name) {
            let event = self.layer.members.updated(now, me);
            self.emit(Some(event));
        }
        self.settle(now);
        Ok(())
    }

    /// Who is in the pool, as far as this node knows; this node is one of them.
    pub fn members(&self) -> &BTreeMap<Text, Member> {
        self.layer.members.all()
    }

    /// The layers around each message, with the keys of now.
    pub fn codec(&self) -> &Codec {
        &self.config.codec
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        Counters { gossip: *self.gossip.counters(), ..self.counters }
    }

    /// How bad this node is doing: 0 is well. From the layer below.
    pub fn health_score(&self) -> u32 {
        self.gossip.health_score()
    }

    /// Carries out what the layer below wants, until there is nothing more.
    fn settle(&mut self, now: Duration) {
        loop {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    gossip::Output::Send { to, messages, crc } => {
                        let bytes = self.config.codec.seal(&messages, crc, &mut self.rng);
                        self.outputs.push(Output::Datagram { to, bytes });
                    }
                    gossip::Output::Dial { id, to, message, awaits_answer, timeout } => {
                        self.outputs.push(Output::Dial { id, to, message, awaits_answer, timeout })
                    }
                    gossip::Output::Fact(fact) => self.fact(now, fact),
                }
            }
            self.go_on_leaving(now);
            if self.effects.is_empty() {
                return;
            }
        }
    }

    fn fact(&mut self, now: Duration, fact: Fact) {
        match fact {
            Fact::Joined(node) => {
                let event = self.layer.members.joined(now, &node);
                self.emit(Some(event));
            }
            Fact::Updated(node) => {
                let event = self.layer.members.updated(now, &node);
                self.emit(Some(event));
            }
            Fact::Gone(node) => {
                let event = self.layer.members.gone(now, &node.name, node.state == Liveness::Left);
                self.emit(event);
            }
            Fact::Conflict { known, other } => self.conflict(now, &known, &other),
            Fact::User(raw) => self.user_message(now, raw),
            Fact::RemoteState { join, state } => self.merge(now, join, &state),
            Fact::JoinFinished { id, result } => self.join_finished(now, id, result),
            Fact::Left => self.parted(now),
        }
    }

    fn join_finished(&mut self, now: Duration, id: DialId, result: Result<usize, String>) {
        match self.joins.remove(&id) {
            Some(Purpose::Join) => {
                if result.is_ok() && self.life == Life::Alive {
                    self.tell_join(now);
                }
                self.outputs.push(Output::JoinFinished { id, result });
            }
            Some(Purpose::Reconnect) | None => debug!(?result, "looked for a failed member"),
        }
    }

    /// A message of this layer came. What is new goes on to others, byte for byte.
    fn user_message(&mut self, now: Duration, raw: Bytes) {
        let retell = match Message::decode(&raw) {
            Ok(Message::Join(intent)) => self.hear_join(now, &intent).then_some(Kind::Intent),
            Ok(Message::Leave(intent)) => self.hear_leave(now, &intent).then_some(Kind::Intent),
            Ok(Message::UserEvent(event)) => self.hear_event(event).then_some(Kind::Event),
            Ok(Message::Query(query)) => self.hear_query(now, query).then_some(Kind::Query),
            Ok(Message::QueryResponse(response)) => {
                self.hear_response(now, &response);
                None
            }
            Ok(Message::Relay(relay)) => {
                self.relay(now, relay);
                None
            }
            Ok(_) | Err(_) => {
                self.counters.messages_refused += 1;
                debug!("a message of Serf's layer that does not belong here");
                None
            }
        };
        if let Some(kind) = retell {
            self.layer.broadcasts.push(kind, raw);
        }
    }

    /// Merges what another node knows.
    fn merge(&mut self, now: Duration, join: bool, state: &[u8]) {
        let Ok(Message::PushPull(state)) = Message::decode(state) else {
            self.counters.messages_refused += 1;
            debug!("a state of Serf's layer that can't be read");
            return;
        };
        // One less: no message has that time yet.
        self.believe(|layer| &mut layer.clock, state.time.saturating_sub(1));
        self.believe(|layer| &mut layer.event_clock, state.event_time.saturating_sub(1));
        self.believe(|layer| &mut layer.query_clock, state.query_time.saturating_sub(1));
        self.merge_statuses(now, &state);

        let joins = self.joins.values().any(|purpose| *purpose == Purpose::Join);
        if join && joins && self.config.ignore_old_events && state.event_time <= self.layer.event_clock.time() {
            self.layer.events.ignore_before(state.event_time);
        }
        for at in state.events {
            for (name, payload) in at.events {
                self.hear_event(UserEvent { time: at.time, name, payload, coalesce: false });
            }
        }
    }

    /// Those that left go first: their times are made up, one later than when they last joined, since leaving came after.
    fn merge_statuses(&mut self, now: Duration, state: &PushPull) {
        let left: BTreeSet<&Text> = state.left_members.iter().collect();
        for node in &left {
            let joined = state.status_times.get(*node).copied().unwrap_or_default();
            let intent = LeaveIntent { time: joined.saturating_add(1), node: Text::clone(node), prune: false };
            self.hear_leave(now, &intent);
        }
        let (me, is_alive) = (&self.config.gossip.name, self.life == Life::Alive);
        let last_word = self.layer.members.time(me);
        if is_alive && state.status_times.get(me).is_some_and(|time| *time > last_word) {
            // Somebody said something of this node, or an earlier run of it did. That it leaves, perhaps: a state does not
            // tell, but those who heard it wait for it to go.
            self.object(now);
        }
        for (node, time) in &state.status_times {
            if !left.contains(node) {
                let intent = JoinIntent { time: *time, node: node.clone() };
                self.hear_join(now, &intent);
            }
        }
    }

    /// Sees the time of somebody's message, and says whether to go on with it.
    fn believe(&mut self, clock: impl FnOnce(&mut Layer) -> &mut Clock, time: LamportTime) -> bool {
        let believed = clock(&mut self.layer).witness(time);
        if !believed {
            self.counters.times_refused += 1;
            debug!(time, "a time that can't be true");
        }
        believed
    }
}

fn meta(tags: &Tags) -> Result<Bytes, SendError> {
    let meta = encode_tags(tags);
    SendError::check(meta.len(), TAGS_BYTES_MAX)?;
    Ok(meta)
}
