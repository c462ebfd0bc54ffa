//! `-sidecar-for` and `-proxy-id`: the registration that configures the proxy.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use portcullis::agent_client::{AgentClient, AgentError};
use portcullis::definitions::{self, Definition, FileRegistration};
use portcullis::sidecar::{Sidecar, SidecarError, Usual, Which};
use portcullis_core::agent::services::NoSidecar;

use super::Source;
use crate::cli::agent::refused;
use crate::cli::failure::Failure;

/// How long to wait before an agent that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// The registration that is wanted, and what is to be registered first.
pub(super) struct Wanted {
    which: Which,
    definitions: Vec<Definition>,
}

impl Wanted {
    /// Reads the files. Without `which` their only proxy is wanted.
    ///
    /// Fails when a file cannot be read, or does not say which proxy is meant.
    pub(super) fn read(which: Option<Which>, files: &[PathBuf]) -> Result<Self, Failure> {
        let mut definitions = Vec::new();
        for file in files {
            let read =
                definitions::read(file).map_err(|error| Failure::from_error(&error).code(2))?;
            definitions.extend(read);
        }
        let mut seen = HashMap::new();
        for definition in &definitions {
            let ids = [Some(&definition.id), definition.proxy.as_ref()];
            for id in ids.into_iter().flatten() {
                match seen.insert(id.clone(), &definition.place) {
                    Some(before) if *before != definition.place => {
                        return Err(Failure::usage(format_args!(
                            "{} and {before} both define the ID `{id}`: give one of them another `id`",
                            definition.place
                        )));
                    }
                    _ => {}
                }
            }
        }
        let which = match which {
            Some(which) => which,
            None => {
                let mut proxies = definitions.iter().filter_map(|one| one.proxy.clone());
                match (proxies.next(), proxies.next()) {
                    (Some(id), None) => Which::ProxyId(id),
                    (None, _) => {
                        return Err(Failure::usage(
                            "-service-file defines no proxy: give a service `connect { sidecar_service {} }`",
                        ));
                    }
                    (Some(_), Some(_)) => {
                        return Err(Failure::usage(
                            "-service-file defines several proxies: name the one to be with -sidecar-for or -proxy-id",
                        ));
                    }
                }
            }
        };
        Ok(Self { which, definitions })
    }

    /// Registers what is to be registered, finds the registration and reads it. An agent that
    /// does not answer yet is waited for.
    ///
    /// Fails when there is not exactly one, or it says what cannot be done.
    pub(super) async fn find(self, agent: &AgentClient, usual: &Usual) -> Result<Source, Failure> {
        let mut told = false;
        let registered = match self.definitions {
            none if none.is_empty() => None,
            definitions => {
                let registered = FileRegistration::new(agent, definitions)
                    .map_err(|error| Failure::from_error(&error).code(2))?;
                while let Err(error) = registered.register().await {
                    wait(&error, &mut told).await?;
                }
                Some(registered)
            }
        };
        loop {
            match Sidecar::find(agent, &self.which, usual.clone()).await {
                Ok(sidecar) => {
                    tracing::info!(id = sidecar.id(), "configured by this registration");
                    return Ok(Source::Registration(sidecar.registered(registered)));
                }
                Err(SidecarError::Agent(error)) => {
                    if let Err(failure) = wait(&error, &mut told).await {
                        leave(registered).await;
                        return Err(failure);
                    }
                }
                Err(error) => {
                    leave(registered).await;
                    return Err(hopeless(&error));
                }
            }
        }
    }
}

async fn leave(registered: Option<FileRegistration>) {
    if let Some(registered) = registered {
        registered.leave().await;
    }
}

/// Waits a little for an agent that may answer better then, and fails for any other error.
async fn wait(error: &AgentError, told: &mut bool) -> Result<(), Failure> {
    if !may_come(error) {
        return Err(refused(error));
    }
    if !std::mem::replace(told, true) {
        tracing::warn!(%error, "waiting for the agent");
    }
    tokio::time::sleep(AGAIN).await;
    Ok(())
}

fn hopeless(error: &SidecarError) -> Failure {
    let failure = Failure::from_error(error);
    match error {
        SidecarError::NoSidecar(NoSidecar::None { service }) => failure.advice(format_args!(
            "register `{service}` with `connect {{ sidecar_service {{}} }}` on this agent, or give a token that may read its proxy"
        )),
        SidecarError::NoSidecar(NoSidecar::Several { .. }) => {
            failure.advice("name one of them with -proxy-id")
        }
        SidecarError::Unknown(_) => {
            failure.advice("register it on this agent first, or check -http-addr")
        }
        SidecarError::Id(_) => failure.code(2),
        SidecarError::Agent(_) | SidecarError::Refused { .. } => failure,
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
