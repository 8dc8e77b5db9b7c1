//! The simulated cluster: whole nodes of the server, each with a disk, that are started, killed and replaced.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mokv_proto::api::kv_client::KvClient;
use mokv_proto::cluster::cluster_client::ClusterClient;
use mokv_proto::cluster::{
    AddMemberRequest, LeaveRequest, PromoteMemberRequest, RemoveMemberRequest, StatusRequest, TransferLeaderRequest,
};
use mokv_server::disk::sim::SimDisk;
use mokv_server::formation::core::Mode;
use mokv_server::gossip::{self, Feed, Gossip, GossipOptions};
use mokv_server::join_addrs::Found;
use mokv_server::node::{Node, Readiness, Seams};
use mokv_server::peer_service::PeerService;
use mokv_server::raft::types::NodeId;
use mokv_server::reconcile::Policy;
use mokv_server::rpc;
use mokv_server::runtime::{DiskTasks, Tasks};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Status};
use tower::util::BoxCloneSyncService;

use crate::disk::{Behaviour, Control};
use crate::net::{Net, harness};
use crate::observer::Observer;
use crate::plan::{Discovery, Plan};
use crate::seed;
use crate::trace::Trace;

/// As the server's default.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// How long a change of the membership may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// A node whose log has failed ends within this time.
const FAILURE_NOTICED_MAX: Duration = Duration::from_millis(50);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The gRPC services of a node, without a port.
pub type Service = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// The nodes of one run. Cheap to clone; clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Plan,
    trace: Trace,
    net: Net,
    observer: Observer,
    hosts: Mutex<Vec<Host>>,
    rng: Mutex<SmallRng>,
    /// Changes whenever a node came or went.
    changed: watch::Sender<u64>,
    is_formed: AtomicBool,
}

struct Host {
    addr: String,
    disk: SimDisk,
    control: Control,
    /// How often a node was started here. Also tells the present one from those before.
    starts: u64,
    state: State,
    /// Why the node may end by itself, or refuse to start.
    excuse: Option<Excuse>,
    /// Whether nothing starts here any more.
    is_gone: bool,
    /// Whether a node here forms the cluster if its disk is empty.
    bootstrap: bool,
    /// The node whose data is on the disk, once one has started.
    node_id: Option<NodeId>,
}

/// Why a node may end by itself, or refuse to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excuse {
    /// A call to its disk fails. A start after that has no excuse.
    FailedCall,
    /// Its disk is full. A start when there is room has no excuse.
    FullDisk,
    /// Its data was damaged: it has the excuse until its disk is replaced.
    Damage,
    /// Its disk is an old copy, or another node has a copy of it: as long.
    OldDisk,
}

impl Excuse {
    fn stays(self) -> bool {
        matches!(self, Self::Damage | Self::OldDisk)
    }
}

enum State {
    Off,
    /// The tasks of the node, which may be anywhere in its start.
    Starting(Tasks),
    On(Running),
    /// It ended by itself, or did not start.
    Ended(String),
}

/// A node that runs.
#[derive(Clone)]
pub struct Running {
    /// The node.
    pub node: Node,
    /// Its services.
    pub service: Service,
    watchers: Vec<AbortHandle>,
}

impl Running {
    /// A client of the public service.
    pub fn kv(&self) -> KvClient<Service> {
        KvClient::new(self.service.clone())
    }

    /// A client of the operators' service.
    pub fn operator(&self) -> ClusterClient<Service> {
        ClusterClient::new(self.service.clone())
    }
}

impl Cluster {
    /// As many hosts as the plan says, without nodes.
    pub fn new(plan: Plan, trace: Trace, net: Net, observer: Observer) -> Self {
        let rng = seed::generator(plan.seed, "cluster");
        let nodes = plan.nodes;
        let inner = Inner {
            plan,
            trace,
            net,
            observer,
            hosts: Mutex::default(),
            rng: Mutex::new(rng),
            changed: watch::Sender::default(),
            is_formed: AtomicBool::new(false),
        };
        let cluster = Self { inner: Arc::new(inner) };
        for _ in 0..nodes {
            cluster.add_host();
        }
        cluster
    }

