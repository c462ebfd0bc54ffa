//! Envoy's configuration as a tree: JSON and YAML, both spellings of fields, paths.

use serde_json::{Map, Number, Value};
use yaml_rust2::YamlLoader;
use yaml_rust2::yaml::Yaml;

/// The largest file.
const MAX_FILE: usize = 32 * 1024 * 1024;

/// How deep a file may be nested.
const MAX_DEPTH: usize = 200;

/// Reads a file's text, JSON or YAML.
///
/// Fails when it is neither, or too large.
pub(in super::super) fn read(text: &str) -> Result<Value, String> {
    if text.len() > MAX_FILE {
        return Err(format!("it is larger than {MAX_FILE} bytes"));
    }
    if text.trim_start().starts_with(['{', '[']) {
        return serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"));
    }
    let documents =
        YamlLoader::load_from_str(text).map_err(|error| format!("it is no YAML: {error}"))?;
    match documents.as_slice() {
        [document] => value(document, 0),
        several => Err(format!(
            "it has {} YAML documents, and must have one",
            several.len()
        )),
    }
}

fn value(yaml: &Yaml, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("it is nested deeper than {MAX_DEPTH}"));
    }
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(flag) => Value::Bool(*flag),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Real(text) => text
            .parse()
            .ok()
            .and_then(Number::from_f64)
            .map_or_else(|| Value::String(text.clone()), Value::Number),
        Yaml::String(text) => Value::String(text.clone()),
        Yaml::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| value(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Yaml::Hash(fields) => {
            let mut map = Map::new();
            for (key, field) in fields {
                let key = match key {
                    Yaml::String(key) | Yaml::Real(key) => key.clone(),
                    Yaml::Integer(key) => key.to_string(),
                    Yaml::Boolean(key) => key.to_string(),
                    _ => return Err("a field has a name that is no text".to_owned()),
                };
                map.insert(key, value(field, depth + 1)?);
            }
            Value::Object(map)
        }
        Yaml::Alias(_) | Yaml::BadValue => return Err("an alias cannot be resolved".to_owned()),
    })
}

/// A place in the tree.
#[derive(Clone, Debug)]
pub(super) struct Node<'v> {
    pub(super) value: &'v Value,
    /// JSON pointer.
    pub(super) path: String,
}

impl<'v> Node<'v> {
    pub(super) fn root(value: &'v Value) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    /// A field by its name in the API (`snake_case`); protobuf's JSON allows `lowerCamelCase`.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        let fields = self.value.as_object()?;
        let (name, value) = match fields.get_key_value(name) {
            Some(found) => found,
            None => fields.get_key_value(camel(name).as_str())?,
        };
        (!value.is_null()).then(|| self.child(name, value))
    }

    /// A field of a field.
    pub(super) fn at(&self, names: &[&str]) -> Option<Self> {
        let mut node = self.clone();
        for name in names {
            node = node.field(name)?;
        }
        Some(node)
    }

    /// Items of a list, or of a field that is one.
    pub(super) fn items(&self) -> Vec<Self> {
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items
            .map(|(index, item)| self.child(&index.to_string(), item))
            .collect()
    }

    /// Items of a field that is a list.
    pub(super) fn list(&self, name: &str) -> Vec<Self> {
        self.field(name)
            .map(|list| list.items())
            .unwrap_or_default()
    }

    pub(super) fn text(&self, name: &str) -> Option<&'v str> {
        self.field(name)?.value.as_str()
    }

    /// A flag; also as Envoy's YAML reader takes words for it. `BoolValue` is a bare flag.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.field(name)?.value {
            Value::Bool(flag) => Some(*flag),
            Value::String(word) => match word.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" => Some(true),
                "false" | "no" | "off" | "n" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// An enumeration by its name, whether written as name or as number; absent stays absent.
    pub(super) fn choice(&self, name: &str, names: &[&'static str]) -> Option<&'v str> {
        match self.field(name)?.value {
            Value::String(text) => Some(text),
            Value::Number(number) => {
                let index = usize::try_from(number.as_u64()?).ok()?;
                names.get(index).copied()
            }
            _ => None,
        }
    }

    /// The message inside an `Any`, and the last part of its type; `TypedStruct` is looked
    /// through.
    pub(super) fn any(&self, name: &str) -> Option<(&'v str, Self)> {
        let any = self.field(name)?;
        let kind = any.value.get("@type")?.as_str()?;
        let (kind, node) = if kind.ends_with(".TypedStruct") {
            (any.text("type_url")?, any.field("value")?)
        } else {
            (kind, any)
        };
        Some((kind.rsplit(['.', '/']).next().unwrap_or(kind), node))
    }

    /// The full type of an `Any`.
    pub(super) fn kind(&self, name: &str) -> Option<&'v str> {
        let any = self.field(name)?;
        let kind = any.value.get("@type")?.as_str()?;
        if kind.ends_with(".TypedStruct") {
            any.text("type_url")
        } else {
            Some(kind)
        }
    }

    /// Every object, this one first.
    pub(super) fn objects(&self, found: &mut Vec<Self>) {
        match self.value {
            Value::Object(fields) => {
                found.push(self.clone());
                for (name, value) in fields {
                    self.child(name, value).objects(found);
                }
            }
            Value::Array(_) => {
                for item in self.items() {
                    item.objects(found);
                }
            }
            _ => {}
        }
    }

    fn child(&self, name: &str, value: &'v Value) -> Self {
        let name = name.replace('~', "~0").replace('/', "~1");
        Self {
            value,
            path: format!("{}/{name}", self.path),
        }
    }
}

/// `snake_case` as `lowerCamelCase`.
fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        if letter == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            camel.push(letter.to_ascii_uppercase());
        } else {
            camel.push(letter);
        }
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_are_the_same_tree() {
        let yaml = "a:\n  - b_c: yes\n    d: 1\n    \"e/f\": ~\n  - &x {g: 1.5}\n  - *x\n";
        let json = r#"{"a": [{"bC": true, "d": 1, "e/f": null}, {"g": 1.5}, {"g": 1.5}]}"#;
        for text in [yaml, json] {
            let tree = read(text).unwrap();
            let root = Node::root(&tree);
            let first = root.list("a")[0].clone();
            assert_eq!(first.flag("b_c"), Some(true), "{text}");
            assert!(first.field("e/f").is_none());
            assert_eq!(root.list("a").len(), 3);
            assert_eq!(first.field("d").unwrap().path, "/a/0/d");
            let mut all = Vec::new();
            root.objects(&mut all);
            assert_eq!(all.len(), 4);
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in ["{", "a: [", "a: 1\n---\nb: 2\n", "", "a: 1\na: 2\n"] {
            assert!(read(text).is_err(), "{text:?}");
        }
        let deep = format!("a: {}1{}", "[".repeat(300), "]".repeat(300));
        assert!(read(&deep).is_err());
    }
}
