//! `portcullis proxy`: a service's place in the mesh.

mod acl;
mod address;
pub(crate) mod arguments;
mod upstream;

use std::process::ExitCode;

use portcullis::agent_client::{AgentClient, AgentError};
use portcullis::member::Member;
use portcullis::proxy::{
    Addresses, InboundConfig, Limits, ListenAddress, Proxy, ProxyConfig, UpstreamConfig,
};
use portcullis::registration::RegistrationConfig;
use portcullis::watcher::{DefaultPolicySource, WatcherConfig};
use portcullis_core::agent::{Query, leaf, roots};
use serde_json::json;

use super::agent::refused;
use super::decider;
use super::failure::Failure;
use super::output::{self, Format};
use super::shutdown::Shutdown;
use arguments::{DefaultPolicy, ProxyArgs};
use upstream::{StaticUpstream, Upstream};

/// Runs the command.
pub(crate) async fn run(arguments: &ProxyArgs) -> Result<ExitCode, Failure> {
    let service = arguments.checked_service()?;
    if arguments.print_acl_policy {
        output::line(&acl::smallest(&needs(arguments, service)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = config(arguments, service)?;
    let agent = arguments.agent.client()?;
    let mut shutdown = Shutdown::listen(&arguments.stop)
        .map_err(|error| Failure::while_doing("cannot listen for signals", &error))?;
    let component = arguments.component.component()?;
    let policy = decider::policy(&component)?;
    tokio::select! {
        looked = look(&agent, service) => looked?,
        _ = shutdown.requested() => return Ok(ExitCode::SUCCESS),
    }
    let member = Member::start(WatcherConfig {
        default_policy: match arguments.default_intention_policy {
            DefaultPolicy::Auto => DefaultPolicySource::Auto,
            DefaultPolicy::Allow => DefaultPolicySource::Allow,
            DefaultPolicy::Deny => DefaultPolicySource::Deny,
        },
        max_stale: Some(arguments.max_stale).filter(|budget| !budget.is_zero()),
        matching: arguments.matching.into(),
        ..WatcherConfig::new(agent, policy, service)
    });
    let proxy = Proxy::start(member, config).map_err(|error| Failure::from_error(&error))?;
    let sha256 = component.sha256();
    tracing::info!(service, component = sha256, "starting");
    let signal = tokio::select! {
        ended = serve(arguments, &proxy, &sha256) => return ended,
        signal = shutdown.requested() => signal,
    };
    tracing::info!(signal, "stopping: no more connections are taken");
    match shutdown
        .while_cleaning_up(proxy.shutdown(arguments.drain_timeout))
        .await
    {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(code) => {
            proxy.abort_handle().now();
            Ok(code)
        }
    }
}

/// Tells when connections are taken, and then waits for ever.
async fn serve(arguments: &ProxyArgs, proxy: &Proxy, sha256: &str) -> Result<ExitCode, Failure> {
    let addresses = proxy.addresses();
    if let Some(inbound) = addresses.inbound {
        tracing::info!(listen = %inbound, application = arguments.service_addr, "inbound");
    }
    for (upstream, listen) in upstreams(arguments).iter().zip(&addresses.upstreams) {
        tracing::info!(listen = %listen, service = upstream.upstream.name(), "outbound");
        if matches!(listen, ListenAddress::Tcp(address) if !address.ip().is_loopback()) {
            tracing::warn!(listen = %listen, "whoever reaches this address acts as the service");
        }
    }
    proxy.ready().await;
    tracing::info!("ready: connections are taken");
    if arguments.output.output == Format::Json {
        output::json(&ready(arguments, &addresses, sha256))?;
    }
    std::future::pending().await
}

/// What is printed once connections are taken.
fn ready(arguments: &ProxyArgs, addresses: &Addresses, sha256: &str) -> serde_json::Value {
    let upstreams = upstreams(arguments);
    let upstreams = upstreams.iter().zip(&addresses.upstreams);
    json!({
        "service": arguments.service,
        "listen": addresses.inbound.map(|address| address.to_string()),
        "upstreams": upstreams.map(|(upstream, listen)| {
            json!({ "service": upstream.upstream.name(), "listen": listen.to_string() })
        }).collect::<Vec<_>>(),
        "component_sha256": sha256,
        "process": std::process::id(),
    })
}

/// Asks the agent once for what we cannot do without.
///
/// Fails when that is hopeless: it is no agent, or the token may not. An agent
/// that does not answer yet is waited for instead.
async fn look(agent: &AgentClient, service: &str) -> Result<(), Failure> {
    let leaf = leaf::request(service, &Query::default())
        .map_err(|error| Failure::while_doing("-service", &error).code(2))?;
    let looked = match agent
        .ask(&roots::request(&Query::default()), roots::decode)
        .await
    {
        Ok(_) => agent
            .ask(&leaf, |reply| leaf::decode(reply, service))
            .await
            .map(drop),
        Err(error) => Err(error),
    };
    match looked {
        Ok(()) => Ok(()),
        Err(
            error @ (AgentError::Refused { .. }
            | AgentError::Broken { .. }
            | AgentError::Timeout { .. }
            | AgentError::Status {
                status: 429 | 500..,
                ..
            }),
        ) => {
            tracing::warn!(%error, "waiting for the agent");
            Ok(())
        }
        Err(error) => Err(refused(&error)),
    }
}

fn config(arguments: &ProxyArgs, service: &str) -> Result<ProxyConfig, Failure> {
    let inbound = match (&arguments.listen, &arguments.service_addr) {
        (Some(listen), Some(application)) => Some(InboundConfig {
            application: address::application(application)?,
            listen: address::listen(listen)?,
        }),
        _ => None,
    };
    let register = match &inbound {
        Some(inbound) if arguments.register => Some(registration(arguments, service, inbound)),
        _ => None,
    };
    Ok(ProxyConfig {
        upstreams: upstreams(arguments),
        inbound,
        register,
        limits: Limits::default(),
    })
}

/// All upstreams: first those that the agent finds, then the fixed ones.
fn upstreams(arguments: &ProxyArgs) -> Vec<UpstreamConfig> {
    let found = arguments.upstream.iter().map(Upstream::config);
    found
        .chain(arguments.static_upstream.iter().map(StaticUpstream::config))
        .collect()
}

fn registration(
    arguments: &ProxyArgs,
    service: &str,
    inbound: &InboundConfig,
) -> RegistrationConfig {
    let listen = inbound.listen;
    RegistrationConfig {
        service: service.to_owned(),
        native: false,
        suffix: arguments.register_id.clone(),
        // Where we listen everywhere, the node's address is the one to dial.
        address: if listen.ip().is_unspecified() {
            String::new()
        } else {
            listen.ip().to_string()
        },
        port: listen.port(),
        local: address::tcp(&inbound.application),
    }
}

fn needs<'a>(arguments: &'a ProxyArgs, service: &'a str) -> acl::Needs<'a> {
    acl::Needs {
        service,
        registers: arguments.register,
        upstreams: arguments
            .upstream
            .iter()
            .map(|upstream| upstream.service.as_str())
            .collect(),
    }
}
