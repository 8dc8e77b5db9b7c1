//! The rules of formation, as functions of what is on this node's disk and of what the others say. They have no state of
//! their own: a node that forgot everything but its identity goes on where it was.
//!
//! # Why there is one cluster
//!
//! A proposal names its founders, each with its turn. A founder promises itself to it in that turn or, once the turn is
//! over, never; both are on its disk before anybody hears of them. Whoever knows that all have promised may *form* the
//! cluster: it writes the cluster's id into its identity, and is a member for good. So two clusters that were formed have no
//! founder in common, unless one of them promised twice; and it does so only when the first proposal can't be formed any
//! more, or not by enough nodes to commit anything:
//!
//! - A founder has refused. Then not all will ever have promised.
//! - A founder has lost its disk: another node has its name. Nobody will learn what it had promised, and somebody may
//!   just have. So all others *hold*, or refuse if they have not promised yet: they write down that they won't be the first
//!   to form it, nor follow those that are lost. If one of them has formed it already, it says so, and the others follow. If none has, none will, and those that
//!   are lost, should they be alive after all, are no majority.
//!
//! Nothing of this depends on time. A proposal that waits for a founder waits until that is back, or another node has its
//! name.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::Identity;
use crate::identity::promise::{Founder, Promise, Proposal};
use crate::raft::types::NodeId;

/// How a node that is in no cluster comes into one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// A cluster takes it in.
    #[default]
    Join,
    /// It forms one of itself alone if it sees none.
    Alone,
    /// It forms one together with others: this many in all.
    Expect(usize),
}

impl Mode {
    /// The nodes of the cluster that this node was started to form: 0 if none.
    pub fn expects(self) -> usize {
        match self {
            Self::Join => 0,
            Self::Alone => 1,
            Self::Expect(nodes) => nodes,
        }
    }
}

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Only where it stands.
    Ask,
    /// To promise itself.
    Promise(Proposal),
    /// Not to be the first to form the cluster, because these founders are lost; and not to promise itself any more.
    Hold {
        /// What was proposed.
        proposal: Proposal,
        /// Those that are lost.
        without: BTreeSet<NodeId>,
    },
    /// To follow into the cluster.
    Formed {
        /// The cluster.
        cluster_id: String,
        /// Who is in it.
        by: NodeId,
    },
}

/// Where a node stands. What it says of promises is on its disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it answers.
    pub rpc_addr: String,
    /// The cluster that it is in.
    pub cluster_id: Option<String>,
    /// What was proposed for an earlier turn, it has refused, or made and given up.
    pub turn: u64,
    /// The cluster to which it has promised itself.
    pub promised: Option<String>,
    /// See [`Promise::without`].
    pub without: BTreeSet<NodeId>,
    /// See [`Mode::expects`].
    pub expects: usize,
    /// Members of the cluster that it is in.
    pub members: usize,
    /// Whether that cluster has taken a user's write.
    pub is_taken: bool,
}

/// A node that this one knows of without having asked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Its identity.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it answers.
    pub rpc_addr: String,
    /// The cluster that it is in.
    pub cluster_id: Option<String>,
    /// Whether it answers; one that doesn't may still tell that there is a cluster.
    pub is_alive: bool,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// Its name.
    pub name: String,
    /// Where it answers.
    pub rpc_addr: String,
    /// What it was started for.
    pub mode: Mode,
}

impl Me {
    /// Where this node stands, as far as its identity says.
    pub fn standing(&self, identity: &Identity) -> Standing {
        let promise = identity.pledge.promise.as_ref();
        Standing {
            node_id: identity.node_id,
            name: self.name.clone(),
            rpc_addr: self.rpc_addr.clone(),
            cluster_id: identity.cluster_id.clone(),
            turn: identity.pledge.turn,
            promised: promise.map(|promise| promise.proposal.cluster_id.clone()),
            without: promise.map(|promise| promise.without.clone()).unwrap_or_default(),
            expects: self.mode.expects(),
            ..Standing::default()
        }
    }
}

