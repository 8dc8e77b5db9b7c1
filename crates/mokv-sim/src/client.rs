//! The clients of a run: they write, read and list through every node, by the public services, and record what they saw.
//!
//! A client knows no more than a real one. What a call that failed has left behind it takes from the reason in the answer:
//! "failed" and "unknown" have to be right, or the history is illegal.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mokv_check::{Answer, Consistency, Op, Outcome, Pair, Read};
use mokv_proto::api::{
    self, DeleteRequest, GetRequest, GetResponse, ListRequest, OpenSessionRequest, RequestId, SetRequest,
};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::cluster::{Cluster, Running};
use crate::plan::Load;
use crate::recorder::Recorder;
use crate::seed;

/// A message between a client and a node takes up to this long.
const LATENCY_MAX: Duration = Duration::from_millis(2);

/// How likely an answer is lost on its way to the client.
const ANSWER_LOST: f64 = 0.005;

/// How long a client waits before it sends a session's write again.
const RETRY_PAUSE: Duration = Duration::from_millis(40);

/// What a session shares between its clients.
struct Session {
    client_id: Option<u64>,
    last_sequence: u64,
    unanswered: BTreeSet<u64>,
}

type SharedSession = Arc<Mutex<Session>>;

/// One client.
pub struct Client {
    number: u64,
    cluster: Cluster,
    recorder: Recorder,
    load: Load,
    rng: SmallRng,
    session: SharedSession,
    /// The node that is asked, or any.
    home: Option<usize>,
    tokens: u64,
    /// The highest revision that was seen.
    revision: u64,
}

/// Starts the clients of a plan. They go on until `stop` is true, and are over when all senders of the returned watch are
/// dropped.
pub fn start(cluster: &Cluster, recorder: &Recorder, stop: &watch::Receiver<bool>) -> watch::Receiver<()> {
    let (over, ended) = watch::channel(());
    let over = Arc::new(over);
    let load = cluster.plan().load.clone();
    let mut session = new_session();
    for number in 0..load.clients {
        if number % load.per_session == 0 {
            session = new_session();
        }
        let mut client = Client::new(number as u64, cluster, recorder, session.clone());
        let (mut stop, over) = (stop.clone(), over.clone());
        crate::net::harness(async move {
            while !*stop.borrow() {
                tokio::select! {
                    biased;
                    _ = stop.changed() => break,
                    () = client.think() => {}
                }
                client.step().await;
            }
            drop(over);
        });
    }
    ended
}

fn new_session() -> SharedSession {
    Arc::new(Mutex::new(Session { client_id: None, last_sequence: 0, unanswered: BTreeSet::new() }))
}

/// What a call has left behind, by what its caller was told.
enum Failure {
    /// Nothing, and nothing will come.
    None(String),
    /// Perhaps something.
    Unknown(String),
    /// Nothing will come from this attempt, but an earlier one may have had an effect; another one makes no sense.
    NoneNow(String),
}

impl Client {
    /// A client with its own session.
    pub fn alone(number: u64, cluster: &Cluster, recorder: &Recorder) -> Self {
        Self::new(number, cluster, recorder, new_session())
    }

    fn new(number: u64, cluster: &Cluster, recorder: &Recorder, session: SharedSession) -> Self {
        let mut rng = seed::generator(cluster.plan().seed, &format!("client {number}"));
        let home = rng.random_bool(0.3).then(|| rng.random_range(0..cluster.len()));
        let load = cluster.plan().load.clone();
        let (cluster, recorder) = (cluster.clone(), recorder.clone());
        Self { number, cluster, recorder, load, rng, session, home, tokens: 0, revision: 0 }
    }

    /// From now on asks this host only.
    #[must_use]
    pub fn at(mut self, host: usize) -> Self {
        self.home = Some(host);
        self
    }

