//! Metrics of real connections.

use std::net::SocketAddr;

use portcullis_dev_agent::DevAgent;
use portcullis_tests::api::Api;
use portcullis_tests::stage::{Echo, ask, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::exposition::Exposition;
use crate::operated::{CANARY, Operated, agent, get};

const IN: (&str, &str) = ("direction", "inbound");
const OUT: (&str, &str) = ("direction", "outbound");

pub(crate) fn scrape(of: &Operated) -> Exposition {
    let answer = get(of.metrics, "/metrics");
    assert_eq!(answer.status, 200);
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(kind), "{}", answer.head);
    assert!(!answer.body.contains(CANARY));
    assert!(!answer.body.contains("spiffe"), "peers are no labels");
    Exposition::read(&answer.body)
}

/// Waits until this sum is at least `least`.
async fn reaches(of: &Operated, name: &str, labels: &[(&str, &str)], least: f64) -> f64 {
    let mut last = None;
    eventually(&format!("{name}{labels:?} reaches {least}"), async || {
        last = scrape(of).sum(name, labels);
        last.is_some_and(|value| value >= least)
    })
    .await;
    last.expect("a value")
}

/// Plays everything that is counted on two proxies; answers all that they exported.
pub(crate) async fn play() -> Vec<Exposition> {
    let alive = agent(0).await;
    alive.allow("web", "db").expect("an intention");
    let echo = Echo::start().await;
    let application = echo.address.to_string();
    let flags = [
        "-service",
        "db",
        "-service-addr",
        &application,
        "-listen",
        "127.0.0.1:0",
        "-register",
    ];
    let db = Operated::start(alive.address(), &flags);
    db.ready();
    // So that the first connection finds its way, and is the only one that is counted.
    let list = Api::new(alive.address(), Some(CANARY));
    eventually("db is listed", async || {
        let found = list.get("/v1/health/connect/db?passing").good().json();
        found.as_array().is_some_and(|found| !found.is_empty())
    })
    .await;
    let [port] = portcullis_tests::ports::free();
    let web = Operated::start(
        alive.address(),
        &["-service", "web", "-upstream", &format!("db:{port}")],
    );
    web.ready();
    let door = SocketAddr::from(([127, 0, 0, 1], port));

    // Before anything has happened there are zeros where rates are wanted.
    let first = scrape(&db);
    for name in [
        "portcullis_tcp_connections_opened_total",
        "portcullis_tcp_received_bytes_total",
    ] {
        assert_eq!(first.sum(name, &[IN]), Some(0.0), "{name}");
    }
    assert_eq!(first.sum("portcullis_ready", &[]), Some(1.0));
    assert_eq!(first.sum("portcullis_roots_count", &[]), Some(1.0));
    let expiry = first
        .sum("portcullis_leaf_expiry_timestamp_seconds", &[])
        .expect("a leaf");
    let start = first
        .sum("portcullis_leaf_start_timestamp_seconds", &[])
        .expect("a leaf");
    assert!(expiry > start + 60.0, "{start} {expiry}");
    assert!(
        first
            .sum("portcullis_policy_generation", &[])
            .expect("a generation")
            >= 1.0
    );
    assert_eq!(first.sum("portcullis_policy_revision_info", &[]), Some(1.0));
    assert_eq!(
        first.sum(
            "portcullis_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))]
        ),
        Some(1.0)
    );
    for watch in ["roots", "leaf", "intentions"] {
        let index = first.sum("portcullis_watch_index", &[("watch", watch)]);
        assert!(
            index.is_some_and(|index| index >= 1.0),
            "{watch}: {index:?}"
        );
    }
    assert!(
        first
            .sum("portcullis_stale_seconds", &[("part", "roots")])
            .is_some_and(|age| age < 3600.0)
    );

    // One that is let through, and its bytes.
    eventually("the way is open", async || {
        ask(door, b"hello")
            .await
            .is_ok_and(|answer| answer == b"hello")
    })
    .await;
    for (of, way) in [(&db, IN), (&web, OUT)] {
        reaches(of, "portcullis_tcp_connections_closed_total", &[way], 1.0).await;
        eventually("none is active", async || {
            scrape(of).sum("portcullis_tcp_connections_active", &[way]) == Some(0.0)
        })
        .await;
        let after = scrape(of);
        let sum = |name: &str| after.sum(name, &[way]).expect(name);
        assert_eq!(sum("portcullis_tcp_received_bytes_total"), 5.0);
        assert_eq!(sum("portcullis_tcp_sent_bytes_total"), 5.0);
        assert_eq!(sum("portcullis_tcp_connections_opened_total"), 1.0);
    }
    let after = scrape(&db);
    assert_eq!(
        after.sum("portcullis_inbound_tcp_authz_allow_total", &[]),
        Some(1.0)
    );
    assert_eq!(
        after.sum("portcullis_decision_duration_seconds_count", &[]),
        Some(1.0)
    );
    assert_eq!(
        after.sum(
            "portcullis_tcp_connections_closed_total",
            &[IN, ("reason", "intention")]
        ),
        Some(1.0)
    );

    // One that stays: seen while it is there, cut when the intention changes.
    let mut open = TcpStream::connect(door).await.expect("a connection");
    open.write_all(b"stay").await.expect("sent");
    open.read_exact(&mut [0; 4]).await.expect("back");
    assert_eq!(
        reaches(&db, "portcullis_tcp_connections_active", &[IN], 1.0).await,
        1.0
    );
    assert_eq!(
        reaches(&db, "portcullis_tcp_received_bytes_total", &[IN], 9.0).await,
        9.0
    );
    alive.deny("web", "db").expect("an intention");
    let cut = open.read(&mut [0; 1]).await;
    assert!(!matches!(cut, Ok(1..)), "{cut:?}");
    let why = ("reason", "intention");
    assert_eq!(
        reaches(
            &db,
            "portcullis_connections_terminated_total",
            &[IN, why],
            1.0
        )
        .await,
        1.0
    );
    assert_eq!(
        reaches(
            &db,
            "portcullis_inbound_tcp_authz_terminate_total",
            &[why],
            1.0
        )
        .await,
        1.0
    );

    // One that is refused, and one that is no TLS.
    let _ = ask(door, b"hello").await;
    reaches(&db, "portcullis_inbound_tcp_authz_deny_total", &[why], 1.0).await;
    reaches(
        &db,
        "portcullis_tcp_connections_failed_total",
        &[IN, why],
        1.0,
    )
    .await;
    reaches(
        &web,
        "portcullis_tcp_connections_closed_total",
        &[OUT, ("reason", "refused-by-peer")],
        1.0,
    )
    .await;
    let mut stranger = TcpStream::connect(db.inbound())
        .await
        .expect("a connection");
    let _ = stranger
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let _ = stranger.read(&mut [0; 64]).await;
    reaches(
        &db,
        "portcullis_handshake_failures_total",
        &[IN, ("reason", "handshake-failed")],
        1.0,
    )
    .await;
    let denied = scrape(&db).sum("portcullis_inbound_tcp_authz_deny_total", &[]);

    let all = everything_else(&alive, &application).await;

    // The agent goes.
    alive.shutdown().await;
    reaches(
        &db,
        "portcullis_watch_errors_total",
        &[("reason", "unreachable")],
        1.0,
    )
    .await;
    let last = scrape(&db);
    assert_eq!(
        last.sum("portcullis_inbound_tcp_authz_deny_total", &[]),
        denied
    );
    assert!(last.len() < 200, "{} series", last.len());
    vec![last, scrape(&web), all]
}

