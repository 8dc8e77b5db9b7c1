//! Which runs there are.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The generator of the part called `label` of the run `seed`: parts draw from generators of their own, so that one more
/// draw in one place does not shift what all the others get.
pub(crate) fn generator(seed: u64, label: &str) -> StdRng {
    let mut bytes = [0; 32];
    let label = label.as_bytes();
    assert!(label.len() <= 24, "the label is part of the seed");
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..8 + label.len()].copy_from_slice(label);
    StdRng::from_seed(bytes)
}

/// Runs `run` for `count` seeds, or for the one that `MOKV_SERF_SEED` names.
pub(crate) fn each(count: u64, run: impl Fn(u64)) {
    let one = std::env::var("MOKV_SERF_SEED").ok().map(|seed| seed.parse().expect("MOKV_SERF_SEED is a number"));
    let seeds = one.map_or(0..count, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let _told = TellOnPanic(seed);
        run(seed);
    }
}

struct TellOnPanic(u64);

impl Drop for TellOnPanic {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with MOKV_SERF_SEED={}", self.0);
        }
    }
}
