//! Snapshots through the store and the disk: what is written is what is loaded, and nothing half-done counts.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use mokv_proto::internal::{LogId, Pair, Session, SnapshotHead};
use prost::Message;

use super::codec::{Encoder, Problem};
use super::*;
use crate::command::{self, Command, RequestId};
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, OpenMode, OsDisk};
use crate::runtime::{DiskTasks, Tasks};
use crate::store::{LogTime, Position, StateHash, Store};

mod crash;

const CLUSTER: &str = "cluster";
const TERM: u64 = 3;

/// A node's directory of snapshots on a simulated disk.
struct Node {
    tasks: Tasks,
    disk: SimDisk,
    dir: PathBuf,
}

impl Node {
    fn on(disk: SimDisk) -> Self {
        Self { tasks: Tasks::new(1, DiskTasks::Inline), disk, dir: "/data/snapshots".into() }
    }

    async fn open(&self) -> Snapshots {
        Snapshots::open(&self.tasks, Arc::new(self.disk.clone()), self.dir.clone()).await.expect("open")
    }

    async fn names(&self) -> Vec<String> {
        self.disk.list(&self.dir).await.expect("list")
    }

    /// The names once all that was going on has ended.
    async fn names_at_rest(&self) -> Vec<String> {
        // No task waits for more than its turn on this disk, and none needs many.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        self.names().await
    }

    fn path(&self, info: &SnapshotInfo) -> PathBuf {
        self.dir.join(info.name())
    }
}

/// A fresh node.
async fn new_node() -> (Node, Snapshots) {
    let node = Node::on(SimDisk::default());
    let snapshots = node.open().await;
    (node, snapshots)
}

/// Applies commands as the next log entry.
fn apply(store: &Store, commands: Vec<Command>) {
    store.apply(next_position(store), LogTime::default(), &commands).expect("apply");
}

fn next_position(store: &Store) -> Position {
    Position { term: TERM, index: store.stats().applied.map_or(1, |applied| applied.index + 1) }
}

/// A store with so many pairs, sessions with answers, and a membership.
fn store_of(pairs: u64) -> Store {
    let store = Store::new();
    apply(&store, vec![command::open_session(), command::open_session()]);
    let id = |sequence| RequestId { client_id: 1, sequence, first_unanswered: 1 };
    let set = |n: u64| command::set(format!("key-{n:06}"), vec![n as u8; 100]);
    apply(&store, (1..4).map(|n| Command { id: Some(id(n)), ..set(n) }).collect());
    apply(&store, (1..pairs).map(set).collect());
    apply(&store, vec![command::set("last", "value"), command::set("deleted", ""), command::delete("deleted")]);
    store.apply_membership(next_position(&store), Bytes::from_static(b"membership"), &[]);
    store
}

async fn write(snapshots: &Snapshots, store: &Store) -> Result<SnapshotInfo, SnapshotError> {
    snapshots.write(store.checkpoint().expect("something was applied"), CLUSTER).await
}

/// Everything that a snapshot has to bring back.
fn content(store: &Store) -> (SnapshotHead, Vec<Session>) {
    let checkpoint = store.checkpoint().expect("something was applied");
    (checkpoint.head(CLUSTER), checkpoint.sessions().collect())
}

async fn load(snapshots: &Snapshots, info: &SnapshotInfo) -> Result<Store, SnapshotError> {
    let store = Store::new();
    store.replace(snapshots.load(info).await?);
    Ok(store)
}

/// All of a snapshot's bytes, as they are sent.
async fn read_all(mut reader: SnapshotReader) -> Result<Vec<Bytes>, SnapshotError> {
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk().await? {
        chunks.push(chunk);
    }
    Ok(chunks)
}

async fn receive(snapshots: &Snapshots, bytes: &[u8], size: u64) -> Result<SnapshotInfo, SnapshotError> {
    let mut receiver = snapshots.receiver()?;
    for chunk in bytes.chunks(1_000) {
        receiver.write(Bytes::copy_from_slice(chunk)).await?;
    }
    receiver.finish(size).await
}

#[tokio::test]
async fn a_state_comes_back_as_it_was() {
    let dir = tempfile::tempdir().expect("directory");
    let dir = dir.path().join("snapshots");
    let tasks = Tasks::new(1, DiskTasks::Threads);
    let open = || Snapshots::open(&tasks, Arc::new(OsDisk), dir.clone());

    // Many blocks, several syncs, several chunks, and a value larger than a block.
    let store = store_of(60_000);
    apply(&store, vec![command::set("large", vec![7; 1 << 20])]);
    let info = write(&open().await.expect("open"), &store).await.expect("write");
    assert_eq!(info.last_log_id, LogId { term: TERM, index: 6 });

    let reopened = open().await.expect("open");
    assert_eq!(reopened.all(), [info]);
    let loaded = load(&reopened, &info).await.expect("load");
    assert_eq!(content(&loaded), content(&store));
    assert_eq!(loaded.stats().state_hash, store.stats().state_hash);
    assert_eq!(loaded.get(b"large"), store.get(b"large"));
    assert_eq!(reopened.head(&info).await.expect("head"), content(&store).0);
}

