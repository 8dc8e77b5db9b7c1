//! The seam between the agent and the network: datagrams and connections, however they are carried.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection: reads and writes are independent, and end separately.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A boxed connection.
pub type BoxStream = Box<dyn Stream>;

/// How a node reaches the others: [`UdpTcp`](super::UdpTcp), or what a simulator makes of it.
///
/// Every future may be dropped before it is finished, and then nothing is lost: no datagram, no connection.
pub trait Transport: Send + Sync + 'static {
    /// Where datagrams and connections arrive.
    fn local_addr(&self) -> SocketAddr;

    /// Sends a datagram, or loses it: never waits, tells nobody.
    fn send_to(&self, to: SocketAddr, datagram: Bytes);

    /// The next datagram, and who sent it.
    fn recv_from(&self) -> BoxFuture<'_, io::Result<(SocketAddr, Bytes)>>;

    /// Opens a connection. The caller bounds the time.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>>;

    /// The next connection that somebody opened, and who.
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>>;
}
