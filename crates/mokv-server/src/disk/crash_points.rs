//! Which crashes are tried at one moment of a simulated disk, and how many there were.
//!
//! An atom is one sector, one size or one name, so a choice of atoms is a choice of what was torn, too. Where few atoms are
//! pending, every choice is tried. Where there are many: none, all, each one alone, all but each one, each prefix, each
//! suffix, and some pairs, alone and missing, that follow from the seed.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::sim::SimDisk;

/// Of so many pending atoms every choice is tried: 64.
const ALL_CHOICES_MAX: usize = 6;

/// Pairs of atoms that are tried where not all choices are.
const PAIRS: usize = 8;

/// Tries crashes, and counts them.
pub(crate) struct CrashPoints {
    rng: SmallRng,
    /// Moments at which crashes were tried, and of these those where all choices were.
    moments: usize,
    moments_exhausted: usize,
    pending_max: usize,
    crashes: usize,
    /// Crashes during the recovery from one.
    second_crashes: usize,
}

impl CrashPoints {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self { rng, moments: 0, moments_exhausted: 0, pending_max: 0, crashes: 0, second_crashes: 0 }
    }

    /// The disks that a crash at this moment may leave.
    pub(crate) fn crashes(&mut self, disk: &SimDisk) -> Vec<SimDisk> {
        let pending = disk.pending();
        let choices: Vec<Vec<bool>> = if pending <= ALL_CHOICES_MAX {
            self.moments_exhausted += 1;
            (0..1_usize << pending).map(|choice| (0..pending).map(|atom| choice >> atom & 1 == 1).collect()).collect()
        } else {
            self.some_choices(pending).into_iter().collect()
        };
        self.moments += 1;
        self.pending_max = self.pending_max.max(pending);
        self.crashes += choices.len();
        choices.into_iter().map(|kept| disk.crash(|atom| kept[atom])).collect()
    }

    /// Each choice once.
    fn some_choices(&mut self, pending: usize) -> BTreeSet<Vec<bool>> {
        let choice = |kept: &dyn Fn(usize) -> bool| (0..pending).map(kept).collect::<Vec<bool>>();
        let mut choices = BTreeSet::from([choice(&|_| false), choice(&|_| true)]);
        for chosen in 0..pending {
            choices.insert(choice(&|atom| atom < chosen));
            choices.insert(choice(&|atom| atom >= chosen));
            choices.insert(choice(&|atom| atom == chosen));
            choices.insert(choice(&|atom| atom != chosen));
        }
        for _ in 0..PAIRS {
            let pair = [self.rng.random_range(0..pending), self.rng.random_range(0..pending)];
            choices.insert(choice(&|atom| pair.contains(&atom)));
            choices.insert(choice(&|atom| !pair.contains(&atom)));
        }
        choices
    }

    /// Of the disks that a crash may leave at moments of a recovery: nothing, all, and a choice that follows from the seed.
    pub(crate) fn second_crashes(&mut self, during: &SimDisk) -> [SimDisk; 3] {
        self.second_crashes += 3;
        let rng = &mut self.rng;
        [during.crash(|_| false), during.crash(|_| true), during.crash(|_| rng.random_bool(0.5))]
    }

    /// Says what was tried, to who runs the test with `--nocapture`, and makes sure that it was enough.
    #[allow(clippy::print_stdout, reason = "shown by --nocapture only")]
    pub(crate) fn report(&self, what: &str, crashes_min: usize, second_crashes_min: usize) {
        let Self { moments, moments_exhausted, pending_max, crashes, second_crashes, .. } = self;
        println!(
            "{what}: {crashes} crashes at {moments} moments ({moments_exhausted} with every choice; at most {pending_max} \
             atoms pending), {second_crashes} second crashes"
        );
        assert!(*crashes >= crashes_min, "only {crashes} crashes");
        assert!(*second_crashes >= second_crashes_min, "only {second_crashes} second crashes");
    }
}
