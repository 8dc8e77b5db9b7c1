//! Watches: what they tell, when they end, what they cost.

// What was measured, and between a test and its server.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{self, WatchRequest, WatchResponse, watch_event::Kind};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::{Running, Setup, assert_invalid, delete, reason, set};
use crate::metrics::ProcessStats;

type Stream = Streaming<WatchResponse>;

/// What takes so long on a busy machine will not come.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<F: Future>(what: F) -> F::Output {
    timeout(PATIENCE, what).await.expect("it comes")
}

fn watch(prefix: &str) -> WatchRequest {
    WatchRequest { prefix: prefix.into(), ..WatchRequest::default() }
}

async fn begin(kv: &mut KvClient<Channel>, request: WatchRequest) -> Stream {
    kv.watch(request).await.expect("watch").into_inner()
}

async fn answer(stream: &mut Stream) -> WatchResponse {
    soon(stream.message()).await.expect("answer").expect("no end")
}

/// Begins a watch and takes the first answer, which has nothing but a revision.
async fn begun(kv: &mut KvClient<Channel>, request: WatchRequest) -> (u64, Stream) {
    let mut stream = begin(kv, request).await;
    let first = answer(&mut stream).await;
    assert_eq!(first, WatchResponse { revision: first.revision, ..WatchResponse::default() });
    (first.revision, stream)
}

/// The next events: kind, key, revision, value.
async fn events(stream: &mut Stream) -> Vec<(Kind, String, u64, String)> {
    let answer = answer(stream).await;
    assert!(answer.pairs.is_empty());
    let events = answer.events.into_iter().map(|event| {
        let (kind, pair) = (event.kind(), event.pair.expect("a pair"));
        assert_eq!(pair.revision, pair.mod_revision);
        (kind, pair.key, pair.mod_revision, String::from_utf8_lossy(&pair.value).into_owned())
    });
    events.collect()
}

async fn events_until(stream: &mut Stream, revision: u64) -> Vec<(Kind, String, u64, String)> {
    let mut all = Vec::new();
    while all.last().is_none_or(|(_, _, last, _)| *last < revision) {
        all.extend(events(stream).await);
    }
    all
}

fn put(key: &str, revision: u64, value: &str) -> (Kind, String, u64, String) {
    (Kind::Put, key.into(), revision, value.into())
}

fn gone(key: &str, revision: u64) -> (Kind, String, u64, String) {
    (Kind::Delete, key.into(), revision, String::new())
}

/// How a watch ends.
async fn end(mut stream: Stream) -> Status {
    loop {
        match soon(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a watch has no end of its own"),
            Err(status) => return status,
        }
    }
}

fn oldest(status: Status) -> u64 {
    let (code, reason, details) = reason::<()>(Err(status));
    assert_eq!((code, reason.as_str()), (Code::OutOfRange, "COMPACTED"));
    details.error_info().expect("info").metadata["oldest"].parse().expect("a revision")
}

#[tokio::test]
async fn a_watch_tells_what_changes() {
    let server = Running::start(Setup::default()).await;
    server.fill([("a/1", "old"), ("b", "old")]).await;
    let mut kv = server.kv().await;
    let (revision, mut stream) = begun(&mut kv, watch("a/")).await;
    assert_eq!(revision, 2);

    kv.set(set("a/2", "v")).await.expect("set");
    assert_eq!(events(&mut stream).await, [put("a/2", 3, "v")]);
    kv.set(set("b", "v")).await.expect("set");
    kv.delete(delete("a/1")).await.expect("delete");
    kv.delete(delete("a/1")).await.expect("delete");
    assert_eq!(events(&mut stream).await, [gone("a/1", 5)]);
}

