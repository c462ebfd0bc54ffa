//! Flags that say which agent to ask and how, named as Consul names them.

use std::path::PathBuf;

use portcullis::agent_client::{AgentClient, AgentConfig, AgentError, AgentFlags, Secret};
use portcullis_core::agent::{HttpReply, HttpRequest, ReplyError, RequestError};

use super::failure::Failure;

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
        formatter
            .debug_struct("AgentArgs")
            .field("http_addr", &self.http_addr)
            .finish_non_exhaustive()
    }
}

impl AgentArgs {
    /// A client of the agent that flags and environment name. Opens no connection.
    ///
    /// Fails when a flag, a variable or a file cannot be used.
    pub(crate) fn client(&self) -> Result<AgentClient, Failure> {
        let flags = AgentFlags {
            http_addr: self.http_addr.clone(),
            token: self.token.clone().map(Secret::new),
            token_file: self.token_file.clone(),
            ca_file: self.ca_file.clone(),
            ca_path: self.ca_path.clone(),
            client_cert: self.client_cert.clone(),
            client_key: self.client_key.clone(),
            tls_server_name: self.tls_server_name.clone(),
            datacenter: self.datacenter.clone(),
            namespace: self.namespace.clone(),
            partition: self.partition.clone(),
            stale: self.stale,
        };
        AgentConfig::resolve(flags, |name| std::env::var(name).ok())
            .and_then(AgentClient::new)
            .map_err(|error| Failure::from_error(&error).code(2))
    }
}

/// Sends `request` and reads the reply.
///
/// Fails when the request cannot be written, the agent cannot be asked, refuses,
/// or answers something that cannot be read; in one line that says what to do.
pub(crate) async fn ask<T>(
    client: &AgentClient,
    request: Result<HttpRequest, RequestError>,
    read: impl FnOnce(&HttpReply<'_>) -> Result<T, ReplyError>,
) -> Result<T, Failure> {
    let request = request.map_err(|error| Failure::from_error(&error).code(2))?;
    client
        .ask(&request, read)
        .await
        .map_err(|error| refused(&error))
}

/// The same for a thing that may not exist: `None` for a 404 of a Consul agent.
pub(crate) async fn ask_for<T>(
    client: &AgentClient,
    request: Result<HttpRequest, RequestError>,
    read: impl FnOnce(&HttpReply<'_>) -> Result<T, ReplyError>,
) -> Result<Option<T>, Failure> {
    let request = request.map_err(|error| Failure::from_error(&error).code(2))?;
    match client.ask(&request, read).await {
        Ok(found) => Ok(Some(found)),
        Err(AgentError::Status { status: 404, .. }) => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

/// The agent's refusal, with what to do about it.
pub(crate) fn refused(error: &AgentError) -> Failure {
    let failure = Failure::from_error(error);
    match error {
        AgentError::Denied { .. } => {
            failure.advice("give a token that may do this by -token-file or CONSUL_HTTP_TOKEN_FILE")
        }
        AgentError::UnknownHost { .. } | AgentError::NotConsul { .. } => {
            failure.advice("check -http-addr and CONSUL_HTTP_ADDR")
        }
        _ => failure,
    }
}
