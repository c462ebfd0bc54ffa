//! Mutual TLS of the mesh: rustls with our verifiers, our leaf, nothing resumed.
//!
//! [`MeshTls::accept`] and [`MeshTls::connect`] run a handshake and return only
//! verified peers. What is allowed is a further question: see [`PeerVerifier::authorize`].

mod cache;
mod callbacks;
mod chains;
mod config;
mod handshake;
mod leaf;
mod verifier;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::chain::{Usage, VerifiedPeer};
use portcullis_core::identity::SpiffeId;
use rustls::{AlertDescription, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

pub use chains::Chain;
pub(crate) use config::sni_of;
pub use leaf::{Leaf, LeafError, LeafStore};
pub use verifier::{PeerVerifier, Refusal};

use callbacks::Callbacks;
use handshake::Handshake;
pub(crate) use verifier::Occasion;

/// How long a refused peer gets to read the alert before the connection is gone.
const LINGER: Duration = Duration::from_millis(500);

/// How much a refused peer may still send meanwhile.
const LINGER_BYTES: usize = 256 * 1024;

/// A handshake that did not lead to a usable connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We refused the peer.
    #[error("{0}")]
    Refused(Refusal),
    /// The peer refused us, with this alert.
    #[error("the other side refused us: alert {}", alert_name(*.0))]
    RefusedByPeer(AlertDescription),
    /// It took longer than allowed.
    #[error("the handshake took longer than {0:?}")]
    Timeout(Duration),
    /// It is not TLS, or not a TLS that we speak.
    #[error("TLS: {0}")]
    Protocol(rustls::Error),
    /// The connection broke.
    #[error("{0}")]
    Io(io::Error),
}

/// A connection whose peer is verified.
#[derive(Debug)]
pub struct MeshStream<S> {
    /// The TLS stream.
    pub stream: TlsStream<S>,
    /// Who is at the other end.
    pub peer: Arc<VerifiedPeer>,
    /// The chain that it presented, leaf first.
    pub chain: Chain,
    /// Which mesh document has verified it.
    pub(crate) epoch: Option<u64>,
}

/// TLS for one identity: its leaf, and the policy that verifies peers. Clones share everything.
#[derive(Clone, Debug)]
pub struct MeshTls {
    verifier: PeerVerifier,
    leaf: Arc<LeafStore>,
    alpn: Arc<Vec<Vec<u8>>>,
}

impl MeshTls {
    /// TLS with the certificate of `leaf`, verifying by `verifier`, without ALPN.
    #[must_use]
    pub fn new(verifier: PeerVerifier, leaf: Arc<LeafStore>) -> Self {
        Self {
            verifier,
            leaf,
            alpn: Arc::default(),
        }
    }

    /// The same, offering these ALPN names.
    #[must_use]
    pub fn with_alpn(mut self, names: Vec<Vec<u8>>) -> Self {
        self.alpn = Arc::new(names);
        self
    }

    /// The verifier.
    #[must_use]
    pub fn verifier(&self) -> &PeerVerifier {
        &self.verifier
    }

    /// Where our leaf is.
    #[must_use]
    pub fn leaf(&self) -> &Arc<LeafStore> {
        &self.leaf
    }

