//! Reads that must not show an old state, and calls that are under way while leadership moves.

use std::time::Duration;

use mokv_check::{Answer, Op, Outcome, Read};
use mokv_sim::plan::Plan;
use mokv_sim::run::World;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::calls::{SessionWrite, open_session, reason, transfer};
use crate::scenario::{
    Expected, PATIENCE, SEEDS, all_ready, client_at, each_seed, ensure, get, leader, node_id, progress, set, three,
    until,
};

/// How long a deposed leader is asked for reads.
const DEPOSED: Duration = Duration::from_secs(5);

/// A moment in which a new leader has been elected, and has not committed anything.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long a process stands still: longer than any election timeout, by whatever clock.
const PAUSE: Duration = Duration::from_secs(3);

/// How often leadership moves in one run.
const TRANSFERS: usize = 10;

/// How long a call may take whose deadline is looked at.
const SHORT: Duration = Duration::from_millis(500);

#[test]
fn s01_a_deposed_leader_answers_no_linearizable_read() {
    each_seed(SEEDS, three, |world| async move {
        let load = world.load();
        let old = leader(&world).await?;
        let before = set(&mut client_at(&world, old, 800), "read").await?;
        world.cluster.isolate(old);
        let end = Instant::now() + DEPOSED;
        let reading = async {
            let mut client = client_at(&world, old, 801).with_timeout(Duration::from_millis(700));
            let mut old_values = 0;
            while Instant::now() < end {
                let found = client.get("read", Read::linearizable()).await;
                ensure(!matches!(found, Outcome::Ok { .. }), format_args!("the deposed leader answers {found:?}"))?;
                let listed = client.list("rea", Read::linearizable()).await;
                ensure(!matches!(listed, Outcome::Ok { .. }), format_args!("the deposed leader lists {listed:?}"))?;
                let local = client.get("read", Read::local(0)).await;
                let is_old = |pair: &mokv_check::Pair| pair.value == before;
                if matches!(local, Outcome::Ok { answer: Answer::Get { pair: Some(pair), .. } } if is_old(&pair)) {
                    old_values += 1;
                }
            }
            ensure(old_values > 0, "there was no old value to read")
        };
        let writing = async {
            until(&world, "another node leads", || world.cluster.leader().is_some_and(|now| now != old)).await?;
            let new = leader(&world).await?;
            let after = set(&mut client_at(&world, new, 802), "read").await?;
            ensure(Instant::now() < end, "nobody else led in time")?;
            Expected::Ok(after)
        };
        let (read, written) = tokio::join!(reading, writing);
        read?;
        world.cluster.net().heal();
        let found = get(&mut client_at(&world, old, 803), "read").await?;
        ensure(found.is_some_and(|pair| Ok(pair.value) == written), "the new value is not there")?;
        load.stop().await;
        Ok(())
    });
}

/// The term in which this node leads and has not applied an entry yet.
fn new_in_term(world: &World, host: usize) -> Option<u64> {
    let running = world.cluster.running(host)?;
    let status = running.node.status();
    let is_new = running.node.store().stats().applied.is_none_or(|applied| applied.term < status.term);
    (status.is_leader() && is_new).then_some(status.term)
}

#[test]
fn s08_a_new_leader_answers_no_read_before_it_has_committed_an_entry() {
    each_seed(SEEDS, three, |world| async move {
        let old = leader(&world).await?;
        let [a, b] = (0..3).filter(|host| *host != old).collect::<Vec<_>>()[..] else { return Err("not three".into()) };
        // What one of the others has to commit takes a while, and so does everything between them.
        world.cluster.net().slow_down(a, b, Duration::from_millis(100));
        world.cluster.net().slow_down(b, a, Duration::from_millis(100));
        let mut writer = client_at(&world, old, 800);
        let mut last = String::new();
        for _ in 0..5 {
            last = set(&mut writer, "read").await?;
        }
        // The others have the last write in their logs, and don't know that it is committed.
        world.cluster.kill(old);
        let deadline = Instant::now() + PATIENCE;
        let (new, term) = loop {
            if let Some(new) = [a, b].into_iter().find_map(|host| Some((host, new_in_term(&world, host)?))) {
                break new;
            }
            ensure(Instant::now() < deadline, "no new leader was met in time")?;
            sleep(LOOK_EVERY).await;
        };
        let found = client_at(&world, new, 801).get("read", Read::linearizable()).await;
        // It may be deposed and lead once more before an answer comes.
        let is_still_new = new_in_term(&world, new) == Some(term);
        ensure(!is_still_new, format_args!("the new leader answered before its first entry: {found:?}"))?;
        match found {
            Outcome::Ok { answer: Answer::Get { pair: Some(pair), .. } } => {
                ensure(pair.value == last, format_args!("{} instead of {last}", pair.value))?;
            }
            Outcome::Failed { .. } => {}
            found => return Err(format!("the new leader answers {found:?}")),
        }
        world.cluster.net().heal();
        world.cluster.start(old);
        Ok(())
    });
}

/// Writes and reads through one host until told to stop. Returns how many of them succeeded, and which did not.
async fn calls(world: &World, host: usize, number: u64, stop: &watch::Receiver<bool>) -> (usize, Vec<Outcome>) {
    let mut client = client_at(world, host, number);
    let (mut succeeded, mut failed) = (0, Vec::new());
    while !*stop.borrow() {
        let op = Op::set("moved", client.token());
        for outcome in [client.write(op, true).await, client.get("moved", Read::linearizable()).await] {
            match outcome {
                Outcome::Ok { .. } => succeeded += 1,
                outcome => failed.push(outcome),
            }
        }
    }
    (succeeded, failed)
}

