//! Several workers, many listeners in one VM, failed VMs, and what others write to shared data.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_dev_agent::DevAgent;
use portcullis_tests::components;
use portcullis_tests::envoy::{Plan, Plugin, cluster, settings};
use portcullis_tests::stage::within;
use portcullis_tests::wasm_trap::trap_in;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::Client;
use crate::greeter::Greeter;
use crate::scene::{agent, client, ping, ping_becomes};

const HANDSHAKE: &str = "ON_DOWNSTREAM_TLS_HANDSHAKE";
const DATA: &str = "ON_DOWNSTREAM_DATA";

#[tokio::test(flavor = "multi_thread")]
async fn ten_listeners_in_one_vm_have_each_their_own_intentions() {
    let agent = agent().await;
    let app = Greeter::start(b"").await;
    let mut plan = Plan::new(&agent, "db")
        .workers(2)
        .cluster(cluster("app", app.address));
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for number in 0..10 {
        let service = format!("s{number}");
        let (next, address) = plan.tcp(&Plugin::new(settings(&service)), DATA);
        plan = next;
        addresses.push(address);
        // Neighbours have opposite intentions.
        let (one, other) = if number % 2 == 0 {
            ("web", "evil")
        } else {
            ("evil", "web")
        };
        agent.allow(one, &service).expect("an intention");
        agent.deny(other, &service).expect("an intention");
    }
    let Some(envoy) = plan.start("ten_listeners_in_one_vm_have_each_their_own_intentions") else {
        return;
    };
    for round in 0..3 {
        for (number, address) in addresses.iter().enumerate() {
            let is_even = number % 2 == 0;
            let web = ping(&client(&agent, "web", *address)).await.is_some();
            let evil = ping(&client(&agent, "evil", *address)).await.is_some();
            assert_eq!((web, evil), (is_even, !is_even), "{number}, round {round}");
        }
    }
    // One VM for each thread, whatever the number of listeners.
    let machines = envoy.stat("wasm.envoy.wasm.runtime.v8.active");
    assert!(machines >= Some(3) && machines < Some(6), "{machines:?}");
}

/// A listener whose VM traps whenever the application speaks first.
fn trapping(folder: &std::path::Path, export: &str) -> std::path::PathBuf {
    let module = std::fs::read(components::envoy_filter()).expect("the filter");
    let file = folder.join(format!("{export}.wasm"));
    std::fs::write(&file, trap_in(&module, export)).expect("it can be written");
    file
}

