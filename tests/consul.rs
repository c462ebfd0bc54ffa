//! The proxy on a real Consul agent.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::ports;
use portcullis_tests::process::eventually;
use portcullis_tests::program;
use portcullis_tests::proxy::Proxy;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

/// `web` reaches `db` through two proxies.
struct Pair {
    app: Echo,
    upstream: SocketAddr,
    inbound: SocketAddr,
    db: Proxy,
    web: Proxy,
}

impl Pair {
    fn start(consul: &Consul, tokens: Option<(&str, &str)>) -> Self {
        let app = Echo::start();
        let [inbound, upstream] = ports::free::<2>();
        let (db_token, web_token) = tokens.unzip();
        let db = Proxy::start(
            consul.address(),
            db_token,
            &[
                "-service=db",
                &format!("-service-addr={}", app.address()),
                &format!("-listen=127.0.0.1:{inbound}"),
                "-register",
            ],
        );
        let web = Proxy::start(
            consul.address(),
            web_token,
            &["-service=web", &format!("-upstream=db:{upstream}")],
        );
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            app,
            upstream: local(upstream),
            inbound: local(inbound),
            db,
            web,
        }
    }

    /// Waits until a connection goes through.
    fn allowed(&self) -> std::net::TcpStream {
        let began = std::time::Instant::now();
        loop {
            match echo::open(self.upstream) {
                Ok(stream) => return stream,
                Err(error) => assert!(
                    began.elapsed() < SOON,
                    "{error}\ndb:\n{}\nweb:\n{}",
                    self.db.log(),
                    self.web.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until connections are refused, and sees that none reaches the application then.
    fn denied(&self) {
        eventually("connections are refused", SOON, || {
            echo::open(self.upstream).is_err().then_some(())
        });
        let before = (self.app.accepted(), self.app.received());
        for _ in 0..5 {
            assert!(
                echo::open(self.upstream).is_err(),
                "a refused client got an answer"
            );
        }
        assert_eq!(
            (self.app.accepted(), self.app.received()),
            before,
            "a refused client reached the application"
        );
    }
}

fn intention(api: &Api, source: &str, destination: &str, action: &str) {
    let path = format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
    let _ = api
        .put(&path, &json!({ "SourceType": "consul", "Action": action }))
        .good();
}

/// Whether the connection is closed by the other side.
fn is_cut(stream: &mut std::net::TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn intentions_decide_and_changes_cut_live_connections() {
    let Some(consul) = Consul::start("intentions_decide", Options::new()) else {
        return;
    };
    let pair = Pair::start(&consul, None);
    let api = consul.api();

    // Without ACLs the default is to allow.
    drop(pair.allowed());
    pair.db.logs("default-policy");

    intention(&api, "web", "db", "deny");
    pair.denied();
    pair.db.logs("intention");

    intention(&api, "web", "db", "allow");
    let mut live = pair.allowed();
    intention(&api, "web", "db", "deny");
    assert!(
        is_cut(&mut live),
        "a live connection outlived the intention that allowed it"
    );
    pair.denied();
}

#[test]
fn announces_the_service_and_takes_it_back() {
    let Some(consul) = Consul::start("announces_the_service", Options::new()) else {
        return;
    };
    let mut pair = Pair::start(&consul, None);
    let api = consul.api();
    let instances = || api.get("/v1/health/connect/db?passing").good().json();

    let found = eventually("db is healthy", SOON, || {
        let list = instances();
        (!list.as_array().expect("a list").is_empty()).then_some(list)
    });
    assert_eq!(found[0]["Service"]["Port"], pair.inbound.port(), "{found}");
    drop(pair.allowed());

    assert_eq!(pair.db.stop(), Some(0), "{}", pair.db.log());
    assert_eq!(instances(), Value::Array(Vec::new()), "{}", pair.db.log());
    assert_eq!(pair.web.stop(), Some(0), "{}", pair.web.log());
}

#[test]
fn a_rotation_of_the_ca_fails_no_handshake() {
    let Some(consul) = Consul::start("a_rotation", Options::new()) else {
        return;
    };
    let pair = Pair::start(&consul, None);
    let api = consul.api();
    let mut live = pair.allowed();
    let root = |api: &Api| {
        let roots = api.get("/v1/agent/connect/ca/roots").good().json();
        roots["ActiveRootID"]
            .as_str()
            .expect("an active root")
            .to_owned()
    };

    let mut handshakes = 0;
    for bits in [384, 256] {
        let before = root(&api);
        let config = json!({ "Provider": "consul", "Config": { "LeafCertTTL": "72h", "PrivateKeyType": "ec", "PrivateKeyBits": bits } });
        let _ = api.put("/v1/connect/ca/configuration", &config).good();
        assert_ne!(root(&api), before, "the CA has not rotated");
        for _ in 0..100 {
            echo::open(pair.upstream).unwrap_or_else(|error| {
                panic!(
                    "handshake {handshakes} failed: {error}\ndb:\n{}\nweb:\n{}",
                    pair.db.log(),
                    pair.web.log()
                )
            });
            handshakes += 1;
        }
    }
    echo::exchange(&mut live).expect("a running connection is not disturbed");
}

#[test]
fn works_with_the_smallest_acl_policy_that_it_prints() {
    let Some(consul) = Consul::start(
        "works_with_the_smallest_acl_policy",
        Options::new().with_acls(),
    ) else {
        return;
    };
    let rules = |flags: &[&str]| {
        let mut command = program::portcullis(["proxy", "-print-acl-policy"]);
        let said = program::run(command.args(flags));
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out
    };
    let db = consul.token("db", &rules(&["-service=db", "-register"]));
    let web = consul.token("web", &rules(&["-service=web", "-upstream=db:9191"]));
    let pair = Pair::start(&consul, Some((&db, &web)));
    let api = consul.api();

    // With ACLs that deny by default, so do intentions.
    pair.db.logs("ready");
    pair.denied();
    intention(&api, "web", "db", "allow");
    drop(pair.allowed());
    intention(&api, "web", "db", "deny");
    pair.denied();
    assert!(
        !pair.db.log().contains(&db) && !pair.web.log().contains(&web),
        "a token is in the log"
    );
}

#[test]
fn lives_through_the_death_of_the_agent() {
    let Some(mut consul) = Consul::start("lives_through_the_death", Options::new().persistent())
    else {
        return;
    };
    let pair = Pair::start(&consul, None);
    intention(&consul.api(), "web", "db", "allow");
    intention(&consul.api(), "*", "db", "deny");
    let mut live = pair.allowed();

    consul.kill();
    for _ in 0..20 {
        drop(echo::open(pair.upstream).expect("the last good data decides"));
    }
    consul.restart();
    echo::exchange(&mut live).expect("a running connection is not disturbed");
    drop(pair.allowed());

    let api = consul.api();
    eventually("db is registered again", SOON, || {
        let list = api.get("/v1/health/connect/db?passing").good().json();
        (!list.as_array().expect("a list").is_empty()).then_some(())
    });
    intention(&api, "web", "db", "deny");
    assert!(
        is_cut(&mut live),
        "a change after the restart does not reach live connections"
    );
    pair.denied();
}
