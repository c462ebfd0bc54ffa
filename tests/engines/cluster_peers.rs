//! Cluster peers in `filter.wasm` on the small host: two workers that verify certificates
//! themselves, shared data in which another plugin writes, and agents that tell no peerings.

use std::time::UNIX_EPOCH;

use portcullis_testkit::TestCa;
use portcullis_tests::components;
use portcullis_tests::proxy_wasm::{Answer, Call, Filter, Machine, Shelf};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

/// The root context of the one plugin.
const DB: u32 = 1;
const WITHOUT: &str = "portcullis.db.peers_without_bundle";

/// `web` of the peer `beta` may call `db`, and so may `local` of ours.
struct World {
    own: TestCa,
    /// Status and body of the agent's answer about peerings.
    peerings: (u16, Value),
    index: u64,
    shelf: Shelf,
    machines: [Machine; 2],
    connections: u64,
}

/// The certificate of a service.
fn leaf(ca: &TestCa, trust_domain: &str, service: &str) -> Vec<u8> {
    let uri = format!("spiffe://{trust_domain}/ns/default/dc/dc1/svc/{service}");
    ca.leaf(&uri).issue().pem().into_bytes()
}

fn active(ca: &TestCa) -> Value {
    json!([{ "Name": "beta", "State": "ACTIVE", "PeerCAPems": [ca.pem()],
             "Remote": { "Partition": "", "Datacenter": "beta" }, "PeerServerName": "x" }])
}

impl World {
    fn start(peerings: (u16, Value)) -> Self {
        let filter = Filter::compile(&components::envoy_filter());
        let shelf = Shelf::default();
        let configuration = json!({
            "service": "db", "agent": { "cluster": "agent" }, "default_policy": "deny",
            "start_wait_ms": 0, "max_stale_ms": 0, "request_normalization": {},
            "peer_verification": "filter",
        })
        .to_string();
        let machines =
            [1, 2].map(|_| Machine::start(&filter, &shelf, &configuration).expect("a good one"));
        Self {
            own: TestCa::new("t.consul"),
            peerings,
            index: 7,
            shelf,
            machines,
            connections: 0,
        }
    }

    fn answer(&self, call: &Call) -> Option<Answer> {
        let path = call.path();
        let rule = |source: &str, peer: &str| {
            json!({ "SourceName": source, "SourceNS": "default", "SourcePeer": peer,
                "DestinationName": "db", "DestinationNS": "default", "SourceType": "consul",
                "Action": "allow" })
        };
        let (status, body) = if path.starts_with("/v1/agent/connect/ca/roots") {
            let roots =
                json!([{ "ID": "1", "Name": "", "RootCert": self.own.pem(), "Active": true }]);
            let roots = json!({ "ActiveRootID": "1", "TrustDomain": "t.consul", "Roots": roots });
            (200, roots)
        } else if path.starts_with("/v1/connect/intentions/match?") {
            (
                200,
                json!({ "db": [rule("web", "beta"), rule("local", "")] }),
            )
        } else if path.starts_with("/v1/peerings") {
            self.peerings.clone()
        } else {
            panic!("the filter asks for {path}");
        };
        let index = ("x-consul-index".to_owned(), self.index.to_string());
        Some((status, vec![index], body.to_string().into_bytes()))
    }

    /// Half a second passes, and the agent answers what it is asked.
    fn tick(&mut self) {
        for worker in 0..2 {
            self.machines[worker].tick();
            for _ in 0..16 {
                let mut answer = None;
                if let Some(call) = self.machines[worker].world().calls.first().cloned() {
                    answer = self.answer(&call);
                }
                if !self.machines[worker].answer(|_| answer) {
                    break;
                }
            }
        }
    }

