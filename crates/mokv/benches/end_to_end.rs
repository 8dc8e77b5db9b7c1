//! Three local processes under load, beside the ceiling of the same gRPC stack without a store, in one run.
//!
//! `cargo bench -p mokv --bench end_to_end [-- --seconds 3 --rounds 5]`
//!
//! Rounds alternate between the cluster and an echo server that answers the same messages from its own process, so that
//! a noisy neighbour hits both: compare the ratios, not the numbers. Then this repository's client beside plain unary calls.
//! `--client` measures only that, `--in-flight 256` only with so many calls at once.

#![allow(missing_docs, clippy::print_stdout)]

use std::net::TcpListener;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::Stream;
use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::kv_server::{Kv, KvServer};
use mokv_proto::api::{
    self, DeleteRequest, DeleteResponse, GetRequest, GetResponse, GetServersResponse, ListRequest, OpenSessionRequest,
    OpenSessionResponse, SetRequest, SetResponse,
};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 10_000;
const CONNECTIONS: usize = 4;
const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1);
    let number = |name: &str, default: u64| option(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    if let Some(address) = option("--echo") {
        let address = address.parse().expect("address");
        runtime
            .block_on(Server::builder().tcp_nodelay(true).add_service(KvServer::new(Echo)).serve(address))
            .expect("echo");
        return;
    }
    let client_only = arguments.iter().any(|argument| argument == "--client");
    let in_flight = option("--in-flight").map_or(IN_FLIGHT.to_vec(), |text| vec![text.parse().expect("a number")]);
    let length = Duration::from_secs(number("--seconds", 3));
    runtime.block_on(compare(length, number("--rounds", 5), client_only, &in_flight));
}

