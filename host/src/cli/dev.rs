//! `portcullis dev`: a development agent in place of Consul.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use portcullis::definitions::{self, Definition};
use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, StartError, Token};
use serde::Serialize;

use super::duration;
use super::failure::Failure;
use super::output::{self, Format, OutputArgs, Paint, paint};
use super::shutdown::{Shutdown, StopArgs};

/// Run a development agent: Consul's API for the mesh, with a CA of its own
///
/// For development and tests on one machine. It keeps everything in memory unless
/// --data-dir is given, and hands out private keys to whoever reaches it: it is no
/// replacement for Consul.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis dev
  portcullis dev -default-intention-policy deny
  portcullis dev -listen 127.0.0.1:0 -output json   any free port; the address is printed as JSON
  portcullis dev -data-dir ./mesh                   keep CA, intentions and services between runs
  portcullis dev -service-file web.hcl              with a service, and its sidecar if it has one")]
pub(crate) struct DevArgs {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8500")]
    listen: SocketAddr,
    /// Listen on an address that is not loopback: whoever reaches it gets private keys
    #[arg(long)]
    allow_non_loopback: bool,
    /// What a connection gets that no intention names [default: the ACL default]
    #[arg(long, value_enum, value_name = "POLICY")]
    default_intention_policy: Option<Effect>,
    /// ACL default; `deny` switches ACLs on
    #[arg(long, value_enum, value_name = "POLICY", default_value = "allow")]
    acl_default_policy: Effect,
    /// File with a token that may do everything; switches ACLs on [env: PORTCULLIS_DEV_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    management_token_file: Option<PathBuf>,
    /// Keep state here; without it everything is in memory
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Services to begin with: a service-definition file (HCL or JSON) or a directory of them; may be repeated
    #[arg(long, value_name = "FILE", visible_alias = "config-dir")]
    service_file: Vec<PathBuf>,
    /// Name of the datacenter, part of every identity
    #[arg(long, value_name = "NAME", default_value = "dc1")]
    datacenter: String,
    /// Name of the node
    #[arg(long, value_name = "NAME", default_value = "portcullis-dev")]
    node: String,
    /// Life of a leaf certificate
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "72h")]
    leaf_cert_ttl: Duration,
    /// Longest random delay of new leaf certificates after the CA was rotated; 30s in Consul
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "1s")]
    rotation_delay: Duration,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    stop: StopArgs,
}

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Effect {
    /// Allow.
    Allow,
    /// Deny.
    Deny,
}

impl From<Effect> for DefaultPolicy {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Allow => Self::Allow,
            Effect::Deny => Self::Deny,
        }
    }
}

/// What is printed when the agent serves.
#[derive(Serialize)]
struct Serving<'a> {
    address: String,
    datacenter: &'a str,
    trust_domain: &'a str,
    default_intention_policy: &'static str,
    acl_default_policy: &'static str,
    acls: bool,
    data_dir: Option<String>,
    process: u32,
}

