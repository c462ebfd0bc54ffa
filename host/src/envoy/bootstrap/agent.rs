//! The agent's cluster, where the filter asks it itself.

use std::net::IpAddr;

use super::{AGENT, BootstrapError, yaml};
use crate::agent_client::{AgentAddress, AgentConfig};
use crate::proxy::ListenAddress;
use yaml::{indented, quoted};

/// The cluster of this agent.
pub(super) fn cluster(agent: &AgentConfig) -> Result<String, BootstrapError> {
    let wrong = |text: &str| BootstrapError::Agent(format!("{text}; leave -direct out"));
    if !agent.path_prefix.is_empty() {
        return Err(wrong("its address has a path"));
    }
    if agent.basic_auth.is_some() {
        return Err(wrong("it asks for a password"));
    }
    let (comment, endpoint, tls) = match &agent.address {
        AgentAddress::Unix(path) => {
            let address = yaml::address(&ListenAddress::Unix(path.clone()));
            ("the Consul agent", (address, false), String::new())
        }
        AgentAddress::Tcp { host, port } => (
            "the Consul agent",
            yaml::endpoint(&join(host, *port))?,
            String::new(),
        ),
        AgentAddress::Tls { host, port } => {
            if agent.insecure {
                return Err(wrong("its certificate is not verified"));
            }
            let tls = tls(agent, host).map_err(wrong)?;
            ("the Consul agent", yaml::endpoint(&join(host, *port))?, tls)
        }
    };
    Ok(yaml::cluster(AGENT, comment, &[endpoint], &tls))
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn tls(agent: &AgentConfig, host: &str) -> Result<String, &'static str> {
    let Some(ca) = &agent.ca_file else {
        return Err("Envoy needs -ca-file to verify it");
    };
    let name = agent.tls_server_name.as_deref().unwrap_or(host);
    let kind = if name.parse::<IpAddr>().is_ok() {
        "IP_ADDRESS"
    } else {
        "DNS"
    };
    let file = |path: &std::path::Path| quoted(&path.display().to_string());
    let mut common = format!(
        "common_tls_context:\n  validation_context:\n    trusted_ca: {{filename: {}}}\n    match_typed_subject_alt_names: [{{san_type: {kind}, matcher: {{exact: {}}}}}]\n",
        file(ca),
        quoted(name)
    );
    if let (Some(certificate), Some(key)) = (&agent.client_cert, &agent.client_key) {
        common.push_str(&format!(
            "  tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]\n",
            file(certificate),
            file(key)
        ));
    }
    let sni = if kind == "DNS" {
        format!("    sni: {}\n", quoted(name))
    } else {
        String::new()
    };
    Ok(format!(
        "transport_socket:\n  name: envoy.transport_sockets.tls\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n{sni}{}",
        indented(&common, 4)
    ))
}
