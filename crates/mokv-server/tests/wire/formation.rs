//! Clusters that form themselves: whole nodes, whose gossip the scenario feeds.

use std::collections::BTreeSet;
use std::time::Duration;

use mokv_server::formation::core::Mode;
use tokio::time::sleep;

use crate::harness::{PATIENCE, Setup, World, address};

/// From the start of the nodes to the first leader.
const FORMATION_MAX: Duration = Duration::from_secs(3);

/// Where nothing may happen, for so long it does not.
const QUIET: Duration = Duration::from_secs(10);

fn expecting_three(nodes: usize) -> Setup {
    Setup { nodes, form: false, gossip: true, options: |options| options.mode = Mode::Expect(3), ..Setup::default() }
}

/// The first node forms a cluster alone, the others join.
fn led_by_the_first(nodes: usize) -> Setup {
    let options = |options: &mut mokv_server::node::NodeOptions| {
        options.mode = if options.name == "node-0" { Mode::Alone } else { Mode::Join };
    };
    Setup { nodes, form: false, gossip: true, options, ..Setup::default() }
}

fn clusters(world: &World) -> BTreeSet<String> {
    world.statuses().into_iter().filter_map(|status| status.cluster_id).collect()
}

fn members_of_clusters(world: &World) -> usize {
    world.statuses().into_iter().filter(|status| status.cluster_id.is_some()).count()
}

/// Whether all nodes run, and these are in one cluster that serves.
fn is_formed(world: &World, nodes: usize, members: usize) -> bool {
    let is_led = || world.statuses().iter().any(|status| status.state == "leader");
    world.statuses().len() == nodes && members_of_clusters(world) == members && is_led()
}

#[test]
fn three_nodes_that_start_at_once_form_one_cluster() {
    expecting_three(3).run(|world| async move {
        world.gossip_until("a cluster", FORMATION_MAX, &[0, 1, 2], || world.leads().is_some()).await;
        assert_eq!(clusters(&world).len(), 1);
        world.client().set("key", "value").await.expect("it takes writes");
        assert!(world.client().members().await.expect("members").iter().all(|member| member.name.starts_with("node-")));
        assert_eq!(world.client().members().await.expect("members").len(), 3);
    });
}

/// RELIABILITY 27: nodes that come one by one, in two halves.
#[test]
fn of_five_nodes_in_two_halves_three_form_the_only_cluster() {
    expecting_three(5).run(|world| async move {
        world.until("all run", PATIENCE, || world.statuses().len() == 5).await;
        for (a, b) in [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)] {
            turmoil::partition(crate::harness::name(a), crate::harness::name(b));
        }
        // Two wait for a third one, for as long as it takes.
        world.gossip([2, 3]);
        world.gossip([0, 1]);
        sleep(QUIET).await;
        assert_eq!(members_of_clusters(&world), 0);
        let formed = || members_of_clusters(&world) == 3;
        world.gossip_until("a cluster of three", FORMATION_MAX, &[2, 3, 4], formed).await;
        for (a, b) in [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)] {
            turmoil::repair(crate::harness::name(a), crate::harness::name(b));
        }
        // The others see it, and wait to be taken in.
        world.gossip(0..5);
        sleep(QUIET).await;
        assert_eq!((members_of_clusters(&world), clusters(&world).len()), (3, 1));
        for index in [0, 1] {
            world.client_of([2]).add_member(&address(index), false).await.expect("it is taken in");
        }
        assert_eq!(members_of_clusters(&world), 5);
    });
}

/// RELIABILITY 27: founders crash while they form, with their disks or without.
#[test]
fn founders_that_crash_form_one_cluster_all_the_same() {
    expecting_three(3).run(|world| async move {
        let mut has_wiped = false;
        for _ in 0..4 {
            let (victim, moment) = (usize::try_from(world.random(0..3)).expect("small"), world.random(0..600));
            let until = tokio::time::Instant::now() + Duration::from_millis(moment);
            while tokio::time::Instant::now() < until {
                world.gossip(0..3);
                sleep(Duration::from_millis(10)).await;
            }
            world.crash(victim).await;
            // Once there is a cluster, a lost disk is another story: its member has to be replaced. And of three nodes one may
            // lose its disk.
            if !has_wiped && world.random(0..2) == 0 && !world.has_cluster_on_disk() {
                has_wiped = true;
                world.wipe(victim);
            }
            world.start(victim).await;
        }
        world.gossip_until("a cluster", PATIENCE, &[0, 1, 2], || is_formed(&world, 3, 3)).await;
        assert_eq!(clusters(&world).len(), 1);
        world.client().set("key", "value").await.expect("it takes writes");
    });
}

