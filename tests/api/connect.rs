//! Conventions of the API, roots, leaf, authorize.

use http::Method;
use serde_json::json;

use crate::compare::Depth;
use crate::suite::{Step, Suite};

pub(crate) async fn run(suite: &mut Suite) {
    absent(suite).await;
    conventions(suite).await;
    roots(suite).await;
    leaf(suite).await;
    authorize(suite).await;
    configuration(suite).await;
}

/// What the development agent does not have at all.
async fn absent(suite: &mut Suite) {
    for target in [
        "/v1/discovery-chain/web",
        "/v1/query",
        "/v1/kv/x?recurse",
        "/v1/acl/tokens",
        "/v1/agent/members",
        "/v1/health/node/node-a",
        "/v1/health/state/any",
        "/v1/health/checks/web",
        "/v1/agent/health/service/name/web",
    ] {
        suite
            .run(Step::get(&format!("absent {target}"), target))
            .await;
    }
}

async fn conventions(suite: &mut Suite) {
    for (name, target) in [
        ("status leader", "/v1/status/leader"),
        ("status peers", "/v1/status/peers"),
        ("peerings", "/v1/peerings"),
        ("peering that is not there", "/v1/peering/nope"),
        ("peering without a name", "/v1/peering/"),
        ("peerings namespace", "/v1/peerings?ns=default"),
        ("peerings partition", "/v1/peerings?partition=default"),
        ("peering namespace", "/v1/peering/nope?ns=default"),
        ("peering partition", "/v1/peering/nope?partition=default"),
        ("unknown path", "/v1/nope"),
        ("root path", "/v1/"),
        ("namespace", "/v1/connect/ca/roots?ns=default"),
        ("partition", "/v1/connect/ca/roots?partition=default"),
        ("index junk", "/v1/connect/ca/roots?index=x"),
        ("index negative", "/v1/connect/ca/roots?index=-1"),
        ("wait without unit", "/v1/connect/ca/roots?wait=2"),
        ("wait junk", "/v1/connect/ca/roots?wait=x"),
        ("wait negative", "/v1/connect/ca/roots?wait=-2s"),
        (
            "stale and consistent",
            "/v1/connect/intentions?stale&consistent",
        ),
        (
            "cached and consistent",
            "/v1/connect/intentions?cached&consistent",
        ),
        ("unknown datacenter", "/v1/health/connect/web?dc=nope"),
        ("own datacenter", "/v1/health/connect/web?dc=dc1"),
        ("datacenters", "/v1/catalog/datacenters"),
    ] {
        suite.run(Step::get(name, target)).await;
    }
    for target in [
        "/v1/agent/connect/ca/leaf/web",
        "/v1/agent/connect/ca/roots",
        "/v1/connect/ca/configuration",
        "/v1/connect/intentions",
        "/v1/connect/intentions/match?by=source&name=web",
        "/v1/connect/intentions/check?source=a&destination=b",
        "/v1/connect/intentions/exact?source=a&destination=b",
        "/v1/config/mesh",
        "/v1/config/service-defaults/x",
        "/v1/agent/services",
        "/v1/agent/checks",
        "/v1/agent/service/x",
        "/v1/health/connect/x",
        "/v1/health/service/x",
        "/v1/catalog/connect/x",
        "/v1/catalog/service/x",
        "/v1/catalog/services",
        "/v1/catalog/nodes",
        "/v1/agent/self",
        "/v1/status/leader",
    ] {
        let join = if target.contains('?') { '&' } else { '?' };
        for param in ["ns", "partition"] {
            let step = Step::get(
                &format!("{param} on {target}"),
                &format!("{target}{join}{param}=default"),
            );
            suite.run(step.depth(Depth::NoBody)).await;
        }
    }
    for (name, header) in [
        ("namespace header", "x-consul-namespace"),
        ("partition header", "x-consul-partition"),
    ] {
        suite
            .run(Step::get(name, "/v1/agent/services").header(header, "default"))
            .await;
        suite
            .run(Step::get(&format!("empty {name}"), "/v1/agent/services").header(header, ""))
            .await;
    }
    for (name, header, value) in [
        ("cache-control junk", "cache-control", "max-age=x"),
        (
            "cache-control",
            "cache-control",
            "max-age=5, must-revalidate",
        ),
    ] {
        suite
            .run(Step::get(name, "/v1/connect/ca/roots").header(header, value))
            .await;
    }
    let targets = [
        "/v1/agent/connect/ca/leaf/web",
        "/v1/agent/connect/ca/roots",
        "/v1/connect/ca/roots",
        "/v1/connect/ca/configuration",
        "/v1/agent/connect/authorize",
        "/v1/connect/intentions",
        "/v1/connect/intentions/match",
        "/v1/connect/intentions/check",
        "/v1/connect/intentions/exact",
        "/v1/connect/intentions/x",
        "/v1/config",
        "/v1/config/service-intentions",
        "/v1/agent/service/register",
        "/v1/agent/service/deregister/x",
        "/v1/agent/service/x",
        "/v1/agent/services",
        "/v1/agent/checks",
        "/v1/agent/check/register",
        "/v1/agent/check/deregister/x",
        "/v1/agent/check/pass/x",
        "/v1/agent/check/warn/x",
        "/v1/agent/check/fail/x",
        "/v1/agent/check/update/x",
        "/v1/health/connect/x",
        "/v1/health/service/x",
        "/v1/catalog/connect/x",
        "/v1/catalog/service/x",
        "/v1/catalog/services",
        "/v1/catalog/nodes",
        "/v1/agent/self",
        "/v1/status/leader",
        "/v1/status/peers",
    ];
    for target in targets {
        let options = Step::new(&format!("OPTIONS {target}"), Method::OPTIONS, target);
        suite.run(options).await;
        for method in [Method::PATCH, Method::HEAD] {
            let step = Step::new(&format!("{method} {target}"), method, target);
            suite.run(step).await;
        }
    }
}

