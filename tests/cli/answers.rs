//! Commands that answer a question.

use std::io::{BufRead as _, BufReader, Write as _};
use std::time::Duration;

use portcullis::runtime::Component;
use portcullis_tests::program::{portcullis, run};
use serde_json::Value;

use crate::running::Agent;
use crate::{refused, refused_as};

/// What a command prints with `-output json`, and its exit status.
#[track_caller]
fn json(agent: &Agent, arguments: &[&str]) -> (Option<i32>, Value) {
    let said = run(agent.ask(arguments).args(["-output", "json"]));
    assert!(!said.out.is_empty(), "{said:?}");
    (said.code, serde_json::from_str(&said.out).expect("JSON"))
}

/// A file with this content.
fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(content).expect("it can be written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("text")
}

#[test]
fn the_version_names_the_component_that_is_built_in() {
    let said = run(&mut portcullis(["version", "-format=json"]));
    let version: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(version["wit"], "portcullis:mesh@0.1.0");
    assert_eq!(
        version["component"]["size"],
        Component::embedded_bytes().len()
    );
    assert_eq!(
        version["component"]["sha256"].as_str().map(str::len),
        Some(64)
    );
    assert!(
        version["wasmtime"]
            .as_str()
            .is_some_and(|version| version.starts_with("48.")),
        "{version}"
    );
    let text = run(&mut portcullis(["version"]));
    assert!(
        text.out
            .contains(version["component"]["sha256"].as_str().expect("text")),
        "{text:?}"
    );
}

#[test]
fn help_says_when_to_use_which() {
    let said = run(&mut portcullis(["--help"]));
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    for command in [
        "demo",
        "dev",
        "proxy",
        "intention",
        "check",
        "eval",
        "test",
        "lint",
        "diff",
        "inspect",
        "version",
    ] {
        assert!(said.out.contains(&format!("\n  {command}")), "{command}");
        let help = run(&mut portcullis([command, "-help"]));
        assert_eq!(help.code, Some(0), "{help:?}");
        assert!(
            help.out.contains("Example") && help.out.contains(&format!("portcullis {command}")),
            "{help:?}"
        );
        assert!(
            help.out
                .lines()
                .all(|line| line.chars().count() <= 120 || line.contains('{')),
            "{help:?}"
        );
    }
    assert!(!said.out.contains("__"), "hidden commands stay hidden");
}

