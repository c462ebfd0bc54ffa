//! Answers, one JSON object for each question.

use portcullis_core::chain::{VerifiedPeer, VerifyErrorKind};
use portcullis_core::identity::{Kind, SpiffeId};
use portcullis_core::intention::Decision;
use portcullis_core::policy::{LoadProblem, Request, Trace};
use serde_json::{Map, Value, json};

use crate::runtime::{IdentityError, VerifyError};

/// An answer's fields, in their order but for `id`, which comes first.
pub(super) type Fields = Map<String, Value>;

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}

/// The answer to `authorize`.
pub(super) fn decision(decision: &Decision, text: &str, request: Option<&Request>) -> Fields {
    let mut because = Map::new();
    because.insert("code".to_owned(), json!(decision.code.code()));
    for (name, index) in [
        ("intention", decision.intention),
        ("permission", decision.permission),
    ] {
        if let Some(index) = index {
            because.insert(name.to_owned(), json!(index));
        }
    }
    let mut answer = fields(json!({
        "effect": decision.effect.code(),
        "because": because,
        "text": text,
    }));
    let forwarded = match (&decision.path, request) {
        (Some(path), _) => Some(path),
        (None, Some(request)) if decision.is_allowed() => Some(&request.path),
        _ => None,
    };
    if let Some(path) = forwarded {
        let text: String = path.iter().map(|byte| char::from(*byte)).collect();
        answer.insert("forwarded_path".to_owned(), json!(text));
    }
    if !decision.headers.is_empty() {
        let latin1 = |value: &[u8]| value.iter().map(|byte| char::from(*byte)).collect();
        let changes: Vec<(&str, Option<String>)> = decision
            .headers
            .iter()
            .map(|change| (change.name.as_str(), change.value.as_deref().map(latin1)))
            .collect();
        answer.insert("forwarded_headers".to_owned(), json!(changes));
    }
    answer
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
            let mut answer = fields(json!({"ok": true}));
            answer.extend(fields(parts(&id)));
            answer.remove("uri");
            answer
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
    let mut parts = fields(json!({
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
