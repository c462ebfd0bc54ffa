//! Listeners for our application, and mTLS to the services behind them.

use super::yaml::{self, indented, quoted};
use super::{Bootstrap, BootstrapError, ROOTS, SDS, Upstream};
use crate::tls::sni_of;

pub(super) fn listener(bootstrap: &Bootstrap, upstream: &Upstream) -> String {
    let name = name(upstream);
    let log = yaml::access_log(
        &bootstrap.log(),
        &[
            ("time", "%START_TIME%"),
            ("listener", &name),
            ("to", "%UPSTREAM_HOST%"),
            ("received", "%BYTES_RECEIVED%"),
            ("sent", "%BYTES_SENT%"),
            ("ms", "%DURATION%"),
            ("flags", "%RESPONSE_FLAGS%"),
            ("tls_failure", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
        ],
    );
    format!(
        "\
# Our application reaches `{}` here; whoever does acts as this service.
- name: {name}
  address: {}
  filter_chains:
  - filters:
    - name: envoy.filters.network.tcp_proxy
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
        stat_prefix: {name}
        cluster: {name}
{}",
        upstream.name,
        yaml::address(&upstream.listen),
        indented(&log, 8),
        name = quoted(&name),
    )
}

pub(super) fn cluster(upstream: &Upstream) -> Result<String, BootstrapError> {
    let id = quoted(&upstream.id.to_string());
    let validation =
        format!("match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: {id}}}}}]\n");
    let sni = sni_of(&upstream.id)
        .map_or_else(String::new, |name| format!("    sni: {}\n", quoted(&name)));
    let tls = format!(
        "\
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
{sni}    # A resumed session would not verify the server again.
    max_session_keys: 0
{}",
        indented(&yaml::common_tls(SDS, ROOTS, &validation), 4)
    );
    let endpoints = upstream
        .endpoints
        .iter()
        .map(|text| yaml::endpoint(text))
        .collect::<Result<Vec<_>, _>>()?;
    let comment = format!("instances of `{}`", upstream.name);
    Ok(yaml::cluster(&name(upstream), &comment, &endpoints, &tls))
}

/// Listener and cluster have one name.
fn name(upstream: &Upstream) -> String {
    format!("upstream_{}", upstream.name)
}
