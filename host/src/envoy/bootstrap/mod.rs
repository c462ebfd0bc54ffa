//! Writes a whole configuration for an Envoy that stands for a service.
//!
//! TLS by `portcullis sds`, decisions by the filter or by `portcullis ext-authz`; what
//! was assumed stands in comments at the top.

mod agent;
mod inbound;
mod key_servers;
mod outbound;
mod yaml;

use std::net::SocketAddr;
use std::path::PathBuf;

use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::Protocol;
use serde_json::Value;

use crate::agent_client::AgentConfig;
use crate::proxy::{Application, ListenAddress};
use yaml::{indented, quoted};

pub use key_servers::KeySets;

/// The cluster of `portcullis sds`.
const SDS: &str = "portcullis";

/// The secret with the roots of the mesh.
const ROOTS: &str = "roots";

/// The secret with those of peers, too.
const BUNDLES: &str = "bundles";

/// The cluster of `portcullis ext-authz`.
const EXT_AUTHZ: &str = "portcullis_ext_authz";

/// The cluster of the agent.
const AGENT: &str = "consul_agent";

/// The cluster of the application.
const APPLICATION: &str = "local_app";

/// What to write.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The service; Envoy's node has its name.
    pub service: String,
    /// The socket of `portcullis sds`.
    pub sds: PathBuf,
    /// Envoy's admin listener.
    pub admin: SocketAddr,
    /// A file for the access logs; standard output if absent.
    pub access_log: Option<PathBuf>,
    /// Connections from the mesh.
    pub inbound: Option<Inbound>,
    /// Connections into the mesh.
    pub upstreams: Vec<Upstream>,
    /// What was assumed, one sentence each.
    pub assumed: Vec<String>,
}

/// Connections from the mesh.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// Where they are accepted.
    pub listen: ListenAddress,
    /// Where they go.
    pub application: Application,
    /// What the application speaks.
    pub protocol: Protocol,
    /// Who decides.
    pub policy: PolicyBy,
    /// Whether clients always speak first.
    pub client_first: bool,
    /// How requests are normalised.
    pub normalization: Normalization,
    /// Whether callers come from cluster peers: connections with certificates of theirs,
    /// requests by way of the local mesh gateway.
    pub peers: bool,
}

/// Who decides.
#[derive(Clone, Debug)]
pub enum PolicyBy {
    /// The filter.
    Filter(Box<Filter>),
    /// `portcullis ext-authz` at this address.
    ExtAuthz(ListenAddress),
}

/// The filter's place and settings.
#[derive(Clone, Debug)]
pub struct Filter {
    /// `filter.wasm`.
    pub file: PathBuf,
    /// The agent, where the filter asks it itself; the relay of `portcullis sds` if absent.
    pub agent: Option<AgentConfig>,
    /// Key sets that it fetches itself; all others by the relay, if there is one.
    pub jwks: KeySets,
    /// Fields of the plugin configuration beside `service`, `agent`, `protocol` and `jwks`.
    pub settings: serde_json::Map<String, Value>,
}

/// `RequestNormalization` of the `mesh` entry, in Envoy's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalization {
    /// `normalize_path`.
    pub normalize_path: bool,
    /// `merge_slashes`.
    pub merge_slashes: bool,
    /// `path_with_escaped_slashes_action`, if it is set.
    pub escaped_slashes: Option<&'static str>,
    /// `headers_with_underscores_action`, if it is set.
    pub underscores: Option<&'static str>,
}

/// Connections to one service of the mesh.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The service.
    pub name: String,
    /// Where our application connects.
    pub listen: ListenAddress,
    /// `host:port` of each instance.
    pub endpoints: Vec<String>,
    /// Who must answer there.
    pub id: SpiffeId,
}

/// Why no configuration can be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// The `mesh` entry has a field that Envoy has no word for.
    #[error("the `mesh` entry's `RequestNormalization`: {0}")]
    Normalization(String),
    /// The filter cannot be told to ask this agent.
    #[error("the filter cannot ask this agent itself: {0}")]
    Agent(String),
    /// A key set has no address.
    #[error("`{0}` is not the `https` URI of a key set")]
    KeySet(String),
    /// An address has no port.
    #[error("`{0}` is not `host:port`")]
    Address(String),
}

