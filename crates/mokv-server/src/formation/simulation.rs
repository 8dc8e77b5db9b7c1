//! The rules of formation under faults, from a seed: nodes that start late, crash, lose their disks, are cut off; messages
//! that are lost, late, out of order; gossip that is out of date.
//!
//! At every moment: of clusters with a founder in common at most one ever had a majority, or is on a disk; and of fewer than
//! two times as many disks as a cluster needs, one cluster came. In the end, when the faults are over: one cluster, with all its founders in it, and no promise is left.

// What came of the runs is for people, and the seed of one that failed.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Bound;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::core::{Me, Mode, Question, Sighting, Standing, Step, View, take};
use crate::identity::Identity;
use crate::identity::promise::Proposal;
use crate::raft::types::NodeId;

/// Milliseconds.
type Time = u64;

/// Between two rounds, and as long as one takes if somebody does not answer.
const TICK: Time = 250;
const ROUND: Time = 1000;

/// Faults end here.
const FAULTS_UNTIL: Time = 20_000;

/// By then there is a cluster.
const END: Time = 60_000;

struct Plan {
    nodes: usize,
    expect: usize,
    /// Chances: of a message to be lost, of a node to do something bad within a second, and that it loses its disk then.
    loss: f64,
    crash: f64,
    wipe: f64,
    /// Whether disks that were lost may come back.
    returns: bool,
    delay_max: Time,
    /// The last nodes start only so late.
    late: usize,
    late_start: Time,
}

impl Plan {
    fn random(rng: &mut SmallRng) -> Self {
        let expect = rng.random_range(2..=5);
        let nodes = rng.random_range(expect..2 * expect);
        Self {
            nodes,
            expect,
            loss: *pick(rng, &[0.0, 0.05, 0.3]),
            crash: *pick(rng, &[0.0, 0.05, 0.3]),
            wipe: *pick(rng, &[0.0, 0.0, 0.3]),
            returns: rng.random_bool(0.3),
            delay_max: *pick(rng, &[2, 50, 400]),
            late: rng.random_range(0..=nodes - 1),
            late_start: rng.random_range(0..FAULTS_UNTIL),
        }
    }
}

fn pick<'a, T>(rng: &mut SmallRng, from: &'a [T]) -> &'a T {
    &from[rng.random_range(0..from.len())]
}

#[derive(Debug)]
enum Event {
    Start(usize),
    Tick(usize, u64),
    Asked {
        from: usize,
        life: u64,
        round: u64,
        to: usize,
        question: Question,
    },
    Answered {
        to: usize,
        life: u64,
        round: u64,
        standing: Standing,
    },
    RoundEnds(usize, u64, u64),
    /// Consensus has the membership.
    Initialized(usize, u64),
    /// A cluster takes in a node.
    Adopted {
        node: usize,
        life: u64,
        cluster_id: String,
    },
    Trouble,
}

struct Node {
    me: Me,
    disk: Identity,
    /// Number of its run; the old one's messages go nowhere.
    life: u64,
    is_running: bool,
    round: u64,
    asked: usize,
    answers: Vec<Standing>,
    decided_for: Identity,
    seen: Vec<Sighting>,
}

struct World {
    rng: SmallRng,
    plan: Plan,
    now: Time,
    events: BinaryHeap<Reverse<(Time, u64)>>,
    due: BTreeMap<u64, Event>,
    numbers: u64,
    nodes: Vec<Node>,
    /// (from, to): nothing gets through.
    cut: BTreeSet<(usize, usize)>,
    /// What was formed, ever; and who was in it, ever.
    formed: BTreeMap<String, (Proposal, BTreeSet<NodeId>)>,
    disks: usize,
    /// With the node that each was that of.
    lost: Vec<(usize, Identity)>,
    rescued: usize,
}