    /// Whether a client with this certificate passes on each of the workers.
    fn passes(&mut self, leaf: &[u8]) -> [bool; 2] {
        [0, 1].map(|worker| {
            self.connections += 1;
            let machine = &mut self.machines[worker];
            let now = UNIX_EPOCH.elapsed().expect("after 1970").as_nanos();
            machine.world().wall = u64::try_from(now).expect("before 2554");
            machine.world().properties = [
                ("connection\0id", self.connections.to_le_bytes().to_vec()),
                ("connection\0peer_certificate", leaf.to_vec()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
            let context = machine.context_of(DB);
            let passes = machine.bytes(context, true);
            let _ = machine.did();
            machine.delete(context);
            passes
        })
    }

    /// Within ten seconds each of these passes on both workers, or on none.
    fn settle(&mut self, expected: &[(&[u8], bool)]) {
        for _ in 0..20 {
            self.tick();
            let mut all = expected.iter();
            if all.all(|(leaf, passes)| self.passes(leaf) == [*passes; 2]) {
                return;
            }
        }
        let got: Vec<_> = expected.iter().map(|(leaf, _)| self.passes(leaf)).collect();
        panic!("{got:?}\n{}", self.log());
    }

    fn log(&mut self) -> String {
        let mut text = String::new();
        for machine in &mut self.machines {
            text.push_str(&machine.world().log.join("\n"));
        }
        text
    }
}

/// A head that follows, of a value that nobody has told of.
fn next_head(real: &[u8], digest: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(real);
    let mut parts = text.split(' ');
    let number: u64 = parts.next().and_then(|part| part.parse().ok()).unwrap_or(1);
    let at: u64 = parts.next().and_then(|part| part.parse().ok()).unwrap_or(1);
    format!("{} {at} {digest}", number.saturating_add(1)).into_bytes()
}

#[test]
fn forged_bundles_let_nobody_pass_and_are_repaired() {
    let (beta, forger) = (TestCa::new("beta.consul"), TestCa::new("beta.consul"));
    let mut world = World::start((200, active(&beta)));
    let web = leaf(&beta, "beta.consul", "web");
    let forged = leaf(&forger, "beta.consul", "web");
    let other = leaf(&beta, "beta.consul", "other");
    let local = leaf(&world.own, "t.consul", "local");
    // A root of the peer vouches for nobody of ours, nor ours for the peer's.
    let across = leaf(&beta, "t.consul", "local");
    let back = leaf(&world.own, "beta.consul", "web");
    let expected: [(&[u8], bool); 6] = [
        (&web, true),
        (&local, true),
        (&forged, false),
        (&other, false),
        (&across, false),
        (&back, false),
    ];
    world.settle(&expected);
    let value = world.shelf.values();
    let (_, value) = value
        .iter()
        .find(|(key, _)| key.ends_with("/peerings/default/default/db/value"))
        .expect("it is published");
    assert!(!String::from_utf8_lossy(value).contains("PeerServerName"));

    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let open = active(&forger).to_string().into_bytes();
    for round in 0..60 {
        for (key, real) in world.shelf.values() {
            if !key.contains("/peerings/") {
                continue;
            }
            let bad = match (key.rsplit('/').next(), random.random_range(0..6)) {
                (Some("value"), 0..4) => open.clone(),
                (Some("head"), 0..2) => next_head(&real, &"0".repeat(64)),
                (Some("head"), 2) => format!("{} 1 {}", u64::MAX, "0".repeat(64)).into_bytes(),
                (_, 4) => b"[".repeat(100_000),
                (_, 5) => Vec::new(),
                _ => continue,
            };
            world.shelf.write(&key, &bad);
        }
        for _ in 0..2 {
            for no in [&forged, &other, &across, &back] {
                assert_eq!(world.passes(no), [false; 2], "seed {seed}, round {round}");
            }
            world.tick();
        }
        if round % 20 == 19 {
            world.settle(&expected);
        }
    }
}

#[test]
fn an_ended_peering_is_not_believed_again() {
    let beta = TestCa::new("beta.consul");
    let mut world = World::start((200, active(&beta)));
    let web = leaf(&beta, "beta.consul", "web");
    let local = leaf(&world.own, "t.consul", "local");
    world.settle(&[(&web, true), (&local, true)]);
    let mut once = world.shelf.values();
    once.retain(|key, _| key.contains("/peerings/") && !key.ends_with("/leader"));
    assert_eq!(once.len(), 2);
    let mut ended = active(&beta);
    ended[0]["State"] = json!("TERMINATED");
    world.peerings = (200, ended);
    world.index += 1;
    world.settle(&[(&web, false), (&local, true)]);
    assert!(world.log().contains("the peer `beta` has no bundle"));
    assert_eq!(world.machines[0].metric(WITHOUT), Some(1));
    for round in 0..30 {
        for (index, (key, value)) in once.iter().enumerate() {
            if round % 3 == 0 || round % 2 == index {
                world.shelf.write(key, value);
            }
        }
        assert_eq!(world.passes(&web), [false; 2], "before the tick {round}");
        world.tick();
        assert_eq!(world.passes(&web), [false; 2], "after the tick {round}");
    }
    // The roots are others now.
    let next = TestCa::new("beta.consul");
    world.peerings = (200, active(&next));
    world.index += 1;
    let fresh = leaf(&next, "beta.consul", "web");
    world.settle(&[(&fresh, true), (&web, false), (&local, true)]);
    assert_eq!(world.machines[0].metric(WITHOUT), Some(0));
}

#[test]
fn without_peerings_everybody_else_is_let_in_and_the_log_says_why() {
    let beta = TestCa::new("beta.consul");
    for (status, body, told) in [
        (403, json!("Permission denied"), "peering:read"),
        (404, json!("Invalid URL path"), "knows no peerings"),
        (500, json!("peering is off"), "answered 500"),
        (200, json!([{ "State": "ACTIVE" }]), "Name"),
    ] {
        let mut world = World::start((status, body));
        let web = leaf(&beta, "beta.consul", "web");
        let local = leaf(&world.own, "t.consul", "local");
        world.settle(&[(&web, false), (&local, true)]);
        let log = world.log();
        let line = log
            .lines()
            .find(|line| line.contains("peerings from the agent"));
        assert!(
            line.is_some_and(|line| line.contains(told)),
            "{told}: {log}"
        );
        world.tick();
        assert_eq!(world.machines[0].metric(WITHOUT), Some(1));
        world.peerings = (200, active(&beta));
        for _ in 0..200 {
            world.tick();
            if world.passes(&web) == [true; 2] {
                break;
            }
        }
        world.settle(&[(&web, true), (&local, true)]);
        assert_eq!(world.machines[1].metric(WITHOUT), Some(0));
    }
}
