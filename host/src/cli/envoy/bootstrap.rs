//! `portcullis envoy bootstrap`: a whole configuration for an Envoy of a service.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use portcullis::agent_client::{AgentClient, AgentError, TokenSource};
use portcullis::connector::{self, Endpoint};
use portcullis::envoy::bootstrap::{
    Bootstrap, Filter, Inbound, KeySets, Normalization, PolicyBy, Upstream as Outbound,
};
use portcullis::proxy::ListenAddress;
use portcullis::watcher::protocol_of;
use portcullis_core::agent::{Query, config, health, roots};
use portcullis_core::identity::{ServiceName, SpiffeId};
use portcullis_core::intention::Protocol;
use serde_json::{Map, json};

use crate::cli::agent::{AgentArgs, ask, refused};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::proxy::arguments::{DefaultPolicy, Matching};
use crate::cli::proxy::upstream::{StaticUpstream, Upstream};
use crate::cli::proxy::{address, http, operate};

/// Where most systems have their CA certificates; Envoy does not look for them itself.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Write a whole configuration for the Envoy of a service
///
/// With -listen and -service-addr a listener for the mesh: TLS with the certificates of
/// `portcullis sds`, the policy (the filter, or with -ext-authz the command of that name),
/// and the application behind it. With -upstream a local listener for each service that the
/// application calls. What the flags do not say is asked of the agent: what the service
/// speaks, how the mesh normalises requests, where upstreams are. What was assumed stands at
/// the top of the file, and on standard error.
///
/// The result is a file like any other: read it, change it, check it with
/// `envoy --mode validate -c FILE` and `portcullis envoy lint FILE`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis envoy bootstrap -service db -service-addr 127.0.0.1:5432 -listen :8443 -filter /usr/lib/portcullis/filter.wasm > envoy.yaml
  portcullis envoy bootstrap -service api -service-addr 127.0.0.1:8080 -listen :8443 -protocol http -ext-authz unix:/run/portcullis/api-authz.sock
  portcullis envoy bootstrap -service web -upstream db:9191")]
