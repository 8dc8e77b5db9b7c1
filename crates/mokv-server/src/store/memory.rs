//! What things weigh. The store counts its memory as it goes; these are the parts that it can't see: the fill of
//! B-tree nodes and what the allocator adds. Measured beside the resident set by `benches/store.rs`.

use mokv_proto::internal::{Pair, TxnOutcome, TxnResult, txn_result};

use crate::command::{Outcome, OutcomeResult};

/// What an allocation costs beyond its bytes: a header of 8 and rounding up to 16, on average 8.
pub(super) const ALLOCATION_BYTES: usize = 16;

/// What an entry of a `BTreeMap` costs: nodes have 11 places, of which about 7 are taken, and a head; inner nodes add
/// their pointers.
pub(super) const fn map_entry_bytes(size: usize) -> usize {
    size * 11 / 7 + 6
}

/// What an element of a growing `Vec` costs: its buffer is three quarters full on average.
pub(super) const fn vec_entry_bytes(size: usize) -> usize {
    size * 4 / 3
}

/// What a pair or a result in an outcome counts for beside key and value. Bounds that are part of the state machine count
/// with it, so it is the same everywhere.
const OUTCOME_PART_BYTES: usize = 128;

/// What a pair in an outcome weighs.
pub(super) fn outcome_pair_bytes(key: &[u8], value: &[u8]) -> usize {
    OUTCOME_PART_BYTES + key.len() + value.len()
}

/// What an outcome holds beyond itself: pairs that it returns, and the results of a transaction.
pub(super) fn outcome_bytes(outcome: &Outcome) -> usize {
    match &outcome.result {
        Some(OutcomeResult::Set(set)) => pair_bytes(set.previous.as_ref()),
        Some(OutcomeResult::Delete(delete)) => pair_bytes(delete.previous.as_ref()),
        Some(OutcomeResult::Txn(txn)) => txn_bytes(txn),
        _ => 0,
    }
}

fn txn_bytes(txn: &TxnOutcome) -> usize {
    let held = |result: &TxnResult| match &result.result {
        Some(txn_result::Result::Set(set)) => pair_bytes(set.previous.as_ref()),
        Some(txn_result::Result::Delete(delete)) => pair_bytes(delete.previous.as_ref()),
        Some(txn_result::Result::Get(got)) => pair_bytes(got.pair.as_ref()),
        Some(txn_result::Result::Scan(scan)) => pair_bytes(&scan.pairs),
        Some(txn_result::Result::Txn(txn)) => txn_bytes(txn),
        Some(txn_result::Result::DeleteRange(_)) | None => 0,
    };
    txn.results.iter().map(|result| OUTCOME_PART_BYTES + held(result)).sum()
}

fn pair_bytes<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> usize {
    pairs.into_iter().map(|pair| outcome_pair_bytes(&pair.key, &pair.value)).sum()
}