    /// From now on waits at most this long for an answer.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.load.timeout = timeout;
        self
    }

    async fn think(&mut self) {
        sleep(self.load.think_max.mul_f64(self.rng.random())).await;
    }

    async fn step(&mut self) {
        let key = format!("key-{}", self.rng.random_range(0..self.load.keys));
        if self.draw(self.load.writes) {
            let in_session = self.draw(self.load.in_session);
            let op = if self.draw(25) { Op::Delete { key } } else { Op::Set { key, value: self.token() } };
            self.write(op, in_session).await;
            return;
        }
        let read = self.read_options();
        match self.rng.random_range(0..20) {
            0..=13 => drop(self.get(&key, read).await),
            14..=18 => drop(self.list("key-", read).await),
            _ => self.servers().await,
        }
    }

    fn draw(&mut self, of_100: u32) -> bool {
        self.rng.random_range(0..100) < of_100
    }

    /// A value that nobody else writes.
    pub fn token(&mut self) -> String {
        self.tokens += 1;
        let padding = self.rng.random_range(0..=self.load.padding_max);
        format!("{}-{}-{}", self.number, self.tokens, ".".repeat(padding))
    }

    fn read_options(&mut self) -> Read {
        match self.draw(self.load.local) {
            true => {
                let min_revision = if self.rng.random_bool(0.5) { self.revision } else { 0 };
                Read { consistency: Consistency::Local, min_revision }
            }
            false => Read { consistency: Consistency::Linearizable, min_revision: 0 },
        }
    }

    /// Writes, and records the outcome.
    pub async fn write(&mut self, op: Op, in_session: bool) -> Outcome {
        let deadline = Instant::now() + self.load.timeout;
        let request_id = match in_session {
            true => match self.open_session(deadline).await {
                Ok(client_id) => Some(self.next_request(client_id)),
                Err(reason) => return Outcome::Failed { reason },
            },
            false => None,
        };
        let call = self.recorder.call(self.number, op.clone());
        if let Some(id) = &request_id {
            self.recorder.request(id.client_id, id.sequence, call);
        }
        let written = self.attempts(&op, request_id, deadline).await;
        if let Some(id) = &request_id {
            let mut session = self.session();
            // Another client may have opened a new session meanwhile.
            if session.client_id == Some(id.client_id) {
                session.unanswered.remove(&id.sequence);
            }
        }
        let outcome = match written {
            Ok(answer) => {
                self.saw(&answer);
                self.cluster.observer().acknowledged(revision_of(&answer)).await;
                Outcome::Ok { answer }
            }
            Err(Failure::None(reason) | Failure::NoneNow(reason)) => Outcome::Failed { reason },
            Err(Failure::Unknown(reason)) => Outcome::Unknown { reason },
        };
        self.cluster.trace().note(format_args!("client {} call {call} {}", self.number, brief(&op, &outcome)));
        self.recorder.answer(call, outcome.clone());
        outcome
    }

    /// Sends a write, and again if it has a request id, until it is answered or its time is up.
    async fn attempts(&mut self, op: &Op, id: Option<RequestId>, deadline: Instant) -> Result<Answer, Failure> {
        let mut earlier: Option<String> = None;
        loop {
            let failure = match self.attempt(op, id, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let is_final = id.is_none() || Instant::now() + RETRY_PAUSE >= deadline;
            match failure {
                Failure::NoneNow(reason) => {
                    let mut session = self.session();
                    if session.client_id == id.map(|id| id.client_id) {
                        session.client_id = None;
                    }
                    drop(session);
                    return Err(earlier.map_or(Failure::None(reason), Failure::Unknown));
                }
                Failure::Unknown(reason) => {
                    if is_final {
                        return Err(Failure::Unknown(reason));
                    }
                    earlier = Some(reason);
                }
                Failure::None(reason) => {
                    if is_final {
                        return Err(earlier.map_or(Failure::None(reason), Failure::Unknown));
                    }
                }
            }
            self.cluster.trace().count("client.retry");
            sleep(RETRY_PAUSE.mul_f64(self.rng.random())).await;
        }
    }

    async fn attempt(&mut self, op: &Op, id: Option<RequestId>, deadline: Instant) -> Result<Answer, Failure> {
        match op {
            Op::Set { key, value } => {
                let message =
                    SetRequest { key: key.clone(), value: value.clone().into(), request_id: id, ..Default::default() };
                let call = |running: Running, request| async move { running.kv().set(request).await };
                let done = self.call("Set", message, deadline, call).await?;
                let api::SetResponse { revision, create_revision, version, .. } = done;
                Ok(Answer::Set { revision, create_revision, version })
            }
            Op::Delete { key } => {
                let message = DeleteRequest { key: key.clone(), request_id: id, ..Default::default() };
                let call = |running: Running, request| async move { running.kv().delete(request).await };
                let done = self.call("Delete", message, deadline, call).await?;
                Ok(Answer::Delete { existed: done.existed, revision: done.revision })
            }
            Op::Get { .. } | Op::List { .. } | Op::Txn { .. } => unreachable!("no write that the product has"),
        }
    }

    /// Reads a key, and records the outcome.
    pub async fn get(&mut self, key: &str, read: Read) -> Outcome {
        let op = Op::Get { key: key.to_owned(), read };
        let call = self.recorder.call(self.number, op.clone());
        let message = GetRequest {
            key: key.to_owned(),
            consistency: consistency(read).into(),
            min_revision: read.min_revision,
            ..Default::default()
        };
        let deadline = Instant::now() + self.load.timeout;
        let get = |running: Running, request| async move {
            match running.kv().get(request).await {
                Ok(found) => Ok(Response::new(Ok(found.into_inner()))),
                Err(status) => match revision_of_nothing(&status) {
                    Some(revision) => Ok(Response::new(Err(revision))),
                    None => Err(status),
                },
            }
        };
        let outcome = match self.call("Get", message, deadline, get).await {
            Ok(Ok(found)) => {
                let revision = found.revision;
                Outcome::Ok { answer: Answer::Get { revision, pair: Some(pair(found)) } }
            }
            Ok(Err(revision)) => Outcome::Ok { answer: Answer::Get { revision, pair: None } },
            Err(failure) => failed_read(failure),
        };
        self.end_read(call, &op, outcome)
    }

    /// Lists a prefix, and records the outcome.
    pub async fn list(&mut self, prefix: &str, read: Read) -> Outcome {
        let op = Op::List { prefix: prefix.to_owned(), read };
        let call = self.recorder.call(self.number, op.clone());
        let message = ListRequest {
            prefix: prefix.to_owned(),
            consistency: consistency(read).into(),
            min_revision: read.min_revision,
            ..ListRequest::default()
        };
        let deadline = Instant::now() + self.load.timeout;
        let list = |running: Running, request| async move {
            let response = running.kv().list(request).await?;
            let revision = response.metadata().get(mokv_server::rpc::REVISION);
            let revision = revision.and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
            let revision = revision.ok_or_else(|| Status::internal("a list without its revision"))?;
            let mut stream = response.into_inner();
            let mut pairs = Vec::new();
            while let Some(found) = stream.message().await? {
                pairs.push(pair(found));
            }
            Ok(Response::new((revision, pairs)))
        };
        let outcome = match self.call("List", message, deadline, list).await {
            Ok((revision, pairs)) => Outcome::Ok { answer: Answer::List { revision, pairs } },
            Err(failure) => failed_read(failure),
        };
        self.end_read(call, &op, outcome)
    }

    fn end_read(&mut self, call: u64, op: &Op, outcome: Outcome) -> Outcome {
        if let Outcome::Ok { answer } = &outcome {
            self.saw(answer);
        }
        self.cluster.trace().note(format_args!("client {} call {call} {}", self.number, brief(op, &outcome)));
        self.recorder.answer(call, outcome.clone());
        outcome
    }

    async fn servers(&mut self) {
        let call = |running: Running, request| async move { running.kv().get_servers(request).await };
        let deadline = Instant::now() + self.load.timeout;
        drop(self.call("GetServers", (), deadline, call).await);
    }

    /// The session's client id; opens a session if there is none.
    async fn open_session(&mut self, deadline: Instant) -> Result<u64, String> {
        if let Some(client_id) = self.session().client_id {
            return Ok(client_id);
        }
        let call = |running: Running, request| async move { running.kv().open_session(request).await };
        let opened = self.call("OpenSession", OpenSessionRequest {}, deadline, call).await;
        let opened = opened.map_err(|failure| format!("no session: {}", failure.into_reason()))?;
        let mut session = self.session();
        if session.client_id.is_none() {
            *session = Session { client_id: Some(opened.client_id), last_sequence: 0, unanswered: BTreeSet::new() };
        }
        session.client_id.ok_or_else(|| "no session".into())
    }

    fn next_request(&self, client_id: u64) -> RequestId {
        let mut session = self.session();
        session.last_sequence += 1;
        let sequence = session.last_sequence;
        session.unanswered.insert(sequence);
        let first_unanswered = session.unanswered.first().copied().unwrap_or(sequence);
        RequestId { client_id, sequence, first_unanswered }
    }

    /// One call to a node, as it would go over a network.
    async fn call<Q, A, F, R>(
        &mut self,
        name: &'static str,
        message: Q,
        deadline: Instant,
        call: F,
    ) -> Result<A, Failure>
    where
        Q: Send + 'static,
        A: Send + 'static,
        F: FnOnce(Running, Request<Q>) -> R + Send + 'static,
        R: Future<Output = Result<Response<A>, Status>> + Send + 'static,
    {
        let trace = self.cluster.trace().clone();
        let up: Vec<usize> = (0..self.cluster.len()).collect();
        let host = self.home.unwrap_or_else(|| up[self.rng.random_range(0..up.len())]);
        sleep(LATENCY_MAX.mul_f64(self.rng.random())).await;
        let Some(running) = self.cluster.running(host) else {
            trace.count("client.connection refused");
            return Err(Failure::None("connection refused".into()));
        };
        trace.count(format!("rpc.{name}"));
        let mut request = Request::new(message);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let tasks = running.node.tasks().clone();
        let mut calling = tasks.spawn(async move { call(running, request).await });
        let answered = timeout_at(deadline, &mut calling).await;
        sleep(LATENCY_MAX.mul_f64(self.rng.random())).await;
        let is_lost = self.rng.random_bool(ANSWER_LOST);
        match answered {
            _ if is_lost => {
                trace.count("client.answer lost");
                Err(Failure::Unknown("the answer was lost".into()))
            }
            Err(_) => {
                calling.abort();
                trace.count("client.timeout");
                Err(Failure::Unknown("no answer in time".into()))
            }
            Ok(Err(_)) => {
                trace.count("client.connection lost");
                Err(Failure::Unknown("the node died".into()))
            }
            Ok(Ok(Ok(response))) => Ok(response.into_inner()),
            Ok(Ok(Err(status))) => {
                let reason = reason(&status);
                trace.note(format_args!("client {} gets {reason} from {host}: {}", self.number, status.message()));
                trace.count(format!("error.{reason}"));
                Err(failure(&reason, &status))
            }
        }
    }

    fn saw(&mut self, answer: &Answer) {
        self.revision = self.revision.max(revision_of(answer));
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    fn into_reason(self) -> String {
        let (Self::None(reason) | Self::Unknown(reason) | Self::NoneNow(reason)) = self;
        reason
    }
}

/// A read has no effect, whatever became of it.
fn failed_read(failure: Failure) -> Outcome {
    Outcome::Failed { reason: failure.into_reason() }
}

/// The reason that mökv gave.
fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}

