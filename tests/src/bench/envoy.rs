//! Envoy's bootstrap: what Consul's xDS makes of one L4 intention, written by hand.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// A listener on `port` with mTLS and RBAC in front of `application`. The folder has
/// `roots.pem`, `chain.pem` and `key.pem`.
#[must_use]
pub fn bootstrap(port: u16, application: SocketAddr, folder: &Path, allowed: &str) -> Value {
    let socket = |address: &str, port: u16| json!({ "socket_address": { "address": address, "port_value": port } });
    let file = |name: &str| json!({ "filename": folder.join(name).display().to_string() });
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
                "ecdh_curves": ["X25519"],
            },
            "tls_certificates": [{ "certificate_chain": file("chain.pem"), "private_key": file("key.pem") }],
            "validation_context": { "trusted_ca": file("roots.pem") },
        },
    });
    let rbac = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
        "stat_prefix": "connect_authz",
        "rules": {
            "action": "ALLOW",
            "policies": { "intentions": {
                "permissions": [{ "any": true }],
                "principals": [{ "authenticated": { "principal_name": {
                    "safe_regex": { "regex": format!("^{}$", allowed.replace('.', "\\.")) },
                }}}],
            }},
        },
    });
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "public_listener",
        "cluster": "local_app",
    });
    json!({
        "static_resources": {
            "listeners": [{
                "name": "public_listener",
                "address": socket("127.0.0.1", port),
                "filter_chains": [{
                    "transport_socket": { "name": "tls", "typed_config": tls },
                    "filters": [
                        { "name": "envoy.filters.network.rbac", "typed_config": rbac },
                        { "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy },
                    ],
                }],
            }],
            "clusters": [{
                "name": "local_app",
                "type": "STATIC",
                "connect_timeout": "5s",
                // Unlike 1,024, this is no limit here.
                "circuit_breakers": { "thresholds": [{ "max_connections": 100_000 }] },
                "load_assignment": {
                    "cluster_name": "local_app",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                        "address": socket(&application.ip().to_string(), application.port()),
                    }}]}],
                },
            }],
        },
    })
}
