//! Which start of a node is the newest: how a data directory that went back in time, or that two processes have copies of,
//! is noticed.
//!
//! Each start of a node adds one to its *incarnation* and draws a random *number*; both are on the disk before anybody hears
//! of the start. The numbers of the last starts, the [`Lineage`], stay on the disk too. Who knows a [`Start`] of a node can
//! therefore tell whether another one comes after it: its lineage has the known number in the known incarnation's place.
//! Counting alone would not do: an old copy that is started often enough overtakes the original.
//!
//! [`Starts`] is what a node knows: what the cluster has recorded in its log, and what this node has heard since. Every call
//! between nodes carries the caller's lineage and what the caller knows of the other node, so each side judges the other,
//! and itself.
//!
//! Left open: a copy that meets nobody who knows better is believed, and so is one that was made while its node ran and is
//! started when that node has ended: it is the next start by all that was written. The questions of a node that has just
//! started ([`Introduction`](crate::introduction::Introduction)) catch that one if its log has lost something.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::command::{self, Batch};
use crate::mutants::mutant;
use crate::node::leads;
use crate::raft::Raft;
use crate::raft::log::Log;
use crate::raft::types::NodeId;
use crate::store::{LogTime, Store};

/// How many starts a lineage goes back. A node that starts more often without anybody hearing of it is believed.
pub const LINEAGE_MAX: usize = 32;

/// Nodes of which more is remembered than the cluster has recorded. Those are members that have just started, and
/// strangers: a bound for these.
const HEARD_MAX: usize = 1024;

/// What could not be recorded is tried again after this time.
const RECORD_RETRY: Duration = Duration::from_millis(500);

/// One start of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Start {
    /// Counts the starts; 0 is that of a node that has not counted yet.
    pub incarnation: u64,
    /// Random.
    pub number: u64,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "incarnation {} (start {:016x})", self.incarnation, self.number)
    }
}

/// A start, and those before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    incarnation: u64,
    /// Oldest first. The last one is that of this start.
    numbers: Vec<u64>,
}

/// How two starts of one node can't both be its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{known} is known, and does not come before {found}")]
pub struct Contradiction {
    /// What was known before.
    pub known: Start,
    /// What contradicts it.
    pub found: Start,
}

impl Lineage {
    /// A lineage as it was written: numbers oldest first. `None` if it is none.
    pub fn from_parts(incarnation: u64, mut numbers: Vec<u64>) -> Option<Self> {
        if numbers.len() as u64 > incarnation || (numbers.is_empty() && incarnation > 0) {
            return None;
        }
        let older = numbers.len().saturating_sub(LINEAGE_MAX);
        Some(Self { incarnation, numbers: numbers.split_off(older) })
    }

    /// The lineage of the next start, which drew `number`.
    pub fn next(&self, number: u64) -> Self {
        let older = (self.numbers.len() + 1).saturating_sub(LINEAGE_MAX);
        let numbers = self.numbers.iter().skip(older).copied().chain([number]).collect();
        Self { incarnation: self.incarnation + 1, numbers }
    }

    /// The newest start.
    pub fn start(&self) -> Start {
        Start { incarnation: self.incarnation, number: self.numbers.last().copied().unwrap_or_default() }
    }

    /// The numbers of the starts, oldest first.
    pub fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// Whether this start is that one or comes after it.
    ///
    /// # Errors
    ///
    /// [`Contradiction`]: it comes before it, or both come after a third one.
    pub fn check_after(&self, known: Start) -> Result<(), Contradiction> {
        let back = self.incarnation.checked_sub(known.incarnation);
        let number = |back: u64| self.numbers.iter().nth_back(usize::try_from(back).ok()?).copied();
        let is_after = match back {
            _ if mutant!(IncarnationIgnored) => true,
            None => false,
            // Nobody has started in incarnation 0; nor can what is too long ago be told.
            Some(_) if known.incarnation == 0 => true,
            Some(back) => number(back).is_none_or(|number| number == known.number),
        };
        if is_after { Ok(()) } else { Err(Contradiction { known, found: self.start() }) }
    }
}

/// What a node knows of the starts of all nodes, its own included. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Starts {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: NodeId,
    own: Lineage,
    /// What the cluster has recorded.
    store: Store,
    /// What is newer than that.
    heard: Mutex<BTreeMap<NodeId, Lineage>>,
    news: watch::Sender<u64>,
    refused: watch::Sender<Option<String>>,
}

