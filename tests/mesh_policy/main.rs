//! `mesh-policy.wasm` and a real Consul agent: what hosts without watchers get.
//!
//! The same story is told in each host; see `node.rs` and `ours.rs`.

mod component;
mod host;
mod imports;
mod node;
mod ours;
mod peers;
mod relay;
mod replies;
mod scripted;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::process::eventually;
use serde_json::json;

use host::{Decision, Host, Settings};

const SOON: Duration = Duration::from_secs(90);
const HOUR: u64 = 3_600_000;

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    u64::try_from(since.as_millis()).expect("64 bits of milliseconds")
}

fn put(api: &Api, source: &str, destination: &str, action: &str) {
    let path = format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
    let _ = api
        .put(&path, &json!({"SourceType": "consul", "Action": action}))
        .good();
}

fn trust_domain(api: &Api) -> String {
    let roots = api.get("/v1/agent/connect/ca/roots").good().json();
    roots["TrustDomain"]
        .as_str()
        .expect("roots have a trust domain")
        .to_owned()
}

/// One host, one agent, and the questions between them.
struct Story {
    host: Box<dyn Host>,
    trust_domain: String,
}

impl Story {
    fn uri(&self, service: &str) -> String {
        format!(
            "spiffe://{}/ns/default/dc/dc1/svc/{service}",
            self.trust_domain
        )
    }

    fn ask_at(&mut self, service: &str, target: &str, now: u64) -> Decision {
        let uri = self.uri(service);
        self.host.authorize(target, &[&uri], now)
    }

    /// `explain` and `authorize` agree.
    fn agrees(&mut self, service: &str, target: &str) {
        let (uri, now) = (self.uri(service), now());
        let decision = self.host.authorize(target, &[&uri], now);
        assert_eq!(self.host.explain(target, &[&uri], now), decision);
    }

    fn ask(&mut self, service: &str, target: &str) -> (String, String) {
        let decision = self.ask_at(service, target, now());
        (decision.effect, decision.code)
    }

    fn becomes(&mut self, service: &str, target: &str, wanted: (&str, &str)) {
        let what = format!("{service} -> {target}: {wanted:?}");
        eventually(&what, SOON, || {
            let (effect, code) = self.ask(service, target);
            ((effect.as_str(), code.as_str()) == wanted).then_some(())
        });
    }

    /// Every request that the agent got through the host since the last time.
    fn requests(&mut self) -> Vec<String> {
        let requests = self.host.requests();
        for request in &requests {
            assert!(
                [
                    "GET /v1/agent/connect/ca/roots",
                    "GET /v1/connect/intentions/match",
                    "GET /v1/peerings",
                    "POST /v1/agent/connect/authorize",
                ]
                .contains(&request.as_str()),
                "{request}"
            );
        }
        requests
    }
}

fn pair(effect: &str, code: &str) -> (String, String) {
    (effect.to_owned(), code.to_owned())
}

