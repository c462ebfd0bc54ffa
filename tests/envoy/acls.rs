//! A real Consul with ACLs and default deny: Envoy adds the token on the agent's cluster.

use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::envoy::{Plan, Plugin, cluster, settings};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

use crate::client::Client;
use crate::greeter::Greeter;
use crate::scene::{ping, ping_becomes};

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_added_by_envoy_and_without_it_everybody_is_refused() {
    const TEST: &str = "the_token_is_added_by_envoy_and_without_it_everybody_is_refused";
    let Some(consul) = Consul::start(TEST, Options::new().with_acls()) else {
        return;
    };
    let api = consul.api();
    let rule = json!({ "SourceType": "consul", "Action": "allow" });
    let path = "/v1/connect/intentions/exact?source=web&destination=db";
    let _ = api.put(path, &rule).good();
    let leaf = |service: &str| {
        let path = format!("/v1/agent/connect/ca/leaf/{service}");
        let leaf = api.get(&path).good().json();
        let field = |name: &str| leaf[name].as_str().expect("PEM").to_owned();
        (field("CertPEM"), field("PrivateKeyPEM"))
    };
    let roots = api.get("/v1/agent/connect/ca/roots").good().json();
    let root = roots["Roots"][0]["RootCert"].as_str().expect("PEM");
    let token = consul.token(
        "db",
        r#"service "db" { policy = "write" intentions = "read" }"#,
    );
    let app = Greeter::start(b"").await;
    let (chain, key) = leaf("db");
    let types = "type.googleapis.com/envoy.extensions";
    let mut agent = cluster("agent", consul.address());
    agent["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{types}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": { "http_protocol_options": {} },
            "http_filters": [
                { "name": "token", "typed_config": {
                    "@type": format!("{types}.filters.http.header_mutation.v3.HeaderMutation"),
                    "mutations": { "request_mutations": [{ "append": {
                        "header": { "key": "x-consul-token", "value": token },
                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                    }}]},
                }},
                { "name": "codec", "typed_config": {
                    "@type": format!("{types}.filters.http.upstream_codec.v3.UpstreamCodec"),
                }},
            ],
        },
    });
    let mut without = settings("db");
    without["agent"]["cluster"] = json!("anonymous");
    without["start_wait_ms"] = json!(0);
    let plan = Plan::with(&chain, &key, root)
        .cluster(agent)
        .cluster(cluster("anonymous", consul.address()))
        .cluster(cluster("app", app.address));
    let (plan, address) = plan.tcp(&Plugin::new(settings("db")), "ON_DOWNSTREAM_DATA");
    let (plan, anonymous) = plan.tcp(&Plugin::new(without), "ON_DOWNSTREAM_DATA");
    let Some(envoy) = plan.start(TEST) else {
        return;
    };
    let client = |service: &str, address| {
        let (chain, key) = leaf(service);
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
        let chain = chain.collect::<Result<_, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        Client::with(chain, key, address)
    };
    let web = client("web", address);
    ping_becomes(&web, true).await;
    // What no intention names falls to the ACL default, which the filter has found out.
    assert_eq!(ping(&client("evil", address)).await, None);
    envoy.stat_reaches("wasmcustom.portcullis.db.denied.default-policy", 1);
    assert_eq!(ping(&client("web", anonymous)).await, None);
    let rule = json!({ "SourceType": "consul", "Action": "deny" });
    let _ = api.put(path, &rule).good();
    ping_becomes(&web, false).await;
    assert!(!envoy.log().contains(&token));
}
