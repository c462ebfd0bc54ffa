//! Two services in one process with a token each: neither sees what the other's token fetched.

use portcullis::agent_client::{AgentClient, AgentConfig, Secret, TokenSource};
use portcullis::watcher::{Watcher, WatcherConfig};
use portcullis_core::policy::Client;
use portcullis_dev_agent::{DefaultPolicy, DevAgentConfig, Token};
use portcullis_tests::stage::{Stage, eventually, policy};

fn rules(service: &str) -> String {
    format!(r#"service "{service}" {{ policy = "write" intentions = "read" }}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_token_fetched_no_other_service_sees() {
    let stage = Stage::with(DevAgentConfig {
        default_policy: DefaultPolicy::Deny,
        tokens: vec![
            Token::with_rules("token-of-db", rules("db")),
            Token::with_rules("token-of-web", rules("web")),
        ],
        ..DevAgentConfig::for_tests()
    })
    .await;
    stage.agent.allow("web", "db").unwrap();
    let member = |service: &str, token: &str, destinations: Vec<String>| {
        let mut config = AgentConfig::at(&stage.agent.url()).expect("an address");
        config.token = TokenSource::Value(Secret::new(token.to_owned()));
        let agent = AgentClient::new(config).expect("a client");
        let policy = policy();
        let watcher = Watcher::start(WatcherConfig {
            destinations,
            ..WatcherConfig::new(agent, policy.clone(), service)
        });
        (watcher, policy)
    };
    let (db, db_policy) = member("db", "token-of-db", Vec::new());
    db.ready().await;
    // `web` asks for what only the other token may read.
    let (web, web_policy) = member("web", "token-of-web", vec!["db".to_owned()]);
    web.ready().await;

    let domain = stage.agent.trust_domain();
    let client = Client::from_uri(format!("spiffe://{domain}/ns/default/dc/dc1/svc/web"));
    let answer = |policy: &portcullis::Policy| {
        let now = portcullis::clock::Clock::system().now();
        policy
            .authorize("db", &client, None, now)
            .code
            .code()
            .to_owned()
    };
    assert_eq!(answer(&db_policy), "intention");
    assert_eq!(answer(&web_policy), "unknown-target");

    // And whoever stands for `db` with the token of `web` gets neither key nor rules.
    let (thief, thief_policy) = member("db", "token-of-web", Vec::new());
    eventually("the thief is refused", async || {
        let readiness = thief.readiness();
        readiness.leaf.error.is_some() && readiness.intentions.error.is_some()
    })
    .await;
    assert!(thief.leaf().current().is_none());
    assert_ne!(answer(&thief_policy), "intention");
    for watcher in [db, web, thief] {
        watcher.stop().await;
    }
}
