//! JSON bodies as Go's decoder reads them: keys without regard to case, the
//! first value only, and Go's words for what is wrong.

use serde_json::{Map, Value};

/// Deeper nesting than this is refused by serde_json itself (128).
///
/// # Errors
/// Go's words: `EOF`, `unexpected EOF`, `invalid character 'x' looking for …`.
pub(crate) fn parse(body: &[u8]) -> Result<Value, String> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    match values.next() {
        None => Err("EOF".to_owned()),
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) if error.is_eof() => Err("unexpected EOF".to_owned()),
        Some(Err(error)) => Err(syntax(body, &error)),
    }
}

fn syntax(body: &[u8], error: &serde_json::Error) -> String {
    let lines = body.split(|byte| *byte == b'\n');
    let line = lines
        .clone()
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    let found = line
        .get(error.column().saturating_sub(1))
        .copied()
        .unwrap_or(b'?');
    let at = error.column().saturating_sub(1);
    for literal in ["null", "true", "false"] {
        for (seen, expected) in literal.char_indices().skip(1) {
            if line
                .get(..at)
                .is_some_and(|before| before.ends_with(&literal.as_bytes()[..seen]))
            {
                let found = char::from(found);
                return format!(
                    "invalid character '{found}' in literal {literal} (expecting '{expected}')"
                );
            }
        }
    }
    let text = error.to_string();
    let place = if text.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else {
        "looking for beginning of value"
    };
    format!("invalid character '{}' {place}", char::from(found))
}

/// A JSON object that is read field by field.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    /// How Go names the struct in its messages, for example `.Alias`.
    go_name: &'a str,
}

impl<'a> Object<'a> {
    /// The object, if it is one and has no fields but `known`. With `snake`,
    /// `deregister_after` is taken for `DeregisterAfter`.
    ///
    /// # Errors
    /// Go's words.
    pub(crate) fn new(
        value: &'a Value,
        go_name: &'a str,
        go_type: &str,
        known: &[&str],
    ) -> Result<Self, String> {
        let map = value.as_object().ok_or_else(|| {
            format!(
                "json: cannot unmarshal {} into Go value of type {go_type}",
                kind(value)
            )
        })?;
        let is_known = |key: &String| known.iter().any(|name| same(name, key));
        match map.keys().find(|key| !is_known(key)) {
            Some(unknown) => Err(format!("json: unknown field {unknown:?}")),
            None => Ok(Self { map, go_name }),
        }
    }

    /// A field's value; the last one wins when it is there in several spellings.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        let mut found = self
            .map
            .iter()
            .filter(|(key, value)| same(name, key) && !value.is_null());
        found.next_back().map(|(_, value)| value)
    }

    fn wrong(&self, name: &str, value: &Value, expected: &str) -> String {
        format!(
            "json: cannot unmarshal {} into Go struct field {}.{name} of type {expected}",
            kind(value),
            self.go_name
        )
    }

    pub(crate) fn text(&self, name: &str) -> Result<String, String> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.wrong(name, other, "string")),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, other, "bool")),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<i64, String> {
        match self.get(name) {
            None => Ok(0),
            Some(value @ Value::Number(number)) => number
                .as_i64()
                .ok_or_else(|| self.wrong(name, value, "int")),
            Some(other) => Err(self.wrong(name, other, "int")),
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, String> {
        let items = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => return Err(self.wrong(name, other, "[]string")),
        };
        let text = |item: &Value| match item {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.wrong(name, other, "string")),
        };
        items.iter().map(text).collect()
    }

    /// A map of texts.
    pub(crate) fn pairs(&self, name: &str) -> Result<Map<String, Value>, String> {
        let pairs = match self.get(name) {
            None => return Ok(Map::new()),
            Some(Value::Object(pairs)) => pairs,
            Some(other) => return Err(self.wrong(name, other, "map[string]string")),
        };
        match pairs.values().find(|value| !value.is_string()) {
            Some(other) => Err(self.wrong(name, other, "string")),
            None => Ok(pairs.clone()),
        }
    }
}

/// Whether a key means a field: without regard to case, and in snake_case.
fn same(name: &str, key: &str) -> bool {
    name.eq_ignore_ascii_case(key)
        || (key.contains('_') && name.eq_ignore_ascii_case(&key.replace('_', "")))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_go() {
        let error = |body: &str| parse(body.as_bytes()).expect_err(body);
        assert_eq!(error(""), "EOF");
        assert_eq!(error("{"), "unexpected EOF");
        assert_eq!(
            error("{nope}"),
            "invalid character 'n' looking for beginning of object key string"
        );
        assert_eq!(
            error("nope"),
            "invalid character 'o' in literal null (expecting 'u')"
        );
        assert_eq!(
            error("xx"),
            "invalid character 'x' looking for beginning of value"
        );
        assert!(parse(b"{} trailing").is_ok());
        let value = parse(br#"{"tArget":"a","Foo":1}"#).expect("json");
        let refused = Object::new(&value, "x", "x", &["Target"]).err();
        assert_eq!(refused.as_deref(), Some("json: unknown field \"Foo\""));
        let object = Object::new(&value, "x", "x", &["Target", "Foo"]).expect("an object");
        assert_eq!(object.text("Target").as_deref(), Ok("a"));
        assert!(object.text("Foo").is_err());
    }
}
