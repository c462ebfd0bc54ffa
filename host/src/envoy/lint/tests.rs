//! Every code has a configuration that produces it, made from one that is good.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Code, lint};

const TYPE: &str = "type.googleapis.com/envoy.extensions.";

fn plugin() -> Value {
    json!({
        "name": "portcullis",
        "root_id": "portcullis",
        "failure_policy": "FAIL_RELOAD",
        "vm_config": { "vm_id": "portcullis", "runtime": "envoy.wasm.runtime.v8", "code": { "local": { "filename": "/x/filter.wasm" } } },
        "configuration": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": r#"{"service":"db","agent":{"cluster":"consul_agent"},"jwks":[{"uri":"https://a/k","cluster":"keys"}]}"#,
        },
    })
}

fn tls() -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": format!("{TYPE}transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "disable_stateless_session_resumption": true,
        "disable_stateful_session_resumption": true,
        "common_tls_context": { "validation_context": { "trusted_ca": { "filename": "/x/roots.pem" } } },
    }})
}

fn good() -> Value {
    json!({ "static_resources": {
        "clusters": [{ "name": "consul_agent" }, { "name": "keys", "transport_socket": { "name": "tls", "typed_config": {
            "@type": format!("{TYPE}transport_sockets.tls.v3.UpstreamTlsContext"),
            "common_tls_context": { "validation_context": {
                "trusted_ca": { "filename": "/x/ca.pem" },
                "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "a" } }] } } } } }],
        "listeners": [
            { "filter_chains": [{ "transport_socket": tls(), "filters": [
                { "name": "wasm", "typed_config": { "@type": format!("{TYPE}filters.network.wasm.v3.Wasm"), "config": plugin() } },
                { "name": "tcp", "typed_config": { "@type": format!("{TYPE}filters.network.tcp_proxy.v3.TcpProxy"), "upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE" } },
            ]}]},
            { "filter_chains": [{ "transport_socket": tls(), "filters": [
                { "name": "http", "typed_config": {
                    "@type": format!("{TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager"),
                    "normalize_path": true,
                    "route_config": { "virtual_hosts": [{ "routes": [{ "match": { "prefix": "/" } }] }] },
                    "http_filters": [
                        { "name": "policy", "typed_config": { "@type": format!("{TYPE}filters.http.wasm.v3.Wasm"), "config": plugin() } },
                        { "name": "router", "typed_config": { "@type": format!("{TYPE}filters.http.router.v3.Router") } },
                    ],
                }},
            ]}]},
            { "filter_chains": [{ "transport_socket": tls(), "filters": [
                { "name": "authz", "typed_config": { "@type": format!("{TYPE}filters.network.ext_authz.v3.ExtAuthz"), "stat_prefix": "portcullis", "include_peer_certificate": true } },
                { "name": "tcp", "typed_config": { "@type": format!("{TYPE}filters.network.tcp_proxy.v3.TcpProxy"), "upstream_connect_mode": 1 } },
            ]}]},
            // What has no policy is somebody else's.
            { "filter_chains": [{ "filters": [{ "name": "tcp" }] }] },
        ],
    }})
}

/// Two roots of one trust domain, and one of another.
const ROOTS: [&str; 3] = [
    include_str!("../../../../guest/core/tests/data/consul/p256-root0.pem"),
    include_str!("../../../../guest/core/tests/data/consul/rsa-to-p521-root0.pem"),
    include_str!("../../../../guest/core/tests/data/openssl/p256-sha256-root.pem"),
];

const L4: &str = "/static_resources/listeners/0/filter_chains/0";
const L7: &str = "/static_resources/listeners/1/filter_chains/0/filters/0/typed_config";
const KEYS: &str = "/static_resources/clusters/1/transport_socket/typed_config/common_tls_context/validation_context";
const AUTHZ: &str = "/static_resources/listeners/2/filter_chains/0";

/// The good configuration with one thing changed.
fn with(pointer: &str, value: Value) -> Value {
    let mut tree = good();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = tree.pointer_mut(parent).expect(pointer);
    match parent {
        Value::Object(fields) => {
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.to_owned(), value);
            }
        }
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer}"),
    }
    tree
}

fn codes(tree: &Value) -> Vec<(&'static str, String)> {
    let found = lint(&tree.to_string()).unwrap();
    found
        .iter()
        .map(|one| (one.code.as_str(), one.path.clone()))
        .collect()
}

/// What each change leads to, and where.
fn changes() -> Vec<(Value, Code, String)> {
    let context = format!("{L4}/transport_socket/typed_config");
    let common = format!("{context}/common_tls_context");
    let plugin_path = format!("{L4}/filters/0/typed_config/config");
    let configured = |text: &str| json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text });
    let at = |pointer: &str, value: Value, code: Code, path: &str| {
        (with(pointer, value), code, path.to_owned())
    };
    let plug = |field: &str, value: Value, code: Code, path: &str| {
        at(
            &format!("{plugin_path}/{field}"),
            value,
            code,
            &format!("{plugin_path}{path}"),
        )
    };
    let mut list = vec![
        (json!({ "admin": {} }), Code::NoPolicy, String::new()),
        plug("failure_policy", json!("FAIL_OPEN"), Code::FailOpen, ""),
        plug("failure_policy", json!(3), Code::FailOpen, ""),
        plug("fail_open", json!(true), Code::FailOpen, ""),
        plug("failOpen", json!(true), Code::FailOpen, ""),
        plug(
            "allow_on_headers_stop_iteration",
            json!(true),
            Code::HeadersNotHeld,
            "",
        ),
        at(
            "/static_resources/listeners/3/filter_chains/0/transport_socket",
            tls(),
            Code::Unguarded,
            "/static_resources/listeners/3",
        ),
        plug("failure_policy", Value::Null, Code::NoReload, ""),
        plug("failure_policy", json!("FAIL_CLOSED"), Code::NoReload, ""),
        plug(
            "capability_restriction_config",
            json!({ "allowed_capabilities": { "proxy_on_tick": {} } }),
            Code::Capabilities,
            "/capability_restriction_config/allowed_capabilities",
        ),
        plug("vm_config/vm_id", Value::Null, Code::VmIdEmpty, ""),
        plug("vm_config/vm_id", json!(""), Code::VmIdEmpty, ""),
        plug(
            "configuration",
            Value::Null,
            Code::PluginConfiguration,
            "/configuration",
        ),
        plug(
            "configuration",
            configured("{"),
            Code::PluginConfiguration,
            "/configuration",
        ),
        plug(
            "configuration",
            configured(r#"{"service":"db"}"#),
            Code::PluginConfiguration,
            "/configuration",
        ),
        plug(
            "configuration",
            configured(r#"{"service":"db","agent":{"cluster":"consul_agent"},"servise":"db"}"#),
            Code::PluginConfiguration,
            "/configuration",
        ),
        plug(
            "configuration",
            json!({ "@type": "type.googleapis.com/google.protobuf.Struct", "value": { "service": "db" } }),
            Code::PluginConfiguration,
            "/configuration",
        ),
        plug(
            "configuration",
            configured(r#"{"service":"db","agent":{"cluster":"consul_agent"},"mode":"shadow"}"#),
            Code::Shadow,
            "/configuration",
        ),
        plug(
            "configuration",
            configured(r#"{"service":"db","agent":{"cluster":"nowhere"}}"#),
            Code::AgentCluster,
            "/configuration",
        ),
        plug(
            "configuration",
            configured(
                r#"{"service":"db","agent":{"cluster":"consul_agent"},"jwks":[{"uri":"https://b/","cluster":"nowhere"}]}"#,
            ),
            Code::KeyCluster,
            "/configuration",
        ),
        at(
            "/static_resources/clusters/1/transport_socket",
            Value::Null,
            Code::KeyClusterTls,
            "/static_resources/clusters/1",
        ),
        at(
            &format!("{KEYS}/trusted_ca"),
            Value::Null,
            Code::KeyClusterTls,
            "/static_resources/clusters/1",
        ),
        at(
            &format!("{KEYS}/match_typed_subject_alt_names"),
            Value::Null,
            Code::KeyClusterTls,
            "/static_resources/clusters/1",
        ),
        at(
            &format!("{L4}/transport_socket"),
            Value::Null,
            Code::NoTls,
            L4,
        ),
        at(
            &format!("{context}/@type"),
            json!(format!("{TYPE}transport_sockets.raw_buffer.v3.RawBuffer")),
            Code::NoTls,
            &format!("{L4}/transport_socket"),
        ),
        at(
            &format!("{context}/require_client_certificate"),
            Value::Null,
            Code::NoClientCertificate,
            &context,
        ),
        at(
            &format!("{context}/require_client_certificate"),
            json!(false),
            Code::NoClientCertificate,
            &context,
        ),
        at(
            &format!("{context}/disable_stateless_session_resumption"),
            Value::Null,
            Code::Resumption,
            &context,
        ),
        at(
            &format!("{context}/disable_stateful_session_resumption"),
            json!(false),
            Code::Resumption,
            &context,
        ),
        at(
            &format!("{context}/session_ticket_keys"),
            json!({ "keys": [] }),
            Code::Resumption,
            &format!("{context}/session_ticket_keys"),
        ),
        at(&common, Value::Null, Code::NoValidation, &context),
        at(
            &format!("{common}/validation_context"),
            Value::Null,
            Code::NoValidation,
            &common,
        ),
        at(
            &format!("{common}/validation_context/trusted_ca"),
            Value::Null,
            Code::NoValidation,
            &common,
        ),
        at(
            &format!("{common}/validation_context/trusted_ca"),
            json!({ "inline_string": ROOTS.concat() }),
            Code::PooledRoots,
            &format!("{common}/validation_context/trusted_ca"),
        ),
        at(
            &format!("{common}/validation_context/trust_chain_verification"),
            json!("ACCEPT_UNTRUSTED"),
            Code::AcceptUntrusted,
            &format!("{common}/validation_context"),
        ),
        at(
            &format!("{common}/validation_context/trust_chain_verification"),
            json!(1),
            Code::AcceptUntrusted,
            &format!("{common}/validation_context"),
        ),
        at(
            &format!("{common}/validation_context/allow_expired_certificate"),
            json!(true),
            Code::AcceptExpired,
            &format!("{common}/validation_context"),
        ),
        at(
            "/static_resources/listeners/0/default_filter_chain",
            json!({ "filters": [] }),
            Code::Bypass,
            "/static_resources/listeners/0/default_filter_chain",
        ),
        at(
            &format!("{L7}/http_filters/0/disabled"),
            json!(true),
            Code::Disabled,
            &format!("{L7}/http_filters/0"),
        ),
        at(
            &format!("{L7}/route_config/virtual_hosts/0/routes/0/typed_per_filter_config"),
            json!({ "policy": { "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true } }),
            Code::Disabled,
            &format!("{L7}/route_config/virtual_hosts/0/routes/0/typed_per_filter_config/policy"),
        ),
        at(
            &format!("{L7}/normalize_path"),
            Value::Null,
            Code::Normalization,
            L7,
        ),
        at(
            &format!("{L7}/normalize_path"),
            json!(false),
            Code::Normalization,
            L7,
        ),
        at(
            &format!("{L4}/filters/1/typed_config/upstream_connect_mode"),
            Value::Null,
            Code::ConnectMode,
            &format!("{L4}/filters/1/typed_config"),
        ),
        at(
            &format!("{AUTHZ}/filters/1/typed_config/upstream_connect_mode"),
            json!("ON_DOWNSTREAM_TLS_HANDSHAKE"),
            Code::GreetingLeak,
            &format!("{AUTHZ}/filters/1/typed_config"),
        ),
        at(
            &format!("{AUTHZ}/filters/0/typed_config/failure_mode_allow"),
            json!(true),
            Code::FailureModeAllow,
            &format!("{AUTHZ}/filters/0/typed_config"),
        ),
        at(
            &format!("{AUTHZ}/filters/0/typed_config/include_peer_certificate"),
            Value::Null,
            Code::NoPeerCertificate,
            &format!("{AUTHZ}/filters/0/typed_config"),
        ),
        at(
            &format!("{L7}/http_filters/0/typed_config"),
            json!({ "@type": format!("{TYPE}filters.http.ext_authz.v3.ExtAuthz"), "stat_prefix": "portcullis", "include_peer_certificate": true }),
            Code::JoinedHeaders,
            &format!("{L7}/http_filters/0/typed_config"),
        ),
    ];
    list.push(at(
        &format!("{L7}/http_filters/0/typed_config"),
        json!({ "@type": format!("{TYPE}filters.http.ext_authz.v3.ExtAuthz"), "stat_prefix": "portcullis", "include_peer_certificate": true, "encode_raw_headers": true, "allowed_headers": {} }),
        Code::PartialHeaders,
        &format!("{L7}/http_filters/0/typed_config"),
    ));
    let mut swapped = good();
    let filters = swapped.pointer_mut(&format!("{L4}/filters")).unwrap();
    filters.as_array_mut().unwrap().swap(0, 1);
    list.push((swapped, Code::AfterTerminal, format!("{L4}/filters/1")));
    let mut swapped = good();
    let filters = swapped.pointer_mut(&format!("{L7}/http_filters")).unwrap();
    filters.as_array_mut().unwrap().swap(0, 1);
    list.push((swapped, Code::AfterTerminal, format!("{L7}/http_filters/1")));
    let mut other = plugin();
    other["name"] = json!("other");
    other["root_id"] = json!("other");
    other["configuration"] = Value::Null;
    other["vm_config"]["code"]["local"]["filename"] = json!("/x/other.wasm");
    // Named by its vm_id alone it would pass for ours.
    let mut tree = good();
    for path in [
        format!("{plugin_path}/vm_config/vm_id"),
        format!("{L7}/http_filters/0/typed_config/config/vm_config/vm_id"),
    ] {
        *tree.pointer_mut(&path).unwrap() = json!("shared");
    }
    other["vm_config"]["vm_id"] = json!("shared");
    tree["static_resources"]["listeners"][3]["filter_chains"][0]["filters"][0] =
        json!({ "name": "x", "typed_config": { "@type": "x", "config": other } });
    list.push((tree, Code::VmIdShared, plugin_path));
    list
}

#[test]
fn a_good_configuration_has_no_findings() {
    assert_eq!(codes(&good()), []);
}

#[test]
fn every_code_is_found_where_it_is() {
    let mut seen = BTreeSet::new();
    for (tree, code, path) in changes() {
        let found = codes(&tree);
        assert!(
            found.contains(&(code.as_str(), path.clone())),
            "{code} at {path}: {found:#?}"
        );
        seen.insert(code);
    }
    for code in Code::ALL {
        assert!(seen.contains(code), "no test makes {code}");
    }
}

#[test]
fn a_filter_that_verifies_needs_no_roots_in_envoy() {
    let path = format!("{L4}/filters/0/typed_config/config/configuration/value");
    let mut tree = with(
        &path,
        json!(
            r#"{"service":"db","agent":{"cluster":"consul_agent"},"peer_verification":"filter"}"#
        ),
    );
    let context =
        format!("{L4}/transport_socket/typed_config/common_tls_context/validation_context");
    *tree.pointer_mut(&context).unwrap() =
        json!({ "trust_chain_verification": "ACCEPT_UNTRUSTED" });
    let tls = format!("{L4}/transport_socket/typed_config");
    let tls = tree.pointer_mut(&tls).unwrap().as_object_mut().unwrap();
    // As in Consul's sidecars: what was resumed is verified again by the filter.
    tls.remove("disable_stateless_session_resumption").unwrap();
    assert_eq!(codes(&tree), []);
}

#[test]
fn listeners_for_our_own_programs_need_no_policy() {
    let listener = |address: Value| {
        json!({ "static_resources": { "listeners": [
            { "address": address, "filter_chains": [{ "filters": [{ "name": "tcp" }] }] },
        ]}})
    };
    let tcp = |host: &str| json!({ "socket_address": { "address": host, "port_value": 1 } });
    for here in [
        tcp("127.0.0.1"),
        tcp("::1"),
        json!({ "pipe": { "path": "/x" } }),
    ] {
        assert_eq!(codes(&listener(here)), []);
    }
    let mut with_tls = listener(tcp("127.0.0.1"));
    with_tls["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"] = tls();
    for open in [listener(tcp("0.0.0.0")), listener(json!({})), with_tls] {
        assert_eq!(codes(&open), [("no-policy", String::new())]);
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    for text in ["", "[]", "7", "{", "\"a\"", "a"] {
        assert!(lint(text).is_err(), "{text}");
    }
}

#[test]
fn roots_of_several_trust_domains_in_one_pool_are_found() {
    let [one, next, other] = ROOTS;
    let roots = format!(
        "{L4}/transport_socket/typed_config/common_tls_context/validation_context/trusted_ca"
    );
    let bytes = |text: &str| STANDARD.encode(text);
    for (value, is_pooled) in [
        (json!({ "inline_string": format!("{one}{next}") }), false),
        (json!({ "inline_string": format!("{one}{other}") }), true),
        (
            json!({ "inline_bytes": bytes(&format!("{one}{next}{other}")) }),
            true,
        ),
        (json!({ "inline_bytes": bytes(one) }), false),
        (json!({ "inline_bytes": "?" }), false),
    ] {
        let mut tree = with(&roots, value);
        let expected = match is_pooled {
            true => vec![("pooled-roots", roots.clone())],
            false => Vec::new(),
        };
        assert_eq!(codes(&tree), expected);
        // The filter itself looks for the one that counts.
        let settings =
            r#"{"service":"db","agent":{"cluster":"consul_agent"},"peer_verification":"filter"}"#;
        let plugin = format!("{L4}/filters/0/typed_config/config/configuration/value");
        *tree.pointer_mut(&plugin).unwrap() = json!(settings);
        assert_eq!(codes(&tree), []);
    }
}

/// Whether a code is found at a place.
fn has(tree: &Value, code: Code, path: &str) -> bool {
    codes(tree).contains(&(code.as_str(), path.to_owned()))
}

#[test]
fn upgrades_with_filters_of_their_own_ask_too() {
    let upgrades = format!("{L7}/upgrade_configs");
    let first = format!("{upgrades}/0");
    let good = good();
    let filters = good.pointer(&format!("{L7}/http_filters")).unwrap();
    let (policy, router) = (&filters[0], &filters[1]);
    let mut off = policy.clone();
    off["disabled"] = json!(true);
    let upgrade = |filters: Value| {
        let one = json!({ "upgrade_type": "websocket", "filters": filters });
        with(&upgrades, json!([one, { "upgrade_type": "x" }]))
    };
    for fine in [json!([]), json!([policy, router])] {
        assert_eq!(codes(&upgrade(fine)), []);
    }
    for (filters, expected) in [
        (json!([router]), ("bypass", first.clone())),
        (
            json!([router, policy]),
            ("after-terminal", format!("{first}/filters/1")),
        ),
        (
            json!([off, router]),
            ("disabled", format!("{first}/filters/0")),
        ),
    ] {
        assert_eq!(codes(&upgrade(filters)), [expected]);
    }
    let found = lint(&upgrade(json!([router])).to_string()).unwrap();
    assert!(found[0].text.contains("`websocket`"), "{found:?}");
}

#[test]
fn every_callback_of_the_filter_must_be_allowed() {
    let config = format!("{L4}/filters/0/typed_config/config");
    let all = [
        "proxy_on_configure",
        "proxy_on_context_create",
        "proxy_on_delete",
        "proxy_on_downstream_data",
        "proxy_on_http_call_response",
        "proxy_on_request_headers",
        "proxy_on_tick",
        "proxy_on_upstream_data",
    ];
    let allowed = |left_out: &str| {
        let names = all.iter().filter(|name| **name != left_out);
        let names = names.map(|name| ((*name).to_owned(), json!({})));
        json!({ "allowedCapabilities": names.collect::<serde_json::Map<_, _>>() })
    };
    for place in ["", "/vm_config"] {
        let place = format!("{config}{place}/capability_restriction_config");
        for fine in [
            json!({}),
            json!({ "allowed_capabilities": {} }),
            allowed(""),
        ] {
            assert_eq!(codes(&with(&place, fine)), []);
        }
        for name in all {
            let tree = with(&place, allowed(name));
            let path = format!("{place}/allowedCapabilities");
            assert_eq!(codes(&tree), [("capabilities", path)]);
            let found = lint(&tree.to_string()).unwrap();
            assert!(
                found[0].text.ends_with(&format!("lacks `{name}`")),
                "{found:?}"
            );
        }
    }
}

#[test]
fn switches_of_ext_authz_are_found() {
    let path = format!("{L7}/http_filters/0/typed_config");
    let http = |fields: Value| {
        let mut config = json!({ "@type": format!("{TYPE}filters.http.ext_authz.v3.ExtAuthz"), "stat_prefix": "portcullis", "include_peer_certificate": true, "encode_raw_headers": true });
        let map = config.as_object_mut().unwrap();
        map.extend(fields.as_object().unwrap().clone());
        with(&path, config)
    };
    let share = |numerator: Value, denominator: Value| json!({ "default_value": { "numerator": numerator, "denominator": denominator } });
    for enabled in [
        json!({ "default_value": { "numerator": 100 } }),
        share(json!(100), json!("HUNDRED")),
        share(json!("10000"), json!("TEN_THOUSAND")),
        share(json!(1_000_000), json!(2)),
    ] {
        assert_eq!(codes(&http(json!({ "filter_enabled": enabled }))), []);
        let mut keyed = enabled;
        keyed["runtime_key"] = json!("x");
        let denies = json!({ "default_value": true, "runtime_key": "y" });
        for (deny, is_off) in [(json!({ "default_value": false }), true), (denies, false)] {
            let tree = http(json!({ "filter_enabled": keyed, "denyAtDisable": deny }));
            assert_eq!(has(&tree, Code::Disabled, &path), is_off, "{keyed}");
        }
    }
    for enabled in [
        json!({}),
        json!({ "default_value": {} }),
        share(json!(99), json!("HUNDRED")),
        share(json!(100), json!("TEN_THOUSAND")),
        share(json!(10_000), json!("MILLION")),
    ] {
        let tree = http(json!({ "filter_enabled": enabled }));
        assert_eq!(codes(&tree), [("disabled", path.clone())], "{enabled}");
    }
    let tree = http(json!({ "filter_enabled_metadata": { "filter": "x" } }));
    assert_eq!(codes(&tree), [("disabled", path.clone())]);
    let network = format!("{AUTHZ}/filters/0/typed_config");
    let tree = with(
        &format!("{network}/filter_enabled_metadata"),
        json!({ "filter": "x" }),
    );
    assert_eq!(codes(&tree), [("disabled", network)]);
}

#[test]
fn a_route_may_not_switch_the_policy_off_within_another_message() {
    let routes = format!("{L7}/route_config/virtual_hosts/0/routes/0/typed_per_filter_config");
    let nested = |disabled: bool| {
        let own = json!({ "@type": format!("{TYPE}filters.http.ext_authz.v3.ExtAuthzPerRoute"), "disabled": disabled });
        let config = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": own });
        with(&routes, json!({ "policy": config }))
    };
    assert_eq!(codes(&nested(false)), []);
    let path = format!("{routes}/policy/config");
    assert_eq!(codes(&nested(true)), [("disabled", path)]);
}

#[test]
fn another_ext_authz_is_not_ours_where_something_is() {
    let authz = format!("{AUTHZ}/filters/0/typed_config");
    let other = json!({ "@type": format!("{TYPE}filters.network.ext_authz.v3.ExtAuthz"), "stat_prefix": "opa", "failure_mode_allow": true });
    // Beside a plugin of ours it is somebody else's, and its listener has no policy.
    let mut tree = with(&authz, other);
    let listener = "/static_resources/listeners/2";
    assert_eq!(codes(&tree), [("unguarded", listener.to_owned())]);
    // Alone it may be ours.
    let listener = tree.pointer_mut(listener).unwrap().take();
    let alone = json!({ "static_resources": { "listeners": [listener] } });
    let path = authz.replace("listeners/2", "listeners/0");
    assert!(has(&alone, Code::FailureModeAllow, &path));
    assert!(has(&alone, Code::NoPeerCertificate, &path));
}

#[test]
fn secrets_in_the_file_are_judged() {
    let common = format!("{L4}/transport_socket/typed_config/common_tls_context");
    let asks = json!({ "name": "roots", "sds_config": {} });
    let alone = json!({ "validation_context_sds_secret_config": asks });
    let combined = json!({ "combined_validation_context": {
        "default_validation_context": {}, "validation_context_sds_secret_config": asks } });
    let several = json!({ "trusted_ca": { "inline_string": ROOTS.concat() } });
    let trusted = json!({ "filename": "/x/roots.pem" });
    for context in [alone, combined] {
        // From elsewhere it is believed.
        let mut tree = with(&common, context);
        assert_eq!(codes(&tree), []);
        tree["static_resources"]["secrets"] = json!([{ "name": "x", "validation_context": {} }]);
        assert_eq!(codes(&tree), []);
        let at = "/static_resources/secrets/0/validation_context";
        for (secret, expected) in [
            (json!({ "trusted_ca": trusted }), None),
            (json!({}), Some(("no-validation", common.clone()))),
            (
                json!({ "trusted_ca": trusted, "trust_chain_verification": 1 }),
                Some(("accept-untrusted", at.to_owned())),
            ),
            (
                json!({ "trusted_ca": trusted, "allow_expired_certificate": true }),
                Some(("accept-expired", at.to_owned())),
            ),
            (
                several.clone(),
                Some(("pooled-roots", format!("{at}/trusted_ca"))),
            ),
        ] {
            tree["static_resources"]["secrets"] =
                json!([{ "name": "roots", "validation_context": secret }]);
            assert_eq!(codes(&tree), expected.into_iter().collect::<Vec<_>>());
        }
    }
    // As Envoy's admin interface tells it.
    let dump = |context: &Value| {
        let asks = json!({ "validation_context_sds_secret_config": asks });
        let secret = json!({ "name": "roots", "validation_context": context });
        json!({ "configs": [
            { "bootstrap": with(&common, asks) },
            { "dynamic_active_secrets": [{ "name": "roots", "secret": secret }] },
        ]})
    };
    let at = "/configs/1/dynamic_active_secrets/0/secret/validation_context/trusted_ca";
    assert!(has(&dump(&several), Code::PooledRoots, at));
    assert_eq!(codes(&dump(&json!({ "trusted_ca": trusted }))), []);
}

#[test]
fn every_address_of_a_listener_counts() {
    let listener = |other: &str| {
        let address =
            |host: &str| json!({ "socket_address": { "address": host, "port_value": 1 } });
        json!({ "static_resources": { "listeners": [{
            "address": address("127.0.0.1"),
            "additional_addresses": [{ "address": address("::1") }, { "address": address(other) }],
            "filter_chains": [{ "filters": [{ "name": "tcp" }] }],
        }]}})
    };
    assert_eq!(codes(&listener("127.0.0.2")), []);
    assert_eq!(codes(&listener("0.0.0.0")), [("no-policy", String::new())]);
}

#[test]
fn no_other_listener_leads_to_what_is_guarded() {
    let proxy = |cluster: Value| {
        let mut config = json!({ "@type": format!("{TYPE}filters.network.tcp_proxy.v3.TcpProxy") });
        let map = config.as_object_mut().unwrap();
        map.extend(cluster.as_object().unwrap().clone());
        json!([{ "name": "tcp", "typed_config": config }])
    };
    let routed = |cluster: &str| {
        let manager = json!({
            "@type": format!("{TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "route_config": { "virtual_hosts": [{ "routes": [{ "route": { "cluster": cluster } }] }] },
            // Not where requests go.
            "http_filters": [{ "name": "x", "typed_config": { "@type": "x", "cluster": "local_app" } }],
        });
        json!([{ "name": "http", "typed_config": manager }])
    };
    let weighted = |cluster: &str| json!({ "weighted_clusters": { "clusters": [{ "name": cluster, "weight": 1 }] } });
    let other = "/static_resources/listeners/3";
    let beside = |filters: Value, address: &str| {
        let mut tree = with(
            &format!("{L4}/filters/1/typed_config/cluster"),
            json!("local_app"),
        );
        let listener = tree.pointer_mut(other).unwrap();
        listener["address"] = json!({ "socket_address": { "address": address, "port_value": 1 } });
        listener["filter_chains"][0]["filters"] = filters;
        tree
    };
    for filters in [
        proxy(json!({ "cluster": "local_app" })),
        proxy(weighted("local_app")),
        routed("local_app"),
    ] {
        let tree = beside(filters.clone(), "0.0.0.0");
        assert_eq!(codes(&tree), [("unguarded", other.to_owned())]);
        let found = lint(&tree.to_string()).unwrap();
        assert!(found[0].text.contains("`local_app`"), "{found:?}");
        assert_eq!(codes(&beside(filters, "127.0.0.1")), []);
    }
    for filters in [
        proxy(json!({ "cluster": "exposed_cluster_8080" })),
        proxy(weighted("exposed_cluster_8080")),
        routed("exposed_cluster_8080"),
    ] {
        assert_eq!(codes(&beside(filters, "0.0.0.0")), []);
    }
}
