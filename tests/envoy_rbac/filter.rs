//! Our filter in a static Envoy beside the RBAC that Consul wrote for the same intentions: the
//! same requests and connections get the same answers.
//!
//! Where the two are meant to differ, `filter-differences.md` says why. Every other difference
//! fails, and so does a listed one that has gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::client::Client;
use crate::differences::{self, Case, IDENTITY, PATTERN, QUERY, TOKEN, WIDER_FIRST};
use crate::differential::{number, rules_of};
use crate::fixed::{self, Asked};
use crate::generate::{self, SOURCES};
use crate::ours::{Ours, Setting};
use crate::question::{Answer, Question};
use crate::recorded::{Beside, Doors, Recorded};
use crate::scene::Scene;

const TEST: &str = "the_filter_answers_as_consuls_rbac_does";

/// What the mesh is like, in how many sets, and how often HTTP/2 is asked.
const SETTINGS: [(&str, &str, usize, f64); 7] = [
    ("tcp", "{}", 10, 0.0),
    ("http", "{}", 8, 0.2),
    ("http2", "{}", 3, 0.8),
    ("grpc", "{}", 2, 0.9),
    (
        "http",
        r#"{"MergeSlashes": true, "PathWithEscapedSlashesAction": "UNESCAPE_AND_REDIRECT"}"#,
        2,
        0.3,
    ),
    (
        "http2",
        r#"{"PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD", "HeadersWithUnderscoresAction": "DROP_HEADER"}"#,
        2,
        0.5,
    ),
    (
        "http",
        r#"{"InsecureDisablePathNormalization": true}"#,
        1,
        0.2,
    ),
];
/// What seeded questions may differ by.
const FILTERS: [&str; 3] = [WIDER_FIRST, QUERY, TOKEN];
/// Requests about each set; connections are asked for once by each source.
const REQUESTS: usize = 24;

#[test]
fn the_filter_answers_as_consuls_rbac_does() {
    let seed = number("PORTCULLIS_SEED").unwrap_or(0x20_26_11_21);
    println!("seed {seed}; PORTCULLIS_SEED=<number> tries another");
    let halves = ["allow", "deny"].map(|default| std::thread::spawn(move || half(default, seed)));
    let mut tally = Tally::default();
    for half in halves {
        match half.join().expect("a half ended early") {
            Some(other) => tally.add(other),
            None => return,
        }
    }
    tally.check();
}

