//! Seeded intentions and requests: our `envoy` matching must answer as Envoy does, and
//! `strict` matching must never be wider.
//!
//! Where the two are meant to differ, `differences.md` says why. Every other difference
//! fails, and so does an agreement where we meant to differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use portcullis_core::http::HttpVersion;
use portcullis_core::intention::{Decision, Effect};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::client::Client;
use crate::differences::{self, Case};
use crate::fixed;
use crate::generate::{self, KINDS, SOURCES};
use crate::ours::{self, Ours, Setting};
use crate::question::{Answer, Question};
use crate::scene::Scene;

/// What the mesh is like, in how many rounds, and how often HTTP/2 is asked.
const SETTINGS: [(&str, &str, u32, f64); 13] = [
    ("http", "{}", 8, 0.1),
    ("http2", "{}", 4, 0.8),
    ("grpc", "{}", 4, 0.9),
    ("http", r#"{"MergeSlashes": true}"#, 2, 0.2),
    (
        "http",
        r#"{"PathWithEscapedSlashesAction": "REJECT_REQUEST"}"#,
        1,
        0.2,
    ),
    (
        "http",
        r#"{"PathWithEscapedSlashesAction": "UNESCAPE_AND_REDIRECT"}"#,
        1,
        0.2,
    ),
    (
        "http",
        r#"{"PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD"}"#,
        1,
        0.2,
    ),
    (
        "http2",
        r#"{"PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD", "MergeSlashes": true}"#,
        1,
        0.8,
    ),
    (
        "http2",
        r#"{"PathWithEscapedSlashesAction": "UNESCAPE_AND_REDIRECT", "MergeSlashes": true}"#,
        1,
        0.8,
    ),
    (
        "http",
        r#"{"InsecureDisablePathNormalization": true}"#,
        1,
        0.2,
    ),
    (
        "http",
        r#"{"InsecureDisablePathNormalization": true, "MergeSlashes": true, "PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD"}"#,
        1,
        0.2,
    ),
    (
        "http",
        r#"{"HeadersWithUnderscoresAction": "REJECT_REQUEST"}"#,
        1,
        0.2,
    ),
    (
        "http2",
        r#"{"HeadersWithUnderscoresAction": "DROP_HEADER"}"#,
        1,
        0.8,
    ),
];
/// Requests in each round.
const REQUESTS: usize = 48;

#[test]
fn decides_as_envoy_does() {
    let seed = number("PORTCULLIS_SEED").unwrap_or(0x20_26_11_21);
    let times = number("PORTCULLIS_ENVOY_TIMES").unwrap_or(1);
    println!(
        "seed {seed}; PORTCULLIS_SEED=<number> tries another, PORTCULLIS_ENVOY_TIMES=<number> that many times as much"
    );
    let halves: Vec<_> = ["allow", "deny"]
        .into_iter()
        .map(|default| std::thread::spawn(move || Half::run(default, seed, times)))
        .collect();
    let mut tally = Tally::default();
    for half in halves {
        match half.join().expect("a half ended early") {
            Some(other) => tally.add(other),
            None => return,
        }
    }
    tally.check();
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")),
    )
}

/// One default.
struct Half {
    scene: Scene,
    ours: Ours,
    clients: BTreeMap<&'static str, Client>,
    tally: Tally,
}

impl Half {
    fn run(default: &'static str, seed: u64, times: u64) -> Option<Tally> {
        let scene = Scene::start("envoy_rbac", default)?;
        let clients = SOURCES
            .into_iter()
            .map(|name| (name, scene.client(name)))
            .collect();
        let mut half = Self {
            scene,
            ours: Ours::new(),
            clients,
            tally: Tally::default(),
        };
        let mut random = StdRng::seed_from_u64(seed ^ u64::from(default == "allow"));
        for (protocol, normalization, rounds, http2) in SETTINGS {
            let normalization = serde_json::from_str(normalization).expect("JSON");
            let setting = Setting {
                protocol,
                normalization,
            };
            half.scene.set_up(protocol, &setting.normalization);
            for _ in 0..u64::from(rounds) * times {
                half.round(&mut random, &setting, http2);
            }
        }
        half.fixed();
        Some(half.tally)
    }

