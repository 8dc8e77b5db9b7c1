//! A range of seeds, and those that once broke a promise.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mokv_sim::cluster::note_panics;
use mokv_sim::run::run_seed;

/// The first of the seeds.
const FIRST: u64 = 200_000;

const SEEDS: u64 = 500;

/// Each of these found a bug in the server when it was new. What a seed stands for changes with the simulator, so this is
/// a tribute rather than a proof: the bugs have tests of their own.
const ONCE_BROKEN: [u64; 4] = [216, 1612, 1695, 1967];

/// What has to happen somewhere in so many seeds: a simulator that does not do it tests less than it seems to.
const EXPECTED: [&str; 32] = [
    "rpc.Get",
    "rpc.Set",
    "rpc.Delete",
    "rpc.List",
    "rpc.GetServers",
    "rpc.OpenSession",
    "peer.Append",
    "peer.Vote",
    "peer.PreVote",
    "peer.Snapshot",
    "peer.Forward",
    "peer.Admin",
    "peer.Identify",
    "peer.Adopt",
    "peer.TransferLeader",
    "admin.Ok",
    "error.NO_LEADER",
    "error.OUTCOME_UNKNOWN",
    "error.READ_TIMEOUT",
    "error.REVISION_NOT_REACHED",
    "error.DISK_FULL",
    "error.QUOTA_EXCEEDED",
    "error.UNAVAILABLE",
    "client.retry",
    "client.timeout",
    "client.answer lost",
    "client.connection lost",
    "client.connection refused",
    "fault.duplicate append",
    "ended by itself",
    "leaders",
    "check.durable on a majority",
];

#[test]
fn seeds_keep_every_promise() {
    note_panics();
    let seeds: Vec<u64> = ONCE_BROKEN.into_iter().chain(FIRST..FIRST + SEEDS).collect();
    let (next, reports) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|threads| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZeroUsize::get) {
            threads.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run_seed(*seed, false);
                    reports.lock().expect("reports").push(report);
                }
            });
        }
    });
    let reports = reports.into_inner().expect("reports");
    assert_eq!(reports.len(), seeds.len());
    let broken = reports.iter().filter_map(|report| {
        let violation = report.violation.as_ref()?;
        Some(format!("seed {}: {violation}\nagain: make sim SEED={}\n", report.seed, report.seed))
    });
    assert_eq!(broken.collect::<String>(), "");

    let faults = mokv_sim::plan::Fault::ALL.map(|fault| format!("fault.{fault:?}"));
    let expected = EXPECTED.iter().map(|what| (*what).to_owned()).chain(faults);
    let missing: Vec<String> =
        expected.filter(|what| !reports.iter().any(|report| report.counts.contains_key(what))).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}");
}
