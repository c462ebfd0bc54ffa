//! Reading documents: [`crate::json`] with places and flaws.
//!
//! Where a value cannot be read, the rest of the document still can.

use std::borrow::Cow;
use std::fmt;

use serde::de::Deserialize;
use serde_json::value::RawValue;

use crate::identity::Excerpt;
pub(crate) use crate::json::folds_equal;
use crate::json::{self, Doubt, Items, Members, Text};

/// Something that decides and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// JSON pointer.
    pub(crate) pointer: String,
    /// What is wrong; printable.
    pub(crate) text: String,
}

/// A place in a document, kept as a chain so that it costs nothing until printed.
#[derive(Clone, Copy)]
pub(crate) struct At<'p> {
    parent: Option<&'p At<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'p> At<'p> {
    /// The document itself.
    pub(crate) const ROOT: At<'static> = At {
        parent: None,
        step: Step::Root,
    };

    /// A field of the object here.
    pub(crate) const fn key(&'p self, key: &'p str) -> Self {
        At {
            parent: Some(self),
            step: Step::Key(key),
        }
    }

    /// An element of the array here.
    pub(crate) const fn index(&'p self, index: usize) -> Self {
        At {
            parent: Some(self),
            step: Step::Index(index),
        }
    }

    /// The value here is wrong in the way that `text` says.
    pub(crate) fn flaw(&self, text: impl Into<String>) -> Flaw {
        Flaw {
            pointer: self.to_string(),
            text: text.into(),
        }
    }
}

/// The place as an RFC 6901 pointer, with control characters escaped.
impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) => {
                let key = key.replace('~', "~0").replace('/', "~1");
                write!(f, "/{}", Excerpt::of(&key))
            }
            Step::Index(index) => write!(f, "/{index}"),
        }
    }
}

/// The type of a JSON value, in words.
pub(crate) fn type_of(raw: &RawValue) -> &'static str {
    match raw.get().bytes().next() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "`null`",
        _ => "a number",
    }
}

/// Whether the value is an object or an array.
pub(crate) fn is_structure(raw: &RawValue) -> bool {
    raw.get().starts_with(['{', '['])
}

fn typed<'a, T: Deserialize<'a>>(raw: &'a RawValue, at: &At<'_>, wanted: &str) -> Result<T, Flaw> {
    serde_json::from_str(raw.get())
        .map_err(|_| at.flaw(format!("this is {}, not {wanted}", type_of(raw))))
}

/// A string.
pub(crate) fn text<'a>(raw: &'a RawValue, at: &At<'_>) -> Result<Cow<'a, str>, Flaw> {
    typed::<Text<'a>>(raw, at, "a readable string").map(|text| text.0)
}

/// `true` or `false`.
pub(crate) fn boolean(raw: &RawValue, at: &At<'_>) -> Result<bool, Flaw> {
    typed(raw, at, "a boolean")
}

/// A whole number from 0.
pub(crate) fn unsigned(raw: &RawValue, at: &At<'_>) -> Result<u64, Flaw> {
    typed(raw, at, "a whole number from 0")
}

/// The elements of an array.
pub(crate) fn items<'a>(raw: &'a RawValue, at: &At<'_>) -> Result<Vec<&'a RawValue>, Flaw> {
    typed::<Items<'a>>(raw, at, "an array").map(|items| items.0)
}

/// The strings of an array.
pub(crate) fn texts<'a>(raw: &'a RawValue, at: &At<'_>) -> Result<Vec<Cow<'a, str>>, Flaw> {
    items(raw, at)?
        .into_iter()
        .enumerate()
        .map(|(i, item)| text(item, &at.index(i)))
        .collect()
}

/// The fields of an object, in order, repeated ones included.
pub(crate) struct Fields<'a>(Members<'a>);

impl<'a> Fields<'a> {
    /// Reads an object.
    pub(crate) fn of(raw: &'a RawValue, at: &At<'_>) -> Result<Self, Flaw> {
        typed(raw, at, "a readable object").map(Self)
    }

    /// Takes out the field `key`; `None` if it is absent or `null`.
    ///
    /// A second occurrence or one in another case is a flaw: readers differ on which
    /// of them counts. It stays in place, so that asking again gives the same flaw.
    pub(crate) fn take(&mut self, key: &str, at: &At<'_>) -> Result<Option<&'a RawValue>, Flaw> {
        Ok(self
            .take_or_null(key, at)?
            .filter(|raw| raw.get() != "null"))
    }

    /// As [`Fields::take`], but tells `null` from absence.
    pub(crate) fn take_or_null(
        &mut self,
        key: &str,
        at: &At<'_>,
    ) -> Result<Option<&'a RawValue>, Flaw> {
        let found = self.0.find(key).map_err(|doubt| match doubt {
            Doubt::Twice => at.key(key).flaw("this field occurs twice"),
            Doubt::Case(name) => at
                .key(name)
                .flaw(format!("this field differs from `{key}` only in case")),
        })?;
        let Some((place, raw)) = found else {
            return Ok(None);
        };
        self.0.remove(place);
        Ok(Some(raw))
    }

