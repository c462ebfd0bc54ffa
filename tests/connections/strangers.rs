//! TLS clients that are not ours: with chains that cost, without the key, byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_tests::any_server::Unchecked;
use portcullis_tests::bench::identity::Identity;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A client that presents a chain, and proves possession of some key.
#[derive(Clone)]
pub(crate) struct Stranger(Arc<ClientConfig>);

impl Stranger {
    /// One that is who it says.
    pub(crate) fn honest(identity: &Identity) -> Self {
        Self::with_key(&identity.chain, &identity.key)
    }

    /// One that signs with whatever key.
    pub(crate) fn with_key(chain: &[CertificateDer<'static>], key: &PrivateKeyDer<'_>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let signer = aws_lc_rs::sign::any_supported_type(key).expect("a key");
        let certified = Arc::new(CertifiedKey::new(chain.to_vec(), signer));
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            .with_client_cert_resolver(Arc::new(Presents(certified)));
        Self(Arc::new(config))
    }

    /// Whether the application behind `address` echoes for it.
    pub(crate) async fn call(&self, address: SocketAddr) -> std::io::Result<()> {
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        let mut stream = connector.connect(name(), stream).await?;
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"ping");
        let _ = stream.shutdown().await;
        Ok(())
    }

    /// The first bytes that it would send.
    pub(crate) fn hello(&self) -> Vec<u8> {
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name()).expect("a client");
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).expect("a hello");
        hello
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("db.default.dc1.internal.mesh").expect("a name")
}

#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
