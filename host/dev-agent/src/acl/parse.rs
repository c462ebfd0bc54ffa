//! ACL rules as people write them: HCL (the part that Consul's rules use) or JSON.

use serde_json::{Map, Value};

use super::rules::{Access, Rules};

/// Reads rules; nothing at all is the empty set.
///
/// # Errors
/// What cannot be read, in one line.
pub(super) fn rules(text: &str) -> Result<Rules, String> {
    let items = if text.trim_start().starts_with('{') {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        value
            .as_object()
            .cloned()
            .map(json_items)
            .ok_or("not a JSON object")??
    } else {
        let mut parser = Parser { rest: text };
        let items = parser.body(0)?;
        if !parser.rest.is_empty() {
            return Err("`}` without `{`".to_owned());
        }
        items
    };
    let mut rules = Rules::default();
    for Item { kind, name, value } in items {
        match (name, value) {
            (Some(name), Entry::Block(fields)) => {
                let mut policy = None;
                let mut intentions = None;
                for field in fields {
                    let access = access(&field)?;
                    match field.kind.as_str() {
                        "policy" => policy = Some(access),
                        "intentions" => intentions = Some(access),
                        other => return Err(format!("unknown key `{other}` in `{kind} {name:?}`")),
                    }
                }
                let policy = policy.ok_or_else(|| format!("`{kind} {name:?}` has no policy"))?;
                rules.add_named(&kind, &name, policy, intentions)?;
            }
            (None, value @ Entry::Text(_)) => {
                let access = access(&Item {
                    kind: kind.clone(),
                    name: None,
                    value,
                })?;
                rules.add_plain(&kind, access)?;
            }
            (Some(name), Entry::Text(_)) => {
                return Err(format!("`{kind} {name:?}` needs a block in braces"));
            }
            (None, Entry::Block(_)) => return Err(format!("`{kind}` needs a name")),
        }
    }
    Ok(rules)
}

struct Item {
    kind: String,
    name: Option<String>,
    value: Entry,
}

enum Entry {
    Text(String),
    Block(Vec<Item>),
}

fn access(item: &Item) -> Result<Access, String> {
    match &item.value {
        Entry::Text(text) => Access::parse(text)
            .ok_or_else(|| format!("`{}` must be read, write or deny, not {text:?}", item.kind)),
        Entry::Block(_) => Err(format!("`{}` must be a text", item.kind)),
    }
}

fn json_items(object: Map<String, Value>) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    for (kind, value) in object {
        match value {
            Value::String(text) => items.push(Item {
                kind,
                name: None,
                value: Entry::Text(text),
            }),
            Value::Object(named) if named.values().all(Value::is_object) => {
                for (name, fields) in named {
                    let fields = fields.as_object().cloned().unwrap_or_default();
                    let value = Entry::Block(json_items(fields)?);
                    items.push(Item {
                        kind: kind.clone(),
                        name: Some(name),
                        value,
                    });
                }
            }
            _ => {
                return Err(format!(
                    "`{kind}` is neither a text nor an object of objects"
                ));
            }
        }
    }
    Ok(items)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    /// Items up to the closing brace or the end.
    fn body(&mut self, depth: u8) -> Result<Vec<Item>, String> {
        if depth > 4 {
            return Err("blocks are nested too deeply".to_owned());
        }
        let mut items = Vec::new();
        loop {
            self.space()?;
            if self.rest.is_empty() || self.rest.starts_with('}') {
                return Ok(items);
            }
            let kind = self.word()?;
            self.space()?;
            let name = if self.rest.starts_with('"') {
                Some(self.word()?)
            } else {
                None
            };
            self.space()?;
            let assigned = self.take('=');
            self.space()?;
            let value = if self.take('{') {
                let block = self.body(depth + 1)?;
                if !self.take('}') {
                    return Err(format!("`{kind}`: missing `}}`"));
                }
                Entry::Block(block)
            } else if assigned {
                Entry::Text(self.word()?)
            } else {
                return Err(format!("`{kind}` is followed by neither `=` nor a block"));
            };
            self.space()?;
            self.take(',');
            items.push(Item { kind, name, value });
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// White space and comments.
    fn space(&mut self) -> Result<(), String> {
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                self.rest = comment.split_once("*/").ok_or("a comment does not end")?.1;
            } else {
                return Ok(());
            }
        }
    }

    /// A quoted text or a bare word.
    fn word(&mut self) -> Result<String, String> {
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let mut text = String::new();
            let mut chars = quoted.char_indices();
            while let Some((at, char)) = chars.next() {
                match char {
                    '"' => {
                        self.rest = &quoted[at + 1..];
                        return Ok(text);
                    }
                    '\\' => match chars.next() {
                        Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                        _ => return Err("unknown escape in a quoted text".to_owned()),
                    },
                    '\n' => break,
                    char => text.push(char),
                }
            }
            return Err("a quoted text does not end".to_owned());
        }
        let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
        let end = self
            .rest
            .find(|char| !is_word(char))
            .unwrap_or(self.rest.len());
        if end == 0 {
            let found: String = self.rest.chars().take(10).collect();
            return Err(format!("unexpected {found:?}"));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hcl_and_json_mean_the_same() {
        let hcl = r#"
            # a comment
            service "web" { policy = "write" intentions = "deny" }
            service_prefix "" { policy = "read" } /* and */ node_prefix "" { policy = "read" }
            operator = "write" // end
        "#;
        let json = r#"{"service":{"web":{"policy":"write","intentions":"deny"}},
            "service_prefix":{"":{"policy":"read"}},"node_prefix":{"":{"policy":"read"}},"operator":"write"}"#;
        for text in [hcl, json] {
            let rules = rules(text).expect("rules");
            assert_eq!(rules.service("web"), Some(Access::Write));
            assert_eq!(rules.service("webx"), Some(Access::Read));
            assert_eq!(rules.intention("web"), Some(Access::Deny));
            assert_eq!(rules.intention("db"), Some(Access::Read));
            assert_eq!(rules.node("n"), Some(Access::Read));
            assert_eq!(rules.agent("n"), None);
            assert_eq!(rules.mesh(), Some(Access::Write));
        }
    }

    #[test]
    fn longest_prefix_and_deny_win() {
        let text = r#"service_prefix "w" { policy = "read" } service_prefix "we" { policy = "write" }
            service "web" { policy = "deny" } service "web" { policy = "write" }"#;
        let rules = rules(text).expect("rules");
        assert_eq!(rules.service("wax"), Some(Access::Read));
        assert_eq!(rules.service("wet"), Some(Access::Write));
        assert_eq!(rules.service("web"), Some(Access::Deny));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for bad in [
            "service",
            "service \"web\"",
            "service \"web\" {",
            "service \"web\" { policy = \"all\" }",
            "service \"web\" {}",
            "nope = \"read\"",
            "nope \"x\" { policy = \"read\" }",
            "}",
            "operator",
            "service \"web { policy",
            "{\"service\": 3}",
            "{",
            "a{a{a{a{a{a{",
            "/*",
            "service \"w\" = \"read\"",
        ] {
            assert!(rules(bad).is_err(), "{bad}");
        }
    }
}
