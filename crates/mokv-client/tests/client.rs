//! The client against a server that misbehaves on command.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mokv_client::{Client, Error, KeyRange, Server};
use mokv_proto::api::kv_server::{Kv, KvServer};
use mokv_proto::api::pipeline_operation::Operation;
use mokv_proto::api::pipeline_result::Result as Answer;
use mokv_proto::api::{
    self, DeleteRequest, DeleteResponse, GetRequest, GetResponse, GetServersResponse, ListRequest, OpenSessionResponse,
    PipelineError, PipelineOperation, PipelineRequest, PipelineResponse, PipelineResult, RequestId, SetRequest,
    SetResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport};
use tonic_types::{ErrorDetails, StatusExt};

/// What an operation meets before it is carried out.
enum Trouble {
    /// It is refused, without effect.
    Refuse(Status),
    /// It takes effect, and its answer is replaced.
    LoseAnswer(Status),
    /// No answer, ever.
    Hang,
    /// It takes effect, and the connection's stream ends.
    EndStream,
}

struct Write {
    id: Option<RequestId>,
    /// How long its caller waits.
    timeout: Duration,
}

/// A server of one process that does what it is told.
#[derive(Clone, Default)]
struct Fake {
    /// Of writes.
    troubles: Arc<Mutex<VecDeque<Trouble>>>,
    /// Nothing is answered as long as this is set.
    hangs: Arc<AtomicBool>,
    has_pipeline: bool,
    pairs: Arc<Mutex<BTreeMap<String, bytes::Bytes>>>,
    /// In the order in which they came.
    writes: Arc<Mutex<Vec<Write>>>,
    /// Operations, one message each.
    messages: Arc<Mutex<Vec<usize>>>,
    reads: Arc<AtomicUsize>,
    sessions: Arc<AtomicU64>,
    servers: Arc<Mutex<Vec<Server>>>,
}

impl Fake {
    fn new() -> Self {
        Self { has_pipeline: true, ..Self::default() }
    }

    fn with_troubles(troubles: impl IntoIterator<Item = Trouble>) -> Self {
        let fake = Self::new();
        fake.troubles.lock().unwrap().extend(troubles);
        fake
    }

    /// Serves on a free port for as long as the test runs.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let kv = KvServer::new(self.clone()).max_decoding_message_size(8 << 20).max_encoding_message_size(8 << 20);
        let serving = transport::Server::builder().add_service(kv);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    /// Says that these are the members, the first of them the leader.
    fn lists(&self, addresses: &[&str]) {
        let server = |(index, address): (usize, &&str)| Server {
            id: format!("node-{index}"),
            rpc_addr: (*address).to_owned(),
            is_leader: index == 0,
            node_id: index as u64 + 1,
            is_voter: true,
        };
        *self.servers.lock().unwrap() = addresses.iter().enumerate().map(server).collect();
    }

