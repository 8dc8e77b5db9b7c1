//! A crash at every call to the disk, with every choice of what it leaves: what was acknowledged is there, nothing else is.

use std::sync::Mutex;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// What a workload did, in terms of the disk's calls.
struct History {
    /// What the log has after each step; an entry is a step.
    states: Vec<Contents>,
    /// (calls, state): from so many calls on, the state was requested.
    requested: Vec<(usize, usize)>,
    /// (calls, state): from so many calls on, the state was acknowledged.
    acknowledged: Arc<Mutex<Vec<(usize, usize)>>>,
    committed: Vec<Option<LogId>>,
}

impl History {
    fn new() -> Self {
        Self {
            states: vec![Contents::default()],
            requested: vec![(0, 0)],
            acknowledged: Arc::default(),
            committed: vec![None],
        }
    }

    fn now(&self) -> &Contents {
        self.states.last().expect("at least the first")
    }

    fn step(&mut self, calls: usize, change: impl FnOnce(&mut Contents)) -> usize {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push(state);
        self.requested.push((calls, self.states.len() - 1));
        self.states.len() - 1
    }

    /// The first state that a crash after so many calls may leave, and the last one.
    fn bounds(&self, calls: usize) -> (usize, usize) {
        let highest = |events: &[(usize, usize)]| {
            events.iter().filter(|(at, _)| *at <= calls).map(|(_, state)| *state).max().unwrap_or(0)
        };
        (highest(&self.acknowledged.lock().expect("lock")), highest(&self.requested))
    }

    fn check(&self, calls: usize, found: &Contents, committed: Option<LogId>) {
        let (first, last) = self.bounds(calls);
        let is_possible = self.states[first..=last].contains(found);
        assert!(is_possible, "after {calls} calls: none of states {first}..={last}, but {found:#?}");
        assert!(self.committed.contains(&committed));
        let end = found.entries.last().map(|entry| entry.log_id).max(found.purged);
        assert!(committed.map(|id| id.index) <= end.map(|id| id.index));
    }
}

/// Does what openraft would do, in an order that follows from the seed.
struct Workload {
    log: Log,
    disk: SimDisk,
    rng: SmallRng,
    history: History,
    term: u64,
}

impl Workload {
    fn next_index(&self) -> u64 {
        let now = self.history.now();
        now.entries.last().map(|entry| entry.log_id).max(now.purged).map_or(0, |last| last.index + 1)
    }

    /// Notes that a state was acknowledged as soon as it is.
    fn watch(&self, state: usize, durable: Durable) {
        let (disk, acknowledged) = (self.disk.clone(), self.history.acknowledged.clone());
        tokio::spawn(async move {
            durable.await.expect("an answer").expect("durable");
            acknowledged.lock().expect("lock").push((disk.calls(), state));
        });
    }

    fn acknowledge(&self) {
        let now = (self.disk.calls(), self.history.states.len() - 1);
        self.history.acknowledged.lock().expect("lock").push(now);
    }

    async fn append(&mut self) {
        let first = self.next_index();
        let count = self.rng.random_range(1..4);
        let entries: Vec<Entry> = (first..first + count)
            .map(|index| entry(self.term, index, [20, 200, 700][self.rng.random_range(0..3)]))
            .collect();
        let calls = self.disk.calls();
        for entry in &entries {
            self.history.step(calls, |state| state.entries.push(entry.clone()));
        }
        let durable = submit(&self.log, entries).await;
        self.watch(self.history.states.len() - 1, durable);
    }

    async fn vote(&mut self) {
        self.term += 1;
        let vote = Vote::new(self.term, self.rng.random_range(1..4));
        self.history.step(self.disk.calls(), |state| state.vote = Some(vote));
        self.log.save_vote(&vote).await.expect("vote");
        self.acknowledge();
    }

    async fn truncate(&mut self) {
        let committed = self.history.committed.last().copied().flatten();
        let kept = committed.max(self.history.now().purged).map_or(0, |kept| kept.index + 1);
        let from = self.rng.random_range(kept.max(self.next_index().saturating_sub(4))..=self.next_index());
        let calls = self.disk.calls();
        self.history.step(calls, |state| state.entries.retain(|entry| entry.log_id.index < from));
        let after = from.checked_sub(1).map(|last| types::log_id(1, last));
        self.log.truncate_after(after).await.expect("truncate");
        self.acknowledge();
    }

