//! A network within one process: calls take a moment, and come to nothing where the way is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, future};
use mokv_proto::internal::{
    AdminRequest, AdminResponse, AdoptRequest, AdoptResponse, AppendRequest, AppendResponse, FormRequest, FormResponse,
    ForwardRequest, ForwardResponse, GreetRequest, GreetResponse, IdentifyRequest, IdentifyResponse,
    LeaderTransferRequest, LeaderTransferResponse, SnapshotChunk, SnapshotResponse, VoteRequest, VoteResponse,
};
use mokv_server::peer::{AnswerStream, Caller, Lane, MessageStream, Peer, PeerNetwork, Target};
use mokv_server::peer_service::PeerService;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;

/// How long a message takes.
const LATENCY: Duration = Duration::from_micros(300);

/// How long a call waits where nothing comes through.
const LOST: Duration = Duration::from_millis(500);

/// Addresses, who answers there, and the ways between them. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Network {
    services: Arc<Mutex<BTreeMap<String, PeerService>>>,
    cut: Arc<watch::Sender<BTreeSet<(String, String)>>>,
}

impl Network {
    /// From now on `service` answers at this address.
    pub(crate) fn up(&self, addr: &str, service: PeerService) {
        self.services().insert(addr.to_owned(), service);
    }

    /// Nobody answers at this address any more.
    pub(crate) fn down(&self, addr: &str) {
        self.services().remove(addr);
        // Whoever waits for an answer notices.
        self.cut.send_modify(|_| {});
    }

    /// Cuts both ways between two addresses.
    pub(crate) fn cut(&self, a: &str, b: &str) {
        self.cut.send_modify(|cut| {
            cut.insert((a.to_owned(), b.to_owned()));
            cut.insert((b.to_owned(), a.to_owned()));
        });
    }

    /// Mends all that is cut.
    pub(crate) fn heal(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }

    /// The network as the node at this address has it.
    pub(crate) fn of_node(&self, addr: &str) -> Arc<dyn PeerNetwork> {
        Arc::new(NodeNetwork { network: self.clone(), addr: addr.to_owned() })
    }

    fn services(&self) -> MutexGuard<'_, BTreeMap<String, PeerService>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct NodeNetwork {
    network: Network,
    addr: String,
}

impl PeerNetwork for NodeNetwork {
    fn peer(&self, caller: &Caller, target: &Target, _lane: Lane) -> Arc<dyn Peer> {
        let way = Way { network: self.network.clone(), from: self.addr.clone(), to: target.rpc_addr.clone() };
        Arc::new(LocalPeer { way, caller: caller.clone(), target: target.clone() })
    }
}

#[derive(Clone)]
struct Way {
    network: Network,
    from: String,
    to: String,
}

impl Way {
    fn service(&self) -> Option<PeerService> {
        let is_cut = self.network.cut.borrow().contains(&(self.from.clone(), self.to.clone()));
        if is_cut { None } else { self.network.services().get(&self.to).cloned() }
    }

    /// Completes when nothing gets through any more to the start of the node that answered.
    async fn broken(self, service: PeerService) {
        let mut cut = self.network.cut.subscribe();
        let id = |service: &PeerService| (service.node().node_id(), service.node().starts().own().start());
        loop {
            if self.service().map(|now| id(&now)) != Some(id(&service)) || cut.changed().await.is_err() {
                return;
            }
        }
    }
}

struct LocalPeer {
    way: Way,
    caller: Caller,
    target: Target,
}

fn lost() -> Status {
    Status::unavailable("nothing comes through")
}

impl LocalPeer {
    async fn reach(&self) -> Result<PeerService, Status> {
        sleep(LATENCY).await;
        match self.way.service() {
            Some(service) => Ok(service),
            None => {
                sleep(LOST).await;
                Err(lost())
            }
        }
    }

