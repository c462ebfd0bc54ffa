//! A proxy that is configured by its registration on the agent, as `consul connect proxy`
//! is with `-sidecar-for` and `-proxy-id`.
//!
//! The registration is followed while the proxy runs. A change that cannot be done as a
//! whole is refused by name and the last good settings stay; a listener that cannot be
//! bound is tried again while the others serve.

mod opaque;
mod refused;
mod settings;

use std::time::Duration;

use portcullis_core::agent::service::AgentService;
use portcullis_core::agent::services::{self, NoSidecar};
use portcullis_core::agent::{Query, RequestError, service};
use portcullis_core::watch::Backoff;
use tokio::time::{Instant, sleep_until};

pub use refused::Refused;
pub use settings::{Settings, Usual};

use crate::agent_client::{AgentClient, AgentError};
use crate::definitions::FileRegistration;
use crate::member::Member;
use crate::proxy::{ListenAddress, Listening, Proxy, ProxyError};

/// Which registration configures the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The only proxy of the service with this ID: `-sidecar-for`.
    SidecarFor(String),
    /// The proxy with this ID: `-proxy-id`.
    ProxyId(String),
}

/// Why no registration configures the proxy.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// There is not exactly one.
    #[error(transparent)]
    NoSidecar(#[from] NoSidecar),
    /// There is none with this ID.
    #[error("nothing is registered with the ID `{0}`")]
    Unknown(String),
    /// The ID cannot be one.
    #[error(transparent)]
    Id(#[from] RequestError),
    /// The agent cannot be asked, or refuses.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// It says what cannot be done.
    #[error("the registration `{id}` cannot be done: {}", listed(.refused))]
    Refused {
        /// Its ID.
        id: String,
        /// What cannot be done.
        refused: Vec<Refused>,
    },
}

fn listed(refused: &[Refused]) -> String {
    let lines: Vec<String> = refused.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// A registration, found and read.
#[derive(Debug)]
pub struct Sidecar {
    id: String,
    name: String,
    settings: Settings,
    usual: Usual,
    /// What we registered ourselves, to be registered again if the agent forgets it.
    registered: Option<FileRegistration>,
}

impl Sidecar {
    /// Finds the registration and reads it. `usual` holds where it says nothing.
    ///
    /// # Errors
    /// When there is not exactly one, the agent cannot be asked, or it cannot be done.
    pub async fn find(
        agent: &AgentClient,
        which: &Which,
        usual: Usual,
    ) -> Result<Self, SidecarError> {
        let id = match which {
            Which::ProxyId(id) => id.clone(),
            Which::SidecarFor(service) => {
                let proxies = agent.ask(&services::request(), services::decode).await?;
                services::sidecar_for(service, &proxies)?
            }
        };
        let request = service::request(&id, &Query::default())?;
        let registered = match agent.ask(&request, service::decode).await {
            Err(AgentError::Status { status: 404, .. }) => return Err(SidecarError::Unknown(id)),
            answer => answer?,
        };
        match Settings::read(&registered, &usual) {
            Ok(settings) => Ok(Self {
                id,
                name: registered.name,
                settings,
                usual,
                registered: None,
            }),
            Err(refused) => Err(SidecarError::Refused { id, refused }),
        }
    }

    /// The same, with what we registered ourselves: it is registered again when the agent
    /// has forgotten it.
    #[must_use]
    pub fn registered(self, registered: Option<FileRegistration>) -> Self {
        Self { registered, ..self }
    }

    /// The ID of the registration.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name as a service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Starts the proxy. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the inbound listener cannot be bound. An upstream's is tried again by [`Sidecar::keep`].
    pub async fn start(&self, member: Member) -> Result<Proxy, ProxyError> {
        member.watcher().give_protocol(self.settings.protocol);
        let proxy = Proxy::idle(member);
        let listening = self.settings.listening.clone();
        let inbound = Listening {
            upstreams: Vec::new(),
            ..listening
        };
        match proxy.change(inbound, Duration::ZERO).await.pop() {
            Some(error) => Err(error),
            None => Ok(proxy),
        }
    }

    /// Follows the registration for ever. Connections of listeners that are taken away may
    /// go on for `drain`.
    pub async fn keep(&self, proxy: &Proxy, drain: Duration) {
        let watcher = proxy.member().watcher();
        let mut known = watcher.registration(&self.id);
        let mut keeper = Keeper {
            sidecar: self,
            proxy,
            drain,
            wanted: self.settings.clone(),
            refused: Vec::new(),
            failed: Vec::new(),
            backoff: Backoff::new(1_000, 30_000, rand::random()),
            again: None,
        };
        keeper.apply().await;
        let mut gone = false;
        loop {
            let due = keeper.again.unwrap_or_else(Instant::now);
            tokio::select! {
                changed = known.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = known.borrow_and_update().clone();
                    if now.gone != gone {
                        gone = now.gone;
                        if gone {
                            tracing::warn!(id = self.id, "the registration is gone; its last settings stay in use");
                        } else {
                            tracing::info!(id = self.id, "the registration is there again");
                        }
                    }
                    match (&self.registered, now.service) {
                        (Some(registered), _) if gone => registered.register_again().await,
                        (_, Some(service)) if !gone => keeper.take(&service).await,
                        _ => {}
                    }
                }
                () = sleep_until(due), if keeper.again.is_some() => keeper.apply().await,
            }
        }
    }
}

impl Sidecar {
    /// Takes away what we registered ourselves.
    pub async fn leave(&self) {
        if let Some(registered) = &self.registered {
            registered.leave().await;
        }
    }
}

/// Brings a proxy to what its registration says.
struct Keeper<'a> {
    sidecar: &'a Sidecar,
    proxy: &'a Proxy,
    drain: Duration,
    wanted: Settings,
    /// Why the last change was refused, as it was said.
    refused: Vec<Refused>,
    /// What could not be bound, as it was said.
    failed: Vec<String>,
    backoff: Backoff,
    /// When to try again what could not be bound.
    again: Option<Instant>,
}

