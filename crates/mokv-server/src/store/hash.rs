//! The state hash: a fingerprint of the replicated state that is kept up to date with every write.
//!
//! # Definition
//!
//! `H(w1, w2, ...)` is XXH3-128 of the words, each as eight little-endian bytes; a 128-bit value stands for two words,
//! the lower first. `X(bytes)` is XXH3-128 of the bytes. The hash is the sum, modulo 2^128, of
//!
//! - `H(1, X(key), X(value), create_revision, mod_revision, version)` of each pair,
//! - `H(2, client_id, last_used, first_unanswered)` of each session,
//! - `H(3, client_id, sequence, kind, a, b, c)` of each answer that a session remembers, where `kind, a, b, c` are
//!   `1, revision, create_revision, version` of a set, `2, revision, existed, 0` of a delete, `3, client_id, 0, 0` of
//!   an opened session, `4, reason, 0, 0` of a rejection, `5, 0, 0, 0` of a recorded start and `0, 0, 0, 0` of nothing,
//! - `H(4, revision, next_client_id)`,
//! - `H(5, node_id, incarnation, number)` of each member's start.
//!
//! A sum does not depend on the order of its terms, so equal states have equal hashes whatever brought them there. The
//! log position and the membership are not part of it: they say where the state is, not what it is.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use crate::command::{Outcome, OutcomeResult};

/// A fingerprint of the replicated state. Nodes that have applied the same log have equal ones, or one is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash(u128);

impl StateHash {
    pub(super) fn of(pairs: u128, sessions: u128, starts: u128, revision: u64, next_client_id: u64) -> Self {
        let sum = pairs.wrapping_add(sessions).wrapping_add(starts);
        Self(sum.wrapping_add(digest([4, revision, next_client_id])))
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

/// What a pair adds to the hash.
pub(super) fn pair(key: &[u8], value: &[u8], create_revision: u64, mod_revision: u64, version: u64) -> u128 {
    let [key_low, key_high] = halves(xxh3_128(key));
    let [value_low, value_high] = halves(xxh3_128(value));
    digest([1, key_low, key_high, value_low, value_high, create_revision, mod_revision, version])
}

/// What a session adds to the hash, apart from its answers.
pub(super) fn session(client_id: u64, last_used: u64, first_unanswered: u64) -> u128 {
    digest([2, client_id, last_used, first_unanswered])
}

/// What a remembered answer adds to the hash.
pub(super) fn answer(client_id: u64, sequence: u64, outcome: &Outcome) -> u128 {
    let [kind, a, b, c] = match &outcome.result {
        Some(OutcomeResult::Set(set)) => [1, set.revision, set.create_revision, set.version],
        Some(OutcomeResult::Delete(delete)) => [2, delete.revision, delete.existed.into(), 0],
        Some(OutcomeResult::OpenSession(opened)) => [3, opened.client_id, 0, 0],
        Some(OutcomeResult::Rejected(reason)) => [4, *reason as u64, 0, 0],
        Some(OutcomeResult::RecordStart(_)) => [5, 0, 0, 0],
        Some(_) | None => [0; 4],
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
        let sum = pair(b"key", b"value", 1, 2, 3).wrapping_add(session(1, 2, 3)).wrapping_add(answer(1, 2, &outcome));
        assert_eq!(StateHash::of(sum, 0, 0, 5, 6).to_string(), "93542d10794aeb41a8ce7a6379fa535f");
    }

    #[test]
    fn a_hash_survives_its_bytes_and_its_halves() {
        let hash = StateHash(xxh3_128(b"state"));
        assert_eq!(StateHash::from_bytes(hash.to_bytes()), hash);
        assert_eq!(whole(halves(hash.0)), hash.0);
    }
}
