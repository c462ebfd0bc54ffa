//! The shared vectors through a real Envoy over mTLS: each set of intentions on a listener of
//! its own, with an agent that answers each listener by the datacenter that it asks for.
//!
//! What comes back is only whether it passed and where to, so that is what is compared. Left
//! out: what the filter does not follow (peers), tokens, whose time is not ours (`tokens` asks
//! with others), HTTP/2, and requests that Envoy answers by itself, none of which reach the
//! filter as they are in the vector.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use portcullis_testkit::TestCa;
use portcullis_tests::envoy::{Plan, Plugin, cluster};
use portcullis_tests::peers::workspace;
use portcullis_tests::replayed::{self, Said};
use portcullis_tests::stage::{ANY, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::client::Client;

/// The vectors that the largest sets have together.
const ENOUGH: usize = 1_050;

/// What comes out otherwise behind Envoy, and why that is meant.
const MEANT: [(&str, &str); 6] = [
    // The filter does not look at `:scheme`, which clients can change in Envoy.
    ("request: :scheme is not a header's, strict", "allow /"),
    ("request: :scheme is not a header's, envoy", "allow /"),
    // The connection manager joins some repeated headers to one: that is what is judged, and
    // what the application gets.
    ("request: authorization by value, deny, strict", "allow /"),
    ("request: user-agent by value, deny, strict", "allow /"),
    // Envoy answers before the filter is asked.
    (
        "request: who is not known is refused before a bad request is",
        "answered Some(\"400\")",
    ),
    // The path that arrived is gone: the judged one is what the application gets.
    (
        "request: strict: a denial covers /x//../admin",
        "allow /x/admin",
    ),
];

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn bytes(value: &Value) -> Vec<u8> {
    let letters = text(value).chars();
    letters
        .map(|letter| u8::try_from(letter).expect("one byte"))
        .collect()
}

/// Whether Envoy brings the question to the filter as it is.
fn is_carried(line: &Value) -> bool {
    let (question, effect) = (&line["question"], text(&line["answer"]["effect"]));
    let has = |field: &str| question.get(field).is_some_and(|value| !value.is_null());
    let is_plain = !has("peers")
        && !has("via_gateway")
        && !has("jwt_providers")
        && !has("request_normalization")
        && line.get("intentions_json").is_none()
        && question
            .get("http_version")
            .is_none_or(|version| version == "1.1")
        && text(&line["answer"]["because"]["code"]) != "malformed-target";
    is_plain && matches!(effect, "allow" | "deny")
}

/// The plugin configuration of a question, for the datacenter `place`.
fn configuration(question: &Value, place: usize) -> Value {
    let field = |name: &str, default: &'static str| question.get(name).map_or(default, text);
    json!({
        "service": format!(
            "{}/{}/{}",
            field("target_partition", "default"),
            field("target_namespace", "default"),
            text(&question["target"])
        ),
        "agent": { "cluster": "agent", "datacenter": format!("g{place}") },
        "protocol": field("protocol", "tcp"),
        "default_policy": question["default_policy"],
        "matching": field("matching", "strict"),
        // As Envoy is configured here, and no entry has to be asked for.
        "request_normalization": {},
    })
}

/// What questions of one listener have in common.
fn set(question: &Value) -> String {
    let mut configuration = configuration(question, 0);
    configuration["intentions"] = question["intentions"].clone();
    configuration["trust_domain"] = question["trust_domain"].clone();
    configuration["requests"] = json!(question.get("request").is_some());
    configuration.to_string()
}

/// An application that says which target it was asked for, or echoes.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut read).await {
                    if read.starts_with(b"ping") {
                        let _ = stream.write_all(b"pong").await;
                        return;
                    }
                    if read.windows(4).any(|four| four == b"\r\n\r\n") {
                        let target = read.split(|byte| *byte == b' ').nth(1);
                        let target = target.unwrap_or_default();
                        let head = format!(
                            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                            target.len()
                        );
                        let _ = stream.write_all(&[head.as_bytes(), target].concat()).await;
                        return;
                    }
                }
            });
        }
    });
    address
}