impl Starts {
    /// What the node `node_id` knows when it starts: itself, and what will be in `store`.
    pub fn new(node_id: NodeId, own: Lineage, store: Store) -> Self {
        let heard = Mutex::new(BTreeMap::from([(node_id, own.clone())]));
        let (news, refused) = (watch::Sender::default(), watch::Sender::default());
        Self { inner: Arc::new(Inner { node_id, own, store, heard, news, refused }) }
    }

    /// This node's own start.
    pub fn own(&self) -> &Lineage {
        &self.inner.own
    }

    /// The newest start of a node that is known here.
    pub fn known(&self, node_id: NodeId) -> Option<Start> {
        let recorded = self.inner.store.start_of(node_id);
        let heard = self.heard().get(&node_id).map(Lineage::start);
        // The same incarnation with two numbers: all nodes have the one that is recorded.
        match (recorded, heard) {
            (Some(recorded), Some(heard)) if heard.incarnation > recorded.incarnation => Some(heard),
            (recorded, heard) => recorded.or(heard),
        }
    }

    /// Another node has said which start of it this is.
    ///
    /// # Errors
    ///
    /// [`Contradiction`]: a newer one is known, or one that this does not come after.
    pub fn hear(&self, from: NodeId, lineage: &Lineage) -> Result<(), Contradiction> {
        let known = self.known(from);
        if let Some(known) = known {
            lineage.check_after(known)?;
        }
        if known == Some(lineage.start()) {
            return Ok(());
        }
        let mut heard = self.heard();
        if heard.len() >= HEARD_MAX {
            let is_newer =
                |(id, lineage): (&NodeId, &mut Lineage)| self.inner.store.start_of(*id) != Some(lineage.start());
            heard.retain(|id, lineage| is_newer((id, lineage)));
        }
        if heard.len() < HEARD_MAX {
            heard.insert(from, lineage.clone());
        }
        drop(heard);
        self.inner.news.send_modify(|news| *news += 1);
        Ok(())
    }

    /// The node `by` has said which start of this one it knows. If this one does not come after it, this node is refused.
    pub fn hear_of_self(&self, by: NodeId, known: Start) {
        if let Err(contradiction) = self.inner.own.check_after(known) {
            self.refuse(&old_copy(by, contradiction));
        }
    }

    /// Starts that the cluster has not recorded yet.
    pub fn unrecorded(&self) -> Vec<(NodeId, Lineage)> {
        let mut heard = self.heard();
        heard.retain(|id, lineage| {
            let recorded = self.inner.store.start_of(*id);
            recorded.is_none_or(|recorded| recorded.incarnation < lineage.incarnation)
        });
        heard.iter().map(|(id, lineage)| (*id, lineage.clone())).collect()
    }

    /// Changes whenever there may be something more that is not recorded.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.inner.news.subscribe()
    }

    /// From now on this node takes part in nothing, and its process has to end.
    pub fn refuse(&self, why: &str) {
        self.inner.refused.send_if_modified(|refused| {
            let is_first = refused.is_none();
            if is_first {
                tracing::error!(node_id = self.inner.node_id, "{why}");
                *refused = Some(why.to_owned());
            }
            is_first
        });
    }

    /// Why this node may take part in nothing, as soon as that is so.
    pub fn refused(&self) -> watch::Receiver<Option<String>> {
        self.inner.refused.subscribe()
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, Lineage>> {
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Starts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Starts").field("own", &self.inner.own.start()).finish_non_exhaustive()
    }
}

/// While this node leads, has the cluster record every start of a member that it hears of: all members know of it then, also
/// after they have started again.
///
/// A start takes part from the first call on, before it is recorded: when most members have just started, nothing could be
/// recorded without them.
pub async fn record(starts: Starts, raft: Raft, log: Log) {
    let (mut leadership, mut news) = (raft.leadership(), starts.news());
    loop {
        news.borrow_and_update();
        let is_leader = leads(&leadership.borrow_and_update());
        let members = raft.members();
        let is_member = |id: NodeId| members.iter().any(|member| member.node_id == id);
        let unrecorded = starts.unrecorded().into_iter().filter(|(id, _)| is_member(*id));
        let commands: Vec<_> = unrecorded.map(|(id, lineage)| command::record_start(id, &lineage)).collect();
        // Without room, an entry would have to come out of the reserve.
        let mut is_left = is_leader && !commands.is_empty();
        if is_left && log.has_room() {
            is_left = raft.propose(Batch::new(&commands, LogTime::default()), None).await.is_err();
        }
        tokio::select! {
            biased;
            changed = leadership.changed() => if changed.is_err() { return },
            changed = news.changed() => if changed.is_err() { return },
            () = sleep(RECORD_RETRY), if is_left => {}
        }
    }
}

