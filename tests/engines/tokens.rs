//! Tokens at `filter.wasm`: providers and keys as an agent, servers and a relay give them.

use portcullis_testkit::TestCa;
use portcullis_tests::components;
use portcullis_tests::proxy_wasm::{Answer, Call, Filter, Machine, Shelf};
use serde_json::{Value, json};

const SECOND: u64 = 1_000_000_000;
const URI: &str = "https://keys.example:443/jwks.json?x=1";
/// When the tokens of the fixture end.
const END: u64 = 1_800_003_600;

const WITHOUT_KEYS: &str = "portcullis.db.providers_without_keys";

fn fixture() -> Value {
    let data = include_str!("../../guest/core/tests/data/jwt/tokens.json");
    serde_json::from_str(data).expect("JSON")
}

/// Who answers the filter, and what it was asked.
struct Scene {
    fixture: Value,
    ca: TestCa,
    leaf: Vec<u8>,
    intentions: Value,
    providers: Value,
    index: u64,
    /// What the key server answers; `None` is no reply.
    keys: Option<Answer>,
    /// The relay's answer, by provider.
    relayed: Value,
    asked: Vec<Call>,
    connections: u64,
}

fn keys(value: &Value) -> Option<Answer> {
    Some((200, Vec::new(), value.to_string().into_bytes()))
}

fn remote(uri: &str) -> Value {
    json!({ "Name": "okta", "Issuer": "okta", "JSONWebKeySet": { "Remote": {
        "URI": uri, "CacheDuration": "1s",
        "RetryPolicy": { "RetryPolicyBackOff": { "BaseInterval": "100ms", "MaxInterval": "500ms" } } } } })
}

impl Scene {
    fn new() -> Self {
        let fixture = fixture();
        let ca = TestCa::new("t.consul");
        let leaf = ca
            .service("web")
            .with(|draft| draft.valid(-2_000_000_000, 2_000_000_000));
        Self {
            leaf: leaf.issue().pem().into_bytes(),
            intentions: asks(&["okta"]),
            providers: json!([remote(URI)]),
            index: 7,
            keys: keys(&fixture["keys"]["all"]),
            relayed: json!({}),
            asked: Vec::new(),
            connections: 0,
            fixture,
            ca,
        }
    }

    fn start(&self, shelf: &Shelf, more: &Value) -> Machine {
        self.start_filter(&Filter::compile(&components::envoy_filter()), shelf, more)
    }

    fn start_filter(&self, filter: &Filter, shelf: &Shelf, more: &Value) -> Machine {
        let mut configuration = json!({
            "service": "db", "agent": { "cluster": "agent" }, "default_policy": "deny",
            "start_wait_ms": 0, "request_normalization": {}, "filter_state": "all",
            "jwks": [{ "uri": URI, "cluster": "keys" }],
        });
        let fields = configuration.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        let configuration = configuration.to_string();
        let mut machine = Machine::start(filter, shelf, &configuration).expect("a good one");
        machine.world().wall = 1_800_000_000 * SECOND;
        machine
    }

    fn token(&self, name: &str) -> String {
        self.fixture["tokens"][name]
            .as_str()
            .expect("a token")
            .to_owned()
    }

    fn answer(&mut self, call: &Call) -> Option<Answer> {
        self.asked.push(call.clone());
        let path = call.path();
        if call.cluster == "keys" {
            return self.keys.clone();
        }
        assert_eq!(call.cluster, "agent");
        let body = if path.starts_with("/v1/agent/connect/ca/roots") {
            json!({ "ActiveRootID": "1", "TrustDomain": "t.consul", "Roots": [
                { "ID": "1", "Name": "", "RootCert": self.ca.pem(), "Active": true }] })
        } else if path.starts_with("/v1/connect/intentions/match?") {
            json!({ "default/default/db": self.intentions, "db": self.intentions })
        } else if path.starts_with("/v1/config/jwt-provider") {
            self.providers.clone()
        } else if let Some(provider) = path.strip_prefix("/v1/portcullis/jwks/") {
            return match self.relayed.get(provider) {
                Some(set) => keys(set),
                None => Some((403, Vec::new(), b"say -jwks-allow".to_vec())),
            };
        } else {
            panic!("the filter asks for {path}");
        };
        let index = ("x-consul-index".to_owned(), self.index.to_string());
        Some((200, vec![index], body.to_string().into_bytes()))
    }

