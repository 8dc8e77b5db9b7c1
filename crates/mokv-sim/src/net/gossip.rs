//! Gossip between simulated nodes: datagrams, which may be lost, doubled and overtaken, and connections, which hold
//! everything back while a direction is cut, and break as those of the typed calls do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use mokv_serf::agent::{BoxFuture, BoxStream, Transport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, split};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};

use super::{CONNECT_TIMEOUT, Connection, DUPLICATE_LAG_MAX, Net, Way, harness};

/// Datagrams that a node has not read yet. Further ones are lost, as from a socket's buffer.
const DATAGRAMS_MAX: usize = 256;

/// Connections that a node has not accepted yet.
const BACKLOG: usize = 64;

/// What a connection carries at once.
const CHUNK_BYTES: usize = 16 << 10;

const PORT: u16 = 8401;

/// Where the datagrams and connections of a node arrive.
pub(super) struct Mailbox {
    datagrams: mpsc::Sender<(SocketAddr, Bytes)>,
    connections: mpsc::Sender<(BoxStream, SocketAddr)>,
}

/// Where gossip of the node on this host is.
pub fn gossip_addr(host: usize) -> SocketAddr {
    let number = u32::try_from(host).expect("few hosts") + 1;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number)), PORT)
}

fn host_at(addr: SocketAddr) -> Option<usize> {
    let IpAddr::V4(ip) = addr.ip() else { return None };
    let number = ip.to_bits().checked_sub(Ipv4Addr::new(10, 0, 0, 1).to_bits())?;
    usize::try_from(number).ok().filter(|_| addr.port() == PORT)
}

impl Net {
    /// The network of gossip as a node that starts on this host sees it.
    pub fn gossip_of(&self, host: usize) -> Arc<dyn Transport> {
        let (datagrams, datagrams_read) = mpsc::channel(DATAGRAMS_MAX);
        let (connections, connections_accepted) = mpsc::channel(BACKLOG);
        self.state().mailboxes.insert(host, Mailbox { datagrams, connections });
        Arc::new(NodeTransport {
            net: self.clone(),
            host,
            datagrams: Mutex::new(datagrams_read),
            connections: Mutex::new(connections_accepted),
        })
    }

    fn deliver(&self, from: usize, to: usize, datagram: Bytes) {
        if self.is_cut(from, to) {
            return self.trace.count("gossip.cut");
        }
        let state = self.state();
        if let Some(mailbox) = state.mailboxes.get(&to) {
            // What does not fit is lost.
            drop(mailbox.datagrams.try_send((gossip_addr(from), datagram)));
        }
    }
}

struct NodeTransport {
    net: Net,
    host: usize,
    datagrams: Mutex<mpsc::Receiver<(SocketAddr, Bytes)>>,
    connections: Mutex<mpsc::Receiver<(BoxStream, SocketAddr)>>,
}

impl NodeTransport {
    async fn open(&self, to: SocketAddr) -> io::Result<BoxStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let host = host_at(to).ok_or_else(refused)?;
        let connection = Connection { broken: Arc::default() };
        let there = Way { net: self.net.clone(), connection, from: self.host, to: host };
        let round_trip = async {
            there.travel().await.ok()?;
            there.back().travel().await.ok()
        };
        match timeout(CONNECT_TIMEOUT, round_trip).await {
            Ok(Some(())) => {}
            Ok(None) => return Err(io::ErrorKind::ConnectionReset.into()),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        let (near, near_cable) = duplex(CHUNK_BYTES);
        let (far, far_cable) = duplex(CHUNK_BYTES);
        let state = self.net.state();
        let mailbox = state.mailboxes.get(&host).ok_or_else(refused)?;
        mailbox.connections.try_send((Box::new(far), gossip_addr(self.host))).map_err(|_| refused())?;
        drop(state);
        self.net.trace.count("gossip.connection");
        let ((near_read, near_write), (far_read, far_write)) = (split(near_cable), split(far_cable));
        harness(carry(there.clone(), near_read, far_write));
        harness(carry(there.back(), far_read, near_write));
        Ok(Box::new(near))
    }
}

impl Transport for NodeTransport {
    fn local_addr(&self) -> SocketAddr {
        gossip_addr(self.host)
    }

    fn send_to(&self, to: SocketAddr, datagram: Bytes) {
        let Some(to) = host_at(to) else { return };
        let (net, from) = (self.net.clone(), self.host);
        net.trace.count("gossip.datagram");
        if net.draw(|weather| weather.loss) {
            return net.trace.count("gossip.lost");
        }
        let Some(time) = net.travel_time(from, to) else { return };
        let lag = net.draw(|weather| weather.duplicate).then(|| net.draw_duration(DUPLICATE_LAG_MAX));
        harness(async move {
            sleep(time).await;
            net.deliver(from, to, datagram.clone());
            if let Some(lag) = lag {
                sleep(lag).await;
                net.deliver(from, to, datagram);
            }
        });
    }

    fn recv_from(&self) -> BoxFuture<'_, io::Result<(SocketAddr, Bytes)>> {
        Box::pin(async move { self.datagrams.lock().await.recv().await.ok_or_else(gone) })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(self.open(to))
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move { self.connections.lock().await.recv().await.ok_or_else(gone) })
    }
}

/// The host has another node now.
fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Carries one direction of a connection, until its sender closes it or it breaks.
async fn carry(way: Way, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let carrying = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut chunk).await {
                Ok(read @ 1..) if way.travel().await.is_ok() => to.write_all(&chunk[..read]).await?,
                _ => return to.shutdown().await,
            }
        }
    };
    // Who has closed its end wants nothing more.
    drop(carrying.await);
}
