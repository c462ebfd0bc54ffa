//! What operators are told by `portcullis sds` and `portcullis ext-authz`.

use std::net::SocketAddr;
use std::process::Command;

use portcullis_dev_agent::DevAgentConfig;
use portcullis_tests::api::{Api, Reply};
use portcullis_tests::process::eventually;
use portcullis_tests::{ports, program};
use serde_json::Value;

use crate::ext_authz::{client, question};
use crate::scene::{Agent, Dev, SOON, Server};

const LISTENERS: [&str; 3] = ["-admin=0", "-metrics=0", "-health=0"];

/// Where the listeners of a server are.
struct Operators {
    admin: SocketAddr,
    metrics: SocketAddr,
    health: SocketAddr,
}

impl Operators {
    fn of(server: &Server) -> Self {
        let bound = |role| {
            eventually("a listener", SOON, || {
                server.process.operators_listener(role)
            })
        };
        Self {
            admin: bound("admin"),
            metrics: bound("metrics"),
            health: bound("health"),
        }
    }

    fn get(&self, path: &str) -> Reply {
        Api::new(self.admin, None).get(path)
    }

    fn missing(&self) -> Vec<Value> {
        let answer = Api::new(self.health, None).get("/ready");
        assert_eq!(answer.status, 503);
        let missing = &answer.json()["missing"];
        missing.as_array().expect("a list").clone()
    }

    fn metrics(&self) -> String {
        Api::new(self.metrics, None).get("/metrics").good().body
    }
}

/// An agent that is not there.
struct Absent(SocketAddr);

impl Agent for Absent {
    fn address(&self) -> SocketAddr {
        self.0
    }

    fn token(&self) -> Option<&str> {
        Some("c4n4ry-70k3n")
    }
}

#[test]
fn certificates_are_reported_without_their_keys_and_a_drain_ends_them() {
    let agent = Dev::start(DevAgentConfig::for_tests());
    let server = Server::start("sds", &agent, "db", &LISTENERS);
    let operators = Operators::of(&server);
    let asked = Command::new(program::path())
        .args(["health", "-address", &operators.health.to_string()])
        .output()
        .expect("it runs");
    assert!(asked.status.success(), "{asked:?}");
    let status = operators.get("/status").good().json();
    assert_eq!(status["service"], "db");
    assert_eq!(status["readiness"]["ready"], true);
    assert_eq!(
        status["sds"],
        serde_json::json!({ "streams": 0, "sent": 0, "accepted": 0, "refused": 0 })
    );
    let config = operators.get("/config").good().json();
    let socket = format!("unix:{}", server.socket().display());
    assert_eq!(config["listening"], socket.as_str());
    let metrics = operators.metrics();
    for wanted in [
        "portcullis_ready 1",
        "portcullis_sds_streams 0",
        "portcullis_sds_secrets_sent_total 0",
        "portcullis_leaf_expiry_timestamp_seconds ",
    ] {
        assert!(metrics.contains(wanted), "no {wanted}\n{metrics}");
    }
    let certificates = operators.get("/certs").good();
    let identity = &certificates.json()["leaf"]["identity"];
    assert_eq!(identity, agent.id("db").as_str());
    for page in [certificates.body, config.to_string(), status.to_string()] {
        assert!(!page.contains("PRIVATE KEY"), "{page}");
    }
    let drained = Api::new(operators.admin, None).post("/drain", &Value::Null);
    assert_eq!(drained.status, 202);
    server.ends();
}

#[test]
fn without_an_agent_they_are_alive_and_say_what_is_missing() {
    let agent = Absent(ports::closed());
    for (command, wanted) in [
        ("sds", &["leaf", "roots"][..]),
        (
            "ext-authz",
            &["default-policy", "intentions", "leaf", "roots"],
        ),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = Server::start_in(folder, command, &agent, "db", &LISTENERS);
        let operators = Operators::of(&server);
        let missing = || {
            let mut parts: Vec<String> = operators
                .missing()
                .into_iter()
                .filter_map(|lack| Some(lack["part"].as_str()?.to_owned()))
                .collect();
            parts.sort();
            parts
        };
        eventually("the missing parts are named", SOON, || {
            (missing() == wanted).then_some(())
        });
        assert_eq!(Api::new(operators.health, None).get("/live").status, 200);
        let config = operators.get("/config").good().body;
        assert!(!config.contains("c4n4ry"), "{config}");
        drop(server.stop());
    }
}

#[test]
fn decisions_are_counted_by_reason() {
    let agent = Dev::start(DevAgentConfig::for_tests());
    agent.agent.allow("web", "db").expect("an intention");
    let server = Server::start("ext-authz", &agent, "db", &LISTENERS);
    let operators = Operators::of(&server);
    let issue = |name| agent.agent.issue(name).expect("a certificate").chain_pem;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut client = client(&server).await;
        for certificate in [issue("web"), issue("other"), String::new()] {
            let answer = client.check(question(&certificate, None)).await;
            answer.expect("an answer");
        }
    });
    let metrics = operators.metrics();
    for wanted in [
        "portcullis_ext_authz_allow_total{layer=\"connection\"} 1",
        "portcullis_ext_authz_deny_total{layer=\"connection\",reason=\"default-policy\"} 1",
        "portcullis_ext_authz_deny_total{layer=\"connection\",reason=\"certificate-unreadable\"} 1",
        "portcullis_policy_generation ",
    ] {
        assert!(metrics.contains(wanted), "no {wanted}\n{metrics}");
    }
    let status = operators.get("/status").good().json();
    assert_eq!(
        status["ext_authz"],
        serde_json::json!({ "allowed": 1, "refused": 2 })
    );
    drop(server.stop());
}
