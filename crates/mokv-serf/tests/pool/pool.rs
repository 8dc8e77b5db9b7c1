//! A pool of nodes, the network between them, and what each of them said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mokv_serf::gossip::{self, DialId};
use mokv_serf::serf::{Config, Event, KeyReport, Member, Output, QueryAnswer, QueryId, Serf, Status};
use mokv_serf::wire::keyring::Keyring;
use mokv_serf::wire::memberlist::{self, StreamMessage};
use mokv_serf::wire::{Codec, Side, Text, serf as wire};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How long the nodes may need to agree, in a pool of up to 30: a full probe round and a suspicion of each of several, an
/// exchange of states or two.
pub(crate) const SOON: Duration = secs(120);

/// How many steps may happen at one instant: more is a node that never comes to rest.
const STEPS_AT_ONCE_MAX: usize = 100_000;

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The seeds of a test: `count` of them, or so many as are wanted, or the one that is to be replayed.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    match number("MOKV_SERF_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("MOKV_SERF_SEEDS").unwrap_or(count)).collect(),
    }
}

/// The layers that a pool may have around its messages.
pub(crate) fn codecs() -> [(&'static str, Codec); 5] {
    let keyring = || Some(Keyring::new([[7; 32]]).expect("a key"));
    let plain = Codec::default();
    [
        ("plain", plain.clone()),
        ("compressed", Codec { compression: true, ..plain.clone() }),
        ("labelled", Codec { label: Bytes::from_static(b"pool"), ..plain.clone() }),
        ("encrypted", Codec { keyring: keyring(), ..plain }),
        ("all", Codec { label: Bytes::from_static(b"pool"), compression: true, keyring: keyring() }),
    ]
}

/// What a node said so far.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) events: Vec<Event>,
    pub(crate) joins: Vec<Result<usize, String>>,
    pub(crate) answers: Vec<(QueryId, QueryAnswer)>,
    pub(crate) key_reports: Vec<KeyReport>,
    pub(crate) keyrings: Vec<Keyring>,
    pub(crate) left: bool,
    pub(crate) name_taken: bool,
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) serf: Serf,
    pub(crate) said: Said,
    /// Tells the runs of one address from each other: what was for an earlier one must not reach this one.
    run: u64,
}

impl Node {
    /// The members that it takes for being in that state.
    pub(crate) fn with(&self, status: Status) -> Vec<String> {
        let members = self.serf.members().values().filter(|member| member.status == status);
        members.map(|member| member.name.to_string()).collect()
    }

    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        self.serf.members().get(&Text::from(name))
    }

    pub(crate) fn status(&self, name: &str) -> Option<Status> {
        self.member(name).map(|member| member.status)
    }

    /// How often it said this of that member.
    pub(crate) fn heard(&self, what: fn(Member) -> Event, name: &str) -> usize {
        let of = |event: &Event| match event {
            Event::Joined(member)
            | Event::Updated(member)
            | Event::Leaving(member)
            | Event::Left(member)
            | Event::Failed(member)
            | Event::Reaped(member) => {
                member.name == Text::from(name)
                    && std::mem::discriminant(event) == std::mem::discriminant(&what(member.clone()))
            }
            Event::User(_) | Event::Query(_) => false,
        };
        self.said.events.iter().filter(|event| of(event)).count()
    }
}

/// Something on the way.
#[derive(Debug)]
enum Parcel {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Bytes },
    Request { from: SocketAddr, run: u64, id: DialId, to: SocketAddr, bytes: Bytes, awaits_answer: bool },
    Answer { to: SocketAddr, run: u64, id: DialId, result: Result<Option<Bytes>, String> },
}