/// What became of a question: `allow TARGET`, `deny`, or what else Envoy answered.
async fn ask(client: &Client, question: &Value) -> String {
    let Some(mut stream) = client.try_connect().await else {
        return "deny".to_owned();
    };
    let Some(request) = question.get("request") else {
        let _ = stream.write_all(b"ping").await;
        let mut heard = Vec::new();
        let _ = within(stream.read_to_end(&mut heard)).await;
        let passed = heard == b"pong";
        return if passed { "allow" } else { "deny" }.to_owned();
    };
    let mut head = [bytes(&request["method"]), bytes(&request["path"])].join(&b' ');
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let headers = request["headers"].as_array().expect("a list");
    let mut has_host = false;
    for pair in headers {
        has_host |= text(&pair[0]).eq_ignore_ascii_case("host");
        head.extend_from_slice(&[bytes(&pair[0]), b": ".to_vec(), bytes(&pair[1])].concat());
        head.extend_from_slice(b"\r\n");
    }
    if !has_host {
        head.extend_from_slice(b"host: db\r\n");
    }
    head.extend_from_slice(b"connection: close\r\n\r\n");
    let _ = stream.write_all(&head).await;
    let mut heard = Vec::new();
    let _ = within(stream.read_to_end(&mut heard)).await;
    let heard = String::from_utf8_lossy(&heard);
    let body = heard.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match heard.split(' ').nth(1) {
        Some("200") => format!("allow {body}"),
        Some("403") => "deny".to_owned(),
        other => format!("answered {other:?}"),
    }
}

fn expected(line: &Value) -> String {
    let answer = &line["answer"];
    match (text(&answer["effect"]), answer.get("forwarded_path")) {
        ("allow", Some(path)) => format!("allow {}", text(path)),
        (effect, _) => effect.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vectors_through_a_real_envoy() {
    let path = workspace().join("tests/vectors/authorize.ndjson");
    let vectors = std::fs::read_to_string(path).expect("the vectors");
    let mut sets: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in vectors.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        if is_carried(&line) {
            sets.entry(set(&line["question"])).or_default().push(line);
        }
    }
    let mut sets: Vec<Vec<Value>> = sets.into_values().collect();
    sets.sort_by_key(|lines| std::cmp::Reverse(lines.len()));
    let mut count = 0;
    sets.retain(|lines| {
        let is_wanted = count < ENOUGH;
        count += if is_wanted { lines.len() } else { 0 };
        is_wanted
    });
    assert!(count >= ENOUGH, "{count} vectors");
    let ca = Arc::new(TestCa::new("t.consul"));
    let said = sets.iter().map(|lines| Said {
        intentions: lines[0]["question"]["intentions"].clone(),
        trust_domain: lines[0]["question"]["trust_domain"].clone(),
        root: ca.pem(),
        intermediates: Vec::new(),
        mesh: Value::Null,
        providers: json!([]),
    });
    let agent = replayed::agent(said.collect()).await;
    let server = ca.service("db").issue();
    let mut plan = Plan::with(&server.pem(), &server.key_pem(), &ca.pem())
        .cluster(cluster("agent", agent))
        .cluster(cluster("app", application().await));
    let mut addresses = Vec::new();
    for (place, lines) in sets.iter().enumerate() {
        let question = &lines[0]["question"];
        let plugin = Plugin::new(configuration(question, place));
        let (next, address) = if question.get("request").is_some() {
            plan.http(&plugin)
        } else {
            plan.tcp(&plugin, "ON_DOWNSTREAM_DATA")
        };
        plan = next;
        addresses.push(address);
    }
    let Some(_envoy) = plan.start("the_vectors_through_a_real_envoy") else {
        return;
    };
    let mut tasks = tokio::task::JoinSet::new();
    let mut different = String::new();
    for (lines, address) in sets.into_iter().zip(addresses) {
        let ca = Arc::clone(&ca);
        tasks.spawn(async move {
            let mut different = String::new();
            for line in lines {
                let question = &line["question"];
                let uris: Vec<&str> = question["client_uris"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(text)
                    .collect();
                let leaf = ca.leaf("spiffe://t.consul/x").with(|leaf| leaf.uris(&uris));
                let leaf = leaf.issue();
                let client = Client::with(leaf.chain().to_vec(), leaf.key(), address);
                let got = ask(&client, question).await;
                let id = text(&question["id"]);
                let meant = MEANT.iter().find(|(other, _)| *other == id);
                let expected =
                    meant.map_or_else(|| expected(&line), |(_, meant)| (*meant).to_owned());
                if got != expected {
                    let path = &question["request"]["path"];
                    let _ = writeln!(different, "{id}: {got}, not {expected} ({path})");
                }
            }
            different
        });
        while tasks.len() >= 16 {
            different.push_str(&tasks.join_next().await.expect("one").expect("a task"));
        }
    }
    while let Some(one) = tasks.join_next().await {
        different.push_str(&one.expect("a task"));
    }
    let lines: Vec<&str> = different.lines().collect();
    assert!(
        lines.is_empty(),
        "{} of {count} differ:\n{}",
        lines.len(),
        lines[..lines.len().min(60)].join("\n")
    );
}
