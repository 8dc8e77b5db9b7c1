//! The mökv server as a library: store, log, snapshots, consensus, gRPC services. `ARCHITECTURE.md` is the map.
//!
//! Calls go down, facts come up (as return values, or in a `watch`):
//!
//! ```text
//! server -> rpc -> node -> { leave, members, reconcile, expiry, maintenance, proposer, lease_keeper, read_rounds, forward, watch } -> raft
//!   -> { snapshot, store } -> command
//! ```
//!
//! Nothing above [`raft`] names an openraft type, nothing but [`rpc`] sees a public message, and everything that is not
//! deterministic comes in through [`runtime`], [`disk`] and [`peer`].

pub mod addresses;
pub mod admission;
pub mod command;
pub mod config;
pub mod departure;
pub mod discovery;
pub mod disk;
pub mod error;
pub mod expiry;
pub mod formation;
pub mod forward;
pub mod freshness;
pub mod gossip;
pub mod identity;
pub mod incarnation;
pub mod introduction;
pub mod join_addrs;
pub mod lease_keeper;
pub mod leave;
pub mod log_clock;
pub mod maintenance;
pub mod members;
pub mod metrics;
pub mod mutants;
pub mod node;
pub mod offline;
pub mod peer;
pub mod peer_service;
pub mod proposer;
pub mod raft;
pub mod read_gate;
pub mod read_rounds;
pub mod reconcile;
pub mod room;
pub mod rpc;
pub mod runtime;
pub mod server;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod watch;
