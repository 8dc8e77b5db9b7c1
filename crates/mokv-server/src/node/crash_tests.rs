//! A node's log and snapshots together, in the order in which a node uses them: written, applied, snapshotted, purged, received
//! from a leader, restarted. After a crash at every call to the disk, with every choice of what it leaves, a start finds the
//! state that was acknowledged, byte by byte, and never a gap.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::stream;
use openraft::storage::{
    IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine, StorageHelper,
};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::command::{self, Batch, RequestId};
use crate::disk::crash_points::CrashPoints;
use crate::disk::sim::SimDisk;
use crate::raft::drop_overruled;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{self, Entry, MemberInfo, Membership, SnapshotMeta, TypeConfig, Vote};
use crate::runtime::DiskTasks;
use crate::store::StateHash;

const DIR: &str = "/data";

/// As much log is kept behind a snapshot.
const KEPT_BYTES: u64 = 3000;

const LOG: LogOptions = LogOptions { segment_bytes: 4096, cache_bytes_max: 1500 };

/// What a node has on its disk, open, and its state in memory.
struct Storage {
    tasks: Tasks,
    data_dir: DataDir,
    log: Log,
    snapshots: Snapshots,
    store: Store,
    state_machine: StateMachine,
}

impl Storage {
    /// The beginning of [`Node::start`], and what openraft does with storage when it starts.
    async fn start(disk: &SimDisk, process: u64) -> Result<Self, NodeError> {
        let tasks = Tasks::new(process, DiskTasks::Inline);
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let data_dir = DataDir::open(&tasks, disk.clone(), DIR.into(), "node").await?;
        let mut log = Log::open(&tasks, disk.clone(), data_dir.log_dir(), LOG).await?;
        let snapshots = Snapshots::open(&tasks, disk, data_dir.snapshot_dir()).await?;
        check_no_gap(&log, &snapshots)?;
        let store = Store::new();
        let mut state_machine =
            StateMachine::new(store.clone(), snapshots.clone(), data_dir.watch_cluster_id(), Arc::default());
        let storage = |error: String| NodeError::Raft(StartError::Storage(error));
        drop_overruled(&mut log, &snapshots).await.map_err(|error| storage(error.to_string()))?;
        let mut helper = StorageHelper::new(&mut log, &mut state_machine).with_id(data_dir.identity().node_id);
        helper.get_initial_state().await.map_err(|error| storage(error.to_string()))?;
        Ok(Self { tasks, data_dir, log, snapshots, store, state_machine })
    }

    fn applied(&self) -> Option<u64> {
        self.store.stats().applied.map(|at| at.index)
    }

    async fn apply(&mut self, entries: Vec<Entry>) {
        let entries = stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
        self.state_machine.apply(entries).await.expect("apply");
    }

    async fn entries(&self, from: u64) -> Vec<Entry> {
        self.log.clone().get_log_reader().await.try_get_log_entries(from..).await.expect("entries")
    }

    /// Ends the process where it stands.
    async fn kill(&self) {
        self.tasks.abort();
        self.data_dir.close();
        tokio::task::yield_now().await;
    }
}

/// What was asked for and acknowledged, in terms of the disk's calls.
#[derive(Default)]
struct History {
    /// Committed entries, from index 0 on, and the state after each.
    committed: Vec<(Entry, StateHash)>,
    /// All entries that were ever to be appended, by index.
    requested: BTreeMap<u64, Vec<Entry>>,
    /// (calls, index): from so many calls on, the state up to this entry was this node's to keep.
    acknowledged: Vec<(usize, u64)>,
    votes: Vec<(usize, Vote)>,
}

/// How often each kind of step was taken.
#[derive(Debug, Default)]
struct Steps {
    snapshots: usize,
    /// Those that had something to drop.
    purges: usize,
    received: usize,
    /// Snapshots that contradicted entries of this node.
    overruling: usize,
    /// Those after which the process was killed before it could do anything with them.
    killed_after_receiving: usize,
    restarts: usize,
    kills: usize,
}

struct Workload {
    disk: SimDisk,
    rng: SmallRng,
    node: Storage,
    /// A node with all that is committed, which sends snapshots.
    leader: Storage,
    leader_disk: SimDisk,
    term: u64,
    durable: Option<OneshotReceiverOf<TypeConfig, std::io::Result<()>>>,
    history: History,
    steps: Steps,
}

