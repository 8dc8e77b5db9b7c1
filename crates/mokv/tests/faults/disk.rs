//! Disks that hang or turn read-only, directories that vanish, descriptors that run out: an error or an end, but never an
//! acknowledgement of what is not kept.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::cluster::{Cluster, SMALL_FILES, eventually};
use crate::image::{Image, TOOLS};
use crate::load::{Load, Reach};
use crate::tools::{Tool, has, run, say};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and loop devices"]
async fn a_disk_that_turns_read_only_ends_the_process() {
    if !has("a_disk_that_turns_read_only_ends_the_process", &TOOLS) {
        return;
    }
    let disks = TempDir::new().expect("directory");
    let images = Image::three(disks.path(), 256);
    let places = images.iter().map(Image::place).collect();
    let mut cluster = Cluster::start_in(TempDir::new().expect("directory"), places, &SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    for role in ["leader", "follower"] {
        load.progress(200).await;
        let leader = cluster.leader().await;
        let node = if role == "leader" { leader } else { (leader + 1) % 3 };
        images[node].abort();
        let said = cluster.nodes[node].failure().await;
        assert!(said.contains("the log can't go on"), "{role}: {said}");
        load.progress(200).await;
        // Still read-only: it does not start either, and says so.
        cluster.nodes[node].start(false);
        cluster.nodes[node].failure().await;
        images[node].unmount();
        images[node].mount();
        cluster.nodes[node].start(false);
        cluster.serving().await;
    }
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("read-only disks: {counts:?}"));
}

/// A frozen file system hangs every sync. One is done without; with two, nothing is acknowledged until one is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and loop devices"]
async fn a_majority_of_disks_has_to_answer() {
    if !has("a_majority_of_disks_has_to_answer", &TOOLS) {
        return;
    }
    const FROZEN: Duration = Duration::from_secs(5);
    let disks = TempDir::new().expect("directory");
    let images = Image::three(disks.path(), 256);
    let places = images.iter().map(Image::place).collect();
    let cluster = Cluster::start_in(TempDir::new().expect("directory"), places, &SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(200).await;
    let leader = cluster.leader().await;
    let one = images[leader].freeze();
    load.progress(200).await;
    let two = images[(leader + 1) % 3].freeze();
    // What the second disk had is acknowledged yet.
    let mut acknowledged = load.acknowledged();
    eventually("acknowledgements end", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = std::mem::replace(&mut acknowledged, load.acknowledged());
        if before == acknowledged { Ok(()) } else { Err(acknowledged - before) }
    })
    .await;
    tokio::time::sleep(FROZEN).await;
    assert_eq!(load.acknowledged(), acknowledged, "two disks of three hang, and writes are acknowledged");
    drop(two);
    load.progress(200).await;
    drop(one);
    load.progress(200).await;
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("frozen disks: {counts:?}"));
}

/// The open files of a directory that was deleted go on working; the next one can't be made. The node ends then, and what
/// it had is on the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow, and beside the disks' other faults"]
async fn a_deleted_directory_ends_the_process() {
    let mut cluster = Cluster::start(&SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(200).await;
    let lost = (cluster.leader().await + 1) % 3;
    let id = cluster.nodes[lost].status().await.expect("status").node_id;
    fs::remove_dir_all(&cluster.nodes[lost].place.data_dir).expect("remove");
    cluster.nodes[lost].failure().await;
    load.progress(200).await;
    cluster.nodes[lost].start(false);
    let client = cluster.client((lost + 1) % 3);
    client.remove_member(&id.to_string(), false).await.expect("remove");
    let addr = cluster.nodes[lost].addr();
    eventually("it joins as a new node", async || client.add_member(&addr, false).await).await;
    load.progress(200).await;
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("a deleted directory: {counts:?}"));
}

/// Without descriptors there are no new connections and no new segments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs prlimit"]
async fn a_process_without_descriptors_ends() {
    if !has("a_process_without_descriptors_ends", &[Tool::UtilLinux]) {
        return;
    }
    let mut cluster = Cluster::start(&SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(200).await;
    let leader = cluster.leader().await;
    run("prlimit", [&format!("--pid={}", cluster.nodes[leader].pid()), "--nofile=10:10"]);
    let said = cluster.nodes[leader].failure().await;
    assert!(said.contains("Too many open files"), "{said}");
    load.progress(200).await;
    cluster.nodes[leader].start(false);
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("no descriptors: {counts:?}"));
}
