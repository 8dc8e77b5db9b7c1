//! The shell around the core: sockets, timers, tasks.
//!
//! [`Agent`] is a node of a pool that runs. One task owns the core ([`Serf`](crate::serf::Serf)) and brings it what arrives;
//! each connection is a small task that only moves bytes. Datagrams come before anything else: who waits for the answer to
//! a ping has half a second of patience.
//!
//! Nothing here decides anything about the pool. What is not deterministic comes in through the arguments of
//! [`Agent::spawn`]: the network ([`Transport`]), the random numbers, how tasks start. Time is tokio's.

mod connection;
mod driver;
mod handle;
mod join;
mod request;
mod transport;
mod udp_tcp;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use handle::{Agent, Stopped};
pub use join::JoinError;
pub use request::RequestError;
pub use transport::{BoxFuture, BoxStream, Stream, Transport};
pub use udp_tcp::UdpTcp;

use crate::serf::Member;
use crate::wire::Text;

/// The members of a pool, by name.
pub type Members = BTreeMap<Text, Member>;
