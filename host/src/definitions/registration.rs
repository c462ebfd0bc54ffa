//! Registers what definition files say, again when the agent has forgotten it, and takes
//! it away at the end.

use std::time::Duration;

use portcullis_core::agent::registration::{deregister, register_definition};
use portcullis_core::agent::{HttpRequest, RequestError};
use tokio::time::timeout;

use super::Definition;
use crate::agent_client::{AgentClient, AgentConfig, AgentError, ConfigError, TokenSource};

/// How long taking one service away may take.
const LEAVE: Duration = Duration::from_secs(5);

/// Definitions, and the clients that register them.
#[derive(Debug)]
pub struct FileRegistration {
    all: Vec<(AgentClient, Definition)>,
}

impl FileRegistration {
    /// Prepares to register on the agent of `client`, each with its own token if it has one.
    ///
    /// # Errors
    /// When a token cannot be sent.
    pub fn new(client: &AgentClient, definitions: Vec<Definition>) -> Result<Self, ConfigError> {
        let mut all = Vec::new();
        for definition in definitions {
            let client = match &definition.token {
                Some(token) => AgentClient::new(AgentConfig {
                    token: TokenSource::Value(token.clone()),
                    ..client.config().clone()
                })?,
                None => client.clone(),
            };
            all.push((client, definition));
        }
        Ok(Self { all })
    }

    /// Registers all of them, in order.
    ///
    /// # Errors
    /// The first refusal; what was registered before stays.
    pub async fn register(&self) -> Result<(), AgentError> {
        for (client, definition) in &self.all {
            let request = valid(register_definition(&definition.id, &definition.body))?;
            client.execute_ok(&request).await?;
            tracing::info!(id = definition.id, file = definition.place, "registered");
        }
        Ok(())
    }

    /// The same for an agent that has forgotten them; a failure is logged.
    pub async fn register_again(&self) {
        if let Err(error) = self.register().await {
            tracing::warn!(%error, "not registered again");
        }
    }

    /// Takes all of them away. A failure is logged.
    pub async fn leave(&self) {
        for (client, definition) in self.all.iter().rev() {
            let id = definition.id.as_str();
            let Ok(request) = deregister(id) else {
                continue;
            };
            match timeout(LEAVE, client.execute_ok(&request)).await {
                Ok(Ok(_)) => tracing::info!(id, "deregistered"),
                Ok(Err(AgentError::Status { status: 404, .. })) => {}
                Ok(Err(error)) => tracing::warn!(id, %error, "not deregistered"),
                Err(_) => tracing::warn!(id, "not deregistered: the agent does not answer"),
            }
        }
    }
}

fn valid(request: Result<HttpRequest, RequestError>) -> Result<HttpRequest, AgentError> {
    request.map_err(|error| AgentError::Request {
        path: "registration".to_owned(),
        detail: error.to_string(),
    })
}
