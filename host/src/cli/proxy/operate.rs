//! The flags of the listeners for operators, and what these tell of the settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use portcullis::admin::{Admin, Role};
use portcullis::agent_client::{AgentClient, TokenSource};
use portcullis::proxy::ListenAddress;
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::telemetry;

/// Flags of the listeners for operators
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Operators")]
pub(crate) struct OperateArgs {
    /// Listen for operators (status, configuration, certificates, log level, drain): `port`, `loopback-address:port` or `unix:path`
    #[arg(long, value_name = "ADDRESS", value_parser = parse)]
    admin: Option<ListenAddress>,
    /// Listen for Prometheus at /metrics: `port` for loopback, `address:port`, `:port` for all addresses, or `unix:path`
    #[arg(long, value_name = "ADDRESS", value_parser = parse)]
    metrics: Option<ListenAddress>,
    /// Listen for health checks at /ready and /live: as -metrics
    #[arg(long, value_name = "ADDRESS", value_parser = parse)]
    health: Option<ListenAddress>,
}

/// `port`, `address:port`, `:port` or `unix:path`, for clap.
pub(crate) fn parse(text: &str) -> Result<ListenAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            Err("it has no path; write it like `unix:/run/portcullis/admin.sock`".to_owned())
        } else {
            Ok(ListenAddress::Unix(PathBuf::from(path)))
        };
    }
    let tcp = |ip, port: &str| {
        let port = port.parse().ok()?;
        Some(SocketAddr::new(ip, port))
    };
    let (loopback, any) = (Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED);
    let address = match text.rsplit_once(':') {
        None => tcp(IpAddr::V4(loopback), text),
        Some(("", port)) => tcp(IpAddr::V4(any), port),
        Some(("localhost", port)) => tcp(IpAddr::V4(loopback), port),
        Some(_) => text.parse().ok(),
    };
    address.map(ListenAddress::Tcp).ok_or_else(|| {
        "write it like `15021`, `127.0.0.1:15021`, `:15021` or `unix:/run/portcullis/health.sock`"
            .to_owned()
    })
}

impl OperateArgs {
    /// Listens, before there is anything to tell about. `settings` are the effective ones,
    /// named as their flags and without secrets; those of the agent and of these listeners
    /// are added.
    ///
    /// Fails when an address cannot be bound, or admin would be open to others.
    pub(crate) fn listen(
        &self,
        mut settings: Value,
        agent: &AgentClient,
    ) -> Result<Admin, Failure> {
        if let Some(settings) = settings.as_object_mut() {
            settings.insert("agent".to_owned(), agent_settings(agent));
            for (role, address) in self.listeners() {
                let shown = address.as_ref().map(ToString::to_string);
                settings.insert(role.name().to_owned(), json!(shown));
            }
        }
        let admin = Admin::new(settings, Some(Box::new(telemetry::Log)));
        for (role, address) in self.listeners() {
            let Some(address) = address else { continue };
            let bound = admin
                .serve(role, address)
                .map_err(|error| Failure::from_error(&error))?;
            tracing::info!(listen = %bound, role = role.name(), "for operators");
        }
        Ok(admin)
    }

    fn listeners(&self) -> [(Role, &Option<ListenAddress>); 3] {
        [
            (Role::Admin, &self.admin),
            (Role::Metrics, &self.metrics),
            (Role::Health, &self.health),
        ]
    }
}

/// How the agent is asked. No secrets: of the token only where it comes from.
fn agent_settings(agent: &AgentClient) -> Value {
    let config = agent.config();
    let token = match &config.token {
        TokenSource::None => "none".to_owned(),
        TokenSource::Value(_) => "given by -token or CONSUL_HTTP_TOKEN (not shown)".to_owned(),
        TokenSource::File(path) => format!("from the file {}", path.display()),
    };
    json!({
        "address": agent.address(),
        "token": token,
        "datacenter": config.datacenter,
        "namespace": config.namespace,
        "partition": config.partition,
        "ca_file": config.ca_file,
        "ca_path": config.ca_path,
        "client_cert": config.client_cert,
        "tls_server_name": config.tls_server_name,
        "verify": !config.insecure,
        "stale": config.stale,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_loopback_unless_said_otherwise() {
        for (text, shown) in [
            ("15021", "127.0.0.1:15021"),
            ("0", "127.0.0.1:0"),
            ("localhost:1", "127.0.0.1:1"),
            (":15021", "0.0.0.0:15021"),
            ("[::1]:15021", "[::1]:15021"),
            ("10.0.0.1:15021", "10.0.0.1:15021"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "", ":", "x", "host:1", "::1:2:", "70000", "unix:", "1.2.3.4",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