impl Workload {
    async fn on(disk: SimDisk, seed: u64) -> Self {
        let leader_disk = SimDisk::default();
        let mut workload = Self {
            node: Storage::start(&disk, 1).await.expect("start"),
            leader: Storage::start(&leader_disk, 2).await.expect("start"),
            rng: SmallRng::seed_from_u64(seed),
            term: 1,
            durable: None,
            history: History::default(),
            steps: Steps::default(),
            disk,
            leader_disk,
        };
        let nodes = BTreeMap::from([(1, MemberInfo { name: "node".into(), rpc_addr: "node:1".into() })]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).expect("membership");
        workload.vote().await;
        let first = Entry { log_id: types::log_id(1, 0), payload: openraft::EntryPayload::Membership(membership) };
        workload.append(vec![first]).await;
        workload
    }

    /// Notes what this node has to keep from now on.
    fn note(&mut self) {
        let committed = self.history.committed.len() as u64;
        let durable = self.node.log.durable_index().map_or(0, |index| index + 1).min(committed);
        let snapshot = self.node.snapshots.latest().map_or(0, |info| info.last_log_id.index + 1);
        if let Some(index) = durable.max(snapshot).checked_sub(1) {
            self.history.acknowledged.push((self.disk.calls(), index));
        }
    }

    fn next_index(&self) -> u64 {
        self.node.log.last().map_or(0, |last| last.index + 1)
    }

    /// A batch of real commands: of clients with sessions and without, of new keys, old keys, and deletions.
    fn new_entry(&mut self, index: u64) -> Entry {
        let value = vec![index as u8; [20, 200, 900][self.rng.random_range(0..3)]];
        let id = RequestId { client_id: 1, sequence: index / 2, first_unanswered: (index / 2).saturating_sub(3) };
        let commands = vec![
            if index == 1 { command::open_session() } else { command::set(format!("key {}", index % 7), value) },
            command::Command { id: Some(id), ..command::set("counted", index.to_le_bytes().to_vec()) },
            command::delete(format!("key {}", index % 5)),
        ];
        let payload = openraft::EntryPayload::Normal(Batch::new(&commands, crate::store::LogTime::default()));
        Entry { log_id: types::log_id(self.term, index), payload }
    }

    async fn append(&mut self, entries: Vec<Entry>) {
        for entry in &entries {
            self.history.requested.entry(entry.log_id.index).or_default().push(entry.clone());
        }
        let (flushed, durable) = TypeConfig::oneshot();
        self.node.log.append(entries, IOFlushed::signal(flushed)).await.expect("append");
        self.durable = Some(durable);
    }

    async fn append_some(&mut self) {
        let first = self.next_index();
        let entries = (first..first + self.rng.random_range(1..4)).map(|index| self.new_entry(index)).collect();
        self.append(entries).await;
    }

