//! Connections and requests in one root context, streams that never get to the filter, and an
//! agent to which no call can be sent: with `filter.wasm` and with what cargo alone has built.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{Request, StatusCode};
use portcullis_dev_agent::{DevAgent, Fault};
use portcullis_tests::envoy::{Plan, Plugin, cluster, http_manager, listener, settings, tls};
use portcullis_tests::stage::within;
use portcullis_tests::{components, ports};
use serde_json::{Value, json};

use crate::application::Application;
use crate::client::{body, full};
use crate::greeter::Greeter;
use crate::scene::{agent, client, get, get_becomes, is_sound, ping, ping_becomes};

const DATA: &str = "ON_DOWNSTREAM_DATA";

/// `filter.wasm`, and the module that exports every callback of the crate.
fn modules() -> [PathBuf; 2] {
    [components::envoy_filter(), components::plain_envoy_filter()]
}

/// An HTTP listener to the cluster `web`, its filters before the router, and what stands before
/// the connection manager.
fn http(plan: Plan, before: &[Value], filters: &[Value]) -> (Plan, SocketAddr) {
    let [port] = ports::free::<1>();
    let mut chain = before.to_vec();
    chain.push(http_manager("web", filters, &plan.access_log()));
    let listener = listener(port, &tls(plan.folder()), &chain);
    (
        plan.listener(listener),
        SocketAddr::from(([127, 0, 0, 1], port)),
    )
}

/// A body comes back.
async fn post(agent: &DevAgent, service: &str, address: SocketAddr) -> (StatusCode, String) {
    let mut two = client(agent, service, address).http2().await;
    let request = Request::post("https://api/echo")
        .body(full("twelve bytes"))
        .expect("a request");
    let answer = within(two.send_request(request)).await.expect("an answer");
    (answer.status(), body(answer).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_plugin_judges_connections_and_requests() {
    for module in modules() {
        let agent = agent().await;
        agent.allow("web", "db").expect("an intention");
        // The first ones wait, with what they bring.
        agent.inject(
            "/v1/agent/connect/ca/roots",
            Fault::Delay(Duration::from_secs(2)),
        );
        let app = Greeter::start(b"").await;
        let web = Application::start().await;
        // The same name and configuration in both kinds of chain: one root context in each VM.
        let mut plugin = Plugin::new(settings("db"));
        plugin.configuration["start_wait_ms"] = json!(60_000);
        plugin.module = Some(module);
        let plan = Plan::new(&agent, "db")
            .cluster(cluster("app", app.address))
            .cluster(cluster("web", web.address));
        let (plan, bytes) = plan.tcp(&plugin, DATA);
        let (plan, requests) = http(plan, &[], &[plugin.http()]);
        // And in one chain.
        let (plan, both) = http(plan, &[plugin.network()], &[plugin.http()]);
        let Some(envoy) = plan.start("one_plugin_judges_connections_and_requests") else {
            return;
        };
        let one = client(&agent, "web", bytes);
        let (ping_first, post_first, evil_first) = tokio::join!(
            ping(&one),
            post(&agent, "web", requests),
            post(&agent, "evil", requests)
        );
        assert_eq!(ping_first.as_deref(), Some(&b"ping"[..]));
        assert_eq!(post_first, (StatusCode::OK, "twelve bytes".to_owned()));
        assert_eq!(evil_first.0, StatusCode::FORBIDDEN);
        for _ in 0..3 {
            assert!(ping(&one).await.is_some());
            assert!(ping(&client(&agent, "evil", bytes)).await.is_none());
            for address in [requests, both] {
                assert_eq!(get(&client(&agent, "web", address), "/a").await, 200);
                let got = post(&agent, "web", address).await;
                assert_eq!(got, (StatusCode::OK, "twelve bytes".to_owned()));
            }
            assert_eq!(get(&client(&agent, "evil", requests), "/a").await, 403);
            // There the connection is refused, before there is a request.
            let evil = client(&agent, "evil", both);
            let answer = evil
                .raw(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n", |_| false)
                .await;
            assert_eq!(answer, "");
        }
        // What lives is judged again, of either kind.
        agent.deny("web", "db").expect("an intention");
        ping_becomes(&one, false).await;
        get_becomes(&client(&agent, "web", requests), "/a", 403).await;
        is_sound(&envoy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_another_filter_answers_first_harms_nobody() {
    for module in modules() {
        let agent = agent().await;
        agent.allow("web", "db").expect("an intention");
        let web = Application::start().await;
        let mut plugin = Plugin::new(settings("db"));
        plugin.module = Some(module);
        // Envoy makes our context all the same, when it logs.
        let fault = json!({
            "name": "envoy.filters.http.fault",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "abort": { "http_status": 418, "percentage": { "numerator": 100 } },
                "headers": [{ "name": ":path", "string_match": { "prefix": "/teapot" } }],
            },
        });
        let plan = Plan::new(&agent, "db").cluster(cluster("web", web.address));
        let (plan, address) = http(plan, &[], &[fault, plugin.http()]);
        let Some(envoy) = plan.start("a_request_that_another_filter_answers_first_harms_nobody")
        else {
            return;
        };
        let one = client(&agent, "web", address);
        get_becomes(&one, "/a", 200).await;
        for _ in 0..5 {
            assert_eq!(get(&one, "/teapot").await, 418);
            assert_eq!(get(&one, "/a").await, 200);
            assert_eq!(get(&client(&agent, "evil", address), "/a").await, 403);
        }
        is_sound(&envoy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_sent_is_sent_later() {
    for module in modules() {
        let agent = agent().await;
        agent.allow("web", "db").expect("an intention");
        let app = Greeter::start(b"").await;
        let mut plugin = Plugin::new(settings("db"));
        plugin.configuration["agent"]["cluster"] = json!("moving");
        plugin.configuration["start_wait_ms"] = json!(0);
        plugin.module = Some(module);
        let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
        // An agent without an address: Envoy refuses the call at once.
        let file = plan.folder().join("eds.json");
        let new = plan.folder().join("eds.new");
        let write = |version: &str, endpoints: &Value| {
            let text = json!({ "version_info": version, "resources": [{
                "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": "moving", "endpoints": endpoints,
            }]});
            fs::write(&new, text.to_string()).expect("it can be written");
            fs::rename(&new, &file).expect("it can be moved");
        };
        write("1", &json!([]));
        let moving = json!({
            "name": "moving",
            "type": "EDS",
            "connect_timeout": "5s",
            "eds_cluster_config": { "eds_config": {
                "path_config_source": { "path": file.display().to_string() },
            }},
        });
        let (plan, address) = plan.cluster(moving).tcp(&plugin, DATA);
        let Some(envoy) = plan.start("a_call_that_cannot_be_sent_is_sent_later") else {
            return;
        };
        let web = client(&agent, "web", address);
        for _ in 0..5 {
            assert_eq!(ping(&web).await, None);
        }
        envoy.stat_reaches("cluster.moving.upstream_cx_none_healthy", 3);
        let there = cluster("moving", agent.address());
        write("2", &there["load_assignment"]["endpoints"]);
        ping_becomes(&web, true).await;
        assert_eq!(ping(&client(&agent, "evil", address)).await, None);
        is_sound(&envoy);
    }
}
