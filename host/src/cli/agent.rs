//! Flags that say which agent to ask and how, named as Consul names them.

use std::path::PathBuf;

/// Which Consul agent, with which token
///
/// A flag beats its variable; of the tokens, a file beats a value.
#[derive(Clone, Default, clap::Args)]
#[command(next_help_heading = "Consul agent")]
pub(crate) struct AgentArgs {
    /// Address: `host:port`, `http://...`, `https://...` or `unix:///path` [env: CONSUL_HTTP_ADDR] [default: 127.0.0.1:8500]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http_addr: Option<String>,
    /// ACL token; others can read it in the process list, so prefer a file [env: CONSUL_HTTP_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// File with the ACL token [env: CONSUL_HTTP_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// CA certificates for an agent behind TLS, PEM [env: CONSUL_CACERT]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Directory of CA certificates, PEM [env: CONSUL_CAPATH]
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) ca_path: Option<PathBuf>,
    /// Our certificate for an agent that asks for one, PEM [env: CONSUL_CLIENT_CERT]
    #[arg(long, value_name = "FILE")]
    pub(crate) client_cert: Option<PathBuf>,
    /// Its key, PEM [env: CONSUL_CLIENT_KEY]
    #[arg(long, value_name = "FILE")]
    pub(crate) client_key: Option<PathBuf>,
    /// Name to expect in the agent's certificate [env: CONSUL_TLS_SERVER_NAME]
    #[arg(long, value_name = "NAME")]
    pub(crate) tls_server_name: Option<String>,
    /// Datacenter to ask [default: the agent's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) datacenter: Option<String>,
    /// Namespace; Consul Enterprise only [env: CONSUL_NAMESPACE]
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Admin partition; Consul Enterprise only [env: CONSUL_PARTITION]
    #[arg(long, value_name = "NAME")]
    pub(crate) partition: Option<String>,
    /// Let any server answer, not only the leader: answers may be older
    #[arg(long)]
    pub(crate) stale: bool,
}

impl std::fmt::Debug for AgentArgs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of every message.
        formatter.debug_struct("AgentArgs").field("http_addr", &self.http_addr).finish_non_exhaustive()
    }
}
