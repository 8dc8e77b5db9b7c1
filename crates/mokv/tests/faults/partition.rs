//! Cuts in the network: the side with a majority serves within ten seconds, and nobody else answers.

use std::time::Duration;

use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::load::{Load, Reach};
use crate::network::{Network, TOOLS};
use crate::tools::{has, say};

/// A cut has to be survived for longer than this.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// Of 150 ms to 1.2 s each: more terms than this in ten seconds are a storm.
const TERMS_MAX: u64 = 4;

/// What is cut, in words and in deed, given the leader and the two others.
type Cut = (&'static str, fn(&Network, [usize; 3]));

/// Cuts a part of the network, each time from a healthy cluster.
fn survive(test: &str, cuts: &[Cut]) {
    if !has(test, &TOOLS) {
        return;
    }
    let network = Network::new(3);
    network.run(async || {
        let dir = TempDir::new().expect("directory");
        let places = network.places(dir.path());
        let cluster = Cluster::start_in(dir, places, &[]).await;
        let load = Load::start(&cluster, Reach::All);
        let mut spans = Vec::new();
        for (name, cut) in cuts {
            load.progress(200).await;
            let (leader, term) = cluster.leader_and_term().await;
            let begin = load.now();
            cut(&network, [leader, (leader + 1) % 3, (leader + 2) % 3]);
            // Something may have to be noticed first: look at all of the time, not at the beginning of it.
            tokio::time::sleep(SERVED_WITHIN).await;
            load.progress(200).await;
            let end = load.now();
            network.heal();
            cluster.serving().await;
            let (_, now) = cluster.leader_and_term().await;
            spans.push((*name, begin, end, now - term));
        }
        let history = load.stop().await;
        let counts = cluster.judge(&history).await;
        for (name, begin, end, terms) in spans {
            let gap = history.longest_gap(begin, end);
            say(format_args!("{name}: longest time without an acknowledged write {gap:?}, {terms} terms"));
            assert!(gap < SERVED_WITHIN, "{name}: no write was acknowledged for {gap:?}");
            assert!(terms <= TERMS_MAX, "{name}: {terms} terms");
        }
        say(format_args!("{test}: {counts:?}"));
    });
}

#[test]
#[ignore = "needs root, network namespaces and nft"]
fn an_isolated_node_is_done_without() {
    survive(
        "an_isolated_node_is_done_without",
        &[
            ("leader isolated", |network, [leader, a, b]| {
                network.cut(leader, a);
                network.cut(leader, b);
            }),
            ("follower isolated", |network, [leader, a, b]| {
                network.cut(a, leader);
                network.cut(a, b);
            }),
        ],
    );
}

#[test]
#[ignore = "needs root, network namespaces and nft"]
fn one_way_cuts_are_survived() {
    survive(
        "one_way_cuts_are_survived",
        &[
            ("leader can't send", |network, [leader, a, b]| {
                network.cut_one_way(leader, a);
                network.cut_one_way(leader, b);
            }),
            ("leader can't hear", |network, [leader, a, b]| {
                network.cut_one_way(a, leader);
                network.cut_one_way(b, leader);
            }),
            ("follower can't send", |network, [leader, a, b]| {
                network.cut_one_way(a, leader);
                network.cut_one_way(a, b);
            }),
            ("follower can't hear", |network, [leader, a, b]| {
                network.cut_one_way(leader, a);
                network.cut_one_way(b, a);
            }),
        ],
    );
}

/// Two that don't hear each other, and one that hears both.
#[test]
#[ignore = "needs root, network namespaces and nft"]
fn a_bridge_keeps_the_cluster_together() {
    survive(
        "a_bridge_keeps_the_cluster_together",
        &[
            ("bridge without the leader in the middle", |network, [leader, a, _]| network.cut(leader, a)),
            ("bridge with the leader in the middle", |network, [_, a, b]| network.cut(a, b)),
        ],
    );
}