async fn roots(suite: &mut Suite) {
    for (name, target) in [
        ("agent roots", "/v1/agent/connect/ca/roots"),
        ("agent roots again", "/v1/agent/connect/ca/roots"),
        (
            "agent roots old index",
            "/v1/agent/connect/ca/roots?index=1&wait=5s",
        ),
        (
            "agent roots do not know pem",
            "/v1/agent/connect/ca/roots?pem=true",
        ),
        ("connect roots", "/v1/connect/ca/roots"),
        ("connect roots pem", "/v1/connect/ca/roots?pem=true"),
        ("connect roots pem 0", "/v1/connect/ca/roots?pem=0"),
        ("connect roots pem junk", "/v1/connect/ca/roots?pem=maybe"),
        (
            "connect roots old index",
            "/v1/connect/ca/roots?index=1&wait=5s",
        ),
        ("agent self", "/v1/agent/self"),
    ] {
        let depth = if name == "agent self" {
            Depth::OurKeys
        } else {
            Depth::Full
        };
        suite.run(Step::get(name, target).depth(depth)).await;
    }
}

async fn leaf(suite: &mut Suite) {
    for (name, target) in [
        ("leaf web", "/v1/agent/connect/ca/leaf/web"),
        ("leaf web again", "/v1/agent/connect/ca/leaf/web"),
        (
            "leaf old index",
            "/v1/agent/connect/ca/leaf/web?index=1&wait=5s",
        ),
        ("leaf upper case", "/v1/agent/connect/ca/leaf/WEB"),
        ("leaf with a space", "/v1/agent/connect/ca/leaf/my%20svc"),
        ("leaf punctuation", "/v1/agent/connect/ca/leaf/a!b'c(d)e$f"),
        ("leaf non-ascii", "/v1/agent/connect/ca/leaf/%C3%A9"),
        ("leaf wildcard", "/v1/agent/connect/ca/leaf/*"),
        ("leaf without name", "/v1/agent/connect/ca/leaf/"),
        ("leaf with slash", "/v1/agent/connect/ca/leaf/a/b"),
        ("leaf with escaped slash", "/v1/agent/connect/ca/leaf/a%2Fb"),
        (
            "leaf in a namespace",
            "/v1/agent/connect/ca/leaf/web?ns=default",
        ),
        (
            "leaf elsewhere",
            "/v1/agent/connect/ca/leaf/elsewhere?dc=nope",
        ),
        (
            "leaf elsewhere, cached here",
            "/v1/agent/connect/ca/leaf/web?dc=nope",
        ),
    ] {
        suite.run(Step::get(name, target)).await;
    }
}

