//! The fields of a service definition, and their names in Consul's API.

use serde_json::{Map, Value};

use super::tree::{Field, Kind, Node, Problem};

/// What a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Type {
    Text,
    Number,
    Flag,
    Texts,
    /// Names are data, values are texts.
    TextMap,
    /// Handed on as it is.
    Opaque,
    /// Names are data, values are blocks.
    BlockMap(&'static Schema),
    Block(&'static Schema),
    Blocks(&'static Schema),
}

/// The fields that a block may have, by their names in the API.
pub(crate) struct Schema {
    /// For messages: `a service`.
    pub(crate) what: &'static str,
    pub(crate) fields: &'static [(&'static str, Type)],
    /// What files call a field that has another name in the API.
    pub(crate) renamed: Option<(&'static str, &'static str)>,
}

use Type::{Block, BlockMap, Blocks, Flag, Number, Opaque, Text, TextMap, Texts};

pub(crate) static SERVICE: Schema = Schema {
    what: "a service",
    renamed: None,
    fields: &[
        ("ID", Text),
        ("Name", Text),
        ("Kind", Text),
        ("Tags", Texts),
        ("Address", Text),
        ("TaggedAddresses", BlockMap(&ADDRESS)),
        ("SocketPath", Text),
        ("Port", Number),
        ("Meta", TextMap),
        ("Weights", Block(&WEIGHTS)),
        ("Token", Text),
        ("EnableTagOverride", Flag),
        ("Check", Block(&CHECK)),
        ("Checks", Blocks(&CHECK)),
        ("Proxy", Block(&PROXY)),
        ("Connect", Block(&CONNECT)),
        ("Locality", Block(&LOCALITY)),
    ],
};

static SIDECAR: Schema = Schema {
    what: "a sidecar",
    renamed: None,
    fields: &[
        ("Name", Text),
        ("Tags", Texts),
        ("Address", Text),
        ("TaggedAddresses", BlockMap(&ADDRESS)),
        ("SocketPath", Text),
        ("Port", Number),
        ("Meta", TextMap),
        ("Weights", Block(&WEIGHTS)),
        ("EnableTagOverride", Flag),
        ("Check", Block(&CHECK)),
        ("Checks", Blocks(&CHECK)),
        ("Proxy", Block(&PROXY)),
        ("Locality", Block(&LOCALITY)),
    ],
};

static CONNECT: Schema = Schema {
    what: "`connect`",
    renamed: None,
    fields: &[("Native", Flag), ("SidecarService", Block(&SIDECAR))],
};

static ADDRESS: Schema = Schema {
    what: "a tagged address",
    renamed: None,
    fields: &[("Address", Text), ("Port", Number)],
};

static WEIGHTS: Schema = Schema {
    what: "`weights`",
    renamed: None,
    fields: &[("Passing", Number), ("Warning", Number)],
};

static LOCALITY: Schema = Schema {
    what: "`locality`",
    renamed: None,
    fields: &[("Region", Text), ("Zone", Text)],
};

static CHECK: Schema = Schema {
    what: "a check",
    renamed: Some(("id", "CheckID")),
    fields: &[
        ("CheckID", Text),
        ("Name", Text),
        ("Notes", Text),
        ("Status", Text),
        ("TTL", Text),
        ("HTTP", Text),
        ("Header", Opaque),
        ("Method", Text),
        ("Body", Text),
        ("DisableRedirects", Flag),
        ("TCP", Text),
        ("TCPUseTLS", Flag),
        ("UDP", Text),
        ("GRPC", Text),
        ("GRPCUseTLS", Flag),
        ("H2PING", Text),
        ("H2PingUseTLS", Flag),
        ("OSService", Text),
        ("Args", Texts),
        ("Shell", Text),
        ("DockerContainerID", Text),
        ("AliasNode", Text),
        ("AliasService", Text),
        ("TLSServerName", Text),
        ("TLSSkipVerify", Flag),
        ("Interval", Text),
        ("Timeout", Text),
        ("SuccessBeforePassing", Number),
        ("FailuresBeforeWarning", Number),
        ("FailuresBeforeCritical", Number),
        ("OutputMaxSize", Number),
        ("DeregisterCriticalServiceAfter", Text),
    ],
};

