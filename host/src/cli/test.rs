//! `portcullis test`: expectations beside intentions.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use portcullis::entries::Entries;
use portcullis::expectations::{self, Expect, Outcome, Runner, Suite, Test};
use portcullis::jwks::{FetchError, JwksSettings, Source, fetch};
use portcullis_core::intention::DefaultPolicy as Known;
use portcullis_core::re2::Pattern;
use serde_json::{Map, Value, json};

use super::entries::{Engine, Mesh, MeshArgs, wrong};
use super::failure::Failure;
use super::jwks::JwksArgs;
use super::lint::counted;
use super::output::{self, Format, OutputArgs, Paint, paint};
use super::proxy::arguments::DefaultPolicy;
use portcullis::escape::escape;

/// Check expectations against intentions, before they are live
///
/// FILE has questions in the form of `portcullis eval` and what their answers should be:
/// HCL, JSON, or one JSON object a line (.ndjson, .jsonl). What a question leaves out comes
/// from the intentions beside it: those of --intentions, those that FILE names, or else
/// the agent's. Ends with status 1 when an answer is another one, 2 when something cannot
/// be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis test api.test.hcl
  portcullis test api.test.hcl -intentions intentions/ -default-intention-policy deny
  portcullis test tests/*.hcl -run 'admin|delete' -output json
A file of expectations:
  intentions     = \"api.hcl\"
  default_policy = \"deny\"
  test {
    name = \"web reads items\"  source = \"web\"  target = \"api\"
    request { method = \"GET\" path = \"/items\" headers = { x-tenant = \"a\" } }
    expect = \"allow\"
  }
Which one: `test` for what you expect, `lint` for mistakes, `diff` for what changes.")]
pub(crate) struct TestArgs {
    /// Files with expectations
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Config entries or a match reply to test, file or directory; may be repeated
    #[arg(long, value_name = "FILE")]
    intentions: Vec<PathBuf>,
    /// Run only tests whose name has this RE2 pattern in it
    #[arg(long, value_name = "PATTERN")]
    run: Option<String>,
    #[command(flatten)]
    jwks: JwksArgs,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What became of a test.
struct Done {
    test: Test,
    outcome: Outcome,
}

/// Runs the command.
pub(crate) async fn run(arguments: &TestArgs) -> Result<ExitCode, Failure> {
    check(arguments).await.map_err(|failure| failure.code(2))
}

async fn check(arguments: &TestArgs) -> Result<ExitCode, Failure> {
    let wanted = arguments.run.as_deref().map(pattern).transpose()?;
    let mut suites = Vec::new();
    let mut left_out = 0_usize;
    for file in all_files(&arguments.files)? {
        let mut suite = expectations::read(&file).map_err(|error| wrong(&error))?;
        let before = suite.tests.len();
        suite.tests.retain(|test| {
            let is_match = |wanted: &Pattern| wanted.is_full_match(test.id.as_bytes());
            wanted.as_ref().is_none_or(is_match)
        });
        left_out += before - suite.tests.len();
        suites.push(suite);
    }
    if suites.iter().all(|suite| suite.tests.is_empty()) {
        return Err(Failure::usage(
            "no test has a name that --run matches: nothing was tested",
        ));
    }
    let engine = arguments.mesh.engine()?;
    let mut done = Vec::new();
    for suite in suites {
        if suite.tests.is_empty() {
            continue;
        }
        let mesh = mesh_of(arguments, &suite).await?;
        run_suite(arguments, &engine, &mesh, suite, &mut done)?;
    }
    let failed = done
        .iter()
        .filter(|done| !done.outcome.differences.is_empty())
        .count();
    match arguments.output.output {
        Format::Json => output::json(&json!({
            "ok": failed == 0,
            "passed": done.len() - failed,
            "failed": failed,
            "left_out": left_out,
            "tests": done.iter().map(as_json).collect::<Vec<_>>(),
        }))?,
        Format::Text => {
            for one in done
                .iter()
                .filter(|one| !one.outcome.differences.is_empty())
            {
                output::line(&as_text(one))?;
            }
            let left_out = match left_out {
                0 => String::new(),
                some => format!(", {some} left out by --run"),
            };
            let passed = done.len() - failed;
            output::line(&format!(
                "{}: {passed} passed, {failed} failed{left_out}",
                counted(done.len(), "test")
            ))?;
        }
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// Found anywhere in a name.
fn pattern(text: &str) -> Result<Pattern, Failure> {
    Pattern::parse(text)
        .and_then(|_| Pattern::parse(&format!("(?s:.*)(?:{text})(?s:.*)")))
        .map_err(|error| Failure::while_doing(format_args!("--run `{text}`"), &error))
}

/// Files as they are; of directories those that say by their name that they are tests.
fn all_files(given: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let is_test = |path: &Path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        [".test.hcl", ".test.json", ".ndjson", ".jsonl"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    let mut all = Vec::new();
    for path in given {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let shown = path.display();
        let failed = |error: std::io::Error| {
            Failure::while_doing(format_args!("cannot read `{shown}`"), &error)
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.is_file() && is_test(&file) {
                found.push(file);
            }
        }
        if found.is_empty() {
            return Err(Failure::runtime(format_args!(
                "`{shown}` has no `.test.hcl`, `.test.json`, `.ndjson` or `.jsonl` file"
            )));
        }
        found.sort_unstable();
        all.extend(found);
    }
    Ok(all)
}

/// The intentions that a suite is about.
async fn mesh_of(arguments: &TestArgs, suite: &Suite) -> Result<Mesh, Failure> {
    let files = match arguments.intentions.as_slice() {
        [] => suite.intentions.as_slice(),
        given => given,
    };
    let brings_its_own = |test: &Test| test.question.contains_key("intentions");
    if files.is_empty() && suite.tests.iter().all(brings_its_own) {
        return Ok(Mesh {
            entries: Entries::default(),
            default_policy: Known::Deny,
            default_source: "assumed".to_owned(),
        });
    }
    let mut mesh = arguments.mesh.read(files).await?;
    fetch_keys(&mut mesh, &arguments.jwks.settings()?).await?;
    Ok(mesh)
}

/// Has the keys of providers that are in files, or on servers that may be asked.
async fn fetch_keys(mesh: &mut Mesh, jwks: &JwksSettings) -> Result<(), Failure> {
    for provider in mesh.entries.providers() {
        let entry = serde_json::value::to_raw_value(&provider);
        let Some(source) = entry.ok().and_then(|entry| Source::of(&entry)) else {
            continue;
        };
        match fetch(&source, jwks).await {
            Ok(keys) => mesh.entries.set_keys(&source.provider, &keys),
            // Then the trace of a test that needs it says that its keys are not loaded.
            Err(FetchError::NotAllowed(_) | FetchError::File(_)) => {}
            Err(error) => {
                let what = format!("the keys of `{}`", source.provider);
                return Err(Failure::while_doing(what, &error));
            }
        }
    }
    Ok(())
}

fn run_suite(
    arguments: &TestArgs,
    engine: &Engine,
    mesh: &Mesh,
    suite: Suite,
    done: &mut Vec<Done>,
) -> Result<(), Failure> {
    let settings = arguments.mesh.settings(mesh);
    let given = arguments.mesh.default_intention_policy != DefaultPolicy::Auto;
    let is_known =
        given || mesh.default_source != "assumed" && mesh.default_policy != Known::Unknown;
    let new_policy = || engine.policy();
    let mut runner = Runner::new(&mesh.entries, &settings, is_known, new_policy);
    for test in suite.tests {
        let outcome = runner.run(&test).map_err(|error| wrong(&error))?;
        done.push(Done { test, outcome });
    }
    Ok(())
}

fn as_json(done: &Done) -> Value {
    let expected: Map<String, Value> = expected(&done.test.expect);
    let differences: Vec<Value> = done
        .outcome
        .differences
        .iter()
        .map(|(name, expected, got)| json!({"name": name, "expected": expected, "got": got}))
        .collect();
    json!({
        "id": done.test.id,
        "file": done.test.place.file,
        "line": done.test.place.line,
        "passed": differences.is_empty(),
        "expected": expected,
        "differences": differences,
        "answer": done.outcome.answer,
    })
}

fn expected(expect: &Expect) -> Map<String, Value> {
    expect
        .pairs()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn as_text(done: &Done) -> String {
    let show = |text: &str| escape(text, 2_000);
    let plain = |value: &Value| match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => show(text),
        other => show(&other.to_string()),
    };
    let mut lines = vec![format!(
        "{}  {}  ({})",
        paint(Paint::Bad, "FAIL"),
        paint(Paint::Strong, &show(&done.test.id)),
        show(&done.test.place.to_string())
    )];
    lines.push(format!(
        "  question  {}",
        show(&question(&done.test.question))
    ));
    for (name, expected, got) in &done.outcome.differences {
        lines.push(format!("  expected  {name} {}", plain(expected)));
        lines.push(format!("  got       {name} {}", plain(got)));
    }
    if let Some(Value::String(text)) = done.outcome.answer.get("text") {
        lines.push(format!("  answer    {}", show(text)));
    }
    let trace = done.outcome.answer.get("trace").unwrap_or(&Value::Null);
    lines.extend(
        why(trace)
            .iter()
            .map(|line| format!("  why       {}", show(line))),
    );
    lines.push(String::new());
    lines.join("\n")
}

/// The question in one line.
fn question(question: &Map<String, Value>) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let client = match question.get("client_uris").and_then(Value::as_array) {
        Some(uris) => uris
            .iter()
            .map(|uri| text(Some(uri)))
            .collect::<Vec<_>>()
            .join(", "),
        None => text(question.get("source")),
    };
    let mut line = format!("{client} -> {}", text(question.get("target")));
    if let Some(request) = question.get("request") {
        line.push_str(&format!(
            ": {} {}",
            text(request.get("method")),
            text(request.get("path"))
        ));
        // Values of headers may be secrets.
        let names: Vec<String> = request
            .get("headers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|pair| text(pair.get(0)))
            .collect();
        if !names.is_empty() {
            line.push_str(&format!("  (with {})", names.join(", ")));
        }
    }
    line
}

/// The way to an answer, from its trace.
fn why(trace: &Value) -> Vec<String> {
    let list = |name: &str| {
        let items = trace.get(name).and_then(Value::as_array);
        items.cloned().unwrap_or_default()
    };
    let text = |value: &Value, name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut lines = Vec::new();
    for step in list("steps") {
        let end = match step.get("matched").and_then(Value::as_bool) {
            Some(true) => "matches".to_owned(),
            _ => format!("no: {}", text(&step, "failed")),
        };
        let precedence = step.get("precedence").unwrap_or(&Value::Null);
        lines.push(format!(
            "precedence {precedence}  {}  {end}",
            text(&step, "rule")
        ));
    }
    lines.extend(
        list("notes")
            .iter()
            .filter_map(|note| note.as_str().map(str::to_owned)),
    );
    let default = text(trace, "default_policy");
    if !default.is_empty() {
        lines.push(format!("default policy {default}"));
    }
    for warning in list("warnings") {
        let (pointer, said) = (text(&warning, "pointer"), text(&warning, "text"));
        lines.push(format!("warning at {pointer}: {said}"));
    }
    lines
}
