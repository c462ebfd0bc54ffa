//! Readiness through the life of a proxy, and the command that asks for it.

use std::net::SocketAddr;

use portcullis_tests::process::eventually;
use portcullis_tests::program::{Said, portcullis, run};
use portcullis_tests::{ports, proxy::Proxy};
use serde_json::Value;

use crate::operated::{HUNG, Operated, agent, get};

fn ask(health: SocketAddr, flags: &[&str]) -> Said {
    let address = health.to_string();
    run(portcullis(["health", "-address", &address]).args(flags))
}

/// State of what is missing, by part.
fn missing(health: SocketAddr) -> Vec<(String, String)> {
    let answer = get(health, "/ready");
    let document = answer.json();
    let missing = document["missing"].as_array().expect("a list").clone();
    assert_eq!(answer.status, if missing.is_empty() { 200 } else { 503 });
    assert_eq!(document["ready"], missing.is_empty());
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    missing
        .iter()
        .map(|lack| (text(&lack["part"]), text(&lack["state"])))
        .collect()
}

fn parts(health: SocketAddr, state: &str) -> Vec<String> {
    let missing = missing(health).into_iter();
    missing
        .filter(|(_, is)| is == state)
        .map(|(part, _)| part)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readiness_through_the_life() {
    let [port] = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Dead at the start.
    let flags = [
        "-service",
        "db",
        "-service-addr",
        "127.0.0.1:1",
        "-listen",
        "127.0.0.1:0",
        "-max-stale",
        "2s",
    ];
    let mut operated = Operated::start(address, &flags);
    let health = operated.health;
    eventually("the watchers have begun", HUNG, || {
        (parts(health, "absent").len() == 4).then_some(())
    });
    assert_eq!(
        parts(health, "absent"),
        ["leaf", "roots", "intentions", "default-policy"]
    );
    assert_eq!(get(health, "/live").status, 200);
    let said = ask(health, &[]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    for word in [
        "not ready",
        "leaf certificate",
        "roots",
        "intentions",
        "no agent at",
    ] {
        assert!(said.err.contains(word), "{}", said.err);
    }
    assert_eq!(ask(health, &["-live"]).code, Some(0));

    // Roots are there, and a leaf is refused.
    let mean = crate::operated::agent_for(port, r#"service "db" { policy = "read" }"#).await;
    eventually("only the leaf is missing", HUNG, || {
        (missing(health) == [("leaf".to_owned(), "absent".to_owned())]).then_some(())
    });
    let said = ask(health, &[]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("Permission denied"), "{}", said.err);
    mean.shutdown().await;
    let alive = agent(port).await;
    // Between two questions it may be too old again: the budget is short.
    eventually("the command says ready", HUNG, || {
        let said = ask(health, &[]);
        (said.code == Some(0) && said.out.trim() == "ready").then_some(())
    });
    eventually("the other path", HUNG, || {
        (get(health, "/healthz/ready").status == 200).then_some(())
    });

    // Dead, and what it said has become too old.
    alive.shutdown().await;
    eventually("stale", HUNG, || {
        let stale = parts(health, "stale");
        (stale.contains(&"roots".to_owned()) && stale.contains(&"intentions".to_owned()))
            .then_some(())
    });
    assert_eq!(get(health, "/live").status, 200);
    assert_eq!(ask(health, &[]).code, Some(1));
    assert_eq!(operated.proxy.stop(), Some(0));
    let said = ask(health, &["-live"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("is the proxy running"), "{}", said.err);
}

#[test]
fn it_answers_before_there_is_an_agent() {
    let [port] = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut operated = Operated::start(address, &["-sidecar-for", "web"]);
    let health = operated.health;
    eventually("the agent is waited for", HUNG, || {
        get(health, "/ready")
            .body
            .contains("the agent has not answered yet")
            .then_some(())
    });
    assert_eq!(missing(health), [("proxy".to_owned(), "absent".to_owned())]);
    assert_eq!(get(health, "/live").status, 200);
    assert!(
        get(operated.metrics, "/metrics")
            .body
            .contains("\nportcullis_ready 0\n")
    );
    for path in ["/status", "/config", "/certs"] {
        assert_eq!(operated.get(path).status, 200, "{path}");
    }
    assert_eq!(operated.post("/drain", "").status, 202);
    let process = operated.proxy.process();
    let ended = eventually("it ends", HUNG, || process.wait(std::time::Duration::ZERO));
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn unix_sockets_serve_as_well() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let alive = agent(0).await;
    let (admin, health) = (path("admin.sock"), path("health.sock"));
    let (admin_flag, health_flag) = (format!("unix:{admin}"), format!("unix:{health}"));
    let mut command = portcullis(["proxy", "-service", "web", "-upstream", "db:0"]);
    command
        .args(["-admin", &admin_flag, "-health", &health_flag])
        .env("CONSUL_HTTP_ADDR", alive.address().to_string())
        .env("CONSUL_HTTP_TOKEN", crate::operated::CANARY);
    let _proxy = Proxy::spawn(command);
    eventually("ready", HUNG, || {
        (run(&mut portcullis(["health", "-address", &health_flag])).code == Some(0)).then_some(())
    });
    // Only our user may operate it.
    let mode = std::fs::metadata(&admin)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let stream = std::os::unix::net::UnixStream::connect(&admin).expect("a connection");
    let answer = crate::operated::send(stream, "GET", "/status", &["Host: x".to_owned()], "");
    assert_eq!(answer.expect("an answer").json()["service"], "web");
}
