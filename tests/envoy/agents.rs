//! The agent slow, broken, killed and back, and replies that are too large.

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, Fault};
use portcullis_tests::envoy::{Plan, Plugin, cluster, settings};
use portcullis_tests::ports;
use portcullis_tests::stage::within;
use serde_json::json;
use std::time::Duration;

use crate::greeter::Greeter;
use crate::scene::{agent, agent_at, client, ping, ping_becomes};

const DATA: &str = "ON_DOWNSTREAM_DATA";
const ROOTS: &str = "/v1/agent/connect/ca/roots";
const MATCH: &str = "/v1/connect/intentions/match";

#[tokio::test(flavor = "multi_thread")]
async fn without_the_agent_the_last_good_policy_decides_until_it_is_too_old() {
    // Another one takes this port afterwards, which nobody else gets in between.
    let listen = ports::closed();
    let agent = agent_at(listen).await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let mut configuration = settings("db");
    configuration["max_stale_ms"] = json!(8_000);
    let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
    let (plan, address) = plan.tcp(&Plugin::new(configuration), DATA);
    let Some(envoy) =
        plan.start("without_the_agent_the_last_good_policy_decides_until_it_is_too_old")
    else {
        return;
    };
    let web = client(&agent, "web", address);
    ping_becomes(&web, true).await;
    agent.shutdown().await;
    // Dead, but the last good policy is young.
    assert!(ping(&web).await.is_some());
    ping_becomes(&web, false).await;
    envoy.stat_reaches("wasmcustom.portcullis.db.denied.stale", 1);
    assert!(envoy.stat("wasmcustom.portcullis.db.policy_age_seconds") >= Some(8));
    // Another agent in its place is another mesh, and is followed: nobody of the old one passes.
    let config = DevAgentConfig {
        listen,
        default_intention_policy: Some(DefaultPolicy::Allow),
        ..DevAgentConfig::default()
    };
    let other = DevAgent::start(config).await.expect("an agent");
    let wait = async {
        while envoy
            .stat("wasmcustom.portcullis.db.denied.foreign-trust-domain")
            .is_none()
        {
            assert_eq!(ping(&web).await, None);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(wait).await;
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_connections_wait_for_a_slow_agent_or_are_refused_in_time() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    agent.inject(ROOTS, Fault::Delay(Duration::from_secs(3)));
    let app = Greeter::start(b"").await;
    let mut hasty = settings("db");
    hasty["start_wait_ms"] = json!(0);
    // Another cluster name, so that it shares nothing with the patient one.
    hasty["agent"]["cluster"] = json!("nobody");
    let mut patient = settings("db");
    patient["start_wait_ms"] = json!(60_000);
    let [port] = ports::free::<1>();
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let plan = Plan::new(&agent, "db")
        .cluster(cluster("app", app.address))
        .cluster(cluster("nobody", nobody));
    let (plan, patient) = plan.tcp(&Plugin::new(patient), DATA);
    let (plan, hasty) = plan.tcp(&Plugin::new(hasty), DATA);
    let Some(envoy) = plan.start("early_connections_wait_for_a_slow_agent_or_are_refused_in_time")
    else {
        return;
    };
    let evil = client(&agent, "evil", patient);
    let web = client(&agent, "web", patient);
    let (evil, web) = tokio::join!(ping(&evil), ping(&web));
    assert_eq!(evil, None);
    assert_eq!(web.as_deref(), Some(&b"ping"[..]));
    assert_eq!(ping(&client(&agent, "web", hasty)).await, None);
    envoy.stat_reaches("wasmcustom.portcullis.db.denied.not-ready", 1);
    assert_eq!(app.received(), b"ping");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_replies_change_nothing() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
    let (plan, address) = plan.tcp(&Plugin::new(settings("db")), DATA);
    let Some(envoy) = plan.start("broken_replies_change_nothing") else {
        return;
    };
    let web = client(&agent, "web", address);
    ping_becomes(&web, true).await;
    let large = |size: usize| {
        let mut body = br#"{"db":[{"Description":""#.to_vec();
        body.resize(size, b'x');
        body.extend_from_slice(br#""}]}"#);
        Fault::Garbage(body)
    };
    for (fault, told) in [
        (Fault::Truncated, "broke off"),
        (Fault::Hangup, "answered 503"),
        (Fault::Status(500, "no".to_owned()), "answered 500"),
        (Fault::Status(403, "no".to_owned()), "answered 403"),
        (Fault::Garbage(b"{\"db\":".to_vec()), "not JSON"),
        (Fault::Garbage(b"{\"other\":[]}".to_vec()), "missing"),
        (large(40 * 1024 * 1024), "too large"),
    ] {
        let before = envoy.log().len();
        agent.inject_until_cleared(MATCH, fault);
        let wait = async {
            while !envoy.log()[before..].contains(told) {
                // The query that is open is answered, and the next one goes wrong.
                agent.deny("other", "db").expect("an intention");
                agent.delete_intention("other", "db").expect("an intention");
                assert!(ping(&web).await.is_some(), "{told}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(60), wait)
                .await
                .is_ok(),
            "never: {told}\n{}",
            envoy.log()
        );
        agent.clear_faults();
    }
    // It has recovered.
    agent.deny("web", "db").expect("an intention");
    ping_becomes(&web, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_thirty_one_megabytes_is_used() {
    let agent = agent().await;
    let app = Greeter::start(b"").await;
    let mut body = br#"{"db":[{"SourceName":"web","SourceNS":"default","DestinationName":"db","DestinationNS":"default","SourceType":"consul","Action":"allow","Description":""#.to_vec();
    body.resize(31 * 1000 * 1000, b'x');
    body.extend_from_slice(br#""}]}"#);
    agent.inject_until_cleared(MATCH, Fault::Garbage(body));
    let plan = Plan::new(&agent, "db")
        .workers(2)
        .cluster(cluster("app", app.address));
    let (plan, address) = plan.tcp(&Plugin::new(settings("db")), DATA);
    let Some(_envoy) = plan.start("a_list_of_thirty_one_megabytes_is_used") else {
        return;
    };
    ping_becomes(&client(&agent, "web", address), true).await;
    assert_eq!(ping(&client(&agent, "evil", address)).await, None);
}
