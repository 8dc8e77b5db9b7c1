//! A crash, a kill and a failure at every call, with every choice of what is left: an identity is whole or not there, and
//! what was returned once stays.

use super::promise::{Founder, Proposal};
use super::*;
use crate::disk::crash_points::CrashPoints;
use crate::disk::sim::SimDisk;
use crate::formation::core::{Me, Mode, Question, Step, take};
use crate::raft::log::{Log, LogOptions};
use crate::runtime::DiskTasks;

const DIR: &str = "/data";
const OTHER_CLUSTER: &str = "ffffffffffffffffffffffffffffffff";
const CLUSTER: &str = "0f2c9a4be67d4c5e9a3b1d2c4e5f6071";

/// Each process has other random numbers.
async fn open_as(disk: &SimDisk, process: u64, name: &str) -> Result<DataDir, IdentityError> {
    DataDir::open(&Tasks::new(process, DiskTasks::Inline), Arc::new(disk.clone()), DIR.into(), name).await
}

/// From so many calls on, this had been returned.
struct Promise {
    calls: usize,
    identity: Identity,
}

/// Asks the node for a promise, as another one would.
async fn ask_for_promise(dir: &DataDir, cluster_id: &str) -> Result<(), IdentityError> {
    let me = Me { name: "first".into(), rpc_addr: "first:1".into(), mode: Mode::Expect(2) };
    let Identity { node_id, pledge, .. } = dir.identity();
    let ours = Founder { node_id, turn: pledge.turn, name: me.name.clone(), rpc_addr: me.rpc_addr.clone() };
    let other = Founder { node_id: 7, turn: 3, name: "other".into(), rpc_addr: "other:1".into() };
    let proposal = Proposal { cluster_id: cluster_id.into(), founders: vec![ours, other] };
    dir.amend(|identity| take(&me, identity, Question::Promise(proposal), false)).await
}

/// What a node does with its identity in its first lives: it is created, started, gets a log, promises itself to a cluster
/// that is not formed and to one that it becomes a member of, is renamed twice. Ends with the first failure.
async fn live(disk: &SimDisk, promises: &mut Vec<Promise>) -> Result<(), IdentityError> {
    for (process, name) in [(1, "first"), (2, "first"), (3, "second"), (4, "a name that is longer than the others")] {
        let dir = open_as(disk, process, name).await?;
        promises.push(Promise { calls: disk.calls(), identity: dir.identity() });
        dir.begin_start().await?;
        promises.push(Promise { calls: disk.calls(), identity: dir.identity() });
        let log_options = LogOptions { segment_bytes: 4096, cache_bytes_max: 0 };
        let tasks = Tasks::new(process, DiskTasks::Inline);
        if let Ok(log) = Log::open(&tasks, Arc::new(disk.clone()), dir.log_dir(), log_options).await {
            log.close().await.ok();
        }
        if process <= 2 {
            let cluster_id = if process == 1 { OTHER_CLUSTER } else { CLUSTER };
            ask_for_promise(&dir, cluster_id).await?;
            promises.push(Promise { calls: disk.calls(), identity: dir.identity() });
            let before = dir.identity();
            let step = if process == 1 { Step::Release } else { Step::Form };
            dir.amend(|identity| step.carry_out(&before, identity)).await?;
            promises.push(Promise { calls: disk.calls(), identity: dir.identity() });
        }
        dir.close();
    }
    Ok(())
}

