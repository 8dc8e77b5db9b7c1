//! openraft's network over [`Peer`]: conversions, deadlines, and nothing that decides.
//!
//! Log entries, heartbeats and snapshots go over lanes of their own. openraft asks for a stream for each heartbeat, and a
//! round of linearizable reads is one; they go over one stream that stays open. Every call is bounded: a stream of appends fails
//! when its oldest unanswered request is older than [`NetworkOptions::append_timeout`], a snapshot when it makes no
//! progress for [`NetworkOptions::snapshot_idle_timeout`], everything else by openraft's own time to live.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, FutureExt, select};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use mokv_proto::internal::{self, snapshot_chunk::Part};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::types::{
    self, MemberInfo, NodeId, TypeConfig, Vote, entry_to_proto, log_id_from_proto, log_id_to_proto,
    stored_membership_to_proto, vote_from_proto, vote_to_proto,
};
use crate::metrics::ConsensusMetrics;
use crate::mutants::mutant;
use crate::peer::{AnswerStream, Caller, Lane, MessageStream, Peer, PeerNetwork, Target};
use crate::snapshot::{SnapshotInfo, SnapshotReader, Snapshots};

/// How long calls may take.
#[derive(Debug, Clone, Copy)]
pub struct NetworkOptions {
    /// For one append to be on the follower's disk. Longer than any sync that is worth waiting for, shorter than an
    /// operator's patience.
    pub append_timeout: Duration,
    /// Between two chunks of a snapshot, and for the follower to load it in the end.
    pub snapshot_idle_timeout: Duration,
}

/// Makes the clients through which openraft reaches the other members.
#[derive(Clone)]
pub struct Network {
    caller: Caller,
    peers: Arc<dyn PeerNetwork>,
    snapshots: Snapshots,
    options: NetworkOptions,
    detours: Detours,
    counters: Arc<ConsensusMetrics>,
}

/// Members that did not answer at the address that the membership has: the next call goes to where they say that they are.
/// Shared by all clients, because openraft makes new ones for each election.
#[derive(Clone, Default)]
struct Detours(Arc<Mutex<BTreeSet<NodeId>>>);

impl Detours {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// A network for the node `caller`.
    pub fn new(
        caller: Caller,
        peers: Arc<dyn PeerNetwork>,
        snapshots: Snapshots,
        options: NetworkOptions,
        counters: Arc<ConsensusMetrics>,
    ) -> Self {
        Self { caller, peers, snapshots, options, detours: Detours::default(), counters }
    }

