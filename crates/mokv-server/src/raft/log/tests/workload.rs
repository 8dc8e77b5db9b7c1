//! What openraft could ask of a log, in an order that follows from a seed, and what a crash may leave of it.

use std::sync::Mutex;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// What a workload did, in terms of the disk's calls.
pub(super) struct History {
    /// What the log has after each step; an entry is a step.
    pub(super) states: Vec<Contents>,
    /// (calls, state): from so many calls on, the state was requested.
    requested: Vec<(usize, usize)>,
    /// (calls, state): from so many calls on, the state was acknowledged.
    acknowledged: Arc<Mutex<Vec<(usize, usize)>>>,
    committed: Vec<Option<LogId>>,
    /// (calls, position): from so many calls on, this committed position was durable.
    committed_durable: Vec<(usize, Option<LogId>)>,
}

impl History {
    fn new() -> Self {
        Self {
            states: vec![Contents::default()],
            requested: vec![(0, 0)],
            acknowledged: Arc::default(),
            committed: vec![None],
            committed_durable: vec![(0, None)],
        }
    }

    fn now(&self) -> &Contents {
        self.states.last().expect("at least the first")
    }

    fn committed(&self) -> Option<LogId> {
        self.committed.last().copied().flatten()
    }

    fn step(&mut self, calls: usize, change: impl FnOnce(&mut Contents)) {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push(state);
        self.requested.push((calls, self.states.len() - 1));
    }

    /// The first state that a crash after so many calls may leave, and the last one.
    fn bounds(&self, calls: usize) -> (usize, usize) {
        let highest = |events: &[(usize, usize)]| {
            events.iter().filter(|(at, _)| *at <= calls).map(|(_, state)| *state).max().unwrap_or(0)
        };
        (highest(&self.acknowledged.lock().expect("lock")), highest(&self.requested))
    }

    /// All that was acknowledged is there, and nothing that was not asked for.
    pub(super) fn check(&self, calls: usize, found: &Contents, committed: Option<LogId>) {
        let (first, last) = self.bounds(calls);
        let is_possible = self.states[first..=last].contains(found);
        assert!(is_possible, "after {calls} calls: none of states {first}..={last}, but {found:#?}");
        assert!(self.committed.contains(&committed), "{committed:?} was never committed");
        let durable = self.committed_durable.iter().filter(|(at, _)| *at <= calls).map(|(_, position)| *position);
        assert!(durable.max().flatten() <= committed, "{committed:?} was left behind");
        let end = found.entries.last().map(|entry| entry.log_id).max(found.purged);
        assert!(committed.map(|id| id.index) <= end.map(|id| id.index));
    }
}

/// How often each kind of step was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) appends: usize,
    pub(super) votes: usize,
    pub(super) commits: usize,
    /// Those that dropped entries.
    pub(super) truncations: usize,
    pub(super) purges: usize,
    /// The log was closed and opened again.
    pub(super) reopenings: usize,
    /// The process was killed, with requests waiting, and the log opened again.
    pub(super) kills: usize,
    /// Segments that followed another one.
    pub(super) rotations: usize,
}

/// Does what openraft would do. Ends with the first step that fails.
pub(super) struct Workload {
    tasks: Tasks,
    log: Log,
    disk: SimDisk,
    rng: SmallRng,
    pub(super) history: History,
    pub(super) steps: Steps,
    term: u64,
}

impl Workload {
    /// # Errors
    ///
    /// Those of opening the log.
    pub(super) async fn open(disk: &SimDisk, seed: u64) -> Result<Self, LogError> {
        let tasks = Tasks::new(seed, DiskTasks::Inline);
        let log = Log::open(&tasks, Arc::new(disk.clone()), DIR.into(), options()).await?;
        let rng = SmallRng::seed_from_u64(seed);
        let (disk, steps) = (disk.clone(), Steps::default());
        Ok(Self { tasks, log, disk, rng, history: History::new(), steps, term: 1 })
    }

    fn next_index(&self) -> u64 {
        let now = self.history.now();
        now.entries.last().map(|entry| entry.log_id).max(now.purged).map_or(0, |last| last.index + 1)
    }