#[tokio::test]
async fn an_event_has_what_was_asked_for() {
    let server = Running::start(Setup::default()).await;
    server.fill([("k", "1"), ("k", "2"), ("k", "3")]).await;
    let mut kv = server.kv().await;
    kv.delete(delete("k")).await.expect("delete");
    server.fill([("k", "5")]).await;
    let pair = |value: &'static str, revision, create_revision, version| api::GetResponse {
        key: "k".into(),
        value: value.into(),
        revision,
        create_revision,
        mod_revision: revision,
        version,
        ..Default::default()
    };
    let event = |kind: Kind, pair, previous| api::WatchEvent { kind: kind.into(), pair: Some(pair), previous };
    let request = WatchRequest { key: "k".into(), start_revision: 2, previous: true, ..Default::default() };

    let (revision, mut stream) = begun(&mut kv, request.clone()).await;
    assert_eq!(revision, 1);
    let whole = answer(&mut stream).await;
    let expected = [
        event(Kind::Put, pair("2", 2, 1, 2), Some(pair("1", 1, 1, 1))),
        event(Kind::Put, pair("3", 3, 1, 3), Some(pair("2", 2, 1, 2))),
        event(Kind::Delete, pair("", 4, 0, 0), Some(pair("3", 3, 1, 3))),
        event(Kind::Put, pair("5", 5, 5, 1), None),
    ];
    assert_eq!(whole, WatchResponse { revision: 5, events: expected.to_vec(), ..Default::default() });

    for (variant, kept) in [
        (WatchRequest { no_puts: true, ..request.clone() }, &[2][..]),
        (WatchRequest { no_deletes: true, ..request.clone() }, &[0, 1, 3]),
        (WatchRequest { keys_only: true, ..request.clone() }, &[0, 1, 2, 3]),
        (WatchRequest { previous: false, ..request.clone() }, &[0, 1, 2, 3]),
    ] {
        let mut expected: Vec<_> = kept.iter().map(|place| expected[*place].clone()).collect();
        for event in &mut expected {
            if variant.keys_only {
                let pairs = event.pair.iter_mut().chain(&mut event.previous);
                pairs.for_each(|pair| pair.value.clear());
            }
            if !variant.previous {
                event.previous = None;
            }
        }
        let (_, mut stream) = begun(&mut kv, variant).await;
        assert_eq!(answer(&mut stream).await.events, expected);
    }
}

#[tokio::test]
async fn a_watch_begins_where_it_is_asked_to() {
    let server = Running::start(Setup::default()).await;
    server.fill([("a", "1"), ("b", "2"), ("a", "3")]).await;
    let mut kv = server.kv().await;
    let from = |start_revision| WatchRequest { start_revision, ..watch("") };

    let (_, mut all) = begun(&mut kv, from(1)).await;
    assert_eq!(events(&mut all).await, [put("a", 1, "1"), put("b", 2, "2"), put("a", 3, "3")]);
    let (revision, mut later) = begun(&mut kv, WatchRequest { progress_interval_ms: 100, ..from(6) }).await;
    assert_eq!(revision, 5);
    for value in ["4", "5", "6"] {
        kv.set(set("a", value)).await.expect("set");
    }
    assert_eq!(events(&mut later).await, [put("a", 6, "6")], "nothing was said of what had not happened");
    assert_eq!(events_until(&mut all, 6).await, [put("a", 4, "4"), put("a", 5, "5"), put("a", 6, "6")]);
}

#[tokio::test]
async fn a_watch_makes_sense_or_is_refused() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let key = WatchRequest { key: "k".into(), ..Default::default() };
    for (request, field) in [
        (WatchRequest { prefix: "p".into(), ..key.clone() }, "key"),
        (WatchRequest { end: "p".into(), ..key.clone() }, "key"),
        (WatchRequest { key: "k".repeat(17), ..Default::default() }, "key"),
        (watch(&"k".repeat(18)), "prefix"),
        (WatchRequest { start: "b".into(), end: "a".into(), ..Default::default() }, "end"),
        (WatchRequest { list_first: true, start_revision: 1, ..key.clone() }, "list_first"),
        (WatchRequest { no_puts: true, no_deletes: true, ..key.clone() }, "no_deletes"),
        (WatchRequest { progress_interval_ms: 99, ..key.clone() }, "progress_interval_ms"),
        (WatchRequest { consistency: 7, ..key.clone() }, "consistency"),
    ] {
        assert_invalid(kv.watch(request).await, field);
    }
    assert_eq!(server.node.status().watches.watchers, 0);
}

