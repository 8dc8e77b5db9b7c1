//! The clients of a run: they write, read and list through every node, by the public services, and record what they saw.
//!
//! A client knows no more than a real one. What a call that failed has left behind it takes from the reason in the answer:
//! "failed" and "unknown" have to be right, or the history is illegal.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mokv_check::{
    Answer, Compare, Comparison, Condition, Consistency, Delete, List, Op, Outcome, Range, Read, Set, Target, Txn,
    TxnOp,
};
use mokv_proto::api::{self, GetRequest, OpenSessionRequest, RequestId};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt;

use crate::cluster::{Cluster, Running};
use crate::messages::{self, brief};
use crate::plan::Load;
use crate::recorder::Recorder;
use crate::seed;
use crate::watcher;

/// A message between a client and a node takes up to this long.
const LATENCY_MAX: Duration = Duration::from_millis(2);

/// How likely an answer is lost on its way to the client.
const ANSWER_LOST: f64 = 0.005;

/// How long a client waits before it sends a session's write again.
const RETRY_PAUSE: Duration = Duration::from_millis(40);

/// Lives of keys and leases, in milliseconds: some end while an election goes on, some after it.
const LIVES_MS: std::ops::Range<u64> = 1000..6000;

/// Leases that a client remembers.
const LEASES_MAX: usize = 4;

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
    /// Leases that it was granted, the newest last.
    leases: Vec<u64>,
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
        if load.whole && number < cluster.len() {
            watcher::start(cluster, recorder, &stop, over.clone(), number);
        }
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
    /// There is no such lease: an answer.
    NoLease(String),
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
        Self { number, cluster, recorder, load, rng, session, home, tokens: 0, leases: Vec::new(), revision: 0 }
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
        if self.draw(self.load.writes) {
            let in_session = self.draw(self.load.in_session);
            let op = if self.load.whole { self.any_write() } else { self.simple_write() };
            self.write(op, in_session).await;
            return;
        }
        let key = self.any_key();
        let read = self.read_options();
        if !self.load.whole {
            match self.rng.random_range(0..20) {
                0..=13 => drop(self.get(&key, read).await),
                14..=18 => drop(self.list("key-", read).await),
                _ => self.servers().await,
            }
            return;
        }
        match self.rng.random_range(0..40) {
            0..=25 => drop(self.get(&key, read).await),
            26..=33 => {
                let list = List { read, ..self.any_list() };
                drop(self.list_of(list).await);
            }
            34..=36 => {
                let range = self.any_range();
                drop(self.count(range, read).await);
            }
            37..=38 => self.lease_call().await,
            _ => self.servers().await,
        }
    }

    fn any_key(&mut self) -> String {
        format!("key-{}", self.rng.random_range(0..self.load.keys))
    }

    fn any_range(&mut self) -> Range {
        match self.draw(60) {
            true => Range::prefix("key-"),
            false => {
                let (start, end) = (self.any_key(), self.any_key());
                Range { start: start.clone().min(end.clone()), end: start.max(end), ..Range::default() }
            }
        }
    }

    fn any_list(&mut self) -> List {
        List {
            range: self.any_range(),
            limit: if self.draw(30) { self.rng.random_range(1..4) } else { 0 },
            reverse: self.draw(30),
            keys_only: self.draw(20),
            read: Read::default(),
        }
    }

    fn simple_write(&mut self) -> Op {
        let key = self.any_key();
        if self.draw(25) { Op::delete(key) } else { Op::set(key, self.token()) }
    }

    fn any_write(&mut self) -> Op {
        match self.rng.random_range(0..100) {
            0..=44 => Op::Set(self.any_set()),
            45..=59 => {
                let (key, condition) = (self.any_key(), self.any_condition());
                Op::Delete(Delete { key, condition, previous: self.draw(20) })
            }
            60..=63 => Op::DeleteRange { range: self.any_range() },
            64..=77 => {
                let key = format!("number-{}", self.rng.random_range(0..2));
                let ttl_ms = if self.draw(20) { self.rng.random_range(LIVES_MS) } else { 0 };
                Op::Increment { key, delta: self.rng.random_range(-3..9), ttl_ms }
            }
            78..=91 => Op::Txn(self.any_txn(true)),
            92..=97 => Op::GrantLease { ttl_ms: self.rng.random_range(LIVES_MS), lease: 0 },
            _ => match self.any_lease() {
                0 => Op::GrantLease { ttl_ms: self.rng.random_range(LIVES_MS), lease: 0 },
                lease => Op::RevokeLease { lease },
            },
        }
    }

    fn any_lease(&mut self) -> u64 {
        match self.leases.len() {
            0 => 0,
            count => self.leases[self.rng.random_range(0..count)],
        }
    }

    fn any_condition(&mut self) -> Option<Condition> {
        match self.rng.random_range(0..10) {
            0 => Some(Condition::Absent),
            1 => Some(Condition::Present),
            2 => Some(Condition::ModRevision(self.rng.random_range(1..=self.revision.max(1)))),
            _ => None,
        }
    }

    fn any_set(&mut self) -> Set {
        let mut set = Set { key: self.any_key(), value: self.token(), ..Set::default() };
        set.condition = self.any_condition();
        set.previous = self.draw(15);
        match self.rng.random_range(0..10) {
            0 | 1 => set.ttl_ms = self.rng.random_range(LIVES_MS),
            2 | 3 => set.lease = self.any_lease(),
            4 => set.keep_ttl = true,
            5 => {
                (set.keep_value, set.ttl_ms) = (true, self.rng.random_range(LIVES_MS));
                set.value.clear();
            }
            _ => {}
        }
        set
    }

    /// No list of it writes a key twice: each operation has a key of its own.
    fn any_txn(&mut self, may_nest: bool) -> Txn {
        let compare = (0..self.rng.random_range(0..3)).map(|_| self.any_compare()).collect();
        let then = self.any_ops(may_nest);
        // Of a transaction within, both lists count.
        let otherwise = if may_nest { self.any_ops(false) } else { Vec::new() };
        Txn { compare, then, otherwise }
    }

    fn any_compare(&mut self) -> Compare {
        let all = [Comparison::Equal, Comparison::Greater, Comparison::Less, Comparison::NotEqual];
        let is = all[self.rng.random_range(0..all.len())];
        let target = match self.rng.random_range(0..4) {
            0 => Target::Version(self.rng.random_range(0..3)),
            1 => Target::CreateRevision(self.rng.random_range(0..=self.revision)),
            2 => Target::ModRevision(self.rng.random_range(0..=self.revision)),
            _ => Target::Lease(0),
        };
        let range_end = self.draw(15).then(|| "key-9".to_owned());
        Compare { key: self.any_key(), range_end, is, target }
    }

    fn any_ops(&mut self, may_nest: bool) -> Vec<TxnOp> {
        let mut ops = Vec::new();
        for key in 0..self.load.keys.min(4) {
            let key = format!("key-{key}");
            match self.rng.random_range(0..12) {
                0..=3 => {
                    let lease = if self.draw(20) { self.any_lease() } else { 0 };
                    ops.push(TxnOp::Set(Set { key, value: self.token(), lease, ..Set::default() }));
                }
                4 => ops.push(TxnOp::Delete(Delete { key, previous: self.draw(30), ..Delete::default() })),
                5 => ops.push(TxnOp::Get { key }),
                6 => ops.push(TxnOp::List(List { keys_only: false, ..self.any_list() })),
                _ => {}
            }
        }
        if may_nest && ops.is_empty() && self.draw(50) {
            ops.push(TxnOp::Txn(self.any_txn(false)));
        }
        ops
    }

    /// Keeps a lease alive, or asks for it.
    async fn lease_call(&mut self) {
        let lease = self.any_lease();
        if lease == 0 {
            return;
        }
        let deadline = Instant::now() + self.load.timeout;
        let op = if self.draw(70) { Op::KeepAlive { lease } } else { Op::GetLease { lease } };
        let call = self.recorder.call(self.number, op.clone());
        let answered = match op {
            Op::KeepAlive { .. } => {
                let keep = |running: Running, request: Request<u64>| async move {
                    let message = api::KeepLeaseAliveRequest { lease_id: request.into_inner() };
                    let asked = futures_util::stream::iter([message]);
                    let mut answers = running.kv().keep_lease_alive(asked).await?.into_inner();
                    let answer = answers.message().await?;
                    answer.map(Response::new).ok_or_else(|| Status::unavailable("no answer"))
                };
                let kept = self.call("KeepLeaseAlive", lease, deadline, keep).await;
                kept.map(|kept| match kept.ttl_ms {
                    0 => Answer::NoLease,
                    ttl_ms => Answer::KeepAlive { ttl_ms },
                })
            }
            _ => {
                let message = api::GetLeaseRequest { lease_id: lease, keys: true };
                let get = |running: Running, request| async move { running.kv().get_lease(request).await };
                let found = self.call("GetLease", message, deadline, get).await;
                found.map(|found| {
                    let api::GetLeaseResponse { ttl_ms, remaining_ms, keys, .. } = found;
                    Answer::GetLease { ttl_ms, remaining_ms, keys }
                })
            }
        };
        let outcome = match answered {
            Ok(answer) => Outcome::Ok { answer },
            Err(Failure::NoLease(_)) => Outcome::Ok { answer: Answer::NoLease },
            // It may have lengthened a life, which harms nobody.
            Err(failure) => Outcome::Unknown { reason: failure.into_reason() },
        };
        if matches!(outcome, Outcome::Ok { answer: Answer::NoLease }) {
            self.leases.retain(|known| *known != lease);
        }
        self.cluster.trace().note(format_args!("client {} call {call} {op:?}: {outcome:?}", self.number));
        self.recorder.answer(call, outcome);
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
                let is_bounded = self.load.whole && self.rng.random_bool(0.2);
                let max_staleness_ms = if is_bounded { self.rng.random_range(1..2000) } else { 0 };
                Read { consistency: Consistency::Local, min_revision, max_staleness_ms, at_revision: 0 }
            }
            false if self.load.whole && self.revision > 0 && self.draw(8) => {
                Read { at_revision: self.rng.random_range(1..=self.revision), ..Read::default() }
            }
            false if self.load.whole && self.draw(20) => Read { consistency: Consistency::Lease, ..Read::default() },
            false => Read::linearizable(),
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
                if let Answer::GrantLease { lease, .. } = answer {
                    self.leases.push(lease);
                    let surplus = self.leases.len().saturating_sub(LEASES_MAX);
                    self.leases.drain(..surplus);
                }
                if let Some(revision) = answer.revision() {
                    self.cluster.observer().acknowledged(revision).await;
                }
                Outcome::Ok { answer }
            }
            Err(Failure::NoLease(_)) => Outcome::Ok { answer: Answer::NoLease },
            Err(Failure::None(reason) | Failure::NoneNow(reason)) => Outcome::Failed { reason },
            Err(Failure::Unknown(reason)) => Outcome::Unknown { reason },
        };
        self.cluster.trace().note(format_args!("client {} call {call} {}", self.number, report(&op, &outcome)));
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
                Failure::NoLease(reason) => {
                    return Err(earlier.map_or(Failure::NoLease(reason), Failure::Unknown));
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
            Op::Set(set) => {
                let message = messages::set(set, id);
                let call = |running: Running, request| async move { running.kv().set(request).await };
                Ok(messages::set_answer(self.call("Set", message, deadline, call).await?))
            }
            Op::Delete(delete) => {
                let message = messages::delete(delete, id);
                let call = |running: Running, request| async move { running.kv().delete(request).await };
                Ok(messages::delete_answer(self.call("Delete", message, deadline, call).await?))
            }
            Op::DeleteRange { range } => {
                let message = messages::delete_range(range, id);
                let call = |running: Running, request| async move { running.kv().delete_range(request).await };
                let done = self.call("DeleteRange", message, deadline, call).await?;
                Ok(Answer::DeleteRange { deleted: done.deleted, revision: done.revision })
            }
            Op::Increment { key, delta, ttl_ms } => {
                let message =
                    api::IncrementRequest { key: key.clone(), delta: *delta, request_id: id, ttl_ms: *ttl_ms };
                let call = |running: Running, request| async move { running.kv().increment(request).await };
                let api::IncrementResponse { value, revision, create_revision, version } =
                    self.call("Increment", message, deadline, call).await?;
                Ok(Answer::Increment { value, revision, create_revision, version })
            }
            Op::Txn(txn) => {
                let message = messages::txn(txn, id);
                let call = |running: Running, request| async move { running.kv().txn(request).await };
                let done = self.call("Txn", message, deadline, call).await?;
                messages::txn_answer(done).ok_or_else(|| Failure::Unknown("the answer was cut".into()))
            }
            Op::GrantLease { ttl_ms, lease } => {
                let message = api::GrantLeaseRequest { ttl_ms: *ttl_ms, lease_id: *lease, request_id: id };
                let call = |running: Running, request| async move { running.kv().grant_lease(request).await };
                let done = self.call("GrantLease", message, deadline, call).await?;
                Ok(Answer::GrantLease { lease: done.lease_id, revision: done.revision })
            }
            Op::RevokeLease { lease } => {
                let message = api::RevokeLeaseRequest { lease_id: *lease, request_id: id };
                let call = |running: Running, request| async move { running.kv().revoke_lease(request).await };
                let done = self.call("RevokeLease", message, deadline, call).await?;
                Ok(Answer::RevokeLease { revision: done.revision, deleted: done.deleted })
            }
            Op::Get { .. } | Op::List(_) | Op::Count { .. } | Op::KeepAlive { .. } | Op::GetLease { .. } => {
                unreachable!("no write")
            }
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
            max_staleness_ms: read.max_staleness_ms,
            revision: read.at_revision,
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
                Outcome::Ok { answer: Answer::Get { revision, pair: Some(messages::pair(found)) } }
            }
            Ok(Err(revision)) => Outcome::Ok { answer: Answer::Get { revision, pair: None } },
            Err(failure) => failed_read(failure),
        };
        self.end_read(call, &op, outcome)
    }

    /// Lists a prefix, and records the outcome.
    pub async fn list(&mut self, prefix: &str, read: Read) -> Outcome {
        self.list_of(List { range: Range::prefix(prefix), read, ..List::default() }).await
    }

    async fn list_of(&mut self, asked: List) -> Outcome {
        let read = asked.read;
        let op = Op::List(asked.clone());
        let call = self.recorder.call(self.number, op.clone());
        let message = api::ListRequest {
            consistency: consistency(read).into(),
            min_revision: read.min_revision,
            max_staleness_ms: read.max_staleness_ms,
            revision: read.at_revision,
            ..messages::list(&asked)
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
                pairs.push(messages::pair(found));
            }
            Ok(Response::new((revision, pairs)))
        };
        let outcome = match self.call("List", message, deadline, list).await {
            Ok((revision, pairs)) => Outcome::Ok { answer: Answer::List { revision, pairs } },
            Err(failure) => failed_read(failure),
        };
        self.end_read(call, &op, outcome)
    }

    async fn count(&mut self, range: Range, read: Read) -> Outcome {
        let op = Op::Count { range: range.clone(), read };
        let call = self.recorder.call(self.number, op.clone());
        let message = api::CountRequest {
            prefix: range.prefix,
            start: range.start,
            end: range.end,
            consistency: consistency(read).into(),
            min_revision: read.min_revision,
            max_staleness_ms: read.max_staleness_ms,
            revision: read.at_revision,
        };
        let deadline = Instant::now() + self.load.timeout;
        let count = |running: Running, request| async move { running.kv().count(request).await };
        let outcome = match self.call("Count", message, deadline, count).await {
            Ok(found) => Outcome::Ok { answer: Answer::Count { revision: found.revision, count: found.count } },
            Err(failure) => failed_read(failure),
        };
        self.end_read(call, &op, outcome)
    }

    fn end_read(&mut self, call: u64, op: &Op, outcome: Outcome) -> Outcome {
        if let Outcome::Ok { answer } = &outcome {
            self.saw(answer);
        }
        self.cluster.trace().note(format_args!("client {} call {call} {}", self.number, report(op, &outcome)));
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
        self.revision = self.revision.max(answer.revision().unwrap_or(0));
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failure {
    fn into_reason(self) -> String {
        let (Self::None(reason) | Self::Unknown(reason) | Self::NoneNow(reason) | Self::NoLease(reason)) = self;
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
        | "DEADLINE_EXCEEDED"
        | "NOT_A_NUMBER"
        | "TOO_MANY_LEASES"
        | "COMPACTED"
        | "FUTURE_REVISION" => Failure::None(text),
        "LEASE_NOT_FOUND" => Failure::NoLease(text),
        "SESSION_EXPIRED" | "SEQUENCE_FORGOTTEN" => Failure::NoneNow(text),
        _ => Failure::Unknown(text),
    }
}

/// The revision of a view in which a key has no value.
fn revision_of_nothing(status: &Status) -> Option<u64> {
    let info = status.get_details_error_info().filter(|_| status.code() == Code::NotFound)?;
    info.metadata.get("revision")?.parse().ok()
}

fn consistency(read: Read) -> api::Consistency {
    match read.consistency {
        Consistency::Linearizable => api::Consistency::Linearizable,
        Consistency::Lease => api::Consistency::Lease,
        Consistency::Local => api::Consistency::Local,
    }
}

/// A call in a line of the trace.
fn report(op: &Op, outcome: &Outcome) -> String {
    let op = brief(op);
    match outcome {
        Outcome::Ok { answer: Answer::Get { revision, pair } } => {
            let value = pair.as_ref().map_or("nothing", |pair| pair.value.trim_end_matches('.'));
            format!("{op}: {value} at {revision}")
        }
        Outcome::Ok { answer } => format!("{op}: ok at {}", answer.revision().unwrap_or(0)),
        Outcome::Failed { reason } => format!("{op}: failed, {reason}"),
        Outcome::Unknown { reason } => format!("{op}: unknown, {reason}"),
    }
}
