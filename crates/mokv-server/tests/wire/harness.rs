//! A cluster on simulated hosts, and the conditions that tests wait for.
//!
//! A test is a scenario: what one more host, the one of the clients, does and sees. It partitions links by itself
//! (`turmoil::partition`); what only the simulation can do (crash a host, change a link) it orders.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::time::{Duration, UNIX_EPOCH};

use mokv_client::Client;
use mokv_server::discovery::{Peer, PeerState, PeerTags, Peers};
use mokv_server::disk::sim::SimDisk;
use mokv_server::formation::Surroundings;
use mokv_server::formation::core::Mode;
use mokv_server::incarnation::{Lineage, Starts};
use mokv_server::node::{Limits, Node, NodeOptions, Seams};
use mokv_server::peer::Caller;
use mokv_server::raft::RaftOptions;
use mokv_server::raft::log::LogOptions;
use mokv_server::raft::network::NetworkOptions;
use mokv_server::raft::types::NodeId;
use mokv_server::rpc;
use mokv_server::rpc::peer::GrpcNetwork;
use mokv_server::runtime::{DiskTasks, Tasks};
use mokv_server::server::Ended;
use mokv_server::status::NodeStatus;
use mokv_server::store::Store;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use turmoil::Sim;

use crate::sockets::{self, Port};

/// The host on which scenarios run.
pub(crate) const CLIENTS: &str = "clients";

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Every condition holds within this time, or never; where a promise is tighter the test says so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// As long as a run may take, in simulated time.
const RUN_MAX: Duration = Duration::from_secs(180);

/// Seeds of one test, unless the environment says otherwise.
const SEEDS: u64 = 2;

/// As in production, with the default timeouts.
pub(crate) const APPEND_TIMEOUT: Duration = Duration::from_millis(2800);

const PORT: u16 = 8400;

/// What a simulation is made of.
pub(crate) struct Setup {
    /// Nodes. The first forms a cluster; the others join it unless `form` is not set.
    pub(crate) nodes: usize,
    /// Whether the scenario begins with a cluster of all nodes.
    pub(crate) form: bool,
    /// Whether the nodes have gossip; the scenario feeds it with [`World::gossip`].
    pub(crate) gossip: bool,
    pub(crate) options: fn(&mut NodeOptions),
    /// Of the network.
    pub(crate) network: fn(&mut turmoil::Builder),
}

impl Default for Setup {
    fn default() -> Self {
        Self { nodes: 3, form: true, gossip: false, options: |_| {}, network: |_| {} }
    }
}

impl Setup {
    /// Runs a scenario with some seeds.
    pub(crate) fn run<F>(self, scenario: impl Fn(World) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        for seed in seeds() {
            self.run_seed(seed, &scenario);
        }
    }

    /// Runs a scenario with one seed and returns what it returns.
    pub(crate) fn run_seed<F, T: 'static>(&self, seed: u64, scenario: impl FnOnce(World) -> F) -> T
    where
        F: Future<Output = T> + 'static,
    {
        name_on_panic(seed);
        let mut network = turmoil::Builder::new();
        network
            .rng_seed(seed)
            .enable_random_order()
            .epoch(UNIX_EPOCH)
            .simulation_duration(RUN_MAX)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(5))
            .tcp_capacity(256);
        (self.network)(&mut network);
        let mut sim = network.build();
        let world = World::new(seed, self);
        for host in &world.inner.hosts {
            let host = host.clone();
            sim.host(host.options.name.clone(), move || host.clone().run());
        }
        let (form, result) = (self.form, Rc::new(RefCell::new(None)));
        let (told, playing) = (result.clone(), scenario(world.clone()));
        let beginning = world.clone();
        sim.client(CLIENTS, async move {
            if form {
                beginning.form().await;
            }
            *told.borrow_mut() = Some(playing.await);
            Ok(())
        });
        while !sim.step().expect("the run goes on") {
            world.carry_out(&mut sim);
        }
        result.take().expect("the scenario has ended")
    }
}

/// The seeds to run.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("MOKV_WIRE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MOKV_WIRE_SEEDS").unwrap_or(SEEDS),
    }
}

thread_local! {
    /// The seed that runs on this thread.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Lets the first panic of a run say how to see it again. At once: what unwinds through a simulation may end the process.
fn name_on_panic(seed: u64) {
    static HOOK: Once = Once::new();
    SEED.set(Some(seed));
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if let Some(seed) = SEED.take() {
                eprintln!("failed with MOKV_WIRE_SEED={seed}");
            }
            report(panic);
        }));
    });
}

/// What a scenario sees and moves. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    inner: Rc<Inner>,
}

struct Inner {
    seed: u64,
    rng: RefCell<SmallRng>,
    hosts: Vec<Rc<Host>>,
    orders: RefCell<VecDeque<(Order, oneshot::Sender<()>)>>,
}