#[tokio::test]
async fn a_watch_begins_as_fresh_as_asked() {
    let server = Running::start(Setup::leaderless()).await;
    let mut kv = server.kv().await;
    let (code, reason, _) = reason(kv.watch(watch("")).await);
    assert_eq!((code, reason.as_str()), (Code::Unavailable, "NO_LEADER"));
    begun(&mut kv, WatchRequest { consistency: api::Consistency::Local.into(), ..watch("") }).await;
}

/// The list is more than fits on its way, and what it shows changes meanwhile.
#[tokio::test]
async fn between_a_list_and_its_changes_nothing_is_lost() {
    const LONG: usize = 80_000;
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    for n in 0..100 {
        kv.set(set(&format!("k/{n:02}"), "v".repeat(LONG))).await.expect("set");
    }
    kv.set(set("other", "v")).await.expect("set");

    let mut stream = begin(&mut kv, WatchRequest { list_first: true, ..watch("k/") }).await;
    let mut answers = vec![answer(&mut stream).await];
    for n in 0..50 {
        kv.delete(delete(&format!("k/{n:02}"))).await.expect("delete");
        kv.set(set(&format!("k/{n:02}a"), "new")).await.expect("set");
    }
    while answers.last().expect("an answer").more {
        answers.push(answer(&mut stream).await);
    }
    assert!(answers.len() > 2, "{} answers", answers.len());
    assert!(answers.iter().all(|answer| answer.revision == 101 && answer.events.is_empty()));
    let listed: Vec<_> = answers.into_iter().flat_map(|answer| answer.pairs).collect();
    assert_eq!(listed.len(), 100);
    for (n, pair) in (0..).zip(&listed) {
        assert_eq!((pair.key.clone(), pair.mod_revision, pair.value.len()), (format!("k/{n:02}"), n + 1, LONG));
    }

    let events = events_until(&mut stream, 201).await;
    let revisions: Vec<u64> = events.iter().map(|event| event.2).collect();
    assert_eq!(revisions, (102..=201).collect::<Vec<u64>>());
    assert_eq!(server.node.store().stats().pins, 0);
}

/// Many changes of one write come together, or say that they don't.
#[tokio::test]
async fn a_revision_is_whole_unless_it_says_otherwise() {
    const KEYS: usize = 2500;
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let (_, mut stream) = begun(&mut kv, watch("")).await;
    let sets = |keys: std::ops::Range<usize>| api::TxnRequest {
        then: keys.map(|n| api::TxnOp { op: Some(api::txn_op::Op::Set(set(&format!("k/{n:05}"), "v"))) }).collect(),
        ..Default::default()
    };
    for (revision, first) in (1..).zip((0..KEYS).step_by(100)) {
        kv.txn(sets(first..first + 100)).await.expect("txn");
        let whole = answer(&mut stream).await;
        assert_eq!((whole.revision, whole.events.len(), whole.more), (revision, 100, false));
        let keys = whole.events.into_iter().map(|event| event.pair.expect("a pair").key);
        assert!(keys.eq((first..first + 100).map(|n| format!("k/{n:05}"))), "in their order");
    }
    let deletion = KEYS as u64 / 100 + 1;
    let (_, mut others) =
        begun(&mut kv, WatchRequest { start: "k/00900".into(), end: "k/01100".into(), ..watch("") }).await;
    let range = api::DeleteRangeRequest { prefix: "k/".into(), ..Default::default() };
    kv.delete_range(range).await.expect("delete");
    let mut deleted = 0;
    loop {
        let part = answer(&mut stream).await;
        assert_eq!(part.revision, deletion);
        assert!(part.events.iter().all(|event| event.kind() == Kind::Delete));
        deleted += part.events.len();
        if !part.more {
            break;
        }
    }
    assert_eq!(deleted, KEYS);

    // Its part of the revision ends long before the revision does.
    let parts = [answer(&mut others).await, answer(&mut others).await, answer(&mut others).await];
    let told: Vec<_> = parts.iter().map(|part| (part.revision, part.events.len(), part.more)).collect();
    assert_eq!(told, [(deletion, 100, true), (deletion, 100, true), (deletion, 0, false)]);
    kv.set(set("k/01000", "after")).await.expect("set");
    for stream in [&mut stream, &mut others] {
        assert_eq!(events(stream).await, [put("k/01000", deletion + 1, "after")]);
    }
}