#[tokio::test]
async fn a_snapshot_is_of_its_checkpoint_while_writes_go_on() {
    let (_node, snapshots) = new_node().await;
    let store = store_of(5_000);
    let before = content(&store);
    let writing = write(&snapshots, &store);
    let overwriting = async {
        for round in 0..50 {
            let keys = (0..100).map(|n| format!("key-{:06}", (round * 997 + n * 37) % 5_000));
            let change = |key| if round % 3 == 0 { command::delete(key) } else { command::set(key, "new") };
            apply(&store, keys.map(change).collect());
            tokio::task::yield_now().await;
        }
    };
    let (info, ()) = futures_util::future::join(writing, overwriting).await;
    assert_ne!(content(&store), before);
    let loaded = load(&snapshots, &info.expect("write")).await.expect("load");
    assert_eq!(content(&loaded), before);
    assert_eq!(store.stats().pins, 0);
}

#[tokio::test]
async fn the_last_two_are_kept_and_leftovers_removed() {
    let (node, snapshots) = new_node().await;
    let store = store_of(10);
    let mut infos = Vec::new();
    for _ in 0..4 {
        apply(&store, vec![command::set("key", "value")]);
        infos.push(write(&snapshots, &store).await.expect("write"));
        assert_eq!(snapshots.latest(), infos.last().copied());
    }
    assert_eq!(snapshots.all(), [infos[3], infos[2]]);
    assert_eq!(node.names().await, [infos[2].name(), infos[3].name()]);
    let gone = snapshots.load(&infos[1]).await.expect_err("removed");
    assert!(matches!(gone, SnapshotError::Gone(path) if path == node.path(&infos[1])));

    // What a crash leaves, and what is not ours.
    let third = node.disk.content(&node.path(&infos[3]));
    for name in ["7.tmp", "notes.txt", "1-2.snap", &infos[0].name()] {
        let file = node.disk.open(&node.dir.join(name), OpenMode::CreateNew).await.expect("create");
        file.write_at(0, &third).await.expect("write");
    }
    let snapshots = node.open().await;
    assert_eq!(snapshots.all(), [infos[3], infos[2]]);
    assert_eq!(node.names().await, [&infos[2].name(), &infos[3].name(), "1-2.snap", "notes.txt"]);
}

#[tokio::test]
async fn a_late_snapshot_can_be_loaded_by_who_received_it() {
    let (node, snapshots) = new_node().await;
    let store = store_of(10);
    let late = write(&snapshots, &store).await.expect("write");
    let bytes = node.disk.content(&node.path(&late));
    let mut newer = Vec::new();
    for _ in 0..2 {
        apply(&store, vec![command::set("key", "value")]);
        newer.push(write(&snapshots, &store).await.expect("write"));
    }
    assert_eq!(snapshots.all(), [newer[1], newer[0]]);
    assert_eq!(receive(&snapshots, &bytes, late.size).await.expect("receive"), late);
    load(&snapshots, &late).await.expect("load");
    assert_eq!(snapshots.latest(), Some(newer[1]));
}

#[tokio::test]
async fn what_one_node_sends_another_has() {
    let (_sender, sending) = new_node().await;
    let (receiver, receiving) = new_node().await;
    let store = store_of(20_000);
    let info = write(&sending, &store).await.expect("write");
    let mut reader = sending.reader(&info).await.expect("reader");
    assert_eq!(reader.size(), info.size);
    // It gives way to newer ones while it is sent.
    for _ in 0..2 {
        apply(&store, vec![command::set("key", "value")]);
        write(&sending, &store).await.expect("write");
    }
    assert!(!sending.all().contains(&info));

    let mut receiver_side = receiving.receiver().expect("receiver");
    while let Some(chunk) = reader.next_chunk().await.expect("chunk") {
        assert!(chunk.len() <= 1 << 20);
        assert_eq!(receiving.latest(), None);
        receiver_side.write(chunk).await.expect("write");
    }
    assert_eq!(receiver_side.finish(info.size).await.expect("finish"), info);
    assert_eq!(receiving.all(), [info]);
    let loaded = load(&receiving, &info).await.expect("load");
    assert_eq!(content(&loaded), content(&store_of(20_000)));
    assert_eq!(receiver.names().await, [info.name()]);
}

