//! Processes that find each other by gossip, and a membership that follows.

use std::collections::BTreeMap;
use std::fs;

use mokv_client::messages::Role;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::cluster::{Cluster, SMALL_AND_QUICK, eventually};
use crate::load::{Load, Reach};
use crate::node::{Node, Place};
use crate::tools::say;

/// Processes that do not run yet, each of which knows all of them.
fn pool(count: usize, settings: &[(&str, &str)]) -> Cluster {
    let dir = TempDir::new().expect("directory");
    let places: Vec<Place> = (0..count).map(|index| Place::local(dir.path().join(format!("node-{index}")))).collect();
    let gossip: Vec<String> = places.iter().map(|place| format!("{}:{}", place.host, place.ports[1])).collect();
    let addresses = gossip.join(",");
    let settings = [&SMALL_AND_QUICK[..], &[("start-join-addrs", addresses.as_str())], settings].concat();
    let named = places.into_iter().enumerate();
    let nodes = named.map(|(index, place)| Node::new(format!("node-{index}"), place, &settings, dir.path()));
    Cluster { nodes: nodes.collect(), dir }
}

/// The members as this node sees them, by name: their ids and whether they vote.
async fn members(cluster: &Cluster, asked: usize) -> Result<BTreeMap<String, (u64, bool)>, String> {
    let members = cluster.nodes[asked].client().members().await.map_err(|error| error.to_string())?;
    Ok(members.into_iter().map(|of| (of.name.clone(), (of.node_id, of.role() == Role::Voter))).collect())
}

/// Waits until there are so many members, and so many of them vote.
async fn until_members(cluster: &Cluster, asked: usize, count: usize, voters: usize) -> BTreeMap<String, (u64, bool)> {
    eventually("the membership is as it should be", async || {
        let members = members(cluster, asked).await?;
        let voting = members.values().filter(|(_, votes)| *votes).count();
        if (members.len(), voting) == (count, voters) { Ok(members) } else { Err(format!("{members:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_that_start_in_any_order_become_one_cluster() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut cluster = pool(3, &[]);
        for index in order {
            cluster.nodes[index].start(index == 0);
        }
        until_members(&cluster, order[0], 3, 3).await;
        cluster.serving().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_that_start_at_once_and_expect_three_are_one_cluster() {
    let mut cluster = pool(5, &[("bootstrap-expect", "3")]);
    cluster.nodes.iter_mut().for_each(|node| node.start(false));
    let first = until_members(&cluster, 0, 5, 5).await;
    for asked in 1..5 {
        assert_eq!(until_members(&cluster, asked, 5, 5).await, first);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_though_the_leader_was_killed() {
    let mut cluster = pool(4, &[("bootstrap-expect", "3")]);
    let mut newcomer = cluster.nodes.pop().expect("four");
    cluster.nodes.iter_mut().for_each(|node| node.start(false));
    until_members(&cluster, 0, 3, 3).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(100).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill();
    newcomer.start(false);
    // Of four, three vote.
    until_members(&cluster, (leader + 1) % 3, 4, 3).await;
    load.progress(100).await;
    cluster.nodes[leader].start(false);
    cluster.nodes.push(newcomer);
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("a new node while the leader is dead: {counts:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_takes_its_own_place() {
    let mut cluster = pool(3, &[("bootstrap-expect", "3")]);
    cluster.nodes.iter_mut().for_each(|node| node.start(false));
    let before = until_members(&cluster, 0, 3, 3).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(200).await;
    let lost = cluster.leader().await;
    cluster.nodes[lost].kill();
    fs::remove_dir_all(&cluster.nodes[lost].place.data_dir).expect("remove");
    cluster.nodes[lost].start(false);
    let (name, asked) = (cluster.nodes[lost].name.clone(), (lost + 1) % 3);
    eventually("a new node votes in the place of the old one", async || {
        let members = members(&cluster, asked).await?;
        let is_new = members.get(&name).is_some_and(|(id, votes)| *votes && *id != before[&name].0);
        if is_new && members.len() == 3 { Ok(()) } else { Err(format!("{members:?}")) }
    })
    .await;
    load.progress(200).await;
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("a lost disk: {counts:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_grow_to_five_and_shrink_again_under_load() {
    let mut cluster = pool(5, &[("bootstrap-expect", "3")]);
    let mut others = cluster.nodes.split_off(3);
    cluster.nodes.iter_mut().for_each(|node| node.start(false));
    until_members(&cluster, 0, 3, 3).await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(200).await;
    others.iter_mut().for_each(|node| node.start(false));
    until_members(&cluster, 0, 5, 5).await;
    load.progress(200).await;
    let begin = load.now();
    for node in &mut others {
        cluster.client(0).leave(&node.name).await.expect("leave");
        let status = node.exit().await;
        assert!(status.success(), "{status}: {}", node.said());
        load.progress(200).await;
    }
    until_members(&cluster, 0, 3, 3).await;
    let end = load.now();
    let history = load.stop().await;
    let gap = history.longest_gap(begin, end);
    let counts = cluster.judge(&history).await;
    say(format_args!("3 -> 5 -> 3 nodes, longest time without an acknowledged write {gap:?}: {counts:?}"));
    // It refuses to start again on its data, and says what to do.
    others[0].start(false);
    let said = others[0].failure().await;
    assert!(said.contains("has left its cluster"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_each_node_in_turn_changes_no_membership() {
    let mut cluster = pool(3, &[("bootstrap-expect", "3")]);
    cluster.nodes.iter_mut().for_each(|node| node.start(false));
    let before = until_members(&cluster, 0, 3, 3).await;
    let load = Load::start(&cluster, Reach::All);
    for index in 0..3 {
        load.progress(100).await;
        cluster.nodes[index].signal(Signal::TERM);
        let status = cluster.nodes[index].exit().await;
        assert!(status.success(), "{status}: {}", cluster.nodes[index].said());
        load.progress(100).await;
        cluster.nodes[index].start(false);
        cluster.serving().await;
    }
    assert_eq!(until_members(&cluster, 0, 3, 3).await, before);
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("restarted in turn: {counts:?}"));
}
