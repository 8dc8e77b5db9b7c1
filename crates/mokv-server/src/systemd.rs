//! What a node tells the service manager that started it, if one did (`Type=notify`, sd_notify(3)).
//!
//! Ready: the node knows a leader and has caught up, so that a rolling restart of machines waits for each. It stays up after
//! that, whatever becomes of the cluster: only a watchdog that is not fed restarts it, and that is fed as long as tasks run.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Readiness;
use crate::runtime::Tasks;

/// A service that takes longer to become ready than its manager allows asks for so much more at a time: to wait for other nodes,
/// or to read a large log, is no failure.
const MORE_TIME: Duration = Duration::from_secs(30);

/// Starts telling. No effect without a service manager.
pub fn start(tasks: &Tasks, readiness: watch::Receiver<Readiness>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tasks.spawn(tell_readiness(readiness));
    if let Some(patience) = sd_notify::watchdog_enabled() {
        tasks.spawn(feed_watchdog(patience / 2));
    }
}

/// The node is about to stop.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

async fn tell_readiness(mut readiness: watch::Receiver<Readiness>) {
    let mut was_ready = false;
    let mut patience = interval(MORE_TIME / 2);
    patience.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        match &*readiness.borrow_and_update() {
            Readiness::Ready => {
                tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
                was_ready = true;
            }
            Readiness::NotReady(why) | Readiness::NoLeader(why) => tell(&[NotifyState::Status(why)]),
        }
        tokio::select! {
            biased;
            changed = readiness.changed() => if changed.is_err() { return },
            _ = patience.tick(), if !was_ready => {
                tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX))]);
            }
        }
    }
}

async fn feed_watchdog(every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}