#[tokio::test]
async fn a_list_of_nothing_is_a_list() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let request = WatchRequest { list_first: true, ..watch("") };
    let (revision, mut stream) = begun(&mut kv, request).await;
    assert_eq!(revision, 0);
    server.fill([("k", "v")]).await;
    assert_eq!(events(&mut stream).await, [put("k", 1, "v")]);
}

#[tokio::test]
async fn what_is_forgotten_cannot_be_watched() {
    let server = Running::start(Setup { history_bytes: 2000, ..Setup::default() }).await;
    let mut kv = server.kv().await;
    for n in 0..100 {
        kv.set(set("k", n.to_string())).await.expect("set");
    }
    let from = |start_revision| WatchRequest { start_revision, ..watch("") };
    let oldest = oldest(kv.watch(from(1)).await.expect_err("forgotten"));
    assert!((80..100).contains(&oldest), "{oldest}");
    kv.watch(from(oldest - 1)).await.expect_err("forgotten");
    let (_, mut stream) = begun(&mut kv, from(oldest)).await;
    let revisions: Vec<u64> = events_until(&mut stream, 100).await.into_iter().map(|event| event.2).collect();
    assert_eq!(revisions, (oldest..=100).collect::<Vec<u64>>());
}

/// More than the windows of a connection take, and than the node remembers.
#[tokio::test]
async fn one_who_does_not_read_is_no_burden_and_is_told() {
    let server = Running::start(Setup { history_bytes: 1 << 20, ..Setup::default() }).await;
    let (mut slow, mut kv) = (server.kv().await, server.kv().await);
    let (_, slow) = begun(&mut slow, watch("")).await;
    let (_, slow_list) = begun(&mut kv, WatchRequest { list_first: true, ..watch("") }).await;
    let (_, mut quick) = begun(&mut kv, watch("")).await;
    for n in 1..=300 {
        kv.set(set("k", vec![b'v'; 20_000])).await.expect("writes go on");
        let seen = answer(&mut quick).await;
        assert_eq!((seen.revision, seen.events.len()), (n, 1), "the others see everything");
    }
    let status = server.node.status();
    assert!(status.history.bytes <= 1 << 20, "{:?}", status.history);
    assert_eq!((status.watches.watchers, status.watches.events), (3, status.watches.events.max(300)));
    let began = Instant::now();
    while server.node.status().watches.slow != 2 {
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", server.node.status().watches);
        sleep(Duration::from_millis(50)).await;
    }

    for slow in [slow, slow_list] {
        let oldest = oldest(end(slow).await);
        assert!(oldest > 200, "{oldest}");
    }
    let status = server.node.status();
    assert_eq!((status.watches.watchers, status.watches.compacted), (1, 2));
}

#[tokio::test]
async fn progress_is_told_while_nothing_happens() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let request = WatchRequest { progress_interval_ms: 100, ..watch("a/") };
    let (revision, mut stream) = begun(&mut kv, request).await;
    assert_eq!(revision, 0);
    server.fill([("b", "1"), ("b", "2")]).await;
    let caught_up = async {
        loop {
            let progress = answer(&mut stream).await;
            assert_eq!(progress, WatchResponse { revision: progress.revision, ..WatchResponse::default() });
            assert!(progress.revision <= 2);
            if progress.revision == 2 {
                break;
            }
        }
    };
    soon(caught_up).await;
    kv.set(set("a/k", "3")).await.expect("set");
    let first = async {
        loop {
            let events = events(&mut stream).await;
            if !events.is_empty() {
                break events;
            }
        }
    };
    assert_eq!(soon(first).await, [put("a/k", 3, "3")]);
    assert_eq!(answer(&mut stream).await, WatchResponse { revision: 3, ..WatchResponse::default() });

    let (_, mut silent) = begun(&mut kv, watch("a/")).await;
    answer(&mut stream).await;
    answer(&mut stream).await;
    assert!(timeout(Duration::ZERO, silent.message()).await.is_err(), "nobody asked for it");
}

