//! What the client builds on watches and leases, while nodes hang, break and come back.

use std::collections::BTreeSet;
use std::time::Duration;

use mokv_client::{Client, Compare, Error, KeyRange, LockGuard, Txn, TxnOp, Watch, WatchItem};
use tokio::time::{Instant, timeout};

use crate::door::{Door, State};
use crate::harness::{Cluster, PATIENCE};

/// Longer than a busy machine stands still, shorter than anybody wants to wait for a test.
const SILENCE: Duration = Duration::from_millis(900);

/// A cluster of three, a client that goes through doors, and one that goes without.
struct Behind {
    cluster: Cluster,
    doors: Vec<Door>,
    through: Client,
    direct: Client,
}

async fn behind_doors() -> Behind {
    let cluster = Cluster::start(3).await;
    let mut doors = Vec::new();
    for node in &cluster.nodes {
        doors.push(Door::before(node.addr).await);
    }
    let join = |addrs: Vec<String>| format!("mokv://{}?routing=single", addrs.join(","));
    let through = Client::connect(&join(doors.iter().map(|door| door.addr.to_string()).collect())).expect("client");
    let direct =
        Client::connect(&join(cluster.nodes.iter().map(|node| node.addr.to_string()).collect())).expect("client");
    Behind { cluster, doors, through, direct }
}

