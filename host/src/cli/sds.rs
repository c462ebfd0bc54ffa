//! `portcullis sds`: Envoy's certificates, from the agent, without a restart.

use std::path::PathBuf;
use std::process::ExitCode;

use portcullis::decisions::Decisions;
use portcullis::envoy::relay::Relay;
use portcullis::envoy::sds::{LEAF, ROOTS, Sds};
use portcullis::member::Member;
use portcullis::watcher::{DefaultPolicySource, Watcher, WatcherConfig};
use portcullis_core::identity::ServiceName;
use serde_json::json;

use super::agent::AgentArgs;
use super::decider::{self, ComponentArgs};
use super::envoy;
use super::failure::Failure;
use super::first_look;
use super::output::{self, Format, OutputArgs};
use super::proxy::reload::{self, Hangup};
use super::proxy::{acl, limits};
use super::shutdown::{Shutdown, StopArgs};
use super::systemd::Manager;

/// Permissions of the socket: whoever reaches it gets the private key.
const OWNER_ONLY: u32 = 0o600;

/// Give Envoy the certificates of a service, and new ones before they end
///
/// Serves Envoy's secret discovery service (gRPC, `api_type: GRPC`) on a unix socket: the
/// secret `leaf` is the service's certificate and key, `roots` a validation context with the
/// roots of the mesh. Both come from the Consul agent and are followed; Envoy takes new ones
/// over without a restart and without losing a connection. Until the agent has answered, and
/// while it is gone, Envoy keeps what it has.
///
/// With -relay the same socket answers the questions that the filter has for the agent, with
/// this command's token: Envoy's configuration then needs none.
///
/// `portcullis envoy bootstrap` writes the configuration that asks here.
///
/// SIGHUP reads -token-file and the files for TLS with the agent again; so does a change of
/// these files. SIGTERM or SIGINT ends with status 0, and takes the socket away.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis sds -service db -listen unix:/run/portcullis/db.sock
  portcullis sds -service db -listen unix:/run/portcullis/db.sock -relay -token-file db.token
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
    /// Print the smallest ACL policy with which this works, and end
    #[arg(long)]
    print_acl_policy: bool,
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    stop: StopArgs,
}

/// Runs the command.
pub(crate) async fn run(arguments: &SdsArgs) -> Result<ExitCode, Failure> {
    let service = arguments.service.as_str();
    let Some(listen) = arguments
        .listen
        .clone()
        .filter(|_| !arguments.print_acl_policy)
    else {
        output::line(&acl::smallest(&acl::Needs {
            service,
            announces: Vec::new(),
            reads: None,
            upstreams: Vec::new(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    };
    let agent = arguments.agent.client()?;
    let mut shutdown = Shutdown::listen(&arguments.stop)
        .map_err(|error| Failure::while_doing("cannot listen for signals", &error))?;
    let mut hangup = Hangup::listen()?;
    let manager = Manager::from_env();
    let policy = decider::policy(&arguments.component.component()?)?;
    tokio::select! {
        looked = first_look::look(&agent, service, false) => looked?,
        _ = shutdown.requested() => return Ok(ExitCode::SUCCESS),
    }
    // What is decided here is nothing.
    let decisions = Decisions::default();
    let reloader = reload::reloader(
        &arguments.component,
        agent.clone(),
        policy.clone(),
        &decisions,
    );
    let relay = arguments.relay.then(|| Relay::new(agent.clone(), service));
    let member = Member::start(WatcherConfig {
        default_policy: DefaultPolicySource::Deny,
        ..WatcherConfig::new(agent, policy, service)
    });
    let shown = listen.display().to_string();
    let sds =
        Sds::start(member.watcher(), listen, arguments.socket_mode, relay).map_err(|error| {
            Failure::while_doing(format_args!("cannot listen on `unix:{shown}`"), &error).advice(
                "another process may serve there, or the directory is missing or not writable",
            )
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
    let signal = tokio::select! {
        ended = serve(arguments, member.watcher(), &sds, &manager) => return ended,
        () = reload::keep_current(&reloader, &decisions, &mut hangup, &manager) => "the end of all signals",
        signal = shutdown.requested() => signal,
    };
    let counts = sds.counts();
    tracing::info!(
        signal,
        sent = counts.sent,
        accepted = counts.accepted,
        refused = counts.refused,
        "stopping"
    );
    manager.stopping();
    match shutdown.while_cleaning_up(sds.stop()).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(code) => Ok(code),
    }
}

/// Tells when there are both secrets, and then waits for ever.
async fn serve(
    arguments: &SdsArgs,
    watcher: &Watcher,
    sds: &Sds,
    manager: &Manager,
) -> Result<ExitCode, Failure> {
    let (mut leaf, mut roots) = (watcher.leaf().subscribe(), watcher.subscribe_roots());
    while watcher.leaf().current().is_none() {
        if leaf.changed().await.is_err() {
            return Err(Failure::runtime("the watchers have ended"));
        }
    }
    let has_roots = roots.wait_for(Option::is_some).await.is_ok();
    if !has_roots {
        return Err(Failure::runtime("the watchers have ended"));
    }
    tracing::info!("ready: leaf and roots are there");
    manager.ready();
    if arguments.output.output == Format::Json {
        output::json(&json!({
            "service": arguments.service.as_str(),
            "listen": format!("unix:{}", sds.path().display()),
            "secrets": [LEAF, ROOTS],
            "relay": arguments.relay,
            "process": std::process::id(),
        }))?;
    }
    std::future::pending().await
}