/// Runs the command.
pub(crate) async fn run(arguments: &DevArgs) -> Result<ExitCode, Failure> {
    let mut shutdown = Shutdown::listen(&arguments.stop)
        .map_err(|error| Failure::while_doing("cannot listen for signals", &error))?;
    let tokens = management_token(arguments)?;
    let definitions = definitions(arguments)?;
    let acl_default = DefaultPolicy::from(arguments.acl_default_policy);
    let intention_default = arguments.default_intention_policy.map(DefaultPolicy::from);
    let agent = DevAgent::start(DevAgentConfig {
        listen: arguments.listen,
        allow_non_loopback: arguments.allow_non_loopback,
        datacenter: arguments.datacenter.clone(),
        node_name: arguments.node.clone(),
        default_policy: acl_default,
        default_intention_policy: intention_default,
        tokens,
        data_dir: arguments.data_dir.clone(),
        leaf_ttl: arguments.leaf_cert_ttl,
        rotation_delay: arguments.rotation_delay,
        ..DevAgentConfig::default()
    })
    .await
    .map_err(|error| {
        let failure = Failure::while_doing("the development agent cannot start", &error);
        match error {
            StartError::AddressInUse(_) => {
                failure.advice("-listen 127.0.0.1:0 takes any free port")
            }
            StartError::NotLoopback(_) => failure.advice("-allow-non-loopback does"),
            StartError::Config(_) | StartError::Rules { .. } => failure.code(2),
            _ => failure,
        }
    })?;
    for definition in definitions {
        agent.register(&definition.body).map_err(|error| {
            Failure::usage(format_args!("{}: {}", definition.place, error.text))
        })?;
        tracing::info!(id = definition.id, file = definition.place, "registered");
    }
    let trust_domain = agent.trust_domain();
    let serving = Serving {
        address: agent.url(),
        datacenter: &arguments.datacenter,
        trust_domain: &trust_domain,
        default_intention_policy: agent.default_for_intentions().as_str(),
        acl_default_policy: acl_default.as_str(),
        acls: agent.acls_enabled(),
        data_dir: arguments
            .data_dir
            .as_ref()
            .map(|directory| directory.display().to_string()),
        process: std::process::id(),
    };
    match arguments.output.output {
        Format::Json => output::json(&serving)?,
        Format::Text => output::line(&welcome(&serving))?,
    }
    let signal = shutdown.requested().await;
    tracing::info!(signal, "stopping");
    match shutdown.while_cleaning_up(agent.shutdown()).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(code) => Ok(code),
    }
}

/// The services of the files.
///
/// Fails when one cannot be read, or says something that this agent would ignore.
fn definitions(arguments: &DevArgs) -> Result<Vec<Definition>, Failure> {
    let mut all = Vec::new();
    for file in &arguments.service_file {
        let read = definitions::read(file).map_err(|error| Failure::from_error(&error).code(2))?;
        all.extend(read);
    }
    if let Some(one) = all.iter().find(|one| one.token.is_some()) {
        return Err(Failure::usage(format_args!(
            "{}: `token` has no meaning here, as services from files are registered without one; remove it",
            one.place
        )));
    }
    Ok(all)
}

/// The token of `--management-token-file`.
fn management_token(arguments: &DevArgs) -> Result<Vec<Token>, Failure> {
    let from_env = || {
        std::env::var_os("PORTCULLIS_DEV_TOKEN_FILE")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    let Some(path) = arguments.management_token_file.clone().or_else(from_env) else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::while_doing(
            format_args!("cannot read the token file `{}`", path.display()),
            &error,
        )
        .code(2)
    })?;
    match text.trim() {
        "" => Err(Failure::usage(format_args!(
            "the token file `{}` is empty",
            path.display()
        ))),
        token => Ok(vec![Token::management(token)]),
    }
}

/// What to know and to do next, for people.
fn welcome(serving: &Serving<'_>) -> String {
    let rows = [
        ("address", serving.address.clone()),
        (
            "default policy",
            format!(
                "{} (for connections that no intention names)",
                serving.default_intention_policy
            ),
        ),
        ("trust domain", serving.trust_domain.to_owned()),
        ("datacenter", serving.datacenter.to_owned()),
        (
            "ACLs",
            if serving.acls {
                format!("on, default {}", serving.acl_default_policy)
            } else {
                "off".to_owned()
            },
        ),
        (
            "data",
            serving
                .data_dir
                .clone()
                .unwrap_or_else(|| "in memory, gone when this ends".to_owned()),
        ),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![format!("  {name}"), value])
        .collect();
    format!(
        "{}\n{}\n\n{}\n\nIn another terminal:\n  export CONSUL_HTTP_ADDR={}\n  portcullis proxy -service db -service-addr 127.0.0.1:5432 -listen 127.0.0.1:8443 -register\n  portcullis proxy -service web -upstream db:9191\n  portcullis intention allow web db\n  portcullis check web db\n\nCtrl-C ends it.",
        paint(Paint::Strong, "Portcullis development agent"),
        output::table(&rows),
        paint(
            Paint::Bad,
            "For development only: its CA key is in this process, and whoever reaches the address gets private keys."
        ),
        serving.address,
    )
}
