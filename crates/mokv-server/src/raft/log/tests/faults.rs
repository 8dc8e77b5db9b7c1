//! A disk that fails, or is full, at every call: nothing is acknowledged that is not there, and nothing that was is lost.

use std::collections::BTreeSet;

use super::workload::Workload;
use super::*;
use crate::disk::crash_points::CrashPoints;

const STEPS: usize = 80;

/// Opens what a crash, or a killed process, left.
async fn recovered(disk: &SimDisk) -> (Contents, Option<LogId>) {
    let mut log = open(disk).await.expect("a disk that failed leaves a log that opens");
    (contents(&log).await, log.read_committed().await.expect("committed"))
}

/// Runs the workload until something fails. `None` if nothing did.
async fn run_until_failure(disk: &SimDisk, seed: u64) -> Option<Workload> {
    let Ok(mut workload) = Workload::open(disk, seed).await else { return None };
    for _ in 0..STEPS {
        if workload.step().await.is_err() || workload.failure().is_some() {
            workload.stop().await;
            return Some(workload);
        }
    }
    None
}

#[tokio::test]
async fn any_call_may_fail() {
    let mut points = CrashPoints::new(1);
    let calls = {
        let disk = SimDisk::default();
        let mut workload = Workload::open(&disk, 5).await.expect("open");
        for _ in 0..STEPS {
            workload.step().await.expect("a disk that works");
        }
        disk.calls()
    };
    let (mut failed, mut not_opened) = (0, 0);
    for call in 0..calls {
        let disk = SimDisk::default();
        disk.fail_call(call, io::ErrorKind::Other);
        let Some(workload) = run_until_failure(&disk, 5).await else {
            // The first opening failed; nobody was promised anything. Or the last of the calls were others this time.
            not_opened += 1;
            assert_eq!(recovered(&disk.copy()).await.0, recovered(&disk.crash(|_| false)).await.0);
            continue;
        };
        failed += 1;
        let calls = disk.calls();
        for crash in points.crashes(&disk) {
            let (found, committed) = recovered(&crash).await;
            workload.history.check(calls, &found, committed);
        }
        // The system may still show what the failed sync has lost. Who found it there has it for good.
        let restarted = disk.copy();
        let (found, committed) = recovered(&restarted).await;
        workload.history.check(calls, &found, committed);
        assert_eq!(recovered(&restarted.crash(|_| false)).await.0, found);
    }
    assert!(failed >= 150 && not_opened <= 30, "{failed} of {calls} calls failed in use, {not_opened} before or after");
    points.report("log, any call fails", 2_000, 0);
}

/// Appends as one does who looks at [`Log::has_room`] first, with votes, truncations and purges in between, until there is
/// no room, or for a while.
async fn fill(log: &mut Log) -> io::Result<Vec<Entry>> {
    let mut purged = 0;
    for round in 0..60_u64 {
        if !log.has_room() {
            break;
        }
        let next = log.last().map_or(0, |last| last.index + 1);
        append_all(log, vec![entry(1, next, [100, 400, 900][round as usize % 3]), entry(1, next + 1, 50)]).await?;
        match round % 7 {
            2 => log.save_vote(&Vote::new(round, 1)).await?,
            4 => log.truncate_after(Some(types::log_id(1, next))).await?,
            6 if round > 20 => {
                purged += 8;
                log.purge(types::log_id(1, purged)).await?;
            }
            _ => {}
        }
    }
    Ok(contents(log).await.entries)
}

async fn append_all(log: &Log, entries: Vec<Entry>) -> io::Result<()> {
    submit(log, entries).await.await.map_err(io::Error::other)?
}

/// The disk is full just before it would grow to any of the sizes that it has without a limit.
#[tokio::test]
async fn the_disk_may_be_full_at_every_point_of_growth() {
    let disk = SimDisk::default();
    disk.record();
    fill(&mut open(&disk).await.expect("open")).await.expect("fill");
    let sizes: BTreeSet<usize> = disk.recorded().iter().map(SimDisk::used).collect();
    assert!(sizes.len() >= 10, "{} points of growth", sizes.len());
    let (mut not_created, mut met) = (0, 0);
    for capacity in sizes.iter().flat_map(|size| [*size, (*size).saturating_sub(1), size.saturating_sub(512)]) {
        let disk = SimDisk::default();
        disk.set_capacity(Some(capacity));
        let Ok(mut log) = open(&disk).await else {
            // Not even an empty log has room. It is created as soon as there is some.
            not_created += 1;
            disk.set_capacity(None);
            append(&open(&disk).await.expect("open"), vec![entry(1, 0, 10)]).await;
            continue;
        };
        let written = fill(&mut log).await.expect("a full disk is no failure for who asks before");
        if log.has_room() {
            continue;
        }
        met += 1;
        // Votes have to be possible, and nothing that was acknowledged is lost.
        log.save_vote(&Vote::new(100, 1)).await.expect("vote");
        log.try_reserve();
        let settled = disk.crash(|_| false);
        let reopened = open(&settled).await.expect("a full disk is no reason not to start");
        assert_eq!(contents(&reopened).await.entries, written);
        assert_eq!(contents(&reopened).await.vote, Some(Vote::new(100, 1)));
        // Segments may have been purged meanwhile.
        let left = capacity - settled.used();
        assert!(reopened.has_room() || left < options().segment_bytes as usize, "{left} bytes are enough");
        // It heals: the log that was open all the time, and the one that was opened meanwhile.
        for (disk, mut log) in [(disk, log), (settled, reopened)] {
            disk.set_capacity(None);
            log.try_reserve();
            let mut status = log.status();
            status.wait_for(|status| status.has_room).await.expect("the log runs");
            let more = fill(&mut log).await.expect("there is room");
            let last = |entries: &[Entry]| entries.last().map(|entry| entry.log_id);
            assert!(last(&more) > last(&written));
            assert_eq!(recovered(&disk.crash(|_| false)).await.0.entries, more);
        }
    }
    assert!(met >= 10 && not_created >= 4, "{met} times without room, {not_created} times not even created");
}
