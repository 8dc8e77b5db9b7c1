//! Many operations over one stream: what comes of each, in which order, and when the stream ends.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use mokv_proto::api::kv_client::KvClient;
use mokv_proto::api::pipeline_operation::Operation;
use mokv_proto::api::pipeline_result::Result as Told;
use mokv_proto::api::{self, Consistency, PipelineError, PipelineOperation, PipelineRequest, PipelineResult};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use super::super::operations::Operations;
use super::super::pipeline;
use super::{Running, Setup, delete, get, reason, set};

/// A stream that is open.
pub(super) struct Stream {
    requests: mpsc::Sender<PipelineRequest>,
    answers: Streaming<api::PipelineResponse>,
    last_number: u64,
}

impl Stream {
    pub(super) async fn open(kv: &mut KvClient<Channel>) -> Self {
        let (requests, sent) = mpsc::channel(16);
        let answers = kv.pipeline(ReceiverStream::new(sent)).await.expect("open").into_inner();
        Self { requests, answers, last_number: 0 }
    }

    /// Sends operations as one message. Returns the number of the first; those that follow have the next ones.
    async fn send(&mut self, operations: impl IntoIterator<Item = PipelineOperation>) -> u64 {
        let first = self.last_number + 1;
        let numbered = operations.into_iter().map(|operation| {
            self.last_number += 1;
            PipelineOperation { number: self.last_number, ..operation }
        });
        let operations = numbered.collect();
        self.requests.send(PipelineRequest { operations }).await.expect("the stream is open");
        first
    }

    /// The next results, in the order in which they come.
    async fn results(&mut self, count: usize) -> Vec<PipelineResult> {
        let mut results = Vec::new();
        while results.len() < count {
            let answer = self.answers.message().await.expect("answers").expect("the stream is open");
            assert!(!answer.results.is_empty(), "an answer without a result");
            results.extend(answer.results);
        }
        assert_eq!(results.len(), count, "more results than operations");
        results
    }

    /// Sends operations as one message, and has what came of each.
    pub(super) async fn run(&mut self, operations: impl IntoIterator<Item = PipelineOperation>) -> Vec<Told> {
        let first = self.send(operations).await;
        let count = (self.last_number + 1 - first) as usize;
        let results = self.results(count).await;
        let mut by_number: BTreeMap<u64, Told> =
            results.into_iter().map(|result| (result.number, result.result.expect("a result"))).collect();
        (first..=self.last_number).map(|number| by_number.remove(&number).expect("each is answered once")).collect()
    }
}

pub(super) fn of(operation: Operation) -> PipelineOperation {
    PipelineOperation { operation: Some(operation), ..Default::default() }
}

fn sets(key: &str, values: impl IntoIterator<Item = u64>) -> Vec<PipelineOperation> {
    values.into_iter().map(|value| of(Operation::Set(set(key, value.to_string())))).collect()
}

fn add(key: &str) -> PipelineOperation {
    of(Operation::Increment(api::IncrementRequest { key: key.into(), delta: 1, ..Default::default() }))
}

fn linearizable(key: &str) -> PipelineOperation {
    of(Operation::Get(get(key)))
}

fn local(key: &str) -> PipelineOperation {
    of(Operation::Get(api::GetRequest { consistency: Consistency::Local.into(), ..get(key) }))
}

fn within(timeout: Duration, operation: PipelineOperation) -> PipelineOperation {
    PipelineOperation { timeout_ms: timeout.as_millis() as u32, ..operation }
}

#[track_caller]
fn error(told: &Told) -> (Code, String) {
    let Told::Error(PipelineError { code, details, .. }) = told else { panic!("{told:?}") };
    let status = Status::with_details(Code::from(*code), "", details.clone());
    (status.code(), status.get_error_details().error_info().expect("info").reason.clone())
}

