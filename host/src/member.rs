//! A program's membership in the mesh as one service: the way in for programs that
//! embed Portcullis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::RequestError;
use portcullis_core::identity::{IdentityError, SpiffeId};
use portcullis_core::intention::Decision;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::agent_client::{AgentClient, AgentConfig, ConfigError};
use crate::connector::Connector;
use crate::decisions::Decisions;
use crate::registration::{Registration, RegistrationConfig};
use crate::runtime::{
    Component, ComponentError, ComponentOptions, Policy, PolicyError, PolicyOptions,
};
use crate::tls::{HandshakeError, MeshStream, MeshTls, PeerVerifier, Refusal};
use crate::watcher::{Watcher, WatcherConfig};

/// How long a handshake may take unless said otherwise.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long [`Member::join`] waits.
const JOIN: Duration = Duration::from_secs(30);

/// What is missing after waiting for readiness.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not ready after {after:?}: {}", .missing.join("; "))]
pub struct NotReady {
    /// How long was waited.
    pub after: Duration,
    /// What is missing.
    pub missing: Vec<String>,
}

/// Why a program is no member of the mesh.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The settings of the agent client cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy component cannot be used.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The policy cannot be started.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Something that is needed did not come.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// The component's compilation broke off.
    #[error("the policy component was not compiled: {0}")]
    Compilation(String),
}

/// One service's place in the mesh: its leaf, the policy, discovery. Clones share it.
///
/// The watchers end when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Member {
    service: Arc<str>,
    watcher: Watcher,
    tls: MeshTls,
    connector: Connector,
    decisions: Decisions,
}

impl Member {
    /// Joins the mesh as `service`: the agent of the `CONSUL_*` variables, the embedded
    /// policy component, and everything there that is needed. The component's first
    /// use on a machine compiles it, which takes some seconds.
    ///
    /// # Errors
    /// When the settings or the component cannot be used, or something is still missing
    /// after 30 seconds.
    pub async fn join(service: &str) -> Result<Self, JoinError> {
        let agent = AgentClient::new(AgentConfig::from_env()?)?;
        let compile = || Component::embedded(&ComponentOptions::default());
        let component = tokio::task::spawn_blocking(compile)
            .await
            .map_err(|error| JoinError::Compilation(error.to_string()))??;
        let policy = Policy::new(&component, PolicyOptions::default())?;
        let member = Self::start(WatcherConfig::new(agent, policy, service));
        member.ready(JOIN).await?;
        Ok(member)
    }

    /// Starts to follow the agent. Needs a tokio runtime; returns at once.
    #[must_use]
    pub fn start(config: WatcherConfig) -> Self {
        let service: Arc<str> = config.service.as_str().into();
        let (policy, clock) = (config.policy.clone(), config.clock.clone());
        let watcher = Watcher::start(config);
        // Half of the cores may verify unknown chains; the others serve those who are known.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let verifier = PeerVerifier::new(policy, clock, cores / 2);
        let tls = MeshTls::new(verifier, Arc::clone(watcher.leaf()));
        let connector = Connector::new(tls.clone(), watcher.clone(), HANDSHAKE);
        Self {
            service,
            watcher,
            tls,
            connector,
            decisions: Decisions::default(),
        }
    }

    /// Waits until leaf, roots, intentions and default policy are there.
    ///
    /// # Errors
    /// When something is still missing after `within`; it says what.
    pub async fn ready(&self, within: Duration) -> Result<(), NotReady> {
        tokio::time::timeout(within, self.watcher.ready())
            .await
            .map_err(|_| {
                let missing = self
                    .watcher
                    .readiness()
                    .missing(self.watcher.config().clock.now());
                NotReady {
                    after: within,
                    missing,
                }
            })
    }

    /// The same member, which tells `decisions` what it decides.
    #[must_use]
    pub fn with_decisions(self, decisions: Decisions) -> Self {
        Self { decisions, ..self }
    }

    /// Who is told of decisions.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Our service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The identity of another service in our trust domain, namespace and datacenter.
    ///
    /// # Errors
    /// When the name cannot be in a SPIFFE ID, or there is no leaf yet.
    pub fn sibling(&self, service: &str) -> Result<SpiffeId, IdentityError> {
        let uri = match self.tls.leaf().current() {
            Some(leaf) => {
                let ours = leaf.id.to_string();
                let stem = ours.rsplit_once('/').map_or("", |(stem, _)| stem);
                format!("{stem}/{service}")
            }
            None => String::new(),
        };
        SpiffeId::parse(&uri)
    }

    /// Registers our service as one that takes the mesh's connections by itself at `address`
    /// (`connect.native`), until [`Registration::leave`]. An address that stands for all
    /// (`0.0.0.0`) is registered as the node's.
    ///
    /// # Errors
    /// When the name cannot be registered.
    pub fn announce(&self, address: SocketAddr) -> Result<Registration, RequestError> {
        let ip = address.ip();
        let config = RegistrationConfig {
            service: self.service.to_string(),
            native: true,
            suffix: None,
            address: if ip.is_unspecified() {
                String::new()
            } else {
                ip.to_string()
            },
            port: address.port(),
            local: None,
        };
        let agent = self.watcher.config().agent.clone();
        Registration::start(agent, config, self.watcher.clone())
    }

    /// The watchers.
    #[must_use]
    pub fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// TLS with our leaf.
    #[must_use]
    pub fn tls(&self) -> &MeshTls {
        &self.tls
    }

    /// Dials other services.
    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Takes a client's connection: handshake, verification, decision.
    ///
    /// The decision is that of this moment; a program that keeps connections for long
    /// asks [`PeerVerifier::authorize`] again when [`Policy::subscribe`] tells.
    ///
    /// # Errors
    /// When there is no handshake within 10 seconds, or the policy refuses the client.
    pub async fn accept<S>(&self, stream: S) -> Result<(MeshStream<S>, Decision), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self
            .tls
            .accept(stream, Some(Arc::clone(&self.service)), HANDSHAKE)
            .await?;
        let decision = self.tls.verifier().authorize(&self.service, &stream.peer);
        if decision.is_allowed() {
            Ok((stream, decision))
        } else {
            Err(HandshakeError::Refused(Refusal::Denied {
                peer: stream.peer,
                decision,
            }))
        }
    }
}
