//! What things weigh. The store counts its memory as it goes; these are the parts that it can't see: the fill of
//! B-tree nodes and what the allocator adds. Measured beside the resident set by `benches/store.rs`.

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
