//! The invariants that hold at every moment of a run, checked against what nodes say, apply, and have on their disks.
//!
//! - A term has one leader, and a voter votes once in it.
//! - The same term and index is the same entry, whoever sends it (log matching).
//! - What was applied at an index never changes, and is the same on every node.
//! - The state after an index is the same on every node, live, replayed or from a snapshot: its hash is that of a
//!   reference that applies the entries in their order.
//! - What a node says to have, a granted vote or entries up to a position, would be there if its power failed now.
//! - A node that starts again has the entries that it last said to have, unless a later leader may have had them dropped.
//! - An acknowledged write, and an acknowledged change of the membership, would be there on a majority of the voters if
//!   the power of all of them failed now.
//!
//! The reference also yields the committed writes for the recorder, in the order of their revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mokv_check::Change;
use mokv_proto::internal::{self, AppendRequest, AppendResponse, VoteRequest, VoteResponse, append_response};
use mokv_server::command::{Command, Op, Outcome, OutcomeResult};
use mokv_server::disk::sim::SimDisk;
use mokv_server::node::Node;
use mokv_server::peer_service::PeerService;
use mokv_server::raft::Role;
use mokv_server::raft::log::{Log, LogOptions};
use mokv_server::raft::types::{
    Entry, LogId, Membership, NodeId, StoredMembership, Vote, entry_from_proto, entry_to_proto, log_id,
    log_id_from_proto, membership_from_proto, stored_membership_to_proto, vote_from_proto,
};
use mokv_server::runtime::{DiskTasks, Tasks};
use mokv_server::snapshot::Snapshots;
use mokv_server::store::{Position, StateHash, Store};
use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, RaftLogReader};
use prost::Message;
use rand::RngExt;
use rand::rngs::SmallRng;
use xxhash_rust::xxh3::xxh3_64;

use crate::cluster::left_behind;
use crate::net::harness;
use crate::recorder::Recorder;
use crate::trace::Trace;

/// Of what nodes claim to have, one in so many is compared with their disks: each costs a recovery.
const CLAIMS_CHECKED: f64 = 1.0 / 48.0;
const ACKNOWLEDGED_CHECKED: f64 = 1.0 / 24.0;

/// Watches a run. Cheap to clone; clones are the same observer.
#[derive(Clone)]
pub struct Observer {
    trace: Trace,
    recorder: Recorder,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: SmallRng,
    /// By term.
    leaders: BTreeMap<u64, NodeId>,
    /// By term and voter.
    votes: BTreeMap<(u64, NodeId), NodeId>,
    /// What was sent, by index and term.
    sent: BTreeMap<(u64, u64), u64>,
    /// The memberships that were sent, by index and term.
    memberships_sent: BTreeMap<(u64, u64), Membership>,
    /// The disks that count. One that was put in the place of such a disk, or is a copy of it, does not.
    disks: BTreeMap<NodeId, Machine>,
    /// By host: the disk of the node that started there last.
    by_host: BTreeMap<usize, Machine>,
    /// What each node said last to have on its disk.
    claims: BTreeMap<NodeId, LogId>,
    /// The latest term in which somebody sent entries.
    last_term: u64,
    reference: Reference,
}

/// Where a node keeps its data.
#[derive(Clone)]
struct Machine {
    disk: SimDisk,
    log_dir: PathBuf,
    snapshot_dir: PathBuf,
}

/// The committed log, applied once more, in one place.
struct Reference {
    store: Store,
    /// By index.
    applied: BTreeMap<u64, Applied>,
    /// The index at which each revision was taken.
    revisions: BTreeMap<u64, u64>,
    membership: StoredMembership,
}

#[derive(Clone, Copy)]
struct Applied {
    term: u64,
    entry: u64,
    state: StateHash,
    revision: u64,
}

/// What a disk has, if the power fails now.
struct Survivor {
    vote: Option<Vote>,
    entries: BTreeMap<u64, u64>,
    /// Entries up to here are in a snapshot.
    snapshot: Option<LogId>,
}

