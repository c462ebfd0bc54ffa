//! The vectors through `portcullis eval`'s evaluator, with both of its engines: each answer
//! must be the expected one, and both engines must write the same line. Chains are those
//! of real Consul agents and of OpenSSL in `guest/core/tests/data`, with what is known of
//! them from `guest/core/tests/chain/vectors.rs`.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::eval::Evaluator;
use portcullis::runtime::{PolicyError, aws_lc};
use portcullis::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis_tests::peers::workspace;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

/// A question as `eval` takes it, and what must be in its answer.
struct Vector {
    question: String,
    answer: Value,
}

fn read(name: &str) -> Vec<Vector> {
    let path = workspace().join(format!("tests/vectors/{name}.ndjson"));
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let mut question = line["question"].to_string();
            if let Some(raw) = line.get("intentions_json") {
                // Kept as it is written: a JSON writer would repair it.
                let raw = raw.as_str().expect("text");
                question = question.replacen('{', &format!("{{\"intentions\":{raw},"), 1);
            }
            Vector {
                question,
                answer: line["answer"].clone(),
            }
        })
        .collect()
}

/// Base64 of the certificates of a file of `guest/core/tests/data`.
fn certificates(name: &str) -> Vec<String> {
    let path = workspace().join(format!("guest/core/tests/data/{name}.pem"));
    CertificateDer::pem_file_iter(&path)
        .expect("the file opens")
        .map(|der| STANDARD.encode(der.expect("PEM")))
        .collect()
}

const CONSUL: &str = "51ed6d89-c0bc-08f4-371d-6d8bfbe0c10e.consul";

/// A chain, and the code of its answer: `verified` if it is accepted. `more` are fields of
/// the question that differ from the usual.
fn chain(leaf: &str, roots: &[&str], more: &Value, code: &str) -> Vector {
    let (trust_domain, usage, at) = if leaf.starts_with("consul/") {
        (CONSUL, "client", "2026-11-21T05:15:00Z")
    } else {
        ("vectors.example", "server", "2026-11-22T00:00:00Z")
    };
    let chain = certificates(leaf);
    let roots: Vec<String> = roots.iter().flat_map(|root| certificates(root)).collect();
    let mut question = json!({
        "id": format!("{leaf} {more}"),
        "ask": "verify-peer",
        "leaf": chain[0],
        "intermediates": chain[1..],
        "roots": roots,
        "at": at,
        "trust_domain": trust_domain,
        "usage": usage,
    });
    for (field, value) in more.as_object().expect("an object") {
        question[field] = value.clone();
    }
    let effect = if code == "verified" {
        "accept"
    } else {
        "reject"
    };
    let mut answer = json!({ "effect": effect, "because": { "code": code } });
    if code == "verified" && trust_domain == CONSUL {
        answer["uri"] = json!(web());
    }
    Vector {
        question: question.to_string(),
        answer,
    }
}

fn web() -> String {
    format!("spiffe://{CONSUL}/ns/default/dc/dc1/svc/web")
}

