//! The handle of an agent: what a program that uses it sees.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Members;
use super::driver::{Driver, Waiting};
use super::join::JoinError;
use super::request::{Reply, Request, RequestError};
use super::transport::{BoxFuture, Transport};
use crate::serf::{Config, Counters, Event, KeyCommand, KeyReport, Query, QueryAnswer, QueryOptions, SendError, Serf};
use crate::wire::Text;
use crate::wire::keyring::Keyring;
use crate::wire::serf::Tags;

/// Requests that wait for their turn. Further ones wait for room.
const REQUESTS_MAX: usize = 128;

/// Addresses that are tried at the same time: a name may stand for many.
const JOINS_AT_ONCE: usize = 32;

/// Events that a receiver may be behind. Then it loses the oldest, and is told how many.
pub(super) const EVENTS_MAX: usize = 1024;

/// Why an agent does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It was told to, or all its handles are gone.
    Shutdown,
    /// Another node has its name, and the majority sides with that one.
    NameTaken,
    /// Its tasks were ended from outside.
    Aborted,
}

/// A node of a pool that runs. Cheap to clone; clones are the same node. It runs until it is [shut down](Self::shutdown) or
/// the last clone is dropped, whichever comes first; the others then take it for failed, unless it has
/// [left](Self::leave) before.
#[derive(Debug, Clone)]
pub struct Agent {
    local_addr: SocketAddr,
    requests: mpsc::Sender<Request>,
    shutdown: Arc<Notify>,
    members: watch::Receiver<Arc<Members>>,
    keyring: watch::Receiver<Option<Keyring>>,
    events: broadcast::WeakSender<Event>,
    stopped: watch::Receiver<Option<Stopped>>,
}

impl Agent {
    /// Starts a node, which is alone until it [joins](Self::join) others or they join it. All its tasks start through
    /// `spawn`, and may be aborted there.
    ///
    /// The nonces of the encryption come from `seed`: outside of tests it comes from the operating system.
    ///
    /// # Errors
    ///
    /// If the tags are too large.
    pub fn spawn(
        config: Config,
        transport: Arc<dyn Transport>,
        seed: [u8; 32],
        spawn: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static,
    ) -> Result<Self, SendError> {
        let start = Instant::now();
        let mut rng = StdRng::from_seed(seed);
        let serf = Serf::new(config, StdRng::from_rng(&mut rng), start.elapsed())?;
        let (requests_in, requests) = mpsc::channel(REQUESTS_MAX);
        let (members_in, members) = watch::channel(Arc::new(serf.members().clone()));
        let (keyring_in, keyring) = watch::channel(serf.codec().keyring.clone());
        let (stopped_in, stopped) = watch::channel(None);
        let events = broadcast::Sender::new(EVENTS_MAX);
        let shutdown = Arc::new(Notify::new());
        let agent = Self {
            local_addr: transport.local_addr(),
            requests: requests_in,
            shutdown: Arc::clone(&shutdown),
            members,
            keyring,
            events: events.downgrade(),
            stopped,
        };
        let spawn = Arc::new(spawn);
        let driver = Driver {
            serf,
            transport,
            spawn: spawn.clone(),
            rng,
            requests,
            shutdown,
            members: members_in,
            keyring: keyring_in,
            events,
            stopped: stopped_in,
            start,
            waiting: Waiting::default(),
        };
        spawn(Box::pin(driver.run()));
        Ok(agent)
    }

