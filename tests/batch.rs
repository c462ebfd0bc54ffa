//! One machine, many services: their intentions are followed together, and one that the
//! token may not read holds up no other.

use std::time::Duration;

use portcullis::agent_client::{AgentClient, AgentConfig, Secret, TokenSource};
use portcullis::watcher::{Watcher, WatcherConfig};
use portcullis::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis_core::policy::Client;
use portcullis_core::time::Timestamp;
use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use serde_json::json;

const SERVICES: usize = 140;

fn put(api: &Api, destination: &str, action: &str) {
    let path = format!("/v1/connect/intentions/exact?source=web&destination={destination}");
    let _ = api
        .put(&path, &json!({"SourceType": "consul", "Action": action}))
        .good();
}

/// What the policy answers `web`, until it is `wanted`.
async fn becomes(policy: &Policy, client: &Client, target: &str, wanted: (&str, &str)) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = u64::try_from(now.expect("after 1970").as_millis()).expect("64 bits");
        let decision = policy.authorize(target, client, None, Timestamp::from_millis(now));
        if (decision.effect.code(), decision.code.code()) == wanted {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{target}: {decision:?}, not {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_name_holds_up_no_other() {
    let test = "a_refused_name_holds_up_no_other";
    let Some(consul) = Consul::start(test, Options::new().with_acls()) else {
        return;
    };
    let api = consul.api();
    for allowed in ["svc-0", "svc-77", "svc-139"] {
        put(&api, allowed, "allow");
    }
    let roots = api.get("/v1/agent/connect/ca/roots").good().json();
    let trust_domain = roots["TrustDomain"].as_str().expect("a trust domain");
    let web = Client::from_uri(format!("spiffe://{trust_domain}/ns/default/dc/dc1/svc/web"));

    // Every service but two, which are not this token's.
    let rules = r#"service_prefix "svc-" { policy = "write" }"#;
    let token = consul.token("many", rules);
    let mut destinations: Vec<String> = (1..SERVICES).map(|i| format!("svc-{i}")).collect();
    destinations.insert(40, "hidden".to_owned());
    destinations.insert(90, "other".to_owned());

    let component = Component::embedded(&ComponentOptions::default()).expect("the component");
    let policy = Policy::new(&component, PolicyOptions::default()).expect("a policy");
    let mut config = AgentConfig::at(&consul.address().to_string()).expect("an address");
    config.token = TokenSource::Value(Secret::new(token));
    let agent = AgentClient::new(config).expect("a client");
    let config = WatcherConfig {
        destinations,
        ..WatcherConfig::new(agent, policy.clone(), "svc-0")
    };
    let watcher = Watcher::start(config);

    for target in ["svc-0", "svc-77", "svc-139"] {
        becomes(&policy, &web, target, ("allow", "intention")).await;
    }
    for target in ["svc-1", "svc-39", "svc-41", "svc-88", "svc-91"] {
        becomes(&policy, &web, target, ("deny", "default-policy")).await;
    }
    // A change still arrives, in both parts of what was one batch.
    put(&api, "svc-77", "deny");
    put(&api, "svc-12", "allow");
    becomes(&policy, &web, "svc-77", ("deny", "intention")).await;
    becomes(&policy, &web, "svc-12", ("allow", "intention")).await;
    for target in ["hidden", "other"] {
        becomes(&policy, &web, target, ("deny", "unknown-target")).await;
    }
    watcher.stop().await;
}
