//! How many connections there may be and how long they last.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis::connector::Upstream;
use portcullis::proxy::{InboundConfig, Limits, ListenAddress, Proxy, ProxyConfig, UpstreamConfig};
use portcullis_tests::stage::{ANY, Echo, Stage, ask, door, eventually, front, logged, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// `web` may call `db` through two proxies, the second of them with these limits.
struct Scene {
    stage: Stage,
    echo: Echo,
    db: Proxy,
    web: Proxy,
}

impl Scene {
    async fn new(web: &str, db: &str, limits: Limits) -> Self {
        let stage = Stage::new().await;
        stage.agent.allow(web, db).unwrap();
        let echo = Echo::start().await;
        let config = ProxyConfig {
            inbound: Some(InboundConfig::new(ANY, echo.application())),
            limits,
            ..ProxyConfig::default()
        };
        let inbound = Proxy::start(stage.member(db).await, config).unwrap();
        within(inbound.ready()).await;
        let uri = format!(
            "spiffe://{}/ns/default/dc/dc1/svc/{db}",
            stage.agent.trust_domain()
        );
        let upstream = Upstream::Static {
            address: front(&inbound).to_string(),
            id: portcullis_core::identity::SpiffeId::parse(&uri).unwrap(),
        };
        let outbound = stage.outbound(web, upstream).await;
        Self {
            stage,
            echo,
            db: inbound,
            web: outbound,
        }
    }

    async fn open(&self) -> TcpStream {
        open(door(&self.web)).await.unwrap()
    }
}

/// How many connections wait in the kernel until this port of 127.0.0.1 accepts them.
fn queued(port: u16) -> u32 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let address = format!("0100007F:{port:04X}");
    sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|columns| columns[1] == address && columns[3] == LISTENING)
        .map_or(0, |columns| {
            let (_, received) = columns[4].split_once(':').unwrap();
            u32::from_str_radix(received, 16).unwrap()
        })
}

/// The state of a listening socket in `/proc/net/tcp`; its received bytes are connections.
const LISTENING: &str = "0A";

/// A connection over which one byte has gone both ways.
async fn open(door: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(door).await?;
    stream.write_all(b"x").await?;
    let answer = within(stream.read_u8()).await?;
    assert_eq!(answer, b'x');
    Ok(stream)
}

async fn exchange(stream: &mut TcpStream) {
    try_exchange(stream).await.unwrap();
}

