//! The fields of configuration entries, and the decoder that they drive: keys
//! without regard to case and in snake_case too, unknown ones refused.

use serde_json::{Map, Value};

use super::{KINDS, OTHER_KINDS};

/// What a field holds.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Bool,
    Number,
    /// Nanoseconds, or a text such as `30m`.
    Duration,
    Texts,
    /// Text to text.
    Meta,
    /// Anything, kept as it is.
    Any,
    One(Fields),
    Many(Fields),
}

type Fields = &'static [(&'static str, Type)];

const JWT: Fields = &[(
    "Providers",
    Type::Many(&[
        ("Name", Type::Text),
        (
            "VerifyClaims",
            Type::Many(&[("Path", Type::Texts), ("Value", Type::Text)]),
        ),
    ]),
)];

const HEADER: Fields = &[
    ("Name", Type::Text),
    ("Present", Type::Bool),
    ("Exact", Type::Text),
    ("Prefix", Type::Text),
    ("Suffix", Type::Text),
    ("Contains", Type::Text),
    ("Regex", Type::Text),
    ("Invert", Type::Bool),
    ("IgnoreCase", Type::Bool),
];

const PERMISSION: Fields = &[
    ("Action", Type::Text),
    (
        "HTTP",
        Type::One(&[
            ("PathExact", Type::Text),
            ("PathPrefix", Type::Text),
            ("PathRegex", Type::Text),
            ("Header", Type::Many(HEADER)),
            ("Methods", Type::Texts),
        ]),
    ),
    ("JWT", Type::One(JWT)),
];

/// A source as it is written; the exact endpoint takes part of it too.
const SOURCE: Fields = &[
    ("Name", Type::Text),
    ("Action", Type::Text),
    ("Permissions", Type::Many(PERMISSION)),
    ("Precedence", Type::Number),
    ("LegacyID", Type::Text),
    ("Type", Type::Text),
    ("Description", Type::Text),
    ("LegacyMeta", Type::Meta),
    ("LegacyCreateTime", Type::Any),
    ("LegacyUpdateTime", Type::Any),
    ("Peer", Type::Text),
    ("SamenessGroup", Type::Text),
];

const INTENTIONS: Fields = &[
    ("Kind", Type::Text),
    ("Name", Type::Text),
    ("Sources", Type::Many(SOURCE)),
    ("JWT", Type::One(JWT)),
    ("Meta", Type::Meta),
];

const SERVICE_DEFAULTS: Fields = &[
    ("Kind", Type::Text),
    ("Name", Type::Text),
    ("Protocol", Type::Text),
    ("Mode", Type::Text),
    ("MutualTLSMode", Type::Text),
    ("BalanceInboundConnections", Type::Text),
    ("TransparentProxy", Type::Any),
    ("MeshGateway", Type::Any),
    ("Expose", Type::Any),
    ("ExternalSNI", Type::Text),
    ("UpstreamConfig", Type::Any),
    ("Destination", Type::Any),
    ("MaxInboundConnections", Type::Number),
    ("MaxRequestHeadersKB", Type::Number),
    ("LocalConnectTimeoutMs", Type::Number),
    ("LocalRequestTimeoutMs", Type::Number),
    ("RateLimits", Type::Any),
    ("EnvoyExtensions", Type::Any),
    ("Meta", Type::Meta),
];

const PROXY_DEFAULTS: Fields = &[
    ("Kind", Type::Text),
    ("Name", Type::Text),
    ("Config", Type::Any),
    ("Mode", Type::Text),
    ("MutualTLSMode", Type::Text),
    ("TransparentProxy", Type::Any),
    ("MeshGateway", Type::Any),
    ("Expose", Type::Any),
    ("AccessLogs", Type::Any),
    ("EnvoyExtensions", Type::Any),
    ("FailoverPolicy", Type::Any),
    ("PrioritizeByLocality", Type::Any),
    ("Meta", Type::Meta),
];

const DIRECTION_TLS: Fields = &[
    ("TLSMinVersion", Type::Text),
    ("TLSMaxVersion", Type::Text),
    ("CipherSuites", Type::Texts),
];

const MESH: Fields = &[
    ("Kind", Type::Text),
    (
        "TransparentProxy",
        Type::One(&[("MeshDestinationsOnly", Type::Bool)]),
    ),
    ("AllowEnablingPermissiveMutualTLS", Type::Bool),
    (
        "TLS",
        Type::One(&[
            ("Incoming", Type::One(DIRECTION_TLS)),
            ("Outgoing", Type::One(DIRECTION_TLS)),
        ]),
    ),
    (
        "HTTP",
        Type::One(&[
            ("SanitizeXForwardedClientCert", Type::Bool),
            (
                "Incoming",
                Type::One(&[(
                    "RequestNormalization",
                    Type::One(&[
                        ("InsecureDisablePathNormalization", Type::Bool),
                        ("MergeSlashes", Type::Bool),
                        ("PathWithEscapedSlashesAction", Type::Text),
                        ("HeadersWithUnderscoresAction", Type::Text),
                    ]),
                )]),
            ),
        ]),
    ),
    ("Peering", Type::Any),
    ("ValidateClusters", Type::Bool),
    ("Meta", Type::Meta),
];

