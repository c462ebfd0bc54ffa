//! Listeners of a running proxy are added, changed and taken away; connections stay.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis::connector::Upstream;
use portcullis::proxy::{InboundConfig, Limits, ListenAddress, Listening, Proxy, UpstreamConfig};
use portcullis_tests::stage::{ANY, Echo, Stage, ask, eventually, logged, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

fn local(service: &str, listen: SocketAddr) -> UpstreamConfig {
    UpstreamConfig::new(Upstream::service(service), ListenAddress::Tcp(listen))
}

fn out(upstreams: Vec<UpstreamConfig>) -> Listening {
    Listening {
        upstreams,
        ..Listening::default()
    }
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    let [port] = portcullis_tests::ports::free::<1>();
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn exchange(stream: &mut TcpStream, message: &[u8]) {
    let echoed = async {
        stream.write_all(message).await.unwrap();
        let mut answer = vec![0; message.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, message);
    };
    within(echoed).await;
}

/// Two services, each behind its proxy, and an idle proxy of `web`.
struct Scene {
    stage: Stage,
    web: Proxy,
    first: Echo,
    second: Echo,
    _behind: [Proxy; 2],
}

impl Scene {
    async fn new(first: &str, second: &str, web: &str) -> Self {
        let stage = Stage::new().await;
        for service in [first, second] {
            stage.agent.allow(web, service).unwrap();
        }
        let (one, two) = (Echo::start().await, Echo::start().await);
        let behind = [
            stage.inbound(first, one.application()).await,
            stage.inbound(second, two.application()).await,
        ];
        stage.listed(first, 1).await;
        stage.listed(second, 1).await;
        let web = Proxy::idle(stage.member(web).await);
        Self {
            stage,
            web,
            first: one,
            second: two,
            _behind: behind,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_come_and_go_beside_a_connection_that_stays() {
    let scene = Scene::new("db-a", "cache-a", "web-a").await;
    let (db, cache) = (free(), free());
    let web = &scene.web;
    assert!(
        web.change(out(vec![local("db-a", db)]), LONG)
            .await
            .is_empty()
    );
    let mut live = TcpStream::connect(db).await.unwrap();
    exchange(&mut live, b"one").await;

    let both = vec![local("cache-a", cache), local("db-a", db)];
    assert!(web.change(out(both), LONG).await.is_empty());
    assert_eq!(ask(cache, b"new").await.unwrap(), b"new");
    exchange(&mut live, b"two").await;

    let mut drained = TcpStream::connect(cache).await.unwrap();
    exchange(&mut drained, b"stays").await;
    assert!(
        web.change(out(vec![local("db-a", db)]), LONG)
            .await
            .is_empty()
    );
    assert_eq!(
        TcpStream::connect(cache).await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused,
        "the socket is closed when the change is done"
    );
    exchange(&mut drained, b"until it ends").await;
    exchange(&mut live, b"three").await;
    assert_eq!(scene.first.seen(), 1, "never dialled again");
    assert_eq!(web.addresses().upstreams, [ListenAddress::Tcp(db)]);
    within(web.shutdown(Duration::ZERO)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_removed_listener_is_cut_after_its_patience() {
    let scene = Scene::new("db-b", "cache-b", "web-b").await;
    let (db, cache) = (free(), free());
    let both = vec![local("cache-b", cache), local("db-b", db)];
    assert!(scene.web.change(out(both), LONG).await.is_empty());
    let mut stays = TcpStream::connect(db).await.unwrap();
    let mut goes = TcpStream::connect(cache).await.unwrap();
    exchange(&mut stays, b"a").await;
    exchange(&mut goes, b"b").await;
    let rest = out(vec![local("db-b", db)]);
    assert!(scene.web.change(rest, Duration::ZERO).await.is_empty());
    let ended = within(goes.read(&mut [0; 1])).await;
    assert_eq!(
        ended.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    let _ = logged("outbound", "cache-b", "listener-removed").await;
    exchange(&mut stays, b"c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_keeps_its_socket_when_its_service_changes() {
    let scene = Scene::new("db-c", "cache-c", "web-c").await;
    let door = free();
    assert!(
        scene
            .web
            .change(out(vec![local("db-c", door)]), LONG)
            .await
            .is_empty()
    );
    let mut live = TcpStream::connect(door).await.unwrap();
    exchange(&mut live, b"one").await;
    assert!(
        scene
            .web
            .change(out(vec![local("cache-c", door)]), LONG)
            .await
            .is_empty()
    );
    assert_eq!(ask(door, b"elsewhere").await.unwrap(), b"elsewhere");
    assert_eq!((scene.first.seen(), scene.second.seen()), (1, 1));
    exchange(&mut live, b"two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_bound_harms_no_other() {
    let scene = Scene::new("db-d", "cache-d", "web-d").await;
    // No port for outgoing connections: it must be free again afterwards.
    let (door, blocked) = (free(), free());
    let taken = TcpListener::bind(blocked).await.unwrap();
    let wanted = out(vec![local("cache-d", blocked), local("db-d", door)]);
    let failed = scene.web.change(wanted.clone(), LONG).await;
    let [error] = failed.as_slice() else {
        panic!("{failed:?}")
    };
    assert!(error.to_string().contains(&blocked.to_string()), "{error}");
    assert!(error.to_string().contains("cache-d"), "{error}");
    assert_eq!(ask(door, b"goes on").await.unwrap(), b"goes on");
    drop(taken);
    assert!(scene.web.change(wanted, LONG).await.is_empty());
    assert_eq!(ask(blocked, b"free again").await.unwrap(), b"free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbound_listener_moves_and_its_application_changes() {
    let scene = Scene::new("db-e", "cache-e", "web-e").await;
    let stage = &scene.stage;
    stage.agent.allow("web-e", "api-e").unwrap();
    let (old, new) = (Echo::start().await, Echo::start().await);
    let api = Proxy::idle(stage.member("api-e").await);
    let inbound = |listen, echo: &Echo, limits| Listening {
        inbound: Some(InboundConfig::new(listen, echo.application())),
        limits,
        ..Listening::default()
    };
    let place = free();
    let limits = Limits::default();
    assert!(
        api.change(inbound(place, &old, limits.clone()), LONG)
            .await
            .is_empty()
    );
    within(api.ready()).await;
    let id = api.member().sibling("api-e").unwrap();
    let reach = |address: SocketAddr| {
        let fixed = Upstream::Static {
            address: address.to_string(),
            id: id.clone(),
        };
        out(vec![UpstreamConfig::new(fixed, ListenAddress::Tcp(ANY))])
    };
    let door = || match &scene.web.addresses().upstreams[0] {
        ListenAddress::Tcp(address) => *address,
        other => panic!("{other}"),
    };
    assert!(scene.web.change(reach(place), LONG).await.is_empty());
    let mut live = TcpStream::connect(door()).await.unwrap();
    exchange(&mut live, b"old").await;

    assert!(
        api.change(inbound(place, &new, limits.clone()), LONG)
            .await
            .is_empty()
    );
    assert_eq!(ask(door(), b"new").await.unwrap(), b"new");
    assert_eq!((old.seen(), new.seen()), (1, 1));

    // From one address to all of them on the same port: the old socket is in the way.
    let everywhere = SocketAddr::from(([0, 0, 0, 0], place.port()));
    assert!(
        api.change(inbound(everywhere, &new, limits.clone()), LONG)
            .await
            .is_empty()
    );
    assert_eq!(ask(door(), b"everywhere").await.unwrap(), b"everywhere");

    // To where it cannot be bound: it stays.
    let taken = TcpListener::bind(ANY).await.unwrap();
    let wanted = inbound(taken.local_addr().unwrap(), &new, limits.clone());
    assert_eq!(api.change(wanted, LONG).await.len(), 1);
    assert_eq!(ask(door(), b"stays").await.unwrap(), b"stays");

    let moved = free();
    assert!(
        api.change(inbound(moved, &new, limits), LONG)
            .await
            .is_empty()
    );
    assert!(scene.web.change(reach(moved), LONG).await.is_empty());
    assert_eq!(ask(door(), b"moved").await.unwrap(), b"moved");
    exchange(&mut live, b"still old").await;
    eventually("the old place is closed", async || {
        TcpStream::connect(place).await.is_err()
    })
    .await;
}
