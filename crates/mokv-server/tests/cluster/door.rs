//! A door in front of a node, which a test can shut: what goes through it stops, or breaks.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    /// Connections are taken and stay; nothing comes through: a node that hangs, or is cut off.
    Hangs,
    /// Connections break and are refused: a node that has died.
    Shut,
}

/// A door. Dropped, it is shut.
pub(crate) struct Door {
    pub(crate) addr: SocketAddr,
    state: Arc<watch::Sender<State>>,
    _tasks: JoinSet<()>,
}

impl Door {
    pub(crate) async fn before(node: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let addr = listener.local_addr().expect("address");
        let state = Arc::new(watch::Sender::new(State::Open));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, node, state.subscribe()));
        Self { addr, state, _tasks: tasks }
    }

    pub(crate) fn turn(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn serve(listener: TcpListener, node: SocketAddr, mut state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            changed = state.changed() => match changed {
                Ok(()) if *state.borrow() == State::Shut => connections.abort_all(),
                Ok(()) => {}
                Err(_) => return,
            },
            accepted = listener.accept() => {
                let (near, _) = accepted.expect("a connection");
                if *state.borrow() != State::Shut {
                    connections.spawn(connect(near, node, state.clone()));
                }
            }
        }
    }
}

async fn connect(near: TcpStream, node: SocketAddr, state: watch::Receiver<State>) {
    // A node that is down: the near side learns it by the end of the connection.
    let Ok(far) = TcpStream::connect(node).await else { return };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = carry(near_in, far_out, state.clone()) => {}
        () = carry(far_in, near_out, state) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        if state.wait_for(|state| *state != State::Hangs).await.is_err() || to.write_all(&bytes[..count]).await.is_err()
        {
            return;
        }
    }
}
