//! Who answers, and who does not.
//!
//! One other node is probed at a time: a ping; if that brings no answer in time, some others are asked to ping it, and it is
//! pinged over a stream, in case that datagrams are what gets lost; if nothing brings an answer, it is suspected. Those
//! that were asked say so if they got no answer either: whoever hears not even that had better doubt itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::wire::memberlist::{Ack, IndirectPing, Liveness, Message, Nack, Ping, Source, StreamMessage, Suspect};

use super::{CRC_PROTOCOL, Delegate, DialId, Gossip, NACK_PROTOCOL, Node, Output, STREAM_PING_PROTOCOL, after};

/// How many probes for others may go on: far more than a pool in a bad state asks of one node.
pub(super) const RELAYS_MAX: usize = 512;

/// A probe that goes on.
#[derive(Debug)]
pub(super) struct Probe {
    /// The node, as it was known when the probe began: what it says of itself meanwhile is an answer too.
    node: Node,
    seq_no: u32,
    /// When others are asked; none once they have been.
    indirect_at: Option<Duration>,
    /// When it has failed.
    deadline: Duration,
    /// How many will say so if they get no answer.
    nacks_expected: u32,
    nacks: u32,
    /// The ping over a stream.
    dial: Option<DialId>,
    answered_by_stream: bool,
}

/// A probe for somebody else.
#[derive(Debug)]
struct Relay {
    seq_no: u32,
    deadline: Duration,
    /// Who asked.
    asker: SocketAddr,
    asker_seq_no: u32,
    nack: bool,
}

/// All probes for others. Each may take the same time, so the first one is also the first that is over.
#[derive(Debug, Default)]
pub(super) struct Relays(VecDeque<Relay>);

impl Relays {
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.0.front().map(|relay| relay.deadline)
    }

    fn take(&mut self, seq_no: u32) -> Option<Relay> {
        let place = self.0.iter().position(|relay| relay.seq_no == seq_no)?;
        self.0.remove(place)
    }

    fn take_expired(&mut self, now: Duration) -> Option<Relay> {
        self.next_deadline().filter(|deadline| *deadline <= now).and_then(|_| self.0.pop_front())
    }
}

impl Gossip {
    pub(super) fn next_probe_step(&self) -> Duration {
        self.probe.as_ref().map_or(self.probe_at, |probe| probe.indirect_at.unwrap_or(probe.deadline))
    }

    pub(super) fn tick_probe(&mut self, now: Duration, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        if self.probe.as_ref().and_then(|probe| probe.indirect_at).is_some_and(|at| at <= now) {
            self.ask_others(now, d, out);
        }
        if let Some(probe) = self.probe.take_if(|probe| probe.deadline <= now) {
            self.conclude(now, probe);
        }
        if self.probe.is_none() && self.probe_at <= now {
            self.probe_at = after(now, self.probe_at, self.config.probe_interval);
            if let Some(node) = self.nodes.next_to_probe(now, self.config.gossip_to_the_dead, &mut self.rng) {
                self.begin_probe(now, node, d, out);
            }
        }
    }

    fn begin_probe(&mut self, now: Duration, node: Node, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        let seq_no = self.seq_no();
        let ping = Message::Ping(Ping { seq_no, node: node.name.clone(), source: self.source() });
        if node.state == Liveness::Alive {
            self.send(node.socket_addr(), &ping, d, out);
        } else {
            // Tell it what is said of it, so that it can object as soon as possible.
            let from = self.config.name.clone();
            let suspect = Suspect { incarnation: node.incarnation, node: node.name.clone(), from };
            let messages = vec![ping.encode(), Message::Suspect(suspect).encode()];
            self.send_all(node.socket_addr(), messages, node.speaks(CRC_PROTOCOL), out);
        }
        self.counters.probes += 1;
        let deadline = now + self.awareness.scaled(self.config.probe_interval);
        self.probe = Some(Probe {
            node,
            seq_no,
            indirect_at: Some(deadline.min(now + self.config.probe_timeout)),
            deadline,
            nacks_expected: 0,
            nacks: 0,
            dial: None,
            answered_by_stream: false,
        });
    }

    /// There was no direct answer in time.
    fn ask_others(&mut self, now: Duration, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        let Some(mut probe) = self.probe.take() else { return };
        // If this node is late, the others still get the time that they would have had.
        let due = probe.indirect_at.take().unwrap_or(now);
        probe.deadline += now.saturating_sub(due);

        let count = self.config.indirect_probes;
        let others = self
            .nodes
            .sample(&mut self.rng, count, |other| other.name != probe.node.name && other.state == Liveness::Alive);
        for other in others {
            let nack = other.speaks(NACK_PROTOCOL);
            probe.nacks_expected += u32::from(nack);
            let request = IndirectPing {
                seq_no: probe.seq_no,
                target: probe.node.addr,
                port: probe.node.port,
                node: probe.node.name.clone(),
                nack,
                source: self.source(),
            };
            self.send(other.socket_addr(), &Message::IndirectPing(request), d, out);
        }
        if probe.node.speaks(STREAM_PING_PROTOCOL) {
            let id = self.dial_id();
            probe.dial = Some(id);
            let ping = Ping { seq_no: probe.seq_no, node: probe.node.name.clone(), source: self.source() };
            out.push(Output::Dial {
                id,
                to: probe.node.socket_addr(),
                message: StreamMessage::Ping(ping),
                awaits_answer: true,
                timeout: probe.deadline.saturating_sub(now),
            });
        }
        self.probe = Some(probe);
    }

