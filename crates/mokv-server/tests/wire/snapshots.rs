//! Snapshots on their way.

use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt, future, stream};
use mokv_proto::internal::snapshot_chunk::Part;
use mokv_proto::internal::{LogId, SnapshotChunk, SnapshotHeader, Vote};
use mokv_server::node::NodeOptions;
use mokv_server::peer::{Lane, PeerNetwork, Target};
use mokv_server::rpc::peer::GrpcNetwork;
use tokio::time::sleep;

use crate::harness::{PATIENCE, Setup, World, address, name};
use crate::sockets;

/// No member.
const STRANGER: u64 = 4711;

fn often(options: &mut NodeOptions) {
    options.snapshot_log_bytes = 256 << 10;
    options.log.segment_bytes = 64 << 10;
}

/// The length of the snapshot that a node is receiving.
fn received(world: &World, index: usize) -> usize {
    let disk = world.disk(index);
    let unfinished = |path: &Path| path.extension().is_some_and(|extension| extension == "tmp");
    let in_snapshots = |path: &Path| path.parent().is_some_and(|dir| dir.ends_with("snapshots"));
    let mut sizes = disk.paths().into_iter().filter(|path| unfinished(path) && in_snapshots(path));
    sizes.next().map_or(0, |path| disk.content(&path).len())
}

async fn fill(world: &World, through: usize) {
    let client = world.client_of([through]);
    for base in (0..3000).step_by(100) {
        let writes = (base..base + 100).map(|number| {
            let client = &client;
            async move { client.set(format!("key-{number:04}"), vec![number as u8; 1000]).await }
        });
        future::try_join_all(writes).await.expect("set");
    }
}

#[test]
fn a_snapshot_that_is_cut_in_the_middle_is_sent_again() {
    // A connection carries a few hundred KiB/s over the slow link.
    let narrow = |network: &mut turmoil::Builder| {
        network.tcp_capacity(16);
    };
    Setup { options: often, network: narrow, ..Setup::default() }.run(|world| async move {
        let leader = world.leader().await;
        let away = world.followers().await[0];
        let last = world.status(away).last_log_index;
        world.crash(away).await;
        fill(&world, leader).await;
        let purged = || world.node(leader).raft().progress().purged > last;
        world.until("only a snapshot helps", PATIENCE, purged).await;
        let leader = world.leader().await;

        world.set_latency(leader, away, Duration::from_millis(60)).await;
        world.start(away).await;
        for part in [100 << 10, 500 << 10] {
            world.until("a part of the snapshot has come", PATIENCE, || received(&world, away) > part).await;
            assert_eq!(world.status(away).snapshot_index, 0, "it is whole already");
            turmoil::partition(name(leader), name(away));
            sleep(Duration::from_millis(world.random(200..8000))).await;
            turmoil::repair(name(leader), name(away));
        }
        world.settle(Duration::from_secs(60)).await;
        let status = world.status(away);
        assert!(status.snapshot_index > last, "it was not a snapshot that helped");
        assert_eq!(status.keys, 3000);
    });
}

#[test]
fn a_snapshot_of_what_the_log_has_is_taken_unread() {
    Setup::default().run(|world| async move {
        let leader = world.leader().await;
        let follower = world.followers().await[0];
        world.client().set("key", "value").await.expect("set");
        world.settle(PATIENCE).await;
        let status = world.status(follower);
        let leader_id = world.status(leader).node_id;
        let peers = GrpcNetwork::new(sockets::connect);
        let target = Target { node_id: Some(status.node_id), rpc_addr: address(follower) };
        let peer = peers.peer(&world.impostor(STRANGER), &target, Lane::Snapshot);
        let vote = Vote { term: status.term, node_id: leader_id, committed: true };
        // Nothing follows the header.
        let snapshot = |index| {
            let last_log_id = Some(LogId { term: status.term, index });
            let header = SnapshotHeader { vote: Some(vote), last_log_id, size: 1000, ..SnapshotHeader::default() };
            peer.snapshot(stream::iter([SnapshotChunk { part: Some(Part::Header(header)) }]).boxed())
        };
        let taken = snapshot(status.last_log_index).await.expect("taken");
        assert_eq!(taken.vote, Some(vote));
        snapshot(status.last_log_index + 1).await.expect_err("it ended too early");
        assert_eq!(world.status(follower).snapshot_index, status.snapshot_index);
    });
}
