//! What Serf knows: what memberlist asks for when it has room in a packet, or exchanges whole states.

use bytes::Bytes;

use super::broadcasts::Broadcasts;
use super::clock::Clock;
use super::members::{Members, Status};
use super::recent::{Entry, Recent};
use crate::gossip::{Delegate, sends_max};
use crate::wire::Text;
use crate::wire::serf::{EventsAt, Message, PushPull};

/// An event, beside its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) name: Text,
    pub(super) payload: Bytes,
}

impl Entry for Happened {
    fn bytes(&self) -> usize {
        self.name.as_bytes().len() + self.payload.len()
    }
}

/// A query, beside its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueryNumber(pub(super) u32);

impl Entry for QueryNumber {
    fn bytes(&self) -> usize {
        0
    }
}

/// Clocks, members, what is to be told and what has been.
#[derive(Debug)]
pub(super) struct Layer {
    /// The clock of intents.
    pub(super) clock: Clock,
    pub(super) event_clock: Clock,
    pub(super) query_clock: Clock,
    pub(super) members: Members,
    pub(super) events: Recent<Happened>,
    pub(super) queries: Recent<QueryNumber>,
    pub(super) broadcasts: Broadcasts,
    retransmit_mult: u32,
}

impl Layer {
    pub(super) fn new(retransmit_mult: u32) -> Self {
        Self {
            clock: Clock::new(),
            event_clock: Clock::new(),
            query_clock: Clock::new(),
            members: Members::default(),
            events: Recent::new(),
            queries: Recent::new(),
            broadcasts: Broadcasts::default(),
            retransmit_mult,
        }
    }
}

impl Delegate for Layer {
    fn broadcasts(&mut self, overhead: usize, limit: usize) -> Vec<Bytes> {
        let sends_max = sends_max(self.retransmit_mult, self.members.all().len());
        self.broadcasts.take(overhead, limit, sends_max)
    }

    fn local_state(&mut self, _join: bool) -> Bytes {
        let members = self.members.all().values();
        let events = self.events.iter().map(|(time, events)| EventsAt {
            time,
            events: events.iter().map(|event| (event.name.clone(), event.payload.clone())).collect(),
        });
        Message::PushPull(PushPull {
            time: self.clock.time(),
            status_times: members.map(|member| (member.name.clone(), member.time)).collect(),
            left_members: self.members.with(Status::Left).map(|member| member.name.clone()).collect(),
            event_time: self.event_clock.time(),
            events: events.collect(),
            query_time: self.query_clock.time(),
        })
        .encode()
    }
}
