//! Other implementations as the other side: `consul connect proxy` and `openssl`.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_testkit::{TestCa, TestLeaf};
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::ports;
use portcullis_tests::process::eventually;
use portcullis_tests::proxy::Proxy;
use serde_json::json;

const SOON: Duration = Duration::from_secs(90);

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn intention(consul: &Consul, action: &str) {
    let path = "/v1/connect/intentions/exact?source=web&destination=db";
    let _ = consul
        .api()
        .put(path, &json!({ "SourceType": "consul", "Action": action }))
        .good();
}

/// Allowed, then denied, over `upstream`; whatever stands on either side.
fn allowed_then_denied(
    consul: &Consul,
    upstream: SocketAddr,
    app: &Echo,
    logs: impl Fn() -> String,
) {
    intention(consul, "allow");
    let began = std::time::Instant::now();
    while let Err(error) = echo::open(upstream) {
        assert!(began.elapsed() < SOON, "{error}\n{}", logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    intention(consul, "deny");
    eventually("connections are refused", SOON, || {
        echo::open(upstream).is_err().then_some(())
    });
    let before = app.received();
    assert!(
        echo::open(upstream).is_err(),
        "a refused client got an answer"
    );
    assert_eq!(
        app.received(),
        before,
        "a refused client reached the application"
    );
}

#[test]
fn consuls_proxy_calls_ours() {
    let Some(consul) = Consul::start("consuls_proxy_calls_ours", Options::new()) else {
        return;
    };
    let app = Echo::start();
    let [inbound, upstream] = ports::free::<2>();
    let ours = Proxy::start(
        consul.address(),
        None,
        &[
            "-service=db",
            &format!("-service-addr={}", app.address()),
            &format!("-listen=127.0.0.1:{inbound}"),
            "-register",
        ],
    );
    let theirs = Proxy::start_consul(
        &consul,
        &["-service=web", &format!("-upstream=db:{upstream}")],
    );
    allowed_then_denied(&consul, local(upstream), &app, || {
        format!("{}\n{}", ours.log(), theirs.log())
    });
}

#[test]
fn ours_calls_consuls_proxy() {
    let Some(consul) = Consul::start("ours_calls_consuls_proxy", Options::new()) else {
        return;
    };
    let app = Echo::start();
    let [inbound, upstream] = ports::free::<2>();
    let theirs = Proxy::start_consul(
        &consul,
        &[
            "-service=db",
            &format!("-service-addr={}", app.address()),
            &format!("-listen=127.0.0.1:{inbound}"),
            "-register",
        ],
    );
    let ours = Proxy::start(
        consul.address(),
        None,
        &["-service=web", &format!("-upstream=db:{upstream}")],
    );
    allowed_then_denied(&consul, local(upstream), &app, || {
        format!("{}\n{}", ours.log(), theirs.log())
    });
    // The refusal comes as an alert; our log says whom to ask.
    ours.logs("portcullis check web db");
}

/// `openssl s_client` against our inbound listener.
struct Client<'a> {
    inbound: SocketAddr,
    roots: &'a str,
    app: &'a Echo,
}

impl Client<'_> {
    /// Whether the application answers a client with this certificate, and
    /// what openssl says of the session.
    fn tries(&self, leaf: Option<(&str, &str)>, flags: &[&str]) -> (bool, String) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file is written");
            path
        };
        let mut command = Command::new("openssl");
        command
            .args([
                "s_client",
                "-quiet",
                "-no_ign_eof",
                "-connect",
                &self.inbound.to_string(),
            ])
            .args(["-verify_quiet", "-verify_return_error", "-CAfile"])
            .arg(file("roots.pem", self.roots))
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some((chain, key)) = leaf {
            let chain = file("chain.pem", chain);
            command
                .arg("-cert")
                .arg(&chain)
                .arg("-cert_chain")
                .arg(&chain)
                .arg("-key")
                .arg(file("key.pem", key));
        }
        let before = self.app.accepted();
        let mut child = command.spawn().expect("openssl starts");
        let mut input = child.stdin.take().expect("standard input");
        let mut out = child.stdout.take().expect("standard output");
        let _ = input.write_all(b"ping");
        // The end of input closes the session, so it comes after the answer. Where there is none,
        // openssl is refused, and ends.
        let mut heard = Vec::new();
        let mut part = [0; 64];
        let answered = loop {
            match out.read(&mut part) {
                Ok(count @ 1..) => heard.extend_from_slice(&part[..count]),
                _ => break false,
            }
            if heard.windows(4).any(|four| four == b"ping") {
                break true;
            }
        };
        drop(input);
        let output = child.wait_with_output().expect("openssl ends");
        assert_eq!(
            answered,
            self.app.accepted() > before,
            "the application was reached without an answer, or the reverse"
        );
        (
            answered,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    fn accepts(&self, leaf: &TestLeaf, flags: &[&str]) {
        let (answered, said) = self.tries(Some((&leaf.pem(), &leaf.key_pem())), flags);
        assert!(answered, "{flags:?}: {said}");
    }

    fn refuses(&self, what: &str, leaf: Option<&TestLeaf>) {
        let leaf = leaf.map(|leaf| (leaf.pem(), leaf.key_pem()));
        let leaf = leaf
            .as_ref()
            .map(|(chain, key)| (chain.as_str(), key.as_str()));
        for version in ["-tls1_2", "-tls1_3"] {
            let (answered, said) = self.tries(leaf, &[version]);
            assert!(!answered, "{what} was let in over {version}");
            assert!(
                said.contains("alert") || said.contains("errno"),
                "{what} over {version}: {said}"
            );
        }
    }
}

