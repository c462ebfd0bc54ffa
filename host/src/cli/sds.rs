//! `portcullis sds`: Envoy's certificates, from the agent, without a restart.

use std::path::PathBuf;
use std::process::ExitCode;

use portcullis::envoy::relay::Relay;
use portcullis::envoy::sds::{BUNDLES, LEAF, ROOTS, Sds};
use portcullis::jwks::JwksSettings;
use portcullis::member::Member;
use portcullis::watcher::{DefaultPolicySource, WatcherConfig};
use portcullis_core::identity::ServiceName;
use serde_json::json;

use super::envoy;
use super::envoy::serving::{Serving, ServingArgs};
use super::failure::Failure;
use super::jwks::JwksArgs;
use super::proxy::limits;

/// Permissions of the socket: whoever reaches it gets the private key.
const OWNER_ONLY: u32 = 0o600;

/// Give Envoy the certificates of a service, and new ones before they end
///
/// Serves Envoy's secret discovery service (gRPC, `api_type: GRPC`) on a unix socket: the
/// secret `leaf` is the service's certificate and key, `roots` a validation context with the
/// roots of the mesh. `bundles` has the roots of the cluster peers that the service's
/// intentions name, too, each for its own trust domain alone (the token then needs
/// `peering:read`). They come from the Consul agent and are followed; Envoy takes new ones
/// over without a restart and without losing a connection. Until the agent has answered, and
/// while it is gone, Envoy keeps what it has.
///
/// With -relay the same socket answers the questions that the filter has for the agent, with
/// this command's token: Envoy's configuration then needs none. It also fetches the keys of
/// JWT providers for the filter, from the servers that -jwks-allow names.
///
/// `portcullis envoy bootstrap` writes the configuration that asks here.
///
/// SIGHUP reads -token-file and the files for TLS with the agent again; so does a change of
/// these files. SIGTERM or SIGINT ends with status 0, and takes the socket away.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis sds -service db -listen unix:/run/portcullis/db.sock
  portcullis sds -service db -listen unix:/run/portcullis/db.sock -relay -token-file db.token
  portcullis sds -service db -listen unix:/run/portcullis/db.sock -relay -jwks-allow login.example.com
  portcullis sds -service db -print-acl-policy
Which one: `sds` is for services behind Envoy; `proxy` needs no Envoy.")]
pub(crate) struct SdsArgs {
    /// The service whose certificate Envoy gets
    #[arg(long, value_name = "NAME", required = true, value_parser = ServiceName::parse)]
    service: ServiceName,
    /// Where Envoy asks: `unix:path`; never TCP, because private keys go over it
    #[arg(long, value_name = "SOCKET", required_unless_present = "print_acl_policy", value_parser = envoy::socket)]
    listen: Option<PathBuf>,
    /// Permissions of the socket, in octal; `0660` with a group of its own lets an Envoy of another user in
    #[arg(long, value_name = "MODE", value_parser = limits::mode, default_value = "0600")]
    socket_mode: u32,
    /// Answer the filter's questions to the agent, too: only those it needs, about this service alone
    #[arg(long)]
    relay: bool,
    #[command(flatten)]
    jwks: JwksArgs,
    #[command(flatten)]
    serving: ServingArgs,
}

/// Runs the command.
pub(crate) async fn run(arguments: &SdsArgs) -> Result<ExitCode, Failure> {
    let service = arguments.service.as_str();
    let listen = arguments.listen.clone();
    let Some(listen) = listen.filter(|_| !arguments.serving.print_acl_policy) else {
        return arguments.serving.print_acl_policy(service);
    };
    let jwks = arguments.jwks.settings()?;
    if !arguments.relay && !jwks.allowed.is_empty() {
        return Err(Failure::usage(
            "-jwks-allow is for the relay: give -relay, too",
        ));
    }
    let shown = format!("unix:{}", listen.display());
    let settings = json!({
        "service": service,
        "listen": shown,
        "socket_mode": format!("{:04o}", arguments.socket_mode),
        "relay": arguments.relay,
    });
    let begun = Serving::begin(&arguments.serving, service, false, settings).await?;
    let Some(mut serving) = begun else {
        return Ok(ExitCode::SUCCESS);
    };
    let relay = arguments
        .relay
        .then(|| Relay::new(serving.agent.clone(), service, jwks));
    // What is decided here is nothing.
    let member = Member::start(WatcherConfig {
        default_policy: DefaultPolicySource::Deny,
        ..serving.config(service, JwksSettings::default())
    });
    let sds = Sds::start(&member, listen, arguments.socket_mode, relay).map_err(|error| {
        Failure::while_doing(format_args!("cannot listen on `{shown}`"), &error)
            .advice("another process may serve there, or the directory is missing or not writable")
    })?;
    tracing::info!(
        service,
        listen = shown,
        relay = arguments.relay,
        "certificates for Envoy"
    );
    if arguments.socket_mode & !OWNER_ONLY != 0 {
        tracing::warn!(
            mode = format!("{:04o}", arguments.socket_mode),
            "others than the owner may reach the socket: whoever does gets the private key"
        );
    }
    let told = json!({
        "service": service,
        "listen": shown,
        "secrets": [LEAF, ROOTS, BUNDLES],
        "relay": arguments.relay,
        "process": std::process::id(),
    });
    let signal = serving
        .run(sds.observer(), || sds.is_accepting(), &told)
        .await?;
    let counts = sds.counts();
    tracing::info!(
        signal,
        sent = counts.sent,
        accepted = counts.accepted,
        refused = counts.refused,
        "stopping"
    );
    Ok(serving.end(sds.stop()).await)
}