#[tokio::test]
async fn a_watch_ends_with_its_callers_deadline() {
    let server = Running::start(Setup::default()).await;
    let mut request = Request::new(watch(""));
    request.set_timeout(Duration::from_millis(200));
    let stream = server.kv().await.watch(request).await.expect("watch").into_inner();
    let (code, reason, _) = reason::<()>(Err(end(stream).await));
    assert_eq!((code, reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
}

async fn no_watchers(server: &Running) {
    let gone = async {
        while server.node.status().watches.watchers > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
}

#[tokio::test]
async fn one_who_goes_away_is_forgotten() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let (_, waiting) = begun(&mut kv, watch("")).await;
    let (_, full) = begun(&mut kv, watch("k")).await;
    for _ in 0..50 {
        kv.set(set("k", vec![b'v'; 20_000])).await.expect("set");
    }
    assert_eq!(server.node.status().watches.watchers, 2);
    drop((waiting, full));
    no_watchers(&server).await;
}

#[tokio::test]
async fn a_node_that_stops_ends_its_watches() {
    let server = Running::start(Setup::default()).await;
    let (_, stream) = begun(&mut server.kv().await, watch("")).await;
    let Running { stop, served, node, .. } = server;
    stop.send(()).expect("it serves");
    let (code, reason, details) = reason::<()>(Err(end(stream).await));
    assert_eq!((code, reason.as_str()), (Code::Unavailable, "UNAVAILABLE"));
    assert!(details.retry_info().is_some());
    soon(served).await.expect("served").expect("stopped though there were watches");
    node.shutdown().await;
}

#[tokio::test]
async fn a_node_that_is_killed_ends_its_watches() {
    let server = Running::start(Setup::default()).await;
    let watches = server.node.watches().clone();
    let mut watcher = watches.watch(crate::store::KeyRange::all(), 0).expect("watch");
    server.node.tasks().abort();
    let ended = soon(watcher.changes()).await;
    assert_eq!(ended, Err(crate::watch::WatchError::Stopping));
}

/// A hundred on each connection, all of one prefix, while writes go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watchers_see_each_revision_once() {
    const WRITES: u64 = 500;
    let server = Running::start(Setup::default()).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut kv = server.kv().await;
        for _ in 0..100 {
            streams.push(begun(&mut kv, watch("k/")).await.1);
        }
    }
    let watchers = streams.into_iter().map(|mut stream| {
        server.node.tasks().spawn(async move {
            let mut seen = 0;
            while seen < WRITES {
                let answer = answer(&mut stream).await;
                assert!(!answer.more && !answer.events.is_empty());
                for event in answer.events {
                    seen += 1;
                    assert_eq!(event.pair.expect("a pair").mod_revision, seen);
                }
                assert_eq!(answer.revision, seen);
            }
        })
    });
    let watchers: Vec<_> = watchers.collect();
    let writers = (0..10).map(|writer| {
        let channel = server.channel();
        async move {
            let mut kv = KvClient::new(channel.await);
            for n in 0..WRITES / 10 {
                kv.set(set(&format!("k/{writer}"), n.to_string())).await.expect("set");
            }
        }
    });
    join_all(writers).await;
    for watcher in watchers {
        watcher.await.expect("saw everything");
    }
    assert_eq!(server.node.status().watches.events, 1000 * WRITES);
}