const JWT_PROVIDER: Fields = &[
    ("Kind", Type::Text),
    ("Name", Type::Text),
    (
        "JSONWebKeySet",
        Type::One(&[
            (
                "Local",
                Type::One(&[("JWKS", Type::Text), ("Filename", Type::Text)]),
            ),
            (
                "Remote",
                Type::One(&[
                    ("URI", Type::Text),
                    ("RequestTimeoutMs", Type::Number),
                    ("CacheDuration", Type::Duration),
                    ("FetchAsynchronously", Type::Bool),
                    ("UseSNI", Type::Bool),
                    ("RetryPolicy", Type::Any),
                    ("JWKSCluster", Type::Any),
                ]),
            ),
        ]),
    ),
    ("Audiences", Type::Texts),
    (
        "Locations",
        Type::Many(&[
            (
                "Header",
                Type::One(&[
                    ("Name", Type::Text),
                    ("ValuePrefix", Type::Text),
                    ("Forward", Type::Bool),
                ]),
            ),
            ("QueryParam", Type::One(&[("Name", Type::Text)])),
            ("Cookie", Type::One(&[("Name", Type::Text)])),
        ]),
    ),
    (
        "Forwarding",
        Type::One(&[
            ("HeaderName", Type::Text),
            ("PadForwardPayloadHeader", Type::Bool),
        ]),
    ),
    ("ClockSkewSeconds", Type::Number),
    ("CacheConfig", Type::One(&[("Size", Type::Number)])),
    ("Issuer", Type::Text),
    ("Meta", Type::Meta),
];

/// The body of the exact endpoint's PUT, which is an intention.
const INTENTION: Fields = &[
    ("ID", Type::Text),
    ("Description", Type::Text),
    ("SourceNS", Type::Text),
    ("SourceName", Type::Text),
    ("DestinationNS", Type::Text),
    ("DestinationName", Type::Text),
    ("SourcePartition", Type::Text),
    ("DestinationPartition", Type::Text),
    ("SourcePeer", Type::Text),
    ("SourceSamenessGroup", Type::Text),
    ("SourceType", Type::Text),
    ("Action", Type::Text),
    ("Permissions", Type::Many(PERMISSION)),
    ("JWT", Type::Any),
    ("DefaultAddr", Type::Text),
    ("DefaultPort", Type::Number),
    ("Meta", Type::Meta),
    ("Precedence", Type::Number),
    ("CreatedAt", Type::Any),
    ("UpdatedAt", Type::Any),
    ("Hash", Type::Any),
    ("CreateIndex", Type::Number),
    ("ModifyIndex", Type::Number),
];

/// Decodes an entry to its kind and its fields in Consul's spelling, empty
/// ones left out.
///
/// # Errors
/// The text after `Request decoding failed: `.
pub(crate) fn decode(body: &Value) -> Result<(&'static str, Map<String, Value>), String> {
    let object = body.as_object().ok_or_else(|| {
        format!(
            "'' expected type 'map[string]interface {{}}', got unconvertible type '{}'",
            go_type(body)
        )
    })?;
    let kind = object
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case("Kind"))
        .and_then(|(_, value)| value.as_str())
        .ok_or("Payload does not contain a kind/Kind key at the top level")?;
    let fields = match kind {
        "service-intentions" => INTENTIONS,
        "service-defaults" => SERVICE_DEFAULTS,
        "proxy-defaults" => PROXY_DEFAULTS,
        "mesh" => MESH,
        "jwt-provider" => JWT_PROVIDER,
        other if OTHER_KINDS.contains(&other) => {
            return Err(format!(
                "config entries of kind {other} are not supported by this development agent"
            ));
        }
        other => return Err(format!("invalid config entry kind: {other}")),
    };
    let kind = KINDS
        .iter()
        .find(|known| **known == kind)
        .copied()
        .unwrap_or_default();
    let decoded = run(object, fields)?;
    Ok((kind, decoded))
}

/// Decodes the body of the exact endpoint's PUT.
///
/// # Errors
/// The text after `Request decode failed: `.
pub(crate) fn decode_intention(body: &Value) -> Result<Map<String, Value>, String> {
    let object = body.as_object().ok_or_else(|| {
        format!(
            "json: cannot unmarshal {} into Go value of type structs.Intention",
            type_name(body)
        )
    })?;
    let known = |key: &String| {
        INTENTION
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(key))
    };
    if let Some(unknown) = object.keys().find(|key| !known(key)) {
        return Err(format!("json: unknown field {unknown:?}"));
    }
    run(object, INTENTION)
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn run(object: &Map<String, Value>, fields: Fields) -> Result<Map<String, Value>, String> {
    let mut decoder = Decoder {
        unknown: Vec::new(),
        wrong: Vec::new(),
    };
    let decoded = decoder.object(object, fields, "");
    if !decoder.wrong.is_empty() {
        decoder.wrong.sort();
        let lines: Vec<_> = decoder
            .wrong
            .iter()
            .map(|text| format!("\n{text}"))
            .collect();
        return Err(format!(
            "decoding failed due to the following error(s):\n{}",
            lines.concat()
        ));
    }
    if decoder.unknown.is_empty() {
        return Ok(decoded);
    }
    decoder.unknown.sort();
    let count = decoder.unknown.len();
    let plural = if count == 1 { "error" } else { "errors" };
    let lines: Vec<_> = decoder
        .unknown
        .iter()
        .map(|text| format!("\t* {text}\n"))
        .collect();
    Err(format!("{count} {plural} occurred:\n{}\n", lines.concat()))
}

