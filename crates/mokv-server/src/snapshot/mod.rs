//! Snapshots.

pub mod codec;