#[tokio::test]
async fn every_operation_is_answered_under_its_number() {
    let server = Running::start(Setup::default()).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    let range = || api::DeleteRangeRequest { prefix: "a".into(), ..Default::default() };
    let txn =
        api::TxnRequest { then: vec![api::TxnOp { op: Some(api::txn_op::Op::Get(get("n"))) }], ..Default::default() };
    let operations = [
        Operation::Set(set("a", "1")),
        Operation::Get(get("a")),
        Operation::Increment(api::IncrementRequest { key: "n".into(), delta: 5, ..Default::default() }),
        Operation::Txn(txn),
        Operation::Count(api::CountRequest::default()),
        Operation::DeleteRange(range()),
        Operation::Delete(delete("n")),
        Operation::OpenSession(api::OpenSessionRequest {}),
        Operation::GrantLease(api::GrantLeaseRequest { ttl_ms: 60_000, lease_id: 7, request_id: None }),
    ];
    let told = stream.run(operations.map(of)).await;
    let [Told::Set(set), Told::Get(found), Told::Increment(sum), Told::Txn(txn), Told::Count(count), rest @ ..] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((set.ok, set.version), (true, 1));
    assert_eq!(found.value, "1");
    assert_eq!(sum.value, 5);
    let Some(api::txn_result::Result::Get(pair)) = &txn.results[0].result else { panic!("{txn:?}") };
    assert_eq!(pair.pair.as_ref().expect("a pair").value, "5");
    assert_eq!(count.count, 2);
    let [Told::DeleteRange(range), Told::Delete(deleted), Told::OpenSession(session), Told::GrantLease(lease)] = rest
    else {
        panic!("{told:?}")
    };
    assert_eq!(range.deleted, 1);
    assert!(deleted.existed);
    assert_ne!(session.client_id, 0);
    assert_eq!((lease.lease_id, lease.ttl_ms), (7, 60_000));

    let operations = [
        Operation::GetLease(api::GetLeaseRequest { lease_id: 7, keys: true }),
        Operation::RevokeLease(api::RevokeLeaseRequest { lease_id: 8, request_id: None }),
        Operation::Get(get("")),
    ];
    let told = stream.run(operations.map(of)).await;
    let Told::GetLease(lease) = &told[0] else { panic!("{told:?}") };
    assert_eq!(lease.ttl_ms, 60_000);
    assert_eq!(error(&told[1]), (Code::NotFound, "LEASE_NOT_FOUND".into()));
    assert_eq!(error(&told[2]), (Code::InvalidArgument, "INVALID".into()));
    let unknown = stream.run([PipelineOperation::default()]).await;
    assert_eq!(error(&unknown[0]), (Code::Unimplemented, "UNIMPLEMENTED".into()));
}

