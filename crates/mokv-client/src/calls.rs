//! How one call finds its way: it asks whom [`routes`](crate::routes) name, goes on as [`retry`](crate::retry) says, and
//! tells both what happened.
//!
//! It owns the connections, two for each node: one for operations, one for streams, so that a long list does not hold up a
//! small read. It promises that a call ends by its deadline.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mokv_proto::api::GetServersResponse;
use mokv_proto::api::kv_client::KvClient;
use mokv_proto::cluster::StatusRequest;
use mokv_proto::cluster::cluster_client::ClusterClient;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::address::{self, Target};
use crate::client::Client;
use crate::error::{Error, Failure, describe};
use crate::operation::{self, Answer, Operation, unary};
use crate::pipeline::{self, Failed, Heard, Pipeline};
use crate::retry::{Effect, Limit, Next, Patience, Retry};
use crate::routes::{Ended, Errand, Listed, NodeRef, Routes, Want};

/// Above the largest request a server can be told to take.
const MESSAGE_BYTES_MAX: usize = (8 << 20) + (64 << 10);
/// How long a node may take to answer what the client asks for itself.
const ERRAND_TIMEOUT: Duration = Duration::from_secs(1);
/// A stream that ended while an operation came to it is opened again; not more often than this for one attempt.
const REOPENINGS_MAX: u32 = 3;

/// The nodes of a cluster as one client reaches them.
pub(crate) struct Nodes {
    connect: Box<dyn Fn(&Endpoint) -> Channel + Send + Sync>,
    state: Mutex<State>,
}

struct State {
    routes: Routes,
    connections: BTreeMap<NodeRef, Arc<Connection>>,
    rng: SmallRng,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("routes", &self.lock().routes).finish_non_exhaustive()
    }
}

/// The ways to one node.
#[derive(Debug)]
struct Connection {
    address: String,
    operations: Channel,
    streams: Channel,
    pipeline: Pipeline,
    heard: Heard,
}

/// Why a call was not answered.
#[derive(Debug)]
pub(crate) enum Unanswered {
    Failed(Error),
    /// See [`Next::OtherSession`].
    OtherSession,
}

/// One attempt of a call.
pub(crate) struct Attempt {
    /// Who is asked.
    pub(crate) node: NodeRef,
    connection: Arc<Connection>,
    until: Instant,
}

impl Attempt {
    /// The key-value service, over the connection for streams.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        kv(&self.connection.streams)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.connection.streams.clone())
    }

    /// A request that tells the server how long the client will wait.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.time_left());
        request
    }

    fn time_left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Has the node carry out an operation, over the pipeline or, where the server has none, by a call of its own.
    async fn operate(self, operation: impl Fn() -> Operation) -> Result<Answer, Failure> {
        let Connection { operations, pipeline, heard, .. } = &*self.connection;
        let began = Instant::now();
        for _ in 0..REOPENINGS_MAX {
            let message = operation();
            let is_get = matches!(message, Operation::Get(_));
            return match pipeline.call(|| kv(operations), heard, message, self.until).await {
                Ok(Answer::Error(error)) => understood(is_get, Err(pipeline::status(error))),
                Ok(answer) => Ok(answer),
                Err(Failed::NotSent(None)) => continue,
                Err(Failed::NotSent(Some(status))) => Err(Failure::Unreachable(describe(&status))),
                Err(Failed::NotSupported) => {
                    // Apart: it would be most of what a call takes.
                    let sent = Box::pin(unary(kv(operations), operation(), self.time_left()));
                    let answered = timeout_at(self.until, sent).await.map_err(|_| Failure::late())?;
                    heard.now();
                    understood(is_get, answered)
                }
                Err(Failed::NotOpened(status)) => Err(Failure::from_status(&status)),
                Err(Failed::Lost(status)) => Err(match Failure::from_status(&status) {
                    // A node that stops says so after it has answered what it took.
                    unfit @ Failure::Unfit(_) => unfit,
                    _ => Failure::Lost(describe(&status)),
                }),
                // It has too much to do to take more.
                Err(Failed::LateUnsent) if heard.is_since(began) => {
                    Err(Failure::Unavailable("not sent in time".into()))
                }
                Err(Failed::LateUnsent) => Err(Failure::Unreachable("no connection in time".into())),
                Err(Failed::Late) => Err(Failure::late()),
            };
        }
        Err(Failure::Unavailable("the stream ends again and again".into()))
    }
}

/// What a node answered, if it did in time.
async fn in_time<T>(until: Instant, sent: impl Future<Output = Result<T, Status>>) -> Result<T, Failure> {
    let answered = timeout_at(until, sent).await.map_err(|_| Failure::late())?;
    answered.map_err(|status| Failure::from_status(&status))
}

