//! First figures: a decision and a verification through the host library, beside
//! the same core natively and the real agent's `authorize`, all in one run.
//!
//! Rounds are interleaved, so that whatever else the machine does meets every
//! contender alike. Read the ratios; the times are those of this machine now.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use portcullis::clock::Clock;
use portcullis::tls::PeerVerifier;
use portcullis::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis_core::chain::{self, Usage};
use portcullis_core::policy::{self, Client, Document};
use portcullis_core::time::Timestamp;
use portcullis_testkit::TestCa;
use portcullis_tests::consul::{Consul, Options};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

#[path = "library/requests.rs"]
mod requests;

const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";
const ROUNDS: usize = 31;
/// How long one contender is measured in one round.
const SLICE: Duration = Duration::from_millis(20);

fn main() {
    let component =
        Component::embedded(&ComponentOptions::default()).expect("the component compiles");
    println!("component sha256 {}\n", component.sha256());
    decisions(&component);
    verifications(&component);
    requests::decisions(&component);
    requests::evaluation();
}

/// What is measured: one call of it is one unit of work.
struct Contender<'a> {
    name: &'static str,
    work: Box<dyn FnMut() + 'a>,
    samples: Vec<f64>,
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, work: impl FnMut() + 'a) -> Self {
        Self {
            name,
            work: Box::new(work),
            samples: Vec::new(),
        }
    }

    /// Nanoseconds per call over one slice.
    fn measure(&mut self) {
        let began = Instant::now();
        let mut calls = 0_u32;
        while began.elapsed() < SLICE {
            for _ in 0..8 {
                (self.work)();
            }
            calls += 8;
        }
        self.samples
            .push(began.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
    }
}

/// Runs all contenders in turn, and prints each beside the first.
fn compare(title: &str, mut contenders: Vec<Contender<'_>>) {
    for contender in &mut contenders {
        contender.measure();
        contender.samples.clear();
    }
    for _ in 0..ROUNDS {
        contenders.iter_mut().for_each(Contender::measure);
    }
    println!("{title}");
    println!(
        "  {:<46} {:>12} {:>12} {:>12} {:>9}",
        "", "best", "median", "worst", "ratio"
    );
    let mut first = None;
    for contender in &mut contenders {
        contender.samples.sort_by(f64::total_cmp);
        let samples = &contender.samples;
        let (best, median, worst) = (
            samples[0],
            samples[samples.len() / 2],
            samples[samples.len() - 1],
        );
        let ratio = median / *first.get_or_insert(median);
        println!(
            "  {:<46} {:>12} {:>12} {:>12} {:>8.2}x",
            contender.name,
            time(best),
            time(median),
            time(worst),
            ratio
        );
    }
    println!();
}

fn time(nanoseconds: f64) -> String {
    if nanoseconds < 10_000.0 {
        format!("{nanoseconds:.0} ns")
    } else {
        format!("{:.1} us", nanoseconds / 1_000.0)
    }
}

fn documents(intentions: &Value, roots: &[String]) -> Vec<Document> {
    let mesh = json!({ "trust_domain": TRUST_DOMAIN, "roots": roots, "default_policy": "deny", "max_stale_ms": 0 });
    let service = json!({ "protocol": "tcp", "intentions": intentions });
    [("mesh", mesh), ("service/default/default/db", service)]
        .into_iter()
        .map(|(name, body)| Document {
            name: name.to_owned(),
            body: Some(body.to_string().into_bytes()),
            confirmed_at: Clock::system().now(),
        })
        .collect()
}

fn intention(source: &str) -> Value {
    json!({ "SourceNS": "default", "SourceName": source, "DestinationNS": "default",
            "DestinationName": "db", "SourceType": "consul", "Action": "allow", "Precedence": 9 })
}

fn decisions(component: &Component) {
    let uri = |name: &str| format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/{name}");
    let client = |name: &str| Client {
        uris: vec![uri(name)],
        via_gateway: None,
    };
    let now = Clock::system().now();
    let loaded: Vec<(usize, policy::Policy, Policy, String)> = [10, 1000]
        .into_iter()
        .map(|count| {
            let names: Vec<String> = (0..count).map(|number| format!("web-{number}")).collect();
            let list = Value::Array(names.iter().map(|name| intention(name)).collect());
            let mut native = policy::Policy::new(chain::rustcrypto());
            assert!(native.load(1, documents(&list, &[])).refused.is_empty());
            let wasm = Policy::new(component, PolicyOptions::default()).expect("an instance");
            assert!(
                wasm.load(documents(&list, &[]))
                    .expect("documents load")
                    .refused
                    .is_empty()
            );
            (count, native, wasm, format!("web-{}", count - 1))
        })
        .collect();

    let consul = Consul::start("first figures", Options::new());
    let mut agent = consul
        .as_ref()
        .map(|consul| Agent::new(consul, &loaded[0].3));

    let mut contenders = Vec::new();
    for (count, mut native, wasm, name) in loaded {
        let client = client(&name);
        assert!(native.authorize("db", &client, None, now).is_allowed());
        assert!(wasm.authorize("db", &client, None, now).is_allowed());
        let asked = client.clone();
        contenders.push(Contender::new(
            if count == 10 {
                "core, native, 10 intentions"
            } else {
                "core, native, 1,000 intentions"
            },
            move || {
                black_box(native.authorize("db", black_box(&asked), None, now));
            },
        ));
        contenders.push(Contender::new(
            if count == 10 {
                "host library, 10 intentions"
            } else {
                "host library, 1,000 intentions"
            },
            move || {
                black_box(wasm.authorize("db", black_box(&client), None, now));
            },
        ));
    }
    if let Some(agent) = &mut agent {
        contenders.push(Contender::new(
            "Consul agent's authorize, HTTP kept alive",
            || agent.authorize(),
        ));
    }
    compare(
        "A decision, L4 (goal: at most 1 us through the host library)",
        contenders,
    );
}

