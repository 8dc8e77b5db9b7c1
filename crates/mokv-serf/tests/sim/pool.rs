//! Processes on the hosts of a network: the shell around the gossip that production has too, with a clock that only moves
//! when nothing is left to do.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use mokv_serf::gossip::{Config, Delegate, DialId, Fact, Gossip, Node, Output};
use mokv_serf::wire::Text;
use mokv_serf::wire::memberlist::{Liveness, Message, StreamMessage};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use super::network::{Arrival, Host, Network, Quality, Stream, addr, host};
use super::seeds;

type Arrived = Arrival<Vec<Bytes>, StreamMessage>;

/// What a host keeps of the datagrams for a process that does not run: about what a socket's buffer holds.
const SOCKET_BUFFER: usize = 256;
/// Where a new node joins. Two, so that one of the two can join the other.
const SEEDS: [Host; 2] = [0, 1];
/// How long a node waits until it tries to join again.
const REJOIN: Duration = Duration::from_secs(1);
/// How often a node tries to reach one that it lost, as Serf does.
const RECONNECT: Duration = Duration::from_secs(30);

/// Something that a node learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Joined,
    Updated,
    Died,
    Left,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) at: Duration,
    pub(crate) by: Host,
    pub(crate) what: What,
    pub(crate) about: Host,
}

/// Serf, as far as the pool needs it: nothing to say, but it does not give up those it lost.
#[derive(Debug)]
struct Above {
    rng: StdRng,
    /// Nodes that failed, and were not heard of since.
    failed: BTreeSet<Host>,
    reconnect_at: Duration,
    /// When to try to join (again); none once that has worked.
    join_at: Option<Duration>,
}

impl Delegate for Above {
    fn broadcasts(&mut self, _overhead: usize, _limit: usize) -> Vec<Bytes> {
        Vec::new()
    }

    fn local_state(&mut self, _join: bool) -> Bytes {
        Bytes::new()
    }
}

#[derive(Debug)]
struct Process {
    id: u64,
    gossip: Gossip,
    above: Above,
    dials: BTreeMap<u64, DialId>,
    next_stream: u64,
    /// Until when it is stopped, and what came meanwhile.
    paused_until: Option<Duration>,
    inbox: Vec<Arrived>,
    has_left: bool,
}

impl Process {
    fn next_step(&self) -> Duration {
        let due = self.gossip.next_tick().min(self.above.reconnect_at).min(self.above.join_at.unwrap_or(Duration::MAX));
        due.max(self.paused_until.unwrap_or(Duration::ZERO))
    }
}

#[derive(Debug)]
pub(crate) struct Pool {
    seed: u64,
    pub(crate) now: Duration,
    pub(crate) network: Network<Vec<Bytes>, StreamMessage>,
    hosts: BTreeMap<Host, Process>,
    /// When each process has something to do.
    timers: BTreeSet<(Duration, Host)>,
    started: u64,
    pub(crate) seen: Vec<Seen>,
    configure: fn(Text, std::net::SocketAddr) -> Config,
    hash: DefaultHasher,
    pub(crate) datagrams: u64,
}

impl Pool {
    pub(crate) fn new(seed: u64, quality: Quality) -> Self {
        Self {
            seed,
            // Not at the zero of the clock.
            now: Duration::from_secs(1000),
            network: Network::new(seed, quality),
            hosts: BTreeMap::new(),
            timers: BTreeSet::new(),
            started: 0,
            seen: Vec::new(),
            configure: Config::lan,
            hash: DefaultHasher::new(),
            datagrams: 0,
        }
    }

    /// A pool of that many nodes, all of which know each other.
    pub(crate) fn of(count: usize, seed: u64, quality: Quality) -> Self {
        let mut pool = Self::new(seed, quality);
        (0..count).for_each(|host| pool.start(host));
        pool.expect(Duration::from_secs(120), "all know all", Self::converged);
        pool
    }

    /// Starts a process on a host, that joins the seeds until one of them answers.
    pub(crate) fn start(&mut self, host: Host) {
        self.started += 1;
        let id = self.started;
        let rng = seeds::generator(self.seed, &format!("process {id}"));
        let mut above = seeds::generator(self.seed, &format!("above {id}"));
        let config = (self.configure)(format!("node-{host}").into(), addr(host));
        let process = Process {
            id,
            gossip: Gossip::new(config, "".into(), rng, self.now),
            above: Above {
                failed: BTreeSet::new(),
                reconnect_at: self.now + above.random_range(Duration::ZERO..=RECONNECT),
                rng: above,
                join_at: Some(self.now),
            },
            dials: BTreeMap::new(),
            next_stream: 0,
            paused_until: None,
            inbox: Vec::new(),
            has_left: false,
        };
        self.timers.insert((process.next_step(), host));
        assert!(self.hosts.insert(host, process).is_none(), "one process a host");
    }

    pub(crate) fn kill(&mut self, host: Host) {
        let process = self.hosts.remove(&host).expect("it runs");
        self.timers.remove(&(process.next_step(), host));
    }