    async fn commit(&mut self) {
        let last = self.history.now().entries.last().map(|entry| entry.log_id);
        if last > self.history.committed.last().copied().flatten() {
            self.history.committed.push(last);
            self.log.save_committed(last).await.expect("committed");
        }
    }

    /// Purges some of what was committed; or, as after a snapshot from the leader, more than there is.
    async fn purge(&mut self) {
        let committed = self.history.committed.last().copied().flatten();
        let upto = match committed {
            _ if self.rng.random_bool(0.1) => Some(types::log_id(self.term, self.next_index() + 3)),
            Some(committed) => Some(types::log_id(committed.leader_id.term, committed.index)),
            None => None,
        };
        let Some(upto) = upto.filter(|upto| Some(upto.index) > self.history.now().purged.map(|id| id.index)) else {
            return;
        };
        self.history.step(self.disk.calls(), |state| {
            state.purged = Some(upto);
            state.entries.retain(|entry| entry.log_id.index > upto.index);
        });
        self.log.purge(upto).await.expect("purge");
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0..=9 => self.append().await,
            10..=13 => self.commit().await,
            14..=15 => self.vote().await,
            16..=17 => self.truncate().await,
            _ => self.purge().await,
        }
        for _ in 0..[0, 0, 0, 1, 3, 8][self.rng.random_range(0..6)] {
            tokio::task::yield_now().await;
        }
    }
}

/// Runs a workload on a recorded disk.
async fn run(seed: u64, steps: usize) -> (History, Vec<SimDisk>) {
    let disk = SimDisk::default();
    disk.record();
    let log = open(&disk).await.expect("open");
    let rng = SmallRng::seed_from_u64(seed);
    let mut workload = Workload { log, disk: disk.clone(), rng, history: History::new(), term: 1 };
    for _ in 0..steps {
        workload.step().await;
    }
    workload.log.close().await.expect("close");
    workload.acknowledge();
    (workload.history, disk.recorded())
}

/// What a crash may leave: any choice of what is pending; of much that is pending each prefix, each atom alone, and all but
/// each atom.
fn crashes(disk: &SimDisk) -> Vec<SimDisk> {
    const CHOICES_MAX: usize = 6;
    let pending = disk.pending();
    if pending <= CHOICES_MAX {
        return (0..1 << pending).map(|choice: usize| disk.crash(|atom| choice >> atom & 1 == 1)).collect();
    }
    let mut crashes = vec![disk.crash(|_| false)];
    for chosen in 0..pending {
        crashes.push(disk.crash(|atom| atom <= chosen));
        crashes.push(disk.crash(|atom| atom == chosen));
        crashes.push(disk.crash(|atom| atom != chosen));
    }
    crashes
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
    let mut checked = 0;
    for seed in 0..6 {
        let (history, images) = run(seed, 60).await;
        for (calls, image) in images.iter().enumerate() {
            for crash in crashes(image) {
                let (log, found, committed) = recovered(&crash).await;
                history.check(calls, &found, committed);
                goes_on(&crash, log, found, &history).await;
                checked += 1;
            }
            let killed = image.copy();
            let (log, found, committed) = recovered(&killed).await;
            history.check(calls, &found, committed);
            goes_on(&killed, log, found, &history).await;
        }
    }
    assert!(checked > 1000, "only {checked} crashes");
}

/// Files that a killed process had made may have names that no crash would leave; who goes on with them makes them last.
#[tokio::test]
async fn a_crash_after_the_restart_of_a_killed_process_keeps_what_the_new_one_acknowledged() {
    let (_, images) = run(3, 60).await;
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

#[tokio::test]
async fn a_crash_during_recovery_changes_nothing() {
    let (_, images) = run(7, 40).await;
    for image in images.iter().step_by(5) {
        for crash in crashes(image) {
            crash.record();
            let found = recovered(&crash).await.1;
            for during in crash.recorded() {
                for second in [during.crash(|_| false), during.crash(|_| true), during.crash(|atom| atom % 2 == 0)] {
                    assert_eq!(recovered(&second).await.1, found);
                }
            }
        }
    }
}
