//! Clients of the mesh: raw bytes over TLS, and hyper's HTTP/1.1 and HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_dev_agent::DevAgent;
use portcullis_testkit::TestLeaf;
use portcullis_tests::any_server::AnyServer;
use portcullis_tests::stage::within;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A body of a request.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// No body.
pub(crate) fn empty() -> Body {
    full("")
}

/// This body.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}

/// TLS 1.3 that takes any server, with or without a certificate of its own.
pub(crate) fn tls_client(
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    match identity {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .expect("a certificate"),
        None => builder.with_no_client_auth(),
    }
}

/// A client with the certificate of a service.
#[derive(Clone)]
pub(crate) struct Client {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    address: SocketAddr,
    pub(crate) uri: String,
}

impl Client {
    pub(crate) fn new(agent: &DevAgent, service: &str, address: SocketAddr) -> Self {
        let leaf = agent.issue(service).expect("a leaf");
        let chain = CertificateDer::pem_slice_iter(leaf.chain_pem.as_bytes());
        Self {
            chain: chain.collect::<Result<_, _>>().expect("certificates"),
            key: Arc::new(PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("a key")),
            address,
            uri: leaf.uri,
        }
    }

    /// A client with this certificate.
    pub(crate) fn with_leaf(leaf: &TestLeaf, address: SocketAddr) -> Self {
        Self {
            chain: leaf.chain().to_vec(),
            key: Arc::new(leaf.key()),
            address,
            uri: String::new(),
        }
    }

    /// A client with a certificate of any origin.
    #[allow(dead_code, reason = "the tests of Envoy use it")]
    pub(crate) fn with(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        address: SocketAddr,
    ) -> Self {
        Self {
            chain,
            key: Arc::new(key),
            address,
            uri: String::new(),
        }
    }

    /// Its settings for TLS.
    pub(crate) fn config(&self) -> ClientConfig {
        tls_client(Some((self.chain.clone(), self.key.clone_key())))
    }

    /// A connection, if the server takes it.
    #[allow(dead_code, reason = "the tests of Envoy use it")]
    pub(crate) async fn try_connect(&self) -> Option<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let name = ServerName::try_from("api").expect("a name");
        let connector = TlsConnector::from(Arc::new(self.config()));
        within(connector.connect(name, stream)).await.ok()
    }

    /// A connection that offers these ALPN names.
    pub(crate) async fn connect(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        let mut config = self.config();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let name = ServerName::try_from("api").expect("a name");
        let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
        within(connect).await.expect("a handshake")
    }

    /// Sends bytes, and reads what comes until the other side ends or `enough` says so.
    pub(crate) async fn raw(&self, bytes: &[u8], enough: impl Fn(&str) -> bool) -> String {
        let mut stream = self.connect(&[]).await;
        // Whoever refuses may not read all of it.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        read_until(&mut stream, enough).await
    }

    /// An HTTP/1.1 connection.
    pub(crate) async fn http1(&self) -> http1::SendRequest<Body> {
        let stream = self.connect(&["http/1.1"]).await;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// An HTTP/2 connection.
    pub(crate) async fn http2(&self) -> http2::SendRequest<Body> {
        let stream = self.connect(&["h2", "http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }
}

/// Sends a request once the connection is ready for another.
pub(crate) async fn send(
    one: &mut http1::SendRequest<Body>,
    request: http::Request<Body>,
) -> http::Response<Incoming> {
    let sent = async {
        one.ready().await?;
        one.send_request(request).await
    };
    within(sent).await.expect("an answer")
}

/// Reads until the end, or until there is enough.
pub(crate) async fn read_until(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    enough: impl Fn(&str) -> bool,
) -> String {
    let mut read = Vec::new();
    let mut part = [0; 4096];
    let all = async {
        loop {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(count) => read.extend_from_slice(&part[..count]),
            }
            if enough(&String::from_utf8_lossy(&read)) {
                break;
            }
        }
    };
    within(all).await;
    String::from_utf8_lossy(&read).into_owned()
}

/// The whole body as text.
pub(crate) async fn body(response: http::Response<Incoming>) -> String {
    let collected = within(response.into_body().collect())
        .await
        .expect("a whole body");
    String::from_utf8(collected.to_bytes().to_vec()).expect("text")
}