    /// Takes a client's handshake on `stream`, within `deadline` in all.
    ///
    /// With a `target`, a client that the policy refuses gets the alert `access_denied`.
    /// That spares it a wait, but decides nothing: ask [`PeerVerifier::authorize`] again
    /// for the connection.
    ///
    /// # Errors
    /// When there is no complete handshake in time, the client presents no certificate,
    /// does not hold its key, or is refused by the policy.
    pub async fn accept<S>(
        &self,
        stream: S,
        target: Option<Arc<str>>,
        deadline: Duration,
    ) -> Result<MeshStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let until = Instant::now() + deadline;
        let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
        let start = timeout_at(until, acceptor)
            .await
            .map_err(|_| HandshakeError::Timeout(deadline))?
            .map_err(failed)?;
        let handshake = Handshake::as_server(self.verifier.clone(), target);
        let alpn = config::alpn(&start.client_hello(), &self.alpn);
        let config = config::server(
            self.verifier.provider(),
            Callbacks::One(Arc::clone(&handshake)),
            Arc::clone(&self.leaf),
            alpn,
        );
        let accept = start
            .into_stream(Arc::new(config.map_err(HandshakeError::Protocol)?))
            .into_fallible();
        match timeout_at(until, accept).await {
            Err(_) => Err(HandshakeError::Timeout(deadline)),
            Ok(Err((error, stream))) => {
                linger(stream).await;
                Err(why(&handshake, error))
            }
            Ok(Ok(stream)) => finish(&handshake, TlsStream::from(stream), until, deadline).await,
        }
    }

    /// Opens a handshake on `stream` with a server that must be exactly `expected`, within `deadline`.
    ///
    /// # Errors
    /// When there is no complete handshake in time, the server is somebody else, does
    /// not hold its key, its chain is refused, or it refuses us. In TLS 1.3 the last
    /// shows only when the stream is read.
    pub async fn connect<S>(
        &self,
        stream: S,
        expected: &SpiffeId,
        deadline: Duration,
    ) -> Result<MeshStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let until = Instant::now() + deadline;
        let handshake = Handshake::as_client(self.verifier.clone(), expected.to_string().into());
        let config = config::client(
            self.verifier.provider(),
            Callbacks::One(Arc::clone(&handshake)),
            Arc::clone(&self.leaf),
            self.alpn.to_vec(),
        );
        let connector = TlsConnector::from(Arc::new(config.map_err(HandshakeError::Protocol)?));
        let connect = connector
            .connect(config::server_name(expected), stream)
            .into_fallible();
        match timeout_at(until, connect).await {
            Err(_) => Err(HandshakeError::Timeout(deadline)),
            Ok(Err((error, _))) => Err(why(&handshake, error)),
            Ok(Ok(stream)) => finish(&handshake, TlsStream::from(stream), until, deadline).await,
        }
    }

    /// A configuration for servers that take handshakes by themselves.
    ///
    /// Its chains are verified within the handshake, before the proof and as many at once
    /// as threads take handshakes; prefer [`MeshTls::accept`]. After it, pass the connection's
    /// `peer_certificates()` to [`PeerVerifier::verify`] and ask [`PeerVerifier::authorize`].
    ///
    /// # Errors
    /// When the cryptographic provider cannot serve TLS 1.2 and 1.3.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let callbacks = Callbacks::Any(self.verifier.clone());
        let config = config::server(
            self.verifier.provider(),
            callbacks,
            Arc::clone(&self.leaf),
            self.alpn.to_vec(),
        )?;
        Ok(Arc::new(config))
    }

    /// Verifies the chain of a live connection again, off the runtime's threads.
    pub(crate) async fn verify_again(
        &self,
        chain: &[CertificateDer<'static>],
        usage: Usage,
        expected: Option<Arc<str>>,
    ) -> Result<(), Refusal> {
        self.verifier
            .verify_later(chain.to_vec(), usage, expected, Occasion::Live)
            .await
            .map(drop)
    }
}

async fn finish<S>(
    handshake: &Handshake,
    stream: TlsStream<S>,
    until: Instant,
    deadline: Duration,
) -> Result<MeshStream<S>, HandshakeError> {
    let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain = handshake.verifier.chains().share(presented);
    match timeout_at(until, handshake.finish(&chain)).await {
        Err(_) => Err(HandshakeError::Timeout(deadline)),
        Ok(Err(refusal)) => Err(HandshakeError::Refused(refusal)),
        Ok(Ok((peer, epoch))) => Ok(MeshStream {
            stream,
            peer,
            chain,
            epoch,
        }),
    }
}

/// A socket that is closed with unread bytes resets the connection, and the alert is
/// lost with it. So a refused client may read it in peace for a moment.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let drain = async {
        let _ = stream.shutdown().await;
        let (mut buffer, mut left) = ([0; 1024], LINGER_BYTES);
        while let Ok(read) = stream.read(&mut buffer).await {
            left = left.saturating_sub(read);
            if read == 0 || left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

fn why(handshake: &Handshake, error: io::Error) -> HandshakeError {
    handshake
        .refusal()
        .map_or_else(|| failed(error), HandshakeError::Refused)
}

fn failed(error: io::Error) -> HandshakeError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::AlertReceived(alert)) => HandshakeError::RefusedByPeer(*alert),
        Some(rustls::Error::NoCertificatesPresented) => HandshakeError::Refused(Refusal::NoProof),
        Some(error) => HandshakeError::Protocol(error.clone()),
        None => HandshakeError::Io(error),
    }
}

/// The alert that the other side sent, if `error` is one.
pub(crate) fn alert_of(error: &io::Error) -> Option<AlertDescription> {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

/// The name that RFC 8446 gives an alert, for example `access_denied`.
pub(crate) fn alert_name(alert: AlertDescription) -> String {
    let mut out = String::new();
    for (at, character) in format!("{alert:?}").chars().enumerate() {
        if character.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(character.to_ascii_lowercase());
    }
    out.replace("unknown_c_a", "unknown_ca")
}
