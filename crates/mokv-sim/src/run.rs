//! One run: a cluster is formed, meets its faults while clients use it, and has to recover when they end.
//!
//! *Safety phase*: faults and clients. *Liveness phase*: the faults end, and within a bounded time the cluster has one
//! leader, no unfinished change of its membership, answers through every node, and all nodes have the same state. Then
//! the history is judged.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use mokv_check::{Event, History, Op, Outcome, Read};
use mokv_server::node::Readiness;
use tokio::runtime::{Builder, RngSeed};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::client::{self, Client};
use crate::cluster::{self, Cluster};
use crate::nemesis::Nemesis;
use crate::net::Net;
use crate::observer::Observer;
use crate::plan::Plan;
use crate::recorder::Recorder;
use crate::seed;
use crate::trace::Trace;

/// How long a cluster whose faults have ended may take until it is well again.
pub const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// How long a call may take that is to show that a node serves.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Futile attempts to connect that a node may make in a second.
const ATTEMPTS_MAX: u64 = 100;

/// How often it is looked whether the cluster is well.
const POLL: Duration = Duration::from_millis(50);

/// States that the checker of values looks at for one key. What it leaves undecided, the revisions decide.
const VALUE_STEPS_MAX: u64 = 20_000;

/// A simulated run that takes longer than this has lost its way.
const RUN_MAX: Duration = Duration::from_secs(600);

/// The parts of a run, for scenarios that direct it themselves.
#[derive(Clone)]
pub struct World {
    /// The nodes.
    pub cluster: Cluster,
    /// The history.
    pub recorder: Recorder,
    /// The events.
    pub trace: Trace,
}

/// What became of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The run's seed.
    pub seed: u64,
    /// The promise that was broken, if one was.
    pub violation: Option<String>,
    /// The hash over all events.
    pub hash: u64,
    /// The number of events.
    pub events: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// What was counted.
    pub counts: BTreeMap<String, u64>,
    /// The last events.
    pub recent: Vec<String>,
    /// What the clients saw.
    pub history: History,
}

/// Runs the plan of a seed.
pub fn run_seed(seed: u64, is_printed: bool) -> Report {
    run_plan(&Plan::from_seed(seed), is_printed)
}

/// Runs a plan.
pub fn run_plan(plan: &Plan, is_printed: bool) -> Report {
    direct(plan, is_printed, |world| async move {
        if !world.cluster.plan().is_young {
            world.cluster.form().await;
        }
        if world.trace.violation().is_none() {
            safety(&world).await;
        }
    })
}

/// Runs a scenario on the cluster of a plan, then judges it like any other run. The cluster is not formed yet.
pub fn direct<F, R>(plan: &Plan, is_printed: bool, scenario: F) -> Report
where
    F: FnOnce(World) -> R,
    R: Future<Output = ()>,
{
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed::derived(plan.seed, "tokio").to_le_bytes()))
        .build()
        .expect("a runtime without I/O");
    drop(cluster::take_panic());
    runtime.block_on(async {
        let trace = Trace::new(is_printed);
        let recorder = Recorder::new(trace.clone());
        let observer = Observer::new(seed::generator(plan.seed, "observer"), trace.clone(), recorder.clone());
        let net = Net::new(seed::generator(plan.seed, "net"), trace.clone(), observer.clone());
        net.set_weather(plan.weather.clone());
        let cluster = Cluster::new(plan.clone(), trace.clone(), net, observer);
        let world = World { cluster, recorder, trace };
        let whole = async {
            scenario(world.clone()).await;
            world.settle_and_judge().await;
        };
        if tokio::time::timeout(RUN_MAX, whole).await.is_err() {
            world.trace.violate(format_args!("the run did not end within {RUN_MAX:?}"));
        }
        world.report(plan.seed)
    })
}

/// Faults and clients together, then no more faults.
async fn safety(world: &World) {
    let (stop, stopped) = watch::channel(false);
    let mut clients = client::start(&world.cluster, &world.recorder, &stopped);
    let mut nemesis = Nemesis::new(&world.cluster);
    let forming = async {
        if world.cluster.plan().is_young {
            world.cluster.form().await;
        }
    };
    let end = async {
        sleep(world.cluster.plan().safety).await;
        stop.send_replace(true);
    };
    let faults = async {
        tokio::join!(end, nemesis.run(stopped.clone()));
        nemesis.relent().await;
    };
    tokio::join!(forming, faults);
    // Until the last of them has its answer.
    while clients.changed().await.is_ok() {}
}

impl World {
    /// Starts the plan's clients. Returns what stops them.
    pub fn load(&self) -> LoadHandle {
        let (stop, stopped) = watch::channel(false);
        let clients = client::start(&self.cluster, &self.recorder, &stopped);
        LoadHandle { stop, clients }
    }

    /// The liveness phase, and the judgement.
    async fn settle_and_judge(&self) {
        if self.trace.violation().is_none() {
            self.settle().await;
        }
        if let Some(panic) = cluster::take_panic() {
            self.trace.violate(format_args!("a panic: {panic}"));
        }
        if self.trace.violation().is_none() {
            self.judge().await;
            self.look_for_storms();
        }
    }

