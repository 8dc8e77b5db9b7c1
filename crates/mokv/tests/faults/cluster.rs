//! Three processes that are one cluster.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use mokv_client::{Client, Pair};
use tempfile::TempDir;

use crate::history::{Counts, History};
use crate::node::{Node, Place};

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Small files, so that segments end, snapshots are taken and the log is purged while something breaks.
pub(crate) const SMALL_FILES: [(&str, &str); 2] = [("log-segment-size", "256KiB"), ("snapshot-log-size", "1MiB")];

/// The same, and elections that take a third of the usual time.
pub(crate) const SMALL_AND_QUICK: [(&str, &str); 5] = [
    SMALL_FILES[0],
    SMALL_FILES[1],
    ("heartbeat-interval", "50ms"),
    ("election-timeout-min", "250ms"),
    ("election-timeout-max", "500ms"),
];

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) dir: TempDir,
}

impl Cluster {
    /// Three processes on loopback, with directories beside each other.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(settings, |_| {}).await
    }

    /// The same, with places that were changed.
    pub(crate) async fn start_with(settings: &[(&str, &str)], change: impl Fn(&mut Place)) -> Self {
        let dir = TempDir::new().expect("directory");
        let places = (0..3).map(|index| {
            let mut place = Place::local(dir.path().join(format!("node-{index}")));
            change(&mut place);
            place
        });
        let places = places.collect();
        Self::start_in(dir, places, settings).await
    }

    /// A process in each place.
    pub(crate) async fn start_in(dir: TempDir, places: Vec<Place>, settings: &[(&str, &str)]) -> Self {
        let named = places.into_iter().enumerate();
        let nodes = named.map(|(index, place)| Node::new(format!("node-{index}"), place, settings, dir.path()));
        let mut cluster = Self { nodes: nodes.collect(), dir };
        cluster.start_all();
        for index in 1..cluster.nodes.len() {
            cluster.join(index).await;
        }
        cluster.serving().await;
        cluster
    }

    /// Adds a node whose directory is new.
    pub(crate) async fn join(&self, index: usize) {
        let first = usize::from(index == 0);
        let (member, addr) = (self.nodes[first].client(), self.nodes[index].addr());
        eventually("the node joins", async || member.add_member(&addr, false).await).await;
    }

    pub(crate) fn start_all(&mut self) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.start(index == 0);
        }
    }

    /// Kills all processes before any of them can notice.
    pub(crate) fn kill_all(&mut self) {
        self.nodes.iter().for_each(|node| node.signal(rustix::process::Signal::KILL));
        self.nodes.iter_mut().for_each(Node::reap);
    }

    /// A client of all nodes that asks this one first.
    pub(crate) fn client(&self, first: usize) -> Client {
        let count = self.nodes.len();
        let addresses: Vec<_> = (0..count).map(|step| self.nodes[(first + step) % count].addr()).collect();
        Client::connect(&addresses.join(",")).expect("addresses")
    }

    /// Waits until each running node answers linearizable reads.
    pub(crate) async fn serving(&self) {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            eventually("a read works", async || node.reads().await).await;
        }
    }

    /// The node that leads in the highest term that any of these knows.
    pub(crate) async fn leader_of(&self, nodes: &[usize]) -> usize {
        eventually("there is a leader", async || {
            let mut statuses = Vec::new();
            for index in nodes.iter().filter(|index| self.nodes[**index].runs()) {
                statuses.extend(self.nodes[*index].status().await.map(|status| (status.term, *index, status)));
            }
            let term = statuses.iter().map(|(term, ..)| *term).max().unwrap_or_default();
            let leads = statuses.iter().find(|(of, _, status)| *of == term && status.state == "leader");
            leads.map(|(_, index, _)| *index).ok_or("no node leads")
        })
        .await
    }

    pub(crate) async fn leader(&self) -> usize {
        self.leader_of(&[0, 1, 2]).await
    }

    /// The leader and its term.
    pub(crate) async fn leader_and_term(&self) -> (usize, u64) {
        let leader = self.leader().await;
        (leader, eventually("a status", async || self.nodes[leader].status().await).await.term)
    }

    /// Waits until all have applied the same entries, checks that their states are the same and that one of them leads,
    /// and returns what they have.
    pub(crate) async fn settled(&self) -> Vec<Pair> {
        eventually("all have applied the same", async || {
            let mut statuses = Vec::new();
            for node in &self.nodes {
                statuses.push(node.status().await.map_err(|error| error.to_string())?);
            }
            let first = &statuses[0];
            if statuses.iter().any(|status| (status.applied_index, status.term) != (first.applied_index, first.term)) {
                return Err(format!("not all have applied the same: {statuses:?}"));
            }
            for status in &statuses {
                assert_eq!(status.state_hash, first.state_hash, "{} and {} differ", status.name, first.name);
            }
            match statuses.iter().filter(|status| status.state == "leader").count() {
                1 => Ok(()),
                0 => Err("no node leads".to_owned()),
                _ => panic!("two nodes lead in one term: {statuses:?}"),
            }
        })
        .await;
        let pairs = eventually("a list works", async || self.nodes[0].pairs().await).await;
        for node in &self.nodes[1..] {
            let others = eventually("a list works", async || node.pairs().await).await;
            let same = pairs
                .iter()
                .zip(&others)
                .all(|(one, other)| Pair { revision: 0, ..one.clone() } == Pair { revision: 0, ..other.clone() });
            assert!(same && pairs.len() == others.len(), "{} has other pairs than {}", node.name, self.nodes[0].name);
        }
        pairs
    }

    /// Waits until all is well again, and judges what the clients saw by what all nodes have now.
    pub(crate) async fn judge(&self, history: &History) -> Counts {
        self.serving().await;
        let pairs = self.settled().await;
        match history.judge(&pairs) {
            Ok(counts) => counts,
            Err(faults) => {
                panic!("{} faults, of which the first are: {:#?}", faults.len(), &faults[..faults.len().min(10)])
            }
        }
    }
}

/// Repeats until it succeeds.
pub(crate) async fn eventually<T, E: Debug>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("not in {PATIENCE:?}: {what}: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