    fn admit(&self, service: &PeerService) -> Result<(), Status> {
        let to = self.target.node_id.ok_or_else(|| Status::internal("to nobody"))?;
        let admitted = service.node().admit(&self.caller.envelope(to));
        admitted.inspect_err(|status| self.caller.note_refusal(status))?;
        self.caller.admit_answer(to, service.node().starts().own())
    }

    /// One question to a member, and its answer.
    async fn ask<A, F>(&self, ask: impl FnOnce(PeerService) -> F) -> Result<A, Status>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let service = self.reach().await?;
        self.admit(&service)?;
        self.answer(service.clone(), ask(service)).await
    }

    /// One question to anybody.
    async fn ask_stranger<A, F>(&self, ask: impl FnOnce(PeerService) -> F) -> Result<A, Status>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let service = self.reach().await?;
        self.answer(service.clone(), ask(service)).await
    }

    async fn answer<A>(
        &self,
        service: PeerService,
        answer: impl Future<Output = Result<A, Status>>,
    ) -> Result<A, Status> {
        tokio::select! {
            biased;
            answer = answer => {
                sleep(LATENCY).await;
                // An answer is lost where a question would be.
                if self.way.service().is_some() { answer } else { Err(lost()) }
            }
            () = self.way.clone().broken(service) => Err(lost()),
        }
    }

    async fn stream<Q, A, F>(
        &self,
        requests: MessageStream<Q>,
        serve: impl FnOnce(PeerService, MessageStream<Q>) -> F,
    ) -> Result<AnswerStream<A>, Status>
    where
        Q: Send + 'static,
        A: Send + 'static,
        F: Future<Output = Result<AnswerStream<A>, Status>>,
    {
        let service = self.reach().await?;
        self.admit(&service)?;
        let broken = || self.way.clone().broken(service.clone());
        let travel = |message| async {
            sleep(LATENCY).await;
            message
        };
        let requests = requests.then(travel).take_until(Box::pin(broken()));
        let answers = serve(service.clone(), requests.boxed()).await?;
        let travel = |message| async {
            sleep(LATENCY).await;
            message
        };
        let ended = futures_util::stream::once(future::ready(Err(lost())));
        Ok(answers.then(travel).take_until(Box::pin(broken())).chain(ended).boxed())
    }
}

#[tonic::async_trait]
impl Peer for LocalPeer {
    async fn append(&self, requests: MessageStream<AppendRequest>) -> Result<AnswerStream<AppendResponse>, Status> {
        self.stream(requests, |service, requests| async move { service.append(requests).await }).await
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, Status> {
        self.ask(|service| async move { service.vote(request).await }).await
    }

    async fn transfer_leader(&self, request: LeaderTransferRequest) -> Result<LeaderTransferResponse, Status> {
        self.ask(|service| async move { service.transfer_leader(request).await }).await
    }

    async fn snapshot(&self, chunks: MessageStream<SnapshotChunk>) -> Result<SnapshotResponse, Status> {
        self.ask(|service| async move { service.snapshot(chunks).await }).await
    }

    async fn forward(&self, requests: MessageStream<ForwardRequest>) -> Result<AnswerStream<ForwardResponse>, Status> {
        self.stream(requests, |service, requests| async move { service.forward(requests).await }).await
    }

    async fn admin(&self, request: AdminRequest) -> Result<AdminResponse, Status> {
        self.ask(|service| async move { service.admin(request).await }).await
    }

    async fn greet(&self, request: GreetRequest) -> Result<GreetResponse, Status> {
        self.ask(|service| async move { service.greet(request).await }).await
    }

    async fn identify(&self, request: IdentifyRequest) -> Result<IdentifyResponse, Status> {
        self.ask_stranger(|service| async move { service.identify(request).await }).await
    }

    async fn adopt(&self, request: AdoptRequest) -> Result<AdoptResponse, Status> {
        self.ask_stranger(|service| async move { service.adopt(request).await }).await
    }

    async fn form(&self, request: FormRequest) -> Result<FormResponse, Status> {
        self.ask_stranger(|service| async move { service.form(request).await }).await
    }
}
