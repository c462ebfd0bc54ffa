//! `-sidecar-for` and `-proxy-id`: the registration that configures the proxy.

use std::time::Duration;

use portcullis::agent_client::{AgentClient, AgentError};
use portcullis::sidecar::{Sidecar, SidecarError, Usual, Which};
use portcullis_core::agent::services::NoSidecar;

use super::Source;
use crate::cli::agent::refused;
use crate::cli::failure::Failure;

/// How long to wait before an agent that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Finds the registration and reads it. An agent that does not answer yet is waited for.
///
/// Fails when there is not exactly one, or it says what cannot be done.
pub(super) async fn find(
    agent: &AgentClient,
    which: &Which,
    usual: &Usual,
) -> Result<Source, Failure> {
    let mut told = false;
    loop {
        let error = match Sidecar::find(agent, which, usual.clone()).await {
            Ok(sidecar) => {
                tracing::info!(id = sidecar.id(), "configured by this registration");
                return Ok(Source::Registration(sidecar));
            }
            Err(error) => error,
        };
        match &error {
            SidecarError::Agent(error) if may_come(error) => {
                if !told {
                    tracing::warn!(%error, "waiting for the agent");
                    told = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
            SidecarError::Agent(error) => return Err(refused(error)),
            SidecarError::NoSidecar(NoSidecar::None { service }) => {
                return Err(Failure::from_error(&error).advice(format_args!(
                    "register `{service}` with `connect {{ sidecar_service {{}} }}` on this agent, or give a token that may read its proxy"
                )));
            }
            SidecarError::NoSidecar(NoSidecar::Several { .. }) => {
                return Err(Failure::from_error(&error).advice("name one of them with -proxy-id"));
            }
            SidecarError::Unknown(_) => {
                return Err(Failure::from_error(&error)
                    .advice("register it on this agent first, or check -http-addr"));
            }
            SidecarError::Id(_) => return Err(Failure::from_error(&error).code(2)),
            SidecarError::Refused { .. } => return Err(Failure::from_error(&error)),
        }
    }
}

/// Whether the agent may answer better in a moment.
fn may_come(error: &AgentError) -> bool {
    matches!(
        error,
        AgentError::Refused { .. }
            | AgentError::Broken { .. }
            | AgentError::Timeout { .. }
            | AgentError::Status {
                status: 429 | 500..,
                ..
            }
    )
}
