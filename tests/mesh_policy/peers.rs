//! Callers of a peered cluster: the component follows the peerings that intentions name.

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, Fault};
use portcullis_testkit::TestCa;
use portcullis_tests::process::eventually;
use serde_json::json;

use crate::host::Settings;
use crate::{SOON, Story, ours, pair};

const PEERINGS: &str = "GET /v1/peerings";

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_known_while_an_intention_names_it_and_its_peering_lasts() {
    let config = DevAgentConfig {
        default_intention_policy: Some(DefaultPolicy::Deny),
        ..DevAgentConfig::for_tests()
    };
    let agent = DevAgent::start(config).await.expect("the agent starts");
    tokio::task::block_in_place(|| story(&agent));
    agent.shutdown().await;
}

fn story(agent: &DevAgent) {
    let beta = TestCa::new("beta.consul");
    let roots = || vec![beta.pem()];
    agent.set_peering("beta", roots()).expect("a peering");
    agent.allow("local", "db").expect("an intention");
    let mut ours = Story {
        host: ours::start(agent.address(), None),
        trust_domain: agent.trust_domain(),
    };
    let settings = Settings {
        default_policy: "deny",
        ..Settings::default()
    };
    ours.host.configure(&settings).expect("good settings");
    assert_eq!(ours.ask("local", "db"), pair("allow", "intention"));
    assert!(
        !ours.requests().contains(&PEERINGS.to_owned()),
        "nobody names one"
    );

    let entry = json!({
        "Kind": "service-intentions", "Name": "db", "Sources": [
            { "Name": "web", "Peer": "beta", "Action": "allow" },
            { "Name": "local", "Action": "allow" },
        ],
    });
    agent.put_config_entry(&entry).expect("intentions");
    let mut theirs = Story {
        trust_domain: "beta.consul".to_owned(),
        ..ours
    };
    let allowed = pair("allow", "intention");
    let foreign = pair("deny", "foreign-trust-domain");
    theirs.becomes("web", "db", ("allow", "intention"));
    assert!(theirs.requests().contains(&PEERINGS.to_owned()));
    assert_eq!(theirs.ask("other", "db"), pair("deny", "default-policy"));

    agent.remove_peering("beta").expect("it ends");
    theirs.becomes("web", "db", ("deny", "foreign-trust-domain"));
    agent.set_peering("beta", roots()).expect("a peering");
    theirs.becomes("web", "db", ("allow", "intention"));

    // A refusal leaves the last good bundle, and is told.
    agent.inject_until_cleared("/v1/peerings", Fault::Status(403, "no".to_owned()));
    agent
        .set_peering("gamma", Vec::new())
        .expect("it wakes the question");
    eventually("the refusal is told", SOON, || {
        assert_eq!(theirs.ask("web", "db"), allowed);
        let watched = theirs.host.status().into_iter();
        let mut watched = watched.filter(|one| one.name == "peerings");
        watched.next().and_then(|one| one.last_error)
    });
    agent.clear_faults();

    let entry = json!({
        "Kind": "service-intentions", "Name": "db",
        "Sources": [{ "Name": "local", "Action": "allow" }],
    });
    agent.put_config_entry(&entry).expect("intentions");
    theirs.becomes("web", "db", ("deny", "foreign-trust-domain"));
    assert_eq!(theirs.ask("web", "db"), foreign);
}
