//! Connections that stay, and what a verification is worth over time, in `filter.wasm` on the
//! small host.

use std::time::UNIX_EPOCH;

use portcullis_testkit::{TestCa, TestLeaf, pem};
use portcullis_tests::components;
use portcullis_tests::proxy_wasm::{Answer, Call, Filter, Machine, Shelf};
use serde_json::{Value, json};

/// The root context of the one plugin.
const DB: u32 = 1;

/// `web` and `db`, whose intention has this action.
struct World {
    ca: TestCa,
    /// What the agent lists beside the root.
    intermediates: Vec<String>,
    action: &'static str,
    index: u64,
    machine: Machine,
    /// Seconds since the world began.
    passed: u64,
}

impl World {
    fn start(ca: TestCa, intermediates: Vec<String>, more: &Value) -> Self {
        let mut configuration = json!({
            "service": "db", "agent": { "cluster": "agent" }, "default_policy": "deny",
            "start_wait_ms": 0, "max_stale_ms": 0, "request_normalization": {},
        });
        for (name, value) in more.as_object().expect("fields") {
            configuration[name] = value.clone();
        }
        let filter = Filter::compile(&components::envoy_filter());
        let shelf = Shelf::default();
        let machine = Machine::start(&filter, &shelf, &configuration.to_string());
        let mut world = Self {
            ca,
            intermediates,
            action: "allow",
            index: 7,
            machine: machine.expect("a good configuration"),
            passed: 0,
        };
        world.ticks();
        world
    }

    fn answer(&self, call: &Call) -> Answer {
        let path = call.path();
        let body = if path.starts_with("/v1/agent/connect/ca/roots") {
            json!({ "ActiveRootID": "1", "TrustDomain": "t.consul", "Roots": [
                { "ID": "1", "Name": "", "RootCert": self.ca.pem(),
                  "IntermediateCerts": self.intermediates, "Active": true }] })
        } else {
            assert!(path.starts_with("/v1/connect/intentions/match?"), "{path}");
            json!({ "db": [{ "SourceName": "web", "SourceNS": "default", "Action": self.action,
                "DestinationName": "db", "DestinationNS": "default", "SourceType": "consul" }] })
        };
        let index = ("x-consul-index".to_owned(), self.index.to_string());
        (200, vec![index], body.to_string().into_bytes())
    }

    /// Some ticks, with all that the filter asks.
    fn ticks(&mut self) {
        self.set_time();
        for _ in 0..6 {
            self.machine.tick();
            for _ in 0..16 {
                let call = self.machine.world().calls.first().cloned();
                let answer = call.map(|call| self.answer(&call));
                if !self.machine.answer(|_| answer) {
                    break;
                }
            }
        }
    }

    fn set_time(&mut self) {
        let now = UNIX_EPOCH.elapsed().expect("after 1970").as_secs() + self.passed;
        self.machine.world().wall = now * 1_000_000_000;
    }

    /// The client with this certificate comes, on a connection of this number.
    fn comes(&mut self, leaf: &TestLeaf, connection: u64, is_request: bool) -> (u32, bool) {
        self.set_time();
        let leaf = pem(leaf.certificate()).into_bytes();
        let mut properties = vec![
            ("connection\0id", connection.to_le_bytes().to_vec()),
            ("connection\0peer_certificate", leaf),
            ("connection\0peer_certificate_valid", vec![1]),
        ];
        if is_request {
            properties.push(("request\0protocol", b"HTTP/2".to_vec()));
        }
        let properties = properties.into_iter();
        self.machine.world().properties = properties
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let context = self.machine.context_of(DB);
        let passes = if is_request {
            let headers = [
                (":method", "GET"),
                (":path", "/"),
                (":authority", "db"),
                (":scheme", "https"),
            ];
            let bytes = |(name, value): (&str, &str)| (name.into(), value.into());
            self.machine.world().headers = headers.map(bytes).into();
            self.machine.request(context)
        } else {
            self.machine.bytes(context, true)
        };
        (context, passes)
    }

    fn refusals(&mut self) -> usize {
        let log = &self.machine.world().log;
        let is_one = |line: &&String| line.contains("a certificate is refused");
        log.iter().filter(is_one).count()
    }
}

#[test]
fn shadow_mode_ends_no_connection() {
    for (mode, ended) in [("enforce", 1), ("shadow", 0)] {
        let ca = TestCa::new("t.consul");
        let web = ca.service("web").issue();
        let mut world = World::start(ca, Vec::new(), &json!({ "mode": mode }));
        let (_, passes) = world.comes(&web, 1, false);
        assert!(passes, "{mode}");
        let _ = world.machine.did();
        world.action = "deny";
        world.index += 1;
        world.ticks();
        assert_eq!(world.machine.did().closed.len(), ended, "{mode}");
        let (_, passes) = world.comes(&web, 2, false);
        assert_eq!(passes, ended == 0, "{mode}");
    }
}

#[test]
fn a_verification_is_worth_as_much_as_its_path() {
    let ca = TestCa::new("t.consul");
    let short = ca.intermediate(|draft| draft.valid(-3_600, 600));
    let leaf = short.service("web").with(|draft| draft.valid(-60, 3_600));
    let leaf = leaf.issue();
    let listed = vec![short.pem()];
    let settings = json!({ "peer_verification": "filter" });
    let mut world = World::start(ca, listed, &settings);
    let (_, passes) = world.comes(&leaf, 1, false);
    assert!(passes, "{:?}", world.machine.world().log);
    for _ in 0..2 {
        assert!(world.comes(&leaf, 2, true).1);
    }
    let _ = world.machine.did();
    world.passed = 590;
    world.ticks();
    assert!(world.machine.did().closed.is_empty());
    assert!(world.comes(&leaf, 2, true).1);

    // The leaf is still good, and what vouches for it is not.
    world.passed = 700;
    assert!(!world.comes(&leaf, 2, true).1, "the next request");
    let _ = world.machine.did();
    world.ticks();
    let did = world.machine.did();
    assert!(!did.closed.is_empty(), "what lives: {did:?}");
    assert!(!world.comes(&leaf, 3, false).1, "a new connection");
}

#[test]
fn a_refused_certificate_is_looked_at_seldom() {
    let ca = TestCa::new("t.consul");
    let forged = TestCa::new("t.consul").service("web").issue();
    let settings = json!({ "peer_verification": "filter" });
    let mut world = World::start(ca, Vec::new(), &settings);
    for _ in 0..20 {
        assert!(!world.comes(&forged, 1, true).1);
    }
    assert_eq!(world.refusals(), 1);
    world.passed = 11;
    for _ in 0..20 {
        assert!(!world.comes(&forged, 1, true).1);
    }
    assert_eq!(world.refusals(), 2);
    // Another connection is another client.
    assert!(!world.comes(&forged, 2, true).1);
    assert_eq!(world.refusals(), 3);
}