    /// Half a second passes, and everybody answers.
    fn tick(&mut self, machine: &mut Machine) {
        machine.tick();
        for _ in 0..16 {
            if !machine.answer(|call| self.answer(call)) {
                break;
            }
        }
    }

    fn ticks(&mut self, machine: &mut Machine, count: u32) {
        for _ in 0..count {
            self.tick(machine);
        }
    }

    /// The same, but answers about providers and keys do not come.
    fn ticks_without_tokens(&mut self, machine: &mut Machine, count: u32) {
        for _ in 0..count {
            machine.tick();
            let mut left = Vec::new();
            while !machine.world().calls.is_empty() {
                let call = machine.world().calls[0].clone();
                if call.path().contains("jwt-provider") || call.cluster == "keys" {
                    left.push(machine.world().calls.remove(0));
                } else {
                    machine.answer(|call| self.answer(call));
                }
            }
            machine.world().calls = left;
        }
    }

    /// A request of `web` begins: its context, and whether it goes on.
    fn begin(
        &mut self,
        machine: &mut Machine,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u32, bool) {
        self.connections += 1;
        let world = machine.world();
        world.properties = [
            ("connection\0id", self.connections.to_le_bytes().to_vec()),
            ("connection\0peer_certificate", self.leaf.clone()),
            ("connection\0peer_certificate_valid", vec![1]),
            ("request\0protocol", b"HTTP/1.1".to_vec()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let own = [(":method", "GET"), (":path", path), (":authority", "db")];
        world.headers = own
            .iter()
            .chain(headers)
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        let context = machine.context();
        (context, machine.request(context))
    }

    /// What is decided about a request with a token.
    fn ask(&mut self, machine: &mut Machine, token: &str) -> String {
        let bearer = format!("Bearer {token}");
        let (context, passes) = self.begin(machine, "/", &[("authorization", &bearer)]);
        let did = machine.did();
        let decision = did.state["portcullis.decision"].clone();
        assert_eq!(passes, decision.starts_with("allow "), "{did:?}");
        let sees = machine
            .world()
            .headers
            .iter()
            .any(|(name, _)| name == b"authorization");
        assert_eq!(sees, !passes, "the token is used up");
        machine.delete(context);
        decision
    }

    fn asked_for(&self, what: &str) -> usize {
        let asked = self.asked.iter();
        asked.filter(|call| call.path().starts_with(what)).count()
    }
}

/// Intentions that let `web` in with a token of one of the providers.
fn asks(providers: &[&str]) -> Value {
    let providers: Vec<Value> = providers
        .iter()
        .map(|name| json!({ "Name": name }))
        .collect();
    let mut rule = json!({ "SourceName": "web", "SourceNS": "default", "DestinationName": "db",
        "DestinationNS": "default", "SourceType": "consul", "Action": "allow" });
    if !providers.is_empty() {
        rule["JWT"] = json!({ "Providers": providers });
    }
    json!([rule])
}

const ALLOWED: &str = "allow intention";
const REFUSED: &str = "deny jwt-not-satisfied";

#[test]
fn nothing_is_asked_while_no_rule_names_a_provider() {
    let mut scene = Scene::new();
    scene.intentions = asks(&[]);
    let shelf = Shelf::default();
    let mut machine = scene.start(&shelf, &json!({}));
    scene.ticks(&mut machine, 10);
    assert_eq!(scene.asked_for("/v1/config/jwt-provider"), 0);
    assert_eq!(scene.asked_for("/jwks"), 0);
    let token = scene.token("RS256");
    let (_, passes) = scene.begin(&mut machine, "/", &[("authorization", &token)]);
    assert!(passes);
    assert!(
        machine
            .world()
            .headers
            .iter()
            .any(|(name, _)| name == b"authorization")
    );

    scene.intentions = asks(&["okta"]);
    scene.index += 1;
    scene.ticks(&mut machine, 10);
    assert_eq!(scene.ask(&mut machine, &token), ALLOWED);
    let call = scene
        .asked
        .iter()
        .find(|call| call.cluster == "keys")
        .expect("asked");
    let has = |name: &str, value: &str| {
        let pair = (name.to_owned(), value.to_owned());
        assert!(call.headers.contains(&pair), "{call:?}");
    };
    has(":path", "/jwks.json?x=1");
    has(":authority", "keys.example");
    has(":scheme", "https");
    has(":method", "GET");

    // What nobody names any more is left behind as nothing.
    scene.intentions = asks(&[]);
    scene.index += 1;
    scene.ticks(&mut machine, 10);
    let asked = scene.asked.len();
    scene.ticks(&mut machine, 10);
    let later = scene.asked[asked..].iter();
    assert!(
        later
            .clone()
            .all(|call| call.cluster == "agent" && !call.path().contains("jwt"))
    );
    let values = shelf.values();
    let of = |what: &str| {
        let found = values
            .iter()
            .filter(|(key, _)| key.contains(what) && key.ends_with("/value"));
        found.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("/jwt-providers/"), [Vec::<u8>::new()]);
    assert_eq!(of("/jwks/"), [Vec::<u8>::new()]);
    scene.keys = None;
    scene.intentions = asks(&["okta"]);
    scene.index += 1;
    scene.ticks(&mut machine, 10);
    assert_eq!(
        scene.ask(&mut machine, &token),
        REFUSED,
        "what was true once"
    );
}

#[test]
fn keys_change_and_bad_answers_leave_the_last_good_ones() {
    let mut scene = Scene::new();
    let mut machine = scene.start(&Shelf::default(), &json!({ "max_stale_ms": 60_000 }));
    scene.ticks(&mut machine, 6);
    let (token, other) = (scene.token("RS256"), scene.token("other key"));
    assert_eq!(scene.ask(&mut machine, &token), ALLOWED);
    assert_eq!(scene.ask(&mut machine, &other), REFUSED);
    let body = |status: u16, headers: &[(&str, &str)], body: &[u8]| {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Some((status, headers.collect(), body.to_vec()))
    };
    let set = scene.fixture["keys"]["other"].to_string().into_bytes();
    let mut huge = set.clone();
    huge.resize(1024 * 1024 + 1, b' ');
    for (answer, told) in [
        (None, "no reply"),
        (body(500, &[], b"no"), "status 500"),
        (body(302, &[("location", "/b")], &set), "redirect"),
        (body(200, &[], b"{\"keys\": 7"), "not a JSON object"),
        (body(200, &[], b""), "empty"),
        (body(200, &[], &huge), "larger than"),
        (body(200, &[("content-encoding", "gzip")], &set), "encoding"),
        (keys(&scene.fixture["keys"]["symmetric"]), "symmetric"),
        (keys(&scene.fixture["keys"]["weak"]), "2048"),
    ] {
        machine.world().log.clear();
        scene.keys = answer;
        scene.ticks(&mut machine, 8);
        assert_eq!(scene.ask(&mut machine, &token), ALLOWED, "{told}");
        let log = machine.world().log.join("\n");
        assert!(
            log.contains("`okta` from `https://keys.example:443/jwks.json`"),
            "{told}: {log}"
        );
        assert!(log.contains(told), "{told}: {log}");
        assert!(!log.contains("x=1"), "what may be a secret: {log}");
    }
    // Another key instead of the old one.
    scene.keys = keys(&scene.fixture["keys"]["other"]);
    scene.ticks(&mut machine, 8);
    assert_eq!(scene.ask(&mut machine, &token), REFUSED);
    assert_eq!(scene.ask(&mut machine, &other), ALLOWED);
    // Nobody confirms it any more: it ages, and everything else does not.
    assert_eq!(machine.metric(WITHOUT_KEYS), Some(0));
    scene.keys = None;
    scene.ticks(&mut machine, 110);
    assert_eq!(scene.ask(&mut machine, &other), ALLOWED);
    assert_eq!(machine.metric(WITHOUT_KEYS), Some(0));
    let age = machine.metric("portcullis.db.jwks_age_seconds");
    assert!(
        age.is_some_and(|age| (50..60).contains(&age)),
        "half a second a tick: {age:?}"
    );
    scene.ticks(&mut machine, 20);
    assert_eq!(scene.ask(&mut machine, &other), REFUSED);
    assert_eq!(machine.metric(WITHOUT_KEYS), Some(1));
    scene.keys = keys(&scene.fixture["keys"]["other"]);
    scene.ticks(&mut machine, 4);
    assert_eq!(scene.ask(&mut machine, &other), ALLOWED);
    assert_eq!(machine.metric(WITHOUT_KEYS), Some(0));
}

#[test]
fn a_provider_that_changes_or_goes_takes_its_keys_with_it() {
    let mut scene = Scene::new();
    let mut machine = scene.start(&Shelf::default(), &json!({}));
    scene.ticks(&mut machine, 6);
    let token = scene.token("RS256");
    assert_eq!(scene.ask(&mut machine, &token), ALLOWED);
    for (providers, told) in [
        (json!([]), None),
        (
            json!([remote("https://keys.example/other")]),
            Some("no cluster is named for this URI"),
        ),
        (
            json!([{ "Name": "okta", "Issuer": "okta", "JSONWebKeySet": { "Local": { "Filename": "/k" } } }]),
            Some("reads no files"),
        ),
        (
            json!([{ "Name": "okta", "Issuer": "else", "JSONWebKeySet": remote(URI)["JSONWebKeySet"] }]),
            None,
        ),
        (json!([{ "Name": "okta", "Issuer": 7 }]), Some("Issuer")),
        (json!([remote(URI), remote(URI)]), None),
    ] {
        machine.world().log.clear();
        scene.providers = providers.clone();
        scene.index += 1;
        scene.ticks(&mut machine, 8);
        assert_eq!(scene.ask(&mut machine, &token), REFUSED, "{providers}");
        let log = machine.world().log.join("\n");
        assert!(told.is_none_or(|told| log.contains(told)), "{log}");
        scene.providers = json!([remote(URI)]);
        scene.index += 1;
        scene.ticks(&mut machine, 8);
        assert_eq!(scene.ask(&mut machine, &token), ALLOWED, "{providers}");
    }
    // A list that cannot be read is no list: the last good one stays.
    scene.providers = json!([7]);
    scene.index += 1;
    scene.ticks(&mut machine, 8);
    assert_eq!(scene.ask(&mut machine, &token), ALLOWED);
}

#[test]
fn the_relay_gives_keys_of_providers_by_name() {
    let mut scene = Scene::new();
    scene.providers = json!([
        { "Name": "okta", "Issuer": "okta", "JSONWebKeySet": { "Local": { "Filename": "/k" } } },
        { "Name": "else", "Issuer": "okta", "JSONWebKeySet": { "Remote": { "URI": "https://else/" } } },
    ]);
    scene.intentions = asks(&["okta", "else"]);
    scene.relayed = json!({ "okta": scene.fixture["keys"]["all"] });
    let relay = json!({ "agent": { "cluster": "agent", "jwks": true }, "jwks": [] });
    let mut machine = scene.start(&Shelf::default(), &relay);
    scene.ticks(&mut machine, 8);
    let token = scene.token("ES256");
    assert_eq!(scene.ask(&mut machine, &token), ALLOWED);
    let log = machine.world().log.join("\n");
    assert!(log.contains("keys of the provider `else` from `https://else/` by the relay: the relay answers 403: say -jwks-allow"), "{log}");
}

#[test]
fn one_worker_fetches_for_all() {
    let mut scene = Scene::new();
    let shelf = Shelf::default();
    let mut workers = [1, 2, 3].map(|_| scene.start(&shelf, &json!({})));
    for _ in 0..20 {
        for worker in &mut workers {
            scene.tick(worker);
        }
    }
    let token = scene.token("EdDSA");
    for worker in &mut workers {
        assert_eq!(scene.ask(worker, &token), ALLOWED);
    }
    // Every second of ten, whatever the number of workers.
    let asked = scene.asked_for("/jwks");
    assert!((4..=14).contains(&asked), "{asked}");
    // The one that has asked is gone: another goes on, with what was published until then.
    drop(scene.asked.drain(..));
    let [_, mut two, mut three] = workers;
    scene.keys = keys(&scene.fixture["keys"]["other"]);
    for _ in 0..20 {
        for worker in [&mut two, &mut three] {
            scene.tick(worker);
        }
    }
    let other = scene.token("other key");
    for worker in [&mut two, &mut three] {
        assert_eq!(scene.ask(worker, &other), ALLOWED);
        assert_eq!(scene.ask(worker, &token), REFUSED);
    }
    // A VM that begins anew has everything at its first request.
    let mut fresh = scene.start(&shelf, &json!({ "start_wait_ms": 5_000 }));
    fresh.world().monotonic = two.world().monotonic;
    scene.tick(&mut fresh);
    assert_eq!(scene.ask(&mut fresh, &other), ALLOWED);
}

#[test]
fn early_requests_wait_for_providers_and_keys() {
    let mut scene = Scene::new();
    let mut machine = scene.start(&Shelf::default(), &json!({ "start_wait_ms": 5_000 }));
    let bearer = format!("Bearer {}", scene.token("RS256"));
    let headers = [("authorization", bearer.as_str())];
    scene.ticks_without_tokens(&mut machine, 4);
    let (context, passes) = scene.begin(&mut machine, "/", &headers);
    assert!(!passes);
    let did = machine.did();
    assert_eq!(
        (did.replied, did.resumed, did.state.len()),
        (None, Vec::new(), 0)
    );
    scene.ticks(&mut machine, 4);
    let did = machine.did();
    assert_eq!(did.state["portcullis.decision"], ALLOWED, "{did:?}");
    assert_eq!(did.resumed, [(context, 0)]);
    assert!(
        machine
            .world()
            .headers
            .iter()
            .all(|(name, _)| name != b"authorization")
    );
}

/// The same list of providers counts again for a worker that saw nothing of it in between.
#[test]
fn a_rule_that_comes_back_has_its_tokens_in_every_worker() {
    for rounds in [1, 2, 3, 20] {
        let mut scene = Scene::new();
        let shelf = Shelf::default();
        let mut workers = [1, 2, 3].map(|_| scene.start(&shelf, &json!({})));
        let mut all = |scene: &mut Scene, intentions: Value, rounds: usize| {
            scene.intentions = intentions;
            scene.index += 1;
            for _ in 0..rounds {
                for worker in &mut workers {
                    scene.tick(worker);
                }
            }
            let token = scene.token("RS256");
            workers
                .each_mut()
                .map(|worker| (scene.ask(worker, &token), worker.metric(WITHOUT_KEYS)))
        };
        let good = (ALLOWED.to_owned(), Some(0));
        let each = [good.clone(), good.clone(), good];
        assert_eq!(all(&mut scene, asks(&["okta"]), 20), each, "{rounds}");
        // After one round nobody knows yet, after two some do.
        let said = all(&mut scene, json!([]), rounds);
        let refused = |(said, _): &(String, _)| said == "deny default-policy";
        assert!(rounds < 20 || said.iter().all(refused), "{said:?}");
        assert_eq!(all(&mut scene, asks(&["okta"]), 20), each, "{rounds}");
    }
}

#[test]
fn requests_wait_for_a_rule_that_comes_back_and_streams_go_on() {
    let mut scene = Scene::new();
    let mut machine = scene.start(&Shelf::default(), &json!({ "start_wait_ms": 5_000 }));
    scene.ticks(&mut machine, 6);
    let bearer = format!("Bearer {}", scene.token("RS256"));
    let headers = [("authorization", bearer.as_str())];
    for _ in 0..2 {
        scene.intentions = asks(&[]);
        scene.index += 1;
        scene.ticks(&mut machine, 4);
        let (live, passes) = scene.begin(&mut machine, "/", &headers);
        assert!(passes);
        scene.intentions = asks(&["okta"]);
        scene.index += 1;
        let _ = machine.did();
        scene.ticks_without_tokens(&mut machine, 3);
        let (context, passes) = scene.begin(&mut machine, "/", &headers);
        assert!(!passes);
        let did = machine.did();
        assert_eq!((did.replied, did.state.len()), (None, 0), "it waits");
        scene.ticks(&mut machine, 4);
        let did = machine.did();
        assert_eq!(did.resumed, [(context, 0)], "{did:?}");
        assert_eq!(did.state["portcullis.decision"], ALLOWED, "{did:?}");
        assert_eq!(did.replied, None, "nor has the live one ended");
        machine.delete(context);
        machine.delete(live);
    }
}

#[test]
fn a_live_request_ends_with_its_token() {
    let mut scene = Scene::new();
    let mut machine = scene.start(&Shelf::default(), &json!({}));
    scene.ticks(&mut machine, 6);
    let token = scene.token("RS256");
    let path = format!("/live?a=1&access_token={token}&b=2");
    let (live, passes) = scene.begin(&mut machine, &path, &[]);
    assert!(passes);
    let path = machine
        .world()
        .headers
        .iter()
        .find(|(name, _)| name == b":path")
        .cloned();
    assert_eq!(path.expect("a path").1, b"/live?a=1&b=2");
    machine.did();
    for later in [0, 30, 60] {
        machine.world().wall = (END + later) * SECOND + SECOND / 2;
        scene.tick(&mut machine);
        let did = machine.did();
        assert_eq!((did.replied, did.closed), (None, Vec::new()), "{later}");
    }
    machine.world().wall = (END + 61) * SECOND + SECOND / 2;
    scene.tick(&mut machine);
    let did = machine.did();
    let refused = (403, "portcullis[jwt-not-satisfied]".to_owned());
    assert_eq!(did.replied, Some(refused));
    machine.delete(live);
}

#[test]
fn what_cannot_be_changed_does_not_go_on() {
    let filter = Filter::compile(&components::envoy_filter());
    let mut scene = Scene::new();
    let token = scene.token("RS256");
    scene.providers[0]["Forwarding"] = json!({ "HeaderName": "x-claims" });
    let bearer = format!("Bearer {token}");
    for call in [
        "proxy_remove_header_map_value",
        "proxy_replace_header_map_value",
    ] {
        let without = filter.without(call);
        let mut machine = scene.start_filter(&without, &Shelf::default(), &json!({}));
        scene.ticks(&mut machine, 6);
        let (_, passes) = scene.begin(&mut machine, "/", &[("authorization", &bearer)]);
        let did = machine.did();
        assert!(!passes, "{call}");
        assert_eq!(
            did.replied,
            Some((403, "portcullis[filter-failed]".to_owned()))
        );
    }
    // Nothing is changed by a filter that only watches.
    let mut machine = scene.start(&Shelf::default(), &json!({ "mode": "shadow" }));
    scene.ticks(&mut machine, 6);
    let before = [("authorization", bearer.as_str()), ("x-claims", "forged")];
    let (_, passes) = scene.begin(&mut machine, "/", &before);
    assert!(passes);
    assert_eq!(
        machine.did().state["portcullis.decision"],
        "shadow allow intention"
    );
    assert_eq!(machine.world().headers.len(), 5);
    // A forged header goes out, whoever it is about.
    let mut machine = scene.start(&Shelf::default(), &json!({}));
    scene.ticks(&mut machine, 6);
    let (_, passes) = scene.begin(
        &mut machine,
        "/",
        &[before[0], before[1], ("X-Claims", "too")],
    );
    assert!(passes);
    let claims: Vec<_> = machine
        .world()
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"x-claims"))
        .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        .collect();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0], token.split('.').nth(1).expect("a payload"));
}

