//! Sessions: what makes a write that is sent again take effect once (RIFL; Raft thesis, 6.3).
//!
//! A session is granted by the cluster and remembers the outcomes of its writes until its client has them. Which
//! session is the least recently used follows from the order of commands alone, so all nodes evict the same one.

use std::collections::BTreeMap;
use std::sync::Arc;

use mokv_proto::internal;
use prost::Message;

use super::hash;
use super::memory::{map_entry_bytes, outcome_bytes};
use crate::command::{Outcome, Rejection, RequestId};

/// How many sessions there may be; opening one more evicts the least recently used. Part of the state machine: all
/// nodes of a cluster must agree on it.
pub const SESSIONS_MAX: usize = 10_000;

/// How many outcomes a session remembers at most; further writes are refused until its client acknowledges some. Part
/// of the state machine: all nodes of a cluster must agree on it.
pub const ANSWERS_MAX: usize = 4096;

/// How many bytes of pairs and results the outcomes of a session may hold before further writes are refused, until its
/// client acknowledges some; the last one may go beyond. A session is one item of a snapshot, so it is far below what such
/// an item may be. Part of the state machine.
pub const ANSWERS_BYTES_MAX: usize = 4 << 20;

/// What a session weighs: a place in the map of clients, one in the order of use, and its own allocation.
const SESSION_BYTES: usize =
    map_entry_bytes(size_of::<(u64, Arc<Session>)>()) + map_entry_bytes(size_of::<(u64, u64)>()) + size_of::<Session>();

const ANSWER_BYTES: usize = map_entry_bytes(size_of::<(u64, Outcome)>());

/// One session.
#[derive(Clone)]
pub(super) struct Session {
    last_used: u64,
    first_unanswered: u64,
    /// By sequence; none below `first_unanswered`.
    answers: BTreeMap<u64, Outcome>,
    /// The sum of the answers' hashes.
    answers_hash: u128,
    /// What the answers hold beyond themselves.
    answers_bytes: usize,
}

/// Sessions by client id. Shared with pins: what changes while a pin holds it is copied first.
pub(super) type ByClient = BTreeMap<u64, Arc<Session>>;

/// What to do with a command of a session.
pub(super) enum Admission {
    /// Apply it and [`Sessions::remember`] its outcome.
    New,
    /// It was applied before, with this outcome.
    Repeated(Outcome),
    /// Refuse it.
    Refused(Rejection),
}

/// All sessions.
///
/// Invariant: `by_use` holds each session once, under its `last_used`.
pub(super) struct Sessions {
    by_client: Arc<ByClient>,
    by_use: BTreeMap<u64, u64>,
    next_client_id: u64,
    /// Over all sessions.
    answers: usize,
    answers_bytes: usize,
    hash: u128,
}

impl Sessions {
    /// No sessions, with the client id that the next one gets.
    pub(super) fn new(next_client_id: u64) -> Self {
        Self {
            by_client: Arc::default(),
            by_use: BTreeMap::new(),
            next_client_id,
            answers: 0,
            answers_bytes: 0,
            hash: 0,
        }
    }

    /// Client ids go on from a later one.
    pub(super) fn skip_ids(&mut self, ids: u64) {
        self.next_client_id += ids;
    }

    /// Opens a session and returns its client id. If there are too many, the least recently used gives way.
    pub(super) fn open(&mut self) -> u64 {
        if self.by_client.len() >= SESSIONS_MAX {
            self.evict();
        }
        let client_id = self.next_client_id;
        self.next_client_id += 1;
        let session = Session::new(self.next_use(), 1);
        self.insert(client_id, session);
        client_id
    }

    /// Decides about a command of a session. Whatever the answer, it uses the session, and moves the mark below which
    /// answers are forgotten: up to the command's, which counts for at most its own sequence.
    pub(super) fn admit(&mut self, id: &RequestId) -> Admission {
        let use_number = self.next_use();
        let sessions = Arc::make_mut(&mut self.by_client);
        let Some(session) = sessions.get_mut(&id.client_id).map(Arc::make_mut) else {
            return Admission::Refused(Rejection::SessionExpired);
        };
        self.by_use.remove(&session.last_used);
        self.by_use.insert(use_number, id.client_id);
        self.hash = self.hash.wrapping_sub(session.hash(id.client_id));
        self.answers -= session.answers.len();
        self.answers_bytes -= session.answers_bytes;
        session.last_used = use_number;
        session.forget_below(id.first_unanswered.min(id.sequence), id.client_id);
        self.answers += session.answers.len();
        self.answers_bytes += session.answers_bytes;
        self.hash = self.hash.wrapping_add(session.hash(id.client_id));

        if id.sequence < session.first_unanswered {
            Admission::Refused(Rejection::SequenceForgotten)
        } else if let Some(outcome) = session.answers.get(&id.sequence) {
            Admission::Repeated(outcome.clone())
        } else if session.answers.len() >= ANSWERS_MAX || session.answers_bytes >= ANSWERS_BYTES_MAX {
            Admission::Refused(Rejection::SessionFull)
        } else {
            Admission::New
        }
    }

