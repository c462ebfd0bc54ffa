//! Handshakes of the mesh over real sockets, with certificates of every kind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::runtime::Policy;
use portcullis::tls::{HandshakeError, Leaf, LeafStore, MeshTls, PeerVerifier, Refusal};
use portcullis_core::agent::leaf::Leaf as LeafReply;
use portcullis_core::chain::{Usage, VerifyErrorKind};
use portcullis_core::identity::SpiffeId;
use portcullis_core::policy::Document;
use portcullis_core::time::Timestamp;
use portcullis_testkit::{Draft, KeyType, TestCa, TestLeaf};
use portcullis_tests::any_server::Unchecked;
use portcullis_tests::stage::{ANY, policy, within};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DEADLINE: Duration = Duration::from_secs(60);
const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A mesh of one CA whose service `db` may be called by `web` and nobody else.
struct Mesh {
    ca: TestCa,
    policy: Policy,
    clock: Clock,
    tls: MeshTls,
}

impl Mesh {
    fn new() -> Self {
        Self::of(TestCa::new("11111111-2222-3333-4444-555555555555.consul"))
    }

    fn of(ca: TestCa) -> Self {
        let clock = Clock::manual(Timestamp::from_unix_secs(ca.now().try_into().unwrap()));
        let policy = policy();
        load_roots(&policy, &ca, clock.now());
        let intentions = r#"{"intentions":[{"SourceName":"web","SourceNS":"default","DestinationName":"db","DestinationNS":"default","SourceType":"consul","Action":"allow","Precedence":9}]}"#;
        load(
            &policy,
            "service/default/default/db",
            intentions,
            clock.now(),
        );
        let tls = member(
            &policy,
            &clock,
            &ca.service("db").issue(),
            &ca.service_id("db"),
        );
        Self {
            ca,
            policy,
            clock,
            tls,
        }
    }

    /// A member's TLS beside `db`, with a verifier of its own.
    fn other(&self, leaf: &TestLeaf, id: &str) -> MeshTls {
        member(&self.policy, &self.clock, leaf, id)
    }
}

fn member(policy: &Policy, clock: &Clock, leaf: &TestLeaf, id: &str) -> MeshTls {
    let store = LeafStore::new();
    let reply = LeafReply {
        serial: "01".to_owned(),
        service: String::new(),
        uri: id.to_owned(),
        chain_pem: leaf.pem(),
        key: leaf.key_pem().into(),
        valid_after: clock.now(),
        valid_before: Timestamp::MAX,
    };
    store.replace(Leaf::from_reply(&reply, clock.now()).unwrap());
    let verifier = PeerVerifier::new(policy.clone(), clock.clone(), 1);
    MeshTls::new(verifier, Arc::new(store))
}

fn load_roots(policy: &Policy, ca: &TestCa, now: Timestamp) {
    let mesh = serde_json::json!({
        "trust_domain": ca.trust_domain(),
        "roots": [ca.pem()],
        "default_policy": "deny",
    });
    load(policy, "mesh", &mesh.to_string(), now);
}

fn load(policy: &Policy, name: &str, body: &str, now: Timestamp) {
    let body = Some(body.as_bytes().to_vec());
    let document = Document {
        name: name.to_owned(),
        body,
        confirmed_at: now,
    };
    let report = policy.load(vec![document]).unwrap();
    assert!(report.refused.is_empty(), "{report:?}");
}

/// Takes one connection after the other; gives each verdict, and one byte to those who are in.
async fn server(
    tls: MeshTls,
) -> (
    SocketAddr,
    tokio::sync::mpsc::UnboundedReceiver<Result<String, HandshakeError>>,
) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (verdicts, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, verdicts) = (tls.clone(), verdicts.clone());
            tokio::spawn(async move {
                let verdict = match tls.accept(stream, Some("db".into()), DEADLINE).await {
                    Ok(mut accepted) => {
                        accepted.stream.write_all(b"!").await.unwrap();
                        accepted.stream.shutdown().await.unwrap();
                        // Lets the client end first.
                        let _ = accepted.stream.read(&mut [0; 1]).await;
                        Ok(accepted.peer.id.to_string())
                    }
                    Err(error) => Err(error),
                };
                let _ = verdicts.send(verdict);
            });
        }
    });
    (address, received)
}