#[test]
fn a_wiped_first_node_joins_the_cluster_that_it_sees() {
    led_by_the_first(2).run(|world| async move {
        world.gossip_until("a cluster", PATIENCE, &[0, 1], || is_formed(&world, 2, 1)).await;
        world.client_of([0]).add_member(&address(1), false).await.expect("join");
        let cluster_id = world.status(1).cluster_id;
        world.crash(0).await;
        world.wipe(0);
        world.start(0).await;
        world.until("it runs", PATIENCE, || world.running(0).is_some()).await;
        world.gossip(0..2);
        sleep(QUIET).await;
        assert_eq!((world.status(0).cluster_id, world.status(1).cluster_id), (None, cluster_id));
        let readiness = format!("{:?}", world.status(0).readiness);
        assert!(readiness.contains("to take this node in"), "{readiness}");
    });
}

/// RELIABILITY 28, and the wiped first node that nobody told of its cluster.
#[test]
fn a_second_cluster_that_nobody_wrote_to_dissolves_when_it_meets_the_first() {
    led_by_the_first(3).run(|world| async move {
        world.gossip_until("a cluster", PATIENCE, &[0, 1, 2], || is_formed(&world, 3, 1)).await;
        for index in [1, 2] {
            world.client_of([0]).add_member(&address(index), false).await.expect("join");
        }
        world.client_of([0]).set("key", "value").await.expect("set");
        let first = world.status(1).cluster_id;
        world.crash(0).await;
        world.wipe(0);
        world.forget_gossip(0);
        world.start(0).await;
        world.gossip_until("a second cluster", PATIENCE, &[0], || members_of_clusters(&world) == 3).await;
        let young = world.status(0);
        assert_eq!(clusters(&world).len(), 2);
        world.gossip_until("both say so", PATIENCE, &[0, 1, 2], || world.status(1).warning.is_some()).await;
        let warning = world.status(1).warning.expect("just seen");
        assert!(warning.contains(&first.clone().expect("one")) && warning.contains(&young.cluster_id.expect("one")));
        let is_new = || world.running(0).is_some_and(|node| node.node_id() != young.node_id);
        world.gossip_until("the young one gives way", PATIENCE, &[0, 1, 2], is_new).await;
        world.gossip(0..3);
        sleep(QUIET).await;
        assert_eq!((world.status(0).cluster_id, world.status(1).cluster_id), (None, first));
        world.gossip(0..3);
        world.until("nothing to say any more", PATIENCE, || world.status(1).warning.is_none()).await;
    });
}

#[test]
fn two_clusters_that_took_writes_stay_apart_and_say_so() {
    Setup { nodes: 2, form: false, gossip: true, options: |options| options.mode = Mode::Alone, ..Setup::default() }
        .run(|world| async move {
            world.until("both run", PATIENCE, || world.statuses().len() == 2).await;
            for index in [0, 1] {
                world.gossip([index]);
            }
            world.until("two clusters", PATIENCE, || clusters(&world).len() == 2).await;
            for index in [0, 1] {
                world.client_of([index]).set("key", format!("value-{index}")).await.expect("set");
            }
            let before: Vec<_> = world.statuses().into_iter().map(|status| status.node_id).collect();
            world
                .gossip_until("both say so", PATIENCE, &[0, 1], || {
                    world.statuses().iter().all(|status| status.warning.is_some())
                })
                .await;
            sleep(QUIET).await;
            assert_eq!(world.statuses().into_iter().map(|status| status.node_id).collect::<Vec<_>>(), before);
            for index in [0, 1] {
                let read = world.client_of([index]).get("key").await.expect("get").expect("is there");
                assert_eq!(read.value, format!("value-{index}"));
            }
        });
}