    /// Adds a host without a node.
    pub fn add_host(&self) -> usize {
        let mut hosts = self.hosts();
        let number = hosts.len();
        let addr = format!("host-{number}:8400");
        self.inner.net.add_host(addr.clone());
        let rng = seed::generator(self.inner.plan.seed, &format!("disk {number}"));
        let usual = Behaviour { sync_max: self.inner.plan.sync_max, ..Behaviour::default() };
        hosts.push(Host {
            addr,
            disk: SimDisk::default(),
            control: Control::new(number, self.inner.trace.clone(), rng, usual),
            starts: 0,
            state: State::Off,
            excuse: None,
            is_gone: false,
            bootstrap: number == 0,
            node_id: None,
        });
        number
    }

    /// The number of hosts.
    pub fn len(&self) -> usize {
        self.hosts().len()
    }

    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The plan of the run.
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// The events of the run.
    pub fn trace(&self) -> &Trace {
        &self.inner.trace
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.inner.net
    }

    /// What is checked.
    pub fn observer(&self) -> &Observer {
        &self.inner.observer
    }

    /// How the disk of a host behaves.
    pub fn disk_control(&self, host: usize) -> Control {
        self.hosts()[host].control.clone()
    }

    /// The disk of a host, as it is now.
    pub fn disk(&self, host: usize) -> SimDisk {
        self.hosts()[host].disk.clone()
    }

    /// The node whose data is on a host's disk, whether it runs or not.
    pub fn node_id(&self, host: usize) -> Option<NodeId> {
        self.hosts()[host].node_id
    }

    /// The node on a host, if one runs.
    pub fn running(&self, host: usize) -> Option<Running> {
        match &self.hosts()[host].state {
            State::On(running) => Some(running.clone()),
            _ => None,
        }
    }

    /// The nodes that run.
    pub fn all_running(&self) -> Vec<(usize, Running)> {
        (0..self.len()).filter_map(|host| Some((host, self.running(host)?))).collect()
    }

    /// Whether the node on a host runs and is fit to serve.
    pub fn is_ready(&self, host: usize) -> bool {
        self.running(host).is_some_and(|running| *running.node.readiness().borrow() == Readiness::Ready)
    }

    /// Whether there is a process on a host, ready or not.
    pub fn is_up(&self, host: usize) -> bool {
        matches!(self.hosts()[host].state, State::On(_) | State::Starting(_))
    }

