//! Connections to the agent for hyper: TCP, TLS, unix sockets.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::AgentAddress;

/// How long to wait for a connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens connections to one agent, whatever URI is asked for.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) address: AgentAddress,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// What went wrong before the first byte of HTTP.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the name does not resolve")]
    UnknownHost,
    #[error("{0}")]
    Refused(io::Error),
    #[error("{0}")]
    Tls(io::Error),
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    Timeout,
}

impl Connector {
    async fn connect(self) -> Result<AgentStream, ConnectError> {
        match self.address {
            AgentAddress::Unix(path) => UnixStream::connect(path)
                .await
                .map(AgentStream::Unix)
                .map_err(ConnectError::Refused),
            AgentAddress::Tcp { host, port } => tcp(&host, port).await.map(AgentStream::Tcp),
            AgentAddress::Tls { host, port } => {
                let Some((config, name)) = self.tls else {
                    return Err(ConnectError::Tls(io::Error::other("TLS is not set up")));
                };
                let stream = tcp(&host, port).await?;
                let stream = TlsConnector::from(config).connect(name, stream).await;
                stream
                    .map(|stream| AgentStream::Tls(Box::new(stream)))
                    .map_err(ConnectError::Tls)
            }
        }
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|_| ConnectError::UnknownHost)?
        .collect();
    if addresses.is_empty() {
        return Err(ConnectError::UnknownHost);
    }
    let stream = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(ConnectError::Refused)?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

impl tower_service::Service<http::Uri> for Connector {
    type Response = TokioIo<AgentStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, connector.connect()).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(ConnectError::Timeout),
            }
        })
    }
}

/// A connection to the agent.
pub(super) enum AgentStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for AgentStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            AgentStream::Tcp($inner) => $call,
            AgentStream::Unix($inner) => $call,
            AgentStream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for AgentStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for AgentStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}
