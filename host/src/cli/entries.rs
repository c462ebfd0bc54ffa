//! What `test`, `lint` and `diff` work on: config entries from files, or from an agent.

use std::path::PathBuf;

use portcullis::agent_client::AgentClient;
use portcullis::entries::{ANY_SERVICE, Entries, Settings};
use portcullis::runtime::{Component, Limits, Policy, PolicyError, PolicyOptions, aws_lc};
use portcullis_core::agent::{Query, config, roots, services};
use portcullis_core::identity::TrustDomain;
use portcullis_core::intention::{DefaultPolicy as Known, Matching as Kind};

use super::agent::{AgentArgs, ask};
use super::decider::ComponentArgs;
use super::eval::EngineKind;
use super::facts;
use super::failure::Failure;
use super::proxy::arguments::{DefaultPolicy, Matching};

/// The largest reply of an agent that is read.
const MAX_REPLY: usize = 32 * 1024 * 1024;

/// What a mesh is like, and who decides.
#[derive(Debug, clap::Args)]
pub(crate) struct MeshArgs {
    /// What holds when no intention matches; `auto` asks the agent
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    pub(crate) default_intention_policy: DefaultPolicy,
    /// How to judge what can be read in two ways
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub(crate) matching: Matching,
    /// What services speak of which neither service-defaults nor proxy-defaults say it
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// The mesh's trust domain [default: the agent's; any will do for files]
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// What decides
    #[arg(long, value_enum, value_name = "ENGINE", default_value_t)]
    engine: EngineKind,
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    agent: AgentArgs,
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    /// Anything over TCP
    Tcp,
    /// HTTP/1.1
    Http,
    /// HTTP/2
    Http2,
    /// gRPC
    Grpc,
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }
}

/// Entries, and what holds when none matches.
pub(crate) struct Mesh {
    pub(crate) entries: Entries,
    pub(crate) default_policy: Known,
    /// Where that comes from, or why it is not known.
    pub(crate) default_source: String,
}

impl MeshArgs {
    /// The entries of these files.
    ///
    /// Fails when one cannot be read; exit status 2.
    pub(crate) fn of_files(&self, files: &[PathBuf]) -> Result<Mesh, Failure> {
        let mut entries = Entries::read(files).map_err(|error| wrong(&error))?;
        self.complete(&mut entries)?;
        let (default_policy, default_source) = match self.default_intention_policy {
            DefaultPolicy::Auto => (Known::Deny, "assumed".to_owned()),
            given => (known(given.as_str()), "flag".to_owned()),
        };
        Ok(Mesh {
            entries,
            default_policy,
            default_source,
        })
    }

    /// The entries of the agent, and the services of its catalog.
    ///
    /// Fails when the agent cannot be asked, refuses, or tells what cannot be read.
    pub(crate) async fn of_agent(&self) -> Result<Mesh, Failure> {
        let client = self.agent.client()?;
        let query = Query::default();
        let roots = ask(&client, Ok(roots::request(&query)), roots::decode).await;
        let roots = roots.map_err(|failure| failure.code(2))?;
        let mut entries = Entries::default();
        entries.trust_domain = Some(roots.trust_domain.clone());
        for kind in [
            "service-intentions",
            "service-defaults",
            "proxy-defaults",
            "mesh",
            "jwt-provider",
        ] {
            let body = list(&client, kind)
                .await
                .map_err(|failure| failure.code(2))?;
            entries
                .add_reply(kind, &body)
                .map_err(|error| wrong(&error))?;
        }
        entries.are_complete();
        let names = ask(
            &client,
            Ok(services::catalog(&query)),
            services::decode_catalog,
        )
        .await;
        for name in names.map_err(|failure| failure.code(2))? {
            if name != "consul" && !name.ends_with("-sidecar-proxy") {
                entries.add_service(&name);
            }
        }
        self.complete(&mut entries)?;
        let (default_policy, default_source) = match self.default_intention_policy {
            DefaultPolicy::Auto => {
                let (code, source) =
                    facts::discover(&client, ANY_SERVICE, &roots.trust_domain).await;
                (known(code), source)
            }
            given => (known(given.as_str()), "flag".to_owned()),
        };
        Ok(Mesh {
            entries,
            default_policy,
            default_source,
        })
    }

    /// The entries of the files, or without files those of the agent.
    ///
    /// Fails as both do.
    pub(crate) async fn read(&self, files: &[PathBuf]) -> Result<Mesh, Failure> {
        match files {
            [] => self.of_agent().await,
            files => self.of_files(files),
        }
    }

    fn complete(&self, entries: &mut Entries) -> Result<(), Failure> {
        if let Some(protocol) = self.protocol {
            entries.suppose_protocol(protocol.as_str());
        }
        if let Some(name) = &self.trust_domain {
            let name = TrustDomain::parse(name).map_err(|error| {
                Failure::while_doing(format_args!("--trust-domain `{name}`"), &error).code(2)
            })?;
            entries.trust_domain = Some(name.as_str().to_owned());
        }
        Ok(())
    }

    /// What the policy is told besides the entries.
    pub(crate) fn settings(&self, mesh: &Mesh) -> Settings {
        Settings::new(
            &mesh.entries,
            mesh.default_policy,
            Kind::from(self.matching),
        )
    }

    /// Makes policies to ask.
    ///
    /// Fails when the component cannot be used.
    pub(crate) fn engine(&self) -> Result<Engine, Failure> {
        Ok(Engine(match self.engine {
            EngineKind::Native => None,
            EngineKind::Component => Some(self.component.component()?),
        }))
    }
}

/// What decides: a component, or the core itself.
pub(crate) struct Engine(Option<Component>);

impl Engine {
    /// A policy without documents.
    ///
    /// Fails when no instance can be made.
    pub(crate) fn policy(&self) -> Result<Policy, PolicyError> {
        let options = PolicyOptions {
            instances: 1,
            limits: Limits::default(),
        };
        match &self.0 {
            None => Ok(Policy::native(aws_lc())),
            Some(component) => Policy::new(component, options),
        }
    }
}

/// Says what makes the answer worth less, where the default policy is only assumed.
pub(crate) fn default_note(mesh: &Mesh) -> String {
    match mesh.default_source.as_str() {
        "assumed" => format!(
            "default policy {} (assumed; say it by -default-intention-policy)",
            mesh.default_policy
        ),
        source => format!("default policy {} ({source})", mesh.default_policy),
    }
}

/// An error in what was given: exit status 2.
pub(crate) fn wrong(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(error).code(2)
}

fn known(code: &str) -> Known {
    Known::from_code(code).unwrap_or_default()
}

async fn list(client: &AgentClient, kind: &str) -> Result<String, Failure> {
    let (body, filtered) = ask(client, config::list(kind, &Query::default()), |reply| {
        let body = String::from_utf8_lossy(reply.ok(MAX_REPLY)?).into_owned();
        Ok((body, reply.headers.filtered))
    })
    .await?;
    if filtered {
        tracing::warn!(kind, "the token does not see every config entry");
    }
    Ok(body)
}
