//! What strangers write in requests stays on one line of the log, in printable letters.

use portcullis_tests::stage::within;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::decisions::logged;
use crate::frames::{answered, request};
use crate::scene::Scene;

/// Ends of lines, C1, bytes that are no UTF-8, and an escape sequence.
const HOSTILE: &[u8] = b"\xe2\x80\xa8\xc2\x85\xc2\x9b2J\xff\x1b[2Jcode=intention";

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_write_clean_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let log = format!("-decision-log={}", file.display());
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/allowed" } }]);
    let flags = [log.as_str(), "-decision-log-header=x-forwarded-client-cert"];
    let scene = Scene::start("http", permissions, &flags).await;
    let client = scene.client("web");
    let hosts = b" HTTP/1.1\r\nhost: api\r\nconnection: close\r\n";
    let requests = [
        [b"GET /allowed/", HOSTILE, hosts, b"\r\n"].concat(),
        [b"GET /denied/", HOSTILE, hosts, b"\r\n"].concat(),
        [HOSTILE, b" /allowed", hosts, b"\r\n"].concat(),
        [
            b"GET /denied",
            &hosts[..],
            b"x-forwarded-client-cert: URI=",
            HOSTILE,
            b"\r\n\r\n",
        ]
        .concat(),
        [
            b"GET /denied",
            &hosts[..],
            b"traceparent: ",
            HOSTILE,
            b"\r\n\r\n",
        ]
        .concat(),
        [
            b"GET /denied",
            &hosts[..],
            b"user-agent: \xe2\x80\xa8\xc2\x9b\xff\r\n\r\n",
        ]
        .concat(),
    ];
    for bytes in &requests {
        let mut stream = client.connect(&[]).await;
        stream.write_all(bytes).await.unwrap();
        // It may be cut off without a goodbye.
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    for path in [
        "/allowed/\u{2028}\u{85}\u{9b}2J",
        "/denied/\u{2028}\u{85}\u{9b}2J",
    ] {
        assert_eq!(answered(&client, &request(path)).await, "headers");
    }
    // Of those by HTTP/2 one is denied, and so is at least the one with a strange browser.
    assert!(scene.lines(3).len() >= 3);
    assert!(logged(&file, 2).len() >= 2);
    for text in [
        scene.proxy.log(),
        std::fs::read_to_string(&file).expect("the decision log"),
    ] {
        for line in text.lines() {
            let is_clean = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            assert!(is_clean, "{line:?}");
            let whole = serde_json::from_str::<Value>(line);
            assert!(whole.is_ok(), "{line}");
        }
    }
}
