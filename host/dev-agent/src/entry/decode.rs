//! The decoder of configuration entries: keys without regard to case and in
//! snake_case too, unknown ones refused, empty values left out.

use serde_json::{Map, Value};

use super::fields::{
    Fields, INTENTION, INTENTIONS, JWT_PROVIDER, MESH, PROXY_DEFAULTS, SERVICE_DEFAULTS, Type,
};
use super::{KINDS, OTHER_KINDS};
use crate::problems;

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
    decoder.unknown.sort();
    problems::none(&decoder.unknown)?;
    Ok(decoded)
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
