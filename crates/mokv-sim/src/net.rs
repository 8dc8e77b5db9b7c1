//! The network between simulated nodes: typed calls with delays, losses and cuts.
//!
//! It behaves as gRPC over TCP does. Calls of one pair of nodes and lane share a connection. What is lost is sent again, so
//! it comes late; the messages of one stream stay in order, different calls overtake each other. A direction that is cut
//! holds everything back, until it is healed or the connection's keep-alive gives up and all that uses it fails. A node
//! that dies resets its connections at once, one whose machine dies leaves them to the keep-alive. Beyond TCP, votes and
//! appends are now and then delivered twice, the second time late: Raft has to stand it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use mokv_proto::internal::forward_item::Call;
use mokv_proto::internal::{
    AdminRequest, AdminResponse, AdoptRequest, AdoptResponse, AppendRequest, AppendResponse, FormRequest, FormResponse,
    ForwardRequest, ForwardResponse, IdentifyRequest, IdentifyResponse, LeaderTransferRequest, LeaderTransferResponse,
    SnapshotChunk, SnapshotResponse, VoteRequest, VoteResponse,
};
use mokv_server::peer::{AnswerStream, Caller, Lane, MessageStream, Peer, PeerNetwork, Target};
use mokv_server::peer_service::PeerService;
use mokv_server::runtime::Tasks;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status};

use crate::describe;
use crate::observer::Observer;
use crate::trace::Trace;

/// Messages of one stream under way in one direction.
const WINDOW: usize = 64;

/// As the connections of production have it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// When a connection on which nothing comes through is given up: pings go out every 2 s and may take 3 s.
const KEEP_ALIVE: std::ops::Range<Duration> = Duration::from_secs(3)..Duration::from_secs(5);

/// When TCP sends again what was lost; each further loss doubles it.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// How a duplicate may lag behind.
const DUPLICATE_LAG_MAX: Duration = Duration::from_millis(2000);

/// What the network does to every message.
#[derive(Debug, Clone)]
pub struct Weather {
    /// A message takes at least this long.
    pub latency_min: Duration,
    /// And, while nothing is lost, at most this long.
    pub latency_max: Duration,
    /// How likely a message is lost, and sent again.
    pub loss: f64,
    /// How likely a vote or an append comes twice.
    pub duplicate: f64,
    /// How likely a message is the last of its connection.
    pub reset: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            latency_min: Duration::from_micros(50),
            latency_max: Duration::from_micros(800),
            loss: 0.0,
            duplicate: 0.0,
            reset: 0.0,
        }
    }
}

/// The network of one run. Cheap to clone; clones are the same network.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    /// Changes whenever something was cut, healed or broken.
    changed: Arc<watch::Sender<u64>>,
    trace: Trace,
    observer: Observer,
}

struct State {
    rng: SmallRng,
    weather: Weather,
    hosts: Vec<Host>,
    /// (from, to): nothing gets through.
    cut: BTreeSet<(usize, usize)>,
    /// (from, to): takes longer by this.
    slow: BTreeMap<(usize, usize), Duration>,
    connections: BTreeMap<(usize, usize, Lane), Connection>,
    /// The next snapshot's connection breaks when so many chunks were sent.
    snapshot_chunks_max: Option<u64>,
}

struct Host {
    addr: String,
    service: Option<PeerService>,
    /// Whether the machine is gone, so that nobody says that the port is closed.
    is_silent: bool,
}

#[derive(Clone)]
struct Connection {
    broken: Arc<AtomicBool>,
}

impl Net {
    /// A network without nodes.
    pub fn new(rng: SmallRng, trace: Trace, observer: Observer) -> Self {
        let state = State {
            rng,
            weather: Weather::default(),
            hosts: Vec::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            connections: BTreeMap::new(),
            snapshot_chunks_max: None,
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default(), trace, observer }
    }

