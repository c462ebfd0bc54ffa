//! ACLs: every endpoint with no token, a wrong one, weak ones and the management token.

use http::Method;
use portcullis_tests::consul::MANAGEMENT_TOKEN as MANAGEMENT;
use serde_json::json;

use crate::agents::{Setup, TokenSetup};
use crate::compare::Depth;
use crate::suite::{Step, Suite};

const WEB: &str = "aaaaaaaa-0000-4000-8000-000000000002";
const READER: &str = "aaaaaaaa-0000-4000-8000-000000000003";
const DENIER: &str = "aaaaaaaa-0000-4000-8000-000000000004";
const MESH: &str = "aaaaaaaa-0000-4000-8000-000000000005";

const TOKENS: &[TokenSetup] = &[
    TokenSetup {
        name: "web",
        accessor: "bbbbbbbb-0000-4000-8000-000000000002",
        secret: WEB,
        rules: r#"service "web" { policy = "write" }"#,
    },
    TokenSetup {
        name: "reader",
        accessor: "bbbbbbbb-0000-4000-8000-000000000003",
        secret: READER,
        rules: r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } agent_prefix "" { policy = "read" }"#,
    },
    TokenSetup {
        name: "denier",
        accessor: "bbbbbbbb-0000-4000-8000-000000000004",
        secret: DENIER,
        rules: r#"service_prefix "" { policy = "write" intentions = "write" } service "db" { policy = "write" intentions = "deny" } service_prefix "hidden-" { policy = "deny" }"#,
    },
    TokenSetup {
        name: "mesh",
        accessor: "bbbbbbbb-0000-4000-8000-000000000005",
        secret: MESH,
        rules: r#"mesh = "write" operator = "read" service "*" { policy = "read" intentions = "write" }"#,
    },
];

pub(crate) fn setup() -> Setup {
    Setup {
        management: Some(MANAGEMENT),
        tokens: TOKENS,
        ..Setup::default()
    }
}

pub(crate) async fn run(suite: &mut Suite) {
    unauthenticated_writes(suite).await;
    prepare(suite).await;
    let who = [
        ("anonymous", ""),
        ("wrong", "nope"),
        ("web", WEB),
        ("reader", READER),
        ("denier", DENIER),
        ("mesh", MESH),
        ("management", MANAGEMENT),
    ];
    // Consul's HTTP API asks its servers about peerings by gRPC, and asks those that refuse again
    // for many seconds.
    let peerings = who.iter().flat_map(|(name, secret)| {
        ["/v1/peerings", "/v1/peering/nope"]
            .map(|target| Step::get(&format!("{name} reads {target}"), target).token(secret))
    });
    let peerings = suite.send_all(peerings.collect());
    for (name, secret) in who {
        reads(suite, name, secret).await;
    }
    for (name, secret) in who {
        writes(suite, name, secret).await;
    }
    ways(suite).await;
    suite.compare_all(peerings).await;
}

async fn unauthenticated_writes(suite: &mut Suite) {
    let authorize = "/v1/agent/connect/authorize";
    for (name, body) in [
        ("no target", json!({})),
        ("no uri", json!({"Target": "web"})),
        (
            "agent id",
            json!({"Target": "web", "ClientCertURI": "spiffe://{td}/agent/client/dc/dc1/id/x"}),
        ),
        (
            "other partition",
            json!({"Target": "web", "ClientCertURI": "spiffe://{td}/ap/x/ns/default/dc/dc1/svc/a"}),
        ),
    ] {
        let step = Step::new(
            &format!("anonymous authorize {name}"),
            Method::POST,
            authorize,
        );
        suite.run(step.body(&body.to_string())).await;
    }
}

