//! How two replies are compared: what differs by nature is made neutral first.

use http::HeaderMap;
use serde_json::Value;

use crate::agents::Agent;
use crate::client::Answer;

/// How closely bodies are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Every key, every value.
    Full,
    /// Our keys must be keys of the real reply, with the same type.
    OurKeys,
    /// Status and headers only.
    NoBody,
}

/// A difference between two replies to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) step: String,
    /// `status`, `header <name>`, or `body <JSON pointer>`.
    pub(crate) field: String,
    pub(crate) real: String,
    pub(crate) ours: String,
}

/// Numbers that say when something happened.
const COUNTERS: [&str; 4] = ["CreateIndex", "ModifyIndex", "Hash", "SerialNumber"];

/// Headers whose values are compared; of `x-consul-index` only the presence is.
const HEADERS: [&str; 10] = [
    "content-type",
    "allow",
    "vary",
    "x-consul-knownleader",
    "x-consul-effective-consistency",
    "x-consul-query-backend",
    "x-consul-default-acl-policy",
    "x-consul-results-filtered-by-acls",
    "x-cache",
    "x-consul-translate-addresses",
];
const PRESENCE: [&str; 4] = [
    "x-consul-index",
    "x-consul-lastcontact",
    "x-consul-contenthash",
    "age",
];

pub(crate) fn replies(
    step: &str,
    real: (&Agent, &Answer),
    ours: (&Agent, &Answer),
    depth: Depth,
) -> Vec<Difference> {
    let mut found = Found {
        step: step.to_owned(),
        list: Vec::new(),
    };
    let (a, b) = (real.1, ours.1);
    found.check("status", a.status.as_str(), b.status.as_str());
    for name in HEADERS {
        found.check(
            &format!("header {name}"),
            &value(&a.headers, name),
            &value(&b.headers, name),
        );
    }
    for name in PRESENCE {
        let there = |headers: &HeaderMap| headers.contains_key(name).to_string();
        found.check(
            &format!("header {name}"),
            &there(&a.headers),
            &there(&b.headers),
        );
    }
    if depth == Depth::NoBody {
        return found.list;
    }
    let parse = |answer: &Answer| serde_json::from_slice::<Value>(&answer.body).ok();
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => {
            let neutral = (neutral(real.0, &a), neutral(ours.0, &b));
            found.values("", &neutral.0, &neutral.1, depth);
        }
        _ => {
            found.check(
                "body",
                &shape(&real.0.neutral(&a.text())),
                &shape(&ours.0.neutral(&b.text())),
            );
        }
    }
    found.list
}

fn value(headers: &HeaderMap, name: &str) -> String {
    let all: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    all.join(", ")
}

/// A JSON value with certificates, keys, times and digests replaced by their kind.
fn neutral(agent: &Agent, value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(shape(&agent.neutral(text))),
        Value::Array(items) => items.iter().map(|item| neutral(agent, item)).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                let shown = match key.as_str() {
                    name if COUNTERS.contains(&name) && value.is_number() => {
                        Value::from("<number>")
                    }
                    "ContentHash" => Value::from("<hash>"),
                    "consul-virtual" => Value::from("<virtual address>"),
                    _ => neutral(agent, value),
                };
                (agent.neutral(key), shown)
            };
            let mut shown: serde_json::Map<String, Value> = fields.iter().map(field).collect();
            // The agent's own view of a service gets its virtual address back
            // from the catalog, some time after the registration.
            let is_agents_view =
                shown.contains_key("Weights") && !shown.contains_key("CreateIndex");
            if let (true, Some(addresses)) = (is_agents_view, shown.get_mut("TaggedAddresses"))
                && let Some(addresses) = addresses.as_object_mut()
                && addresses.remove("consul-virtual").is_some()
                && addresses.is_empty()
            {
                shown.remove("TaggedAddresses");
            }
            Value::Object(shown)
        }
        other => other.clone(),
    }
}

/// A text's kind, when its content is random by nature.
fn shape(text: &str) -> String {
    if text.contains("-----BEGIN ") {
        let labels: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
            .collect();
        let end = if text.ends_with("-----\n") {
            ""
        } else {
            " without newline"
        };
        return format!("<pem {}{end}>", labels.join(", "));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let is_hex = |part: &&str| {
        part.len() == 2
            && part
                .chars()
                .all(|char| char.is_ascii_digit() || ('a'..='f').contains(&char))
    };
    if parts.iter().all(is_hex) && (parts.len() > 2 || parts.len() == 1) {
        return format!("<{} hex bytes>", parts.len());
    }
    let is_uuid = |part: (usize, &str)| {
        part.1.len() == [8, 4, 4, 4, 12].get(part.0).copied().unwrap_or_default()
            && part.1.chars().all(|char| char.is_ascii_hexdigit())
    };
    if text.split('-').count() == 5 && text.split('-').enumerate().all(is_uuid) {
        return "<uuid>".to_owned();
    }
    let bytes = text.as_bytes();
    if bytes.len() == 20 && bytes.ends_with(b"Z") && bytes.get(10) == Some(&b'T') {
        return "<time>".to_owned();
    }
    text.to_owned()
}

struct Found {
    step: String,
    list: Vec<Difference>,
}

impl Found {
    fn check(&mut self, field: &str, real: &str, ours: &str) {
        if real != ours {
            self.list.push(Difference {
                step: self.step.clone(),
                field: field.to_owned(),
                real: real.to_owned(),
                ours: ours.to_owned(),
            });
        }
    }

    fn values(&mut self, at: &str, real: &Value, ours: &Value, depth: Depth) {
        let field = format!("body {}", if at.is_empty() { "/" } else { at });
        match (real, ours) {
            (Value::Object(a), Value::Object(b)) => {
                for (key, ours) in b {
                    match a.get(key) {
                        Some(real) => self.values(&format!("{at}/{key}"), real, ours, depth),
                        None => {
                            self.check(&format!("body {at}/{key}"), "absent", &ours.to_string())
                        }
                    }
                }
                if depth == Depth::Full {
                    for (key, real) in a.iter().filter(|(key, _)| !b.contains_key(*key)) {
                        self.check(&format!("body {at}/{key}"), &real.to_string(), "absent");
                    }
                }
            }
            (Value::Array(a), Value::Array(b)) => {
                if depth == Depth::Full {
                    self.check(
                        &format!("{field} length"),
                        &a.len().to_string(),
                        &b.len().to_string(),
                    );
                }
                for (number, (real, ours)) in a.iter().zip(b).enumerate() {
                    self.values(&format!("{at}/{number}"), real, ours, depth);
                }
            }
            (real, ours) if depth == Depth::OurKeys => self.check(&field, kind(real), kind(ours)),
            (real, ours) => self.check(&field, &real.to_string(), &ours.to_string()),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
