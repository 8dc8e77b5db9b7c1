//! The mökv server under seeded simulation.
//!
//! Whole nodes of the shipped server run in one thread, on a paused clock, with simulated disks and a simulated network.
//! Everything that happens follows from one seed: the size of the cluster, its tuning, the faults, the clients, the order
//! of events. So a failure is a seed, and running the seed again shows it again. `docs/testing.md` is the introduction.
//!
//! ```text
//! run -> plan, nemesis (faults), client (load) -> cluster (nodes) -> net, disk
//!                                                   observer (invariants), recorder (history), trace (events)
//! ```
//!
//! What is real: log, snapshots, store, sessions, proposer, read gate, forwarding, membership, gRPC services and their
//! errors, consensus. What is simulated: files, connections between nodes, time, scheduling.

#[cfg(not(tokio_unstable))]
compile_error!(
    "the simulator needs `--cfg tokio_unstable`, which .cargo/config.toml sets: RUSTFLAGS in the environment replaces it, so \
     unset RUSTFLAGS or add the cfg to it"
);

pub mod client;
pub mod cluster;
mod describe;
pub mod disk;
mod messages;
pub mod nemesis;
pub mod net;
pub mod observer;
pub mod plan;
pub mod recorder;
pub mod run;
pub mod seed;
pub mod trace;
mod watcher;
