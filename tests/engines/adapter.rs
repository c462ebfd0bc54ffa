//! The component in other languages: a process that reads plans and writes answers.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portcullis::Component;
use portcullis_tests::peers::{self, workspace};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::plan::Plan;

/// Node 20 with what jco makes of the component; `None` where peers are left out.
pub(crate) fn node(test: &str, plans: &[Plan]) -> Option<Vec<Vec<Value>>> {
    let packages = peers::require(test, "node/node_modules")?;
    // Made anew each time, so that it is never another component's.
    let scratch = tempfile::tempdir().expect("a folder");
    let wasm = embedded(scratch.path());
    let folder = scratch.path().join("policy");
    let output = Command::new(packages.join(".bin/jco"))
        .arg("transpile")
        .arg(wasm)
        .args([
            "--name",
            "policy",
            "--instantiation",
            "sync",
            "--quiet",
            "--out-dir",
        ])
        .arg(&folder)
        .output()
        .expect("jco runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(folder.join("package.json"), r#"{"type": "module"}"#)
        .expect("the module's kind is written");
    let adapter = workspace().join("tests/adapters/node/adapter.mjs");
    Some(ask(
        Command::new("node")
            .arg(adapter)
            .arg(folder.join("policy.js")),
        plans,
    ))
}

/// Python with wasmtime's package; `None` where peers are left out.
pub(crate) fn python(test: &str, plans: &[Plan]) -> Option<Vec<Vec<Value>>> {
    let python = peers::require(test, "python/bin/python")?;
    let adapter = workspace().join("tests/adapters/python/adapter.py");
    let folder = tempfile::tempdir().expect("a folder");
    let wasm = embedded(folder.path());
    Some(ask(Command::new(python).arg(adapter).arg(wasm), plans))
}

/// The component that our library carries, as a file: all engines run the same bytes.
fn embedded(folder: &Path) -> PathBuf {
    let file = folder.join("policy.wasm");
    let bytes = Component::embedded_bytes();
    std::fs::write(&file, bytes).expect("the component is written");
    let digest = bytes::Bytes::copy_from_slice(&Sha256::digest(bytes));
    println!("component {digest:x}");
    file
}

fn ask(command: &mut Command, plans: &[Plan]) -> Vec<Vec<Value>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the adapter starts");
    let lines: String = plans
        .iter()
        .map(|plan| format!("{}\n", json!({ "id": plan.id, "calls": plan.calls })))
        .collect();
    let mut input = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("the adapter ends");
    assert!(
        output.status.success(),
        "the adapter ended with {}",
        output.status
    );
    writer
        .join()
        .expect("the writer ends")
        .expect("the adapter reads all questions");
    let answers = String::from_utf8(output.stdout).expect("text");
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), plans.len(), "one line for each");
    answers
        .into_iter()
        .zip(plans)
        .map(|(mut answer, plan)| {
            assert_eq!(answer["id"], json!(plan.id));
            match answer["answers"].take() {
                Value::Array(answers) => answers,
                other => panic!("no answers: {other}"),
            }
        })
        .collect()
}
