//! Lists: what they hold, and what becomes of their views.

use std::time::Duration;

use futures_util::TryStreamExt;
use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::{self, GetResponse, ListRequest};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::super::REVISION;
use super::{Running, Setup, assert_invalid, reason, set};

const PAIRS: [(&str, &str); 5] = [("b", "1"), ("a", "2"), ("ab", "3"), ("ö", "4"), ("aa", "5")];

async fn list(kv: &mut KvClient<Channel>, request: ListRequest) -> Vec<GetResponse> {
    kv.list(request).await.expect("list").into_inner().try_collect().await.expect("pairs")
}

async fn keys(kv: &mut KvClient<Channel>, request: ListRequest) -> Vec<String> {
    list(kv, request).await.into_iter().map(|pair| pair.key).collect()
}

#[tokio::test]
async fn an_empty_message_lists_every_pair() {
    let server = Running::start(Setup::default()).await;
    server.fill(PAIRS).await;

    // As a client of the original contract does it.
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.expect("ready");
    let codec = ProstCodec::<(), GetResponse>::default();
    let path = PathAndQuery::from_static("/api.KV/List");
    let response = grpc.server_streaming(Request::new(()), path, codec).await.expect("list");
    assert_eq!(response.metadata().get(REVISION).expect("revision"), "5");

    let pairs: Vec<GetResponse> = response.into_inner().try_collect().await.expect("pairs");
    let pair = |key: &str, value: &'static str, revision| GetResponse {
        key: key.into(),
        value: value.into(),
        revision: 5,
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        ..Default::default()
    };
    assert_eq!(
        pairs,
        [pair("a", "2", 2), pair("aa", "5", 5), pair("ab", "3", 3), pair("b", "1", 1), pair("ö", "4", 4)]
    );
}

#[tokio::test]
async fn an_empty_store_lists_nothing() {
    let server = Running::start(Setup::default()).await;
    let response = server.kv().await.list(ListRequest::default()).await.expect("list");
    assert_eq!(response.metadata().get(REVISION).expect("revision"), "0");
    assert_eq!(response.into_inner().message().await.expect("end"), None);
}

#[tokio::test]
async fn ranges_are_cut_as_asked() {
    let server = Running::start(Setup::default()).await;
    server.fill(PAIRS).await;
    let mut kv = server.kv().await;
    let query = |prefix: &str, start: &str, end: &str, limit| ListRequest {
        prefix: prefix.into(),
        start: start.into(),
        end: end.into(),
        limit,
        ..Default::default()
    };
    for (request, expected) in [
        (query("a", "", "", 0), vec!["a", "aa", "ab"]),
        (query("ö", "", "", 0), vec!["ö"]),
        (query("", "aa", "", 0), vec!["aa", "ab", "b", "ö"]),
        (query("", "", "ab", 0), vec!["a", "aa"]),
        (query("a", "aa", "ab", 0), vec!["aa"]),
        (query("a", "b", "", 0), vec![]),
        (query("b", "a", "c", 0), vec!["b"]),
        (query("", "a", "a", 0), vec![]),
        (query("", "", "", 2), vec!["a", "aa"]),
        (query("", "aa\0", "", 2), vec!["ab", "b"]),
        (query("", "", "", 99), vec!["a", "aa", "ab", "b", "ö"]),
    ] {
        assert_eq!(keys(&mut kv, request.clone()).await, expected, "{request:?}");
    }
}

#[tokio::test]
async fn values_can_be_left_out() {
    let server = Running::start(Setup::default()).await;
    server.fill(PAIRS).await;
    let pairs = list(&mut server.kv().await, ListRequest { keys_only: true, ..Default::default() }).await;
    assert_eq!(pairs.len(), PAIRS.len());
    assert!(pairs.iter().all(|pair| pair.value.is_empty() && pair.mod_revision > 0));
}

#[tokio::test]
async fn bounds_that_make_no_sense_are_refused() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let long = "k".repeat(18);
    assert_invalid(kv.list(ListRequest { prefix: long.clone(), ..Default::default() }).await, "prefix");
    assert_invalid(kv.list(ListRequest { start: long.clone(), ..Default::default() }).await, "start");
    assert_invalid(kv.list(ListRequest { end: long, ..Default::default() }).await, "end");
    let request = ListRequest { start: "b".into(), end: "a".into(), ..Default::default() };
    assert_invalid(kv.list(request).await, "end");
    assert_invalid(kv.list(ListRequest { consistency: -1, ..Default::default() }).await, "consistency");
    let cursor = format!("{}\0", "k".repeat(16));
    assert_eq!(keys(&mut kv, ListRequest { start: cursor, ..Default::default() }).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_list_waits_for_its_leader_and_its_revision() {
    let server = Running::start(Setup::leaderless()).await;
    let mut kv = server.kv().await;
    assert_eq!(reason(kv.list(ListRequest::default()).await).1, "NO_LEADER");
    let local = ListRequest { consistency: api::Consistency::Local.into(), ..Default::default() };
    assert_eq!(keys(&mut kv, local.clone()).await, Vec::<String>::new());
    let ahead = ListRequest { min_revision: 1, ..local };
    assert_eq!(reason(kv.list(ahead).await).1, "REVISION_NOT_REACHED");
}

/// More MiB than the transport's buffers hold, so that a list can't be finished while nobody reads it.
const LARGE: usize = 16;

async fn fill_large(kv: &mut KvClient<Channel>) {
    for n in 0..LARGE {
        kv.set(set(&format!("key-{n:02}"), vec![b'1'; 1 << 20])).await.expect("set");
    }
}

async fn all_views_released(server: &Running) {
    while server.node.store().stats().pins > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_list_shows_one_revision_and_lets_go_of_it() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    fill_large(&mut kv).await;

    let mut pairs = kv.list(ListRequest::default()).await.expect("list").into_inner();
    pairs.message().await.expect("first").expect("pair");
    kv.set(set("key-15", "2")).await.expect("writes go on");
    kv.set(set("key-99", "2")).await.expect("writes go on");
    assert_eq!(server.node.store().stats().pins, 1);
    let rest: Vec<GetResponse> = pairs.try_collect().await.expect("pairs");
    assert_eq!(rest.len(), LARGE - 1);
    assert!(rest.iter().all(|pair| pair.value.len() == 1 << 20 && pair.revision == LARGE as u64));

    let mut abandoned = kv.list(ListRequest::default()).await.expect("list").into_inner();
    abandoned.message().await.expect("first").expect("pair");
    assert_eq!(server.node.store().stats().pins, 1);
    drop(abandoned);
    all_views_released(&server).await;
}

#[tokio::test]
async fn a_list_ends_with_its_callers_deadline() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    fill_large(&mut kv).await;

    let mut request = Request::new(ListRequest::default());
    request.set_timeout(Duration::from_millis(200));
    let mut pairs = kv.list(request).await.expect("list").into_inner();
    pairs.message().await.expect("first").expect("pair");
    all_views_released(&server).await;
    let cut = pairs.try_collect::<Vec<GetResponse>>().await;
    assert!(matches!(reason(cut), (Code::DeadlineExceeded, reason, _) if reason == "DEADLINE_EXCEEDED"));
}