async fn authorize(suite: &mut Suite) {
    const TARGET: &str = "/v1/agent/connect/authorize";
    let uri = "spiffe://{td}/ns/default/dc/dc1/svc/web";
    let raw = [
        ("authorize empty", ""),
        ("authorize junk", "nope"),
        ("authorize bad key", "{nope}"),
        ("authorize cut", "{\"Target\": "),
        ("authorize array", "[]"),
        ("authorize unknown key", "{\"Foo\":1}"),
        ("authorize no target", "{}"),
        ("authorize number", "{\"Target\":5}"),
        ("authorize trailing", "{} x"),
    ];
    for (name, body) in raw {
        suite
            .run(Step::new(name, Method::POST, TARGET).body(body))
            .await;
    }
    suite
        .run(Step::new("authorize namespace", Method::POST, TARGET).body(
            &json!({"Target": "db", "ClientCertURI": uri, "Namespace": "default"}).to_string(),
        ))
        .await;
    suite
        .run(
            Step::new("authorize lower-case keys", Method::POST, TARGET).body(
                &json!({"target": "db", "clientcerturi": uri, "clientcertserial": "01"})
                    .to_string(),
            ),
        )
        .await;
    let uris = [
        ("no uri", ""),
        ("http", "http://{td}/ns/default/dc/dc1/svc/web"),
        ("garbage", "::::"),
        ("agent id", "spiffe://{td}/agent/client/dc/dc1/id/x"),
        ("gateway id", "spiffe://{td}/gateway/mesh/dc/dc1"),
        ("server id", "spiffe://{td}/agent/server/dc/dc1"),
        ("signing id", "spiffe://{td}"),
        ("bare host", "spiffe://x"),
        (
            "other partition",
            "spiffe://{td}/ap/bizdev/ns/default/dc/dc1/svc/web",
        ),
        (
            "default partition",
            "spiffe://{td}/ap/Default/ns/default/dc/dc1/svc/web",
        ),
        (
            "other trust domain",
            "spiffe://other.consul/ns/default/dc/dc1/svc/web",
        ),
        ("other dc", "spiffe://{td}/ns/default/dc/dc9/svc/web"),
        ("other namespace", "spiffe://{td}/ns/other/dc/dc1/svc/web"),
        ("upper scheme", "SPIFFE://{td}/ns/default/dc/dc1/svc/web"),
        ("trailing slash", "spiffe://{td}/ns/default/dc/dc1/svc/web/"),
        ("percent", "spiffe://{td}/ns/default/dc/dc1/svc/w%65b"),
        ("percent slash", "spiffe://{td}/ns/default/dc/dc1/svc/a%2Fb"),
        ("bad percent", "spiffe://{td}/ns/default/dc/dc1/svc/%zz"),
        ("query", "spiffe://{td}/ns/default/dc/dc1/svc/web?x=1#f"),
        ("userinfo", "spiffe://u@{td}:80/ns/default/dc/dc1/svc/web"),
        ("empty host", "spiffe:///ns/default/dc/dc1/svc/web"),
        ("literal case", "spiffe://{td}/NS/default/DC/dc1/SVC/web"),
        ("opaque", "spiffe:x/ns/default/dc/dc1/svc/web"),
        ("literal star", "spiffe://{td}/ns/default/dc/dc1/svc/*"),
        ("empty service", "spiffe://{td}/ns/default/dc/dc1/svc/"),
    ];
    for (name, uri) in uris {
        let body = json!({"Target": "db", "ClientCertURI": uri}).to_string();
        suite
            .run(Step::new(&format!("authorize {name}"), Method::POST, TARGET).body(&body))
            .await;
    }
}

async fn configuration(suite: &mut Suite) {
    const TARGET: &str = "/v1/connect/ca/configuration";
    suite.run(Step::get("ca configuration", TARGET)).await;
    for (name, body) in [
        ("ca empty", ""),
        ("ca cut", "{"),
        ("ca array", "[]"),
        ("ca unknown key", r#"{"Provider":"consul","Foo":1}"#),
        ("ca no provider", r#"{"Config":{}}"#),
        ("ca unknown provider", r#"{"Provider":"nope"}"#),
        (
            "ca ttl short",
            r#"{"Provider":"consul","Config":{"LeafCertTTL":"59m"}}"#,
        ),
        (
            "ca ttl long",
            r#"{"Provider":"consul","Config":{"LeafCertTTL":"8761h"}}"#,
        ),
        (
            "ca ttl junk",
            r#"{"Provider":"consul","Config":{"LeafCertTTL":"nope"}}"#,
        ),
        (
            "ca intermediate short",
            r#"{"Provider":"consul","Config":{"IntermediateCertTTL":"2h"}}"#,
        ),
        (
            "ca intermediate below leaf",
            r#"{"Provider":"consul","Config":{"LeafCertTTL":"72h","IntermediateCertTTL":"80h"}}"#,
        ),
        (
            "ca root short",
            r#"{"Provider":"consul","Config":{"RootCertTTL":"100h"}}"#,
        ),
        (
            "ca ec bits",
            r#"{"Provider":"consul","Config":{"PrivateKeyType":"ec","PrivateKeyBits":999}}"#,
        ),
        (
            "ca rsa bits",
            r#"{"Provider":"consul","Config":{"PrivateKeyType":"rsa"}}"#,
        ),
        (
            "ca key type",
            r#"{"Provider":"consul","Config":{"PrivateKeyType":"zz","PrivateKeyBits":256}}"#,
        ),
        (
            "ca ttl only",
            r#"{"provider":"consul","config":{"LeafCertTTL":"71h"}}"#,
        ),
    ] {
        suite
            .run(Step::new(name, Method::PUT, TARGET).body(body))
            .await;
    }
    suite
        .run(Step::get("ca configuration after ttl change", TARGET))
        .await;
    suite
        .run(Step::get("roots after ttl change", "/v1/connect/ca/roots"))
        .await;
}
