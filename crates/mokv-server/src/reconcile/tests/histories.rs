//! Random histories: whatever happens, no plan costs the quorum, and in the end all is as it should be.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::model::{World, name};
use crate::discovery::PeerState;
use crate::raft::types::NodeId;
use crate::reconcile::Change;

/// Machines; as many as make the cap and even numbers matter.
const MACHINES: u64 = 9;

const GRACE: Duration = Duration::from_secs(600);

/// By then a leader does not count on a voter any more of which it has heard nothing.
const NOTICED: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
enum Event {
    /// A machine's node is started, with the disk that it had.
    Start(u64),
    /// It dies.
    Crash(u64),
    /// It dies, and starts again on an empty disk.
    Wipe(u64),
    /// It leaves for good.
    Leave(u64),
    /// Gossip forgets who is not up.
    Reap,
    /// It gets another address.
    Move(u64),
    /// Those that lack data get it.
    CatchUp,
    /// Another healthy voter leads.
    Transfer(u64),
    Pass(Duration),
}

fn event() -> impl Strategy<Value = Event> {
    let machine = || 0..MACHINES;
    prop_oneof![
        6 => machine().prop_map(Event::Start),
        4 => machine().prop_map(Event::Crash),
        1 => machine().prop_map(Event::Wipe),
        1 => machine().prop_map(Event::Leave),
        1 => Just(Event::Reap),
        1 => machine().prop_map(Event::Move),
        3 => Just(Event::CatchUp),
        1 => machine().prop_map(Event::Transfer),
        4 => prop_oneof![1..30_000_u64, Just(601_000)].prop_map(|ms| Event::Pass(Duration::from_millis(ms))),
    ]
}

struct History {
    world: World,
    /// Which node each machine has.
    nodes: Vec<NodeId>,
    next_id: NodeId,
}

impl History {
    fn new() -> Self {
        let mut world = World::new(&[1]);
        // The name is the machine's: that of its first node.
        world.policy.voters_max = 5;
        Self { world, nodes: (1..=MACHINES).collect(), next_id: 100 }
    }

    fn name(machine: u64) -> String {
        name(machine + 1)
    }

    fn is_up(&self, id: NodeId) -> bool {
        self.world.is_healthy(id)
    }

    fn happen(&mut self, event: &Event) {
        let world = &mut self.world;
        match event {
            Event::Start(machine) => {
                let id = self.nodes[*machine as usize];
                let is_left = world.peers.get(&Self::name(*machine)).is_some_and(|peer| peer.state == PeerState::Left);
                if is_left {
                    return self.happen(&Event::Wipe(*machine));
                }
                if !self.is_up(id) {
                    self.world.up_as(id, &Self::name(*machine));
                }
            }
            Event::Crash(machine) | Event::Leave(machine) => {
                let id = self.nodes[*machine as usize];
                let has_left = matches!(event, Event::Leave(_));
                if self.is_up(id) {
                    self.world.set_state(id, if has_left { PeerState::Left } else { PeerState::Failed });
                }
            }
            Event::Wipe(machine) => {
                let old = self.nodes[*machine as usize];
                let now = world.now;
                world.silent.entry(old).or_insert(now);
                self.next_id += 1;
                self.nodes[*machine as usize] = self.next_id;
                world.behind.insert(self.next_id);
                world.up_as(self.next_id, &Self::name(*machine));
            }
            Event::Reap => world.peers.retain(|_, peer| peer.state == PeerState::Alive),
            Event::Move(machine) => {
                let id = self.nodes[*machine as usize];
                if self.is_up(id) {
                    self.world.tags(id).rpc_addr.push('0');
                }
            }
            Event::CatchUp => world.behind.clear(),
            Event::Transfer(machine) => {
                let id = self.nodes[*machine as usize];
                if self.is_up(id) && self.world.voters().contains(&id) {
                    self.world.leader = id;
                }
            }
            Event::Pass(time) => world.pass(*time),
        }
        self.elect();
    }

    /// A leader that is gone is replaced by whoever can lead.
    fn elect(&mut self) {
        let voters = self.world.voters();
        if !(self.is_up(self.world.leader) && voters.contains(&self.world.leader))
            && let Some(heir) = voters.into_iter().find(|id| self.is_up(*id))
        {
            self.world.leader = heir;
        }
    }

    fn has_quorum(&self) -> bool {
        let voters = self.world.voters();
        self.is_up(self.world.leader) && voters.iter().filter(|id| self.is_up(**id)).count() > voters.len() / 2
    }

    /// What follows from what happened, step by step.
    fn follow(&mut self) {
        let mut seen = vec![self.world.members.clone()];
        loop {
            if !self.is_up(self.world.leader) {
                return;
            }
            if !self.has_quorum() {
                // Until the leader has noticed it may ask for what nobody can commit.
                self.world.pass(NOTICED);
                return assert_eq!(self.world.change(), None, "nobody could commit it");
            }
            let Some(change) = self.world.change() else { return };
            self.check(&change);
            self.world.apply(&change);
            assert!(self.has_quorum(), "{change:?} cost the quorum");
            assert!(self.world.voters().len() <= self.world.policy.voters_max);
            assert!(!seen.contains(&self.world.members), "in a circle, with {change:?}");
            seen.push(self.world.members.clone());
        }
    }

    fn check(&self, change: &Change) {
        let world = &self.world;
        match change {
            Change::Voters { promote, remove, demote } => {
                for id in promote {
                    assert!(self.is_up(*id) && !world.behind.contains(id), "{id} can't vote yet");
                }
                remove.iter().for_each(|id| self.check_removal(*id));
                assert!(!demote.contains(&world.leader) && !remove.contains(&world.leader));
            }
            Change::RemoveLearner(id) => self.check_removal(*id),
            Change::AddLearner(id, _) => assert!(self.is_up(*id)),
            Change::UpdateInfo(..) => {}
            Change::FinishJoint { .. } | Change::HandOver => panic!("nothing was interrupted: {change:?}"),
        }
    }

    /// Nobody is removed who is up, or who failed a short time ago, unless it has left or came back as another.
    fn check_removal(&self, id: NodeId) {
        assert!(!self.is_up(id), "{id} is up");
        let world = &self.world;
        let silent_for = world.now - world.silent[&id];
        let peer = world.peers.get(&world.members[&id].info.name);
        let is_replaced = peer.is_some_and(|peer| peer.tags.as_ref().is_none_or(|tags| tags.node_id != id));
        let has_left = peer.is_some_and(|peer| peer.state == PeerState::Left);
        assert!(is_replaced || has_left || silent_for >= GRACE, "{id} is silent for {silent_for:?} only");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_plan_costs_the_quorum_and_all_is_well_in_the_end(events in proptest::collection::vec(event(), 1..120)) {
        let mut history = History::new();
        history.follow();
        for event in &events {
            history.happen(event);
            history.follow();
        }
        // From here on all machines are up, and have been for a while.
        for machine in 0..MACHINES {
            history.happen(&Event::Start(machine));
        }
        for calm in [Duration::from_secs(10), 2 * GRACE] {
            history.happen(&Event::Pass(calm));
            history.follow();
            history.happen(&Event::CatchUp);
            history.follow();
        }
        if history.has_quorum() {
            let members: BTreeSet<NodeId> = history.world.members.keys().copied().collect();
            let nodes: BTreeSet<NodeId> = history.nodes.iter().copied().collect();
            prop_assert_eq!(members, nodes, "everybody who is up is a member, and nobody else");
            prop_assert_eq!(history.world.voters().len(), history.world.policy.voters_max);
        }
    }
}
