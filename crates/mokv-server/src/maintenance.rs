//! What a node does without being asked: snapshots and purging as the log grows, hand-over when the disk is full or the
//! node stops, the end of interrupted membership changes, and the answer to "is it ready?".
//!
//! Every duty looks at the present state and corrects it; a missed tick is made up by the next.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::mutants::mutant;
use crate::node::{Readiness, leads};
use crate::raft::log::Log;
use crate::raft::types::NodeId;
use crate::raft::{ChangeError, Leadership, Raft, Role};
use crate::read_gate::ReadGate;
use crate::runtime::Tasks;
use crate::store::Store;

/// How often the duties are looked at.
const TICK: Duration = Duration::from_millis(500);

/// A leader that can't write hands over at most this often.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(10);

/// A voter is fit to take over if it lacks at most this many entries; fewer are sent while it is asked.
const HAND_OVER_LAG_MAX: u64 = 1000;

/// A leader that has a majority answers in far less.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A node that lags by more committed entries than this is not ready.
const READY_LAG_MAX: u64 = 10_000;

/// What there is to look after.
pub struct Duties {
    /// This node.
    pub node_id: NodeId,
    /// Consensus.
    pub raft: Raft,
    /// The log.
    pub log: Log,
    /// The state that snapshots are of.
    pub store: Store,
    /// See [`NodeOptions::snapshot_log_bytes`](crate::node::NodeOptions::snapshot_log_bytes).
    pub snapshot_log_bytes: u64,
}

/// Starts looking after `duties`.
pub fn start(tasks: &Tasks, duties: Duties) {
    tasks.spawn(async move {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_hand_over = None;
        loop {
            ticks.tick().await;
            duties.compact_log().await;
            duties.make_room(&mut last_hand_over).await;
            duties.finish_membership_change().await;
        }
    });
}

impl Duties {
    /// A snapshot when the log has grown enough, and no more log than that behind it.
    async fn compact_log(&self) {
        let progress = self.raft.progress();
        // A log may have grown without anything being committed, or before this node knows of it: then there is no state
        // to take a snapshot of, and for openraft a snapshot that fails is a failure of the disk.
        let has_news = mutant!(SnapshotOfNothing)
            || self.store.stats().applied.is_some_and(|applied| applied.index > progress.snapshot);
        if has_news && self.log.bytes_since(progress.snapshot) > self.snapshot_log_bytes {
            self.raft.start_snapshot().await;
        }
        let kept = self.log.droppable_keeping(self.snapshot_log_bytes);
        let upto =
            if mutant!(PurgeBeyondSnapshot) { kept.min(progress.committed) } else { kept.min(progress.snapshot) };
        if upto > progress.purged {
            self.raft.purge(upto).await;
        }
    }

    /// While there is no room on the disk: looks for some, and lets another node lead.
    async fn make_room(&self, last_hand_over: &mut Option<Instant>) {
        if self.log.has_room() {
            return;
        }
        self.log.try_reserve();
        let recently = last_hand_over.is_some_and(|at| at.elapsed() < HAND_OVER_PAUSE);
        if leads(&self.raft.leadership().borrow()) && !recently {
            tracing::warn!("no room on the disk for the log: another node shall lead");
            *last_hand_over = Some(Instant::now());
            hand_over(self.node_id, &self.raft, HAND_OVER_PAUSE).await;
        }
    }

    async fn finish_membership_change(&self) {
        if !leads(&self.raft.leadership().borrow()) {
            return;
        }
        match self.raft.finish_change().await {
            Ok(()) | Err(ChangeError::InProgress | ChangeError::NotLeader) => {}
            Err(error) => tracing::warn!(%error, "an interrupted change of the membership could not be finished"),
        }
    }
}

/// Hands leadership to the voter that is fittest for it and waits until it leads, or for `grace`. No effect unless this
/// node leads and there is another voter.
pub async fn hand_over(node_id: NodeId, raft: &Raft, grace: Duration) {
    let mut leadership = raft.leadership();
    if !leads(&leadership.borrow()) {
        return;
    }
    let others = raft.members().into_iter().filter(|member| member.is_voter && member.node_id != node_id);
    let fit = others.filter_map(|member| Some((member.lag?, member.node_id)));
    let Some((_, to)) = fit.filter(|(lag, _)| *lag <= HAND_OVER_LAG_MAX).min() else {
        return;
    };
    raft.transfer_leader(to).await;
    let taken = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|(id, _)| *id != node_id));
    match timeout_at(Instant::now() + grace, taken).await {
        Ok(_) => tracing::info!(to, "leadership handed over"),
        Err(_) => tracing::warn!(to, ?grace, "no other node took over leadership in time"),
    }
}

/// Publishes whether the node is fit to serve: looked at with every change and every tick.
pub fn watch_readiness(
    tasks: &Tasks,
    raft: Raft,
    store: Store,
    gate: ReadGate,
    draining: watch::Receiver<bool>,
) -> watch::Receiver<Readiness> {
    let (publish, watched) = watch::channel(Readiness::NotReady("the node is starting".into()));
    tasks.spawn(publish_readiness(raft, store, gate, draining, publish));
    watched
}

async fn publish_readiness(
    raft: Raft,
    store: Store,
    gate: ReadGate,
    mut draining: watch::Receiver<bool>,
    publish: watch::Sender<Readiness>,
) {
    let mut leadership = raft.leadership();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut now = readiness(&leadership.borrow_and_update(), &raft, &store, *draining.borrow_and_update());
        // A follower goes on believing in a leader that has vanished until there is another one: ask it.
        if now == Readiness::Ready && !timeout(PROBE_TIMEOUT, gate.read_index()).await.is_ok_and(|index| index.is_ok())
        {
            now = Readiness::NotReady(format!("no leader has confirmed within {PROBE_TIMEOUT:?} that it leads"));
        }
        publish.send_if_modified(|last| {
            let changed = *last != now;
            if changed {
                *last = now;
            }
            changed
        });
        tokio::select! {
            biased;
            changed = leadership.changed() => if changed.is_err() { return },
            changed = draining.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
        }
    }
}

fn readiness(leadership: &Leadership, raft: &Raft, store: &Store, draining: bool) -> Readiness {
    let not_ready = |why: String| Readiness::NotReady(why);
    if draining {
        return not_ready("the node is stopping".into());
    }
    if let Some(failure) = &leadership.failure {
        return not_ready(failure.clone());
    }
    if leadership.role == Role::Stopped {
        return not_ready("consensus has stopped".into());
    }
    if raft.members().is_empty() {
        return not_ready("the node is in no cluster: add it with `mokv member add`".into());
    }
    if leadership.leader.is_none() {
        return not_ready("no leader is known".into());
    }
    let lag = raft.progress().committed.saturating_sub(store.stats().applied.map_or(0, |at| at.index));
    if lag > READY_LAG_MAX {
        return not_ready(format!("{lag} committed entries are not applied yet"));
    }
    Readiness::Ready
}
