//! What a node does without being asked: snapshots and purging as the log grows, hand-over when it stops, and the answer to
//! "is it ready?". What it does about the membership is in [`reconcile`](crate::reconcile).
//!
//! Every duty looks at the present state and corrects it; a missed tick is made up by the next.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::formation::Outlook;
use crate::mutants::mutant;
use crate::node::{Readiness, leads};
use crate::raft::log::Log;
use crate::raft::types::NodeId;
use crate::raft::{Leadership, Member, Raft, Role};
use crate::read_gate::ReadGate;
use crate::runtime::Tasks;
use crate::store::Store;

/// How often the duties are looked at.
const TICK: Duration = Duration::from_millis(500);

/// A voter is fit to take over if it lacks at most this many entries; fewer are sent while it is asked.
const HAND_OVER_LAG_MAX: u64 = 1000;

/// A leader that has a majority answers in far less.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A node that lags by more committed entries than this is not ready.
const READY_LAG_MAX: u64 = 10_000;

/// What there is to look after.
pub struct Duties {
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
        loop {
            ticks.tick().await;
            duties.compact_log().await;
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
        let upto = kept.min(progress.snapshot);
        if upto > progress.purged {
            self.raft.purge(upto).await;
        }
    }
}

/// Hands leadership to another voter that `may_lead`, the fittest first, and waits until one leads, or for `grace`. No
/// effect unless this node leads and there is such a voter.
pub async fn hand_over(node_id: NodeId, raft: &Raft, may_lead: impl Fn(&Member) -> bool, grace: Duration) {
    let mut leadership = raft.leadership();
    if !leads(&leadership.borrow()) {
        return;
    }
    let others = raft.members().into_iter().filter(|member| member.is_voter && member.node_id != node_id);
    let fit = others.filter(may_lead).filter_map(|member| Some((member.lag?, member.node_id)));
    let fit: BTreeSet<(u64, NodeId)> = fit.filter(|(lag, _)| *lag <= HAND_OVER_LAG_MAX).collect();
    let deadline = Instant::now() + grace;
    for (_, to) in fit.iter().cycle() {
        raft.transfer_leader(*to).await;
        let taken = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|(id, _)| *id != node_id));
        match timeout_at(deadline.min(Instant::now() + raft.transfer_retry()), taken).await {
            Ok(_) => return tracing::info!(to, "leadership handed over"),
            Err(_) if Instant::now() < deadline => tracing::debug!(to, "the member has not taken over yet"),
            Err(_) => return tracing::warn!(to, ?grace, "no other node took over leadership in time"),
        }
    }
}

/// Publishes whether the node is fit to serve: looked at with every change and every tick.
pub fn watch_readiness(tasks: &Tasks, of: Watched, draining: watch::Receiver<bool>) -> watch::Receiver<Readiness> {
    let (publish, watched) = watch::channel(Readiness::NotReady("the node is starting".into()));
    tasks.spawn(publish_readiness(of, draining, publish));
    watched
}

/// What readiness depends on.
pub struct Watched {
    /// Consensus.
    pub raft: Raft,
    /// The log.
    pub log: Log,
    /// The state.
    pub store: Store,
    /// Rounds for this node's readers.
    pub gate: ReadGate,
    /// Why the node is in no cluster.
    pub outlook: watch::Receiver<Outlook>,
}

async fn publish_readiness(of: Watched, mut draining: watch::Receiver<bool>, publish: watch::Sender<Readiness>) {
    let Watched { raft, log, store, gate, outlook } = of;
    let mut leadership = raft.leadership();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let waits_for = outlook.borrow().waits_for.clone();
        let draining_now = *draining.borrow_and_update();
        let mut now = readiness(&leadership.borrow_and_update(), &raft, &store, waits_for, draining_now);
        // A follower goes on believing in a leader that has vanished until there is another one: ask it.
        if now == Readiness::Ready {
            now = match timeout(PROBE_TIMEOUT, gate.read_index()).await {
                Ok(Ok(at))
                    if !log.has_room() && store.stats().applied.is_none_or(|applied| applied.index < at.index) =>
                {
                    Readiness::NotReady(
                        "the disk is full, and the node lacks what the others have written since".into(),
                    )
                }
                Ok(Ok(_)) => now,
                _ => Readiness::NoLeader(format!("no leader has confirmed within {PROBE_TIMEOUT:?} that it leads")),
            };
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

fn readiness(
    leadership: &Leadership,
    raft: &Raft,
    store: &Store,
    waits_for: Option<String>,
    draining: bool,
) -> Readiness {
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
        let waits_for = waits_for.unwrap_or_else(|| "add it with `mokv member add`".into());
        return not_ready(format!("the node is in no cluster: {waits_for}"));
    }
    if leadership.leader.is_none() {
        return Readiness::NoLeader("no leader is known".into());
    }
    let lag = raft.progress().committed.saturating_sub(store.stats().applied.map_or(0, |at| at.index));
    if lag > READY_LAG_MAX {
        return not_ready(format!("{lag} committed entries are not applied yet"));
    }
    Readiness::Ready
}
