//! An open log: what it does in order, with a full disk, a failing one, and at its end.

use futures_util::TryStreamExt;
use openraft::storage::RaftLogReader;

use super::*;

async fn read(log: &Log, range: impl RangeBounds<u64> + Clone + fmt::Debug + Send) -> Vec<Entry> {
    log.clone().get_log_reader().await.try_get_log_entries(range).await.expect("entries")
}

/// Lets other tasks do what they can do now.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Lets other tasks go on until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn entries_are_readable_at_once_and_from_the_disk_later() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    let entries: Vec<Entry> = (0..40).map(|index| entry(1 + index / 10, index, 150)).collect();
    let durable = submit(&log, entries.clone()).await;
    assert_eq!(log.durable_index(), None);
    assert_eq!(read(&log, ..).await, entries);
    durable.await.expect("an answer").expect("durable");
    assert_eq!(log.durable_index(), Some(39));
    // The cache has the last few, so this crosses from the disk to it, over several segments.
    assert_eq!(read(&log, ..).await, entries);
    assert_eq!(read(&log, 3..=5).await, entries[3..=5]);
    let reopened = open(&disk.crash(|_| false)).await.expect("open");
    assert_eq!(read(&reopened, ..).await, entries);
    assert_eq!(reopened.bytes_since(29), log.bytes_since(29));
}

/// Entries with a gap before them would be sent as they are.
#[tokio::test]
async fn a_batch_that_has_lost_its_beginning_is_empty() {
    let mut log = open(&SimDisk::default()).await.expect("open");
    append(&log, (0..20).map(|index| entry(1, index, 10)).collect()).await;
    log.purge(types::log_id(1, 9)).await.expect("purge");
    let mut reader = log.clone().get_log_reader().await;
    assert!(reader.limited_get_log_entries(5, 20).await.expect("entries").is_empty());
    assert_eq!(reader.limited_get_log_entries(10, 20).await.expect("entries")[0], entry(1, 10, 10));
}

#[tokio::test]
async fn a_batch_is_limited_in_bytes_and_a_stream_has_all() {
    let large = LogOptions { segment_bytes: 16 << 20, cache_bytes_max: 0 };
    let log = open_with(&SimDisk::default(), large).await.expect("open");
    let entries: Vec<Entry> = (0..30).map(|index| entry(1, index, 100_000)).collect();
    append(&log, entries.clone()).await;
    let mut reader = log.clone().get_log_reader().await;
    assert_eq!(reader.limited_get_log_entries(5, 30).await.expect("entries"), entries[5..15]);
    let streamed: Vec<Entry> = reader.entries_stream(2..).await.try_collect().await.expect("entries");
    assert_eq!(streamed, entries[2..]);
    append(&log, vec![entry(1, 30, 2 << 20)]).await;
    assert_eq!(reader.limited_get_log_entries(30, 31).await.expect("at least one").len(), 1);
}

/// What a follower has let in fits into its reserve, so one message has to.
#[tokio::test]
async fn a_batch_fits_into_the_reserve() {
    let small = LogOptions { segment_bytes: 64 << 10, cache_bytes_max: 0 };
    let log = open_with(&SimDisk::default(), small).await.expect("open");
    append(&log, (0..60).map(|index| entry(1, index, 1000)).collect()).await;
    let batch = log.clone().get_log_reader().await.limited_get_log_entries(0, 60).await.expect("entries");
    let bytes = batch.len() as u64 * (1000 + ENTRY_OVERHEAD_BYTES);
    assert!((log.reserve_bytes() / 4..=log.reserve_bytes() / 2).contains(&bytes), "{bytes}");
}

