//! Reads files of expectations: HCL, JSON, or one JSON object a line.

use std::path::Path;

use serde_json::{Map, Value};

use super::schema::{EXPECT, FILE, TEST};
use super::{Expect, Suite, Test};
use crate::definitions::schema::folded;
use crate::definitions::tree::{Field, Kind, Node, Problem};
use crate::definitions::{DefinitionError, content, json_tree, read_text, read_tree};
use crate::entries::Place;

/// Reads a file of expectations; `.ndjson` and `.jsonl` have one test a line.
///
/// # Errors
/// When it cannot be read, or says what cannot be; with the line.
pub fn read(path: &Path) -> Result<Suite, DefinitionError> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let suite = match extension {
        Some("ndjson" | "jsonl") => lines(path, &read_text(path)?),
        _ => file(path, &read_tree(path)?),
    };
    let suite = suite.map_err(|problem| content(path, problem))?;
    if suite.tests.is_empty() {
        let problem = Problem::new(1, "has no test: begin with `test { ... }`, or `tests`");
        return Err(content(path, problem));
    }
    Ok(suite)
}

fn lines(path: &Path, text: &str) -> Result<Suite, Problem> {
    let mut suite = Suite::default();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = index + 1;
        let at = |mut problem: Problem| {
            problem.line = number;
            problem
        };
        let mut node = json_tree(line).map_err(at)?;
        move_to(&mut node, number);
        let known = suite.tests.len();
        suite.tests.push(test(path, &node, &Map::new(), known)?);
    }
    Ok(suite)
}

/// What was read from one line stands in this one.
fn move_to(node: &mut Node, line: usize) {
    node.line = line;
    match &mut node.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| move_to(item, line)),
        Kind::Object(fields) => fields.iter_mut().for_each(|field| {
            field.line = line;
            move_to(&mut field.value, line);
        }),
        _ => {}
    }
}

fn file(path: &Path, root: &Node) -> Result<Suite, Problem> {
    let mut suite = Suite::default();
    if let Kind::List(items) = &root.kind {
        for item in items {
            let known = suite.tests.len();
            suite.tests.push(test(path, item, &Map::new(), known)?);
        }
        return Ok(suite);
    }
    let mut shared = FILE.read(root)?;
    shared.remove("test");
    shared.remove("tests");
    if let Some(intentions) = shared.remove("intentions") {
        let line = field(root, "intentions").map_or(root.line, |field| field.line);
        let texts = match intentions {
            Value::String(one) => vec![one],
            Value::Array(all) => all
                .into_iter()
                .filter_map(|one| one.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        if texts.is_empty() {
            let text = "`intentions` names no file: write a path, or a list of paths";
            return Err(Problem::new(line, text));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        suite.intentions = texts.iter().map(|text| folder.join(text)).collect();
    }
    let Kind::Object(fields) = &root.kind else {
        return Ok(suite);
    };
    let tests = fields
        .iter()
        .filter(|field| matches!(folded(&field.name).as_str(), "test" | "tests"));
    for field in tests {
        let nodes: Vec<&Node> = match &field.value.kind {
            Kind::List(items) => items.iter().collect(),
            _ => vec![&field.value],
        };
        for node in nodes {
            let known = suite.tests.len();
            suite.tests.push(test(path, node, &shared, known)?);
        }
    }
    Ok(suite)
}

fn test(
    path: &Path,
    node: &Node,
    shared: &Map<String, Value>,
    known: usize,
) -> Result<Test, Problem> {
    let mut question = TEST.read(node)?;
    let text = |value: Option<Value>| match value {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    let name = text(question.remove("name"));
    let id = match (text(question.remove("id")), name) {
        (Some(_), Some(_)) => {
            return Err(Problem::new(node.line, "a test has either `id` or `name`"));
        }
        (id, name) => id.or(name).unwrap_or_else(|| format!("test {}", known + 1)),
    };
    if question.get("ask").is_some_and(|ask| ask != "authorize") {
        let line = field(node, "ask").map_or(node.line, |field| field.line);
        return Err(Problem::new(
            line,
            "only questions with `ask` \"authorize\" are tests",
        ));
    }
    let expect = field(node, "expect")
        .ok_or_else(|| Problem::new(node.line, format!("test `{id}` has no `expect`")))?;
    question.remove("expect");
    let line = expect.line;
    let expect = self::expect(expect)?;
    if let Some(problem) = expect.problem() {
        return Err(Problem::new(line, format!("test `{id}` {problem}")));
    }
    // Nobody's intentions are an answer, too; nothing is asked elsewhere then.
    if field(node, "intentions").is_some_and(|field| field.value.kind == Kind::Null) {
        question.insert("intentions".to_owned(), Value::Null);
    }
    let has_own_client = question.contains_key("source") || question.contains_key("client_uris");
    for (key, value) in shared {
        if key == "source" && has_own_client {
            continue;
        }
        question.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if let Some(request) = question.get_mut("request") {
        complete(request);
    }
    Ok(Test {
        id,
        place: Place {
            file: path.display().to_string(),
            line: Some(node.line),
            field: String::new(),
        },
        question,
        expect,
    })
}

/// A request may leave out its method and headers, and have headers as a block.
fn complete(request: &mut Value) {
    let Some(request) = request.as_object_mut() else {
        return;
    };
    request
        .entry("method".to_owned())
        .or_insert_with(|| Value::from("GET"));
    let headers = request
        .entry("headers".to_owned())
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Object(pairs) = headers {
        let pairs = pairs
            .iter()
            .map(|(name, value)| Value::Array(vec![Value::from(name.as_str()), value.clone()]));
        *headers = pairs.collect();
    }
}

fn expect(field: &Field) -> Result<Expect, Problem> {
    if let Kind::Text(effect) = &field.value.kind {
        return Ok(Expect {
            effect: Some(effect.clone()),
            ..Expect::default()
        });
    }
    let read = EXPECT.read(&field.value)?;
    let text = |key: &str| read.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |key: &str| match read.get(key).map(|value| (value, value.as_u64())) {
        None => Ok(None),
        Some((_, Some(number))) => Ok(Some(number)),
        Some((value, None)) => {
            let text = format!("`{key}` of `expect` is {value}, not a place from 0");
            Err(Problem::new(field.line, text))
        }
    };
    Ok(Expect {
        effect: text("effect"),
        code: text("code"),
        intention: number("intention")?,
        permission: number("permission")?,
        forwarded_path: text("forwarded_path"),
    })
}

fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Field> {
    let Kind::Object(fields) = &node.kind else {
        return None;
    };
    let wanted = folded(name);
    fields.iter().find(|field| folded(&field.name) == wanted)
}
