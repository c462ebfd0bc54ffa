//! Reads configuration entries, replies and lists into [`Entries`].

use std::path::Path;

use serde_json::{Map, Value, json};

use super::rule::{Place, Rule};
use super::schema;
use super::{Entries, EntriesError};
use crate::definitions::schema::folded;
use crate::definitions::tree::{Field, Kind, Node, Problem};

/// Where an entry comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It is the whole file.
    File,
    /// It is one of several in a file.
    List,
    /// An agent told it.
    Agent,
}

impl Entries {
    pub(super) fn add_file(&mut self, file: &Path) -> Result<(), EntriesError> {
        let root = crate::definitions::read_tree(file)?;
        self.add(&root, &file.display().to_string())
            .map_err(|problem| crate::definitions::content(file, problem))?;
        Ok(())
    }

    /// One entry, a list of entries or intentions, `config_entries` of an agent's
    /// configuration, or the reply to `intentions/match`.
    pub(super) fn add(&mut self, root: &Node, file: &str) -> Result<(), Problem> {
        match &root.kind {
            Kind::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.add_item(item, file, &format!("[{index}]"))?;
                }
                Ok(())
            }
            Kind::Object(_) if field(root, "Kind").is_some() => {
                self.add_entry(root, file, Origin::File)
            }
            Kind::Object(_) if field(root, "SourceName").is_some() => self.add_item(root, file, ""),
            Kind::Object(fields) => match field(root, "ConfigEntries") {
                Some(entries) => self.add_bootstrap(&entries.value, file),
                None => self.add_match(fields, root.line, file),
            },
            Kind::Null => Ok(()),
            _ => Err(Problem::new(
                root.line,
                format!("is {}, not a config entry: begin with `Kind`", root.what()),
            )),
        }
    }

    fn add_item(&mut self, item: &Node, file: &str, at: &str) -> Result<(), Problem> {
        if field(item, "Kind").is_some() {
            return self.add_entry(item, file, Origin::List);
        }
        if field(item, "SourceName").is_none() && field(item, "DestinationName").is_none() {
            return Err(Problem::new(
                item.line,
                "is neither a config entry (with `Kind`) nor an intention (with `SourceName`)",
            ));
        }
        let Value::Object(json) = item.json()? else {
            return Err(Problem::new(item.line, "is not an intention"));
        };
        let place = Place {
            file: file.to_owned(),
            line: Some(item.line),
            field: at.to_owned(),
        };
        // A match reply has rules for every destination once for each.
        if self
            .intentions
            .insert(Value::Object(json.clone()).to_string())
        {
            self.rules.push(Rule {
                json,
                place,
                node: item.clone(),
                of_entry: false,
            });
        }
        Ok(())
    }

    fn add_bootstrap(&mut self, node: &Node, file: &str) -> Result<(), Problem> {
        let bootstrap = field(node, "Bootstrap").ok_or_else(|| {
            Problem::new(
                node.line,
                "`config_entries` has no `bootstrap` with entries",
            )
        })?;
        match &bootstrap.value.kind {
            Kind::List(items) => items
                .iter()
                .try_for_each(|item| self.add_entry(item, file, Origin::List)),
            _ => self.add_entry(&bootstrap.value, file, Origin::List),
        }
    }

    fn add_match(&mut self, fields: &[Field], line: usize, file: &str) -> Result<(), Problem> {
        let is_list = |field: &Field| matches!(field.value.kind, Kind::List(_) | Kind::Null);
        if fields.is_empty() || !fields.iter().all(is_list) {
            return Err(Problem::new(
                line,
                "is no config entry: `Kind` is missing, such as `Kind = \"service-intentions\"`",
            ));
        }
        for field in fields {
            self.add_service(&field.name);
            if let Kind::List(items) = &field.value.kind {
                for (index, item) in items.iter().enumerate() {
                    self.add_item(item, file, &format!("{}[{index}]", field.name))?;
                }
            }
        }
        Ok(())
    }

    /// Entries of one kind, as an agent told them.
    pub(super) fn add_agents(&mut self, root: &Node, kind: &str) -> Result<(), Problem> {
        let file = format!("agent: {kind}");
        match &root.kind {
            Kind::List(items) => items
                .iter()
                .try_for_each(|item| self.add_entry(item, &file, Origin::Agent)),
            Kind::Null => Ok(()),
            _ => self.add_entry(root, &file, Origin::Agent),
        }
    }

    fn add_entry(&mut self, node: &Node, file: &str, from: Origin) -> Result<(), Problem> {
        let kind = field(node, "Kind")
            .ok_or_else(|| Problem::new(node.line, "is no config entry: `Kind` is missing"))?;
        let Kind::Text(kind) = &kind.value.kind else {
            return Err(Problem::new(kind.line, "`Kind` is not a text"));
        };
        let Some(schema) = schema::of_kind(kind) else {
            return Err(Problem::new(
                node.line,
                format!(
                    "`{kind}` says nothing about who may talk to whom; leave the file out (read are service-intentions, service-defaults, proxy-defaults, mesh and jwt-provider)"
                ),
            ));
        };
        let is_strict = from != Origin::Agent || kind == "service-intentions";
        let entry = match is_strict {
            true => schema.read(node)?,
            false => match node.json()? {
                Value::Object(fields) => fields,
                _ => return Err(Problem::new(node.line, "is no config entry")),
            },
        };
        let name = match (kind.as_str(), text(&entry, "Name")) {
            ("mesh", _) => "mesh".to_owned(),
            (_, "") => {
                let needed = format!("this `{kind}` entry has no `Name`");
                return Err(Problem::new(node.line, needed));
            }
            (_, name) => name.to_owned(),
        };
        let key = (
            kind.clone(),
            [&name, text(&entry, "Namespace"), text(&entry, "Partition")]
                .join("/")
                .to_lowercase(),
        );
        let here = format!("{file}:{}", node.line);
        if let Some(before) = self.seen.insert(key, here) {
            return Err(Problem::new(
                node.line,
                format!("`{kind}` `{name}` is there twice, also at {before}"),
            ));
        }
        match kind.as_str() {
            "service-intentions" => {
                return self.add_intentions(node, &entry, &name, file, from);
            }
            "service-defaults" => {
                let protocol = text(&entry, "Protocol").to_ascii_lowercase();
                check_protocol(&protocol, node)?;
                self.protocols.insert(name.to_lowercase(), protocol);
            }
            "proxy-defaults" => {
                let protocol = entry
                    .get("Config")
                    .and_then(Value::as_object)
                    .and_then(|config| config.get("protocol"))
                    .and_then(Value::as_str)
                    .map(str::to_ascii_lowercase);
                check_protocol(protocol.as_deref().unwrap_or_default(), node)?;
                self.default_protocol = protocol.or(Some("tcp".to_owned()));
            }
            "mesh" => {
                let pointer = "/HTTP/Incoming/RequestNormalization";
                self.mesh_read = true;
                self.normalization = Value::Object(entry).pointer(pointer).cloned();
                check_actions(node)?;
            }
            _ => {
                self.providers.insert(name, Value::Object(entry));
            }
        }
        Ok(())
    }

    fn add_intentions(
        &mut self,
        node: &Node,
        entry: &Map<String, Value>,
        name: &str,
        file: &str,
        from: Origin,
    ) -> Result<(), Problem> {
        let nodes = sources(node);
        let sources = entry
            .get("Sources")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        if sources.is_empty() {
            return Err(Problem::new(
                node.line,
                format!("`service-intentions` `{name}` has no `Sources`; Consul refuses it"),
            ));
        }
        for (index, source) in sources.iter().enumerate() {
            let Some(source) = source.as_object() else {
                continue;
            };
            let written = nodes.get(index).copied().unwrap_or(node);
            let json = as_matched(source, entry, name);
            let field = match from {
                Origin::File => format!("Sources[{index}]"),
                Origin::List | Origin::Agent => format!("{name} Sources[{index}]"),
            };
            self.rules.push(Rule {
                json,
                place: Place {
                    file: file.to_owned(),
                    line: (from != Origin::Agent).then_some(written.line),
                    field,
                },
                node: written.clone(),
                of_entry: true,
            });
        }
        Ok(())
    }
}

