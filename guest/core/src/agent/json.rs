//! Reading replies: [`crate::json`] with the errors of this module, and limits.
use std::collections::BTreeMap;

use serde::de::Deserialize;
use serde_json::value::RawValue;

use super::error::{ReplyError, excerpt};
use crate::json::{self, Doubt, Items, Members};

/// How deep objects and arrays may nest. Consul's replies need about ten.
pub const MAX_DEPTH: usize = 64;

/// Refuses what is too large or too deep, and gives the root value.
///
/// # Errors
/// [`ReplyError::TooLarge`], [`ReplyError::TooDeep`], [`ReplyError::Syntax`].
pub(super) fn document(body: &[u8], limit: usize) -> Result<Value<'_>, ReplyError> {
    if body.len() > limit {
        return Err(ReplyError::TooLarge { limit });
    }
    if depth(body) > MAX_DEPTH {
        return Err(ReplyError::TooDeep { limit: MAX_DEPTH });
    }
    let raw = json::document(body).map_err(|e| syntax(&e))?;
    Ok(Value {
        raw: raw.get(),
        path: String::new(),
    })
}

fn syntax(error: &serde_json::Error) -> ReplyError {
    ReplyError::Syntax {
        detail: error.to_string(),
    }
}

/// The deepest nesting in `body`, counted over brackets outside of strings.
fn depth(body: &[u8]) -> usize {
    let (mut now, mut most, mut quoted, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                now = now.saturating_add(1);
                most = most.max(now);
            }
            b']' | b'}' if !quoted => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// A value that is valid JSON, not yet looked into.
#[derive(Debug, Clone)]
pub(super) struct Value<'a> {
    raw: &'a str,
    path: String,
}

impl<'a> Value<'a> {
    /// The JSON text, without white space around it.
    pub(super) fn raw(&self) -> &'a str {
        self.raw
    }

    pub(super) fn is_null(&self) -> bool {
        self.raw == "null"
    }

    /// This value is not acceptable because of `detail`.
    pub(super) fn invalid(&self, detail: impl Into<String>) -> ReplyError {
        ReplyError::Value {
            field: self.path.clone(),
            detail: detail.into(),
        }
    }

    /// This value is not `expected`.
    pub(super) fn mistyped(&self, expected: &'static str) -> ReplyError {
        ReplyError::Type {
            field: self.path.clone(),
            expected,
        }
    }

    fn typed<T: Deserialize<'a>>(&self, expected: &'static str) -> Result<T, ReplyError> {
        serde_json::from_str(self.raw).map_err(|_| self.mistyped(expected))
    }

    pub(super) fn string(&self) -> Result<String, ReplyError> {
        self.typed("a string")
    }

    pub(super) fn boolean(&self) -> Result<bool, ReplyError> {
        self.typed("a boolean")
    }

    pub(super) fn unsigned(&self) -> Result<u64, ReplyError> {
        self.typed("a number without sign or fraction")
    }

    /// The elements of an array; none for `null`, which is how Go writes an empty one.
    pub(super) fn list(&self) -> Result<Vec<Value<'a>>, ReplyError> {
        if self.is_null() {
            return Ok(Vec::new());
        }
        let Items(items) = self.typed("an array or null")?;
        Ok(items
            .into_iter()
            .enumerate()
            .map(|(i, raw)| Value {
                raw: raw.get(),
                path: format!("{}/{i}", self.path),
            })
            .collect())
    }

    pub(super) fn object(&self) -> Result<Object<'a>, ReplyError> {
        Ok(Object {
            fields: self.typed("an object")?,
            path: self.path.clone(),
        })
    }
}

/// A JSON object with all its keys, in order, repeated ones included.
#[derive(Debug)]
pub(super) struct Object<'a> {
    fields: Members<'a>,
    path: String,
}

impl<'a> Object<'a> {
    /// The JSON pointer of this object.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The JSON pointer of `key` in this object.
    pub(super) fn pointer(&self, key: &str) -> String {
        format!(
            "{}/{}",
            self.path,
            key.replace('~', "~0").replace('/', "~1")
        )
    }

