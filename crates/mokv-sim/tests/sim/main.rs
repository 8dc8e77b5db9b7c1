//! The simulator's own promise (a seed is a run), a range of seeds, and named scenarios: a fault, what is expected then, and
//! several seeds of it.
//!
//! Whatever a scenario asserts itself, each of its runs ends as every run does: the cluster recovers, the invariants held
//! all the time, and the history is legal. A seed that failed runs again, with all its events printed, by
//! `MOKV_SIM_SEED=7 cargo test -p mokv-sim --test sim s19`.

mod calls;
mod discovery;
mod disks;
mod files;
mod full_disk;
mod hand_over;
mod incarnations;
mod leadership;
mod lifecycle;
mod reads;
mod repeatable;
mod scenario;
mod sessions;
mod snapshots;
mod states;
mod swarm;