#[tokio::test]
async fn damaged_transfers_are_refused_and_leave_nothing() {
    let (node, snapshots) = new_node().await;
    let info = write(&snapshots, &store_of(100)).await.expect("write");
    let bytes = node.disk.content(&node.path(&info));
    let (other, receiving) = new_node().await;

    let mut flipped = bytes.clone();
    flipped[5_000] ^= 1;
    let refused = receive(&receiving, &flipped, info.size).await.expect_err("flipped");
    assert!(matches!(refused, SnapshotError::Invalid(DecodeError { problem: Problem::Checksum, .. })), "{refused}");
    let cut = &bytes[..bytes.len() - 1];
    let refused = receive(&receiving, cut, cut.len() as u64).await.expect_err("cut");
    assert!(matches!(refused, SnapshotError::Invalid(DecodeError { problem: Problem::Cut, .. })), "{refused}");
    let refused = receive(&receiving, &bytes, info.size + 1).await.expect_err("less than announced");
    assert!(matches!(refused, SnapshotError::WrongSize { .. }), "{refused}");

    let mut dropped = receiving.receiver().expect("receiver");
    dropped.write(bytes.into()).await.expect("write");
    drop(dropped);
    assert_eq!(other.names_at_rest().await, Vec::<String>::new());
    assert_eq!(receiving.all(), []);
}

