//! Consensus.

pub mod types;
