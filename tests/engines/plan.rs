//! The vectors, as calls of the WIT's functions that every engine can make.
//!
//! Integers are written as text, bytes as base64, as the adapters take them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_core::policy::encode_headers;
use portcullis_core::time::Timestamp;
use portcullis_testkit::TestCa;
use portcullis_tests::peers::workspace;
use serde_json::{Map, Value, json};

/// Calls of one fresh instance, and what must come back.
pub(crate) struct Plan {
    pub(crate) id: String,
    /// Each an array: a function and its arguments.
    pub(crate) calls: Vec<Value>,
    /// One for each call.
    pub(crate) expected: Vec<Expected>,
}

/// What is known about an answer beforehand.
pub(crate) enum Expected {
    /// Nothing but that all engines agree.
    Agreement,
    /// A decision, or a trace with it.
    Decision {
        effect: String,
        code: String,
        intention: Option<String>,
        permission: Option<String>,
        /// For a request: the target that goes upstream or the location, if it is not
        /// the one that arrived.
        path: Option<Value>,
        /// What changes in the headers that go upstream.
        headers: Value,
    },
    /// The documents that a load refuses.
    Refused(Vec<String>),
    /// An identity's parts.
    Identity(Map<String, Value>),
    /// The code of an error.
    Error(String),
    /// A peer.
    Peer(String),
}

impl Expected {
    /// The reason of an expected decision.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Decision { code, .. } => Some(code),
            _ => None,
        }
    }

    /// What is wrong with `answer`.
    pub(crate) fn problem(&self, answer: &Value) -> Option<String> {
        let right = match self {
            Self::Agreement => true,
            Self::Decision {
                effect,
                code,
                intention,
                permission,
                path,
                headers,
            } => {
                let decision = answer.get("decision").unwrap_or(answer);
                decision["effect"] == json!(effect)
                    && decision["code"] == json!(code)
                    && intention
                        .as_ref()
                        .is_none_or(|index| decision["intention"] == json!(index))
                    && permission
                        .as_ref()
                        .is_none_or(|index| decision["permission"] == json!(index))
                    && path.as_ref().is_none_or(|path| decision["path"] == *path)
                    && decision["headers"] == *headers
            }
            Self::Refused(documents) => {
                let refused = answer["refused"].as_array().expect("a list");
                let names: Vec<_> = refused
                    .iter()
                    .filter_map(|problem| problem["document"].as_str())
                    .collect();
                names == *documents
            }
            Self::Identity(parts) => parts
                .iter()
                .all(|(name, part)| answer["ok"][name.replace('_', "-")] == *part),
            Self::Error(code) => answer["err"]["code"] == json!(code),
            Self::Peer(uri) => answer["ok"]["identity"]["uri"] == json!(uri),
        };
        (!right).then(|| answer.to_string())
    }
}

/// All vectors.
pub(crate) fn all() -> Vec<Plan> {
    let mut plans: Vec<Plan> = read("authorize").iter().map(authorize).collect();
    plans.extend(read("parse-id").iter().map(parse_id));
    plans.extend(read("documents").iter().map(story));
    plans.extend(chains());
    assert!(plans.len() > 1_000, "{} vectors", plans.len());
    plans
}

