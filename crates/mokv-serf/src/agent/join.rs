//! Joining: what came of it.

use std::fmt;
use std::net::SocketAddr;

/// Nobody was there to join, and why, address by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinError {
    /// The addresses that were tried, and what happened there. None if there were none to try.
    pub failures: Vec<(SocketAddr, String)>,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nobody could be joined")?;
        for (index, (addr, reason)) in self.failures.iter().enumerate() {
            write!(f, "{} {addr}: {reason}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl std::error::Error for JoinError {}
