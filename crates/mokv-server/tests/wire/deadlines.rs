//! No call takes longer than it may.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mokv_client::{Client, Error, KeyRange};
use mokv_proto::internal;
use mokv_server::raft::network::{MemberClient, Network, NetworkOptions};
use mokv_server::raft::types::{MemberInfo, Vote, vote_from_proto};
use mokv_server::rpc::peer::GrpcNetwork;
use openraft::errors::RPCError;
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, VoteRequest};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::harness::{APPEND_TIMEOUT, CLIENTS, Setup, World, address, name};
use crate::sockets;

/// A timer fires within two steps of the simulation.
const STEPS: Duration = Duration::from_millis(2);

/// Longer than a message takes in both directions.
const ROUND_TRIP: Duration = Duration::from_millis(15);

/// A leader that the cluster has not heard of yet.
const STRANGER: u64 = 4711;

fn vote(term: u64, committed: bool) -> Vote {
    vote_from_proto(&internal::Vote { term, node_id: STRANGER, committed })
}

/// A node as another member reaches it, over connections of its own.
async fn member(world: &World, index: usize) -> MemberClient {
    let options = NetworkOptions { append_timeout: APPEND_TIMEOUT, snapshot_idle_timeout: Duration::from_secs(60) };
    let peers = Arc::new(GrpcNetwork::new(sockets::connect));
    let node = world.node(index);
    let mut network = Network::new(world.impostor(STRANGER), peers, node.snapshots().clone(), options, Arc::default());
    let info = MemberInfo { name: name(index), rpc_addr: address(index) };
    network.new_client(node.node_id(), &info).await
}

#[track_caller]
fn assert_took(began: Instant, expected: Duration) {
    let took = began.elapsed();
    assert!(expected <= took && took <= expected + STEPS, "took {took:?}, not {expected:?}");
}

#[test]
fn a_call_to_a_held_member_ends_at_its_deadline() {
    Setup { nodes: 1, ..Setup::default() }.run(|world| async move {
        let question = || VoteRequest::new(vote(0, false), None);
        let (mut connected, mut unconnected) = (member(&world, 0).await, member(&world, 0).await);
        let options = [500, 1000, 1300].map(|millis| RPCOption::new(Duration::from_millis(millis)));
        connected.vote(question(), options[0].clone()).await.expect("an answer");
        turmoil::hold(CLIENTS, name(0));
        for option in options {
            let began = Instant::now();
            let error = connected.vote(question(), option.clone()).await.expect_err("held");
            assert!(matches!(error, RPCError::Timeout(_)), "{error}");
            assert_took(began, option.soft_ttl());
            // Connecting may fail before.
            let began = Instant::now();
            unconnected.vote(question(), option.clone()).await.expect_err("held");
            assert!(began.elapsed() <= option.soft_ttl() + STEPS, "took {:?}", began.elapsed());
        }
        turmoil::release(CLIENTS, name(0));
        for client in [&mut connected, &mut unconnected] {
            client.vote(question(), RPCOption::new(Duration::from_secs(3))).await.expect("an answer");
        }
    });
}

#[test]
fn a_stream_of_appends_fails_when_its_oldest_request_is_too_old() {
    Setup { nodes: 2, form: false, ..Setup::default() }.run(|world| async move {
        // A learner that hears of no leader but the stranger stays one.
        world.join_as(1, true).await;
        turmoil::partition(name(0), name(1));
        let mut client = member(&world, 1).await;
        let (send, requests) = mpsc::channel(8);
        let requests =
            futures_util::stream::unfold(
                requests,
                |mut requests| async move { Some((requests.recv().await?, requests)) },
            );
        let ask = async || {
            let (vote, entries) = (vote(1000, true), Vec::new());
            let request = AppendEntriesRequest { vote, prev_log_id: None, entries, leader_commit: None };
            send.send(request).await.expect("the stream is read");
        };
        ask().await;
        let option = RPCOption::new(Duration::from_millis(150));
        let mut answers = client.stream_append(requests.boxed(), option).await.expect("a stream");
        let taken = |answer: Option<Result<StreamAppendResult<_>, RPCError<_>>>| {
            assert!(matches!(answer, Some(Ok(Ok(_)))), "{answer:?}");
        };
        taken(answers.next().await);

        // Nothing is asked: silence is no failure, however long.
        assert!(timeout(3 * APPEND_TIMEOUT, answers.next()).await.is_err());
        // What is answered in time has not failed, though it took longer than openraft's own time to live.
        turmoil::hold(CLIENTS, name(1));
        ask().await;
        assert!(timeout(APPEND_TIMEOUT * 3 / 4, answers.next()).await.is_err());
        turmoil::release(CLIENTS, name(1));
        taken(answers.next().await);

        turmoil::hold(CLIENTS, name(1));
        let oldest = Instant::now();
        ask().await;
        assert!(timeout(APPEND_TIMEOUT / 2, answers.next()).await.is_err());
        ask().await;
        let failed = answers.next().await;
        assert!(matches!(failed, Some(Err(RPCError::Timeout(_)))), "{failed:?}");
        assert_took(oldest, APPEND_TIMEOUT);
        assert!(answers.next().await.is_none());
    });
}