/// Whether a connection ends without a byte of the greeting.
async fn hears(client: &Client) -> bool {
    let Some(mut stream) = client.try_connect().await else {
        return false;
    };
    let mut byte = [0];
    within(async { matches!(stream.read(&mut byte).await, Ok(1)) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_vms_are_replaced_and_whoever_led_is_succeeded() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let bomb = Greeter::start(b"x").await;
    let plan = Plan::new(&agent, "db")
        .workers(3)
        .cluster(cluster("app", app.address))
        .cluster(cluster("bomb", bomb.address));
    let mut plugin = Plugin::new(settings("db"));
    plugin.module = Some(trapping(plan.folder(), "proxy_on_upstream_data"));
    let (plan, first) = plan.tcp(&plugin, DATA);
    let [port] = portcullis_tests::ports::free::<1>();
    let filters = [
        plugin.network(),
        portcullis_tests::envoy::tcp_proxy("bomb", HANDSHAKE, &plan.access_log()),
    ];
    let tls = portcullis_tests::envoy::tls(plan.folder());
    let listener = portcullis_tests::envoy::listener(port, &tls, &filters);
    let Some(envoy) = plan
        .listener(listener)
        .start("failed_vms_are_replaced_and_whoever_led_is_succeeded")
    else {
        return;
    };
    let web = client(&agent, "web", first);
    let killer = client(&agent, "web", SocketAddr::from(([127, 0, 0, 1], port)));
    // `app` says nothing first but echoes, which is upstream data too: only refusals show
    // nothing. So what passes is seen by the application.
    let reaches = async |expected: bool| {
        let wait = async {
            loop {
                let before = app.received().len();
                let _ = connect_and_ping(&web).await;
                if (app.received().len() > before) == expected {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(wait).await;
    };
    reaches(true).await;
    for round in 0..4 {
        // Each of these kills the VM of a worker.
        for _ in 0..6 {
            assert!(!hears(&killer).await, "round {round}");
        }
        agent.deny("web", "db").expect("an intention");
        reaches(false).await;
        agent.allow("web", "db").expect("an intention");
        reaches(true).await;
    }
    envoy.stat_reaches("wasm.portcullis.vm_reload_success", 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_policy_does_what_the_page_says() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    for (policy, passes) in [
        ("FAIL_CLOSED", false),
        ("FAIL_RELOAD", false),
        ("FAIL_OPEN", true),
    ] {
        let app = Greeter::start(b"").await;
        let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
        let mut plugin = Plugin::new(settings("db"));
        plugin.failure_policy = policy.to_owned();
        plugin.module = Some(trapping(plan.folder(), "proxy_on_downstream_data"));
        let (plan, address) = plan.tcp(&plugin, DATA);
        let Some(_envoy) = plan.start("each_failure_policy_does_what_the_page_says") else {
            return;
        };
        // The connection that fails the VM is refused under every policy.
        let evil = client(&agent, "evil", address);
        let first = client(&agent, "web", address);
        let _ = connect_and_ping(&first).await;
        for _ in 0..4 {
            let got = connect_and_ping(&evil).await;
            assert_eq!(got, passes, "{policy}");
        }
        assert_eq!(!app.received().is_empty(), passes, "{policy}");
    }
}

/// As `ping`, where even the handshake may be refused.
async fn connect_and_ping(client: &Client) -> bool {
    let Some(mut stream) = client.try_connect().await else {
        return false;
    };
    let mut echo = [0; 4];
    let exchange = async {
        let _ = stream.write_all(b"ping").await;
        stream.read_exact(&mut echo).await.is_ok()
    };
    within(exchange).await
}

async fn served(agent: &DevAgent, address: SocketAddr) -> (bool, bool) {
    let web = ping(&client(agent, "web", address)).await.is_some();
    let evil = ping(&client(agent, "evil", address)).await.is_some();
    (web, evil)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_updated_listener_goes_on_with_what_is_known() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    agent.allow("evil", "api").expect("an intention");
    let app = Greeter::start(b"").await;
    let plan = Plan::new(&agent, "db")
        .workers(2)
        .cluster(cluster("app", app.address));
    let [port] = portcullis_tests::ports::free::<1>();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let file = plan.folder().join("lds.json");
    let folder = plan.folder().to_owned();
    let write = |configuration: &serde_json::Value| {
        let filters = [
            Plugin::new(configuration.clone()).network(),
            portcullis_tests::envoy::tcp_proxy("app", DATA, &folder.join("access.log")),
        ];
        let tls = portcullis_tests::envoy::tls(&folder);
        let mut listener = portcullis_tests::envoy::listener(port, &tls, &filters);
        listener["name"] = json!("updated");
        listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        let text = json!({ "version_info": configuration.to_string(), "resources": [listener] });
        let new = folder.join("lds.new");
        std::fs::write(&new, text.to_string()).expect("it can be written");
        std::fs::rename(&new, &file).expect("it can be moved");
    };
    write(&settings("db"));
    let dynamic =
        json!({ "lds_config": { "path_config_source": { "path": file.display().to_string() } } });
    let Some(envoy) = plan
        .field("dynamic_resources", dynamic)
        .start("an_updated_listener_goes_on_with_what_is_known")
    else {
        return;
    };
    envoy.stat_reaches("listener_manager.lds.update_success", 1);
    let web = client(&agent, "web", address);
    ping_becomes(&web, true).await;
    assert_eq!(served(&agent, address).await, (true, false));
    // The same service, told otherwise: no connection is refused in between.
    for (update, wait) in [(2, 50_000), (3, 40_000), (4, 30_000)] {
        let mut configuration = settings("db");
        configuration["start_wait_ms"] = json!(wait);
        write(&configuration);
        while envoy.stat("listener_manager.lds.update_success") < Some(update) {
            assert!(ping(&web).await.is_some(), "update {update}");
        }
        for _ in 0..5 {
            assert_eq!(served(&agent, address).await, (true, false));
        }
    }
    // Another service, with the opposite intentions.
    write(&settings("api"));
    let wait = async {
        // So many in a row that each worker has had some.
        let mut row = 0;
        while row < 16 {
            let changed = served(&agent, address).await == (false, true);
            row = if changed { row + 1 } else { 0 };
        }
    };
    within(wait).await;
    // A wrong configuration is refused, and the last good one stays.
    write(&json!({ "service": "api", "agent": { "cluster": "agent" }, "open": true }));
    envoy.stat_reaches("listener_manager.lds.update_rejected", 1);
    assert!(envoy.log().contains("`open`: this field is not known"));
    assert_eq!(served(&agent, address).await, (false, true));
}
