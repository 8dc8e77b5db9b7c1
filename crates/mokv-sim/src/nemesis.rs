//! What brings faults upon a cluster, and takes them away again.
//!
//! It stays within what the cluster promises to survive: data is lost, or may be damaged, on a minority of the voters only,
//! until those have been replaced. Killing and cutting the power may hit everybody at once.

use std::time::Duration;

use mokv_server::raft::types::NodeId;
use rand::RngExt;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, Excuse};
use crate::plan::Fault;
use crate::seed;

/// How long a fault that ends by itself lasts at most.
const LASTING_MAX: Duration = Duration::from_secs(4);

/// How long a node on an old disk may run.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a replaced node may take to become a voter.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(20);

/// Brings faults upon one cluster.
pub struct Nemesis {
    cluster: Cluster,
    rng: SmallRng,
    /// A host whose data is gone or may be damaged, and its node, until a new one has taken its place; only then may
    /// another host be damaged.
    damaged: Option<Damaged>,
}

#[derive(Clone, Copy)]
struct Damaged {
    host: usize,
    node_id: NodeId,
}

impl Nemesis {
    /// The one that a plan asks for.
    pub fn new(cluster: &Cluster) -> Self {
        let rng = seed::generator(cluster.plan().seed, "nemesis");
        Self { cluster: cluster.clone(), rng, damaged: None }
    }

