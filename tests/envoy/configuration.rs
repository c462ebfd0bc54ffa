//! What a configuration is refused for, by name, in Envoy's log.

use portcullis_tests::envoy::{Plan, Plugin, cluster, settings};
use portcullis_tests::stage::ANY;
use serde_json::{Value, json};

use crate::scene::agent;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_field_is_named_and_envoy_does_not_start() {
    let agent = agent().await;
    for (configuration, named) in [
        (json!({ "service": "db" }), "`agent`: this field is missing"),
        (
            json!({ "service": "db", "agent": { "cluster": "agent" }, "defaultpolicy": "deny" }),
            "`defaultpolicy`: this field is not known",
        ),
        (
            json!({ "service": "db", "agent": { "cluster": "agent", "token": "secret-7" } }),
            "`agent.token`: this field is not known",
        ),
        (
            json!({ "service": "db", "agent": { "cluster": "agent" }, "mode": "off" }),
            "`mode`: this is none of `enforce`, `shadow`",
        ),
        (json!(""), "the whole: there is none"),
    ] {
        let plugin = Plugin::new(configuration);
        let plan = Plan::new(&agent, "db").cluster(cluster("app", ANY));
        let (plan, _) = plan.tcp(&plugin, "ON_DOWNSTREAM_DATA");
        let Some(mut envoy) = plan.spawn("a_wrong_field_is_named_and_envoy_does_not_start") else {
            return;
        };
        assert!(!envoy.ended().success());
        let log = envoy.log();
        assert!(
            log.contains(&format!("portcullis: plugin configuration: {named}")),
            "{named}\n{log}"
        );
        assert!(!log.contains("secret-7"));
    }
    let _: Value = settings("db");
}
