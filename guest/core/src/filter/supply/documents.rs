//! What workers share and what the policy loads, as text.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::agent::AllowDeny;
use crate::chain;
use crate::filter::settings::Settings;
use crate::intention::Protocol;
use crate::policy::{Document, LoadProblem, Policy};
use crate::time::Timestamp;

/// The agent's roots, as a leader publishes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishedRoots {
    pub(super) trust_domain: String,
    pub(super) roots: Vec<String>,
    pub(super) intermediates: Vec<String>,
}

impl PublishedRoots {
    /// Those of nobody, to try the rest of a document.
    pub(super) fn for_trials() -> Self {
        Self {
            trust_domain: "trial".to_owned(),
            roots: Vec::new(),
            intermediates: Vec::new(),
        }
    }
}

/// The document `mesh`.
#[derive(Serialize)]
struct MeshDocument<'a> {
    trust_domain: &'a str,
    roots: &'a [String],
    default_policy: &'a str,
    default_policy_source: &'a str,
    matching: &'a str,
    ambiguous_path: &'a str,
    max_stale_ms: u64,
    #[serde(skip_serializing_if = "Map::is_empty")]
    peers: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_normalization: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_providers: Option<&'a RawValue>,
}

pub(super) fn published_default(value: &[u8]) -> Option<(AllowDeny, String)> {
    let (policy, source) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((AllowDeny::parse(policy)?, source.to_owned()))
}

pub(super) fn mesh_document(
    settings: &Settings,
    roots: &PublishedRoots,
    default: Option<(AllowDeny, &str)>,
    normalization: Option<&RawValue>,
    peers: &Map<String, Value>,
    providers: Option<&RawValue>,
) -> Result<Vec<u8>, String> {
    let (default_policy, default_policy_source) = match default {
        Some((AllowDeny::Allow, source)) => ("allow", source),
        Some((AllowDeny::Deny, source)) => ("deny", source),
        None => ("unknown", "auto"),
    };
    let document = MeshDocument {
        trust_domain: &roots.trust_domain,
        roots: &roots.roots,
        default_policy,
        default_policy_source,
        matching: settings.matching,
        ambiguous_path: settings.ambiguous_path,
        max_stale_ms: settings.max_stale_ms,
        peers,
        request_normalization: normalization,
        jwt_providers: providers,
    };
    serde_json::to_vec(&document).map_err(|error| error.to_string())
}

pub(super) fn service_document(protocol: Protocol, list: &str) -> Vec<u8> {
    format!(
        r#"{{"protocol":"{}","intentions":{list}}}"#,
        protocol.code()
    )
    .into_bytes()
}

/// The name of the document with a provider's keys.
pub(super) fn keys_document(provider: &str) -> String {
    format!("jwks/{provider}")
}

/// Whether a policy would take a document.
pub(super) fn trial(name: String, body: Vec<u8>) -> Result<(), String> {
    let document = Document {
        name,
        body: Some(body),
        confirmed_at: Timestamp::from_millis(0),
    };
    let report = Policy::new(chain::rustcrypto()).load(1, vec![document]);
    match report.refused.first() {
        Some(problem) => Err(in_words(problem)),
        None => Ok(()),
    }
}

pub(super) fn in_words(problem: &LoadProblem) -> String {
    format!(
        "document `{}`{}{}: {}",
        problem.document,
        if problem.pointer.is_empty() {
            ""
        } else {
            " at "
        },
        problem.pointer,
        problem.text
    )
}