/// They are proposed together, and each has an end of its own.
#[tokio::test]
async fn writes_of_one_message_end_each_for_itself() {
    use api::condition::Is;
    let server = Running::start(Setup::default()).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    stream.run(sets("a", [1]).into_iter().chain(sets("text", [2]))).await;
    let if_absent = api::SetRequest { condition: Some(api::Condition { is: Some(Is::Absent(true)) }), ..set("a", "2") };
    let of_a_lease = api::SetRequest { lease_id: 4711, ..set("b", "1") };
    let of_a_session = api::SetRequest {
        request_id: Some(api::RequestId { client_id: 4711, sequence: 1, first_unanswered: 1 }),
        ..set("c", "1")
    };
    let operations = [
        Operation::Set(if_absent),
        Operation::Set(of_a_lease),
        Operation::Set(set("", "no key")),
        Operation::Set(of_a_session),
        Operation::Delete(delete("text")),
        Operation::Delete(delete("text-2")),
        Operation::Increment(api::IncrementRequest { key: "a".into(), delta: 5, ..Default::default() }),
    ];
    let unordered = operations.map(|operation| PipelineOperation { unordered: true, ..of(operation) });
    let told = stream.run(unordered).await;
    let [
        Told::Set(unmet),
        no_lease,
        no_key,
        no_session,
        Told::Delete(deleted),
        Told::Delete(missing),
        Told::Increment(sum),
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert!(!unmet.ok);
    assert_eq!(error(no_lease), (Code::NotFound, "LEASE_NOT_FOUND".into()));
    assert_eq!(error(no_key).0, Code::InvalidArgument);
    assert_eq!(error(no_session).0, Code::Aborted);
    assert_eq!((deleted.existed, missing.existed, sum.value), (true, false, 6));

    // What only frees memory is let in beyond the quota, whatever comes with it.
    let full = Running::start(Setup { memory_quota: Some(1), ..Setup::default() }).await;
    let mut stream = Stream::open(&mut full.kv().await).await;
    stream.run(sets("a", [1])).await;
    let told = stream.run([of(Operation::Set(set("b", "1"))), of(Operation::Delete(delete("a")))]).await;
    assert_eq!(error(&told[0]).0, Code::ResourceExhausted);
    assert!(matches!(&told[1], Told::Delete(deleted) if deleted.existed), "{told:?}");
}

#[tokio::test]
async fn operations_on_one_key_take_effect_in_their_order() {
    let server = Running::start(Setup::default()).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    // Each read is to see the write before it and not the one behind it; other keys go in between.
    let mut operations = Vec::new();
    for value in 0..100 {
        operations.extend(sets("k", [value]));
        operations.extend([linearizable("k"), local("k"), add("n"), linearizable("other")]);
    }
    let mut told = stream.run(operations).await.into_iter();
    for value in 0..100 {
        let round: Vec<Told> = told.by_ref().take(5).collect();
        let [Told::Set(set), Told::Get(first), Told::Get(second), Told::Increment(sum), Told::Error(_)] = &round[..]
        else {
            panic!("{round:?}")
        };
        assert_eq!(set.version, value + 1);
        assert_eq!(first.value, value.to_string());
        assert_eq!(second.value, value.to_string());
        assert_eq!(sum.value, value as i64 + 1);
    }
}

#[tokio::test]
async fn what_touches_many_keys_keeps_its_place() {
    let server = Running::start(Setup::default()).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    let mut operations = Vec::new();
    for _ in 0..20 {
        operations.extend(sets("a", [1]).into_iter().chain(sets("b", [2])));
        operations.push(of(Operation::Count(api::CountRequest::default())));
        operations.push(of(Operation::DeleteRange(api::DeleteRangeRequest { all: true, ..Default::default() })));
    }
    for round in stream.run(operations).await.chunks(4) {
        let [Told::Set(a), Told::Set(b), Told::Count(count), Told::DeleteRange(range)] = round else {
            panic!("{round:?}")
        };
        assert_eq!((a.version, b.version, count.count, range.deleted), (1, 1, 2, 2));
    }
}

/// An operation that may wait for nobody answers though one before it on the same key does not.
#[tokio::test]
async fn an_unordered_operation_waits_for_no_other() {
    let server = Running::start(Setup::leaderless()).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    let minute = Duration::from_secs(60);
    stream.send(sets("k", [1]).into_iter().map(|set| within(minute, set))).await;
    let ordered = within(Duration::from_millis(100), local("k"));
    let unordered = PipelineOperation { unordered: true, ..within(minute, local("k")) };
    stream.send([ordered, unordered]).await;
    let results = stream.results(3).await;
    // Local reads don't need the leader that the write waits for.
    assert_eq!(results[0].number, 3, "{results:?}");
    assert_eq!(error(results[0].result.as_ref().expect("a result")), (Code::NotFound, "NOT_FOUND".into()));
}

#[tokio::test]
async fn each_operation_has_its_own_deadline() {
    let mut setup = Setup::leaderless();
    setup.limits.request_timeout = Duration::from_secs(60);
    let server = Running::start(setup).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    let began = Instant::now();
    let long = Duration::from_secs(60);
    let write = |timeout, key| within(timeout, sets(key, [1]).remove(0));
    let operations = [
        write(long, "k"),
        write(Duration::from_millis(50), "k"),
        write(Duration::from_millis(100), "other"),
        within(Duration::from_millis(150), linearizable("third")),
    ];
    stream.send(operations).await;
    let results = stream.results(3).await;
    assert!(began.elapsed() < long / 2, "{:?}", began.elapsed());
    let told = |number| {
        let result = results.iter().find(|result| result.number == number).expect("answered");
        let told = result.result.as_ref().expect("a result");
        let Told::Error(PipelineError { message, .. }) = told else { panic!("{told:?}") };
        (error(told), message.clone())
    };
    let unavailable = |reason: &str| (Code::Unavailable, reason.to_owned());
    let (missed, message) = told(2);
    assert_eq!(missed, unavailable("UNAVAILABLE"));
    assert!(message.contains("earlier operations of the stream on the same key"), "{message}");
    assert_eq!(told(3).0, unavailable("NO_LEADER"));
    assert_eq!(told(4).0, unavailable("NO_LEADER"));
}

#[tokio::test]
async fn a_stream_that_is_given_up_ends() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    let (requests, sent) = mpsc::channel(16);
    let mut call = Request::new(ReceiverStream::new(sent));
    call.set_timeout(Duration::from_millis(300));
    let mut answers = kv.pipeline(call).await.expect("open").into_inner();
    requests.send(PipelineRequest { operations: sets("k", [1]) }).await.expect("open");
    assert_eq!(answers.message().await.expect("answers").expect("one").results.len(), 1);
    assert_eq!(reason(answers.message().await).1, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn a_stream_ends_with_its_requests() {
    let server = Running::start(Setup::default()).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    stream.send(sets("k", 0..100)).await;
    let Stream { requests, mut answers, .. } = stream;
    drop(requests);
    let mut answered = 0;
    while let Some(answer) = answers.message().await.expect("an orderly end") {
        answered += answer.results.len();
    }
    assert_eq!(answered, 100, "what was sent is answered");
}

#[tokio::test]
async fn a_message_that_is_none_ends_the_stream() {
    #[derive(Clone, PartialEq, Message)]
    struct RawRequest {
        #[prost(bytes = "vec", tag = "1")]
        operation: Vec<u8>,
    }
    let server = Running::start(Setup::default()).await;
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.expect("ready");
    let good = of(Operation::Set(set("k", "v"))).encode_to_vec();
    let requests = stream::iter([good, vec![0xff]].map(|operation| RawRequest { operation }));
    let codec = ProstCodec::<RawRequest, api::PipelineResponse>::default();
    let path = PathAndQuery::from_static("/api.KV/Pipeline");
    let mut answers = grpc.streaming(Request::new(requests), path, codec).await.expect("open").into_inner();
    assert_eq!(answers.message().await.expect("the first is answered").expect("answer").results.len(), 1);
    assert_eq!(reason(answers.message().await).1, "INVALID");
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_took_and_ends_the_stream() {
    let server = Running::start(Setup::default()).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    let count = 200;
    stream.send(sets("k", 0..count)).await;
    // It has taken the message when the first result is there.
    let mut answered = stream.answers.message().await.expect("answers").expect("one").results.len();
    server.stop.send(()).expect("running");
    let end = loop {
        match stream.answers.message().await {
            Ok(answer) => answered += answer.expect("it does not end as if all was well").results.len(),
            Err(status) => break status,
        }
    };
    assert_eq!(answered as u64, count);
    let (code, reason, details) = reason::<()>(Err(end));
    assert_eq!((code, reason.as_str()), (Code::Unavailable, "UNAVAILABLE"));
    assert!(details.retry_info().is_some(), "what was not answered had no effect");
    server.served.await.expect("task").expect("nothing is left to wait for");
}

/// Not more is under way than allowed, whatever is sent, and no message is lost for it.
#[tokio::test]
async fn what_is_too_much_waits() {
    const MESSAGES: usize = 30;
    const OPERATIONS: usize = 1000;
    let server = Running::start(Setup::leaderless()).await;
    let (taken, messages_taken) = watch::channel(0);
    let message = |number: usize| {
        let reads = (0..OPERATIONS).map(|n| PipelineOperation {
            number: (number * OPERATIONS + n) as u64,
            ..linearizable(&format!("key-{n}"))
        });
        PipelineRequest { operations: reads.collect() }
    };
    let requests = stream::iter(0..MESSAGES).map(move |number| {
        taken.send_modify(|taken| *taken += 1);
        Ok(message(number))
    });
    let (_stop, stopping) = watch::channel(false);
    let mut answers = pipeline::answers(Operations::new(server.node.clone()), requests, None, stopping);
    assert!(answers.next().now_or_never().is_none(), "nothing can be answered yet");
    assert_eq!(*messages_taken.borrow(), 5, "the fifth message reaches 4096 operations");
    let answered: usize = answers.map(|answer| answer.expect("answer").results.len()).fold(0, async |a, b| a + b).await;
    assert_eq!(answered, MESSAGES * OPERATIONS);
}

#[tokio::test]
async fn large_requests_wait_for_their_bytes() {
    let server = Running::start(Setup::leaderless()).await;
    let (taken, messages_taken) = watch::channel(0);
    let requests = stream::iter(0..20_u64).map(move |number| {
        taken.send_modify(|taken| *taken += 1);
        let set = of(Operation::Set(set("k", vec![0; 1 << 20])));
        Ok(PipelineRequest { operations: vec![PipelineOperation { number, ..set }] })
    });
    let (_stop, stopping) = watch::channel(false);
    let mut answers = pipeline::answers(Operations::new(server.node.clone()), requests, None, stopping);
    assert!(answers.next().now_or_never().is_none(), "nothing can be answered yet");
    assert_eq!(*messages_taken.borrow(), 8, "8 MiB");
    let answered: usize = answers.map(|answer| answer.expect("answer").results.len()).fold(0, async |a, b| a + b).await;
    assert_eq!(answered, 20);
}

/// Values that were read fill no memory while the caller takes none of them.
#[tokio::test]
async fn large_answers_come_in_messages_that_a_client_takes() {
    let server = Running::start(Setup::default()).await;
    let mut kv = server.kv().await;
    kv.set(set("k", vec![7; 1 << 20])).await.expect("set");
    let mut stream = Stream::open(&mut kv).await;
    // A client takes messages of up to 4 MiB.
    let told = stream.run((0..32).map(|_| linearizable("k"))).await;
    assert!(told.iter().all(|told| matches!(told, Told::Get(found) if found.value.len() == 1 << 20)));
}

#[tokio::test]
async fn an_answer_says_how_fresh_it_is() {
    let server = Running::start(Setup::default()).await;
    server.fill([("k", "v")]).await;
    let mut stream = Stream::open(&mut server.kv().await).await;
    let ahead = api::GetRequest { min_revision: 2, ..get("k") };
    let told =
        stream.run([linearizable("k"), local("k"), within(Duration::from_millis(50), of(Operation::Get(ahead)))]).await;
    let served = |told: &Told| if let Told::Get(found) = told { found.served() } else { panic!("{told:?}") };
    assert_eq!(served(&told[0]), Consistency::Linearizable);
    assert_eq!(served(&told[1]), Consistency::Local);
    assert_eq!(error(&told[2]), (Code::Unavailable, "REVISION_NOT_REACHED".into()));
}
