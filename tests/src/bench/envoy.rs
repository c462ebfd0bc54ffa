//! Envoy's bootstrap: what Consul's xDS makes of one L4 intention, written by hand.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

/// A listener with mTLS, and what is behind it.
pub(super) struct Listener<'a> {
    pub(super) port: u16,
    pub(super) application: SocketAddr,
    /// Has `roots.pem`, `chain.pem` and `key.pem`.
    pub(super) folder: &'a Path,
    pub(super) alpn: Option<&'static str>,
    pub(super) filters: Value,
    pub(super) http2_onward: bool,
    /// Whether sessions may be resumed; no client of ours does.
    pub(super) resumption: bool,
}

/// A listener on `port` with mTLS and RBAC in front of `application`. The folder has
/// `roots.pem`, `chain.pem` and `key.pem`.
#[must_use]
pub fn bootstrap(port: u16, application: SocketAddr, folder: &Path, allowed: &str) -> Value {
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "public_listener",
        "cluster": "local_app",
    });
    bootstrap_of(&Listener {
        port,
        application,
        folder,
        alpn: None,
        filters: json!([
            { "name": "envoy.filters.network.rbac", "typed_config": rbac(allowed) },
            { "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy },
        ]),
        http2_onward: false,
        resumption: true,
    })
}

/// The network filter that lets `allowed` connect.
pub(super) fn rbac(allowed: &str) -> Value {
    json!({
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
    })
}

/// The whole configuration of one listener.
pub(super) fn bootstrap_of(listener: &Listener<'_>) -> Value {
    let Listener {
        port,
        application,
        folder,
        ..
    } = *listener;
    let socket = |address: &str, port: u16| json!({ "socket_address": { "address": address, "port_value": port } });
    let file = |name: &str| json!({ "filename": folder.join(name).display().to_string() });
    let mut tls = json!({
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
    if !listener.resumption {
        tls["disable_stateless_session_resumption"] = json!(true);
        tls["disable_stateful_session_resumption"] = json!(true);
    }
    if let Some(name) = listener.alpn {
        tls["common_tls_context"]["alpn_protocols"] = json!([name]);
    }
    let mut cluster = json!({
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
    });
    if listener.http2_onward {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    json!({
        "static_resources": {
            "listeners": [{
                "name": "public_listener",
                "address": socket("127.0.0.1", port),
                "filter_chains": [{
                    "transport_socket": { "name": "tls", "typed_config": tls },
                    "filters": listener.filters,
                }],
            }],
            "clusters": [cluster],
        },
    })
}
