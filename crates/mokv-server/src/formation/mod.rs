//! How a cluster comes to be, exactly once, out of nodes that are in none; and what becomes of one that should not be.
//!
//! [`core`] has the rules. This is the loop around them: it asks the others, writes down what was decided before anybody
//! hears of it, and starts consensus on the first membership. Every founder starts it with the same one, before any other
//! node can reach its consensus: then each of them knows the members, whichever of them is lost next.
//!
//! A node that forms a cluster alone may have lost its disk, and with it that it was in one. When it meets that one, one of
//! the two has to go: the one with a single member that never took a user's write [dissolves](Fate). Two that have both
//! taken writes wait for an operator; until then each goes on by itself, and both say so.

pub mod core;
#[cfg(test)]
mod simulation;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use mokv_proto::internal::form_request::Question as Asked;
use mokv_proto::internal::{self, Ask, FormRequest, FormResponse, Formed, Hold};
use rand::RngExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use self::core::{Me, Mode, Question, Sighting, Standing, Step, View, take};
use crate::discovery::{PeerState, Peers};
use crate::identity::promise::{Founder, Promise, Proposal};
use crate::identity::{DataDir, Identity, IdentityError, fresh_cluster_id};
use crate::peer::{Caller, Lane, PeerNetwork, Target};
use crate::raft::Raft;
use crate::raft::types::{MemberInfo, NodeId};
use crate::runtime::Tasks;
use crate::store::Store;

/// How often a node that is in no cluster looks around: that often while there is news, up to the second where nothing
/// happens.
const TICK_MIN: Duration = Duration::from_millis(100);
/// See [`TICK_MIN`].
const TICK_MAX: Duration = Duration::from_secs(1);

/// How often a node that is in a cluster looks for nodes of others.
const LOOK_OUT: Duration = Duration::from_secs(2);

/// A node that is up answers in far less, its disk's syncs included.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a node that is to form a cluster alone looks for those that it was told to join through. Nodes that start at the
/// same time, and names that are resolved late, are there by then.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a node sees of the others.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Gossip's members.
    pub peers: watch::Receiver<Arc<Peers>>,
    /// Whether gossip has reached one of the nodes that it was told to join through. True, too, if it was told none but
    /// itself.
    pub has_joined: watch::Receiver<bool>,
}

/// How a node stands with clusters, for people and for the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Why the node is in no cluster.
    pub waits_for: Option<String>,
    /// What an operator has to know: another cluster in the same gossip.
    pub warning: Option<String>,
    /// Whether the node's cluster has to go; see [`crate::node::Node::dissolve`].
    pub must_dissolve: bool,
}

/// The formation of one node. Cheap to clone.
#[derive(Clone)]
pub struct Formation {
    inner: Arc<Inner>,
}

/// What formation works with.
pub struct Parts {
    /// Tasks and random numbers.
    pub tasks: Tasks,
    /// What the node has promised.
    pub data_dir: DataDir,
    /// Consensus.
    pub raft: Raft,
    /// Whether the cluster has data.
    pub store: Store,
    /// This node.
    pub caller: Caller,
    /// Reaches others.
    pub peers: Arc<dyn PeerNetwork>,
    /// What it sees of them; nothing if it takes part in no gossip.
    pub surroundings: Option<Surroundings>,
}

struct Inner {
    me: Me,
    parts: Parts,
    outlook: watch::Sender<Outlook>,
}

impl Formation {
    /// The formation of a node with this name and address. Before anybody can reach it: completes what an earlier process
    /// had begun. Without gossip, a node that is to form a cluster alone does so now.
    ///
    /// # Errors
    ///
    /// The disk failed, or consensus did.
    pub async fn start(me: Me, parts: Parts) -> Result<Self, String> {
        let formation = Self { inner: Arc::new(Inner { me, parts, outlook: watch::Sender::default() }) };
        formation.finish_founding().await?;
        let parts = &formation.inner.parts;
        match parts.surroundings.clone() {
            Some(surroundings) => {
                parts.tasks.spawn(formation.clone().run(surroundings));
            }
            None if formation.inner.me.mode == Mode::Alone => formation.form_alone().await?,
            None => {}
        }
        Ok(formation)
    }

