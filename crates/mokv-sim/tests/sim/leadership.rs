//! Who leads while the network is cut, while processes stand still, and while leadership is handed over.

use std::time::Duration;

use futures_util::future::join_all;
use mokv_check::{Answer, Op, Outcome, Read};
use mokv_sim::plan::Plan;
use mokv_sim::run::World;
use tokio::time::{Instant, sleep};

use crate::calls::{CALL_TIMEOUT, reason, transfer};
use crate::scenario::{
    Expected, SEEDS, all_ready, client_at, each_seed, ensure, leader, node_id, progress, serves, set, three, until,
};

/// Some node serves again within this time of a cut.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// How long a bridge lasts: many election timeouts.
const BRIDGE: Duration = Duration::from_secs(10);

/// How long a node may take to find that leadership was not taken over, with the election that may follow.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(5);

/// How long an operator waits for a transfer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes and reads that wait in a node that stands still.
const QUEUED: u64 = 6;

fn term(world: &World, host: usize) -> u64 {
    world.cluster.running(host).map_or(0, |running| running.node.status().term)
}

fn is_leading(world: &World, host: usize) -> bool {
    world.cluster.running(host).is_some_and(|running| running.node.status().is_leader())
}

fn others(world: &World, host: usize) -> Vec<usize> {
    (0..world.cluster.len()).filter(|other| *other != host).collect()
}

/// The revision of a successful call.
fn revision(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Ok { answer: Answer::Set { revision, .. } | Answer::Get { revision, .. } } => Some(*revision),
        _ => None,
    }
}

#[test]
fn s02_a_leader_that_stood_still_acknowledges_nothing_old() {
    each_seed(SEEDS, three, |world| async move {
        let load = world.load();
        let old = leader(&world).await?;
        progress(&world, 20).await?;
        let (paused, old_term) = (Instant::now(), term(&world, old));
        world.cluster.pause(old);
        until(&world, "another node leads", || world.cluster.leader().is_some_and(|now| now != old)).await?;
        let new = leader(&world).await?;
        set(&mut client_at(&world, new, 800), "queued").await?;
        let acknowledged = world.cluster.observer().revision();

        let client = |number| client_at(&world, old, number).with_timeout(Duration::from_secs(10));
        let writing = join_all((0..QUEUED).map(|number| {
            let mut client = client(810 + number);
            let op = Op::set("queued", client.token());
            async move { client.write(op, false).await }
        }));
        let reading = join_all((0..QUEUED).map(|number| {
            let mut client = client(820 + number);
            async move { client.get("queued", Read::linearizable()).await }
        }));
        let resuming = async {
            // Three election timeouts, and until the calls are there.
            let pause = 3 * world.cluster.plan().node_options(old, String::new()).raft.election_timeout_max;
            sleep((paused + pause).saturating_duration_since(Instant::now()).max(Duration::from_millis(50))).await;
            let still = is_leading(&world, old) && term(&world, old) == old_term;
            world.cluster.resume(old);
            ensure(still, "the node that stood still does not believe that it leads")
        };
        let (written, read, resumed) = tokio::join!(writing, reading, resuming);
        resumed?;
        for outcome in written.iter().chain(&read) {
            let is_new = revision(outcome).is_none_or(|revision| revision >= acknowledged);
            ensure(is_new, format_args!("{outcome:?} after revision {acknowledged} was acknowledged"))?;
        }
        load.stop().await;
        Ok(())
    });
}

#[derive(Debug, Clone, Copy)]
enum Cut {
    LeaderToOne,
    OneToLeader,
    LeaderToAll,
    AllToLeader,
    BetweenFollowers,
}

impl Cut {
    const ALL: [Self; 5] =
        [Self::LeaderToOne, Self::OneToLeader, Self::LeaderToAll, Self::AllToLeader, Self::BetweenFollowers];

    /// From and to.
    fn ways(self, leader: usize, followers: &[usize]) -> Vec<(usize, usize)> {
        match self {
            Self::LeaderToOne => vec![(leader, followers[0])],
            Self::OneToLeader => vec![(followers[0], leader)],
            Self::LeaderToAll => followers.iter().map(|to| (leader, *to)).collect(),
            Self::AllToLeader => followers.iter().map(|from| (*from, leader)).collect(),
            Self::BetweenFollowers => vec![(followers[0], followers[1])],
        }
    }

    /// Whether the leader is of no use any more.
    fn needs_another_leader(self) -> bool {
        matches!(self, Self::LeaderToAll | Self::AllToLeader)
    }
}

/// Whether a write and a read through the node succeed before the deadline.
async fn serves_by(world: &World, host: usize, round: usize, deadline: Instant) -> bool {
    let mut client = client_at(world, host, (830 + 10 * round + host) as u64).with_timeout(Duration::from_secs(1));
    while Instant::now() < deadline {
        let op = Op::set("served", client.token());
        let is_written = matches!(client.write(op, false).await, Outcome::Ok { .. });
        if is_written && matches!(client.get("served", Read::linearizable()).await, Outcome::Ok { .. }) {
            return true;
        }
    }
    false
}

#[test]
fn s03_a_cut_in_one_direction_does_not_stop_the_service() {
    each_seed(SEEDS, three, |world| async move {
        let load = world.load();
        for (round, cut) in Cut::ALL.into_iter().enumerate() {
            all_ready(&world).await?;
            let old = leader(&world).await?;
            for (from, to) in cut.ways(old, &others(&world, old)) {
                world.cluster.net().cut(from, to);
            }
            let deadline = Instant::now() + SERVED_WITHIN;
            let serving = join_all((0..3).map(|host| serves_by(&world, host, round, deadline))).await;
            let count = serving.iter().filter(|serves| **serves).count();
            ensure(count >= 2, format_args!("{cut:?} with {old} as leader: serving {serving:?}"))?;
            if cut.needs_another_leader() {
                ensure(world.cluster.leader() != Some(old), format_args!("{cut:?}: nobody but {old} leads"))?;
            }
            world.cluster.net().heal();
        }
        load.stop().await;
        Ok(())
    });
}

