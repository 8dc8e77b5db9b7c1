//! Whole nodes on loopback, with real disks and real gRPC, in one process. What needs a process of its own to be killed is
//! in `crates/mokv/tests`.

#![allow(missing_docs, clippy::disallowed_methods, clippy::print_stderr)]

mod door;
mod harness;

mod catch_up;
mod coordination;
mod gossip;
mod membership;
mod reads;
mod sessions;
mod writes;
