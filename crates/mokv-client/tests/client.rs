//! The client against a server that misbehaves on command.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mokv_client::{Client, Error, KeyRange, Server};
use mokv_proto::api::kv_server::{Kv, KvServer};
use mokv_proto::api::{
    self, DeleteRequest, DeleteResponse, GetRequest, GetResponse, GetServersResponse, ListRequest, OpenSessionRequest,
    OpenSessionResponse, RequestId, SetRequest, SetResponse,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, transport};
use tonic_types::{ErrorDetails, StatusExt};

/// What a call meets before it is carried out.
enum Trouble {
    /// It is refused, without effect.
    Refuse(Status),
    /// It takes effect, and its answer is replaced.
    LoseAnswer(Status),
    /// No answer, ever.
    Hang,
}

struct Write {
    id: Option<RequestId>,
    /// The header as it was sent.
    grpc_timeout: String,
}

#[derive(Clone, Default)]
struct Fake {
    troubles: Arc<Mutex<VecDeque<Trouble>>>,
    pairs: Arc<Mutex<BTreeMap<String, bytes::Bytes>>>,
    /// In the order in which they came.
    writes: Arc<Mutex<Vec<Write>>>,
    sessions: Arc<Mutex<u64>>,
}

impl Fake {
    fn with_troubles(troubles: impl IntoIterator<Item = Trouble>) -> Self {
        let fake = Self::default();
        fake.troubles.lock().unwrap().extend(troubles);
        fake
    }

    /// Serves on a free port for as long as the test runs.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = transport::Server::builder().add_service(KvServer::new(self.clone()));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    async fn meet<T>(&self, act: impl FnOnce() -> T) -> Result<Response<T>, Status> {
        let trouble = self.troubles.lock().unwrap().pop_front();
        match trouble {
            Some(Trouble::Refuse(status)) => Err(status),
            Some(Trouble::LoseAnswer(status)) => {
                act();
                Err(status)
            }
            Some(Trouble::Hang) => std::future::pending().await,
            None => Ok(Response::new(act())),
        }
    }

    fn writes(&self) -> Vec<Option<RequestId>> {
        self.writes.lock().unwrap().iter().map(|write| write.id).collect()
    }
}