struct Decoder {
    unknown: Vec<String>,
    wrong: Vec<String>,
}

impl Decoder {
    fn object(
        &mut self,
        object: &Map<String, Value>,
        fields: Fields,
        at: &str,
    ) -> Map<String, Value> {
        let mut decoded = Map::new();
        for (key, value) in object {
            let path = if at.is_empty() {
                key.clone()
            } else {
                format!("{at}.{key}")
            };
            let plain = key.replace('_', "");
            match fields
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(&plain))
            {
                None if matches!(
                    plain.to_ascii_lowercase().as_str(),
                    "createindex" | "modifyindex" | "hash"
                ) => {}
                None if plain.eq_ignore_ascii_case("Namespace") => self.unknown.push(format!(
                    "invalid config key {path:?}, namespaces are a consul enterprise feature"
                )),
                None => self.unknown.push(format!("invalid config key {path:?}")),
                Some((name, kind)) => {
                    let value = self.value(value, *kind, &path);
                    let keep = !is_empty(&value)
                        || matches!((*kind, &value), (Type::One(_), Value::Object(_)));
                    if keep {
                        decoded.insert((*name).to_owned(), value);
                    }
                }
            }
        }
        decoded
    }

    fn value(&mut self, value: &Value, kind: Type, at: &str) -> Value {
        match (kind, value) {
            (_, Value::Null) => Value::Null,
            (Type::Any, value) => value.clone(),
            (Type::Text, Value::String(_)) | (Type::Bool, Value::Bool(_)) => value.clone(),
            (Type::Number | Type::Duration, Value::Number(_)) => value.clone(),
            (Type::Text, Value::Number(number)) => Value::String(number.to_string()),
            (Type::Text, Value::Bool(flag)) => {
                Value::String(if *flag { "1" } else { "0" }.to_owned())
            }
            (Type::Bool, Value::String(text)) => match text.as_str() {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Value::Bool(true),
                "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Value::Bool(false),
                _ => self.fail(at, "bool", value),
            },
            (Type::Duration, Value::String(text)) => match crate::duration::parse(text) {
                Ok(nanos) => nanos.into(),
                Err(error) => {
                    self.wrong.push(format!("'{at}' {error}"));
                    Value::Null
                }
            },
            (Type::Number, Value::String(text)) => match text.parse::<i64>() {
                Ok(number) => number.into(),
                Err(_) => self.fail(at, "int", value),
            },
            (Type::Texts, Value::Array(items)) => Value::Array(
                items
                    .iter()
                    .enumerate()
                    .map(|(number, item)| self.value(item, Type::Text, &format!("{at}[{number}]")))
                    .collect(),
            ),
            (Type::Texts, Value::String(_)) => Value::Array(vec![value.clone()]),
            (Type::Meta, Value::Object(pairs)) => Value::Object(
                pairs
                    .iter()
                    .map(|(key, item)| {
                        (
                            key.clone(),
                            self.value(item, Type::Text, &format!("{at}[{key}]")),
                        )
                    })
                    .collect(),
            ),
            (Type::One(fields), Value::Object(object)) => {
                Value::Object(self.object(object, fields, at))
            }
            (Type::Many(fields), Value::Object(object)) => {
                let only = self.object(object, fields, &format!("{at}[0]"));
                Value::Array(vec![Value::Object(only)])
            }
            (Type::Many(fields), Value::Array(items)) => Value::Array(
                items
                    .iter()
                    .enumerate()
                    .map(|(number, item)| match item.as_object() {
                        Some(object) => {
                            Value::Object(self.object(object, fields, &format!("{at}[{number}]")))
                        }
                        None => self.fail_element(at, number, item),
                    })
                    .collect(),
            ),
            (Type::Text, _) => self.fail(at, "string", value),
            (Type::Bool, _) => self.fail(at, "bool", value),
            (Type::Number | Type::Duration, _) => self.fail(at, "int", value),
            (Type::Many(_), _) => self.fail_element(at, 0, value),
            (Type::Texts, _) => self.fail(at, "slice", value),
            (Type::Meta | Type::One(_), _) => self.fail(at, "map", value),
        }
    }

    fn fail_element(&mut self, at: &str, number: usize, got: &Value) -> Value {
        self.wrong.push(format!(
            "'{at}[{number}]' expected a map or struct, got {:?}",
            go_type(got)
        ));
        Value::Null
    }

    fn fail(&mut self, at: &str, expected: &str, got: &Value) -> Value {
        self.wrong.push(format!(
            "'{at}' expected type '{expected}', got '{}'",
            type_name(got)
        ));
        Value::Null
    }
}

/// Go's `omitempty`.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
