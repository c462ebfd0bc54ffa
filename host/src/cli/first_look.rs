//! What a command that stands for a service asks the agent first.

use portcullis::agent_client::{AgentClient, AgentError};
use portcullis::watcher::{ProtocolError, protocol_of};
use portcullis_core::agent::{Query, leaf, roots};

use super::agent::refused;
use super::failure::Failure;

/// Asks the agent once for what we cannot do without.
///
/// Fails when that is hopeless: it is no agent, or the token may not. An agent
/// that does not answer yet is waited for instead.
pub(crate) async fn look(
    agent: &AgentClient,
    service: &str,
    needs_protocol: bool,
) -> Result<(), Failure> {
    let leaf = leaf::request(service, &Query::default())
        .map_err(|error| Failure::while_doing("-service", &error).code(2))?;
    let looked = match agent
        .ask(&roots::request(&Query::default()), roots::decode)
        .await
    {
        Ok(_) => agent
            .ask(&leaf, |reply| leaf::decode(reply, service))
            .await
            .map(drop),
        Err(error) => Err(error),
    };
    let looked = match looked {
        Ok(()) if needs_protocol => match protocol_of(agent, service, "-protocol").await {
            Ok(_) => Ok(()),
            Err(ProtocolError::Agent(error)) => Err(error),
            Err(error) => return Err(Failure::from_error(&error)),
        },
        looked => looked,
    };
    match looked {
        Ok(()) => Ok(()),
        Err(
            error @ (AgentError::Refused { .. }
            | AgentError::Broken { .. }
            | AgentError::Timeout { .. }
            | AgentError::Status {
                status: 429 | 500..,
                ..
            }),
        ) => {
            tracing::warn!(%error, "waiting for the agent");
            Ok(())
        }
        Err(error) => Err(refused(&error)),
    }
}