    /// Makes entries the cluster's: whoever keeps them, they stay.
    async fn commit_elsewhere(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.leader.apply(vec![entry.clone()]).await;
            self.history.committed.push((entry.clone(), self.leader.store.stats().state_hash));
        }
    }

    /// Commits and applies what is in this node's log: as a leader, once it is durable here, or as the others of a majority
    /// have it, before it is.
    async fn commit(&mut self) {
        if self.rng.random_bool(0.7)
            && let Some(durable) = self.durable.take()
        {
            durable.await.expect("an answer").expect("durable");
        }
        let mut entries = self.node.entries(self.history.committed.len() as u64).await;
        entries.truncate(self.rng.random_range(1..5));
        self.commit_elsewhere(&entries).await;
        self.catch_up().await;
    }

    /// Applies all that is committed.
    async fn catch_up(&mut self) {
        let from = self.node.applied().map_or(0, |applied| applied + 1);
        let entries: Vec<Entry> =
            self.history.committed[from as usize..].iter().map(|(entry, _)| entry.clone()).collect();
        if let Some(last) = entries.last() {
            self.node.log.save_committed(Some(last.log_id)).await.expect("committed");
            self.node.apply(entries).await;
        }
        self.note();
    }

    async fn vote(&mut self) {
        let vote = Vote::new(self.term, 1);
        self.node.log.save_vote(&vote).await.expect("vote");
        self.history.votes.push((self.disk.calls(), vote));
    }

    /// Another leader has other entries than those that this node has and nobody committed.
    async fn follow_another(&mut self) {
        self.term += 1;
        self.vote().await;
        self.truncate_to_committed().await;
        self.append_some().await;
    }

    async fn truncate_to_committed(&mut self) {
        let last = self.history.committed.last().map(|(entry, _)| entry.log_id);
        if self.node.log.last() > last {
            self.node.log.truncate_after(last).await.expect("truncate");
        }
    }

    async fn snapshot(&mut self) {
        if self.node.snapshots.latest().map(|info| info.last_log_id.index) < self.node.applied() {
            self.node.state_machine.build_snapshot().await.expect("snapshot");
            self.steps.snapshots += 1;
            self.note();
        }
    }

    /// As the duties of `maintenance` do it.
    async fn purge(&mut self) {
        let snapshot = self.node.snapshots.latest().map_or(0, |info| info.last_log_id.index);
        let upto = self.node.log.droppable_keeping(KEPT_BYTES).min(snapshot);
        if upto > self.node.log.purged().map_or(0, |purged| purged.index) {
            self.node.log.purge(self.history.committed[upto as usize].0.log_id).await.expect("purge");
            self.steps.purges += 1;
        }
    }

    /// A leader sends a snapshot, because it has purged what this node lacks, or because this node was away for a while: some
    /// of its entries may be of a leader that has lost.
    async fn receive(&mut self) {
        let before = self.history.committed.len() as u64;
        if self.rng.random_bool(0.5) {
            self.append_some().await;
        }
        self.term += 1;
        self.vote().await;
        let entries: Vec<Entry> =
            (before..before + self.rng.random_range(1..4)).map(|index| self.new_entry(index)).collect();
        self.commit_elsewhere(&entries).await;
        let info = self.leader.state_machine.build_snapshot().await.expect("snapshot").snapshot;
        let bytes = self.leader_disk.content(&self.leader.data_dir.snapshot_dir().join(info.name()));

        let mut receiver = self.node.snapshots.receiver().expect("receiver");
        for chunk in bytes.chunks(1500) {
            receiver.write(Bytes::copy_from_slice(chunk)).await.expect("write");
        }
        let received = receiver.finish(info.size).await.expect("finish");
        self.steps.received += 1;
        self.note();
        let last = types::log_id_from_proto(&received.last_log_id);
        let is_overruling = self.node.log.last().is_some_and(|ours| ours < last && ours.index >= last.index);
        self.steps.overruling += usize::from(is_overruling);
        if self.rng.random_bool(0.3) {
            self.steps.killed_after_receiving += 1;
            return self.restart().await;
        }
        // As openraft does it.
        if is_overruling {
            let kept = before.checked_sub(1).map(|index| self.history.committed[index as usize].0.log_id);
            self.node.log.truncate_after(kept).await.expect("truncate");
        }
        let meta = SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() };
        self.node.state_machine.install_snapshot(&meta, received).await.expect("install");
        self.node.log.save_committed(Some(last)).await.expect("committed");
        self.node.log.purge(last).await.expect("purge");
        self.note();
    }

    /// Starts again on what is there, and gets from the others what was committed without this node.
    async fn restart(&mut self) {
        self.node.kill().await;
        let calls = self.disk.calls();
        self.node = Storage::start(&self.disk, calls as u64).await.expect("a killed node starts");
        self.durable = None;
        self.history.check_started(&mut self.node, calls).await;
        let next = self.next_index();
        let committed = self.history.committed.iter().skip(next as usize);
        let missing: Vec<Entry> = committed.map(|(entry, _)| entry.clone()).collect();
        if !missing.is_empty() {
            self.append(missing).await;
        }
        let first = self.node.applied().map_or(0, |applied| applied + 1);
        let ours = self.node.entries(first).await;
        let conflict = ours.iter().find(|entry| {
            let committed = self.history.committed.get(entry.log_id.index as usize);
            committed.is_some_and(|(committed, _)| committed != *entry)
        });
        assert_eq!(conflict, None, "a snapshot and the log after it are of one history");
        self.catch_up().await;
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..40) {
            0..=13 => self.append_some().await,
            14..=23 => self.commit().await,
            24..=25 => self.follow_another().await,
            26..=29 => self.snapshot().await,
            30..=33 => self.purge().await,
            34..=36 => self.receive().await,
            37 => {
                self.node.log.close().await.expect("close");
                self.note();
                self.restart().await;
                self.steps.restarts += 1;
            }
            _ => {
                self.restart().await;
                self.steps.kills += 1;
            }
        }
        for _ in 0..[0, 0, 1, 3, 8][self.rng.random_range(0..5)] {
            tokio::task::yield_now().await;
        }
        self.note();
    }
}

