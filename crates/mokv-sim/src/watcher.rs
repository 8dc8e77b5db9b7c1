//! Watchers: one a node, with what it is told recorded. They move on to other nodes after a while, and go on there where
//! they were.

use std::sync::Arc;
use std::time::Duration;

use mokv_check::{Range, Seen, Watch, Watched};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

use crate::cluster::Cluster;
use crate::messages;
use crate::recorder::Recorder;
use crate::seed;

/// A watcher stays with a node for up to this long.
const STAY_MAX: Duration = Duration::from_secs(4);

/// Before it asks another one.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers that wait for a watcher.
const QUEUE_MAX: usize = 16;

/// Starts a watcher that begins at a host, until `stop` is true.
pub(crate) fn start(
    cluster: &Cluster,
    recorder: &Recorder,
    stop: &watch::Receiver<bool>,
    over: Arc<watch::Sender<()>>,
    host: usize,
) {
    let rng = seed::generator(cluster.plan().seed, &format!("watcher {host}"));
    let number = 2000 + host as u64;
    let watcher = Watcher { cluster: cluster.clone(), recorder: recorder.clone(), rng, number, next: 0 };
    let stop = stop.clone();
    crate::net::harness(async move {
        watcher.run(stop, host).await;
        drop(over);
    });
}

struct Watcher {
    cluster: Cluster,
    recorder: Recorder,
    rng: SmallRng,
    number: u64,
    /// The revision to go on with; 0: it has not begun.
    next: u64,
}

impl Watcher {
    async fn run(mut self, mut stop: watch::Receiver<bool>, mut host: usize) {
        let keys = self.any_keys();
        while !*stop.borrow() {
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                () = sleep(PAUSE) => self.watch_at(host, &keys, &mut stop).await,
            }
            host = self.rng.random_range(0..self.cluster.len());
        }
    }

    fn any_keys(&mut self) -> Watched {
        match self.rng.random_range(0..4) {
            0 => Watched::Key("key-0".into()),
            1 => Watched::Range(Range::prefix("key-")),
            2 => Watched::Range(Range { start: "key-1".into(), end: "key-3".into(), ..Range::default() }),
            _ => Watched::Range(Range::default()),
        }
    }

    /// Watches at one node until it fails, or for a while.
    async fn watch_at(&mut self, host: usize, keys: &Watched, stop: &mut watch::Receiver<bool>) {
        let Some(running) = self.cluster.running(host) else { return };
        let begins = self.next == 0;
        let asked = Watch {
            keys: keys.clone(),
            start_revision: self.next,
            local: begins && self.rng.random_bool(0.3),
            list_first: begins && self.rng.random_bool(0.5),
            previous: self.rng.random_bool(0.5),
            keys_only: self.rng.random_bool(0.1),
            no_puts: self.rng.random_bool(0.1),
            no_deletes: self.rng.random_bool(0.1),
        };
        let id = self.recorder.watch(self.number, asked.clone());
        let until = Instant::now() + STAY_MAX.mul_f64(self.rng.random());
        let (sender, mut answers) = mpsc::channel::<Result<Seen, Status>>(QUEUE_MAX);
        let message = messages::watch(&asked);
        // Ends with the node, or with the watcher.
        let tasks = running.node.tasks().clone();
        let watching = tasks.spawn(async move {
            let mut stream = match running.kv().watch(message).await {
                Ok(response) => response.into_inner(),
                Err(status) => return drop(sender.send(Err(status)).await),
            };
            loop {
                let answer = match stream.message().await {
                    Ok(None) => return,
                    Ok(Some(response)) => Ok(messages::seen(response)),
                    Err(status) => Err(status),
                };
                let is_last = answer.is_err();
                if sender.send(answer).await.is_err() || is_last {
                    return;
                }
            }
        });
        self.cluster.trace().count("rpc.Watch");
        let reason = loop {
            let answer = tokio::select! {
                biased;
                _ = stop.changed() => break "stopped".to_owned(),
                answer = timeout_at(until, answers.recv()) => answer,
            };
            match answer {
                Err(_) => break "moves on".to_owned(),
                Ok(None) => break "the node died".to_owned(),
                Ok(Some(Err(status))) => {
                    if status.code() == tonic::Code::OutOfRange {
                        self.next = 0;
                    }
                    break status.message().to_owned();
                }
                Ok(Some(Ok(seen))) => {
                    if !seen.more {
                        self.next = seen.revision + 1;
                    }
                    self.recorder.seen(id, seen);
                }
            }
        };
        watching.abort();
        self.cluster.trace().note(format_args!("watch {id} at host {host} ends: {reason}; next is {}", self.next));
        self.recorder.unwatch(id, reason);
    }
}