    /// Where it listens: what it tells others may differ.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The members, itself among them: always the present ones. [`Member::since`](crate::serf::Member::since) counts from
    /// the agent's start.
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// What happens from now on; [`members`](Self::members) has it already when it is told here. Who does not keep up
    /// is told how much was missed ([`RecvError::Lagged`](broadcast::error::RecvError::Lagged)); the agent never waits.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        match self.events.upgrade() {
            Some(events) => events.subscribe(),
            // It has stopped: a receiver that says so.
            None => broadcast::Sender::new(1).subscribe(),
        }
    }

    /// The keys, if there are any. Who keeps them for the next start writes them down whenever they change.
    pub fn keyring(&self) -> watch::Receiver<Option<Keyring>> {
        self.keyring.clone()
    }

    /// Joins the pool of the nodes at these addresses, all of which are tried. Returns at how many it worked.
    ///
    /// # Errors
    ///
    /// If it worked nowhere. One should try again: a node never gives up by itself only on those that it once saw.
    pub async fn join(&self, addrs: &[SocketAddr]) -> Result<usize, JoinError> {
        let mut failures = Vec::new();
        for addrs in addrs.chunks(JOINS_AT_ONCE) {
            let mut replies = Vec::new();
            for &to in addrs {
                let (reply, outcome) = oneshot::channel();
                // If it has stopped, that is the outcome.
                let _ = self.requests.send(Request::Join { to, reply }).await;
                replies.push((to, outcome));
            }
            for (to, outcome) in replies {
                if let Err(reason) = outcome.await.unwrap_or_else(|_| Err(RequestError::Stopped.to_string())) {
                    failures.push((to, reason));
                }
            }
        }
        match addrs.len() - failures.len() {
            0 => Err(JoinError { failures }),
            joined => Ok(joined),
        }
    }

    /// Tells the others that this node goes, and waits until they can know. It goes on answering: it should be [shut
    /// down](Self::shutdown) then.
    pub async fn leave(&self) {
        // One that has stopped has nothing more to say.
        let _ = self.request(|reply| Request::Leave { reply }).await;
    }

    /// Takes a failed member for one that has left. With `prune` it is forgotten altogether.
    ///
    /// # Errors
    ///
    /// If the agent has stopped.
    pub async fn force_leave(&self, node: Text, prune: bool) -> Result<(), RequestError> {
        self.request(|reply| Request::ForceLeave { node, prune, reply }).await
    }

    /// Says something else of this node.
    ///
    /// # Errors
    ///
    /// If the tags are too large, and those from before stay; or if the agent has stopped.
    pub async fn set_tags(&self, tags: Tags) -> Result<(), RequestError> {
        Ok(self.request(|reply| Request::SetTags { tags, reply }).await??)
    }

    /// Tells all nodes something, this one included. `coalesce` allows receivers to pass on only the last of several with
    /// this name.
    ///
    /// # Errors
    ///
    /// If it is too large, or if the agent has stopped.
    pub async fn user_event(&self, name: Text, payload: Bytes, coalesce: bool) -> Result<(), RequestError> {
        Ok(self.request(|reply| Request::UserEvent { name, payload, coalesce, reply }).await??)
    }

    /// Asks all nodes something, this one included. What they say comes through the receiver, which closes when the time for
    /// it is over.
    ///
    /// # Errors
    ///
    /// If it is too large, if too many queries are under way, or if the agent has stopped.
    pub async fn query(
        &self,
        name: Text,
        payload: Bytes,
        options: QueryOptions,
    ) -> Result<mpsc::Receiver<QueryAnswer>, RequestError> {
        Ok(self.request(|reply| Request::Query { name, payload, options, reply }).await??)
    }

    /// Answers a query that came as an [event](Event::Query).
    ///
    /// # Errors
    ///
    /// If the answer is too large or too late, or if the agent has stopped.
    pub async fn respond(&self, query: Query, payload: Bytes) -> Result<(), RequestError> {
        Ok(self.request(|reply| Request::Respond { query, payload, reply }).await??)
    }

    /// Does something with the keys of all nodes, and returns what they said.
    ///
    /// # Errors
    ///
    /// If too many queries are under way, or if the agent has stopped.
    pub async fn keys(&self, command: KeyCommand) -> Result<KeyReport, RequestError> {
        Ok(self.request(|reply| Request::Keys { command, reply }).await??)
    }

    /// What happened since the start, in numbers.
    ///
    /// # Errors
    ///
    /// If the agent has stopped.
    pub async fn counters(&self) -> Result<Counters, RequestError> {
        self.request(|reply| Request::Counters { reply }).await
    }

    /// Stops, without a word to the others. Returns at once; see [`stopped`](Self::stopped).
    pub fn shutdown(&self) {
        self.shutdown.notify_one();
    }

    /// Waits until it has stopped, and says why.
    pub async fn stopped(&self) -> Stopped {
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(reason)) => *reason,
            Ok(None) | Err(_) => Stopped::Aborted,
        }
    }

    async fn request<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RequestError> {
        let (reply, outcome) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| RequestError::Stopped)?;
        outcome.await.map_err(|_| RequestError::Stopped)
    }
}
