//! Our decisions beside the real agent's `authorize`, over seeded random sets of
//! intentions and identities.
//!
//! Where the two are meant to differ, `tests/differential/differences.md` says why.
//! Every other difference fails, and so does an agreement where we meant to differ.

use std::collections::BTreeMap;

use portcullis_core::chain;
use portcullis_core::intention::{Effect, Reason};
use portcullis_core::policy::{Client, Document, Policy};
use portcullis_core::time::Timestamp;
use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Sets of intentions; half of them under each default.
const SETS: u32 = 520;
/// Questions about each set.
const QUESTIONS: u32 = 8;

/// Names that rules use. Some differ in one character or in case only.
const NAMES: [&str; 8] = ["web", "web1", "we", "api", "web.v1", "webxv1", "WEB", "a-b"];

#[test]
fn decides_as_the_agent_does() {
    let seed = match std::env::var("PORTCULLIS_SEED") {
        Ok(text) => text.parse().expect("PORTCULLIS_SEED is a number"),
        Err(_) => 0x20_26_11_21,
    };
    println!("seed {seed}; PORTCULLIS_SEED=<number> tries another");
    let mut random = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    for default in ["allow", "deny"] {
        let options =
            Options::new().with_config(&format!("default_intention_policy = \"{default}\""));
        let Some(consul) = Consul::start("differential", options) else {
            return;
        };
        let mut mesh = Mesh::new(&consul, default);
        for number in 0..SETS / 2 {
            mesh.compare(number, &mut random, &mut tally);
        }
    }
    tally.check();
}

/// One agent with one default, and our policy fed with its replies.
struct Mesh {
    api: Api,
    default: &'static str,
    trust_domain: String,
    policy: Policy,
    generation: u64,
}

impl Mesh {
    fn new(consul: &Consul, default: &'static str) -> Self {
        let api = consul.api();
        let roots = api.get("/v1/agent/connect/ca/roots").good().json();
        let trust_domain = roots["TrustDomain"]
            .as_str()
            .expect("a trust domain")
            .to_owned();
        // Destinations of rules with permissions must speak HTTP.
        let _ = api
            .put("/v1/config", &json!({ "Kind": "proxy-defaults", "Name": "global", "Config": { "protocol": "http" } }))
            .good();
        let _ = api
            .put(
                "/v1/config",
                &json!({ "Kind": "jwt-provider", "Name": "okta", "Issuer": "okta",
                         "JSONWebKeySet": { "Local": { "JWKS": "eyJrZXlzIjpbXX0=" } } }),
            )
            .good();
        Self {
            api,
            default,
            trust_domain,
            policy: Policy::new(chain::rustcrypto()),
            generation: 0,
        }
    }

    /// Writes one set of intentions and asks both about it.
    fn compare(&mut self, number: u32, random: &mut StdRng, tally: &mut Tally) {
        // A name of its own, so that the agent's cache knows nothing of it.
        let target = format!("db-{number}");
        let wildcard = rules(random, false);
        if wildcard.is_empty() {
            let _ = self.api.delete("/v1/config/service-intentions/*").good();
        } else {
            self.write("*", &wildcard);
        }
        let exact = rules(random, true);
        if !exact.is_empty() {
            self.write(&target, &exact);
        }

        let path = format!("/v1/connect/intentions/match?by=destination&name={target}");
        let list = self.api.get(&path).good().json()[&target].clone();
        self.load(&target, &list);
        for _ in 0..QUESTIONS {
            let question = Question::random(random, &self.trust_domain);
            self.ask(&target, &list, &question, tally);
        }
    }

    fn write(&self, destination: &str, sources: &[Value]) {
        let entry =
            json!({ "Kind": "service-intentions", "Name": destination, "Sources": sources });
        let reply = self.api.put("/v1/config", &entry);
        assert_eq!(reply.status, 200, "{}: {entry}", reply.body);
    }

