//! Tests of the store as a whole: rule by rule, against a model, and with threads.

mod bounds;
mod data_model;
mod history;
mod model;
mod rules;
mod threads;

use super::*;
use crate::command::{self, OutcomeResult, Rejection};
use mokv_proto::internal;

/// A store with its own log.
struct Log {
    store: Store,
    term: u64,
    index: u64,
    log_time: LogTime,
}

impl Log {
    fn new() -> Self {
        Self { store: Store::new(), term: 1, index: 0, log_time: LogTime::default() }
    }

    fn next(&mut self) -> Position {
        self.index += 1;
        Position { term: self.term, index: self.index }
    }

    /// Applies an entry.
    fn apply(&mut self, commands: &[Command]) -> Vec<Outcome> {
        let at = self.next();
        self.store.apply(at, self.log_time, commands).expect("known commands")
    }

    /// Applies an entry of one command.
    fn one(&mut self, command: Command) -> OutcomeResult {
        self.apply(&[command]).swap_remove(0).result.expect("a result")
    }

    fn checkpoint(&self) -> Checkpoint {
        self.store.checkpoint().expect("something applied")
    }
}

fn of_session(client_id: u64, sequence: u64, first_unanswered: u64, mut command: Command) -> Command {
    command.id = Some(RequestId { client_id, sequence, first_unanswered });
    command
}

fn rejected(reason: Rejection) -> OutcomeResult {
    OutcomeResult::Rejected(reason.into())
}

/// All pairs of a range, chunk by chunk.
fn scan_all(mut chunk: impl FnMut(&KeyRange) -> Chunk, mut range: KeyRange) -> Vec<internal::Pair> {
    let mut pairs = Vec::new();
    loop {
        let Chunk { pairs: more, next } = chunk(&range);
        pairs.extend(more.into_iter().map(internal::Pair::from));
        match next {
            Some(next) => range = range.starting_at(next),
            None => return pairs,
        }
    }
}

/// A store that was loaded from a checkpoint.
fn reload(checkpoint: &Checkpoint) -> Result<Loaded, LoadError> {
    let mut loader = Loader::new(checkpoint.head("cluster"))?;
    checkpoint.sessions().try_for_each(|session| loader.push_session(session))?;
    let pairs = scan_all(|range| checkpoint.scan(range, ChunkLimit::default()), KeyRange::all());
    pairs.into_iter().try_for_each(|pair| loader.push_pair(pair))?;
    loader.finish()
}

/// Counters that are kept write by write are what counting anew brings.
fn check_counters(store: &Store) {
    let state = store.shared.read();
    let (pairs_hash, pairs_bytes) = state.pairs.recount();
    let (sessions_hash, sessions_bytes) = state.sessions.recount();
    assert_eq!((state.pairs.hash(), state.pairs.memory_bytes()), (pairs_hash, pairs_bytes));
    assert_eq!((state.sessions.hash(), state.sessions.memory_bytes()), (sessions_hash, sessions_bytes));
}