/// What the scenario can't do from within the simulation.
enum Order {
    Crash(usize),
    Start(usize),
    Latency(usize, usize, Duration),
    LossRate(f64),
}

/// A host of a node: its disk outlives its runs.
struct Host {
    seed: u64,
    options: NodeOptions,
    disk: RefCell<SimDisk>,
    running: RefCell<Option<Node>>,
    /// Starts so far.
    starts: RefCell<u64>,
    gossip: Option<Gossip>,
}

/// What gossip tells a node.
struct Gossip {
    peers: watch::Sender<Arc<Peers>>,
    has_joined: watch::Sender<bool>,
}

impl Host {
    /// What the host runs, each time that it starts.
    async fn run(self: Rc<Self>) -> turmoil::Result {
        while self.run_node().await? == Ended::Dissolved {}
        Ok(())
    }

    async fn run_node(&self) -> Result<Ended, Box<dyn std::error::Error>> {
        let start = self.starts.replace_with(|starts| *starts + 1);
        let tasks = Tasks::new(self.seed ^ (start << 32), DiskTasks::Inline);
        let disk = self.disk.borrow().clone();
        let peers = Arc::new(GrpcNetwork::new(sockets::connect));
        let seams = Seams { tasks: tasks.clone(), disk: Arc::new(disk), peers, surroundings: self.surroundings() };
        let serving = async {
            let node = Node::start(seams, self.options.clone()).await?;
            let server = rpc::Server::new(node.clone())
                .with(rpc::peer::peer_service(node.clone()))
                .with(rpc::peer::join_service(node.clone()));
            self.running.replace(Some(node.clone()));
            let port = Port::open(PORT).await?;
            let mut leadership = node.raft().leadership();
            tokio::select! {
                biased;
                failed = leadership.wait_for(|now| now.failure.is_some()) => Err(failed?.failure.clone().unwrap_or_default().into()),
                () = node.must_dissolve() => {
                    self.running.replace(None);
                    node.dissolve().await?;
                    Ok(Ended::Dissolved)
                }
                served = server.serve(port, std::future::pending()) => {
                    served?;
                    Ok(Ended::Stopped)
                }
            }
        };
        tasks.scope(serving).await
    }

    fn surroundings(&self) -> Option<Surroundings> {
        let Gossip { peers, has_joined } = self.gossip.as_ref()?;
        Some(Surroundings { peers: peers.subscribe(), has_joined: has_joined.subscribe() })
    }

    /// What the node on this host says of itself in gossip.
    fn peer(&self) -> Option<Peer> {
        let node = self.running.borrow().clone()?;
        let identity = node.data_dir().identity();
        let tags = PeerTags {
            node_id: identity.node_id,
            cluster_id: identity.cluster_id,
            rpc_addr: self.options.rpc_addr.clone(),
            version: "1".into(),
        };
        Some(Peer {
            name: self.options.name.clone(),
            gossip_addr: SocketAddr::from(([127, 0, 0, 1], 8401)),
            state: PeerState::Alive,
            since: Instant::now(),
            tags: Some(tags),
        })
    }
}