#[test]
fn forged_keys_and_providers_in_shared_data_open_nothing() {
    let mut scene = Scene::new();
    let shelf = Shelf::default();
    let mut workers = [1, 2].map(|_| scene.start(&shelf, &json!({})));
    let (token, other) = (scene.token("RS256"), scene.token("other key"));
    let forged_keys = scene.fixture["keys"]["other"].to_string();
    let mut forged = remote(URI);
    forged["Issuer"] = json!("evil");
    let forged_list = json!([forged]).to_string();
    for _ in 0..10 {
        for worker in &mut workers {
            scene.tick(worker);
        }
    }
    let once = shelf.values();
    for round in 0..40 {
        for (key, value) in shelf.values() {
            let is_keys = key.contains("/jwks/");
            if !is_keys && !key.contains("/jwt-providers/") {
                continue;
            }
            let bad = match (key.ends_with("/value"), key.ends_with("/head"), round % 5) {
                (true, _, 0) if is_keys => forged_keys.clone().into_bytes(),
                (true, _, 0) => forged_list.clone().into_bytes(),
                (true, _, 1) => b"[".repeat(100_000),
                (true, _, 2) => Vec::new(),
                (true, ..) => value[..value.len() / 2].to_vec(),
                (_, true, 3) => format!("{} 0 {:064x}", u64::MAX, round).into_bytes(),
                (_, true, 4) => b"rubbish".to_vec(),
                (_, true, _) => once.get(&key).cloned().unwrap_or_default(),
                _ => continue,
            };
            shelf.write(&key, &bad);
        }
        for worker in &mut workers {
            assert_eq!(scene.ask(worker, &other), REFUSED, "{round}");
            scene.tick(worker);
            assert_eq!(scene.ask(worker, &other), REFUSED, "{round}");
        }
    }
    // It is repaired, and what is true by now is learnt.
    for _ in 0..20 {
        for worker in &mut workers {
            scene.tick(worker);
        }
    }
    for worker in &mut workers {
        assert_eq!(scene.ask(worker, &token), ALLOWED);
    }
}