    pub(crate) fn pause(&mut self, host: Host, time: Duration) {
        let until = self.now + time;
        self.with(host, |process, _, _| process.paused_until = Some(until));
    }

    pub(crate) fn leave(&mut self, host: Host) {
        self.with(host, |process, now, out| process.gossip.leave(now, &mut process.above, out));
    }

    /// Changes a node's tags: news for all.
    pub(crate) fn set_meta(&mut self, host: Host, meta: &'static str) {
        self.with(host, |process, now, _| process.gossip.set_meta(now, meta.into()));
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = Host> + '_ {
        self.hosts.keys().copied()
    }

    pub(crate) fn is_running(&self, host: Host) -> bool {
        self.hosts.contains_key(&host)
    }

    pub(crate) fn is_paused(&self, host: Host) -> bool {
        self.hosts.get(&host).is_some_and(|process| process.paused_until.is_some())
    }

    pub(crate) fn has_left(&self, host: Host) -> bool {
        self.hosts[&host].has_left
    }

    pub(crate) fn gossip(&self, host: Host) -> &Gossip {
        &self.hosts[&host].gossip
    }

    /// What one host's node knows of another's.
    pub(crate) fn view(&self, of: Host, about: Host) -> Option<&Node> {
        self.gossip(of).node(&format!("node-{about}").into())
    }

    /// Whether every node knows all that run to be alive, and nobody else.
    pub(crate) fn converged(&self) -> bool {
        let mut hosts = self.running().collect::<Vec<_>>();
        // The nodes come in the order of their names.
        hosts.sort_by_key(|host| format!("node-{host}"));
        self.hosts.values().all(|process| {
            let alive = process.gossip.nodes().filter(|node| !node.is_gone());
            alive.clone().all(|node| node.state == Liveness::Alive)
                && alive.map(|node| host(node.socket_addr())).eq(hosts.iter().copied())
        })
    }

    /// A digest of all that happened.
    pub(crate) fn digest(&self) -> u64 {
        self.hash.finish()
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.next_step().filter(|at| *at <= until) {
            self.step(at);
        }
        self.now = until;
    }

    /// Runs until something holds, which is looked at each 50 ms; how long that took.
    pub(crate) fn expect(&mut self, limit: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.now;
        while !holds(self) {
            let time = self.now - begin;
            assert!(time < limit, "seed {}: not so after {time:?}: {what}\n{}", self.seed, self.describe());
            self.run_for(Duration::from_millis(50));
        }
        self.now - begin
    }

    fn describe(&self) -> String {
        let views = self.hosts.iter().map(|(host, process)| {
            let nodes = process.gossip.nodes().map(|n| format!("{} {:?} {}", n.name, n.state, n.incarnation));
            let left = if process.has_left { " (has left)" } else { "" };
            let paused = if process.paused_until.is_some() { " (paused)" } else { "" };
            format!("node-{host}{left}{paused}: {}\n", nodes.collect::<Vec<_>>().join(", "))
        });
        views.collect()
    }

    fn next_step(&self) -> Option<Duration> {
        debug_assert_eq!(self.timers.len(), self.hosts.len(), "one timer a process");
        let timer = self.timers.first().map(|(at, _)| *at);
        [timer, self.network.next()].into_iter().flatten().min()
    }

    fn step(&mut self, at: Duration) {
        self.now = self.now.max(at);
        if self.network.next().is_some_and(|next| next <= self.now) {
            let (host, arrival) = self.network.take().expect("it was just seen");
            self.arrived(host, arrival);
        } else if let Some(&(_, host)) = self.timers.first() {
            self.woken(host);
        }
    }

    fn arrived(&mut self, to: Host, arrival: Arrived) {
        let Some(process) = self.hosts.get_mut(&to) else {
            // The host is there, and nobody listens.
            if let Arrival::Request { from, stream, .. } = arrival {
                self.network.close(self.now, to, from, stream, Err("refused"));
            }
            return;
        };
        if process.paused_until.is_some() {
            let datagrams = process.inbox.iter().filter(|a| matches!(a, Arrival::Datagram { .. })).count();
            if !matches!(arrival, Arrival::Datagram { .. }) || datagrams < SOCKET_BUFFER {
                process.inbox.push(arrival);
            }
            return;
        }
        self.handle(to, arrival);
    }

    fn handle(&mut self, to: Host, arrival: Arrived) {
        match arrival {
            Arrival::Datagram { from, datagram } => self.with(to, |process, now, out| {
                for bytes in &datagram {
                    let message = Message::decode(bytes).expect("only we send");
                    process.gossip.receive(now, addr(from), message, &mut process.above, out);
                }
            }),
            Arrival::Request { from, stream, message } => {
                let mut answer = None;
                self.with(to, |process, now, out| {
                    answer = process.gossip.answer(now, message, &mut process.above, out);
                });
                self.network.close(self.now, to, from, stream, Ok(answer));
            }
            Arrival::Closed { stream, result } => self.with(to, |process, now, out| {
                // Of an earlier process, or closed before.
                if process.id == stream.process
                    && let Some(id) = process.dials.remove(&stream.id)
                {
                    process.gossip.dial_finished(now, id, result.map_err(str::to_owned), out);
                }
            }),
        }
    }