/// Opens what a crash after so many calls left: with the node's id and cluster if they had been returned.
async fn check(disk: &SimDisk, calls: usize, promises: &[Promise]) -> Identity {
    let found = open_as(disk, 99, "first").await.expect("a crash leaves a directory that opens").identity();
    assert!(found.cluster_id.as_deref().is_none_or(|id| id == CLUSTER), "{found:?}");
    if let Some(promise) = promises.iter().rfind(|promise| promise.calls <= calls) {
        assert_eq!(found.node_id, promise.identity.node_id, "after {calls} calls");
        assert!(promise.identity.cluster_id.is_none() || found.cluster_id.is_some(), "after {calls} calls");
        // A turn that is over does not come back.
        assert!(found.pledge.turn >= promise.identity.pledge.turn, "after {calls} calls");
        // Others may have heard of a start that was counted.
        found.lineage.check_after(promise.identity.lineage.start()).expect("a start is counted for ever");
    }
    found
}

/// After so many calls a node has the promise that it had made, or what it was about to do with it.
fn check_promise(found: &Identity, calls: usize, promises: &[Promise]) {
    let is_found = |promise: &Promise| {
        (&promise.identity.cluster_id, &promise.identity.pledge) == (&found.cluster_id, &found.pledge)
    };
    let last = promises.iter().rfind(|promise| promise.calls <= calls);
    let next = promises.iter().find(|promise| promise.calls > calls);
    assert!(last.is_none_or(is_found) || next.is_some_and(is_found), "after {calls} calls: {found:?}");
}

async fn recorded_lives() -> (Vec<SimDisk>, Vec<Promise>) {
    let (disk, mut promises) = (SimDisk::default(), Vec::new());
    disk.record();
    live(&disk, &mut promises).await.expect("a disk that works");
    let ids: Vec<NodeId> = promises.iter().map(|promise| promise.identity.node_id).collect();
    assert_eq!(ids, vec![ids[0]; 12]);
    let promised: Vec<bool> = promises.iter().map(|promise| promise.identity.pledge.promise.is_some()).collect();
    let (no, yes) = (false, true);
    assert_eq!(promised, [no, no, yes, no, no, no, yes, yes, yes, yes, yes, yes]);
    (disk.recorded(), promises)
}

#[tokio::test]
async fn a_crash_at_any_call_leaves_a_whole_identity_or_none() {
    let mut points = CrashPoints::new(1);
    let (images, promises) = recorded_lives().await;
    for (calls, image) in images.iter().enumerate() {
        for crash in points.crashes(image) {
            crash.record();
            let found = check(&crash, calls, &promises).await;
            check_promise(&found, calls, &promises);
            for during in crash.recorded() {
                for second in points.second_crashes(&during) {
                    check(&second, calls, &promises).await;
                }
            }
            assert_eq!(check(&crash.crash(|_| false), calls, &promises).await, found);
        }
    }
    points.report("identity", 200, 2_000);
}

/// A killed process may leave names that only its system knows. Who has read them may tell others.
#[tokio::test]
async fn what_was_found_after_a_kill_no_later_crash_takes_away() {
    let mut points = CrashPoints::new(2);
    let (images, promises) = recorded_lives().await;
    for (calls, killed) in images.iter().enumerate() {
        let restarted = killed.copy();
        let found = check(&restarted, calls, &promises).await;
        for crash in points.crashes(&restarted) {
            assert_eq!(check(&crash, calls, &promises).await, found, "after {calls} calls");
        }
        // The node goes on to make its log: that is no reason to refuse the directory.
        let mut later = Vec::new();
        live(&restarted, &mut later).await.expect("a disk that works");
        for crash in points.crashes(&restarted) {
            assert_eq!(check(&crash, calls, &promises).await.node_id, found.node_id);
        }
    }
    points.report("identity, after a kill", 100, 0);
}

#[tokio::test]
async fn any_call_may_fail_or_find_no_room() {
    let mut points = CrashPoints::new(3);
    let calls = recorded_lives().await.0.len() - 1;
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        for call in 0..calls {
            let (disk, mut promises) = (SimDisk::default(), Vec::new());
            disk.fail_call(call, kind);
            // Calls of the log fail too; the identity is none of its concern.
            live(&disk, &mut promises).await.ok();
            let calls = disk.calls();
            for crash in points.crashes(&disk) {
                check(&crash, calls, &promises).await;
            }
            check(&disk.copy(), calls, &promises).await;
        }
    }
    points.report("identity, any call fails", 100, 0);
}

