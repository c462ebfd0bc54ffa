//! The listener for the mesh: TLS, the policy, and the way to the application.

use portcullis_core::intention::Protocol;
use serde_json::{Map, Value, json};

use super::yaml::{self, HTTP2, indented, quoted};
use super::{
    AGENT, APPLICATION, BUNDLES, Bootstrap, BootstrapError, EXT_AUTHZ, Filter, Inbound, PolicyBy,
    ROOTS, SDS, agent,
};
use crate::proxy::{Application, ListenAddress};

/// The name of the listener, as in Consul's sidecars.
const LISTENER: &str = "public_listener";

/// What the filter says of its decision.
const DECISION: &str = "%FILTER_STATE(wasm.portcullis.decision:PLAIN)%";

pub(super) fn listener(bootstrap: &Bootstrap, inbound: &Inbound) -> String {
    // Requests of peers come with the certificate of the local mesh gateway.
    let by_peers = inbound.peers && inbound.protocol == Protocol::Tcp;
    let roots = if by_peers { BUNDLES } else { ROOTS };
    let tls = format!(
        "\
\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
require_client_certificate: true
# On a resumed session nobody says whether the certificate was verified.
disable_stateless_session_resumption: true
disable_stateful_session_resumption: true
{}",
        yaml::common_tls(SDS, roots, "")
    );
    let filters = if inbound.protocol == Protocol::Tcp {
        tcp(bootstrap, inbound)
    } else {
        http(bootstrap, inbound)
    };
    format!(
        "\
# Connections from the mesh.
- name: {LISTENER}
  address: {}
  filter_chains:
  - transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
{}    filters:
{}",
        yaml::address(&inbound.listen),
        indented(&tls, 8),
        indented(&filters, 4)
    )
}

/// The clusters that the listener needs.
pub(super) fn clusters(inbound: &Inbound) -> Result<Vec<String>, BootstrapError> {
    let mut clusters = Vec::new();
    match &inbound.policy {
        PolicyBy::Filter(filter) => {
            if let Some(config) = &filter.agent {
                clusters.push(agent::cluster(config)?);
            }
            if inbound.protocol != Protocol::Tcp {
                clusters.extend(filter.jwks.clusters()?);
            }
        }
        PolicyBy::ExtAuthz(at) => clusters.push(yaml::grpc_cluster(
            EXT_AUTHZ,
            "`portcullis ext-authz`: decisions",
            at,
        )),
    }
    let endpoint = match &inbound.application {
        Application::Tcp(text) => yaml::endpoint(text)?,
        Application::Unix(path) => (yaml::address(&ListenAddress::Unix(path.clone())), false),
    };
    let more = match inbound.protocol {
        Protocol::Http2 | Protocol::Grpc => HTTP2,
        Protocol::Tcp | Protocol::Http => "",
    };
    clusters.push(yaml::cluster(
        APPLICATION,
        "the application",
        &[endpoint],
        more,
    ));
    Ok(clusters)
}

fn tcp(bootstrap: &Bootstrap, inbound: &Inbound) -> String {
    let policy = match &inbound.policy {
        PolicyBy::Filter(filter) => plugin(bootstrap, inbound, filter, "network"),
        PolicyBy::ExtAuthz(_) => format!(
            "\
- name: portcullis
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz
    stat_prefix: portcullis
    transport_api_version: V3
    include_peer_certificate: true
    send_tls_alert_on_denial: true
    grpc_service: {}
",
            grpc_service()
        ),
    };
    // A server that speaks first would hang if Envoy connected before the client is known.
    let mode = if inbound.client_first {
        "ON_DOWNSTREAM_DATA"
    } else {
        "ON_DOWNSTREAM_TLS_HANDSHAKE"
    };
    let log = yaml::access_log(
        &bootstrap.log(),
        &[
            ("time", "%START_TIME%"),
            ("listener", LISTENER),
            ("peer", "%DOWNSTREAM_PEER_URI_SAN%"),
            ("serial", "%DOWNSTREAM_PEER_SERIAL%"),
            ("decision", DECISION),
            ("from", "%DOWNSTREAM_REMOTE_ADDRESS%"),
            ("received", "%BYTES_RECEIVED%"),
            ("sent", "%BYTES_SENT%"),
            ("ms", "%DURATION%"),
            ("flags", "%RESPONSE_FLAGS%"),
            ("tls_failure", "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"),
        ],
    );
    format!(
        "\
{policy}- name: envoy.filters.network.tcp_proxy
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
    stat_prefix: {LISTENER}
    cluster: {APPLICATION}
    upstream_connect_mode: {mode}
    max_early_data_bytes: 8192
{}",
        indented(&log, 4)
    )
}