#[test]
fn a_server_keeps_the_deadline_of_its_client() {
    Setup::default().run(|world| async move {
        let leader = world.leader().await;
        let follower = (leader + 1) % 3;
        let clients = [leader, follower].map(|index| world.client_of([index]).with_timeout(Duration::from_secs(1)));
        for client in &clients {
            client.set("key", "old").await.expect("set");
        }
        (0..3).filter(|index| *index != leader).for_each(|index| turmoil::hold(name(leader), name(index)));
        // A tenth of the time is left for the answer. The client says a little less than it has: see `time_on_server`.
        let answered = Duration::from_millis(1000).mul_f64(0.9 * 31.0 / 32.0)..Duration::from_millis(900) + ROUND_TRIP;
        for client in clients {
            let began = Instant::now();
            let written = client.set("key", "new").into_future();
            let read = client.get("key").into_future();
            let (written, read) = tokio::join!(written, read);
            let took = began.elapsed();
            assert!(answered.contains(&took), "took {took:?}");
            assert!(matches!(&written, Err(Error::OutcomeUnknown(why)) if why.contains("committed")), "{written:?}");
            assert!(matches!(&read, Err(Error::Unavailable(why)) if !why.contains("no answer")), "{read:?}");
        }
    });
}

async fn assert_in_time<T>(limit: Duration, call: impl IntoFuture<Output = Result<T, Error>>) {
    let began = Instant::now();
    let result = call.into_future().await;
    let took = began.elapsed();
    assert!(took <= limit + STEPS, "took {took:?}, longer than {limit:?}; answered: {}", result.is_ok());
}

/// Every kind of call.
async fn assert_calls_in_time(client: Client, limit: Duration) {
    let client = client.with_timeout(limit);
    let session = client.session();
    assert_in_time(limit, client.get("key")).await;
    assert_in_time(limit, client.get("key").local()).await;
    assert_in_time(limit, client.set("key", "value")).await;
    assert_in_time(limit, client.delete("key")).await;
    assert_in_time(limit, client.list(KeyRange::all())).await;
    assert_in_time(limit, client.status()).await;
    assert_in_time(limit, client.add_member(&address(0), false)).await;
    let (first, second) = (session.set("key", "value"), session.delete("key"));
    tokio::join!(assert_in_time(limit, first), assert_in_time(limit, second));
}

#[test]
fn no_call_of_a_client_outlives_its_deadline() {
    Setup::default().run(|world| async move {
        let connected = world.client();
        connected.set("key", "value").await.expect("set");
        (0..3).for_each(|index| turmoil::hold(CLIENTS, name(index)));
        for limit in [Duration::from_millis(700), Duration::from_secs(5)] {
            assert_calls_in_time(connected.clone(), limit).await;
            assert_calls_in_time(world.client(), limit).await;
        }
        (0..3).for_each(|index| turmoil::release(CLIENTS, name(index)));
        assert_calls_in_time(connected, Duration::from_millis(700)).await;
    });
}

#[test]
fn opening_a_session_is_part_of_its_first_write() {
    let far = |network: &mut turmoil::Builder| {
        network.min_message_latency(Duration::from_millis(250)).max_message_latency(Duration::from_millis(250));
    };
    Setup { nodes: 1, network: far, ..Setup::default() }.run(|world| async move {
        // Enough for either call, not for both.
        let limit = Duration::from_millis(1000);
        let session = world.client().with_timeout(limit).session();
        let (first, second) = (session.set("a", "value"), session.set("b", "value"));
        tokio::join!(assert_in_time(limit, first), assert_in_time(limit, second));
        session.set("a", "value").await.expect("the session is open now");
    });
}
