//! Writes whose clients don't know what became of them.

use std::time::Duration;

use futures_util::future::join_all;
use mokv_check::{Op, Outcome};
use mokv_proto::api::SetResponse;
use mokv_server::raft::types::LogId;
use mokv_server::store::SESSIONS_MAX;
use mokv_sim::plan::Plan;
use mokv_sim::run::World;
use tonic::{Code, Status};

use crate::calls::{CALL_TIMEOUT, SessionWrite, open_session, reason};
use crate::scenario::{
    Expected, SEEDS, all_ready, client_at, each_seed, ensure, get, leader, replace, set, three, until,
};

/// Writes that are under way when a leader is cut off: no more than are replicated at once, so that all are in its log.
const UNDER_WAY: u64 = 3;

/// Sessions that are opened at once.
const OPENED_AT_ONCE: usize = 500;

fn text(status: &Status) -> String {
    format!("{}: {}", reason(status), status.message())
}

fn log_end(world: &World, host: usize) -> Option<LogId> {
    world.cluster.running(host)?.node.log().last()
}

/// The write has the same answer as before, through every node.
async fn is_answered_alike(world: &World, write: &SessionWrite, first: &SetResponse) -> Expected {
    for host in 0..world.cluster.len() {
        let again = write.send(world, host, CALL_TIMEOUT).await.map_err(|status| text(&status))?;
        ensure(again == *first, format_args!("host {host} answers {again:?}, and {first:?} before"))?;
    }
    Ok(())
}

#[test]
fn s05_a_tail_that_is_truncated_is_unknown_and_its_retry_counts_once() {
    let plan = |seed| Plan { request_timeout: Duration::from_secs(20), ..three(seed) };
    each_seed(SEEDS, plan, |world| async move {
        let old = leader(&world).await?;
        let session = open_session(&world, old).await.map_err(|status| text(&status))?;
        let retried = SessionWrite::new(&world, session, 1, "retried");
        let before = log_end(&world, old).ok_or("the leader is down")?;
        world.cluster.isolate(old);
        let under_way = join_all((0..UNDER_WAY).map(|number| {
            let mut client = client_at(&world, old, 800 + number).with_timeout(Duration::from_secs(20));
            let op = Op::set("lost", client.token());
            async move { client.write(op, false).await }
        }));
        let others = async {
            until(&world, "another node leads", || world.cluster.leader().is_some_and(|now| now != old)).await?;
            let tail = log_end(&world, old).ok_or("the old leader is down")?;
            ensure(tail.index > before.index, "nothing got into the old leader's log")?;
            let new = leader(&world).await?;
            let first = retried.send(&world, new, CALL_TIMEOUT).await.map_err(|status| text(&status))?;
            set(&mut client_at(&world, new, 810), "retried").await?;
            set(&mut client_at(&world, new, 811), "lost").await?;
            world.cluster.net().heal();
            let is_truncated = || log_end(&world, old).is_some_and(|end| end.leader_id.term > tail.leader_id.term);
            until(&world, "the tail is truncated", is_truncated).await?;
            Expected::Ok(first)
        };
        let sending = retried.send(&world, old, Duration::from_secs(20));
        let (lost, sent, first) = tokio::join!(under_way, sending, others);
        let first = first?;
        let is_unknown = |outcome: &Outcome| matches!(outcome, Outcome::Unknown { .. });
        ensure(lost.iter().all(is_unknown), format_args!("writes that got lost: {lost:?}"))?;
        match sent {
            Ok(answer) => ensure(answer == first, format_args!("{answer:?} after {first:?}"))?,
            Err(status) => ensure(reason(&status) == "OUTCOME_UNKNOWN", text(&status))?,
        }
        is_answered_alike(&world, &retried, &first).await?;
        retried.answered(&world, &first);
        Ok(())
    });
}

