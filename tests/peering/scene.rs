//! A service in front of an echo, and callers with certificates of any CA.

use portcullis::member::Member;
use portcullis::proxy::{InboundConfig, Proxy, ProxyConfig};
use portcullis::watcher::{KnownPeer, WatcherConfig};
use portcullis_testkit::TestCa;
use portcullis_tests::stage::{ANY, Echo, HUNG, eventually, front, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::Client;

/// The service `db`, which speaks TCP.
pub(crate) struct Database {
    pub(crate) proxy: Proxy,
    pub(crate) echo: Echo,
}

impl Database {
    pub(crate) async fn start(config: WatcherConfig) -> Self {
        let member = Member::start(config);
        member.ready(HUNG).await.expect("ready");
        let echo = Echo::start().await;
        let config = ProxyConfig {
            inbound: Some(InboundConfig::new(ANY, echo.application())),
            ..ProxyConfig::default()
        };
        let proxy = Proxy::start(member, config).expect("the proxy starts");
        within(proxy.ready()).await;
        Self { proxy, echo }
    }

    /// A client with a certificate of `ca` for `uri`.
    pub(crate) fn client(&self, ca: &TestCa, uri: &str) -> Client {
        Client::with_leaf(&ca.leaf(uri).issue(), front(&self.proxy))
    }

    /// What is known of a peer.
    pub(crate) fn peer(&self, name: &str) -> Option<KnownPeer> {
        self.proxy.member().watcher().peers().remove(name)
    }

    /// Waits until a peer's bundle is in use.
    pub(crate) async fn knows(&self, peer: &str) {
        eventually("the peer has a bundle", async || {
            self.peer(peer).is_some_and(|peer| !peer.roots.is_empty())
        })
        .await;
    }

    /// Waits until a peer has no bundle because of this.
    pub(crate) async fn lacks(&self, peer: &str, because: &str) {
        eventually(because, async || {
            self.peer(peer).is_some_and(|peer| {
                let why = peer.error.unwrap_or_default();
                peer.roots.is_empty() && peer.trust_domain.is_none() && why.contains(because)
            })
        })
        .await;
    }
}

/// An open connection through which the application answers, if it does.
pub(crate) async fn open(client: &Client) -> Option<TlsStream<TcpStream>> {
    let mut stream = client.try_connect().await?;
    let answer = async {
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut [0; 4]).await?;
        std::io::Result::Ok(stream)
    };
    within(answer).await.ok()
}

/// Waits until the application answers this client.
pub(crate) async fn reaches(what: &str, client: &Client) -> TlsStream<TcpStream> {
    let mut found = None;
    eventually(what, async || {
        found = open(client).await;
        found.is_some()
    })
    .await;
    found.expect("an open connection")
}

/// Waits until this client is refused.
pub(crate) async fn refused(what: &str, client: &Client) {
    eventually(what, async || open(client).await.is_none()).await;
}

/// Waits until the other side ends the connection.
pub(crate) async fn is_cut(stream: &mut TlsStream<TcpStream>) {
    let end = within(stream.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}