async fn try_exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"y").await?;
    assert_eq!(within(stream.read_u8()).await?, b'y');
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_are_refused_at_once_and_others_go_on() {
    for all in [false, true] {
        let name = |name| format!("{name}-a{}", u8::from(all));
        let limits = Limits {
            connections: if all { 100 } else { 2 },
            all_connections: if all { 2 } else { 100 },
            ..Limits::default()
        };
        let scene = Scene::new(&name("web"), &name("db"), limits).await;
        let (first, mut second) = (scene.open().await, scene.open().await);
        for _ in 0..5 {
            assert!(open(door(&scene.web)).await.is_err());
            // Without a word: no byte was read for it.
            let end = async {
                let mut stream = TcpStream::connect(front(&scene.db)).await?;
                stream.read(&mut [0; 1]).await
            };
            let end = within(end).await;
            assert!(end.is_err(), "{end:?}");
        }
        assert_eq!(
            (scene.db.stats().over_limit, scene.db.stats().active),
            (10, 2)
        );
        assert_eq!(scene.echo.seen(), 2);
        exchange(&mut second).await;
        drop(first);
        eventually("there is room again", async || {
            open(door(&scene.web)).await.is_ok()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_has_its_own_limit() {
    let scene = Scene::new("web-b", "db-b", Limits::default()).await;
    let id = format!(
        "spiffe://{}/ns/default/dc/dc1/svc/db-b",
        scene.stage.agent.trust_domain()
    );
    let upstream = Upstream::Static {
        address: front(&scene.db).to_string(),
        id: portcullis_core::identity::SpiffeId::parse(&id).unwrap(),
    };
    let config = ProxyConfig {
        upstreams: vec![UpstreamConfig {
            connections: Some(1),
            ..UpstreamConfig::new(upstream, ListenAddress::Tcp(ANY))
        }],
        ..ProxyConfig::default()
    };
    let web = Proxy::start(scene.stage.member("web-b").await, config).unwrap();
    within(web.ready()).await;
    let _first = open(door(&web)).await.unwrap();
    assert!(open(door(&web)).await.is_err());
    assert_eq!(web.stats().over_limit, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_give_way_to_those_who_speak() {
    let limits = Limits {
        handshakes: 8,
        // They would keep their places for longer than the test.
        handshake: Duration::from_secs(600),
        ..Limits::default()
    };
    let scene = Scene::new("web-c", "db-c", limits).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(front(&scene.db)).await.unwrap());
    }
    for _ in 0..3 {
        assert_eq!(ask(door(&scene.web), b"hello").await.unwrap(), b"hello");
    }
    let stats = scene.db.stats();
    assert!(stats.handshaking <= 8, "{stats:?}");
    assert!(stats.gave_way >= 32, "{stats:?}");
    let line = logged("inbound", "db-c", "too-many-handshakes").await;
    assert!(!line.contains_key("src.identity"), "{line:?}");
    // An established connection never gives way.
    let mut live = scene.open().await;
    for _ in 0..20 {
        silent.push(TcpStream::connect(front(&scene.db)).await.unwrap());
    }
    exchange(&mut live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_ends_with_a_reset_and_a_busy_one_stays() {
    let limits = Limits {
        // Far longer than anything keeps the busy one waiting.
        idle: Some(Duration::from_secs(5)),
        ..Limits::default()
    };
    let scene = Scene::new("web-d", "db-d", limits).await;
    let (mut idle, mut busy) = (scene.open().await, scene.open().await);
    let mut byte = [0];
    let end = async {
        loop {
            tokio::select! {
                end = idle.read(&mut byte) => break end,
                () = tokio::time::sleep(Duration::from_millis(50)) => exchange(&mut busy).await,
            }
        }
    };
    let end = within(end).await;
    assert!(end.is_err(), "a clean end would look complete: {end:?}");
    exchange(&mut busy).await;
    let line = logged("inbound", "db-d", "idle-timeout").await;
    assert!(line["src.identity"].ends_with("/svc/web-d"), "{line:?}");
    assert_eq!(scene.db.stats().idle, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_ends_once_it_is_quiet() {
    let limits = Limits {
        age: Some(Duration::from_millis(500)),
        age_grace: Duration::from_secs(600),
        ..Limits::default()
    };
    let scene = Scene::new("web-e", "db-e", limits).await;
    let mut stream = scene.open().await;
    // Far beyond its age it lives as long as something moves.
    let (mut moved, mut rounds, mut ended) = (Instant::now(), 0, 0);
    while rounds < 40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match try_exchange(&mut stream).await {
            Ok(()) => rounds += 1,
            Err(error) => {
                // Only where the machine stood still was there a quiet moment.
                let stood = moved.elapsed();
                assert!(
                    stood > Duration::from_millis(500),
                    "{error} after {stood:?}"
                );
                (stream, rounds, ended) = (scene.open().await, 0, ended + 1);
            }
        }
        moved = Instant::now();
    }
    assert_eq!(scene.db.stats().old, ended);
    let end = within(stream.read(&mut [0; 1])).await;
    assert!(end.is_err(), "{end:?}");
    logged("inbound", "db-e", "max-age").await;
    assert_eq!(scene.db.stats().old, ended + 1);
    assert_eq!(ask(door(&scene.web), b"again").await.unwrap(), b"again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_that_is_never_quiet_ends_after_the_grace() {
    let limits = Limits {
        age: Some(Duration::from_millis(200)),
        age_grace: Duration::from_millis(300),
        ..Limits::default()
    };
    let scene = Scene::new("web-f", "db-f", limits).await;
    let mut stream = scene.open().await;
    let ends = async {
        loop {
            if stream.write_all(b"z").await.is_err() || stream.read_u8().await.is_err() {
                return;
            }
        }
    };
    within(ends).await;
    logged("inbound", "db-f", "max-age").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_the_kernel_when_the_proxy_stops_is_served() {
    let limits = Limits {
        handshakes: 1,
        handshake: Duration::from_secs(20),
        ..Limits::default()
    };
    let scene = Scene::new("web-g", "db-g", limits).await;
    let port = front(&scene.db).port();
    let all = within(async {
        loop {
            // The only place is taken, so those who come now stay in the kernel's queue.
            let blocker = TcpStream::connect(front(&scene.db)).await.unwrap();
            eventually("the place is taken", async || {
                scene.db.stats().handshaking == 1
            })
            .await;
            let mut waiting = TcpStream::connect(door(&scene.web)).await.unwrap();
            waiting.write_all(b"w").await.unwrap();
            // Until it has reached the queue; or the blocker has had its second before, and it is
            // served: then again.
            let mut byte = [0];
            loop {
                if queued(port) == 1 {
                    return (blocker, waiting);
                }
                let soon = Duration::from_millis(5);
                if let Ok(served) = tokio::time::timeout(soon, waiting.peek(&mut byte)).await {
                    assert_eq!(served.unwrap(), 1);
                    break;
                }
            }
        }
    });
    let (blocker, mut waiting) = all.await;
    let db = scene.db;
    let stopping = tokio::spawn(async move {
        db.shutdown(Duration::from_secs(20)).await;
        db
    });
    assert_eq!(within(waiting.read_u8()).await.unwrap(), b'w');
    drop((waiting, blocker));
    let _ = within(stopping).await.unwrap();
}
