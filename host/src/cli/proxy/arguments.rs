//! The flags of `portcullis proxy`: those of `consul connect proxy`, and ours.

use std::path::PathBuf;
use std::time::Duration;

use portcullis::sidecar::Which;
use portcullis::watcher::DefaultPolicySource;
use portcullis_core::identity::ServiceName;

use super::decisions::DecisionArgs;
use super::http::HttpArgs;
use super::limits::LimitArgs;
use super::operate::OperateArgs;
use super::upstream::{StaticUpstream, Upstream};
use crate::cli::agent::AgentArgs;
use crate::cli::decider::ComponentArgs;
use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::output::OutputArgs;
use crate::cli::shutdown::StopArgs;

/// Put a service into the mesh: mTLS in and out, each connection decided by the policy
///
/// Inbound: accept mTLS on -listen, let the policy decide about the client, and only
/// then connect to the application at -service-addr. Outbound: for each -upstream
/// listen locally, and connect with mTLS to an instance that proves to be that
/// service. Certificates, roots and intentions come from the Consul agent and are
/// kept up to date; open connections that a change forbids are cut.
///
/// SIGHUP reads -token-file, the agent's CA, client certificate and key, and -component
/// again, and -shadow-intentions; so does a change of these files. What is wrong with them
/// leaves the last good ones in use, and is logged. -decision-log is opened again.
///
/// Started by systemd it tells when it is ready, feeds the watchdog, and uses sockets named
/// `inbound` (instead of -listen) and `upstream-NAME`.
///
/// SIGTERM or SIGINT stops accepting, lets connections finish for --drain-timeout,
/// removes the registration and ends with status 0; a second signal ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis proxy -service db -service-addr 127.0.0.1:5432 -listen :8443 -register
  portcullis proxy -service web -upstream db:9191
  portcullis proxy -service web -upstream db:9191 -print-acl-policy
  portcullis proxy -sidecar-for web                 as registered with `connect { sidecar_service {} }`
  portcullis proxy -register -service-file web.hcl  the same, and register it
Which one: `proxy` is for real services; `demo` shows it with made-up ones.")]
pub(crate) struct ProxyArgs {
    /// Take everything from the registration of the only proxy of the service with this ID [env: CONNECT_SIDECAR_FOR]
    #[arg(long, value_name = "ID", conflicts_with_all = CONFIGURED)]
    sidecar_for: Option<String>,
    /// Take everything from the registration of the proxy with this ID [env: CONNECT_PROXY_ID]
    #[arg(long, value_name = "ID", conflicts_with_all = CONFIGURED, conflicts_with = "sidecar_for")]
    proxy_id: Option<String>,
    /// The service that this proxy stands for; its identity in the mesh
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Where the application listens: `host:port` or `unix:path`
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) service_addr: Option<String>,
    /// Where to accept mTLS from the mesh: `host:port`, `:port` for all addresses, or `unix:path`
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// Local listener for an upstream service: `name:[addr:]port` or `name:unix:path`; may be repeated
    #[arg(long, value_name = "UPSTREAM")]
    pub(crate) upstream: Vec<Upstream>,
    /// The same for a server that no agent lists: `[addr:]port=host:port=SPIFFE-ID`; may be repeated
    #[arg(long, value_name = "UPSTREAM")]
    pub(crate) static_upstream: Vec<StaticUpstream>,
    /// Announce the service to the agent, with a check that is kept passing
    #[arg(long)]
    pub(crate) register: bool,
    /// Announce what this service-definition file says (HCL or JSON, or a directory of them), and be its sidecar; may be repeated
    #[arg(long, value_name = "FILE", requires = "register")]
    pub(crate) service_file: Vec<PathBuf>,
    /// What distinguishes this registration from others of the same service
    #[arg(
        long,
        value_name = "SUFFIX",
        requires = "register",
        conflicts_with = "service_file"
    )]
    pub(crate) register_id: Option<String>,
    #[command(flatten)]
    pub(crate) component: ComponentArgs,
    /// What holds when no intention matches; `auto` asks the agent, and denies until it knows
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    pub(crate) default_intention_policy: DefaultPolicy,
    /// How long the last good answers of the agent decide when it is gone; 0 for ever
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "24h")]
    pub(crate) max_stale: Duration,
    /// How to judge what can be read in two ways: `strict` denies, `envoy` does as Envoy
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub(crate) matching: Matching,
    /// How long open connections may go on after a signal to stop
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "30s")]
    pub(crate) drain_timeout: Duration,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    #[command(flatten)]
    pub(crate) decisions: DecisionArgs,
    #[command(flatten)]
    pub(crate) operate: OperateArgs,
    /// Print the smallest ACL policy with which this proxy can work, and end
    #[arg(long)]
    pub(crate) print_acl_policy: bool,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) stop: StopArgs,
}

/// Flags that say what a registration says as well.
const CONFIGURED: [&str; 6] = [
    "service",
    "service_addr",
    "listen",
    "upstream",
    "static_upstream",
    "register_id",
];

/// Where the settings of the proxy come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its flags, for this service.
    Flags(String),
    /// Its registration; of the proxies in its files, if nothing else is said.
    Registration(Option<Which>),
}