/// All of it.
pub(crate) struct Pool {
    pub(crate) seed: u64,
    pub(crate) now: Duration,
    pub(crate) rng: StdRng,
    /// The share of datagrams that get lost.
    pub(crate) loss: f64,
    /// How long a datagram takes at most.
    pub(crate) delay_max: Duration,
    /// What every node has.
    pub(crate) codec: Codec,
    /// What a test wants to be otherwise.
    pub(crate) adjust: fn(&mut Config),
    /// From whom to whom nothing goes.
    pub(crate) cuts: BTreeSet<(SocketAddr, SocketAddr)>,
    nodes: BTreeMap<SocketAddr, Node>,
    on_the_way: BTreeMap<(Duration, u64), Parcel>,
    parcels: u64,
    runs: u64,
}

impl Pool {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            now: secs(1000),
            rng: StdRng::seed_from_u64(seed),
            loss: 0.0,
            delay_max: Duration::from_millis(5),
            codec: Codec::default(),
            adjust: |_| {},
            cuts: BTreeSet::new(),
            nodes: BTreeMap::new(),
            on_the_way: BTreeMap::new(),
            parcels: 0,
            runs: 0,
        }
    }

    /// Nodes `n0`, `n1`, ... that are one pool, have come to rest and have nothing said.
    pub(crate) fn formed(seed: u64, size: usize) -> Self {
        Self::formed_with(seed, size, Codec::default())
    }

    pub(crate) fn formed_with(seed: u64, size: usize, codec: Codec) -> Self {
        let mut pool = Self::new(seed);
        pool.codec = codec;
        pool.form(size);
        pool
    }

    pub(crate) fn form(&mut self, size: usize) {
        for i in 0..size {
            self.start(i);
        }
        for i in 1..size {
            self.join(i, 0);
        }
        self.wait("the pool to form", |pool| pool.agrees(Status::Alive, &pool.names()));
        self.run(secs(5));
        self.forget();
    }

    /// Forgets what the nodes said so far.
    pub(crate) fn forget(&mut self) {
        for node in self.nodes.values_mut() {
            node.said = Said::default();
        }
    }

    /// The events that a node told, which it is to forget.
    pub(crate) fn take_events(&mut self, i: usize) -> Vec<Event> {
        std::mem::take(&mut self.nodes.get_mut(&Self::addr(i)).expect("it runs").said.events)
    }

    pub(crate) fn addr(i: usize) -> SocketAddr {
        format!("10.0.0.{}:7946", i + 1).parse().expect("an address")
    }

    pub(crate) fn name(i: usize) -> String {
        format!("n{i}")
    }

    pub(crate) fn start(&mut self, i: usize) {
        self.start_as(i, &Self::name(i));
    }

    pub(crate) fn start_as(&mut self, i: usize, name: &str) {
        let addr = Self::addr(i);
        let mut config = Config::new(gossip::Config::lan(name.into(), addr), self.codec.clone());
        config.tags.insert("rpc_addr".into(), format!("10.0.0.{}:8400", i + 1).into());
        (self.adjust)(&mut config);
        let serf = Serf::new(config, StdRng::from_rng(&mut self.rng), self.now).expect("small tags");
        self.runs += 1;
        let node = Node { serf, said: Said::default(), run: self.runs };
        assert!(self.nodes.insert(addr, node).is_none(), "{addr} runs already");
        self.collect(addr);
    }

    /// Ends a node without a word.
    pub(crate) fn kill(&mut self, i: usize) -> Node {
        self.nodes.remove(&Self::addr(i)).expect("it runs")
    }

    pub(crate) fn is_running(&self, i: usize) -> bool {
        self.nodes.contains_key(&Self::addr(i))
    }

    pub(crate) fn join(&mut self, i: usize, other: usize) {
        let to = Self::addr(other);
        self.act(i, |serf, now| serf.join(now, to));
    }

    pub(crate) fn node(&self, i: usize) -> &Node {
        &self.nodes[&Self::addr(i)]
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The names of the nodes that run.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .nodes
            .keys()
            .map(|addr| match addr.ip() {
                std::net::IpAddr::V4(ip) => Self::name(usize::from(ip.octets()[3]) - 1),
                std::net::IpAddr::V6(_) => unreachable!("see `addr`"),
            })
            .collect();
        names.sort();
        names
    }

    /// Does something with a node.
    pub(crate) fn act<T>(&mut self, i: usize, action: impl FnOnce(&mut Serf, Duration) -> T) -> T {
        let addr = Self::addr(i);
        let result = action(&mut self.nodes.get_mut(&addr).expect("it runs").serf, self.now);
        self.collect(addr);
        result
    }

    /// Whether all running nodes take exactly these for being in that state.
    pub(crate) fn agrees(&self, status: Status, names: &[String]) -> bool {
        self.nodes.values().all(|node| node.with(status) == names)
    }

    /// Whether all running nodes but `i` have this of `i`.
    pub(crate) fn others_have(&self, i: usize, status: Option<Status>) -> bool {
        let others = self.nodes.iter().filter(|(addr, _)| **addr != Self::addr(i));
        others.map(|(_, node)| node.status(&Self::name(i))).all(|seen| seen == status)
    }

    /// Nothing goes between these two groups.
    pub(crate) fn cut(&mut self, one: &[usize], other: &[usize]) {
        for a in one {
            for b in other {
                self.cuts.insert((Self::addr(*a), Self::addr(*b)));
                self.cuts.insert((Self::addr(*b), Self::addr(*a)));
            }
        }
    }

    /// A datagram of nobody who runs.
    pub(crate) fn inject(&mut self, to: usize, bytes: Bytes) {
        let from = "10.9.9.9:7946".parse().expect("an address");
        self.post(self.now, Parcel::Datagram { from, to: Self::addr(to), bytes });
    }

    /// A Serf message of somebody who has the keys.
    pub(crate) fn forge(&mut self, to: usize, message: &wire::Message) {
        let message = memberlist::Message::User(message.encode()).encode();
        let bytes = self.codec.seal(&[message], false, &mut self.rng);
        self.inject(to, bytes);
    }

    /// Runs for so long.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let never = self.run_until(end, |_| false);
        assert!(!never);
    }

    /// Runs until this is so; it has to be soon.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        self.wait_for(SOON, what, condition);
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, time: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.now + time;
        assert!(
            self.run_until(end, condition),
            "waited {time:?} in vain for {what}; the nodes see {:#?}",
            self.views()
        );
    }

    fn views(&self) -> Vec<String> {
        let view = |(addr, node): (&SocketAddr, &Node)| {
            let members = node.serf.members().values();
            let members: Vec<String> = members.map(|m| format!("{} {:?} @{}", m.name, m.status, m.time)).collect();
            format!("{addr}: {}; joins {:?}", members.join(", "), node.said.joins)
        };
        self.nodes.iter().map(view).collect()
    }

    fn run_until(&mut self, end: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let (mut instant, mut steps) = (self.now, 0);
        loop {
            if condition(self) {
                return true;
            }
            let parcel = self.on_the_way.first_key_value().map(|((at, _), _)| *at);
            let tick = self.nodes.iter().map(|(addr, node)| (node.serf.next_tick(), *addr)).min();
            let next = [parcel, tick.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(next);
            steps = if self.now == instant { steps + 1 } else { 0 };
            instant = self.now;
            assert!(steps < STEPS_AT_ONCE_MAX, "the pool never comes to rest");
            if parcel.is_some_and(|at| at <= next) {
                let (_, parcel) = self.on_the_way.pop_first().expect("there is one");
                self.deliver(parcel);
            } else {
                let (_, addr) = tick.expect("there is one");
                self.nodes.get_mut(&addr).expect("it runs").serf.tick(self.now);
                self.collect(addr);
            }
        }
    }

    fn post(&mut self, at: Duration, parcel: Parcel) {
        self.parcels += 1;
        self.on_the_way.insert((at, self.parcels), parcel);
    }

    fn delay(&mut self) -> Duration {
        self.rng.random_range(Duration::from_micros(50)..=self.delay_max)
    }

    /// Takes what a node wants done.
    fn collect(&mut self, addr: SocketAddr) {
        let node = self.nodes.get_mut(&addr).expect("it runs");
        let (run, codec) = (node.run, node.serf.codec().clone());
        for output in node.serf.take_outputs() {
            match output {
                Output::Datagram { to, bytes } => self.send(addr, to, bytes),
                Output::Dial { id, to, message, awaits_answer, timeout } => {
                    let bytes = codec.seal_stream(&message, Side::Initiator, &mut self.rng);
                    let request = Parcel::Request { from: addr, run, id, to, bytes, awaits_answer };
                    if self.cuts.contains(&(addr, to)) {
                        let result = Err("timed out".to_owned());
                        self.post(self.now + timeout, Parcel::Answer { to: addr, run, id, result });
                    } else {
                        let at = self.now + self.delay() + self.delay();
                        self.post(at, request);
                    }
                }
                other => self.note(addr, other),
            }
        }
    }

    fn note(&mut self, addr: SocketAddr, output: Output) {
        let said = &mut self.nodes.get_mut(&addr).expect("it runs").said;
        match output {
            Output::Event(event) => said.events.push(event),
            Output::JoinFinished { result, .. } => said.joins.push(result),
            Output::QueryAnswer { id, answer } => said.answers.push((id, answer)),
            Output::KeysFinished { report, .. } => said.key_reports.push(report),
            Output::KeyringChanged(keyring) => said.keyrings.push(keyring),
            Output::Left => said.left = true,
            Output::NameTaken => said.name_taken = true,
            Output::Datagram { .. } | Output::Dial { .. } => unreachable!("sent"),
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        assert!(bytes.len() <= 1405, "a datagram of {} bytes", bytes.len());
        if self.cuts.contains(&(from, to)) || self.rng.random::<f64>() < self.loss {
            return;
        }
        let at = self.now + self.delay();
        self.post(at, Parcel::Datagram { from, to, bytes });
    }

    fn deliver(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Datagram { from, to, bytes } => {
                if let Some(node) = self.nodes.get_mut(&to) {
                    node.serf.receive(self.now, from, &bytes);
                    self.collect(to);
                }
            }
            Parcel::Request { from, run, id, to, bytes, awaits_answer } => {
                let result = self.serve(to, &bytes);
                let result = match result {
                    Ok(None) if awaits_answer => Err("closed without an answer".to_owned()),
                    other => other,
                };
                let at = self.now + self.delay();
                self.post(at, Parcel::Answer { to: from, run, id, result });
            }
            Parcel::Answer { to, run, id, result } => {
                let Some(node) = self.nodes.get_mut(&to).filter(|node| node.run == run) else {
                    return;
                };
                let result = result.and_then(|answer| match answer {
                    Some(bytes) => read(node.serf.codec(), Side::Acceptor, &bytes).map(Some),
                    None => Ok(None),
                });
                node.serf.dial_finished(self.now, id, result);
                self.collect(to);
            }
        }
    }

    /// What the listener of a node does with a connection.
    fn serve(&mut self, at: SocketAddr, bytes: &[u8]) -> Result<Option<Bytes>, String> {
        let node = self.nodes.get_mut(&at).ok_or("connection refused")?;
        let message = read(node.serf.codec(), Side::Initiator, bytes)?;
        let answer = node.serf.answer(self.now, message);
        let codec = node.serf.codec().clone();
        self.collect(at);
        Ok(answer.map(|answer| codec.seal_stream(&answer, Side::Acceptor, &mut self.rng)))
    }
}

fn read(codec: &Codec, side_of_sender: Side, bytes: &[u8]) -> Result<StreamMessage, String> {
    let mut stream = codec.stream(side_of_sender);
    stream.push(bytes);
    stream.next().map_err(|error| error.to_string())?.ok_or_else(|| "cut short".to_owned())
}

impl Drop for Pool {
    #[allow(clippy::print_stderr, reason = "this is how a failed test says what it needs to be run again")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("MOKV_SERF_SEED={} at {:?}", self.seed, self.now - secs(1000));
        }
    }
}