/// What a client that is not ours presents, and how.
#[derive(Clone)]
struct Stranger {
    key: Option<Arc<CertifiedKey>>,
    version: &'static SupportedProtocolVersion,
    alpn: Vec<Vec<u8>>,
}

impl Stranger {
    fn new(leaf: &TestLeaf, version: &'static SupportedProtocolVersion) -> Self {
        Self::with_key_of(leaf, leaf, version)
    }

    /// Presents the chain of one and signs with the key of another.
    fn with_key_of(
        chain: &TestLeaf,
        key: &TestLeaf,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let signer = aws_lc_rs::sign::any_supported_type(&key.key()).unwrap();
        let key = Some(Arc::new(CertifiedKey::new(chain.chain().to_vec(), signer)));
        Self {
            key,
            version,
            alpn: Vec::new(),
        }
    }

    fn config(self) -> ClientConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            .with_client_cert_resolver(Arc::new(Presents(self.key)));
        config.alpn_protocols = self.alpn;
        config.resumption = Resumption::in_memory_sessions(8);
        config
    }

    /// One connection: what the client sees of it.
    async fn call(self, address: SocketAddr) -> Result<Seen, AlertDescription> {
        call(&Arc::new(self.config()), address).await
    }
}

#[derive(Debug)]
struct Seen {
    version: Option<ProtocolVersion>,
    alpn: Option<Vec<u8>>,
    kind: Option<HandshakeKind>,
}

async fn call(config: &Arc<ClientConfig>, address: SocketAddr) -> Result<Seen, AlertDescription> {
    let connect = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("db.default.dc1.internal.mesh").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .map_err(alert)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(alert)?;
        assert_eq!(answer, b"!");
        let session = stream.get_ref().1;
        Ok(Seen {
            version: session.protocol_version(),
            alpn: session.alpn_protocol().map(<[u8]>::to_vec),
            kind: session.handshake_kind(),
        })
    };
    within(connect).await
}

fn alert(error: std::io::Error) -> AlertDescription {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("no alert but {error} ({other:?})"),
    }
}

