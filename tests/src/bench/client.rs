//! The load: TLS 1.3 clients on threads, with group and cipher pinned alike for all.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};

use super::application::{ECHO, POUR, SWALLOW};
use super::identity::Identity;
use super::patience::PATIENCE;
use crate::any_server::Unchecked;

/// What a client brings: a certificate, and the roots that it knows, if it looks at them.
pub type Config = Arc<ClientConfig>;

/// How servers are checked.
#[derive(Clone, Copy, Debug)]
pub enum Check<'a> {
    /// Not at all, so that the load costs little. The proxy's work is the same.
    Nothing,
    /// The chain must lead to one of these roots; names do not matter.
    Roots(&'a [CertificateDer<'static>]),
}

/// Settings of a client: TLS 1.3, X25519, AES-128-GCM, each handshake in full.
///
/// # Errors
/// When the certificate or a root cannot be used.
pub fn config(identity: &Identity, check: Check<'_>) -> Result<Config> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let verifier: Arc<dyn ServerCertVerifier> = match check {
        Check::Nothing => Arc::new(Unchecked(Arc::clone(&provider))),
        Check::Roots(roots) => {
            let mut store = RootCertStore::empty();
            for root in roots {
                store.add(root.clone()).context("a root cannot be used")?;
            }
            let inner =
                WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
            Arc::new(ChainOnly(inner.build().context("no verifier")?))
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("no TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .context("the client's certificate cannot be used")?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A connection through a proxy to the application.
pub struct Session(StreamOwned<ClientConnection, TcpStream>);

impl Session {
    /// Connects and sees one byte echoed, which proves that the application was reached.
    ///
    /// # Errors
    /// When the connection fails or is refused.
    pub fn open(config: &Config, address: SocketAddr) -> io::Result<Self> {
        let mut session = Self::connect(config, address)?;
        session.0.write_all(&[ECHO])?;
        let mut byte = [0];
        session.0.read_exact(&mut byte)?;
        if byte != [ECHO] {
            return Err(io::Error::other("the application answers nonsense"));
        }
        Ok(session)
    }

    fn connect(config: &Config, address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let connection =
            ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Self(StreamOwned::new(connection, stream)))
    }

    /// Sends a message and reads its echo into `buffer`, which is as long.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn round_trip(&mut self, message: &[u8], buffer: &mut [u8]) -> io::Result<()> {
        self.0.write_all(message)?;
        self.0.read_exact(buffer)
    }

    /// How long it takes until the other side has ended the connection; `None` when it
    /// has not within `limit`.
    ///
    /// # Errors
    /// When bytes come instead of the end.
    pub fn ended_within(&mut self, limit: Duration) -> io::Result<Option<Duration>> {
        let began = Instant::now();
        self.0.sock.set_read_timeout(Some(limit))?;
        match self.0.read(&mut [0; 16]) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(None)
            }
            Ok(0) | Err(_) => Ok(Some(began.elapsed())),
            Ok(_) => Err(io::Error::other("bytes came instead of the end")),
        }
    }

    /// The certificate that the server has presented, without its chain.
    #[must_use]
    pub fn server(&self) -> Option<CertificateDer<'static>> {
        let certificates = self.0.conn.peer_certificates()?;
        certificates
            .first()
            .cloned()
            .map(CertificateDer::into_owned)
    }

    /// Ends the connection in order.
    ///
    /// # Errors
    /// When it breaks.
    pub fn close(mut self) -> io::Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()
    }
}

/// One new connection with one echoed byte, ended in order.
///
/// # Errors
/// When the connection fails or is refused.
pub fn once(config: &Config, address: SocketAddr) -> io::Result<()> {
    Session::open(config, address)?.close()
}

/// Sends `bytes` to the application.
///
/// # Errors
/// When the connection breaks.
pub fn upload(config: &Config, address: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut session = Session::connect(config, address)?;
    session.0.write_all(&[SWALLOW])?;
    session.0.write_all(&bytes.to_be_bytes())?;
    let buffer = vec![0xa5; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        let size = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        session.0.write_all(&buffer[..size])?;
        left -= size as u64;
    }
    session.0.read_exact(&mut [0])?;
    session.close()
}

/// Lets the application send `bytes`.
///
/// # Errors
/// When the connection breaks.
pub fn download(config: &Config, address: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut session = Session::connect(config, address)?;
    session.0.write_all(&[POUR])?;
    session.0.write_all(&bytes.to_be_bytes())?;
    let mut buffer = vec![0; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        let read = session.0.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(read as u64);
    }
    session.close()
}

/// Verifies chains as webpki does, and leaves names out: a mesh has no DNS names.
#[derive(Debug)]
struct ChainOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.0
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last, when the chain is good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
