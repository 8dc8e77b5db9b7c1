//! turmoil's sockets in the places where production has the operating system's.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use mokv_server::rpc::Listener;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use turmoil::net::{TcpListener, TcpStream};

/// A connection as the settings of `endpoint` have it, made when it is first used.
pub(crate) fn connect(endpoint: &Endpoint) -> Channel {
    endpoint.connect_with_connector_lazy(Connector)
}

/// Opens connections. Names are looked up each time.
struct Connector;

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let address = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
            Ok(TokioIo::new(TcpStream::connect(address.as_str()).await?))
        })
    }
}

/// A port of a simulated host.
pub(crate) struct Port(TcpListener);

impl Port {
    pub(crate) async fn open(port: u16) -> io::Result<Self> {
        Ok(Self(TcpListener::bind(("0.0.0.0", port)).await?))
    }
}

impl Listener for Port {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.0.accept().await?.0)
    }
}
