//! `portcullis ext-authz`: the policy for an Envoy that cannot load the filter.

use std::process::ExitCode;
use std::time::Duration;

use portcullis::envoy::ext_authz::ExtAuthz;
use portcullis::member::Member;
use portcullis::proxy::ListenAddress;
use portcullis::watcher::WatcherConfig;
use portcullis_core::identity::ServiceName;
use portcullis_core::intention::Protocol;
use serde_json::json;

use super::duration;
use super::envoy::serving::{Serving, ServingArgs};
use super::failure::Failure;
use super::jwks::JwksArgs;
use super::proxy::arguments::{DefaultPolicy, Matching};
use super::proxy::{http, limits, operate};

/// Decide for Envoy about connections and requests to a service, over gRPC
///
/// For an Envoy that cannot load the filter: serves `envoy.service.auth.v3.Authorization` to
/// its `ext_authz` filters, network and HTTP, with the same policy. The client's certificate,
/// which Envoy passes on, is verified here. Envoy must be told `include_peer_certificate`,
/// for requests `encode_raw_headers`, and never `failure_mode_allow`; `portcullis envoy
/// bootstrap -ext-authz` writes that, and `portcullis envoy lint` looks for it.
///
/// What the filter does better: it decides without a question over the network, cuts open
/// connections that a change forbids, and lets no server's greeting through to those who
/// are refused (Envoy's network `ext_authz` asks only when the client speaks).
///
/// SIGHUP reads -token-file, the files for TLS with the agent and -component again; so does a
/// change of these files. SIGTERM or SIGINT ends with status 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis ext-authz -service db -listen unix:/run/portcullis/db-authz.sock
  portcullis ext-authz -service api -listen 127.0.0.1:9191 -protocol http
  portcullis ext-authz -service db -print-acl-policy
Which one: the filter where Envoy can load it; `ext-authz` where it cannot; `proxy` without Envoy.")]
pub(crate) struct ExtAuthzArgs {
    /// The service whose callers are judged
    #[arg(long, value_name = "NAME", required = true, value_parser = ServiceName::parse)]
    service: ServiceName,
    /// Where Envoy asks: `unix:path`, `port` or `loopback-address:port`
    #[arg(long, value_name = "ADDRESS", required_unless_present = "print_acl_policy", value_parser = listen)]
    listen: Option<ListenAddress>,
    /// Permissions of the socket, in octal
    #[arg(long, value_name = "MODE", value_parser = limits::mode, default_value = "0600")]
    socket_mode: u32,
    /// What the service speaks; its service-defaults say it unless given, or proxy-defaults, and else it is tcp
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    protocol: Option<http::Protocol>,
    /// What holds when no intention matches; `auto` asks the agent, and denies until it knows
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    default_intention_policy: DefaultPolicy,
    /// How long the last good answers of the agent decide when it is gone; 0 for ever
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "24h")]
    max_stale: Duration,
    /// How to judge what can be read in two ways: `strict` denies, `envoy` does as Envoy
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    matching: Matching,
    #[command(flatten)]
    jwks: JwksArgs,
    #[command(flatten)]
    serving: ServingArgs,
}

/// A unix socket or loopback, for clap: questions hold what requests do, in the clear.
fn listen(text: &str) -> Result<ListenAddress, String> {
    match operate::parse(text)? {
        ListenAddress::Tcp(at) if !at.ip().is_loopback() => Err(
            "requests go over it in the clear, so it must be loopback or a socket like `unix:/run/portcullis/authz.sock`"
                .to_owned(),
        ),
        address => Ok(address),
    }
}

/// Runs the command.
pub(crate) async fn run(arguments: &ExtAuthzArgs) -> Result<ExitCode, Failure> {
    let service = arguments.service.as_str();
    let listen = arguments.listen.as_ref();
    let Some(listen) = listen.filter(|_| !arguments.serving.print_acl_policy) else {
        return arguments.serving.print_acl_policy(service);
    };
    let jwks = arguments.jwks.settings()?;
    let protocol = arguments.protocol.map(Protocol::from);
    let settings = json!({
        "service": service,
        "listen": listen.to_string(),
        "socket_mode": format!("{:04o}", arguments.socket_mode),
        "protocol": protocol.map(Protocol::code),
        "default_intention_policy": arguments.default_intention_policy.as_str(),
        "matching": arguments.matching.as_str(),
        "max_stale_seconds": arguments.max_stale.as_secs_f64(),
    });
    let begun = Serving::begin(&arguments.serving, service, protocol.is_none(), settings).await?;
    let Some(mut serving) = begun else {
        return Ok(ExitCode::SUCCESS);
    };
    let member = Member::start(WatcherConfig {
        default_policy: arguments.default_intention_policy.into(),
        max_stale: Some(arguments.max_stale).filter(|budget| !budget.is_zero()),
        matching: arguments.matching.into(),
        protocol,
        ..serving.config(service, jwks)
    });
    let server = ExtAuthz::start(&member, listen, arguments.socket_mode).map_err(|error| {
        Failure::while_doing(format_args!("cannot listen on `{listen}`"), &error)
    })?;
    let listen = server.address().to_string();
    tracing::info!(service, listen, "decisions for Envoy");
    let told = json!({ "service": service, "listen": listen, "process": std::process::id() });
    let signal = serving
        .run(server.observer(), || server.is_accepting(), &told)
        .await?;
    let counts = server.counts();
    tracing::info!(
        signal,
        allowed = counts.allowed,
        refused = counts.refused,
        "stopping"
    );
    Ok(serving.end(server.stop()).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_ask() {
        for text in ["9191", "127.0.0.1:1", "[::1]:1", "unix:/run/a"] {
            assert!(listen(text).is_ok(), "{text}");
        }
        for text in [":9191", "0.0.0.0:1", "10.0.0.1:1", "x"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }
}
