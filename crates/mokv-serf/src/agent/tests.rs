//! Agents over a network in memory, in paused time.

// Here is where tasks are started.
#![allow(clippy::disallowed_methods)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};

use super::connection::{ANSWER_TIMEOUT, HELD_BYTES_MAX};
use super::driver::CONNECTIONS_MAX;
use super::handle::EVENTS_MAX;
use super::*;
use crate::gossip;
use crate::serf::{Config, Event, QueryAnswer, QueryOptions, Status};
use crate::wire::memberlist::{Ping, Source, StreamMessage};
use crate::wire::{Codec, Side};

/// What a pipe of a connection holds.
const PIPE_BYTES: usize = 64 << 10;

/// Longer than anything takes that is waited for, in the time of the pool.
const PATIENCE: Duration = Duration::from_secs(60);

/// All nodes, and what was sent so far.
#[derive(Clone, Default)]
struct Network {
    ports: Arc<Mutex<BTreeMap<SocketAddr, Port>>>,
    sent: Arc<Mutex<DefaultHasher>>,
}

#[derive(Clone)]
struct Port {
    datagrams: UnboundedSender<(SocketAddr, Bytes)>,
    connections: UnboundedSender<(BoxStream, SocketAddr)>,
}

struct Memory {
    addr: SocketAddr,
    network: Network,
    datagrams: tokio::sync::Mutex<UnboundedReceiver<(SocketAddr, Bytes)>>,
    connections: tokio::sync::Mutex<UnboundedReceiver<(BoxStream, SocketAddr)>>,
}

impl Network {
    fn transport(&self, addr: SocketAddr) -> Arc<Memory> {
        let (datagrams_in, datagrams) = unbounded_channel();
        let (connections_in, connections) = unbounded_channel();
        self.ports.lock().expect("ports").insert(addr, Port { datagrams: datagrams_in, connections: connections_in });
        Arc::new(Memory { addr, network: self.clone(), datagrams: datagrams.into(), connections: connections.into() })
    }

    fn port(&self, addr: SocketAddr) -> Option<Port> {
        self.ports.lock().expect("ports").get(&addr).cloned()
    }

    fn connect(&self, from: SocketAddr, to: SocketAddr) -> io::Result<BoxStream> {
        let port = self.port(to).ok_or(io::ErrorKind::ConnectionRefused)?;
        let (ours, theirs) = duplex(PIPE_BYTES);
        port.connections.send((Box::new(theirs), from)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(ours))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.network.ports.lock().expect("ports").remove(&self.addr);
    }
}

impl Transport for Memory {
    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn send_to(&self, to: SocketAddr, datagram: Bytes) {
        let mut sent = self.network.sent.lock().expect("sent");
        (self.addr, to, &datagram).hash(&mut *sent);
        if let Some(port) = self.network.port(to) {
            // It may just have gone.
            let _ = port.datagrams.send((self.addr, datagram));
        }
    }

    fn recv_from(&self) -> BoxFuture<'_, io::Result<(SocketAddr, Bytes)>> {
        Box::pin(async { self.datagrams.lock().await.recv().await.ok_or(io::ErrorKind::NotConnected.into()) })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move { self.network.connect(self.addr, to) })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async { self.connections.lock().await.recv().await.ok_or(io::ErrorKind::NotConnected.into()) })
    }
}

fn addr(node: u8) -> SocketAddr {
    ([10, 0, 0, node], 7946).into()
}

fn config(name: &str, node: u8) -> Config {
    Config::new(gossip::Config::lan(name.into(), addr(node)), Codec::default())
}

fn spawn_over(transport: Arc<dyn Transport>, name: &str, node: u8) -> Agent {
    let spawned = Agent::spawn(config(name, node), transport, [node; 32], |task| {
        tokio::spawn(task);
    });
    spawned.expect("tags that fit")
}

fn spawn(network: &Network, name: &str, node: u8) -> Agent {
    spawn_over(network.transport(addr(node)), name, node)
}

/// Waits until an agent lists these, and no others.
async fn sees(agent: &Agent, expected: &[(&str, Status)]) {
    let mut members = agent.members();
    let is_so = |members: &Arc<Members>| {
        let seen = members.values().map(|member| (member.name.clone(), member.status));
        seen.eq(expected.iter().map(|(name, status)| (Text::from(*name), *status)))
    };
    let seen = timeout(PATIENCE, members.wait_for(is_so)).await.map(|seen| seen.is_ok());
    assert_eq!(seen, Ok(true), "{:#?}", agent.members().borrow());
}

