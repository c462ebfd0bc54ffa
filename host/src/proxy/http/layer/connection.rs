//! A client's connection in an application's hands: who it is, and what ends it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use portcullis_core::chain::VerifiedPeer;
use portcullis_core::identity::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::super::access::Access;
use super::super::super::listen::PlainStream;
use super::super::admission::Judged;
use super::super::cutter::Cutter;
use super::super::gate::{Gate, Heads};
use super::super::live::Live;

/// A client's connection: who is at its other end. Clones are the same one.
///
/// It is in the extensions of every request that came by it.
#[derive(Clone)]
pub struct MeshConnection(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) judged: Judged,
    pub(super) from: Option<SocketAddr>,
    /// What the gate tells; none for HTTP/2.
    pub(super) heads: Option<Heads>,
    pub(super) live: Live,
    /// What is known about every request of it.
    pub(super) access: Access,
    pub(super) taken_back: Arc<AtomicU32>,
    /// Cut when nothing more is read or written.
    pub(super) end: Cutter,
    /// The application has dropped it.
    pub(super) gone: CancellationToken,
    /// Nothing more is wanted of its client.
    pub(super) last: CancellationToken,
    /// A layer judges its requests.
    pub(super) claimed: AtomicBool,
}

impl MeshConnection {
    /// The client's identity, as its certificate proves it.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.0.judged.peer.id
    }

    /// All that is known from the client's certificate.
    #[must_use]
    pub fn peer(&self) -> &Arc<VerifiedPeer> {
        &self.0.judged.peer
    }

    /// Where it comes from.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.0.from
    }

    /// Waits until nothing more is wanted of its client: whatever it asks is refused, its
    /// certificate is no longer good, it is too old, or [`super::Intentions::shutdown`] was
    /// called. A server that can then ends it in peace, as [`super::Enforced::serve`] does;
    /// axum's cannot, and each further request is refused by itself.
    pub async fn is_to_end(&self) {
        self.0.last.cancelled().await;
    }

    /// Says that a layer of [`super::Intentions`] judges its requests, so that they can be
    /// read. [`super::Enforced::on`] does it; for servers that build their services by
    /// themselves and put this into each request's extensions, as tonic's.
    pub fn judged_by_layer(&self) {
        self.0.claimed.store(true, Ordering::Release);
    }
}

impl fmt::Debug for MeshConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MeshConnection")
            .field("identity", self.identity())
            .field("from", &self.0.from)
            .finish_non_exhaustive()
    }
}

/// The bytes of a client's connection, for a server of HTTP.
///
/// Reading fails until a layer judges its requests, and when the connection must end.
pub struct MeshIo {
    pub(super) gate: Gate<TlsStream<PlainStream>>,
    pub(super) connection: MeshConnection,
}

impl MeshIo {
    /// Who is at its other end.
    #[must_use]
    pub fn connection(&self) -> &MeshConnection {
        &self.connection
    }

    fn poll_stands(&self, cx: &Context<'_>) -> io::Result<()> {
        if !self.connection.0.claimed.load(Ordering::Acquire) {
            tracing::error!(
                "no layer judges a connection: pass `Intentions::layer(..).into_make_service()` to axum, or use `on`"
            );
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "no layer judges this connection",
            ));
        }
        match self.connection.0.end.poll(cx) {
            Poll::Ready(cause) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                cause.reason,
            )),
            Poll::Pending => Ok(()),
        }
    }
}

impl fmt::Debug for MeshIo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("MeshIo")
            .field(&self.connection)
            .finish()
    }
}

impl Drop for MeshIo {
    fn drop(&mut self) {
        self.connection.0.gone.cancel();
    }
}

impl AsyncRead for MeshIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_stands(cx)?;
        Pin::new(&mut self.gate).poll_read(cx, buf)
    }
}

impl AsyncWrite for MeshIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_stands(cx)?;
        Pin::new(&mut self.gate).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_stands(cx)?;
        Pin::new(&mut self.gate).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.gate.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.gate).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.gate).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