static PROXY: Schema = Schema {
    what: "a proxy",
    renamed: None,
    fields: &[
        ("DestinationServiceName", Text),
        ("DestinationServiceID", Text),
        ("LocalServiceAddress", Text),
        ("LocalServicePort", Number),
        ("LocalServiceSocketPath", Text),
        ("Mode", Text),
        ("Config", Opaque),
        ("Upstreams", Blocks(&UPSTREAM)),
        ("MeshGateway", Block(&GATEWAY)),
        ("Expose", Block(&EXPOSE)),
        ("TransparentProxy", Block(&TRANSPARENT)),
        ("AccessLogs", Opaque),
    ],
};

static UPSTREAM: Schema = Schema {
    what: "an upstream",
    renamed: None,
    fields: &[
        ("DestinationType", Text),
        ("DestinationName", Text),
        ("DestinationNamespace", Text),
        ("DestinationPartition", Text),
        ("DestinationPeer", Text),
        ("Datacenter", Text),
        ("LocalBindAddress", Text),
        ("LocalBindPort", Number),
        ("LocalBindSocketPath", Text),
        ("LocalBindSocketMode", Text),
        ("Config", Opaque),
        ("MeshGateway", Block(&GATEWAY)),
    ],
};

static GATEWAY: Schema = Schema {
    what: "`mesh_gateway`",
    renamed: None,
    fields: &[("Mode", Text)],
};

static EXPOSE: Schema = Schema {
    what: "`expose`",
    renamed: None,
    fields: &[("Checks", Flag), ("Paths", Blocks(&PATH))],
};

static PATH: Schema = Schema {
    what: "an exposed path",
    renamed: None,
    fields: &[
        ("ListenerPort", Number),
        ("Path", Text),
        ("LocalPathPort", Number),
        ("Protocol", Text),
    ],
};

static TRANSPARENT: Schema = Schema {
    what: "`transparent_proxy`",
    renamed: None,
    fields: &[("OutboundListenerPort", Number), ("DialedDirectly", Flag)],
};

impl Schema {
    /// A block as the API has it.
    ///
    /// Fails at a field that is unknown, occurs twice, or is of another type.
    pub(crate) fn read(&self, node: &Node) -> Result<Map<String, Value>, Problem> {
        let mut read = Map::new();
        for field in self.block(node)? {
            let (name, kind) = self.find(field)?;
            let value = kind.read(self, field)?;
            match (read.get_mut(name), kind, value) {
                // Blocks that are repeated make a list.
                (Some(Value::Array(known)), Blocks(_), Value::Array(more)) => {
                    known.extend(more);
                }
                (Some(_), _, _) => {
                    return Err(Problem::new(
                        field.line,
                        format!("`{}` occurs twice in {}", field.name, self.what),
                    ));
                }
                (None, _, Value::Null) => {}
                (None, _, value) => {
                    read.insert(name.to_owned(), value);
                }
            }
        }
        Ok(read)
    }

    /// The fields of a block; a list of one block is that block.
    fn block<'n>(&self, node: &'n Node) -> Result<&'n [Field], Problem> {
        match &node.kind {
            Kind::Object(fields) => Ok(fields),
            Kind::List(items) if items.len() == 1 => self.block(&items[0]),
            _ => Err(Problem::new(
                node.line,
                format!("{} is {}, not a block", self.what, node.what()),
            )),
        }
    }

    fn find(&self, field: &Field) -> Result<(&'static str, Type), Problem> {
        let mut wanted = folded(&field.name);
        if let Some((_, name)) = self.renamed.filter(|(file, _)| wanted == *file) {
            wanted = folded(name);
        }
        if let Some((name, kind)) = self.fields.iter().find(|(name, _)| folded(name) == wanted) {
            return Ok((name, *kind));
        }
        let close = self
            .fields
            .iter()
            .map(|(name, _)| (strsim::jaro_winkler(&folded(name), &wanted), *name))
            .filter(|(likeness, _)| *likeness > 0.75)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        let advice = match close {
            Some((_, name)) => format!("did you mean `{}`?", snake(name)),
            None => "remove it".to_owned(),
        };
        Err(Problem::new(
            field.line,
            format!("{} has no `{}`; {advice}", self.what, field.name),
        ))
    }
}

