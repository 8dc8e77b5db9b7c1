//! What is true of the port as a whole: health, reflection, counting, panics, stopping.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use mokv_proto::api::{GetResponse, ListRequest};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::server::NamedService;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;

use super::{Running, Setup, get, reason, samples, set};

/// A service whose handler is broken.
#[derive(Clone)]
struct Broken;

impl NamedService for Broken {
    const NAME: &'static str = "test.Broken";
}

impl tonic::codegen::Service<HttpRequest<Body>> for Broken {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: HttpRequest<Body>) -> Self::Future {
        Box::pin(async { panic!("a bug, in a test") })
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_connection_lives() {
    let server = Running::start_with(Setup::default(), Broken).await;
    let channel = server.channel().await;
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("ready");
    let path = PathAndQuery::from_static("/test.Broken/Call");
    let panicked = grpc.unary(Request::new(()), path, ProstCodec::<(), ()>::default()).await;
    assert!(matches!(reason(panicked), (Code::Internal, reason, _) if reason == "INTERNAL"));

    let mut kv = mokv_proto::api::kv_client::KvClient::new(channel);
    kv.set(set("k", "v")).await.expect("the same connection still works");
}

#[tokio::test]
async fn health_tells_liveness_from_readiness() {
    let server = Running::start(Setup::leaderless()).await;
    let mut client = HealthClient::new(server.channel().await);
    let request = |service: &str| HealthCheckRequest { service: service.into() };
    for (service, expected) in
        [("", ServingStatus::Serving), ("liveness", ServingStatus::Serving), ("readiness", ServingStatus::NotServing)]
    {
        let status = client.check(request(service)).await.expect("check").into_inner().status();
        assert_eq!(status, expected, "{service:?}");
    }
    assert_eq!(client.check(request("nonsense")).await.expect_err("unknown").code(), Code::NotFound);
    let mut unknown = client.watch(request("nonsense")).await.expect("watch").into_inner();
    assert_eq!(unknown.message().await.expect("first").expect("status").status(), ServingStatus::ServiceUnknown);

    server.health.stop();
    for service in ["", "liveness", "readiness"] {
        let status = client.check(request(service)).await.expect("check").into_inner().status();
        assert_eq!(status, ServingStatus::NotServing, "{service:?}");
    }
}

#[tokio::test]
async fn health_is_watched_until_the_server_stops() {
    let server = Running::start(Setup::default()).await;
    let mut client = HealthClient::new(server.channel().await);
    let mut watches = Vec::new();
    for service in ["readiness", "liveness"] {
        let request = HealthCheckRequest { service: service.into() };
        let mut statuses = client.watch(request).await.expect("watch").into_inner();
        assert_eq!(statuses.message().await.expect("first").expect("status").status(), ServingStatus::Serving);
        watches.push(statuses);
    }

    server.node.hand_over(Duration::from_secs(1)).await;
    let readiness = watches[0].message().await.expect("change").expect("status").status();
    assert_eq!(readiness, ServingStatus::NotServing);
    server.stop.send(()).expect("running");
    let liveness = watches[1].message().await.expect("change").expect("status").status();
    assert_eq!(liveness, ServingStatus::NotServing);
    for mut statuses in watches {
        assert!(statuses.message().await.expect("an orderly end").is_none());
    }
    server.served.await.expect("task").expect("nothing is left to wait for");
}

#[tokio::test]
async fn stopping_lets_calls_that_are_under_way_end() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    for n in 0..8 {
        kv.set(set(&format!("key-{n}"), vec![0; 1 << 20])).await.expect("set");
    }
    let mut pairs = kv.list(ListRequest::default()).await.expect("list").into_inner();
    pairs.message().await.expect("first").expect("pair");
    server.stop.send(()).expect("running");
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.served.is_finished());
    let rest: Vec<Result<GetResponse, Status>> = pairs.collect().await;
    assert_eq!(rest.iter().filter(|pair| pair.is_ok()).count(), 7);
    server.served.await.expect("task").expect("served");
}

#[tokio::test]
async fn reflection_lists_the_public_services() {
    let expected =
        ["api.KV", "grpc.health.v1.Health", "mokv.cluster.v1.Cluster", "grpc.reflection.v1.ServerReflection"];
    let server = Running::start(Setup::default()).await;
    let channel = server.channel().await;
    macro_rules! services {
        ($version:ident) => {{
            use tonic_reflection::pb::$version as pb;
            let ask = pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(pb::server_reflection_request::MessageRequest::ListServices(String::new())),
            };
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel.clone());
            let asked = client.server_reflection_info(tokio_stream::iter([ask])).await.expect("reflection");
            let answer = asked.into_inner().message().await.expect("answer").expect("one");
            match answer.message_response {
                Some(pb::server_reflection_response::MessageResponse::ListServicesResponse(services)) => {
                    services.service.into_iter().map(|service| service.name).collect::<Vec<String>>()
                }
                other => panic!("{other:?}"),
            }
        }};
    }
    for (services, version) in [(services!(v1), "v1"), (services!(v1alpha), "v1alpha")] {
        for name in expected.map(|name| name.replace("v1.ServerReflection", &format!("{version}.ServerReflection"))) {
            assert!(services.contains(&name), "{name} is not in {services:?}");
        }
        assert!(!services.iter().any(|name| name.contains("internal")), "{services:?}");
    }
}

#[tokio::test]
async fn calls_are_counted_by_their_end() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    kv.set(set("k", "v")).await.expect("set");
    kv.get(get("missing")).await.expect_err("no such key");
    kv.set(set("k", vec![0; 3 << 20])).await.expect_err("too large");
    kv.list(ListRequest::default()).await.expect("list").into_inner().collect::<Vec<_>>().await;

    let page = crate::metrics::page(&server.node.status(), &[], &server.metrics, Duration::ZERO);
    let samples = samples(&page);
    for (call_type, method, code) in [
        ("unary", "Set", "OK"),
        ("unary", "Set", "ResourceExhausted"),
        ("unary", "Get", "NotFound"),
        ("server_stream", "List", "OK"),
    ] {
        let labels =
            format!("grpc_type=\"{call_type}\",grpc_service=\"api.KV\",grpc_method=\"{method}\",grpc_code=\"{code}\"");
        assert_eq!(samples[&format!("grpc_server_handled_total{{{labels}}}")], 1.0, "{labels}");
    }
}

#[tokio::test]
async fn a_client_that_speaks_no_http2_is_cut() {
    use tokio::io::AsyncWriteExt;
    let server = Running::start(Setup::default()).await;
    let mut connection = TcpStream::connect(server.address).await.expect("connect");
    connection.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("write");
    let mut answer = Vec::new();
    // It ends one way or another, and the server goes on.
    drop(connection.read_to_end(&mut answer).await);
    server.fill([("k", "v")]).await;
}