    fn round(&mut self, random: &mut StdRng, setting: &Setting, http2: f64) {
        let intentions = generate::intentions(random);
        let list = self.scene.set(
            &intentions.sources,
            &intentions.wildcard,
            intentions.jwt.as_ref(),
        );
        self.ours.load(&self.scene, setting, &list);
        let mut asked = BTreeSet::new();
        for turn in 0..REQUESTS {
            let source = SOURCES[turn % SOURCES.len()];
            asked.insert(source);
            let mut question = generate::question(random, &self.scene, &list, source, http2);
            if setting.protocol == "grpc" && random.random_bool(0.7) {
                let kinds = [
                    "application/grpc",
                    "application/grpc",
                    "application/grpc+proto",
                    "application/grpc-web",
                    "application/json",
                ];
                question = question.header("content-type", kinds[turn % kinds.len()]);
            }
            self.compare(setting, &list, source, &question);
        }
        // What each source meets is a set of its own.
        self.tally.sets += asked.len();
    }

    fn compare(&mut self, setting: &Setting, list: &Value, source: &str, question: &Question) {
        let client = &self.clients[source];
        let [envoy, strict] = self.ours.ask(&client.uris, question);
        let theirs = client.ask(self.scene.envoy, question);
        let ours = ours::answer(&envoy, question);
        let rule = generate::deciding(list, source);
        let kinds: BTreeSet<_> = rule
            .and_then(|rule| rule["Permissions"].as_array())
            .into_iter()
            .flatten()
            .flat_map(generate::kinds)
            .collect();
        self.tally.count(question, &theirs, &kinds, rule, &envoy);
        let case = || {
            format!(
                "default {}, {} {}, {source}: {question}\n  ours   {ours:?} {envoy:?}\n  theirs {theirs:?}\n  strict {strict:?}\n  {}",
                self.scene.default,
                setting.protocol,
                setting.normalization,
                rules_of(list, source)
            )
        };
        let same = ours == theirs;
        let mut difference = None;
        if !same {
            let case_of = Case {
                scene: &self.scene,
                setting,
                list,
                source,
                uris: &client.uris,
                question,
                decision: &envoy,
                ours: &ours,
                theirs: &theirs,
            };
            difference = case_of.meant();
            match difference {
                Some(difference) => *self.tally.differences.entry(difference).or_default() += 1,
                None => self.tally.unexpected.push(case()),
            }
        }
        let is_wider = strict.effect == Effect::Allow
            && (envoy.effect != Effect::Allow
                || strict.path != envoy.path
                || (!matches!(theirs, Answer::Allow(_)) && difference.is_none()));
        if is_wider {
            self.tally
                .unexpected
                .push(format!("strict is wider: {}", case()));
        }
        if strict.effect != envoy.effect {
            self.tally.narrower += 1;
        }
    }

    /// The differences that we mean, each of which must still be one.
    fn fixed(&mut self) {
        let setting = Setting {
            protocol: "http",
            normalization: json!({}),
        };
        self.scene.set_up(setting.protocol, &setting.normalization);
        for rules in fixed::rules(&self.scene) {
            let list = self.scene.set(&rules.sources, &rules.wildcard, None);
            self.ours.load(&self.scene, &setting, &list);
            for asked in &rules.asked {
                let decisions = self.ours.ask(&asked.client.uris, &asked.question);
                let [ours, strict] =
                    decisions.map(|decision| ours::answer(&decision, &asked.question));
                let theirs = asked.client.ask(self.scene.envoy, &asked.question);
                let row = format!(
                    "| {} | {} | {ours} | {strict} | {theirs} |",
                    rules.default, asked.what
                );
                if ours == theirs {
                    self.tally
                        .unexpected
                        .push(format!("an agreement where we meant to differ: {row}"));
                }
                if matches!(strict, Answer::Allow(_)) && !matches!(ours, Answer::Allow(_)) {
                    self.tally
                        .unexpected
                        .push(format!("strict is wider: {row}"));
                }
                self.tally.headings.insert(asked.heading);
                self.tally.rows.insert(row);
            }
        }
    }
}

