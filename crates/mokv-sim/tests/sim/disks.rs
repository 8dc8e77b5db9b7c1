//! Disks that fail, lie, tear, hang and are read-only.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mokv_check::{Op, Outcome};
use mokv_server::disk::sim::SimDisk;
use mokv_server::raft::log::{Log, LogError, LogOptions};
use mokv_server::raft::types::LogId;
use mokv_server::runtime::{DiskTasks, Tasks};
use mokv_sim::cluster::Excuse;
use mokv_sim::disk::{Behaviour, Call, Refusal, Step};
use mokv_sim::plan::Plan;
use mokv_sim::run::World;
use rand::RngExt;
use rand::seq::IndexedRandom;
use tokio::time::sleep;

use crate::files;
use crate::scenario::{
    Expected, SEEDS, all_ready, client_at, each_seed, ensure, generator, leader, progress, refused, replace, serves,
    set, three, until,
};

/// A sync on a disk that is in trouble.
const SLOW_SYNC: Duration = Duration::from_secs(2);

/// Many times the longest election timeout.
const LONG: Duration = Duration::from_secs(12);

/// What a node does between writing a snapshot and having dropped what it replaces, by the call that comes next.
const SNAPSHOT_STEPS: [Step; 7] = [
    Step { call: Call::Create, path_end: ".tmp" },
    Step { call: Call::Rename, path_end: ".snap" },
    Step { call: Call::SyncDir, path_end: "/snapshots" },
    Step { call: Call::Remove, path_end: ".snap" },
    Step { call: Call::Write, path_end: "/log/mark" },
    Step { call: Call::Remove, path_end: ".seg" },
    Step { call: Call::Rename, path_end: ".seg" },
];

/// Small segments and a few of them behind each snapshot.
fn small_files(seed: u64) -> Plan {
    Plan { segment_bytes: 4 << 10, snapshot_log_bytes: 12 << 10, ..three(seed) }
}

/// Waits until the disk has snapshots, and segments that others follow.
async fn until_many_files(world: &World, host: usize) -> Expected {
    let disk = || world.cluster.disk(host);
    let has_many = || files::segments(&disk()).len() > 2 && files::ending(&disk(), ".snap").len() > 1;
    until(world, "snapshots and segments", has_many).await
}

/// Opens the log on a copy of the disk, as a starting node does. Returns its last entry.
async fn open_log(disk: &SimDisk) -> Result<Option<LogId>, LogError> {
    let tasks = Tasks::new(0, DiskTasks::Inline);
    let options = LogOptions { segment_bytes: 0, cache_bytes_max: 0 };
    let opened = Log::open(&tasks, Arc::new(disk.copy()), "/data/log".into(), options).await;
    tasks.abort();
    opened.map(|log| log.last())
}

#[test]
fn s16_a_failed_sync_ends_the_process_and_nothing_of_it_is_acknowledged() {
    let plan = |seed| Plan::quiet(seed, if seed % 4 == 0 { 1 } else { 3 });
    each_seed(SEEDS, plan, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        let load = world.load();
        progress(&world, 20).await?;
        let leading = leader(&world).await?;
        let hit: Vec<usize> = if rng.random_bool(0.5) { vec![leading] } else { (0..cluster.len()).collect() };
        for host in &hit {
            cluster.excuse(*host, Excuse::FailedCall);
            cluster.disk_control(*host).set(|behaviour| behaviour.fail_sync = true);
        }
        let mut client = client_at(&world, leading, 80);
        let (key, value) = ("unsynced".to_owned(), client.token());
        let written = client.write(Op::set(key, value), false).await;
        // With the others' disks in order, they may have committed it.
        let may_succeed = hit.len() <= cluster.len() / 2;
        ensure(may_succeed || !matches!(written, Outcome::Ok { .. }), format_args!("acknowledged: {written:?}"))?;
        until(&world, "the leader's process ends", || cluster.ended(leading).is_some()).await?;
        let why = cluster.ended(leading).ok_or("it has ended")?;
        ensure(why.contains("could not sync"), format_args!("it says why: {why}"))?;
        if !may_succeed {
            until(&world, "nobody leads", || cluster.leader().is_none()).await?;
        }
        for host in hit {
            cluster.disk_control(host).set(|behaviour| *behaviour = Behaviour::default());
            // What the sync did not bring to the disk may still be in memory, and look as if it were there.
            if rng.random_bool(0.5) {
                cluster.cut_power(host);
            }
        }
        all_ready(&world).await?;
        load.stop().await;
        Ok(())
    });
}

