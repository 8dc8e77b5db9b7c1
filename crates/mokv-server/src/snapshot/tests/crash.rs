//! A crash and a failure at every call while snapshots are written, received, replaced and pruned: what was acknowledged is
//! there and whole, and nothing half-done is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::*;
use crate::disk::crash_points::CrashPoints;
use crate::store::StateHash;

/// What a workload did, in terms of the disk's calls.
#[derive(Default)]
struct History {
    /// The states that there could be snapshots of, by their last entry.
    states: BTreeMap<u64, StateHash>,
    /// (calls, index): from so many calls on, the snapshot up to this entry was acknowledged.
    acknowledged: Vec<(usize, u64)>,
    /// How often a receiving ended badly on purpose.
    refused: usize,
    kills: usize,
}

impl History {
    /// The last two that were acknowledged before so many calls, the newest first.
    fn last_two(&self, calls: usize) -> Vec<u64> {
        let before = self.acknowledged.iter().filter(|(at, _)| *at <= calls);
        let indexes: BTreeSet<u64> = before.map(|(_, index)| *index).collect();
        indexes.into_iter().rev().take(2).collect()
    }
}

/// One node that writes and receives snapshots. Ends with the first failure.
struct Workload {
    node: Node,
    snapshots: Snapshots,
    store: Store,
    /// The sender of what this node receives, with the same log.
    sender: Snapshots,
    sender_disk: Node,
    history: History,
}

impl Workload {
    async fn on(disk: SimDisk) -> Result<Self, SnapshotError> {
        let node = Node::on(disk);
        let snapshots = Snapshots::open(&node.tasks, Arc::new(node.disk.clone()), node.dir.clone()).await?;
        let (sender_disk, sender) = new_node().await;
        Ok(Self { node, snapshots, store: store_of(20), sender, sender_disk, history: History::default() })
    }

    /// Applies another entry. Snapshots from here on are of another length, too.
    fn advance(&mut self) {
        let n = self.history.states.len();
        apply(&self.store, vec![command::set(format!("grows {n}"), vec![n as u8; 300])]);
        let stats = self.store.stats();
        self.history.states.insert(stats.applied.expect("applied").index, stats.state_hash);
    }

    fn acknowledge(&mut self, info: SnapshotInfo) {
        self.history.acknowledged.push((self.node.disk.calls(), info.last_log_id.index));
    }

    async fn write(&mut self) -> Result<(), SnapshotError> {
        self.advance();
        let info = write(&self.snapshots, &self.store).await?;
        self.acknowledge(info);
        Ok(())
    }

    /// The bytes of a snapshot of the present state.
    async fn sent(&mut self) -> Vec<u8> {
        let info = write(&self.sender, &self.store).await.expect("the sender's disk works");
        self.sender_disk.disk.content(&self.sender_disk.path(&info))
    }

    async fn receive(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let info = receive(&self.snapshots, bytes, bytes.len() as u64).await?;
        self.acknowledge(info);
        Ok(())
    }

    /// Receives the first bytes, and then no more.
    async fn hang_up_after(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut receiver = self.snapshots.receiver()?;
        for chunk in bytes.chunks(700) {
            receiver.write(Bytes::copy_from_slice(chunk)).await?;
        }
        drop(receiver);
        self.node.names_at_rest().await;
        self.history.refused += 1;
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), SnapshotError> {
        self.node.tasks = Tasks::new(2, DiskTasks::Inline);
        let disk = Arc::new(self.node.disk.clone());
        self.snapshots = Snapshots::open(&self.node.tasks, disk, self.node.dir.clone()).await?;
        Ok(())
    }

    /// Kills the process when it has made so many calls for a snapshot.
    async fn kill_after(&mut self, calls: usize) -> Result<(), SnapshotError> {
        self.advance();
        let end = self.node.disk.calls() + calls;
        {
            let (snapshots, store) = (self.snapshots.clone(), self.store.clone());
            let mut writing = Box::pin(write(&snapshots, &store));
            while self.node.disk.calls() < end && futures_util::poll!(writing.as_mut()).is_pending() {
                tokio::task::yield_now().await;
            }
            self.node.tasks.abort();
        }
        self.node.names_at_rest().await;
        self.history.kills += 1;
        self.reopen().await
    }

