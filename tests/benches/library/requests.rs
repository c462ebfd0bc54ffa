//! A decision about a request, and how many questions `eval` answers.

use std::hint::black_box;
use std::process::{Command, Stdio};

use portcullis::clock::Clock;
use portcullis::{Component, Policy, PolicyOptions};
use portcullis_core::chain;
use portcullis_core::http::{Request, encode_headers};
use portcullis_core::policy::{self, Client, Document, HeaderNeeds};
use portcullis_tests::bench::http::policy::{permissions, request};
use serde_json::{Value, json};

use super::{Contender, TRUST_DOMAIN, compare};

/// Questions in one run of `eval`.
const QUESTIONS: usize = 200_000;
const RUNS: usize = 5;

/// A path that has to be normalised, and one header twice.
pub(super) fn decisions(component: &Component) {
    let client = Client::from_uri(client_uri());
    let now = Clock::system().now();
    let mut native = policy::Policy::new(chain::rustcrypto());
    assert!(native.load(1, documents()).refused.is_empty());
    let wasm = Policy::new(component, PolicyOptions::default()).expect("an instance");
    let report = wasm.load(documents()).expect("documents load");
    assert!(report.refused.is_empty(), "{report:?}");
    let whole = question(|_| true);
    // As the proxy asks: with the headers that a rule looks at.
    let HeaderNeeds::Named(names) = wasm.needed_headers("db") else {
        panic!("some headers are needed");
    };
    let short = question(|name| names.iter().any(|needed| needed == name));
    let decided = native.authorize("db", &client, Some(&whole), now);
    assert!(decided.is_allowed(), "{decided:?}");
    assert_eq!(decided.path.as_deref(), Some(&b"/items/42?sort=name"[..]));
    assert!(
        wasm.authorize("db", &client, Some(&whole), now)
            .is_allowed()
    );
    compare(
        "A decision about a request (goal: at most 2.5 us through the host library)",
        vec![
            Contender::new("host library, headers that rules look at", || {
                black_box(wasm.authorize("db", &client, Some(black_box(&short)), now));
            }),
            Contender::new("core, native, eleven headers", || {
                black_box(native.authorize("db", &client, Some(black_box(&whole)), now));
            }),
            Contender::new("host library, eleven headers", || {
                black_box(wasm.authorize("db", &client, Some(black_box(&whole)), now));
            }),
        ],
    );
}

/// Lines that repeat the same intentions, through the command.
pub(super) fn evaluation() {
    let question = json!({
        "ask": "authorize",
        "target": "db",
        "trust_domain": TRUST_DOMAIN,
        "default_policy": "deny",
        "protocol": "http",
        "client_uris": [client_uri()],
        "intentions": [intention()],
    });
    let lines: String = (0..QUESTIONS)
        .map(|number| {
            let mut question = question.clone();
            question["id"] = json!(number.to_string());
            question["request"] = json!({
                "method": "GET",
                "path": format!("/items/{number}"),
                "headers": headers(),
            });
            format!("{question}\n")
        })
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), lines).expect("it can be written");

    println!(
        "Questions a second and core through `eval`, {QUESTIONS} lines with the same intentions"
    );
    println!(
        "  {:<46} {:>12} {:>12} {:>12}",
        "", "best", "median", "worst"
    );
    for (engine, goal) in [("native", 100_000), ("component", 50_000)] {
        let mut rates: Vec<f64> = (0..RUNS).map(|_| rate(engine, file.path())).collect();
        rates.sort_by(|one, other| other.total_cmp(one));
        println!(
            "  {:<46} {:>12.0} {:>12.0} {:>12.0}",
            format!("{engine} (goal: at least {goal})"),
            rates[0],
            rates[RUNS / 2],
            rates[RUNS - 1]
        );
    }
    println!();
}

/// Questions for each second of processor time, of all threads and of the start.
fn rate(engine: &str, file: &std::path::Path) -> f64 {
    let mut command = Command::new(portcullis_tests::program::path());
    let child = command
        .args(["eval", "--engine", engine])
        .arg(file)
        .stdout(Stdio::null())
        .spawn()
        .expect("the command starts");
    let before = of_children();
    let status = child.wait_with_output().expect("it ends").status;
    assert!(status.success(), "{engine}: {status}");
    QUESTIONS as f64 / (of_children() - before)
}

/// Processor time of all children that have ended, in seconds.
fn of_children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    // cutime and cstime are the 16th and 17th field, and the name is the second.
    let ticks: f64 = fields
        .split_whitespace()
        .skip(13)
        .take(2)
        .map(|field| field.parse::<f64>().expect("a number"))
        .sum();
    ticks / 100.0
}

fn client_uri() -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/web")
}

fn intention() -> Value {
    json!({ "SourceNS": "default", "SourceName": "web", "DestinationNS": "default",
            "DestinationName": "db", "SourceType": "consul", "Precedence": 9,
            "Permissions": permissions() })
}

fn documents() -> Vec<Document> {
    let mesh = json!({ "trust_domain": TRUST_DOMAIN, "roots": [], "default_policy": "deny", "max_stale_ms": 0 });
    let service = json!({ "protocol": "http", "intentions": [intention()] });
    [("mesh", mesh), ("service/default/default/db", service)]
        .into_iter()
        .map(|(name, body)| Document {
            name: name.to_owned(),
            body: Some(body.to_string().into_bytes()),
            confirmed_at: Clock::system().now(),
        })
        .collect()
}

fn headers() -> Vec<(String, String)> {
    let sent = request("/");
    sent.headers()
        .iter()
        .map(|(name, value)| {
            let value = value.to_str().expect("text");
            (name.as_str().to_owned(), value.to_owned())
        })
        .collect()
}

fn question(wanted: impl Fn(&str) -> bool) -> Request {
    let mut headers = headers();
    headers.push(("x-tenant".to_owned(), "blue".to_owned()));
    headers.retain(|(name, _)| wanted(name));
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    Request {
        method: b"GET".to_vec(),
        path: b"/shop/../items/./42?sort=name".to_vec(),
        headers: encode_headers(pairs).expect("short headers"),
        ..Request::default()
    }
}