impl Survivor {
    fn has(&self, id: &LogId) -> bool {
        self.entries.get(&id.index) == Some(&id.leader_id.term)
            || self.snapshot.is_some_and(|snapshot| snapshot.index >= id.index)
    }
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(rng: SmallRng, trace: Trace, recorder: Recorder) -> Self {
        let reference = Reference {
            store: Store::new(),
            applied: BTreeMap::new(),
            revisions: BTreeMap::new(),
            membership: StoredMembership::default(),
        };
        let state = State {
            rng,
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            sent: BTreeMap::new(),
            memberships_sent: BTreeMap::new(),
            disks: BTreeMap::new(),
            by_host: BTreeMap::new(),
            claims: BTreeMap::new(),
            last_term: 0,
            reference,
        };
        Self { trace, recorder, state: Arc::new(Mutex::new(state)) }
    }

    /// A node has started on this host's disk. `is_old`: which is not the newest that it had.
    pub fn started(&self, node: &Node, host: usize, disk: &SimDisk, is_old: bool) {
        let machine = Machine {
            disk: disk.clone(),
            log_dir: node.data_dir().log_dir(),
            snapshot_dir: node.data_dir().snapshot_dir(),
        };
        let mut state = self.state();
        state.by_host.insert(host, machine.clone());
        if is_old {
            return;
        }
        state.disks.insert(node.node_id(), machine);
        let Some(claim) = state.claims.get(&node.node_id()) else { return };
        let last = node.log().last();
        if claim.leader_id.term == state.last_term && last < Some(*claim) {
            self.trace.violate(format_args!(
                "node {} said that entry {claim} is on its disk, and starts again with {last:?}",
                node.node_id()
            ));
        }
    }

    /// The newest revision that is known to be committed.
    pub fn revision(&self) -> u64 {
        self.state().reference.store.stats().revision
    }

    /// Whether all was seen that these nodes have applied. An entry is missed when the only node that applied it drops it
    /// from its log before it was read here.
    pub fn has_seen_all(&self, nodes: &[Node]) -> bool {
        let next = self.state().reference.next();
        nodes.iter().all(|node| node.store().stats().applied.is_none_or(|applied| applied.index < next))
    }

    /// The voters of each part of the membership that was applied last.
    pub fn voters(&self) -> Vec<BTreeSet<NodeId>> {
        self.state().reference.membership.membership().get_joint_config().clone()
    }

    /// A leader sends entries.
    pub(crate) fn append(&self, from: usize, request: &AppendRequest) {
        let Some(vote) = &request.vote else { return };
        self.leads(vote.term, vote.node_id);
        let mut state = self.state();
        state.last_term = state.last_term.max(vote.term);
        for entry in &request.entries {
            let Some(id) = entry.log_id else { continue };
            if let Some(internal::entry::Payload::Membership(membership)) = &entry.payload {
                match membership_from_proto(membership.clone()) {
                    Ok(membership) => drop(state.memberships_sent.insert((id.index, id.term), membership)),
                    Err(error) => self.trace.violate(format_args!("host {from} sends no membership: {error}")),
                }
            }
            let hash = entry_hash(entry);
            let first = *state.sent.entry((id.index, id.term)).or_insert(hash);
            if first != hash {
                self.trace
                    .violate(format_args!("host {from} sends another entry {}.{} than before", id.term, id.index));
            }
        }
    }

    /// A follower says up to where its log is that of the leader, and on its disk.
    pub(crate) fn append_answer(&self, node_id: NodeId, host: usize, answer: &AppendResponse) {
        let Some(append_response::Result::Matched(matched)) = &answer.result else { return };
        let Some(claimed) = matched.log_id.as_ref().map(log_id_from_proto) else { return };
        let mut state = self.state();
        state.claims.insert(node_id, claimed);
        if !state.rng.random_bool(CLAIMS_CHECKED) {
            return;
        }
        let Some(machine) = state.by_host.get(&host) else { return };
        let image = machine.without_power();
        drop(state);
        let observer = self.clone();
        harness(async move {
            match image.recover().await {
                Ok(survivor) if survivor.has(&claimed) => {}
                Ok(survivor) => observer.trace.violate(format_args!(
                    "node {node_id} says that entry {claimed} is on its disk, where entries end with {:?}",
                    survivor.entries.last_key_value()
                )),
                Err(error) => observer.trace.violate(format_args!("node {node_id} would not start again: {error}")),
            }
        });
    }

