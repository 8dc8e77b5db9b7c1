//! A network of its own for each test: a namespace for each node, all at a bridge in one more, where the clients are.
//! Packets are dropped where they arrive, so a cut can be in one direction.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::node::Place;
use crate::tools::{Tool, run, runs};

/// What tests with a network need.
pub(crate) const TOOLS: [Tool; 4] = [Tool::Root, Tool::Namespaces, Tool::Nft, Tool::UtilLinux];

const RPC_PORT: u16 = 8400;
const GOSSIP_PORT: u16 = 8401;
const METRICS_PORT: u16 = 4000;

pub(crate) struct Network {
    hub: String,
    nodes: Vec<String>,
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("mokv-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let names = (0..nodes).map(|node| format!("{prefix}-node-{node}")).collect();
        let network = Self { hub: format!("{prefix}-hub"), nodes: names };
        network.build();
        network
    }

    fn build(&self) {
        let hub = &self.hub;
        run("ip", ["netns", "add", hub]);
        words(&format!("ip -n {hub} link add bridge type bridge"));
        words(&format!("ip -n {hub} addr add {}/24 dev bridge", address(self.nodes.len())));
        words(&format!("ip -n {hub} link set bridge up"));
        for (index, node) in self.nodes.iter().enumerate() {
            run("ip", ["netns", "add", node]);
            words(&format!("ip link add port{index} netns {hub} type veth peer name eth0 netns {node}"));
            words(&format!("ip -n {hub} link set port{index} master bridge up"));
            words(&format!("ip -n {node} addr add {}/24 dev eth0", address(index)));
            words(&format!("ip -n {node} link set eth0 up"));
            words(&format!("ip -n {node} link set lo up"));
            nft(node, "add table inet faults");
            nft(node, "add chain inet faults input { type filter hook input priority 0; }");
        }
    }

    pub(crate) fn places(&self, dir: &Path) -> Vec<Place> {
        let nodes = self.nodes.iter().enumerate();
        let place = |(index, node): (usize, &String)| Place {
            data_dir: dir.join(format!("node-{index}")),
            host: address(index),
            ports: [RPC_PORT, GOSSIP_PORT, METRICS_PORT],
            prefix: enter(node).to_vec(),
            env: Vec::new(),
        };
        nodes.map(place).collect()
    }

    /// Nothing that `from` sends arrives at `to`.
    pub(crate) fn cut_one_way(&self, from: usize, to: usize) {
        nft(&self.nodes[to], &format!("add rule inet faults input ip saddr {} drop", address(from)));
    }

    /// Nothing passes between the two.
    pub(crate) fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    pub(crate) fn heal(&self) {
        for node in &self.nodes {
            nft(node, "flush chain inet faults input");
        }
    }

    /// Runs a test where the clients are. Threads keep the network of the one that started them.
    pub(crate) fn run<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        let namespace = File::open(format!("/run/netns/{}", self.hub)).expect("namespace");
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                runtime.expect("runtime").block_on(test());
            });
            if let Err(panic) = client.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

/// What runs a command in a namespace. Not `ip netns exec`, which copies the table of mounts: a disk of another test that is
/// unmounted after its power failed would stay mounted in the copy, and be mounted again as dead as it was.
fn enter(namespace: &str) -> [String; 2] {
    ["nsenter".to_owned(), format!("--net=/run/netns/{namespace}")]
}

fn nft(namespace: &str, rule: &str) {
    let [enter, namespace] = enter(namespace);
    run(&enter, [&namespace, "nft", rule]);
}

fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

fn words(line: &str) {
    let mut words = line.split(' ');
    run(words.next().expect("a program"), words);
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.nodes.iter().chain([&self.hub]) {
            runs("ip", ["netns", "del", namespace]);
        }
    }
}