impl Default for Normalization {
    /// Consul's own way.
    fn default() -> Self {
        Self {
            normalize_path: true,
            merge_slashes: false,
            escaped_slashes: None,
            underscores: None,
        }
    }
}

impl Normalization {
    /// Reads the field of the `mesh` entry.
    ///
    /// # Errors
    /// When it says something that Envoy has no word for.
    pub fn read(raw: &str) -> Result<Self, BootstrapError> {
        let wrong = BootstrapError::Normalization;
        let Ok(Value::Object(fields)) = serde_json::from_str(raw) else {
            return Err(wrong("it is no object".to_owned()));
        };
        let mut found = Self::default();
        for (name, value) in &fields {
            let flag = || {
                let flag = value.as_bool();
                flag.ok_or_else(|| wrong(format!("`{name}` is no flag")))
            };
            let word = |words: &'static [&'static str]| {
                let text = value.as_str().unwrap_or_default();
                let word = words.iter().copied().find(|word| *word == text);
                match word {
                    None if text.is_empty() && value.is_string() => Ok(None),
                    None => Err(wrong(format!("`{name}` is none of {}", words.join(", ")))),
                    word => Ok(word),
                }
            };
            match name.as_str() {
                "InsecureDisablePathNormalization" => found.normalize_path = !flag()?,
                "MergeSlashes" => found.merge_slashes = flag()?,
                "PathWithEscapedSlashesAction" => {
                    found.escaped_slashes = word(&[
                        "IMPLEMENTATION_SPECIFIC_DEFAULT",
                        "KEEP_UNCHANGED",
                        "REJECT_REQUEST",
                        "UNESCAPE_AND_REDIRECT",
                        "UNESCAPE_AND_FORWARD",
                    ])?;
                }
                "HeadersWithUnderscoresAction" => {
                    found.underscores = word(&["ALLOW", "REJECT_REQUEST", "DROP_HEADER"])?;
                }
                other => return Err(wrong(format!("`{other}` is not known"))),
            }
        }
        Ok(found)
    }
}

impl Bootstrap {
    /// The configuration as YAML with comments.
    ///
    /// # Errors
    /// When an address or the agent cannot be put into one.
    pub fn yaml(&self) -> Result<String, BootstrapError> {
        let mut listeners = Vec::new();
        let mut clusters = vec![yaml::grpc_cluster(
            SDS,
            "`portcullis sds`: certificates, and with -relay the agent",
            &ListenAddress::Unix(self.sds.clone()),
        )];
        if let Some(inbound) = &self.inbound {
            listeners.push(inbound::listener(self, inbound));
            clusters.extend(inbound::clusters(inbound)?);
        }
        for upstream in &self.upstreams {
            listeners.push(outbound::listener(self, upstream));
            clusters.push(outbound::cluster(upstream)?);
        }
        let mut text = format!(
            "# Envoy for `{}` in the mesh, written by `portcullis envoy bootstrap`.\n",
            self.service
        );
        for sentence in &self.assumed {
            text.push_str(&format!("# - {}\n", sentence.replace('\n', " ")));
        }
        let name = quoted(&self.service);
        text.push_str(&format!(
            "node: {{id: {name}, cluster: {name}}}\nadmin:\n  address: {}\nstatic_resources:\n",
            yaml::address(&ListenAddress::Tcp(self.admin))
        ));
        for (kind, items) in [("listeners", listeners), ("clusters", clusters)] {
            text.push_str(&format!("  {kind}:\n"));
            for item in items {
                text.push_str(&indented(&item, 2));
            }
        }
        Ok(text)
    }

    /// The same as JSON, without comments.
    ///
    /// # Errors
    /// As [`Bootstrap::yaml`].
    pub fn json(&self) -> Result<Value, BootstrapError> {
        super::lint::read(&self.yaml()?).map_err(BootstrapError::Address)
    }

    /// The file of the access logs.
    fn log(&self) -> String {
        match &self.access_log {
            Some(file) => quoted(&file.display().to_string()),
            None => quoted("/dev/stdout"),
        }
    }
}

#[cfg(test)]
mod tests;