    /// A voter has decided. The answer is on its way only after this.
    pub(crate) async fn vote(&self, service: &PeerService, host: usize, request: &VoteRequest, answer: &VoteResponse) {
        let (Some(asked), true) = (&request.vote, answer.granted && !request.pre_vote) else { return };
        let voter = service.node().node_id();
        let image = {
            let mut state = self.state();
            let first = *state.votes.entry((asked.term, voter)).or_insert(asked.node_id);
            if first != asked.node_id {
                self.trace.violate(format_args!(
                    "node {voter} votes for {} and for {first} in term {}",
                    asked.node_id, asked.term
                ));
            }
            let Some(machine) = state.by_host.get(&host) else { return };
            machine.without_power()
        };
        let asked = vote_from_proto(asked);
        // Between its vote and the answer a voter may have learned who leads in this term: then it votes for nobody else.
        let is_bound = |vote: Vote| {
            let same_term = vote.leader_id.term == asked.leader_id.term;
            vote.leader_id >= asked.leader_id || same_term && vote.committed
        };
        match image.recover().await {
            Ok(survivor) if survivor.vote.is_some_and(is_bound) => {}
            Ok(survivor) => self.trace.violate(format_args!(
                "node {voter} grants a vote in term {} which its disk does not have: {:?}",
                asked.leader_id.term, survivor.vote
            )),
            Err(error) => self.trace.violate(format_args!("voter {voter} would not start again: {error}")),
        }
    }

    /// A client was told that its write took this revision.
    pub(crate) async fn acknowledged(&self, revision: u64) {
        let (id, images) = {
            let mut state = self.state();
            if !state.rng.random_bool(ACKNOWLEDGED_CHECKED) {
                return;
            }
            let reference = &state.reference;
            let Some(index) = reference.revisions.get(&revision) else { return };
            let Some(applied) = reference.applied.get(index) else { return };
            let settled = reference.membership.log_id().map_or(0, |id| id.index);
            let configs = reference.membership.membership().get_joint_config();
            // While the membership changes, which majority counts depends on what the leader's log says.
            let last_sent = state.memberships_sent.last_key_value().map_or(0, |((index, _), _)| *index);
            if configs.len() != 1 || last_sent > settled || settled > *index {
                return;
            }
            let images: Vec<Option<Machine>> =
                configs[0].iter().map(|id| state.disks.get(id).map(Machine::without_power)).collect();
            (log_id(applied.term, *index), images)
        };
        let (survivors, voters) = (survivors_with(&id, &images).await, images.len());
        self.trace.count("check.durable on a majority");
        if survivors <= voters / 2 {
            self.trace.violate(format_args!(
                "revision {revision}, entry {id}, was acknowledged and is on {survivors} of {voters} disks"
            ));
        }
    }

    /// An operator was told that this node is a voter now, or no member any more.
    pub(crate) async fn membership_changed(&self, node_id: NodeId, is_voter: bool) {
        let says_so = |membership: &Membership| {
            let configs = membership.get_joint_config();
            configs.len() == 1 && configs[0].contains(&node_id) == is_voter
        };
        let candidates: Vec<(LogId, Vec<Option<Machine>>)> = {
            let state = self.state();
            let applied = &state.reference.membership;
            if says_so(applied.membership()) {
                return;
            }
            let settled = applied.log_id().map_or(0, |id| id.index);
            let newer = state.memberships_sent.range((settled + 1, 0)..).filter(|(_, membership)| says_so(membership));
            let machine = |id: &NodeId| state.disks.get(id).map(Machine::without_power);
            newer
                .map(|((index, term), membership)| {
                    (log_id(*term, *index), membership.get_joint_config()[0].iter().map(machine).collect())
                })
                .collect()
        };
        for (id, images) in candidates {
            if survivors_with(&id, &images).await > images.len() / 2 {
                return;
            }
        }
        self.trace.violate(format_args!(
            "a change of node {node_id} was said to be done, and no membership with it is on a majority of disks"
        ));
    }