/// Every pair of key and hash that is supported, with three exceptions that are not, and
/// the chains of a Consul agent in time and out of it.
fn chains() -> Vec<Vector> {
    let usual = json!({});
    let consul = |more: &Value, code| chain("consul/p256-leaf", &["consul/p256-root0"], more, code);
    let mut vectors = vec![
        consul(&usual, "verified"),
        consul(&json!({ "expect_uri": web() }), "verified"),
        consul(
            &json!({ "expect_uri": format!("{}2", web()) }),
            "unexpected-identity",
        ),
        consul(&json!({ "usage": "server" }), "verified"),
        consul(&json!({ "at": "2026-11-24T05:07:25Z" }), "verified"),
        consul(&json!({ "at": "2026-11-24T05:07:26Z" }), "expired"),
        consul(&json!({ "at": "2026-11-21T05:07:24Z" }), "not-yet-valid"),
        consul(
            &json!({ "at": "2026-11-21T05:08:00Z" }),
            "issuer-not-yet-valid",
        ),
        consul(
            &json!({ "trust_domain": "t.consul" }),
            "foreign-trust-domain",
        ),
        consul(&json!({ "roots": [] }), "roots-not-loaded"),
        consul(
            &json!({ "leaf": STANDARD.encode("x") }),
            "malformed-certificate",
        ),
        chain(
            "consul/p256-leaf",
            &["openssl/p256-sha256-root"],
            &usual,
            "unknown-issuer",
        ),
    ];
    let rotation = "consul/p384-to-rsa-leaf";
    for (root, code) in [(0, "verified"), (1, "verified"), (2, "unknown-issuer")] {
        let root = format!("consul/p384-to-rsa-root{root}");
        vectors.push(chain(rotation, &[&root], &usual, code));
    }
    let mut accepted = vec!["ed25519".to_owned()];
    for key in ["p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096"] {
        accepted.extend(["256", "384", "512"].map(|hash| format!("{key}-sha{hash}")));
    }
    let accepted = accepted.into_iter().map(|name| (name, "verified"));
    let refused = [
        ("rsa2048-sha1", "unsupported-signature"),
        ("p256-sha1", "unsupported-signature"),
        // No root that can be used is no root.
        ("p224-sha256", "roots-not-loaded"),
        ("rsa1024-sha256", "roots-not-loaded"),
        ("rsa8192-sha256", "roots-not-loaded"),
    ];
    let refused = refused.map(|(name, code)| (name.to_owned(), code));
    for (name, code) in accepted.chain(refused) {
        let (leaf, root) = (
            format!("openssl/{name}-leaf"),
            format!("openssl/{name}-root"),
        );
        vectors.push(chain(&leaf, &[&root], &usual, code));
    }
    vectors
}

/// Whether all that `expected` says is so in `answer`.
fn holds(expected: &Value, answer: &Value) -> bool {
    match expected {
        Value::Object(fields) => fields
            .iter()
            .all(|(name, field)| answer.get(name).is_some_and(|answer| holds(field, answer))),
        _ => expected == answer,
    }
}

fn answers(
    vectors: &[Vector],
    new_policy: impl Fn() -> Result<Policy, PolicyError>,
) -> Vec<String> {
    let mut evaluator = Evaluator::new(new_policy, true);
    (1_u64..)
        .zip(vectors)
        .map(|(number, vector)| evaluator.answer(number, vector.question.as_bytes()).json)
        .collect()
}

/// What is wrong with an engine's answers, one line each.
fn wrong(vectors: &[Vector], answers: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (vector, answer) in vectors.iter().zip(answers) {
        let read: Value = serde_json::from_str(answer).expect("JSON");
        let question: Value = serde_json::from_str(&vector.question).unwrap_or_default();
        let same_question = question.is_null() || read["id"] == question["id"];
        let has_text = read["ok"] == json!(true) || read["text"].is_string();
        if !same_question || !has_text || !holds(&vector.answer, &read) {
            wrong.push(format!("expected {}, got {answer}", vector.answer));
        }
    }
    wrong
}

#[test]
fn eval_answers_as_expected_and_alike_with_both_engines() {
    let mut vectors = read("authorize");
    vectors.extend(read("parse-id"));
    vectors.extend(chains());
    let component = Component::embedded(&ComponentOptions::default()).expect("it compiles");
    let options = PolicyOptions {
        instances: 1,
        ..PolicyOptions::default()
    };
    let native = answers(&vectors, || Ok(Policy::native(aws_lc())));
    let wasm = answers(&vectors, || Policy::new(&component, options));
    println!(
        "{} questions, component {}",
        vectors.len(),
        component.sha256()
    );
    for (engine, answers) in [("native", &native), ("component", &wasm)] {
        assert_eq!(answers.len(), vectors.len());
        let wrong = wrong(&vectors, answers);
        assert!(
            wrong.is_empty(),
            "{engine}: {} of {}:\n{}",
            wrong.len(),
            vectors.len(),
            wrong.join("\n")
        );
    }
    assert_eq!(native, wasm);
}
