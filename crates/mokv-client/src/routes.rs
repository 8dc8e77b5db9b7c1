//! Which node to ask. Pure: it is told what happened and when, and says whom to ask and what to find out.
//!
//! It knows the endpoints that were given, which always stay, and the nodes that the cluster's server lists name. A node
//! that was only named may be out of reach from here (behind a port-forward, in another network), so no call goes to it
//! before it has answered a question of the client's own. A node that is silent or broken is left until it answers such a
//! question. Whatever is wrong with all of them, somebody is asked: the verdict may be old.
//!
//! Who leads is a hint: every node takes every request.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// As long as all goes well, the server list is asked for this often.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// And not more often than this, whatever happens.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// A node that knew no leader is passed over so long: about a round of an election.
const UNFIT_FOR: Duration = Duration::from_millis(500);
/// A node that failed is asked whether it is well again after so long, and twice as long each time.
const PROBE_AFTER_MIN: Duration = Duration::from_millis(100);
/// But at least this often.
const PROBE_AFTER_MAX: Duration = Duration::from_secs(5);

/// One of the nodes. Never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeRef(u64);

/// Whom a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// The leader, because a write ends there anyway.
    Write,
    /// Any node: the one that has least to do, and of equals one that does not lead.
    Read,
    /// One of the endpoints that were given, in their order: who asks a node about itself means that node.
    Given,
}

/// What became of an attempt, as far as it says something about the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The node answered, be it with an error.
    Answered,
    /// The node answered that it can't serve: it knows no leader, or is stopping.
    Unfit,
    /// The connection was refused or broke, or there was no sign of life in time.
    Failed,
    /// Nothing is known: the caller went away, or the node is busy with something else.
    Abandoned,
}

/// Something to find out, in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Ask the node for its server list: see [`Routes::answered`] and [`Routes::failed`].
    Ask(NodeRef),
    /// Ask the node who it is: see [`Routes::identified`] and [`Routes::failed`].
    Identify(NodeRef),
}

/// A line of a server list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) address: String,
    pub(crate) node_id: u64,
    pub(crate) is_leader: bool,
}

/// The nodes, and what is known of them.
#[derive(Debug)]
pub(crate) struct Routes {
    nodes: BTreeMap<NodeRef, Node>,
    last: NodeRef,
    /// Only endpoints that were given are used.
    given_only: bool,
    /// The node id of the leader, as the last list has it; 0 if it has none.
    leader_id: u64,
    /// Whether there was a list yet.
    has_list: bool,
    /// When the next list is due: at once.
    refresh_at: Option<Instant>,
    /// When the last one was asked for.
    refreshed: Option<Instant>,
    /// And of whom.
    asked: NodeRef,
}

#[derive(Debug)]
struct Node {
    address: String,
    is_given: bool,
    /// The last list names this address.
    is_listed: bool,
    /// Who answers there; 0 as long as that is not known.
    node_id: u64,
    leads: bool,
    in_flight: usize,
    health: Health,
    /// Failures since the last call that was answered.
    strikes: u32,
    /// Somebody is on an errand to it.
    is_visited: bool,
    /// It does not say who it is.
    is_unknown: bool,
}

/// The better, the less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Well,
    /// Passed over until then.
    Unfit(Instant),
    /// Left until it answers a question, which is due then.
    Failed(Instant),
    /// Named by a list and never heard of. The question is due then.
    Unproven(Instant),
}

impl Routes {
    /// Routes to the endpoints that are given, each once. They are taken for well.
    pub(crate) fn new(given: impl IntoIterator<Item = String>, given_only: bool) -> Self {
        let mut routes = Self {
            nodes: BTreeMap::new(),
            last: NodeRef(0),
            given_only,
            leader_id: 0,
            has_list: false,
            refresh_at: None,
            refreshed: None,
            asked: NodeRef(0),
        };
        for address in given {
            if routes.nodes.values().all(|node| node.address != address) {
                routes.add(address, true, Health::Well);
            }
        }
        routes
    }