fn http(bootstrap: &Bootstrap, inbound: &Inbound) -> String {
    let policy = match &inbound.policy {
        PolicyBy::Filter(filter) => plugin(bootstrap, inbound, filter, "http"),
        PolicyBy::ExtAuthz(_) => format!(
            "\
- name: portcullis
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
    stat_prefix: portcullis
    transport_api_version: V3
    include_peer_certificate: true
    # Headers that occur twice must not arrive as one.
    encode_raw_headers: true
    # Nobody passes when there is no answer.
    failure_mode_allow: false
    status_on_error: {{code: 503}}
    grpc_service: {}
",
            grpc_service()
        ),
    };
    let mut normalization = format!(
        "# As the mesh entry says; the policy checks that it was done.\nnormalize_path: {}\nmerge_slashes: {}\n",
        inbound.normalization.normalize_path, inbound.normalization.merge_slashes
    );
    if let Some(action) = inbound.normalization.escaped_slashes {
        normalization.push_str(&format!("path_with_escaped_slashes_action: {action}\n"));
    }
    if let Some(action) = inbound.normalization.underscores {
        normalization.push_str(&format!(
            "common_http_protocol_options: {{headers_with_underscores_action: {action}}}\n"
        ));
    }
    let decision = match inbound.policy {
        PolicyBy::Filter(_) => DECISION,
        PolicyBy::ExtAuthz(_) => "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%",
    };
    let log = yaml::access_log(
        &bootstrap.log(),
        &[
            ("time", "%START_TIME%"),
            ("listener", LISTENER),
            ("peer", "%DOWNSTREAM_PEER_URI_SAN%"),
            ("serial", "%DOWNSTREAM_PEER_SERIAL%"),
            ("decision", decision),
            ("method", "%REQ(:METHOD)%"),
            ("path", "%REQ(:PATH)%"),
            ("protocol", "%PROTOCOL%"),
            ("status", "%RESPONSE_CODE%"),
            ("details", "%RESPONSE_CODE_DETAILS%"),
            ("flags", "%RESPONSE_FLAGS%"),
            ("received", "%BYTES_RECEIVED%"),
            ("sent", "%BYTES_SENT%"),
            ("ms", "%DURATION%"),
        ],
    );
    let forwarded = if inbound.peers {
        "# What the local mesh gateway says of its client is judged, and what Envoy says of its own\n# client is added behind it: believe the last element, or the one before a gateway's.\nforward_client_cert_details: APPEND_FORWARD"
    } else {
        "# What a client says about itself is replaced by what its certificate says.\nforward_client_cert_details: SANITIZE_SET"
    };
    let manager = format!(
        "\
\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
stat_prefix: {LISTENER}
codec_type: AUTO
{normalization}server_header_transformation: PASS_THROUGH
{forwarded}
set_current_client_cert_details: {{uri: true}}
upgrade_configs: [{{upgrade_type: websocket}}]
{log}route_config:
  name: {LISTENER}
  virtual_hosts:
  - name: {APPLICATION}
    domains: [\"*\"]
    routes:
    - match: {{prefix: /}}
      route: {{cluster: {APPLICATION}, timeout: 0s}}
http_filters:
{policy}- name: envoy.filters.http.router
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"
    );
    format!(
        "\
- name: envoy.filters.network.http_connection_manager
  typed_config:
{}",
        indented(&manager, 4)
    )
}

fn grpc_service() -> String {
    format!(
        "{{envoy_grpc: {{cluster_name: {}}}, timeout: 2s}}",
        quoted(EXT_AUTHZ)
    )
}

/// The filter, in a chain of this kind: `network` or `http`.
fn plugin(bootstrap: &Bootstrap, inbound: &Inbound, filter: &Filter, kind: &str) -> String {
    let mut agent = Map::new();
    let cluster = if filter.agent.is_some() { AGENT } else { SDS };
    agent.insert("cluster".to_owned(), Value::from(cluster));
    let datacenter = filter
        .agent
        .as_ref()
        .and_then(|agent| agent.datacenter.clone());
    agent.extend(datacenter.map(|name| ("datacenter".to_owned(), Value::from(name))));
    let is_http = inbound.protocol != Protocol::Tcp;
    if is_http && filter.agent.is_none() {
        // The relay fetches the keys of JWT providers, too.
        agent.insert("jwks".to_owned(), Value::from(true));
    }
    let mut settings = filter.settings.clone();
    if is_http && !filter.jwks.uris.is_empty() {
        settings.insert("jwks".to_owned(), filter.jwks.setting());
    }
    settings.insert("service".to_owned(), json!(bootstrap.service));
    settings.insert("agent".to_owned(), Value::Object(agent));
    if is_http {
        settings.insert("protocol".to_owned(), json!(inbound.protocol.code()));
    }
    let settings = Value::Object(settings).to_string();
    format!(
        "\
- name: portcullis
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.{kind}.wasm.v3.Wasm
    config:
      name: portcullis
      root_id: portcullis
      # A VM that failed is replaced; FAIL_OPEN would let everybody pass.
      failure_policy: FAIL_RELOAD
      vm_config:
        # Whoever has the same one can write the policy.
        vm_id: portcullis
        runtime: envoy.wasm.runtime.v8
        code: {{local: {{filename: {}}}}}
      configuration:
        \"@type\": type.googleapis.com/google.protobuf.StringValue
        value: {}
",
        quoted(&filter.file.display().to_string()),
        quoted(&settings)
    )
}
