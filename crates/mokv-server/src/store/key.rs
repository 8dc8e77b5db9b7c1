//! The keys inside the store: bytes, short ones in place.
//!
//! A comparison is what a lookup spends its time on. Short keys are laid out so that three integer comparisons order
//! them, with no call and no memory beyond the map's own node.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

/// Keys up to so many bytes live in place: what makes a [`Key`] three machine words.
const INLINE_MAX: usize = 22;

/// The last byte of an inline key is its length.
const INLINE_SIZE: usize = INLINE_MAX + 1;

/// A key. Ordered as its bytes are.
///
/// Invariants: a key is inline exactly if it has at most [`INLINE_MAX`] bytes, and unused inline bytes are zero. So
/// equal bytes are equal keys, and the padding with the length after it orders inline keys as their bytes do: where
/// one key is another and zeros, the padded bytes are equal and the length decides.
#[derive(Clone)]
pub(super) enum Key {
    Inline([u8; INLINE_SIZE]),
    Heap(Box<[u8]>),
}

impl Key {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self::inline(bytes).unwrap_or_else(|| Self::Heap(bytes.into()))
    }

    /// The key, if it is short enough to need no memory.
    pub(super) fn inline(bytes: &[u8]) -> Option<Self> {
        let mut padded = [0; INLINE_SIZE];
        padded[..INLINE_MAX].get_mut(..bytes.len())?.copy_from_slice(bytes);
        padded[INLINE_MAX] = bytes.len() as u8;
        Some(Self::Inline(padded))
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(padded) => &padded[..usize::from(padded[INLINE_MAX])],
            Self::Heap(bytes) => bytes,
        }
    }

    /// Bytes that the key takes outside of itself.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline(_) => 0,
            Self::Heap(bytes) => bytes.len(),
        }
    }
}

/// An inline key as integers in the order of the bytes. The words overlap by one byte, which is equal where the last
/// word counts.
fn words(padded: &[u8; INLINE_SIZE]) -> [u64; 3] {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&padded[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    [word(0), word(8), word(INLINE_SIZE - 8)]
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Inline(a), Self::Inline(b)) => words(a).cmp(&words(b)),
            _ => self.as_slice().cmp(other.as_slice()),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_slice().escape_ascii())
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_three_words() {
        assert_eq!(size_of::<Key>(), 24);
    }

    proptest! {
        #[test]
        fn keys_are_ordered_as_their_bytes(
            shared in vec(prop_oneof![Just(0), Just(255), any::<u8>()], 0..26),
            a in vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..6),
            b in vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..6),
        ) {
            let (a, b) = ([&shared[..], &a].concat(), [&shared[..], &b].concat());
            let key = Key::new(&a);
            prop_assert_eq!(key.as_slice(), &a[..]);
            prop_assert_eq!(key.cmp(&Key::new(&b)), a.cmp(&b));
            prop_assert_eq!(Key::inline(&a).is_some(), a.len() <= INLINE_MAX);
        }
    }
}