    /// Adds a host on which no node runs yet. Returns its number.
    pub fn add_host(&self, addr: String) -> usize {
        let mut state = self.state();
        state.hosts.push(Host { addr, service: None, is_silent: false });
        state.hosts.len() - 1
    }

    /// The network as the node on this host sees it. What it sends is sent by `tasks`.
    pub fn of_node(&self, host: usize, tasks: Tasks) -> Arc<dyn PeerNetwork> {
        Arc::new(NodeNetwork { net: self.clone(), host, tasks })
    }

    /// From now on `service` answers on this host.
    pub fn up(&self, host: usize, service: PeerService) {
        let mut state = self.state();
        state.hosts[host].service = Some(service);
        state.hosts[host].is_silent = false;
        // Old connections meet a new process, which knows nothing of them.
        self.break_of(&mut state, host);
    }

    /// The node on this host is gone. `silently`: and its machine with it.
    pub fn down(&self, host: usize, silently: bool) {
        let mut state = self.state();
        state.hosts[host].service = None;
        state.hosts[host].is_silent = silently;
        if !silently {
            return self.break_of(&mut state, host);
        }
        let after = random_duration(&mut state.rng, KEEP_ALIVE);
        drop(state);
        let (net, old) = (self.clone(), self.connections_of(host));
        harness(async move {
            sleep(after).await;
            net.break_all(&old);
        });
    }

    /// Changes what happens to every message.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Cuts the way from one host to another. The way back is another one.
    pub fn cut(&self, from: usize, to: usize) {
        let mut state = self.state();
        if !state.cut.insert((from, to)) {
            return;
        }
        let after = random_duration(&mut state.rng, KEEP_ALIVE);
        let is_between = |key: &(usize, usize, Lane)| (key.0, key.1) == (from, to) || (key.1, key.0) == (from, to);
        let held: Vec<Connection> = connections(&state, is_between);
        drop(state);
        let net = self.clone();
        harness(async move {
            sleep(after).await;
            if net.state().cut.contains(&(from, to)) {
                net.break_all(&held);
            }
        });
    }

    /// Heals all cuts and slow ways.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.slow.clear();
        drop(state);
        self.notify();
    }

    /// Lets everything from one host to another take longer.
    pub fn slow_down(&self, from: usize, to: usize, by: Duration) {
        self.state().slow.insert((from, to), by);
    }

    /// Breaks all connections of a host, as a middlebox may do.
    pub fn reset(&self, host: usize) {
        let mut state = self.state();
        self.break_of(&mut state, host);
    }

    /// Breaks the connection of every snapshot, each at one chunk more than the one before, beginning with the first chunk,
    /// until one comes through whole.
    pub fn break_snapshots(&self) {
        self.state().snapshot_chunks_max = Some(1);
    }

    /// After how many chunks the snapshot breaks that is sent now.
    fn take_snapshot_chunks_max(&self) -> Option<u64> {
        let mut state = self.state();
        let now = state.snapshot_chunks_max;
        state.snapshot_chunks_max = now.map(|chunks| chunks + 1);
        now
    }

    fn connections_of(&self, host: usize) -> Vec<Connection> {
        connections(&self.state(), |key| key.0 == host || key.1 == host)
    }

    fn break_of(&self, state: &mut State, host: usize) {
        let broken = connections(state, |key| key.0 == host || key.1 == host);
        broken.iter().for_each(|connection| connection.broken.store(true, Ordering::Relaxed));
        self.notify();
    }

    fn break_all(&self, connections: &[Connection]) {
        connections.iter().for_each(|connection| connection.broken.store(true, Ordering::Relaxed));
        self.notify();
    }

    fn notify(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a message takes now. `None`: its connection breaks.
    fn travel_time(&self, from: usize, to: usize) -> Option<Duration> {
        let mut state = self.state();
        let State { rng, weather, slow, .. } = &mut *state;
        if weather.reset > 0.0 && rng.random_bool(weather.reset) {
            return None;
        }
        // Mostly near the minimum, seldom near the maximum.
        let mut time =
            weather.latency_min + (weather.latency_max - weather.latency_min).mul_f64(rng.random::<f64>().powi(4));
        let mut wait = RETRANSMISSION;
        while weather.loss > 0.0 && wait < Duration::from_secs(5) && rng.random_bool(weather.loss) {
            time += wait;
            wait *= 2;
        }
        Some(time + slow.get(&(from, to)).copied().unwrap_or_default())
    }

    fn draw(&self, chance: impl FnOnce(&Weather) -> f64) -> bool {
        let mut state = self.state();
        let chance = chance(&state.weather);
        chance > 0.0 && state.rng.random_bool(chance)
    }

    fn draw_duration(&self, max: Duration) -> Duration {
        random_duration(&mut self.state().rng, Duration::ZERO..max)
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.state().cut.contains(&(from, to))
    }
}

