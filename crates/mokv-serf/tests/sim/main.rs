//! Pools of 3 to 100 nodes under a virtual clock, over a network that loses, delays and cuts.
//!
//! A run follows from its seed alone. `MOKV_SERF_SEED=7 cargo test -p mokv-serf --test sim faults` runs one seed of the
//! tests of that name again; a run that fails prints its seed. `cargo test -p mokv-serf --test sim figures -- --nocapture`
//! prints what was measured.

#![allow(missing_docs)]

mod convergence;
mod faults;
mod figures;
mod network;
mod pool;
mod seeds;
