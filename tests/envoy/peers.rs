//! Certificates that nobody should believe, resumed sessions, and shadow mode.

use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_testkit::TestCa;
use portcullis_tests::envoy::{
    Plan, Plugin, cluster, http_manager, listener, settings, tcp_proxy, tls,
};
use portcullis_tests::ports;
use portcullis_tests::replayed::{self, Said};
use portcullis_tests::stage::within;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::application::Application;
use crate::client::{Client, tls_client};
use crate::greeter::Greeter;
use crate::scene::{agent, client, get, ping, ping_becomes};

const DATA: &str = "ON_DOWNSTREAM_DATA";

/// A listener with other TLS than the documentation asks for.
fn with_tls(plan: Plan, plugin: &Plugin, change: impl FnOnce(&mut Value)) -> (Plan, SocketAddr) {
    let [port] = ports::free::<1>();
    let mut tls = tls(plan.folder());
    change(&mut tls);
    let filters = [plugin.network(), tcp_proxy("app", DATA, &plan.access_log())];
    let listener = listener(port, &tls, &filters);
    (
        plan.listener(listener),
        SocketAddr::from(([127, 0, 0, 1], port)),
    )
}

/// Envoy lets through what it has not verified.
fn accept_untrusted(tls: &mut Value) {
    tls["common_tls_context"]["validation_context"]["trust_chain_verification"] =
        json!("ACCEPT_UNTRUSTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_envoy_did_not_verify_is_refused_or_verified_by_the_filter() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
    let (plan, trusting) = with_tls(plan, &Plugin::new(settings("db")), accept_untrusted);
    let mut own = settings("db");
    own["peer_verification"] = json!("filter");
    let (plan, verifying) = with_tls(plan, &Plugin::new(own), accept_untrusted);
    let Some(envoy) =
        plan.start("a_certificate_that_envoy_did_not_verify_is_refused_or_verified_by_the_filter")
    else {
        return;
    };
    let forger = TestCa::new(&agent.trust_domain());
    let forged = |address| {
        let leaf = forger.service("web").issue();
        Client::with(leaf.chain().to_vec(), leaf.key(), address)
    };
    // Envoy alone: whatever it could not verify is refused, though it lets it through.
    ping_becomes(&client(&agent, "web", trusting), true).await;
    assert_eq!(ping(&forged(trusting)).await, None);
    envoy.stat_reaches(
        "wasmcustom.portcullis.db.denied.certificate-not-verified",
        1,
    );
    // The filter: by the agent's roots.
    ping_becomes(&client(&agent, "web", verifying), true).await;
    assert_eq!(ping(&forged(verifying)).await, None);
    assert_eq!(ping(&client(&agent, "evil", verifying)).await, None);
    envoy.stat_reaches("wasmcustom.portcullis.db.denied.certificate-refused", 1);
    assert_eq!(app.received(), b"ping".repeat(app.received().len() / 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_builds_paths_by_intermediates_of_the_agent_and_of_requests() {
    let root = TestCa::new("t.consul");
    let intermediate = root.intermediate(|draft| draft);
    let leaf = intermediate.service("web").issue();
    let allow = json!([{ "SourceName": "web", "SourceNS": "default", "DestinationName": "db",
        "DestinationNS": "default", "SourceType": "consul", "Action": "allow" }]);
    let said = [vec![], vec![intermediate.pem()]].map(|intermediates| Said {
        intentions: allow.clone(),
        trust_domain: json!("t.consul"),
        root: root.pem(),
        intermediates,
        mesh: Value::Null,
        providers: json!([]),
    });
    let agent = replayed::agent(said.into()).await;
    let (app, http) = (Greeter::start(b"").await, Application::start().await);
    let server = root.service("db").issue();
    let mut plan = Plan::with(&server.pem(), &server.key_pem(), &root.pem())
        .cluster(cluster("agent", agent))
        .cluster(cluster("app", app.address))
        .cluster(cluster("http", http.address));
    let mut doors = Vec::new();
    for (verification, place) in [("filter", 0), ("filter", 1), ("envoy", 0)] {
        let plugin = Plugin::new(json!({
            "service": "db", "default_policy": "deny", "peer_verification": verification,
            "agent": { "cluster": "agent", "datacenter": format!("g{place}") },
        }));
        let change = |tls: &mut Value| {
            if verification == "filter" {
                accept_untrusted(tls);
            }
        };
        let (next, connections) = with_tls(plan, &plugin, change);
        let mut tls = tls(next.folder());
        change(&mut tls);
        let mut manager = http_manager("http", &[plugin.http()], &next.access_log());
        // Whatever Envoy can say about what the client presented.
        let config = &mut manager["typed_config"];
        config["forward_client_cert_details"] = json!("SANITIZE_SET");
        config["set_current_client_cert_details"] = json!({ "cert": true, "chain": true });
        let [port] = ports::free::<1>();
        plan = next.listener(listener(port, &tls, &[manager]));
        doors.push((connections, SocketAddr::from(([127, 0, 0, 1], port))));
    }
    let Some(envoy) =
        plan.start("the_filter_builds_paths_by_intermediates_of_the_agent_and_of_requests")
    else {
        return;
    };
    let with = |address| Client::with(leaf.chain().to_vec(), leaf.key(), address);
    for (place, is_known) in [(0, false), (1, true), (2, true)] {
        let (connections, requests) = doors[place];
        // Connections do not show what the client presented.
        let passed = ping(&with(connections)).await.is_some();
        let status = get(&with(requests), "/").await;
        assert_eq!((passed, status.as_u16()), (is_known, 200), "{place}");
    }
    // The same names by an authority of the same name that nobody trusts, with its chain.
    let forger = TestCa::new("t.consul");
    let forged = forger.intermediate(|draft| draft).service("web").issue();
    let forged = Client::with(forged.chain().to_vec(), forged.key(), doors[0].1);
    assert_eq!(get(&forged, "/").await.as_u16(), 403);
    let asked = http.asked();
    let chain = asked[0].headers["x-forwarded-client-cert"].to_str();
    let chain = chain.expect("text");
    assert_eq!(chain.matches("BEGIN").count(), 3, "{chain:?}");
    let refused = "wasmcustom.portcullis.db.denied.certificate-refused";
    envoy.stat_reaches(refused, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_no_name_and_a_foreign_one_are_refused_with_their_reasons() {
    let agent = agent().await;
    let ca = TestCa::new(&agent.trust_domain());
    agent.allow("*", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let leaf = agent.issue("db").expect("a leaf");
    // Envoy trusts this CA, too: what it verifies the filter still looks at.
    let roots = format!("{}{}", agent.roots_pem().concat(), ca.pem());
    let plan = Plan::with(&leaf.chain_pem, &leaf.key_pem, &roots)
        .cluster(cluster("agent", agent.address()))
        .cluster(cluster("app", app.address));
    let (plan, address) = plan.tcp(&Plugin::new(settings("db")), DATA);
    let (plan, lax) = with_tls(plan, &Plugin::new(settings("db")), |tls| {
        tls["require_client_certificate"] = json!(false);
    });
    let Some(envoy) =
        plan.start("two_names_no_name_and_a_foreign_one_are_refused_with_their_reasons")
    else {
        return;
    };
    ping_becomes(&client(&agent, "web", address), true).await;
    let web = format!(
        "spiffe://{}/ns/default/dc/dc1/svc/web",
        agent.trust_domain()
    );
    let with = |leaf: portcullis_testkit::TestLeaf| {
        Client::with(leaf.chain().to_vec(), leaf.key(), address)
    };
    let td = agent.trust_domain();
    for (leaf, reason) in [
        (
            ca.service("web").with(|leaf| leaf.two_uris(&web)).issue(),
            "several-identities",
        ),
        (
            ca.service("web")
                .with(portcullis_testkit::Draft::no_uri)
                .issue(),
            "no-identity",
        ),
        (
            ca.leaf("spiffe://other.consul/ns/default/dc/dc1/svc/web")
                .issue(),
            "foreign-trust-domain",
        ),
        (
            ca.leaf(&format!("spiffe://{td}/agent/client/dc/dc1/id/a"))
                .issue(),
            "not-a-service",
        ),
        (
            ca.leaf(&format!("spiffe://{td}/ns/default/dc/dc1/svc/web?x"))
                .issue(),
            "malformed-identity",
        ),
    ] {
        assert_eq!(ping(&with(leaf)).await, None, "{reason}");
        envoy.stat_reaches(&format!("wasmcustom.portcullis.db.denied.{reason}"), 1);
    }
    // Nobody without a certificate, even where Envoy does not ask for one.
    let anonymous = TlsConnector::from(Arc::new(tls_client(None)));
    let mut stream = within(async {
        let stream = tokio::net::TcpStream::connect(lax)
            .await
            .expect("it listens");
        let name = rustls_pki_types::ServerName::try_from("db").expect("a name");
        anonymous.connect(name, stream).await.expect("a handshake")
    })
    .await;
    let _ = stream.write_all(b"ping").await;
    let mut heard = Vec::new();
    let _ = within(stream.read_to_end(&mut heard)).await;
    assert_eq!(heard, b"");
    envoy.stat_reaches("wasmcustom.portcullis.db.denied.no-identity", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_session_is_refused_and_the_documented_listener_resumes_none() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
    let plugin = Plugin::new(settings("db"));
    let (plan, documented) = plan.tcp(&plugin, DATA);
    let (plan, resuming) = with_tls(plan, &plugin, |tls| {
        tls["disable_stateless_session_resumption"] = json!(false);
        tls["disable_stateful_session_resumption"] = json!(false);
    });
    let Some(envoy) =
        plan.start("a_resumed_session_is_refused_and_the_documented_listener_resumes_none")
    else {
        return;
    };
    ping_becomes(&client(&agent, "web", documented), true).await;
    for (address, resumes) in [(documented, false), (resuming, true)] {
        let web = client(&agent, "web", address);
        // One configuration for both connections, so that the second may resume the first.
        let connector = TlsConnector::from(Arc::new(web.config()));
        let mut kinds = Vec::new();
        for round in 0..2 {
            let (kind, passed) = within(exchange(&connector, address)).await;
            let is_resumed = kind == Some(rustls::HandshakeKind::Resumed);
            assert_eq!(passed, !is_resumed, "round {round}");
            kinds.push(is_resumed);
        }
        assert_eq!(kinds, [false, resumes]);
    }
    envoy.stat_reaches(
        "wasmcustom.portcullis.db.denied.certificate-not-verified",
        1,
    );
}

async fn exchange(
    connector: &TlsConnector,
    address: SocketAddr,
) -> (Option<rustls::HandshakeKind>, bool) {
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let name = rustls_pki_types::ServerName::try_from("db").expect("a name");
    let mut stream = connector.connect(name, stream).await.expect("a handshake");
    let _ = stream.write_all(b"ping").await;
    let mut echo = [0; 4];
    let passed = stream.read_exact(&mut echo).await.is_ok();
    let _ = stream.shutdown().await;
    (stream.get_ref().1.handshake_kind(), passed)
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_mode_counts_and_refuses_nothing() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
    let mut configuration = settings("db");
    configuration["mode"] = json!("shadow");
    let (plan, address) = plan.tcp(&Plugin::new(configuration), DATA);
    let Some(envoy) = plan.start("shadow_mode_counts_and_refuses_nothing") else {
        return;
    };
    let evil = client(&agent, "evil", address);
    let wait = async {
        while envoy
            .stat("wasmcustom.portcullis.db.shadow.default-policy")
            .is_none()
        {
            assert!(ping(&evil).await.is_some());
        }
    };
    within(wait).await;
    assert!(ping(&client(&agent, "web", address)).await.is_some());
    envoy.stat_reaches("wasmcustom.portcullis.db.allowed", 1);
    envoy.logged("tcp shadow deny default-policy -");
    assert_eq!(
        envoy.stat("wasmcustom.portcullis.db.denied.default-policy"),
        None
    );
}