fn forwarded(world: &World, from: usize) -> u64 {
    let counts = world.trace.counts();
    counts.iter().filter(|(what, _)| what.starts_with(&format!("forward.{from}>"))).map(|(_, count)| count).sum()
}

#[test]
fn s09_calls_during_transfers_take_one_hop() {
    each_seed(SEEDS, three, |world| async move {
        let begin = leader(&world).await?;
        let home = (begin + 1) % 3;
        let (stop, stopped) = watch::channel(false);
        let moving = async {
            for number in 0..TRANSFERS {
                let now = leader(&world).await?;
                ensure(now != home, "the wrong node leads")?;
                let next = (0..3).find(|host| *host != now && *host != home).ok_or("not three hosts")?;
                let to = node_id(&world, next)?;
                let moved = transfer(&world, home, to, PATIENCE).await;
                moved.map_err(|status| format!("transfer {number}: {status:?}"))?;
                until(&world, "it leads", || world.cluster.leader() == Some(next)).await?;
                let revision = world.cluster.observer().revision();
                until(&world, "writes go on", || world.cluster.observer().revision() > revision + 5).await?;
            }
            Expected::Ok(())
        };
        let moving = async {
            let moved = moving.await;
            stop.send_replace(true);
            moved
        };
        let calling = async { tokio::join!(calls(&world, home, 800, &stopped), calls(&world, home, 801, &stopped)) };
        let (moved, (one, other)) = tokio::join!(moving, calling);
        moved?;
        for (succeeded, failed) in [one, other] {
            ensure(succeeded > TRANSFERS, format_args!("only {succeeded} calls succeeded: {failed:?}"))?;
            // Now and then the network loses an answer.
            let is_lost = |outcome: &Outcome| format!("{outcome:?}").contains("the answer was lost");
            ensure(failed.iter().all(is_lost), format_args!("calls that failed: {failed:?}"))?;
        }
        ensure(forwarded(&world, home) > 0, "nothing was forwarded")?;
        let second_hops: u64 = (0..3).filter(|host| *host != home).map(|host| forwarded(&world, host)).sum();
        ensure(second_hops == 0, format_args!("{second_hops} writes were forwarded twice"))
    });
}

#[test]
fn s09_calls_keep_their_deadline_when_the_leader_is_out_of_reach() {
    each_seed(SEEDS, three, |world| async move {
        let home = (leader(&world).await? + 1) % 3;
        let session = open_session(&world, home).await.map_err(|status| status.to_string())?;
        let load = world.load();
        for sequence in 1..4 {
            all_ready(&world).await?;
            let old = leader(&world).await?;
            let host = if old == home { (home + 1) % 3 } else { home };
            let to = node_id(&world, 3 - old - host)?;
            let write = SessionWrite::new(&world, session, sequence, "late");
            world.cluster.isolate(host);
            let begin = Instant::now();
            let sending = async {
                let sent = write.send(&world, host, SHORT).await;
                (sent, begin.elapsed())
            };
            let reading = async {
                let mut client = client_at(&world, host, 800 + sequence).with_timeout(SHORT);
                let found = client.get("late", Read::linearizable()).await;
                (found, begin.elapsed())
            };
            let ((sent, write_took), (found, read_took), _) =
                tokio::join!(sending, reading, transfer(&world, old, to, SHORT));
            match &sent {
                Ok(answer) => return Err(format!("a node that is cut off writes: {answer:?}")),
                Err(status) => {
                    let is_said = ["OUTCOME_UNKNOWN", "NO_LEADER"].contains(&reason(status).as_str());
                    ensure(is_said, format_args!("the write ended with {status:?}"))?;
                }
            }
            ensure(write_took <= SHORT, format_args!("the write took {write_took:?} of {SHORT:?}"))?;
            let is_said = matches!(&found, Outcome::Failed { reason } if !reason.contains("no answer in time"));
            ensure(is_said, format_args!("the read ended with {found:?}"))?;
            ensure(read_took <= SHORT + SHORT / 10, format_args!("the read took {read_took:?} of {SHORT:?}"))?;
            world.cluster.net().heal();
            let answer = write.send(&world, host, PATIENCE).await.map_err(|status| status.to_string())?;
            write.answered(&world, &answer);
        }
        load.stop().await;
        Ok(())
    });
}

/// Reads ask a majority, so that no clock can make them old.
#[test]
fn s14_clocks_that_run_differently_make_no_read_old() {
    let plan = |seed| {
        let mut plan = Plan { clock_rates: vec![0.67, 1.0, 1.5, 1.0, 1.0], ..three(seed) };
        plan.clock_rates.rotate_left(seed as usize % 3);
        plan.load.writes = 30;
        plan.load.local = 0;
        plan
    };
    each_seed(SEEDS, plan, |world| async move {
        let load = world.load();
        for round in 0..4 {
            all_ready(&world).await?;
            let old = leader(&world).await?;
            let host = if round % 2 == 0 { old } else { (old + 1) % 3 };
            world.cluster.pause(host);
            sleep(PAUSE).await;
            world.cluster.resume(host);
            progress(&world, 10).await?;
            world.cluster.kill((host + 1) % 3);
            progress(&world, 10).await?;
        }
        load.stop().await;
        let leaders = world.trace.counts().get("leaders").copied().unwrap_or(0);
        ensure(leaders > 2, "leadership did not change")
    });
}
