//! Components that misbehave: whatever they do, a question is denied and the next one is answered.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use portcullis::agent_client::{AgentClient, AgentConfig};
use portcullis::runtime::Limits;
use portcullis::runtime::mesh::{MeshPolicy, MeshSettings};
use portcullis::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis_core::chain::Usage;
use portcullis_core::intention::{Decision, Effect, Reason};
use portcullis_core::policy::{Client, Document};
use portcullis_core::time::Timestamp;
use portcullis_tests::components::{lent_http, tricks};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";
const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

fn component() -> &'static Component {
    static COMPONENT: OnceLock<Component> = OnceLock::new();
    COMPONENT.get_or_init(|| {
        Component::from_file(tricks(), &ComponentOptions::default()).expect("it compiles")
    })
}

fn options(instances: usize) -> PolicyOptions {
    let limits = Limits {
        memory: 32 << 20,
        // Long enough for a machine that is short of processors.
        decision: Duration::from_secs(2),
        load: Duration::from_secs(4),
        ..Limits::default()
    };
    PolicyOptions { instances, limits }
}

fn document(name: &str, body: Value) -> Document {
    Document {
        name: name.to_owned(),
        body: Some(body.to_string().into_bytes()),
        confirmed_at: NOW,
    }
}

fn mesh(default_policy: &str) -> Document {
    let body =
        json!({ "trust_domain": TRUST_DOMAIN, "roots": [], "default_policy": default_policy });
    document("mesh", body)
}

fn service(name: &str, action: &str) -> Document {
    let intention = json!({ "SourceNS": "default", "SourceName": "web", "DestinationNS": "default",
        "DestinationName": name, "SourceType": "consul", "Action": action, "Precedence": 9 });
    document(
        &format!("service/default/default/{name}"),
        json!({ "intentions": [intention] }),
    )
}

/// A policy under which web may reach `good` and every trick, and not `bad`.
fn policy(instances: usize) -> Policy {
    let policy = Policy::new(component(), options(instances)).expect("an instance");
    let report = policy
        .load(vec![
            mesh("deny"),
            service("good", "allow"),
            service("bad", "deny"),
        ])
        .expect("it loads");
    assert!(report.refused.is_empty(), "{report:?}");
    policy
}

