//! The network filter: client first, server first, changed intentions, who the client is.

use portcullis_tests::envoy::{Plan, Plugin, settings};
use portcullis_tests::stage::within;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::greeter::Greeter;
use crate::scene::{agent, client, ping, ping_becomes};
use portcullis_tests::envoy::cluster;

const HANDSHAKE: &str = "ON_DOWNSTREAM_TLS_HANDSHAKE";
const DATA: &str = "ON_DOWNSTREAM_DATA";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_first_passes_or_reaches_nobody() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let plugin = Plugin::new(settings("db"));
    for mode in [HANDSHAKE, DATA] {
        let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
        let (plan, address) = plan.tcp(&plugin, mode);
        let Some(envoy) = plan.start("a_client_that_speaks_first_passes_or_reaches_nobody") else {
            return;
        };
        // The first connection may come before the policy, and waits for it.
        let web = client(&agent, "web", address);
        assert_eq!(ping(&web).await.as_deref(), Some(&b"ping"[..]), "{mode}");
        let before = app.received();
        let evil = client(&agent, "evil", address);
        for _ in 0..5 {
            assert_eq!(ping(&evil).await, None, "{mode}");
        }
        assert_eq!(app.received(), before, "not one byte: {mode}");
        envoy.logged("tcp allow intention -");
        envoy.logged("tcp deny default-policy wasm_downstream_close");
        envoy.stat_reaches("wasmcustom.portcullis.db.allowed", 1);
        envoy.stat_reaches("wasmcustom.portcullis.db.denied.default-policy", 5);
        assert!(envoy.stat("wasmcustom.portcullis.db.generation") > Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_by_nobody_who_is_denied() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"220 hello\r\n").await;
    let plan = Plan::new(&agent, "db").cluster(cluster("app", app.address));
    let (plan, address) = plan.tcp(&Plugin::new(settings("db")), HANDSHAKE);
    let Some(_envoy) = plan.start("a_server_that_speaks_first_is_heard_by_nobody_who_is_denied")
    else {
        return;
    };
    let web = client(&agent, "web", address);
    let greeting = async |service: &str| {
        let mut stream = client(&agent, service, address).connect(&[]).await;
        let mut heard = Vec::new();
        let hear = async {
            let mut part = [0; 64];
            while let Ok(count @ 1..) = stream.read(&mut part).await {
                heard.extend_from_slice(&part[..count]);
                if heard.ends_with(b"\n") {
                    break;
                }
            }
        };
        within(hear).await;
        heard
    };
    // Before the policy is there the greeting is refused, because it cannot be held back.
    let wait = async {
        while greeting("web").await != b"220 hello\r\n" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within(wait).await;
    for _ in 0..5 {
        assert_eq!(greeting("evil").await, b"", "not one byte");
    }
    let mut stream = web.connect(&[]).await;
    let exchange = async {
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.expect("a greeting");
        stream.write_all(b"quit").await.expect("sent");
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.expect("an echo");
        echo
    };
    assert_eq!(&within(exchange).await, b"quit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_intention_is_in_force_for_new_connections_and_ends_live_ones() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    let app = Greeter::start(b"").await;
    let plan = Plan::new(&agent, "db")
        .workers(2)
        .cluster(cluster("app", app.address));
    let (plan, address) = plan.tcp(&Plugin::new(settings("db")), HANDSHAKE);
    let Some(envoy) =
        plan.start("a_changed_intention_is_in_force_for_new_connections_and_ends_live_ones")
    else {
        return;
    };
    let web = client(&agent, "web", address);
    ping_becomes(&web, true).await;
    let mut live = Vec::new();
    for _ in 0..8 {
        let mut stream = web.connect(&[]).await;
        let exchange = async {
            stream.write_all(b"ping").await.expect("sent");
            let mut echo = [0; 4];
            stream.read_exact(&mut echo).await.expect("an echo");
        };
        within(exchange).await;
        live.push(stream);
    }
    agent.deny("web", "db").expect("an intention");
    for mut stream in live {
        let mut rest = Vec::new();
        let _ = within(stream.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
    }
    envoy.stat_reaches("wasmcustom.portcullis.db.closed.intention", 8);
    // A worker that had none of them looks on a tick of its own.
    let wait = async {
        let mut row = 0;
        while row < 32 {
            row = if ping(&web).await.is_none() {
                row + 1
            } else {
                0
            };
        }
    };
    within(wait).await;
    let received = app.received();
    for _ in 0..10 {
        assert_eq!(ping(&web).await, None);
    }
    assert_eq!(app.received(), received, "not one byte");
    agent.allow("web", "db").expect("an intention");
    ping_becomes(&web, true).await;
}
