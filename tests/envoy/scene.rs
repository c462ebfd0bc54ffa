//! An agent, and what the tests ask through Envoy.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, StatusCode};
use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_tests::envoy::Envoy;
use portcullis_tests::stage::{ANY, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{Client, empty, send};

/// An agent whose default is to deny.
pub(crate) async fn agent() -> DevAgent {
    agent_at(ANY).await
}

/// The same at this address.
pub(crate) async fn agent_at(listen: SocketAddr) -> DevAgent {
    let config = DevAgentConfig {
        listen,
        default_intention_policy: Some(DefaultPolicy::Deny),
        ..DevAgentConfig::default()
    };
    DevAgent::start(config).await.expect("an agent")
}

/// What a client that speaks first gets back for `ping`: an echo, or the end.
pub(crate) async fn ping(client: &Client) -> Option<Vec<u8>> {
    let mut stream = client.connect(&[]).await;
    let exchange = async {
        stream.write_all(b"ping").await.ok()?;
        let mut answer = vec![0; 4];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer)
    };
    within(exchange).await
}

/// Waits until `ping` gives what is expected.
pub(crate) async fn ping_becomes(client: &Client, passes: bool) {
    let wait = async {
        while ping(client).await.is_some() != passes {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(wait).await;
}

/// The status of one request on a connection of its own.
pub(crate) async fn get(client: &Client, path: &str) -> StatusCode {
    let mut one = client.http1().await;
    let request = Request::get(path)
        .header("host", "api")
        .body(empty())
        .expect("a request");
    send(&mut one, request).await.status()
}

/// Waits until a request gives this status.
pub(crate) async fn get_becomes(client: &Client, path: &str, status: u16) {
    let wait = async {
        while get(client, path).await != status {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(wait).await;
}

/// A client of a service.
pub(crate) fn client(agent: &DevAgent, service: &str, address: SocketAddr) -> Client {
    Client::new(agent, service, address)
}

/// No VM has failed.
pub(crate) fn is_sound(envoy: &Envoy) {
    let log = envoy.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(!log.contains("Function: proxy_"), "{log}");
    let reloads = envoy.stat("wasm.portcullis.vm_reload_success");
    assert!(matches!(reloads, None | Some(0)), "{reloads:?}");
}