    /// A node has applied entries, `seen` being the last one that was looked at.
    pub(crate) async fn applied(&self, node: &Node, seen: &mut u64) {
        let leadership = node.raft().leadership().borrow().clone();
        if leadership.role == Role::Leader {
            self.leads(leadership.term, node.node_id());
        }
        let Some(applied) = node.store().stats().applied else { return };
        let mut reader = node.log().clone().get_log_reader().await;
        let first = match *seen {
            // A log begins with 0.
            0 => 0,
            seen => seen + 1,
        };
        // A node that is about to end may not answer any more.
        let entries = reader.try_get_log_entries(first..applied.index + 1).await.unwrap_or_default();
        // After a snapshot was installed, the log may still have what the snapshot replaces. If it has the entry that was
        // applied last, those before it are the ones that were applied.
        let is_of_log = entries.last().is_some_and(|last| last.log_id == log_id(applied.term, applied.index));
        for entry in entries.iter().filter(|_| is_of_log) {
            self.committed(node.node_id(), entry);
        }
        *seen = applied.index;
        self.compare_state(node);
    }

    /// Whether the node's state is what the committed entries make it.
    pub(crate) fn compare_state(&self, node: &Node) {
        let stats = node.store().stats();
        let state = self.state();
        let Some(position) = stats.applied else { return };
        let Some(expected) = state.reference.applied.get(&position.index).copied() else { return };
        drop(state);
        if (expected.term, expected.state, expected.revision) != (position.term, stats.state_hash, stats.revision) {
            self.trace.violate(format_args!(
                "node {} has another state at entry {}.{}: {} at revision {} instead of {} at revision {}",
                node.node_id(),
                position.term,
                position.index,
                stats.state_hash,
                stats.revision,
                expected.state,
                expected.revision
            ));
        }
    }

    fn leads(&self, term: u64, node_id: NodeId) {
        let mut state = self.state();
        let first = *state.leaders.entry(term).or_insert_with(|| {
            self.trace.note(format_args!("node {node_id} leads in term {term}"));
            self.trace.count("leaders");
            node_id
        });
        if first != node_id {
            self.trace.violate(format_args!("nodes {first} and {node_id} both lead in term {term}"));
        }
    }