    fn client(&self, target: NodeId, node: &MemberInfo, lane: Lane) -> MemberClient {
        MemberClient {
            node_id: self.caller.node_id,
            target,
            address: node.rpc_addr.clone(),
            detours: self.detours.clone(),
            was_detour: AtomicBool::new(false),
            caller: self.caller.clone(),
            peers: self.peers.clone(),
            lane,
            reachable: None,
            heartbeats: Mutex::default(),
            snapshots: self.snapshots.clone(),
            options: self.options,
            counters: self.counters.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = MemberClient;

    async fn new_client(&mut self, target: NodeId, node: &MemberInfo) -> MemberClient {
        self.client(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &MemberInfo) -> MemberClient {
        self.client(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &MemberInfo) -> MemberClient {
        self.client(target, node, Lane::Snapshot)
    }
}

/// One member over one lane.
pub struct MemberClient {
    node_id: NodeId,
    target: NodeId,
    /// What the membership said when this was made. openraft makes no new one when it says something else.
    address: String,
    detours: Detours,
    /// Whether the last call was a detour.
    was_detour: AtomicBool,
    caller: Caller,
    peers: Arc<dyn PeerNetwork>,
    lane: Lane,
    /// Whether the last attempt succeeded.
    reachable: Option<bool>,
    /// The stream of the last heartbeat, if that was answered.
    heartbeats: Mutex<Option<Heartbeats>>,
    snapshots: Snapshots,
    options: NetworkOptions,
    counters: Arc<ConsensusMetrics>,
}

/// A stream on which every heartbeat so far was answered.
struct Heartbeats {
    requests: mpsc::Sender<internal::AppendRequest>,
    answers: AnswerStream<internal::AppendResponse>,
}

impl Heartbeats {
    /// Opens a stream with its first heartbeat.
    async fn open(
        peer: &dyn Peer,
        request: internal::AppendRequest,
    ) -> Result<(Self, internal::AppendResponse), Status> {
        let (requests, sent) = mpsc::channel(1);
        // There is room for one.
        drop(requests.try_send(request));
        let sent = stream::unfold(sent, |mut sent| async move { Some((sent.recv().await?, sent)) });
        let answers = peer.append(sent.boxed()).await?;
        Self { requests, answers }.answer().await
    }

    async fn ask(self, request: internal::AppendRequest) -> Result<(Self, internal::AppendResponse), Status> {
        drop(self.requests.try_send(request));
        self.answer().await
    }

    async fn answer(mut self) -> Result<(Self, internal::AppendResponse), Status> {
        match self.answers.next().await {
            Some(answer) => Ok((self, answer?)),
            None => Err(Status::unavailable("the stream of heartbeats broke")),
        }
    }
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

impl MemberClient {
    /// The member, where it answered last.
    fn peer(&self) -> Arc<dyn Peer> {
        let is_detour = self.detours.lock().contains(&self.target);
        self.was_detour.store(is_detour, Ordering::Relaxed);
        let detour = is_detour.then(|| self.peers.address_of(self.target)).flatten();
        let rpc_addr = detour.unwrap_or_else(|| self.address.clone());
        self.peers.peer(&self.caller, &Target { node_id: Some(self.target), rpc_addr }, self.lane)
    }

    /// After a call that failed: the next one goes to the other address, if there is one.
    fn turn(&self) {
        let has_other = self.peers.address_of(self.target).is_some_and(|other| other != self.address);
        let mut detours = self.detours.lock();
        // Of several calls that failed at one address each says the same.
        match has_other && !self.was_detour.load(Ordering::Relaxed) {
            true => detours.insert(self.target),
            false => detours.remove(&self.target),
        };
    }

    /// Awaits a unary call for as long as openraft lets it.
    async fn call<T>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        call: impl Future<Output = Result<T, Status>> + Send,
    ) -> RpcResult<T> {
        let ttl = option.soft_ttl();
        let answer = match timeout(ttl, call).await {
            Ok(answer) => answer.map_err(unreachable),
            Err(_) => Err(self.timed_out(action, ttl).into()),
        };
        answer.inspect_err(|_| self.turn())
    }

    /// Logs when a member's log lane breaks or works again, and not once for every attempt.
    fn note_reachable(&mut self, error: Option<&Status>) {
        if self.lane != Lane::Log || self.reachable == Some(error.is_none()) {
            return;
        }
        match error {
            Some(status) => tracing::warn!(member = self.target, error = status.message(), "a member can't be reached"),
            None if self.reachable.is_some() => tracing::info!(member = self.target, "the member is reached again"),
            None => {}
        }
        self.reachable = Some(error.is_none());
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.node_id, target: self.target, timeout }
    }

    async fn ask_for_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: &RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let message = internal::VoteRequest {
            vote: Some(vote_to_proto(&request.vote)),
            last_log_id: request.last_log_id.as_ref().map(log_id_to_proto),
            leadership_transfer: request.leadership_transfer,
            pre_vote,
        };
        let answer = self.call(RPCTypes::Vote, option, self.peer().vote(message)).await?;
        let vote = answer.vote.as_ref().map(vote_from_proto).ok_or_else(|| malformed("a vote without a vote"))?;
        Ok(VoteResponse::new(vote, answer.last_log_id.as_ref().map(log_id_from_proto), answer.granted))
    }

    /// Sends a heartbeat. The stream is kept only if this ends, and with a match: after anything else the follower ends it.
    async fn heartbeat(&mut self, request: internal::AppendRequest) -> RpcResult<StreamAppendResult<TypeConfig>> {
        let (limit, began) = (self.options.append_timeout, Instant::now());
        let kept = self.heartbeats.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let asked = async {
            // That a stream broke meanwhile, as when the follower was started again, shows only now.
            if let Some(kept) = kept
                && let Ok(answered) = kept.ask(request.clone()).await
            {
                return Ok(answered);
            }
            Heartbeats::open(&*self.peer(), request).await
        };
        let answered = match timeout(limit, asked).await {
            Ok(answered) => answered.inspect_err(|_| self.turn()).map_err(unreachable),
            Err(_) => Err(self.timed_out(RPCTypes::AppendEntries, limit).into()),
        };
        let (heartbeats, answer) = answered?;
        self.counters.heard(self.target, began.elapsed());
        let result = append_result(Ok(answer))?;
        if result.is_ok() {
            *self.heartbeats.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(heartbeats);
        }
        Ok(result)
    }

    /// The chunks of a snapshot file. `progress` counts the bytes that the connection has taken.
    fn snapshot_chunks(
        header: internal::SnapshotHeader,
        reader: SnapshotReader,
        progress: tokio::sync::watch::Sender<u64>,
    ) -> MessageStream<internal::SnapshotChunk> {
        let first = internal::SnapshotChunk { part: Some(Part::Header(header)) };
        let rest = stream::unfold((reader, progress), |(mut reader, progress)| async move {
            match reader.next_chunk().await {
                Ok(Some(data)) => {
                    progress.send_modify(|sent| *sent += data.len() as u64);
                    Some((internal::SnapshotChunk { part: Some(Part::Data(data)) }, (reader, progress)))
                }
                Ok(None) => None,
                // The receiver sees fewer bytes than the header said and gives up; so does the sender then.
                Err(error) => {
                    tracing::error!(%error, "reading a snapshot to send failed");
                    None
                }
            }
        });
        stream::once(async { first }).chain(rest).boxed()
    }
}

impl RaftNetworkV2<TypeConfig> for MemberClient {
    type SnapshotData = SnapshotInfo;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let requests = stream::once(async { request }).boxed();
        let mut answers = self.stream_append(requests, option).await?;
        match answers.next().await {
            Some(answer) => Ok(answer?.into()),
            None => Err(malformed("an append without an answer")),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        if self.lane == Lane::Heartbeat {
            let results = stream::unfold(Some((self, input)), |state| async move {
                let (this, mut input) = state?;
                let request = append_to_proto(&input.next().await?);
                let result = this.heartbeat(request).await;
                let goes_on = matches!(result, Ok(Ok(_)));
                Some((result, goes_on.then_some((this, input))))
            });
            return async move { Ok(results.boxed()) }.boxed();
        }
        let unanswered = Unanswered::default();
        let sent = unanswered.clone();
        let mut requests = input.map(move |request| {
            sent.sent();
            append_to_proto(&request)
        });
        let limit = self.options.append_timeout;
        async move {
            // The first request is taken before the connection is tried: openraft waits between two attempts inside its
            // stream of requests.
            let requests = match mutant!(BusyRetry) {
                true => requests.boxed(),
                false => {
                    let Some(first) = requests.next().await else { return Ok(stream::empty().boxed()) };
                    stream::once(std::future::ready(first)).chain(requests).boxed()
                }
            };
            let opening = timeout(limit, self.peer().append(requests)).await;
            let opened = opening.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer in {limit:?}"))));
            self.note_reachable(opened.as_ref().err());
            let answers = opened.inspect_err(|_| self.turn()).map_err(unreachable)?;
            let this = &*self;
            let results = stream::unfold(Some((answers, unanswered)), move |state| async move {
                let (mut answers, unanswered) = state?;
                let result = match next_answer(&mut answers, &unanswered, limit).await {
                    Ok(Some(answer)) => append_result(answer),
                    // All that was asked is answered: openraft ended the stream.
                    Ok(None) if unanswered.oldest().is_none() => return None,
                    Ok(None) => Err(unreachable(Status::unavailable("the stream of appends broke"))),
                    Err(AppendTimedOut) => Err(this.timed_out(RPCTypes::AppendEntries, limit).into()),
                };
                // After an error, or a refusal, openraft starts a new stream.
                let goes_on = matches!(result, Ok(Ok(_)));
                Some((result, goes_on.then_some((answers, unanswered))))
            });
            Ok(results.boxed())
        }
        .boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask_for_vote(request, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask_for_vote(request, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotInfo>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = internal::SnapshotHeader {
            vote: Some(vote_to_proto(&vote)),
            last_log_id: snapshot.meta.last_log_id.as_ref().map(log_id_to_proto),
            membership: Some(stored_membership_to_proto(&snapshot.meta.last_membership)),
            size: snapshot.snapshot.size,
        };
        let (progress, watched) = tokio::sync::watch::channel(0);
        let reader = self.snapshots.reader(&snapshot.snapshot).await;
        let reader = reader.map_err(|error| unreachable(Status::unavailable(error.to_string())))?;
        let chunks = Self::snapshot_chunks(header, reader, progress);
        let idle = self.options.snapshot_idle_timeout;
        let peer = self.peer();
        let sending = select(Box::pin(peer.snapshot(chunks)), Box::pin(stalled(watched, idle)));
        match select(sending, Box::pin(cancel)).await {
            Either::Left((Either::Left((answer, _)), _)) => {
                let answer = answer.inspect_err(|_| self.turn()).map_err(unreachable)?;
                let vote = answer.vote.as_ref().map(vote_from_proto);
                Ok(SnapshotResponse::new(vote.ok_or_else(|| malformed("a snapshot's answer without a vote"))?))
            }
            Either::Left((Either::Right(_), _)) => Err(self.timed_out(RPCTypes::InstallSnapshot, idle).into()),
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let message = internal::LeaderTransferRequest {
            from_leader: Some(vote_to_proto(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(log_id_to_proto),
        };
        let answer = self.call(RPCTypes::TransferLeader, &option, self.peer().transfer_leader(message)).await?;
        if answer.refused.is_empty() {
            return Ok(Ok(()));
        }
        // openraft only logs the reason; the text says more than its two variants.
        Err(unreachable(Status::aborted(answer.refused)))
    }
}

/// When the requests of a stream that have no answer yet were sent, oldest first.
#[derive(Clone, Default)]
struct Unanswered(Arc<Mutex<VecDeque<Instant>>>);

impl Unanswered {
    fn sent(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
    }

    fn answered(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }

    fn oldest(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).front().copied()
    }
}

/// The oldest request of a stream had no answer in time.
struct AppendTimedOut;

/// The next answer. A stream on which nothing is asked may be silent for ever.
async fn next_answer(
    answers: &mut AnswerStream<internal::AppendResponse>,
    unanswered: &Unanswered,
    limit: Duration,
) -> Result<Option<Result<internal::AppendResponse, Status>>, AppendTimedOut> {
    let mut deadline = Instant::now() + limit;
    loop {
        match timeout_at(deadline, answers.next()).await {
            Ok(answer) => {
                if answer.is_some() {
                    unanswered.answered();
                }
                return Ok(answer);
            }
            Err(_) => match unanswered.oldest() {
                Some(sent) if sent + limit <= Instant::now() => return Err(AppendTimedOut),
                Some(sent) => deadline = sent + limit,
                None => deadline = Instant::now() + limit,
            },
        }
    }
}

/// Completes when the number has not changed for `idle`.
async fn stalled(mut progress: tokio::sync::watch::Receiver<u64>, idle: Duration) {
    // All chunks are handed over: what is left is the receiver's loading.
    while timeout(idle, progress.changed()).await.is_ok_and(|changed| changed.is_ok()) {}
    if progress.has_changed().is_err() {
        tokio::time::sleep(idle).await;
    }
}

fn append_to_proto(request: &AppendEntriesRequest<TypeConfig>) -> internal::AppendRequest {
    internal::AppendRequest {
        vote: Some(vote_to_proto(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_proto),
        entries: request.entries.iter().map(entry_to_proto).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_proto),
    }
}

/// Decodes an append as openraft takes it.
pub(super) fn append_from_proto(
    request: internal::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, types::Malformed> {
    let entries: Result<Vec<_>, _> = request.entries.into_iter().map(types::entry_from_proto).collect();
    Ok(AppendEntriesRequest {
        vote: request.vote.as_ref().map(vote_from_proto).ok_or(types::Malformed("an append without a vote"))?,
        prev_log_id: request.prev_log_id.as_ref().map(log_id_from_proto),
        entries: entries?,
        leader_commit: request.leader_commit.as_ref().map(log_id_from_proto),
    })
}

fn append_result(answer: Result<internal::AppendResponse, Status>) -> RpcResult<StreamAppendResult<TypeConfig>> {
    use internal::append_response::Result as Answer;
    match answer.map_err(unreachable)?.result {
        Some(Answer::Matched(matched)) => Ok(Ok(matched.log_id.as_ref().map(log_id_from_proto))),
        Some(Answer::Conflict(at)) if mutant!(ConflictTakenForMatch) => Ok(Ok(Some(log_id_from_proto(&at)))),
        Some(Answer::Conflict(at)) => Ok(Err(StreamAppendError::Conflict(log_id_from_proto(&at)))),
        Some(Answer::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote_from_proto(&vote)))),
        None => Err(malformed("an empty answer to an append")),
    }
}

/// Encodes openraft's answer to an append.
pub(super) fn append_result_to_proto(result: StreamAppendResult<TypeConfig>) -> internal::AppendResponse {
    use internal::append_response::Result as Answer;
    let answer = match result {
        Ok(matched) => Answer::Matched(internal::Matched { log_id: matched.as_ref().map(log_id_to_proto) }),
        Err(StreamAppendError::Conflict(at)) => Answer::Conflict(log_id_to_proto(&at)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(vote_to_proto(&vote)),
    };
    internal::AppendResponse { result: Some(answer) }
}

/// A call that did not succeed: openraft waits a little before it tries again.
fn unreachable(status: Status) -> RPCError<TypeConfig> {
    Unreachable::from_string(format!("{:?}: {}", status.code(), status.message())).into()
}

fn malformed(what: &'static str) -> RPCError<TypeConfig> {
    unreachable(Status::internal(what))
}