/// An allowance that was used up stays so, also over a restart, until there is room again. All of it fits, and votes too.
#[tokio::test]
async fn the_allowance_of_a_full_disk_is_bounded() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    disk.set_capacity(Some(disk.used()));
    let end = |log: &Log| log.last().map_or(0, |last| last.index + 1);
    while log.has_room() {
        append(&log, vec![entry(1, end(&log), 100)]).await;
    }
    let one = 100 + ENTRY_OVERHEAD_BYTES;
    let under_way = log.reserve_bytes() / one;
    append(&log, (end(&log)..end(&log) + under_way).map(|index| entry(1, index, 100)).collect()).await;
    let mut taken = 0;
    while log.take_allowance(one + ENTRY_OVERHEAD_BYTES) {
        append(&log, vec![entry(1, end(&log), 100)]).await;
        taken += 1;
    }
    assert!(taken > 0);
    let mut voting = log.clone();
    voting.save_vote(&Vote::new(2, 1)).await.expect("vote");
    assert!(log.status().borrow().failure.is_none());

    let reopened = open(&disk.crash(|_| false)).await.expect("open");
    let mut again = 0;
    while reopened.take_allowance(one + ENTRY_OVERHEAD_BYTES) {
        append(&reopened, vec![entry(1, end(&reopened), 100)]).await;
        again += 1;
    }
    assert!(again <= taken && reopened.status().borrow().failure.is_none());

    disk.set_capacity(None);
    log.try_reserve();
    until("there is room", || log.has_room()).await;
    assert!(log.take_allowance(one));
}

#[tokio::test]
async fn an_entry_larger_than_a_segment_gets_one_of_its_size() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    let entries = vec![entry(1, 0, 10), entry(1, 1, 50_000), entry(1, 2, 10)];
    append(&log, entries.clone()).await;
    let found = contents(&open(&disk.crash(|_| false)).await.expect("open")).await;
    assert_eq!(found.entries, entries);
}

#[tokio::test]
async fn what_waits_together_is_synced_together() {
    let log = open(&SimDisk::default()).await.expect("open");
    let before = log.metrics().syncs().count();
    let mut waiting = Vec::new();
    for index in 0..20 {
        waiting.push(submit(&log, vec![entry(1, index, 10)]).await);
    }
    for durable in waiting {
        durable.await.expect("an answer").expect("durable");
    }
    assert_eq!(log.metrics().syncs().count() - before, 1);
    assert_eq!(log.metrics().entries_written(), 20);
    assert!(log.metrics().bytes_written() > 20 * 10);
}

#[tokio::test]
async fn a_truncation_after_waiting_entries_acknowledges_only_what_was_durable() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    let first = submit(&log, vec![entry(1, 0, 10), entry(1, 1, 10)]).await;
    log.truncate_after(Some(types::log_id(1, 0))).await.expect("truncate");
    first.await.expect("an answer").expect("durable before it was dropped");
    assert_eq!(log.metrics().syncs().count(), 2);
    append(&log, vec![entry(2, 1, 10)]).await;
    let found = contents(&open(&disk.crash(|_| false)).await.expect("open")).await;
    assert_eq!(found.entries, [entry(1, 0, 10), entry(2, 1, 10)]);
}

#[tokio::test]
async fn purging_removes_whole_segments_and_reopening_forgets_nothing() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    log.save_vote(&Vote::new_committed(3, 2)).await.expect("vote");
    append(&log, (0..60).map(|index| entry(1, index, 300)).collect()).await;
    log.save_committed(Some(types::log_id(1, 55))).await.expect("committed");
    let segments = || disk.paths().iter().filter(|path| path.extension().is_some_and(|end| end == "seg")).count();
    let before = segments();
    log.purge(types::log_id(1, 50)).await.expect("purge");
    assert_eq!(read(&log, ..).await.len(), 9);
    until("segments are removed", || segments() <= before - 4).await;
    log.close().await.expect("close");
    let mut log = open(&disk.crash(|_| false)).await.expect("open");
    let found = contents(&log).await;
    assert_eq!((found.vote, found.purged), (Some(Vote::new_committed(3, 2)), Some(types::log_id(1, 50))));
    assert_eq!(found.entries.len(), 9);
    assert_eq!(log.read_committed().await.expect("committed"), Some(types::log_id(1, 55)));
}

#[tokio::test]
async fn whatever_is_purged_the_rest_is_there() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    let entries: Vec<Entry> = (0..40).map(|index| entry(1, index, 300)).collect();
    append(&log, entries.clone()).await;
    for upto in 0..40 {
        log.purge(types::log_id(1, upto)).await.expect("purge");
        log.save_vote(&Vote::new(2, upto)).await.expect("what comes later is durable later");
        let found = contents(&open(&disk.crash(|_| true)).await.expect("open")).await;
        assert_eq!(found.entries, entries[upto as usize + 1..]);
    }
}

