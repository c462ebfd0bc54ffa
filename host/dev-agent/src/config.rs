//! What a development agent is started with, and why a start can fail.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::ca::KeyType;

/// What a rule set, or its absence, answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultPolicy {
    /// What no rule names is allowed.
    Allow,
    /// What no rule names is denied.
    Deny,
}

impl DefaultPolicy {
    /// The word that Consul uses for it: `allow` or `deny`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// An ACL token with its rules.
///
/// `rules` are Consul's ACL rules, in HCL or JSON, for example
/// `service "web" { policy = "write" }`.
#[derive(Clone)]
pub struct Token {
    /// What a client sends.
    pub secret: String,
    /// How error messages name the token. Made up at start when empty.
    pub accessor: String,
    /// Its rules, several policies one after another. Ignored for a management token.
    pub rules: String,
    /// May do everything, as Consul's `global-management` policy.
    pub management: bool,
}

impl Token {
    /// A token with these rules.
    #[must_use]
    pub fn with_rules(secret: impl Into<String>, rules: impl Into<String>) -> Self {
        Self {
            secret: secret.into(),
            accessor: String::new(),
            rules: rules.into(),
            management: false,
        }
    }

    /// A token that may do everything (Consul's `initial_management`).
    #[must_use]
    pub fn management(secret: impl Into<String>) -> Self {
        Self {
            secret: secret.into(),
            accessor: String::new(),
            rules: String::new(),
            management: true,
        }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("accessor", &self.accessor)
            .field("management", &self.management)
            .finish_non_exhaustive()
    }
}

/// How a [`DevAgent`](crate::DevAgent) behaves. `DevAgentConfig::default()` is
/// Consul's `agent -dev`: port 8500 on loopback, no ACLs, everything in memory.
#[derive(Clone, Debug)]
pub struct DevAgentConfig {
    /// Where it listens. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Listen on an address that is not loopback. Off by default: whoever
    /// reaches this agent can fetch private keys.
    pub allow_non_loopback: bool,
    /// The name of the datacenter, part of every identity.
    pub datacenter: String,
    /// The name of the node in catalog and health replies.
    pub node_name: String,
    /// The first label of the trust domain, a UUID as Consul makes it. Chosen
    /// at random when `None`.
    pub cluster_id: Option<String>,
    /// The ACL default. `Deny` switches ACLs on, as does any token.
    pub default_policy: DefaultPolicy,
    /// What a connection gets that no intention names, when it is to differ
    /// from the ACL default.
    pub default_intention_policy: Option<DefaultPolicy>,
    /// ACL tokens. One switches ACLs on.
    pub tokens: Vec<Token>,
    /// Rules of the anonymous token, which requests without a token use.
    pub anonymous_rules: String,
    /// Where state is kept between runs; in memory only when `None`.
    pub data_dir: Option<PathBuf>,
    /// Life of a leaf certificate. Unlike Consul's configuration this may be
    /// shorter than an hour, for tests.
    pub leaf_ttl: Duration,
    /// Key type of the first root.
    pub key_type: KeyType,
    /// The longest random delay between a rotation and the new certificate of
    /// a caller that was blocked on the leaf endpoint; 30 s in Consul.
    pub rotation_delay: Duration,
    /// Share of a leaf's life after which blocked callers get a new one: at a
    /// random point between the two.
    pub renewal_window: (f64, f64),
    /// Connections served at the same time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Request bodies above this are refused with 413.
    pub max_body: usize,
    /// Further names and addresses that a request's `Host` may have, without
    /// port: for containers. Loopback names and the bound address always may.
    pub allowed_hosts: Vec<String>,
    /// Pretty-print JSON, as Consul's dev mode does. `?pretty` asks for it anyway.
    pub pretty: bool,
}

impl Default for DevAgentConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8500),
            allow_non_loopback: false,
            datacenter: "dc1".to_owned(),
            node_name: "portcullis-dev".to_owned(),
            cluster_id: None,
            default_policy: DefaultPolicy::Allow,
            default_intention_policy: None,
            tokens: Vec::new(),
            anonymous_rules: String::new(),
            data_dir: None,
            leaf_ttl: Duration::from_secs(72 * 3600),
            key_type: KeyType::EcP256,
            rotation_delay: Duration::from_secs(30),
            renewal_window: (0.6, 0.9),
            max_connections: 512,
            max_body: 1 << 20,
            allowed_hosts: Vec::new(),
            pretty: true,
        }
    }
}

impl DevAgentConfig {
    /// For tests: any free port, and no waiting after a rotation.
    #[must_use]
    pub fn for_tests() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            rotation_delay: Duration::ZERO,
            ..Self::default()
        }
    }
}

/// Why a development agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken.
    #[error(
        "`{0}` is in use by another program (a Consul agent?); choose another address or stop it"
    )]
    AddressInUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The address is not loopback and that was not asked for.
    #[error(
        "`{0}` is not a loopback address; this agent hands out private keys, so that must be allowed explicitly"
    )]
    NotLoopback(SocketAddr),
    /// A token's rules cannot be read.
    #[error("the ACL rules of token {accessor} cannot be read: {reason}")]
    Rules {
        /// The token's accessor ID, or `anonymous`.
        accessor: String,
        /// What is wrong.
        reason: String,
    },
    /// A name or a number in the configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The certificate authority cannot be made.
    #[error(transparent)]
    Ca(#[from] crate::ca::CaError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] crate::persist::DataDirError),
}