    fn load(&mut self, target: &str, list: &Value) {
        self.generation += 1;
        let mesh = json!({
            "trust_domain": self.trust_domain, "roots": [], "default_policy": self.default, "max_stale_ms": 0,
        });
        let service = json!({ "protocol": "tcp", "intentions": list });
        let document = |name: String, body: &Value| Document {
            name,
            body: Some(body.to_string().into_bytes()),
            confirmed_at: Timestamp::from_millis(1),
        };
        let report = self.policy.load(
            self.generation,
            vec![
                document("mesh".to_owned(), &mesh),
                document(format!("service/default/default/{target}"), &service),
            ],
        );
        assert!(report.refused.is_empty(), "{:?}", report.refused);
    }

    fn ask(&mut self, target: &str, list: &Value, question: &Question, tally: &mut Tally) {
        let client = Client {
            uris: vec![question.uri.clone()],
            via_gateway: None,
        };
        let ours = self
            .policy
            .authorize(target, &client, None, Timestamp::from_millis(1));
        let theirs = self.api.post(
            "/v1/agent/connect/authorize",
            &json!({ "Target": target, "ClientCertURI": question.uri }),
        );
        let theirs = match theirs.status {
            200 => theirs.json()["Authorized"].as_bool().expect("a verdict"),
            400 => false,
            other => panic!("{other}: {}", theirs.body),
        };
        let allowed = ours.effect == Effect::Allow;
        let case = || {
            format!(
                "default {}, {} -> {target}\n  ours {ours:?}\n  theirs {theirs}\n  {list}",
                self.default, question.uri
            )
        };
        match question.meant_to_differ(ours.code, list, theirs) {
            Some(difference) => {
                assert_ne!(
                    allowed,
                    theirs,
                    "unexpected agreement: {difference}\n{}",
                    case()
                );
                *tally.differences.entry(difference).or_default() += 1;
            }
            None => assert_eq!(allowed, theirs, "unexpected difference\n{}", case()),
        }
        tally.count(allowed, ours.intention.map(|index| precedence(list, index)));
    }
}

/// The agent's own precedence of the rule that decided.
fn precedence(list: &Value, index: u32) -> u64 {
    let rule = &list[usize::try_from(index).expect("an index")];
    rule["Precedence"].as_u64().expect("a precedence")
}

/// Random sources of one destination.
fn rules(random: &mut StdRng, exact: bool) -> Vec<Value> {
    let mut sources = Vec::new();
    for name in NAMES {
        if random.random_bool(0.3) {
            sources.push(rule(random, name, exact));
        }
    }
    if random.random_bool(if exact { 0.3 } else { 0.5 }) {
        sources.push(rule(random, "*", exact));
    }
    sources
}

fn rule(random: &mut StdRng, name: &str, exact: bool) -> Value {
    let action = if random.random_bool(0.5) {
        "allow"
    } else {
        "deny"
    };
    let mut rule = json!({ "Name": name, "Action": action });
    if name != "*" && random.random_bool(0.05) {
        rule["Peer"] = json!("elsewhere");
    }
    // Only an exact destination takes permissions.
    if exact && random.random_bool(0.08) {
        rule.as_object_mut().expect("an object").remove("Action");
        rule["Permissions"] = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    }
    rule
}

/// An identity to ask about, and what is odd about it.
struct Question {
    uri: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A service of the mesh.
    Plain,
    /// As plain, from another datacenter.
    OtherDatacenter,
    /// As plain, with the default partition written out.
    DefaultPartition,
    /// From another trust domain.
    Foreign,
    /// Not SPIFFE's grammar, yet read by Go's URL parser.
    Malformed,
    /// Not a service.
    NotAService,
}

