//! The real binary, real processes, real kill -9: what was acknowledged is there afterwards.

#![allow(missing_docs, clippy::print_stderr)]

mod harness;

mod import;
mod kill_all;
mod kill_leader;
