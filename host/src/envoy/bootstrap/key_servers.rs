//! Clusters for servers that publish keys of JWT providers.

use std::net::IpAddr;
use std::path::PathBuf;

use portcullis_core::filter::KeyServer;
use serde_json::{Value, json};

use super::{BootstrapError, yaml};
use yaml::{indented, quoted};

/// Key sets that the filter fetches itself.
#[derive(Clone, Debug, Default)]
pub struct KeySets {
    /// Where they are, as the entries of their providers say it, letter by letter.
    pub uris: Vec<String>,
    /// The CA certificates of servers behind HTTPS.
    pub ca_file: PathBuf,
}

impl KeySets {
    /// The field `jwks` of the plugin configuration.
    pub(super) fn setting(&self) -> Value {
        let sets = self.uris.iter().enumerate();
        sets.map(|(place, uri)| json!({ "uri": uri, "cluster": name(place) }))
            .collect()
    }

    /// A cluster for each.
    pub(super) fn clusters(&self) -> Result<Vec<String>, BootstrapError> {
        let sets = self.uris.iter().enumerate();
        sets.map(|(place, uri)| self.cluster(&name(place), uri))
            .collect()
    }

    fn cluster(&self, name: &str, uri: &str) -> Result<String, BootstrapError> {
        let server = KeyServer::of(uri.to_owned(), name.to_owned())
            .ok_or_else(|| BootstrapError::KeySet(uri.to_owned()))?;
        let port = if server.is_https { 443 } else { 80 };
        let authority = &server.authority;
        let has_port = authority
            .rsplit(']')
            .next()
            .unwrap_or_default()
            .contains(':');
        let endpoint = match has_port {
            true => yaml::endpoint(authority)?,
            false => yaml::endpoint(&format!("{authority}:{port}"))?,
        };
        let tls = match server.is_https {
            true => self.tls(authority),
            false => String::new(),
        };
        Ok(yaml::cluster(
            name,
            "keys of a JWT provider",
            &[endpoint],
            &tls,
        ))
    }

    fn tls(&self, authority: &str) -> String {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        let host = host.trim_matches(['[', ']']);
        let (kind, sni) = match host.parse::<IpAddr>() {
            Ok(_) => ("IP_ADDRESS", String::new()),
            Err(_) => ("DNS", format!("    sni: {}\n", quoted(host))),
        };
        let common = format!(
            "common_tls_context:\n  tls_params: {{tls_minimum_protocol_version: TLSv1_2}}\n  validation_context:\n    trusted_ca: {{filename: {}}}\n    match_typed_subject_alt_names: [{{san_type: {kind}, matcher: {{exact: {}}}}}]\n",
            quoted(&self.ca_file.display().to_string()),
            quoted(host)
        );
        format!(
            "transport_socket:\n  name: envoy.transport_sockets.tls\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n{sni}{}",
            indented(&common, 4)
        )
    }
}

fn name(place: usize) -> String {
    format!("jwks_{place}")
}
