//! Envoy's bootstrap: what Consul's xDS makes of the intention, written by hand.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::Version;
use crate::bench::envoy::{Listener, bootstrap_of};

/// A listener on `port` that judges requests by [`super::policy::permissions`].
#[must_use]
pub fn bootstrap(
    version: Version,
    port: u16,
    application: SocketAddr,
    folder: &Path,
    allowed: &str,
) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "public_listener",
        "codec_type": if version == Version::Http2 { "HTTP2" } else { "HTTP1" },
        "normalize_path": true,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": { "uri": true },
        "route_config": { "name": "public_listener", "virtual_hosts": [{
            "name": "public_listener",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "local_app" } }],
        }]},
        "http_filters": [
            { "name": "envoy.filters.http.rbac", "typed_config": rbac(allowed) },
            { "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            }},
        ],
    });
    bootstrap_of(&Listener {
        port,
        application,
        folder,
        alpn: Some(version.alpn()),
        filters: json!([{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }]),
        http2_onward: version == Version::Http2,
        resumption: true,
    })
}

/// Each allowing permission, without what an earlier one denies.
pub(in crate::bench) fn rbac(allowed: &str) -> Value {
    let path = |matcher: Value| json!({ "url_path": { "path": matcher } });
    let header =
        |name: &str, matcher: Value| json!({ "header": { "name": name, "string_match": matcher } });
    let methods = |regex: &str| header(":method", json!({ "safe_regex": { "regex": regex } }));
    let all = |rules: Vec<Value>| json!({ "and_rules": { "rules": rules } });
    let admin = path(json!({ "prefix": "/admin" }));
    let debug = json!({ "header": { "name": "x-debug", "present_match": true } });
    let but = |rule: Value| {
        all(vec![
            rule,
            json!({ "not_rule": admin }),
            json!({ "not_rule": debug }),
        ])
    };
    let users = path(json!({ "safe_regex": { "regex": "/v[0-9]+/users/.*" } }));
    let items = vec![
        path(json!({ "prefix": "/items/" })),
        header("x-tenant", json!({ "prefix": "blue" })),
        methods("GET|POST"),
    ];
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": { "action": "ALLOW", "policies": { "consul-intentions-layer7-0": {
            "principals": [{ "authenticated": { "principal_name": {
                "safe_regex": { "regex": format!("^{}$", allowed.replace('.', "\\.")) },
            }}}],
            "permissions": [
                but(path(json!({ "exact": "/health" }))),
                but(all(vec![users, methods("GET")])),
                but(all(items)),
            ],
        }}},
    })
}