fn check_protocol(protocol: &str, node: &Node) -> Result<(), Problem> {
    if matches!(protocol, "" | "tcp" | "http" | "http2" | "grpc") {
        return Ok(());
    }
    Err(Problem::new(
        node.line,
        format!("`{protocol}` is no protocol: it is one of tcp, http, http2 and grpc"),
    ))
}

/// Consul takes these words only.
fn check_actions(mesh: &Node) -> Result<(), Problem> {
    let mut node = mesh;
    for name in ["HTTP", "Incoming", "RequestNormalization"] {
        match field(node, name) {
            Some(field) => node = &field.value,
            None => return Ok(()),
        }
    }
    let known: [(&str, &[&str]); 2] = [
        (
            "PathWithEscapedSlashesAction",
            &[
                "IMPLEMENTATION_SPECIFIC_DEFAULT",
                "KEEP_UNCHANGED",
                "REJECT_REQUEST",
                "UNESCAPE_AND_REDIRECT",
                "UNESCAPE_AND_FORWARD",
            ],
        ),
        (
            "HeadersWithUnderscoresAction",
            &["ALLOW", "REJECT_REQUEST", "DROP_HEADER"],
        ),
    ];
    for (name, words) in known {
        let Some(field) = field(node, name) else {
            continue;
        };
        let Kind::Text(word) = &field.value.kind else {
            continue;
        };
        if !word.is_empty() && !words.contains(&word.as_str()) {
            return Err(Problem::new(
                field.line,
                format!("`{word}` is no `{name}`: it is one of {}", words.join(", ")),
            ));
        }
    }
    Ok(())
}