    /// Takes out a string; `None` if it is absent, `null` or empty, which Consul
    /// does not tell apart.
    pub(crate) fn take_text(
        &mut self,
        key: &str,
        at: &At<'_>,
    ) -> Result<Option<Cow<'a, str>>, Flaw> {
        let Some(raw) = self.take(key, at)? else {
            return Ok(None);
        };
        Ok(Some(text(raw, &at.key(key))?).filter(|text| !text.is_empty()))
    }

    /// Takes out a boolean; absent and `null` are `false`.
    pub(crate) fn take_flag(&mut self, key: &str, at: &At<'_>) -> Result<bool, Flaw> {
        match self.take(key, at)? {
            Some(raw) => boolean(raw, &at.key(key)),
            None => Ok(false),
        }
    }

    /// Takes out an array; absent and `null` are empty, which Consul does not tell apart.
    pub(crate) fn take_items(&mut self, key: &str, at: &At<'_>) -> Result<Vec<&'a RawValue>, Flaw> {
        match self.take(key, at)? {
            Some(raw) => items(raw, &at.key(key)),
            None => Ok(Vec::new()),
        }
    }

    /// What nobody has taken out.
    pub(crate) fn rest(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter()
    }

    /// Ends the reading of an object all of whose fields decide.
    pub(crate) fn none_left(&self, at: &At<'_>) -> Result<(), Flaw> {
        match self.rest().next() {
            Some((name, _)) => Err(at.key(name).flaw("this field is not known")),
            None => Ok(()),
        }
    }
}

/// The JSON value that `body` holds, not yet looked into.
pub(crate) fn document(body: &[u8]) -> Result<&RawValue, String> {
    json::document(body).map_err(|error| printable(&error))
}

fn printable(error: &serde_json::Error) -> String {
    Excerpt::of(&error.to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        document(json.as_bytes()).unwrap()
    }

    #[test]
    fn repeated_and_case_variant_keys_are_seen() {
        let take = |json: &str| {
            let mut fields = Fields::of(raw(json), &At::ROOT).unwrap();
            fields
                .take("Action", &At::ROOT)
                .map(|found| found.map(|raw| raw.get().to_owned()))
        };
        assert_eq!(take(r#"{"Action":"deny"}"#), Ok(Some("\"deny\"".into())));
        assert_eq!(take(r#"{"Action":null}"#), Ok(None));
        assert_eq!(take("{}"), Ok(None));
        for twice in [
            r#"{"Action":"deny","Action":"allow"}"#,
            r#"{"Action":"deny","\u0041ction":"allow"}"#,
            r#"{"Action":null,"Action":null}"#,
        ] {
            assert_eq!(take(twice).unwrap_err().pointer, "/Action", "{twice}");
        }
        for variant in ["action", "ACTION", "aCtion"] {
            let json = format!(r#"{{"Action":"deny","{variant}":"allow"}}"#);
            assert_eq!(take(&json).unwrap_err().pointer, format!("/{variant}"));
        }
        let mut fields = Fields::of(raw("{\"Permi\u{17f}\u{17f}ions\":[]}"), &At::ROOT).unwrap();
        assert!(fields.take("Permissions", &At::ROOT).is_err());
    }

    #[test]
    fn a_field_in_doubt_stays_in_doubt() {
        let mut fields = Fields::of(raw(r#"{"A":1,"A":2}"#), &At::ROOT).unwrap();
        assert!(fields.take("A", &At::ROOT).is_err());
        assert!(fields.take("A", &At::ROOT).is_err());
    }

    #[test]
    fn values_are_not_converted() {
        let at = At::ROOT;
        for other in ["1", "true", "[]", "{}", "null"] {
            assert!(text(raw(other), &at).is_err(), "{other}");
        }
        for other in ["1", "\"true\"", "[]", "{}", "null"] {
            assert!(boolean(raw(other), &at).is_err(), "{other}");
        }
        for other in [
            "1.0",
            "-1",
            "\"1\"",
            "1e400",
            "18446744073709551616",
            "true",
        ] {
            assert!(unsigned(raw(other), &at).is_err(), "{other}");
        }
        for other in ["{}", "\"a\"", "null"] {
            assert!(items(raw(other), &at).is_err(), "{other}");
        }
    }

    #[test]
    fn depth_and_bad_text_harm_only_their_own_value() {
        let json = format!(
            r#"{{"a":{}1{},"b":"\ud800","c":1e999,"d":"fine"}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let mut fields = Fields::of(raw(&json), &At::ROOT).unwrap();
        let b = fields.take("b", &At::ROOT).unwrap().unwrap();
        assert!(text(b, &At::ROOT).is_err());
        let d = fields.take("d", &At::ROOT).unwrap().unwrap();
        assert_eq!(text(d, &At::ROOT).unwrap(), "fine");
    }

    #[test]
    fn what_is_no_json_is_no_document() {
        for broken in ["", "[1,]", "[1] x", "{\"a\"}", "nul", "[\"\u{1}\"]"] {
            assert!(document(broken.as_bytes()).is_err(), "{broken}");
        }
        assert!(document(b"\"\xff\"").is_err());
    }

    #[test]
    fn pointers_are_escaped() {
        let root = At::ROOT;
        let list = root.key("a/b~c");
        let item = list.index(3);
        assert_eq!(item.key("x\ny").to_string(), r"/a~1b~0c/3/x\ny");
    }
}