fn connections(state: &State, which: impl Fn(&(usize, usize, Lane)) -> bool) -> Vec<Connection> {
    state.connections.iter().filter(|(key, _)| which(key)).map(|(_, connection)| connection.clone()).collect()
}

fn random_duration(rng: &mut SmallRng, range: std::ops::Range<Duration>) -> Duration {
    range.start + (range.end - range.start).mul_f64(rng.random())
}

/// A task of the simulator, not of a node.
#[allow(clippy::disallowed_methods)]
pub(crate) fn harness(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(task).abort_handle()
}

/// The network as one node sees it.
struct NodeNetwork {
    net: Net,
    host: usize,
    tasks: Tasks,
}

impl PeerNetwork for NodeNetwork {
    fn peer(&self, caller: &Caller, target: &Target, lane: Lane) -> Arc<dyn Peer> {
        Arc::new(SimPeer {
            net: self.net.clone(),
            from: self.host,
            tasks: self.tasks.clone(),
            caller: caller.clone(),
            target: target.clone(),
            lane,
        })
    }
}

/// One node as another one reaches it.
struct SimPeer {
    net: Net,
    from: usize,
    tasks: Tasks,
    caller: Caller,
    target: Target,
    lane: Lane,
}

/// One direction of a connection.
#[derive(Clone)]
struct Way {
    net: Net,
    connection: Connection,
    from: usize,
    to: usize,
}

fn broken() -> Status {
    Status::unavailable("the connection broke")
}

impl Way {
    fn back(&self) -> Self {
        Self { from: self.to, to: self.from, ..self.clone() }
    }

    fn is_broken(&self) -> bool {
        self.connection.broken.load(Ordering::Relaxed)
    }

    /// Completes when the connection has broken.
    async fn broken(&self) {
        let mut changed = self.net.changed.subscribe();
        // The sender lives in `self`.
        drop(changed.wait_for(|_| self.is_broken()).await);
    }

    fn break_now(&self) {
        self.connection.broken.store(true, Ordering::Relaxed);
        self.net.notify();
    }

    /// When a message that is sent now arrives at the earliest.
    fn arrival(&self) -> Option<Instant> {
        let Some(time) = self.net.travel_time(self.from, self.to) else {
            self.break_now();
            return None;
        };
        Some(Instant::now() + time)
    }

    /// Waits until `at`, and for as long as the way is cut. False if the connection broke meanwhile.
    async fn arrive(&self, at: Instant) -> bool {
        let mut changed = self.net.changed.subscribe();
        let arrived = async {
            sleep_until(at).await;
            drop(changed.wait_for(|_| self.is_broken() || !self.net.is_cut(self.from, self.to)).await);
        };
        tokio::select! {
            biased;
            () = self.broken() => false,
            () = arrived => !self.is_broken(),
        }
    }

    /// One message.
    async fn travel(&self) -> Result<(), Status> {
        let at = self.arrival().ok_or_else(broken)?;
        if self.arrive(at).await { Ok(()) } else { Err(broken()) }
    }