    /// A process has something to do.
    fn woken(&mut self, host: Host) {
        let mut inbox = Vec::new();
        self.with(host, |process, _, _| {
            process.paused_until = None;
            inbox = std::mem::take(&mut process.inbox);
        });
        for arrival in inbox {
            self.handle(host, arrival);
        }
        self.with(host, |process, now, out| process.gossip.tick(now, &mut process.above, out));
        self.join(host);
    }

    /// What the layer above does: join until it works, and look for those that were lost.
    fn join(&mut self, host: Host) {
        self.with(host, |process, now, out| {
            let above = &mut process.above;
            let mut to = Vec::new();
            if above.join_at.is_some_and(|at| at <= now) {
                above.join_at = Some(now + REJOIN);
                to.extend(SEEDS.into_iter().filter(|seed| *seed != host));
            }
            if above.reconnect_at <= now {
                above.reconnect_at = now + RECONNECT;
                // As likely as there are failed nodes among all: not everybody tries at once.
                let known = process.gossip.nodes().filter(|node| !node.is_gone()).count();
                let share = above.failed.len() as f64 / (known + above.failed.len()) as f64;
                if above.rng.random_bool(share) {
                    to.extend(above.failed.iter().copied().choose(&mut above.rng));
                }
            }
            for to in to {
                process.gossip.join(now, addr(to), above, out);
            }
        });
    }

    /// Lets a process do something, carries out what comes of it, and keeps its timer right.
    fn with(&mut self, host: Host, act: impl FnOnce(&mut Process, Duration, &mut Vec<Output>)) {
        let process = self.hosts.get_mut(&host).expect("it runs");
        self.timers.remove(&(process.next_step(), host));
        let mut out = Vec::new();
        act(process, self.now, &mut out);
        for output in out {
            self.carry_out(host, output);
        }
        let process = &self.hosts[&host];
        debug_assert!(process.gossip.nodes().any(|node| node.name == format!("node-{host}").into()));
        self.timers.insert((process.next_step(), host));
    }

    fn carry_out(&mut self, from: Host, output: Output) {
        (self.now, from).hash(&mut self.hash);
        let process = self.hosts.get_mut(&from).expect("it just acted");
        match output {
            Output::Send { to, messages, .. } => {
                assert!(messages.iter().map(|m| m.len() + 2).sum::<usize>() + 2 <= 1400, "too large: {messages:?}");
                (to, &messages).hash(&mut self.hash);
                self.datagrams += 1;
                self.network.send(self.now, from, host(to), messages);
            }
            Output::Dial { id, to, message, timeout, .. } => {
                format!("{to} {message:?}").hash(&mut self.hash);
                process.next_stream += 1;
                let stream = Stream { process: process.id, id: process.next_stream };
                process.dials.insert(stream.id, id);
                self.network.open(self.now, from, host(to), stream, message, timeout);
            }
            Output::Fact(fact) => {
                format!("{fact:?}").hash(&mut self.hash);
                self.learned(from, fact);
            }
        }
    }

    fn learned(&mut self, by: Host, fact: Fact) {
        let process = self.hosts.get_mut(&by).expect("it just acted");
        let (what, about) = match fact {
            Fact::Joined(node) => (What::Joined, host(node.socket_addr())),
            Fact::Updated(node) => (What::Updated, host(node.socket_addr())),
            Fact::Gone(node) if node.state == Liveness::Dead => (What::Died, host(node.socket_addr())),
            Fact::Gone(node) => (What::Left, host(node.socket_addr())),
            Fact::JoinFinished { result, .. } => {
                if result.is_ok() {
                    process.above.join_at = None;
                }
                return;
            }
            Fact::Left => {
                process.has_left = true;
                return;
            }
            Fact::Conflict { .. } | Fact::User(_) | Fact::RemoteState { .. } => {
                panic!("nobody causes that here: {fact:?}")
            }
        };
        match what {
            What::Died => process.above.failed.insert(about),
            What::Joined | What::Updated | What::Left => process.above.failed.remove(&about),
        };
        self.seen.push(Seen { at: self.now, by, what, about });
    }

    /// When the first and the last of those that run learned something of a node, after `since`; none if not all did.
    pub(crate) fn learned_by_all(&self, what: What, about: Host, since: Duration) -> Option<(Duration, Duration)> {
        let mut first = BTreeMap::new();
        for seen in self.seen.iter().filter(|seen| seen.what == what && seen.about == about && seen.at >= since) {
            first.entry(seen.by).or_insert(seen.at - since);
        }
        let times = self.running().filter(|by| *by != about).map(|by| first.get(&by).copied());
        let times = times.collect::<Option<Vec<_>>>()?;
        Some((*times.iter().min()?, *times.iter().max()?))
    }

    /// How often a node was thought dead, since a time.
    pub(crate) fn deaths(&self, since: Duration) -> usize {
        self.seen.iter().filter(|seen| seen.what == What::Died && seen.at >= since).count()
    }
}
