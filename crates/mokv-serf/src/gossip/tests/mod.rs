//! Each rule by a script: what goes in, at what time, and what comes out.

mod claims;
mod exchange;
mod hostile;
mod leaving;
mod probes;
mod spreading;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::wire::memberlist::{Message, Suspect, Versions};

const INTERVAL: Duration = Duration::from_secs(1);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The name of the node with this number.
fn name(n: u8) -> Text {
    format!("n{n}").into()
}

/// Its address.
fn addr(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 7946).into()
}

fn alive(n: u8, incarnation: u32) -> Alive {
    Alive {
        incarnation,
        node: name(n),
        addr: addr(n).ip(),
        port: 7946,
        meta: Bytes::new(),
        versions: Some(Versions::OURS),
    }
}

fn suspect(n: u8, incarnation: u32, from: u8) -> Message {
    Message::Suspect(Suspect { incarnation, node: name(n), from: name(from) })
}

fn dead(n: u8, incarnation: u32, from: u8) -> Message {
    Message::Dead(Dead { incarnation, node: name(n), from: name(from) })
}

/// The layer above: what it has to say once.
#[derive(Default)]
struct Above {
    news: Vec<Bytes>,
}

impl Delegate for Above {
    fn broadcasts(&mut self, overhead: usize, limit: usize) -> Vec<Bytes> {
        let mut free = limit;
        let fitting = self.news.extract_if(.., |message| {
            let fits = message.len() + overhead <= free;
            free -= if fits { message.len() + overhead } else { 0 };
            fits
        });
        fitting.collect()
    }

    fn local_state(&mut self, join: bool) -> Bytes {
        Bytes::from_static(if join { b"joining" } else { b"state" })
    }
}

/// Node 1, that is tested, and the time.
struct Bench {
    gossip: Gossip,
    above: Above,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::lan(name(1), addr(1));
        change(&mut config);
        // Started some time after the clock.
        let now = ms(100_000);
        let gossip = Gossip::new(config, Bytes::new(), StdRng::seed_from_u64(1), now);
        Self { gossip, above: Above::default(), now }
    }

    /// That knows nodes 2 to `last`, and has nothing to say of them.
    fn knowing(last: u8) -> Self {
        let mut bench = Self::new();
        for n in 2..=last {
            bench.receive(n, Message::Alive(alive(n, 1)));
        }
        bench.forget_news();
        bench
    }

    fn forget_news(&mut self) {
        self.gossip.broadcasts.prune(0);
    }

    fn receive(&mut self, from: u8, message: Message) -> Vec<Output> {
        let mut out = Vec::new();
        self.gossip.receive(self.now, addr(from), message, &mut self.above, &mut out);
        out
    }

    fn answer(&mut self, message: StreamMessage) -> (Option<StreamMessage>, Vec<Output>) {
        let mut out = Vec::new();
        let answer = self.gossip.answer(self.now, message, &mut self.above, &mut out);
        (answer, out)
    }

    fn dial_finished(&mut self, id: DialId, result: Result<Option<StreamMessage>, String>) -> Vec<Output> {
        let mut out = Vec::new();
        self.gossip.dial_finished(self.now, id, result, &mut out);
        out
    }

    /// Lets time pass, with a tick whenever one is due. What came out, with its time.
    fn run_for(&mut self, time: Duration) -> Vec<(Duration, Output)> {
        let (until, mut all) = (self.now + time, Vec::new());
        while self.gossip.next_tick() <= until {
            assert!(self.gossip.next_tick() > self.now || all.len() < 10_000, "the clock stands still");
            self.now = self.now.max(self.gossip.next_tick());
            all.extend(self.tick().into_iter().map(|output| (self.now, output)));
        }
        self.now = until;
        all
    }

    /// Lets time pass until something comes out that `pick` takes.
    fn run_until<T>(&mut self, pick: impl Fn(&Output) -> Option<T>) -> T {
        for _ in 0..10_000 {
            self.now = self.now.max(self.gossip.next_tick());
            if let Some(found) = self.tick().iter().find_map(&pick) {
                return found;
            }
        }
        panic!("it does not come");
    }

    fn tick(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        self.gossip.tick(self.now, &mut self.above, &mut out);
        out
    }

    fn state(&self, n: u8) -> Option<Liveness> {
        self.gossip.node(&name(n)).map(|node| node.state)
    }

    fn incarnation(&self, n: u8) -> u32 {
        self.gossip.node(&name(n)).expect("it is known").incarnation
    }

    /// What waits to be spread, largest first.
    fn news(&mut self) -> Vec<Message> {
        self.gossip.broadcasts.take(0, usize::MAX, 100).iter().map(decode).collect()
    }
}

fn decode(bytes: &Bytes) -> Message {
    Message::decode(bytes).expect("ours")
}

/// The messages of datagrams, and to whom each goes.
fn sent<'a>(outputs: impl IntoIterator<Item = &'a Output>) -> Vec<(SocketAddr, Message)> {
    let datagrams = outputs.into_iter().filter_map(|output| match output {
        Output::Send { to, messages, .. } => Some(messages.iter().map(|bytes| (*to, decode(bytes)))),
        _ => None,
    });
    datagrams.flatten().collect()
}

fn facts(outputs: &[Output]) -> Vec<&Fact> {
    let facts = outputs.iter().filter_map(|output| match output {
        Output::Fact(fact) => Some(fact),
        _ => None,
    });
    facts.collect()
}

/// The direct ping of a probe.
fn ping(output: &Output) -> Option<(SocketAddr, crate::wire::memberlist::Ping)> {
    sent([output]).into_iter().find_map(|(to, message)| match message {
        Message::Ping(ping) => Some((to, ping)),
        _ => None,
    })
}
