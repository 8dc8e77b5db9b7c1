//! Disks that fill up.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};

use mokv_client::Error;

use crate::cluster::{Cluster, SMALL_FILES, eventually};
use crate::image::{Image, TOOLS};
use crate::load::{Load, Reach};
use crate::sync::refused_for_room;
use crate::tools::{has, say};

const BALLAST: &str = "ballast";

/// Takes all room but a few kilobytes that the file system keeps for itself.
fn fill(image: &Image) {
    let mut ballast = File::create(image.path(BALLAST)).expect("ballast");
    let mut piece = vec![1; 1 << 20];
    while !piece.is_empty() {
        match ballast.write_all(&piece).and_then(|()| ballast.sync_data()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
            Err(error) => panic!("ballast: {error}"),
        }
    }
}

fn empty(image: &Image) {
    fs::remove_file(image.path(BALLAST)).expect("ballast");
}

async fn until_full(cluster: &Cluster, node: usize) {
    eventually("the disk is full", async || match cluster.nodes[node].status().await {
        Ok(status) if status.disk_full => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Segments and snapshots of the usual proportions, but small: the log goes on for a while in what was reserved, a
/// snapshot finds no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and loop devices"]
async fn full_disks_refuse_writes_and_nothing_else() {
    if !has("full_disks_refuse_writes_and_nothing_else", &TOOLS) {
        return;
    }
    let disks = tempfile::TempDir::new().expect("directory");
    let images = Image::three(disks.path(), 24);
    let places = images.iter().map(Image::place).collect();
    let cluster = Cluster::start_in(tempfile::TempDir::new().expect("directory"), places, &SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(500).await;

    // One: it stops leading, and the others go on.
    let leader = cluster.leader().await;
    fill(&images[leader]);
    until_full(&cluster, leader).await;
    eventually("another one leads", async || match cluster.leader().await {
        now if now == leader => Err("it still leads"),
        _ => Ok(()),
    })
    .await;
    load.progress(500).await;

    // All: nobody can write, everybody can read.
    for index in (0..3).filter(|index| *index != leader) {
        fill(&images[index]);
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

    images.iter().for_each(empty);
    load.progress(500).await;
    let history = load.stop().await;
    cluster.client(0).delete("refused").await.expect("delete");
    let counts = cluster.judge(&history).await;
    let refused = refused_for_room(&history);
    assert!(refused > 0, "no client was refused");
    say(format_args!("full disks: {refused} refused, {counts:?}"));
}

/// The log has room in what it reserved; the snapshot that is due has none, and comes when there is some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and loop devices"]
async fn a_snapshot_that_finds_no_room_is_put_off() {
    if !has("a_snapshot_that_finds_no_room_is_put_off", &TOOLS) {
        return;
    }
    let disks = tempfile::TempDir::new().expect("directory");
    let images = Image::three(disks.path(), 24);
    let places = images.iter().map(Image::place).collect();
    // Segments so large that the log does not need another one, and a snapshot after each half a megabyte.
    let settings = [("log-segment-size", "4MiB"), ("snapshot-log-size", "512KiB")];
    let mut cluster = Cluster::start_in(tempfile::TempDir::new().expect("directory"), places, &settings).await;
    images.iter().for_each(fill);
    let load = Load::start(&cluster, Reach::All);
    eventually("a node has no room for a snapshot", async || {
        let said = cluster.nodes.iter().any(|node| node.said().contains("no room for a snapshot"));
        said.then_some(()).ok_or(load.acknowledged())
    })
    .await;
    // Killed while its snapshot is put off.
    cluster.nodes[0].kill();
    cluster.nodes[0].start(false);
    images.iter().for_each(empty);
    cluster.serving().await;
    load.progress(100).await;
    for node in &cluster.nodes {
        eventually("there is a snapshot", async || match node.status().await {
            Ok(status) if status.snapshot_index > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("no room for snapshots: {counts:?}"));
}
