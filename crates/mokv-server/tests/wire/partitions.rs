//! Links that are cut, mended, slow or full.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future, stream};
use mokv_proto::internal::{self, SnapshotChunk, snapshot_chunk::Part};
use mokv_server::peer::{Lane, PeerNetwork, Target};
use mokv_server::rpc::peer::GrpcNetwork;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::harness::{CLIENTS, Setup, World, address, name};
use crate::sockets;

/// Two seconds until a silent connection is pinged, three for the answer, and one for everything else.
const BREAK_MAX: Duration = Duration::from_secs(6);

/// A connection is not given up before the answer to its ping is overdue.
const BREAK_MIN: Duration = Duration::from_secs(3);

/// Keeps a stream of each kind of call open until it breaks.
async fn open_stream(network: &GrpcNetwork, world: &World, lane: Lane) -> Result<(), Status> {
    let node_id = Some(world.node(0).node_id());
    let peer = network.peer(&world.impostor(4711), &Target { node_id, rpc_addr: address(0) }, lane);
    match lane {
        Lane::Log | Lane::Heartbeat => {
            let mut answers = peer.append(stream::pending().boxed()).await?;
            while let Some(answer) = answers.next().await {
                answer?;
            }
        }
        Lane::Forward => {
            let mut answers = peer.forward(stream::pending().boxed()).await?;
            while let Some(answer) = answers.next().await {
                answer?;
            }
        }
        Lane::Snapshot => {
            let header = internal::SnapshotHeader { size: 1, ..Default::default() };
            let chunk = SnapshotChunk { part: Some(Part::Header(header)) };
            peer.snapshot(stream::once(future::ready(chunk)).chain(stream::pending()).boxed()).await?;
        }
    }
    Ok(())
}

#[test]
fn a_stream_on_any_lane_breaks_by_keep_alive_and_can_be_opened_again() {
    Setup { nodes: 1, ..Setup::default() }.run(|world| async move {
        let network = GrpcNetwork::new(sockets::connect);
        let lanes = [Lane::Log, Lane::Heartbeat, Lane::Snapshot, Lane::Forward];
        for _ in 0..2 {
            let began = Instant::now();
            let cut_at = began + Duration::from_millis(2500 + world.random(0..2000));
            let streams = lanes.map(|lane| {
                let (network, world) = (&network, &world);
                async move {
                    let mut stream = open_stream(network, world, lane).boxed_local();
                    let until_cut = tokio::time::timeout_at(cut_at, &mut stream).await;
                    assert!(until_cut.is_err(), "{lane:?} ended by itself: {until_cut:?}");
                    turmoil::partition(CLIENTS, name(0));
                    let broken = timeout(BREAK_MAX, stream).await;
                    let took = cut_at.elapsed();
                    let status =
                        broken.unwrap_or_else(|_| panic!("{lane:?} hangs after {took:?}")).expect_err("broken");
                    assert!(took > BREAK_MIN, "{lane:?} was given up after {took:?}: {status}");
                }
            });
            future::join_all(streams).await;
            turmoil::repair(CLIENTS, name(0));
        }
    });
}

#[test]
fn a_follower_that_was_cut_off_catches_up_without_a_restart() {
    Setup::default().run(|world| async move {
        let leader = world.leader().await;
        let (term, changes) = (world.status(leader).term, world.status(leader).leader_changes);
        let followers = world.followers().await;
        let client = world.client_of([leader]);
        for (round, seconds) in [1, 4, 12].into_iter().enumerate() {
            let cut_off = followers[round % followers.len()];
            // A stream of each kind is open: entries, heartbeats, forwarded reads.
            world.client_of([cut_off]).get("key").await.expect("a read");
            (0..3).filter(|other| *other != cut_off).for_each(|other| turmoil::partition(name(cut_off), name(other)));
            let mended = Instant::now() + Duration::from_millis(seconds * 1000 + world.random(0..1000));
            let mut written = 0;
            while Instant::now() < mended {
                client.set(format!("key-{}", written % 50), format!("{round}-{written}")).await.expect("set");
                written += 1;
            }
            let missed = world.status(leader).applied_index - world.status(cut_off).applied_index;
            assert!(missed as usize > written / 2, "it was cut off, but lacks only {missed} entries");
            (0..3).filter(|other| *other != cut_off).for_each(|other| turmoil::repair(name(cut_off), name(other)));
            world.settle(BREAK_MAX).await;
            let read =
                world.client_of([cut_off]).with_timeout(BREAK_MAX).get("key-0").await.expect("a read through it");
            assert!(read.expect("is there").value.starts_with(format!("{round}-").as_bytes()));
        }
        // It asked before it stood for election, and was told that there is a leader.
        let status = world.status(leader);
        assert_eq!((status.state, status.term, status.leader_changes), ("leader", term, changes));
    });
}

/// A heartbeat is given up after its interval of 150 ms, so that a round trip has to be shorter.
const ONE_WAY: Duration = Duration::from_millis(50);

#[test]
fn large_values_on_a_slow_link_do_not_hold_up_heartbeats() {
    // Little of what is sent is on its way at a time: a connection carries a few MB/s over the slow link.
    let narrow = |network: &mut turmoil::Builder| {
        network.tcp_capacity(2);
    };
    Setup { network: narrow, ..Setup::default() }.run(|world| async move {
        let leader = world.leader().await;
        let slow = world.followers().await[0];
        let term = world.status(leader).term;
        world.set_latency(leader, slow, ONE_WAY).await;
        let client = world.client_of([leader]);
        let value = Bytes::from(vec![7; 500 << 10]);
        let keys: Vec<String> = (0..40).map(|number| format!("large-{number}")).collect();
        let began = Instant::now();
        future::try_join_all(keys.iter().map(|key| client.set(key.as_str(), value.clone()).into_future()))
            .await
            .expect("set");
        // A round trip, the interval, and as much again.
        let heard_max = 2 * (2 * ONE_WAY + world.node(leader).options().raft.heartbeat_interval);
        let slow_id = world.status(slow).node_id;
        let mut heard = BTreeMap::<Duration, u32>::new();
        while world.status(slow).applied_index < world.status(leader).applied_index {
            assert!(began.elapsed() < Duration::from_secs(60), "the values don't get through");
            let members = world.node(leader).members();
            let member = members.iter().find(|member| member.node_id == slow_id).expect("a member");
            *heard.entry(member.last_heard.expect("heard of")).or_default() += 1;
            sleep(Duration::from_millis(20)).await;
        }
        let took = began.elapsed();
        assert!(took > Duration::from_secs(3), "{took:?} is too short to have held up anything");
        let longest = *heard.keys().last().expect("looked at least once");
        assert!(longest < heard_max, "the slow follower was not heard of for {longest:?}");
        let status = world.status(leader);
        assert_eq!((status.state, status.term), ("leader", term));
        world.settle(Duration::from_secs(5)).await;
    });
}