/// Fetched on demand, kept, refreshed across calls; then the agent dies and comes back.
fn intentions(test: &str, host: impl FnOnce(&Consul, Option<&str>) -> Box<dyn Host>) {
    let Some(mut consul) = Consul::start(test, Options::new().persistent()) else {
        return;
    };
    let api = consul.api();
    put(&api, "web", "db", "allow");
    let mut story = Story {
        host: host(&consul, None),
        trust_domain: trust_domain(&api),
    };
    story
        .host
        .configure(&Settings::default())
        .expect("the settings are accepted");

    // On demand: the first question is answered rightly.
    assert_eq!(story.ask("web", "db"), pair("allow", "intention"));
    assert_eq!(
        story.ask("api", "db"),
        pair("allow", "default-policy"),
        "found out by a probe"
    );
    let foreign = story.host.authorize(
        "db",
        &["spiffe://other.consul/ns/default/dc/dc1/svc/web"],
        now(),
    );
    assert_eq!(
        (foreign.effect.as_str(), foreign.code.as_str()),
        ("deny", "foreign-trust-domain")
    );
    story.agrees("web", "db");
    story.agrees("api", "db");
    let first = story.requests();
    assert!(first.len() >= 3, "{first:?}");

    // Kept: a hundred further questions cost nothing but the blocking queries.
    let generation = story.ask_at("web", "db", now()).generation;
    for _ in 0..100 {
        assert_eq!(story.ask("web", "db"), pair("allow", "intention"));
    }
    let further = story.requests();
    assert!(further.len() <= 4, "{further:?}");
    assert_eq!(story.ask_at("web", "db", now()).generation, generation);

    // Refreshed: a change arrives at some later call, and raises the generation.
    put(&api, "web", "db", "deny");
    story.becomes("web", "db", ("deny", "intention"));
    assert!(story.ask_at("web", "db", now()).generation > generation);

    // After a pause without calls, the first answer is already the new one.
    put(&api, "web", "db", "allow");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(story.ask("web", "db"), pair("allow", "intention"));

    // Certificates are checked against the fetched roots.
    let leaf = api.get("/v1/agent/connect/ca/leaf/web").good().json();
    let chain = pem_to_der(leaf["CertPEM"].as_str().expect("a leaf has a certificate"));
    assert_eq!(story.host.verify(&chain, now()), Ok(story.uri("web")));
    assert_eq!(
        story.host.verify(&chain, now() + 100 * HOUR),
        Err("expired".to_owned())
    );

    // The agent dies: the last good data decides within the budget, not beyond it.
    consul.kill();
    for _ in 0..20 {
        assert_eq!(story.ask("web", "db"), pair("allow", "intention"));
    }
    eventually("the failure shows", SOON, || {
        story.ask("web", "db");
        story
            .host
            .status()
            .iter()
            .any(|watched| watched.last_error.is_some())
            .then_some(())
    });
    let late = now() + 25 * HOUR;
    let decision = story.ask_at("web", "db", late);
    assert_eq!(
        (decision.effect.as_str(), decision.code.as_str()),
        ("deny", "stale")
    );
    let decision = story.ask_at("web", "db", now());
    assert_eq!(
        decision.code, "stale",
        "a clock set back makes nothing fresh"
    );
    assert_eq!(story.ask("web", "new"), pair("deny", "not-ready"));
    story.agrees("web", "new");
    story.agrees("web", "db");

    // It comes back, and with it fresh answers.
    consul.restart();
    put(&api, "web", "db", "deny");
    story.becomes("web", "db", ("deny", "intention"));
    story.becomes("web", "new", ("allow", "default-policy"));
    assert!(
        story
            .host
            .status()
            .iter()
            .all(|watched| watched.confirmed_at > 0)
    );
    story.requests();
}