    fn committed(&self, node_id: NodeId, entry: &Entry) {
        let mut state = self.state();
        let encoded = entry_to_proto(entry);
        let hash = entry_hash(&encoded);
        let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
        if state.sent.get(&(index, term)).is_some_and(|sent| *sent != hash) {
            self.trace.violate(format_args!("node {node_id} applies another entry {term}.{index} than was sent"));
        }
        if let Some(known) = state.reference.applied.get(&index) {
            if (known.term, known.entry) != (term, hash) {
                self.trace.violate(format_args!(
                    "node {node_id} applies {term}.{index} where another node applied {}.{index}",
                    known.term
                ));
            }
            return;
        }
        // Entries that only another node has so far come first.
        if state.reference.next() != index {
            return;
        }
        // What this decodes to is what was encoded, or entries would not survive a disk.
        let Ok(entry) = entry_from_proto(encoded) else {
            return self.trace.violate(format_args!("entry {term}.{index} can't be decoded"));
        };
        for (revision, changes, request) in state.reference.apply(&entry, hash) {
            self.recorder.commit(revision, changes, request);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write: its revision, what it changed, and its request id.
type Write = (u64, Vec<Change>, Option<(u64, u64)>);

impl Reference {
    fn next(&self) -> u64 {
        self.applied.last_key_value().map_or(0, |(index, _)| index + 1)
    }

    fn apply(&mut self, entry: &Entry, hash: u64) -> Vec<Write> {
        let at = Position { term: entry.log_id.leader_id.term, index: entry.log_id.index };
        let mut writes = Vec::new();
        match &entry.payload {
            EntryPayload::Blank => self.store.apply_blank(at),
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                let members: Vec<NodeId> = membership.nodes().map(|(id, _)| *id).collect();
                let encoded = stored_membership_to_proto(&stored).encode_to_vec();
                self.store.apply_membership(at, encoded.into(), &members);
                self.membership = stored;
            }
            EntryPayload::Normal(batch) => {
                let (log_time, commands) = batch.decode().expect("a batch that was applied");
                let mut last = self.store.stats().revision;
                let outcomes = self.store.apply(at, log_time, &commands).expect("commands that were applied");
                for (command, outcome) in commands.iter().zip(&outcomes) {
                    if let Some((revision, change)) = effect(command, outcome).filter(|(revision, _)| *revision > last)
                    {
                        last = revision;
                        self.revisions.insert(revision, at.index);
                        let request = command.id.map(|id| (id.client_id, id.sequence));
                        writes.push((revision, vec![change], request));
                    }
                }
            }
        }
        let stats = self.store.stats();
        let applied = Applied { term: at.term, entry: hash, state: stats.state_hash, revision: stats.revision };
        self.applied.insert(at.index, applied);
        writes
    }
}

/// The revision that an outcome names and what was changed at it. A repeated outcome names an old revision.
fn effect(command: &Command, outcome: &Outcome) -> Option<(u64, Change)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match (command.op.as_ref()?, outcome.result.as_ref()?) {
        (Op::Set(set), OutcomeResult::Set(done)) => {
            Some((done.revision, Change::Put { key: text(&set.key), value: text(&set.value) }))
        }
        (Op::Delete(delete), OutcomeResult::Delete(done)) if done.existed => {
            Some((done.revision, Change::Delete { key: text(&delete.key) }))
        }
        _ => None,
    }
}

fn entry_hash(entry: &internal::Entry) -> u64 {
    xxh3_64(&entry.encode_to_vec())
}

/// How many of these disks have an entry. One that can't be read has none.
async fn survivors_with(id: &LogId, images: &[Option<Machine>]) -> usize {
    let mut survivors = 0;
    for image in images.iter().flatten() {
        survivors += usize::from(image.recover().await.is_ok_and(|survivor| survivor.has(id)));
    }
    survivors
}

impl Machine {
    /// The machine after its power failed and nothing that was pending had reached the disk.
    fn without_power(&self) -> Self {
        Self { disk: left_behind(self.disk.crash(|_| false)), ..self.clone() }
    }

    /// Reads the disk as a starting node does.
    async fn recover(&self) -> Result<Survivor, String> {
        let tasks = Tasks::new(0, DiskTasks::Inline);
        let survivor = self.read(&tasks).await;
        tasks.abort();
        survivor
    }

    async fn read(&self, tasks: &Tasks) -> Result<Survivor, String> {
        let disk = Arc::new(self.disk.clone());
        let options = LogOptions { segment_bytes: 0, cache_bytes_max: u64::MAX };
        let log =
            Log::open(tasks, disk.clone(), self.log_dir.clone(), options).await.map_err(|error| error.to_string())?;
        let snapshots =
            Snapshots::open(tasks, disk, self.snapshot_dir.clone()).await.map_err(|error| error.to_string())?;
        let mut reader = log.clone().get_log_reader().await;
        let entries = reader.try_get_log_entries(..).await.map_err(|error| error.to_string())?;
        Ok(Survivor {
            vote: reader.read_vote().await.map_err(|error| error.to_string())?,
            entries: entries.iter().map(|entry| (entry.log_id.index, entry.log_id.leader_id.term)).collect(),
            snapshot: snapshots.latest().map(|snapshot| log_id_from_proto(&snapshot.last_log_id)),
        })
    }
}