#[test]
fn intentions_are_changed_and_checked() {
    let agent = Agent::open();
    assert_eq!(
        json(&agent, &["check", "web", "db"]).0,
        Some(0),
        "the default allows"
    );
    assert_eq!(
        run(&mut agent.ask(&["intention", "deny", "*", "db"])).code,
        Some(0)
    );
    let (code, answer) = json(&agent, &["check", "web", "db", "-explain"]);
    assert_eq!(
        (code, &answer["allowed"]),
        (Some(1), &false.into()),
        "{answer}"
    );
    assert_eq!(answer["because"]["code"], "intention");
    assert_eq!(answer["trace"]["steps"][0]["matched"], true, "{answer}");
    assert_eq!(
        run(&mut agent.ask(&["intention", "allow", "web", "db"])).code,
        Some(0)
    );
    assert_eq!(json(&agent, &["check", "web", "db"]).0, Some(0));
    assert_eq!(json(&agent, &["check", "api", "db"]).0, Some(1));
    let (_, list) = json(&agent, &["intention", "list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    assert_eq!(
        run(&mut agent.ask(&["intention", "delete", "web", "db"])).code,
        Some(0)
    );
    refused_as(
        &run(&mut agent.ask(&["intention", "delete", "web", "db"])),
        1,
        &["no intention", "`web`", "`db`"],
    );
    assert_eq!(json(&agent, &["check", "web", "db"]).0, Some(1));
    let text = run(&mut agent.ask(&["check", "web", "db", "-explain"]));
    assert!(
        text.out.starts_with("denied: ") && text.out.contains("* -> db"),
        "{text:?}"
    );
}

#[test]
fn identities_that_are_none_are_errors_and_foreign_ones_are_denied() {
    let agent = Agent::open();
    let foreign = "spiffe://other.consul/ns/default/dc/dc1/svc/web";
    let (code, answer) = json(&agent, &["check", foreign, "db"]);
    assert_eq!(
        (code, &answer["because"]["code"]),
        (Some(1), &"foreign-trust-domain".into())
    );
    for source in ["", "a b", "a/b/c/d", "spiffe://UPPER/x y", "web\u{1b}[31m"] {
        refused_as(
            &run(&mut agent.ask(&["check", source, "db"])),
            2,
            &["SOURCE"],
        );
    }
    for destination in ["", "a/b/c/d"] {
        refused_as(
            &run(&mut agent.ask(&["check", "web", destination])),
            2,
            &["DESTINATION"],
        );
    }
    refused(
        &["check", "web"],
        2,
        &["DESTINATION", "portcullis check --help"],
    );
}

#[test]
fn questions_from_files() {
    let reply = file(br#"{"db":[{"SourceName":"web","SourceNS":"default","DestinationName":"db","DestinationNS":"default","SourceType":"consul","Action":"allow","Precedence":9}]}"#);
    let list = file(br#"[{"SourceName":"web","DestinationName":"db","SourceType":"consul","Action":"allow","Precedence":9},{"SourceName":"*","DestinationName":"other","SourceType":"consul","Action":"allow","Precedence":8}]"#);
    for from in [&reply, &list] {
        let check = |source, more: &[&str]| {
            let all = ["check", source, "db", "-from", path(from)]
                .into_iter()
                .chain(more.iter().copied());
            run(&mut portcullis(all))
        };
        assert_eq!(check("web", &[]).code, Some(0));
        refused_as(
            &check("api", &[]),
            2,
            &["no intention", "-default-intention-policy"],
        );
        assert_eq!(
            check("api", &["-default-intention-policy", "deny"]).code,
            Some(1)
        );
        assert_eq!(
            check("api", &["-default-intention-policy=allow"]).code,
            Some(0)
        );
    }
    let truncated = file(br#"{"db":[{"SourceName":"web","#);
    refused(
        &["check", "web", "db", "-from", path(&truncated)],
        2,
        &[path(&truncated), "not JSON", "line 1"],
    );
    let truncated = file(br#"[{"SourceName":"web","#);
    refused(
        &["check", "web", "db", "-from", path(&truncated)],
        2,
        &[path(&truncated), "line 1"],
    );
    let other = file(br#"{"api":[]}"#);
    refused(
        &["check", "web", "db", "-from", path(&other)],
        2,
        &[path(&other), "/db", "the name `db`"],
    );
    refused(
        &["check", "web", "db", "-from", "/nonexistent"],
        2,
        &["/nonexistent", "No such file"],
    );
    let unreadable = file(br#"[{"SourceName":"web","DestinationName":"db","Action":"perhaps"}]"#);
    let said = run(&mut portcullis([
        "check",
        "web",
        "db",
        "-from",
        path(&unreadable),
    ]));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.out.contains("unreadable-rule") && said.out.contains("warning"),
        "{said:?}"
    );
}

#[test]
fn components_that_are_none_are_named() {
    let reply = file(br#"{"db":[]}"#);
    let embedded = Component::embedded_bytes();
    for (content, part) in [
        (&b""[..], "empty or cut off"),
        (b"not wasm at all", "does not begin like WebAssembly"),
        (b"\0asm\x01\0\0\0", "core module"),
        (b"\0asm\x0d\0\x01\0", "exports nothing"),
        (&embedded[..embedded.len() / 2], "cannot be compiled"),
    ] {
        let component = file(content);
        let arguments = [
            "check",
            "web",
            "db",
            "-from",
            path(&reply),
            "-component",
            path(&component),
        ];
        refused(&arguments, 2, &[path(&component), part]);
        refused(
            &["version", "-component", path(&component)],
            1,
            &[path(&component), part],
        );
    }
    refused(&["version", "-component", "/"], 1, &["`/`", "folder"]);
}

#[test]
fn identities_are_taken_apart() {
    let said = run(&mut portcullis([
        "inspect",
        "-output",
        "json",
        "spiffe://td.consul/ap/one/ns/two/dc/dc1/svc/web",
    ]));
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    for (field, value) in [
        ("kind", "service"),
        ("partition", "one"),
        ("namespace", "two"),
        ("service", "web"),
        ("trust_domain", "td.consul"),
    ] {
        assert_eq!(report[0]["identity"][field], value, "{report}");
    }
    let said = run(&mut portcullis([
        "inspect",
        "-output=json",
        "spiffe://TD/ns/../x",
    ]));
    assert_eq!(said.code, Some(1), "{said:?}");
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    assert!(report[0]["verdict"]["code"].is_string(), "{report}");
}

#[test]
fn certificates_are_shown_and_judged() {
    let agent = Agent::open();
    let leaf = agent.agent().issue("web").expect("a certificate");
    let chain = file(leaf.chain_pem.as_bytes());
    let roots = file(agent.agent().roots_pem().concat().as_bytes());
    let inspect = |arguments: &[&str]| {
        let said = run(&mut portcullis(
            ["inspect", "-output=json"]
                .into_iter()
                .chain(arguments.iter().copied()),
        ));
        assert!(!said.out.is_empty(), "{said:?}");
        (
            said.code,
            serde_json::from_str::<Value>(&said.out).expect("JSON")[0].clone(),
        )
    };
    let (code, report) = inspect(&[path(&chain)]);
    assert_eq!(
        (code, &report["verdict"]["verified"]),
        (Some(0), &false.into()),
        "{report}"
    );
    assert_eq!(report["certificates"][0]["uri_names"][0], leaf.uri);
    let (code, report) = inspect(&[path(&chain), "-roots", path(&roots)]);
    assert_eq!(
        (code, &report["verdict"]["verified"]),
        (Some(0), &true.into()),
        "{report}"
    );
    let (code, report) = inspect(&[
        path(&chain),
        "-roots",
        path(&roots),
        "-at",
        "2100-01-01T00:00:00Z",
    ]);
    assert_eq!(
        (code, &report["verdict"]["kind"]),
        (Some(1), &"expired".into()),
        "{report}"
    );
    let (code, report) = inspect(&[
        path(&chain),
        "-roots",
        path(&roots),
        "-expect",
        "spiffe://x.consul/ns/default/dc/dc1/svc/web",
    ]);
    assert_eq!(
        (code, &report["verdict"]["kind"]),
        (Some(1), &"identity".into()),
        "{report}"
    );
    let stranger = Agent::open();
    let others = file(stranger.agent().roots_pem().concat().as_bytes());
    let (code, report) = inspect(&[path(&chain), "-roots", path(&others)]);
    assert_eq!(
        (code, &report["verdict"]["kind"]),
        (Some(1), &"untrusted".into()),
        "{report}"
    );
    let text = run(&mut portcullis([
        "inspect",
        path(&chain),
        "-roots",
        path(&roots),
    ]));
    assert!(
        text.out.contains("verified: ") && text.out.contains("/svc/web"),
        "{text:?}"
    );
}

#[test]
fn what_is_no_certificate_is_named() {
    let key = file(b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n");
    refused(&["inspect", path(&key)], 2, &[path(&key), "no certificate"]);
    let torn = file(b"-----BEGIN CERTIFICATE-----\nMIIB");
    refused(&["inspect", path(&torn)], 2, &[path(&torn), "PEM"]);
    let text = file(b"hello");
    refused(
        &["inspect", path(&text)],
        2,
        &[path(&text), "neither PEM nor DER", "spiffe://"],
    );
    let der = file(b"\x30\x03\x02\x01\x01");
    refused(
        &["inspect", path(&der)],
        2,
        &[path(&der), "not a certificate"],
    );
    refused(
        &["inspect", "/nonexistent"],
        2,
        &["/nonexistent", "No such file"],
    );
    refused(
        &["inspect", "-at", "tomorrow", "spiffe://td/x"],
        2,
        &["--at", "tomorrow"],
    );
    refused(&["inspect"], 2, &["WHAT"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = portcullis(["proxy", "--help"]);
    let mut child = child
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Who asks one question and waits for its answer is not kept waiting until others come.
#[test]
fn eval_answers_before_it_waits_for_more() {
    let mut command = portcullis(["eval", "--engine", "native"]);
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut questions = child.stdin.take().expect("its input");
    let answers = BufReader::new(child.stdout.take().expect("its output"));
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        answers
            .lines()
            .try_for_each(|line| tell.send(line.expect("text")))
    });
    let question = |id: u32| format!(r#"{{"id":{id},"ask":"parse-id","uri":"spiffe://t"}}"#);
    let mut ask = |text: &str| questions.write_all(text.as_bytes()).expect("it reads");
    let is_answered = |id: u32| {
        let answer = told
            .recv_timeout(Duration::from_secs(60))
            .expect("an answer comes before the next question");
        let start = format!(r#"{{"id":{id},"#);
        assert!(answer.starts_with(&start), "{id}: {answer}");
    };
    ask(&format!("{}\n", question(1)));
    is_answered(1);
    // Two whole questions and the beginning of a third.
    let third = question(4);
    let (begun, rest) = third.split_at(20);
    ask(&format!("{}\n{}\n{begun}", question(2), question(3)));
    is_answered(2);
    is_answered(3);
    // The last one needs no line feed, only the end.
    ask(rest);
    drop(questions);
    is_answered(4);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    reader.join().expect("it reads").expect("it is heard");
}
