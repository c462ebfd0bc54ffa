//! Answers, one JSON object for each question.

use portcullis_core::chain::{VerifiedPeer, VerifyErrorKind};
use portcullis_core::identity::{Kind, SpiffeId};
use portcullis_core::intention::Decision;
use portcullis_core::policy::{LoadProblem, Request, Trace};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::EvalError;
use crate::decisions::Because;
use crate::runtime::{IdentityError, VerifyError};

/// An answer's fields in their order, but for `id`, which comes first.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Fields {
    Decision(Decided),
    Other(Map<String, Value>),
}

/// The answer to `authorize`.
#[derive(Serialize)]
pub(super) struct Decided {
    because: Because,
    effect: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    forwarded_headers: Vec<(String, Option<String>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded_path: Option<String>,
    text: String,
    /// With `--explain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Value>,
}

impl Fields {
    /// What is said about a line that has no answer.
    pub(super) fn error(error: &EvalError, line: u64) -> Self {
        fields(json!({"error": error.to_string(), "line": line}))
    }
}

fn fields(value: Value) -> Fields {
    Fields::Other(object(value))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The answer to `authorize`.
pub(super) fn decision(
    decision: Decision,
    text: String,
    request: Option<Request>,
    trace: Option<Value>,
) -> Decided {
    let is_allowed = decision.is_allowed();
    let arrived = request.filter(|_| is_allowed).map(|request| request.path);
    Decided {
        because: Because::of(&decision),
        effect: decision.effect.code(),
        forwarded_headers: decision
            .headers
            .into_iter()
            .map(|change| (change.name, change.value.map(latin1)))
            .collect(),
        forwarded_path: decision.path.or(arrived).map(latin1),
        text,
        trace,
    }
}

/// Each byte is one character.
fn latin1(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => text,
        Ok(text) => text.bytes().map(char::from).collect(),
        Err(error) => error.as_bytes().iter().copied().map(char::from).collect(),
    }
}

/// What `--explain` adds.
pub(super) fn trace(trace: &Trace, warnings: &[LoadProblem]) -> Value {
    let steps: Vec<Value> = trace
        .steps
        .iter()
        .map(|step| {
            json!({
                "intention": step.intention,
                "precedence": step.precedence,
                "rule": step.rule,
                "matched": step.matched,
                "failed": step.failed,
            })
        })
        .collect();
    let warnings: Vec<Value> = warnings
        .iter()
        .map(|warning| json!({"document": warning.document, "pointer": warning.pointer, "text": warning.text}))
        .collect();
    json!({
        "source": trace.source.as_ref().map(parts),
        "steps": steps,
        "default_policy": trace.default_policy,
        "notes": trace.notes,
        "warnings": warnings,
    })
}

/// The answer to `verify-peer`.
pub(super) fn verified(result: Result<VerifiedPeer, VerifyError>) -> Fields {
    match result {
        Ok(peer) => fields(json!({
            "effect": "accept",
            "uri": peer.id.to_string(),
            "because": {
                "code": "verified",
                "serial": peer.serial,
                "not_after": peer.not_after.to_string(),
            },
            "text": format!("accepted: the chain leads to a root until {}", peer.not_after),
        })),
        Err(error) => rejected(error.kind(), error.code(), &error.to_string()),
    }
}

/// The answer to `verify-peer` for a chain that is refused.
pub(super) fn rejected(kind: VerifyErrorKind, code: &str, text: &str) -> Fields {
    let kind = match kind {
        VerifyErrorKind::Malformed => "malformed",
        VerifyErrorKind::Untrusted => "untrusted",
        VerifyErrorKind::Identity => "identity",
        VerifyErrorKind::Expired => "expired",
        VerifyErrorKind::NotReady => "not-ready",
    };
    fields(json!({
        "effect": "reject",
        "because": {"code": code, "kind": kind},
        "text": format!("rejected: {text}"),
    }))
}

/// The answer to `parse-id`.
pub(super) fn parsed(result: Result<SpiffeId, IdentityError>) -> Fields {
    match result {
        Ok(id) => {
            let mut answer = object(parts(&id));
            answer.insert("ok".to_owned(), json!(true));
            answer.remove("uri");
            Fields::Other(answer)
        }
        Err(error) => fields(json!({
            "ok": false,
            "because": {"code": error.code()},
            "text": error.to_string(),
        })),
    }
}

/// An identity taken apart; parts that its kind does not have are absent.
fn parts(id: &SpiffeId) -> Value {
    let mut parts = object(json!({
        "uri": id.to_string(),
        "kind": id.kind().name(),
        "trust_domain": id.trust_domain().as_str(),
    }));
    let mut set = |name: &str, value: &str| parts.insert(name.to_owned(), json!(value));
    match id.kind() {
        Kind::Service(path) => {
            set("partition", path.partition.as_str());
            set("namespace", path.namespace.as_str());
            set("datacenter", path.datacenter.as_str());
            set("service", path.service.as_str());
        }
        Kind::Agent {
            partition,
            datacenter,
            node,
        } => {
            set("partition", partition.as_str());
            set("datacenter", datacenter.as_str());
            set("agent", node.as_str());
        }
        Kind::Server { datacenter } => drop(set("datacenter", datacenter.as_str())),
        Kind::MeshGateway {
            partition,
            datacenter,
        } => {
            set("partition", partition.as_str());
            set("datacenter", datacenter.as_str());
        }
        Kind::Signing | Kind::Other { .. } => {}
    }
    Value::Object(parts)
}