async fn three(network: &Network) -> [Agent; 3] {
    let [a, b, c] = [("a", 1), ("b", 2), ("c", 3)].map(|(name, node)| spawn(network, name, node));
    assert_eq!(b.join(&[addr(1)]).await, Ok(1));
    assert_eq!(c.join(&[addr(1), addr(2)]).await, Ok(2));
    let all = [("a", Status::Alive), ("b", Status::Alive), ("c", Status::Alive)];
    for agent in [&a, &b, &c] {
        sees(agent, &all).await;
    }
    [a, b, c]
}

#[tokio::test(start_paused = true)]
async fn three_form_and_notice_that_one_is_gone() {
    let [a, b, c] = three(&Network::default()).await;
    drop(c);
    let gone = Instant::now();
    let left = [("a", Status::Alive), ("b", Status::Alive), ("c", Status::Failed)];
    sees(&a, &left).await;
    sees(&b, &left).await;
    // A round of probes, a probe, and the suspicion.
    assert!(gone.elapsed() < Duration::from_secs(10), "{:?}", gone.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leave_is_told() {
    let [a, b, c] = three(&Network::default()).await;
    c.leave().await;
    c.leave().await;
    c.shutdown();
    assert_eq!(c.stopped().await, Stopped::Shutdown);
    let left = [("a", Status::Alive), ("b", Status::Alive), ("c", Status::Left)];
    sees(&a, &left).await;
    sees(&b, &left).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_of_a_stopped_agent_is_refused() {
    let network = Network::default();
    let (agent, _other) = (spawn(&network, "a", 1), spawn(&network, "b", 2));
    let mut events = agent.events();
    agent.shutdown();
    assert_eq!(agent.stopped().await, Stopped::Shutdown);
    assert_eq!(agent.counters().await, Err(RequestError::Stopped));
    let error = agent.join(&[addr(2)]).await.expect_err("it has stopped");
    assert_eq!(error.failures, [(addr(2), "the agent has stopped".to_owned())]);
    agent.leave().await;
    // Its first word was of itself.
    assert!(matches!(events.recv().await, Ok(Event::Joined(_))));
    assert_eq!(events.recv().await, Err(RecvError::Closed));
    assert_eq!(agent.events().recv().await, Err(RecvError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_join_tells_what_went_wrong_where() {
    let network = Network::default();
    let (a, _b) = (spawn(&network, "a", 1), spawn(&network, "b", 2));
    // Takes connections, and never says a word.
    let _mute = network.transport(addr(3));

    assert_eq!(a.join(&[addr(2), addr(3), addr(4)]).await, Ok(1));
    let error = a.join(&[addr(3), addr(4)]).await.expect_err("nobody there");
    assert_eq!(
        error.to_string(),
        "nobody could be joined: 10.0.0.3:7946: no answer within 10s; 10.0.0.4:7946: cannot connect: connection refused"
    );
    let error = a.join(&[]).await.expect_err("nobody there");
    assert_eq!(error.to_string(), "nobody could be joined");
}

#[tokio::test(start_paused = true)]
async fn a_query_is_answered_until_its_time_is_over() {
    let [a, b, _c] = three(&Network::default()).await;
    let mut events = b.events();
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            if let Event::Query(query) = event {
                assert_eq!(b.respond(query, Bytes::from_static(b"yes")).await, Ok(()));
            }
        }
    });
    let options = QueryOptions { ack: true, ..QueryOptions::default() };
    let mut answers = a.query("load".into(), Bytes::new(), options).await.expect("a query that fits");
    let (mut acks, mut responses) = (0, Vec::new());
    while let Some(answer) = answers.recv().await {
        match answer {
            QueryAnswer::Ack(_) => acks += 1,
            QueryAnswer::Response { from, payload } => responses.push((from, payload)),
            QueryAnswer::Finished => unreachable!("that is the end of the channel"),
        }
    }
    assert_eq!((acks, responses), (3, vec![("b".into(), Bytes::from_static(b"yes"))]));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_listen_holds_nobody_up_and_is_told() {
    let agent = spawn(&Network::default(), "a", 1);
    let mut events = agent.events();
    for _ in 0..EVENTS_MAX + 10 {
        agent.user_event("tick".into(), Bytes::new(), false).await.expect("an event that fits");
    }
    // One more is that it joined its own pool.
    assert_eq!(events.recv().await, Err(RecvError::Lagged(11)));
    assert!(matches!(events.recv().await, Ok(Event::User(_))));
}

/// More addresses than connections at once, most of them of nobody.
#[tokio::test(start_paused = true)]
async fn a_join_tries_any_number_of_addresses() {
    let network = Network::default();
    let (agent, _other) = (spawn(&network, "a", 1), spawn(&network, "b", 2));
    let _mutes: Vec<_> = (3..250).map(|node| network.transport(addr(node))).collect();
    let mut addrs: Vec<_> = (3..250).map(addr).collect();
    addrs.push(addr(2));
    assert_eq!(agent.join(&addrs).await, Ok(1));
}

/// Tasks that are aborted, as a simulator does it.
#[tokio::test(start_paused = true)]
async fn an_aborted_agent_has_stopped() {
    let tasks = Arc::new(Mutex::new(Vec::new()));
    let start = {
        let tasks = Arc::clone(&tasks);
        move |task| tasks.lock().expect("tasks").push(tokio::spawn(task))
    };
    let agent = Agent::spawn(config("a", 1), Network::default().transport(addr(1)), [1; 32], start);
    let agent = agent.expect("tags that fit");
    agent.counters().await.expect("it runs");
    tasks.lock().expect("tasks").iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(agent.stopped().await, Stopped::Aborted);
    assert_eq!(agent.counters().await, Err(RequestError::Stopped));
}

/// A network in which something worthless always waits, until the second is true.
struct Flood(Arc<Memory>, Arc<AtomicBool>);

impl Transport for Flood {
    fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    fn send_to(&self, to: SocketAddr, datagram: Bytes) {
        self.0.send_to(to, datagram);
    }

    fn recv_from(&self) -> BoxFuture<'_, io::Result<(SocketAddr, Bytes)>> {
        Box::pin(async {
            if self.1.load(Ordering::Relaxed) {
                return self.0.recv_from().await;
            }
            Ok((addr(9), Bytes::from_static(b"worthless")))
        })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        self.0.connect(to)
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        self.0.accept()
    }
}

/// In real time: such a node is never idle, so paused time would stand still. It may keep a thread to itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_datagrams_silences_nobody() {
    let network = Network::default();
    let over = Arc::new(AtomicBool::new(false));
    let flooded = spawn_over(Arc::new(Flood(network.transport(addr(1)), Arc::clone(&over))), "a", 1);
    let other = spawn(&network, "b", 2);
    let used = async {
        assert_eq!(flooded.join(&[addr(2)]).await, Ok(1));
        assert_eq!(other.join(&[addr(1)]).await, Ok(1));
        // Its timers run as well.
        loop {
            let counters = flooded.counters().await.expect("it runs");
            if counters.gossip.probes > 0 {
                return counters.datagrams_refused;
            }
        }
    };
    let refused = timeout(PATIENCE, used).await;
    over.store(true, Ordering::Relaxed);
    assert!(refused.expect("it answers") > 0);
}

/// Counts the tasks that run.
fn counting(tasks: &Arc<AtomicUsize>) -> impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static {
    let tasks = Arc::clone(tasks);
    move |task| {
        tasks.fetch_add(1, Ordering::Relaxed);
        let tasks = Arc::clone(&tasks);
        tokio::spawn(async move {
            task.await;
            tasks.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn no_task_outlives_the_agent() {
    let network = Network::default();
    let _mute = network.transport(addr(3));
    for stop in [drop, |agent: Agent| agent.shutdown()] {
        let tasks = Arc::new(AtomicUsize::new(0));
        let agent = Agent::spawn(config("a", 1), network.transport(addr(1)), [1; 32], counting(&tasks));
        let agent = agent.expect("tags that fit");
        let joining = tokio::spawn({
            let agent = agent.clone();
            async move { agent.join(&[addr(3)]).await }
        });
        let _silent = network.connect(addr(4), addr(1)).expect("connect");
        until(|| tasks.load(Ordering::Relaxed) == 4).await;
        joining.abort();
        until(|| joining.is_finished()).await;
        stop(agent);
        until(|| tasks.load(Ordering::Relaxed) == 0).await;
        assert!(network.port(addr(1)).is_none(), "its network is still there");
    }
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(1), waiting).await.expect("so it is");
}

async fn ask(stream: &mut BoxStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn decoded(bytes: &[u8]) -> StreamMessage {
    let mut decoder = Codec::default().stream(Side::Acceptor);
    decoder.push(bytes);
    decoder.next().expect("a message").expect("all of it")
}

#[tokio::test(start_paused = true)]
async fn a_ping_over_a_connection_is_answered() {
    use rand::SeedableRng;
    let network = Network::default();
    let _agent = spawn(&network, "a", 1);
    let ping = StreamMessage::Ping(Ping { seq_no: 7, node: "a".into(), source: Source::default() });
    let sealed = Codec::default().seal_stream(&ping, Side::Initiator, &mut rand::rngs::StdRng::from_seed([0; 32]));
    let mut stream = network.connect(addr(9), addr(1)).expect("connect");
    let answer = ask(&mut stream, &sealed).await.expect("an answer");
    assert!(matches!(decoded(&answer), StreamMessage::Ack(ack) if ack.seq_no == 7));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_answered_with_the_reason() {
    let network = Network::default();
    let _agent = spawn(&network, "a", 1);
    let mut stream = network.connect(addr(9), addr(1)).expect("connect");
    let answer = ask(&mut stream, &[0xff; 64]).await.expect("an answer");
    assert!(matches!(decoded(&answer), StreamMessage::Error(_)));
}

/// Connections that say nothing end in time, and those that wait for their places come in then.
#[tokio::test(start_paused = true)]
async fn silent_connections_end() {
    let network = Network::default();
    let _agent = spawn(&network, "a", 1);
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(network.connect(addr(9), addr(1)).expect("connect"));
    }
    let begin = Instant::now();
    let mut late = network.connect(addr(9), addr(1)).expect("connect");
    let answer = timeout(PATIENCE, ask(&mut late, &[0xff; 64])).await.expect("in time").expect("an answer");
    assert!(matches!(decoded(&answer), StreamMessage::Error(_)));
    assert!(begin.elapsed() >= ANSWER_TIMEOUT, "{:?}", begin.elapsed());
    for stream in &mut silent {
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time").expect("an end");
        assert_eq!(rest, [0; 0]);
    }
}

/// Messages that are begun and never ended: those that come last are not read until others have given up.
#[tokio::test(start_paused = true)]
async fn begun_messages_do_not_fill_the_memory() {
    let network = Network::default();
    let _agent = spawn(&network, "a", 1);
    // A user message of 16 MiB, the type of which is 8.
    let begin = b"\x08\x81\xaaUserMsgLen\xce\x01\x00\x00\x00";
    let (taken, piece) = (Arc::new(AtomicUsize::new(0)), Arc::new(vec![0; 1 << 20]));
    let mut connections = Vec::new();
    for _ in 0..8 {
        let mut stream = network.connect(addr(9), addr(1)).expect("connect");
        let (taken, piece) = (Arc::clone(&taken), Arc::clone(&piece));
        connections.push(tokio::spawn(async move {
            stream.write_all(begin).await.expect("write");
            for _ in 0..15 {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
                taken.fetch_add(piece.len(), Ordering::Relaxed);
            }
            // It never ends.
            drop(stream.read_to_end(&mut Vec::new()).await);
        }));
    }
    // In paused time this is when nothing moves any more.
    tokio::time::sleep(ANSWER_TIMEOUT / 2).await;
    let taken = taken.load(Ordering::Relaxed);
    assert!((HELD_BYTES_MAX / 2..=HELD_BYTES_MAX + (8 << 20)).contains(&taken), "{taken}");
    for connection in connections {
        timeout(PATIENCE, connection).await.expect("it is closed in time").expect("no panic");
    }
}

/// With one seed everything is the same, down to the bytes.
#[test]
fn a_run_follows_from_its_seed() {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(tokio::runtime::RngSeed::from_bytes(b"seed"))
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let network = Network::default();
            let [a, _b, c] = three(&network).await;
            drop(c);
            sees(&a, &[("a", Status::Alive), ("b", Status::Alive), ("c", Status::Failed)]).await;
            network.sent.lock().expect("sent").finish()
        })
    };
    assert_eq!(run(), run());
}