#[tokio::test]
async fn a_disk_that_is_full_at_any_byte_changes_nothing() {
    let full = SimDisk::default();
    let id = open_as(&full, 1, "first").await.expect("new").identity().node_id;
    let (before, file) = (full.used(), Path::new(DIR).join(FILE));
    let text = full.content(&file);
    for room in 0..text.len() + CLUSTER.len() {
        let disk = full.copy();
        disk.set_capacity(Some(before + room));
        let dir = open_as(&disk, 2, "first").await.expect("there is nothing to write");
        let error = dir.set_cluster_id(CLUSTER).await.expect_err("no room");
        assert!(matches!(&error, IdentityError::Io { path, .. } if *path == file), "{error}");
        assert_eq!((disk.content(&file), dir.identity().cluster_id.clone()), (text.clone(), None));
        disk.set_capacity(None);
        dir.set_cluster_id(CLUSTER).await.expect("there is room");
        assert_eq!(check(&disk.crash(|_| false), 0, &[]).await.node_id, id);
    }
}

#[tokio::test]
async fn every_changed_bit_and_every_cut_is_refused_with_the_file() {
    let disk = SimDisk::default();
    open_as(&disk, 1, "first").await.expect("new").set_cluster_id(CLUSTER).await.expect("cluster");
    let file = Path::new(DIR).join(FILE);
    let text = disk.content(&file);
    let refused = async |change: &dyn Fn(&mut Vec<u8>)| {
        let disk = disk.copy();
        disk.edit(&file, |bytes| change(bytes));
        let changed = disk.content(&file);
        let error = open_as(&disk, 2, "first").await.err().expect("refused");
        let is_named = match &error {
            IdentityError::Damaged { path, .. } | IdentityError::NewerVersion { path, .. } => *path == file,
            _ => false,
        };
        assert!(is_named, "{error}");
        assert_eq!(disk.content(&file), changed, "nothing was changed");
    };
    for bit in 0..text.len() * 8 {
        refused(&|bytes| bytes[bit / 8] ^= 1 << (bit % 8)).await;
    }
    for len in 0..text.len() {
        refused(&|bytes| bytes.truncate(len)).await;
    }
}

/// A directory becomes that of a new node at once, or stays that of the old one.
#[tokio::test]
async fn a_crash_while_the_directory_changes_its_node_leaves_one_of_the_two() {
    let mut points = CrashPoints::new(4);
    let disk = SimDisk::default();
    let dir = open_as(&disk, 1, "first").await.expect("new");
    dir.set_cluster_id(CLUSTER).await.expect("cluster");
    let tasks = Tasks::new(1, DiskTasks::Inline);
    let log = Log::open(&tasks, Arc::new(disk.clone()), dir.log_dir(), LogOptions::default());
    log.await.expect("log").close().await.expect("closed");
    let old = dir.identity();
    disk.record();
    dir.start_anew().await.expect("a disk that works");
    let new = dir.identity();
    assert!(new.node_id != old.node_id && new.cluster_id.is_none() && new.name == old.name);
    assert_ne!(dir.log_dir(), Path::new(DIR).join(LOG), "a log of its own");
    dir.close();
    let images = disk.recorded();
    let last = images.len() - 1;
    for (calls, image) in images.iter().enumerate() {
        for crash in points.crashes(image) {
            let found = open_as(&crash, 2, "first").await.expect("it opens").identity();
            assert!(found == old && calls < last || found == new, "after {calls} calls: {found:?}");
        }
    }
    let kept = decode(Path::new("identity-1"), disk.content(&Path::new(DIR).join("identity-1")).as_slice());
    assert_eq!(kept.expect("the old one's"), old);
    points.report("a new node in the directory", 10, 0);
}
