//! Reads JSON with the line of every value.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{Deserialize, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::tree::{Field, Kind, Lines, Node, Problem};

/// Reads a whole file.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    let root: &RawValue = serde_json::from_str(text)
        .map_err(|error| Problem::new(error.line(), format!("is not JSON: {error}")))?;
    node(text, &Lines::of(text), root.get())
}

/// The value at `raw`, which is a part of `whole`.
fn node(whole: &str, lines: &Lines, raw: &str) -> Result<Node, Problem> {
    let offset = raw.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    let line = lines.at(offset);
    let wrong = |error: serde_json::Error| Problem::new(line, format!("is not JSON: {error}"));
    let mut reader = serde_json::Deserializer::from_str(raw);
    let kind = match raw.as_bytes().first() {
        Some(b'{') => {
            let mut fields = Vec::new();
            for (name, raw) in reader.deserialize_map(Fields).map_err(wrong)? {
                let value = node(whole, lines, raw.get())?;
                fields.push(Field {
                    name,
                    line: value.line,
                    value,
                });
            }
            Kind::Object(fields)
        }
        Some(b'[') => {
            let items = reader.deserialize_seq(Items).map_err(wrong)?;
            let nodes = items.into_iter().map(|raw| node(whole, lines, raw.get()));
            Kind::List(nodes.collect::<Result<_, _>>()?)
        }
        _ => match serde_json::from_str(raw).map_err(wrong)? {
            serde_json::Value::Bool(value) => Kind::Bool(value),
            serde_json::Value::Number(number) => Kind::Number(number),
            serde_json::Value::String(text) => Kind::Text(text),
            _ => Kind::Null,
        },
    };
    Ok(Node { line, kind })
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((Name(name), raw)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            fields.push((name.into_owned(), raw));
        }
        Ok(fields)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(items)
    }
}

struct Name<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        Cow::deserialize(reader).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_lines() {
        let root = read("\n{\"a\":\n[1,\n {\"b\\u0063\": \"x\\ny\"}], \"a\": null}").unwrap();
        let Kind::Object(fields) = root.kind else {
            panic!("an object")
        };
        assert_eq!((root.line, fields[0].line, fields.len()), (2, 3, 2));
        let Kind::List(items) = &fields[0].value.kind else {
            panic!("a list")
        };
        assert_eq!((items[0].line, items[1].line), (3, 4));
        let Kind::Object(inner) = &items[1].kind else {
            panic!("an object")
        };
        assert_eq!(inner[0].name, "bc");
        assert_eq!(inner[0].value.kind, Kind::Text("x\ny".to_owned()));
        let bad = read("{\n\n \"a\": }").unwrap_err();
        assert_eq!(bad.line, 3);
        assert!(read("{} {}").is_err());
        assert!(read("").is_err());
    }
}
