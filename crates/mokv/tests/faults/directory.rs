//! Whose a data directory is: one process's, and for life.

use std::fs;
use std::process::Command;

use crate::cluster::{Cluster, SMALL_FILES, eventually};
use crate::load::{Load, Reach};
use crate::node::{Node, Place};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_process_on_a_directory_is_refused() {
    let cluster = Cluster::start(&[]).await;
    let load = Load::start(&cluster, Reach::All);
    for (index, node) in cluster.nodes.iter().enumerate() {
        load.progress(50).await;
        let place = Place::local(node.place.data_dir.clone());
        let mut second = Node::new(format!("second-{index}"), place, &[], cluster.dir.path());
        second.start(true);
        let said = second.failure().await;
        assert!(said.contains("is in use by another process"), "{said}");
    }
    load.progress(50).await;
    cluster.judge(&load.stop().await).await;
}

/// A node without its directory is another node: it votes only when it was taken in again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_directory_joins_as_a_new_one() {
    let mut cluster = Cluster::start(&SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(500).await;
    let lost = 2;
    let before = cluster.nodes[lost].status().await.expect("status").node_id;
    cluster.nodes[lost].kill();
    fs::rename(&cluster.nodes[lost].place.data_dir, cluster.dir.path().join("moved-away")).expect("move");
    cluster.nodes[lost].start(false);

    let status = eventually("it starts", async || cluster.nodes[lost].status().await).await;
    assert_ne!(status.node_id, before, "an empty directory is a new node");
    assert_eq!(status.cluster_id, "", "nobody took it in yet");
    load.progress(500).await;
    let members = cluster.client(0).members().await.expect("members");
    assert!(members.iter().any(|member| member.node_id == before), "the old one is a member until it is removed");

    // The way that docs/operations.md tells.
    mokv(&cluster, &["member", "remove", &before.to_string()]);
    mokv(&cluster, &["member", "add", &cluster.nodes[lost].addr()]);
    let members = cluster.client(0).members().await.expect("members");
    let ids: Vec<u64> = members.iter().map(|member| member.node_id).collect();
    assert!(ids.len() == 3 && ids.contains(&status.node_id) && !ids.contains(&before), "{members:?}");
    load.progress(500).await;
    cluster.judge(&load.stop().await).await;
}

/// Runs a command, asked of the two nodes that are never touched here.
fn mokv(cluster: &Cluster, args: &[&str]) {
    let endpoints = format!("{},{}", cluster.nodes[0].addr(), cluster.nodes[1].addr());
    let mut command = Command::new(env!("CARGO_BIN_EXE_mokv"));
    let output = command.args(args).args(["--endpoints", &endpoints]).output().expect("mokv");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