/// Ends with the test's patience.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// The revisions of the next changes, up to one.
async fn revisions_until(watch: &mut Watch, last: u64) -> Vec<u64> {
    let mut revisions = Vec::new();
    while revisions.last() != Some(&last) {
        match watch.next().await {
            Ok(WatchItem::Changes(changes)) => revisions.push(changes.revision),
            Ok(listed @ WatchItem::Listed { .. }) => panic!("{listed:?}"),
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    revisions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_every_revision_once_whichever_node_fails() {
    let Behind { cluster: _cluster, doors, through, direct } = behind_doors().await;
    let mut watch = through.watch_range(KeyRange::prefix("k/")).silence(SILENCE).await.expect("a watch");
    let mut expected = watch.revision() + 1;
    for (round, state) in [State::Hangs, State::Shut, State::Hangs, State::Shut].into_iter().enumerate() {
        // One of them, at a time, so that the one that serves is among them.
        for door in &doors {
            door.turn(state);
            let mut last = 0;
            for n in 0..5 {
                last = direct.set(format!("k/{n}"), round.to_string()).await.expect("a write").revision;
            }
            let seen = soon("the watch goes on at another node", revisions_until(&mut watch, last)).await;
            assert_eq!(seen, (expected..=last).collect::<Vec<_>>());
            expected = last + 1;
            door.turn(State::Open);
        }
    }
    assert_eq!(watch.revision(), expected - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_nobody_says_so_and_goes_on_later() {
    let Behind { cluster: _cluster, doors, through, direct } = behind_doors().await;
    let watch = through.watch("a").silence(SILENCE).timeout(Duration::from_secs(1));
    let mut watch = watch.await.expect("a watch");
    doors.iter().for_each(|door| door.turn(State::Shut));
    let error = soon("an error", watch.next()).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    let written = direct.set("a", "1").await.expect("a write");
    doors.iter().for_each(|door| door.turn(State::Open));
    assert_eq!(soon("the watch goes on", revisions_until(&mut watch, written.revision)).await, [written.revision]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_told_or_listed_again() {
    let cluster = Cluster::start_with(1, |options| options.history_bytes = 64 << 10).await;
    let client = Client::connect(&cluster.nodes[0].addr.to_string()).expect("client");
    client.set("gone", "1").await.expect("a write");
    let listing = client.watch_range(KeyRange::all()).list_first();
    let mut listing = listing.await.expect("a watch");
    let Ok(WatchItem::Listed { pairs, again: false, .. }) = listing.next().await else { panic!("a list comes first") };
    assert_eq!(pairs.len(), 1);
    let mut plain = client.watch_range(KeyRange::all()).await.expect("a watch");
    let begin = plain.revision();

    // More than the windows of both and the history can hold.
    client.delete("gone").await.expect("a write");
    let value = vec![b'x'; 8 << 10];
    let mut last = 0;
    for n in 0..2000 {
        last = client.set(format!("k/{}", n % 3), value.clone()).await.expect("a write").revision;
    }
    let mut again = false;
    let mut seen = begin;
    while seen < last {
        match soon("a list", listing.next()).await.expect("no error") {
            WatchItem::Changes(changes) => {
                assert_eq!(changes.revision, seen + 1, "no gap without a word");
                seen = changes.revision;
            }
            WatchItem::Listed { revision, pairs, again: listed_again } => {
                assert!(listed_again && revision > seen);
                assert!(pairs.iter().all(|pair| pair.key != "gone"));
                (again, seen) = (true, revision);
            }
        }
    }
    assert!(again, "nothing was missed: the history is too long for this test");

    let mut seen = begin;
    let oldest = loop {
        match soon("an error", plain.next()).await {
            Ok(WatchItem::Changes(changes)) => {
                assert_eq!(changes.revision, seen + 1, "no gap without a word");
                seen = changes.revision;
            }
            Ok(listed) => panic!("{listed:?}"),
            Err(Error::Compacted { oldest, .. }) => break oldest,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(oldest > seen + 1 && oldest <= last, "{seen} {oldest} {last}");
    let rest = client.watch_range(KeyRange::all()).from_revision(oldest).await;
    let mut rest = rest.expect("what is remembered can be watched");
    assert_eq!(revisions_until(&mut rest, last).await, (oldest..=last).collect::<Vec<_>>());
    let error = client.watch_range(KeyRange::all()).from_revision(1).await.expect_err("forgotten");
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_outlives_its_ttl_while_nodes_hang_and_ends_when_all_do() {
    const TTL: Duration = Duration::from_secs(3);
    let Behind { cluster: _cluster, doors, through, direct } = behind_doors().await;
    let lease = through.grant_lease(TTL).await.expect("a lease");
    direct.set("worker", "here").lease(lease.id()).await.expect("a write");
    let began = Instant::now();
    // One after the other hangs or breaks, for about twice the ttl in all.
    for state in [State::Hangs, State::Shut] {
        for door in &doors {
            door.turn(state);
            let until = Instant::now() + TTL / 3;
            assert!(timeout(TTL / 3, lease.lost()).await.is_err(), "lost after {:?}", began.elapsed());
            assert!(Instant::now() >= until && !lease.is_lost());
            door.turn(State::Open);
        }
    }
    assert!(direct.get("worker").await.expect("a read").is_some());
    assert_eq!(direct.leases().await.expect("leases"), [lease.id()]);

    let began = Instant::now();
    doors.iter().for_each(|door| door.turn(State::Hangs));
    soon("the lease is lost", lease.lost()).await;
    assert!(lease.is_lost() && began.elapsed() <= TTL, "lost after {:?}", began.elapsed());
    let gone = direct.watch("worker").list_first().await.expect("a watch");
    soon("the key is gone", until_absent(gone)).await;
    doors.iter().for_each(|door| door.turn(State::Open));
    assert!(lease.is_lost(), "what is lost stays lost");
    assert_eq!(lease.revoke().await, Ok(None));
}

async fn until_absent(mut watch: Watch) {
    loop {
        let is_absent = match watch.next().await.expect("no error") {
            WatchItem::Listed { pairs, .. } => pairs.is_empty(),
            WatchItem::Changes(changes) => changes.events.iter().any(|event| event.pair.is_none()),
        };
        if is_absent {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_granted_shared_and_revoked() {
    let cluster = Cluster::start(1).await;
    let client = Client::connect(&cluster.nodes[0].addr.to_string()).expect("client");
    let ttl = Duration::from_secs(60);
    let lease = client.grant_lease(ttl).id(7).await.expect("a lease");
    assert_eq!((lease.id(), lease.ttl(), lease.is_lost()), (7, ttl, false));
    let twice = client.grant_lease(ttl).id(7).await.expect_err("there is one");
    assert!(matches!(twice, Error::AlreadyExists(_)), "{twice}");
    client.set("a", "1").lease(7).await.expect("a write");
    client.set("b", "1").lease(7).await.expect("a write");
    let time = client.lease_keys(7).await.expect("a lease").expect("there");
    assert_eq!((time.ttl, time.keys), (ttl, vec!["a".to_owned(), "b".to_owned()]));
    assert!(time.remaining <= ttl && time.remaining > ttl / 2, "{:?}", time.remaining);
    assert_eq!(client.renew_lease(7).await, Ok(Some(ttl)));

    let other = client.clone().keep_lease_alive(7).await.expect("the same");
    assert_eq!(lease.revoke().await, Ok(Some(2)));
    soon("both know", async { tokio::join!(lease.lost(), other.lost()) }).await;
    assert_eq!(client.get("a").await, Ok(None));
    assert_eq!(client.renew_lease(7).await, Ok(None));
    assert_eq!(client.lease_time(7).await, Ok(None));
    assert!(matches!(client.keep_lease_alive(7).await, Err(Error::NotFound(_))));
    let error = client.set("a", "1").lease(7).await.expect_err("no such lease");
    assert!(matches!(error, Error::NotFound(_)), "{error}");

    // Somebody else revokes it: the holder learns it with the next renewal.
    let lease = client.grant_lease(Duration::from_secs(1)).await.expect("a lease");
    client.revoke_lease(lease.id()).await.expect("revoked");
    soon("the holder learns it", lease.lost()).await;
    // And one that nobody holds runs out.
    let lease = client.grant_lease(Duration::from_secs(1)).await.expect("a lease");
    client.set("c", "1").lease(lease.id()).await.expect("a write");
    let watch = client.watch("c").list_first().await.expect("a watch");
    drop(lease);
    soon("the key is gone", until_absent(watch)).await;
    assert_eq!(client.leases().await, Ok(vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_held_by_one_at_a_time_in_the_order_of_coming() {
    let cluster = Cluster::start(3).await;
    let client = |index: usize| Client::connect(&cluster.nodes[index].addr.to_string()).expect("client");
    let first = client(0).lock("l").value("me").await.expect("free");
    assert_eq!(client(1).get(first.key()).await.expect("a read").expect("its key").value, "me");
    assert!(client(1).lock("l").try_lock().await.expect("an answer").is_none());
    // Another name, though it begins like this one.
    let beside = client(1).lock("l/7").try_lock().await.expect("an answer").expect("free");

    let mut waiting = Vec::new();
    for index in 0..3 {
        let lock = client(index).lock("l").into_future();
        waiting.push(tokio::spawn(lock));
        let places = 2 + waiting.len() as u64;
        soon("it waits", async {
            while client(0).count(KeyRange::prefix("l/")).await.expect("a count").count < places {}
        })
        .await;
    }
    // One who gives up does not hold up the others.
    waiting.remove(1).abort();
    let mut tokens = vec![first.token()];
    assert!(holds(&client(2), &first).await);
    first.unlock().await.expect("released");
    for (place, next) in waiting.into_iter().enumerate() {
        let guard = soon("the next holds it", next).await.expect("no panic").expect("locked");
        tokens.push(guard.token());
        assert!(holds(&client(2), &guard).await);
        if place == 0 {
            // Dropped, it is released, too.
            drop(guard);
        } else {
            guard.unlock().await.expect("released");
        }
    }
    assert!(tokens.is_sorted() && BTreeSet::from_iter(&tokens).len() == 3, "{tokens:?}");
    beside.unlock().await.expect("released");
    soon("nothing is left behind", async { while !client(0).leases().await.expect("leases").is_empty() {} }).await;
    assert_eq!(client(0).count(KeyRange::all()).await.expect("a count").count, 0);
}

/// Whether what is guarded by the lock would be written.
async fn holds(client: &Client, guard: &LockGuard) -> bool {
    client.txn(Txn::new().when(guard.is_held())).await.expect("an answer").succeeded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_lost_with_its_lease_and_goes_to_the_next() {
    let Behind { cluster: _cluster, doors, through, direct } = behind_doors().await;
    let lost = through.lock("l").ttl(Duration::from_secs(2)).await.expect("free");
    let next = tokio::spawn(direct.lock("l").into_future());
    doors.iter().for_each(|door| door.turn(State::Hangs));
    soon("the holder learns it", lost.lost()).await;
    let next = soon("the next holds it", next).await.expect("no panic").expect("locked");
    assert!(next.token() > lost.token());
    assert!(!holds(&direct, &lost).await && holds(&direct, &next).await);
    doors.iter().for_each(|door| door.turn(State::Open));

    // On a lease of the caller's: once, and not longer than that.
    let lease = direct.grant_lease(Duration::from_secs(60)).await.expect("a lease");
    let waiting = tokio::spawn(direct.lock("l").lease(&lease).into_future());
    soon("it waits", async { while direct.get(format!("l/{}", lease.id())).await.expect("a read").is_none() {} }).await;
    let error = direct.lock("l").lease(&lease).await.expect_err("it waits already");
    assert!(matches!(error, Error::Refused(_)), "{error}");
    lease.revoke().await.expect("revoked");
    let error = soon("it is told", waiting).await.expect("no panic").expect_err("its place is lost");
    assert!(matches!(error, Error::Refused(_)), "{error}");
    next.unlock().await.expect("released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_winner_and_everybody_sees_who() {
    let cluster = Cluster::start(3).await;
    let client = |index: usize| Client::connect(&cluster.nodes[index].addr.to_string()).expect("client");
    let election = client(0).election("e");
    assert_eq!(election.leader().await, Ok(None));
    let mut observer = client(1).election("e").observe().await.expect("an observer");
    assert_eq!(soon("nobody", observer.next()).await, Ok(None));

    let one = election.campaign("one").await.expect("won");
    let seen = soon("one leads", observer.next()).await.expect("no error").expect("a leader");
    assert_eq!((&seen.value[..], seen.token, seen.key.as_str()), (&b"one"[..], one.token(), one.key()));
    let two = tokio::spawn(client(2).election("e").campaign("two").into_future());
    soon("two stands", async { while client(0).count(KeyRange::all()).await.expect("a count").count < 2 {} }).await;
    one.proclaim("uno").await.expect("proclaimed");
    let seen = soon("it says something else", observer.next()).await.expect("no error").expect("a leader");
    assert_eq!((&seen.value[..], seen.token), (&b"uno"[..], one.token()));

    one.resign().await.expect("resigned");
    let two = soon("two leads", two).await.expect("no panic").expect("won");
    let seen = soon("two leads", observer.next()).await.expect("no error").expect("a leader");
    assert_eq!((&seen.value[..], seen.token), (&b"two"[..], two.token()));
    assert_eq!(election.leader().await.expect("a leader"), Some(seen));

    // Somebody takes its key away.
    let deposed = Txn::new().when(Compare::present(two.key())).then(TxnOp::delete(two.key()));
    assert!(client(0).txn(deposed).await.expect("an answer").succeeded);
    assert_eq!(soon("nobody leads", observer.next()).await, Ok(None));
    let error = two.proclaim("dos").await.expect_err("deposed");
    assert!(matches!(error, Error::Refused(_)), "{error}");
}
