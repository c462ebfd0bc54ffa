//! Reads HCL as Consul does: version 1 of the language.
//!
//! The library reads version 2, which is stricter: one attribute to a line, blocks have no
//! commas and their names no quotes, objects have no blocks, and `${` begins a template.
//! Therefore what Consul takes is first written as version 2 has it.

use std::collections::HashSet;

use hcl_edit::Span as _;
use hcl_edit::expr::{Expression, Object, ObjectKey};
use hcl_edit::structure::{Body, Structure};

use super::tree::{Field, Kind, Lines, Node, Problem};

/// Reads a whole file.
pub(super) fn read(text: &str) -> Result<Node, Problem> {
    let source = Modern::write(text)?;
    let body = hcl_edit::parser::parse_body(&source.text).map_err(|error| {
        let line = source.line(error.location().offset());
        Problem::new(line, format!("is not HCL: {}", error.message()))
    })?;
    let reader = Reader { source: &source };
    let kind = reader.body(&body, 1)?;
    Ok(Node { line: 1, kind })
}

/// A file in version 2 of the language.
struct Modern {
    text: String,
    /// Where something was added, and how many bytes up to there.
    added: Vec<(usize, usize)>,
    /// Of the original.
    lines: Lines,
}

/// What is open.
struct Frame {
    list: bool,
    /// An object in place of a block.
    object: bool,
    line: usize,
    names: HashSet<String>,
}

impl Modern {
    /// Fails where the text ends too early, or a field of one block occurs twice.
    fn write(text: &str) -> Result<Self, Problem> {
        let mut out = Self {
            text: String::with_capacity(text.len() + 64),
            added: Vec::new(),
            lines: Lines::of(text),
        };
        let frame = |list, object, line| Frame {
            list,
            object,
            line,
            names: HashSet::new(),
        };
        let mut frames = vec![frame(false, false, 1)];
        // Whether a value has just ended, or is expected; the name of the item so far.
        let (mut ended, mut expected, mut name) = (false, false, None::<String>);
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let line = out.lines.at(text.len() - rest.len());
            let token = Token::next(rest).map_err(|what| Problem::new(line, what))?;
            let (raw, after) = rest.split_at(token.length());
            rest = after;
            let outermost = frames.len() == 1;
            let Some(top) = frames.last_mut() else {
                return Err(Problem::new(line, "closes what was not opened"));
            };
            let is_value = expected || top.list;
            match token {
                Token::Space(_) => {
                    if raw.contains('\n') {
                        ended = false;
                    }
                    out.text.push_str(raw);
                }
                Token::Comment(_) => out.text.push_str(raw),
                Token::Word(_) | Token::Quoted(_) | Token::Heredoc(_) if is_value => {
                    out.text_of(raw, &token);
                    (ended, expected, name) = (true, false, None);
                    if matches!(token, Token::Heredoc(_)) {
                        ended = false;
                    }
                }
                Token::Heredoc(_) => return Err(Problem::new(line, "a text stands alone")),
                Token::Word(_) | Token::Quoted(_) => {
                    if ended {
                        out.add("\n");
                        ended = false;
                    }
                    let plain = raw.trim_matches('"');
                    if name.is_none() && matches!(token, Token::Quoted(_)) && is_name(plain) {
                        out.text.push_str(&format!(" {plain} "));
                    } else {
                        out.text_of(raw, &token);
                    }
                    name.get_or_insert_with(|| plain.to_owned());
                }
                Token::Mark(_) => match first {
                    '=' | ':' => {
                        top.take_name(&mut name, line)?;
                        expected = true;
                        out.text.push(first);
                    }
                    ',' => {
                        ended = false;
                        // Both end an item; blocks know line breaks only.
                        out.text.push(if top.list { ',' } else { '\n' });
                    }
                    '{' => {
                        let object = is_value || top.object;
                        if object && !is_value {
                            top.take_name(&mut name, line)?;
                            out.add("= ");
                        }
                        out.text.push('{');
                        out.add("\n");
                        frames.push(frame(false, object, line));
                        (ended, expected, name) = (false, false, None);
                    }
                    '[' => {
                        out.text.push('[');
                        frames.push(frame(true, true, line));
                        (ended, expected, name) = (false, false, None);
                    }
                    '}' | ']' => {
                        if outermost || top.list != (first == ']') {
                            return Err(Problem::new(
                                line,
                                format!("`{first}` closes nothing that is open here"),
                            ));
                        }
                        if first == '}' {
                            out.add("\n");
                        }
                        out.text.push(first);
                        frames.pop();
                        (ended, expected, name) = (true, false, None);
                    }
                    _ => {
                        return Err(Problem::new(
                            line,
                            format!("`{}` cannot stand here", first.escape_debug()),
                        ));
                    }
                },
            }
        }
        if let [_, .., open] = frames.as_slice() {
            return Err(Problem::new(open.line, "is never closed"));
        }
        out.add("\n");
        Ok(out)
    }

    fn add(&mut self, what: &str) {
        let before = self.added.last().map_or(0, |(_, all)| *all);
        self.added.push((self.text.len(), before + what.len()));
        self.text.push_str(what);
    }

    /// A text as it is: what version 2 would take for a template is escaped.
    fn text_of(&mut self, raw: &str, token: &Token) {
        if matches!(token, Token::Word(_)) {
            return self.text.push_str(raw);
        }
        let mut rest = raw;
        while let Some(at) = rest.find("${").into_iter().chain(rest.find("%{")).min() {
            let (before, mark) = rest.split_at(at);
            self.text.push_str(before);
            let (sign, after) = mark.split_at(1);
            self.add(sign);
            self.text.push_str(sign);
            rest = after;
        }
        self.text.push_str(rest);
    }

    /// The line in the original of a place in this text.
    fn line(&self, offset: usize) -> usize {
        let before = self.added.partition_point(|(at, _)| *at < offset);
        let last = before.checked_sub(1).and_then(|last| self.added.get(last));
        let added = last.map_or(0, |(_, all)| *all);
        self.lines.at(offset.saturating_sub(added))
    }
}

