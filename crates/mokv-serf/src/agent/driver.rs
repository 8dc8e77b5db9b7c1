//! The one task that owns the core: it brings it what arrives, and does what it says.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};

use super::Members;
use super::connection::{self, Question, Room};
use super::handle::Stopped;
use super::request::{Reply, Request};
use super::transport::{BoxFuture, Transport};
use crate::gossip::DialId;
use crate::serf::{Event, KeyReport, Output, QueryAnswer, QueryId, SendError, Serf};
use crate::wire::Side;
use crate::wire::keyring::Keyring;
use crate::wire::memberlist::StreamMessage;

/// Connections of others at once, and as many of ours. More of theirs wait with the system, more of ours fail.
pub(super) const CONNECTIONS_MAX: usize = 128;

/// Datagrams that are handled before anything else gets its turn. They come first, for a ping is to be answered within
/// half a second; but a flood of them must not silence us.
const DATAGRAMS_IN_A_ROW_MAX: u32 = 64;

/// Answers to a query that may wait to be read. More are dropped.
const QUERY_ANSWERS_MAX: usize = 1024;

/// Pause after the network failed to give us what arrives: descriptors or memory may be short for the moment.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

type Spawn = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;
type Answer = Result<Option<StreamMessage>, String>;

pub(super) struct Driver {
    pub(super) serf: Serf,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) spawn: Spawn,
    /// Seeds those of the connections.
    pub(super) rng: StdRng,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) shutdown: Arc<Notify>,
    pub(super) members: watch::Sender<Arc<Members>>,
    pub(super) keyring: watch::Sender<Option<Keyring>>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) stopped: watch::Sender<Option<Stopped>>,
    /// The core's zero.
    pub(super) start: Instant,
    pub(super) waiting: Waiting,
}

/// Who waits for what. Each entry ends with an output of the core.
#[derive(Default)]
pub(super) struct Waiting {
    joins: BTreeMap<DialId, Reply<Result<usize, String>>>,
    leaves: Vec<Reply<()>>,
    has_left: bool,
    queries: BTreeMap<QueryId, mpsc::Sender<QueryAnswer>>,
    keys: BTreeMap<QueryId, Reply<Result<KeyReport, SendError>>>,
}

/// Connections that we open.
struct Dials {
    places: Arc<Semaphore>,
    room: Room,
    answers: mpsc::Sender<(DialId, Answer)>,
}

impl Driver {
    /// Ends when the agent is told to stop, when nobody is left who could tell it, or when it has to.
    pub(super) async fn run(mut self) {
        let (questions_in, mut questions) = mpsc::channel(CONNECTIONS_MAX);
        let (answers_in, mut answers) = mpsc::channel(CONNECTIONS_MAX);
        let dials = Dials { places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), room: Room::new(), answers: answers_in };
        self.listen(questions_in);

        let (transport, shutdown) = (Arc::clone(&self.transport), Arc::clone(&self.shutdown));
        let mut datagram = transport.recv_from();
        let mut datagrams_in_a_row = 0;
        let reason = loop {
            if let Some(reason) = self.carry_out(&dials) {
                break reason;
            }
            let tick = sleep_until(self.start + self.serf.next_tick());
            tokio::select! {
                biased;
                () = shutdown.notified() => break Stopped::Shutdown,
                received = &mut datagram, if datagrams_in_a_row < DATAGRAMS_IN_A_ROW_MAX => {
                    datagrams_in_a_row += 1;
                    match received {
                        Ok((from, bytes)) => {
                            datagram = transport.recv_from();
                            self.serf.receive(self.now(), from, &bytes);
                        }
                        Err(error) => {
                            tracing::warn!("cannot receive datagrams: {error}");
                            datagram = Box::pin(async {
                                sleep(FAILURE_PAUSE).await;
                                transport.recv_from().await
                            });
                        }
                    }
                    continue;
                }
                () = tick => self.serf.tick(self.now()),
                Some(Question { message, answer }) = questions.recv() => {
                    // Nobody waits for it any more if the connection broke.
                    let _ = answer.send(self.serf.answer(self.now(), message));
                }
                Some((id, answer)) = answers.recv() => self.serf.dial_finished(self.now(), id, answer),
                request = self.requests.recv() => match request {
                    Some(request) => self.obey(request),
                    None => break Stopped::Shutdown,
                },
                // The other tasks get their turn as well.
                () = yield_now(), if datagrams_in_a_row >= DATAGRAMS_IN_A_ROW_MAX => {}
            }
            datagrams_in_a_row = 0;
        };
        self.stopped.send_replace(Some(reason));
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Does what the core says. A reason to stop, if it has one.
    fn carry_out(&mut self, dials: &Dials) -> Option<Stopped> {
        loop {
            let outputs = self.serf.take_outputs();
            if outputs.is_empty() {
                return None;
            }
            if outputs.iter().any(|output| matches!(output, Output::Event(_))) {
                self.publish_members();
            }
            for output in outputs {
                match output {
                    Output::Datagram { to, bytes } => self.transport.send_to(to, bytes),
                    Output::Dial { id, to, message, awaits_answer, timeout } => {
                        self.dial(dials, id, to, &message, awaits_answer, timeout);
                    }
                    Output::Event(event) => {
                        // Nobody need listen.
                        let _ = self.events.send(event);
                    }
                    Output::JoinFinished { id, result } => reply(self.waiting.joins.remove(&id), result),
                    Output::QueryAnswer { id, answer: QueryAnswer::Finished } => {
                        self.waiting.queries.remove(&id);
                    }
                    Output::QueryAnswer { id, answer } => self.tell_answer(id, answer),
                    Output::KeysFinished { id, report } => reply(self.waiting.keys.remove(&id), Ok(report)),
                    Output::Left => {
                        self.waiting.has_left = true;
                        for leave in self.waiting.leaves.drain(..) {
                            reply(Some(leave), ());
                        }
                    }
                    Output::NameTaken => return Some(Stopped::NameTaken),
                    Output::KeyringChanged(keyring) => {
                        self.keyring.send_replace(Some(keyring));
                    }
                }
            }
        }
    }

