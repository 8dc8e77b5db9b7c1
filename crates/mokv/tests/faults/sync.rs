//! Syncs and writes that fail, hang, or are the last thing that a process does.

use std::time::Duration;

use mokv_client::Error;

use crate::cluster::{Cluster, SMALL_AND_QUICK, SMALL_FILES, eventually};
use crate::history::{History, Outcome};
use crate::load::{Load, Reach};
use crate::strace::Strace;
use crate::tools::{Tool, has, number, say};

const TOOLS: [Tool; 1] = [Tool::Strace];

/// Which node a fault is for.
const ROLES: [&str; 2] = ["leader", "follower"];

async fn node_with(cluster: &Cluster, role: &str) -> usize {
    let leader = cluster.leader().await;
    if role == "leader" { leader } else { (leader + 1) % 3 }
}

/// The sync is the boundary between what is promised and what is not: a crash there leaves records that were written, but
/// nobody was told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace"]
async fn a_crash_at_any_sync_loses_nothing() {
    if !has("a_crash_at_any_sync_loses_nothing", &TOOLS) {
        return;
    }
    let syncs = number("MOKV_FAULTS_SYNCS", 6);
    let mut cluster = Cluster::start(&SMALL_AND_QUICK).await;
    let load = Load::start(&cluster, Reach::All);
    for sync in 1..=syncs {
        for role in ROLES {
            load.progress(50).await;
            let node = node_with(&cluster, role).await;
            let strace = Strace::inject(&cluster.nodes[node], &format!("fdatasync:signal=KILL:when={sync}")).await;
            // It dies by the injected signal.
            let died = cluster.nodes[node].exit().await;
            assert_eq!(died.code(), None, "{}", cluster.nodes[node].said());
            drop(strace);
            cluster.nodes[node].start(false);
            cluster.serving().await;
        }
    }
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("killed at {} syncs: {counts:?}", 2 * syncs));
}

/// Nobody knows what a disk has after a failed write or sync: the process says so and ends, whatever it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace"]
async fn a_failed_write_or_sync_of_the_log_ends_the_process() {
    if !has("a_failed_write_or_sync_of_the_log_ends_the_process", &TOOLS) {
        return;
    }
    let faults = [
        ("fdatasync:error=EIO:when=3", "could not sync", "Input/output error"),
        ("pwrite64:error=EIO:when=3", "could not write", "Input/output error"),
        // The room was reserved, so a disk that has none now has broken its promise.
        ("pwrite64:error=ENOSPC:when=3", "could not write", "No space left on device"),
    ];
    let mut cluster = Cluster::start(&SMALL_AND_QUICK).await;
    let load = Load::start(&cluster, Reach::All);
    for (fault, doing, cause) in faults {
        for role in ROLES {
            load.progress(50).await;
            let node = node_with(&cluster, role).await;
            let strace = Strace::inject(&cluster.nodes[node], fault).await;
            let said = cluster.nodes[node].failure().await;
            drop(strace);
            assert!(said.contains(doing) && said.contains(cause), "{role}, {fault}: {said}");
            load.progress(50).await;
            cluster.nodes[node].start(false);
            cluster.serving().await;
        }
    }
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("{} failed writes and syncs: {counts:?}", 2 * faults.len()));
}

/// No room for the next segment anywhere: writes are refused, reads go on, and so do writes as soon as there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace"]
async fn no_room_for_the_next_segment_refuses_writes_only() {
    if !has("no_room_for_the_next_segment_refuses_writes_only", &TOOLS) {
        return;
    }
    let cluster = Cluster::start(&SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(100).await;
    let mut full = Vec::new();
    for node in &cluster.nodes {
        full.push(Strace::inject(node, "fallocate:error=ENOSPC").await);
    }
    for (index, node) in cluster.nodes.iter().enumerate() {
        eventually("writes are refused", async || match node.client().set("refused", "v").await {
            Err(Error::DiskFull(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        // One that was full before the others lacks what they wrote, and says so: then another one answers.
        cluster.client(index).get("register-0").await.expect("reads go on");
    }
    drop(full);
    load.progress(100).await;
    for node in &cluster.nodes {
        eventually("it has room again", async || match node.status().await {
            Ok(status) if !status.disk_full => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    let history = load.stop().await;
    cluster.client(0).delete("refused").await.expect("delete");
    let counts = cluster.judge(&history).await;
    let refused = refused_for_room(&history);
    assert!(refused > 0, "no client was refused");
    say(format_args!("no room for the log: {refused} refused, {counts:?}"));
}

pub(crate) fn refused_for_room(history: &History) -> usize {
    let refused =
        history.writes().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(why) if why.contains("no room")));
    refused.count()
}

/// A disk that takes its time is no reason for an election: heartbeats don't wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace"]
async fn slow_syncs_of_the_leader_bring_no_election_storm() {
    if !has("slow_syncs_of_the_leader_bring_no_election_storm", &TOOLS) {
        return;
    }
    const SPAN: Duration = Duration::from_secs(10);
    let cluster = Cluster::start(&SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(100).await;
    let (leader, term) = cluster.leader_and_term().await;
    let slow = Strace::inject(&cluster.nodes[leader], "fdatasync:delay_enter=2000000").await;
    let begin = load.now();
    tokio::time::sleep(SPAN).await;
    let (_, now) = cluster.leader_and_term().await;
    let end = load.now();
    drop(slow);
    load.progress(100).await;
    let history = load.stop().await;
    let counts = cluster.judge(&history).await;
    let gap = history.longest_gap(begin, end);
    say(format_args!(
        "leader's syncs take 2 s: term {term} -> {now}, longest time without a write {gap:?}: {counts:?}"
    ));
    assert!(now - term <= 2, "the term grew from {term} to {now}");
    assert!(gap < SPAN, "no write was acknowledged in {SPAN:?}");
}