impl Frame {
    /// Notes the name of an item that can be there only once.
    fn take_name(&mut self, name: &mut Option<String>, line: usize) -> Result<(), Problem> {
        let Some(name) = name.take() else {
            return Ok(());
        };
        if self.names.insert(name.clone()) {
            return Ok(());
        }
        Err(Problem::new(
            line,
            format!("`{name}` occurs twice; several go into a list: `{name} = [..., ...]`"),
        ))
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-'))
}

/// A piece of text and how many bytes it has.
#[derive(Clone, Copy)]
enum Token {
    Space(usize),
    Comment(usize),
    Word(usize),
    Quoted(usize),
    Heredoc(usize),
    Mark(usize),
}

impl Token {
    fn length(self) -> usize {
        match self {
            Self::Space(length)
            | Self::Comment(length)
            | Self::Word(length)
            | Self::Quoted(length)
            | Self::Heredoc(length)
            | Self::Mark(length) => length,
        }
    }

    /// The first one of `text`, which is not empty.
    fn next(text: &str) -> Result<Self, &'static str> {
        let run = |accepts: fn(char) -> bool| text.find(|c| !accepts(c)).unwrap_or(text.len());
        let line = || text.find('\n').unwrap_or(text.len());
        let first = text.chars().next().unwrap_or_default();
        Ok(match first {
            c if c.is_whitespace() => Self::Space(run(char::is_whitespace)),
            '#' => Self::Comment(line()),
            '/' if text.starts_with("//") => Self::Comment(line()),
            '/' if text.starts_with("/*") => {
                let end = text.find("*/").ok_or("this comment has no end")?;
                Self::Comment(end + 2)
            }
            '"' => Self::Quoted(quoted(text).ok_or("this text has no closing quote")?),
            '<' if text.starts_with("<<") => {
                Self::Heredoc(heredoc(text).ok_or("this text has no end")?)
            }
            c if is_word(c) => Self::Word(run(is_word)),
            c => Self::Mark(c.len_utf8()),
        })
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+')
}

/// The length of a text in quotes, on one line.
fn quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The length of `<<END ... END` without the line break at its end.
fn heredoc(text: &str) -> Option<usize> {
    let (head, body) = text.split_once('\n')?;
    let end = head.trim_start_matches('<').trim_start_matches('-').trim();
    let mut length = head.len() + 1;
    for line in body.split_inclusive('\n') {
        if !end.is_empty() && line.trim() == end {
            return Some(length + line.trim_end().len());
        }
        length += line.len();
    }
    None
}

/// Turns the library's values into ours.
struct Reader<'a> {
    source: &'a Modern,
}

