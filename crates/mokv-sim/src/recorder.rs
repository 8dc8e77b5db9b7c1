//! The history of a run, as the checkers take it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mokv_check::{Change, Event, History, Op, Outcome, Seen, Watch};

use crate::trace::Trace;

/// Records what clients call and what the nodes apply. Cheap to clone; clones are the same history.
#[derive(Clone)]
pub struct Recorder {
    trace: Trace,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    last_call: u64,
    /// Which call a session's request belongs to.
    requests: BTreeMap<(u64, u64), u64>,
}

impl Recorder {
    /// An empty history.
    pub fn new(trace: Trace) -> Self {
        Self { trace, state: Arc::default() }
    }

    /// A client is about to call. Returns the number of the call.
    pub fn call(&self, client: u64, op: Op) -> u64 {
        let at = self.trace.now();
        let mut state = self.state();
        state.last_call += 1;
        let id = state.last_call;
        state.events.push(Event::Call { id, client, at, op });
        id
    }

    /// The write of this call has a request id: however often it is sent, it is one.
    pub fn request(&self, client_id: u64, sequence: u64, call: u64) {
        self.state().requests.insert((client_id, sequence), call);
    }

    /// The call has ended.
    pub fn answer(&self, id: u64, result: Outcome) {
        let at = self.trace.now();
        self.state().events.push(Event::Return { id, at, result });
    }

    /// A write was applied. `request` is its request id, if it has one.
    pub fn commit(&self, revision: u64, changes: Vec<Change>, request: Option<(u64, u64)>) {
        let mut state = self.state();
        let call = request.and_then(|request| state.requests.get(&request).copied());
        state.events.push(Event::Commit { node: 0, revision, changes, call });
    }

    /// Time has brought an end to these keys, and to leases.
    pub fn expiry(&self, revision: u64, changes: Vec<Change>, leases: Vec<u64>) {
        let at = self.trace.now();
        let keys = changes.into_iter().map(|change| match change {
            Change::Put { key, .. } | Change::Delete { key } => key,
        });
        let keys = keys.collect();
        self.state().events.push(Event::Expiry { node: 0, at, revision, keys, leases });
    }

    /// A client is about to watch. Returns the number of the watch.
    pub fn watch(&self, client: u64, watch: Watch) -> u64 {
        let at = self.trace.now();
        let mut state = self.state();
        state.last_call += 1;
        let id = state.last_call;
        state.events.push(Event::Watch { id, client, at, watch });
        id
    }

    /// A watcher was told something.
    pub fn seen(&self, id: u64, seen: Seen) {
        let at = self.trace.now();
        self.state().events.push(Event::Seen { id, at, seen });
    }

    /// A watch has ended.
    pub fn unwatch(&self, id: u64, reason: String) {
        let at = self.trace.now();
        self.state().events.push(Event::Unwatch { id, at, reason });
    }

    /// All that was recorded.
    pub fn history(&self) -> History {
        History { events: self.state().events.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
