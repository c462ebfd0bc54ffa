//! Elections and policies of many workers on a fake shelf.

mod peers;

use super::*;
use crate::agent::ReplyHeaders;
use crate::filter::testing::FakeShelf;
use crate::http::Request;
use crate::intention::{Effect, Reason};
use crate::policy::Client;

const WALL: u64 = 1_800_000_000_000;
const WEB: &str = "spiffe://t.consul/ns/default/dc/dc1/svc/web";

fn settings(more: &str) -> Settings {
    let text = format!(r#"{{"service":"db","agent":{{"cluster":"agent"}}{more}}}"#);
    Settings::parse(text.as_bytes()).unwrap()
}

fn root() -> String {
    portcullis_testkit::TestCa::new("t.consul").pem()
}

fn reply(index: u64, body: String) -> Reply {
    Reply {
        status: 200,
        headers: ReplyHeaders {
            index: Some(index),
            ..ReplyHeaders::default()
        },
        body: body.into_bytes(),
    }
}

fn roots_body(trust_domain: &str, root: &str) -> String {
    serde_json::json!({"ActiveRootID": "1", "TrustDomain": trust_domain, "Roots": [
        {"ID": "1", "Name": "", "RootCert": root, "IntermediateCerts": null, "Active": true}]})
    .to_string()
}

fn list(action: &str) -> String {
    format!(
        r#"{{"db":[{{"SourceName":"web","DestinationName":"db","SourceNS":"default","DestinationNS":"default","Action":"{action}","SourceType":"consul","Precedence":9}}]}}"#
    )
}

/// An agent that answers everything at once.
struct Agent {
    root: String,
    list: String,
    index: u64,
    entry: (u16, String),
    peerings: (u16, String),
    default_policy: &'static str,
    asked: Vec<Asks>,
}

impl Agent {
    fn new(action: &str) -> Self {
        Self {
            root: root(),
            list: list(action),
            index: 1,
            entry: (404, String::new()),
            peerings: (404, String::new()),
            default_policy: "deny",
            asked: Vec::new(),
        }
    }

    fn answer(&mut self, supply: &mut Supply, shelf: &FakeShelf, now: u64) -> bool {
        let wall = Timestamp::from_millis(WALL + now);
        let mut ticked = supply.tick(shelf, now, wall);
        let mut requests = std::mem::take(&mut ticked.requests);
        while let Some((asks, request)) = requests.pop() {
            self.asked.push(asks);
            supply.sent(asks, now, request.read_timeout_ms);
            let answer = match asks {
                Asks::Roots => reply(self.index, roots_body("t.consul", &self.root)),
                Asks::Intentions => reply(self.index, self.list.clone()),
                Asks::DefaultPolicy if self.default_policy.is_empty() => Reply {
                    status: 500,
                    ..Reply::default()
                },
                Asks::DefaultPolicy if request.path_and_query.contains("self") => Reply {
                    status: 403,
                    ..Reply::default()
                },
                Asks::DefaultPolicy if self.default_policy == "refused" => Reply {
                    status: 403,
                    ..Reply::default()
                },
                Asks::DefaultPolicy => {
                    let allowed = self.default_policy == "allow";
                    let body = format!(
                        r#"{{"Authorized":{allowed},"Reason":"Default intention policy"}}"#
                    );
                    reply(1, body)
                }
                Asks::Providers | Asks::Keys(_) => unreachable!("no rule asks for a token"),
                Asks::MeshEntry => Reply {
                    status: self.entry.0,
                    body: self.entry.1.clone().into_bytes(),
                    ..Reply::default()
                },
                Asks::Peerings => Reply {
                    status: self.peerings.0,
                    ..reply(self.index, self.peerings.1.clone())
                },
            };
            if let Some(next) = supply.reply(shelf, asks, now, &answer) {
                requests.push((asks, next));
            }
        }
        ticked.has_changed
    }
}

fn asked(supply: &mut Supply, shelf: &FakeShelf, now: u64, uri: &str) -> (Effect, Reason) {
    let wall = Timestamp::from_millis(WALL + now);
    let client = Client::from_uri(uri);
    let decision = supply.authorize(shelf, Layer::Connections, &client, None, now, wall);
    (decision.effect, decision.code)
}

/// Ticks of half a second from `from` to `to`.
fn run(agent: &mut Agent, shelf: &FakeShelf, supplies: &mut [Supply], from: u64, to: u64) {
    for now in (from..=to).step_by(500) {
        for supply in &mut *supplies {
            agent.answer(supply, shelf, now);
        }
    }
}

/// A worker after three seconds with an agent.
fn followed(agent: &mut Agent, shelf: &FakeShelf, settings: Settings) -> Supply {
    let mut worker = [Supply::new(settings, 1)];
    run(agent, shelf, &mut worker, 0, 3_000);
    let [worker] = worker;
    worker
}

#[test]
fn one_worker_asks_and_all_decide_alike() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("allow");
    let mut workers: Vec<Supply> = (1..4).map(|n| Supply::new(settings(""), n)).collect();
    assert_eq!(
        asked(&mut workers[0], &shelf, 0, WEB),
        (Effect::Deny, Reason::NotReady)
    );
    run(&mut agent, &shelf, &mut workers, 0, 3_000);
    let other = "spiffe://t.consul/ns/default/dc/dc1/svc/other";
    let foreign = "spiffe://other.consul/ns/default/dc/dc1/svc/web";
    for worker in &mut workers {
        let mut ask = |uri| asked(worker, &shelf, 3_000, uri);
        assert_eq!(ask(WEB), (Effect::Allow, Reason::Intention));
        assert_eq!(ask(other), (Effect::Deny, Reason::DefaultPolicy));
        assert_eq!(ask(foreign), (Effect::Deny, Reason::ForeignTrustDomain));
    }
    let generations: Vec<u64> = workers.iter().map(Supply::generation).collect();
    assert_eq!(generations, [generations[0]; 3]);
    agent.list = list("deny");
    agent.index = 2;
    run(&mut agent, &shelf, &mut workers, 4_000, 6_000);
    for worker in &mut workers {
        assert_eq!(
            asked(worker, &shelf, 6_000, WEB),
            (Effect::Deny, Reason::Intention)
        );
        assert!(worker.generation() > generations[0]);
    }
}

