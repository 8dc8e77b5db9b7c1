//! The production transport: one UDP socket and one TCP listener at the same address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::transport::{BoxFuture, BoxStream, Transport};

/// No datagram is longer.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// How many ports are tried for one that both protocols have free, if any port will do.
const PORT_ATTEMPTS: usize = 32;

/// UDP and TCP at the same address.
///
/// Bound to the IPv6 wildcard it reaches IPv4 as well, where the system allows that; addresses of IPv4 are always given
/// in their own form, for it is by them that nodes are told apart.
#[derive(Debug)]
pub struct UdpTcp {
    local_addr: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
    /// Where a datagram is received, before it is copied to its own size. Empty whenever the lock is free.
    buffer: Mutex<BytesMut>,
}

impl UdpTcp {
    /// Binds both. Port 0 stands for any that is free for both.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let mut attempts = if addr.port() == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::bind_once(addr).await {
                // The port that TCP was given is somebody's for UDP.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                result => return result,
            }
        }
    }

    async fn bind_once(addr: SocketAddr) -> io::Result<Self> {
        // tokio sets SO_REUSEADDR for the listener, on Unix: a restart need not wait for old connections to fade. UDP
        // must not have it: two nodes would share a port without a word.
        let tcp = TcpListener::bind(addr).await?;
        let local_addr = tcp.local_addr()?;
        let udp = UdpSocket::bind(local_addr).await?;
        // Only what tokio knows to be writable takes a datagram without waiting.
        udp.writable().await?;
        let buffer = Mutex::new(BytesMut::with_capacity(DATAGRAM_BYTES_MAX));
        Ok(Self { local_addr, udp, tcp, buffer })
    }

    /// The datagram that waits, if one does.
    fn try_recv(&self) -> io::Result<(SocketAddr, Bytes)> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        buffer.clear();
        let (_, from) = self.udp.try_recv_buf_from(&mut *buffer)?;
        Ok((canonical(from), Bytes::copy_from_slice(&buffer)))
    }
}

impl Transport for UdpTcp {
    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    fn send_to(&self, to: SocketAddr, datagram: Bytes) {
        // A full buffer, or no way there: lost, as it might have been anywhere on the way.
        let _ = self.udp.try_send_to(&datagram, mapped(to, self.local_addr));
    }

    fn recv_from(&self) -> BoxFuture<'_, io::Result<(SocketAddr, Bytes)>> {
        Box::pin(async {
            loop {
                self.udp.readable().await?;
                match self.try_recv() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async {
            let (stream, from) = self.tcp.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxStream, canonical(from)))
        })
    }
}

/// An address of IPv4 in its own form.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// An address in the form that a socket bound to `local` takes.
fn mapped(to: SocketAddr, local: SocketAddr) -> SocketAddr {
    match (to.ip(), local.ip()) {
        (IpAddr::V4(ip), IpAddr::V6(_)) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
        _ => to,
    }
}

#[cfg(test)]
#[allow(clippy::print_stderr)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    /// Nothing on loopback takes as long.
    const PATIENCE: Duration = Duration::from_secs(10);

    async fn any(ip: impl Into<IpAddr>) -> UdpTcp {
        UdpTcp::bind(SocketAddr::new(ip.into(), 0)).await.expect("bind")
    }

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
    }

    async fn received(transport: &UdpTcp) -> (SocketAddr, Bytes) {
        timeout(PATIENCE, transport.recv_from()).await.expect("a datagram").expect("receive")
    }

    async fn exchange(one: &UdpTcp, other: &UdpTcp, to: SocketAddr) {
        one.send_to(to, Bytes::from_static(b"datagram"));
        let (from, datagram) = received(other).await;
        assert_eq!(datagram, "datagram");
        other.send_to(from, Bytes::from_static(b"back"));
        let (from, datagram) = received(one).await;
        assert_eq!((from, datagram), (to, Bytes::from_static(b"back")));

        let (connected, accepted) = tokio::join!(one.connect(to), other.accept());
        let (mut connected, (mut accepted, _)) = (connected.expect("connect"), accepted.expect("accept"));
        connected.write_all(b"stream").await.expect("write");
        connected.shutdown().await.expect("shut down");
        let mut read = Vec::new();
        timeout(PATIENCE, accepted.read_to_end(&mut read)).await.expect("an end").expect("read");
        assert_eq!(read, b"stream");
    }

    #[tokio::test]
    async fn datagrams_and_connections_arrive_at_one_port() {
        let (one, other) = (any(Ipv4Addr::LOCALHOST).await, any(Ipv4Addr::LOCALHOST).await);
        assert_ne!(one.local_addr().port(), 0);
        exchange(&one, &other, other.local_addr()).await;
    }

    /// Containers may be without.
    async fn has_ipv6() -> bool {
        let has = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok();
        if !has {
            eprintln!("SKIPPED: there is no IPv6 here");
        }
        has
    }

    #[tokio::test]
    async fn ipv6_is_spoken() {
        if !has_ipv6().await {
            return;
        }
        let (one, other) = (any(Ipv6Addr::LOCALHOST).await, any(Ipv6Addr::LOCALHOST).await);
        exchange(&one, &other, other.local_addr()).await;
    }

    #[tokio::test]
    async fn a_wildcard_of_ipv6_speaks_ipv4() {
        if !has_ipv6().await {
            return;
        }
        let (wildcard, four) = (any(Ipv6Addr::UNSPECIFIED).await, any(Ipv4Addr::LOCALHOST).await);
        exchange(&four, &wildcard, loopback(wildcard.local_addr().port())).await;
        exchange(&wildcard, &four, four.local_addr()).await;
    }

    #[tokio::test]
    async fn the_largest_datagram_arrives() {
        let (one, other) = (any(Ipv4Addr::LOCALHOST).await, any(Ipv4Addr::LOCALHOST).await);
        for size in [65_507, 0, 1400] {
            let datagram = Bytes::from(vec![7; size]);
            one.send_to(other.local_addr(), datagram.clone());
            assert_eq!(received(&other).await, (one.local_addr(), datagram));
        }
    }

    #[tokio::test]
    async fn a_port_is_taken_by_either_protocol() {
        let taken = any(Ipv4Addr::LOCALHOST).await;
        let error = UdpTcp::bind(taken.local_addr()).await.expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

        let udp = UdpSocket::bind(loopback(0)).await.expect("bind");
        let error = UdpTcp::bind(udp.local_addr().expect("address")).await.expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    /// At an address of its own, where no other test takes the port meanwhile.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_port_can_be_taken_again_at_once() {
        let one = any(Ipv4Addr::new(127, 0, 0, 77)).await;
        let addr = one.local_addr();
        let other = any(Ipv4Addr::LOCALHOST).await;
        exchange(&other, &one, addr).await;
        drop(one);
        UdpTcp::bind(addr).await.expect("bind again");
    }
}
