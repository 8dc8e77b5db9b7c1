//! The state hash: a fingerprint of the replicated state that is kept up to date with every write.
//!
//! # Definition
//!
//! `H(w1, w2, ...)` is XXH3-128 of the words, each as eight little-endian bytes; a 128-bit value stands for two words,
//! the lower first. `X(bytes)` is XXH3-128 of the bytes. The hash is the sum, modulo 2^128, of
//!
//! - `H(1, X(key), X(value), create_revision, mod_revision, version)` of each pair,
//! - `H(6, X(key), lease_id, deadline)` of each pair that ends by itself,
//! - `H(2, client_id, last_used, first_unanswered)` of each session,
//! - `H(3, client_id, sequence, kind, a, b, c)` of each answer that a session remembers, where `kind, a, b, c` are
//!   `1, revision, create_revision, version` of a set, `2, revision, existed, 0` of a delete, `3, client_id, 0, 0` of
//!   an opened session, `4, reason, 0, 0` of a rejection, `5, 0, 0, 0` of a recorded start, `6, X(outcome), 0` of any
//!   other outcome, encoded, and `0, 0, 0, 0` of nothing,
//! - `H(4, revision, next_client_id)`,
//! - `H(5, node_id, incarnation, number)` of each member's start,
//! - `H(7, lease_id, ttl, deadline)` of each lease,
//! - `H(8, log_time, next_lease_id)`, unless they are 0 and 1.
//!
//! A sum does not depend on the order of its terms, so equal states have equal hashes whatever brought them there. The
//! log position and the membership are not part of it: they say where the state is, not what it is.

use std::fmt;

use mokv_proto::internal::{DeleteOutcome, SetOutcome};
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use super::log_time::LogTime;
use super::record::{Ends, Meta};
use crate::command::{Outcome, OutcomeResult};

/// A fingerprint of the replicated state. Nodes that have applied the same log have equal ones, or one is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash(u128);

impl StateHash {
    /// Of the sum of all that has a hash of its own, and of the counters.
    pub(super) fn of(sum: u128, counters: &Counters) -> Self {
        let Counters { revision, next_client_id, log_time, next_lease_id } = *counters;
        let sum = sum.wrapping_add(digest([4, revision, next_client_id]));
        let is_unused = (log_time.as_millis(), next_lease_id) == (0, 1);
        let time = if is_unused { 0 } else { digest([8, log_time.as_millis(), next_lease_id]) };
        Self(sum.wrapping_add(time))
    }