    async fn run(&mut self) -> Result<(), SnapshotError> {
        self.write().await?;
        self.write().await?;
        self.advance();
        let late = self.sent().await;
        self.advance();
        let newer = self.sent().await;
        self.receive(&newer).await?;
        self.write().await?;
        self.hang_up_after(&newer[..newer.len() / 2]).await?;
        self.hang_up_after(&newer).await?;
        let mut damaged = newer.clone();
        damaged[900] ^= 1;
        match receive(&self.snapshots, &damaged, damaged.len() as u64).await {
            Err(SnapshotError::Invalid(_)) => self.history.refused += 1,
            other => drop(other?),
        }
        // Older than the two that are there.
        self.receive(&late).await?;
        self.write().await?;
        // Of the same state as the newest.
        let again = self.sent().await;
        self.receive(&again).await?;
        for calls in 1..6 {
            self.kill_after(calls).await?;
        }
        self.write().await?;
        self.reopen().await?;
        self.write().await
    }
}

/// The disk before each call of the workload, and after the last.
async fn recorded() -> (Vec<SimDisk>, History) {
    let disk = SimDisk::default();
    disk.record();
    let mut workload = Workload::on(disk.clone()).await.expect("open");
    workload.run().await.expect("a disk that works");
    assert_eq!((workload.history.refused, workload.history.kills), (3, 5));
    (disk.recorded(), workload.history)
}

/// Opens what a crash after so many calls left.
async fn check(disk: &SimDisk, calls: usize, history: &History) -> Vec<SnapshotInfo> {
    let node = Node::on(disk.clone());
    let snapshots = node.open().await;
    let all = snapshots.all();
    let promised = history.last_two(calls);
    assert!(all.len() <= 2 && all.len() >= promised.len(), "after {calls} calls: {all:?} instead of {promised:?}");
    for (info, index) in all.iter().zip(&promised) {
        assert!(info.last_log_id.index >= *index, "after {calls} calls: {all:?} instead of {promised:?}");
    }
    for info in &all {
        let state_hash = history.states[&info.last_log_id.index];
        assert_eq!(load(&snapshots, info).await.expect("whole").stats().state_hash, state_hash);
    }
    let mut names: Vec<String> = all.iter().map(SnapshotInfo::name).collect();
    names.sort();
    assert_eq!(node.names().await, names, "nothing else is left");
    all
}

#[tokio::test]
async fn a_crash_at_any_call_keeps_the_last_two_snapshots_and_nothing_half_done() {
    let mut points = CrashPoints::new(1);
    let (images, history) = recorded().await;
    assert!(images.len() > 80, "{} calls", images.len());
    for (calls, image) in images.iter().enumerate() {
        for crash in points.crashes(image) {
            check(&crash, calls, &history).await;
        }
        // The process was killed, the machine went on, and crashed during or after the next start.
        let killed = image.copy();
        killed.record();
        let found = check(&killed, calls, &history).await;
        for during in killed.recorded() {
            for second in points.second_crashes(&during) {
                check(&second, calls, &history).await;
            }
        }
        for crash in CrashPoints::new(0).crashes(&killed) {
            assert_eq!(check(&crash, calls, &history).await, found, "what a start has found stays");
        }
    }
    points.report("snapshots", 15_000, 1_000);
}

/// Every 3rd moment, every crash there, every call of the start from it.
#[tokio::test]
async fn a_crash_during_the_recovery_from_a_crash_changes_nothing() {
    let mut points = CrashPoints::new(2);
    let (images, history) = recorded().await;
    for (calls, image) in images.iter().enumerate().step_by(3) {
        for crash in points.crashes(image) {
            crash.record();
            let found = check(&crash, calls, &history).await;
            for during in crash.recorded() {
                for second in points.second_crashes(&during) {
                    assert_eq!(check(&second, calls, &history).await, found);
                }
            }
        }
    }
    points.report("snapshots, recovery from a crash", 5_000, 50_000);
}

#[tokio::test]
async fn any_call_may_fail_or_find_no_room() {
    let mut points = CrashPoints::new(3);
    let calls = recorded().await.0.len() - 1;
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let mut failed = 0;
        for call in 0..calls {
            let disk = SimDisk::default();
            disk.fail_call(call, kind);
            let Ok(mut workload) = Workload::on(disk.clone()).await else { continue };
            // A failing removal is not reported: the next start tries again.
            if let Err(error) = workload.run().await {
                let is_full = matches!(error, SnapshotError::DiskFull);
                assert!(is_full || matches!(error, SnapshotError::Io { .. }), "{error}");
                failed += 1;
            }
            let calls = disk.calls();
            for crash in points.crashes(&disk) {
                check(&crash, calls, &workload.history).await;
            }
            check(&disk.copy(), calls, &workload.history).await;
        }
        assert!(failed > 40, "{failed} of {calls} calls failed");
    }
    points.report("snapshots, any call fails", 30_000, 0);
}