    /// Takes the messages of `input` as they come, in a task of the sender, and hands them over when they have arrived.
    /// The stream ends with its input, or when the connection breaks.
    fn stream<T: Send + 'static>(
        &self,
        sender: &Tasks,
        mut input: MessageStream<T>,
        on_send: impl Fn(&T) + Send + 'static,
    ) -> (MessageStream<T>, AbortHandle) {
        let (sent, received) = mpsc::channel(WINDOW);
        let way = self.clone();
        let pump = sender.spawn(async move {
            let mut last = Instant::now();
            loop {
                let next = tokio::select! {
                    biased;
                    () = way.broken() => None,
                    next = input.next() => next,
                };
                let Some(message) = next else { return };
                on_send(&message);
                let Some(at) = way.arrival() else { return };
                last = last.max(at);
                if sent.send((last, message)).await.is_err() {
                    return;
                }
            }
        });
        let arriving = stream::unfold((received, self.clone()), |(mut received, way)| async move {
            let (at, message) = received.recv().await?;
            way.arrive(at).await.then_some((message, (received, way)))
        });
        (arriving.boxed(), pump.abort_handle())
    }
}

/// What ends at the other side when a caller gives up: after the time that the news takes.
struct Cancellation {
    way: Way,
    at_caller: Option<AbortHandle>,
    at_callee: AbortHandle,
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        if let Some(pump) = &self.at_caller {
            pump.abort();
        }
        if self.at_callee.is_finished() {
            return;
        }
        let (way, callee) = (self.way.clone(), self.at_callee.clone());
        harness(async move {
            // A broken connection tells as well.
            drop(way.travel().await);
            callee.abort();
        });
    }
}

/// A stream of answers, whose caller may give up.
struct Answers<T> {
    stream: AnswerStream<T>,
    _cancellation: Cancellation,
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(context)
    }
}

impl SimPeer {
    /// The connection of this lane, made if there is none, and the number of the host at its other end.
    async fn connect(&self) -> Result<Way, Status> {
        let net = &self.net;
        let addr = &self.target.rpc_addr;
        let refused = |why: &str| {
            net.trace.count("net.not connected");
            Status::new(Code::Unavailable, format!("can't connect to {addr}: {why}"))
        };
        let Some(to) = net.state().hosts.iter().position(|host| host.addr == *addr) else {
            return Err(refused("no such host"));
        };
        let key = (self.from, to, self.lane);
        if let Some(connection) = net.state().connections.get(&key).filter(|now| !now.broken.load(Ordering::Relaxed)) {
            return Ok(Way { net: net.clone(), connection: connection.clone(), from: self.from, to });
        }
        let begin = Instant::now();
        let connection = Connection { broken: Arc::default() };
        let way = Way { net: net.clone(), connection: connection.clone(), from: self.from, to };
        let reaching = async {
            way.travel().await?;
            let is_silent = {
                let state = net.state();
                let host = &state.hosts[to];
                host.is_silent && host.service.is_none()
            };
            if is_silent {
                std::future::pending::<()>().await;
            }
            way.back().travel().await
        };
        tokio::select! {
            biased;
            reached = reaching => reached?,
            () = sleep_until(begin + CONNECT_TIMEOUT) => return Err(refused("timed out")),
        }
        if net.state().hosts[to].service.is_none() {
            return Err(refused("connection refused"));
        }
        let mut state = net.state();
        let shared = state.connections.entry(key).or_insert_with(|| connection.clone());
        if shared.broken.load(Ordering::Relaxed) {
            *shared = connection;
        }
        let connection = shared.clone();
        drop(state);
        Ok(Way { connection, ..way })
    }