/// An agent that denies by default: without a token nothing, with the smallest one everything.
fn access(test: &str, host: impl Fn(&Consul, Option<&str>) -> Box<dyn Host>) {
    let Some(consul) = Consul::start(test, Options::new().with_acls()) else {
        return;
    };
    let api = consul.api();
    put(&api, "web", "db", "allow");
    let trust_domain = trust_domain(&api);

    let mut story = Story {
        host: host(&consul, None),
        trust_domain: trust_domain.clone(),
    };
    story
        .host
        .configure(&Settings::default())
        .expect("the settings are accepted");
    assert_eq!(story.ask("web", "db"), pair("deny", "not-ready"));
    let refused = story
        .host
        .status()
        .into_iter()
        .find(|watched| watched.name.ends_with("/db"));
    let error = refused
        .and_then(|watched| watched.last_error)
        .expect("the refusal is shown");
    assert!(error.contains("403"), "{error}");

    let token = consul.token("db", r#"service "db" { policy = "write" }"#);
    let mut story = Story {
        host: host(&consul, Some(&token)),
        trust_domain,
    };
    story
        .host
        .configure(&Settings::default())
        .expect("the settings are accepted");
    assert_eq!(story.ask("web", "db"), pair("allow", "intention"));
    assert_eq!(story.ask("api", "db"), pair("deny", "default-policy"));
    // Another service's rules are not this token's to see.
    assert_eq!(story.ask("web", "api"), pair("deny", "not-ready"));
    assert_eq!(
        story.ask("web", "db"),
        pair("allow", "intention"),
        "one refusal harms no other"
    );
    story.requests();
}

/// The agent's own `authorize` for each connection, after our identity check.
fn simple(test: &str, host: impl FnOnce(&Consul, Option<&str>) -> Box<dyn Host>) {
    let Some(mut consul) = Consul::start(test, Options::new()) else {
        return;
    };
    let api = consul.api();
    put(&api, "web", "db", "allow");
    put(&api, "*", "db", "deny");
    let mut story = Story {
        host: host(&consul, None),
        trust_domain: trust_domain(&api),
    };
    let settings = Settings {
        mode: "simple",
        ..Settings::default()
    };
    story
        .host
        .configure(&settings)
        .expect("the settings are accepted");

    assert_eq!(story.ask("web", "db"), pair("allow", "intention"));
    assert_eq!(story.ask("api", "db"), pair("deny", "intention"));
    assert_eq!(story.ask("api", "other"), pair("allow", "default-policy"));
    story.requests();
    assert_eq!(story.ask("web", "db"), pair("allow", "intention"));
    let each = story.requests();
    let asked = each
        .iter()
        .filter(|request| request.starts_with("POST"))
        .count();
    assert_eq!(asked, 1, "one request per connection: {each:?}");

    // The agent would allow these: it looks at no trust domain. It is not even asked.
    let foreign = story.host.authorize(
        "db",
        &["spiffe://other.consul/ns/default/dc/dc1/svc/web"],
        now(),
    );
    assert_eq!(foreign.code, "foreign-trust-domain");
    let uris = [story.uri("web"), story.uri("web2")];
    let both = story.host.authorize("db", &[&uris[0], &uris[1]], now());
    assert_eq!(both.code, "several-identities");
    assert!(
        !story
            .requests()
            .iter()
            .any(|request| request.starts_with("POST"))
    );
    story.agrees("web", "db");
    story.agrees("api", "db");

    // The agent answers about connections: what it would say of them says nothing of a
    // request. It is not asked; an identity that is refused is refused as such.
    story.requests();
    let uri = story.uri("web");
    for target in ["db", "other"] {
        let (decision, text) = story.host.authorize_request(target, &[&uri], "/", now());
        assert_eq!(
            (decision.effect.as_str(), decision.code.as_str()),
            ("deny", "request-not-judged")
        );
        assert!(text.contains(&format!("requests to `{target}`")), "{text}");
    }
    let foreign = "spiffe://other.consul/ns/default/dc/dc1/svc/web";
    let (decision, _) = story.host.authorize_request("db", &[foreign], "/", now());
    assert_eq!(decision.code, "foreign-trust-domain");
    assert!(
        !story
            .requests()
            .iter()
            .any(|request| request.starts_with("POST"))
    );

    put(&api, "web", "db", "deny");
    story.becomes("web", "db", ("deny", "intention"));
    consul.kill();
    assert_eq!(story.ask("web", "other"), pair("deny", "not-ready"));
}

fn pem_to_der(pem: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    pem.split("-----END CERTIFICATE-----")
        .filter_map(|part| part.split("-----BEGIN CERTIFICATE-----").nth(1))
        .map(|body| {
            let text: String = body.split_whitespace().collect();
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .expect("PEM is base64")
        })
        .collect()
}

#[test]
fn node_fetches_keeps_and_refreshes() {
    let test = "node_fetches_keeps_and_refreshes";
    let Some(module) = node::module(test) else {
        return;
    };
    intentions(test, |consul, token| {
        node::start(&module, consul.address(), token)
    });
}

#[test]
fn node_gets_by_with_the_smallest_token() {
    let test = "node_gets_by_with_the_smallest_token";
    let Some(module) = node::module(test) else {
        return;
    };
    access(test, |consul, token| {
        node::start(&module, consul.address(), token)
    });
}

#[test]
fn node_asks_the_agent_in_simple_mode() {
    let test = "node_asks_the_agent_in_simple_mode";
    let Some(module) = node::module(test) else {
        return;
    };
    simple(test, |consul, token| {
        node::start(&module, consul.address(), token)
    });
}

#[test]
fn our_host_fetches_keeps_and_refreshes() {
    let test = "our_host_fetches_keeps_and_refreshes";
    intentions(test, |consul, token| ours::start(consul.address(), token));
}

#[test]
fn our_host_gets_by_with_the_smallest_token() {
    let test = "our_host_gets_by_with_the_smallest_token";
    access(test, |consul, token| ours::start(consul.address(), token));
}

#[test]
fn our_host_asks_the_agent_in_simple_mode() {
    let test = "our_host_asks_the_agent_in_simple_mode";
    simple(test, |consul, token| ours::start(consul.address(), token));
}