/// What came of a run.
#[derive(Debug, Default)]
struct Tally {
    formed: usize,
    formed_at: Time,
    disks_lost: usize,
    rescued: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::random(&mut rng);
        let mut world = Self {
            plan,
            now: 0,
            events: BinaryHeap::new(),
            due: BTreeMap::new(),
            numbers: 0,
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            formed: BTreeMap::new(),
            disks: 0,
            lost: Vec::new(),
            rescued: 0,
            rng,
        };
        for index in 0..world.plan.nodes {
            let (name, rpc_addr) = (format!("node-{index}"), format!("host-{index}:8400"));
            let disk = world.new_disk();
            world.nodes.push(Node {
                me: Me { name, rpc_addr, mode: Mode::Expect(world.plan.expect) },
                decided_for: disk.clone(),
                disk,
                life: 0,
                is_running: false,
                round: 0,
                asked: 0,
                answers: Vec::new(),
                seen: Vec::new(),
            });
            let is_late = index >= world.plan.nodes - world.plan.late;
            let begins = if is_late { world.plan.late_start } else { 0 };
            let at = begins + world.rng.random_range(0..500);
            world.at(at, Event::Start(index));
        }
        world.at(500, Event::Trouble);
        world
    }

    fn new_disk(&mut self) -> Identity {
        self.disks += 1;
        let node_id = self.rng.random();
        Identity::new(node_id, String::new())
    }

    fn at(&mut self, time: Time, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((time, self.numbers)));
        self.due.insert(self.numbers, event);
    }

    fn send(&mut self, from: usize, to: usize, event: Event) {
        let is_lost = self.now < FAULTS_UNTIL && self.plan.loss > 0.0 && self.rng.random_bool(self.plan.loss);
        if !is_lost && !self.cut.contains(&(from, to)) {
            let delay = self.rng.random_range(0..=self.plan.delay_max);
            self.at(self.now + delay, event);
        }
    }

    fn run(mut self) -> Tally {
        let mut formed_at = 0;
        while let Some(Reverse((time, number))) = self.events.pop().filter(|Reverse((time, _))| *time < END) {
            self.now = time;
            let event = self.due.remove(&number).expect("each once");
            self.handle(event);
            self.check();
            if formed_at == 0 && !self.formed.is_empty() {
                formed_at = self.now;
            }
        }
        self.check_end();
        Tally { formed: self.formed.len(), formed_at, disks_lost: self.disks - self.plan.nodes, rescued: self.rescued }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start(index) => self.start(index),
            Event::Tick(index, life) if self.lives(index, life) => self.begin_round(index),
            Event::Asked { from, life, round, to, question } if self.nodes[to].is_running => {
                let sees_cluster = self.nodes[to].seen.iter().any(|peer| peer.cluster_id.is_some());
                let node = &mut self.nodes[to];
                take(&node.me, &mut node.disk, question, sees_cluster);
                let (standing, its_life) = (node.me.standing(&node.disk), node.life);
                self.note(to);
                if standing.cluster_id.is_some() {
                    self.at(self.now + 100, Event::Initialized(to, its_life));
                }
                self.send(to, from, Event::Answered { to: from, life, round, standing });
            }
            Event::Answered { to, life, round, standing } if self.lives(to, life) && self.nodes[to].round == round => {
                self.nodes[to].answers.push(standing);
                if self.nodes[to].answers.len() == self.nodes[to].asked {
                    self.end_round(to);
                }
            }
            Event::RoundEnds(index, life, round) if self.lives(index, life) && self.nodes[index].round == round => {
                self.end_round(index);
            }
            Event::Initialized(index, life) if self.lives(index, life) => self.nodes[index].disk.pledge.promise = None,
            Event::Adopted { node, life, cluster_id } if self.lives(node, life) => self.adopt(node, cluster_id),
            Event::Trouble => self.trouble(),
            _ => {}
        }
    }

    fn lives(&self, index: usize, life: u64) -> bool {
        self.nodes[index].is_running && self.nodes[index].life == life
    }

    fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.is_running {
            return;
        }
        node.is_running = true;
        node.life += 1;
        node.seen.clear();
        let life = node.life;
        let at = self.now + self.rng.random_range(0..TICK);
        self.at(at, Event::Tick(index, life));
        if self.nodes[index].disk.cluster_id.is_some() {
            self.at(at, Event::Initialized(index, life));
        }
    }

    /// Gossip: what others are now, or were a while ago.
    fn look(&mut self, index: usize) {
        for other in 0..self.nodes.len() {
            let is_reachable = self.nodes[other].is_running
                && !self.cut.contains(&(index, other))
                && !self.cut.contains(&(other, index));
            let is_news = self.rng.random_bool(0.7);
            let there = &self.nodes[other];
            let sighting = Sighting {
                node_id: there.disk.node_id,
                name: there.me.name.clone(),
                rpc_addr: there.me.rpc_addr.clone(),
                cluster_id: there.disk.cluster_id.clone(),
                is_alive: true,
            };
            let seen = &mut self.nodes[index].seen;
            let known = seen.iter_mut().find(|peer| peer.name == sighting.name);
            match (is_reachable && is_news, known) {
                (true, Some(known)) => *known = sighting,
                (true, None) => seen.push(sighting),
                (false, Some(known)) if !is_reachable && is_news => known.is_alive = false,
                (false, _) => {}
            }
        }
    }

    fn begin_round(&mut self, index: usize) {
        let life = self.nodes[index].life;
        let next = self.now + ROUND + self.rng.random_range(0..TICK);
        self.at(next, Event::Tick(index, life));
        self.look(index);
        let node = &mut self.nodes[index];
        if node.disk.cluster_id.is_some() {
            return;
        }
        node.round += 1;
        node.answers.clear();
        node.decided_for = node.disk.clone();
        let (round, questions) = (node.round, self.with_view(index, |view| view.questions()));
        self.nodes[index].asked = questions.len();
        for (address, question) in questions {
            let to = self.nodes.iter().position(|other| other.me.rpc_addr == address).expect("an address");
            self.send(index, to, Event::Asked { from: index, life, round, to, question });
        }
        self.at(self.now + ROUND, Event::RoundEnds(index, life, round));
    }

    fn with_view<T>(&self, index: usize, with: impl FnOnce(View<'_>) -> T) -> T {
        let node = &self.nodes[index];
        with(View {
            me: &node.me,
            identity: &node.decided_for,
            sightings: &node.seen,
            has_looked: true,
            is_impatient: false,
        })
    }

    fn end_round(&mut self, index: usize) {
        // Answers that come later are to no question.
        self.nodes[index].round += 1;
        let fresh_id = format!("{:032x}", self.rng.random::<u128>());
        let step = self.with_view(index, |view| view.decide(&self.nodes[index].answers, fresh_id));
        // The process may end while the disk writes, and the disk may have it all the same.
        let dies =
            self.now < FAULTS_UNTIL && !matches!(step, Step::Wait(_)) && self.rng.random_bool(self.plan.crash / 3.0);
        if !(dies && self.rng.random_bool(0.5)) {
            let node = &mut self.nodes[index];
            let tells = matches!(step, Step::Form);
            step.carry_out(&node.decided_for, &mut node.disk);
            self.note(index);
            let life = self.nodes[index].life;
            if tells && !dies && self.nodes[index].disk.cluster_id.is_some() {
                self.tell(index);
            }
            if self.nodes[index].disk.cluster_id.is_some() {
                self.at(self.now + 100, Event::Initialized(index, life));
            }
        }
        if dies {
            self.stop(index, false);
        }
    }

    fn tell(&mut self, index: usize) {
        let Identity { node_id, cluster_id, pledge, .. } = self.nodes[index].disk.clone();
        // It may have followed another one meanwhile.
        let (Some(cluster_id), Some(promise)) = (cluster_id, pledge.promise) else { return };
        let founders = promise.proposal.founders;
        let (life, round) = (self.nodes[index].life, self.nodes[index].round);
        for founder in founders.iter().filter(|founder| founder.node_id != node_id) {
            let to = self.nodes.iter().position(|node| node.me.rpc_addr == founder.rpc_addr).expect("an address");
            let question = Question::Formed { cluster_id: cluster_id.clone(), by: node_id };
            self.send(index, to, Event::Asked { from: index, life, round, to, question });
        }
    }

    fn stop(&mut self, index: usize, loses_disk: bool) {
        self.nodes[index].is_running = false;
        if loses_disk {
            let fresh = self.new_disk();
            let lost = std::mem::replace(&mut self.nodes[index].disk, fresh);
            self.lost.push((index, lost));
        }
        let at = self.now + self.rng.random_range(0..3000);
        self.at(at, Event::Start(index));
    }

    fn trouble(&mut self) {
        if self.now >= FAULTS_UNTIL {
            self.cut.clear();
            self.rescue();
            self.at(self.now + 10_000, Event::Trouble);
            return;
        }
        self.at(self.now + 1000, Event::Trouble);
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_running && self.rng.random_bool(self.plan.crash) {
                let loses_disk = self.rng.random_bool(self.plan.wipe);
                self.stop(index, loses_disk);
            }
        }
        if self.plan.returns && !self.lost.is_empty() && self.rng.random_bool(0.3) {
            let (index, found) = self.lost.swap_remove(self.rng.random_range(0..self.lost.len()));
            let other = std::mem::replace(&mut self.nodes[index].disk, found);
            self.lost.push((index, other));
            self.stop(index, false);
        }
        if self.rng.random_bool(0.2) {
            self.cut.clear();
        }
        for _ in 0..self.rng.random_range(0..3) {
            let pair = (self.rng.random_range(0..self.nodes.len()), self.rng.random_range(0..self.nodes.len()));
            if self.rng.random_bool(self.plan.crash) {
                self.cut.insert(pair);
            }
        }
        self.take_in();
    }

    /// The leader of a cluster with a majority takes in a node.
    fn take_in(&mut self) {
        let is_up = |id: &NodeId| self.nodes.iter().any(|node| node.is_running && node.disk.node_id == *id);
        let led = self.formed.iter().find(|(_, (proposal, members))| {
            members.iter().filter(|id| proposal.founder(**id).is_some() && is_up(id)).count() >= proposal.majority()
        });
        let Some(cluster_id) = led.map(|(cluster_id, _)| cluster_id.clone()) else { return };
        let node = self.rng.random_range(0..self.nodes.len());
        let life = self.nodes[node].life;
        let at = self.now + self.rng.random_range(0..500);
        self.at(at, Event::Adopted { node, life, cluster_id });
    }

    fn adopt(&mut self, index: usize, cluster_id: String) {
        let disk = &mut self.nodes[index].disk;
        let is_free = disk.pledge.promise.as_ref().is_none_or(|promise| promise.proposal.cluster_id == cluster_id);
        if disk.cluster_id.is_none() && is_free {
            disk.cluster_id = Some(cluster_id.clone());
            disk.pledge.promise = None;
            self.formed.get_mut(&cluster_id).expect("formed").1.insert(self.nodes[index].disk.node_id);
        }
    }

    /// What the operator is told to do where most founders lost their disks.
    fn rescue(&mut self) {
        for index in 0..self.nodes.len() {
            let Some(promise) = &self.nodes[index].disk.pledge.promise else { continue };
            if promise.without.len() >= promise.proposal.majority() && self.nodes[index].disk.cluster_id.is_none() {
                self.rescued += 1;
                self.nodes[index].is_running = false;
                self.nodes[index].disk = self.new_disk();
                self.at(self.now, Event::Start(index));
            }
        }
    }

    /// Remembers what was formed.
    fn note(&mut self, index: usize) {
        let disk = &self.nodes[index].disk;
        let (Some(cluster_id), Some(promise)) = (&disk.cluster_id, &disk.pledge.promise) else { return };
        let (_, members) =
            self.formed.entry(cluster_id.clone()).or_insert_with(|| (promise.proposal.clone(), BTreeSet::new()));
        members.insert(disk.node_id);
    }

    fn check(&self) {
        let on_disks: BTreeSet<&String> = self.nodes.iter().filter_map(|node| node.disk.cluster_id.as_ref()).collect();
        let is_real = |(proposal, members): &(Proposal, BTreeSet<NodeId>)| members.len() >= proposal.majority();
        for (id, one) in &self.formed {
            for (other_id, other) in self.formed.range::<String, _>((Bound::Excluded(id), Bound::Unbounded)) {
                if !one.0.founders.iter().any(|founder| other.0.founder(founder.node_id).is_some()) {
                    continue;
                }
                assert!(!is_real(one) || !is_real(other), "two that could commit share founders: {one:#?} {other:#?}");
                let both = on_disks.contains(id) && on_disks.contains(other_id);
                assert!(!both || self.plan.returns, "two that share founders are on disks: {one:#?} {other:#?}");
            }
        }
        // One that only lost disks knew of is none.
        let is_there = |id: &String| on_disks.contains(id) && !self.plan.returns;
        let real = self.formed.iter().filter(|(id, formed)| is_real(formed) || is_there(id)).count();
        assert!(
            self.disks >= 2 * self.plan.expect || real <= 1,
            "too few disks for {real} clusters: {:#?}",
            self.formed
        );
    }

    fn check_end(&self) {
        let in_clusters = self.nodes.iter().filter(|node| node.disk.cluster_id.is_some()).count();
        assert!(in_clusters > 0, "no cluster at the end:\n{}", self.outline());
        for node in &self.nodes {
            let identity = &node.disk;
            assert!(identity.pledge.promise.is_none(), "{} waits for ever:\n{}", node.me.name, self.outline());
            let founded = self.formed.iter().find(|(_, (proposal, members))| {
                proposal.founder(identity.node_id).is_some() && members.len() >= proposal.majority()
            });
            if let Some((cluster_id, _)) = founded {
                assert_eq!(identity.cluster_id.as_ref(), Some(cluster_id), "{}:\n{}", node.me.name, self.outline());
            }
        }
    }

    fn outline(&self) -> String {
        let line = |node: &Node| format!("{} (running: {}): {:?}\n", node.me.name, node.is_running, node.disk);
        self.nodes.iter().map(line).collect()
    }
}

/// `MOKV_FORMATION_SEED=n` runs that one alone, `MOKV_FORMATION_SEEDS=n` more of them.
#[test]
fn whatever_fails_in_between_one_cluster_comes() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("MOKV_FORMATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MOKV_FORMATION_SEEDS").unwrap_or(3000),
    };
    let mut total = Tally::default();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        let tally = run.unwrap_or_else(|panic| {
            eprintln!("failed with MOKV_FORMATION_SEED={seed}");
            std::panic::resume_unwind(panic)
        });
        total.formed += tally.formed;
        total.formed_at += tally.formed_at;
        total.disks_lost += tally.disks_lost;
        total.rescued += tally.rescued;
    }
    println!(
        "{count} runs: {} clusters formed, on average after {} ms; {} disks lost, {} nodes stuck because most founders \
         had lost theirs",
        total.formed,
        total.formed_at / count,
        total.disks_lost,
        total.rescued
    );
}