    /// Who answers at the other end, if the call is meant for it.
    fn service(&self, way: &Way, is_join: bool) -> Result<PeerService, Status> {
        let service = self.net.state().hosts[way.to].service.clone().ok_or_else(broken)?;
        if !is_join {
            let to = self.target.node_id.ok_or_else(|| Status::internal("a call to a node without its identity"))?;
            let identity = service.node().data_dir().identity();
            self.caller.envelope(to).check(identity.cluster_id.as_deref(), identity.node_id)?;
        }
        Ok(service)
    }

    fn note(&self, way: &Way, what: impl fmt::Display) {
        self.net.trace.note(format_args!("{}>{} {what}", way.from, way.to));
    }

    /// One request and its answer. The handler runs as a task of the callee, and ends with the call.
    async fn unary<Q, A, F, R>(
        &self,
        name: &'static str,
        request: Q,
        is_join: bool,
        serve: F,
    ) -> Result<(A, usize), Status>
    where
        Q: fmt::Debug + Send + 'static,
        A: Send + 'static,
        F: FnOnce(PeerService, Q) -> R + Send + 'static,
        R: Future<Output = Result<A, Status>> + Send + 'static,
    {
        let way = self.connect().await?;
        self.net.trace.count(format!("peer.{name}"));
        way.travel().await?;
        let answered = match self.service(&way, is_join) {
            Ok(service) => {
                let tasks = service.node().tasks().clone();
                let handler = tasks.spawn(async move { serve(service, request).await });
                let _cancellation =
                    Cancellation { way: way.clone(), at_caller: None, at_callee: handler.abort_handle() };
                tokio::select! {
                    biased;
                    answered = handler => match answered {
                        Ok(answered) => answered,
                        Err(_) => {
                            // The callee died: its machine may take the news with it.
                            way.broken().await;
                            Err(broken())
                        }
                    },
                    () = way.broken() => Err(broken()),
                }
            }
            Err(status) => Err(status),
        };
        way.back().travel().await?;
        answered.map(|answer| (answer, way.to))
    }

