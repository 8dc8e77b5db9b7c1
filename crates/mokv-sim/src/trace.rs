//! What happened in a run: every event enters one hash, and is printed where somebody wants to read it.
//!
//! Two runs of the same seed have the same hash, or the simulator is at fault: something in it, or in the server, does not
//! follow from the seed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3Default;

/// Events that a report of a violation shows.
const RECENT_MAX: usize = 60;

/// The events of one run. Cheap to clone; clones are the same trace.
#[derive(Clone)]
pub struct Trace {
    begin: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hash: Xxh3Default,
    events: u64,
    is_printed: bool,
    recent: VecDeque<String>,
    counts: BTreeMap<String, u64>,
    violation: Option<String>,
}

impl Trace {
    /// An empty trace that begins now. If `is_printed`, each event goes to standard output as it happens.
    pub fn new(is_printed: bool) -> Self {
        let state = State { is_printed, ..State::default() };
        Self { begin: Instant::now(), state: Arc::new(Mutex::new(state)) }
    }

    /// Microseconds of simulated time since the run began.
    pub fn now(&self) -> u64 {
        self.begin.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
    }

    /// An event.
    pub fn note(&self, event: impl fmt::Display) {
        let now = self.now();
        let mut state = self.state();
        let line = format!("{:>12.6} {event}", now as f64 / 1e6);
        state.hash.update(line.as_bytes());
        state.events += 1;
        if state.is_printed {
            print(&line);
        }
        if state.recent.len() == RECENT_MAX {
            state.recent.pop_front();
        }
        state.recent.push_back(line);
    }

    /// Counts something for the report: faults, calls, errors.
    pub fn count(&self, what: impl Into<String>) {
        *self.state().counts.entry(what.into()).or_default() += 1;
    }

    /// A promise that was broken. The first one stays: what follows may be its consequence.
    pub fn violate(&self, what: impl fmt::Display) {
        self.note(format_args!("VIOLATION {what}"));
        self.state().violation.get_or_insert_with(|| what.to_string());
    }

    /// The first broken promise.
    pub fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    /// The hash over all events so far.
    pub fn hash(&self) -> u64 {
        self.state().hash.digest()
    }

    /// The number of events so far.
    pub fn events(&self) -> u64 {
        self.state().events
    }

    /// What was counted.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.state().counts.clone()
    }

    /// The last events.
    pub fn recent(&self) -> Vec<String> {
        self.state().recent.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody asked to read along.
#[allow(clippy::print_stdout)]
fn print(line: &str) {
    println!("{line}");
}
