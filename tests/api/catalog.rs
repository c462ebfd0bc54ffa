//! Registration, checks, sidecars, health and catalog.

use http::Method;
use serde_json::{Value, json};

use crate::suite::{Step, Suite};

const REGISTER: &str = "/v1/agent/service/register";

pub(crate) async fn run(suite: &mut Suite) {
    refused(suite).await;
    registered(suite).await;
    checks(suite).await;
    views(suite).await;
    gone(suite).await;
    sidecars(suite).await;
}

async fn refused(suite: &mut Suite) {
    for (name, body) in [
        ("empty", json!(null)),
        ("no name", json!({})),
        ("unknown key", json!({"Name": "x", "Foo": 1})),
        ("port text", json!({"Name": "x", "Port": "80"})),
        ("name number", json!({"Name": 5})),
        ("array", json!([])),
        (
            "native without port",
            json!({"Name": "x", "Connect": {"Native": true}}),
        ),
        (
            "proxy without anything",
            json!({"Name": "x", "Kind": "connect-proxy"}),
        ),
        (
            "proxy without destination",
            json!({"Name": "x", "Kind": "connect-proxy", "Port": 3}),
        ),
        (
            "proxy of any",
            json!({"Name": "x", "Kind": "connect-proxy", "Port": 3, "Proxy": {"DestinationServiceName": "*"}}),
        ),
        (
            "native proxy",
            json!({"Name": "x", "Kind": "connect-proxy", "Port": 3, "Connect": {"Native": true}, "Proxy": {"DestinationServiceName": "web"}}),
        ),
        ("any address", json!({"Name": "x", "Address": "0.0.0.0"})),
        ("meta key", json!({"Name": "x", "Meta": {"a b": "c"}})),
        (
            "check ttl junk",
            json!({"Name": "x", "Check": {"TTL": "nope"}}),
        ),
        (
            "check nothing",
            json!({"Name": "x", "Check": {"Name": "c"}}),
        ),
        (
            "check both",
            json!({"Name": "x", "Check": {"TTL": "3s", "Interval": "2s"}}),
        ),
        (
            "check status",
            json!({"Name": "x", "Check": {"TTL": "3s", "Status": "foo"}}),
        ),
        (
            "http check",
            json!({"Name": "httpcheck", "Check": {"HTTP": "http://127.0.0.1:1/", "Interval": "1h"}}),
        ),
        (
            "tcp check",
            json!({"Name": "tcpcheck", "Check": {"TCP": "127.0.0.1:1", "Interval": "1h"}}),
        ),
    ] {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        suite
            .run(Step::new(&format!("register {name}"), Method::PUT, REGISTER).body(&body))
            .await;
    }
    for id in ["httpcheck", "tcpcheck"] {
        let target = format!("/v1/agent/service/deregister/{id}");
        suite
            .run(Step::new(&format!("deregister {id}"), Method::PUT, &target))
            .await;
    }
    for (name, method, target) in [
        (
            "deregister unknown",
            Method::PUT,
            "/v1/agent/service/deregister/nope",
        ),
        (
            "agent service unknown",
            Method::GET,
            "/v1/agent/service/nope",
        ),
        (
            "check pass unknown",
            Method::PUT,
            "/v1/agent/check/pass/nope",
        ),
        (
            "check deregister unknown",
            Method::PUT,
            "/v1/agent/check/deregister/nope",
        ),
    ] {
        suite.run(Step::new(name, method, target)).await;
    }
    for (name, body) in [
        ("check update junk", "nope"),
        ("check update status", r#"{"Status":"nope"}"#),
        ("check update unknown", r#"{"Status":"passing"}"#),
    ] {
        suite
            .run(Step::new(name, Method::PUT, "/v1/agent/check/update/nope").body(body))
            .await;
    }
    for (name, body) in [
        ("check register nothing", json!({})),
        ("check register no ttl", json!({"Name": "c"})),
        (
            "check register check id",
            json!({"CheckID": "x", "Name": "c", "TTL": "3s"}),
        ),
        (
            "check register for nobody",
            json!({"Name": "c", "TTL": "3s", "ServiceID": "nope"}),
        ),
    ] {
        suite
            .run(Step::put(name, "/v1/agent/check/register", &body))
            .await;
    }
}

async fn registered(suite: &mut Suite) {
    for (name, body) in [
        (
            "native",
            json!({"name": "redis", "port": 8000, "connect": {"native": true}, "tags": ["v1"], "meta": {"k": "v"},
            "check": {"ttl": "10m", "deregister_critical_service_after": "90m"}}),
        ),
        (
            "proxy",
            json!({"Name": "web-proxy", "Kind": "connect-proxy", "Port": 20000, "Address": "127.0.0.1",
            "Proxy": {"DestinationServiceName": "web", "DestinationServiceID": "web", "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 8080,
                "Config": {"local_connect_timeout_ms": 500},
                "Upstreams": [{"DestinationName": "db", "LocalBindPort": 9192}, {"DestinationType": "prepared_query", "DestinationName": "q1", "Datacenter": "dc1", "LocalBindPort": 9193}]},
            "Check": {"CheckID": "proxy-ttl", "TTL": "10m", "Status": "passing", "Notes": "n"}}),
        ),
        (
            "plain",
            json!({"ID": "plain1", "Name": "plain", "Port": 81, "Checks": [{"Name": "c1", "TTL": "10m", "Status": "passing"}, {"TTL": "10m", "Status": "warning"}]}),
        ),
        (
            "weights",
            json!({"Name": "weighted", "Port": 82, "Weights": {"Passing": 5, "Warning": 2}, "EnableTagOverride": true, "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 9}}}),
        ),
        ("ipv6", json!({"Name": "six", "Port": 83, "Address": "::1"})),
        (
            "sidecar",
            json!({"Name": "side", "Port": 84, "Connect": {"SidecarService": {}}}),
        ),
    ] {
        suite
            .run(Step::put(&format!("register {name}"), REGISTER, &body))
            .await;
    }
    suite
        .run(Step::get("agent services", "/v1/agent/services"))
        .await;
    for id in [
        "redis",
        "web-proxy",
        "plain1",
        "weighted",
        "six",
        "side",
        "side-sidecar-proxy",
    ] {
        suite
            .run(Step::get(
                &format!("agent service {id}"),
                &format!("/v1/agent/service/{id}"),
            ))
            .await;
    }
    suite
        .run(Step::put(
            "deregister sidecar owner",
            "/v1/agent/service/deregister/side",
            &Value::Null,
        ))
        .await;
    suite
        .run(Step::get(
            "agent service of a gone sidecar",
            "/v1/agent/service/side-sidecar-proxy",
        ))
        .await;
    suite
        .run(Step::get("agent checks", "/v1/agent/checks"))
        .await;
}

async fn checks(suite: &mut Suite) {
    for (name, target, body) in [
        (
            "check pass",
            "/v1/agent/check/pass/service:redis?note=fine",
            "",
        ),
        (
            "check warn",
            "/v1/agent/check/warn/service:plain1:1?note=hm",
            "",
        ),
        ("check fail", "/v1/agent/check/fail/service:plain1:2", ""),
        (
            "check update",
            "/v1/agent/check/update/proxy-ttl",
            r#"{"Status":"warning","Output":"slow"}"#,
        ),
        (
            "check update long",
            "/v1/agent/check/update/proxy-ttl",
            &json!({"Status": "passing", "Output": "x".repeat(5000)}).to_string(),
        ),
        (
            "check register",
            "/v1/agent/check/register",
            r#"{"Name":"extra","ServiceID":"redis","TTL":"10m","Status":"passing"}"#,
        ),
        (
            "check register node",
            "/v1/agent/check/register",
            r#"{"ID":"mem","Name":"memory","TTL":"10m","Status":"passing","Notes":"n"}"#,
        ),
        ("check pass node", "/v1/agent/check/pass/mem", ""),
    ] {
        suite
            .run(Step::new(name, Method::PUT, target).body(body))
            .await;
    }
    suite
        .run(Step::get("agent checks after reports", "/v1/agent/checks"))
        .await;
    suite
        .run(Step::put(
            "check deregister",
            "/v1/agent/check/deregister/extra",
            &Value::Null,
        ))
        .await;
    suite
        .run(Step::put(
            "check deregister node",
            "/v1/agent/check/deregister/mem",
            &Value::Null,
        ))
        .await;
    // Registering again without checks leaves those that are there, with their state.
    let again = json!({"Name": "redis", "Port": 8001, "Connect": {"Native": true}, "Check": {"TTL": "10m"}});
    suite
        .run(Step::put("register redis again", REGISTER, &again))
        .await;
    suite
        .run(Step::get(
            "agent checks after registering again",
            "/v1/agent/checks",
        ))
        .await;
    let target = format!("{REGISTER}?replace-existing-checks");
    let plain = json!({"ID": "plain1", "Name": "plain", "Port": 81});
    suite
        .run(Step::put("register replacing checks", &target, &plain))
        .await;
    suite
        .run(Step::get(
            "agent checks after replacing",
            "/v1/agent/checks",
        ))
        .await;
}

async fn views(suite: &mut Suite) {
    let one = |value: &Value| value.as_array().is_some_and(|list| list.len() == 1);
    suite.settle("/v1/health/connect/redis?passing", one).await;
    suite.settle("/v1/health/connect/web?passing", one).await;
    suite.settle("/v1/catalog/service/six", one).await;
    suite.settle("/v1/catalog/service/weighted", one).await;
    suite.settle("/v1/catalog/service/plain", one).await;
    suite
        .settle("/v1/catalog/service/side", |value| {
            value.as_array().is_some_and(Vec::is_empty)
        })
        .await;
    suite
        .settle("/v1/health/service/redis", |value| {
            value[0]["Checks"]
                .as_array()
                .is_some_and(|checks| checks.len() == 2)
        })
        .await;
    suite
        .settle("/v1/health/service/redis", |value| {
            value[0]["Service"]["Port"] == 8001
        })
        .await;
    suite
        .settle("/v1/health/service/plain", |value| {
            value[0]["Checks"]
                .as_array()
                .is_some_and(|checks| checks.len() == 1)
        })
        .await;
    for service in [
        "redis",
        "web",
        "REDIS",
        "web-proxy",
        "plain",
        "weighted",
        "six",
        "nope",
    ] {
        for view in [
            "health/connect",
            "health/service",
            "catalog/connect",
            "catalog/service",
        ] {
            suite
                .run(Step::get(
                    &format!("{view} {service}"),
                    &format!("/v1/{view}/{service}"),
                ))
                .await;
        }
    }
    for (name, target) in [
        ("health passing", "/v1/health/connect/redis?passing"),
        (
            "health passing true",
            "/v1/health/connect/redis?passing=true",
        ),
        (
            "health passing false",
            "/v1/health/connect/redis?passing=false",
        ),
        ("health passing junk", "/v1/health/connect/redis?passing=x"),
        ("health tag", "/v1/health/service/redis?tag=v1"),
        ("health other tag", "/v1/health/service/redis?tag=v2"),
        ("health peer", "/v1/health/connect/redis?peer=p"),
        ("health stale", "/v1/health/connect/redis?stale"),
        ("health nameless", "/v1/health/connect/"),
        ("catalog nameless", "/v1/catalog/connect/"),
        ("catalog services", "/v1/catalog/services"),
        ("catalog nodes", "/v1/catalog/nodes"),
        ("health cached", "/v1/health/connect/redis?cached"),
    ] {
        suite.run(Step::get(name, target)).await;
    }
}

async fn gone(suite: &mut Suite) {
    for id in ["redis", "web-proxy", "plain1", "weighted", "six"] {
        let target = format!("/v1/agent/service/deregister/{id}");
        suite
            .run(Step::put(
                &format!("deregister {id}"),
                &target,
                &Value::Null,
            ))
            .await;
    }
    suite
        .settle("/v1/health/connect/web", |value| {
            value.as_array().is_some_and(Vec::is_empty)
        })
        .await;
    suite
        .run(Step::get("agent services at the end", "/v1/agent/services"))
        .await;
    suite
        .run(Step::get("agent checks at the end", "/v1/agent/checks"))
        .await;
    suite
        .run(Step::get("health at the end", "/v1/health/connect/web"))
        .await;
}

async fn sidecars(suite: &mut Suite) {
    let proxy = |proxy: Value| {
        let mut body = json!({"Name": "p", "Kind": "connect-proxy", "Port": 3, "Proxy": {"DestinationServiceName": "x"}});
        for (name, value) in proxy.as_object().into_iter().flatten() {
            body["Proxy"][name] = value.clone();
        }
        body
    };
    let upstreams = |list: Value| proxy(json!({"Upstreams": list}));
    for (name, body) in [
        (
            "upstream without place",
            upstreams(json!([{"DestinationName": "a"}])),
        ),
        (
            "upstream without name",
            upstreams(json!([{"LocalBindPort": 1}])),
        ),
        (
            "upstream of any",
            upstreams(json!([{"DestinationName": "*", "LocalBindPort": 1}])),
        ),
        (
            "upstream type",
            upstreams(
                json!([{"DestinationName": "a", "DestinationType": "foo", "LocalBindPort": 1}]),
            ),
        ),
        (
            "upstream two places",
            upstreams(
                json!([{"DestinationName": "a", "LocalBindPort": 1, "LocalBindSocketPath": "/x"}]),
            ),
        ),
        (
            "upstream peer elsewhere",
            upstreams(
                json!([{"DestinationName": "a", "LocalBindPort": 1, "DestinationPeer": "p", "Datacenter": "d"}]),
            ),
        ),
        (
            "upstreams of one name",
            upstreams(
                json!([{"DestinationName": "a", "LocalBindPort": 1}, {"DestinationName": "a", "LocalBindPort": 2}]),
            ),
        ),
        (
            "upstreams in one place",
            upstreams(
                json!([{"DestinationName": "a", "LocalBindPort": 1}, {"DestinationName": "b", "LocalBindPort": 1, "LocalBindAddress": "127.0.0.1"}]),
            ),
        ),
        (
            "upstreams on one socket",
            upstreams(
                json!([{"DestinationName": "a", "LocalBindSocketPath": "/x"}, {"DestinationName": "b", "LocalBindSocketPath": "/x"}]),
            ),
        ),
        (
            "proxy unknown key",
            proxy(json!({"MutualTLSMode": "strict"})),
        ),
        (
            "sidecar with an id",
            json!({"Name": "s", "Port": 1, "Connect": {"SidecarService": {"ID": "x"}}}),
        ),
        (
            "sidecar in a sidecar",
            json!({"Name": "s", "Port": 1, "Connect": {"SidecarService": {"ID": "x", "Connect": {"SidecarService": {}}}}}),
        ),
        (
            "sidecar upstreams",
            json!({"Name": "s", "Port": 1, "Connect": {"SidecarService": {"Proxy": {"Upstreams": [{"DestinationName": "a"}]}}}}),
        ),
        (
            "alias with ttl",
            json!({"Name": "s", "Port": 1, "Check": {"AliasService": "x", "TTL": "3s"}}),
        ),
    ] {
        suite
            .run(Step::put(&format!("refused {name}"), REGISTER, &body))
            .await;
    }
    for (name, body) in [
        (
            "rich proxy",
            proxy(json!({
                "Mode": "direct", "TransparentProxy": {"OutboundListenerPort": 15001, "DialedDirectly": true},
                "MeshGateway": {"Mode": "none"},
                "Expose": {"Checks": true, "Paths": [{"Path": "/h", "LocalPathPort": 1, "ListenerPort": 2, "Protocol": "http"}, {"Path": "/i", "LocalPathPort": 3, "ListenerPort": 4}]},
                "AccessLogs": {"Enabled": true, "Type": "file", "Path": "/x"},
                "EnvoyExtensions": [{"Name": "builtin/lua", "Arguments": {}}],
                "Config": {"bind_port": 1234, "a": {"b": [1]}},
                "Upstreams": [
                    {"DestinationName": "a", "LocalBindSocketPath": "/x", "LocalBindSocketMode": "0600", "Config": {"limits": {"max_connections": 3}}},
                    {"DestinationName": "b", "LocalBindPort": 1, "LocalBindAddress": "127.0.0.2", "Datacenter": "dc1", "MeshGateway": {"Mode": "none"}},
                    {"DestinationName": "c", "LocalBindPort": 2, "DestinationPeer": "east"},
                ],
            })),
        ),
        (
            "behind a socket",
            proxy(json!({"LocalServiceSocketPath": "/x", "Mode": "direct"})),
        ),
    ] {
        suite
            .run(Step::put(&format!("register {name}"), REGISTER, &body))
            .await;
        suite
            .run(Step::get(
                &format!("agent service {name}"),
                "/v1/agent/service/p",
            ))
            .await;
    }
    for (name, body) in [
        (
            "with everything",
            json!({"Name": "own", "Port": 1, "Address": "10.0.0.1", "Tags": ["t"], "Meta": {"a": "b"},
            "Check": {"CheckID": "own-ttl", "TTL": "10m", "Status": "warning"},
            "Connect": {"SidecarService": {"Proxy": {"Upstreams": [{"DestinationName": "a", "LocalBindPort": 1}]}}}}),
        ),
        (
            "with its own",
            json!({"ID": "own2", "Name": "own", "Port": 1,
            "Connect": {"SidecarService": {"Port": 21100, "Address": "127.0.0.3", "Tags": ["s"], "Meta": {"c": "d"}, "Check": {"TTL": "10m", "Status": "passing"}}}}),
        ),
        (
            "with aliases",
            json!({"Name": "own3", "Port": 1,
            "Connect": {"SidecarService": {"Checks": [{"AliasService": "own"}, {"AliasService": "nope"}, {"AliasService": "own2", "Name": "n", "CheckID": "c"}]}}}),
        ),
        (
            "without a port",
            json!({"Name": "own4", "Connect": {"SidecarService": {}}}),
        ),
        (
            "of a socket",
            json!({"Name": "own5", "SocketPath": "/run/own", "Connect": {"SidecarService": {}}}),
        ),
    ] {
        suite
            .run(Step::put(
                &format!("register a sidecar {name}"),
                REGISTER,
                &body,
            ))
            .await;
    }
    for id in ["own", "own2", "own3", "own4", "own5"] {
        let target = format!("/v1/agent/service/{id}-sidecar-proxy");
        suite
            .run(Step::get(
                &format!("agent service sidecar of {id}"),
                &target,
            ))
            .await;
    }
    suite
        .run_until_same(
            Step::get("agent checks of own sidecars", "/v1/agent/checks")
                .depth(crate::compare::Depth::OurKeys),
        )
        .await;
    for (name, target) in [
        ("check pass an alias", "/v1/agent/check/pass/c"),
        (
            "check pass the aliased",
            "/v1/agent/check/pass/own-ttl?note=well",
        ),
    ] {
        suite.run(Step::new(name, Method::PUT, target)).await;
    }
    for id in [
        "service:own-sidecar-proxy:2",
        "service:own3-sidecar-proxy:1",
        "service:own3-sidecar-proxy:2",
        "c",
    ] {
        let (real, ours) = suite.settled_check(id).await;
        suite.same("aliases afterwards", &format!("check {id}"), real, ours);
    }
    suite
        .run(Step::put(
            "deregister the aliased",
            "/v1/agent/service/deregister/own2",
            &Value::Null,
        ))
        .await;
    // Consul's then passes or is critical, as its goroutines happen to run.
    let (_, ours) = suite.settled_check("c").await;
    suite.same(
        "an alias of what is gone",
        "status",
        &json!("critical"),
        &ours[0],
    );
    for id in ["p", "own", "own3", "own4", "own5"] {
        let target = format!("/v1/agent/service/deregister/{id}");
        suite
            .run(Step::put(
                &format!("deregister {id} with its sidecar"),
                &target,
                &Value::Null,
            ))
            .await;
    }
    suite
        .run(Step::get(
            "agent services after the sidecars",
            "/v1/agent/services",
        ))
        .await;
}