/// What a node answered. That a key has no value is an answer.
fn understood(is_get: bool, answered: Result<Answer, Status>) -> Result<Answer, Failure> {
    let absence = |status: Status| match is_get.then(|| operation::absence(&status)).flatten() {
        Some(absence) => Ok(absence),
        None => Err(Failure::from_status(&status)),
    };
    answered.or_else(absence)
}

fn kv(channel: &Channel) -> KvClient<Channel> {
    KvClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A call that is counted as under way at a node until this is dropped.
struct UnderWay<'a> {
    nodes: &'a Arc<Nodes>,
    node: NodeRef,
    ended: Ended,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let errands = {
            let mut state = self.nodes.lock();
            state.routes.ended(self.node, self.ended, now);
            state.routes.errands(now)
        };
        self.nodes.send_on(errands);
    }
}

impl Nodes {
    pub(crate) fn new(
        target: Target,
        connect: impl Fn(&Endpoint) -> Channel + Send + Sync + 'static,
        rng: SmallRng,
    ) -> Self {
        let routes = Routes::new(target.addresses, target.is_single);
        let state = State { routes, connections: BTreeMap::new(), rng };
        Self { connect: Box::new(connect), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an operation carried out. `numbered` is asked for it each time that it is sent.
    pub(crate) async fn operate(
        self: &Arc<Self>,
        want: Want,
        effect: Effect,
        patience: Patience,
        limit: Limit,
        numbered: impl Fn() -> Operation,
    ) -> Result<Answer, Unanswered> {
        self.call(want, effect, patience, limit, |attempt| attempt.operate(&numbered)).await
    }

    /// Makes a call. `send` is called for each attempt, which ends when its time is over.
    pub(crate) async fn call<T, F>(
        self: &Arc<Self>,
        want: Want,
        effect: Effect,
        patience: Patience,
        limit: Limit,
        send: impl Fn(Attempt) -> F,
    ) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut retry = Retry::new(effect, patience, limit);
        loop {
            let began = Instant::now();
            let Some((connection, mut under_way, is_alone)) = self.pick(want, retry.tried(), began) else {
                let draw = self.lock().rng.random();
                match retry.round_ended(began, draw) {
                    Next::After(pause) => sleep(pause).await,
                    Next::GiveUp(error) => return Err(Unanswered::Failed(error)),
                    Next::Again | Next::OtherSession => {}
                }
                continue;
            };
            let node = under_way.node;
            let until = retry.until(began, is_alone);
            let failure = match send(Attempt { node, connection: connection.clone(), until }).await {
                Ok(answer) => {
                    under_way.ended = Ended::Answered;
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            under_way.ended = verdict(&failure, connection.heard.is_since(began));
            drop(under_way);
            tracing::debug!(address = connection.address, ?failure, "an attempt failed");
            match retry.failed(node, &connection.address, failure, Instant::now()) {
                Next::Again | Next::After(_) => {}
                Next::GiveUp(error) => return Err(Unanswered::Failed(error)),
                Next::OtherSession => return Err(Unanswered::OtherSession),
            }
        }
    }

    /// Whom to ask, and whether there is anybody else.
    fn pick(
        self: &Arc<Self>,
        want: Want,
        tried: &[NodeRef],
        now: Instant,
    ) -> Option<(Arc<Connection>, UnderWay<'_>, bool)> {
        let mut state = self.lock();
        let draw = state.rng.random();
        let node = state.routes.pick(want, tried, now, draw)?;
        let is_alone = state.routes.is_alone();
        let connection = self.connection(&mut state, node);
        drop(state);
        let under_way = UnderWay { nodes: self, node, ended: Ended::Abandoned };
        Some((connection?, under_way, is_alone))
    }

    /// The ways to a node, which are made if there are none; `None` if the cluster has lost it.
    fn connection(&self, state: &mut State, node: NodeRef) -> Option<Arc<Connection>> {
        if let Some(connection) = state.connections.get(&node) {
            return Some(connection.clone());
        }
        let address = state.routes.address(node)?.to_owned();
        // Only addresses that were understood are routed to.
        let endpoint = address::endpoint(&address).ok()?;
        let connection = Arc::new(Connection {
            address,
            operations: (self.connect)(&endpoint),
            streams: (self.connect)(&endpoint),
            pipeline: Pipeline::default(),
            heard: Heard::never(),
        });
        state.connections.insert(node, connection.clone());
        Some(connection)
    }

    /// Notes that a node was silent where it should not have been: others are asked until it answers again.
    pub(crate) fn avoid(self: &Arc<Self>, node: NodeRef) {
        let now = Instant::now();
        let errands = {
            let mut state = self.lock();
            state.routes.saw(node, Ended::Failed, now);
            state.routes.errands(now)
        };
        self.send_on(errands);
    }

    /// Runs errands in the background.
    fn send_on(self: &Arc<Self>, errands: Vec<Errand>) {
        for errand in errands {
            let nodes = self.clone();
            tokio::spawn(async move { nodes.run(errand).await });
        }
    }

    async fn run(&self, errand: Errand) {
        let (Errand::Ask(node) | Errand::Identify(node)) = errand;
        let connection = {
            let mut state = self.lock();
            self.connection(&mut state, node)
        };
        let Some(connection) = connection else { return };
        match errand {
            Errand::Ask(_) => {
                let asked = async { kv(&connection.operations).get_servers(()).await };
                let answered = timeout(ERRAND_TIMEOUT, asked).await;
                let mut state = self.lock();
                match answered {
                    Ok(Ok(list)) => {
                        connection.heard.now();
                        state.routes.answered(node, &listed(list.into_inner()), Instant::now());
                        let State { routes, connections, .. } = &mut *state;
                        connections.retain(|node, _| routes.address(*node).is_some());
                    }
                    Ok(Err(status)) => {
                        tracing::debug!(address = connection.address, %status, "a node does not say who the others are");
                        state.routes.failed(node, Instant::now());
                    }
                    Err(_) => state.routes.failed(node, Instant::now()),
                }
            }
            Errand::Identify(_) => {
                let mut cluster = ClusterClient::new(connection.operations.clone());
                let answered = timeout(ERRAND_TIMEOUT, cluster.status(StatusRequest {})).await;
                let mut state = self.lock();
                match answered {
                    Ok(Ok(status)) => state.routes.identified(node, status.into_inner().node_id),
                    Ok(Err(status)) if status.code() == Code::Unimplemented => state.routes.stayed_unknown(node),
                    _ => state.routes.failed(node, Instant::now()),
                }
            }
        }
    }
}

/// What a failure says of the node.
fn verdict(failure: &Failure, is_heard: bool) -> Ended {
    match failure {
        Failure::Unreachable(_) | Failure::Lost(_) => Ended::Failed,
        Failure::Late(_) if is_heard => Ended::Abandoned,
        Failure::Late(_) => Ended::Failed,
        Failure::Unfit(_) => Ended::Unfit,
        Failure::Unavailable(_)
        | Failure::Unknown(_)
        | Failure::Fault { .. }
        | Failure::NoSession(_)
        | Failure::SessionFull(_)
        | Failure::Final(_) => Ended::Answered,
    }
}

/// The lines of a server list that name an address.
fn listed(list: GetServersResponse) -> Vec<Listed> {
    let is_address = |server: &mokv_proto::api::Server| address::endpoint(&server.rpc_addr).is_ok();
    let line = |server: mokv_proto::api::Server| Listed {
        address: server.rpc_addr,
        node_id: server.node_id,
        is_leader: server.is_leader,
    };
    list.servers.into_iter().filter(is_address).map(line).collect()
}

/// A stream that a node has opened.
#[derive(Debug)]
pub(crate) struct Opened<T> {
    /// Who answers.
    pub(crate) node: NodeRef,
    pub(crate) stream: T,
}

impl Client {
    /// Opens a stream, within a limit on how long that may take, on one node after the other until one does. Streams have
    /// connections of their own, and no deadline unless the caller watches over them: see [`Client::avoid`].
    pub(crate) async fn open<T, F>(&self, limit: Limit, send: impl Fn(Attempt) -> F) -> Result<Opened<T>, Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let send = |attempt: Attempt| {
            let (node, until) = (attempt.node, attempt.until);
            let sent = in_time(until, send(attempt));
            async move { Ok(Opened { node, stream: sent.await? }) }
        };
        let opened = self.nodes.call(Want::Read, Effect::Harmless, self.patience, limit, send).await;
        opened.map_err(Unanswered::into_error)
    }

    /// Asks the endpoints that were given, one after the other, until one answers.
    pub(crate) async fn ask<T, F>(&self, effect: Effect, send: impl Fn(Attempt) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let send = |attempt: Attempt| {
            let sent = in_time(attempt.until, send(attempt));
            async move { Ok(sent.await?.into_inner()) }
        };
        let answered = self.nodes.call(Want::Given, effect, Patience::OnceEach, self.limit(), send).await;
        answered.map_err(Unanswered::into_error)
    }

    /// Notes that a node was silent where it should not have been: others are asked until it answers again.
    pub(crate) fn avoid(&self, node: NodeRef) {
        self.nodes.avoid(node);
    }
}

impl Unanswered {
    /// The error of a call that is in no session.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::OtherSession => Error::Unavailable("the node speaks of a session".into()),
        }
    }
}