#[derive(Debug)]
struct Presents(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_client_gets_in_by_both_versions() {
    let mesh = Mesh::new();
    let (address, mut verdicts) = server(mesh.tls.clone()).await;
    for version in VERSIONS {
        let web = mesh.ca.service("web").issue();
        let seen = Stranger::new(&web, version).call(address).await.unwrap();
        assert_eq!(seen.version, Some(version.version));
        assert_eq!(
            verdicts.recv().await.unwrap().unwrap(),
            mesh.ca.service_id("web")
        );
    }
    assert_eq!(mesh.tls.verifier().remembered(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_client_is_refused_with_an_alert_that_fits() {
    let mesh = Mesh::new();
    let stranger = TestCa::new(mesh.ca.trust_domain());
    let web = || mesh.ca.service("web");
    let id = mesh.ca.service_id("web");
    let agent = format!(
        "spiffe://{}/agent/client/dc/dc1/id/x",
        mesh.ca.trust_domain()
    );
    use AlertDescription as Alert;
    let cases = [
        (
            "expired",
            web().with(Draft::expired).issue(),
            Alert::CertificateExpired,
        ),
        (
            "not yet valid",
            web().with(Draft::not_yet_valid).issue(),
            Alert::CertificateExpired,
        ),
        (
            "other root of the same name",
            stranger.service("web").issue(),
            Alert::UnknownCA,
        ),
        (
            "two URIs",
            web()
                .with(|leaf| leaf.two_uris("spiffe://mesh.example/x"))
                .issue(),
            Alert::AccessDenied,
        ),
        (
            "two URIs, the good one last",
            web()
                .with(|leaf| leaf.uris(&["spiffe://x.example/y", &id]))
                .issue(),
            Alert::AccessDenied,
        ),
        (
            "URI that is not text",
            web().with(|leaf| leaf.raw_uri(b"spiffe://\xff")).issue(),
            Alert::AccessDenied,
        ),
        (
            "no URI",
            web().with(Draft::no_uri).issue(),
            Alert::AccessDenied,
        ),
        (
            "wrong trust domain",
            web().with(Draft::wrong_trust_domain).issue(),
            Alert::UnknownCA,
        ),
        (
            "for servers only",
            web().with(Draft::server_only).issue(),
            Alert::BadCertificate,
        ),
        (
            "no digitalSignature",
            web().with(Draft::without_digital_signature).issue(),
            Alert::BadCertificate,
        ),
        (
            "an agent",
            mesh.ca.leaf(&agent).issue(),
            Alert::AccessDenied,
        ),
        (
            "a service that is denied",
            mesh.ca.service("batch").issue(),
            Alert::AccessDenied,
        ),
    ];
    let (address, mut verdicts) = server(mesh.tls.clone()).await;
    for (what, leaf, expected) in cases {
        for version in VERSIONS {
            let seen = Stranger::new(&leaf, version).call(address).await;
            assert_eq!(seen.unwrap_err(), expected, "{what}");
            let verdict = verdicts.recv().await.unwrap();
            assert!(
                matches!(verdict, Err(HandshakeError::Refused(_))),
                "{what}: {verdict:?}"
            );
        }
    }
    let denied = |id: &str| format!("{id} is refused");
    let batch = mesh.ca.service("batch").issue();
    let _ = Stranger::new(&batch, &rustls::version::TLS13)
        .call(address)
        .await;
    let verdict = verdicts.recv().await.unwrap().unwrap_err();
    assert!(
        verdict
            .to_string()
            .starts_with(&denied(&mesh.ca.service_id("batch"))),
        "{verdict}"
    );
}

/// Passes a handshake on until the client changes to its keys, and the rest once it may.
async fn hold_back(to: SocketAddr, go_on: Arc<Notify>) -> (SocketAddr, oneshot::Receiver<()>) {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (hold, held) = oneshot::channel();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let server = TcpStream::connect(to).await.unwrap();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut hold = Some(hold);
        let mut head = [0; 5];
        while from_client.read_exact(&mut head).await.is_ok() {
            let length = u16::from_be_bytes([head[3], head[4]]);
            let mut body = vec![0; usize::from(length)];
            from_client.read_exact(&mut body).await.unwrap();
            if head[0] == CHANGE_CIPHER_SPEC
                && let Some(hold) = hold.take()
            {
                hold.send(()).unwrap();
                go_on.notified().await;
            }
            to_server
                .write_all(&[&head[..], &body].concat())
                .await
                .unwrap();
        }
    });
    (address, held)
}

/// The chain is good when it is shown, and not any more when the handshake ends.
#[tokio::test(flavor = "multi_thread")]
async fn roots_that_go_during_a_handshake_let_nobody_in() {
    let mesh = Mesh::new();
    let (server, mut verdicts) = server(mesh.tls.clone()).await;
    let go_on = Arc::new(Notify::new());
    let (address, held) = hold_back(server, Arc::clone(&go_on)).await;
    // In TLS 1.3 the proof and the end would come in one piece.
    let web = Stranger::new(&mesh.ca.service("web").issue(), &rustls::version::TLS12);
    let call = tokio::spawn(async move {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("db.default.dc1.internal.mesh").unwrap();
        let connector = TlsConnector::from(Arc::new(web.config()));
        let mut stream = connector.connect(name, stream).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        Some(answer)
    });
    within(held).await.unwrap();
    // The server has what it needs to verify the chain; with less it would refuse anyway.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let other = TestCa::new(mesh.ca.trust_domain());
    load_roots(&mesh.policy, &other, mesh.clock.now());
    go_on.notify_one();
    let verdict = within(verdicts.recv()).await.unwrap();
    assert!(
        matches!(verdict, Err(HandshakeError::Refused(Refusal::Chain(_)))),
        "{verdict:?}"
    );
    assert!(
        within(call)
            .await
            .unwrap()
            .is_none_or(|answer| answer.is_empty())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new();
    let (address, mut verdicts) = server(mesh.tls.clone()).await;
    for (version, expected) in VERSIONS.into_iter().zip([
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateRequired,
    ]) {
        let seen = Stranger {
            key: None,
            version,
            alpn: Vec::new(),
        }
        .call(address)
        .await;
        assert!(
            matches!(seen, Err(alert) if alert == expected || alert == AlertDescription::HandshakeFailure),
            "{seen:?}"
        );
        let verdict = verdicts.recv().await.unwrap();
        assert!(
            matches!(verdict, Err(HandshakeError::Refused(Refusal::NoProof))),
            "{verdict:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_its_key_opens_nothing_and_is_never_stored() {
    let mesh = Mesh::new();
    let (address, mut verdicts) = server(mesh.tls.clone()).await;
    let (web, thief) = (
        mesh.ca.service("web").issue(),
        mesh.ca.service("thief").issue(),
    );
    for version in VERSIONS {
        let seen = Stranger::with_key_of(&web, &thief, version)
            .call(address)
            .await;
        assert_eq!(seen.unwrap_err(), AlertDescription::DecryptError);
        let verdict = verdicts.recv().await.unwrap();
        assert!(
            matches!(verdict, Err(HandshakeError::Protocol(_))),
            "{verdict:?}"
        );
        assert_eq!(mesh.tls.verifier().remembered(), 0);
    }
    // Also when the certificate is known already.
    Stranger::new(&web, &rustls::version::TLS13)
        .call(address)
        .await
        .unwrap();
    verdicts.recv().await.unwrap().unwrap();
    assert_eq!(mesh.tls.verifier().remembered(), 1);
    for version in VERSIONS {
        let seen = Stranger::with_key_of(&web, &thief, version)
            .call(address)
            .await;
        assert_eq!(seen.unwrap_err(), AlertDescription::DecryptError);
        assert!(verdicts.recv().await.unwrap().is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_ever_resumed() {
    let mesh = Mesh::new();
    let (address, mut verdicts) = server(mesh.tls.clone()).await;
    for version in VERSIONS {
        let web = mesh.ca.service("web").issue();
        let config = Arc::new(Stranger::new(&web, version).config());
        for _ in 0..3 {
            let seen = call(&config, address).await.unwrap();
            // Some key exchanges take a second hello; that is no resumption.
            assert_ne!(seen.kind, Some(HandshakeKind::Resumed));
            verdicts.recv().await.unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn alpn_is_answered_only_when_there_is_something_in_common() {
    let mesh = Mesh::new();
    let web = mesh.ca.service("web").issue();
    let offer = |names: &[&str]| Stranger {
        alpn: names.iter().map(|name| name.as_bytes().to_vec()).collect(),
        ..Stranger::new(&web, &rustls::version::TLS13)
    };
    let (plain, _verdicts) = server(mesh.tls.clone()).await;
    assert_eq!(
        offer(&["h2", "http/1.1"]).call(plain).await.unwrap().alpn,
        None
    );
    let (http, _verdicts) = server(mesh.tls.clone().with_alpn(vec![b"http/1.1".to_vec()])).await;
    assert_eq!(offer(&["h2"]).call(http).await.unwrap().alpn, None);
    assert_eq!(
        offer(&["h2", "http/1.1"]).call(http).await.unwrap().alpn,
        Some(b"http/1.1".to_vec())
    );
    assert_eq!(offer(&[]).call(http).await.unwrap().alpn, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_let_go() {
    let mesh = Mesh::new();
    let listener = TcpListener::bind(ANY).await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let verdict = within(mesh.tls.accept(stream, None, Duration::from_millis(100))).await;
    assert!(
        matches!(verdict, Err(HandshakeError::Timeout(_))),
        "{verdict:?}"
    );
    assert_eq!(within(client.read(&mut [0; 1])).await.unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tls_is_an_error() {
    let mesh = Mesh::new();
    let (address, mut verdicts) = server(mesh.tls.clone()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let verdict = within(verdicts.recv()).await.unwrap();
    assert!(
        matches!(verdict, Err(HandshakeError::Protocol(_))),
        "{verdict:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_takes_exactly_the_wanted_server() {
    let mesh = Mesh::new();
    let web = mesh.other(&mesh.ca.service("web").issue(), &mesh.ca.service_id("web"));
    let (address, _verdicts) = server(mesh.tls.clone()).await;
    let connect = async |id: &str| {
        let stream = TcpStream::connect(address).await.unwrap();
        within(web.connect(stream, &SpiffeId::parse(id).unwrap(), DEADLINE)).await
    };
    let mut good = connect(&mesh.ca.service_id("db")).await.unwrap();
    assert_eq!(good.peer.id.to_string(), mesh.ca.service_id("db"));
    within(good.stream.read_exact(&mut [0; 1])).await.unwrap();
    let domain = mesh.ca.trust_domain();
    for wrong in [
        mesh.ca.service_id("dbx"),
        mesh.ca.service_id("DB"),
        format!("spiffe://{domain}/ns/default/dc/dc2/svc/db"),
        format!("spiffe://{domain}/ns/other/dc/dc1/svc/db"),
        format!("spiffe://{domain}/ap/other/ns/default/dc/dc1/svc/db"),
        "spiffe://other.consul/ns/default/dc/dc1/svc/db".to_owned(),
    ] {
        let refused = connect(&wrong).await.unwrap_err();
        assert!(
            matches!(refused, HandshakeError::Refused(Refusal::Chain(_))),
            "{wrong}: {refused:?}"
        );
    }
    assert_eq!(web.verifier().remembered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_refuses_a_server_without_its_key_or_for_clients_only() {
    let mesh = Mesh::new();
    let web = mesh.other(&mesh.ca.service("web").issue(), &mesh.ca.service_id("web"));
    let db = mesh.ca.service("db").issue();
    let thief = mesh.ca.service("thief").issue();
    let clients = mesh.ca.service("db").with(Draft::client_only).issue();
    for version in VERSIONS {
        for (chain, key) in [(&db, &thief), (&clients, &clients)] {
            let signer = aws_lc_rs::sign::any_supported_type(&key.key()).unwrap();
            let address =
                foreign_server(CertifiedKey::new(chain.chain().to_vec(), signer), version).await;
            let stream = TcpStream::connect(address).await.unwrap();
            let id = SpiffeId::parse(&mesh.ca.service_id("db")).unwrap();
            let refused = within(web.connect(stream, &id, DEADLINE)).await;
            assert!(refused.is_err(), "{refused:?}");
        }
    }
    assert_eq!(web.verifier().remembered(), 0);
}

/// A server that asks clients for nothing.
async fn foreign_server(
    key: CertifiedKey,
    version: &'static SupportedProtocolVersion,
) -> SocketAddr {
    #[derive(Debug)]
    struct One(Arc<CertifiedKey>);
    impl rustls::server::ResolvesServerCert for One {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(One(Arc::new(key))));
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn costly_chains_starve_nobody() {
    let domain = "11111111-2222-3333-4444-555555555555.consul";
    let named = |ca: Draft| ca.subject("the root");
    let mesh = Mesh::of(TestCa::with(domain, named));
    // The longest path of slow keys, really issued by the mesh.
    let mut costly = mesh.ca.intermediate(|ca| ca.key(KeyType::P521));
    for _ in 0..4 {
        costly = costly.intermediate(|ca| ca.key(KeyType::P521));
    }
    // Self-made: five issuers of one name, each of which pretends to be issued by the root.
    let impostor = TestCa::at(domain, mesh.ca.now(), named);
    let pretenders: Vec<_> = (0..5)
        .map(|_| impostor.intermediate(|ca| ca.subject("the issuer")))
        .collect();
    let certificates: Vec<_> = pretenders
        .iter()
        .map(|ca| ca.certificate().clone())
        .collect();

    let (thief, web) = (
        mesh.ca.service("thief").issue(),
        mesh.ca.service("web").issue(),
    );
    let (address, mut verdicts) = server(mesh.tls.clone()).await;
    let call = |chain: &TestLeaf, key: &TestLeaf, version| {
        let stranger = Stranger::with_key_of(chain, key, version);
        tokio::spawn(async move { stranger.call(address).await })
    };
    let (mut keyless, mut paying, mut forged, mut healthy) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..50 {
        let version = VERSIONS[number % 2];
        let bait = costly
            .service("web")
            .with(|leaf| leaf.key(KeyType::P256))
            .issue();
        keyless.push(call(&bait, &thief, version));
        let own = pretenders[0].service("web").issue();
        let presented = own.presenting(&certificates[1..]);
        forged.push(call(&presented, &presented, version));
        if number % 2 == 0 {
            paying.push(call(&bait, &bait, version));
        }
        // Some are known, some are not.
        let new = mesh.ca.service("web").issue();
        let leaf = if number % 2 == 0 { &web } else { &new };
        healthy.push(call(leaf, leaf, version));
    }
    for client in healthy {
        within(client)
            .await
            .unwrap()
            .expect("a healthy client was refused");
    }
    for client in paying {
        within(client)
            .await
            .unwrap()
            .expect("who holds the key is who it says");
    }
    for client in keyless {
        assert_eq!(
            within(client).await.unwrap().unwrap_err(),
            AlertDescription::DecryptError
        );
    }
    for client in forged {
        // With or without an alert: one that had to wait for its turn is just closed.
        let seen = within(client).await;
        assert!(!matches!(seen, Ok(Ok(_))), "an impostor got in");
    }
    for _ in 0..175 {
        within(verdicts.recv()).await.unwrap().ok();
    }
    // One is known all the time, 25 are new, 25 pay; nobody else is remembered.
    assert_eq!(mesh.tls.verifier().remembered(), 1 + 25 + 25);
}

#[tokio::test]
async fn a_remembered_certificate_is_good_for_one_use_and_one_identity() {
    let mesh = Mesh::new();
    let verifier = mesh.tls.verifier();
    let clients = mesh.ca.service("web").with(Draft::client_only).issue();
    verifier
        .verify(clients.chain(), Usage::Client, None)
        .unwrap();
    assert!(
        verifier
            .verify(clients.chain(), Usage::Server, None)
            .is_err()
    );
    let (id, other) = (mesh.ca.service_id("web"), mesh.ca.service_id("db"));
    verifier
        .verify(clients.chain(), Usage::Client, Some(&id))
        .unwrap();
    assert!(
        verifier
            .verify(clients.chain(), Usage::Client, Some(&other))
            .is_err()
    );
    assert_eq!(verifier.remembered(), 2);
}

#[tokio::test]
async fn a_root_that_goes_takes_its_certificates_along_and_brings_them_back() {
    let mesh = Mesh::new();
    let verifier = mesh.tls.verifier();
    let other = TestCa::at(mesh.ca.trust_domain(), mesh.ca.now(), |ca| ca);
    let (ours, theirs) = (mesh.ca.service("web").issue(), other.service("web").issue());
    for _ in 0..2 {
        verifier.verify(ours.chain(), Usage::Client, None).unwrap();
        assert!(
            verifier
                .verify(theirs.chain(), Usage::Client, None)
                .is_err()
        );
        load_roots(&mesh.policy, &other, mesh.clock.now());
        verifier
            .verify(theirs.chain(), Usage::Client, None)
            .unwrap();
        assert!(verifier.verify(ours.chain(), Usage::Client, None).is_err());
        load_roots(&mesh.policy, &mesh.ca, mesh.clock.now());
    }
}

#[tokio::test]
async fn a_short_lived_intermediate_ends_what_was_remembered() {
    let mesh = Mesh::new();
    let verifier = mesh.tls.verifier();
    let short = mesh.ca.intermediate(|ca| ca.valid(-60, 100));
    let web = short.service("web").issue();
    let at =
        |seconds: i64| Timestamp::from_unix_secs((mesh.ca.now() + seconds).try_into().unwrap());
    verifier.verify(web.chain(), Usage::Client, None).unwrap();
    mesh.clock.set(at(99));
    verifier.verify(web.chain(), Usage::Client, None).unwrap();
    mesh.clock.set(at(102));
    assert!(verifier.verify(web.chain(), Usage::Client, None).is_err());
}

#[tokio::test]
async fn a_clock_that_is_set_back_verifies_again() {
    let mesh = Mesh::new();
    let verifier = mesh.tls.verifier();
    let web = mesh.ca.service("web").issue();
    let begin = mesh.clock.now();
    verifier.verify(web.chain(), Usage::Client, None).unwrap();
    mesh.clock.set(begin.saturating_sub_millis(30 * 86_400_000));
    assert!(verifier.verify(web.chain(), Usage::Client, None).is_err());
    for extreme in [Timestamp::from_millis(0), Timestamp::MAX] {
        mesh.clock.set(extreme);
        assert!(verifier.verify(web.chain(), Usage::Client, None).is_err());
    }
}

#[tokio::test]
async fn stale_roots_make_the_remembered_useless() {
    let mesh = Mesh::new();
    let verifier = mesh.tls.verifier();
    let web = mesh.ca.service("web").issue();
    verifier.verify(web.chain(), Usage::Client, None).unwrap();
    // Beyond 24 hours without a word from the agent; the leaf is good for 72.
    mesh.clock
        .set(mesh.clock.now().saturating_add_millis(25 * 3_600_000));
    let error = verifier
        .verify(web.chain(), Usage::Client, None)
        .unwrap_err();
    assert_eq!(error.kind(), VerifyErrorKind::NotReady, "{error}");
    mesh.policy.touch(&["mesh"], mesh.clock.now());
    verifier.verify(web.chain(), Usage::Client, None).unwrap();
}