fn web() -> Client {
    Client::from_uri(format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/web"))
}

fn ask(policy: &Policy, target: &str) -> Decision {
    policy.authorize(target, &web(), None, NOW)
}

#[test]
fn every_failure_is_a_denial_and_the_next_question_is_answered() {
    let policy = policy(1);
    let generation = policy.generation();
    for trick in [
        "panic",
        "recurse",
        "allocate",
        "exit",
        "environment",
        "clock",
        "file",
        "socket",
        "huge",
        "other-generation",
        "loop",
    ] {
        let denied = ask(&policy, trick);
        assert_eq!(
            (denied.effect, denied.code),
            (Effect::Deny, Reason::PolicyFailed),
            "{trick}"
        );
        assert_eq!(denied.generation, generation, "{trick}");
        // A rebuild now and then is not held back.
        std::thread::sleep(Duration::from_millis(100));
        assert!(ask(&policy, "good").is_allowed(), "after {trick}");
        assert_eq!(ask(&policy, "bad").code, Reason::Intention, "after {trick}");
    }
}

#[test]
fn the_other_functions_fail_closed_too() {
    let policy = policy(1);
    assert!(policy.explain("panic", &web(), None, NOW).is_err());
    let needs = policy.needed_headers("panic");
    assert_eq!(needs, portcullis_core::policy::HeaderNeeds::All);
    let denied = ask(&policy, "bad");
    assert!(
        policy.describe("panic", &denied).contains("deny"),
        "a description in our own words"
    );
    let long = policy.describe("long", &denied);
    assert!(long.len() < 5_000, "{} bytes", long.len());
}

#[test]
fn impossible_peers_are_not_taken() {
    let policy = policy(1);
    let web = format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/web");
    let claim = |uri: &str, expected: Option<&str>| {
        policy.verify_peer(&[format!("claim {uri}")], Usage::Server, expected, NOW)
    };
    for (uri, expected) in [
        ("no uri at all", None),
        ("spiffe://A/b", None),
        ("", None),
        (web.as_str(), Some("spiffe://x/ns/default/dc/dc1/svc/web")),
    ] {
        let error = claim(uri, expected).expect_err("it is refused");
        assert_eq!(error.code(), "policy-failed", "{uri}");
    }
    let peer = claim(&web, Some(&web)).expect("what can be checked here fits");
    assert!(peer.serial.len() < 5_000);
}

#[test]
fn a_storm_of_failures_is_not_a_storm_of_rebuilds() {
    let policy = policy(1);
    let began = Instant::now();
    let rebuilt = (0..3_000)
        .filter(|_| {
            assert_eq!(ask(&policy, "panic").code, Reason::PolicyFailed);
            // Only an instance that was rebuilt since can say this.
            ask(&policy, "good").is_allowed()
        })
        .count();
    // Eight at once, and ten a second: however slow the machine is.
    let most = 8 + began.elapsed().as_millis() / 100 + 1;
    assert!(
        rebuilt >= 1 && u128::try_from(rebuilt).is_ok_and(|rebuilt| rebuilt <= most),
        "{rebuilt} of at most {most}"
    );
    std::thread::sleep(Duration::from_millis(300));
    assert!(ask(&policy, "good").is_allowed());
}

#[test]
fn documents_that_trap_lead_back_to_the_last_good_ones() {
    let policy = policy(2);
    let before = (policy.generation(), policy.digest());
    for trick in ["load-panic", "load-recurse", "load-loop"] {
        let error = policy
            .load(vec![service("bad", "allow"), service(trick, "allow")])
            .expect_err("it traps")
            .to_string();
        assert!(
            error.contains(trick) && error.contains("the last good policy stays in force"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!((policy.generation(), policy.digest()), before, "{trick}");
        assert_eq!(ask(&policy, "bad").effect, Effect::Deny, "{trick}");
        assert!(ask(&policy, "good").is_allowed(), "{trick}");
    }
    let report = policy
        .load(vec![service("bad", "allow")])
        .expect("a good load goes through");
    assert!(report.refused.is_empty());
    assert!(policy.generation() > before.0);
    assert!(ask(&policy, "bad").is_allowed());
}

#[test]
fn a_touch_that_traps_harms_nobody() {
    let policy = policy(2);
    policy.touch(&["panic"], NOW);
    assert!(ask(&policy, "good").is_allowed());
}

#[test]
fn two_services_with_opposite_policies_never_mix_however_instances_fail() {
    let policy = policy(2);
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            let policy = policy.clone();
            std::thread::spawn(move || {
                let mut random = seed * 2 + 1;
                for _ in 0..5_000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let (target, allowed) = match random >> 33 {
                        n if n % 200 == 0 => ("panic", false),
                        n if n % 2 == 0 => ("good", true),
                        _ => ("bad", false),
                    };
                    let decision = ask(&policy, target);
                    if decision.code == Reason::PolicyFailed {
                        assert_eq!(decision.effect, Effect::Deny);
                    } else {
                        assert_eq!(decision.is_allowed(), allowed, "{target}");
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no wrong answer");
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(ask(&policy, "good").is_allowed());
    assert_eq!(ask(&policy, "bad").code, Reason::Intention);
}

/// A server that answers everything with its own request, and counts connections.
struct Mirror {
    address: std::net::SocketAddr,
    connections: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Mirror {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    let request = String::from_utf8_lossy(&buffer[..read]).into_owned();
                    let (status, extra) = if request.contains("redirect") {
                        (
                            "307 Temporary Redirect",
                            "Location: /v1/agent/connect/ca/leaf/web\r\n",
                        )
                    } else {
                        (
                            "200 OK",
                            "X-Consul-Index: 7\r\nX-Consul-Token: secret\r\nSet-Cookie: a=b\r\n",
                        )
                    };
                    let reply = format!(
                        "HTTP/1.1 {status}\r\n{extra}Content-Type: text/plain\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{request}",
                        request.len()
                    );
                    let _ = stream.write_all(reply.as_bytes()).await;
                });
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::SeqCst)
    }
}

async fn attacker(mirror: &Mirror) -> (MeshPolicy, tempfile::NamedTempFile) {
    let mut config = AgentConfig::at(&mirror.address.to_string()).expect("an address");
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "the-canary-token").expect("a token");
    config.token = portcullis::agent_client::TokenSource::File(token.path().to_owned());
    config.datacenter = Some("dc1".to_owned());
    let client = AgentClient::new(config).expect("a client");
    let settings = MeshSettings::new(&client);
    let policy =
        MeshPolicy::from_file(lent_http(), &ComponentOptions::default(), client, settings).await;
    (policy.expect("it starts"), token)
}

async fn send(policy: &MeshPolicy, what: &str, headers: &[&str]) -> String {
    let client = Client {
        uris: headers.iter().map(|&header| header.to_owned()).collect(),
        via_gateway: None,
    };
    policy
        .explain(what, &client, None, NOW)
        .await
        .expect("an answer")
        .text
}

#[tokio::test]
async fn lent_http_reaches_three_endpoints_and_nothing_else() {
    let mirror = Mirror::start().await;
    let (policy, _token) = attacker(&mirror).await;
    let base = format!("http://{}", mirror.address);
    let port = mirror.address.port();
    for what in [
        format!("GET {base}/v1/agent/connect/ca/leaf/web"),
        format!("GET {base}/v1/agent/connect/ca/roots/../leaf/web"),
        format!("GET {base}/v1/agent/connect/ca/roots/%2e%2e/leaf/web"),
        format!("GET {base}//v1/agent/connect/ca/roots"),
        format!(
            "GET {base}/http://{}/v1/agent/connect/ca/leaf/web",
            mirror.address
        ),
        format!("GET http://localhost:{port}/v1/agent/connect/ca/roots"),
        format!("GET http://user@127.0.0.1:{port}/v1/agent/connect/ca/roots"),
        "GET http://127.0.0.1:1/v1/agent/connect/ca/roots".to_owned(),
        format!("GET https://127.0.0.1:{port}/v1/agent/connect/ca/roots"),
        format!("GET {base}/v1/agent/connect/ca/roots?token=x"),
        format!("GET {base}/v1/agent/connect/ca/roots?dc=dc2"),
        format!("GET {base}/v1/agent/connect/ca/roots?dc=dc1&dc=dc2"),
        format!("PUT {base}/v1/agent/connect/ca/roots"),
        format!("POST {base}/v1/agent/connect/ca/roots"),
        format!("GET {base}/v1/connect/intentions"),
        format!("GET {base}/v1/acl/tokens"),
    ] {
        let answer = send(&policy, &what, &[]).await;
        assert!(
            answer.contains("HttpRequestDenied") || answer == "authority" || answer == "path",
            "{what}: {answer}"
        );
    }
    for header in [
        "X-Consul-Token: mine",
        "Authorization: Bearer mine",
        "Host: evil.example",
        "Cookie: a=b",
    ] {
        let answer = send(
            &policy,
            &format!("GET {base}/v1/agent/connect/ca/roots"),
            &[header],
        )
        .await;
        assert!(
            answer.contains("Forbidden") || answer.contains("HttpRequestDenied"),
            "{header}: {answer}"
        );
    }
    assert_eq!(mirror.connections(), 0, "something was sent");

    let answer = send(
        &policy,
        &format!("GET {base}/v1/agent/connect/ca/roots?index=1&wait=1s"),
        &["X-Evil: 1"],
    )
    .await;
    assert!(answer.starts_with("status 200"), "{answer}");
    let (told, sent) = answer.split_once("\n\n").expect("headers and body");
    assert!(
        told.contains("x-consul-index: 7") && !told.contains("secret") && !told.contains("cookie"),
        "{told}"
    );
    // The server saw the token; the component sees it here only because this server tells it.
    assert!(
        sent.contains("the-canary-token") && !sent.to_lowercase().contains("x-evil"),
        "{sent}"
    );
    assert!(
        sent.to_lowercase()
            .contains(&format!("host: {}", mirror.address)),
        "{sent}"
    );
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let mirror = Mirror::start().await;
    let (policy, _token) = attacker(&mirror).await;
    let what = format!(
        "GET http://{}/v1/connect/intentions/match?by=destination&name=redirect",
        mirror.address
    );
    let answer = send(&policy, &what, &[]).await;
    assert!(answer.contains("HttpProtocolError"), "{answer}");
    assert_eq!(mirror.connections(), 1);
}

#[tokio::test]
async fn errors_tell_the_component_nothing_about_the_host() {
    let mirror = Mirror::start().await;
    let (policy, _token) = attacker(&mirror).await;
    assert_eq!(
        send(&policy, "stream error", &[]).await,
        "the stream failed"
    );
}

#[tokio::test]
async fn a_mesh_policy_that_loops_is_ended_and_replaced() {
    let mirror = Mirror::start().await;
    let client =
        AgentClient::new(AgentConfig::at(&mirror.address.to_string()).expect("an address"))
            .expect("a client");
    let settings = MeshSettings {
        fetch_timeout: Duration::from_millis(10),
        margin: Duration::from_secs(2),
        ..MeshSettings::new(&client)
    };
    let policy = MeshPolicy::from_file(lent_http(), &ComponentOptions::default(), client, settings)
        .await
        .expect("it starts");
    let denied = policy.authorize("loop", &web(), None, NOW).await;
    assert_eq!(
        (denied.effect, denied.code),
        (Effect::Deny, Reason::PolicyFailed)
    );
    assert_eq!(
        policy.authorize("db", &web(), None, NOW).await.code,
        Reason::NotReady,
        "the next instance answers"
    );
}