/// Does what another node asks, if it can be done. `sees_cluster`: this node knows of a cluster that it could join.
pub fn take(me: &Me, identity: &mut Identity, question: Question, sees_cluster: bool) {
    let node_id = identity.node_id;
    match (question, &mut identity.pledge.promise) {
        _ if identity.cluster_id.is_some() => {}
        (Question::Ask, _) => {}
        (Question::Promise(proposal), None) => {
            let is_wanted = me.mode == Mode::Expect(proposal.founders.len()) && !sees_cluster;
            promise_or_refuse(identity, proposal, is_wanted);
        }
        (Question::Hold { proposal, .. }, None) => promise_or_refuse(identity, proposal, false),
        (Question::Promise(_), Some(_)) => {}
        (Question::Hold { proposal, mut without }, Some(promise)) if promise.proposal == proposal => {
            without.remove(&node_id);
            promise.without.append(&mut without);
        }
        (Question::Formed { cluster_id, by }, Some(promise))
            if promise.proposal.cluster_id == cluster_id && !promise.without.contains(&by) =>
        {
            identity.cluster_id = Some(cluster_id);
        }
        (Question::Hold { .. } | Question::Formed { .. }, _) => {}
    }
}

/// Answers a proposal that is for the present turn, for ever: in both cases those who asked can go on.
fn promise_or_refuse(identity: &mut Identity, proposal: Proposal, is_wanted: bool) {
    let pledge = &mut identity.pledge;
    let is_for_now = proposal.founder(identity.node_id).is_some_and(|founder| founder.turn == pledge.turn);
    if !is_for_now || !proposal.is_sound() {
        return;
    }
    pledge.turn += 1;
    if is_wanted {
        pledge.promise = Some(Promise { proposal, without: BTreeSet::new() });
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, for this reason.
    Wait(String),
    /// Promise itself to a proposal of its own, and ask the others to.
    Propose(Proposal),
    /// Make itself a member of the cluster to which it has promised itself, though no other is: all have promised.
    Form,
    /// Follow a founder that is a member.
    Follow(NodeId),
    /// Don't be the first to form it: these founders are lost.
    Hold(BTreeSet<NodeId>),
    /// Give the promise up: it can't be formed any more.
    Release,
}

impl Step {
    /// Carries it out, if the identity is still the one that it was decided for.
    pub fn carry_out(self, decided_for: &Identity, identity: &mut Identity) {
        if identity != decided_for {
            return;
        }
        match (self, &mut identity.pledge.promise) {
            (Self::Propose(proposal), none) => {
                // A promise of one is kept at once.
                identity.cluster_id = (proposal.founders.len() == 1).then(|| proposal.cluster_id.clone());
                *none = Some(Promise { proposal, without: BTreeSet::new() });
                identity.pledge.turn += 1;
            }
            (Self::Form | Self::Follow(_), Some(promise)) => {
                identity.cluster_id = Some(promise.proposal.cluster_id.clone());
            }
            (Self::Hold(without), Some(promise)) => promise.without.extend(without),
            (Self::Release, promise) => *promise = None,
            (Self::Wait(_) | Self::Form | Self::Follow(_) | Self::Hold(_), _) => {}
        }
    }
}

/// What a node that is in no cluster knows, at one moment.
#[derive(Debug)]
pub struct View<'a> {
    /// This node.
    pub me: &'a Me,
    /// What is on its disk.
    pub identity: &'a Identity,
    /// The others that it sees.
    pub sightings: &'a [Sighting],
    /// Whether it has found those that it was told to join through, or was told none: what they know is among the sightings.
    pub has_looked: bool,
    /// Whether it has waited long enough for those, and for answers.
    pub is_impatient: bool,
}