impl History {
    /// A node that has started on what was left after so many calls has the state of the cluster at some entry, and in its log
    /// what follows, up to all that it had to keep.
    async fn check_started(&self, node: &mut Storage, calls: usize) {
        if let Some(applied) = node.applied() {
            assert_eq!(node.store.stats().state_hash, self.committed[applied as usize].1, "after entry {applied}");
        }
        let from = node.applied().map_or(0, |applied| applied + 1);
        let entries = node.entries(from).await;
        for (index, entry) in (from..).zip(&entries) {
            assert_eq!(entry.log_id.index, index, "a gap");
            assert!(self.requested[&index].contains(entry), "an invented entry: {entry:?}");
        }
        let acknowledged = self.acknowledged.iter().filter(|(at, _)| *at <= calls).map(|(_, index)| *index).max();
        let Some(acknowledged) = acknowledged else { return };
        if from <= acknowledged {
            let kept = entries.into_iter().take_while(|entry| entry.log_id.index <= acknowledged).collect();
            node.apply(kept).await;
            assert_eq!(node.applied(), Some(acknowledged), "after {calls} calls");
            assert_eq!(node.store.stats().state_hash, self.committed[acknowledged as usize].1, "after {calls} calls");
        }
        let vote = self
            .votes
            .iter()
            .filter(|(at, _)| *at <= calls)
            .map(|(_, vote)| *vote)
            .max_by_key(|vote| vote.leader_id.term);
        let found = node.log.clone().get_log_reader().await.read_vote().await.expect("vote");
        assert!(found.map(|vote| vote.leader_id.term) >= vote.map(|vote| vote.leader_id.term), "a vote was forgotten");
    }

    async fn check(&self, disk: &SimDisk, calls: usize) -> Storage {
        let started = Storage::start(disk, 99).await;
        let mut node = started.unwrap_or_else(|error| panic!("after {calls} calls: {error}"));
        self.check_started(&mut node, calls).await;
        node
    }
}

/// The disk before each call of a workload, and after the last.
async fn recorded(seed: u64, steps: usize) -> (Vec<SimDisk>, History, Steps) {
    let disk = SimDisk::default();
    disk.record();
    let mut workload = Workload::on(disk.clone(), seed).await;
    for _ in 0..steps {
        workload.step().await;
    }
    (disk.recorded(), workload.history, workload.steps)
}

#[tokio::test]
async fn after_a_crash_at_any_call_a_snapshot_and_the_log_make_the_acknowledged_state() {
    let mut points = CrashPoints::new(1);
    for seed in 0..5 {
        let (images, history, steps) = recorded(seed, 150).await;
        assert!(images.len() > 400, "{} calls", images.len());
        let Steps { snapshots, purges, received, overruling, killed_after_receiving, restarts, kills } = steps;
        let rarest =
            [snapshots, purges, received, overruling, killed_after_receiving, restarts, kills].into_iter().min();
        assert!(rarest >= Some(1), "{steps:?}");
        for (calls, image) in images.iter().enumerate() {
            for crash in points.crashes(image) {
                history.check(&crash, calls).await;
            }
            history.check(&image.copy(), calls).await;
        }
    }
    points.report("snapshots and log", 25_000, 0);
}

/// Every 5th moment of a workload, every crash there, every call of the start from it.
#[tokio::test]
async fn a_crash_during_a_start_loses_nothing() {
    let mut points = CrashPoints::new(2);
    let (images, history, _) = recorded(4, 150).await;
    for (calls, image) in images.iter().enumerate().step_by(5) {
        for crash in points.crashes(image) {
            crash.record();
            history.check(&crash, calls).await;
            for during in crash.recorded() {
                for second in points.second_crashes(&during) {
                    history.check(&second, calls).await;
                }
            }
        }
    }
    points.report("snapshots and log, start after a crash", 1_000, 40_000);
}
