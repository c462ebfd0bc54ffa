//! The proxy between real sockets, with the development agent and the embedded component.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::connector::Upstream;
use portcullis::member::Member;
use portcullis::proxy::{
    Application, InboundConfig, ListenAddress, Proxy, ProxyConfig, ProxyError, UpstreamConfig,
};
use portcullis::runtime::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis::watcher::WatcherConfig;
use portcullis_core::agent::{self, Query};
use portcullis_core::identity::SpiffeId;
use portcullis_dev_agent::DevAgentConfig;
use portcullis_tests::stage::{
    ANY, Echo, HUNG, Stage, access, ask, door, eventually, front, logged, within,
};
use portcullis_tests::{components, ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

const DRAIN: Duration = Duration::from_secs(10);

/// `source` may call `destination`, whose application echoes; through two proxies.
async fn pair(stage: &Stage, source: &str, destination: &str) -> (Echo, Proxy, Proxy) {
    let echo = Echo::start().await;
    let inbound = stage.inbound(destination, echo.application()).await;
    stage.listed(destination, 1).await;
    let outbound = stage.outbound(source, Upstream::service(destination)).await;
    (echo, inbound, outbound)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_call_passes_and_both_sides_say_who_it_was() {
    let stage = Stage::new().await;
    stage.agent.allow("web-a", "db-a").unwrap();
    let (echo, _inbound, outbound) = pair(&stage, "web-a", "db-a").await;
    assert_eq!(ask(door(&outbound), b"hello").await.unwrap(), b"hello");
    assert_eq!(echo.seen(), 1);

    let there = logged("inbound", "db-a", "intention").await;
    let id = |service: &str| {
        format!(
            "spiffe://{}/ns/default/dc/dc1/svc/{service}",
            stage.agent.trust_domain()
        )
    };
    assert_eq!(there["src.identity"], id("web-a"));
    assert_eq!(there["dst.identity"], id("db-a"));
    assert_eq!(there["tls.version"], "1.3");
    assert_eq!(
        (there["bytes_recv"].as_str(), there["bytes_sent"].as_str()),
        ("5", "5")
    );
    assert!(
        there.contains_key("generation") && there.contains_key("intention"),
        "{there:?}"
    );
    let here = logged("outbound", "db-a", "connected").await;
    assert_eq!(here["src.identity"], id("web-a"));
    assert_eq!(here["dst.identity"], id("db-a"));
    assert!(!here.contains_key("error"), "{here:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_never_reaches_the_application_and_both_sides_say_why() {
    let stage = Stage::new().await;
    stage.agent.deny("web-b", "db-b").unwrap();
    let (echo, _inbound, outbound) = pair(&stage, "web-b", "db-b").await;
    for _ in 0..3 {
        let answer = ask(door(&outbound), b"hello").await;
        assert!(
            !matches!(&answer, Ok(bytes) if !bytes.is_empty()),
            "{answer:?}"
        );
    }
    let there = logged("inbound", "db-b", "intention").await;
    assert!(there["src.identity"].ends_with("/svc/web-b"), "{there:?}");
    assert_eq!(there["bytes_sent"], "0");
    let here = logged("outbound", "db-b", "refused-by-peer").await;
    assert!(
        here["reason"].contains("portcullis check web-b db-b"),
        "{here:?}"
    );
    assert!(here["reason"].contains("access_denied"), "{here:?}");
    assert_eq!(echo.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_intention_the_default_decides() {
    let stage = Stage::new().await;
    let (echo, _inbound, outbound) = pair(&stage, "web-c", "db-c").await;
    let _ = ask(door(&outbound), b"hello").await;
    logged("inbound", "db-c", "default-policy").await;
    assert_eq!(echo.seen(), 0);
    // What is allowed later is allowed at once.
    stage.agent.allow("web-c", "db-c").unwrap();
    eventually("the change arrives", async || {
        ask(door(&outbound), b"hello")
            .await
            .is_ok_and(|answer| answer == b"hello")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_transfers_arrive_whole_in_both_directions() {
    const SIZE: usize = 24 * 1024 * 1024;
    let stage = Stage::new().await;
    stage.agent.allow("web-d", "db-d").unwrap();
    let (_echo, _inbound, outbound) = pair(&stage, "web-d", "db-d").await;
    let stream = TcpStream::connect(door(&outbound)).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let pattern: Vec<u8> = (0..SIZE).map(|at| (at * 31 % 251) as u8).collect();
    let sent = pattern.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::with_capacity(SIZE);
    within(read.read_to_end(&mut back)).await.unwrap();
    writing.await.unwrap();
    assert!(back == pattern, "{} of {SIZE} bytes, or others", back.len());
    let line = logged("inbound", "db-d", "intention").await;
    assert_eq!(line["bytes_recv"], SIZE.to_string());
    assert_eq!(line["bytes_sent"], SIZE.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_may_end_first() {
    let stage = Stage::new().await;
    stage.agent.allow("web-e", "db-e").unwrap();
    let listener = TcpListener::bind(ANY).await.unwrap();
    let application = Application::Tcp(listener.local_addr().unwrap().to_string());
    let _inbound = stage.inbound("db-e", application).await;
    stage.listed("db-e", 1).await;
    let outbound = stage.outbound("web-e", Upstream::service("db-e")).await;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"greeting").await.unwrap();
        stream.shutdown().await.unwrap();
        // Its own direction has ended; the other one goes on.
        let mut late = Vec::new();
        stream.read_to_end(&mut late).await.unwrap();
        late
    });
    let mut stream = TcpStream::connect(door(&outbound)).await.unwrap();
    let mut greeting = Vec::new();
    within(stream.read_to_end(&mut greeting)).await.unwrap();
    assert_eq!(greeting, b"greeting");
    stream.write_all(b"afterwards").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(within(application).await.unwrap(), b"afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_connection_is_cut_when_its_intention_changes() {
    let stage = Stage::new().await;
    stage.agent.allow("web-f", "db-f").unwrap();
    stage.agent.allow("other-f", "db-f").unwrap();
    let (_echo, inbound, outbound) = pair(&stage, "web-f", "db-f").await;
    let other = stage.outbound("other-f", Upstream::service("db-f")).await;
    let mut stream = open(door(&outbound)).await;
    let mut spared = open(door(&other)).await;

    stage.agent.deny("web-f", "db-f").unwrap();
    // The connection ends; a clean end would look like a complete answer.
    let end = within(stream.read(&mut [0; 1])).await;
    assert!(end.is_err(), "{end:?}");
    let line = logged("inbound", "db-f", "intention").await;
    assert!(line["reason"].contains("cut off"), "{line:?}");
    assert_eq!(inbound.stats().cut, 1);
    // The other one stays.
    spared.write_all(b"still").await.unwrap();
    within(spared.read_exact(&mut [0; 5])).await.unwrap();
}

/// A connection over which one byte has gone both ways.
async fn open(door: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(door).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    within(stream.read_exact(&mut [0; 1])).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agent_leaves_the_last_good_state_and_a_restart_with_it_denies() {
    let stage = Stage::new().await;
    stage.agent.allow("web-g", "db-g").unwrap();
    let (_echo, inbound, outbound) = pair(&stage, "web-g", "db-g").await;
    assert_eq!(ask(door(&outbound), b"1").await.unwrap(), b"1");
    let config = stage.config("late-g");
    stage.agent.shutdown().await;
    eventually("the loss is visible", async || {
        inbound.member().watcher().readiness().roots.error.is_some()
            && inbound
                .member()
                .watcher()
                .readiness()
                .intentions
                .error
                .is_some()
    })
    .await;
    assert_eq!(ask(door(&outbound), b"2").await.unwrap(), b"2");
    // Whoever starts now has nothing to go on.
    let late = Member::start(config);
    let missing = late.ready(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(missing.missing.len(), 4, "{missing}");
    assert!(late.connector().dial("db-g").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_staleness_budget_everything_is_denied() {
    let stage = Stage::new().await;
    stage.agent.allow("web-h", "db-h").unwrap();
    let echo = Echo::start().await;
    let config = WatcherConfig {
        max_stale: Some(Duration::from_secs(4)),
        ..stage.config("db-h")
    };
    let config = WatcherConfig {
        wait: Duration::from_millis(200),
        ..config
    };
    let member = Member::start(config);
    member.ready(HUNG).await.unwrap();
    let inbound = InboundConfig::new(ANY, echo.application());
    let inbound = Proxy::start(
        member,
        ProxyConfig {
            inbound: Some(inbound),
            ..ProxyConfig::default()
        },
    )
    .unwrap();
    let upstream = fixed(&stage, "db-h", front(&inbound));
    let outbound = stage.outbound("web-h", upstream).await;
    assert_eq!(ask(door(&outbound), b"1").await.unwrap(), b"1");
    stage.agent.shutdown().await;
    eventually("it is refused", async || {
        let answer = ask(door(&outbound), b"2").await;
        !answer.is_ok_and(|answer| answer == b"2")
    })
    .await;
    let before = echo.seen();
    let _ = ask(door(&outbound), b"3").await;
    assert_eq!(echo.seen(), before);
    let clock = Clock::system();
    let missing = inbound.member().watcher().readiness().missing(clock.now());
    assert!(
        missing.iter().any(|text| text.contains("stale")),
        "{missing:?}"
    );
}

/// `service` at a fixed address.
fn fixed(stage: &Stage, service: &str, address: SocketAddr) -> Upstream {
    let uri = format!(
        "spiffe://{}/ns/default/dc/dc1/svc/{service}",
        stage.agent.trust_domain()
    );
    Upstream::Static {
        address: address.to_string(),
        id: SpiffeId::parse(&uri).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_anew_is_followed_although_its_indexes_are_lower() {
    // Both on one port, which nobody else gets in between, nor a client of its own as its source.
    let listen = ports::closed();
    let config = || DevAgentConfig {
        listen,
        ..DevAgentConfig::for_tests()
    };
    let stage = Stage::with(config()).await;
    for _ in 0..20 {
        stage.agent.deny("web-i", "db-i").unwrap();
        stage.agent.allow("web-i", "db-i").unwrap();
    }
    let (_echo, _inbound, outbound) = pair(&stage, "web-i", "db-i").await;
    assert_eq!(ask(door(&outbound), b"1").await.unwrap(), b"1");
    stage.agent.shutdown().await;

    let stage = Stage::with(config()).await;
    stage.agent.allow("web-i", "db-i").unwrap();
    // Another CA, another trust domain, all indexes lower, the registration forgotten.
    eventually("traffic goes on", async || {
        ask(door(&outbound), b"2")
            .await
            .is_ok_and(|answer| answer == b"2")
    })
    .await;
    stage.agent.deny("web-i", "db-i").unwrap();
    eventually("a denial arrives", async || {
        !ask(door(&outbound), b"3")
            .await
            .is_ok_and(|answer| answer == b"3")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instance_is_passed_over() {
    let stage = Stage::new().await;
    stage.agent.allow("web-j", "db-j").unwrap();
    let (_echo, _inbound, outbound) = pair(&stage, "web-j", "db-j").await;
    let dead = ports::closed();
    let registration = agent::registration::Registration {
        id: "dead".to_owned(),
        name: "db-j".to_owned(),
        address: dead.ip().to_string(),
        port: dead.port(),
        tags: Vec::new(),
        meta: Vec::new(),
        role: agent::registration::Role::Native,
        check: None,
    };
    stage
        .client()
        .execute_ok(&agent::registration::register(&registration).unwrap())
        .await
        .unwrap();
    stage.listed("db-j", 2).await;
    let known = outbound.member().watcher().endpoints("db-j", None).unwrap();
    eventually("both are known", async || {
        known
            .borrow()
            .endpoints
            .as_ref()
            .is_some_and(|all| all.len() == 2)
    })
    .await;
    for _ in 0..10 {
        assert_eq!(ask(door(&outbound), b"x").await.unwrap(), b"x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_another_service_gets_not_one_byte() {
    let stage = Stage::new().await;
    stage.agent.allow("*", "*").unwrap();
    let echo = Echo::start().await;
    let inbound = stage.inbound("other-k", echo.application()).await;
    let there = front(&inbound);
    let id = |td: &str, dc: &str, service: &str| {
        let uri = format!("spiffe://{td}/ns/default/dc/{dc}/svc/{service}");
        SpiffeId::parse(&uri).unwrap()
    };
    let domain = stage.agent.trust_domain();
    let elsewhere = "11111111-2222-3333-4444-555555555555.consul";
    for (number, id) in [
        id(&domain, "dc1", "db-k"),
        id(&domain, "dc2", "other-k"),
        id(elsewhere, "dc1", "other-k"),
    ]
    .into_iter()
    .enumerate()
    {
        let upstream = Upstream::Static {
            address: there.to_string(),
            id: id.clone(),
        };
        let outbound = stage.outbound("web-k", upstream).await;
        let answer = ask(door(&outbound), b"secret").await;
        assert!(!answer.is_ok_and(|answer| !answer.is_empty()), "{id}");
        let refused = |line: &&portcullis_tests::stage::Line| {
            line["reason"].starts_with("what answers is not")
        };
        eventually("it is logged", async || {
            access("outbound", "db-k")
                .iter()
                .chain(&access("outbound", "other-k"))
                .filter(refused)
                .count()
                > number
        })
        .await;
    }
    assert_eq!(echo.seen(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_on_both_ends() {
    let stage = Stage::new().await;
    stage.agent.allow("web-l", "db-l").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (application, local) = (
        folder.path().join("application"),
        folder.path().join("local"),
    );
    let listener = UnixListener::bind(&application).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    });
    let _inbound = stage.inbound("db-l", Application::Unix(application)).await;
    stage.listed("db-l", 1).await;
    let upstreams = vec![UpstreamConfig::new(
        Upstream::service("db-l"),
        ListenAddress::Unix(local.clone()),
    )];
    let member = stage.member("web-l").await;
    let outbound = Proxy::start(
        member,
        ProxyConfig {
            upstreams,
            ..ProxyConfig::default()
        },
    )
    .unwrap();
    let mut stream = UnixStream::connect(&local).await.unwrap();
    stream.write_all(b"over files").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"over files");
    within(outbound.shutdown(DRAIN)).await;
    assert!(!local.exists(), "the socket is left over");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_drains_deregisters_and_takes_no_more() {
    let stage = Stage::new().await;
    stage.agent.allow("web-m", "db-m").unwrap();
    let (_echo, inbound, outbound) = pair(&stage, "web-m", "db-m").await;
    let mut stream = open(door(&outbound)).await;
    let address = front(&inbound);
    let ending = tokio::spawn(async move { inbound.shutdown(Duration::from_secs(50)).await });
    stage.listed("db-m", 0).await;
    eventually("no more are taken", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    assert!(!ending.is_finished());
    stream.write_all(b"last words").await.unwrap();
    within(stream.read_exact(&mut [0; 10])).await.unwrap();
    drop(stream);
    within(ending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_has_an_end_and_a_second_signal_ends_it_at_once() {
    let stage = Stage::new().await;
    stage.agent.allow("web-n", "db-n").unwrap();
    let (_echo, inbound, outbound) = pair(&stage, "web-n", "db-n").await;
    let mut first = open(door(&outbound)).await;
    let abort = outbound.abort_handle();
    let ending = tokio::spawn(async move { outbound.shutdown(Duration::from_secs(3600)).await });
    abort.now();
    within(ending).await.unwrap();
    assert!(within(first.read(&mut [0; 1])).await.is_err());

    let outbound = stage.outbound("web-n", Upstream::service("db-n")).await;
    let mut second = open(door(&outbound)).await;
    within(inbound.shutdown(Duration::from_millis(50))).await;
    assert!(within(second.read(&mut [0; 1])).await.is_err());
    logged("inbound", "db-n", "shutdown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_a_clear_error() {
    let stage = Stage::new().await;
    let taken = TcpListener::bind(ANY).await.unwrap();
    let inbound = InboundConfig::new(
        taken.local_addr().unwrap(),
        Application::Tcp("127.0.0.1:1".to_owned()),
    );
    let member = stage.member("db-o").await;
    let error = Proxy::start(
        member.clone(),
        ProxyConfig {
            inbound: Some(inbound),
            ..ProxyConfig::default()
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(error.to_string().contains("db-o"), "{error}");
    assert!(matches!(
        Proxy::start(member, ProxyConfig::default()),
        Err(ProxyError::Nothing)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_away_is_named() {
    let stage = Stage::new().await;
    stage.agent.allow("web-p", "db-p").unwrap();
    let dead = ports::closed();
    let _inbound = stage
        .inbound("db-p", Application::Tcp(dead.to_string()))
        .await;
    stage.listed("db-p", 1).await;
    let outbound = stage.outbound("web-p", Upstream::service("db-p")).await;
    assert!(
        !ask(door(&outbound), b"x")
            .await
            .is_ok_and(|answer| !answer.is_empty())
    );
    let line = logged("inbound", "db-p", "application-unreachable").await;
    assert!(line["reason"].contains(&dead.to_string()), "{line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_healthy_is_named() {
    let stage = Stage::new().await;
    let outbound = stage.outbound("web-q", Upstream::service("db-q")).await;
    assert!(
        !ask(door(&outbound), b"x")
            .await
            .is_ok_and(|answer| !answer.is_empty())
    );
    logged("outbound", "db-q", "no-instance").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_registration_is_made_again() {
    let stage = Stage::new().await;
    let echo = Echo::start().await;
    let inbound = stage.inbound("db-r", echo.application()).await;
    stage.listed("db-r", 1).await;
    let entry = agent::health::request("db-r", &Query::default()).unwrap();
    let found = stage
        .client()
        .ask(&entry, agent::health::decode)
        .await
        .unwrap();
    assert_eq!(found.all[0].id, "db-r-proxy");
    assert!(!found.all[0].native);
    stage
        .client()
        .execute_ok(&agent::registration::deregister("db-r-proxy").unwrap())
        .await
        .unwrap();
    stage.listed("db-r", 0).await;
    stage.listed("db-r", 1).await;
    within(inbound.shutdown(DRAIN)).await;
    stage.listed("db-r", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_replies_of_the_agent_disturb_nothing() {
    let stage = Stage::new().await;
    stage.agent.allow("web-s", "db-s").unwrap();
    let (_echo, inbound, outbound) = pair(&stage, "web-s", "db-s").await;
    use portcullis_dev_agent::Fault;
    for fault in [
        Fault::Garbage(b"{\"db-s\":[{\"Action\":".to_vec()),
        Fault::Garbage(b"{\"db-s\":{}}".to_vec()),
        Fault::Garbage(b"{}".to_vec()),
        Fault::Garbage(b"<html>".to_vec()),
        Fault::Status(500, "no leader".to_owned()),
        Fault::Status(403, "Permission denied".to_owned()),
        Fault::Status(307, "elsewhere".to_owned()),
        Fault::Truncated,
        Fault::Hangup,
    ] {
        stage.agent.inject("/v1/connect/intentions/match", fault);
    }
    // Writes wake the question that is under way, so that the next ones meet the faults.
    stage.agent.allow("unrelated", "db-s").unwrap();
    for _ in 0..5 {
        assert_eq!(ask(door(&outbound), b"x").await.unwrap(), b"x");
    }
    stage.agent.deny("web-s", "db-s").unwrap();
    eventually("the denial arrives behind the faults", async || {
        !ask(door(&outbound), b"x")
            .await
            .is_ok_and(|answer| answer == b"x")
    })
    .await;
    assert!(
        inbound
            .member()
            .watcher()
            .readiness()
            .intentions
            .confirmed_at
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_connection_ends_with_the_certificate_of_its_client() {
    let stage = Stage::new().await;
    stage.agent.allow("web-t", "db-t").unwrap();
    let echo = Echo::start().await;
    let clock = Clock::manual(Clock::system().now());
    let config = WatcherConfig {
        clock: clock.clone(),
        max_stale: None,
        ..stage.config("db-t")
    };
    let member = Member::start(config);
    member.ready(HUNG).await.unwrap();
    let inbound = InboundConfig::new(ANY, echo.application());
    let config = ProxyConfig {
        inbound: Some(inbound),
        ..ProxyConfig::default()
    };
    let inbound = Proxy::start(member, config).unwrap();
    let upstream = fixed(&stage, "db-t", front(&inbound));
    let outbound = stage.outbound("web-t", upstream).await;
    let mut stream = open(door(&outbound)).await;
    let hours = |hours: u64| clock.now().saturating_add_millis(hours * 3_600_000);
    clock.set(hours(71));
    stream.write_all(b"x").await.unwrap();
    within(stream.read_exact(&mut [0; 1])).await.unwrap();
    clock.set(hours(2));
    assert!(within(stream.read(&mut [0; 1])).await.is_err());
    logged("inbound", "db-t", "certificate-expired").await;
}

/// A proxy for `service` that is decided by another component.
async fn decided_by(stage: &Stage, component: &std::path::Path, service: &str) -> (Echo, Proxy) {
    let component = Component::from_file(component, &ComponentOptions::default()).unwrap();
    let policy = Policy::new(&component, PolicyOptions::default()).unwrap();
    let member = Member::start(WatcherConfig {
        policy,
        ..stage.config(service)
    });
    member.ready(HUNG).await.unwrap();
    let echo = Echo::start().await;
    let inbound = InboundConfig::new(ANY, echo.application());
    let config = ProxyConfig {
        inbound: Some(inbound),
        ..ProxyConfig::default()
    };
    (echo, Proxy::start(member, config).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_denies() {
    let stage = Stage::new().await;
    stage.agent.allow("*", "*").unwrap();
    for service in ["panic", "loop", "exit", "other-generation"] {
        let (echo, inbound) = decided_by(&stage, &components::tricks(), service).await;
        let upstream = fixed(&stage, service, front(&inbound));
        let outbound = stage.outbound("web-u", upstream).await;
        for _ in 0..3 {
            let answer = ask(door(&outbound), b"x").await;
            assert!(!answer.is_ok_and(|answer| !answer.is_empty()), "{service}");
        }
        logged("inbound", service, "policy-failed").await;
        assert_eq!(echo.seen(), 0, "{service}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_component_that_decides() {
    let stage = Stage::new().await;
    stage.agent.deny("web-v", "db-v").unwrap();
    let (echo, inbound) = decided_by(&stage, &components::allow_everything(), "db-v").await;
    let upstream = fixed(&stage, "db-v", front(&inbound));
    let outbound = stage.outbound("web-v", upstream).await;
    assert_eq!(ask(door(&outbound), b"x").await.unwrap(), b"x");
    assert_eq!(echo.seen(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hyper_dials_services_by_name() {
    let stage = Stage::new().await;
    stage.agent.allow("web-w", "db-w").unwrap();
    let listener = TcpListener::bind(ANY).await.unwrap();
    let application = Application::Tcp(listener.local_addr().unwrap().to_string());
    let _inbound = stage.inbound("db-w", application).await;
    stage.listed("db-w", 1).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /path HTTP/1.1\r\n"));
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    let member = stage.member("web-w").await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let client: hyper_util::client::legacy::Client<_, http_body_util::Empty<bytes::Bytes>> =
        hyper_util::client::legacy::Client::builder(executor).build(member.connector().clone());
    for uri in ["http://db-w/path", "http://db-w.service.consul/path"] {
        let answer = within(client.get(uri.parse().unwrap())).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let nobody = within(client.get("http://nobody-w/path".parse().unwrap()))
        .await
        .unwrap_err();
    let mut text = String::new();
    let mut source: Option<&dyn std::error::Error> = Some(&nobody);
    while let Some(error) = source {
        text.push_str(&error.to_string());
        source = error.source();
    }
    assert!(text.contains("no healthy instance of `nobody-w`"), "{text}");
}
