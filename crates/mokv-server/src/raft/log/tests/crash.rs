//! A crash at every call to the disk, with every choice of what it leaves: what was acknowledged is there, nothing else is.

use super::workload::{History, Steps, Workload};
use super::*;
use crate::disk::crash_points::CrashPoints;

/// So many steps make more than 300 calls.
const STEPS: usize = 200;
const CALLS_MIN: usize = 300;

/// Runs a workload on a recorded disk. The disk at index `n` is the one that `n` calls had been made on.
async fn run(seed: u64, steps: usize) -> (History, Steps, Vec<SimDisk>) {
    let disk = SimDisk::default();
    disk.record();
    let mut workload = Workload::open(&disk, seed).await.expect("open");
    for _ in 0..steps {
        workload.step().await.expect("a disk that works");
    }
    workload.close().await.expect("close");
    (workload.history, workload.steps, disk.recorded())
}

/// What a crash may leave in one moment.
fn crashes(disk: &SimDisk) -> Vec<SimDisk> {
    CrashPoints::new(0).crashes(disk)
}

async fn recovered(disk: &SimDisk) -> (Log, Contents, Option<LogId>) {
    let mut log = open(disk).await.expect("a crash leaves a log that opens");
    let (found, committed) = (contents(&log).await, log.read_committed().await.expect("committed"));
    assert!(!disk.paths().iter().any(|path| path.extension().is_some_and(|end| end == "tmp")));
    (log, found, committed)
}

/// A log that was recovered goes on as any other. Its next entry is as long as one that may have been lost, so that
/// others that were lost with it would follow directly, if anything was left of them.
async fn goes_on(disk: &SimDisk, log: Log, mut found: Contents, history: &History) {
    let next = log.last().map_or(0, |last| last.index + 1);
    let mut requested = history.states.iter().flat_map(|state| &state.entries);
    let lost = requested.find(|entry| entry.log_id.index == next).map(|entry| &entry.payload);
    let len = match lost {
        Some(openraft::EntryPayload::Normal(batch)) => batch.encoded().len(),
        _ => 900,
    };
    let new = entry(99, next, len);
    append(&log, vec![new.clone()]).await;
    log.close().await.expect("close");
    found.entries.push(new);
    assert_eq!(recovered(&disk.crash(|_| false)).await.1, found);
}

#[tokio::test]
async fn a_crash_at_any_call_keeps_what_was_acknowledged_and_invents_nothing() {
    let mut points = CrashPoints::new(1);
    for seed in 0..4 {
        let (history, steps, images) = run(seed, STEPS).await;
        assert!(images.len() > CALLS_MIN, "{} calls", images.len());
        let Steps { appends, votes, commits, truncations, purges, reopenings, kills, rotations } = steps;
        let rarest = [appends, votes, commits, truncations, purges, reopenings, kills, rotations].into_iter().min();
        assert!(rarest >= Some(2) && rotations >= 10, "{steps:?}");
        for (calls, image) in images.iter().enumerate() {
            for crash in points.crashes(image) {
                let (log, found, committed) = recovered(&crash).await;
                history.check(calls, &found, committed);
                goes_on(&crash, log, found, &history).await;
            }
            let killed = image.copy();
            let (log, found, committed) = recovered(&killed).await;
            history.check(calls, &found, committed);
            goes_on(&killed, log, found, &history).await;
        }
    }
    points.report("log", 50_000, 0);
}

/// Files that a killed process had made may have names that no crash would leave; who goes on with them makes them last.
#[tokio::test]
async fn a_crash_after_the_restart_of_a_killed_process_keeps_what_the_new_one_acknowledged() {
    let (_, _, images) = run(3, STEPS).await;
    for image in images {
        let (log, mut found, _) = recovered(&image).await;
        // No other call for a new segment comes to help.
        image.stall_growth(true);
        let new = entry(99, log.last().map_or(0, |last| last.index + 1), 3000);
        append(&log, vec![new.clone()]).await;
        found.entries.push(new);
        image.stall_growth(false);
        assert_eq!(recovered(&image.crash(|_| false)).await.1, found);
    }
}

/// Every 4th moment of a workload, every crash there, every call of the recovery from it.
#[tokio::test]
async fn a_crash_during_recovery_changes_nothing() {
    let mut points = CrashPoints::new(7);
    let (_, _, images) = run(7, STEPS).await;
    for image in images.iter().step_by(4) {
        for crash in points.crashes(image) {
            crash.record();
            let found = recovered(&crash).await.1;
            for during in crash.recorded() {
                for second in points.second_crashes(&during) {
                    assert_eq!(recovered(&second).await.1, found);
                }
            }
        }
    }
    points.report("log, recovery from a crash", 3_000, 80_000);
}

/// As above, but the first process was killed, and the machine went on until the second crash.
#[tokio::test]
async fn a_crash_during_recovery_from_a_kill_keeps_what_was_acknowledged() {
    let mut points = CrashPoints::new(8);
    for seed in 8..10 {
        let (history, _, images) = run(seed, STEPS).await;
        for (calls, killed) in images.iter().enumerate() {
            killed.record();
            let found = recovered(killed).await.1;
            let during = killed.recorded();
            for image in &during {
                for second in points.second_crashes(image) {
                    let (_, found, committed) = recovered(&second).await;
                    history.check(calls, &found, committed);
                }
            }
            let after = during.last().expect("images");
            for crash in crashes(after) {
                assert_eq!(recovered(&crash).await.1, found, "what a start has found stays");
            }
        }
    }
    points.report("log, recovery from a kill", 0, 40_000);
}
