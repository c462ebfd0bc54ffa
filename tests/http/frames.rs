//! Frames of HTTP/2 by hand: what libraries do not let a client send.

use portcullis_tests::stage::within;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::Client;
use crate::scene::Scene;

/// Field by field as literals without compression.
fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("it is short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    // HEADERS of stream 1, all of it, and no body.
    frame(1, 0x5, 1, &block)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// How the server answers a request of these fields: the kind of the first frame that is
/// about it.
pub(crate) async fn answered(client: &Client, fields: &[(&str, &str)]) -> &'static str {
    let mut stream = client.connect(&["h2"]).await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(headers(fields));
    stream.write_all(&bytes).await.unwrap();
    let answer = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return "end";
            }
            let [a, b, c, kind, _, s0, s1, s2, s3] = head;
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
            let _ = stream.read_exact(&mut vec![0; length]).await;
            match (kind, u32::from_be_bytes([s0, s1, s2, s3])) {
                (1, 1) => return "headers",
                (3, 1) => return "reset",
                (7, _) => return "goaway",
                _ => {}
            }
        }
    };
    within(answer).await
}

pub(crate) fn request(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "api"),
        (":path", path),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_is_lost_before_the_policy_and_the_application_alike() {
    let permissions = json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/secret" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/public" } },
    ]);
    for protocol in ["http", "http2"] {
        let scene = Scene::start(protocol, permissions.clone(), &[]).await;
        let client = scene.client("web");
        for path in [
            "/public#/../secret",
            "/public/#",
            "/public?a#b?c",
            "/secret#/../public",
            "/secret/a?/public#",
            "/#/public",
            "#/public",
            "?/public#",
        ] {
            let told = answered(&client, &request(path)).await;
            assert!(
                ["headers", "reset", "goaway"].contains(&told),
                "{path}: {told}"
            );
        }
        // What was allowed is what arrived, and nothing of the rest did.
        let paths = scene.application.paths();
        assert_eq!(paths, ["/public", "/public/", "/public?a"], "{protocol}");
        for line in scene.lines(6) {
            let allowed = line["http.path"].as_str().unwrap().starts_with("/public");
            assert_eq!(line["http.status"] == 200, allowed, "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_over_http2_are_refused() {
    // Whatever the policy and the flag say: they are for HTTP/1.1.
    let permissions = json!([
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
        { "Action": "allow", "HTTP": { "Methods": ["CONNECT"] } },
    ]);
    let scene = Scene::start("http", permissions, &["-allow-connect"]).await;
    let client = scene.client("web");
    let mut fields = request("/ws");
    fields[0] = (":method", "CONNECT");
    fields.push((":protocol", "websocket"));
    // Nobody has offered it (RFC 8441, 3).
    assert_eq!(answered(&client, &fields).await, "reset");
    // Its usual form, and what only looks like it.
    let connect = [(":method", "CONNECT"), (":authority", "db:5432")];
    assert_eq!(answered(&client, &connect).await, "headers");
    let line = scene.lines(1).remove(0);
    assert_eq!(line["code"], "connect-refused", "{line}");
    assert_eq!(line["http.status"], 403);
    let mut get = request("/ws");
    get.push((":protocol", "websocket"));
    assert_eq!(answered(&client, &get).await, "reset");
    assert_eq!(scene.application.paths(), [""; 0]);
}
