//! `portcullis proxy`: a service's place in the mesh.

pub(crate) mod acl;
pub(crate) mod address;
pub(crate) mod arguments;
mod decisions;
mod descriptors;
pub(crate) mod http;
pub(crate) mod limits;
pub(crate) mod operate;
pub(crate) mod reload;
mod sidecar;
pub(crate) mod sockets;
pub(crate) mod upstream;

use std::process::ExitCode;
use std::time::Duration;

use portcullis::admin::Subject;
use portcullis::member::Member;
use portcullis::proxy::{
    Addresses, InboundConfig, ListenAddress, Proxy, ProxyConfig, UpstreamConfig,
};
use portcullis::registration::RegistrationConfig;
use portcullis::sidecar::Sidecar;
use portcullis::watcher::WatcherConfig;
use portcullis_core::intention::Protocol;
use serde_json::json;

use super::decider;
use super::failure::Failure;
use super::first_look;
use super::output::{self, Format};
use super::shutdown::Shutdown;
use super::systemd::Manager;
use arguments::{Origin, ProxyArgs};
use reload::Hangup;
use upstream::{StaticUpstream, Upstream};

/// Runs the command.
pub(crate) async fn run(arguments: &ProxyArgs) -> Result<ExitCode, Failure> {
    let origin = arguments.origin()?;
    if let (Origin::Flags(service), true) = (&origin, arguments.print_acl_policy) {
        output::line(&acl::smallest(&needs(arguments, service)))?;
        return Ok(ExitCode::SUCCESS);
    }
    descriptors::raise();
    let known = match origin {
        Origin::Flags(service) => Ok(Source::Flags {
            config: config(arguments, &service)?,
            service,
        }),
        Origin::Registration(which) => Err(sidecar::Wanted::read(which, &arguments.service_file)?),
    };
    let agent = arguments.agent.client()?;
    let jwks = arguments.http.jwks()?;
    let mut shutdown = Shutdown::listen(&arguments.stop)
        .map_err(|error| Failure::while_doing("cannot listen for signals", &error))?;
    let mut hangup = Hangup::listen()?;
    let manager = Manager::from_env();
    // From here on there are answers, whatever the agent does.
    let admin = arguments.operate.listen(settings(arguments), &agent)?;
    admin.waits_for("the policy component is being compiled");
    let component = arguments.component.component()?;
    let policy = decider::policy(&component)?;
    admin.waits_for("the agent has not answered yet");
    let source = match known {
        Ok(source) => source,
        Err(wanted) => {
            if let Some(needs) = wanted.needs().filter(|_| arguments.print_acl_policy) {
                output::line(&acl::smallest(&needs))?;
                return Ok(ExitCode::SUCCESS);
            }
            let usual = arguments.limits.usual(&arguments.http);
            let registered = wanted.registration(&agent)?;
            let found = tokio::select! {
                found = wanted.find(&agent, &usual, registered.as_ref()) => found,
                _ = shutdown.requested() => {
                    sidecar::leave(registered.as_ref()).await;
                    return Ok(ExitCode::SUCCESS);
                }
                () = admin.drain_requested() => {
                    sidecar::leave(registered.as_ref()).await;
                    return Ok(ExitCode::SUCCESS);
                }
            };
            match found {
                Ok(sidecar) => Source::Registration(sidecar.registered(registered)),
                Err(failure) => {
                    sidecar::leave(registered.as_ref()).await;
                    return Err(failure);
                }
            }
        }
    };
    let service = source.service().to_owned();
    if arguments.print_acl_policy {
        output::line(&acl::smallest(&source.needs()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let ended = async {
    tokio::select! {
        looked = first_look::look(&agent, &service, arguments.http.protocol.is_none()) => looked?,
        _ = shutdown.requested() => {
            source.leave().await;
            return Ok(ExitCode::SUCCESS);
        }
        () = admin.drain_requested() => {
            source.leave().await;
            return Ok(ExitCode::SUCCESS);
        }
    }
    let decisions = arguments
        .decisions
        .decisions(arguments.output.output, &policy, &service)?;
    let reloader = reload::reloader(
        &arguments.component,
        agent.clone(),
        policy.clone(),
        &decisions,
    );
    let member = Member::start(WatcherConfig {
        default_policy: arguments.default_intention_policy.into(),
        max_stale: Some(arguments.max_stale).filter(|budget| !budget.is_zero()),
        matching: arguments.matching.into(),
        protocol: arguments.http.protocol.map(Into::into),
        jwks,
        ..WatcherConfig::new(agent, policy, service.as_str())
    })
    .with_decisions(decisions.clone());
    let proxy = match &source {
        Source::Flags { config, .. } => Proxy::start(member, config.clone()),
        Source::Registration(sidecar) => sidecar.start(member).await,
    }
    .map_err(|error| Failure::from_error(&error))?;
    let subject = Subject::from(proxy.observer());
    admin.observe(subject.clone());
    let sha256 = component.sha256();
    tracing::info!(service, component = sha256, "starting");
    let signal = tokio::select! {
        ended = serve(arguments, &source, &proxy, &sha256) => return ended,
        () = source.keep(&proxy, arguments.drain_timeout) => return Err(Failure::runtime("the watchers have ended")),
        () = reload::keep_current(&reloader, &decisions, &mut hangup, &manager) => "the end of all signals",
        () = manager.tend(&subject, || proxy.is_accepting()) => "the end of all signals",
        () = admin.drain_requested() => "POST /drain",
        signal = shutdown.requested() => signal,
    };
    tracing::info!(signal, "stopping: no more connections are taken");
    manager.stopping();
    let stop = async {
        tokio::join!(source.leave(), proxy.shutdown(arguments.drain_timeout));
    };
    let stopped = shutdown
        .while_cleaning_up(async {
            tokio::select! {
                () = stop => {}
                () = manager.see_out(&proxy) => {}
            }
        })
        .await;
    if let Some(log) = &decisions.log {
        log.flush();
    }
    match stopped {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(code) => {
            proxy.abort_handle().now();
            Ok(code)
        }
    }
    }
    .await;
    if ended.is_err() {
        // What was registered must not stand for a proxy that is not there.
        source.leave().await;
    }
    ended
}

/// The settings of the proxy.
enum Source {
    /// By its flags.
    Flags {
        service: String,
        config: ProxyConfig,
    },
    /// By its registration.
    Registration(Sidecar),
}

impl Source {
    fn service(&self) -> &str {
        match self {
            Self::Flags { service, .. } => service,
            Self::Registration(sidecar) => &sidecar.settings().service,
        }
    }

    /// What goes out, as far as it is known before the start.
    fn upstreams(&self) -> &[UpstreamConfig] {
        match self {
            Self::Flags { config, .. } => &config.upstreams,
            Self::Registration(sidecar) => &sidecar.settings().listening.upstreams,
        }
    }

    /// What the token must be able to do for a registration.
    fn needs(&self) -> acl::Needs<'_> {
        let names = self.upstreams().iter();
        acl::Needs {
            service: self.service(),
            announces: Vec::new(),
            reads: match self {
                Self::Registration(sidecar) => Some(sidecar.name()),
                Self::Flags { .. } => None,
            },
            upstreams: names.map(|upstream| upstream.upstream.name()).collect(),
        }
    }

    /// Takes away what was registered by files.
    async fn leave(&self) {
        if let Self::Registration(sidecar) = self {
            sidecar.leave().await;
        }
    }

    /// Follows the registration, if there is one; for ever.
    async fn keep(&self, proxy: &Proxy, drain: Duration) {
        match self {
            Self::Flags { .. } => std::future::pending().await,
            Self::Registration(sidecar) => sidecar.keep(proxy, drain).await,
        }
    }
}

/// Tells when connections are taken, and then waits for ever.
async fn serve(
    arguments: &ProxyArgs,
    source: &Source,
    proxy: &Proxy,
    sha256: &str,
) -> Result<ExitCode, Failure> {
    let addresses = proxy.addresses();
    if let Some(inbound) = &addresses.inbound {
        tracing::info!(listen = %inbound, application = arguments.service_addr, "inbound");
    }
    if let Source::Flags { config, .. } = source {
        for (upstream, listen) in config.upstreams.iter().zip(&addresses.upstreams) {
            tracing::info!(listen = %listen, service = upstream.upstream.name(), "outbound");
            if matches!(listen, ListenAddress::Tcp(address) if !address.ip().is_loopback()) {
                tracing::warn!(listen = %listen, "whoever reaches this address acts as the service");
            }
        }
    }
    proxy.ready().await;
    tracing::info!("ready: connections are taken");
    if arguments.output.output == Format::Json {
        output::json(&ready(source, &addresses, sha256))?;
    }
    std::future::pending().await
}

/// What is printed once connections are taken.
fn ready(source: &Source, addresses: &Addresses, sha256: &str) -> serde_json::Value {
    let (upstreams, registration) = match source {
        Source::Flags { config, .. } => {
            let upstreams = config.upstreams.iter().zip(&addresses.upstreams);
            let shown = upstreams.map(|(upstream, listen)| {
                json!({ "service": upstream.upstream.name(), "listen": listen.to_string() })
            });
            (shown.collect::<Vec<_>>(), None)
        }
        Source::Registration(sidecar) => {
            let upstreams = sidecar.settings().listening.upstreams.iter();
            let shown = upstreams.map(|upstream| {
                json!({ "service": upstream.upstream.name(), "listen": upstream.listen.to_string() })
            });
            (shown.collect(), Some(sidecar.id()))
        }
    };
    json!({
        "service": source.service(),
        "registration": registration,
        "listen": addresses.inbound.as_ref().map(ToString::to_string),
        "upstreams": upstreams,
        "component_sha256": sha256,
        "process": std::process::id(),
    })
}

/// The effective settings for operators, named as their flags.
fn settings(arguments: &ProxyArgs) -> serde_json::Value {
    let protocol = arguments.http.protocol.map(Protocol::from);
    json!({
        "service": arguments.service,
        "service_addr": arguments.service_addr,
        "listen": arguments.listen,
        "upstream": arguments.upstream.iter().map(|upstream| upstream.service.as_str()).collect::<Vec<_>>(),
        "register": arguments.register,
        "default_intention_policy": arguments.default_intention_policy.as_str(),
        "matching": arguments.matching.as_str(),
        "protocol": protocol.map(Protocol::code),
        "forward_client_cert_details": arguments.http.settings().client_cert.as_str(),
        "max_stale_seconds": arguments.max_stale.as_secs_f64(),
        "drain_timeout_seconds": arguments.drain_timeout.as_secs_f64(),
        "component": arguments.component.file(),
        "decision_log": arguments.decisions.log(),
        "shadow_intentions": arguments.decisions.shadow(),
    })
}

fn config(arguments: &ProxyArgs, service: &str) -> Result<ProxyConfig, Failure> {
    let usual = arguments.limits.usual(&arguments.http);
    let inbound = match (&arguments.listen, &arguments.service_addr) {
        (Some(listen), Some(application)) => {
            let application = address::application(application)?;
            Some(InboundConfig {
                accept_proxy: usual.accept_proxy,
                send_proxy: usual.send_proxy,
                socket_mode: usual.socket_mode,
                ..InboundConfig::new(address::listen(listen)?, application)
            })
        }
        _ => None,
    };
    let register = match &inbound {
        Some(inbound) if arguments.register => Some(registration(arguments, service, inbound)?),
        _ => None,
    };
    let upstreams = upstreams(arguments, usual.socket_mode);
    let names = upstreams.iter().map(|one| one.upstream.name());
    if let Some(stray) = arguments.http.stray(names) {
        return Err(Failure::usage(format_args!(
            "-upstream-protocol names `{stray}`, which is no -upstream: correct its name, or remove it"
        )));
    }
    Ok(ProxyConfig {
        upstreams,
        inbound,
        register,
        limits: usual.limits,
    })
}

/// All upstreams: first those that the agent finds, then the fixed ones.
fn upstreams(arguments: &ProxyArgs, socket_mode: Option<u32>) -> Vec<UpstreamConfig> {
    let found = arguments.upstream.iter().map(Upstream::config);
    found
        .chain(arguments.static_upstream.iter().map(StaticUpstream::config))
        .map(|upstream| UpstreamConfig {
            socket_mode,
            protocol: arguments.http.of_upstream(upstream.upstream.name()),
            ..upstream
        })
        .collect()
}

fn registration(
    arguments: &ProxyArgs,
    service: &str,
    inbound: &InboundConfig,
) -> Result<RegistrationConfig, Failure> {
    let listen = inbound.listen.tcp().ok_or_else(|| {
        Failure::usage("-register needs a -listen of TCP: nobody else reaches a unix socket")
    })?;
    Ok(RegistrationConfig {
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
    })
}

fn needs<'a>(arguments: &'a ProxyArgs, service: &'a str) -> acl::Needs<'a> {
    acl::Needs {
        service,
        announces: arguments
            .register
            .then(|| format!("{service}-proxy"))
            .into_iter()
            .collect(),
        reads: None,
        upstreams: arguments
            .upstream
            .iter()
            .map(|upstream| upstream.service.as_str())
            .collect(),
    }
}