#[test]
fn a_change_is_told_to_every_worker_once() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("allow");
    let mut workers: Vec<Supply> = (1..3).map(|n| Supply::new(settings(""), n)).collect();
    for worker in &mut workers {
        asked(worker, &shelf, 0, WEB);
    }
    run(&mut agent, &shelf, &mut workers, 0, 3_000);
    agent.list = list("deny");
    agent.index = 2;
    for worker in &mut workers {
        let changes = (3_500..8_000)
            .step_by(500)
            .filter(|now| agent.answer(worker, &shelf, *now))
            .count();
        assert_eq!(changes, 1);
    }
}

#[test]
fn without_the_agent_the_last_good_decides_within_the_budget() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("allow");
    let settings = settings(r#","max_stale_ms":10000,"default_policy":"deny""#);
    let worker = &mut followed(&mut agent, &shelf, settings);
    for now in (3_500..20_000).step_by(500) {
        let wall = Timestamp::from_millis(WALL + now);
        let ticked = worker.tick(&shelf, now, wall);
        for (asks, _) in ticked.requests {
            worker.failed(asks, now, "connection refused");
        }
        let stale = now - 3_000 > 10_000;
        let expected = if stale {
            (Effect::Deny, Reason::Stale)
        } else {
            (Effect::Allow, Reason::Intention)
        };
        assert_eq!(asked(worker, &shelf, now, WEB), expected, "{now}");
    }
    assert!(
        worker
            .errors()
            .any(|(_, error)| error == "connection refused")
    );
}

