//! `-sidecar-for` and `-proxy-id`: the registration that configures the proxy.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use portcullis::agent_client::{AgentClient, AgentError};
use portcullis::definitions::{self, Definition, FileRegistration};
use portcullis::sidecar::{Sidecar, SidecarError, Usual, Which};
use portcullis_core::agent::services::NoSidecar;

use super::acl;
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
            let proxy = definition.proxy.as_ref().map(|proxy| &proxy.id);
            let ids = [Some(&definition.id), proxy];
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
                let mut proxies = definitions.iter().filter_map(|one| one.proxy.as_ref());
                match (proxies.next(), proxies.next()) {
                    (Some(proxy), None) => Which::ProxyId(proxy.id.clone()),
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

    /// What the token must be able to do, as far as the files say it.
    pub(super) fn needs(&self) -> Option<acl::Needs<'_>> {
        let proxies = || self.definitions.iter().filter_map(|one| one.proxy.as_ref());
        let proxy = match &self.which {
            Which::ProxyId(id) => proxies().find(|proxy| proxy.id == *id),
            Which::SidecarFor(id) => self
                .definitions
                .iter()
                .find(|one| one.id.eq_ignore_ascii_case(id))
                .and_then(|one| one.proxy.as_ref()),
        }?;
        let own = self.definitions.iter().map(|one| &one.name);
        let mut announces: Vec<String> = own
            .chain(proxies().map(|proxy| &proxy.name))
            .cloned()
            .collect();
        announces.sort_unstable();
        announces.dedup();
        announces.retain(|name| *name != proxy.destination);
        Some(acl::Needs {
            service: &proxy.destination,
            announces,
            reads: None,
            upstreams: proxy.upstreams.iter().map(String::as_str).collect(),
        })
    }

    /// What is to be registered, if anything is.
    pub(super) fn registration(
        &self,
        agent: &AgentClient,
    ) -> Result<Option<FileRegistration>, Failure> {
        if self.definitions.is_empty() {
            return Ok(None);
        }
        FileRegistration::new(agent, self.definitions.clone())
            .map(Some)
            .map_err(|error| Failure::from_error(&error).code(2))
    }

    /// Registers `registration`, finds the one that is wanted and reads it. An agent that
    /// does not answer yet is waited for.
    ///
    /// Fails when there is not exactly one, or it says what cannot be done.
    pub(super) async fn find(
        &self,
        agent: &AgentClient,
        usual: &Usual,
        registration: Option<&FileRegistration>,
    ) -> Result<Sidecar, Failure> {
        let mut told = false;
        if let Some(registration) = registration {
            while let Err(error) = registration.register().await {
                wait(&error, &mut told).await?;
            }
        }
        loop {
            match Sidecar::find(agent, &self.which, usual.clone()).await {
                Ok(sidecar) => {
                    tracing::info!(id = sidecar.id(), "configured by this registration");
                    return Ok(sidecar);
                }
                Err(SidecarError::Agent(error)) => wait(&error, &mut told).await?,
                Err(error) => return Err(hopeless(&error)),
            }
        }
    }
}

/// Takes away what was registered, if anything was.
pub(super) async fn leave(registration: Option<&FileRegistration>) {
    if let Some(registration) = registration {
        registration.leave().await;
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
