//! Settings of the agent client: flags, then `CONSUL_*` variables, then defaults.

use std::io;
use std::path::PathBuf;

use super::address::AgentAddress;
use super::token::{Secret, TokenSource};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The address cannot be read.
    #[error("agent address `{}`: {problem}", .given.escape_debug())]
    Address {
        /// What was given.
        given: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A variable holds something else than a boolean.
    #[error("`{variable}` is `{}`, which is neither true nor false", .given.escape_debug())]
    Boolean {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        given: String,
    },
    /// A file cannot be read.
    #[error("cannot read the {what} `{}`: {source}", .path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than expected.
    #[error("the {what} `{}` {problem}", .path.display())]
    Content {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A client certificate without its key, or the reverse.
    #[error("a client certificate and its key go together: {missing} is missing")]
    HalfAPair {
        /// What is missing.
        missing: &'static str,
    },
    /// The token cannot be sent.
    #[error("{what} holds characters that an HTTP header cannot carry")]
    Token {
        /// Which token.
        what: &'static str,
    },
    /// The name to expect in the agent's certificate is none.
    #[error("`{}` cannot be the name of a TLS server", .0.escape_debug())]
    ServerName(String),
    /// TLS itself cannot be set up.
    #[error("cannot set up TLS to the agent: {0}")]
    Tls(String),
}

/// What command-line flags say; what they leave out comes from the environment.
#[derive(Clone, Debug, Default)]
pub struct AgentFlags {
    /// `-http-addr`
    pub http_addr: Option<String>,
    /// `-token`
    pub token: Option<Secret>,
    /// `-token-file`
    pub token_file: Option<PathBuf>,
    /// `-ca-file`
    pub ca_file: Option<PathBuf>,
    /// `-ca-path`
    pub ca_path: Option<PathBuf>,
    /// `-client-cert`
    pub client_cert: Option<PathBuf>,
    /// `-client-key`
    pub client_key: Option<PathBuf>,
    /// `-tls-server-name`
    pub tls_server_name: Option<String>,
    /// `-datacenter`
    pub datacenter: Option<String>,
    /// `-namespace`
    pub namespace: Option<String>,
    /// `-partition`
    pub partition: Option<String>,
    /// `-stale`
    pub stale: bool,
}

/// How to reach and address a Consul agent.
#[derive(Clone, Debug, Default)]
pub struct AgentConfig {
    /// Where it listens.
    pub address: AgentAddress,
    /// Prepended to every path.
    pub path_prefix: String,
    /// The ACL token.
    pub token: TokenSource,
    /// `user[:password]` for HTTP basic authentication in front of the agent.
    pub basic_auth: Option<Secret>,
    /// PEM file of CA certificates; without it and `ca_path`, the system's.
    pub ca_file: Option<PathBuf>,
    /// Directory of PEM files of CA certificates.
    pub ca_path: Option<PathBuf>,
    /// PEM file of our own certificate chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file of its key.
    pub client_key: Option<PathBuf>,
    /// Name to expect in the agent's certificate instead of the host's.
    pub tls_server_name: Option<String>,
    /// Whether the agent's certificate is not verified (`CONSUL_HTTP_SSL_VERIFY=false`).
    pub insecure: bool,
    /// Datacenter to ask; the agent's own when absent.
    pub datacenter: Option<String>,
    /// Namespace (Enterprise).
    pub namespace: Option<String>,
    /// Admin partition (Enterprise).
    pub partition: Option<String>,
    /// Whether servers other than the leader may answer reads.
    pub stale: bool,
}

impl AgentConfig {
    /// Settings from `CONSUL_*` variables alone.
    ///
    /// # Errors
    /// As [`AgentConfig::resolve`].
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::resolve(AgentFlags::default(), |name| std::env::var(name).ok())
    }

    /// Settings for an agent at `address`, without token.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn at(address: &str) -> Result<Self, ConfigError> {
        let (address, path_prefix) = AgentAddress::parse(address, false)?;
        Ok(Self {
            address,
            path_prefix,
            ..Self::default()
        })
    }

    /// Settings from flags, completed by the variables that Consul's own client reads.
    ///
    /// Of the tokens the order is `-token-file`, `-token`, `CONSUL_HTTP_TOKEN_FILE`,
    /// `CONSUL_HTTP_TOKEN`. Unlike Consul's client, a boolean that cannot be read is
    /// an error: it would switch verification off there.
    ///
    /// # Errors
    /// When an address or a boolean cannot be read, or half of a client certificate is missing.
    pub fn resolve(
        flags: AgentFlags,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let env = |name: &str| env(name).filter(|text| !text.is_empty());
        let path = |name: &str| env(name).map(PathBuf::from);
        let boolean = |variable: &'static str| match env(variable).as_deref() {
            None => Ok(None),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(ConfigError::Boolean {
                variable,
                given: other.to_owned(),
            }),
        };
        let ssl = boolean("CONSUL_HTTP_SSL")?.unwrap_or(false);
        let (address, path_prefix) = match flags.http_addr.or_else(|| env("CONSUL_HTTP_ADDR")) {
            Some(text) => AgentAddress::parse(&text, ssl)?,
            None => AgentAddress::parse("127.0.0.1:8500", ssl)?,
        };
        let token = if let Some(path) = flags.token_file {
            TokenSource::File(path)
        } else if let Some(token) = flags.token {
            TokenSource::Value(token)
        } else if let Some(path) = path("CONSUL_HTTP_TOKEN_FILE") {
            TokenSource::File(path)
        } else {
            env("CONSUL_HTTP_TOKEN").map_or(TokenSource::None, |text| {
                TokenSource::Value(Secret::new(text))
            })
        };
        let client_cert = flags.client_cert.or_else(|| path("CONSUL_CLIENT_CERT"));
        let client_key = flags.client_key.or_else(|| path("CONSUL_CLIENT_KEY"));
        match (&client_cert, &client_key) {
            (Some(_), None) => return Err(ConfigError::HalfAPair { missing: "the key" }),
            (None, Some(_)) => {
                return Err(ConfigError::HalfAPair {
                    missing: "the certificate",
                });
            }
            _ => {}
        }
        Ok(Self {
            address,
            path_prefix,
            token,
            basic_auth: env("CONSUL_HTTP_AUTH").map(Secret::new),
            ca_file: flags.ca_file.or_else(|| path("CONSUL_CACERT")),
            ca_path: flags.ca_path.or_else(|| path("CONSUL_CAPATH")),
            client_cert,
            client_key,
            tls_server_name: flags
                .tls_server_name
                .or_else(|| env("CONSUL_TLS_SERVER_NAME")),
            insecure: boolean("CONSUL_HTTP_SSL_VERIFY")? == Some(false),
            datacenter: flags.datacenter,
            namespace: flags.namespace.or_else(|| env("CONSUL_NAMESPACE")),
            partition: flags.partition.or_else(|| env("CONSUL_PARTITION")),
            stale: flags.stale,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(flags: AgentFlags, env: &'static [(&str, &str)]) -> Result<AgentConfig, ConfigError> {
        AgentConfig::resolve(flags, |name| {
            env.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_given_is_the_agent_on_this_machine() {
        let config = with(AgentFlags::default(), &[]).unwrap();
        assert_eq!(config.address, AgentAddress::default());
        assert_eq!(config.token, TokenSource::None);
        assert!(!config.insecure);
    }

    #[test]
    fn tokens_have_consuls_order() {
        let env: &[(&str, &str)] = &[
            ("CONSUL_HTTP_TOKEN", "env"),
            ("CONSUL_HTTP_TOKEN_FILE", "/env"),
        ];
        let token = |flags| with(flags, env).unwrap().token;
        let value = Some(Secret::new("flag"));
        assert_eq!(
            token(AgentFlags::default()),
            TokenSource::File("/env".into())
        );
        assert_eq!(
            token(AgentFlags {
                token: value.clone(),
                ..AgentFlags::default()
            }),
            TokenSource::Value(Secret::new("flag"))
        );
        assert_eq!(
            token(AgentFlags {
                token: value,
                token_file: Some("/flag".into()),
                ..AgentFlags::default()
            }),
            TokenSource::File("/flag".into())
        );
    }

    #[test]
    fn verification_is_never_lost_by_a_typo() {
        assert!(
            with(
                AgentFlags::default(),
                &[("CONSUL_HTTP_SSL_VERIFY", "flase")]
            )
            .is_err()
        );
        assert!(
            with(
                AgentFlags::default(),
                &[("CONSUL_HTTP_SSL_VERIFY", "false")]
            )
            .unwrap()
            .insecure
        );
    }

    #[test]
    fn ssl_by_variable_beats_http_in_the_address() {
        let config = with(
            AgentFlags::default(),
            &[
                ("CONSUL_HTTP_SSL", "true"),
                ("CONSUL_HTTP_ADDR", "http://a:1"),
            ],
        );
        assert_eq!(
            config.unwrap().address,
            AgentAddress::Tls {
                host: "a".to_owned(),
                port: 1
            }
        );
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert!(with(AgentFlags::default(), &[("CONSUL_CLIENT_CERT", "/c")]).is_err());
        assert!(
            with(
                AgentFlags {
                    client_key: Some("/k".into()),
                    ..AgentFlags::default()
                },
                &[]
            )
            .is_err()
        );
    }
}