    /// The hash as a snapshot's head has it: 16 bytes, big-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Inverse of [`StateHash::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The parts of the state that are single numbers.
pub(super) struct Counters {
    pub(super) revision: u64,
    pub(super) next_client_id: u64,
    pub(super) log_time: LogTime,
    pub(super) next_lease_id: u64,
}

/// What a pair adds to the hash.
pub(super) fn pair(key: &[u8], value: &[u8], meta: &Meta) -> u128 {
    let Meta { create_revision, mod_revision, version, ends } = *meta;
    let [key_low, key_high] = halves(xxh3_128(key));
    let [value_low, value_high] = halves(xxh3_128(value));
    let pair = digest([1, key_low, key_high, value_low, value_high, create_revision, mod_revision, version]);
    if ends == Ends::default() {
        return pair;
    }
    pair.wrapping_add(digest([6, key_low, key_high, ends.lease_id, ends.deadline_ms]))
}

/// What a lease adds to the hash.
pub(super) fn lease(id: u64, ttl_ms: u64, deadline_ms: u64) -> u128 {
    digest([7, id, ttl_ms, deadline_ms])
}

/// What a session adds to the hash, apart from its answers.
pub(super) fn session(client_id: u64, last_used: u64, first_unanswered: u64) -> u128 {
    digest([2, client_id, last_used, first_unanswered])
}

/// What a remembered answer adds to the hash.
pub(super) fn answer(client_id: u64, sequence: u64, outcome: &Outcome) -> u128 {
    let [kind, a, b, c] = match &outcome.result {
        Some(OutcomeResult::Set(SetOutcome {
            revision,
            create_revision,
            version,
            unmet: false,
            mod_revision,
            previous: None,
        })) if revision == mod_revision || *mod_revision == 0 => [1, *revision, *create_revision, *version],
        Some(OutcomeResult::Delete(DeleteOutcome {
            existed,
            revision,
            unmet: false,
            mod_revision: 0,
            previous: None,
        })) => [2, *revision, (*existed).into(), 0],
        Some(OutcomeResult::OpenSession(opened)) => [3, opened.client_id, 0, 0],
        Some(OutcomeResult::Rejected(reason)) => [4, *reason as u64, 0, 0],
        Some(OutcomeResult::RecordStart(_)) => [5, 0, 0, 0],
        Some(_) => {
            let [low, high] = halves(xxh3_128(&outcome.encode_to_vec()));
            [6, low, high, 0]
        }
        None => [0; 4],
    };
    digest([3, client_id, sequence, kind, a, b, c])
}

/// What the start of a member adds to the hash.
pub(super) fn start(node_id: u64, incarnation: u64, number: u64) -> u128 {
    digest([5, node_id, incarnation, number])
}

/// A 128-bit value as two words, the lower first.
pub(super) fn halves(hash: u128) -> [u64; 2] {
    [hash as u64, (hash >> 64) as u64]
}

/// Inverse of [`halves`].
pub(super) fn whole([low, high]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

fn digest<const N: usize>(words: [u64; N]) -> u128 {
    xxh3_128(words.map(u64::to_le_bytes).as_flattened())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes are compared between nodes of different versions: the definition can't change silently.
    #[test]
    fn the_definition_is_kept() {
        let outcome = Outcome { result: None };
        let mut meta = Meta { create_revision: 1, mod_revision: 2, version: 3, ends: Ends::default() };
        let mut sum = pair(b"key", b"value", &meta).wrapping_add(session(1, 2, 3)).wrapping_add(answer(1, 2, &outcome));
        let mut counters = Counters { revision: 5, next_client_id: 6, log_time: LogTime::default(), next_lease_id: 1 };
        assert_eq!(StateHash::of(sum, &counters).to_string(), "93542d10794aeb41a8ce7a6379fa535f");

        meta.ends = Ends { lease_id: 4, deadline_ms: 5 };
        let unmet = OutcomeResult::Set(SetOutcome { unmet: true, ..SetOutcome::default() });
        sum = pair(b"key", b"value", &meta).wrapping_add(lease(4, 5, 6));
        sum = sum.wrapping_add(answer(1, 2, &Outcome { result: Some(unmet) }));
        (counters.log_time, counters.next_lease_id) = (LogTime::from_millis(7), 8);
        assert_eq!(StateHash::of(sum, &counters).to_string(), "6a4c49971a0a1c21780d5c2ffba18d41");
    }

    /// Versions before conditions did not say the `mod_revision` of a set, and their snapshots have such answers.
    #[test]
    fn an_answer_of_an_earlier_version_has_the_hash_that_it_had() {
        let set = SetOutcome { revision: 9, create_revision: 3, version: 2, ..SetOutcome::default() };
        let hash = |set| answer(1, 2, &Outcome { result: Some(OutcomeResult::Set(set)) });
        assert_eq!(hash(set.clone()), digest([3, 1, 2, 1, 9, 3, 2]));
        assert_eq!(hash(SetOutcome { mod_revision: 9, ..set.clone() }), hash(set.clone()));
        assert_ne!(hash(SetOutcome { mod_revision: 8, unmet: true, ..set.clone() }), hash(set));
    }

    #[test]
    fn a_hash_survives_its_bytes_and_its_halves() {
        let hash = StateHash(xxh3_128(b"state"));
        assert_eq!(StateHash::from_bytes(hash.to_bytes()), hash);
        assert_eq!(whole(halves(hash.0)), hash.0);
    }
}