#[tokio::test]
async fn events_say_how_a_key_ends() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let grant = api::GrantLeaseRequest { ttl_ms: 60_000, ..Default::default() };
    let lease_id = kv.grant_lease(grant).await.expect("grant").into_inner().lease_id;
    let (_, mut stream) = begun(&mut kv, WatchRequest { previous: true, ..watch("") }).await;
    kv.set(api::SetRequest { lease_id, ..set("k", "1") }).await.expect("set");
    kv.set(api::SetRequest { ttl_ms: 60_000, ..set("k", "2") }).await.expect("set");
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(answer(&mut stream).await.events);
    }
    let pair = events[0].pair.as_ref().expect("a pair");
    assert_eq!((pair.lease_id, pair.ttl_ms), (lease_id, 0));
    let pair = events[1].pair.as_ref().expect("a pair");
    assert!(pair.lease_id == 0 && pair.ttl_ms > 0, "{pair:?}");
    assert_eq!(events[1].previous.as_ref().map(|before| before.lease_id), Some(lease_id));
}

/// What the server's side costs, measured in a process of its own.
#[tokio::test]
async fn ten_thousand_idle_watches_cost_little() {
    const IDLE: Duration = Duration::from_secs(3);
    let this = std::env::current_exe().expect("this program");
    let mut server = Command::new(this)
        .args(["--exact", "rpc::tests::watch::serve_idle_watches", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start");
    let mut ask = server.stdin.take().expect("piped");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let mut said = async |what: &str| loop {
        let line = soon(lines.next_line()).await.expect("read").expect("it runs");
        if let Some(value) = line.strip_prefix(what) {
            return value.trim().to_owned();
        }
    };
    let address = said("address").await;
    let mut usage = async || {
        ask.write_all(b"\n").await.expect("it runs");
        let answer = said("usage").await;
        let (bytes, seconds) = answer.split_once(' ').expect("two numbers");
        (bytes.parse::<u64>().expect("bytes"), seconds.parse::<f64>().expect("seconds"))
    };

    let connect = async || KvClient::connect(format!("http://{address}")).await.expect("connect");
    begun(&mut connect().await, watch("")).await;
    let (bytes_before, _) = usage().await;
    let mut keeps = Vec::new();
    for connection in 0..10 {
        let mut kv = connect().await;
        for n in 0..1000 {
            keeps.push(begun(&mut kv, watch(&format!("{connection}/{n}/"))).await.1);
        }
    }
    let (bytes, seconds_before) = usage().await;
    let began = Instant::now();
    tokio::time::sleep(IDLE).await;
    let (_, seconds) = usage().await;
    let (bytes, cpu) = (bytes - bytes_before, (seconds - seconds_before) / began.elapsed().as_secs_f64());
    let report = format!("10,000 idle watches: {bytes} bytes, {:.1} % of a core", cpu * 100.0);
    assert!(bytes < 100_000_000 && cpu < 0.05, "{report}");

    let mut kv = connect().await;
    kv.set(set("7/77/k", "v")).await.expect("set");
    assert_eq!(events(&mut keeps[7077]).await, [put("7/77/k", 1, "v")]);
    eprintln!("{report}");
}

/// Says where it listens, then what it uses for each line that it reads.
#[tokio::test]
#[ignore = "the server of ten_thousand_idle_watches_cost_little"]
async fn serve_idle_watches() {
    let server = Running::start(Setup::default()).await;
    println!("\naddress {}", server.address);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await.expect("read").is_some() {
        let stats = ProcessStats::read();
        println!("usage {} {}", stats.resident_bytes.expect("linux"), stats.cpu_seconds.expect("linux"));
    }
}

#[tokio::test]
async fn watches_are_on_the_metrics_page() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let (_, mut stream) = begun(&mut kv, watch("")).await;
    server.fill([("k", "v"), ("k", "w")]).await;
    events_until(&mut stream, 2).await;
    let page = crate::metrics::page(&server.node.status(), &[], &server.metrics, Duration::ZERO);
    let samples: BTreeMap<String, f64> = super::samples(&page);
    for (series, value) in [
        ("mokv_watch_watchers", 1.0),
        ("mokv_watch_slow_watchers", 0.0),
        ("mokv_watch_events_total", 2.0),
        ("mokv_watch_compacted_total", 0.0),
        ("mokv_history_oldest_revision", 0.0),
    ] {
        assert_eq!(samples[series], value, "{series}");
    }
    assert!(samples["mokv_history_bytes"] > 0.0);
}
