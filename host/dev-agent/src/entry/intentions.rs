//! Intentions seen through the service-intentions entries that hold them.

use serde_json::{Map, Value, json};

use super::precedence::{precedence, sort, text};
use super::{Entries, Entry};

const KIND: &str = "service-intentions";

/// Which side of an intention a name is matched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// What decided about a pair of services.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// An intention, with its allow or deny.
    Intention { allowed: bool, reason: String },
    /// None matched.
    Default,
}

impl Entries {
    /// Every intention, in the order of the match endpoint.
    pub(crate) fn intentions(&self) -> Vec<Map<String, Value>> {
        let mut all: Vec<_> = self.of_kind(KIND).flat_map(of_entry).collect();
        sort(&mut all);
        all
    }

    /// The intentions that concern `name`, those with wildcards included.
    pub(crate) fn matching(&self, side: Side, name: &str) -> Vec<Map<String, Value>> {
        let mut found: Vec<_> = match side {
            // Entries are found by their name without regard to case.
            Side::Destination => [name, "*"][..if name == "*" { 1 } else { 2 }]
                .iter()
                .filter_map(|name| self.get(KIND, name))
                .flat_map(of_entry)
                .collect(),
            Side::Source => self
                .of_kind(KIND)
                .flat_map(of_entry)
                .filter(|intention| {
                    matches!(text(intention, "SourceName"), "*")
                        || text(intention, "SourceName") == name
                })
                .collect(),
        };
        sort(&mut found);
        found
    }

    /// The intention with exactly these names.
    pub(crate) fn exact(
        &self,
        peer: &str,
        source: &str,
        destination: &str,
    ) -> Option<Map<String, Value>> {
        let entry = self.get(KIND, destination)?;
        of_entry(entry).into_iter().find(|intention| {
            text(intention, "SourceName") == source && text(intention, "SourcePeer") == peer
        })
    }

    /// Judges a connection from `source` (in namespace `namespace`) to
    /// `destination` as the authorize endpoint does: local sources only, and an
    /// intention with permissions denies.
    pub(crate) fn judge(&self, namespace: &str, source: &str, destination: &str) -> Verdict {
        let matching = self.matching(Side::Destination, destination);
        let first = matching.iter().find(|intention| {
            let name = text(intention, "SourceName");
            text(intention, "SourcePeer").is_empty()
                && namespace == "default"
                && (name == "*" || name == source)
        });
        let Some(intention) = first else {
            return Verdict::Default;
        };
        let rank = intention
            .get("Precedence")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let pair = format!(
            "default/{} => default/{}",
            text(intention, "SourceName"),
            text(intention, "DestinationName")
        );
        match intention.get("Permissions").and_then(Value::as_array) {
            Some(permissions) => Verdict::Intention {
                allowed: false,
                reason: format!(
                    "Matched L7 intention: {pair} (Precedence: {rank}, Permissions: {})",
                    permissions.len()
                ),
            },
            None => {
                let action = text(intention, "Action");
                Verdict::Intention {
                    allowed: action == "allow",
                    reason: format!(
                        "Matched L4 intention: {pair} (Precedence: {rank}, Action: {})",
                        action.to_uppercase()
                    ),
                }
            }
        }
    }

    /// Writes one intention into the entry of its destination.
    ///
    /// # Errors
    /// Consul's words for what is invalid.
    pub(crate) fn put_intention(
        &mut self,
        source: &str,
        destination: &str,
        mut fields: Map<String, Value>,
        index: u64,
    ) -> Result<(), String> {
        fields.insert("Name".to_owned(), json!(source));
        let known = self
            .get(KIND, destination)
            .map(|entry| entry.fields.clone());
        let mut entry = known.unwrap_or_else(|| {
            let mut entry = Map::new();
            entry.insert("Kind".to_owned(), json!(KIND));
            entry.insert("Name".to_owned(), json!(destination));
            entry
        });
        let mut sources = sources(&entry);
        match sources.iter_mut().find(|known| is(known, source)) {
            Some(known) => *known = Value::Object(fields),
            None => sources.push(Value::Object(fields)),
        }
        entry.insert("Sources".to_owned(), Value::Array(sources));
        self.put(KIND, entry, index).map(|_| ())
    }

    /// Removes one intention; the entry goes with its last source.
    ///
    /// # Errors
    /// Consul's words for why it must stay.
    pub(crate) fn delete_intention(
        &mut self,
        source: &str,
        destination: &str,
        index: u64,
    ) -> Result<bool, String> {
        let Some(entry) = self.get(KIND, destination) else {
            return Ok(false);
        };
        let mut fields = entry.fields.clone();
        let mut sources = sources(&fields);
        let before = sources.len();
        sources.retain(|known| !is(known, source));
        if sources.len() == before {
            return Ok(false);
        }
        if sources.is_empty() {
            return self.delete(KIND, destination, index);
        }
        fields.insert("Sources".to_owned(), Value::Array(sources));
        self.put(KIND, fields, index)
    }
}

fn sources(entry: &Map<String, Value>) -> Vec<Value> {
    entry
        .get("Sources")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

fn is(source: &Value, name: &str) -> bool {
    source.get("Name").and_then(Value::as_str) == Some(name) && source.get("Peer").is_none()
}

/// The intentions of one entry, as the match endpoint shows them.
fn of_entry(entry: &Entry) -> Vec<Map<String, Value>> {
    let show = |source: &Value| {
        let source = source.as_object()?;
        let mut shown = Map::new();
        let name = text(source, "Name");
        let mut set = |key: &str, value: Value| {
            shown.insert(key.to_owned(), value);
        };
        set("SourceNS", json!("default"));
        set("SourceName", json!(name));
        set("DestinationNS", json!("default"));
        set("DestinationName", json!(entry.name));
        set("SourceType", json!("consul"));
        set("Precedence", json!(precedence(name, &entry.name)));
        set("CreateIndex", json!(entry.create_index));
        set("ModifyIndex", json!(entry.modify_index));
        let copies = [
            ("Description", source.get("Description")),
            ("SourcePeer", source.get("Peer")),
            ("Action", source.get("Action")),
            ("Permissions", source.get("Permissions")),
            ("JWT", entry.fields.get("JWT")),
            ("Meta", entry.fields.get("Meta")),
        ];
        for (key, value) in copies {
            if let Some(value) = value {
                shown.insert(key.to_owned(), value.clone());
            }
        }
        Some(shown)
    };
    sources(&entry.fields).iter().filter_map(show).collect()
}
