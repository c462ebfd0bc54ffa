//! The bootstrap of such an Envoy: the listener is as `portcullis envoy bootstrap` writes it,
//! without access log and with the certificates from files.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::Judge;
use crate::bench::envoy::{Listener, bootstrap_of, rbac as connections_rbac};
use crate::bench::http::envoy::rbac as requests_rbac;
use crate::bench::http::{Version, application::ANSWER, policy};
use crate::bench::mesh::SERVICE;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Who answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    Application,
    Envoy,
}

/// One Envoy.
pub(super) struct Bootstrap<'a> {
    pub(super) port: u16,
    pub(super) application: SocketAddr,
    pub(super) agent: SocketAddr,
    /// Has `roots.pem`, `chain.pem` and `key.pem`.
    pub(super) folder: &'a Path,
    pub(super) allowed: &'a str,
    pub(super) judge: &'a Judge,
    /// Requests by this version are judged; connections without it.
    pub(super) version: Option<Version>,
    pub(super) answers: Answers,
}

impl Bootstrap<'_> {
    pub(super) fn json(&self) -> Value {
        let filters = match self.version {
            None => self.connections(),
            Some(version) => json!([self.requests(version)]),
        };
        let mut bootstrap = bootstrap_of(&Listener {
            port: self.port,
            application: self.application,
            folder: self.folder,
            alpn: self.version.map(Version::alpn),
            filters,
            http2_onward: self.version == Some(Version::Http2),
            resumption: false,
        });
        let agent = json!({ "socket_address": {
            "address": self.agent.ip().to_string(), "port_value": self.agent.port(),
        }});
        if let Some(clusters) = bootstrap["static_resources"]["clusters"].as_array_mut() {
            clusters.push(json!({
                "name": "agent",
                "type": "STATIC",
                "connect_timeout": "5s",
                "load_assignment": {
                    "cluster_name": "agent",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": agent } }] }],
                },
            }));
        }
        bootstrap
    }

    fn connections(&self) -> Value {
        let proxy = json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "public_listener",
                "cluster": "local_app",
                "upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE",
                "max_early_data_bytes": 8192,
            },
        });
        let judge = match self.judge {
            Judge::Nobody => None,
            Judge::Rbac => Some(json!({
                "name": "envoy.filters.network.rbac",
                "typed_config": connections_rbac(self.allowed),
            })),
            Judge::Empty(module) => Some(wasm("network", module, None)),
            Judge::Filter(module) => Some(wasm("network", module, Some(SERVICE))),
        };
        judge.into_iter().chain([proxy]).collect()
    }

    fn requests(&self, version: Version) -> Value {
        let judge = match self.judge {
            Judge::Nobody => None,
            Judge::Rbac => Some(json!({
                "name": "envoy.filters.http.rbac",
                "typed_config": requests_rbac(self.allowed),
            })),
            Judge::Empty(module) => Some(wasm("http", module, None)),
            Judge::Filter(module) => Some(wasm("http", module, Some(policy::SERVICE))),
        };
        let router = json!({
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
        });
        let mut route = json!({ "match": { "prefix": "/" } });
        match self.answers {
            Answers::Application => route["route"] = json!({ "cluster": "local_app" }),
            Answers::Envoy => {
                route["direct_response"] =
                    json!({ "status": 200, "body": { "inline_string": ANSWER } });
            }
        }
        json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "public_listener",
                "codec_type": if version == Version::Http2 { "HTTP2" } else { "HTTP1" },
                "normalize_path": true,
                "merge_slashes": false,
                "forward_client_cert_details": "SANITIZE_SET",
                "set_current_client_cert_details": { "uri": true },
                "route_config": { "name": "public_listener", "virtual_hosts": [{
                    "name": "public_listener",
                    "domains": ["*"],
                    "routes": [route],
                }]},
                "http_filters": judge.into_iter().chain([router]).collect::<Value>(),
            },
        })
    }
}

/// A plugin; ours if it has a service.
fn wasm(chain: &str, module: &Path, service: Option<&str>) -> Value {
    let settings = service.map_or_else(String::new, |service| {
        json!({ "service": service, "agent": { "cluster": "agent" } }).to_string()
    });
    json!({
        "name": format!("envoy.filters.{chain}.wasm"),
        "typed_config": {
            "@type": format!("{TYPES}.filters.{chain}.wasm.v3.Wasm"),
            "config": {
                "name": "portcullis",
                "root_id": "portcullis",
                "failure_policy": "FAIL_RELOAD",
                "vm_config": {
                    "vm_id": "portcullis",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": module.display().to_string() } },
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": settings,
                },
            },
        },
    })
}