/// What of a segment is on the disk for certain, and what else is in it.
struct Tail {
    segment: PathBuf,
    durable: SimDisk,
    written: SimDisk,
    /// Where the two differ.
    differs: std::ops::Range<usize>,
}

/// The tail of a log whose last group is being synced. `None` if nothing is, or more than one file.
fn tail(disk: &SimDisk) -> Option<Tail> {
    let (durable, written) = (disk.crash(|_| false), disk.crash(|_| true));
    if durable.paths() != written.paths() {
        return None;
    }
    let (durable, written) = (durable.copy(), written.copy());
    let is_torn = |path: &PathBuf| durable.content(path) != written.content(path);
    let torn: Vec<PathBuf> = files::ending(&written, ".seg").into_iter().filter(is_torn).collect();
    let [segment] = torn.as_slice() else { return None };
    let (before, after) = (durable.content(segment), written.content(segment));
    if before.len() != after.len() {
        return None;
    }
    let differ = |at: &usize| before[*at] != after[*at];
    let (first, last) = ((0..before.len()).find(differ)?, (0..before.len()).rfind(differ)?);
    Some(Tail { segment: segment.clone(), durable, written, differs: first..last + 1 })
}

impl Tail {
    /// The disk with this many bytes of the segment written.
    fn torn_at(&self, at: usize) -> SimDisk {
        let disk = self.written.copy();
        let before = self.durable.content(&self.segment);
        disk.edit(&self.segment, |bytes| bytes[at..].copy_from_slice(&before[at..]));
        disk
    }
}