#[tokio::test]
async fn a_committed_position_never_comes_back_before_its_entry() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    append(&log, vec![entry(1, 0, 10)]).await;
    let durable = submit(&log, vec![entry(1, 1, 10)]).await;
    log.save_committed(Some(types::log_id(1, 1))).await.expect("committed");
    durable.await.expect("an answer").expect("durable");
    let mut crashed = open(&disk.crash(|_| false)).await.expect("open");
    assert_eq!(crashed.read_committed().await.expect("committed"), None);
    append(&log, vec![entry(1, 2, 10)]).await;
    let mut crashed = open(&disk.crash(|_| false)).await.expect("open");
    assert_eq!(crashed.read_committed().await.expect("committed"), Some(types::log_id(1, 1)));
}

#[tokio::test]
async fn a_full_disk_leaves_room_for_the_reserve_and_heals() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    disk.set_capacity(Some(disk.used()));
    let mut index = 0;
    while log.has_room() {
        append(&log, vec![entry(1, index, 100)]).await;
        index += 1;
    }
    // As much as may be under way at the moment when it turns out that there is no room.
    let bytes = log.reserve_bytes() / (100 + ENTRY_OVERHEAD_BYTES);
    append(&log, (index..index + bytes).map(|index| entry(1, index, 100)).collect()).await;
    log.save_vote(&Vote::new(2, 1)).await.expect("vote");
    log.try_reserve();
    tokio::task::yield_now().await;
    assert!(!log.has_room());

    let reopened = disk.crash(|_| false);
    let reopened = open(&reopened).await.expect("a full disk is no reason not to start");
    assert!(!reopened.has_room());
    assert_eq!(contents(&reopened).await.entries.len() as u64, index + bytes);

    disk.set_capacity(None);
    log.try_reserve();
    until("there is room", || log.has_room()).await;
    append(&log, (index + bytes..200).map(|index| entry(1, index, 100)).collect()).await;
    assert_eq!(read(&log, ..).await.len(), 200);
}

/// While it is not known whether there is room for the next segment, at most half of this one is used: then what is under
/// way fits when it turns out that there is none.
#[tokio::test]
async fn the_reserve_is_kept_until_it_is_known_whether_there_is_room() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    disk.stall_growth(true);
    let one = 100 + ENTRY_OVERHEAD_BYTES;
    let end = || log.last().map_or(0, |last| last.index + 1);
    let under_way = || end() - log.durable_index().map_or(0, |index| index + 1);
    while (under_way() + 1) * one <= log.reserve_bytes() {
        drop(submit(&log, vec![entry(1, end(), 100)]).await);
        settle().await;
    }
    disk.set_capacity(Some(disk.used()));
    disk.stall_growth(false);
    until("what was under way is durable", || log.durable_index() == log.last().map(|last| last.index)).await;
    assert!(!log.has_room());
    assert!(log.status().borrow().failure.is_none());
}

#[tokio::test]
async fn more_than_the_reserve_on_a_full_disk_is_final() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    disk.set_capacity(Some(disk.used()));
    let durable = submit(&log, (0..100).map(|index| entry(1, index, 300)).collect()).await;
    let error = durable.await.expect("an answer").expect_err("no room");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn a_failed_sync_or_write_is_final() {
    let fail: [fn(&SimDisk); 2] = [|disk| disk.fail_syncs(1), |disk| disk.fail_writes(1)];
    for fail in fail {
        let disk = SimDisk::default();
        let mut log = open(&disk).await.expect("open");
        append(&log, vec![entry(1, 0, 10)]).await;
        fail(&disk);
        let mut waiting = Vec::new();
        for index in 1..4 {
            waiting.push(submit(&log, vec![entry(1, index, 10)]).await);
        }
        for durable in waiting {
            durable.await.expect("an answer").expect_err("not durable");
        }
        let failure = log.status().borrow().failure.clone().expect("why");
        assert_eq!(failure.path, segment_path(1));
        submit(&log, vec![entry(1, 4, 10)]).await.await.expect("an answer").expect_err("still not durable");
        log.save_vote(&Vote::new(1, 1)).await.expect_err("no vote either");
        log.close().await.expect_err("nor an orderly end");
        let found = contents(&open(&disk.crash(|_| true)).await.expect("open")).await;
        assert_eq!(found.entries, [entry(1, 0, 10)]);
    }
}