#[test]
fn openssl_is_let_in_or_refused_by_the_rules() {
    let Some(consul) = Consul::start("openssl", Options::new()) else {
        return;
    };
    let api = consul.api();
    let trust_domain = api.get("/v1/agent/connect/ca/roots").good().json()["TrustDomain"]
        .as_str()
        .expect("a trust domain")
        .to_owned();

    // Consul's CA becomes one whose key we hold, so that every defect can be
    // signed by the real root of the mesh.
    let ca = TestCa::new(&trust_domain);
    let config = json!({ "Provider": "consul", "Config": {
        "LeafCertTTL": "72h", "PrivateKey": ca.key_pem(), "RootCert": ca.pem(),
    }});
    let reply = api.put("/v1/connect/ca/configuration", &config);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let path = "/v1/connect/intentions/exact?source=nobody&destination=db";
    let _ = api
        .put(path, &json!({ "SourceType": "consul", "Action": "deny" }))
        .good();

    let app = Echo::start();
    let [inbound] = ports::free::<1>();
    let proxy = Proxy::start(
        consul.address(),
        None,
        &[
            "-service=db",
            &format!("-service-addr={}", app.address()),
            &format!("-listen=127.0.0.1:{inbound}"),
        ],
    );
    proxy.logs("ready");
    let roots = api.get("/v1/connect/ca/roots?pem=true").good().body;
    let client = Client {
        inbound: local(inbound),
        roots: &roots,
        app: &app,
    };

    let web = ca.service("web").issue();
    client.accepts(&web, &["-tls1_3"]);
    client.accepts(&web, &["-tls1_2"]);
    client.accepts(&web, &["-alpn", "h2"]);
    client.accepts(&web, &["-servername", "anything.example"]);

    client.refuses("no certificate", None);
    client.refuses("a denied service", Some(&ca.service("nobody").issue()));
    client.refuses(
        "an unknown root",
        Some(&TestCa::new(&trust_domain).service("web").issue()),
    );
    client.refuses(
        "an expired leaf",
        Some(&ca.service("web").with(|leaf| leaf.expired()).issue()),
    );
    client.refuses(
        "a leaf of tomorrow",
        Some(&ca.service("web").with(|leaf| leaf.not_yet_valid()).issue()),
    );
    let second = ca.service_id("api");
    client.refuses(
        "two identities",
        Some(
            &ca.service("web")
                .with(|leaf| leaf.two_uris(&second))
                .issue(),
        ),
    );
    client.refuses(
        "another trust domain",
        Some(
            &ca.service("web")
                .with(|leaf| leaf.wrong_trust_domain())
                .issue(),
        ),
    );
    client.refuses(
        "no identity",
        Some(&ca.service("web").with(|leaf| leaf.no_uri()).issue()),
    );
    client.refuses(
        "a server's certificate",
        Some(&ca.service("web").with(|leaf| leaf.server_only()).issue()),
    );
    client.refuses(
        "a signing certificate",
        Some(&ca.service("web").with(|leaf| leaf.with_cert_sign()).issue()),
    );

    let (answered, said) = client.tries(Some((&web.pem(), &web.key_pem())), &["-tls1_1"]);
    assert!(!answered, "TLS 1.1 was let in: {said}");
    // After all of that the listener still serves.
    client.accepts(&web, &[]);
}