    /// Notes that a state was acknowledged as soon as it is.
    fn watch(&self, state: usize, durable: Durable) {
        let (disk, acknowledged) = (self.disk.clone(), self.history.acknowledged.clone());
        tokio::spawn(async move {
            // No answer: the process was killed before.
            if let Ok(Ok(())) = durable.await {
                acknowledged.lock().expect("lock").push((disk.calls(), state));
            }
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
            .map(|index| entry(self.term, index, [20, 200, 700, 2500][self.rng.random_range(0..4)]))
            .collect();
        let calls = self.disk.calls();
        for entry in &entries {
            self.history.step(calls, |state| state.entries.push(entry.clone()));
        }
        let durable = submit(&self.log, entries).await;
        self.watch(self.history.states.len() - 1, durable);
        self.steps.appends += 1;
    }

    async fn vote(&mut self) -> io::Result<()> {
        self.term += 1;
        let vote = Vote::new(self.term, self.rng.random_range(1..4));
        self.history.step(self.disk.calls(), |state| state.vote = Some(vote));
        self.log.save_vote(&vote).await?;
        self.acknowledge();
        self.steps.votes += 1;
        Ok(())
    }

    async fn truncate(&mut self) -> io::Result<()> {
        let kept = self.history.committed().max(self.history.now().purged).map_or(0, |kept| kept.index + 1);
        let from = self.rng.random_range(kept.max(self.next_index().saturating_sub(4))..=self.next_index());
        let calls = self.disk.calls();
        let before = self.history.now().entries.len();
        self.history.step(calls, |state| state.entries.retain(|entry| entry.log_id.index < from));
        self.steps.truncations += usize::from(self.history.now().entries.len() < before);
        let after = from.checked_sub(1).map(|last| types::log_id(1, last));
        self.log.truncate_after(after).await?;
        self.acknowledge();
        Ok(())
    }

    async fn commit(&mut self) -> io::Result<()> {
        let last = self.history.now().entries.last().map(|entry| entry.log_id);
        if last > self.history.committed() {
            self.history.committed.push(last);
            self.log.save_committed(last).await?;
            self.steps.commits += 1;
        }
        Ok(())
    }

    /// Purges some of what was committed; or, as after a snapshot from the leader, more than there is.
    async fn purge(&mut self) -> io::Result<()> {
        let upto = match self.history.committed() {
            _ if self.rng.random_bool(0.1) => Some(types::log_id(self.term, self.next_index() + 3)),
            Some(committed) => Some(types::log_id(committed.leader_id.term, committed.index)),
            None => None,
        };
        let Some(upto) = upto.filter(|upto| Some(upto.index) > self.history.now().purged.map(|id| id.index)) else {
            return Ok(());
        };
        self.history.step(self.disk.calls(), |state| {
            state.purged = Some(upto);
            state.entries.retain(|entry| entry.log_id.index > upto.index);
        });
        self.log.purge(upto).await?;
        self.steps.purges += 1;
        Ok(())
    }

    async fn reopen(&mut self) -> io::Result<()> {
        self.close().await?;
        self.log = self.open_again().await?;
        let found = contents(&self.log).await;
        assert_eq!(found, *self.history.now(), "a log that was closed has all that was asked of it");
        assert_eq!(self.log.read_committed().await?, self.history.committed());
        self.steps.reopenings += 1;
        Ok(())
    }

    /// Ends the process where it stands. What it wrote the system still has.
    async fn kill(&mut self) -> io::Result<()> {
        self.tasks.abort();
        // Tasks that were aborted end with their next turn.
        tokio::task::yield_now().await;
        let calls = self.disk.calls();
        self.log = self.open_again().await?;
        let (found, committed) = (contents(&self.log).await, self.log.read_committed().await?);
        self.history.check(calls, &found, committed);
        self.history.step(calls, |state| *state = found);
        self.history.committed.push(committed);
        self.acknowledge();
        self.steps.kills += 1;
        Ok(())
    }

    async fn open_again(&mut self) -> io::Result<Log> {
        self.tasks = Tasks::new(self.rng.random(), DiskTasks::Inline);
        let opened = Log::open(&self.tasks, Arc::new(self.disk.clone()), DIR.into(), options()).await;
        opened.map_err(io::Error::other)
    }

    pub(super) async fn close(&mut self) -> io::Result<()> {
        self.log.close().await?;
        self.acknowledge();
        self.history.committed_durable.push((self.disk.calls(), self.history.committed()));
        Ok(())
    }

    /// # Errors
    ///
    /// Those of the log.
    pub(super) async fn step(&mut self) -> io::Result<()> {
        match self.rng.random_range(0..44) {
            0..=18 => self.append().await,
            19..=26 => self.commit().await?,
            27..=30 => self.vote().await?,
            31..=34 => self.truncate().await?,
            35..=38 => self.purge().await?,
            39..=41 => self.reopen().await?,
            _ => self.kill().await?,
        }
        for _ in 0..[0, 0, 0, 1, 3, 8][self.rng.random_range(0..6)] {
            tokio::task::yield_now().await;
        }
        let last = self
            .disk
            .paths()
            .iter()
            .filter_map(|path| segment::Segment::sequence_of(path.file_name()?.to_str()?))
            .max();
        // The last one is the spare.
        self.steps.rotations = last.map_or(0, |last| last as usize - 2);
        Ok(())
    }

    /// Why the log stopped, if it did.
    pub(super) fn failure(&self) -> Option<LogFailure> {
        self.log.status().borrow().failure.clone()
    }

    /// Ends all tasks, as a crash does.
    pub(super) async fn stop(&self) {
        self.tasks.abort();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}
