//! The mökv server as a library.

pub mod command;
pub mod config;
pub mod disk;
pub mod error;
pub mod raft;
pub mod runtime;
pub mod snapshot;
pub mod store;