    /// Brings fault after fault, until `stop` is true.
    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        let faults = self.cluster.plan().faults.clone();
        let interval = self.cluster.plan().fault_interval;
        if faults.is_empty() {
            return;
        }
        loop {
            let pause = interval.mul_f64(2.0 * self.rng.random::<f64>());
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(pause) => {}
            }
            let fault = *faults.choose(&mut self.rng).expect("not empty");
            let is_repaired = self.damaged.is_some() && self.rng.random_bool(0.3);
            let acting = async { if is_repaired { self.replace_damaged().await } else { self.bring(fault).await } };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = acting => {}
            }
            self.start_some();
        }
    }

    /// Takes all faults away, and starts what is down.
    pub async fn relent(&mut self) {
        let cluster = self.cluster.clone();
        cluster.net().heal();
        cluster.net().set_weather(crate::net::Weather::default());
        for host in 0..cluster.len() {
            cluster.disk_control(host).restore();
            cluster.disk(host).set_capacity(None);
            cluster.resume(host);
            if self.damaged() != Some(host) {
                cluster.start(host);
            }
        }
        self.replace_damaged().await;
    }

    /// One fault.
    pub async fn bring(&mut self, fault: Fault) {
        let cluster = self.cluster.clone();
        let host = self.rng.random_range(0..cluster.len());
        cluster.trace().note(format_args!("fault: {fault:?} {host}"));
        cluster.trace().count(format!("fault.{fault:?}"));
        match fault {
            Fault::Kill => cluster.kill(host),
            Fault::PowerLoss => cluster.cut_power(host),
            Fault::Blackout => self.blackout(),
            Fault::Pause => {
                cluster.pause(host);
                self.later(move |cluster| cluster.resume(host));
            }
            Fault::Restart => {
                let after = LASTING_MAX.mul_f64(self.rng.random::<f64>().powi(2));
                let restarting = cluster.clone();
                crate::net::harness(async move {
                    restarting.stop(host).await;
                    sleep(after).await;
                    restarting.start(host);
                });
            }
            Fault::Partition => self.partition(),
            Fault::OneWay => {
                let (from, to) = self.two_hosts();
                cluster.net().cut(from, to);
                self.later(|cluster| cluster.net().heal());
            }
            Fault::Bridge => self.bridge(),
            Fault::Reset => cluster.net().reset(host),
            Fault::SlowLink => {
                let (from, to) = self.two_hosts();
                cluster.net().slow_down(from, to, LASTING_MAX.mul_f64(self.rng.random::<f64>().powi(3)));
                self.later(|cluster| cluster.net().heal());
            }
            Fault::SlowDisk => {
                let slow = Duration::from_millis(self.rng.random_range(10..600));
                cluster.disk_control(host).set(|behaviour| behaviour.sync_max = slow);
                self.later(move |cluster| cluster.disk_control(host).restore_syncs());
            }
            Fault::HungDisk => {
                cluster.disk_control(host).set(|behaviour| behaviour.is_hung = true);
                self.later(move |cluster| cluster.disk_control(host).set(|behaviour| behaviour.is_hung = false));
            }
            Fault::FullDisk => self.fill(host),
            Fault::FailedSync => {
                cluster.excuse(host, Excuse::FailedCall);
                cluster.disk_control(host).set(|behaviour| behaviour.fail_sync = true);
            }
            Fault::FailedWrite => {
                cluster.excuse(host, Excuse::FailedCall);
                cluster.disk_control(host).set(|behaviour| behaviour.fail_write = true);
            }
            Fault::BitFlip => self.flip_bit(host),
            Fault::LostDisk | Fault::Reconfigure => self.lose_disk(host).await,
            Fault::OldDisk => self.restore_old_disk(host).await,
            Fault::Transfer => drop(cluster.transfer().await),
        }
    }

    /// Starts some of what is down.
    fn start_some(&mut self) {
        for host in 0..self.cluster.len() {
            if self.damaged() == Some(host) || self.cluster.is_up(host) {
                continue;
            }
            let after = LASTING_MAX.mul_f64(self.rng.random::<f64>().powi(2));
            let cluster = self.cluster.clone();
            crate::net::harness(async move {
                sleep(after).await;
                cluster.start(host);
            });
        }
    }

    /// Does something in a while.
    fn later(&mut self, end: impl FnOnce(&Cluster) + Send + 'static) {
        let after = LASTING_MAX.mul_f64(self.rng.random());
        let cluster = self.cluster.clone();
        crate::net::harness(async move {
            sleep(after).await;
            end(&cluster);
        });
    }

    fn two_hosts(&mut self) -> (usize, usize) {
        let hosts = self.shuffled();
        (hosts[0], *hosts.last().expect("at least one"))
    }

    fn shuffled(&mut self) -> Vec<usize> {
        let mut hosts: Vec<usize> = (0..self.cluster.len()).collect();
        hosts.shuffle(&mut self.rng);
        hosts
    }

    fn blackout(&mut self) {
        let by_power = self.rng.random_bool(0.5);
        for host in 0..self.cluster.len() {
            if by_power { self.cluster.cut_power(host) } else { self.cluster.kill(host) }
        }
    }

    fn partition(&mut self) {
        let hosts = self.shuffled();
        let (one, other) = hosts.split_at(self.rng.random_range(0..hosts.len()));
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.cluster.net().cut(a, b);
            self.cluster.net().cut(b, a);
        }
        self.later(|cluster| cluster.net().heal());
    }

    fn bridge(&mut self) {
        let hosts = self.shuffled();
        let Some((_, rest)) = hosts.split_first() else { return };
        let (one, other) = rest.split_at(rest.len() / 2);
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.cluster.net().cut(a, b);
            self.cluster.net().cut(b, a);
        }
        self.later(|cluster| cluster.net().heal());
    }

    /// A disk on which almost nothing is left.
    fn fill(&mut self, host: usize) {
        let disk = self.cluster.disk(host);
        let left = *[0, 700, 5_000, 40_000].choose(&mut self.rng).expect("not empty");
        // More may be under way at that moment than the log's reserve has room for.
        self.cluster.excuse(host, Excuse::FullDisk);
        disk.set_capacity(Some(disk.used() + left));
        self.later(move |cluster| cluster.disk(host).set_capacity(None));
    }

    fn may_damage(&self) -> bool {
        self.damaged.is_none() && self.cluster.is_formed() && self.cluster.plan().nodes > 2
    }

    /// Flips a bit in a file of a node, while it is down.
    fn flip_bit(&mut self, host: usize) {
        let Some(node_id) = self.cluster.node_id(host).filter(|_| self.may_damage()) else { return };
        self.cluster.kill(host);
        let disk = self.cluster.disk(host);
        let paths = disk.paths();
        let Some(path) = paths.choose(&mut self.rng) else { return };
        let (at, bit) = (self.rng.random::<f64>(), self.rng.random_range(0..8));
        disk.edit(path, |bytes| {
            let at = (bytes.len() as f64 * at) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        });
        self.cluster.trace().note(format_args!("a bit of {} flips", path.display()));
        self.cluster.excuse(host, Excuse::Damage);
        self.damaged = Some(Damaged { host, node_id });
        self.cluster.start(host);
    }

    /// Loses a disk, and has a new node take the place of the old one.
    async fn lose_disk(&mut self, host: usize) {
        let Some(node_id) = self.cluster.node_id(host).filter(|_| self.may_damage()) else { return };
        self.damaged = Some(Damaged { host, node_id });
        self.replace_damaged().await;
    }

    /// Gives a node an older copy of its disk back, in a quiet moment: that it is refused is promised where somebody knows
    /// better that it can reach.
    async fn restore_old_disk(&mut self, host: usize) {
        let Some(node_id) = self.cluster.node_id(host).filter(|_| self.may_damage()) else { return };
        let cluster = self.cluster.clone();
        cluster.kill(host);
        let copy = cluster.disk(host).copy();
        cluster.start(host);
        if !self.is_quiet().await || cluster.node_id(host) != Some(node_id) {
            return;
        }
        sleep(LASTING_MAX.mul_f64(self.rng.random())).await;
        if !self.is_quiet().await {
            return;
        }
        self.damaged = Some(Damaged { host, node_id });
        cluster.kill(host);
        cluster.set_disk(host, copy);
        cluster.excuse(host, Excuse::OldDisk);
        cluster.start(host);
        cluster.trace().note(format_args!("host {host} gets an old disk"));
        if !cluster.wait(Instant::now() + REFUSAL_TIMEOUT, || cluster.ended(host).is_some()).await
            && self.are_others_well(host)
        {
            cluster.trace().violate(format_args!("node {host} goes on with an old copy of its disk"));
        }
    }

    /// Lets the network and all nodes work as they should. False if they don't within a while.
    async fn is_quiet(&mut self) -> bool {
        let cluster = self.cluster.clone();
        cluster.net().heal();
        for host in 0..cluster.len() {
            cluster.resume(host);
            cluster.start(host);
        }
        let are_all_ready = || (0..cluster.len()).all(|host| cluster.is_ready(host));
        cluster.wait(Instant::now() + LASTING_MAX, are_all_ready).await
    }

    /// Whether all other nodes are up, and a leader among them.
    fn are_others_well(&self, host: usize) -> bool {
        (0..self.cluster.len()).filter(|other| *other != host).all(|other| self.cluster.is_ready(other))
    }

    /// Removes the node that lost its data, and makes a new one on an empty disk a member.
    async fn replace_damaged(&mut self) {
        let Some(Damaged { host, node_id }) = self.damaged else { return };
        let cluster = self.cluster.clone();
        let deadline = Instant::now() + REPLACE_TIMEOUT;
        if cluster.node_id(host) == Some(node_id) {
            cluster.kill(host);
            cluster.replace_disk(host);
        }
        if !cluster.remove(node_id, deadline).await {
            return;
        }
        cluster.start(host);
        if cluster.join(host, deadline).await {
            self.damaged = None;
        }
    }

    /// The host whose data is not to be trusted, if there is one.
    fn damaged(&self) -> Option<usize> {
        self.damaged.map(|damaged| damaged.host)
    }
}