/// What holds when no intention matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DefaultPolicy {
    /// Find out from the agent.
    #[default]
    Auto,
    /// Allow.
    Allow,
    /// Deny.
    Deny,
}

/// How to judge what can be read in two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Matching {
    /// An allow must hold in every reading, a deny in any.
    #[default]
    Strict,
    /// As Envoy reads it.
    Envoy,
}

impl DefaultPolicy {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl From<DefaultPolicy> for DefaultPolicySource {
    fn from(policy: DefaultPolicy) -> Self {
        match policy {
            DefaultPolicy::Auto => Self::Auto,
            DefaultPolicy::Allow => Self::Allow,
            DefaultPolicy::Deny => Self::Deny,
        }
    }
}

impl From<Matching> for portcullis_core::intention::Matching {
    fn from(matching: Matching) -> Self {
        match matching {
            Matching::Strict => Self::Strict,
            Matching::Envoy => Self::Envoy,
        }
    }
}

impl Matching {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Envoy => "envoy",
        }
    }
}

impl ProxyArgs {
    /// Where the settings come from, once the flags are known to make sense together.
    ///
    /// Fails with what is missing or cannot be combined.
    pub(crate) fn origin(&self) -> Result<Origin, Failure> {
        let which = self.registration()?;
        if which.is_none() && self.service_file.is_empty() {
            return self
                .checked_service()
                .map(|name| Origin::Flags(name.to_owned()));
        }
        if let Some((flag, _)) = self.settings().iter().find(|(_, given)| *given) {
            return Err(Failure::usage(format_args!(
                "{flag} and -service-file both say what this proxy is: write it into the file, or leave out the file"
            )));
        }
        if self.register && self.service_file.is_empty() {
            return Err(Failure::usage(
                "-register has nothing to announce: what -sidecar-for and -proxy-id name is registered already; give -service-file to register it now",
            ));
        }
        Ok(Origin::Registration(which))
    }

    /// The flags that say what a registration says as well, and whether they are given.
    fn settings(&self) -> [(&'static str, bool); 5] {
        [
            ("-service", self.service.is_some()),
            ("-service-addr", self.service_addr.is_some()),
            ("-listen", self.listen.is_some()),
            ("-upstream", !self.upstream.is_empty()),
            ("-static-upstream", !self.static_upstream.is_empty()),
        ]
    }

    /// Whether a registration says what this proxy is.
    pub(crate) fn is_by_registration(&self) -> bool {
        matches!(self.registration(), Ok(Some(_)))
    }

    /// The registration that flags or variables name. Of two variables the one for the
    /// proxy's own ID counts, as in Consul.
    fn registration(&self) -> Result<Option<Which>, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let found = if let Some(id) = &self.proxy_id {
            Which::ProxyId(id.clone())
        } else if let Some(id) = &self.sidecar_for {
            Which::SidecarFor(id.clone())
        } else {
            let (name, which) = if let Some(id) = variable("CONNECT_PROXY_ID") {
                ("CONNECT_PROXY_ID", Which::ProxyId(id))
            } else if let Some(id) = variable("CONNECT_SIDECAR_FOR") {
                ("CONNECT_SIDECAR_FOR", Which::SidecarFor(id))
            } else {
                return Ok(None);
            };
            if let Some((flag, _)) = self.settings().iter().find(|(_, given)| *given) {
                return Err(Failure::usage(format_args!(
                    "{flag} and the variable {name} both say what this proxy is: unset the variable, or leave out the flag"
                )));
            }
            which
        };
        match &found {
            Which::ProxyId(id) | Which::SidecarFor(id) if id.is_empty() => Err(Failure::usage(
                "-sidecar-for and -proxy-id need an ID, such as `-sidecar-for web`",
            )),
            _ => Ok(Some(found)),
        }
    }

    /// The service of the flags.
    fn checked_service(&self) -> Result<&str, Failure> {
        let usage = |text: &str| Err(Failure::usage(text));
        let Some(service) = self.service.as_deref().filter(|name| !name.is_empty()) else {
            return usage(
                "-service is missing: name the service that this proxy stands for, such as `-service web`, or its registration, such as `-sidecar-for web`",
            );
        };
        ServiceName::parse(service).map_err(|error| {
            Failure::while_doing(format_args!("-service `{service}`"), &error).code(2)
        })?;
        if self.print_acl_policy {
            return Ok(service);
        }
        match (&self.service_addr, &self.listen) {
            (Some(_), None) => usage(
                "-listen is missing: say where to accept connections for -service-addr, such as `-listen :8443`",
            ),
            (None, Some(_)) => usage(
                "-service-addr is missing: say where the application listens, such as `-service-addr 127.0.0.1:8080`",
            ),
            (None, None) if self.register => usage(
                "-register needs -listen and -service-addr: there is nothing to announce otherwise",
            ),
            (None, None) if self.upstream.is_empty() && self.static_upstream.is_empty() => usage(
                "there is nothing to do: give -listen with -service-addr, or -upstream, or both",
            ),
            _ => Ok(service),
        }
    }
}
