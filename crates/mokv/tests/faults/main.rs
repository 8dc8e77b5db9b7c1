//! Real `mokv` processes, real disks, real faults: what was acknowledged is there afterwards, what was refused is not, and
//! nobody read an old value.
//!
//! Every test drives a cluster with [`load`], breaks something meanwhile, and has [`history`] judge what the clients saw
//! against what the nodes have in the end.
//!
//! `cargo test -p mokv --test faults` runs what needs nothing but the binary. The other tests need root and tools of Linux
//! (`tests/faults/install` has them) and are ignored unless asked for: `-- --include-ignored`. See [`tools`] for what
//! happens where a tool is missing. The environment makes runs longer:
//!
//! | variable | |
//! |---|---|
//! | `MOKV_FAULTS_KILLS` | kills of the test that kills at random |
//! | `MOKV_FAULTS_SEED` | whom it kills, and when |
//! | `MOKV_FAULTS_SYNCS` | at how many different syncs a node is killed |
//! | `MOKV_FAULTS_POWER_LOSSES` | power losses of the whole cluster |
//! | `MOKV_FAULTS_FLIPS` | flipped bits a file |
//! | `CRASH_TEST_LINES` | a file whose lines are imported while the leader is killed |

#![allow(missing_docs, clippy::print_stderr)]

mod cluster;
mod history;
mod load;
mod node;
mod tools;

#[cfg(target_os = "linux")]
mod image;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod strace;

mod client;
mod damage;
mod directory;
mod discovery;
mod import;
mod kill;
mod pause;
mod stop;
mod torn_tail;

#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod full;
#[cfg(target_os = "linux")]
mod partition;
#[cfg(target_os = "linux")]
mod power_loss;
#[cfg(target_os = "linux")]
mod sync;