/// What a reason says of the effect: the table in the server's `rpc::status`, read as a client reads it.
fn failure(reason: &str, status: &Status) -> Failure {
    let text = format!("{reason}: {}", status.message());
    match reason {
        "NO_LEADER"
        | "UNAVAILABLE"
        | "READ_TIMEOUT"
        | "REVISION_NOT_REACHED"
        | "DISK_FULL"
        | "QUOTA_EXCEEDED"
        | "SESSION_FULL"
        | "LIST_TOO_SLOW"
        | "INVALID"
        | "DEADLINE_EXCEEDED" => Failure::None(text),
        "SESSION_EXPIRED" | "SEQUENCE_FORGOTTEN" => Failure::NoneNow(text),
        _ => Failure::Unknown(text),
    }
}

/// The revision of a view in which a key has no value.
fn revision_of_nothing(status: &Status) -> Option<u64> {
    let info = status.get_details_error_info().filter(|_| status.code() == Code::NotFound)?;
    info.metadata.get("revision")?.parse().ok()
}

fn revision_of(answer: &Answer) -> u64 {
    match answer {
        Answer::Set { revision, .. }
        | Answer::Delete { revision, .. }
        | Answer::Get { revision, .. }
        | Answer::List { revision, .. }
        | Answer::Txn { revision, .. } => *revision,
    }
}