impl Type {
    fn read(self, owner: &Schema, field: &Field) -> Result<Value, Problem> {
        let node = &field.value;
        let wrong = |expected: &str| {
            Err(Problem::new(
                node.line,
                format!(
                    "`{}` of {} is {}, not {expected}",
                    field.name,
                    owner.what,
                    node.what()
                ),
            ))
        };
        match (self, &node.kind) {
            (_, Kind::Null) => Ok(Value::Null),
            (Self::Text, Kind::Text(_)) | (Self::Flag, Kind::Bool(_)) | (Self::Opaque, _) => {
                node.json()
            }
            (Self::Number, Kind::Number(number)) => match number.as_i64() {
                Some(whole) => Ok(Value::from(whole)),
                None => wrong("a whole number"),
            },
            (Self::Text, _) => wrong("a text"),
            (Self::Flag, _) => wrong("true or false"),
            (Self::Number, _) => wrong("a number"),
            (Self::Texts, Kind::List(items)) => {
                match items
                    .iter()
                    .find(|item| !matches!(item.kind, Kind::Text(_)))
                {
                    None => node.json(),
                    Some(other) => Err(Problem::new(
                        other.line,
                        format!("`{}` holds {}, not texts only", field.name, other.what()),
                    )),
                }
            }
            (Self::Texts, _) => wrong("a list of texts"),
            (Self::TextMap, Kind::Object(fields)) => {
                match fields
                    .iter()
                    .find(|one| !matches!(one.value.kind, Kind::Text(_)))
                {
                    None => node.json(),
                    Some(other) => Err(Problem::new(
                        other.line,
                        format!(
                            "`{}` in `{}` is {}, not a text",
                            other.name,
                            field.name,
                            other.value.what()
                        ),
                    )),
                }
            }
            (Self::BlockMap(schema), Kind::Object(fields)) => {
                let mut read = Map::new();
                for one in fields {
                    let value = Value::Object(schema.read(&one.value)?);
                    if read.insert(one.name.clone(), value).is_some() {
                        return Err(Problem::new(
                            one.line,
                            format!("`{}` occurs twice", one.name),
                        ));
                    }
                }
                Ok(Value::Object(read))
            }
            (Self::TextMap | Self::BlockMap(_), _) => wrong("a block"),
            (Self::Block(schema), _) => schema.read(node).map(Value::Object),
            (Self::Blocks(schema), Kind::List(items)) => {
                let read = items
                    .iter()
                    .map(|item| schema.read(item).map(Value::Object));
                Ok(Value::Array(read.collect::<Result<_, _>>()?))
            }
            (Self::Blocks(schema), _) => Ok(Value::Array(vec![Value::Object(schema.read(node)?)])),
        }
    }
}

/// A name without regard to case and underscores: `destination_name` and
/// `DestinationName` are one.
pub(crate) fn folded(name: &str) -> String {
    name.chars()
        .filter(|char| *char != '_')
        .map(|char| char.to_ascii_lowercase())
        .collect()
}

/// A name of the API as files have it: `DestinationServiceID` is `destination_service_id`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let letters: Vec<char> = name.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| letters.get(at));
        let after = letters.get(at + 1);
        let begins = letter.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase()
                    || before.is_ascii_uppercase() && after.is_some_and(char::is_ascii_lowercase)
            });
        if begins {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_files_have_them() {
        for (api, file) in [
            ("ID", "id"),
            ("DestinationServiceID", "destination_service_id"),
            ("TLSServerName", "tls_server_name"),
            ("EnableTagOverride", "enable_tag_override"),
            ("TTL", "ttl"),
        ] {
            assert_eq!(snake(api), file);
        }
    }
}