    /// No datagram brought an answer in time.
    fn conclude(&mut self, now: Duration, probe: Probe) {
        if probe.answered_by_stream {
            self.counters.probes_by_stream += 1;
            self.awareness.change(-1);
            return;
        }
        self.counters.probes_failed += 1;
        // Those who were asked should have answered, one way or the other: each that did not is a sign that it is this
        // node that hears nothing. If none was there to be asked, any failure is.
        let missing = if probe.nacks_expected > 0 { probe.nacks_expected - probe.nacks } else { 1 };
        self.awareness.change(missing.into());
        let from = self.config.name.clone();
        self.suspect(now, Suspect { incarnation: probe.node.incarnation, node: probe.node.name, from });
    }

    /// Forgets the probe that goes on.
    pub(super) fn abandon_probe(&mut self, now: Duration) {
        if self.probe.take().is_some() {
            self.counters.probes_abandoned += 1;
            self.probe_at = self.probe_at.max(now);
        }
    }

    /// A ping came.
    pub(super) fn pinged(&mut self, from: SocketAddr, ping: Ping, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        if self.is_meant(&ping.node) {
            let ack = Ack { seq_no: ping.seq_no, payload: Bytes::new() };
            self.send(answer_to(from, &ping.source), &Message::Ack(ack), d, out);
        }
    }

    /// An answer came: to this node's own probe, or to one for somebody else.
    pub(super) fn acked(&mut self, seq_no: u32, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        if self.probe.take_if(|probe| probe.seq_no == seq_no).is_some() {
            self.awareness.change(-1);
        } else if let Some(relay) = self.relays.take(seq_no) {
            let ack = Ack { seq_no: relay.asker_seq_no, payload: Bytes::new() };
            self.send(relay.asker, &Message::Ack(ack), d, out);
        }
    }

    /// A node that was asked got no answer either.
    pub(super) fn nacked(&mut self, seq_no: u32) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.seq_no == seq_no) {
            probe.nacks = (probe.nacks + 1).min(probe.nacks_expected);
        }
    }

    /// The ping over a stream is over.
    pub(super) fn acked_by_stream(&mut self, id: DialId, result: Result<Option<StreamMessage>, String>) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.dial == Some(id))
            && let Ok(Some(StreamMessage::Ack(ack))) = result
            && ack.seq_no == probe.seq_no
        {
            // Not the end: a datagram may still bring an answer, and it counts whether any does.
            probe.answered_by_stream = true;
        }
    }

    /// Somebody gets no answer from a node, and asks this one to try.
    pub(super) fn asked_to_probe(
        &mut self,
        now: Duration,
        from: SocketAddr,
        request: IndirectPing,
        d: &mut dyn Delegate,
        out: &mut Vec<Output>,
    ) {
        if self.relays.0.len() >= RELAYS_MAX {
            self.counters.messages_ignored += 1;
            return;
        }
        self.counters.relays += 1;
        // A number of its own: the asker's may be in use here too.
        let seq_no = self.seq_no();
        self.relays.0.push_back(Relay {
            seq_no,
            deadline: now + self.config.probe_timeout,
            asker: answer_to(from, &request.source),
            asker_seq_no: request.seq_no,
            nack: request.nack,
        });
        let port = if request.port == 0 { self.config.port } else { request.port };
        let ping = Ping { seq_no, node: request.node, source: self.source() };
        self.send(SocketAddr::new(request.target, port), &Message::Ping(ping), d, out);
    }

    /// Says of the probes for others that brought no answer that they did not.
    pub(super) fn tick_relays(&mut self, now: Duration, d: &mut dyn Delegate, out: &mut Vec<Output>) {
        while let Some(relay) = self.relays.take_expired(now) {
            if relay.nack {
                self.counters.nacks_sent += 1;
                self.send(relay.asker, &Message::Nack(Nack { seq_no: relay.asker_seq_no }), d, out);
            }
        }
    }

    fn source(&self) -> Source {
        Source { addr: Some(self.config.addr), port: self.config.port, node: self.config.name.clone() }
    }
}

/// Where an answer goes: to where the asker says it is, or else to where it wrote from.
fn answer_to(from: SocketAddr, source: &Source) -> SocketAddr {
    match source.addr {
        Some(addr) if source.port != 0 => SocketAddr::new(addr, source.port),
        _ => from,
    }
}
