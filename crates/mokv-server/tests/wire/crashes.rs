//! Hosts that crash, come back, or are replaced.

use std::time::Duration;

use futures_util::future;
use mokv_client::Error;
use mokv_proto::internal::{Vote, VoteRequest};
use mokv_server::peer::{Lane, PeerNetwork, Target};
use mokv_server::rpc::peer::GrpcNetwork;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::harness::{PATIENCE, Setup, World, address};
use crate::sockets;

#[test]
fn a_crashed_host_comes_back_at_its_address_with_its_disk() {
    Setup::default().run(|world| async move {
        let session = world.client().session();
        let mut written = 0;
        let mut write = async |count| {
            for _ in 0..count {
                session.set(format!("key-{written}"), "value").await.expect("set");
                written += 1;
            }
        };
        write(20).await;
        for round in 0..4 {
            // The leader every other time.
            let leader = world.leader().await;
            let crashing = if round % 2 == 0 { (leader + 1) % 3 } else { leader };
            let id = world.status(crashing).node_id;
            world.crash(crashing).await;
            write(10).await;
            world.start(crashing).await;
            write(10).await;
            world.settle(Duration::from_secs(10)).await;
            assert_eq!(world.status(crashing).node_id, id);
        }
        assert_eq!(world.status(0).keys, 100);
    });
}

async fn call_as_member(world: &World, node_id: u64, index: usize) -> Result<(), tonic::Status> {
    let network = GrpcNetwork::new(sockets::connect);
    let vote = Some(Vote { term: 0, node_id: 4711, committed: false });
    let question = VoteRequest { vote, ..VoteRequest::default() };
    let target = Target { node_id: Some(node_id), rpc_addr: address(index) };
    network.peer(&world.impostor(4711), &target, Lane::Heartbeat).vote(question).await.map(drop)
}

#[test]
fn a_node_of_another_identity_at_an_address_is_refused() {
    Setup::default().run(|world| async move {
        let client = world.client();
        for number in 0..20 {
            client.set(format!("key-{number}"), "value").await.expect("set");
        }
        let followers = world.followers().await;
        // The first node would form a cluster of its own on an empty disk.
        let replaced = *followers.iter().find(|index| **index != 0).expect("two followers");
        let former = world.status(replaced);
        world.crash(replaced).await;
        world.wipe(replaced);
        world.start(replaced).await;
        world.until("it runs", PATIENCE, || world.running(replaced).is_some()).await;
        let newcomer = world.status(replaced);
        assert_ne!(newcomer.node_id, former.node_id);

        let refused = call_as_member(&world, former.node_id, replaced).await.expect_err("refused");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        // The others call it all the time, and it takes nothing of what is not for it.
        for number in 0..50 {
            client.set(format!("key-{number}"), "newer").await.expect("set");
            sleep(Duration::from_millis(100)).await;
        }
        let status = world.status(replaced);
        assert_eq!((status.last_log_index, status.term, status.keys), (0, 0, 0));
        assert!(status.leader_id.is_none() && status.cluster_id.is_none());

        client.remove_member(&former.node_id.to_string(), false).await.expect("remove");
        world.join(replaced).await;
        world.settle(Duration::from_secs(5)).await;
        call_as_member(&world, newcomer.node_id, replaced).await.expect("it is the node that is meant");
        let voters = world.node(replaced).members().into_iter().filter(|member| member.is_voter).count();
        assert_eq!((voters, world.status(replaced).keys), (3, 50));
    });
}

#[test]
fn forwarded_writes_in_flight_when_the_leader_crashes_count_at_most_once() {
    const WRITES: usize = 60;
    const LIMIT: Duration = Duration::from_secs(10);
    Setup::default().run(|world| async move {
        let leader = world.leader().await;
        let follower = world.followers().await[0];
        let client = world.client_of([follower]).with_timeout(LIMIT);
        let session = client.session();
        session.set("opened", "value").await.expect("set");

        let began = Instant::now();
        let plain = |number: usize| {
            let client = &client;
            async move {
                sleep(Duration::from_millis(number as u64)).await;
                client.set(format!("plain-{number}"), "value").await
            }
        };
        let exact = |number: usize| {
            let session = &session;
            async move {
                sleep(Duration::from_millis(number as u64)).await;
                session.set(format!("exact-{number}"), "value").await
            }
        };
        let writing = future::join(future::join_all((0..WRITES).map(plain)), future::join_all((0..WRITES).map(exact)));
        let crashing = async {
            sleep(Duration::from_millis(10 + world.random(0..40))).await;
            world.crash(leader).await;
        };
        let (written, ()) =
            timeout(LIMIT + Duration::from_secs(1), future::join(writing, crashing)).await.expect("all end");
        let (plain, exact) = written;
        assert!(began.elapsed() > Duration::from_secs(1), "no write waited for a new leader");
        world.start(leader).await;
        world.settle(PATIENCE).await;

        let mut unknown = 0;
        for (number, result) in plain.iter().enumerate() {
            let found = client.get(format!("plain-{number}")).await.expect("get").map(|pair| pair.version);
            match result {
                Ok(_) => assert_eq!(found, Some(1), "plain-{number} was acknowledged"),
                Err(Error::OutcomeUnknown(_)) => {
                    unknown += 1;
                    assert!(matches!(found, None | Some(1)), "plain-{number} took effect {found:?} times");
                }
                Err(Error::Unavailable(_)) => assert_eq!(found, None, "plain-{number} was said to have failed"),
                Err(error) => panic!("plain-{number}: {error}"),
            }
        }
        assert!(unknown > 0, "no write was under way");
        for (number, result) in exact.iter().enumerate() {
            result.as_ref().expect("tried until it was done");
            let found = client.get(format!("exact-{number}")).await.expect("get").map(|pair| pair.version);
            assert_eq!(found, Some(1), "exact-{number}");
        }
    });
}