    fn publish_members(&self) {
        self.members.send_if_modified(|published| {
            let changed = **published != *self.serf.members();
            if changed {
                *published = Arc::new(self.serf.members().clone());
            }
            changed
        });
    }

    fn tell_answer(&self, id: QueryId, answer: QueryAnswer) {
        let Some(asker) = self.waiting.queries.get(&id) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = asker.try_send(answer) {
            tracing::warn!("an answer to a query is dropped: {QUERY_ANSWERS_MAX} wait to be read");
        }
    }

    fn obey(&mut self, request: Request) {
        let now = self.now();
        match request {
            Request::Join { to, reply } => {
                let id = self.serf.join(now, to);
                self.waiting.joins.insert(id, reply);
            }
            Request::Leave { reply: leave } if self.waiting.has_left => reply(Some(leave), ()),
            Request::Leave { reply } => {
                self.waiting.leaves.push(reply);
                self.serf.leave(now);
            }
            Request::ForceLeave { node, prune, reply: done } => {
                self.serf.force_leave(now, &node, prune);
                reply(Some(done), ());
            }
            Request::SetTags { tags, reply: done } => reply(Some(done), self.serf.set_tags(now, tags)),
            Request::UserEvent { name, payload, coalesce, reply: done } => {
                reply(Some(done), self.serf.user_event(now, name, payload, coalesce));
            }
            Request::Query { name, payload, options, reply: done } => {
                let asked = self.serf.query(now, name, payload, options).map(|id| {
                    let (asker, answers) = mpsc::channel(QUERY_ANSWERS_MAX);
                    self.waiting.queries.insert(id, asker);
                    answers
                });
                reply(Some(done), asked);
            }
            Request::Respond { query, payload, reply: done } => {
                reply(Some(done), self.serf.respond(now, &query, payload));
            }
            Request::Keys { command, reply: done } => match self.serf.key_command(now, command) {
                Ok(id) => {
                    self.waiting.keys.insert(id, done);
                }
                Err(error) => reply(Some(done), Err(error)),
            },
            Request::Counters { reply: done } => reply(Some(done), self.serf.counters()),
        }
    }

    /// Asks somebody over a connection. The answer comes back as one.
    fn dial(
        &mut self,
        dials: &Dials,
        id: DialId,
        to: SocketAddr,
        message: &StreamMessage,
        awaits_answer: bool,
        timeout: Duration,
    ) {
        let Ok(place) = Arc::clone(&dials.places).try_acquire_owned() else {
            self.serf.dial_finished(self.now(), id, Err("too many connections".to_owned()));
            return;
        };
        let codec = self.serf.codec();
        let sealed = codec.seal_stream(message, Side::Initiator, &mut self.rng);
        let decoder = awaits_answer.then(|| codec.stream(Side::Acceptor));
        let (transport, room, answers) = (Arc::clone(&self.transport), dials.room.clone(), dials.answers.clone());
        self.start_task(async move {
            let answer = connection::ask(&*transport, to, sealed, decoder, room, timeout).await;
            // The agent has stopped if nobody takes it.
            let _ = answers.send((id, answer)).await;
            drop(place);
        });
    }

    /// Lets others open connections.
    fn listen(&mut self, questions: mpsc::Sender<Question>) {
        let (transport, spawn, stopped) =
            (Arc::clone(&self.transport), Arc::clone(&self.spawn), self.stopped.subscribe());
        let (codec, keyring) = (self.serf.codec().clone(), self.keyring.subscribe());
        let mut rng = StdRng::from_rng(&mut self.rng);
        let (places, room) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Room::new());
        self.start_task(async move {
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let (stream, from) = match transport.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!("cannot accept connections: {error}");
                        sleep(FAILURE_PAUSE).await;
                        continue;
                    }
                };
                let mut codec = codec.clone();
                codec.keyring.clone_from(&keyring.borrow());
                let rng = StdRng::from_rng(&mut rng);
                let exchange = connection::serve(stream, from, codec, rng, room.clone(), questions.clone());
                until_stopped(&spawn, stopped.clone(), async move {
                    exchange.await;
                    drop(place);
                });
            }
        });
    }

    /// Starts a task that ends with the agent.
    fn start_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        until_stopped(&self.spawn, self.stopped.subscribe(), task);
    }
}

fn until_stopped(
    spawn: &Spawn,
    mut stopped: watch::Receiver<Option<Stopped>>,
    task: impl Future<Output = ()> + Send + 'static,
) {
    spawn(Box::pin(async move {
        tokio::select! {
            biased;
            _ = stopped.wait_for(Option::is_some) => {}
            () = task => {}
        }
    }));
}

/// Tells who waits, if somebody still does.
fn reply<T>(waiting: Option<oneshot::Sender<T>>, outcome: T) {
    if let Some(waiting) = waiting {
        let _ = waiting.send(outcome);
    }
}