    /// A stream of requests and a stream of answers.
    async fn streaming<Q, A, F, R>(
        &self,
        name: &'static str,
        requests: MessageStream<Q>,
        on_request: impl Fn(&Way, &Q) + Send + 'static,
        on_answer: impl Fn(&Way, &A) + Send + 'static,
        serve: F,
    ) -> Result<AnswerStream<A>, Status>
    where
        Q: Send + 'static,
        A: Send + 'static,
        F: FnOnce(PeerService, MessageStream<Q>) -> R + Send + 'static,
        R: Future<Output = Result<AnswerStream<A>, Status>> + Send + 'static,
    {
        let way = self.connect().await?;
        self.net.trace.count(format!("peer.{name}"));
        let there = way.clone();
        let (arriving, at_caller) = way.stream(&self.tasks, requests, move |request| on_request(&there, request));
        way.travel().await?;
        let service = self.service(&way, false)?;
        let (opened, opening) = oneshot::channel();
        let (answers, answered) = mpsc::channel(1);
        let callee = service.node().tasks().clone();
        let back = way.back();
        let is_complete = Arc::new(AtomicBool::new(false));
        let complete = is_complete.clone();
        let handler = callee.spawn(async move {
            let mut stream = match serve(service, arriving).await {
                Ok(stream) => stream,
                Err(status) => return drop(opened.send(Err(status))),
            };
            drop(opened.send(Ok(())));
            while let Some(answer) = stream.next().await {
                if let Ok(answer) = &answer {
                    on_answer(&back, answer);
                }
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
            complete.store(true, Ordering::Relaxed);
        });
        let cancellation =
            Cancellation { way: way.clone(), at_caller: Some(at_caller), at_callee: handler.abort_handle() };
        tokio::select! {
            biased;
            opened = opening => match opened {
                Ok(opened) => opened?,
                Err(_) => {
                    way.broken().await;
                    return Err(broken());
                }
            },
            () = way.broken() => return Err(broken()),
        }
        way.back().travel().await?;
        let sending = stream::unfold(answered, |mut answered| async move { Some((answered.recv().await?, answered)) });
        let (arrived, _) = way.back().stream(&callee, sending.boxed(), |_| {});
        // A callee that died has not ended the stream.
        let end = stream::once(async move {
            if is_complete.load(Ordering::Relaxed) && !way.is_broken() {
                return None;
            }
            way.broken().await;
            Some(Err(broken()))
        });
        let stream = arrived.chain(end.filter_map(std::future::ready)).boxed();
        Ok(Answers { stream, _cancellation: cancellation }.boxed())
    }

    /// Delivers a message a second time, later. What comes back goes nowhere.
    fn duplicate<F, R>(&self, way: &Way, what: &'static str, deliver: F)
    where
        F: FnOnce(PeerService) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        duplicate(&self.net, way.to, self.caller.clone(), self.target.node_id, what, deliver);
    }
}

fn duplicate<F, R>(net: &Net, to: usize, caller: Caller, node_id: Option<u64>, what: &'static str, deliver: F)
where
    F: FnOnce(PeerService) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (net, lag) = (net.clone(), net.draw_duration(DUPLICATE_LAG_MAX));
    harness(async move {
        sleep(lag).await;
        let Some(service) = net.state().hosts[to].service.clone() else { return };
        let identity = service.node().data_dir().identity();
        let meant = node_id.map(|id| caller.envelope(id).check(identity.cluster_id.as_deref(), identity.node_id));
        if !matches!(meant, Some(Ok(()))) {
            return;
        }
        net.trace.note(format_args!(">{to} {what} once more"));
        net.trace.count(format!("fault.duplicate {what}"));
        let tasks = service.node().tasks().clone();
        tasks.spawn(deliver(service));
    });
}

#[tonic::async_trait]
impl Peer for SimPeer {
    async fn append(&self, requests: MessageStream<AppendRequest>) -> Result<AnswerStream<AppendResponse>, Status> {
        let (net, observer) = (self.net.clone(), self.net.observer.clone());
        let (caller, node_id) = (self.caller.clone(), self.target.node_id);
        let on_request = {
            let observer = observer.clone();
            move |way: &Way, request: &AppendRequest| {
                net.trace.note(format_args!("{}>{} {}", way.from, way.to, describe::append(request)));
                observer.append(way.from, request);
                if net.draw(|weather| weather.duplicate) {
                    let again = request.clone();
                    duplicate(&net, way.to, caller.clone(), node_id, "append", |service| async move {
                        let once = stream::once(async { again }).boxed();
                        if let Ok(mut answers) = service.append(once).await {
                            while answers.next().await.is_some() {}
                        }
                    });
                }
            }
        };
        let trace = self.net.trace.clone();
        let on_answer = move |way: &Way, answer: &AppendResponse| {
            trace.note(format_args!("{}>{} {}", way.from, way.to, describe::append_answer(answer)));
            if let Some(node_id) = node_id {
                observer.append_answer(node_id, answer);
            }
        };
        self.streaming("Append", requests, on_request, on_answer, |service, requests| async move {
            service.append(requests).await
        })
        .await
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, Status> {
        let observer = self.net.observer.clone();
        let asked = request;
        if self.net.draw(|weather| weather.duplicate) {
            let way = self.connect().await?;
            self.duplicate(&way, "vote", move |service| async move { drop(service.vote(asked).await) });
        }
        let name = if request.pre_vote { "PreVote" } else { "Vote" };
        let (trace, from) = (self.net.trace.clone(), self.from);
        let serve = move |service: PeerService, request| async move {
            let answer = service.vote(request).await?;
            trace.note(format_args!("?>{from} {}", describe::vote(&request, &answer)));
            observer.vote(&service, &request, &answer).await;
            Ok(answer)
        };
        self.unary(name, request, false, serve).await.map(|(answer, _)| answer)
    }

    async fn transfer_leader(&self, request: LeaderTransferRequest) -> Result<LeaderTransferResponse, Status> {
        let serve = |service: PeerService, request| async move { service.transfer_leader(request).await };
        let (answer, to) = self.unary("TransferLeader", request, false, serve).await?;
        self.net.trace.note(format_args!("{}>{to} transfer of leadership {}", self.from, answer.refused));
        Ok(answer)
    }

    async fn snapshot(&self, chunks: MessageStream<SnapshotChunk>) -> Result<SnapshotResponse, Status> {
        let way = self.connect().await?;
        self.net.trace.count("peer.Snapshot");
        self.note(&way, "snapshot begins");
        let (there, chunks_max) = (way.clone(), self.net.take_snapshot_chunks_max());
        let sent = AtomicU64::new(0);
        let on_chunk = move |_: &SnapshotChunk| {
            if Some(sent.fetch_add(1, Ordering::Relaxed) + 1) == chunks_max {
                there.net.trace.count("fault.snapshot broken");
                there.break_now();
            }
        };
        let (arriving, at_caller) = way.stream(&self.tasks, chunks, on_chunk);
        way.travel().await?;
        let service = self.service(&way, false)?;
        let tasks = service.node().tasks().clone();
        let handler = tasks.spawn(async move { service.snapshot(arriving).await });
        let _cancellation =
            Cancellation { way: way.clone(), at_caller: Some(at_caller), at_callee: handler.abort_handle() };
        let answered = tokio::select! {
            biased;
            answered = handler => match answered {
                Ok(answered) => answered,
                Err(_) => {
                    way.broken().await;
                    Err(broken())
                }
            },
            () = way.broken() => Err(broken()),
        };
        way.back().travel().await?;
        if answered.is_ok() {
            self.net.trace.count("net.snapshot received");
            self.net.state().snapshot_chunks_max = None;
        }
        self.note(&way, format_args!("snapshot ends: {:?}", answered.as_ref().map(drop).map_err(Status::message)));
        answered
    }

    async fn forward(&self, requests: MessageStream<ForwardRequest>) -> Result<AnswerStream<ForwardResponse>, Status> {
        let trace = self.net.trace.clone();
        let on_request = {
            let trace = trace.clone();
            move |way: &Way, request: &ForwardRequest| {
                trace.note(format_args!("{}>{} forward {}", way.from, way.to, request.items.len()));
                if request.items.iter().any(|item| matches!(item.call, Some(Call::Command(_)))) {
                    trace.count(format!("forward.{}>{}", way.from, way.to));
                }
            }
        };
        let on_answer = move |way: &Way, answer: &ForwardResponse| {
            trace.note(format_args!("{}>{} forwarded {}", way.from, way.to, answer.results.len()));
        };
        self.streaming("Forward", requests, on_request, on_answer, |service, requests| async move {
            service.forward(requests).await
        })
        .await
    }

    async fn admin(&self, request: AdminRequest) -> Result<AdminResponse, Status> {
        let serve = |service: PeerService, request| async move { service.admin(request).await };
        self.unary("Admin", request, false, serve).await.map(|(answer, _)| answer)
    }

    async fn identify(&self, request: IdentifyRequest) -> Result<IdentifyResponse, Status> {
        let serve = |service: PeerService, request| async move { service.identify(request).await };
        self.unary("Identify", request, true, serve).await.map(|(answer, _)| answer)
    }

    async fn adopt(&self, request: AdoptRequest) -> Result<AdoptResponse, Status> {
        let serve = |service: PeerService, request| async move { service.adopt(request).await };
        self.unary("Adopt", request, true, serve).await.map(|(answer, _)| answer)
    }

    async fn form(&self, request: FormRequest) -> Result<FormResponse, Status> {
        let serve = |service: PeerService, request| async move { service.form(request).await };
        self.unary("Form", request, true, serve).await.map(|(answer, _)| answer)
    }
}
