//! The demo keeps its promises, notices a policy that does not, and leaves no
//! process behind however it ends.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_tests::components::allow_everything;
use portcullis_tests::program::{Said, portcullis, run};

/// Marks the processes of one demo: children inherit it.
const MARK: &str = "PORTCULLIS_TEST_DEMO";

/// The demo with a mark of its own.
fn demo(arguments: &[&str]) -> (Command, String) {
    let mark = format!("{MARK}={:032x}", rand::random::<u128>());
    let mut command = portcullis(["demo"].into_iter().chain(arguments.iter().copied()));
    let (name, value) = mark.split_once('=').expect("it has both");
    command.env(name, value);
    // The logs of demos that fail stay.
    command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    (command, mark)
}

/// The processes that carry `mark`.
fn marked(mark: &str) -> BTreeSet<String> {
    let processes = std::fs::read_dir("/proc").expect("this is Linux");
    processes
        .filter_map(|process| {
            let path = process.ok()?.path();
            let environment = std::fs::read(path.join("environ")).ok()?;
            let ours = environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes());
            ours.then(|| path.display().to_string())
        })
        .collect()
}

/// Waits until no process carries `mark`.
#[track_caller]
fn all_are_gone(mark: &str) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(90) {
        if marked(mark).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("these processes are left: {:?}", marked(mark));
}

#[test]
fn every_claim_holds() {
    let (mut command, mark) = demo(&[]);
    let said: Said = run(&mut command);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.err, "", "{said:?}");
    for claim in [
        "web was refused",
        "default-policy",
        "not one connection reached db",
        "allowed after",
        "it was cut",
        "none failed",
        "sha256",
        "All claims hold",
    ] {
        assert!(
            said.out.contains(claim),
            "`{claim}` is missing in:\n{}",
            said.out
        );
    }
    let version = run(&mut portcullis(["version", "--output", "json"]));
    let version: serde_json::Value = serde_json::from_str(&version.out).expect("JSON");
    let sha256 = version["component"]["sha256"].as_str().expect("a digest");
    assert!(said.out.contains(sha256), "{}", said.out);
    assert!(marked(&mark).is_empty(), "{:?}", marked(&mark));
}

#[test]
fn a_policy_that_allows_everything_is_noticed() {
    let component = allow_everything();
    let (mut command, mark) = demo(&["--component", component.to_str().expect("text")]);
    let said = run(&mut command);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains("although no intention allows it"),
        "{said:?}"
    );
    assert!(!said.out.contains("All claims hold"), "{said:?}");
    assert!(marked(&mark).is_empty(), "{:?}", marked(&mark));
}

#[test]
fn a_component_that_is_none_is_named() {
    let (mut command, mark) = demo(&["--component", "/dev/null"]);
    let said = run(&mut command);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("/dev/null"), "{said:?}");
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
    assert!(marked(&mark).is_empty(), "{:?}", marked(&mark));
}

/// A demo up to the line that contains `end`.
#[expect(clippy::zombie_processes, reason = "whoever asks for it waits for it")]
fn until(arguments: &[&str], end: &str) -> (Child, String, Vec<String>) {
    let (mut command, mark) = demo(arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("it starts");
    let mut lines = Vec::new();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    loop {
        let mut line = String::new();
        let read = out.read_line(&mut line);
        if !matches!(read, Ok(1..)) {
            let status = child.wait();
            panic!("{read:?}, it ended with {status:?}:\n{}", lines.join("\n"));
        }
        let ready = line.contains(end);
        lines.push(line.trim_end().to_owned());
        if ready {
            child.stdout = Some(out.into_inner());
            return (child, mark, lines);
        }
    }
}

/// A demo that has been told to keep running, up to that point.
fn kept() -> (Child, String, Vec<String>) {
    until(&["--keep", "--handshakes", "100"], "Ctrl-C ends it")
}

#[test]
fn ctrl_c_in_the_middle_ends_everything() {
    let (mut child, mark, _) = until(&["--handshakes", "20000"], "4. The CA is rotated");
    signal(&child, "INT");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{status:?}");
    assert!(marked(&mark).is_empty(), "{:?}", marked(&mark));
}

#[test]
fn kept_running_it_takes_commands_and_ctrl_c_ends_everything() {
    let (mut child, mark, lines) = kept();
    assert!(marked(&mark).len() >= 6, "{:?}", marked(&mark));
    let agent = lines
        .iter()
        .find_map(|line| line.trim().strip_prefix("export CONSUL_HTTP_ADDR="));
    let agent = agent.unwrap_or_else(|| panic!("no agent to paste in {lines:?}"));
    let ask = |arguments: &[&str]| {
        run(portcullis(arguments.iter().copied()).env("CONSUL_HTTP_ADDR", agent))
    };
    assert_eq!(ask(&["intention", "deny", "web", "db"]).code, Some(0));
    assert_eq!(ask(&["check", "web", "db"]).code, Some(1));
    assert_eq!(ask(&["intention", "allow", "web", "db"]).code, Some(0));
    assert_eq!(ask(&["check", "web", "db"]).code, Some(0));
    signal(&child, "INT");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert!(marked(&mark).is_empty(), "{:?}", marked(&mark));
}

#[test]
fn children_do_not_outlive_a_demo_that_is_killed() {
    let (mut child, mark, _) = kept();
    child.kill().expect("it can be killed");
    child.wait().expect("it is reaped");
    all_are_gone(&mark);
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(child.id().to_string())
        .status();
    assert!(sent.expect("kill starts").success());
}