async fn compare(length: Duration, rounds: u64, client_only: bool, in_flight: &[usize]) {
    let echo_address = format!("127.0.0.1:{}", free_port());
    let _echo = Killed(
        Command::new(std::env::current_exe().expect("path"))
            .args(["--echo", &echo_address])
            .stdin(Stdio::null())
            .spawn()
            .expect("echo"),
    );
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let port = free_port();
    let metrics_port = free_port();
    let mut dev = Command::new(env!("CARGO_BIN_EXE_mokv"))
        .args(["dev", "--nodes", "3", "--rpc-port", &port.to_string(), "--metrics-port", &metrics_port.to_string()])
        .args(["-o", "json", "--data-dir"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .stdin(Stdio::piped())
        .spawn()
        .expect("mokv dev");
    let stdout = dev.stdout.take().expect("stdout");
    let _dev = Killed(dev);
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).map(|_| line)
    });
    let nodes: serde_json::Value = serde_json::from_str(&line.await.expect("join").expect("line")).expect("nodes");
    let first = nodes["nodes"][0]["rpc_addr"].as_str().expect("address");
    let servers = loop {
        let servers = client(first).get_servers(()).await.expect("servers").into_inner().servers;
        if servers.len() == 3 && servers.iter().any(|server| server.is_leader) {
            break servers;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let leader = servers.iter().find(|server| server.is_leader).expect("leader").rpc_addr.clone();
    let follower = servers.iter().find(|server| !server.is_leader).expect("follower").rpc_addr.clone();

    if client_only {
        return compare_client(first, &leader, length, rounds, in_flight).await;
    }
    println!(
        "3 processes, {VALUE_BYTES} B values, {KEYS} keys, {CONNECTIONS} connections; medians of {rounds} rounds of {length:?}"
    );
    println!("{:<22}{:>10}{:>14}{:>14}{:>9}", "", "in flight", "mökv /s", "echo /s", "ratio");
    for (name, target, operation) in [
        ("Set, leader", &leader, Operation::Set),
        ("Get, leader", &leader, Operation::Get),
        ("Set, follower", &follower, Operation::Set),
        ("Get, follower", &follower, Operation::Get),
    ] {
        for &in_flight in in_flight {
            let (mut ours, mut ceiling, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                let measured = measure(target, operation, in_flight, length).await;
                let echoed = measure(&echo_address, operation, in_flight, length).await;
                ours.push(measured);
                ceiling.push(echoed);
                ratios.push(measured / echoed);
            }
            println!(
                "{name:<22}{in_flight:>10}{:>14.0}{:>14.0}{:>9.2}",
                median(&mut ours),
                median(&mut ceiling),
                median(&mut ratios)
            );
        }
    }
    compare_client(first, &leader, length, rounds, in_flight).await;
}

/// Our client beside unary calls of plain clients that know the leader: one as a program would have it, with one
/// connection, and four.
async fn compare_client(first: &str, leader: &str, length: Duration, rounds: u64, in_flight: &[usize]) {
    let client = mokv_client::Client::connect(first).expect("address");
    println!(
        "\n{:<6}{:>10}{:>12}{:>14}{:>8}{:>18}{:>8}",
        "", "in flight", "Client /s", "unary /s", "ratio", "4 connections /s", "ratio"
    );
    for (name, operation) in [("Set", Operation::Set), ("Get", Operation::Get)] {
        for &in_flight in in_flight {
            let (mut ours, mut one, mut one_ratio) = (Vec::new(), Vec::new(), Vec::new());
            let (mut four, mut four_ratio) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let measured = measure_client(&client, operation, in_flight, length).await;
                let plain = measure_over(1, leader, operation, in_flight, length).await;
                let more = measure_over(4, leader, operation, in_flight, length).await;
                ours.push(measured);
                one.push(plain);
                one_ratio.push(measured / plain);
                four.push(more);
                four_ratio.push(measured / more);
            }
            println!(
                "{name:<6}{in_flight:>10}{:>12.0}{:>14.0}{:>8.2}{:>18.0}{:>8.2}",
                median(&mut ours),
                median(&mut one),
                median(&mut one_ratio),
                median(&mut four),
                median(&mut four_ratio)
            );
        }
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Get,
    Set,
}

/// Calls a second, made by plain unary calls.
async fn measure(address: &str, operation: Operation, in_flight: usize, length: Duration) -> f64 {
    measure_over(CONNECTIONS.min(in_flight), address, operation, in_flight, length).await
}

async fn measure_over(
    connections: usize,
    address: &str,
    operation: Operation,
    in_flight: usize,
    length: Duration,
) -> f64 {
    let clients: Vec<KvClient<Channel>> = (0..connections).map(|_| client(address)).collect();
    let value = bytes::Bytes::from(vec![7u8; VALUE_BYTES]);
    let call = move |caller: usize, key: String| {
        let (mut kv, value) = (clients[caller % clients.len()].clone(), value.clone());
        async move {
            match operation {
                Operation::Set => {
                    kv.set(SetRequest { key, value, ..Default::default() }).await.expect("set");
                }
                Operation::Get => match kv.get(GetRequest { key, ..GetRequest::default() }).await {
                    Err(status) if status.code() != tonic::Code::NotFound => panic!("{status}"),
                    _ => {}
                },
            }
        }
    };
    drive(call, in_flight, length).await
}

/// Calls a second, made by one [`mokv_client::Client`].
async fn measure_client(client: &mokv_client::Client, operation: Operation, in_flight: usize, length: Duration) -> f64 {
    let (client, value) = (client.clone(), bytes::Bytes::from(vec![7u8; VALUE_BYTES]));
    let call = move |_, key: String| {
        let (client, value) = (client.clone(), value.clone());
        async move {
            match operation {
                Operation::Set => drop(client.set(key, value).await.expect("set")),
                Operation::Get => drop(client.get(key).await.expect("get")),
            }
        }
    };
    drive(call, in_flight, length).await
}

/// Makes calls side by side, each with its caller's number and a key.
async fn drive<C, F>(call: C, in_flight: usize, length: Duration) -> f64
where
    C: Fn(usize, String) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let callers: Vec<_> = (0..in_flight)
        .map(|caller| {
            let (stop, count, call) = (stop.clone(), count.clone(), call.clone());
            tokio::spawn(async move {
                let mut number = (caller as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                while !stop.load(Ordering::Relaxed) {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    call(caller, format!("key-{:012}", (number >> 33) % KEYS)).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(length).await;
    let rate = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("caller");
    }
    rate
}

fn client(address: &str) -> KvClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("address");
    KvClient::new(endpoint.tcp_nodelay(true).connect_lazy())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("port").port()
}

/// A process that ends with this value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The same messages and nothing behind them.
struct Echo;

#[tonic::async_trait]
impl Kv for Echo {
    type ListStream = Pin<Box<dyn Stream<Item = Result<GetResponse, Status>> + Send>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let key = request.into_inner().key;
        let value = bytes::Bytes::from_static(&[7; VALUE_BYTES]);
        Ok(Response::new(GetResponse { key, value, ..GetResponse::default() }))
    }

    async fn set(&self, _: Request<SetRequest>) -> Result<Response<SetResponse>, Status> {
        Ok(Response::new(SetResponse { ok: true, revision: 1, create_revision: 1, version: 1, ..Default::default() }))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Ok(Response::new(DeleteResponse::default()))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        Ok(Response::new(Box::pin(futures_util::stream::empty())))
    }

    async fn get_servers(&self, _: Request<()>) -> Result<Response<GetServersResponse>, Status> {
        Ok(Response::new(GetServersResponse::default()))
    }

    async fn open_session(&self, _: Request<OpenSessionRequest>) -> Result<Response<OpenSessionResponse>, Status> {
        Ok(Response::new(OpenSessionResponse::default()))
    }

    type WatchStream = futures_util::stream::BoxStream<'static, Result<api::WatchResponse, Status>>;
    type PipelineStream = futures_util::stream::BoxStream<'static, Result<api::PipelineResponse, Status>>;
    type KeepLeaseAliveStream = futures_util::stream::BoxStream<'static, Result<api::KeepLeaseAliveResponse, Status>>;

    async fn delete_range(
        &self,
        _: Request<api::DeleteRangeRequest>,
    ) -> Result<Response<api::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("delete_range"))
    }

    async fn increment(&self, _: Request<api::IncrementRequest>) -> Result<Response<api::IncrementResponse>, Status> {
        Err(Status::unimplemented("increment"))
    }

    async fn txn(&self, _: Request<api::TxnRequest>) -> Result<Response<api::TxnResponse>, Status> {
        Err(Status::unimplemented("txn"))
    }

    async fn count(&self, _: Request<api::CountRequest>) -> Result<Response<api::CountResponse>, Status> {
        Err(Status::unimplemented("count"))
    }

    async fn grant_lease(
        &self,
        _: Request<api::GrantLeaseRequest>,
    ) -> Result<Response<api::GrantLeaseResponse>, Status> {
        Err(Status::unimplemented("grant_lease"))
    }

    async fn revoke_lease(
        &self,
        _: Request<api::RevokeLeaseRequest>,
    ) -> Result<Response<api::RevokeLeaseResponse>, Status> {
        Err(Status::unimplemented("revoke_lease"))
    }

    async fn get_lease(&self, _: Request<api::GetLeaseRequest>) -> Result<Response<api::GetLeaseResponse>, Status> {
        Err(Status::unimplemented("get_lease"))
    }

    async fn list_leases(
        &self,
        _: Request<api::ListLeasesRequest>,
    ) -> Result<Response<api::ListLeasesResponse>, Status> {
        Err(Status::unimplemented("list_leases"))
    }

    async fn watch(&self, _: Request<api::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }

    async fn pipeline(
        &self,
        _: Request<tonic::Streaming<api::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Err(Status::unimplemented("pipeline"))
    }

    async fn keep_lease_alive(
        &self,
        _: Request<tonic::Streaming<api::KeepLeaseAliveRequest>>,
    ) -> Result<Response<Self::KeepLeaseAliveStream>, Status> {
        Err(Status::unimplemented("keep_lease_alive"))
    }
}
