//! Admin: what it tells, what it never tells, whom it refuses, what it changes.

use std::time::Duration;

use portcullis_tests::process::eventually;
use portcullis_tests::program::{portcullis, run};
use portcullis_tests::stage::{Echo, ask};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::operated::{Answer, CANARY, HUNG, Operated, agent, get, tcp};

const DB: [&str; 7] = [
    "-service",
    "db",
    "-service-addr",
    "127.0.0.1:1",
    "-listen",
    "127.0.0.1:0",
    "-register",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_tells_how_the_proxy_does_and_no_secret() {
    let alive = agent(0).await;
    alive.allow("web", "db").expect("an intention");
    let operated = Operated::start(alive.address(), &DB);
    operated.ready();
    let status = operated.get("/status").json();
    assert_eq!(status["service"], "db");
    assert_eq!(status["readiness"]["ready"], true);
    assert_eq!(status["draining"], false);
    assert_eq!(status["connections"]["active"], 0);
    assert!(status["policy"]["generation"].as_u64().expect("a number") > 0);
    for digest in [
        &status["policy"]["digest"],
        &status["policy"]["component"]["sha256"],
    ] {
        assert_eq!(digest.as_str().expect("text").len(), 64);
    }
    let config = operated.get("/config_dump").json();
    assert_eq!(config["service"], "db");
    assert_eq!(config["register"], true);
    assert!(
        config["agent"]["token"]
            .as_str()
            .expect("text")
            .contains("CONSUL_HTTP_TOKEN")
    );
    let certificates = operated.get("/certs").json();
    let id = format!("spiffe://{}/ns/default/dc/dc1/svc/db", alive.trust_domain());
    assert_eq!(certificates["leaf"]["identity"], id.as_str());
    assert_eq!(
        certificates["leaf"]["chain"][0]["identities"][0],
        id.as_str()
    );
    assert_eq!(certificates["trust_domain"], alive.trust_domain());
    let root = &certificates["roots"][0];
    for field in ["serial", "subject", "not_after", "sha256"] {
        assert!(
            !root[field].as_str().expect("text").is_empty(),
            "{field}: {root}"
        );
    }

    // Nothing that is said anywhere is the token, or a key.
    operated.post("/logging?level=trace", "");
    let paths = [
        "/",
        "/status",
        "/config",
        "/config_dump",
        "/certs",
        "/logging",
        "/ready",
        "/live",
        "/metrics",
        "/drain",
        "/nothing",
    ];
    let mut said: Vec<String> = paths.iter().map(|path| operated.get(path).body).collect();
    said.push(
        operated
            .post("/logging", CANARY.get(..3).expect("a part"))
            .body,
    );
    said.push(get(operated.metrics, "/metrics").body);
    said.push(get(operated.health, "/ready").body);
    alive.shutdown().await;
    eventually("the loss shows", HUNG, || {
        operated
            .get("/status")
            .body
            .contains("no agent at")
            .then_some(())
    });
    said.extend(paths.iter().map(|path| operated.get(path).body));
    said.push(operated.proxy.log());
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    for text in said {
        for secret in [CANARY, &CANARY[..12], &hex, "YzRuNHJ5", "PRIVATE KEY"] {
            assert!(!text.contains(secret), "`{secret}` is in: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_browser_is_refused_before_any_effect() {
    let alive = agent(0).await;
    let operated = Operated::start(alive.address(), &DB);
    operated.ready();
    let ours = format!("Host: {}", operated.admin);
    let ask = |method: &str, path: &str, headers: &[&str]| {
        let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
        tcp(operated.admin, method, path, &headers, "").expect("an answer")
    };
    let attacks: [&[&str]; 8] = [
        &["Host: evil.example"],
        &["Host: localhost.evil.example:80"],
        &[&ours, "Origin: http://evil.example"],
        &[&ours, "Origin: null"],
        &[&ours, "Sec-Fetch-Site: cross-site"],
        &[&ours, "Sec-Fetch-Site: same-site"],
        &[&ours, "Content-Type: text/plain"],
        &[
            &ours,
            "Content-Type: application/x-www-form-urlencoded",
            "User-Agent: Mozilla/5.0",
        ],
    ];
    for attack in attacks {
        for path in ["/drain", "/quitquitquit", "/logging?level=trace"] {
            assert_eq!(ask("POST", path, attack).status, 403, "{path} {attack:?}");
        }
    }
    for attack in &attacks[..6] {
        for path in ["/status", "/config", "/certs", "/metrics"] {
            let answer = ask("GET", path, attack);
            assert_eq!(answer.status, 403, "{path} {attack:?}");
            assert!(!answer.body.contains("spiffe"), "{}", answer.body);
        }
        assert_eq!(
            tcp(
                operated.metrics,
                "GET",
                "/metrics",
                &attack
                    .iter()
                    .map(|&header| header.to_owned())
                    .collect::<Vec<_>>(),
                ""
            )
            .expect("an answer")
            .status,
            403
        );
    }
    // What changes something is no GET, and no other method either.
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        assert_eq!(ask(method, "/drain", &[&ours]).status, 405, "{method}");
    }
    assert_eq!(ask("PUT", "/logging?level=trace", &[&ours]).status, 405);
    // Without a Host, or with two, nobody knows who is meant.
    assert_eq!(ask("GET", "/status", &[]).status, 400);
    assert_eq!(ask("GET", "/status", &[&ours, &ours]).status, 400);
    // The other listeners change nothing.
    for address in [operated.metrics, operated.health] {
        let host = [format!("Host: {address}")];
        let drain = tcp(address, "POST", "/drain", &host, "").expect("an answer");
        assert_eq!(drain.status, 405);
        assert_eq!(get(address, "/config").status, 404);
    }
    assert_eq!(operated.get("/logging").json()["level"], "info");
    assert_eq!(get(operated.health, "/ready").status, 200);
    let answer = operated.get("/status");
    assert!(
        !answer.head.to_lowercase().contains("access-control"),
        "{}",
        answer.head
    );
}

#[test]
fn admin_is_never_open_to_others() {
    for address in [":0", "0.0.0.0:0", "[::]:0"] {
        let said = run(
            portcullis(["proxy", "-service=web", "-upstream=db:0", "-admin", address])
                .env("CONSUL_HTTP_ADDR", "127.0.0.1:1"),
        );
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(
            said.err.contains("-admin") && said.err.contains("not loopback"),
            "{}",
            said.err
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_and_slow_requests_harm_nothing() {
    let alive = agent(0).await;
    let operated = Operated::start(alive.address(), &DB);
    operated.ready();
    let large = "x".repeat(8 * 1024);
    assert_eq!(operated.post("/logging", &large).status, 413);
    // Many that say nothing are fewer than there is room for, and hinder nobody.
    let idle: Vec<_> = (0..32)
        .map(|_| std::net::TcpStream::connect(operated.admin).expect("a connection"))
        .collect();
    assert_eq!(operated.get("/status").status, 200);
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_level_changes_while_running() {
    let alive = agent(0).await;
    let operated = Operated::start(alive.address(), &DB);
    operated.ready();
    assert_eq!(operated.get("/logging").json()["level"], "info");
    assert!(!operated.proxy.log().contains(" DEBUG "));
    let level = |answer: Answer| {
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["level"].as_str().expect("text").to_owned()
    };
    assert_eq!(level(operated.post("/logging?level=debug", "")), "debug");
    // What happens now says more.
    alive.allow("web", "db").expect("an intention");
    operated.proxy.logs("the log level has been changed");
    eventually("more is logged", HUNG, || {
        operated.get("/logging");
        alive.deny("web", "db").expect("an intention");
        alive.allow("web", "db").expect("an intention");
        let log = operated.proxy.log();
        (log.contains(" DEBUG ") || log.contains(" TRACE ")).then_some(())
    });
    operated.post("/logging", r#"{"level":"info,portcullis=trace"}"#);
    for bad in [
        "/logging?level=loud",
        "/logging?level=",
        "/logging?other=debug",
    ] {
        assert_eq!(operated.post(bad, "").status, 400, "{bad}");
    }
    assert_eq!(
        operated
            .post("/logging", r#"{"level":"info","x":1}"#)
            .status,
        400
    );
    let kept = operated.get("/logging").json();
    assert!(
        kept["level"]
            .as_str()
            .expect("text")
            .contains("portcullis=trace"),
        "{kept}"
    );
    assert_eq!(
        level(operated.post("/logging", r#"{"level":"warn"}"#)),
        "warn"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drain_lets_connections_finish_and_ends_with_zero() {
    let alive = agent(0).await;
    alive.allow("web", "db").expect("an intention");
    let echo = Echo::start().await;
    let application = echo.address.to_string();
    let mut db = Operated::start(
        alive.address(),
        &[
            "-service",
            "db",
            "-service-addr",
            &application,
            "-listen",
            "127.0.0.1:0",
            "-register",
            "-drain-timeout",
            "60s",
        ],
    );
    db.ready();
    let [port] = portcullis_tests::ports::free();
    let web = Operated::start(
        alive.address(),
        &["-service", "web", "-upstream", &format!("db:{port}")],
    );
    web.ready();
    let door = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    portcullis_tests::stage::eventually("the way is open", async || {
        ask(door, b"x").await.is_ok_and(|answer| answer == b"x")
    })
    .await;
    let mut open = tokio::net::TcpStream::connect(door)
        .await
        .expect("a connection");
    open.write_all(b"1").await.expect("sent");
    open.read_exact(&mut [0; 1]).await.expect("back");

    assert_eq!(db.post("/quitquitquit", "").status, 202);
    eventually("it is not ready", HUNG, || {
        let answer = get(db.health, "/ready");
        (answer.status == 503 && answer.body.contains("draining")).then_some(())
    });
    assert_eq!(get(db.health, "/live").status, 200);
    assert!(
        get(db.metrics, "/metrics")
            .body
            .contains("\nportcullis_draining 1\n")
    );
    // What was open goes on.
    open.write_all(b"2").await.expect("sent");
    open.read_exact(&mut [0; 1]).await.expect("back");
    assert!(db.proxy.process().wait(Duration::ZERO).is_none());
    drop(open);
    let process = db.proxy.process();
    let ended = eventually("it ends", HUNG, || process.wait(Duration::ZERO));
    assert_eq!(ended.code(), Some(0));
}