    fn add(&mut self, address: String, is_given: bool, health: Health) {
        self.last.0 += 1;
        let node = Node {
            address,
            is_given,
            is_listed: !is_given,
            node_id: 0,
            leads: false,
            in_flight: 0,
            health,
            strikes: 0,
            is_visited: false,
            is_unknown: false,
        };
        self.nodes.insert(self.last, node);
    }

    /// Where a node is; `None` if the cluster has lost it.
    pub(crate) fn address(&self, node: NodeRef) -> Option<&str> {
        self.nodes.get(&node).map(|node| node.address.as_str())
    }

    /// Whether there is no choice: a call that goes elsewhere would come to the same node.
    pub(crate) fn is_alone(&self) -> bool {
        self.nodes.values().filter(|node| node.is_proven()).count() < 2
    }

    /// Whom to ask, and counts the call as under way there. `None` if everybody worth it was tried: then a pause is due, and
    /// a new round in which nobody was tried yet. `draw` decides between equals.
    pub(crate) fn pick(&mut self, want: Want, tried: &[NodeRef], now: Instant, draw: u64) -> Option<NodeRef> {
        // Endpoints that are no member's address may be a detour (a balancer, a proxy): for when no member is reached.
        let has_direct = self.nodes.values().any(|node| node.is_listed && node.is_well(now));
        let has_served = self.nodes.values().any(|node| matches!(node.health, Health::Well | Health::Unfit(_)));
        let mut lot = draw;
        let place = |(at, node): &(&NodeRef, &Node)| {
            lot = lot.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let health = if node.is_well(now) { Health::Well } else { node.health };
            match want {
                Want::Write => (health, has_direct && !node.is_listed, !node.leads, node.in_flight, false, lot >> 33),
                Want::Read => (health, has_direct && !node.is_listed, false, node.in_flight, node.leads, lot >> 33),
                Want::Given => (health, false, false, 0, false, at.0),
            }
        };
        let may_serve = |(at, node): &(&NodeRef, &Node)| {
            let is_meant = match want {
                Want::Given => node.is_given,
                // One that failed costs a caller's time: not while others can be asked again.
                Want::Write | Want::Read => !(has_served && matches!(node.health, Health::Failed(_))),
            };
            is_meant && node.is_proven() && !tried.contains(at)
        };
        let picked = *self.nodes.iter().filter(may_serve).min_by_key(place)?.0;
        self.nodes.get_mut(&picked)?.in_flight += 1;
        Some(picked)
    }

    /// An attempt that [`Routes::pick`] counted is over.
    pub(crate) fn ended(&mut self, at: NodeRef, ended: Ended, now: Instant) {
        if let Some(node) = self.nodes.get_mut(&at) {
            node.in_flight = node.in_flight.saturating_sub(1);
        }
        self.saw(at, ended, now);
    }

    /// Something was seen of a node, by a call that is not counted.
    pub(crate) fn saw(&mut self, at: NodeRef, ended: Ended, now: Instant) {
        let Some(node) = self.nodes.get_mut(&at) else { return };
        match ended {
            Ended::Answered => {
                node.health = Health::Well;
                node.strikes = 0;
            }
            Ended::Unfit => {
                node.health = Health::Unfit(now + UNFIT_FOR);
                node.leads = false;
                self.refresh_soon(now);
            }
            Ended::Failed => {
                node.fail(now);
                self.refresh_soon(now);
            }
            Ended::Abandoned => {}
        }
    }

    fn refresh_soon(&mut self, now: Instant) {
        let soon = self.refreshed.map_or(now, |refreshed| refreshed + REFRESH_INTERVAL_MIN);
        self.refresh_at = self.refresh_at.map(|at| at.min(soon));
    }

