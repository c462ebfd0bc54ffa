//! Pieces of YAML that several parts need.

use std::net::IpAddr;
use std::path::Path;

use super::BootstrapError;
use crate::proxy::ListenAddress;

/// `text` as a YAML string: JSON's are such.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Each line of `text` behind `columns` spaces.
pub(super) fn indented(text: &str, columns: usize) -> String {
    let margin = " ".repeat(columns);
    text.lines()
        .map(|line| {
            if line.is_empty() {
                "\n".to_owned()
            } else {
                format!("{margin}{line}\n")
            }
        })
        .collect()
}

/// An address of Envoy's.
pub(super) fn address(at: &ListenAddress) -> String {
    match at {
        ListenAddress::Tcp(at) => socket_address(&at.ip().to_string(), at.port()),
        ListenAddress::Unix(path) => pipe(path),
    }
}

fn pipe(path: &Path) -> String {
    format!(
        "{{pipe: {{path: {}}}}}",
        quoted(&path.display().to_string())
    )
}

fn socket_address(host: &str, port: u16) -> String {
    format!(
        "{{socket_address: {{address: {}, port_value: {port}}}}}",
        quoted(host)
    )
}

/// `host:port` as an address, and whether the host is a name.
pub(super) fn endpoint(text: &str) -> Result<(String, bool), BootstrapError> {
    let wrong = || BootstrapError::Address(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    let is_name = inner.parse::<IpAddr>().is_err();
    if inner.is_empty() || is_name && inner.contains(':') {
        return Err(wrong());
    }
    Ok((socket_address(inner, port), is_name))
}

/// A cluster of these addresses; `more` is put below its fields.
///
/// Of the addresses of one name the first that answers is taken (RFC 8305). Left to itself Envoy
/// tries IPv6 alone where there is any, be it an application on `localhost`. It can do that for
/// one name only; of several each address is a server of its own.
pub(super) fn cluster(
    name: &str,
    comment: &str,
    endpoints: &[(String, bool)],
    more: &str,
) -> String {
    let kind = match endpoints {
        [(_, true)] => "LOGICAL_DNS\n  dns_lookup_family: ALL",
        _ if endpoints.iter().any(|(_, is_name)| *is_name) => {
            "STRICT_DNS\n  dns_lookup_family: V4_PREFERRED"
        }
        _ => "STATIC",
    };
    let mut text = format!(
        "# {comment}\n- name: {name}\n  type: {kind}\n  connect_timeout: 5s\n{}  load_assignment:\n    cluster_name: {name}\n    endpoints:\n    - lb_endpoints:\n",
        indented(more, 2),
        name = quoted(name),
    );
    for (address, _) in endpoints {
        text.push_str(&format!("      - endpoint: {{address: {address}}}\n"));
    }
    text
}

/// The options of a cluster that speaks HTTP/2.
pub(super) const HTTP2: &str = "\
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
";

/// A cluster that speaks gRPC.
pub(super) fn grpc_cluster(name: &str, comment: &str, at: &ListenAddress) -> String {
    cluster(name, comment, &[(address(at), false)], HTTP2)
}

/// Certificates by SDS, verified by the secret `roots`, with further fields of the validation
/// context.
pub(super) fn common_tls(cluster: &str, roots: &str, validation: &str) -> String {
    let source = format!(
        "{{resource_api_version: V3, api_config_source: {{api_type: GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: {}}}}}]}}}}",
        quoted(cluster)
    );
    let mut text = format!(
        "common_tls_context:\n  tls_params: {{tls_minimum_protocol_version: TLSv1_2}}\n  tls_certificate_sds_secret_configs:\n  - name: leaf\n    sds_config: {source}\n"
    );
    if validation.is_empty() {
        text.push_str(&format!(
            "  validation_context_sds_secret_config:\n    name: {roots}\n    sds_config: {source}\n"
        ));
    } else {
        text.push_str(&format!(
            "  combined_validation_context:\n    default_validation_context:\n{}    validation_context_sds_secret_config:\n      name: {roots}\n      sds_config: {source}\n",
            indented(validation, 6)
        ));
    }
    text
}

/// An access log of JSON lines with these fields, name and format.
pub(super) fn access_log(file: &str, fields: &[(&str, &str)]) -> String {
    let mut text = format!(
        "access_log:\n- name: envoy.access_loggers.file\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: {file}\n    log_format:\n      json_format:\n"
    );
    for (name, format) in fields {
        text.push_str(&format!("        {name}: {}\n", quoted(format)));
    }
    text
}