#[test]
fn s18_a_tail_torn_at_any_byte_is_dropped_and_nothing_before_it() {
    each_seed(0..6, three, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        let load = world.load();
        progress(&world, 20).await?;
        let host = rng.random_range(0..3);
        cluster.disk_control(host).set(|behaviour| behaviour.sync_max = Duration::from_millis(100));
        until(&world, "a tail", || tail(&cluster.disk(host)).is_some()).await?;
        cluster.kill(host);
        let tail = tail(&cluster.disk(host)).ok_or("a tail")?;
        let opened = |disk: SimDisk| async move { open_log(&disk).await.map_err(|error| error.to_string()) };
        let (first, last) = (opened(tail.durable.clone()).await?, opened(tail.written.clone()).await?);
        let mut before = first;
        for at in tail.differs.clone() {
            let found = opened(tail.torn_at(at)).await.map_err(|why| format!("torn at {at}: {why}"))?;
            ensure(found >= before, format_args!("torn at {at}: the log ends with {found:?}, not {before:?}"))?;
            before = found;
        }
        ensure(before <= last, "nothing is there that was not written")?;
        ensure(first < last && tail.differs.len() > 50, "records were torn")?;
        // And one of them as the disk of a node.
        cluster.disk_control(host).set(|behaviour| *behaviour = Behaviour::default());
        cluster.set_disk(host, tail.torn_at(rng.random_range(tail.differs.clone())));
        all_ready(&world).await?;
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s19_a_flipped_bit_is_refused_with_its_place_while_others_serve() {
    each_seed(0..18, small_files, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        let load = world.load();
        let host = rng.random_range(0..3);
        until_many_files(&world, host).await?;
        cluster.kill(host);
        let disk = cluster.disk(host).copy();
        let segments = files::segments(&disk);
        let (path, within) = match cluster.plan().seed % 3 {
            0 => {
                let path = PathBuf::from("/data/identity");
                (path.clone(), 0..disk.content(&path).len())
            }
            1 => {
                let path = files::ending(&disk, ".snap").pop().ok_or("a snapshot")?;
                (path.clone(), 0..disk.content(&path).len())
            }
            // A vote is a record like any other. The last segment may end with what was never durable.
            _ => {
                let path = segments[segments.len() - 2].clone();
                (path.clone(), 512..files::records_end(&disk.content(&path)))
            }
        };
        let (at, bit) = (rng.random_range(within), rng.random_range(0..8));
        world.trace.note(format_args!("bit {bit} of byte {at} of {} flips", path.display()));
        disk.edit(&path, |bytes| bytes[at] ^= 1 << bit);
        let image = disk.copy();
        let why = refused(&world, host, disk).await?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure(why.contains(&name), format_args!("it names {name}: {why}"))?;
        ensure(name == "identity" || why.contains("offset"), format_args!("it says where: {why}"))?;
        let left = cluster.disk(host);
        ensure(left.content(&path) == image.content(&path), "what is damaged is left for whoever looks into it")?;
        serves(&world, (host + 1) % 3).await?;
        serves(&world, (host + 2) % 3).await?;
        replace(&world, host).await?;
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s20_a_log_cut_below_what_was_synced_is_refused() {
    each_seed(SEEDS, three, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        let load = world.load();
        let host = rng.random_range(0..3);
        let synced = |disk: &SimDisk| {
            let path = files::segments(disk).pop()?;
            let (records, marked) = (files::records(&disk.content(&path)), files::marked(disk));
            let (below, above): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.number <= marked);
            (below.len() > 4).then_some((path, below, above))
        };
        until(&world, "records in the last segment", || synced(&cluster.disk(host)).is_some()).await?;
        cluster.kill(host);
        let disk = cluster.disk(host).copy();
        let (path, below, above) = synced(&disk).ok_or("they were there")?;
        let is_shorter = rng.random_bool(0.5);
        let cut_at = |at: usize| {
            let cut = disk.copy();
            cut.edit(&path, |bytes| if is_shorter { bytes.truncate(at) } else { bytes[at..].fill(0) });
            cut
        };
        for record in &below {
            match open_log(&cut_at(record.begin)).await {
                Err(LogError::WentBack { path: named, offset, .. }) => {
                    ensure(named == path && offset == record.begin as u64, format_args!("{named:?} at {offset}"))?;
                }
                other => return Err(format!("without {record:?}: {other:?}")),
            }
        }
        // Nobody was told of those.
        for record in above {
            ensure(open_log(&cut_at(record.begin)).await.is_ok(), format_args!("without {record:?}"))?;
        }
        let cut = below.choose(&mut rng).ok_or("records")?;
        let why = refused(&world, host, cut_at(cut.begin)).await?;
        ensure(why.contains("went back in time"), format_args!("it says why: {why}"))?;
        serves(&world, (host + 1) % 3).await?;
        replace(&world, host).await?;
        load.stop().await;
        Ok(())
    });
}

/// A backup of everything would be believed: that takes somebody who remembers that the node was further.
#[test]
fn s22_older_files_among_newer_ones_are_refused() {
    each_seed(SEEDS, small_files, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        let host = generator(&world).random_range(0..3);
        until_many_files(&world, host).await?;
        let backup = cluster.disk(host).crash(|_| true);
        let newest = files::ending(&backup, ".snap").pop().ok_or("a snapshot")?;
        // Until the log has dropped what only a newer snapshot has.
        until(&world, "newer snapshots", || {
            let snapshots = files::ending(&cluster.disk(host), ".snap");
            !snapshots.is_empty() && !snapshots.contains(&newest)
        })
        .await?;
        cluster.stop(host).await;
        let disk = cluster.disk(host).copy();
        let (end, expected) = match cluster.plan().seed % 2 {
            0 => (".seg", ["went back in time", "is missing"]),
            _ => (".snap", ["a snapshot is missing", "Put it back"]),
        };
        files::restore(&disk, &backup, end).await.map_err(|error| error.to_string())?;
        let why = refused(&world, host, disk).await?;
        ensure(expected.iter().any(|part| why.contains(part)), format_args!("it says why: {why}"))?;
        replace(&world, host).await?;
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s24_slow_syncs_cause_no_election_and_writes_go_on() {
    // What a follower lets in during one sync is bounded by the log's reserve, a part of a segment: small ones would hold
    // up the clients of a slow one.
    let plan = |seed| Plan { segment_bytes: 1 << 20, ..three(seed) };
    each_seed(0..9, plan, |world| async move {
        let cluster = &world.cluster;
        let load = world.load();
        progress(&world, 20).await?;
        let leading = leader(&world).await?;
        let term = || cluster.all_running().iter().map(|(_, running)| running.node.status().term).max();
        let before = term();
        let slow = match cluster.plan().seed % 3 {
            0 => vec![leading],
            1 => vec![(leading + 1) % 3],
            _ => vec![0, 1, 2],
        };
        for host in &slow {
            let control = cluster.disk_control(*host);
            control.set(|behaviour| (behaviour.sync_min, behaviour.sync_max) = (SLOW_SYNC, SLOW_SYNC));
        }
        let revision = cluster.observer().revision();
        sleep(LONG).await;
        let writes = cluster.observer().revision() - revision;
        ensure(term() == before, format_args!("the term went from {before:?} to {:?}", term()))?;
        ensure(cluster.leader() == Some(leading), "it still leads")?;
        // Two that are fast are a majority; otherwise each sync takes all that came during the one before, so that a write
        // may wait for two.
        let expected = if slow.len() == 1 { 20 * LONG.as_secs() } else { LONG.as_secs() / (2 * SLOW_SYNC.as_secs()) };
        ensure(writes >= expected, format_args!("{writes} writes in {LONG:?} with slow {slow:?}"))?;
        for host in slow {
            cluster.disk_control(host).set(|behaviour| *behaviour = Behaviour::default());
        }
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s25_a_disk_that_takes_nothing_ends_the_process_and_nothing_is_acknowledged() {
    each_seed(0..18, small_files, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        let seed = cluster.plan().seed;
        let refusal = [Refusal::ReadOnly, Refusal::Deleted, Refusal::NoDescriptors][(seed % 3) as usize];
        let load = world.load();
        progress(&world, 20).await?;
        // All of them, or one, of which the cluster takes no notice for long. Data that is deleted everywhere is gone.
        let hit_all = rng.random_bool(0.5) && refusal != Refusal::Deleted;
        let hit: Vec<usize> = if hit_all { (0..3).collect() } else { vec![rng.random_range(0..3)] };
        for host in &hit {
            cluster.excuse(*host, Excuse::FailedCall);
            cluster.disk_control(*host).set(|behaviour| behaviour.refusal = Some(refusal));
        }
        let ended = || hit.iter().filter(|host| cluster.ended(**host).is_some()).count();
        until(&world, format_args!("{refusal:?} ends a majority of {hit:?}"), || ended() > hit.len() / 2).await?;
        match hit.as_slice() {
            [host] => {
                serves(&world, (host + 1) % 3).await?;
                serves(&world, (host + 2) % 3).await?;
            }
            _ => {
                let (key, value) = ("nowhere".to_owned(), "to go".to_owned());
                let mut client = client_at(&world, rng.random_range(0..3), 80);
                let written = client.write(Op::set(key, value), false).await;
                ensure(!matches!(written, Outcome::Ok { .. }), format_args!("acknowledged: {written:?}"))?;
            }
        }
        for host in hit {
            match refusal {
                Refusal::Deleted => replace(&world, host).await?,
                _ => cluster.disk_control(host).set(|behaviour| behaviour.refusal = None),
            }
        }
        all_ready(&world).await?;
        load.stop().await;
        Ok(())
    });
}

#[test]
fn s26_a_crash_at_any_step_from_a_snapshot_to_the_purge_leaves_enough() {
    each_seed(0..14, small_files, |world| async move {
        let cluster = &world.cluster;
        let mut rng = generator(&world);
        let seed = cluster.plan().seed;
        let step = SNAPSHOT_STEPS[(seed % SNAPSHOT_STEPS.len() as u64) as usize];
        let load = world.load();
        let host = rng.random_range(0..3);
        let mut client = client_at(&world, host, 90);
        for round in 0..3 {
            until_many_files(&world, host).await?;
            let control = cluster.disk_control(host);
            control.set(|behaviour| behaviour.hang_before = Some(step));
            until(&world, format_args!("{step:?}"), || control.get().is_hung).await?;
            if rng.random_bool(0.5) {
                cluster.cut_power(host)
            } else {
                cluster.kill(host)
            }
            control.set(|behaviour| behaviour.is_hung = false);
            ensure(!files::ending(&cluster.disk(host), ".snap").is_empty(), "an older snapshot is there")?;
            all_ready(&world).await?;
            set(&mut client, &format!("round-{round}")).await?;
        }
        load.stop().await;
        Ok(())
    });
}