    async fn judge(&self) {
        let nodes: Vec<_> = self.cluster.all_running().into_iter().map(|(_, running)| running.node).collect();
        let deadline = Instant::now() + RECOVERY_MAX;
        let is_complete = self.cluster.wait(deadline, || self.cluster.observer().has_seen_all(&nodes)).await;
        let mut history = self.recorder.history();
        if !is_complete {
            // The clients' part of the history is judged by itself.
            self.trace.count("judged without commits");
            history.events.retain(|event| !matches!(event, Event::Commit { .. }));
        }
        let verdict = mokv_check::check(&history, mokv_check::Limits { steps_max: VALUE_STEPS_MAX });
        if let Err(violation) = verdict.revisions {
            self.trace.violate(format_args!("the history is illegal: {violation}"));
        }
        match verdict.values {
            Ok(report) if report.gave_up.is_empty() => {}
            Ok(_) => self.trace.count("values not judged to the end"),
            Err(violation) => self.trace.violate(format_args!("the history is illegal by its values: {violation}")),
        }
    }

    /// A node that can't reach another one has to wait between two attempts.
    fn look_for_storms(&self) {
        let attempts = self.trace.counts().get("net.not connected").copied().unwrap_or(0);
        let per_second = attempts / (1 + self.trace.now() / 1_000_000);
        if per_second > ATTEMPTS_MAX * self.cluster.len() as u64 {
            self.trace.violate(format_args!("a storm: {per_second} futile attempts to connect each second"));
        }
    }

    async fn settle(&self) {
        let deadline = Instant::now() + RECOVERY_MAX;
        let mut missing = String::new();
        while Instant::now() < deadline {
            match self.is_well() {
                Ok(()) => {
                    missing.clear();
                    break;
                }
                Err(why) => missing = why,
            }
            // A supervisor starts again what ended by itself.
            (0..self.cluster.len()).for_each(|host| self.cluster.start(host));
            sleep(POLL).await;
        }
        if !missing.is_empty() {
            return self.trace.violate(format_args!("not well {RECOVERY_MAX:?} after the faults: {missing}"));
        }
        for (host, _) in self.cluster.all_running() {
            self.use_node(host).await;
        }
        self.compare_states().await;
    }

    /// Whether every node runs and is ready, one leads, and the membership is at rest.
    fn is_well(&self) -> Result<(), String> {
        let mut leaders = Vec::new();
        for host in (0..self.cluster.len()).filter(|host| !self.cluster.is_gone(*host)) {
            let Some(running) = self.cluster.running(host) else {
                let why = self.cluster.ended(host).unwrap_or_else(|| "it is down".into());
                return Err(format!("node {host} does not run: {why}"));
            };
            if let Readiness::NotReady(why) | Readiness::NoLeader(why) = &*running.node.readiness().borrow() {
                return Err(format!("node {host} is not ready: {why}"));
            }
            if running.node.status().is_leader() {
                leaders.push(host);
            }
        }
        if leaders.len() != 1 {
            return Err(format!("{} nodes lead", leaders.len()));
        }
        match self.cluster.observer().voters().len() {
            1 => Ok(()),
            configs => Err(format!("the membership has {configs} parts")),
        }
    }

    /// A write and a read through a node have to succeed.
    async fn use_node(&self, host: usize) {
        let number = 1000 + host as u64;
        let mut client = Client::alone(number, &self.cluster, &self.recorder).at(host).with_timeout(PROBE_TIMEOUT);
        let deadline = Instant::now() + RECOVERY_MAX;
        let key = format!("probe-{host}");
        // Where the memory is used up, sessions and values are refused, deletions are not.
        let has_quota = self.cluster.plan().memory_quota.is_some();
        loop {
            let op = match has_quota {
                true => Op::delete(&key),
                false => Op::set(&key, client.token()),
            };
            let written = client.write(op, !has_quota).await;
            let found = client.get(&key, Read::linearizable()).await;
            match (written, found) {
                (Outcome::Ok { .. }, Outcome::Ok { .. }) => return,
                (written, found) if Instant::now() > deadline => {
                    return self.trace.violate(format_args!("node {host} does not serve: {written:?}, {found:?}"));
                }
                _ => {}
            }
        }
    }

    /// All nodes reach the same entry, and have the same state there.
    pub async fn compare_states(&self) {
        let deadline = Instant::now() + RECOVERY_MAX;
        let states = || {
            let running = self.cluster.all_running();
            running.iter().map(|(_, running)| running.node.store().stats()).collect::<Vec<_>>()
        };
        let is_equal = || states().windows(2).all(|two| two[0].applied == two[1].applied);
        if !self.cluster.wait(deadline, is_equal).await {
            return self.trace.violate("the nodes don't reach the same entry");
        }
        let states = states();
        if states.windows(2).any(|two| two[0].state_hash != two[1].state_hash) {
            self.trace.violate(format_args!("the nodes have different states: {states:?}"));
        }
        for (_, running) in self.cluster.all_running() {
            self.cluster.observer().compare_state(&running.node);
        }
    }

    fn report(&self, seed: u64) -> Report {
        Report {
            seed,
            violation: self.trace.violation(),
            hash: self.trace.hash(),
            events: self.trace.events(),
            simulated: Duration::from_micros(self.trace.now()),
            counts: self.trace.counts(),
            recent: self.trace.recent(),
            history: self.recorder.history(),
        }
    }
}

/// Clients at work.
pub struct LoadHandle {
    stop: watch::Sender<bool>,
    clients: watch::Receiver<()>,
}

impl LoadHandle {
    /// Lets them finish their calls. Returns when they have.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.clients.changed().await.is_ok() {}
    }
}