    /// How the node stands with clusters; changes are seen as they come.
    pub fn outlook(&self) -> watch::Receiver<Outlook> {
        self.inner.outlook.subscribe()
    }

    /// Does what another node asks, if it can be done, and says where this one stands then.
    ///
    /// # Errors
    ///
    /// The disk failed. What was asked for may be found done after a restart.
    pub async fn answer(&self, request: FormRequest) -> Result<FormResponse, Status> {
        let question = question_from_proto(request).ok_or_else(|| Status::invalid_argument("no question"))?;
        let Inner { me, parts, .. } = &*self.inner;
        let sightings = self.sightings();
        let sees_cluster = sightings.iter().any(|peer| peer.cluster_id.is_some());
        let who = me.clone();
        let changed = self.change(move |identity| take(&who, identity, question, sees_cluster)).await;
        changed.map_err(Status::unavailable)?;
        let standing = Standing {
            members: parts.raft.members().len(),
            is_taken: parts.store.stats().is_taken(),
            ..me.standing(&parts.data_dir.identity())
        };
        Ok(standing_to_proto(standing))
    }

    /// Changes the identity. Not half of it, though the caller may give up waiting.
    async fn change(&self, rule: impl FnOnce(&mut Identity) + Send + 'static) -> Result<(), String> {
        let this = self.clone();
        let changing = self.inner.parts.tasks.spawn(async move { this.change_now(rule).await });
        changing.await.unwrap_or_else(|_| Err("the node is stopping".into()))
    }

    /// A founder that becomes a member starts consensus before others can reach it.
    async fn change_now(&self, rule: impl FnOnce(&mut Identity)) -> Result<(), String> {
        let Parts { data_dir, raft, .. } = &self.inner.parts;
        let initialize = |identity: &Identity| {
            let (raft, founding) = (raft.clone(), founding(identity));
            async move {
                match founding {
                    Some(members) => initialize(&raft, members).await,
                    None => Ok(()),
                }
            }
            .boxed()
        };
        data_dir.change(rule, initialize).await.map_err(|error| error.to_string())?;
        self.finish_founding().await
    }

    /// A founder that is a member, and whose consensus has the membership, has kept its promise.
    async fn finish_founding(&self) -> Result<(), String> {
        let Parts { data_dir, raft, .. } = &self.inner.parts;
        let Some(members) = founding(&data_dir.identity()) else { return Ok(()) };
        initialize(raft, members).await.map_err(|error| error.to_string())?;
        let forget = |identity: &mut Identity| {
            if identity.cluster_id.is_some() {
                identity.pledge.promise = None;
            }
        };
        data_dir.amend(forget).await.map_err(|error| error.to_string())
    }

    async fn form_alone(&self) -> Result<(), String> {
        let identity = self.inner.parts.data_dir.identity();
        let is_free = identity.cluster_id.is_none() && identity.pledge.promise.is_none() && identity.generation == 1;
        if is_free {
            let view =
                View { me: &self.inner.me, identity: &identity, sightings: &[], has_looked: true, is_impatient: true };
            let step = view.decide(&[], self.fresh_cluster_id());
            self.change(move |now| step.carry_out(&identity, now)).await?;
        }
        Ok(())
    }

    fn fresh_cluster_id(&self) -> String {
        fresh_cluster_id(&self.inner.parts.tasks)
    }