    /// The value under `key`, compared exactly; `None` if absent or null.
    pub(super) fn optional(&self, key: &str) -> Result<Option<Value<'a>>, ReplyError> {
        let found = self.fields.find(key).map_err(|doubt| match doubt {
            Doubt::Twice => ReplyError::Duplicate {
                field: self.pointer(key),
            },
            Doubt::Case(name) => ReplyError::Case {
                field: self.pointer(key),
                found: excerpt(name),
            },
        })?;
        let value = found.map(|(_, raw)| self.value(key, raw));
        Ok(value.filter(|value| !value.is_null()))
    }

    fn value(&self, key: &str, raw: &'a RawValue) -> Value<'a> {
        Value {
            raw: raw.get(),
            path: self.pointer(key),
        }
    }

    /// As [`Object::optional`], but must be there.
    pub(super) fn required(&self, key: &str) -> Result<Value<'a>, ReplyError> {
        self.optional(key)?.ok_or_else(|| ReplyError::Missing {
            field: self.pointer(key),
        })
    }

    /// A string; empty if absent, as Go leaves empty ones out.
    pub(super) fn text(&self, key: &str) -> Result<String, ReplyError> {
        self.optional(key)?
            .map_or_else(|| Ok(String::new()), |value| value.string())
    }

    /// A list; empty if absent.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Value<'a>>, ReplyError> {
        self.optional(key)?
            .map_or_else(|| Ok(Vec::new()), |value| value.list())
    }

    /// All values by key, for objects whose keys are data (service names): compared exactly.
    pub(super) fn index(&self) -> BTreeMap<&str, Vec<Value<'a>>> {
        let mut map: BTreeMap<&str, Vec<Value<'a>>> = BTreeMap::new();
        for (name, raw) in self.fields.iter() {
            map.entry(name).or_default().push(self.value(name, raw));
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Object<'_>, ReplyError> {
        document(text.as_bytes(), 1000)?.object()
    }

    #[test]
    fn a_key_that_decides_must_be_there_once_and_in_its_case() {
        let get = |text: &str| read(text)?.required("Authorized")?.boolean();
        assert_eq!(
            get(r#"{"x":{"Authorized":false},"Authorized":true}"#),
            Ok(true)
        );
        let field = || "/Authorized".to_owned();
        assert_eq!(
            get(r#"{"Authorized":false,"Authorized":false}"#),
            Err(ReplyError::Duplicate { field: field() })
        );
        assert_eq!(
            get(r#"{"Authorized":false,"Authorized":true}"#),
            Err(ReplyError::Duplicate { field: field() }),
            "an escaped key is the same key"
        );
        for other in ["authorized", "AUTHORIZED"] {
            let text = format!(r#"{{"Authorized":false,"{other}":true}}"#);
            let found = other.to_owned();
            assert_eq!(
                get(&text),
                Err(ReplyError::Case {
                    field: field(),
                    found
                })
            );
        }
        assert_eq!(get("{}"), Err(ReplyError::Missing { field: field() }));
        assert_eq!(
            get(r#"{"Authorized":null}"#),
            Err(ReplyError::Missing { field: field() })
        );
        for other in [r#""true""#, "1", "[true]", "{}"] {
            let expected = "a boolean";
            assert_eq!(
                get(&format!(r#"{{"Authorized":{other}}}"#)),
                Err(ReplyError::Type {
                    field: field(),
                    expected
                })
            );
        }
    }

    #[test]
    fn size_and_depth_are_limited_and_brackets_in_strings_do_not_count() {
        assert!(matches!(
            document(b"[1]", 2),
            Err(ReplyError::TooLarge { limit: 2 })
        ));
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(document(deep(MAX_DEPTH).as_bytes(), 1000).is_ok());
        assert!(matches!(
            document(deep(MAX_DEPTH + 1).as_bytes(), 1000),
            Err(ReplyError::TooDeep { .. })
        ));
        let text = format!(r#""{}\"{}""#, "[".repeat(200), "{".repeat(200));
        assert!(document(text.as_bytes(), 1000).is_ok());
        for broken in ["", "{", "[1,]", "{\"a\":1}x", "\"\u{1}\"", "nul"] {
            assert!(
                matches!(
                    document(broken.as_bytes(), 1000),
                    Err(ReplyError::Syntax { .. })
                ),
                "{broken}"
            );
        }
        assert!(matches!(
            document(b"\"\xff\"", 1000),
            Err(ReplyError::Syntax { .. })
        ));
    }
}
