//! Tokens given by file or environment are shown nowhere.

use std::process::Command;

use crate::running::{Agent, Running};
use portcullis_tests::program::{Said, run};

const CANARY: &str = "c4n4ry-5e37-41d9-9a10-0123456789ab";

/// Nothing that was said, in any usual writing, is the canary.
#[track_caller]
fn is_silent(said: &Said) {
    for text in [&said.out, &said.err] {
        let lower = text.to_lowercase();
        // As hex or base64 it would not be readable, but still be there.
        let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
        for form in [CANARY, &CANARY[..12], &hex, "YzRuNHJ5"] {
            assert!(
                !lower.contains(&form.to_lowercase()),
                "`{form}` is in: {text}"
            );
        }
    }
}

/// The same question with the token in a file and in the environment, at trace level.
fn ways(agent: &Agent, arguments: &[&str]) -> Vec<(Command, tempfile::NamedTempFile)> {
    let file = || {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), format!("{CANARY}\n")).expect("it can be written");
        file
    };
    let mut all = Vec::new();
    for way in 0..3 {
        let file = file();
        let mut command = agent.ask(arguments);
        command.env("RUST_LOG", "trace");
        match way {
            0 => command.env("CONSUL_HTTP_TOKEN", CANARY),
            1 => command.env("CONSUL_HTTP_TOKEN_FILE", file.path()),
            _ => command.arg("-token-file").arg(file.path()),
        };
        all.push((command, file));
    }
    all
}

#[test]
fn the_token_is_not_logged_at_trace_level() {
    let agent = Agent::guarded(
        CANARY,
        "service_prefix \"\" { policy = \"write\" intentions = \"write\" } node_prefix \"\" { policy = \"read\" }",
    );
    for arguments in [
        &["intention", "list"][..],
        &["intention", "allow", "web", "db"],
        &["check", "web", "db"],
        &["check", "web", "db", "-output", "json", "-explain"],
    ] {
        for (mut command, _file) in ways(&agent, arguments) {
            let said = run(&mut command);
            assert_eq!(said.code, Some(0), "{said:?}");
            is_silent(&said);
        }
    }
    for format in ["-log-json", "-log-json=false"] {
        for (mut command, _file) in ways(
            &agent,
            &[
                "proxy",
                "-service",
                "web",
                "-upstream",
                "db:0",
                "-output=json",
                format,
            ],
        ) {
            let proxy = Running::start(&mut command);
            let cmdline =
                std::fs::read(format!("/proc/{}/cmdline", proxy.id())).expect("this is Linux");
            assert!(!String::from_utf8_lossy(&cmdline).contains(CANARY));
            let said = proxy.stop("TERM");
            assert_eq!(said.code, Some(0), "{said:?}");
            assert!(said.err.len() > 500, "trace level says a lot: {said:?}");
            is_silent(&said);
        }
    }
}

#[test]
fn a_refused_token_is_not_repeated() {
    let agent = Agent::guarded("another", "service \"web\" { policy = \"write\" }");
    for arguments in [
        &["intention", "allow", "web", "db"][..],
        &["check", "web", "db"],
        &["proxy", "-service", "web", "-upstream", "db:0"],
    ] {
        for (mut command, _file) in ways(&agent, arguments) {
            let said = run(&mut command);
            assert!(matches!(said.code, Some(1 | 2)), "{said:?}");
            assert!(said.err.contains("ACL not found"), "{said:?}");
            is_silent(&said);
        }
    }
}