/// What is asked about a set.
enum Round {
    Seeded(Vec<(&'static str, Question)>),
    Fixed(Vec<Asked>),
}

fn half(default: &'static str, seed: u64) -> Option<Tally> {
    let mut scene = Scene::start(TEST, default)?;
    let mut random = StdRng::seed_from_u64(seed ^ u64::from(default == "allow"));
    let (mut sets, mut rounds) = (Vec::new(), Vec::new());
    for (protocol, normalization, count, http2) in SETTINGS {
        let setting = Setting {
            protocol,
            normalization: serde_json::from_str(normalization).expect("JSON"),
        };
        scene.set_up(protocol, &setting.normalization);
        for _ in 0..count {
            let (list, questions) = seeded(&mut scene, &mut random, protocol, http2);
            sets.push(Recorded::of(&scene, &setting, list));
            rounds.push(Round::Seeded(questions));
        }
        if normalization == "{}" && matches!(protocol, "tcp" | "http") {
            for rules in cases(&scene, protocol) {
                let list = if protocol == "tcp" {
                    scene.set_connections(&rules.sources, &rules.wildcard)
                } else {
                    scene.set(&rules.sources, &rules.wildcard, None)
                };
                sets.push(Recorded::of(&scene, &setting, list));
                rounds.push(Round::Fixed(rules.asked));
            }
        }
    }
    let beside = Beside::start(TEST, &scene, &sets)?;
    let clients = SOURCES.map(|name| (name, scene.client(name))).into();
    let mut tally = Tally::default();
    for ((set, round), doors) in sets.iter().zip(rounds).zip(&beside.doors) {
        match round {
            Round::Seeded(questions) => {
                tally.sets += 1;
                tally.seeded(&scene, set, &clients, *doors, &questions);
            }
            Round::Fixed(asked) => {
                for one in asked {
                    tally.fixed(default, set, *doors, &one);
                }
            }
        }
    }
    let log = beside.envoy.log();
    assert!(
        !log.contains("panic") && !log.contains("[critical]"),
        "{log}"
    );
    Some(tally)
}

/// A random set of intentions, in force, and questions about it.
fn seeded(
    scene: &mut Scene,
    random: &mut StdRng,
    protocol: &str,
    http2: f64,
) -> (Value, Vec<(&'static str, Question)>) {
    let mut intentions = generate::intentions(random);
    for source in &mut intentions.sources {
        // Consul takes no permissions about connections.
        if protocol == "tcp" && source["Permissions"].is_array() {
            let action = source["Permissions"][0]["Action"].take();
            *source = json!({ "Name": source["Name"], "Action": action });
        }
    }
    if protocol == "tcp" {
        let list = scene.set_connections(&intentions.sources, &intentions.wildcard);
        let question = Question::get(portcullis_core::http::HttpVersion::Http1, "/");
        return (
            list,
            SOURCES.map(|source| (source, question.clone())).into(),
        );
    }
    let list = scene.set(&intentions.sources, &intentions.wildcard, None);
    let questions = (0..REQUESTS).map(|turn| {
        let source = SOURCES[turn % SOURCES.len()];
        let mut question = generate::question(random, scene, &list, source, http2);
        if protocol == "grpc" && turn % 3 != 0 {
            question = question.header("content-type", "application/grpc");
        }
        (source, question)
    });
    let questions = questions.collect();
    (list, questions)
}

/// The cases that are asked in each run: those where our core and Envoy are meant to differ,
/// and those that are about the filter.
fn cases(scene: &Scene, protocol: &str) -> Vec<fixed::Rules> {
    if protocol != "tcp" {
        let mut all = fixed::rules(scene);
        all.extend(fixed::tokens(scene));
        return all;
    }
    let is_plain = |rules: &fixed::Rules| {
        let mut sources = rules.sources.iter().chain(&rules.wildcard);
        sources.all(|source| source.get("Permissions").is_none())
    };
    let mut all = fixed::rules(scene);
    all.retain(is_plain);
    for rules in &mut all {
        rules
            .asked
            .retain(|asked| [IDENTITY, PATTERN, WIDER_FIRST].contains(&asked.heading));
        for asked in &mut rules.asked {
            asked.what = format!("connection: {}", asked.what);
        }
    }
    all.retain(|rules| !rules.asked.is_empty());
    all
}

/// One answer; a connection that is closed is refused.
fn ask(set: &Recorded, client: &Client, door: SocketAddr, question: &Question) -> Answer {
    match client.ask(door, question) {
        Answer::BadRequest if set.setting.protocol == "tcp" => Answer::Deny { grpc: false },
        answer => answer,
    }
}

/// What was asked, and what came out otherwise.
#[derive(Default)]
struct Tally {
    sets: usize,
    requests: usize,
    connections: usize,
    narrower: usize,
    answers: BTreeMap<&'static str, usize>,
    differences: BTreeMap<&'static str, usize>,
    headings: BTreeSet<&'static str>,
    rows: BTreeSet<String>,
    unexpected: Vec<String>,
}

impl Tally {
    fn seeded(
        &mut self,
        scene: &Scene,
        set: &Recorded,
        clients: &BTreeMap<&'static str, Client>,
        doors: Doors,
        questions: &[(&'static str, Question)],
    ) {
        for (source, question) in questions {
            let client = &clients[source];
            let theirs = ask(set, client, doors.rbac, question);
            let [ours, strict] = doors.filter.map(|door| ask(set, client, door, question));
            self.count(set, &theirs);
            let mut is_meant = false;
            if ours != theirs {
                let mut core = Ours::new();
                core.load(scene, &set.setting, &set.list);
                let [decision, _] = core.ask(&client.uris, question);
                let case = Case {
                    scene,
                    setting: &set.setting,
                    list: &set.list,
                    source,
                    uris: &client.uris,
                    question,
                    decision: &decision,
                    ours: &ours,
                    theirs: &theirs,
                };
                // Of the others Envoy sees to before either filter is asked.
                let meant = case.meant().filter(|name| FILTERS.contains(name));
                is_meant = meant.is_some();
                if let Some(name) = meant {
                    *self.differences.entry(name).or_default() += 1;
                }
            }
            let is_wider = matches!(strict, Answer::Allow(_)) && strict != ours;
            if (ours != theirs && !is_meant) || is_wider {
                self.unexpected.push(format!(
                    "default {}, {} {}, {source}: {question}\n  filter {ours:?}\n  strict {strict:?}\n  RBAC   {theirs:?}\n  {}",
                    scene.default,
                    set.setting.protocol,
                    set.setting.normalization,
                    rules_of(&set.list, source),
                ));
            }
            self.narrower += usize::from(strict != ours);
        }
    }

    fn fixed(&mut self, default: &str, set: &Recorded, doors: Doors, asked: &Asked) {
        let ask = |door| ask(set, &asked.client, door, &asked.question);
        let (theirs, [ours, strict]) = (ask(doors.rbac), doors.filter.map(ask));
        self.count(set, &theirs);
        let row = format!(
            "| {default} | {} | {ours} | {strict} | {theirs} |",
            asked.what
        );
        if matches!(strict, Answer::Allow(_)) && strict != ours {
            self.unexpected.push(format!("strict is wider: {row}"));
        }
        if ours != theirs {
            self.headings.insert(asked.heading);
            self.rows.insert(row);
        }
    }

    /// Counts what Consul's RBAC says.
    fn count(&mut self, set: &Recorded, answer: &Answer) {
        let kind = if set.setting.protocol == "tcp" {
            self.connections += 1;
            match answer {
                Answer::Allow(_) => "let in",
                _ => "closed",
            }
        } else {
            self.requests += 1;
            answer.code()
        };
        *self.answers.entry(kind).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.sets += other.sets;
        self.requests += other.requests;
        self.connections += other.connections;
        self.narrower += other.narrower;
        for (ours, theirs) in [
            (&mut self.answers, other.answers),
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
            "{} requests and {} connections about {} sets of intentions: {:?}; strict matching answers {} otherwise; intended differences {:?}",
            self.requests,
            self.connections,
            self.sets,
            self.answers,
            self.narrower,
            self.differences
        );
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
        let seen = self.headings.iter().chain(self.differences.keys());
        let page = include_str!("filter-differences.md");
        let seen = seen.copied().collect();
        differences::check_page("filter-differences.md", page, &self.rows, &seen);
        for kind in [
            "let in",
            "closed",
            "allow",
            "deny",
            "bad-request",
            "redirect",
        ] {
            let count = self.answers.get(kind).copied().unwrap_or(0);
            assert!(count >= 5, "only {count} times `{kind}`");
        }
        assert!(self.requests >= 900 && self.connections >= 100, "too few");
    }
}