/// The sources as they were written, in order.
fn sources(node: &Node) -> Vec<&Node> {
    let Kind::Object(fields) = &node.kind else {
        return Vec::new();
    };
    let wanted = fields
        .iter()
        .filter(|field| folded(&field.name) == "sources");
    wanted
        .flat_map(|field| match &field.value.kind {
            Kind::List(items) => items.iter().collect(),
            _ => vec![&field.value],
        })
        .collect()
}

/// A source of an entry as the match reply shows it.
fn as_matched(
    source: &Map<String, Value>,
    entry: &Map<String, Value>,
    name: &str,
) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("DestinationName".to_owned(), json!(name));
    shown.insert("SourceType".to_owned(), json!("consul"));
    let copies = [
        ("SourceName", source.get("Name")),
        ("SourceNS", source.get("Namespace")),
        ("SourcePartition", source.get("Partition")),
        ("SourcePeer", source.get("Peer")),
        ("SourceSamenessGroup", source.get("SamenessGroup")),
        ("SourceType", source.get("Type")),
        ("DestinationNS", entry.get("Namespace")),
        ("DestinationPartition", entry.get("Partition")),
        ("Description", source.get("Description")),
        ("Action", source.get("Action")),
        ("Permissions", source.get("Permissions")),
        ("JWT", entry.get("JWT")),
    ];
    for (key, value) in copies {
        if let Some(value) = value.filter(|value| !is_empty(value)) {
            shown.insert(key.to_owned(), value.clone());
        }
    }
    // Consul stores methods in upper case.
    let permissions = shown.get_mut("Permissions").and_then(Value::as_array_mut);
    for permission in permissions.into_iter().flatten() {
        let methods = permission.pointer_mut("/HTTP/Methods");
        for method in methods.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::String(text) = method {
                text.make_ascii_uppercase();
            }
        }
    }
    shown
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn text<'m>(fields: &'m Map<String, Value>, key: &str) -> &'m str {
    fields.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A field of a block, in any spelling of its name.
pub(crate) fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Field> {
    let Kind::Object(fields) = &node.kind else {
        return None;
    };
    let wanted = folded(name);
    fields.iter().find(|field| folded(&field.name) == wanted)
}
