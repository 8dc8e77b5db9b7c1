//! Whole nodes and the real client over simulated sockets: the shipped gRPC, HTTP/2 and network code, on `turmoil`'s
//! hosts, links and clocks. What is under test is what lies between the messages and the bytes: connections that break,
//! stall, come back or reach somebody else, flow control, deadlines.
//!
//! Every test runs for some seeds; a failure prints its own. `MOKV_WIRE_SEED=n` runs that one alone,
//! `MOKV_WIRE_SEEDS=n` more of them. The clock is simulated: a bound of six seconds is six seconds on any machine.

#![allow(missing_docs, clippy::disallowed_methods, clippy::print_stderr)]

mod harness;
mod sockets;

mod client;
mod cluster;
mod crashes;
mod deadlines;
mod formation;
mod partitions;
mod snapshots;
mod weather;
