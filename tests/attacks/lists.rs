//! One match reply for many services, of which one list is broken, missing, or was not asked for.

use portcullis::watcher::{Watcher, WatcherConfig};
use portcullis_core::policy::Client;
use portcullis_dev_agent::Fault;
use portcullis_tests::stage::{Stage, eventually, policy};
use serde_json::json;

const MATCH: &str = "/v1/connect/intentions/match";

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_missing_or_extra_list_holds_up_no_other() {
    let stage = Stage::new().await;
    for service in ["own", "broken", "missing", "good"] {
        stage.agent.allow("web", service).unwrap();
    }
    stage.agent.allow("web", "extra").unwrap();
    let policy = policy();
    let watcher = Watcher::start(WatcherConfig {
        destinations: ["broken", "missing", "good"].map(str::to_owned).to_vec(),
        ..WatcherConfig::new(stage.client(), policy.clone(), "own")
    });
    let domain = stage.agent.trust_domain();
    let web = Client::from_uri(format!("spiffe://{domain}/ns/default/dc/dc1/svc/web"));
    let answer = |target: &str| {
        let now = portcullis::clock::Clock::system().now();
        let decision = policy.authorize(target, &web, None, now);
        format!("{} {}", decision.effect.code(), decision.code.code())
    };
    eventually("all are allowed", async || {
        ["own", "broken", "missing", "good"]
            .iter()
            .all(|target| answer(target) == "allow intention")
    })
    .await;

    // From now on `good` is denied, and the others' lists make no sense.
    let denied = json!([{ "SourceNS": "default", "SourceName": "web", "DestinationNS": "default",
        "DestinationName": "good", "SourceType": "consul", "Action": "deny", "Precedence": 9 }]);
    let reply = format!(
        r#"{{"broken":{{"Action":"deny"}},"good":{denied},"extra":[],"own":{}}}"#,
        json!([])
    );
    stage
        .agent
        .inject_until_cleared(MATCH, Fault::Garbage(reply.into_bytes()));
    let mut turn = 0;
    eventually("the good list is used", async || {
        // Whoever is blocked still gets an answer from before.
        turn += 1;
        stage.agent.allow(&format!("other-{turn}"), "good").unwrap();
        answer("good") == "deny intention"
    })
    .await;
    for target in ["broken", "missing"] {
        assert_eq!(
            answer(target),
            "allow intention",
            "{target}: the last good list"
        );
    }
    assert_eq!(answer("extra"), "deny unknown-target");
    watcher.stop().await;
}
