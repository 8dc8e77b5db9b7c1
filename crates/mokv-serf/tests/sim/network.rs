//! A network of hosts, with one event queue: what arrives where, and when.
//!
//! It does not know what it carries: `D` is a datagram, `M` what goes over a stream.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::seeds;

/// A host. There is one process on each, or none.
pub(crate) type Host = usize;

/// The address of a host's process.
pub(crate) fn addr(host: Host) -> SocketAddr {
    let [high, low] = u16::try_from(host + 1).expect("few hosts").to_be_bytes();
    ([10, 0, high, low], 7946).into()
}

/// The host with this address.
pub(crate) fn host(addr: SocketAddr) -> Host {
    let SocketAddr::V4(addr) = addr else { panic!("not one of ours") };
    let [_, _, high, low] = addr.ip().octets();
    usize::from(u16::from_be_bytes([high, low])) - 1
}

/// What arrives at a host.
#[derive(Debug, Clone)]
pub(crate) enum Arrival<D, M> {
    Datagram {
        from: Host,
        datagram: D,
    },
    /// Somebody opened a stream and wrote a message.
    Request {
        from: Host,
        stream: Stream,
        message: M,
    },
    /// The answer to a stream that this host opened, or how it ended without one.
    Closed {
        stream: Stream,
        result: Result<Option<M>, &'static str>,
    },
}

/// Names a stream: for the process that opened it, and no other that runs on the host later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stream {
    pub(crate) process: u64,
    pub(crate) id: u64,
}

/// How well it works.
#[derive(Debug, Clone)]
pub(crate) struct Quality {
    /// The share of datagrams that get lost.
    pub(crate) loss: f64,
    /// How long one takes.
    pub(crate) delay: std::ops::RangeInclusive<Duration>,
}

impl Quality {
    /// Loses that much; one way takes up to 2 ms, as in one data centre, seldom longer.
    pub(crate) fn lossy(loss: f64) -> Self {
        Self { loss, delay: Duration::from_micros(100)..=Duration::from_millis(2) }
    }
}

/// What a lost packet costs a stream.
const RETRANSMISSION: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Network<D, M> {
    pub(crate) quality: Quality,
    rng: StdRng,
    /// In the order of their times, and of their sending.
    under_way: BTreeMap<(Duration, u64), (Host, Arrival<D, M>)>,
    sent: u64,
    /// Pairs, the lower host first, between which nothing arrives.
    cuts: BTreeSet<(Host, Host)>,
    /// Hosts that no datagram comes from or gets to.
    deaf: BTreeSet<Host>,
}

impl<D, M> Network<D, M> {
    pub(crate) fn new(seed: u64, quality: Quality) -> Self {
        let rng = seeds::generator(seed, "network");
        Self { quality, rng, under_way: BTreeMap::new(), sent: 0, cuts: BTreeSet::new(), deaf: BTreeSet::new() }
    }

    pub(crate) fn cut(&mut self, a: Host, b: Host) {
        self.cuts.insert((a.min(b), a.max(b)));
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn is_cut(&self, a: Host, b: Host) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    /// Only streams reach that host, as behind a bad firewall.
    pub(crate) fn lose_datagrams_of(&mut self, host: Host) {
        self.deaf.insert(host);
    }

    pub(crate) fn send(&mut self, now: Duration, from: Host, to: Host, datagram: D) {
        let delay = self.rng.random_range(self.quality.delay.clone());
        // Drawn for each, so that a cut does not shift what happens to the others.
        let lost = self.rng.random_bool(self.quality.loss);
        let deaf = self.deaf.contains(&from) || self.deaf.contains(&to);
        if !lost && !deaf && !self.is_cut(from, to) {
            self.arrive(now + delay, to, Arrival::Datagram { from, datagram });
        }
    }

    /// Opens a stream and writes a message. Whatever happens, `Closed` arrives at the opener within `timeout`, or after it
    /// once more: the first one counts.
    pub(crate) fn open(&mut self, now: Duration, from: Host, to: Host, stream: Stream, message: M, timeout: Duration) {
        let delay = self.stream_delay();
        if !self.is_cut(from, to) {
            self.arrive(now + delay, to, Arrival::Request { from, stream, message });
        }
        self.arrive(now + timeout, from, Arrival::Closed { stream, result: Err("timed out") });
    }

    /// Ends a stream from the other side.
    pub(crate) fn close(
        &mut self,
        now: Duration,
        from: Host,
        to: Host,
        stream: Stream,
        result: Result<Option<M>, &'static str>,
    ) {
        let delay = self.stream_delay();
        if !self.is_cut(from, to) {
            self.arrive(now + delay, to, Arrival::Closed { stream, result });
        }
    }

    /// When the next thing arrives.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next thing that arrives.
    pub(crate) fn take(&mut self) -> Option<(Host, Arrival<D, M>)> {
        self.under_way.pop_first().map(|(_, arrival)| arrival)
    }

    fn stream_delay(&mut self) -> Duration {
        let mut delay = self.rng.random_range(self.quality.delay.clone()) * 2;
        while self.rng.random_bool(self.quality.loss) {
            delay += RETRANSMISSION;
        }
        delay
    }

    fn arrive(&mut self, at: Duration, to: Host, arrival: Arrival<D, M>) {
        self.sent += 1;
        self.under_way.insert((at, self.sent), (to, arrival));
    }
}