/// A disk that is full at any byte of a snapshot puts it off, whether it is this node's or another's.
#[tokio::test]
async fn a_disk_that_is_full_at_any_byte_puts_a_snapshot_off() {
    let (node, snapshots) = new_node().await;
    let store = store_of(20);
    let first = write(&snapshots, &store).await.expect("write");
    apply(&store, vec![command::set("key", "value")]);
    let (sender_disk, sender) = new_node().await;
    let sent = write(&sender, &store).await.expect("write");
    let bytes = sender_disk.disk.content(&sender_disk.path(&sent));
    for room in 0..sent.size {
        node.disk.set_capacity(Some(first.size as usize + room as usize));
        let refused = write(&snapshots, &store).await.expect_err("no room");
        assert!(matches!(refused, SnapshotError::DiskFull), "{refused}");
        let refused = receive(&snapshots, &bytes, sent.size).await.expect_err("no room");
        assert!(matches!(refused, SnapshotError::DiskFull), "{refused}");
        assert_eq!((snapshots.all(), node.names().await), (vec![first], vec![first.name()]));
    }
    node.disk.set_capacity(Some(first.size as usize + sent.size as usize));
    assert_eq!(write(&snapshots, &store).await.expect("just enough"), sent);
    assert_eq!(load(&snapshots, &sent).await.expect("load").stats().state_hash, store.stats().state_hash);
}

/// Every bit of the header and of blocks of each kind, and every length.
#[tokio::test]
async fn every_changed_bit_and_every_cut_is_refused_with_the_file_and_the_place() {
    let (node, snapshots) = new_node().await;
    let info = write(&snapshots, &store_of(6)).await.expect("write");
    let bytes = node.disk.content(&node.path(&info));
    let refused = async |changed: Vec<u8>, at: usize| {
        node.disk.edit(&node.path(&info), |bytes| *bytes = changed.clone());
        let error = snapshots.load(&info).await.expect_err("damaged");
        assert!(error.to_string().contains(&info.name()) && error.to_string().contains("at offset"), "{error}");
        let SnapshotError::Damaged { path, problem } = error else { panic!("{error}") };
        // A block that got longer is missed at the end of the file; all other damage is found in its block.
        let is_near = problem.problem == Problem::Cut || problem.offset <= at as u64;
        assert!(path == node.path(&info) && is_near && problem.offset <= bytes.len() as u64, "byte {at}: {problem}");
        let refused = receive(&snapshots, &changed, changed.len() as u64).await.expect_err("damaged");
        assert!(matches!(refused, SnapshotError::Invalid(_)), "{refused}");
        assert_eq!(node.names().await, [info.name()]);
    };
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(changed, bit / 8).await;
    }
    for len in 0..bytes.len() {
        refused(bytes[..len].to_vec(), len).await;
    }
}

/// Whatever part of a snapshot was received when its sender hung up, nothing is left of it, also after a crash.
#[tokio::test]
async fn an_interrupted_receiving_leaves_nothing_at_any_byte() {
    let (sender_disk, sender) = new_node().await;
    let sent = write(&sender, &store_of(6)).await.expect("write");
    let bytes = sender_disk.disk.content(&sender_disk.path(&sent));
    for received in 0..=bytes.len() {
        let (node, snapshots) = new_node().await;
        let mut receiver = snapshots.receiver().expect("receiver");
        receiver.write(Bytes::copy_from_slice(&bytes[..received])).await.expect("write");
        if received % 2 == 0 {
            drop(receiver);
        } else {
            // Announced as another length.
            receiver.finish(bytes.len() as u64 + 1).await.expect_err("less than announced");
        }
        assert_eq!(node.names_at_rest().await, Vec::<String>::new(), "{received} bytes");
        for crash in CrashPoints::new(0).crashes(&node.disk) {
            assert_eq!(check(&crash, 0, &History::default()).await, []);
        }
    }
}