async fn prepare(suite: &mut Suite) {
    let register = "/v1/agent/service/register";
    for (name, body) in [
        (
            "db",
            json!({"Name": "db", "Port": 9000, "Connect": {"Native": true}, "Check": {"TTL": "10m"}}),
        ),
        (
            "web",
            json!({"Name": "web", "Port": 9001, "Connect": {"Native": true}, "Check": {"TTL": "10m"}}),
        ),
        (
            "hidden",
            json!({"Name": "hidden-x", "Port": 9002, "Connect": {"Native": true}}),
        ),
    ] {
        suite
            .run(Step::put(&format!("prepare {name}"), register, &body).token(MANAGEMENT))
            .await;
    }
    for (source, destination) in [("web", "db"), ("*", "db"), ("web", "*"), ("a", "hidden-x")] {
        let target =
            format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
        let step = Step::put(
            &format!("prepare {source} to {destination}"),
            &target,
            &json!({"Action": "allow"}),
        );
        suite.run(step.token(MANAGEMENT)).await;
    }
    let defaults = json!({"Kind": "service-defaults", "Name": "db", "Protocol": "http"});
    suite
        .run(Step::put("prepare defaults", "/v1/config", &defaults).token(MANAGEMENT))
        .await;
    let provider = json!({"Kind": "jwt-provider", "Name": "okta", "JSONWebKeySet": {"Local": {"JWKS": "eyJrZXlzIjpbXX0="}}});
    suite
        .run(Step::put("prepare provider", "/v1/config", &provider).token(MANAGEMENT))
        .await;
    // The real agent brings its registrations to the catalog in its own time.
    for service in ["db", "web", "hidden-x"] {
        let target = format!("/v1/catalog/service/{service}?token={MANAGEMENT}");
        suite
            .settle(&target, |value| {
                value.as_array().is_some_and(|list| list.len() == 1)
            })
            .await;
    }
}

async fn reads(suite: &mut Suite, who: &str, secret: &str) {
    for target in [
        "/v1/agent/connect/ca/roots",
        "/v1/connect/ca/roots",
        "/v1/connect/ca/configuration",
        "/v1/connect/intentions",
        "/v1/connect/intentions/match?by=destination&name=db",
        "/v1/connect/intentions/match?by=destination&name=web&name=db",
        "/v1/connect/intentions/match?by=source&name=web",
        "/v1/connect/intentions/match?by=destination&name=*",
        "/v1/connect/intentions/match?by=destination&name=hidden-x",
        "/v1/connect/intentions/check?source=web&destination=db",
        "/v1/connect/intentions/check?source=web&destination=hidden-x",
        "/v1/connect/intentions/exact?source=web&destination=db",
        "/v1/connect/intentions/exact?source=web&destination=*",
        "/v1/connect/intentions/exact?source=a&destination=hidden-x",
        "/v1/connect/intentions/exact?source=no&destination=no",
        "/v1/config/service-intentions",
        "/v1/config/service-intentions/db",
        "/v1/config/service-intentions/*",
        "/v1/config/service-intentions/nope",
        "/v1/config/service-defaults",
        "/v1/config/service-defaults/db",
        "/v1/config/mesh/mesh",
        "/v1/config/proxy-defaults/global",
        "/v1/config/jwt-provider",
        "/v1/config/jwt-provider/okta",
        "/v1/config/",
        "/v1/health/connect/db",
        "/v1/health/service/db",
        "/v1/health/connect/hidden-x",
        "/v1/health/connect/nope",
        "/v1/catalog/connect/db",
        "/v1/catalog/service/db",
        "/v1/catalog/services",
        "/v1/catalog/nodes",
        "/v1/agent/services",
        "/v1/agent/checks",
        "/v1/agent/service/db",
        "/v1/agent/service/nope",
        "/v1/status/leader",
    ] {
        suite
            .run(Step::get(&format!("{who} reads {target}"), target).token(secret))
            .await;
    }
    suite
        .run(
            Step::get(&format!("{who} reads self"), "/v1/agent/self")
                .token(secret)
                .depth(Depth::OurKeys),
        )
        .await;
    // A name for each token: Consul would hand out what another token has fetched.
    for service in ["web", "db"] {
        let target = format!("/v1/agent/connect/ca/leaf/{service}");
        suite
            .run(Step::get(&format!("{who} fetches a leaf for {service}"), &target).token(secret))
            .await;
    }
    for target in ["web", "db", "hidden-x"] {
        let body =
            json!({"Target": target, "ClientCertURI": "spiffe://{td}/ns/default/dc/dc1/svc/web"});
        let step = Step::new(
            &format!("{who} authorizes for {target}"),
            Method::POST,
            "/v1/agent/connect/authorize",
        );
        suite.run(step.body(&body.to_string()).token(secret)).await;
    }
}