pub(crate) fn read(name: &str) -> Vec<Value> {
    let path = workspace().join(format!("tests/vectors/{name}.ndjson"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// Each character is one byte.
fn latin1(value: &Value) -> String {
    let bytes: Vec<u8> = text(value)
        .chars()
        .map(|letter| u8::try_from(letter).expect("one byte"))
        .collect();
    STANDARD.encode(bytes)
}

fn document(name: &str, body: Option<&str>, confirmed_at: &str) -> Value {
    json!({ "name": name, "body": body.map(|body| STANDARD.encode(body)), "confirmed-at": confirmed_at })
}

fn decided(line: &Value) -> Expected {
    let answer = &line["answer"];
    let arrived = &line["question"]["request"]["path"];
    // A request to a target that speaks TCP is not looked at.
    let path = (!arrived.is_null()).then(|| match answer.get("forwarded_path") {
        Some(path) if path != arrived => json!(latin1(path)),
        _ => Value::Null,
    });
    let headers = answer.get("forwarded_headers").and_then(Value::as_array);
    let headers = headers.into_iter().flatten().map(|change| {
        let value = change.get(1).filter(|value| !value.is_null()).map(latin1);
        json!({ "name": change[0], "value": value })
    });
    Expected::Decision {
        headers: Value::Array(headers.collect()),
        effect: text(&answer["effect"]),
        code: text(&answer["because"]["code"]),
        intention: answer["because"].get("intention").map(ToString::to_string),
        permission: answer["because"].get("permission").map(ToString::to_string),
        path,
    }
}

/// A question of `eval`: its documents are loaded, and it is asked in all ways.
fn authorize(line: &Value) -> Plan {
    let question = &line["question"];
    let field =
        |name: &str, default: &str| question.get(name).map_or_else(|| default.to_owned(), text);
    let mut mesh = json!({
        "trust_domain": question["trust_domain"],
        "roots": [],
        "default_policy": question["default_policy"],
        "matching": field("matching", "strict"),
        "max_stale_ms": 0,
    });
    for field in ["request_normalization", "jwt_providers"] {
        if let Some(value) = question.get(field) {
            mesh[field] = value.clone();
        }
    }
    if let Some(peers) = question.get("peers") {
        let peers = peers
            .as_object()
            .expect("an object")
            .iter()
            .map(|(name, peer)| {
                let mut peer = peer.clone();
                peer["roots"] = json!([]);
                (name.clone(), peer)
            });
        mesh["peers"] = Value::Object(peers.collect());
    }
    let (namespace, partition) = (
        field("target_namespace", "default"),
        field("target_partition", "default"),
    );
    let name = text(&question["target"]);
    let intentions = line
        .get("intentions_json")
        .map_or_else(|| question["intentions"].to_string(), text);
    let service = format!(
        "{{\"protocol\":{},\"intentions\":{intentions}}}",
        json!(field("protocol", "tcp"))
    );
    let changes = json!([
        document("mesh", Some(&mesh.to_string()), "0"),
        document(
            &format!("service/{partition}/{namespace}/{name}"),
            Some(&service),
            "0"
        ),
    ]);
    let target = format!("{partition}/{namespace}/{name}");
    let client = json!({ "uris": question["client_uris"], "via-gateway": question.get("via_gateway").map(latin1) });
    let request = question
        .get("request")
        .map(|request| self::request(request, &field("http_version", "1.1")));
    let now = question.get("at").map_or(1_000, |at| {
        Timestamp::parse(&text(at)).expect("a time").as_millis()
    });
    let ask = |function: &str| json!([function, target, client, request, now.to_string()]);
    let expected = decided(line);
    let described = match &expected {
        Expected::Decision {
            effect,
            code,
            intention,
            permission,
            path,
            headers,
        } => json!({ "effect": effect, "code": code, "intention": intention,
            "permission": permission, "generation": "1", "path": path, "headers": headers }),
        _ => Value::Null,
    };
    Plan {
        id: text(&question["id"]),
        calls: vec![
            json!(["load", "1", changes]),
            ask("authorize"),
            ask("explain"),
            json!(["describe", target, described]),
            json!(["needed-headers", target]),
        ],
        expected: vec![
            // A target that cannot be a name is refused as a document too.
            Expected::Agreement,
            expected,
            decided(line),
            Expected::Agreement,
            Expected::Agreement,
        ],
    }
}

fn request(request: &Value, version: &str) -> Value {
    let headers: Vec<(Vec<u8>, Vec<u8>)> = request["headers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|header| {
            let bytes = |value: &Value| STANDARD.decode(latin1(value)).expect("base64");
            (bytes(&header[0]), bytes(&header[1]))
        })
        .collect();
    let headers = encode_headers(
        headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice())),
    );
    json!({
        "version": if version == "2" { "http2" } else { "http1" },
        "method": latin1(&request["method"]),
        "path": latin1(&request["path"]),
        "authority": request.get("authority").map(latin1),
        "scheme": request.get("scheme"),
        "headers": STANDARD.encode(headers.expect("short headers")),
    })
}

fn parse_id(line: &Value) -> Plan {
    let (question, answer) = (&line["question"], &line["answer"]);
    let expected = if answer["ok"] == json!(true) {
        let mut parts = answer.as_object().expect("an object").clone();
        parts.remove("ok");
        Expected::Identity(parts)
    } else {
        Expected::Error(text(&answer["because"]["code"]))
    };
    Plan {
        id: format!("parse-id {}", question["id"]),
        calls: vec![json!(["parse-id", question["uri"]])],
        expected: vec![expected],
    }
}

