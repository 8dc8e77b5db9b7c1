//! The membership follows gossip. What gossip says is told by the test; everything below it is real.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mokv_client::Client;
use mokv_proto::cluster::{LeaveRequest, ListMembersRequest, PeerState as Gossip, RemoveMemberRequest};
use mokv_server::discovery::{Peer, PeerState, PeerTags, Peers};
use mokv_server::disk::OsDisk;
use mokv_server::formation::core::Mode;
use mokv_server::node::{Node, NodeError, NodeOptions, Seams};
use mokv_server::raft::MembersState;
use mokv_server::raft::Role;
use mokv_server::raft::types::NodeId;
use mokv_server::reconcile::Policy;
use mokv_server::rpc;
use mokv_server::rpc::peer::GrpcNetwork;
use mokv_server::runtime::Tasks;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::harness::{PATIENCE, eventually, free_addr, options};

/// Nodes, and one gossip that all of them see.
struct World {
    nodes: BTreeMap<String, Host>,
    gossip: watch::Sender<Arc<Peers>>,
    policy: Policy,
    dir: TempDir,
}

struct Host {
    node: Node,
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    /// What answers its calls, until it is told to stop.
    serving: JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let policy = Policy { stable_for: Duration::from_millis(200), ..Policy::default() };
        Self {
            nodes: BTreeMap::new(),
            gossip: watch::Sender::default(),
            policy,
            dir: TempDir::new().expect("directory"),
        }
    }

    /// A cluster of these nodes, the first of which forms it.
    async fn of(names: &[&str]) -> Self {
        let mut world = Self::new();
        for name in names {
            world.start(name, *name == names[0]).await.expect("a start");
        }
        let voters = if names.len().is_multiple_of(2) { names.len() - 1 } else { names.len() };
        world.until_voters(voters).await;
        world
    }

    fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a node on the disk that it had, at a new address, and lets gossip know.
    async fn start(&mut self, name: &str, bootstrap: bool) -> Result<(), NodeError> {
        self.start_quietly(name, bootstrap).await?;
        self.say(name, PeerState::Alive);
        Ok(())
    }

    async fn start_quietly(&mut self, name: &str, bootstrap: bool) -> Result<(), NodeError> {
        let mut options = options(name, self.data_dir(name), free_addr());
        options.mode = if bootstrap { Mode::Alone } else { Mode::Join };
        self.start_with(name, options).await
    }

    /// Starts a node that this world knows as `host`.
    async fn start_with(&mut self, host: &str, options: NodeOptions) -> Result<(), NodeError> {
        let addr: SocketAddr = options.rpc_addr.parse().expect("an address");
        let tasks = Tasks::from_os().expect("seed");
        let seams = Seams {
            tasks: tasks.clone(),
            disk: Arc::new(OsDisk),
            peers: Arc::new(GrpcNetwork::default()),
            surroundings: None,
        };
        let node = tasks.scope(Node::start(seams, options)).await?;
        node.follow_peers(self.gossip.subscribe(), self.policy.clone());
        let (stop, mut stopped) = watch::channel(false);
        let server = rpc::Server::new(node.clone())
            .with(rpc::peer::peer_service(node.clone()))
            .with(rpc::peer::join_service(node.clone()));
        let listener = TcpListener::bind(addr).await.expect("port");
        // Not one of the node's tasks: calls under way are answered after it has ended.
        let serving = server.serve(listener, async move { drop(stopped.wait_for(|stop| *stop).await) });
        let serving = tokio::spawn(async move { drop(serving.await) });
        self.nodes.insert(host.into(), Host { node, addr, stop, serving });
        Ok(())
    }

    /// Ends a node at once.
    async fn kill(&mut self, name: &str) {
        let host = self.nodes.remove(name).expect("running");
        host.stop.send_replace(true);
        host.node.tasks().abort();
        host.node.shutdown().await;
        self.say_of(name, PeerState::Failed);
    }

    /// Gossip sees a node that runs in this state.
    fn say(&self, name: &str, state: PeerState) {
        let host = &self.nodes[name];
        let identity = host.node.data_dir().identity();
        let tags = PeerTags {
            node_id: identity.node_id,
            cluster_id: identity.cluster_id,
            rpc_addr: host.addr.to_string(),
            version: "test".into(),
        };
        let peer =
            Peer { name: name.to_owned(), gossip_addr: host.addr, state, since: Instant::now(), tags: Some(tags) };
        self.gossip.send_modify(|peers| drop(Arc::make_mut(peers).insert(name.to_owned(), peer)));
    }

    /// Gossip sees a node in this state, whether it runs or not.
    fn say_of(&self, name: &str, state: PeerState) {
        self.gossip.send_modify(|peers| {
            if let Some(peer) = Arc::make_mut(peers).get_mut(name) {
                (peer.state, peer.since) = (state, Instant::now());
            }
        });
    }

    fn leader(&self) -> Option<String> {
        let leads = |host: &&Host| host.node.raft().leadership().borrow().role == Role::Leader;
        self.nodes.values().find(leads).map(|host| host.node.options().name.clone())
    }

    fn id(&self, name: &str) -> NodeId {
        self.nodes[name].node.node_id()
    }

    /// Members by name, and whether they vote, as the leader sees them.
    fn members(&self) -> Result<BTreeMap<String, (NodeId, bool)>, Status> {
        let leader = self.leader().ok_or_else(|| Status::unavailable("nobody leads"))?;
        let members = self.nodes[&leader].node.members().into_iter();
        Ok(members.map(|member| (member.name, (member.node_id, member.is_voter))).collect())
    }

    /// Half-way through a change all vote that are in either set, and the loss of a few may be the loss of a quorum.
    async fn until_voters(&self, count: usize) -> BTreeMap<String, (NodeId, bool)> {
        eventually("so many vote", || async {
            let members = self.members()?;
            let is_settled =
                self.nodes.values().all(|host| host.node.raft().membership().state == MembersState::Settled);
            let voters = members.values().filter(|(_, votes)| *votes).count();
            if voters == count && is_settled { Ok(members) } else { Err(Status::unavailable(format!("{members:?}"))) }
        })
        .await
    }

    fn client(&self) -> Client {
        let endpoints: Vec<String> = self.nodes.values().map(|host| host.addr.to_string()).collect();
        Client::connect(&endpoints.join(",")).expect("endpoints")
    }

    async fn serves(&self) {
        for host in self.nodes.values() {
            let client =
                Client::connect(&format!("{}?routing=single", host.addr)).expect("endpoint").with_timeout(PATIENCE);
            client.get("none").await.expect("a read through it");
        }
    }

    async fn end(mut self) {
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            self.kill(&name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_in_gossip_become_members_and_odd_numbers_of_them_vote() {
    let began = Instant::now();
    let mut world = World::of(&["a", "b", "c"]).await;
    eprintln!("three voters after {:?}", began.elapsed());
    world.start("d", false).await.expect("a start");
    eventually("the fourth copies the data", || async {
        match world.members()?.get("d") {
            Some((_, false)) => Ok(()),
            other => Err(Status::unavailable(format!("{other:?}"))),
        }
    })
    .await;
    world.start("e", false).await.expect("a start");
    world.until_voters(5).await;
    world.serves().await;

    // Another cluster has come into the same gossip.
    world.start_quietly("z", true).await.expect("a start");
    world.say("z", PeerState::Alive);
    world.say_of("e", PeerState::Left);
    world.until_voters(3).await;
    let mut cluster = crate::harness::cluster_client(world.nodes["a"].addr);
    let listed = cluster.list_members(ListMembersRequest {}).await.expect("members").into_inner();
    let of = |name: &str| listed.peers.iter().find(|peer| peer.name == name).expect("in gossip").clone();
    assert_eq!((listed.members.len(), listed.peers.len()), (4, 6), "{listed:?}");
    assert_eq!((of("z").state(), of("e").state()), (Gossip::Alive, Gossip::Left));
    assert_ne!(of("z").cluster_id, of("a").cluster_id);
    assert!(listed.members.iter().all(|member| member.gossip() == Gossip::Alive), "{listed:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_is_replaced_by_the_next_of_its_name() {
    let mut world = World::of(&["a", "b", "c"]).await;
    world.client().set("key", "value").await.expect("set");
    let lost = if world.leader().as_deref() == Some("c") { "b" } else { "c" };
    let old = world.id(lost);
    world.kill(lost).await;
    std::fs::remove_dir_all(world.data_dir(lost)).expect("remove");
    world.start(lost, false).await.expect("a start");
    let new = world.id(lost);
    assert_ne!(new, old);
    eventually("it has the place of the old one", || async {
        match world.members()?.get(lost) {
            Some((id, true)) if *id == new => Ok(()),
            other => Err(Status::unavailable(format!("{other:?}"))),
        }
    })
    .await;
    assert_eq!(world.members().expect("members").len(), 3);
    world.serves().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_all_have_new_addresses_find_each_other() {
    let mut world = World::of(&["a", "b", "c"]).await;
    world.client().set("key", "value").await.expect("set");
    let names = ["a", "b", "c"];
    for name in names {
        world.kill(name).await;
    }
    for name in names {
        world.start(name, false).await.expect("a start");
    }
    eventually("the membership has the new addresses", || async {
        let leader = world.leader().ok_or_else(|| Status::unavailable("nobody leads"))?;
        let members = world.nodes[&leader].node.members();
        let is_new = |name: &str, addr: &str| world.nodes[name].addr.to_string() == addr;
        match members.iter().all(|member| is_new(&member.name, &member.rpc_addr)) {
            true => Ok(()),
            false => Err(Status::unavailable(format!("{members:?}"))),
        }
    })
    .await;
    let value = world.client().get("key").await.expect("a read").expect("is there").value;
    assert_eq!(&value[..], b"value");
    world.serves().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_failed_voters_are_removed_after_their_grace() {
    let mut world = World::new();
    world.policy.failed_grace = Some(Duration::from_secs(4));
    for name in ["a", "b", "c", "d", "e"] {
        world.start(name, name == "a").await.expect("a start");
    }
    world.until_voters(5).await;
    let leader = world.leader().expect("just seen");
    let failed: Vec<&str> = ["a", "b", "c", "d", "e"].into_iter().filter(|name| *name != leader).take(2).collect();
    for name in &failed {
        world.kill(name).await;
    }
    let began = Instant::now();
    world.until_voters(3).await;
    assert!(began.elapsed() > Duration::from_secs(3), "after {:?} only", began.elapsed());
    assert!(world.members().expect("members").keys().all(|name| !failed.contains(&name.as_str())));
    world.client().set("key", "value").await.expect("a write");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_leave_under_writes_and_no_acknowledged_write_is_lost() {
    let mut world = World::of(&["a", "b", "c", "d", "e"]).await;
    let client = world.client();
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (session, done) = (client.clone().with_timeout(PATIENCE).session(), done.clone());
            tokio::spawn(async move {
                let mut count = 0_u64;
                while !done.load(Ordering::SeqCst) {
                    count += 1;
                    session.set(format!("key-{writer}"), count.to_string()).await.expect("no write fails");
                }
                count
            })
        })
        .collect();
    for voters in [3, 3] {
        let leaving =
            eventually("one leads", || async { world.leader().ok_or_else(|| Status::unavailable("nobody leads")) })
                .await;
        // Asked through another node.
        let through = world.nodes.keys().find(|name| **name != leaving).expect("another").clone();
        let mut cluster = crate::harness::cluster_client(world.nodes[&through].addr);
        let mut request = tonic::Request::new(LeaveRequest { member: leaving.clone() });
        request.set_timeout(PATIENCE);
        cluster.leave(request).await.expect("it leaves");
        timeout(PATIENCE, world.nodes[&leaving].node.left()).await.expect("its process may end");
        // As the server does then: what is under way is answered first.
        world.nodes[&leaving].node.hand_over(Duration::from_secs(3)).await;
        let host = world.nodes.get_mut(&leaving).expect("running");
        host.stop.send_replace(true);
        drop(timeout(Duration::from_secs(3), &mut host.serving).await);
        world.kill(&leaving).await;
        world.say_of(&leaving, PeerState::Left);
        let members = world.until_voters(voters).await;
        assert!(!members.contains_key(&leaving), "{members:?}");
        let refused = world.start(&leaving, false).await.expect_err("it has left");
        assert!(matches!(refused, NodeError::Departure(_)) && refused.to_string().contains("has left"), "{refused}");
    }
    done.store(true, Ordering::SeqCst);
    for (writer, task) in writers.into_iter().enumerate() {
        let count = task.await.expect("no panic");
        let read = world.client().get(format!("key-{writer}")).await.expect("a read").expect("is there");
        assert_eq!(read.value, count.to_string(), "writer {writer}");
        assert!(count > 10, "writer {writer} wrote {count} times");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_not_be_spared_stays_and_the_last_may_go() {
    let mut world = World::of(&["a", "b", "c"]).await;
    let leader = world.leader().expect("one leads");
    let others: Vec<String> = world.nodes.keys().filter(|name| **name != leader).cloned().collect();
    world.kill(&others[0]).await;
    eventually("the leader does not hear of it", || async {
        let members = world.nodes[&leader].node.members();
        let silent = members.iter().find(|member| member.name == others[0]).and_then(|member| member.last_heard);
        if silent > Some(Duration::from_millis(2500)) { Ok(()) } else { Err(Status::unavailable("not yet")) }
    })
    .await;
    let staying = world.nodes[&others[1]].node.clone();
    let refused = staying.leave(Instant::now() + PATIENCE).await.expect_err("one of two would be left");
    assert!(refused.to_string().contains("fewer than a majority"), "{refused}");
    assert!(timeout(Duration::ZERO, staying.left()).await.is_err(), "it stays");
    world.client().set("key", "value").await.expect("and serves");
    world.end().await;

    let world = World::of(&["a"]).await;
    let last = world.nodes["a"].node.clone();
    last.leave_member("", Instant::now() + PATIENCE).await.expect("a cluster may end");
    timeout(PATIENCE, last.left()).await.expect("its process may end");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_an_operator_removed_hears_of_it_and_stays_out() {
    let mut world = World::of(&["a", "b", "c"]).await;
    let leader = world.leader().expect("one leads");
    let removed = world.nodes.keys().find(|name| **name != leader).expect("another").clone();
    let mut cluster = crate::harness::cluster_client(world.nodes[&leader].addr);
    let request = RemoveMemberRequest { member: removed.clone(), force: false };
    cluster.remove_member(request).await.expect("it goes");
    timeout(PATIENCE, world.nodes[&removed].node.left()).await.expect("its process may end");
    // Gossip still has it as alive, and those who may join are looked at in the order of their names.
    world.start("z", false).await.expect("a start");
    let members = eventually("the next one joins", || async {
        let members = world.members()?;
        if members.contains_key("z") { Ok(members) } else { Err(Status::unavailable(format!("{members:?}"))) }
    })
    .await;
    assert!(!members.contains_key(&removed), "{members:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_newcomers_with_one_name_only_one_is_taken() {
    let mut world = World::of(&["a"]).await;
    let mut addrs = Vec::new();
    for host in ["x", "y"] {
        let addr = free_addr();
        world.start_with(host, options("twin", world.data_dir(host), addr)).await.expect("a start");
        addrs.push(addr.to_string());
    }
    let leader = world.nodes["a"].node.clone();
    let deadline = Instant::now() + PATIENCE;
    let add = |addr: &str| leader.add_member(addr.to_owned(), true, deadline);
    let (first, second) = tokio::join!(add(&addrs[0]), add(&addrs[1]));
    let refused = [&first, &second].into_iter().filter(|added| added.is_err()).count();
    assert_eq!(refused, 1, "{first:?} {second:?}");
    assert_eq!(leader.members().len(), 2, "{:?}", leader.members());
    world.end().await;
}