/// Two parts that can't reach each other have one host in common. The leader is in the middle, or at an end.
async fn is_calm_on_a_bridge(world: &World, is_leader_middle: bool) -> Expected {
    let begin = leader(world).await?;
    let rest = others(world, begin);
    let (middle, one, other) = match is_leader_middle {
        true => (begin, rest[..rest.len() / 2].to_vec(), rest[rest.len() / 2..].to_vec()),
        false => {
            let half = rest.len() / 2;
            (rest[0], [&[begin], &rest[1..half]].concat(), rest[half..].to_vec())
        }
    };
    for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
        world.cluster.net().cut(a, b);
        world.cluster.net().cut(b, a);
    }
    let before = term(world, begin);
    let revision = world.cluster.observer().revision();
    sleep(BRIDGE).await;
    let now: Vec<u64> = (0..world.cluster.len()).map(|host| term(world, host)).collect();
    ensure(now.iter().all(|term| *term == before), format_args!("terms {now:?} instead of {before}"))?;
    ensure(is_leading(world, begin), "the leader has changed")?;
    let written = world.cluster.observer().revision() - revision;
    ensure(
        written > 50,
        format_args!("only {written} writes were committed, the leader in the middle: {is_leader_middle}"),
    )?;
    serves(world, middle).await?;
    world.cluster.net().heal();
    all_ready(world).await
}

#[test]
fn s04_a_bridge_brings_neither_new_terms_nor_new_leaders() {
    for nodes in [3, 5] {
        let plan = |seed| {
            let mut plan = Plan::quiet(seed, nodes);
            // Nobody shall wait long for the host that can't reach the leader.
            plan.load.timeout = Duration::from_millis(300);
            plan
        };
        each_seed(0..4, plan, |world| async move {
            let load = world.load();
            all_ready(&world).await?;
            is_calm_on_a_bridge(&world, true).await?;
            is_calm_on_a_bridge(&world, false).await?;
            load.stop().await;
            Ok(())
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum Unfit {
    /// It stands still.
    Paused,
    /// It lacks entries, and the leader can't reach it.
    CutOff,
    /// Its disk does not answer: it can't take part in an election.
    Hung,
}

impl Unfit {
    const ALL: [Self; 3] = [Self::Paused, Self::CutOff, Self::Hung];

    fn begin(self, world: &World, host: usize) {
        match self {
            Self::Paused => world.cluster.pause(host),
            Self::CutOff => world.cluster.isolate(host),
            Self::Hung => world.cluster.disk_control(host).set(|behaviour| behaviour.is_hung = true),
        }
    }

    fn end(self, world: &World, host: usize) {
        match self {
            Self::Paused => world.cluster.resume(host),
            Self::CutOff => world.cluster.net().heal(),
            Self::Hung => world.cluster.disk_control(host).set(|behaviour| behaviour.is_hung = false),
        }
    }
}

#[test]
fn s10_a_transfer_to_a_node_that_can_not_lead_is_given_up() {
    each_seed(SEEDS, three, |world| async move {
        let load = world.load();
        for (round, unfit) in Unfit::ALL.into_iter().enumerate() {
            all_ready(&world).await?;
            let old = leader(&world).await?;
            let [target, third] = others(&world, old)[..] else { return Err("not three hosts".into()) };
            unfit.begin(&world, target);
            progress(&world, 20).await?;
            let deadline = Instant::now() + GIVEN_UP_WITHIN;
            let to = node_id(&world, target)?;
            let asking = transfer(&world, old, to, TRANSFER_TIMEOUT);
            let serving = join_all([old, third].map(|host| serves_by(&world, host, round, deadline)));
            let (asked, serving) = tokio::join!(asking, serving);
            ensure(serving == [true, true], format_args!("{unfit:?}: {serving:?} serve, transfer: {asked:?}"))?;
            ensure(world.cluster.leader() != Some(target), format_args!("{unfit:?}: it leads"))?;
            unfit.end(&world, target);
        }
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s10_a_transfer_to_a_node_that_was_removed_is_refused() {
    each_seed(SEEDS, three, |world| async move {
        let load = world.load();
        let old = leader(&world).await?;
        let [target, third] = others(&world, old)[..] else { return Err("not three hosts".into()) };
        let (removed, before) = (node_id(&world, target)?, term(&world, old));
        ensure(world.cluster.remove(removed, Instant::now() + CALL_TIMEOUT).await, "it can't be removed")?;
        for host in [old, third] {
            match transfer(&world, host, removed, TRANSFER_TIMEOUT).await {
                Ok(()) => return Err(format!("host {host} takes it for possible")),
                Err(status) => ensure(reason(&status) == "NOT_FOUND", format_args!("host {host}: {status:?}"))?,
            }
            serves(&world, host).await?;
        }
        ensure(is_leading(&world, old) && term(&world, old) == before, "the leader has changed")?;
        world.cluster.kill(target);
        world.cluster.replace_disk(target);
        ensure(world.cluster.join(target, Instant::now() + CALL_TIMEOUT).await, "a new node can't join")?;
        load.stop().await;
        Ok(())
    });
}
