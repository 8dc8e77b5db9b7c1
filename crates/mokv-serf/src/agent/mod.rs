//! The shell around the core: sockets, timers, tasks.

mod transport;
mod udp_tcp;

pub use transport::{BoxFuture, BoxStream, Stream, Transport};
pub use udp_tcp::UdpTcp;