    /// Answers nothing for as long as it is told so.
    async fn stand_still(&self) {
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn carry_out(&self, operation: Operation, timeout: Duration) -> Result<Answer, Status> {
        self.stand_still().await;
        match operation {
            Operation::Get(GetRequest { key, .. }) => {
                self.reads.fetch_add(1, Ordering::SeqCst);
                let found = self.pairs.lock().unwrap().get(&key).cloned();
                let value = found.ok_or_else(|| Status::not_found(format!("no value for key: {key}")))?;
                Ok(Answer::Get(GetResponse { key, value, revision: 7, ..GetResponse::default() }))
            }
            Operation::Set(SetRequest { key, value, request_id: id, .. }) => {
                self.writes.lock().unwrap().push(Write { id, timeout });
                self.meet(|| {
                    self.pairs.lock().unwrap().insert(key, value);
                    Answer::Set(SetResponse { ok: true, revision: 9, ..SetResponse::default() })
                })
                .await
            }
            Operation::Delete(DeleteRequest { key, request_id: id, .. }) => {
                self.writes.lock().unwrap().push(Write { id, timeout });
                self.meet(|| {
                    let existed = self.pairs.lock().unwrap().remove(&key).is_some();
                    Answer::Delete(DeleteResponse { ok: true, existed, ..DeleteResponse::default() })
                })
                .await
            }
            Operation::OpenSession(_) => {
                let client_id = self.sessions.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(Answer::OpenSession(OpenSessionResponse { client_id }))
            }
            _ => Err(Status::unimplemented("not by this one")),
        }
    }

    async fn meet(&self, act: impl FnOnce() -> Answer) -> Result<Answer, Status> {
        let trouble = self.troubles.lock().unwrap().pop_front();
        match trouble {
            Some(Trouble::Refuse(status)) => Err(status),
            Some(Trouble::LoseAnswer(status)) => {
                act();
                Err(status)
            }
            Some(Trouble::EndStream) => {
                act();
                Err(Status::data_loss("end"))
            }
            Some(Trouble::Hang) => std::future::pending().await,
            None => Ok(act()),
        }
    }

    fn writes(&self) -> Vec<Option<RequestId>> {
        self.writes.lock().unwrap().iter().map(|write| write.id).collect()
    }
}

/// Carries out an operation that came alone.
macro_rules! unary {
    ($fake:ident, $request:ident, $operation:ident) => {{
        let timeout = grpc_timeout(&$request);
        match $fake.carry_out(Operation::$operation($request.into_inner()), timeout).await? {
            Answer::$operation(answer) => Ok(Response::new(answer)),
            _ => unreachable!("the answer to another question"),
        }
    }};
}

type BoxStream<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for Fake {
    type ListStream = ReceiverStream<Result<GetResponse, Status>>;
    type WatchStream = BoxStream<api::WatchResponse>;
    type PipelineStream = BoxStream<api::PipelineResponse>;
    type KeepLeaseAliveStream = BoxStream<api::KeepLeaseAliveResponse>;

    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Status> {
        unary!(self, request, Get)
    }

    async fn set(&self, request: Request<api::SetRequest>) -> Result<Response<api::SetResponse>, Status> {
        unary!(self, request, Set)
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Result<Response<api::DeleteResponse>, Status> {
        unary!(self, request, Delete)
    }

    async fn open_session(
        &self,
        request: Request<api::OpenSessionRequest>,
    ) -> Result<Response<api::OpenSessionResponse>, Status> {
        unary!(self, request, OpenSession)
    }

    async fn delete_range(
        &self,
        request: Request<api::DeleteRangeRequest>,
    ) -> Result<Response<api::DeleteRangeResponse>, Status> {
        unary!(self, request, DeleteRange)
    }

    async fn increment(
        &self,
        request: Request<api::IncrementRequest>,
    ) -> Result<Response<api::IncrementResponse>, Status> {
        unary!(self, request, Increment)
    }

    async fn txn(&self, request: Request<api::TxnRequest>) -> Result<Response<api::TxnResponse>, Status> {
        unary!(self, request, Txn)
    }

    async fn count(&self, request: Request<api::CountRequest>) -> Result<Response<api::CountResponse>, Status> {
        unary!(self, request, Count)
    }

    async fn grant_lease(
        &self,
        request: Request<api::GrantLeaseRequest>,
    ) -> Result<Response<api::GrantLeaseResponse>, Status> {
        unary!(self, request, GrantLease)
    }

    async fn revoke_lease(
        &self,
        request: Request<api::RevokeLeaseRequest>,
    ) -> Result<Response<api::RevokeLeaseResponse>, Status> {
        unary!(self, request, RevokeLease)
    }

    async fn get_lease(
        &self,
        request: Request<api::GetLeaseRequest>,
    ) -> Result<Response<api::GetLeaseResponse>, Status> {
        unary!(self, request, GetLease)
    }

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        if !self.has_pipeline {
            return Err(Status::unimplemented("no pipeline"));
        }
        let (fake, mut requests) = (self.clone(), request.into_inner());
        let (answers, stream) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(message)) = requests.message().await {
                fake.messages.lock().unwrap().push(message.operations.len());
                for PipelineOperation { number, timeout_ms, operation, .. } in message.operations {
                    let (fake, answers) = (fake.clone(), answers.clone());
                    tokio::spawn(async move {
                        let timeout = Duration::from_millis(timeout_ms.into());
                        let result = match fake.carry_out(operation.unwrap(), timeout).await {
                            Ok(answer) => answer,
                            Err(status) if status.code() == Code::DataLoss => {
                                answers.send(Err(Status::unavailable("stopping"))).await.unwrap();
                                return;
                            }
                            Err(status) => Answer::Error(PipelineError {
                                code: status.code().into(),
                                message: status.message().into(),
                                details: status.details().to_vec().into(),
                            }),
                        };
                        let results = vec![PipelineResult { number, result: Some(result) }];
                        // Nobody may be there any more.
                        drop(answers.send(Ok(PipelineResponse { results })).await);
                    });
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let (pairs, stream) = mpsc::channel(16);
        let from = request.prefix.clone().max(request.start);
        for (key, value) in self.pairs.lock().unwrap().range(from..) {
            pairs
                .try_send(Ok(GetResponse { key: key.clone(), value: value.clone(), ..GetResponse::default() }))
                .unwrap();
        }
        match self.troubles.lock().unwrap().pop_front() {
            Some(Trouble::Hang) => drop(tokio::spawn(async move { pairs.closed().await })),
            Some(Trouble::Refuse(status)) => pairs.try_send(Err(status)).unwrap(),
            _ => {}
        }
        let mut response = Response::new(ReceiverStream::new(stream));
        response.metadata_mut().insert("mokv-revision", 7.into());
        Ok(response)
    }

    async fn get_servers(&self, _: Request<()>) -> Result<Response<GetServersResponse>, Status> {
        self.stand_still().await;
        Ok(Response::new(GetServersResponse { servers: self.servers.lock().unwrap().clone() }))
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

    async fn keep_lease_alive(
        &self,
        _: Request<Streaming<api::KeepLeaseAliveRequest>>,
    ) -> Result<Response<Self::KeepLeaseAliveStream>, Status> {
        Err(Status::unimplemented("keep_lease_alive"))
    }
}

fn grpc_timeout<T>(request: &Request<T>) -> Duration {
    let text = request.metadata().get("grpc-timeout").expect("a deadline").to_str().unwrap();
    Duration::from_micros(text.strip_suffix('u').expect(text).parse().unwrap())
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
    Client::connect(&format!("mokv://{}", endpoints.join(","))).unwrap()
}

/// Waits for a condition that comes soon, or never.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn reads_and_writes_come_through_with_and_without_a_pipeline() {
    for has_pipeline in [true, false] {
        let fake = Fake { has_pipeline, ..Fake::new() };
        let client = connect(&[&fake.start().await]);
        assert_eq!(client.get("a").await, Ok(None));
        assert!(client.set("a", "1").await.unwrap().ok);
        assert_eq!(&client.get("a").await.unwrap().unwrap().value[..], b"1");
        assert_eq!(&client.get("a").local().await.unwrap().unwrap().value[..], b"1");
        assert!(client.delete("a").await.unwrap().existed);
        assert!(!client.delete("a").await.unwrap().existed);
        assert_eq!(fake.messages.lock().unwrap().is_empty(), !has_pipeline);
        fake.lists(&["a:1"]);
        assert_eq!(client.servers().await.unwrap()[0].id, "node-0");
    }
}

#[tokio::test]
async fn callers_side_by_side_share_messages() {
    let fake = Fake::new();
    let client = connect(&[&fake.start().await]);
    client.set("a", "1").await.unwrap();
    let callers: Vec<_> = (0..256).map(|_| tokio::spawn(client.get("a").into_future())).collect();
    for caller in callers {
        assert!(caller.await.unwrap().unwrap().is_some());
    }
    let messages = fake.messages.lock().unwrap().clone();
    assert_eq!(messages.iter().sum::<usize>(), 258, "a session, a set, and the reads");
    assert!(messages.len() < 50, "{messages:?}");
}

#[tokio::test]
async fn messages_are_no_larger_than_a_server_takes() {
    let fake = Fake::new();
    let client = connect(&[&fake.start().await]);
    let value = vec![7; 3 << 20];
    let writes: Vec<_> = ["a", "b", "c"].map(|key| tokio::spawn(client.set(key, value.clone()).into_future())).into();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert_eq!(client.get("b").await.unwrap().unwrap().value, value);
}

#[tokio::test]
async fn a_list_arrives_in_order_with_its_revision() {
    let fake = Fake::new();
    let client = connect(&[&fake.start().await]);
    for key in ["b", "c", "a"] {
        client.set(key, key.to_owned()).await.unwrap();
    }
    let list = client.list(KeyRange::prefix("b")).await.unwrap();
    assert_eq!(list.revision(), Some(7));
    let keys: Vec<String> = list.all().await.unwrap().into_iter().map(|pair| pair.key).collect();
    assert_eq!(keys, ["b", "c"]);
}

#[tokio::test]
async fn a_list_that_breaks_goes_on_where_it_was() {
    let fake = Fake::new();
    let client = connect(&[&fake.start().await]);
    for key in ["a", "b"] {
        client.set(key, "1").await.unwrap();
    }
    let mut list = client.list(KeyRange::all()).await.unwrap();
    assert_eq!(list.next().await.unwrap().unwrap().key, "a");
    assert_eq!(list.next().await.unwrap().unwrap().key, "b");
    assert_eq!(list.next().await, Ok(None));

    fake.troubles.lock().unwrap().push_back(Trouble::Refuse(Status::unavailable("stopping")));
    let mut list = client.list(KeyRange::all()).await.unwrap();
    assert_eq!(list.next().await.unwrap().unwrap().key, "a");
    fake.pairs.lock().unwrap().insert("c".into(), "1".into());
    assert_eq!(list.next().await.unwrap().unwrap().key, "b");
    assert_eq!(list.next().await.unwrap().unwrap().key, "c");
    assert_eq!(list.next().await, Ok(None));
}

#[tokio::test]
async fn a_list_that_stalls_is_given_up() {
    let fake = Fake::with_troubles([Trouble::Hang, Trouble::Hang]);
    let client = connect(&[&fake.start().await]).with_timeout(Duration::from_millis(50));
    let mut list = client.list(KeyRange::all()).await.unwrap();
    assert!(matches!(list.next().await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn a_node_that_is_down_is_passed_over() {
    let fake = Fake::new();
    let (down, up) = (nobody().await, fake.start().await);
    let client = connect(&[&down, &up]);
    for _ in 0..20 {
        client.set("a", "1").await.unwrap();
        assert!(client.get("a").await.unwrap().is_some());
    }
    assert_eq!(fake.writes().len(), 20);
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_says_who() {
    let (one, two) = (nobody().await, nobody().await);
    let error = connect(&[&one, &two]).fail_fast().set("a", "1").await.unwrap_err();
    let Error::Unavailable(reason) = error else { panic!("{error:?}") };
    assert!(reason.contains(&one) && reason.contains(&two) && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_write_without_session_goes_on_only_if_nothing_happened() {
    let fake = Fake::with_troubles([Trouble::Refuse(no_leader())]);
    let client = connect(&[&fake.start().await]).at_most_once();
    client.set("a", "1").await.unwrap();
    assert_eq!(fake.writes(), [None, None]);

    for trouble in [Trouble::LoseAnswer(unknown()), Trouble::EndStream] {
        let fake = Fake::with_troubles([trouble]);
        let client = connect(&[&fake.start().await]).at_most_once();
        assert!(matches!(client.set("a", "1").await, Err(Error::OutcomeUnknown(_))));
        assert_eq!(fake.writes(), [None]);
        assert_eq!(client.set("a", "2").await.unwrap().revision, 9, "the next one is not concerned");
    }
}

#[tokio::test]
async fn a_write_is_sent_until_it_is_answered() {
    let troubles = [
        Trouble::LoseAnswer(unknown()),
        Trouble::Refuse(no_leader()),
        Trouble::EndStream,
        Trouble::LoseAnswer(unknown()),
    ];
    let fake = Fake::with_troubles(troubles);
    let client = connect(&[&fake.start().await]);
    client.set("a", "1").await.unwrap();
    client.delete("a").await.unwrap();
    let id = |sequence| Some(RequestId { client_id: 1, sequence, first_unanswered: sequence });
    assert_eq!(fake.writes(), [id(1), id(1), id(1), id(1), id(1), id(2)]);
}

#[tokio::test]
async fn writes_stand_side_by_side() {
    let fake = Fake::with_troubles([Trouble::Hang]);
    let client = connect(&[&fake.start().await]);
    let slow = tokio::spawn(client.set("a", "1").into_future());
    until("the first write arrives", || !fake.writes().is_empty()).await;
    client.set("b", "1").await.unwrap();
    assert_eq!(fake.writes()[1], Some(RequestId { client_id: 1, sequence: 2, first_unanswered: 1 }));
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    client.set("c", "1").await.unwrap();
    assert_eq!(fake.writes()[2], Some(RequestId { client_id: 1, sequence: 3, first_unanswered: 3 }));
}

#[tokio::test]
async fn a_session_that_is_forgotten_is_opened_anew_if_nothing_can_have_happened() {
    let expired = || Trouble::Refuse(status(Code::Aborted, "SESSION_EXPIRED"));
    let full = Trouble::Refuse(status(Code::ResourceExhausted, "SESSION_FULL"));
    let fake = Fake::with_troubles([expired(), full]);
    let client = connect(&[&fake.start().await]);
    client.set("a", "1").await.unwrap();
    let id = |client_id, sequence| Some(RequestId { client_id, sequence, first_unanswered: sequence });
    assert_eq!(fake.writes(), [id(1, 1), id(2, 1), id(3, 1)]);

    fake.troubles.lock().unwrap().extend([Trouble::LoseAnswer(unknown()), expired()]);
    assert!(matches!(client.set("a", "1").await, Err(Error::OutcomeUnknown(_))));
    client.set("a", "1").await.unwrap();
    assert_eq!(fake.writes()[3..], [id(3, 2), id(3, 2), id(3, 3)]);

    fake.troubles.lock().unwrap().extend((0..10).map(|_| expired()));
    assert!(matches!(client.set("a", "1").await, Err(Error::Unavailable(_))), "it does not go on for ever");
}

#[tokio::test]
async fn no_answer_ends_with_the_deadline_which_the_server_knows() {
    for has_pipeline in [true, false] {
        let fake = Fake { has_pipeline, ..Fake::with_troubles([Trouble::Hang]) };
        let client = connect(&[&fake.start().await]).at_most_once().with_timeout(Duration::from_millis(200));
        assert!(matches!(client.set("a", "1").await, Err(Error::OutcomeUnknown(_))));
        let timeout = fake.writes.lock().unwrap()[0].timeout;
        assert!(Duration::from_millis(1) <= timeout && timeout <= Duration::from_millis(200), "{timeout:?}");
        fake.hangs.store(true, Ordering::SeqCst);
        assert!(matches!(client.get("a").await, Err(Error::Unavailable(_))));
        assert!(matches!(client.servers().await, Err(Error::Unavailable(_))));
    }
}

#[tokio::test]
async fn a_write_gives_up_at_the_deadline_too() {
    let client = connect(&[&nobody().await]).with_timeout(Duration::from_millis(100));
    let error = client.set("a", "1").await.unwrap_err();
    // The reason, not that time ran out while it lasted.
    assert!(matches!(&error, Error::Unavailable(reason) if reason.contains("refused")), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_a_write_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = connect(&[&listener.local_addr().unwrap().to_string()]).at_most_once();
    let client = client.with_timeout(Duration::from_secs(1));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut received = [0; 1024];
            // As long as it takes until the operation has come, or nothing more comes.
            while !received.windows(3).any(|bytes| bytes == b"key") {
                if tokio::io::AsyncReadExt::read(&mut stream, &mut received).await.unwrap_or(0) == 0 {
                    break;
                }
            }
        }
    });
    let error = client.set("key", "1").await.unwrap_err();
    assert!(matches!(&error, Error::OutcomeUnknown(_)), "{error:?}");
    let error = client.get("key").await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(_)), "{error:?}");
}

/// Three servers that name each other; the first leads.
async fn three() -> ([Fake; 3], [String; 3]) {
    let fakes = [Fake::new(), Fake::new(), Fake::new()];
    let addresses = [fakes[0].start().await, fakes[1].start().await, fakes[2].start().await];
    let named = [&*addresses[0], &*addresses[1], &*addresses[2]];
    fakes.iter().for_each(|fake| fake.lists(&named));
    (fakes, addresses)
}

#[tokio::test]
async fn one_endpoint_is_enough_to_find_the_leader_and_the_others() {
    let (fakes, addresses) = three().await;
    let client = connect(&[&addresses[1]]);
    let began = Instant::now();
    while fakes[0].writes().is_empty() || fakes[2].reads.load(Ordering::SeqCst) == 0 {
        client.set("a", "1").await.unwrap();
        client.get("a").await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "the others are not found");
    }
    let elsewhere = fakes[1].writes().len() + fakes[2].writes().len();
    for _ in 0..20 {
        client.set("a", "1").await.unwrap();
    }
    assert_eq!(fakes[1].writes().len() + fakes[2].writes().len(), elsewhere, "writes go to the leader");
}

#[tokio::test]
async fn addresses_that_can_not_be_reached_do_no_harm() {
    let (fakes, addresses) = three().await;
    let nowhere = nobody().await;
    // As it is behind a port-forward: what the members call themselves means nothing here.
    fakes[1].lists(&[&nowhere, "10.255.255.1:8400"]);
    let client = connect(&[&addresses[1]]).with_timeout(Duration::from_secs(2));
    for _ in 0..50 {
        client.set("a", "1").await.unwrap();
        client.get("a").await.unwrap();
    }
    assert_eq!(fakes[1].writes().len(), 50);
}

#[tokio::test]
async fn with_single_routing_nobody_else_is_asked() {
    let (fakes, addresses) = three().await;
    let client = Client::connect(&format!("{}?routing=single", addresses[1])).unwrap();
    for _ in 0..50 {
        client.set("a", "1").await.unwrap();
        client.get("a").await.unwrap();
    }
    assert_eq!((fakes[1].writes().len(), fakes[1].reads.load(Ordering::SeqCst)), (50, 50));
}

#[tokio::test]
async fn a_node_that_hangs_is_left_and_comes_back() {
    let (fakes, addresses) = three().await;
    let client = connect(&addresses.each_ref().map(|address| &**address));
    until("the leader is found", || {
        !fakes[0].writes().is_empty() || {
            drop(tokio::spawn(client.set("a", "1").into_future()));
            false
        }
    })
    .await;
    client.set("a", "1").await.unwrap();

    // The process hears nothing, but its connections stay.
    fakes[0].hangs.store(true, Ordering::SeqCst);
    let began = Instant::now();
    client.set("b", "1").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
    let began = Instant::now();
    for number in 0..50 {
        client.set("c", "1").await.unwrap();
        // Where it was not written, in this play.
        client.get(format!("missing-{number}")).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_millis(1_500), "it is asked again and again: {:?}", began.elapsed());

    fakes[0].hangs.store(false, Ordering::SeqCst);
    let before = fakes[0].writes().len();
    let began = Instant::now();
    while fakes[0].writes().len() <= before + 10 {
        client.set("d", "1").await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "it never comes back");
    }
}

#[tokio::test]
async fn a_session_reads_what_it_has_seen() {
    let fake = Fake::new();
    let client = connect(&[&fake.start().await]);
    let session = client.session();
    assert_eq!(session.revision(), 0);
    session.set("a", "1").await.unwrap();
    assert_eq!(session.revision(), 9);
    // That of an answer which reflects less.
    session.get("a").local().await.unwrap();
    assert_eq!(session.revision(), 9);
    session.saw(12);
    assert_eq!((session.revision(), client.session().revision()), (12, 0));
}