#[tokio::test]
async fn a_snapshot_that_is_called_off_leaves_nothing() {
    let (node, snapshots) = new_node().await;
    let store = store_of(10);
    // Much more than may wait to be written: it can't be complete when its file appears.
    apply(&store, (0..64).map(|n| command::set(format!("large {n}"), vec![n; 512 << 10])).collect());
    let mut writing = Box::pin(write(&snapshots, &store));
    while node.names().await.is_empty() {
        assert!(futures_util::poll!(writing.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(writing);
    assert_eq!(node.names_at_rest().await, Vec::<String>::new());
    assert_eq!((snapshots.all(), store.stats().pins), (vec![], 0));
}

#[tokio::test]
async fn damage_is_named_and_the_one_before_is_whole() {
    let (node, snapshots) = new_node().await;
    let store = store_of(100);
    let older = write(&snapshots, &store).await.expect("write");
    apply(&store, vec![command::set("key", "value")]);
    let newer = write(&snapshots, &store).await.expect("write");
    node.disk.edit(&node.path(&newer), |bytes| bytes[9_000] ^= 1);

    let snapshots = node.open().await;
    assert_eq!(snapshots.all(), [newer, older]);
    let error = snapshots.load(&newer).await.expect_err("damaged");
    let message = error.to_string();
    assert!(message.contains(&newer.name()) && message.contains("at offset"), "{message}");
    assert!(matches!(error, SnapshotError::Damaged { problem: DecodeError { problem: Problem::Checksum, .. }, .. }));
    let error = read_all(snapshots.reader(&newer).await.expect("reader")).await.expect_err("damaged");
    assert!(matches!(error, SnapshotError::Damaged { .. }));
    load(&snapshots, &older).await.expect("load");

    node.disk.edit(&node.path(&newer), |bytes| bytes.truncate(9_000));
    let error = node.open().await.load(&newer).await.expect_err("cut");
    assert!(
        matches!(&error, SnapshotError::Damaged { problem, .. } if *problem == DecodeError { offset: 9_000, problem: Problem::Cut }),
        "{error}"
    );
}

#[tokio::test]
async fn a_renamed_snapshot_is_refused() {
    let (node, snapshots) = new_node().await;
    let info = write(&snapshots, &store_of(10)).await.expect("write");
    let renamed = SnapshotInfo { last_log_id: LogId { term: TERM, index: 99 }, ..info };
    node.disk.rename(&node.path(&info), &node.path(&renamed)).await.expect("rename");
    let snapshots = node.open().await;
    let error = snapshots.load(&renamed).await.expect_err("another's name");
    assert!(matches!(&error, SnapshotError::WrongName { name, .. } if *name == info.name()), "{error}");
}

#[tokio::test]
async fn a_state_that_is_not_what_the_head_says_is_refused() {
    let (_node, snapshots) = new_node().await;
    let last_log_id = LogId { term: TERM, index: 5 }.encode_to_vec().into();
    let head = SnapshotHead { last_log_id, keys: 1, state_hash: vec![0; 16].into(), ..Default::default() };
    let mut encoder = Encoder::new(&head).expect("head");
    encoder.pair(&Pair { key: "key".into(), ..Default::default() }).expect("pair");
    let bytes = encoder.finish();
    let info = receive(&snapshots, &bytes, bytes.len() as u64).await.expect("the bytes are fine");
    let error = snapshots.load(&info).await.expect_err("another state");
    assert!(matches!(error, SnapshotError::WrongState { problem: LoadError::StateHash { .. }, .. }), "{error}");
}

#[tokio::test]
async fn without_room_a_snapshot_is_put_off() {
    let (node, snapshots) = new_node().await;
    let store = store_of(1_000);
    let first = write(&snapshots, &store).await.expect("write");
    apply(&store, vec![command::set("key", "value")]);
    let used = node.disk.used();
    for room in [0, 1, 4_096, first.size as usize] {
        node.disk.set_capacity(Some(used + room));
        let error = write(&snapshots, &store).await.expect_err("no room");
        assert!(matches!(error, SnapshotError::DiskFull), "{error}");
        assert_eq!((snapshots.all(), node.names().await), (vec![first], vec![first.name()]));
    }
    node.disk.set_capacity(None);
    let second = write(&snapshots, &store).await.expect("write");
    assert_eq!(snapshots.all(), [second, first]);
    load(&snapshots, &second).await.expect("load");
}

#[tokio::test]
async fn a_failing_disk_is_reported_as_such() {
    let (node, snapshots) = new_node().await;
    let store = store_of(10);
    node.disk.fail_writes(1);
    assert!(matches!(write(&snapshots, &store).await.expect_err("write"), SnapshotError::Io { .. }));
    node.disk.fail_syncs(1);
    assert!(matches!(write(&snapshots, &store).await.expect_err("sync"), SnapshotError::Io { .. }));
    assert_eq!((snapshots.all(), node.names().await), (vec![], vec![]));
}

/// A disk with two snapshots, the disk before each call of writing a third and after the last, and what is in them.
async fn recorded_third_snapshot() -> (Vec<SimDisk>, Vec<(SnapshotInfo, StateHash)>) {
    let (node, snapshots) = new_node().await;
    let store = store_of(20);
    let mut written = Vec::new();
    for n in 0..3 {
        if n == 2 {
            node.disk.record();
        }
        apply(&store, vec![command::set("key", format!("value {n}"))]);
        written.push((write(&snapshots, &store).await.expect("write"), store.stats().state_hash));
    }
    (node.disk.recorded(), written)
}

/// Whether every snapshot of a disk is one of those written, and loads, and the last but one that must be there is.
async fn check(disk: &SimDisk, written: &[(SnapshotInfo, StateHash)], newest_at_least: usize) -> Vec<SnapshotInfo> {
    let snapshots = Node::on(disk.clone()).open().await;
    let all = snapshots.all();
    assert_eq!(all.len(), 2);
    assert!(all[0] == written[newest_at_least].0 || all[0] == written[2].0);
    for info in &all {
        let (_, state_hash) = written.iter().find(|(written, _)| written == info).expect("one that was written");
        assert_eq!(load(&snapshots, info).await.expect("load").stats().state_hash, *state_hash);
    }
    all
}

#[tokio::test]
async fn after_a_crash_at_any_call_two_whole_snapshots_are_there() {
    let (images, written) = recorded_third_snapshot().await;
    assert!(images.len() > 5);
    for (call, image) in images.iter().enumerate() {
        // Once it was acknowledged it is there.
        let newest_at_least = if call + 1 == images.len() { 2 } else { 1 };
        let pending = image.pending();
        for kept in 0..=pending {
            check(&image.crash(|atom| atom < kept), &written, newest_at_least).await;
            check(&image.crash(|atom| atom >= kept), &written, newest_at_least).await;
            check(&image.crash(|atom| atom == kept), &written, newest_at_least).await;
        }
    }
}

#[tokio::test]
async fn what_a_start_has_found_no_later_crash_takes_away() {
    let (images, written) = recorded_third_snapshot().await;
    let mut found_before_acknowledged = 0;
    for image in &images[..images.len() - 1] {
        // The process died, and the machine went on; it dies after, or in the middle of, the next start.
        let restarted = image.clone();
        restarted.record();
        let found = check(&restarted, &written, 1).await;
        found_before_acknowledged += usize::from(found[0] == written[2].0);
        let during = restarted.recorded();
        for image in &during {
            check(&image.crash(|_| false), &written, 1).await;
        }
        let after = check(&during.last().expect("images").crash(|_| false), &written, 1).await;
        assert_eq!(after, found);
    }
    assert!(found_before_acknowledged > 0);
}