pub(crate) struct BootstrapArgs {
    /// The service that this Envoy stands for
    #[arg(long, value_name = "NAME", required = true, value_parser = ServiceName::parse)]
    service: ServiceName,
    /// Where the application listens: `host:port` or `unix:path`
    #[arg(long, value_name = "ADDRESS", requires = "listen")]
    service_addr: Option<String>,
    /// Where Envoy accepts connections from the mesh: `host:port` or `:port` for all addresses
    #[arg(long, value_name = "ADDRESS", requires = "service_addr")]
    listen: Option<String>,
    /// The filter's file, as Envoy will find it
    #[arg(long, value_name = "FILE", required_unless_present_any = ["ext_authz", "upstream", "static_upstream"], conflicts_with = "ext_authz")]
    filter: Option<PathBuf>,
    /// In place of the filter: where `portcullis ext-authz` listens, `unix:path` or `address:port`
    #[arg(long, value_name = "ADDRESS", value_parser = operate::parse)]
    ext_authz: Option<ListenAddress>,
    /// What the application speaks; its service-defaults say it unless given, or proxy-defaults, and else it is tcp
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    protocol: Option<http::Protocol>,
    /// Clients always speak first: Envoy then connects to the application only for those who may
    #[arg(long)]
    client_first: bool,
    /// Local listener for an upstream service: `name:[addr:]port` or `name:unix:path`; may be repeated
    #[arg(long, value_name = "UPSTREAM")]
    upstream: Vec<Upstream>,
    /// The same for a server that no agent lists: `[addr:]port=host:port=SPIFFE-ID`; may be repeated
    #[arg(long, value_name = "UPSTREAM")]
    static_upstream: Vec<StaticUpstream>,
    /// Callers come from cluster peers, too: their certificates, or for HTTP what the local mesh gateway says of them
    #[arg(long, requires = "listen")]
    peers: bool,
    /// The socket of `portcullis sds` [default: unix:/run/portcullis/NAME.sock]
    #[arg(long, value_name = "SOCKET", value_parser = super::socket)]
    sds: Option<PathBuf>,
    /// The filter asks the agent itself, without a token, and not `portcullis sds -relay`
    #[arg(long, conflicts_with = "ext_authz")]
    direct: bool,
    /// A key set that the filter fetches itself: the URI of a JWT provider's entry, letter by letter; Envoy gets a cluster for it. All others come by `portcullis sds -relay -jwks-allow`. May be repeated
    #[arg(long, value_name = "URI", requires = "filter")]
    jwks: Vec<String>,
    /// The CA certificates of those servers, as Envoy will find them
    #[arg(long, value_name = "FILE", default_value = SYSTEM_ROOTS)]
    jwks_ca_file: PathBuf,
    /// What holds when no intention matches; `auto` asks the agent, and denies until it knows
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    default_intention_policy: DefaultPolicy,
    /// How to judge what can be read in two ways: `strict` denies, `envoy` does as Envoy
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    matching: Matching,
    /// The filter refuses nothing, it only counts and logs
    #[arg(long, conflicts_with = "ext_authz")]
    shadow: bool,
    /// Where Envoy's admin interface listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:19000")]
    envoy_admin: SocketAddr,
    /// File for the access logs [default: standard output]
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub(crate) async fn run(arguments: &BootstrapArgs) -> Result<ExitCode, Failure> {
    let service = arguments.service.as_str();
    if arguments.listen.is_none()
        && arguments.upstream.is_empty()
        && arguments.static_upstream.is_empty()
    {
        return Err(Failure::usage(
            "nothing to do: give -listen and -service-addr, or -upstream",
        ));
    }
    let agent = arguments.agent.client()?;
    let mut assumed = Vec::new();
    let sds = arguments
        .sds
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("/run/portcullis/{service}.sock")));
    let relay = if arguments.filter.is_some() && arguments.listen.is_some() && !arguments.direct {
        " -relay"
    } else {
        ""
    };
    assumed.push(format!(
        "certificates come from `portcullis sds -service {service} -listen unix:{}{relay}`, which must run as Envoy's user",
        sds.display()
    ));
    let inbound = inbound(arguments, &agent, &mut assumed).await?;
    let upstreams = upstreams(arguments, &agent, &mut assumed).await?;
    let bootstrap = Bootstrap {
        service: service.to_owned(),
        sds,
        admin: arguments.envoy_admin,
        access_log: arguments.access_log.clone(),
        inbound,
        upstreams,
        assumed,
    };
    for sentence in &bootstrap.assumed {
        output::to_stderr(&format!("portcullis: assumed: {sentence}"));
    }
    match arguments.output.output {
        Format::Text => {
            let yaml = bootstrap.yaml();
            let yaml = yaml.map_err(|error| Failure::from_error(&error).code(2))?;
            output::line(yaml.trim_end())?;
        }
        Format::Json => {
            let tree = bootstrap.json();
            output::json(&tree.map_err(|error| Failure::from_error(&error).code(2))?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The listener for the mesh.
async fn inbound(
    arguments: &BootstrapArgs,
    agent: &AgentClient,
    assumed: &mut Vec<String>,
) -> Result<Option<Inbound>, Failure> {
    let (Some(listen), Some(application)) = (&arguments.listen, &arguments.service_addr) else {
        return Ok(None);
    };
    let policy = policy(arguments, agent, assumed)?;
    let protocol = match arguments.protocol {
        Some(protocol) => protocol.into(),
        None => {
            let service = arguments.service.as_str();
            let found = protocol_of(agent, service, "-protocol").await;
            let found = found
                .map_err(|error| Failure::from_error(&error).advice("or say it with -protocol"))?;
            assumed.push(format!(
                "`{service}` speaks {}, as the agent says; after a change of that write this file again",
                found.code()
            ));
            found
        }
    };
    if arguments.peers && protocol != Protocol::Tcp {
        if arguments.ext_authz.is_some() {
            return Err(Failure::usage(
                "-peers: `portcullis ext-authz` does not read what the local mesh gateway says of requests behind Envoy; use -filter",
            ));
        }
        assumed.push("requests of peers come by way of the local mesh gateway; `x-forwarded-client-cert` reaches the application with what the client has said in it, and what its certificate says behind that".to_owned());
    }
    let normalization = if protocol == Protocol::Tcp {
        assumed.push(if arguments.client_first {
            "clients speak first: a server that does hangs".to_owned()
        } else {
            "servers may speak first, so Envoy connects to the application as soon as the handshake is over; with -client-first only for those who may".to_owned()
        });
        Normalization::default()
    } else {
        normalization(agent, assumed).await?
    };
    Ok(Some(Inbound {
        listen: address::listen(listen)?,
        application: address::application(application)?,
        protocol,
        policy,
        client_first: arguments.client_first,
        normalization,
        peers: arguments.peers,
    }))
}

fn policy(
    arguments: &BootstrapArgs,
    agent: &AgentClient,
    assumed: &mut Vec<String>,
) -> Result<PolicyBy, Failure> {
    if let Some(at) = &arguments.ext_authz {
        assumed.push(format!("decisions come from `{}`", decider(arguments, at)));
        return Ok(PolicyBy::ExtAuthz(at.clone()));
    }
    let file = arguments
        .filter
        .as_deref()
        .ok_or_else(|| Failure::usage("-listen needs a policy: give -filter or -ext-authz"))?;
    let file = std::path::absolute(file)
        .map_err(|error| Failure::while_doing("-filter", &error).code(2))?;
    if !file.is_file() {
        assumed.push(missing(&file));
    }
    let mut settings = Map::new();
    if arguments.default_intention_policy != DefaultPolicy::Auto {
        let word = arguments.default_intention_policy.as_str();
        settings.insert("default_policy".to_owned(), json!(word));
    }
    if arguments.matching != Matching::Strict {
        settings.insert("matching".to_owned(), json!(arguments.matching.as_str()));
    }
    if arguments.shadow {
        settings.insert("mode".to_owned(), json!("shadow"));
        assumed.push("in shadow mode the filter refuses nothing".to_owned());
    }
    if !arguments.jwks.is_empty() {
        assumed.push(format!(
            "servers of keys behind HTTPS are verified by `{}`",
            arguments.jwks_ca_file.display()
        ));
    }
    let config = agent.config();
    if arguments.direct && !matches!(config.token, TokenSource::None) {
        assumed.push("with -direct the filter asks the agent without a token: where ACLs are on, use the relay".to_owned());
    }
    Ok(PolicyBy::Filter(Box::new(Filter {
        file,
        agent: arguments.direct.then(|| config.clone()),
        jwks: KeySets {
            uris: arguments.jwks.clone(),
            ca_file: arguments.jwks_ca_file.clone(),
        },
        settings,
    })))
}

/// The command that decides in the place of the filter.
fn decider(arguments: &BootstrapArgs, at: &ListenAddress) -> String {
    let service = arguments.service.as_str();
    let mut command = format!("portcullis ext-authz -service {service} -listen {at}");
    if let Some(protocol) = arguments.protocol {
        command += &format!(" -protocol {}", Protocol::from(protocol).code());
    }
    if arguments.default_intention_policy != DefaultPolicy::default() {
        let word = arguments.default_intention_policy.as_str();
        command += &format!(" -default-intention-policy {word}");
    }
    if arguments.matching != Matching::default() {
        command += &format!(" -matching {}", arguments.matching.as_str());
    }
    command
}

fn missing(file: &Path) -> String {
    format!(
        "`{}` will be there when Envoy starts; here it is not",
        file.display()
    )
}

/// What the mesh entry says.
async fn normalization(
    agent: &AgentClient,
    assumed: &mut Vec<String>,
) -> Result<Normalization, Failure> {
    let request = config::get("mesh", "mesh", &Query::default())
        .map_err(|error| Failure::from_error(&error))?;
    let reply = agent
        .execute(&request)
        .await
        .map_err(|error| refused(&error))?;
    let raw = match agent.refusal(&request, &reply) {
        Some(AgentError::Denied { .. }) => {
            assumed.push("requests are normalised as Consul does by default: the token may not read the mesh entry".to_owned());
            return Ok(Normalization::default());
        }
        None | Some(AgentError::Status { status: 404, .. }) => {
            config::decode_normalization(&reply.as_core())
                .map_err(|error| Failure::from_error(&error))?
        }
        Some(error) => return Err(refused(&error)),
    };
    let Some(raw) = raw else {
        assumed.push(
            "requests are normalised as Consul does by default: the mesh entry says nothing else"
                .to_owned(),
        );
        return Ok(Normalization::default());
    };
    let found = Normalization::read(&raw).map_err(|error| Failure::from_error(&error))?;
    assumed.push(
        "requests are normalised as the mesh entry says now; after a change of it write this file again"
            .to_owned(),
    );
    Ok(found)
}

/// The upstreams, with their instances.
async fn upstreams(
    arguments: &BootstrapArgs,
    agent: &AgentClient,
    assumed: &mut Vec<String>,
) -> Result<Vec<Outbound>, Failure> {
    let mut upstreams = Vec::new();
    if !arguments.upstream.is_empty() {
        let query = Query::default();
        let mesh = ask(agent, Ok(roots::request(&query)), roots::decode).await?;
        for upstream in &arguments.upstream {
            let name = upstream.service.as_str();
            let found = ask(agent, health::request(name, &query), health::decode).await?;
            let endpoints = found.usable().map(|instance| {
                Endpoint::new(instance, name, &mesh.trust_domain).map_err(|error| {
                    Failure::while_doing(format_args!("an instance of `{name}`"), &error)
                })
            });
            let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
            let id = one_identity(name, &endpoints)?;
            assumed.push(format!(
                "`{name}` is at {}, as the agent lists it now: Envoy does not follow the catalogue",
                endpoints
                    .iter()
                    .map(|endpoint| endpoint.address.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
            upstreams.push(Outbound {
                name: name.to_owned(),
                listen: upstream.listen.clone(),
                endpoints: endpoints.into_iter().map(|one| one.address).collect(),
                id,
            });
        }
    }
    for fixed in &arguments.static_upstream {
        let settings = fixed.config();
        if let connector::Upstream::Static { address, id } = &settings.upstream {
            upstreams.push(Outbound {
                name: settings.upstream.name().to_owned(),
                listen: settings.listen.clone(),
                endpoints: vec![address.clone()],
                id: id.clone(),
            });
        }
    }
    Ok(upstreams)
}

/// Who must answer at all of them.
fn one_identity(name: &str, endpoints: &[Endpoint]) -> Result<SpiffeId, Failure> {
    let Some(first) = endpoints.first() else {
        return Err(Failure::runtime(format_args!(
            "the agent lists no healthy instance of `{name}`: register it first, or give it by -static-upstream"
        )));
    };
    if endpoints.iter().any(|one| one.id != first.id) {
        return Err(Failure::runtime(format_args!(
            "the instances of `{name}` have several identities: give them by -static-upstream"
        )));
    }
    Ok(first.id.clone())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use clap::error::ErrorKind;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: BootstrapArgs,
    }

    fn parse(more: &[&str]) -> Result<BootstrapArgs, clap::Error> {
        let authz = ["bootstrap", "--service=db", "--ext-authz=unix:/run/a.sock"];
        let line = Line::try_parse_from(authz.iter().chain(more));
        line.map(|line| line.arguments)
    }

    #[test]
    fn the_command_that_decides_has_what_was_asked_for() {
        let decider = |more: &[&str]| {
            let arguments = parse(more).unwrap();
            decider(&arguments, arguments.ext_authz.as_ref().unwrap())
        };
        let plain = "portcullis ext-authz -service db -listen unix:/run/a.sock";
        assert_eq!(decider(&[]), plain);
        for (flag, word) in [
            ("--protocol=http2", "-protocol http2"),
            (
                "--default-intention-policy=deny",
                "-default-intention-policy deny",
            ),
            ("--matching=envoy", "-matching envoy"),
        ] {
            assert_eq!(decider(&[flag]), format!("{plain} {word}"));
        }
    }

    #[test]
    fn what_only_the_filter_does_is_refused_without_it() {
        for flag in ["--shadow", "--direct"] {
            let refused = parse(&[flag]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ArgumentConflict, "{flag}");
        }
    }
}