/// The rules of a list that can be about a source.
pub(crate) fn rules_of(list: &Value, source: &str) -> String {
    let mut text = String::new();
    for rule in list.as_array().into_iter().flatten() {
        if rule["SourceName"] == "marker" {
            continue;
        }
        if rule["SourceName"] == source || rule["SourceName"] == "*" {
            let short = json!({ "action": rule["Action"], "permissions": rule["Permissions"], "jwt": rule["JWT"] });
            let _ = write!(
                text,
                "\n    {} -> {}: {short}",
                rule["SourceName"], rule["DestinationName"]
            );
        }
    }
    text
}

/// What was asked, to see that the questions cover the ground.
#[derive(Default)]
struct Tally {
    sets: usize,
    requests: usize,
    http2: usize,
    grpc_refusals: usize,
    tokens: usize,
    narrower: usize,
    answers: BTreeMap<&'static str, usize>,
    reasons: BTreeMap<&'static str, usize>,
    kinds: BTreeMap<&'static str, usize>,
    decisive: BTreeMap<&'static str, usize>,
    differences: BTreeMap<&'static str, usize>,
    headings: BTreeSet<&'static str>,
    rows: BTreeSet<String>,
    unexpected: Vec<String>,
}

impl Tally {
    fn count(
        &mut self,
        question: &Question,
        theirs: &Answer,
        kinds: &BTreeSet<&'static str>,
        rule: Option<&Value>,
        ours: &Decision,
    ) {
        self.requests += 1;
        self.http2 += usize::from(question.version == HttpVersion::Http2);
        self.grpc_refusals += usize::from(*theirs == Answer::Deny { grpc: true });
        self.tokens += usize::from(
            question
                .headers
                .iter()
                .any(|(name, _)| name == b"authorization"),
        );
        *self.answers.entry(theirs.code()).or_default() += 1;
        *self.reasons.entry(ours.code.code()).or_default() += 1;
        for kind in kinds {
            *self.kinds.entry(kind).or_default() += 1;
        }
        let permission = ours
            .permission
            .and_then(|index| usize::try_from(index).ok());
        if let Some(permission) = permission.and_then(|index| rule?["Permissions"].get(index)) {
            for kind in generate::kinds(permission) {
                *self.decisive.entry(kind).or_default() += 1;
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.sets += other.sets;
        self.requests += other.requests;
        self.http2 += other.http2;
        self.grpc_refusals += other.grpc_refusals;
        self.tokens += other.tokens;
        self.narrower += other.narrower;
        for (ours, theirs) in [
            (&mut self.answers, other.answers),
            (&mut self.reasons, other.reasons),
            (&mut self.kinds, other.kinds),
            (&mut self.decisive, other.decisive),
            (&mut self.differences, other.differences),
        ] {
            for (name, count) in theirs {
                *ours.entry(name).or_default() += count;
            }
        }
        self.headings.extend(other.headings);
        self.rows.extend(other.rows);
        self.unexpected.extend(other.unexpected);
    }

    fn check(&self) {
        println!(
            "{} requests about {} sets of intentions: {:?}",
            self.requests, self.sets, self.answers
        );
        println!(
            "{} by HTTP/2, {} refused in gRPC's words, {} with a token; strict matching answers {} otherwise",
            self.http2, self.grpc_refusals, self.tokens, self.narrower
        );
        println!("decided by {:?}", self.reasons);
        println!("matchers in the rule that decides {:?}", self.kinds);
        println!(
            "matchers in the permission that decides {:?}",
            self.decisive
        );
        println!("intended differences {:?}", self.differences);
        let shown: Vec<_> = self
            .unexpected
            .iter()
            .take(30)
            .map(String::as_str)
            .collect();
        assert!(
            self.unexpected.is_empty(),
            "{} unexpected:\n{}",
            self.unexpected.len(),
            shown.join("\n")
        );
        let seen = self
            .headings
            .iter()
            .chain(self.differences.keys())
            .copied()
            .collect();
        let page = include_str!("differences.md");
        differences::check_page("differences.md", page, &self.rows, &seen);
        assert!(self.requests >= 2_000 && self.sets >= 100, "too few");
        for kind in KINDS {
            let count = self.kinds.get(kind).copied().unwrap_or(0);
            assert!(
                count * 10 >= self.requests,
                "{kind}: only {count} of {}",
                self.requests
            );
        }
    }
}
