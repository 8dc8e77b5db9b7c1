//! Random numbers that follow from one seed.
//!
//! Every part draws from a generator of its own, derived from the run's seed and a label, so that one more draw in one
//! place does not shift what all the others get.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The seed of the part called `label`.
pub fn derived(seed: u64, label: &str) -> u64 {
    xxh3_64_with_seed(label.as_bytes(), seed)
}

/// The generator of the part called `label`.
pub fn generator(seed: u64, label: &str) -> SmallRng {
    SmallRng::seed_from_u64(derived(seed, label))
}