#[tonic::async_trait]
impl Kv for Fake {
    type ListStream = ReceiverStream<Result<GetResponse, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let key = request.into_inner().key;
        let found = self.pairs.lock().unwrap().get(&key).cloned();
        let value = found.ok_or_else(|| Status::not_found(format!("no value for key: {key}")))?;
        self.meet(|| GetResponse { key, value, ..GetResponse::default() }).await
    }

    async fn set(&self, request: Request<SetRequest>) -> Result<Response<SetResponse>, Status> {
        let grpc_timeout = grpc_timeout(&request);
        let SetRequest { key, value, request_id: id, .. } = request.into_inner();
        self.writes.lock().unwrap().push(Write { id, grpc_timeout });
        self.meet(|| {
            self.pairs.lock().unwrap().insert(key, value);
            SetResponse { ok: true, ..SetResponse::default() }
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let grpc_timeout = grpc_timeout(&request);
        let DeleteRequest { key, request_id: id, .. } = request.into_inner();
        self.writes.lock().unwrap().push(Write { id, grpc_timeout });
        self.meet(|| {
            let existed = self.pairs.lock().unwrap().remove(&key).is_some();
            DeleteResponse { ok: true, existed, revision: 0, ..Default::default() }
        })
        .await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let prefix = request.into_inner().prefix;
        let (pairs, stream) = tokio::sync::mpsc::channel(16);
        for (key, value) in self.pairs.lock().unwrap().range(prefix..) {
            pairs
                .try_send(Ok(GetResponse { key: key.clone(), value: value.clone(), ..GetResponse::default() }))
                .unwrap();
        }
        if let Some(Trouble::Hang) = self.troubles.lock().unwrap().pop_front() {
            tokio::spawn(async move { pairs.closed().await });
        }
        let mut response = Response::new(ReceiverStream::new(stream));
        response.metadata_mut().insert("mokv-revision", 7.into());
        Ok(response)
    }

    async fn get_servers(&self, _: Request<()>) -> Result<Response<GetServersResponse>, Status> {
        self.meet(|| GetServersResponse { servers: vec![Server { id: "node-0".into(), ..Server::default() }] }).await
    }

    async fn open_session(&self, _: Request<OpenSessionRequest>) -> Result<Response<OpenSessionResponse>, Status> {
        let mut sessions = self.sessions.lock().unwrap();
        *sessions += 1;
        Ok(Response::new(OpenSessionResponse { client_id: *sessions }))
    }

    type WatchStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<api::WatchResponse, Status>> + Send>>;
    type PipelineStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<api::PipelineResponse, Status>> + Send>>;
    type KeepLeaseAliveStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<api::KeepLeaseAliveResponse, Status>> + Send>>;

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

fn grpc_timeout<T>(request: &Request<T>) -> String {
    request.metadata().get("grpc-timeout").expect("a deadline").to_str().unwrap().to_owned()
}

fn status(code: Code, reason: &str) -> Status {
    Status::with_error_details(code, reason, ErrorDetails::with_error_info(reason, "mokv", []))
}

fn no_leader() -> Status {
    status(Code::Unavailable, "NO_LEADER")
}

fn unknown() -> Status {
    status(Code::Unavailable, "OUTCOME_UNKNOWN")
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn connect(endpoints: &[&str]) -> Client {
    Client::connect(&format!("mokv://{}", endpoints.join(","))).unwrap().at_most_once()
}

#[tokio::test]
async fn reads_and_writes_come_through() {
    let client = connect(&[&Fake::default().start().await]);
    assert_eq!(client.get("a").await, Ok(None));
    assert!(client.set("a", "1").await.unwrap().ok);
    assert_eq!(&client.get("a").await.unwrap().unwrap().value[..], b"1");
    assert_eq!(&client.get("a").local().await.unwrap().unwrap().value[..], b"1");
    assert!(client.delete("a").await.unwrap().existed);
    assert!(!client.delete("a").await.unwrap().existed);
    assert_eq!(client.servers().await.unwrap()[0].id, "node-0");
}

#[tokio::test]
async fn a_list_arrives_in_order_with_its_revision() {
    let fake = Fake::default();
    let client = connect(&[&fake.start().await]);
    for key in ["b", "c", "a"] {
        client.set(key, key.to_owned()).await.unwrap();
    }
    let mut list = client.list(KeyRange::prefix("b")).await.unwrap();
    assert_eq!(list.revision(), Some(7));
    assert_eq!(list.next().await.unwrap().unwrap().key, "b");
    assert_eq!(list.next().await.unwrap().unwrap().key, "c");
    assert_eq!(list.next().await, Ok(None));
}

#[tokio::test]
async fn a_list_that_stalls_is_given_up() {
    let fake = Fake::with_troubles([Trouble::Hang]);
    let client = connect(&[&fake.start().await]).with_timeout(Duration::from_millis(50));
    let mut list = client.list(KeyRange::all()).await.unwrap();
    assert!(matches!(list.next().await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_node_that_is_down_is_passed_over() {
    let fake = Fake::default();
    let (down, up) = (nobody().await, fake.start().await);
    let client = connect(&[&down, &up]);
    client.set("a", "1").await.unwrap();
    assert!(client.get("a").await.unwrap().is_some());
    assert_eq!(fake.writes().len(), 1);
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_says_who() {
    let (one, two) = (nobody().await, nobody().await);
    let error = connect(&[&one, &two]).set("a", "1").await.unwrap_err();
    let Error::Unavailable(reason) = error else { panic!("{error:?}") };
    assert!(reason.contains(&one) && reason.contains(&two) && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_write_without_session_goes_on_only_if_nothing_happened() {
    let (first, second) = (Fake::with_troubles([Trouble::Refuse(no_leader())]), Fake::default());
    let client = connect(&[&first.start().await, &second.start().await]);
    client.set("a", "1").await.unwrap();
    assert_eq!((first.writes().len(), second.writes().len()), (1, 1));

    let (first, second) = (Fake::with_troubles([Trouble::LoseAnswer(unknown())]), Fake::default());
    let client = connect(&[&first.start().await, &second.start().await]);
    assert!(matches!(client.set("a", "1").await, Err(Error::OutcomeUnknown(_))));
    assert_eq!((first.writes().len(), second.writes().len()), (1, 0));
}

#[tokio::test]
async fn a_session_sends_the_same_write_until_it_is_answered() {
    let troubles = [Trouble::LoseAnswer(unknown()), Trouble::Refuse(no_leader()), Trouble::LoseAnswer(unknown())];
    let fake = Fake::with_troubles(troubles);
    let session = Client::connect(&fake.start().await).unwrap();
    session.set("a", "1").await.unwrap();
    session.delete("a").await.unwrap();
    let id = |sequence| Some(RequestId { client_id: 1, sequence, first_unanswered: sequence });
    assert_eq!(fake.writes(), [id(1), id(1), id(1), id(1), id(2)]);
}

#[tokio::test]
async fn writes_of_a_session_stand_side_by_side() {
    let fake = Fake::with_troubles([Trouble::Hang]);
    let session = Client::connect(&fake.start().await).unwrap();
    let slow = session.set("a", "1").into_future();
    tokio::pin!(slow);
    while fake.writes().is_empty() {
        tokio::select! {
            biased;
            answer = &mut slow => panic!("{answer:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    session.set("b", "1").await.unwrap();
    assert_eq!(fake.writes()[1], Some(RequestId { client_id: 1, sequence: 2, first_unanswered: 1 }));
}

#[tokio::test]
async fn no_answer_ends_with_the_deadline_which_the_server_knows() {
    let fake = Fake::with_troubles([Trouble::Hang, Trouble::Hang]);
    let client = connect(&[&fake.start().await]).with_timeout(Duration::from_millis(200));
    assert!(matches!(client.set("a", "1").await, Err(Error::OutcomeUnknown(_))));
    assert!(matches!(client.servers().await, Err(Error::Unavailable(_))));
    let deadline = fake.writes.lock().unwrap()[0].grpc_timeout.clone();
    let micros: u64 = deadline.strip_suffix('u').expect(&deadline).parse().unwrap();
    assert!((1_000..=200_000).contains(&micros), "{deadline}");
}

#[tokio::test]
async fn a_session_gives_up_at_the_deadline_too() {
    let session = Client::connect(&nobody().await).unwrap().with_timeout(Duration::from_millis(100));
    let error = session.set("a", "1").await.unwrap_err();
    // The reason, not that time ran out while it lasted.
    assert!(matches!(&error, Error::Unavailable(reason) if reason.contains("refused")), "{error:?}");
}

#[tokio::test]
async fn values_up_to_the_largest_request_pass() {
    let fake = Fake::default();
    let client = connect(&[&fake.start().await]);
    let value = vec![7; 3 << 20];
    client.set("big", value.clone()).await.unwrap();
    assert_eq!(client.get("big").await.unwrap().unwrap().value, value);
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_a_write_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = connect(&[&listener.local_addr().unwrap().to_string()]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut received = [0; 1024];
            while !received.windows(3).any(|bytes| bytes == b"key") {
                tokio::io::AsyncReadExt::read(&mut stream, &mut received).await.unwrap();
            }
        }
    });
    let error = client.set("key", "1").await.unwrap_err();
    assert!(matches!(&error, Error::OutcomeUnknown(_)), "{error:?}");
    let error = client.get("key").await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(_)), "{error:?}");
}