async fn writes(suite: &mut Suite, who: &str, secret: &str) {
    for (name, body) in [
        (
            "intentions",
            json!({"Kind": "service-intentions", "Name": "w", "Sources": [{"Name": "web", "Action": "allow"}]}),
        ),
        (
            "intentions of db",
            json!({"Kind": "service-intentions", "Name": "db", "Sources": [{"Name": "*", "Action": "allow"}, {"Name": "web", "Action": "deny"}]}),
        ),
        (
            "invalid intentions",
            json!({"Kind": "service-intentions", "Name": "w", "Sources": []}),
        ),
        (
            "defaults",
            json!({"Kind": "service-defaults", "Name": "web", "Protocol": "http"}),
        ),
        (
            "proxy defaults",
            json!({"Kind": "proxy-defaults", "Name": "global"}),
        ),
        ("mesh", json!({"Kind": "mesh"})),
        (
            "provider",
            json!({"Kind": "jwt-provider", "Name": "p2", "JSONWebKeySet": {"Local": {"JWKS": "eyJrZXlzIjpbXX0="}}}),
        ),
    ] {
        suite
            .run(Step::put(&format!("{who} writes {name}"), "/v1/config", &body).token(secret))
            .await;
    }
    for target in [
        "/v1/config/service-intentions/w",
        "/v1/config/service-intentions/nope",
        "/v1/config/service-defaults/web",
        "/v1/config/mesh/mesh",
        "/v1/config/proxy-defaults/global",
        "/v1/config/jwt-provider/p2",
    ] {
        suite
            .run(
                Step::new(&format!("{who} deletes {target}"), Method::DELETE, target).token(secret),
            )
            .await;
    }
    for (source, destination) in [("x", "web"), ("x", "db"), ("web", "x"), ("x", "*")] {
        let target =
            format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
        let name = format!("{who} puts {source} to {destination}");
        suite
            .run(Step::put(&name, &target, &json!({"Action": "deny"})).token(secret))
            .await;
        let name = format!("{who} removes {source} to {destination}");
        suite
            .run(Step::new(&name, Method::DELETE, &target).token(secret))
            .await;
    }
    for (name, target, body) in [
        ("registers web", "/v1/agent/service/register", json!({"ID": "web2", "Name": "web", "Port": 1}).to_string()),
        ("registers db", "/v1/agent/service/register", json!({"ID": "db2", "Name": "db", "Port": 1}).to_string()),
        ("registers a proxy", "/v1/agent/service/register", json!({"ID": "p", "Name": "web", "Kind": "connect-proxy", "Port": 1, "Proxy": {"DestinationServiceName": "db"}}).to_string()),
        ("takes over db", "/v1/agent/service/register", json!({"ID": "db", "Name": "web", "Port": 9000}).to_string()),
        ("passes web", "/v1/agent/check/pass/service:web", String::new()),
        ("passes db", "/v1/agent/check/pass/service:db", String::new()),
        ("registers a check", "/v1/agent/check/register", json!({"ID": "c", "Name": "c", "TTL": "10m", "ServiceID": "web"}).to_string()),
        ("registers a node check", "/v1/agent/check/register", json!({"ID": "n", "Name": "n", "TTL": "10m"}).to_string()),
        ("removes a check", "/v1/agent/check/deregister/c", String::new()),
        ("removes a node check", "/v1/agent/check/deregister/n", String::new()),
        ("deregisters web", "/v1/agent/service/deregister/web2", String::new()),
        ("deregisters db", "/v1/agent/service/deregister/db2", String::new()),
        ("deregisters a proxy", "/v1/agent/service/deregister/p", String::new()),
        ("configures the ca", "/v1/connect/ca/configuration", json!({"Provider": "nope"}).to_string()),
    ] {
        suite.run(Step::new(&format!("{who} {name}"), Method::PUT, target).body(&body).token(secret)).await;
    }
    // Whoever could take it over has: put it back.
    let db =
        json!({"Name": "db", "Port": 9000, "Connect": {"Native": true}, "Check": {"TTL": "10m"}});
    suite
        .run(
            Step::put(
                &format!("after {who}: db again"),
                "/v1/agent/service/register",
                &db,
            )
            .token(MANAGEMENT),
        )
        .await;
}

/// The ways to send a token.
async fn ways(suite: &mut Suite) {
    let target = "/v1/agent/services";
    suite
        .run(Step::get(
            "token in the query",
            &format!("{target}?token={READER}"),
        ))
        .await;
    for (name, value) in [
        ("bearer", format!("Bearer {READER}")),
        ("bearer lower case", format!("bearer {READER}")),
        ("basic", format!("Basic {READER}")),
        ("bearer alone", "Bearer".to_owned()),
        ("bearer two words", format!("Bearer {READER} x")),
    ] {
        suite
            .run(Step::get(&format!("token by {name}"), target).header("authorization", &value))
            .await;
    }
    let both = Step::get("query beats header", &format!("{target}?token=nope")).token(READER);
    suite.run(both).await;
    let both = Step::get("header beats bearer", target)
        .token(READER)
        .header("authorization", "Bearer nope");
    suite.run(both).await;
}
