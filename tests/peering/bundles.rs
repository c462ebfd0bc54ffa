//! Where bundles come from, on the development agent: rights, changes, age, and answers that
//! cannot be used.

use std::time::Duration;

use portcullis::agent_client::{AgentClient, AgentConfig, Secret, TokenSource};
use portcullis::clock::Clock;
use portcullis::watcher::WatcherConfig;
use portcullis_dev_agent::{DefaultPolicy, DevAgentConfig, Fault, Token};
use portcullis_testkit::TestCa;
use portcullis_tests::stage::{Stage, eventually, logged_of, policy};
use serde_json::json;

use crate::scene::{Database, is_cut, open, reaches, refused};

const PEERINGS: &str = "/v1/peerings";

/// Who may call `db`: `web` of the peer `beta`.
fn intentions(stage: &Stage, sources: serde_json::Value) {
    let entry = json!({ "Kind": "service-intentions", "Name": "db", "Sources": sources });
    stage.agent.put_config_entry(&entry).expect("intentions");
}

fn beta_allowed() -> serde_json::Value {
    json!([{ "Name": "web", "Peer": "beta", "Action": "allow" }])
}

fn peer(stage: &Stage, name: &str, roots: &[&TestCa]) {
    let roots = roots.iter().map(|ca| ca.pem()).collect();
    stage.agent.set_peering(name, roots).expect("a peering");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_follows_its_peering_and_its_intentions() {
    let stage = Stage::new().await;
    let (beta, gamma) = (TestCa::new("beta.consul"), TestCa::new("gamma.consul"));
    peer(&stage, "beta", &[&beta]);
    peer(&stage, "gamma", &[&gamma]);
    intentions(&stage, beta_allowed());
    let db = Database::start(stage.config("db")).await;

    // Ready means that what the first intentions name has been asked for.
    let web = db.client(&beta, &beta.service_id("web"));
    let mut kept = open(&web).await.expect("allowed at once");
    assert!(
        open(&db.client(&beta, &beta.service_id("other")))
            .await
            .is_none()
    );
    logged_of(db.proxy.member(), "default-policy").await;
    // A peering that no intention names is nobody's.
    assert!(
        open(&db.client(&gamma, &gamma.service_id("web")))
            .await
            .is_none()
    );
    logged_of(db.proxy.member(), "foreign-trust-domain").await;
    assert_eq!(db.peer("gamma"), None);
    // Its own CA vouches for nobody here, and ours is nobody there.
    let forged = format!(
        "spiffe://{}/ns/default/dc/dc1/svc/web",
        stage.agent.trust_domain()
    );
    assert!(open(&db.client(&beta, &forged)).await.is_none());
    assert!(
        open(&db.client(&gamma, &beta.service_id("web")))
            .await
            .is_none()
    );

    // A second peer is named: nobody of the first is refused meanwhile.
    let both = json!([
        { "Name": "web", "Peer": "beta", "Action": "allow" },
        { "Name": "*", "Peer": "gamma", "Action": "deny" },
    ]);
    intentions(&stage, both);
    db.knows("gamma").await;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    kept.write_all(b"more").await.expect("it is open");
    kept.read_exact(&mut [0; 4]).await.expect("it lives on");
    drop(open(&web).await.expect("still allowed"));

    // The CA of the peer is rotated: its old leaves live on until the root is gone.
    let new = TestCa::new("beta.consul");
    let renewed = db.client(&new, &new.service_id("web"));
    assert!(open(&renewed).await.is_none());
    peer(&stage, "beta", &[&new, &beta]);
    drop(reaches("a leaf of the new root", &renewed).await);
    drop(open(&web).await.expect("a leaf of the old root"));
    peer(&stage, "beta", &[&new]);
    is_cut(&mut kept).await;
    refused("the old root is gone", &web).await;

    // The peering ends.
    stage.agent.remove_peering("beta").expect("it ends");
    db.lacks("beta", "no peering of this name").await;
    refused("the peering is gone", &renewed).await;
    peer(&stage, "beta", &[&new]);
    let mut kept = reaches("it is there again", &renewed).await;

    // Nobody names it any longer.
    intentions(&stage, json!([{ "Name": "local", "Action": "allow" }]));
    is_cut(&mut kept).await;
    eventually("no peer is named", async || {
        db.proxy.member().watcher().peers().is_empty()
    })
    .await;
    refused("nobody names it", &renewed).await;
    assert!(db.echo.seen() >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_believed_is_no_bundle() {
    let stage = Stage::new().await;
    let own = TestCa::new(&stage.agent.trust_domain());
    let (beta, gamma) = (TestCa::new("beta.consul"), TestCa::new("gamma.consul"));
    intentions(&stage, beta_allowed());
    let db = Database::start(stage.config("db")).await;
    let web = db.client(&beta, &beta.service_id("web"));
    db.lacks("beta", "no peering of this name").await;
    assert!(open(&web).await.is_none());

    for (what, roots) in [
        ("state `PENDING`", vec![]),
        ("own trust domain", vec![own.pem()]),
        ("different trust domains", vec![beta.pem(), gamma.pem()]),
        ("names its trust domain", vec!["rubbish".to_owned()]),
    ] {
        stage.agent.set_peering("beta", roots).expect("a peering");
        db.lacks("beta", what).await;
        assert!(open(&web).await.is_none(), "{what}");
    }
    // Our own roots were never touched by it.
    let forged = format!(
        "spiffe://{}/ns/default/dc/dc1/svc/web",
        stage.agent.trust_domain()
    );
    assert!(open(&db.client(&own, &forged)).await.is_none());
    peer(&stage, "beta", &[&beta]);
    drop(reaches("a good bundle", &web).await);

    // Two peerings of one trust domain: whose is it?
    intentions(
        &stage,
        json!([
            { "Name": "web", "Peer": "beta", "Action": "allow" },
            { "Name": "web", "Peer": "twin", "Action": "allow" },
        ]),
    );
    peer(&stage, "twin", &[&beta]);
    db.lacks("beta", "`twin`").await;
    db.lacks("twin", "`beta`").await;
    refused("neither is believed", &web).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_the_right_has_no_bundles_and_says_so() {
    let rules = r#"service "db" { policy = "write" }"#;
    let may = format!("{rules} peering = \"read\"");
    let config = DevAgentConfig {
        tokens: vec![
            Token::with_rules("may-not", rules),
            Token::with_rules("may", may),
        ],
        default_policy: DefaultPolicy::Deny,
        ..DevAgentConfig::for_tests()
    };
    let stage = Stage::with(config).await;
    let beta = TestCa::new("beta.consul");
    peer(&stage, "beta", &[&beta]);
    intentions(&stage, beta_allowed());
    let with = |token: &str| {
        let mut config = AgentConfig::at(&stage.agent.url()).expect("an address");
        config.token = TokenSource::Value(Secret::new(token));
        let client = AgentClient::new(config).expect("a client");
        WatcherConfig {
            leaf_spread: Duration::ZERO,
            ..WatcherConfig::new(client, policy(), "db")
        }
    };
    let db = Database::start(with("may-not")).await;
    db.lacks("beta", "peering:read").await;
    let web = db.client(&beta, &beta.service_id("web"));
    assert!(open(&web).await.is_none());
    let errors = db.proxy.member().watcher().activity()["peerings"]
        .errors
        .clone();
    assert!(errors["denied"] >= 1, "{errors:?}");

    let db = Database::start(with("may")).await;
    let web = db.client(&beta, &beta.service_id("web"));
    drop(open(&web).await.expect("allowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_nobody_confirms_ages() {
    let stage = Stage::new().await;
    let beta = TestCa::new("beta.consul");
    peer(&stage, "beta", &[&beta]);
    intentions(&stage, beta_allowed());
    let clock = Clock::manual(Clock::system().now());
    let config = WatcherConfig {
        clock: clock.clone(),
        max_stale: Some(Duration::from_secs(3_600)),
        // The other questions are asked often enough to stay fresh.
        wait: Duration::from_millis(200),
        ..stage.config("db")
    };
    let db = Database::start(config).await;
    let web = db.client(&beta, &beta.service_id("web"));
    let mut kept = open(&web).await.expect("allowed");

    // Garbage, and a refusal, leave the last good bundle.
    let garbage = Fault::Garbage(br#"[{"Name":"beta","State":"ACTIVE"},{"Name":"beta"}]"#.into());
    stage.agent.inject_until_cleared(PEERINGS, garbage);
    eventually("the garbage is seen", async || {
        db.peer("beta").is_some_and(|peer| peer.error.is_some())
    })
    .await;
    assert_eq!(db.peer("beta").expect("it is named").roots.len(), 1);
    drop(open(&web).await.expect("still allowed"));

    // Nobody can say for how long it would be right.
    clock.set(clock.now().saturating_add_millis(3_700_000));
    db.lacks("beta", "stale").await;
    is_cut(&mut kept).await;
    refused("a stale bundle", &web).await;
    stage.agent.clear_faults();
    drop(reaches("a fresh one", &web).await);
}