/// The real agent, over one connection that stays open.
struct Agent {
    stream: BufReader<TcpStream>,
    request: String,
}

impl Agent {
    fn new(consul: &Consul, source: &str) -> Self {
        let api = consul.api();
        let path = format!("/v1/connect/intentions/exact?source={source}&destination=db");
        let _ = api
            .put(&path, &json!({ "SourceType": "consul", "Action": "allow" }))
            .good();
        let body = json!({ "Target": "db",
            "ClientCertURI": format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/{source}") })
        .to_string();
        let request = format!(
            "POST /v1/agent/connect/authorize HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
            consul.address(),
            body.len()
        );
        let stream = TcpStream::connect(consul.address()).expect("the agent listens");
        stream.set_nodelay(true).expect("a socket option");
        Self {
            stream: BufReader::new(stream),
            request,
        }
    }

    fn authorize(&mut self) {
        self.stream
            .get_mut()
            .write_all(self.request.as_bytes())
            .expect("the agent reads");
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            let _ = self.stream.read_line(&mut line).expect("the agent answers");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream
            .read_exact(&mut body)
            .expect("the agent answers in full");
        assert!(
            String::from_utf8_lossy(&body).contains("true"),
            "the agent denies"
        );
    }
}

fn verifications(component: &Component) {
    let old = TestCa::new(TRUST_DOMAIN);
    let new = TestCa::new(TRUST_DOMAIN);
    let cross = old.cross_sign(&new);
    let direct = old.service("web").issue();
    let crossed = new.clone().presenting(&[cross]).service("web").issue();
    let roots = [old.pem()];
    let now = Clock::system().now();

    let native = |algorithms| {
        let mut policy = policy::Policy::new(algorithms);
        assert!(
            policy
                .load(1, documents(&Value::Null, &roots))
                .refused
                .is_empty()
        );
        policy
    };
    let wasm = || {
        let policy = Policy::new(component, PolicyOptions::default()).expect("an instance");
        assert!(
            policy
                .load(documents(&Value::Null, &roots))
                .expect("documents load")
                .refused
                .is_empty()
        );
        policy
    };
    for (title, leaf) in [
        (
            "First sight of a P-256 certificate (goal: at most 1.0 ms through the host library)",
            &direct,
        ),
        (
            "First sight, after a rotation: through a cross-signed intermediate",
            &crossed,
        ),
    ] {
        let chain = leaf.chain_der();
        let (mut rustcrypto, mut aws_lc, library) = (
            native(chain::rustcrypto()),
            native(portcullis::runtime::aws_lc()),
            wasm(),
        );
        compare(
            title,
            vec![
                Contender::new("core, native, RustCrypto", || {
                    verify(&mut rustcrypto, &chain, now)
                }),
                Contender::new("core, native, aws-lc", || verify(&mut aws_lc, &chain, now)),
                Contender::new("host library", || {
                    let verified = library.verify_peer(black_box(&chain), Usage::Client, None, now);
                    black_box(verified.expect("the chain is good"));
                }),
            ],
        );
    }

    let chain: Vec<CertificateDer<'static>> = direct.chain().to_vec();
    let verifier = PeerVerifier::new(wasm(), Clock::system(), 1);
    let known = verifier.clone();
    compare(
        "A known certificate (goal: at most 2 us)",
        vec![Contender::new("host library, remembered", move || {
            black_box(
                known
                    .verify(black_box(&chain), Usage::Client, None)
                    .expect("the chain is good"),
            );
        })],
    );
    assert_eq!(
        verifier.remembered(),
        1,
        "the certificate was not remembered"
    );
}

fn verify(policy: &mut policy::Policy, chain: &[Vec<u8>], now: Timestamp) {
    black_box(
        policy
            .verify_peer(black_box(chain), Usage::Client, None, now)
            .expect("the chain is good"),
    );
}