fn pair(found: GetResponse) -> Pair {
    Pair {
        key: found.key,
        value: String::from_utf8_lossy(&found.value).into_owned(),
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        version: found.version,
    }
}

fn consistency(read: Read) -> api::Consistency {
    match read.consistency {
        Consistency::Linearizable => api::Consistency::Linearizable,
        Consistency::Local => api::Consistency::Local,
    }
}

/// A call in a line of the trace.
fn brief(op: &Op, outcome: &Outcome) -> String {
    let op = match op {
        Op::Set { key, value } => format!("set {key} = {}", value.trim_end_matches('.')),
        Op::Delete { key } => format!("delete {key}"),
        Op::Get { key, read } => format!("get {key} {:?}", read.consistency),
        Op::List { prefix, read } => format!("list {prefix} {:?}", read.consistency),
        Op::Txn { .. } => "txn".into(),
    };
    match outcome {
        Outcome::Ok { answer } => match answer {
            Answer::Get { revision, pair } => {
                let value = pair.as_ref().map_or("nothing", |pair| pair.value.trim_end_matches('.'));
                format!("{op}: {value} at {revision}")
            }
            answer => format!("{op}: ok at {}", revision_of(answer)),
        },
        Outcome::Failed { reason } => format!("{op}: failed, {reason}"),
        Outcome::Unknown { reason } => format!("{op}: unknown, {reason}"),
    }
}