/// After a failed sync the system may show what never reached the disk, as clean as if it had.
#[tokio::test]
async fn what_a_failed_sync_left_in_memory_is_written_again() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    disk.fail_syncs(1);
    submit(&log, vec![entry(1, 0, 10)]).await.await.expect("an answer").expect_err("not durable");
    let found = contents(&open(&disk).await.expect("open")).await;
    assert_eq!(contents(&open(&disk.crash(|_| false)).await.expect("open")).await, found);
}

#[tokio::test]
async fn a_closed_log_has_everything_and_takes_nothing() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    append(&log, vec![entry(1, 0, 10)]).await;
    log.save_committed(Some(types::log_id(1, 0))).await.expect("committed");
    log.close().await.expect("close");
    log.save_vote(&Vote::new(1, 1)).await.expect_err("closed");
    log.close().await.expect_err("closed");
    let mut log = open(&disk.crash(|_| false)).await.expect("open");
    assert_eq!(log.read_committed().await.expect("committed"), Some(types::log_id(1, 0)));
}

#[tokio::test]
async fn a_closed_log_has_a_committed_position_whose_entry_was_waiting_too() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    let waiting = submit(&log, vec![entry(1, 0, 10)]).await;
    log.save_committed(Some(types::log_id(1, 0))).await.expect("committed");
    log.close().await.expect("close");
    waiting.await.expect("an answer").expect("durable");
    let mut log = open(&disk.crash(|_| false)).await.expect("open");
    assert_eq!(log.read_committed().await.expect("committed"), Some(types::log_id(1, 0)));
}

/// A killed process may leave names that only its system knows. What the next one builds on them must not outlive them.
#[tokio::test]
async fn a_log_whose_creation_was_killed_and_then_crashed_opens() {
    let disk = SimDisk::default();
    disk.record();
    open(&disk).await.expect("open");
    for killed in disk.recorded() {
        killed.record();
        open(&killed).await.expect("what was begun is finished");
        for during in killed.recorded() {
            for kept in 0..during.pending() {
                open(&during.crash(|atom| atom == kept)).await.expect("what was begun is finished");
            }
        }
    }
}

#[tokio::test]
async fn a_closed_log_has_no_task_at_work() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    disk.stall_growth(true);
    append(&log, (0..6).map(|index| entry(1, index, 600)).collect()).await;
    let closing = Tasks::new(1, DiskTasks::Inline).spawn(async move { log.close().await });
    settle().await;
    assert!(!closing.is_finished(), "the next segment is still being made");
    disk.stall_growth(false);
    closing.await.expect("no panic").expect("close");
    open(&disk).await.expect("open");
}

/// The writer's task ends with the log, also without a farewell.
#[tokio::test]
async fn a_log_that_is_dropped_ends_its_tasks() {
    let log = open(&SimDisk::default()).await.expect("open");
    let shared = Arc::downgrade(&log.reader.shared);
    append(&log, vec![entry(1, 0, 10)]).await;
    drop(log);
    until("the tasks end", || shared.strong_count() == 0).await;
}

#[tokio::test]
async fn it_works_on_the_operating_systems_disk() {
    let dir = tempfile::tempdir().expect("directory");
    let open = async || {
        let tasks = Tasks::from_os().expect("seed");
        Log::open(&tasks, Arc::new(crate::disk::OsDisk), dir.path().join("log"), options()).await.expect("open")
    };
    let mut log = open().await;
    let entries: Vec<Entry> = (0..100).map(|index| entry(1, index, 200)).collect();
    for some in entries.chunks(7) {
        append(&log, some.to_vec()).await;
    }
    log.save_vote(&Vote::new(2, 1)).await.expect("vote");
    log.truncate_after(Some(types::log_id(1, 79))).await.expect("truncate");
    log.purge(types::log_id(1, 39)).await.expect("purge");
    log.close().await.expect("close");
    let found = contents(&open().await).await;
    assert_eq!((found.vote, found.purged), (Some(Vote::new(2, 1)), Some(types::log_id(1, 39))));
    assert_eq!(found.entries, entries[40..80]);
}