#[test]
fn the_default_is_asked_for_and_ages() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("deny");
    agent.default_policy = "allow";
    let worker = &mut followed(&mut agent, &shelf, settings(r#","max_stale_ms":10000"#));
    let other = "spiffe://t.consul/ns/default/dc/dc1/svc/other";
    assert_eq!(
        asked(worker, &shelf, 3_000, other),
        (Effect::Allow, Reason::DefaultPolicy)
    );
    assert_eq!(
        asked(worker, &shelf, 3_000, WEB),
        (Effect::Deny, Reason::Intention)
    );
}

#[test]
fn another_trust_domain_than_the_configured_is_refused() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("allow");
    let worker = &mut followed(
        &mut agent,
        &shelf,
        settings(r#","trust_domain":"u.consul""#),
    );
    assert_eq!(
        asked(worker, &shelf, 3_000, WEB),
        (Effect::Deny, Reason::NotReady)
    );
    assert!(
        worker
            .errors()
            .any(|(asks, error)| asks == Asks::Roots && error.contains("u.consul"))
    );
}

#[test]
fn requests_are_judged_by_the_mesh_entry() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("allow");
    agent.entry = (
        200,
        r#"{"HTTP":{"Incoming":{"RequestNormalization":{"MergeSlashes":true}}}}"#.to_owned(),
    );
    let worker = &mut followed(&mut agent, &shelf, settings(""));
    let request = Request {
        method: b"GET".to_vec(),
        path: b"/a//b".to_vec(),
        headers: crate::http::encode_headers([(&b"host"[..], &b"db"[..])]).unwrap(),
        ..Request::default()
    };
    let client = Client::from_uri(WEB);
    let wall = Timestamp::from_millis(WALL);
    let decision = worker.authorize(
        &shelf,
        Layer::Requests,
        &client,
        Some((&request).into()),
        3_000,
        wall,
    );
    assert_eq!(decision.effect, Effect::Allow);
    assert_eq!(decision.path.as_deref(), Some(&b"/a/b"[..]));
    let text = worker.describe(Layer::Requests, &decision);
    assert!(text.contains("web"), "{text}");

    // A token that is refused says nothing about an entry that was read.
    agent.entry = (403, "ACL not found".to_owned());
    for now in (3_500..200_000).step_by(500) {
        agent.answer(worker, &shelf, now);
    }
    let asked = Some((&request).into());
    let decision = worker.authorize(&shelf, Layer::Requests, &client, asked, 200_000, wall);
    assert_eq!(decision.path.as_deref(), Some(&b"/a/b"[..]));
    assert!(worker.errors().any(|(asks, _)| asks == Asks::MeshEntry));
}

#[test]
fn filters_share_what_is_the_same_and_nothing_else() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("allow");
    let mut same = [
        Supply::new(settings(""), 1),
        Supply::new(settings(r#","mode":"shadow""#), 2),
    ];
    run(&mut agent, &shelf, &mut same, 0, 3_000);
    assert_eq!(same[0].generation(), same[1].generation());
    let keys = shelf.keys();
    assert!(
        keys.iter()
            .all(|key| key.starts_with("portcullis/1/agent/-/-/"))
    );
    for other in [
        r#"{"service":"db","agent":{"cluster":"other"}}"#,
        r#"{"service":"db","agent":{"cluster":"agent","datacenter":"dc2"}}"#,
        r#"{"service":"db","agent":{"cluster":"agent"},"trust_domain":"t.consul"}"#,
        r#"{"service":"db","agent":{"cluster":"agent/-"}}"#,
        // Whoever asks seldom would let the other's policy grow too old.
        r#"{"service":"db","agent":{"cluster":"agent","wait_ms":5000}}"#,
        r#"{"service":"db","agent":{"cluster":"agent"},"max_stale_ms":600000}"#,
    ] {
        let other = key(&Settings::parse(other.as_bytes()).unwrap(), "roots");
        assert!(!keys.iter().any(|key| key.starts_with(&other)), "{other}");
    }
}

#[test]
fn a_list_that_cannot_be_read_is_not_published() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("allow");
    let worker = &mut followed(&mut agent, &shelf, settings(""));
    for broken in [r#"{"db":{}}"#, r#"{"other":[]}"#, "", r#"{"db":[1]"#] {
        agent.list = broken.to_owned();
        agent.index += 1;
        for now in (3_500..5_000).step_by(500) {
            agent.answer(worker, &shelf, now);
        }
        assert_eq!(
            asked(worker, &shelf, 5_000, WEB),
            (Effect::Allow, Reason::Intention),
            "{broken}"
        );
    }
    let key = shelf.key_with("intentions/default/default/db/value");
    assert!(shelf.text(&key).unwrap().contains("allow"));
}

