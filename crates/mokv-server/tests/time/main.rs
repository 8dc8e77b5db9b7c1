//! Time in a cluster: times to live, leases, and how fresh reads are, with leaders that fall, stand still and come back.
//!
//! Whole nodes in one thread, on a paused clock, with simulated disks and typed calls between them; so minutes pass in
//! moments, and nothing depends on how busy the machine is. What users' calls make of it is tested in `tests/cluster`.

#![allow(missing_docs)]

mod harness;
mod network;

mod keys;
mod leases;
mod reads;
