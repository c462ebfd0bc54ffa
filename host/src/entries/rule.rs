//! One intention, in the form of the match reply, and where it was written.

use std::fmt;

use portcullis_core::intention::Destination;
use serde_json::{Map, Value};

use crate::definitions::schema::folded;
use crate::definitions::tree::{Kind, Node};

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// File, or what stands for one.
    pub file: String,
    /// Line in it; none of what an agent told.
    pub line: Option<usize>,
    /// Which field, such as `Sources[0].Permissions[1]`.
    pub field: String,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(formatter, " ({})", self.field)?;
        }
        Ok(())
    }
}

/// One intention.
#[derive(Clone, Debug)]
pub struct Rule {
    /// As the match reply has it.
    pub json: Map<String, Value>,
    pub(super) place: Place,
    /// What was written.
    pub(super) node: Node,
    /// Whether it is a source of a `service-intentions` entry.
    pub(super) of_entry: bool,
}

impl Rule {
    fn text(&self, key: &str) -> &str {
        self.json
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    fn or_default(&self, key: &str) -> &str {
        match self.text(key) {
            "" => "default",
            set => set,
        }
    }

    /// The destination, if it is one service.
    #[must_use]
    pub fn destination(&self) -> Option<Destination> {
        let (partition, namespace, name) = (
            self.or_default("DestinationPartition"),
            self.or_default("DestinationNS"),
            self.text("DestinationName"),
        );
        Destination::parse(&format!("{partition}/{namespace}/{name}")).ok()
    }

    /// The source's name as it is written, or `*`.
    #[must_use]
    pub fn source_name(&self) -> &str {
        self.text("SourceName")
    }

    /// The source's namespace and partition.
    #[must_use]
    pub fn source_space(&self) -> (&str, &str) {
        (
            self.or_default("SourceNS"),
            self.or_default("SourcePartition"),
        )
    }

    /// The cluster peering that the source belongs to.
    #[must_use]
    pub fn peer(&self) -> Option<&str> {
        Some(self.text("SourcePeer")).filter(|peer| !peer.is_empty())
    }

    pub(super) fn has_permissions(&self) -> bool {
        self.json
            .get("Permissions")
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
    }

    /// Whether it is in the list of `target`. One whose destination cannot be read is: the
    /// policy then denies and says so.
    pub(super) fn concerns(&self, target: &Destination) -> bool {
        let covers = |given: &str, ours: &str| given == "*" || given.eq_ignore_ascii_case(ours);
        let name = self.text("DestinationName");
        name.is_empty()
            || covers(name, target.name())
                && covers(self.or_default("DestinationNS"), target.namespace())
                && self
                    .or_default("DestinationPartition")
                    .eq_ignore_ascii_case(target.partition())
    }

    /// Whether writing this one takes the other away: they are of one destination's entry.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        ["DestinationName", "DestinationNS", "DestinationPartition"]
            .iter()
            .all(|key| {
                self.or_default(key)
                    .eq_ignore_ascii_case(other.or_default(key))
            })
    }

    /// Where the field under a JSON pointer stands, or what is nearest to it.
    #[must_use]
    pub fn place(&self, pointer: &str) -> Place {
        let mut place = self.place.clone();
        let mut node = &self.node;
        let parts: Vec<&str> = pointer.split('/').filter(|part| !part.is_empty()).collect();
        let mut parts = parts.into_iter().peekable();
        while let Some(part) = parts.next() {
            let name = self.written(part);
            let next: Option<usize> = parts.peek().and_then(|next| next.parse().ok());
            let Some((line, found)) = child(node, name, next) else {
                break;
            };
            if !place.field.is_empty() {
                place.field.push('.');
            }
            place.field.push_str(name);
            node = found;
            if let Some(index) = next {
                parts.next();
                place.field.push_str(&format!("[{index}]"));
                if let Kind::List(items) = &found.kind {
                    let Some(item) = items.get(index) else { break };
                    node = item;
                }
            }
            if place.line.is_some() {
                let is_item = matches!(found.kind, Kind::List(_)) && next.is_some();
                place.line = Some(if is_item { node.line } else { line });
            }
        }
        place
    }

    /// How the field of the match reply is called where it was written.
    fn written<'a>(&self, name: &'a str) -> &'a str {
        match name {
            "SourceName" if self.of_entry => "Name",
            "SourceNS" if self.of_entry => "Namespace",
            "SourcePartition" if self.of_entry => "Partition",
            "SourcePeer" if self.of_entry => "Peer",
            other => other,
        }
    }
}

/// The field `name` of a block: of a repeated one the block at `index`.
fn child<'n>(node: &'n Node, name: &str, index: Option<usize>) -> Option<(usize, &'n Node)> {
    match &node.kind {
        Kind::Object(fields) => {
            let wanted = folded(name);
            let mut found = fields.iter().filter(|field| folded(&field.name) == wanted);
            let first = found.clone().next()?;
            let field = match (index, &first.value.kind) {
                (Some(index), Kind::Object(_)) => found.nth(index).unwrap_or(first),
                _ => first,
            };
            Some((field.line, &field.value))
        }
        // A list of one block is that block.
        Kind::List(items) if items.len() == 1 => child(items.first()?, name, index),
        _ => None,
    }
}