    /// Remembers the outcome of a command that was admitted as new.
    pub(super) fn remember(&mut self, id: &RequestId, outcome: Outcome) {
        // Gone, if the command itself opened a session and there is room for one only.
        if let Some(session) = Arc::make_mut(&mut self.by_client).get_mut(&id.client_id) {
            let hash = hash::answer(id.client_id, id.sequence, &outcome);
            let bytes = outcome_bytes(&outcome);
            let session = Arc::make_mut(session);
            session.answers.insert(id.sequence, outcome);
            session.answers_hash = session.answers_hash.wrapping_add(hash);
            session.answers_bytes += bytes;
            self.answers += 1;
            self.answers_bytes += bytes;
            self.hash = self.hash.wrapping_add(hash);
        }
    }

    /// Takes in a session of a snapshot. `Err` says what is wrong with it.
    pub(super) fn load(&mut self, loaded: internal::Session) -> Result<(), &'static str> {
        let client_id = loaded.client_id;
        if client_id == 0 || client_id >= self.next_client_id {
            return Err("its client id was never granted");
        }
        if self.by_client.contains_key(&client_id) || self.by_use.contains_key(&loaded.last_used) {
            return Err("it shares its client id or its place in the order of use with another");
        }
        let mut session = Session::new(loaded.last_used, loaded.first_unanswered);
        for answer in loaded.answers {
            let outcome = owned(answer.outcome.ok_or("an answer without an outcome")?);
            if answer.sequence < session.first_unanswered || session.answers.contains_key(&answer.sequence) {
                return Err("an answer that is forgotten or there twice");
            }
            let hash = hash::answer(client_id, answer.sequence, &outcome);
            session.answers_hash = session.answers_hash.wrapping_add(hash);
            session.answers_bytes += outcome_bytes(&outcome);
            session.answers.insert(answer.sequence, outcome);
        }
        self.insert(client_id, session);
        Ok(())
    }

    /// The sessions as they are now, whatever comes afterwards.
    pub(super) fn share(&self) -> Arc<ByClient> {
        Arc::clone(&self.by_client)
    }

    pub(super) fn next_client_id(&self) -> u64 {
        self.next_client_id
    }

    pub(super) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.by_client.len() * SESSION_BYTES + self.answers * ANSWER_BYTES + self.answers_bytes
    }

    /// The number of the next command that uses a session. The newest use is never evicted, so it needs no counter.
    fn next_use(&self) -> u64 {
        self.by_use.last_key_value().map_or(1, |(newest, _)| newest + 1)
    }

    fn insert(&mut self, client_id: u64, session: Session) {
        self.by_use.insert(session.last_used, client_id);
        self.answers += session.answers.len();
        self.answers_bytes += session.answers_bytes;
        self.hash = self.hash.wrapping_add(session.hash(client_id));
        Arc::make_mut(&mut self.by_client).insert(client_id, Arc::new(session));
    }

    fn evict(&mut self) {
        let Some((_, client_id)) = self.by_use.pop_first() else { return };
        let Some(session) = Arc::make_mut(&mut self.by_client).remove(&client_id) else { return };
        self.answers -= session.answers.len();
        self.answers_bytes -= session.answers_bytes;
        self.hash = self.hash.wrapping_sub(session.hash(client_id));
    }

    /// [`Sessions::hash`] and [`Sessions::memory_bytes`], counted anew; the invariants are checked on the way.
    #[cfg(test)]
    pub(super) fn recount(&self) -> (u128, usize) {
        let mut anew = Self::new(self.next_client_id);
        for (client_id, session) in &*self.by_client {
            anew.load(session.export(*client_id)).expect("a session that can be loaded");
        }
        assert_eq!(anew.by_use, self.by_use);
        (anew.hash, anew.memory_bytes())
    }
}

impl Session {
    fn new(last_used: u64, first_unanswered: u64) -> Self {
        let answers = BTreeMap::new();
        Self { last_used, first_unanswered, answers, answers_hash: 0, answers_bytes: 0 }
    }

    /// The session as a snapshot has it.
    pub(super) fn export(&self, client_id: u64) -> internal::Session {
        let answers = self.answers.iter();
        internal::Session {
            client_id,
            last_used: self.last_used,
            first_unanswered: self.first_unanswered,
            answers: answers
                .map(|(sequence, outcome)| internal::Answer { sequence: *sequence, outcome: Some(outcome.clone()) })
                .collect(),
        }
    }

    fn forget_below(&mut self, mark: u64, client_id: u64) {
        self.first_unanswered = self.first_unanswered.max(mark);
        while let Some(oldest) = self.answers.first_entry()
            && *oldest.key() < mark
        {
            let (sequence, outcome) = oldest.remove_entry();
            self.answers_hash = self.answers_hash.wrapping_sub(hash::answer(client_id, sequence, &outcome));
            self.answers_bytes -= outcome_bytes(&outcome);
        }
    }

    fn hash(&self, client_id: u64) -> u128 {
        hash::session(client_id, self.last_used, self.first_unanswered).wrapping_add(self.answers_hash)
    }
}

/// The same outcome in memory of its own: what was decoded holds on to the block that it came in.
fn owned(outcome: Outcome) -> Outcome {
    if outcome_bytes(&outcome) == 0 {
        return outcome;
    }
    Outcome::decode(&outcome.encode_to_vec()[..]).expect("what was encoded can be decoded")
}
