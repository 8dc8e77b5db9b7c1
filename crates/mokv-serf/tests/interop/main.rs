//! Ours and HashiCorp's in one pool: `serf` is Debian's package of that name.
//!
//! Without it the tests are skipped, which they say loudly; under `MOKV_SERF_STRICT=1` they fail instead. All run on loopback,
//! each node at an address of its own.

#![cfg(target_os = "linux")]
// Real processes run in real time.
#![allow(missing_docs, clippy::print_stderr, clippy::disallowed_methods)]

mod ours;
mod theirs;

// Takes longest, and tests start in the order of their names.
mod at_rest;
mod encryption;
mod failure;
mod join;
mod leave;
mod messages;
mod names;

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use ours::{Ours, Recipe};
use theirs::Theirs;

/// More than anything takes here that is worth waiting for.
const PATIENCE: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Theirs, called "a", and ours, called "m", which has joined.
pub(crate) fn pair() -> (Theirs, Ours) {
    let theirs = Theirs::start("a", &[]);
    let ours = Recipe::new().start("m");
    ours.join(theirs.addr);
    theirs.sees("m", "alive");
    (theirs, ours)
}

/// Repeats until it succeeds.
#[track_caller]
pub(crate) fn eventually<T, E: Debug>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(outcome) => return outcome,
            Err(error) if Instant::now() > deadline => panic!("not in {PATIENCE:?}: {what}: {error:#?}"),
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}
