//! How one call finds its way: which endpoint is asked, when the next one is, and when to give up.
//!
//! It owns the connections, one an endpoint, made when they are first needed and again whenever they broke. It promises
//! that a call ends by its deadline, and that what may have taken effect is sent again only where the caller allowed it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mokv_proto::api::kv_client::KvClient;
use mokv_proto::cluster::cluster_client::ClusterClient;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

use crate::client::Client;
use crate::error::{Effect, Error};

/// A node that does not take a connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A node that is silent this long while calls wait is asked for a sign of life, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Above the largest request a server can be told to take.
const MESSAGE_BYTES_MAX: usize = (8 << 20) + (64 << 10);
/// The pause after the first round in which no endpoint answered; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// About the time that an election takes.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What may be done when an endpoint fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Ask each other endpoint once, unless the call may have taken effect.
    OnceEach,
    /// Ask all endpoints again and again until the deadline, even if the call may have taken effect: the cluster makes
    /// sure that it does so once.
    UntilDeadline,
}

/// How long a call may take, all that is done for it included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

impl Limit {
    /// The limit of a call that begins now.
    pub(crate) fn from_now(timeout: Duration) -> Self {
        Self { timeout, deadline: Instant::now() + timeout }
    }
}

/// The endpoints and their connections.
#[derive(Debug)]
pub(crate) struct Endpoints {
    nodes: Vec<Node>,
    /// The one that answered last, or comes after the one that did not answer in time: calls begin with it.
    preferred: AtomicUsize,
    /// Draws how long pauses are.
    rng: Mutex<SmallRng>,
}

#[derive(Debug)]
struct Node {
    address: String,
    channel: Channel,
}

/// A stream that a node has opened.
#[derive(Debug)]
pub(crate) struct Opened<T> {
    /// Who answers.
    pub(crate) node: NodeRef,
    pub(crate) stream: T,
}

/// One of the nodes, as [`Client::avoid`] takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeRef(usize);

impl Client {
    /// Opens a stream, within a limit on how long that may take, on one node after the other until one does. Streams have
    /// connections of their own, and no deadline unless the caller watches over them: see [`Client::avoid`].
    pub(crate) async fn open<T, F>(&self, limit: Limit, send: impl Fn(Attempt) -> F) -> Result<Opened<T>, Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let send = |attempt: Attempt| {
            let node = attempt.node;
            let sent = send(attempt);
            async move { Ok(Response::new(Opened { node, stream: sent.await? })) }
        };
        self.endpoints.call(Effect::Harmless, Retry::UntilDeadline, limit, send).await
    }

    /// Notes that a node was silent where it should not have been: calls go to others as long as it stays so.
    pub(crate) fn avoid(&self, node: NodeRef) {
        self.endpoints.preferred.store((node.0 + 1) % self.endpoints.nodes.len(), Ordering::Relaxed);
    }
}

/// One attempt of a call: the connection to use, and what is left of the time.
pub(crate) struct Attempt {
    node: NodeRef,
    channel: Channel,
    time_left: Duration,
}

impl Attempt {
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub(crate) fn time_left(&self) -> Duration {
        self.time_left
    }

    /// A request that tells the server how long the client will wait.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.time_left);
        request
    }
}

impl Endpoints {
    pub(crate) fn parse(text: &str, connect: impl Fn(&Endpoint) -> Channel, rng: SmallRng) -> Result<Self, Error> {
        let list = text.strip_prefix("mokv://").unwrap_or(text).trim_end_matches('/');
        let nodes = list.split(',').map(|address| Node::new(address.trim(), &connect)).collect::<Result<_, _>>()?;
        Ok(Self { nodes, preferred: AtomicUsize::new(0), rng: Mutex::new(rng) })
    }

    /// Makes a call. `send` is called for each attempt.
    pub(crate) async fn call<T, F>(
        &self,
        effect: Effect,
        retry: Retry,
        limit: Limit,
        send: impl Fn(Attempt) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let Limit { timeout, deadline } = limit;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failures = Failures::default();
        for attempt in 0.. {
            let index = (first + attempt) % self.nodes.len();
            let node = &self.nodes[index];
            let time_left = deadline.saturating_duration_since(Instant::now());
            let sent = send(Attempt { node: NodeRef(index), channel: node.channel.clone(), time_left });
            let error = match timeout_at(deadline, sent).await {
                Ok(Ok(response)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => Error::from_status(&status, effect),
                Err(_) => Error::timed_out(effect, timeout),
            };
            if Instant::now() >= deadline {
                // The next call does not begin with the node on which this one spent its time.
                self.preferred.store((index + 1) % self.nodes.len(), Ordering::Relaxed);
            }
            let again = may_ask_again(&error, retry);
            failures.add(&node.address, error);
            let round_ended = (attempt + 1) % self.nodes.len() == 0;
            if !again || Instant::now() >= deadline || (round_ended && retry == Retry::OnceEach) {
                break;
            }
            if round_ended {
                let pause = self.pause_after_round((attempt + 1) / self.nodes.len());
                if Instant::now() + pause >= deadline {
                    break;
                }
                sleep(pause).await;
            }
        }
        Err(failures.into_error())
    }

    /// Doubles with each round. Half of it is chance, so that the clients of a lost leader don't come back all at once.
    fn pause_after_round(&self, round: usize) -> Duration {
        let doubled = u32::try_from(round - 1).ok().and_then(|shift| 1_u32.checked_shl(shift)).unwrap_or(u32::MAX);
        let pause = PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX);
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        pause.mul_f64(rng.random_range(0.5..=1.0))
    }
}

