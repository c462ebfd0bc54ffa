//! The strict reader for JSON that decides, below the agent's replies and the documents.
//!
//! Consul's own clients are written in Go, whose reader matches keys without regard
//! to case and lets the last of several win; others take the first, or compare
//! exactly. So for every field that is asked for, a second occurrence and a key that
//! differs from it only in case are in [`Doubt`]. Values are never converted, and
//! nothing is descended into that nobody asks for, so depth costs nothing.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The JSON value that `body` holds, not yet looked into.
pub(crate) fn document(body: &[u8]) -> Result<&RawValue, serde_json::Error> {
    serde_json::from_slice(body)
}

/// Why a field that was asked for cannot be had: readers differ on what it is.
pub(crate) enum Doubt<'m> {
    /// It occurs twice.
    Twice,
    /// This key differs from it only in case.
    Case(&'m str),
}

/// The members of an object, in order, repeated ones included.
#[derive(Debug)]
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The place and the value of the member `key`, compared exactly.
    pub(crate) fn find(&self, key: &str) -> Result<Option<(usize, &'a RawValue)>, Doubt<'_>> {
        let mut found = None;
        for (place, (name, raw)) in self.0.iter().enumerate() {
            if name == key {
                if found.is_some() {
                    return Err(Doubt::Twice);
                }
                found = Some((place, *raw));
            } else if folds_equal(name, key) {
                return Err(Doubt::Case(name));
            }
        }
        Ok(found)
    }

    /// Takes out the member at a place.
    pub(crate) fn remove(&mut self, place: usize) {
        self.0.remove(place);
    }

    /// All members that are left.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, raw)| (name.as_ref(), *raw))
    }
}

/// Whether Go's JSON reader takes one key for the other: ASCII case, and the two letters
/// outside of ASCII that fold into it (U+017F to `s`, U+212A to `k`).
pub(crate) fn folds_equal(a: &str, b: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => c.to_ascii_lowercase(),
    };
    // Only letters outside of ASCII fold to another length; most keys end here.
    if a.len() != b.len() && a.is_ascii() && b.is_ascii() {
        return false;
    }
    a.chars().map(fold).eq(b.chars().map(fold))
}

/// A string, borrowed where nothing in it is escaped.
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Strings)
    }
}

/// The elements of an array.
pub(crate) struct Items<'a>(pub(crate) Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), raw)) = map.next_entry()? {
                    members.push((name, raw));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_go_folds_into_ascii_count_as_case() {
        assert!(folds_equal("Root\u{17f}", "Roots"));
        assert!(folds_equal("\u{212a}ind", "Kind"));
        assert!(!folds_equal("Rootz", "Roots"));
        assert!(!folds_equal("Roo\u{17f}s", "Roots"));
    }

    #[test]
    fn what_is_no_json_is_no_document() {
        for broken in ["", "[1,]", "[1] x", "{\"a\"}", "nul", "[\"\u{1}\"]"] {
            assert!(document(broken.as_bytes()).is_err(), "{broken}");
        }
        assert!(document(b"\"\xff\"").is_err());
    }
}