#[test]
fn s06_a_retry_has_one_effect_and_the_same_answer() {
    let plan = |seed| Plan { snapshot_log_bytes: 4 << 10, segment_bytes: 4 << 10, ..three(seed) };
    each_seed(SEEDS, plan, |world| async move {
        let session = open_session(&world, 0).await.map_err(|status| text(&status))?;
        let write = SessionWrite::new(&world, session, 1, "kept");
        let first = write.send(&world, 0, CALL_TIMEOUT).await.map_err(|status| text(&status))?;
        is_answered_alike(&world, &write, &first).await?;

        // A second effect would have another answer.
        set(&mut client_at(&world, 1, 800), "kept").await?;
        let load = world.load();
        let at = log_end(&world, 0).ok_or("node 0 is down")?.index;
        let is_dropped =
            || world.cluster.all_running().iter().all(|(_, running)| running.node.raft().progress().purged > at);
        until(&world, "the write is in snapshots only", is_dropped).await?;
        is_answered_alike(&world, &write, &first).await?;

        (0..3).for_each(|host| world.cluster.kill(host));
        all_ready(&world).await?;
        is_answered_alike(&world, &write, &first).await?;

        // A node that has the state from another one.
        let lost = (leader(&world).await? + 1) % 3;
        world.cluster.kill(lost);
        replace(&world, lost).await?;
        all_ready(&world).await?;
        let received = world.trace.counts().get("peer.Snapshot").copied().unwrap_or(0);
        ensure(received > 0, "the new node got no snapshot")?;
        is_answered_alike(&world, &write, &first).await?;
        load.stop().await;
        write.answered(&world, &first);
        Ok(())
    });
}

/// Through every node: the session is gone, and says so.
async fn is_expired(world: &World, write: &SessionWrite) -> Expected<Status> {
    let mut last = None;
    for host in 0..world.cluster.len() {
        match write.send(world, host, CALL_TIMEOUT).await {
            Ok(answer) => return Err(format!("host {host} has an effect in a session that was evicted: {answer:?}")),
            Err(status) => {
                let is_precise = status.code() == Code::Aborted && reason(&status) == "SESSION_EXPIRED";
                ensure(is_precise, format_args!("host {host}: {}", text(&status)))?;
                last = Some(status);
            }
        }
    }
    last.ok_or_else(|| "no node".into())
}

#[test]
fn s07_a_retry_in_an_evicted_session_is_refused() {
    each_seed(0..3, three, |world| async move {
        let evicted = open_session(&world, 0).await.map_err(|status| text(&status))?;
        let used = open_session(&world, 0).await.map_err(|status| text(&status))?;
        let (old, kept) = (SessionWrite::new(&world, evicted, 1, "old"), SessionWrite::new(&world, used, 1, "kept"));
        let first = kept.send(&world, 1, CALL_TIMEOUT).await.map_err(|status| text(&status))?;
        let done = old.send(&world, 1, CALL_TIMEOUT).await.map_err(|status| text(&status))?;
        old.answered(&world, &done);
        kept.answered(&world, &first);

        let mut opened = 2;
        while opened <= SESSIONS_MAX {
            let count = OPENED_AT_ONCE.min(SESSIONS_MAX + 1 - opened);
            let opening = (0..count).map(|number| open_session(&world, number % 3));
            for session in join_all(opening).await {
                session.map_err(|status| text(&status))?;
            }
            opened += count;
            // So it is not the least recently used one.
            is_answered_alike(&world, &kept, &first).await?;
        }
        let is_full = |host| {
            world.cluster.running(host).is_some_and(|up| up.node.store().stats().sessions == SESSIONS_MAX as u64)
        };
        until(&world, "there are as many sessions as there may be", || (0..3).all(is_full)).await?;

        is_expired(&world, &old).await?;
        let new = SessionWrite::new(&world, evicted, 2, "new");
        let refused = is_expired(&world, &new).await?;
        new.failed(&world, &refused);
        (0..3).for_each(|host| world.cluster.kill(host));
        all_ready(&world).await?;
        is_expired(&world, &old).await?;
        is_answered_alike(&world, &kept, &first).await?;
        let found = get(&mut client_at(&world, 2, 800), "new").await?;
        ensure(found.is_none(), format_args!("a refused write has an effect: {found:?}"))
    });
}