#[test]
fn a_rule_that_cannot_be_read_is_told_even_if_it_was_there_from_the_start() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("perhaps");
    let worker = &mut followed(&mut agent, &shelf, settings(""));
    // The policy is made by the first question.
    assert_eq!(
        asked(worker, &shelf, 3_000, WEB),
        (Effect::Deny, Reason::UnreadableRule)
    );
    let mut problems = |now| {
        let wall = Timestamp::from_millis(WALL + now);
        worker.tick(&shelf, now, wall).problems
    };
    let told = problems(3_500);
    assert!(told.iter().any(|text| text.contains("Action")), "{told:?}");
    assert_eq!(problems(4_000), Vec::<String>::new(), "once");
}

#[test]
fn a_default_that_is_too_old_is_unknown_and_that_is_one_change() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("deny");
    agent.default_policy = "allow";
    let worker = &mut followed(&mut agent, &shelf, settings(r#","max_stale_ms":10000"#));
    let other = "spiffe://t.consul/ns/default/dc/dc1/svc/other";
    let allowed = (Effect::Allow, Reason::DefaultPolicy);
    assert_eq!(asked(worker, &shelf, 3_000, other), allowed);
    agent.answer(worker, &shelf, 3_500);
    for (answer, expected) in [
        ("", (Effect::Deny, Reason::DefaultPolicyUnknown)),
        ("allow", allowed),
    ] {
        agent.default_policy = answer;
        let from = if answer.is_empty() { 4_000 } else { 60_000 };
        let changes = (from..from + 56_000)
            .step_by(500)
            .filter(|now| {
                agent.index += 1;
                agent.answer(worker, &shelf, *now)
            })
            .count();
        assert_eq!(changes, 1, "{answer}");
        assert_eq!(asked(worker, &shelf, from + 55_500, other), expected);
    }
}

#[test]
fn a_default_that_is_known_outlives_a_refusal_until_it_is_too_old() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("deny");
    agent.default_policy = "allow";
    let mut worker = [Supply::new(settings(r#","max_stale_ms":20000"#), 1)];
    run(&mut agent, &shelf, &mut worker, 0, 3_000);
    let other = "spiffe://t.consul/ns/default/dc/dc1/svc/other";
    agent.default_policy = "refused";
    let unknown = (Effect::Deny, Reason::DefaultPolicyUnknown);
    for (from, to, expected) in [
        (3_500, 15_000, (Effect::Allow, Reason::DefaultPolicy)),
        (15_500, 40_000, unknown),
    ] {
        for now in (from..=to).step_by(500) {
            agent.index += 1;
            agent.answer(&mut worker[0], &shelf, now);
        }
        assert_eq!(asked(&mut worker[0], &shelf, to, other), expected);
    }
    let mut errors = worker[0].errors();
    assert!(errors.any(|(asks, _)| asks == Asks::DefaultPolicy));
}

#[test]
fn a_mesh_entry_that_cannot_be_read_stops_nothing_else() {
    let shelf = FakeShelf::default();
    let mut agent = Agent::new("allow");
    let entry =
        r#"{"HTTP":{"Incoming":{"RequestNormalization":{"PathWithEscapedSlashesAction":"NEW"}}}}"#;
    agent.entry = (200, entry.to_owned());
    let settings = settings(r#","max_stale_ms":10000"#);
    let mut worker = [Supply::new(settings, 1)];
    for now in (0..40_000).step_by(500) {
        agent.index += 1;
        agent.answer(&mut worker[0], &shelf, now);
    }
    let [worker] = &mut worker;
    let allowed = (Effect::Allow, Reason::Intention);
    assert_eq!(asked(worker, &shelf, 40_000, WEB), allowed);
    let has = |supply: &Supply| supply.errors().any(|(asks, _)| asks == Asks::MeshEntry);
    assert!(has(worker));
    assert!(!worker.is_ready(Layer::Requests));
    agent.entry = (404, String::new());
    for now in (40_500..110_000).step_by(500) {
        agent.index += 1;
        agent.answer(worker, &shelf, now);
    }
    assert!(!has(worker) && worker.is_ready(Layer::Requests));
    assert_eq!(asked(worker, &shelf, 110_000, WEB), allowed);
}