/// What a node is told that is refused because its start contradicts what the node `by` knows.
pub fn old_copy(by: NodeId, contradiction: Contradiction) -> String {
    let Contradiction { known, found } = contradiction;
    format!(
        "this data directory is an old copy, or a second process runs on a copy of it: this is {found} of the node, but node \
         {by} knows {known}, which does not come before it. {REMEDY}"
    )
}

/// What is to be done about a directory that is not to be trusted.
pub const REMEDY: &str = "What this node has promised since may be lost, so it must not vote any more: move the data \
                          directory away and let the node join as a new one";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Position;

    fn lineage(numbers: &[u64]) -> Lineage {
        numbers.iter().fold(Lineage::default(), |lineage, number| lineage.next(*number))
    }

    #[test]
    fn a_start_comes_after_those_of_its_lineage_and_after_no_other() {
        let now = lineage(&[11, 12, 13]);
        for (incarnation, number, is_after) in
            [(0, 0, true), (1, 11, true), (2, 12, true), (3, 13, true), (3, 99, false), (2, 99, false), (4, 14, false)]
        {
            let known = Start { incarnation, number };
            assert_eq!(now.check_after(known).is_ok(), is_after, "{known}");
        }
        // However often a copy is started.
        let (mut copy, known) = (lineage(&[11, 12]), now.start());
        for number in 100..100 + LINEAGE_MAX as u64 {
            assert!(copy.check_after(known).is_err(), "{copy:?}");
            copy = copy.next(number);
        }
        assert!(Lineage::default().check_after(Start { incarnation: 1, number: 11 }).is_err());
    }

    #[test]
    fn a_lineage_is_bounded_and_comes_back_as_it_was() {
        let long = lineage(&(1..100).collect::<Vec<_>>());
        assert_eq!((long.start(), long.numbers().len()), (Start { incarnation: 99, number: 99 }, LINEAGE_MAX));
        assert_eq!(Lineage::from_parts(99, long.numbers().to_vec()), Some(long));
        assert_eq!(Lineage::from_parts(0, vec![]), Some(Lineage::default()));
        assert_eq!(Lineage::from_parts(1, vec![]), None);
        assert_eq!(Lineage::from_parts(1, vec![1, 2]), None);
    }

    #[test]
    fn what_is_recorded_counts_for_all_and_what_is_heard_until_then() {
        let store = Store::new();
        let starts = Starts::new(1, lineage(&[5]), store.clone());
        assert_eq!(starts.known(2), None);
        starts.hear(2, &lineage(&[11, 12])).expect("the first");
        assert_eq!(starts.known(2), Some(Start { incarnation: 2, number: 12 }));
        assert!(starts.hear(2, &lineage(&[11])).is_err(), "an older one");
        assert!(starts.hear(2, &lineage(&[11, 99])).is_err(), "another one");
        assert_eq!(starts.unrecorded().len(), 2);

        let record = |numbers: &[u64]| command::record_start(2, &lineage(numbers));
        store
            .apply(Position { term: 1, index: 1 }, LogTime::default(), &[record(&[11, 13]), record(&[11])])
            .expect("known");
        assert_eq!(starts.known(2), Some(Start { incarnation: 2, number: 13 }), "as all nodes have it");
        assert!(starts.hear(2, &lineage(&[11, 12])).is_err());
        starts.hear(2, &lineage(&[11, 13, 14])).expect("the next");
        assert_eq!(starts.unrecorded().len(), 2);
        assert!(starts.refused().borrow().is_none());
    }

    #[test]
    fn a_node_that_hears_of_a_later_start_of_its_own_is_refused() {
        let starts = Starts::new(1, lineage(&[5, 6]), Store::new());
        starts.hear_of_self(2, Start { incarnation: 1, number: 5 });
        starts.hear_of_self(2, Start { incarnation: 2, number: 6 });
        assert!(starts.refused().borrow().is_none());
        starts.hear_of_self(2, Start { incarnation: 3, number: 7 });
        assert!(starts.refused().borrow().as_ref().is_some_and(|why| why.contains("old copy")));
    }
}
