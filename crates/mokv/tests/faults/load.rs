//! Clients that write and read all the time, and keep what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mokv_client::{Client, Error, Pair, Written as Answered};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, eventually};
use crate::history::{Call, Found, History, Op, Outcome, Written};

const CLIENTS: usize = 8;

/// Keys that all clients write and read; every other key is written once.
const REGISTERS: usize = 4;

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Between a call that failed and the next one.
const PAUSE: Duration = Duration::from_millis(20);

/// Whom a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Any node. Every other client repeats writes whose outcome is unknown.
    All,
    /// One node, and nobody else if that one does not answer.
    One,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Call>>>,
}

struct Shared {
    begin: Instant,
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, reach: Reach) -> Self {
        let shared = Shared { begin: Instant::now(), stop: AtomicBool::new(false), acknowledged: AtomicU64::new(0) };
        let shared = Arc::new(shared);
        let clients = (0..CLIENTS).map(|number| {
            let node = number % cluster.nodes.len();
            let client = match reach {
                Reach::All => cluster.client(node),
                Reach::One => cluster.nodes[node].client().clone(),
            };
            let client = client.with_timeout(TIMEOUT);
            let repeats = reach == Reach::All && number % 2 == 1;
            let client = if repeats { client } else { client.at_most_once() };
            let worker = Worker { shared: shared.clone(), number, client };
            tokio::spawn(worker.run())
        });
        Self { clients: clients.collect(), shared }
    }

    pub(crate) fn now(&self) -> Duration {
        self.shared.begin.elapsed()
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many further writes were acknowledged.
    pub(crate) async fn progress(&self, writes: u64) {
        let until = self.acknowledged() + writes;
        eventually("writes are acknowledged", async || {
            let now = self.acknowledged();
            if now >= until { Ok(()) } else { Err(format!("{now} of {until}")) }
        })
        .await;
    }

    /// Waits for the calls that are under way.
    pub(crate) async fn stop(self) -> History {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut calls = Vec::new();
        for client in self.clients {
            calls.extend(client.await.expect("client"));
        }
        History { calls }
    }
}

struct Worker {
    shared: Arc<Shared>,
    number: usize,
    client: Client,
}

impl Worker {
    async fn run(self) -> Vec<Call> {
        let mut calls = Vec::new();
        for count in 0.. {
            if self.shared.stop.load(Ordering::SeqCst) {
                break;
            }
            let call = self.call(count).await;
            match &call.op {
                Op::Set { outcome: Outcome::Answered(_), .. } => {
                    self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                Op::Get(Outcome::Answered(_)) => {}
                _ => tokio::time::sleep(PAUSE).await,
            }
            calls.push(call);
        }
        calls
    }

    async fn call(&self, count: usize) -> Call {
        let register = format!("register-{}", (self.number + count / 4) % REGISTERS);
        let begin = self.shared.begin.elapsed();
        let (key, op) = match count % 4 {
            0 | 1 => {
                let key = format!("client-{}/{count}", self.number);
                let op = self.set(&key, count).await;
                (key, op)
            }
            2 => {
                let op = self.set(&register, count).await;
                (register, op)
            }
            _ => {
                let found = self.client.get(&register).await;
                (register, Op::Get(outcome(found.map(|found| found.map(Found::from)))))
            }
        };
        Call { client: self.number, key, begin, end: self.shared.begin.elapsed(), op }
    }

    async fn set(&self, key: &str, count: usize) -> Op {
        let value = format!("{}/{count}", self.number);
        let answer = self.client.set(key, value.clone()).await;
        Op::Set { value, outcome: outcome(answer.map(|Answered { revision, .. }| Written { revision })) }
    }
}

impl From<Pair> for Found {
    fn from(Pair { value, mod_revision, revision, .. }: Pair) -> Self {
        Self { value: String::from_utf8_lossy(&value).into_owned(), mod_revision, revision }
    }
}

/// Takes the client at its word: what it does not call unknown had no effect.
fn outcome<T>(answer: Result<T, Error>) -> Outcome<T> {
    match answer {
        Ok(answer) => Outcome::Answered(answer),
        Err(error @ Error::OutcomeUnknown(_)) => Outcome::Unknown(error.to_string()),
        Err(error @ Error::Unexpected { .. }) => Outcome::Unknown(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}