impl Keeper<'_> {
    async fn take(&mut self, service: &AgentService) {
        let settings = match Settings::read(service, &self.sidecar.usual) {
            Ok(settings) if settings.service == self.wanted.service => settings,
            Ok(settings) => {
                return self.refuse(vec![Refused::new(
                    "Proxy.DestinationServiceName",
                    format!(
                        "is now `{}`: a running proxy keeps its identity",
                        settings.service
                    ),
                    "restart this proxy",
                )]);
            }
            Err(refused) => return self.refuse(refused),
        };
        if !std::mem::take(&mut self.refused).is_empty() {
            tracing::info!(id = self.sidecar.id, "the registration can be done again");
        }
        if settings != self.wanted {
            tracing::info!(id = self.sidecar.id, "the registration has changed");
            self.wanted = settings;
            self.backoff.succeed();
            self.apply().await;
        }
    }

    fn refuse(&mut self, refused: Vec<Refused>) {
        if self.refused == refused {
            return;
        }
        for one in &refused {
            tracing::error!(
                id = self.sidecar.id,
                field = one.field,
                "the registration cannot be done, and the last good settings stay in use: {one}"
            );
        }
        self.refused = refused;
    }

    async fn apply(&mut self) {
        let listening = self.wanted.listening.clone();
        for upstream in &listening.upstreams {
            if let ListenAddress::Tcp(address) = &upstream.listen
                && !address.ip().is_loopback()
            {
                tracing::warn!(listen = %address, "whoever reaches this address acts as the service");
            }
        }
        let watcher = self.proxy.member().watcher();
        watcher.give_protocol(self.wanted.protocol);
        let failed = self.proxy.change(listening, self.drain).await;
        let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
        if failed.is_empty() {
            if !self.failed.is_empty() {
                tracing::info!(id = self.sidecar.id, "all listeners are bound");
            }
            self.backoff.succeed();
            self.again = None;
        } else {
            let wait = Duration::from_millis(self.backoff.fail());
            for error in failed.iter().filter(|error| !self.failed.contains(error)) {
                tracing::error!(
                    id = self.sidecar.id,
                    error,
                    "tried again; the other listeners serve"
                );
            }
            self.again = Some(Instant::now() + wait);
        }
        self.failed = failed;
    }
}