    /// Why the last node on a host ended by itself, or did not start.
    pub fn ended(&self, host: usize) -> Option<String> {
        match &self.hosts()[host].state {
            State::Ended(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// From now on the node on this host may end by itself.
    pub fn excuse(&self, host: usize, why: Excuse) {
        let excuse = &mut self.hosts()[host].excuse;
        *excuse = (*excuse).filter(|excuse| excuse.stays()).or(Some(why));
    }

    /// The host that leads, as the leader itself sees it. The one of the latest term, if several believe so.
    pub fn leader(&self) -> Option<usize> {
        let leading = self.all_running().into_iter().filter_map(|(host, running)| {
            let leadership = running.node.raft().leadership().borrow().clone();
            (leadership.role == mokv_server::raft::Role::Leader).then_some((leadership.term, host))
        });
        leading.max().map(|(_, host)| host)
    }

    /// Starts a node on a host that has none.
    pub fn start(&self, host: usize) {
        let mut hosts = self.hosts();
        let count = hosts.len();
        let slot = &mut hosts[host];
        if slot.is_gone || matches!(slot.state, State::On(_) | State::Starting(_)) {
            return;
        }
        slot.starts += 1;
        let is_over = !slot.control.is_about_to_fail() && slot.disk.capacity().is_none();
        if is_over {
            slot.excuse = slot.excuse.filter(|excuse| excuse.stays());
        }
        let (start, addr) = (slot.starts, slot.addr.clone());
        let mut options = self.inner.plan.node_options(host, addr);
        if options.mode == Mode::Alone && !slot.bootstrap {
            options.mode = Mode::Join;
        }
        let gossip = self.inner.plan.gossip_options(host, count, slot.addr.clone());
        let (feed, surroundings) = gossip::feed();
        let gossip = gossip.map(|options| (options, feed));
        let tasks_seed = seed::derived(self.inner.plan.seed, &format!("node {host} start {start}"));
        let tasks = Tasks::new(tasks_seed, DiskTasks::Inline);
        let seams = Seams {
            tasks: tasks.clone(),
            disk: slot.control.attach(slot.disk.clone()),
            peers: self.inner.net.of_node(host, tasks.clone()),
            surroundings: gossip.is_some().then_some(surroundings),
        };
        slot.state = State::Starting(tasks.clone());
        drop(hosts);
        self.inner.trace.note(format_args!("node {host} starts for the {start}. time"));
        let starting = tasks.spawn(Node::start(seams, options));
        let cluster = self.clone();
        harness(async move {
            match starting.await {
                Ok(Ok(node)) => cluster.started(host, start, node, gossip),
                Ok(Err(error)) => cluster.failed(host, start, error.to_string()),
                // The panic hook has noted the panic.
                Err(_) => {}
            }
        });
    }

    fn started(&self, host: usize, start: u64, node: Node, gossip: Option<(GossipOptions, Feed)>) {
        let mut hosts = self.hosts();
        let slot = &mut hosts[host];
        if slot.starts != start || !matches!(slot.state, State::Starting(_)) {
            return;
        }
        self.inner.trace.note(format_args!("node {host} runs as {}", node.node_id()));
        slot.node_id = Some(node.node_id());
        self.inner.observer.started(&node, host, &slot.disk, slot.excuse == Some(Excuse::OldDisk));
        self.inner.net.up(host, PeerService::new(node.clone()));
        let service = Service::new(rpc::Server::new(node.clone()).into_service());
        let mut watchers = vec![
            harness(tap(self.clone(), node.clone())),
            harness(watch_failure(self.clone(), host, start, node.clone())),
            harness(watch_log(self.clone(), host, node.clone())),
        ];
        if let Some((options, feed)) = gossip {
            let peers = feed.peers();
            let transport = self.inner.net.gossip_of(host);
            let gossip = Gossip::start(node.tasks(), node.data_dir(), transport, Arc::new(look_up), options, feed);
            let gossip = gossip.expect("short tags");
            node.follow_peers(peers, Policy { failed_grace: self.inner.plan.failed_grace, ..Policy::default() });
            watchers.push(harness(watch_gossip(self.clone(), host, start, gossip.clone())));
            watchers.push(harness(watch_departure(self.clone(), host, node.clone(), gossip)));
        }
        slot.state = State::On(Running { node, service, watchers });
        drop(hosts);
        self.notify();
    }

    /// A node that can't go on ends its process.
    fn failed(&self, host: usize, start: u64, why: String) {
        let excuse = {
            let mut hosts = self.hosts();
            let slot = &mut hosts[host];
            if slot.starts != start {
                return;
            }
            stop_tasks(&slot.state);
            slot.disk = left_behind(slot.disk.copy());
            slot.state = State::Ended(why.clone());
            slot.excuse
        };
        self.inner.net.down(host, false);
        self.inner.trace.count("ended by itself");
        match excuse {
            Some(excuse) => self.inner.trace.note(format_args!("node {host} ends ({excuse:?}): {why}")),
            None => self.inner.trace.violate(format_args!("node {host} ended without a cause: {why}")),
        }
        self.notify();
    }

    /// Kills the process on a host. What it wrote is still there, synced or not.
    pub fn kill(&self, host: usize) {
        let mut hosts = self.hosts();
        let slot = &mut hosts[host];
        stop_tasks(&slot.state);
        slot.disk = left_behind(slot.disk.copy());
        slot.state = State::Off;
        drop(hosts);
        self.inner.trace.note(format_args!("node {host} is killed"));
        self.inner.net.down(host, false);
        self.notify();
    }

    /// Kills the process on a host, and lets nothing start there any more.
    pub fn abandon(&self, host: usize) {
        self.hosts()[host].is_gone = true;
        self.kill(host);
    }

    /// Whether nothing starts on a host any more.
    pub fn is_gone(&self, host: usize) -> bool {
        self.hosts()[host].is_gone
    }

    /// Asks the node on a host to leave its cluster for good, as an operator would. It ends by itself then.
    pub async fn leave(&self, host: usize) -> Result<(), Status> {
        let running = self.running(host).ok_or_else(|| Status::unavailable("down"))?;
        let mut operator = running.operator();
        let request = with_timeout(LeaveRequest { member: String::new() });
        let leaving = running.node.tasks().spawn(async move { operator.leave(request).await.map(drop) });
        leaving.await.map_err(|_| Status::unavailable("the node died"))?
    }

    /// Takes the power from a host. Of what was not synced, each sector and each name is there or is not.
    pub fn cut_power(&self, host: usize) {
        let mut rng = seed::generator(self.rng().random(), "power");
        let kept = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        let mut hosts = self.hosts();
        let slot = &mut hosts[host];
        stop_tasks(&slot.state);
        slot.disk = left_behind(slot.disk.crash(|_| rng.random_bool(kept)));
        slot.state = State::Off;
        drop(hosts);
        self.inner.trace.note(format_args!("host {host} loses its power, {kept} of what was pending stays"));
        self.inner.net.down(host, rng.random_bool(0.5));
        self.notify();
    }

    /// Stops the node on a host as SIGTERM does. Returns when it has ended.
    pub async fn stop(&self, host: usize) {
        let Some(running) = self.running(host) else { return };
        self.inner.trace.note(format_args!("node {host} is stopped"));
        let start = self.hosts()[host].starts;
        let deadline = Instant::now() + SHUTDOWN_GRACE;
        let node = running.node.clone();
        let stopping = running.node.tasks().spawn(async move {
            node.hand_over(SHUTDOWN_GRACE / 3).await;
        });
        drop(timeout_at(deadline, stopping).await);
        // From here on it is no failure that consensus and the log end.
        running.watchers.iter().for_each(AbortHandle::abort);
        // `shutdown` ends the tasks of the node in the end: it can't be one of them.
        drop(timeout_at(deadline, running.node.shutdown()).await);
        let mut hosts = self.hosts();
        let slot = &mut hosts[host];
        if slot.starts != start || !matches!(slot.state, State::On(_)) {
            return;
        }
        stop_tasks(&slot.state);
        slot.disk = left_behind(slot.disk.copy());
        slot.state = State::Off;
        drop(hosts);
        self.inner.trace.note(format_args!("node {host} has stopped"));
        self.inner.net.down(host, false);
        self.notify();
    }

    /// Lets the process on a host stand still.
    pub fn pause(&self, host: usize) {
        if let State::On(Running { node, .. }) = &self.hosts()[host].state {
            node.tasks().pause();
        }
        self.inner.trace.note(format_args!("node {host} stands still"));
    }

    /// Lets it go on.
    pub fn resume(&self, host: usize) {
        match &self.hosts()[host].state {
            State::On(Running { node, .. }) => node.tasks().resume(),
            State::Starting(tasks) => tasks.resume(),
            State::Off | State::Ended(_) => {}
        }
        self.inner.trace.note(format_args!("node {host} goes on"));
    }

    /// Cuts a host off from all others, in both directions, until the network is healed.
    pub fn isolate(&self, host: usize) {
        for other in (0..self.len()).filter(|other| *other != host) {
            self.inner.net.cut(host, other);
            self.inner.net.cut(other, host);
        }
    }

    /// Puts an empty disk into a host without a node: what starts there next is a new node.
    pub fn replace_disk(&self, host: usize) {
        let mut hosts = self.hosts();
        let slot = &mut hosts[host];
        assert!(matches!(slot.state, State::Off | State::Ended(_)), "a node runs on the disk that is to be replaced");
        slot.disk = SimDisk::default();
        slot.control.restore();
        slot.state = State::Off;
        slot.excuse = None;
        slot.bootstrap = false;
        slot.node_id = None;
        drop(hosts);
        self.inner.trace.note(format_args!("host {host} gets an empty disk"));
    }

    /// Puts this disk into a host without a node.
    pub fn set_disk(&self, host: usize, disk: SimDisk) {
        let mut hosts = self.hosts();
        hosts[host].disk = disk;
    }

    /// Makes the node on a host a member, as an operator would: again and again until it is one, or until the deadline. A
    /// node that is down is started.
    pub async fn join(&self, host: usize, deadline: Instant) -> bool {
        if self.inner.plan.discovery != Discovery::Operator {
            return self.follows(host, deadline).await;
        }
        let has_joined = self
            .until(deadline, || async {
                self.start(host);
                let addr = self.hosts()[host].addr.clone();
                self.change(|mut operator| {
                    let request = with_timeout(AddMemberRequest { rpc_addr: addr.clone(), learner: false });
                    async move { operator.add_member(request).await.map(drop) }
                })
                .await
            })
            .await;
        if let (true, Some(node_id)) = (has_joined, self.node_id(host)) {
            self.inner.observer.membership_changed(node_id, true).await;
        }
        has_joined
    }

    /// Waits until the node on a host has found the others, and votes.
    async fn follows(&self, host: usize, deadline: Instant) -> bool {
        let is_voter = || {
            let voters = self.inner.observer.voters();
            voters.len() == 1 && self.node_id(host).is_some_and(|node_id| voters[0].contains(&node_id))
        };
        while !is_voter() {
            if Instant::now() > deadline {
                return false;
            }
            self.start(host);
            sleep(POLL).await;
        }
        true
    }

    /// Removes a member, as an operator would. Where nodes find each other, the one that takes its place replaces it.
    pub async fn remove(&self, node_id: NodeId, deadline: Instant) -> bool {
        if self.inner.plan.discovery != Discovery::Operator {
            return true;
        }
        let is_removed = self
            .until(deadline, || async {
                let removed = self
                    .change(|mut operator| {
                        let request = RemoveMemberRequest { member: node_id.to_string(), force: false };
                        async move { operator.remove_member(with_timeout(request)).await.map(drop) }
                    })
                    .await;
                match removed {
                    // An attempt before, of which nobody heard.
                    Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
                    other => other,
                }
            })
            .await;
        if is_removed {
            self.inner.observer.membership_changed(node_id, false).await;
        }
        is_removed
    }

    /// Asks for a promotion, which has no effect for a voter.
    pub async fn promote(&self, node_id: NodeId) -> Result<(), Status> {
        self.change(|mut operator| {
            let request = PromoteMemberRequest { member: node_id.to_string() };
            async move { operator.promote_member(with_timeout(request)).await.map(drop) }
        })
        .await
    }

    /// Hands leadership to whoever is fittest.
    pub async fn transfer(&self) -> Result<(), Status> {
        self.change(|mut operator| async move {
            operator.transfer_leader(with_timeout(TransferLeaderRequest { member: String::new() })).await.map(drop)
        })
        .await
    }

    /// Asks some node of the cluster to change it.
    async fn change<F, R>(&self, call: F) -> Result<(), Status>
    where
        F: Fn(ClusterClient<Service>) -> R,
        R: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let running: Vec<_> =
            self.all_running().into_iter().filter(|(_, running)| !running.node.raft().members().is_empty()).collect();
        if running.is_empty() {
            return Err(Status::unavailable("no node runs"));
        }
        let (_, running) = &running[self.rng().random_range(0..running.len())];
        let calling = running.node.tasks().spawn(call(running.operator()));
        match timeout(2 * CHANGE_TIMEOUT, calling).await {
            Ok(Ok(answer)) => {
                let outcome = answer.as_ref().map_or_else(|status| format!("{:?}", status.code()), |()| "Ok".into());
                self.inner.trace.count(format!("admin.{outcome}"));
                answer
            }
            Ok(Err(_)) => Err(Status::unavailable("the node died")),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }

    async fn until<F>(&self, deadline: Instant, attempt: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), Status>>,
    {
        loop {
            match attempt().await {
                Ok(()) => return true,
                Err(status) => {
                    self.inner.trace.note(format_args!("a change of the cluster failed: {}", status.message()))
                }
            }
            if Instant::now() > deadline {
                return false;
            }
            sleep(POLL).await;
        }
    }

    /// Starts all nodes and makes them one cluster.
    pub async fn form(&self) {
        let hosts = self.len();
        (0..hosts).for_each(|host| self.start(host));
        let deadline = Instant::now() + Duration::from_secs(60);
        for host in 0..hosts {
            while self.running(host).is_none() {
                sleep(POLL).await;
            }
            if host > 0 && !self.join(host, deadline).await {
                return self.inner.trace.violate(format_args!("node {host} could not join"));
            }
        }
        self.inner.is_formed.store(true, Ordering::Relaxed);
    }

    /// Whether all nodes have become one cluster. Until then each may have what no other has.
    pub fn is_formed(&self) -> bool {
        self.inner.is_formed.load(Ordering::Relaxed)
    }

    /// Waits until `is_reached`, looking every few milliseconds. False if it is not by the deadline.
    pub async fn wait(&self, deadline: Instant, is_reached: impl Fn() -> bool) -> bool {
        while !is_reached() {
            if Instant::now() > deadline {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }

    /// What a node says of itself, through the operators' service.
    pub async fn status(&self, host: usize) -> Result<mokv_proto::cluster::StatusResponse, Status> {
        let running = self.running(host).ok_or_else(|| Status::unavailable("down"))?;
        let mut operator = running.operator();
        let asking = running.node.tasks().spawn(async move { operator.status(StatusRequest {}).await });
        asking.await.map_err(|_| Status::unavailable("the node died"))?.map(tonic::Response::into_inner)
    }

    fn notify(&self) {
        self.inner.changed.send_modify(|changes| *changes += 1);
    }

    fn hosts(&self) -> MutexGuard<'_, Vec<Host>> {
        self.inner.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rng(&self) -> MutexGuard<'_, SmallRng> {
        self.inner.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk of a process that is gone, which took the calls with it that were to fail.
pub(crate) fn left_behind(disk: SimDisk) -> SimDisk {
    disk.fail_syncs(0);
    disk
}

fn with_timeout<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CHANGE_TIMEOUT);
    request
}

fn stop_tasks(state: &State) {
    match state {
        State::Starting(tasks) => tasks.abort(),
        State::On(running) => {
            running.node.tasks().abort();
            running.watchers.iter().for_each(AbortHandle::abort);
        }
        State::Off | State::Ended(_) => {}
    }
}

/// Shows the observer what a node applies.
async fn tap(cluster: Cluster, node: Node) {
    let mut progress = node.store().progress();
    let mut seen = 0;
    loop {
        progress.borrow_and_update();
        cluster.observer().applied(&node, &mut seen).await;
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// Ends a node that can't go on, as its process would.
async fn watch_failure(cluster: Cluster, host: usize, start: u64, node: Node) {
    let why = node.failed().await;
    cluster.failed(host, start, why);
}

/// Ends a node whose gossip can't go on.
async fn watch_gossip(cluster: Cluster, host: usize, start: u64, gossip: Gossip) {
    let why = gossip.failed().await;
    cluster.failed(host, start, why);
}

/// Ends a node that has left its cluster, as its process would.
async fn watch_departure(cluster: Cluster, host: usize, node: Node, gossip: Gossip) {
    node.left().await;
    cluster.trace().note(format_args!("node {host} has left"));
    drop(timeout(SHUTDOWN_GRACE, gossip.leave()).await);
    cluster.abandon(host);
}

/// Addresses are numbers here.
fn look_up(address: String) -> Found {
    let parsed = address.parse::<SocketAddr>();
    Box::pin(ready(parsed.map(|address| vec![address]).map_err(io::Error::other)))
}

/// A node whose log has failed must not go on as if it had one.
async fn watch_log(cluster: Cluster, host: usize, node: Node) {
    let mut status = node.log().status();
    let Some(why) = status.wait_for(|now| now.failure.is_some()).await.ok().and_then(|now| now.failure.clone()) else {
        return;
    };
    sleep(FAILURE_NOTICED_MAX).await;
    cluster.trace().violate(format_args!("node {host} goes on, though its log has failed: {why}"));
}

thread_local! {
    static PANIC: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// From now on a panic on any thread is remembered by it. Called once.
pub fn note_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANIC.with_borrow_mut(|first| {
            first.get_or_insert_with(|| info.to_string());
        });
        before(info);
    }));
}

/// The first panic of this thread since the last call.
pub fn take_panic() -> Option<String> {
    PANIC.take()
}