    /// What is due. Each errand has to be reported back.
    pub(crate) fn errands(&mut self, now: Instant) -> Vec<Errand> {
        let mut errands = Vec::new();
        if self.given_only && self.nodes.len() == 1 {
            // Nothing could come of it.
            return errands;
        }
        for (at, node) in self.nodes.iter_mut().filter(|(_, node)| !node.is_visited) {
            match node.health {
                Health::Failed(due) | Health::Unproven(due) if due <= now => errands.push(Errand::Ask(*at)),
                Health::Well if self.has_list && !node.is_listed && !node.is_unknown && node.node_id == 0 => {
                    errands.push(Errand::Identify(*at));
                }
                _ => continue,
            }
            node.is_visited = true;
        }
        if self.refresh_at.is_none_or(|at| at <= now) {
            // Not the same one as last time: its view may be old.
            let is_able = |(_, node): &(&NodeRef, &mut Node)| node.is_well(now) && !node.is_visited;
            let last = self.asked;
            let able = self.nodes.iter_mut().filter(is_able).min_by_key(|(at, _)| (**at <= last, **at));
            if let Some((at, node)) = able {
                errands.push(Errand::Ask(*at));
                node.is_visited = true;
                self.asked = *at;
                self.refreshed = Some(now);
                self.refresh_at = Some(now + REFRESH_INTERVAL);
            }
        }
        errands
    }

    /// A node answered with its server list, which is empty as long as it is in no cluster.
    pub(crate) fn answered(&mut self, at: NodeRef, list: &[Listed], now: Instant) {
        let has_leader = list.iter().any(|listed| listed.is_leader);
        if let Some(node) = self.nodes.get_mut(&at) {
            node.is_visited = false;
            node.health = if has_leader { Health::Well } else { Health::Unfit(now + UNFIT_FOR) };
        }
        if !has_leader {
            self.refresh_soon(now);
        }
        if list.is_empty() {
            return;
        }
        self.has_list = true;
        self.leader_id = list.iter().find(|listed| listed.is_leader).map_or(0, |leader| leader.node_id);
        for node in self.nodes.values_mut() {
            let listed = list.iter().find(|listed| listed.address == node.address);
            node.is_listed = listed.is_some();
            if let Some(listed) = listed {
                node.node_id = listed.node_id;
            }
            let leads = listed.is_some_and(|listed| listed.is_leader);
            node.leads = leads || (node.node_id != 0 && node.node_id == self.leader_id);
        }
        if self.given_only {
            return;
        }
        self.nodes.retain(|_, node| node.is_given || node.is_listed);
        for listed in list {
            if self.nodes.values().all(|node| node.address != listed.address) {
                self.add(listed.address.clone(), false, Health::Unproven(now));
                self.nodes.entry(self.last).and_modify(|node| {
                    node.node_id = listed.node_id;
                    node.leads = listed.is_leader;
                });
            }
        }
    }

    /// A node said who it is.
    pub(crate) fn identified(&mut self, at: NodeRef, node_id: u64) {
        if let Some(node) = self.nodes.get_mut(&at) {
            node.is_visited = false;
            node.node_id = node_id;
            node.leads |= node_id != 0 && node_id == self.leader_id;
        }
    }

    /// An errand came to nothing.
    pub(crate) fn failed(&mut self, at: NodeRef, now: Instant) {
        if let Some(node) = self.nodes.get_mut(&at) {
            node.is_visited = false;
            node.fail(now);
            self.refresh_soon(now);
        }
    }

    /// A node answered that it does not say who it is. It is not asked again.
    pub(crate) fn stayed_unknown(&mut self, at: NodeRef) {
        if let Some(node) = self.nodes.get_mut(&at) {
            node.is_visited = false;
            node.is_unknown = true;
        }
    }
}

impl Node {
    fn is_well(&self, now: Instant) -> bool {
        match self.health {
            Health::Well => true,
            Health::Unfit(until) => until <= now,
            Health::Failed(_) | Health::Unproven(_) => false,
        }
    }

    fn is_proven(&self) -> bool {
        !matches!(self.health, Health::Unproven(_))
    }

    fn fail(&mut self, now: Instant) {
        let doubled = PROBE_AFTER_MIN.saturating_mul(1 << self.strikes.min(10)).min(PROBE_AFTER_MAX);
        self.strikes = self.strikes.saturating_add(1);
        self.health = match self.health {
            Health::Unproven(_) => Health::Unproven(now + doubled),
            _ => Health::Failed(now + doubled),
        };
        if !self.is_listed {
            // Behind such an address may be another node next time.
            self.node_id = 0;
            self.leads = false;
        }
    }
}