/// A proxy of HTTP with all that can be had: tokens, a peer, the decision log, a candidate.
async fn everything_else(alive: &DevAgent, application: &str) -> Exposition {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let key = serde_json::json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "kid": "1",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    }] });
    std::fs::write(file("keys.json"), key.to_string()).expect("a file");
    let candidate = serde_json::json!({
        "Kind": "service-intentions", "Name": "api",
        "Sources": [{ "Name": "web", "Action": "deny" }],
    });
    std::fs::write(file("candidate.json"), candidate.to_string()).expect("a file");
    let beta = portcullis_testkit::TestCa::new("beta.consul");
    alive
        .set_peering("beta", vec![beta.pem()])
        .expect("a peering");
    for entry in [
        serde_json::json!({
            "Kind": "jwt-provider", "Name": "okta", "Issuer": "okta",
            "JSONWebKeySet": { "Local": { "Filename": file("keys.json") } },
        }),
        serde_json::json!({
            "Kind": "service-intentions", "Name": "api",
            "Sources": [{ "Name": "web", "Peer": "beta", "Action": "allow" }],
        }),
    ] {
        alive.put_config_entry(&entry).expect("an entry");
    }
    let (log, shadow) = (file("decisions.ndjson"), file("candidate.json"));
    let flags = [
        "-service",
        "api",
        "-service-addr",
        application,
        "-listen",
        "127.0.0.1:0",
        "-protocol",
        "http",
        "-decision-log",
        &log,
        "-shadow-intentions",
        &shadow,
    ];
    let api = Operated::start(alive.address(), &flags);
    api.ready();
    reaches(&api, "portcullis_peer_roots", &[("peer", "beta")], 1.0).await;
    let provider = [("provider", "okta")];
    reaches(&api, "portcullis_jwks_stale_seconds", &provider, 0.0).await;
    reaches(&api, "portcullis_jwks_fetches_total", &provider, 1.0).await;
    reaches(&api, "portcullis_shadow_ready", &[], 1.0).await;
    scrape(&api)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counters_move_with_real_connections_and_the_examples_name_what_is_exported() {
    let exported = play().await;
    crate::dashboard::names_are_exported(&exported);
}
