//! The agent answers garbage: the last good state goes on; what is in doubt denies.

use std::time::{Duration, Instant};

use portcullis_dev_agent::Fault;
use portcullis_tests::load::Load;
use portcullis_tests::pair::Pair;

use crate::scene::{Embedded, SOON, counted};

const MATCH: &str = "/v1/connect/intentions/match";

/// What the proxies are to do while the answers are so.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The last good state decides.
    Holds,
    /// The list can be read, but a rule in it cannot: it denies whom it may cover.
    Denies,
}

fn text(body: &str) -> Fault {
    Fault::Garbage(body.as_bytes().to_vec())
}

fn foreign(status: u16, headers: &[(&str, &str)], body: Vec<u8>) -> Fault {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Fault::Foreign {
        status,
        headers: headers.iter().map(owned).collect(),
        body,
    }
}

/// A rule of the list of `db`, with `more` members in it.
fn rule(more: &str) -> String {
    format!(
        r#"{{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"db","SourceType":"consul","Precedence":9{more}}}"#
    )
}

fn kinds() -> Vec<(&'static str, Fault, Then)> {
    let allow = rule(r#","Action":"allow""#);
    vec![
        (
            "half of a JSON text",
            text(r#"{"db":[{"Action":"#),
            Then::Holds,
        ),
        ("cut in the middle", Fault::Truncated, Then::Holds),
        ("hung up", Fault::Hangup, Then::Holds),
        (
            "status 500",
            Fault::Status(500, "no leader".to_owned()),
            Then::Holds,
        ),
        (
            "status 429",
            Fault::Status(429, "too many".to_owned()),
            Then::Holds,
        ),
        (
            "status 403",
            Fault::Status(403, "Permission denied".to_owned()),
            Then::Holds,
        ),
        (
            "a web page",
            foreign(
                200,
                &[("Content-Type", "text/html")],
                b"<html>hello</html>".to_vec(),
            ),
            Then::Holds,
        ),
        (
            "a redirect",
            foreign(307, &[("Location", "http://evil.example/")], Vec::new()),
            Then::Holds,
        ),
        ("another type", text(r#"{"db":{}}"#), Then::Holds),
        ("another service", text(r#"{"web":null}"#), Then::Holds),
        ("nothing", text(""), Then::Holds),
        (
            "the service's name twice",
            text(&format!(r#"{{"db":[{allow}],"db":[{allow}]}}"#)),
            Then::Holds,
        ),
        (
            "the name in another case",
            text(&format!(r#"{{"DB":[{allow}]}}"#)),
            Then::Holds,
        ),
        (
            "deeply nested",
            text(&("[".repeat(100_000) + &"]".repeat(100_000))),
            Then::Holds,
        ),
        ("40 MB", Fault::Garbage(vec![b' '; 40 << 20]), Then::Holds),
        (
            "compressed unasked (a gzip bomb)",
            foreign(
                200,
                &[("Content-Encoding", "gzip"), ("X-Consul-Index", "99")],
                gzip_bomb(),
            ),
            Then::Holds,
        ),
        (
            "an action twice",
            text(&format!(
                r#"{{"db":[{}]}}"#,
                rule(r#","Action":"allow","Action":"allow""#)
            )),
            Then::Denies,
        ),
        (
            "an action in another case",
            text(&format!(r#"{{"db":[{}]}}"#, rule(r#","action":"allow""#))),
            Then::Denies,
        ),
    ]
}

/// 16 MiB of zeros in 16 KiB, as gzip writes it.
fn gzip_bomb() -> Vec<u8> {
    use std::io::Write as _;
    let mut child = std::process::Command::new("gzip")
        .args(["-9", "-c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let zeros = std::thread::spawn(move || stdin.write_all(&vec![0; 16 << 20]));
    let output = child.wait_with_output().expect("gzip ends");
    zeros.join().expect("no panic").expect("gzip reads");
    output.stdout
}

/// How often the proxy of `db` has said that it cannot use an answer.
fn complaints(pair: &Pair) -> usize {
    let log = pair.db.log();
    [
        "the last good state stays in use",
        "still failing",
        "cannot be read",
    ]
    .iter()
    .map(|text| log.matches(text).count())
    .sum()
}

fn until(what: &str, pair: &Pair, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "never: {what}\n{}", pair.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn garbage_for_intentions_leaves_the_last_good_ones_or_denies() {
    // Side by side: most of the time is spent waiting for the next question.
    let kinds = kinds();
    std::thread::scope(|scope| {
        for part in kinds.chunks(kinds.len().div_ceil(3)) {
            scope.spawn(move || play(part));
        }
    });
}

fn play(kinds: &[(&str, Fault, Then)]) {
    let embedded = Embedded::start();
    let agent = embedded.agent();
    let pair = Pair::prepared(embedded.address(), |command| {
        command.env("RUST_LOG", "info,portcullis::watcher=debug");
    });
    let load = Load::start(pair.door);
    pair.passes(&load);
    for (name, fault, then) in kinds {
        agent.inject_until_cleared(MATCH, fault.clone());
        let before = complaints(&pair);
        // What is blocked already answers well; the next question meets the garbage.
        agent.allow("other", "db").expect("a change");
        match then {
            Then::Holds => {
                // A question that went out before the change waits for the next one.
                let mut others = (0..).map(|number| format!("other-{}", number % 5));
                until(name, &pair, || {
                    let other = others.next().unwrap_or_default();
                    agent.allow(&other, "db").expect("a change");
                    agent.delete_intention(&other, "db").expect("a change");
                    complaints(&pair) > before
                });
                let counts = load.next(40);
                counted(&format!("intentions: {name}"), &counts);
                assert_eq!(counts.failed(), 0, "{name}: {counts}\n{}", pair.logs());
                // Nothing that is written meanwhile gets lost.
                agent.deny("web", "db").expect("a change");
                agent.clear_faults();
                pair.refuses(&load);
                assert_eq!(load.next(20).passed, 0, "{name}");
            }
            Then::Denies => {
                pair.refuses(&load);
                let counts = load.next(40);
                counted(&format!("intentions: {name}"), &counts);
                assert_eq!(counts.passed, 0, "{name}: {counts}\n{}", pair.logs());
                agent.clear_faults();
            }
        }
        agent.allow("web", "db").expect("a change");
        agent.delete_intention("other", "db").expect("a change");
        pair.passes(&load);
    }
}

#[test]
fn garbage_for_roots_leaves_and_instances_costs_no_connection() {
    let embedded = Embedded::start();
    let agent = embedded.agent();
    let pair = Pair::start(embedded.address(), &["-max-stale=20s"]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    for path in [
        "/v1/agent/connect/ca/roots",
        "/v1/agent/connect/ca/leaf/",
        "/v1/health/connect/db",
    ] {
        for fault in [
            text(r#"{"Roots":["#),
            text("{}"),
            text("[]"),
            text("null"),
            foreign(200, &[("Content-Type", "text/html")], b"<html>".to_vec()),
            Fault::Status(500, "no leader".to_owned()),
        ] {
            // For a list of instances this is no garbage: nobody is there.
            let nobody = path.contains("health")
                && matches!(&fault, Fault::Garbage(body) if body == b"[]" || body == b"null");
            if nobody {
                continue;
            }
            agent.inject_until_cleared(path, fault);
        }
    }
    // The first of each stays; the others show that order does not matter.
    let complaining = |proxy: &portcullis_tests::proxy::Proxy, what: &str| {
        proxy
            .log()
            .lines()
            .any(|line| line.contains("the last good state stays in use") && line.contains(what))
    };
    let counts = load.during(200, || {
        until("roots are complained about", &pair, || {
            complaining(&pair.db, "watch=roots")
        });
        until("leaves are complained about", &pair, || {
            complaining(&pair.db, "leaf of db")
        });
        until("instances are complained about", &pair, || {
            complaining(&pair.web, "instances of db")
        });
    });
    counted("garbage for roots, leaves and instances", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    agent.clear_faults();
    let counts = load.next(100);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
}

#[test]
fn one_proxy_stays_small_while_its_agent_answers_bombs() {
    let embedded = Embedded::start();
    let agent = embedded.agent();
    let pair = Pair::start(embedded.address(), &[]);
    let load = Load::start(pair.door);
    pair.passes(&load);
    let before = resident(pair.db.id());
    agent.inject_until_cleared("/v1/", Fault::Garbage(vec![b'['; 40 << 20]));
    agent.allow("other", "db").expect("a change");
    let complaints_before = complaints(&pair);
    let counts = load.during(200, || {
        until("it is complained about", &pair, || {
            complaints(&pair) > complaints_before
        });
    });
    counted("40 MB of brackets from every endpoint", &counts);
    assert_eq!(counts.failed(), 0, "{counts}\n{}", pair.logs());
    let after = resident(pair.db.id());
    // 32 MiB is the most that is taken from an answer, and it is given back.
    assert!(after < before + (64 << 20), "{before} → {after}");
}

/// Resident memory of a process in bytes.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a line");
    let kilobytes: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kilobytes << 10
}