impl View<'_> {
    /// Whom to ask what, by address, before anything is decided.
    pub fn questions(&self) -> BTreeMap<String, Question> {
        let addresses: Vec<(&str, Question)> = match &self.identity.pledge.promise {
            Some(promise) => {
                let question = self.question_of(promise);
                self.addresses_of(&promise.proposal).map(|address| (address, question.clone())).collect()
            }
            None if self.me.mode == Mode::Join || self.cluster_seen().is_some() => Vec::new(),
            None => self.empty_ones().map(|peer| (peer.rpc_addr.as_str(), Question::Ask)).collect(),
        };
        let others = addresses.into_iter().filter(|(address, _)| *address != self.me.rpc_addr);
        others.map(|(address, question)| (address.to_owned(), question)).collect()
    }

    fn question_of(&self, promise: &Promise) -> Question {
        match promise.without.is_empty() {
            true => Question::Promise(promise.proposal.clone()),
            false => Question::Hold { proposal: promise.proposal.clone(), without: promise.without.clone() },
        }
    }

    /// Where the founders are, or others that have their names.
    fn addresses_of<'b>(&'b self, proposal: &'b Proposal) -> impl Iterator<Item = &'b str> {
        let is_founder = |peer: &&Sighting| {
            proposal.founders.iter().any(|founder| founder.node_id == peer.node_id || founder.name == peer.name)
        };
        let seen = self.sightings.iter().filter(|peer| peer.is_alive).filter(is_founder);
        let named = proposal.founders.iter().map(|founder| founder.rpc_addr.as_str());
        named.chain(seen.map(|peer| peer.rpc_addr.as_str()))
    }

    /// A cluster that this node could join. One whose nodes don't answer is a cluster, too.
    pub fn cluster_seen(&self) -> Option<&Sighting> {
        self.sightings.iter().find(|peer| peer.cluster_id.is_some() && peer.node_id != self.identity.node_id)
    }

    fn empty_ones(&self) -> impl Iterator<Item = &Sighting> {
        let id = self.identity.node_id;
        self.sightings.iter().filter(move |peer| peer.is_alive && peer.cluster_id.is_none() && peer.node_id != id)
    }

    /// Decides, on the answers to [`View::questions`]. `fresh_id` is the cluster's, should one be proposed.
    pub fn decide(&self, answers: &[Standing], fresh_id: String) -> Step {
        match &self.identity.pledge.promise {
            Some(promise) => self.decide_promised(promise, answers),
            None => self.decide_free(answers, fresh_id),
        }
    }

    fn decide_free(&self, answers: &[Standing], fresh_id: String) -> Step {
        if let Some(peer) = self.cluster_seen() {
            return self.wait_for(&peer.name, peer.cluster_id.as_deref().unwrap_or_default());
        }
        let member = answers.iter().find_map(|answer| Some((answer, answer.cluster_id.as_deref()?)));
        if let Some((member, cluster_id)) = member {
            return self.wait_for(&member.name, cluster_id);
        }
        if let Some((other, promised)) = answers.iter().find_map(|other| Some((other, other.promised.as_ref()?))) {
            return Step::Wait(format!("{} is about to form cluster {promised}", other.name));
        }
        match self.me.mode {
            Mode::Join => Step::Wait("it was not told to form a cluster, and sees none: let it join one".into()),
            Mode::Alone => self.decide_alone(answers, fresh_id),
            Mode::Expect(nodes) => self.decide_together(nodes, answers, fresh_id),
        }
    }

    fn wait_for(&self, name: &str, cluster_id: &str) -> Step {
        Step::Wait(format!("waiting for cluster {cluster_id} of {name} to take this node in"))
    }

    fn decide_alone(&self, answers: &[Standing], fresh_id: String) -> Step {
        let lower = answers.iter().find(|other| other.expects == 1 && other.name < self.me.name);
        if let Some(lower) = lower {
            return Step::Wait(format!("{} forms a cluster, too, and goes first", lower.name));
        }
        let has_answered = |peer: &Sighting| answers.iter().any(|answer| answer.node_id == peer.node_id);
        let knows_all = self.has_looked && self.empty_ones().all(has_answered);
        if !knows_all && !self.is_impatient {
            return Step::Wait("looking for a cluster to join before it forms one".into());
        }
        Step::Propose(Proposal {
            cluster_id: fresh_id,
            founders: vec![self.founder_of(&self.me.standing(self.identity))],
        })
    }

    fn decide_together(&self, nodes: usize, answers: &[Standing], fresh_id: String) -> Step {
        if let Some(alone) = answers.iter().find(|other| other.expects == 1) {
            return Step::Wait(format!("{} was told to form a cluster by itself", alone.name));
        }
        let me = self.me.standing(self.identity);
        let mut candidates: BTreeMap<&str, &Standing> = BTreeMap::from([(me.name.as_str(), &me)]);
        for other in answers.iter().filter(|other| other.expects == nodes) {
            candidates.entry(&other.name).or_insert(other);
        }
        if candidates.len() < nodes {
            let others: Vec<&str> = candidates.keys().copied().collect();
            return Step::Wait(format!("{} of {nodes} nodes are here: {}", candidates.len(), others.join(", ")));
        }
        let first = candidates.keys().next().copied().unwrap_or_default();
        if first != self.me.name {
            return Step::Wait(format!("{first} is about to propose a cluster"));
        }
        let founders = candidates.values().take(nodes).map(|candidate| self.founder_of(candidate)).collect();
        Step::Propose(Proposal { cluster_id: fresh_id, founders })
    }

    fn founder_of(&self, node: &Standing) -> Founder {
        Founder { node_id: node.node_id, turn: node.turn, name: node.name.clone(), rpc_addr: node.rpc_addr.clone() }
    }

    fn decide_promised(&self, promise: &Promise, answers: &[Standing]) -> Step {
        let Promise { proposal, without } = promise;
        let others = || proposal.founders.iter().filter(|founder| founder.node_id != self.identity.node_id);
        let answer_of = |founder: &Founder| answers.iter().find(|answer| answer.node_id == founder.node_id);
        let known = || others().filter_map(|founder| Some((founder, answer_of(founder)?)));
        let is_in = |answer: &Standing| answer.cluster_id.as_ref() == Some(&proposal.cluster_id);
        let has_promised = |answer: &Standing| answer.promised.as_ref() == Some(&proposal.cluster_id);

        let member = known().find(|(founder, answer)| is_in(answer) && !without.contains(&founder.node_id));
        if let Some((member, _)) = member {
            return Step::Follow(member.node_id);
        }
        let has_refused = |(founder, answer): (&Founder, &Standing)| {
            !is_in(answer) && !has_promised(answer) && (answer.turn > founder.turn || answer.cluster_id.is_some())
        };
        if known().any(has_refused) {
            return Step::Release;
        }
        let has_lost = |founder: &&Founder| {
            answer_of(founder).is_none() && answers.iter().any(|answer| answer.name == founder.name)
        };
        let lost: BTreeSet<NodeId> = others().filter(has_lost).map(|founder| founder.node_id).collect();
        if !lost.is_subset(without) {
            return Step::Hold(lost);
        }
        let holds = |founder: &Founder| {
            answer_of(founder).is_some_and(|answer| has_promised(answer) && answer.without.is_superset(without))
        };
        let all_hold = others().filter(|founder| !without.contains(&founder.node_id)).all(holds);
        match without.len() {
            0 if others().all(|founder| answer_of(founder).is_some_and(has_promised)) => Step::Form,
            1.. if all_hold && without.len() < proposal.majority() => Step::Release,
            _ => self.missing(promise, answers),
        }
    }

    /// Says whom a promise waits for, and what can be done about it.
    fn missing(&self, promise: &Promise, answers: &[Standing]) -> Step {
        let Promise { proposal, without } = promise;
        let silent = proposal.founders.iter().filter(|founder| {
            founder.node_id != self.identity.node_id && !answers.iter().any(|answer| answer.node_id == founder.node_id)
        });
        let silent: Vec<String> = silent.map(|founder| format!("{} at {}", founder.name, founder.rpc_addr)).collect();
        if without.len() >= proposal.majority() {
            return Step::Wait(format!(
                "most founders of cluster {} have lost their disks, so nobody knows whether it was formed: if it never \
                 served, stop this node, move its data directory away, and start it again",
                proposal.cluster_id
            ));
        }
        Step::Wait(format!(
            "it has promised itself to cluster {}, and waits for {}: start them, or empty nodes with their names",
            proposal.cluster_id,
            if silent.is_empty() { "the others".to_owned() } else { silent.join(", ") }
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::promise::Pledge;

    const P: &str = "0123456789abcdef0123456789abcdef";

    fn name(node_id: NodeId) -> String {
        format!("node-{node_id}")
    }

    fn me(mode: Mode) -> Me {
        Me { name: name(1), rpc_addr: format!("{}:1", name(1)), mode }
    }

    fn standing(node_id: NodeId) -> Standing {
        Standing {
            node_id,
            name: name(node_id),
            rpc_addr: format!("{}:1", name(node_id)),
            expects: 3,
            ..Standing::default()
        }
    }

    fn promised(node_id: NodeId) -> Standing {
        Standing { turn: 1, promised: Some(P.into()), ..standing(node_id) }
    }

    /// Of the nodes 1, 2 and 3, each in its turn 0.
    fn proposal() -> Proposal {
        let founder = |node_id| {
            let Standing { node_id, name, rpc_addr, turn, .. } = standing(node_id);
            Founder { node_id, turn, name, rpc_addr }
        };
        Proposal { cluster_id: P.into(), founders: [1, 2, 3].map(founder).into() }
    }

    fn empty() -> Identity {
        Identity::new(1, name(1))
    }

    fn promising(without: &[NodeId]) -> Identity {
        let promise = Promise { proposal: proposal(), without: without.iter().copied().collect() };
        Identity { pledge: Pledge { turn: 1, promise: Some(promise) }, ..empty() }
    }

    fn sighting(node_id: NodeId, cluster_id: Option<&str>) -> Sighting {
        let Standing { name, rpc_addr, .. } = standing(node_id);
        Sighting { node_id, name, rpc_addr, cluster_id: cluster_id.map(Into::into), is_alive: true }
    }

    fn decide(mode: Mode, identity: &Identity, sightings: &[Sighting], answers: &[Standing]) -> Step {
        let view = View { me: &me(mode), identity, sightings, has_looked: false, is_impatient: false };
        view.decide(answers, P.into())
    }

    fn waits(step: &Step) -> bool {
        matches!(step, Step::Wait(_))
    }

    #[test]
    fn a_promise_waits_for_all_and_is_given_up_for_a_refusal_alone() {
        let step = |answers: &[Standing]| decide(Mode::Expect(3), &promising(&[]), &[], answers);
        assert_eq!(step(&[promised(2), promised(3)]), Step::Form);
        assert!(waits(&step(&[])));
        assert!(waits(&step(&[promised(2)])));
        assert!(waits(&step(&[promised(2), standing(3)])), "it has not answered yet");
        let refused = Standing { turn: 1, ..standing(3) };
        assert_eq!(step(&[promised(2), refused.clone()]), Step::Release);
        assert_eq!(step(&[Standing { cluster_id: Some("other".into()), ..standing(3) }]), Step::Release);
        let member = Standing { cluster_id: Some(P.into()), turn: 1, ..standing(2) };
        assert_eq!(step(std::slice::from_ref(&member)), Step::Follow(2));
        assert_eq!(step(&[member, refused]), Step::Follow(2));
    }

    #[test]
    fn a_lost_founder_makes_all_others_hold_before_one_gives_up() {
        let successor = Standing { node_id: 9, ..Standing { name: name(3), ..standing(9) } };
        let held =
            |node_id, without: &[NodeId]| Standing { without: without.iter().copied().collect(), ..promised(node_id) };
        let step = |identity: &Identity, answers: &[Standing]| decide(Mode::Expect(3), identity, &[], answers);
        assert_eq!(step(&promising(&[]), &[promised(2), successor.clone()]), Step::Hold([3].into()));
        assert!(waits(&step(&promising(&[3]), &[promised(2), successor.clone()])));
        assert!(waits(&step(&promising(&[3]), &[held(2, &[1]), successor.clone()])));
        assert_eq!(step(&promising(&[3]), &[held(2, &[3]), successor]), Step::Release);
        // It was not lost after all; the other one may have given up already.
        assert!(waits(&step(&promising(&[3]), &[promised(2), promised(3)])), "who holds is never the first");
        let lost_member = Standing { cluster_id: Some(P.into()), ..standing(3) };
        assert!(!matches!(step(&promising(&[3]), &[promised(2), lost_member]), Step::Follow(_) | Step::Form));
        // Two that are lost could be a majority somewhere.
        assert!(waits(&step(&promising(&[2, 3]), &[])));
    }

    #[test]
    fn a_promise_is_made_once_in_its_turn_and_refused_for_ever() {
        let take = |mode, identity: &Identity, question, sees_cluster| {
            let mut identity = identity.clone();
            take(&me(mode), &mut identity, question, sees_cluster);
            identity
        };
        let ask = || Question::Promise(proposal());
        assert_eq!(take(Mode::Expect(3), &empty(), ask(), false), promising(&[]));
        let refused = Identity { pledge: Pledge { turn: 1, promise: None }, ..empty() };
        assert_eq!(take(Mode::Expect(3), &empty(), ask(), true), refused, "it sees a cluster");
        assert_eq!(take(Mode::Expect(5), &empty(), ask(), false), refused, "it was told another number");
        assert_eq!(take(Mode::Join, &empty(), ask(), false), refused);
        assert_eq!(take(Mode::Expect(3), &refused, ask(), false), refused, "its turn is over");
        let member = Identity { cluster_id: Some("c".into()), ..empty() };
        assert_eq!(take(Mode::Expect(3), &member, ask(), false), member);

        let hold =
            |without: &[NodeId]| Question::Hold { proposal: proposal(), without: without.iter().copied().collect() };
        assert_eq!(take(Mode::Expect(3), &empty(), hold(&[3]), false), refused);
        assert_eq!(
            take(Mode::Expect(3), &promising(&[2]), hold(&[1, 3]), false),
            promising(&[2, 3]),
            "it is here itself"
        );

        let formed = |by| Question::Formed { cluster_id: P.into(), by };
        let follower = take(Mode::Expect(3), &promising(&[3]), formed(2), false);
        assert_eq!(follower.cluster_id.as_deref(), Some(P));
        assert_eq!(take(Mode::Expect(3), &promising(&[3]), formed(3), false), promising(&[3]), "that one is lost");
        assert_eq!(take(Mode::Expect(3), &refused, formed(2), false), refused);
    }

    #[test]
    fn the_lowest_name_of_enough_proposes_and_nobody_where_a_cluster_is() {
        let step = |sightings: &[Sighting], answers: &[Standing]| decide(Mode::Expect(3), &empty(), sightings, answers);
        let Step::Propose(proposed) = step(&[], &[standing(3), standing(2), standing(4)]) else {
            panic!("no proposal")
        };
        assert_eq!(proposed, proposal());
        assert!(waits(&step(&[], &[standing(2)])));
        assert!(waits(&step(&[], &[standing(2), standing(3), Standing { name: "a".into(), ..standing(5) }])));
        assert!(waits(&step(&[], &[standing(2), Standing { expects: 5, ..standing(3) }])));
        assert!(waits(&step(&[], &[standing(2), standing(3), promised(4)])));
        assert!(waits(&step(&[], &[standing(2), standing(3), Standing { expects: 1, ..standing(4) }])));
        assert!(waits(&step(&[sighting(4, Some("c"))], &[standing(2), standing(3)])));
        let gone = Sighting { is_alive: false, ..sighting(4, Some("c")) };
        assert!(waits(&step(&[gone], &[standing(2), standing(3)])), "a cluster that is down is a cluster");
    }

    #[test]
    fn who_forms_a_cluster_alone_looks_for_one_first_but_not_for_ever() {
        let identity = empty();
        let step = |sightings: &[Sighting], answers: &[Standing], has_looked, is_impatient| {
            let view = View { me: &me(Mode::Alone), identity: &identity, sightings, has_looked, is_impatient };
            view.decide(answers, P.into())
        };
        let proposes = |step: Step| matches!(step, Step::Propose(proposal) if proposal.founders.len() == 1);
        assert!(proposes(step(&[], &[], true, false)));
        assert!(waits(&step(&[], &[], false, false)), "those that it was told to join through may be slow");
        assert!(proposes(step(&[], &[], false, true)));
        assert!(waits(&step(&[sighting(2, Some("c"))], &[], true, true)));
        assert!(waits(&step(&[sighting(2, None)], &[], true, false)), "it may be in a cluster by now");
        assert!(waits(&step(
            &[sighting(2, None)],
            &[Standing { cluster_id: Some("c".into()), ..standing(2) }],
            true,
            true
        )));
        assert!(proposes(step(&[sighting(2, None)], &[Standing { expects: 0, ..standing(2) }], true, false)));
        assert!(waits(&step(&[], &[Standing { expects: 1, name: "a".into(), ..standing(2) }], true, true)));
        assert!(proposes(step(&[], &[Standing { expects: 1, ..standing(2) }], true, false)));
    }

    #[test]
    fn a_promise_of_one_is_kept_at_once() {
        let view =
            View { me: &me(Mode::Alone), identity: &empty(), sightings: &[], has_looked: true, is_impatient: false };
        let mut identity = empty();
        view.decide(&[], P.into()).carry_out(&empty(), &mut identity);
        assert_eq!(identity.cluster_id.as_deref(), Some(P));
        let mut three = empty();
        Step::Propose(proposal()).carry_out(&empty(), &mut three);
        assert_eq!(three, promising(&[]));
    }
}
