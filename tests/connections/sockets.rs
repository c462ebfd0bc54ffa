//! Unix sockets towards the mesh, the application and local programs.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use portcullis::proxy::{InboundConfig, ListenAddress, Listening, Proxy, ProxyConfig, ProxyHeader};
use portcullis_tests::stage::{Echo, Stage, ask, eventually, logged, within};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A TCP address in front of a unix socket, as a load balancer would give it.
async fn bridge(path: &Path) -> std::net::SocketAddr {
    let listener = TcpListener::bind(portcullis_tests::stage::ANY)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let path = path.to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let path = path.clone();
            tokio::spawn(async move {
                let mut server = UnixStream::connect(path).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn call(stage: &Stage, web: &str, db: &str, path: &Path) -> std::io::Result<Vec<u8>> {
    let domain = stage.agent.trust_domain();
    let id = format!("spiffe://{domain}/ns/default/dc/dc1/svc/{db}");
    let upstream = portcullis::connector::Upstream::Static {
        address: bridge(path).await.to_string(),
        id: portcullis_core::identity::SpiffeId::parse(&id).unwrap(),
    };
    let web = stage.outbound(web, upstream).await;
    ask(portcullis_tests::stage::door(&web), b"hello").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mesh_may_come_through_a_unix_socket() {
    let stage = Stage::new().await;
    stage.agent.allow("web-u", "db-u").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.sock");
    // Left over by one that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let echo = Echo::start().await;
    let config = ProxyConfig {
        inbound: Some(InboundConfig {
            socket_mode: Some(0o660),
            send_proxy: Some(ProxyHeader::V1),
            ..InboundConfig::new(ListenAddress::Unix(path.clone()), echo.application())
        }),
        ..ProxyConfig::default()
    };
    let db = Proxy::start(stage.member("db-u").await, config).unwrap();
    within(db.ready()).await;
    assert_eq!(
        db.addresses().inbound,
        Some(ListenAddress::Unix(path.clone()))
    );
    assert_eq!(mode(&path), 0o660);
    let answer = call(&stage, "web-u", "db-u", &path).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "PROXY UNKNOWN\r\nhello");
    let line = logged("inbound", "db-u", "intention").await;
    assert_eq!(line["src.addr"], "unix");
    assert!(line["src.identity"].ends_with("/svc/web-u"), "{line:?}");
    // Who is not allowed is refused there, too.
    assert!(
        !call(&stage, "other-u", "db-u", &path)
            .await
            .is_ok_and(|answer| !answer.is_empty())
    );
    db.shutdown(std::time::Duration::from_secs(5)).await;
    assert!(!path.exists(), "the socket is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_left_over_is_replaced_and_only_our_own_is_removed() {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.sock");
    let echo = Echo::start().await;
    let start = async |path: &Path| {
        let config = ProxyConfig {
            inbound: Some(InboundConfig::new(
                ListenAddress::Unix(path.to_owned()),
                echo.application(),
            )),
            ..ProxyConfig::default()
        };
        Proxy::start(stage.member("db-v").await, config)
    };
    // In use by somebody, a file, a folder, a link to a socket that is in use.
    let theirs = UnixListener::bind(&path).unwrap();
    let error = start(&path).await.unwrap_err().to_string();
    assert!(
        error.contains("in use") && error.contains("mesh.sock"),
        "{error}"
    );
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, "keep").unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for other in [&file, &link] {
        assert!(start(other).await.is_err());
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "keep");
    drop(theirs);

    let ours = start(&path).await.unwrap();
    // Somebody puts another socket in the place of ours: it stays when we go.
    std::fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    drop(ours);
    eventually("the proxy has ended", async || {
        tokio::task::yield_now().await;
        true
    })
    .await;
    assert!(
        std::fs::symlink_metadata(&path)
            .unwrap()
            .file_type()
            .is_socket()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbound_listener_moves_from_tcp_to_a_socket_and_back() {
    let stage = Stage::new().await;
    stage.agent.allow("web-x", "db-x").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.sock");
    let echo = Echo::start().await;
    let db = Proxy::idle(stage.member("db-x").await);
    let long = std::time::Duration::from_secs(600);
    let wanted = |listen: ListenAddress, mode| Listening {
        inbound: Some(InboundConfig {
            socket_mode: mode,
            ..InboundConfig::new(listen, echo.application())
        }),
        ..Listening::default()
    };
    let tcp = ListenAddress::Tcp(portcullis_tests::stage::ANY);
    assert!(db.change(wanted(tcp.clone(), None), long).await.is_empty());
    let address = portcullis_tests::stage::front(&db);
    let unix = ListenAddress::Unix(path.clone());
    for permissions in [0o600, 0o666] {
        let failed = db
            .change(wanted(unix.clone(), Some(permissions)), long)
            .await;
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(mode(&path), permissions);
        assert_eq!(
            call(&stage, "web-x", "db-x", &path).await.unwrap(),
            b"hello"
        );
        assert!(TcpStream::connect(address).await.is_err());
    }
    assert!(db.change(wanted(tcp, None), long).await.is_empty());
    assert!(!path.exists());
}
