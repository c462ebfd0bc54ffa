//! What a configuration is refused for, by name, in Envoy's log; what must not stand in one.

use http::Request;
use portcullis_tests::components;
use portcullis_tests::envoy::{Plan, Plugin, cluster, http_manager, listener, settings, tls};
use portcullis_tests::ports;
use portcullis_tests::proxy_wasm::Filter;
use portcullis_tests::stage::{ANY, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::application::Application;
use crate::client::full;
use crate::scene::{agent, client};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_field_is_named_and_envoy_does_not_start() {
    let agent = agent().await;
    for (configuration, named) in [
        (json!({ "service": "db" }), "`agent`: this field is missing"),
        (
            json!({ "service": "db", "agent": { "cluster": "agent" }, "defaultpolicy": "deny" }),
            "`defaultpolicy`: this field is not known",
        ),
        (
            json!({ "service": "db", "agent": { "cluster": "agent", "token": "secret-7" } }),
            "`agent.token`: this field is not known",
        ),
        (
            json!({ "service": "db", "agent": { "cluster": "agent" }, "mode": "off" }),
            "`mode`: this is none of `enforce`, `shadow`",
        ),
        (json!(""), "the whole: there is none"),
    ] {
        let plugin = Plugin::new(configuration);
        let plan = Plan::new(&agent, "db").cluster(cluster("app", ANY));
        let (plan, _) = plan.tcp(&plugin, "ON_DOWNSTREAM_DATA");
        let Some(mut envoy) = plan.spawn("a_wrong_field_is_named_and_envoy_does_not_start") else {
            return;
        };
        assert!(!envoy.ended().success());
        let log = envoy.log();
        assert!(
            log.contains(&format!("portcullis: plugin configuration: {named}")),
            "{named}\n{log}"
        );
        assert!(!log.contains("secret-7"));
    }
    let _: Value = settings("db");
}

/// Why `portcullis envoy lint` finds `headers-not-held`: what waits on two listeners, of which
/// one says so.
#[tokio::test(flavor = "multi_thread")]
async fn with_headers_that_are_not_held_a_body_goes_on_before_the_decision() {
    let test = "with_headers_that_are_not_held_a_body_goes_on_before_the_decision";
    let agent = agent().await;
    let app = Application::start().await;
    // An agent that says nothing, so that every request waits.
    let silent = TcpListener::bind(ANY).await.expect("a port");
    let mut plan = Plan::new(&agent, "api")
        .cluster(cluster("app", app.address))
        .cluster(cluster("silent", silent.local_addr().expect("an address")));
    let mut settings = settings("api");
    settings["agent"]["cluster"] = json!("silent");
    let plugin = Plugin::new(settings);
    let mut addresses = Vec::new();
    for goes_on in [false, true] {
        let mut filter = plugin.http();
        let config = &mut filter["typed_config"]["config"];
        config["allow_on_headers_stop_iteration"] = json!(goes_on);
        let manager = http_manager("app", &[filter], &plan.access_log());
        let [port] = ports::free::<1>();
        let listener = listener(port, &tls(plan.folder()), &[manager]);
        plan = plan.listener(listener);
        addresses.push(([127, 0, 0, 1], port).into());
    }
    let Some(envoy) = plan.start(test) else {
        return;
    };
    let mut waiting = Vec::new();
    for (address, path) in addresses.into_iter().zip(["/held", "/not-held"]) {
        let mut connection = client(&agent, "web", address).http1().await;
        let request = Request::post(path).header("host", "api");
        let request = request.body(full("body")).expect("a request");
        waiting.push(tokio::spawn(async move {
            connection.send_request(request).await.map(drop)
        }));
    }
    eventually("the one goes on", async || app.paths() == ["/not-held"]).await;
    assert!(!waiting[0].is_finished(), "the other one waits");
    drop(envoy);
}

/// Why `portcullis envoy lint` finds `capabilities`: a callback that may not be called lets
/// everybody pass, and a whole list changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_capability_for_its_callback_the_filter_is_not_asked() {
    let test = "without_the_capability_for_its_callback_the_filter_is_not_asked";
    let agent = agent().await;
    agent.allow("web", "api").expect("an intention");
    let app = Application::start().await;
    let module = Filter::compile(&components::envoy_filter());
    let of_the_system = [
        "clock_time_get",
        "environ_get",
        "environ_sizes_get",
        "fd_write",
        "proc_exit",
        "random_get",
    ]
    .map(str::to_owned);
    let names = [module.host_calls(), module.exports(), of_the_system.into()].concat();
    let mut plan = Plan::new(&agent, "api").cluster(cluster("app", app.address));
    let mut settings = settings("api");
    settings["protocol"] = json!("http");
    let mut addresses = Vec::new();
    for (vm, left_out) in [("whole", ""), ("cut", "proxy_on_request_headers")] {
        let mut plugin = Plugin::new(settings.clone());
        vm.clone_into(&mut plugin.vm_id);
        let mut filter = plugin.http();
        let named = names.iter().filter(|name| *name != left_out);
        let allowed = named.map(|name| (name.clone(), json!({})));
        let allowed: serde_json::Map<_, _> = allowed.collect();
        filter["typed_config"]["config"]["capability_restriction_config"] =
            json!({ "allowed_capabilities": allowed });
        let manager = http_manager("app", &[filter], &plan.access_log());
        let [port] = ports::free::<1>();
        let listener = listener(port, &tls(plan.folder()), &[manager]);
        plan = plan.listener(listener);
        addresses.push(([127, 0, 0, 1], port).into());
    }
    let Some(envoy) = plan.start(test) else {
        return;
    };
    let asks = async |service: &str, address| {
        let mut connection = client(&agent, service, address).http1().await;
        let request = Request::get("/").header("host", "api").body(full(""));
        let answer = connection.send_request(request.expect("a request")).await;
        answer.expect("an answer").status().as_u16()
    };
    assert_eq!(asks("web", addresses[0]).await, 200, "{}", envoy.log());
    assert_eq!(asks("evil", addresses[0]).await, 403, "the whole list");
    assert_eq!(asks("evil", addresses[1]).await, 200, "nobody is asked");
}
