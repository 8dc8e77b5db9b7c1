//! A client of the whole cluster, while its nodes die and restart: nobody who calls it notices, nothing is done twice, and
//! whoever watches misses nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mokv_client::{Client, Compare, Error, KeyRange, Txn, TxnOp, Watch, WatchItem};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::tools::{number, say};

/// What every caller allows.
const DEADLINE: Duration = Duration::from_secs(10);

const CALLERS: u64 = 16;
const COUNTERS: u64 = 4;

/// Between two kills of the leader.
const KILL_INTERVAL: Duration = Duration::from_secs(5);

const WATCHERS: usize = 1000;
/// Clients that they share.
const WATCHING_CLIENTS: usize = 10;
const WATCHED_WRITES: u64 = 300;

/// How often each operation was done, and each counter added to.
#[derive(Default)]
struct Done {
    calls: AtomicU64,
    added: [AtomicU64; COUNTERS as usize],
    slowest_ms: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_failover_reaches_a_caller() {
    let seconds = number("MOKV_FAULTS_CLIENT_SECONDS", 60);
    let mut cluster = Cluster::start(&[]).await;
    let client = cluster.client(0).with_timeout(DEADLINE);
    let (done, stop) = (Arc::new(Done::default()), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(client.clone(), caller, done.clone(), stop.clone()));
    }

    let mut kills = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds as u64) {
        tokio::time::sleep(KILL_INTERVAL).await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill();
        kills += 1;
        cluster.nodes[leader].start(false);
        cluster.serving().await;
    }
    for index in 0..cluster.nodes.len() {
        cluster.nodes[index].signal(rustix::process::Signal::TERM);
        assert!(cluster.nodes[index].exit().await.success(), "a node that is stopped ends cleanly");
        cluster.nodes[index].start(false);
        cluster.serving().await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.expect("a caller").unwrap_or_else(|error| panic!("an error reached a caller: {error}"));
    }

    for (counter, added) in done.added.iter().enumerate() {
        let pair = client.get(format!("counter-{counter}")).await.expect("get").expect("a counter");
        let value: u64 = String::from_utf8_lossy(&pair.value).parse().expect("a number");
        assert_eq!(value, added.load(Ordering::Relaxed), "counter {counter}");
    }
    cluster.settled().await;
    let (calls, slowest) = (done.calls.load(Ordering::Relaxed), done.slowest_ms.load(Ordering::Relaxed));
    say(format_args!("{calls} calls, {kills} kills of the leader, a rolling restart: no error, slowest {slowest} ms"));
}

/// One caller: everything that the client can do, until it is told to stop or meets an error.
async fn call(client: Client, caller: u64, done: Arc<Done>, stop: Arc<AtomicBool>) -> Result<(), Error> {
    let mut random = SmallRng::seed_from_u64(caller);
    let own = format!("own-{caller}");
    let mut expected = None;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match random.random_range(0..10) {
            0..=3 => {
                let counter = random.random_range(0..COUNTERS);
                client.increment(format!("counter-{counter}"), 1).await?;
                done.added[counter as usize].fetch_add(1, Ordering::Relaxed);
            }
            4..=5 => {
                let value = random.random::<u32>().to_string();
                client.set(&own, value.clone()).await?;
                expected = Some(value);
            }
            6..=7 => {
                // Nobody else writes it: what is read is what was written last.
                let found = client.get(&own).await?.map(|pair| String::from_utf8_lossy(&pair.value).into_owned());
                assert_eq!(found, expected, "{own}");
            }
            8 => {
                let counter = random.random_range(0..COUNTERS);
                let pair = client.get(format!("counter-{counter}")).await?;
                let (value, revision) = pair.map_or((0, 0), |pair| {
                    let value: u64 = String::from_utf8_lossy(&pair.value).parse().expect("a number");
                    (value, pair.mod_revision)
                });
                // A transaction that adds one, if nobody was faster.
                let key = format!("counter-{counter}");
                let txn = Txn::new()
                    .when(Compare::mod_revision(&key).equals(revision))
                    .then(TxnOp::set(&key, (value + 1).to_string()));
                if client.txn(txn).await?.succeeded {
                    done.added[counter as usize].fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => drop(client.list(KeyRange::prefix("own-")).await?.all().await?),
        }
        done.calls.fetch_add(1, Ordering::Relaxed);
        done.slowest_ms.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_miss_nothing_while_nodes_die() {
    let mut cluster = Cluster::start(&[]).await;
    let clients: Vec<Client> = (0..WATCHING_CLIENTS).map(|index| cluster.client(index % 3)).collect();
    let writer = cluster.client(0).with_timeout(DEADLINE);
    let mut watchers = JoinSet::new();
    for watcher in 0..WATCHERS {
        let watch = clients[watcher % WATCHING_CLIENTS].watch_range(KeyRange::prefix("w/")).timeout(6 * DEADLINE);
        watchers.spawn(see(watch.from_revision(1).await.expect("a watch")));
    }

    // Written while the leader is killed, and then each node is restarted.
    let mut written = BTreeMap::new();
    for n in 0..WATCHED_WRITES {
        match n * 5 / WATCHED_WRITES * (WATCHED_WRITES / 5) == n {
            true if n == 0 => {}
            true if n == WATCHED_WRITES / 5 => {
                let leader = cluster.leader().await;
                cluster.nodes[leader].kill();
                cluster.nodes[leader].start(false);
            }
            true => {
                let index = (n * 5 / WATCHED_WRITES) as usize - 2;
                cluster.serving().await;
                cluster.nodes[index].signal(rustix::process::Signal::TERM);
                cluster.nodes[index].exit().await;
                cluster.nodes[index].start(false);
            }
            false => {}
        }
        // Now and then several keys in one revision.
        let revision = if n % 10 == 0 {
            let txn = Txn::new().then(TxnOp::set(format!("w/{n}-a"), "1")).then(TxnOp::set(format!("w/{n}-b"), "1"));
            writer.txn(txn).await.expect("txn").revision
        } else {
            writer.set(format!("w/{}", n % 7), n.to_string()).await.expect("set").revision
        };
        written.insert(revision, if n % 10 == 0 { 2 } else { 1 });
    }
    let end = writer.set("w/end", "").await.expect("set").revision;
    written.insert(end, 1);

    let began = Instant::now();
    while let Some(seen) = watchers.join_next().await {
        let seen = seen.expect("a watcher").unwrap_or_else(|error| panic!("a watcher was told: {error}"));
        assert!(seen.is_sorted_by(|(one, _), (other, _)| one < other), "in order, each once");
        assert!(seen.iter().copied().eq(written.iter().map(|(revision, events)| (*revision, *events))));
    }
    say(format_args!(
        "{WATCHERS} watchers saw {} revisions each, the last {} ms after the last write",
        written.len(),
        began.elapsed().as_millis()
    ));
}

/// The revisions that a watcher is told of, and how many keys changed in each, up to the end.
async fn see(mut watch: Watch) -> Result<Vec<(u64, usize)>, Error> {
    let mut seen = Vec::new();
    loop {
        let WatchItem::Changes(changes) = watch.next().await? else { continue };
        seen.push((changes.revision, changes.events.len()));
        if changes.events.iter().any(|event| event.key == "w/end") {
            return Ok(seen);
        }
    }
}