    /// The others, as gossip sees them.
    fn sightings(&self) -> Vec<Sighting> {
        let Parts { surroundings, caller, .. } = &self.inner.parts;
        let Some(surroundings) = surroundings else { return Vec::new() };
        let peers = surroundings.peers.borrow();
        let seen = peers.values().filter(|peer| peer.state != PeerState::Left);
        let ours = seen.filter_map(|peer| {
            let tags = peer.tags.as_ref().filter(|tags| tags.node_id != caller.node_id)?;
            Some(Sighting {
                node_id: tags.node_id,
                name: peer.name.clone(),
                rpc_addr: tags.rpc_addr.clone(),
                cluster_id: tags.cluster_id.clone(),
                is_alive: peer.state == PeerState::Alive,
            })
        });
        ours.collect()
    }

    async fn run(self, mut surroundings: Surroundings) {
        let mut cluster_id = self.inner.parts.data_dir.watch_cluster_id();
        let (began, mut tick) = (Instant::now(), TICK_MIN);
        let mut rng = self.inner.parts.tasks.rng();
        loop {
            let is_in = cluster_id.borrow_and_update().is_some();
            surroundings.peers.borrow_and_update();
            let has_joined = *surroundings.has_joined.borrow_and_update();
            let pause = if is_in {
                self.look_out().await;
                LOOK_OUT
            } else {
                let has_news = self.round(has_joined, began.elapsed() >= PATIENCE).await;
                tick = if has_news { TICK_MIN } else { TICK_MAX.min(2 * tick) };
                // Two that do the same at the same time should not go on doing so.
                tick.mul_f64(rng.random_range(0.75..1.25))
            };
            tokio::select! {
                biased;
                changed = cluster_id.changed() => if changed.is_err() { return },
                changed = surroundings.peers.changed(), if !is_in => if changed.is_err() { return },
                changed = surroundings.has_joined.changed(), if !is_in => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    /// Asks, decides, carries out. Whether something was done.
    async fn round(&self, has_looked: bool, is_impatient: bool) -> bool {
        let Inner { me, parts, .. } = &*self.inner;
        let (identity, sightings) = (parts.data_dir.identity(), self.sightings());
        let view = View { me, identity: &identity, sightings: &sightings, has_looked, is_impatient };
        let answers = join_all(view.questions().into_iter().map(|(address, question)| self.ask(address, question)));
        let answers: Vec<Standing> = answers.await.into_iter().flatten().collect();
        let step = view.decide(&answers, self.fresh_cluster_id());
        if let Step::Wait(reason) = step {
            self.tell(|outlook| outlook.waits_for = Some(reason));
            return false;
        }
        // One that was taken in is empty, and has to stay so: see `start_anew`.
        if me.mode == Mode::Alone && identity.generation > 1 && matches!(step, Step::Propose(_)) {
            let reason = "this node left a cluster of its own for another one: it waits for that to take it in";
            self.tell(|outlook| outlook.waits_for = Some(reason.into()));
            return false;
        }
        log_step(&step, &identity);
        let forms = matches!(step, Step::Form);
        let promise = identity.pledge.promise.clone();
        if let Err(error) = self.change(move |now| step.carry_out(&identity, now)).await {
            tracing::error!(error, "the identity could not be written");
            self.tell(|outlook| outlook.waits_for = Some(error));
            return false;
        }
        if forms && parts.data_dir.identity().cluster_id.is_some() {
            self.lead_the_way(promise).await;
        }
        true
    }

    /// Tells the other founders, and stands for election as soon as they know: nobody else will for a second or two.
    async fn lead_the_way(&self, promise: Option<Promise>) {
        let Parts { caller, raft, .. } = &self.inner.parts;
        let Some(Promise { proposal: Proposal { cluster_id, founders }, .. }) = promise else { return };
        let others = founders.into_iter().filter(|founder| founder.node_id != caller.node_id);
        let told = others.map(|founder| {
            let question = Question::Formed { cluster_id: cluster_id.clone(), by: caller.node_id };
            self.ask(founder.rpc_addr, question)
        });
        join_all(told).await;
        raft.stand_for_election().await;
    }

    async fn ask(&self, address: String, question: Question) -> Option<Standing> {
        let Parts { peers, caller, .. } = &self.inner.parts;
        let peer = peers.peer(caller, &Target { node_id: None, rpc_addr: address.clone() }, Lane::Forward);
        match timeout(ASK_TIMEOUT, peer.form(question_to_proto(question))).await {
            Ok(Ok(response)) => Some(standing_from_proto(response)),
            Ok(Err(status)) => {
                tracing::debug!(address, %status, "no answer");
                None
            }
            Err(_) => None,
        }
    }

    /// Looks for nodes of other clusters, and decides which one has to go.
    async fn look_out(&self) {
        let Inner { parts, .. } = &*self.inner;
        let Some(ours) = parts.data_dir.identity().cluster_id else { return };
        let foreign = self.sightings().into_iter().filter(|peer| peer.is_alive);
        let foreign: BTreeMap<String, Sighting> = foreign
            .filter_map(|peer| Some((peer.cluster_id.clone().filter(|theirs| *theirs != ours)?, peer)))
            .collect();
        let Some((theirs, peer)) = foreign.into_iter().next() else {
            self.tell(|outlook| *outlook = Outlook::default());
            return;
        };
        let warning = format!(
            "two clusters share one gossip: this node is in {ours}, {} at {} in {theirs}. They stay apart; give them \
             different encrypt-keys, or move the data of one of them away and let its nodes join the other",
            peer.name, peer.rpc_addr
        );
        let is_news = self.tell(|outlook| *outlook = Outlook { warning: Some(warning.clone()), ..Outlook::default() });
        if is_news {
            tracing::warn!("{warning}");
        }
        let Some(there) = self.ask(peer.rpc_addr, Question::Ask).await else { return };
        let here = Standing {
            cluster_id: Some(ours),
            members: parts.raft.members().len(),
            is_taken: parts.store.stats().is_taken(),
            ..Standing::default()
        };
        if Fate::of(&here, &there) == Fate::Dissolves && !self.inner.outlook.borrow().must_dissolve {
            tracing::warn!(theirs, "this cluster of one has never been written to: it gives way to the other one");
            self.inner.outlook.send_modify(|outlook| outlook.must_dissolve = true);
        }
    }

    /// Changes the outlook, and says whether that is news.
    fn tell(&self, change: impl FnOnce(&mut Outlook)) -> bool {
        self.inner.outlook.send_if_modified(|outlook| {
            let mut now = outlook.clone();
            change(&mut now);
            // What has been decided once stays so.
            now.must_dissolve |= outlook.must_dissolve;
            let is_news = now != *outlook;
            *outlook = now;
            is_news
        })
    }
}

/// What becomes of a cluster that meets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// Its only node leaves it, and joins the other as a new one: nobody has ever written anything to it.
    Dissolves,
}

impl Fate {
    /// What becomes of the cluster of `here`, as its node knows it, when that meets `there`. At most one of two dissolves.
    pub fn of(here: &Standing, there: &Standing) -> Self {
        let is_young = |node: &Standing| node.members == 1 && !node.is_taken;
        let goes = match (&here.cluster_id, &there.cluster_id) {
            (Some(ours), Some(theirs)) if ours != theirs => is_young(here) && (!is_young(there) || ours > theirs),
            _ => false,
        };
        if goes { Self::Dissolves } else { Self::Stays }
    }
}

/// The first membership, while consensus may not have it yet.
fn founding(identity: &Identity) -> Option<BTreeMap<NodeId, MemberInfo>> {
    identity.cluster_id.as_ref()?;
    let founders = &identity.pledge.promise.as_ref()?.proposal.founders;
    let info = |founder: &Founder| MemberInfo { name: founder.name.clone(), rpc_addr: founder.rpc_addr.clone() };
    Some(founders.iter().map(|founder| (founder.node_id, info(founder))).collect())
}

/// Gives consensus its first membership, unless it has one.
async fn initialize(raft: &Raft, members: BTreeMap<NodeId, MemberInfo>) -> Result<(), IdentityError> {
    if raft.is_initialized().await {
        return Ok(());
    }
    raft.initialize(members).await.map_err(|error| IdentityError::NotFounded(error.to_string()))
}

fn log_step(step: &Step, identity: &Identity) {
    let promised = identity.pledge.promise.as_ref().map(|promise| promise.proposal.cluster_id.as_str());
    match step {
        Step::Wait(_) => {}
        Step::Propose(Proposal { cluster_id, founders }) => {
            let names: Vec<&str> = founders.iter().map(|founder| founder.name.as_str()).collect();
            tracing::info!(cluster_id, founders = names.join(", "), "proposing a cluster");
        }
        Step::Form => tracing::info!(cluster_id = promised, "all founders have promised: the cluster is formed"),
        Step::Follow(node_id) => tracing::info!(cluster_id = promised, node_id, "following a founder into the cluster"),
        Step::Hold(without) => {
            tracing::warn!(
                cluster_id = promised,
                ?without,
                "founders have lost their disks: asking the others not to form"
            );
        }
        Step::Release => tracing::info!(cluster_id = promised, "the proposal can't be formed any more: giving it up"),
    }
}

fn question_to_proto(question: Question) -> FormRequest {
    let question = match question {
        Question::Ask => Asked::Ask(Ask {}),
        Question::Promise(proposal) => Asked::Promise(proposal_to_proto(proposal)),
        Question::Hold { proposal, without } => {
            Asked::Hold(Hold { proposal: Some(proposal_to_proto(proposal)), without: without.into_iter().collect() })
        }
        Question::Formed { cluster_id, by } => Asked::Formed(Formed { cluster_id, by }),
    };
    FormRequest { question: Some(question) }
}

fn question_from_proto(request: FormRequest) -> Option<Question> {
    Some(match request.question? {
        Asked::Ask(Ask {}) => Question::Ask,
        Asked::Promise(proposal) => Question::Promise(proposal_from_proto(proposal)),
        Asked::Hold(Hold { proposal, without }) => {
            Question::Hold { proposal: proposal_from_proto(proposal?), without: without.into_iter().collect() }
        }
        Asked::Formed(Formed { cluster_id, by }) => Question::Formed { cluster_id, by },
    })
}

fn proposal_to_proto(Proposal { cluster_id, founders }: Proposal) -> internal::Proposal {
    let founder = |Founder { node_id, turn, name, rpc_addr }| internal::Founder { node_id, name, rpc_addr, turn };
    internal::Proposal { cluster_id, founders: founders.into_iter().map(founder).collect() }
}

fn proposal_from_proto(internal::Proposal { cluster_id, founders }: internal::Proposal) -> Proposal {
    let founder = |internal::Founder { node_id, name, rpc_addr, turn }| Founder { node_id, turn, name, rpc_addr };
    Proposal { cluster_id, founders: founders.into_iter().map(founder).collect() }
}

fn standing_to_proto(standing: Standing) -> FormResponse {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    FormResponse {
        node_id: standing.node_id,
        name: standing.name,
        rpc_addr: standing.rpc_addr,
        cluster_id: standing.cluster_id.unwrap_or_default(),
        turn: standing.turn,
        promised: standing.promised.unwrap_or_default(),
        without: standing.without.into_iter().collect(),
        expects: count(standing.expects),
        members: count(standing.members),
        taken: standing.is_taken,
    }
}

fn standing_from_proto(response: FormResponse) -> Standing {
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    Standing {
        node_id: response.node_id,
        name: response.name,
        rpc_addr: response.rpc_addr,
        cluster_id: text(response.cluster_id),
        turn: response.turn,
        promised: text(response.promised),
        without: response.without.into_iter().collect(),
        expects: response.expects as usize,
        members: response.members as usize,
        is_taken: response.taken,
    }
}