impl Question {
    fn random(random: &mut StdRng, trust_domain: &str) -> Self {
        let name = NAMES.choose(random).expect("a name");
        let service = format!("/ns/default/dc/dc1/svc/{name}");
        let (kind, uri) = match random.random_range(0..100) {
            0..88 => (Kind::Plain, format!("spiffe://{trust_domain}{service}")),
            88..90 => (
                Kind::OtherDatacenter,
                format!("spiffe://{trust_domain}/ns/default/dc/dc2/svc/{name}"),
            ),
            90..92 => (
                Kind::DefaultPartition,
                format!("spiffe://{trust_domain}/ap/default{service}"),
            ),
            92..95 => (Kind::Foreign, format!("spiffe://other.consul{service}")),
            95..98 => {
                let uri = match random.random_range(0..4) {
                    0 => format!("SPIFFE://{trust_domain}{service}"),
                    1 => format!("spiffe://{trust_domain}{service}?x=1"),
                    2 => format!("spiffe://{trust_domain}:8443{service}"),
                    _ => format!("spiffe://user@{trust_domain}{service}#f"),
                };
                (Kind::Malformed, uri)
            }
            _ => (
                Kind::NotAService,
                format!("spiffe://{trust_domain}/agent/client/dc/dc1/id/{name}"),
            ),
        };
        Self { uri, kind }
    }

    /// The entry of `tests/differential/differences.md` that applies, if one does.
    fn meant_to_differ(&self, ours: Reason, list: &Value, theirs: bool) -> Option<&'static str> {
        // All of ours are narrower, so they show only where the agent allows.
        if !theirs {
            return None;
        }
        match self.kind {
            Kind::Foreign => Some("foreign trust domain"),
            Kind::Malformed => Some("malformed SPIFFE ID"),
            Kind::Plain | Kind::OtherDatacenter | Kind::DefaultPartition | Kind::NotAService => {
                let by_rule = matches!(ours, Reason::Intention | Reason::L7IntentionOnTcp);
                (by_rule && self.has_denied_case_variant(list))
                    .then_some("case variant of a denied source")
            }
        }
    }

    /// Whether a rule before the one that the agent used denies a name that is ours but for case.
    fn has_denied_case_variant(&self, list: &Value) -> bool {
        let name = self.uri.rsplit('/').next().expect("a last segment");
        for rule in list.as_array().into_iter().flatten() {
            if rule["SourcePeer"]
                .as_str()
                .is_some_and(|peer| !peer.is_empty())
            {
                continue;
            }
            let source = rule["SourceName"].as_str().expect("a source");
            if source == name || source == "*" {
                return false;
            }
            // A rule with permissions denies connections too.
            if source.eq_ignore_ascii_case(name) && rule["Action"] != "allow" {
                return true;
            }
        }
        false
    }
}

/// What was asked, to see that the questions cover the ground.
#[derive(Default)]
struct Tally {
    allowed: u32,
    denied: u32,
    precedences: BTreeMap<u64, u32>,
    differences: BTreeMap<&'static str, u32>,
}

impl Tally {
    fn count(&mut self, allowed: bool, precedence: Option<u64>) {
        if allowed {
            self.allowed += 1;
        } else {
            self.denied += 1;
        }
        // 0 stands for the default policy and for what is refused before any rule.
        *self.precedences.entry(precedence.unwrap_or(0)).or_default() += 1;
    }

    fn check(&self) {
        let all = self.allowed + self.denied;
        println!(
            "{all} questions: {} allowed, {} denied",
            self.allowed, self.denied
        );
        println!("decided by precedence (0: no rule) {:?}", self.precedences);
        println!("intended differences {:?}", self.differences);
        assert_eq!(all, SETS / 2 * 2 * QUESTIONS);
        for (verdict, count) in [("allowed", self.allowed), ("denied", self.denied)] {
            assert!(count * 100 >= all * 30, "only {count} of {all} {verdict}");
        }
        for level in [9, 8, 6, 5] {
            let count = self.precedences.get(&level).copied().unwrap_or(0);
            assert!(
                count * 100 >= all * 5,
                "precedence {level} decided only {count} of {all}"
            );
        }
        let listed = include_str!("differential/differences.md");
        for line in listed.lines().filter_map(|line| line.strip_prefix("## ")) {
            assert!(
                self.differences.contains_key(line),
                "`{line}` is listed and never happened"
            );
        }
        for seen in self.differences.keys() {
            assert!(
                listed.lines().any(|line| line == format!("## {seen}")),
                "`{seen}` is not listed"
            );
        }
    }
}