impl World {
    fn new(seed: u64, setup: &Setup) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let host = |index: usize| {
            let mut options = NodeOptions {
                data_dir: PathBuf::from("/data"),
                name: name(index),
                rpc_addr: address(index),
                mode: if index == 0 { Mode::Alone } else { Mode::Join },
                raft: RaftOptions {
                    heartbeat_interval: Duration::from_millis(150),
                    election_timeout_min: Duration::from_millis(600),
                    election_timeout_max: Duration::from_millis(1200),
                    network: NetworkOptions {
                        append_timeout: APPEND_TIMEOUT,
                        snapshot_idle_timeout: Duration::from_secs(60),
                    },
                },
                // Small, because the simulated disk is memory.
                log: LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() },
                limits: Limits::default(),
                memory_quota: None,
                snapshot_log_bytes: 64 << 20,
                history_bytes: 64 << 20,
                lease_reads: false,
            };
            (setup.options)(&mut options);
            let seed = rng.random();
            Rc::new(Host {
                seed,
                options,
                disk: RefCell::default(),
                running: RefCell::default(),
                starts: RefCell::default(),
                gossip: setup
                    .gossip
                    .then(|| Gossip { peers: watch::Sender::default(), has_joined: watch::Sender::default() }),
            })
        };
        let hosts = (0..setup.nodes).map(host).collect();
        let inner = Inner { seed, rng: RefCell::new(rng), hosts, orders: RefCell::default() };
        Self { inner: Rc::new(inner) }
    }

    /// Makes all nodes one cluster.
    pub(crate) async fn form(&self) {
        let all_run = || (0..self.inner.hosts.len()).all(|index| self.running(index).is_some());
        self.until("all run", PATIENCE, all_run).await;
        for index in 1..self.inner.hosts.len() {
            self.join(index).await;
        }
        self.leader().await;
    }

    /// Lets these nodes see of each other what there is to see now. What they saw earlier of others has failed.
    pub(crate) fn gossip(&self, among: impl IntoIterator<Item = usize>) {
        let hosts: Vec<&Rc<Host>> = among.into_iter().map(|index| &self.inner.hosts[index]).collect();
        let seen: Peers = hosts.iter().filter_map(|host| Some((host.options.name.clone(), host.peer()?))).collect();
        for Gossip { peers, has_joined } in hosts.iter().filter_map(|host| host.gossip.as_ref()) {
            let mut now = seen.clone();
            for (name, peer) in peers.borrow().iter() {
                now.entry(name.clone()).or_insert_with(|| Peer { state: PeerState::Failed, ..peer.clone() });
            }
            peers.send_replace(Arc::new(now));
            has_joined.send_replace(hosts.len() > 1);
        }
    }

    /// Lets a node forget whom it saw, as a new one does.
    pub(crate) fn forget_gossip(&self, index: usize) {
        if let Some(gossip) = &self.inner.hosts[index].gossip {
            gossip.peers.send_replace(Arc::default());
            gossip.has_joined.send_replace(false);
        }
    }

    /// Whether a node is in a cluster, or was before it crashed.
    pub(crate) fn has_cluster_on_disk(&self) -> bool {
        let has_cluster = |host: &Rc<Host>| {
            let disk = host.disk.borrow();
            let file = host.options.data_dir.join("identity");
            disk.paths().contains(&file) && String::from_utf8_lossy(&disk.content(&file)).contains("\ncluster-id")
        };
        self.inner.hosts.iter().any(has_cluster)
    }

    /// Lets nodes see each other, again and again, until a condition holds. Returns how long it took.
    pub(crate) async fn gossip_until(
        &self,
        what: &str,
        within: Duration,
        among: &[usize],
        holds: impl Fn() -> bool,
    ) -> Duration {
        self.until(what, within, || {
            self.gossip(among.iter().copied());
            holds()
        })
        .await
    }

    /// Makes a node a voter.
    pub(crate) async fn join(&self, index: usize) {
        self.join_as(index, false).await;
    }

    /// Makes a node a member.
    pub(crate) async fn join_as(&self, index: usize, learner: bool) {
        let client = self.client();
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = client.add_member(&address(index), learner).await {
            assert!(Instant::now() < deadline, "{} does not join: {error}", name(index));
            sleep(POLL).await;
        }
    }

    /// Carries out what the scenario ordered.
    fn carry_out(&self, sim: &mut Sim<'_>) {
        let orders = std::mem::take(&mut *self.inner.orders.borrow_mut());
        for (order, done) in orders {
            match order {
                Order::Crash(index) => {
                    let host = &self.inner.hosts[index];
                    sim.crash(name(index));
                    host.running.replace(None);
                    let left = host.disk.borrow().crash(|_| self.inner.rng.borrow_mut().random());
                    host.disk.replace(left);
                }
                Order::Start(index) => sim.bounce(name(index)),
                Order::Latency(a, b, latency) => sim.set_link_latency(name(a), name(b), latency),
                Order::LossRate(rate) => sim.set_fail_rate(rate),
            }
            done.send(()).expect("the scenario waits for it");
        }
    }

    async fn order(&self, order: Order) {
        let (done, carried_out) = oneshot::channel();
        self.inner.orders.borrow_mut().push_back((order, done));
        carried_out.await.expect("the simulation goes on");
    }

    /// Crashes a host: its connections are reset, and of what its disk had not synced a part is lost.
    pub(crate) async fn crash(&self, index: usize) {
        self.order(Order::Crash(index)).await;
    }

    /// Starts a host that crashed, with what its disk has.
    pub(crate) async fn start(&self, index: usize) {
        self.order(Order::Start(index)).await;
    }

    /// Gives a host that crashed an empty disk.
    pub(crate) fn wipe(&self, index: usize) {
        self.inner.hosts[index].disk.take();
    }

    /// From now on messages between two nodes take this long.
    pub(crate) async fn set_latency(&self, a: usize, b: usize, latency: Duration) {
        self.order(Order::Latency(a, b, latency)).await;
    }

    /// From now on so many of the messages cut the link that they are on, for a while.
    pub(crate) async fn set_loss_rate(&self, rate: f64) {
        self.order(Order::LossRate(rate)).await;
    }

    /// Ends all partitions, and delivers what was held.
    pub(crate) fn mend(&self) {
        let hosts: Vec<String> = (0..self.inner.hosts.len()).map(name).chain([CLIENTS.to_owned()]).collect();
        for (at, host) in hosts.iter().enumerate() {
            hosts[at + 1..].iter().for_each(|other| turmoil::release(host.as_str(), other.as_str()));
        }
    }

    /// A random number of the scenario.
    pub(crate) fn random(&self, range: std::ops::Range<u64>) -> u64 {
        self.inner.rng.borrow_mut().random_range(range)
    }

    /// The disk of a node.
    pub(crate) fn disk(&self, index: usize) -> SimDisk {
        self.inner.hosts[index].disk.borrow().clone()
    }

    /// The node on a host, if it runs.
    pub(crate) fn running(&self, index: usize) -> Option<Node> {
        self.inner.hosts[index].running.borrow().clone()
    }

    /// The node on a host that runs.
    pub(crate) fn node(&self, index: usize) -> Node {
        self.running(index).expect("the node runs")
    }

    pub(crate) fn status(&self, index: usize) -> NodeStatus {
        self.node(index).status()
    }

    /// What the running nodes say of themselves.
    pub(crate) fn statuses(&self) -> Vec<NodeStatus> {
        (0..self.inner.hosts.len()).filter_map(|index| Some(self.running(index)?.status())).collect()
    }

    /// The real client, with all nodes as its endpoints. What it writes while answers are lost, it writes again.
    pub(crate) fn client(&self) -> Client {
        self.client_of(0..self.inner.hosts.len())
    }

    /// The real client of some nodes and no others.
    pub(crate) fn client_of(&self, nodes: impl IntoIterator<Item = usize>) -> Client {
        let endpoints: Vec<String> = nodes.into_iter().map(address).collect();
        Client::connect_over(&format!("{}?routing=single", endpoints.join(",")), sockets::connect, self.inner.seed)
            .expect("endpoints")
    }

    /// A caller that passes for a member of the cluster.
    pub(crate) fn impostor(&self, node_id: NodeId) -> Caller {
        let (_, cluster_id) = watch::channel(self.status(0).cluster_id);
        let own = Lineage::default();
        Caller { node_id, cluster_id, starts: Starts::new(node_id, own, Store::new()) }
    }

    /// Waits for a condition and returns how long it took.
    pub(crate) async fn until(&self, what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Duration {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < within, "not within {within:?}: {what}\n{:#?}", self.outline());
            sleep(POLL).await;
        }
        began.elapsed()
    }

    /// What of the nodes one wants to see when something failed.
    fn outline(&self) -> Vec<String> {
        let line = |status: NodeStatus| {
            format!(
                "{} ({}): {}, term {}, leader {:?}, log {}, committed {}, applied {}, snapshot {}",
                status.name,
                status.node_id,
                status.state,
                status.term,
                status.leader_id,
                status.last_log_index,
                status.committed_index,
                status.applied_index,
                status.snapshot_index,
            )
        };
        self.statuses().into_iter().map(line).collect()
    }

    /// Waits until one of the nodes that run leads the others, and returns which.
    pub(crate) async fn leader(&self) -> usize {
        self.until("one leads", PATIENCE, || self.leads().is_some()).await;
        self.leads().expect("just seen")
    }

    /// The node that leads all that run, if they agree on it.
    pub(crate) fn leads(&self) -> Option<usize> {
        let leading = |index: &usize| self.running(*index).is_some_and(|node| node.status().state == "leader");
        let leader = (0..self.inner.hosts.len()).find(leading)?;
        let id = Some(self.status(leader).node_id);
        self.statuses().iter().all(|status| status.leader_id == id).then_some(leader)
    }

    /// The nodes that do not lead.
    pub(crate) async fn followers(&self) -> Vec<usize> {
        let leader = self.leader().await;
        (0..self.inner.hosts.len()).filter(|index| *index != leader && self.running(*index).is_some()).collect()
    }

    /// Waits until all running nodes have applied everything, and checks that their states are the same.
    pub(crate) async fn settle(&self, within: Duration) -> NodeStatus {
        let settled = || {
            let statuses = self.statuses();
            let last = statuses.iter().map(|status| status.last_log_index).max();
            self.leads().is_some() && statuses.iter().all(|status| Some(status.applied_index) == last)
        };
        self.until("all have applied everything", within, settled).await;
        let statuses = self.statuses();
        for status in &statuses {
            assert_eq!(status.state_hash, statuses[0].state_hash, "{} and {} differ", status.name, statuses[0].name);
        }
        statuses.into_iter().next().expect("a node")
    }
}

/// The name of a host and its node.
pub(crate) fn name(index: usize) -> String {
    format!("node-{index}")
}

/// Where a node answers.
pub(crate) fn address(index: usize) -> String {
    format!("{}:{PORT}", name(index))
}