/// Loads, confirmations and questions in turn.
fn story(line: &Value) -> Plan {
    let mut plan = Plan {
        id: text(&line["id"]),
        calls: Vec::new(),
        expected: Vec::new(),
    };
    for step in line["steps"].as_array().expect("a list") {
        let (call, expected) = if let Some(load) = step.get("load") {
            let changes: Vec<_> = load["changes"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|change| {
                    let body = change
                        .get("body")
                        .filter(|body| !body.is_null())
                        .map(ToString::to_string);
                    document(
                        &text(&change["name"]),
                        body.as_deref(),
                        &change["confirmed_at"].to_string(),
                    )
                })
                .collect();
            let refused = step["refused"]
                .as_array()
                .expect("a list")
                .iter()
                .map(text)
                .collect();
            (
                json!(["load", load["generation"].to_string(), changes]),
                Expected::Refused(refused),
            )
        } else if let Some(touch) = step.get("touch") {
            (
                json!(["touch", touch["names"], touch["confirmed_at"].to_string()]),
                Expected::Agreement,
            )
        } else {
            let asked = &step["authorize"];
            let client = json!({ "uris": asked["client_uris"], "via-gateway": null });
            (
                json!([
                    "authorize",
                    asked["target"],
                    client,
                    null,
                    asked["at"].to_string()
                ]),
                decided(step),
            )
        };
        plan.calls.push(call);
        plan.expected.push(expected);
    }
    plan
}

/// Chains of a new authority: one that is good, and one for each way to be refused.
fn chains() -> Vec<Plan> {
    const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";
    let now = portcullis::clock::Clock::system()
        .now()
        .as_millis()
        .to_string();
    let (ca, other) = (TestCa::new(TRUST_DOMAIN), TestCa::new(TRUST_DOMAIN));
    let mesh = json!({ "trust_domain": TRUST_DOMAIN, "roots": [ca.pem()], "default_policy": "deny", "max_stale_ms": 0 });
    let good = ca.service("web").issue();
    let uri = format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/web");
    let chain = |der: &[Vec<u8>]| {
        der.iter()
            .map(|certificate| STANDARD.encode(certificate))
            .collect::<Vec<_>>()
    };
    let good = chain(&good.chain_der());
    let twice = [good.clone(), good.clone()].concat();
    let crossed = other
        .clone()
        .presenting(&[ca.cross_sign(&other)])
        .service("web")
        .issue();
    let peer = || Expected::Peer(uri.clone());
    let cases = [
        (
            "good",
            json!(["verify-peer", good, "client", null, now]),
            peer(),
        ),
        (
            "good as a server",
            json!(["verify-peer", good, "server", uri, now]),
            peer(),
        ),
        (
            "twice",
            json!(["verify-peer", twice, "client", null, now]),
            peer(),
        ),
        (
            "cross-signed",
            json!([
                "verify-peer",
                chain(&crossed.chain_der()),
                "client",
                null,
                now
            ]),
            peer(),
        ),
        (
            "another identity",
            json!(["verify-peer", good, "server", format!("{uri}2"), now]),
            Expected::Agreement,
        ),
        (
            "no identity",
            json!(["verify-peer", good, "server", "", now]),
            Expected::Error("malformed-expected-identity".to_owned()),
        ),
        (
            "another root",
            json!([
                "verify-peer",
                chain(&other.service("web").issue().chain_der()),
                "client",
                null,
                now
            ]),
            Expected::Agreement,
        ),
        (
            "too early",
            json!(["verify-peer", good, "client", null, "0"]),
            Expected::Agreement,
        ),
        (
            "too late",
            json!(["verify-peer", good, "client", null, u64::MAX.to_string()]),
            Expected::Agreement,
        ),
        (
            "nothing",
            json!(["verify-peer", [], "client", null, now]),
            Expected::Agreement,
        ),
        (
            "no certificate",
            json!(["verify-peer", [STANDARD.encode("x")], "client", null, now]),
            Expected::Agreement,
        ),
        (
            "garbage behind",
            json!([
                "verify-peer",
                [good[0], STANDARD.encode("x")],
                "client",
                null,
                now
            ]),
            Expected::Agreement,
        ),
    ];
    let load = || {
        json!([
            "load",
            "1",
            [document("mesh", Some(&mesh.to_string()), "0")]
        ])
    };
    let mut plans: Vec<Plan> = cases
        .into_iter()
        .map(|(name, call, expected)| Plan {
            id: format!("chain: {name}"),
            calls: vec![load(), call],
            expected: vec![Expected::Refused(Vec::new()), expected],
        })
        .collect();
    plans.push(Plan {
        id: "chain: nothing loaded".to_owned(),
        calls: vec![json!(["verify-peer", good, "client", null, now])],
        expected: vec![Expected::Error("roots-not-loaded".to_owned())],
    });
    plans
}
