//! The connections of the gRPC port, bounded: in number, and in how long they may stay silent before they speak HTTP/2.
//! From there on the protocol's own pings find out whether anybody is at the other end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

/// Connections at one time. Those that come on top wait in the listener's queue.
const CONNECTIONS_MAX: usize = 8192;

/// A client says at once that it speaks HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes with which a client says so.
const PREFACE_BYTES: usize = 24;

/// Out of file descriptors, most likely: it takes others to close some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come in: a port of the operating system in production, one of its own in a simulator.
pub trait Listener: Send + Sync + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. An error is of one connection, or of the moment: the next call may succeed.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (tcp, _) = Self::accept(self).await?;
        // Without it small answers wait for the other side's acknowledgements. A connection that is gone already fails
        // here, and will say so when it is read.
        drop(tcp.set_nodelay(true));
        Ok(tcp)
    }
}

/// The connections that come in. Never ends.
pub(super) fn connections<L: Listener>(listener: L) -> impl Stream<Item = io::Result<Connection<L::Io>>> {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    stream::unfold(listener, move |listener| {
        let free = free.clone();
        async move {
            let permit = free.acquire_owned().await.ok()?;
            let io = accept(&listener).await;
            Some((Ok(Connection::new(io, permit)), listener))
        }
    })
}

/// The next connection. Failures to accept are the weather: logged, and waited for to pass.
pub(super) async fn accept<L: Listener>(listener: &L) -> L::Io {
    loop {
        match Listener::accept(listener).await {
            Ok(io) => return io,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that counts among those that are open.
#[derive(Debug)]
pub(super) struct Connection<I> {
    io: I,
    /// Until the preface has been read.
    preface: Option<Preface>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Preface {
    missing: usize,
    timeout: Pin<Box<Sleep>>,
}

impl<I> Connection<I> {
    fn new(io: I, permit: OwnedSemaphorePermit) -> Self {
        let preface = Preface { missing: PREFACE_BYTES, timeout: Box::pin(sleep(PREFACE_TIMEOUT)) };
        Self { io, preface: Some(preface), _permit: permit }
    }
}

impl<I> Connected for Connection<I> {
    /// No handler asks where a call comes from.
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<I: AsyncRead + Unpin> AsyncRead for Connection<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let Some(preface) = &mut self.preface else { return read };
        preface.missing = preface.missing.saturating_sub(buf.filled().len() - before);
        if preface.missing == 0 {
            self.preface = None;
        } else if read.is_pending() && preface.timeout.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Connection<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn connected() -> (TcpStream, Connection<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
        let mut incoming = Box::pin(connections(listener));
        (client, incoming.next().await.expect("never ends").expect("connection"))
    }

    #[tokio::test]
    async fn a_connection_that_says_too_little_is_cut() {
        let (mut client, mut connection) = connected().await;
        client.write_all(&[0; PREFACE_BYTES - 1]).await.expect("write");
        let mut first = [0; PREFACE_BYTES - 1];
        connection.read_exact(&mut first).await.expect("what was said arrives");
        tokio::time::pause();
        let error = connection.read_u8().await.expect_err("cut");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_connection_that_spoke_may_be_silent() {
        let (mut client, mut connection) = connected().await;
        client.write_all(&[0; PREFACE_BYTES]).await.expect("write");
        let mut first = [0; PREFACE_BYTES];
        connection.read_exact(&mut first).await.expect("read");
        tokio::time::pause();
        let later = tokio::time::timeout(PREFACE_TIMEOUT * 10, connection.read_u8()).await;
        assert!(later.is_err(), "{later:?}");
    }
}
