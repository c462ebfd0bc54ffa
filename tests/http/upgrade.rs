//! Upgrades: judged as requests, and then bytes both ways.

use portcullis_tests::stage::within;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::read_until;
use crate::scene::{Scene, permit};

fn head(path: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

async fn scene() -> Scene {
    let permissions = json!([
        { "Action": "deny", "HTTP": { "PathExact": "/ws", "Header": [{ "Name": "upgrade", "Exact": "forbidden" }] } },
        { "Action": "allow", "HTTP": { "PathExact": "/ws" } },
        { "Action": "allow", "HTTP": { "PathExact": "/other" } },
    ]);
    Scene::start("http", permissions, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_bytes_both_ways_until_both_end() {
    let scene = scene().await;
    let client = scene.client("web");
    let mut stream = client.connect(&["http/1.1"]).await;
    stream
        .write_all(head("/ws", "websocket").as_bytes())
        .await
        .unwrap();
    let answer = read_until(&mut stream, |read| read.contains("welcome ")).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "{answer}");
    stream.write_all(b"\x81\x05hello\n\n").await.unwrap();
    let mut echoed = [0; 9];
    within(stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"\x81\x05hello\n\n");
    // Our end first: theirs follows.
    stream.shutdown().await.unwrap();
    assert_eq!(within(stream.read(&mut echoed)).await.unwrap(), 0);
    let line = scene.lines(1).remove(0).to_string();
    assert!(
        line.contains("101") && !line.contains("error\":\""),
        "{line}"
    );

    let refused = client
        .raw(head("/ws", "forbidden").as_bytes(), |read| {
            read.contains("Forbidden")
        })
        .await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_101_does_not_reach_the_application() {
    let scene = scene().await;
    let client = scene.client("web");
    // The application refuses to upgrade: what follows is a request, and is judged as one.
    let mut bytes = head("/ws", "refused").into_bytes();
    bytes.extend_from_slice(b"GET /admin HTTP/1.1\r\nhost: a\r\n\r\n");
    let answers = client.raw(&bytes, |read| read.contains("Forbidden")).await;
    assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
    assert!(answers.contains("HTTP/1.1 403"), "{answers}");
    // Of bytes that are no request, nothing goes on.
    let mut bytes = head("/ws", "refused").into_bytes();
    bytes.extend_from_slice(b"\x00\x01 smuggled\n\n");
    let answers = client.raw(&bytes, |_| false).await;
    assert!(answers.contains("HTTP/1.1 400"), "{answers}");
    assert_eq!(scene.application.paths(), ["/ws", "/ws"]);
    // And once it agrees, they arrive as they were.
    let mut bytes = head("/ws", "early").into_bytes();
    bytes.extend_from_slice(b"early bytes");
    let answer = client
        .raw(&bytes, |read| read.ends_with("early bytes"))
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.contains("welcome early bytes"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn h2c_is_not_upgraded_to() {
    let scene = scene().await;
    let asks = head("/other", "h2c").replace(
        "Upgrade\r\n",
        "Upgrade, HTTP2-Settings\r\nhttp2-settings: AAMAAABk\r\n",
    );
    let answer = scene
        .client("web")
        .raw(asks.as_bytes(), |read| read.contains("application"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let asked = scene.application.asked().remove(0);
    assert!(
        !asked.headers.contains_key("upgrade") && !asked.headers.contains_key("http2-settings")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_judged_again() {
    let scene = scene().await;
    let mut stream = scene.client("web").connect(&[]).await;
    stream
        .write_all(head("/ws", "websocket").as_bytes())
        .await
        .unwrap();
    let _ = read_until(&mut stream, |read| read.contains("welcome ")).await;
    permit(
        &scene.agent,
        json!([{ "Action": "allow", "HTTP": { "PathExact": "/other" } }]),
    );
    let mut byte = [0];
    let ended = within(stream.read(&mut byte)).await;
    assert!(!matches!(ended, Ok(1)), "{ended:?}");
    let line = scene.lines(1).remove(0).to_string();
    assert!(line.contains("no-permission-matched"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_needs_the_policy_and_the_flag() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "Methods": ["CONNECT"] } }]);
    let ask = b"CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n\r\n";
    let scene = Scene::start("http", permissions.clone(), &[]).await;
    let answer = scene
        .client("web")
        .raw(ask, |read| read.contains("Forbidden"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(scene.lines(1)[0].to_string().contains("connect-refused"));
    assert_eq!(scene.application.paths(), [""; 0]);

    let scene = Scene::start("http", permissions, &["-allow-connect"]).await;
    let answer = scene
        .client("other")
        .raw(ask, |read| read.contains("Forbidden"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = scene
        .client("web")
        .raw(ask, |read| read.contains("\r\n\r\n"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(scene.application.paths(), ["db.example:5432"]);
}
