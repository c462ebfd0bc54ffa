//! PROXY headers before TLS and before the application's first byte.

use std::net::SocketAddr;

use portcullis::connector::Upstream;
use portcullis::proxy::{Application, InboundConfig, Proxy, ProxyConfig, ProxyHeader};
use portcullis_core::identity::SpiffeId;
use portcullis_tests::stage::{ANY, Echo, Stage, ask, door, front, logged, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 203.0.113.8 4711 443\r\n";

fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([203, 0, 113, 7, 203, 0, 113, 8]);
    header.extend(4711_u16.to_be_bytes());
    header.extend(443_u16.to_be_bytes());
    header
}

/// A load balancer that writes `header` before all else, in two parts.
async fn balancer(to: SocketAddr, header: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let header = header.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await.unwrap();
                let (first, second) = header.split_at(header.len() / 2);
                server.write_all(first).await.unwrap();
                tokio::task::yield_now().await;
                server.write_all(second).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

/// `db`, which believes headers from `trusted`.
async fn db(
    stage: &Stage,
    name: &str,
    application: Application,
    trusted: Option<&str>,
    send: Option<ProxyHeader>,
) -> Proxy {
    let config = ProxyConfig {
        inbound: Some(InboundConfig {
            accept_proxy: trusted.map(|trusted| trusted.parse().unwrap()),
            send_proxy: send,
            ..InboundConfig::new(ANY, application)
        }),
        ..ProxyConfig::default()
    };
    let proxy = Proxy::start(stage.member(name).await, config).unwrap();
    within(proxy.ready()).await;
    proxy
}

fn at(stage: &Stage, service: &str, address: SocketAddr) -> Upstream {
    let domain = stage.agent.trust_domain();
    let id = format!("spiffe://{domain}/ns/default/dc/dc1/svc/{service}");
    Upstream::Static {
        address: address.to_string(),
        id: SpiffeId::parse(&id).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_client_before_a_trusted_load_balancer() {
    let stage = Stage::new().await;
    stage.agent.allow("web-p", "*").unwrap();
    let echo = Echo::start().await;
    for (name, header) in [("db-p1", V1.to_vec()), ("db-p2", v2())] {
        let db = db(
            &stage,
            name,
            echo.application(),
            Some("10.0.0.0/8,127.0.0.0/8"),
            None,
        )
        .await;
        let balancer = balancer(front(&db), header).await;
        let web = stage.outbound("web-p", at(&stage, name, balancer)).await;
        assert_eq!(ask(door(&web), b"hello").await.unwrap(), b"hello");
        let line = logged("inbound", name, "intention").await;
        assert_eq!(line["src.addr"], "203.0.113.7:4711");
        // Without a header this address gets nowhere any more.
        let web = stage.outbound("web-p", at(&stage, name, front(&db))).await;
        assert!(ask(door(&web), b"hello").await.is_err());
        let line = logged("inbound", name, "proxy-header").await;
        assert!(line["reason"].contains("does not begin"), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_chooses_an_address() {
    let stage = Stage::new().await;
    stage.agent.allow("web-q", "*").unwrap();
    let echo = Echo::start().await;
    for (name, trusted) in [("db-q1", None), ("db-q2", Some("10.0.0.0/8,::/0,unix"))] {
        let db = db(&stage, name, echo.application(), trusted, None).await;
        for header in [V1.to_vec(), v2()] {
            let balancer = balancer(front(&db), header).await;
            let web = stage.outbound("web-q", at(&stage, name, balancer)).await;
            assert!(ask(door(&web), b"hello").await.is_err());
        }
        let line = logged("inbound", name, "handshake-failed").await;
        assert!(line["src.addr"].starts_with("127.0.0.1:"), "{line:?}");
        // Without a header all is well.
        let web = stage.outbound("web-q", at(&stage, name, front(&db))).await;
        assert_eq!(ask(door(&web), b"hello").await.unwrap(), b"hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_never_ends_runs_into_the_handshakes_deadline() {
    let stage = Stage::new().await;
    let echo = Echo::start().await;
    let mut config = ProxyConfig {
        inbound: Some(InboundConfig {
            accept_proxy: Some("127.0.0.1".parse().unwrap()),
            ..InboundConfig::new(ANY, echo.application())
        }),
        ..ProxyConfig::default()
    };
    config.limits.handshake = std::time::Duration::from_millis(500);
    let db = Proxy::start(stage.member("db-r").await, config).unwrap();
    within(db.ready()).await;
    let mut stream = TcpStream::connect(front(&db)).await.unwrap();
    stream.write_all(&V1[..20]).await.unwrap();
    assert_eq!(within(stream.read(&mut [0; 1])).await.unwrap_or(0), 0);
    logged("inbound", "db-r", "handshake-timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_is_told_who_the_client_is() {
    let stage = Stage::new().await;
    stage.agent.allow("web-s", "*").unwrap();
    let id = format!(
        "spiffe://{}/ns/default/dc/dc1/svc/web-s",
        stage.agent.trust_domain()
    );
    for (name, version, behind) in [
        ("db-s1", ProxyHeader::V1, false),
        ("db-s2", ProxyHeader::V2, false),
        ("db-s3", ProxyHeader::V1, true),
        ("db-s4", ProxyHeader::V2, true),
    ] {
        // It sends back all that it gets, the header included.
        let echo = Echo::start().await;
        let trusted = behind.then_some("127.0.0.1");
        let db = db(&stage, name, echo.application(), trusted, Some(version)).await;
        let address = if behind {
            balancer(front(&db), v2()).await
        } else {
            front(&db)
        };
        let web = stage.outbound("web-s", at(&stage, name, address)).await;
        let answer = ask(door(&web), b"hello").await.unwrap();
        let header = answer.strip_suffix(b"hello").unwrap();
        let line = logged("inbound", name, "intention").await;
        let from: SocketAddr = line["src.addr"].parse().unwrap();
        let to: SocketAddr = if behind {
            "203.0.113.8:443".parse().unwrap()
        } else {
            front(&db)
        };
        match version {
            ProxyHeader::V1 => {
                let expected = format!(
                    "PROXY TCP4 {} {} {} {}\r\n",
                    from.ip(),
                    to.ip(),
                    from.port(),
                    to.port()
                );
                assert_eq!(String::from_utf8_lossy(header), expected);
            }
            ProxyHeader::V2 => {
                assert!(
                    header.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11"),
                    "{header:?}"
                );
                assert_eq!(header[24..26], from.port().to_be_bytes());
                assert!(header.ends_with(id.as_bytes()), "{header:?}");
            }
        }
        assert_eq!(line["bytes_recv"], "5", "the header is not the client's");
    }
}