impl Node {
    fn new(address: &str, connect: &impl Fn(&Endpoint) -> Channel) -> Result<Self, Error> {
        let wrong = || Error::Invalid(format!("{address:?} is no endpoint: write host:port, like 127.0.0.1:8400"));
        let uri: Uri = format!("http://{address}").parse().map_err(|_| wrong())?;
        let is_bare = uri.path() == "/" && uri.query().is_none() && !address.contains('@') && !address.ends_with('/');
        if !is_bare || uri.port_u16().is_none_or(|port| port == 0) || uri.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .tcp_nodelay(true);
        Ok(Self { address: address.to_owned(), channel: connect(&endpoint) })
    }
}

fn may_ask_again(error: &Error, retry: Retry) -> bool {
    match error {
        Error::Unavailable(_) => true,
        Error::OutcomeUnknown(_) => retry == Retry::UntilDeadline,
        _ => false,
    }
}

/// What the attempts of one call came to.
#[derive(Debug, Default)]
struct Failures {
    last: Option<Error>,
    /// Why each endpoint could not answer the last time that it was asked.
    reasons: BTreeMap<String, String>,
    /// An earlier attempt may have taken effect.
    unknown: bool,
}

impl Failures {
    fn add(&mut self, address: &str, error: Error) {
        if let Error::Unavailable(reason) | Error::OutcomeUnknown(reason) = &error {
            self.reasons.insert(address.to_owned(), reason.clone());
        }
        self.unknown |= matches!(error, Error::OutcomeUnknown(_));
        self.last = Some(error);
    }

    fn into_error(self) -> Error {
        let reasons: Vec<_> = self.reasons.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
        let reasons = reasons.join("; ");
        match self.last {
            Some(Error::Unavailable(_)) if !self.unknown => Error::Unavailable(reasons),
            Some(error) if !self.unknown => error,
            _ => Error::OutcomeUnknown(reasons),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn parse(text: &str) -> Result<Endpoints, Error> {
        Endpoints::parse(text, Endpoint::connect_lazy, SmallRng::seed_from_u64(1))
    }

    #[tokio::test]
    async fn endpoints_are_host_and_port() {
        let good = ["127.0.0.1:8400", "mokv://a:1,b:2", "a:1, b:2", "[::1]:8400", "mokv://a:1/"];
        for text in good {
            parse(text).expect(text);
        }
        let bad =
            ["", "a", "a:", "a:0", "a:99999", ":1", "a:1,", "http://a:1", "a:1/x", "a:1?x", "u@a:1", "a:1,b:2/,c:3"];
        for text in bad {
            let error = parse(text).expect_err(text);
            assert!(matches!(&error, Error::Invalid(reason) if reason.contains("host:port")), "{text}: {error}");
        }
    }

    #[test]
    fn an_effect_that_was_possible_once_stays_possible() {
        let unavailable = || Error::Unavailable("refused".into());
        let unknown = || Error::OutcomeUnknown("broke".into());
        let join = |errors: Vec<Error>| {
            let mut failures = Failures::default();
            for (index, error) in errors.into_iter().enumerate() {
                failures.add(&format!("n{index}"), error);
            }
            failures.into_error()
        };
        assert_eq!(join(vec![unavailable(), unavailable()]), Error::Unavailable("n0: refused; n1: refused".into()));
        assert_eq!(join(vec![unknown(), unavailable()]), Error::OutcomeUnknown("n0: broke; n1: refused".into()));
        assert!(matches!(join(vec![unknown(), Error::DiskFull("d".into())]), Error::OutcomeUnknown(_)));
        assert_eq!(join(vec![unavailable(), Error::DiskFull("d".into())]), Error::DiskFull("d".into()));
    }

    #[tokio::test]
    async fn pauses_grow_to_a_bound() {
        let endpoints = parse("a:1").expect("endpoints");
        for (round, longest) in [(1, 50), (2, 100), (3, 200), (6, 1_000), (64, 1_000)] {
            let longest = Duration::from_millis(longest);
            let pause = endpoints.pause_after_round(round);
            assert!(longest / 2 <= pause && pause <= longest, "round {round}: {pause:?}");
        }
    }
}