impl Reader<'_> {
    fn line(&self, span: Option<std::ops::Range<usize>>, outer: usize) -> usize {
        span.map_or(outer, |span| self.source.line(span.start))
    }

    fn body(&self, body: &Body, outer: usize) -> Result<Kind, Problem> {
        let mut fields = Vec::new();
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => {
                    let line = self.line(attribute.key.span(), outer);
                    fields.push(Field {
                        name: attribute.key.as_str().to_owned(),
                        line,
                        value: self.expression(&attribute.value, line)?,
                    });
                }
                Structure::Block(block) => {
                    let line = self.line(block.ident.span(), outer);
                    if let Some(label) = block.labels.first() {
                        return Err(Problem::new(
                            line,
                            format!(
                                "`{} \"{}\"` has a label: write the name inside, such as `name = \"{}\"`",
                                block.ident.as_str(),
                                label.as_str(),
                                label.as_str()
                            ),
                        ));
                    }
                    let kind = self.body(&block.body, line)?;
                    fields.push(Field {
                        name: block.ident.as_str().to_owned(),
                        line,
                        value: Node { line, kind },
                    });
                }
            }
        }
        Ok(Kind::Object(fields))
    }

    fn expression(&self, expression: &Expression, outer: usize) -> Result<Node, Problem> {
        let line = self.line(expression.span(), outer);
        let kind = match expression {
            Expression::Null(_) => Kind::Null,
            Expression::Bool(value) => Kind::Bool(*value.value()),
            Expression::Number(number) => Kind::Number(
                serde_json::from_str(&number.value().to_string())
                    .map_err(|_| Problem::new(line, "this number cannot be read"))?,
            ),
            Expression::String(text) => Kind::Text(text.value().clone()),
            Expression::HeredocTemplate(text) => {
                let mut whole = String::new();
                for element in text.template.iter() {
                    match element.as_literal() {
                        Some(literal) => whole.push_str(literal.value()),
                        None => return Err(Problem::new(line, "templates are not evaluated")),
                    }
                }
                Kind::Text(whole)
            }
            Expression::Array(items) => {
                let nodes = items.iter().map(|item| self.expression(item, line));
                Kind::List(nodes.collect::<Result<_, _>>()?)
            }
            Expression::Object(object) => self.object(object, line)?,
            Expression::Variable(name) => {
                return Err(Problem::new(
                    line,
                    format!("`{0}` is no value: write \"{0}\"", name.as_str()),
                ));
            }
            _ => {
                return Err(Problem::new(
                    line,
                    "expressions are not evaluated: write the value itself",
                ));
            }
        };
        Ok(Node { line, kind })
    }

    fn object(&self, object: &Object, outer: usize) -> Result<Kind, Problem> {
        let mut fields = Vec::new();
        for (key, value) in object {
            let name = match key {
                ObjectKey::Ident(name) => name.as_str().to_owned(),
                ObjectKey::Expression(Expression::String(name)) => name.value().clone(),
                ObjectKey::Expression(_) => {
                    return Err(Problem::new(outer, "the name of a field is no name"));
                }
            };
            let value = self.expression(value.expr(), outer)?;
            fields.push(Field {
                name,
                line: value.line,
                value,
            });
        }
        Ok(Kind::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn value(text: &str) -> Value {
        read(text)
            .and_then(|node| node.json())
            .unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
    }

    #[test]
    fn what_consul_takes_on_one_line() {
        for text in [
            r#"service { name = "web" port = 8080 connect { sidecar_service {} } }"#,
            r#"service { name = "web", port = 8080, connect { sidecar_service {} } }"#,
            r#"service = { name = "web" port = 8080 connect { sidecar_service {} } }"#,
            r#""service" { "name" = "web" "port" = 8080 "connect" = { "sidecar_service" = {} } }"#,
            "service {\n  name = \"web\" # a name\n  port = 8080 // a port\n  /* more */ connect {\n    sidecar_service {}\n  }\n}\n",
        ] {
            assert_eq!(
                value(text),
                json!({"service": {"name": "web", "port": 8080, "connect": {"sidecar_service": {}}}}),
                "{text}"
            );
        }
    }

    #[test]
    fn lists_and_objects() {
        assert_eq!(
            value(
                r#"services = [ { name = "a" port = 1 connect { native = true } }, { "name" = "b", "meta" = { "a.b" = "c" } }, ]
                tags = ["x", "y",
                ]"#
            ),
            json!({"services": [
                {"name": "a", "port": 1, "connect": {"native": true}},
                {"name": "b", "meta": {"a.b": "c"}},
            ], "tags": ["x", "y"]})
        );
        let Kind::Object(fields) = read("u { a = 1 }\nu { a = -2.5 }").unwrap().kind else {
            panic!("an object")
        };
        assert_eq!(fields.len(), 2, "a repeated block is there twice");
        assert_eq!(fields[1].line, 2);
    }

    #[test]
    fn texts_are_taken_as_they_are() {
        assert_eq!(
            value("a = \"w${x}b %{y} \\\"q\\\" # = { [\"\nb = <<EOF\nl1 ${z}\n { \nEOF\nc = 1"),
            json!({"a": "w${x}b %{y} \"q\" # = { [", "b": "l1 ${z}\n { \n", "c": 1})
        );
    }

    #[test]
    fn problems_have_their_line() {
        for (text, line, part) in [
            ("a = 1\nb = {\n", 2, "never closed"),
            ("a = 1\n}\n", 2, "`}` closes nothing"),
            ("a = [1\n}\n", 2, "`}` closes nothing"),
            ("a = 1\n\nb = \"x\n", 3, "closing quote"),
            ("/* x", 1, "no end"),
            ("a = <<E\nx", 1, "no end"),
            ("a = 1\nb = foo\n", 2, "\"foo\""),
            ("x { a = 1 b = 2 }\ny { c = }\n", 2, "HCL"),
            ("a { b = 1\n b = 2 }", 2, "`b` occurs twice"),
            ("a = {\n u { x = 1 }\n u { x = 2 } }", 3, "list"),
            ("service \"web\" {\n}", 1, "name = \"web\""),
            ("a = 1 ? 2 : 3", 1, "`?`"),
            ("a @ 1", 1, "`@`"),
            ("a", 1, "HCL"),
        ] {
            let problem = read(text).unwrap_err();
            assert_eq!(problem.line, line, "{text}: {problem:?}");
            assert!(problem.text.contains(part), "{text}: {problem:?}");
        }
        // Deeper than anybody writes.
        assert!(read(&"a {".repeat(10_000)).is_err());
        assert!(read(&format!("{}{}", "a {".repeat(2_000), "}".repeat(2_000))).is_err());
    }
}
