//! Announces a service to its agent and keeps its TTL check passing.
//!
//! The check passes while nothing is missing and fails with what is missing
//! otherwise. An agent that has forgotten the service (it was restarted) is told
//! again, as soon as it answers any of the watchers; at the end the service is taken
//! away.

use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::registration::{self, Role, TtlCheck};
use portcullis_core::agent::{HttpRequest, RequestError};
use portcullis_core::watch::Backoff;
use rand::Rng as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::agent_client::{AgentClient, AgentError};
use crate::watcher::Watcher;

/// Time to live of the check.
const TTL: Duration = Duration::from_secs(30);

/// How often it is kept passing, at least: up to a third earlier, so that many that
/// started together do not go on together.
const BEAT: Duration = Duration::from_secs(10);

/// How soon after a first failure, in milliseconds; doubles up to the usual time.
const RETRY: u64 = 500;

/// How long taking the service away may take.
const LEAVE: Duration = Duration::from_secs(5);

/// What to announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationConfig {
    /// The service whose identity we have.
    pub service: String,
    /// Whether the registered port is the service itself (native) or a proxy named `<service>-proxy`.
    pub native: bool,
    /// Appended to the ID, for several on one agent: `-register-id`.
    pub suffix: Option<String>,
    /// Address of the mesh listener; empty for the node's.
    pub address: String,
    /// Port of the mesh listener.
    pub port: u16,
    /// Where the application listens, for a proxy: address and port, if that is TCP.
    pub local: Option<(String, u16)>,
}

impl RegistrationConfig {
    /// The ID of the registration: `<service>` or `<service>-proxy`, with the suffix.
    #[must_use]
    pub fn id(&self) -> String {
        let suffix = self
            .suffix
            .as_ref()
            .map(|suffix| format!("-{suffix}"))
            .unwrap_or_default();
        format!("{}{suffix}", self.name())
    }

    fn name(&self) -> String {
        if self.native {
            self.service.clone()
        } else {
            format!("{}-proxy", self.service)
        }
    }

    fn check_id(&self) -> String {
        format!("{}-ttl", self.id())
    }

    fn request(&self) -> Result<HttpRequest, RequestError> {
        let role = if self.native {
            Role::Native
        } else {
            Role::Proxy {
                destination: self.service.clone(),
                destination_id: None,
                local: self.local.clone(),
            }
        };
        registration::register(&registration::Registration {
            id: self.id(),
            name: self.name(),
            address: self.address.clone(),
            port: self.port,
            tags: Vec::new(),
            meta: Vec::new(),
            role,
            check: Some(TtlCheck {
                id: self.check_id(),
                name: "portcullis is ready".to_owned(),
                ttl_ms: u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX),
                // One that was killed is gone after a while.
                deregister_after_ms: Some(10 * 60 * 1000),
            }),
        })
    }
}

/// A service that is announced until [`Registration::leave`].
#[derive(Debug)]
pub struct Registration {
    client: AgentClient,
    config: Arc<RegistrationConfig>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl Registration {
    /// Starts to announce. Needs a tokio runtime; returns at once.
    ///
    /// # Errors
    /// When the names cannot be registered.
    pub fn start(
        client: AgentClient,
        config: RegistrationConfig,
        watcher: Watcher,
    ) -> Result<Self, RequestError> {
        config.request()?;
        let (config, ended) = (Arc::new(config), CancellationToken::new());
        let task = tokio::spawn({
            let (client, config, ended) = (client.clone(), Arc::clone(&config), ended.clone());
            async move {
                tokio::select! {
                    () = keep(&client, &config, &watcher) => {}
                    () = ended.cancelled() => {}
                }
            }
        });
        Ok(Self {
            client,
            config,
            ended,
            task,
        })
    }

    /// Takes the service away. A failure is logged: the agent removes it by itself later.
    pub async fn leave(self) {
        self.ended.cancel();
        let _ = self.task.await;
        let id = self.config.id();
        let left = match registration::deregister(&id) {
            Ok(request) => timeout(LEAVE, self.client.execute_ok(&request)).await,
            Err(_) => return,
        };
        match left {
            Ok(Ok(_)) => tracing::info!(id, "deregistered"),
            Ok(Err(AgentError::Status { status: 404, .. })) => {}
            Ok(Err(error)) => tracing::warn!(id, %error, "not deregistered"),
            Err(_) => tracing::warn!(id, "not deregistered: the agent does not answer"),
        }
    }
}

async fn keep(client: &AgentClient, config: &RegistrationConfig, watcher: &Watcher) {
    let clock = &watcher.config().clock;
    let mut readiness = watcher.subscribe();
    let longest = u64::try_from(BEAT.as_millis()).unwrap_or(u64::MAX);
    let mut backoff = Backoff::new(RETRY, longest, rand::random());
    let mut next = Instant::now();
    let (mut registered, mut failing) = (false, false);
    let mut was_ready = None;
    let mut unanswered = 0;
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            changed = readiness.changed() => {
                if changed.is_err() {
                    return;
                }
                let readiness = readiness.borrow_and_update();
                let now_unanswered = readiness
                    .parts()
                    .iter()
                    .filter(|(_, part)| part.error.is_some())
                    .count();
                // The agent is back, perhaps without memory.
                let answers_again = now_unanswered < unanswered;
                unanswered = now_unanswered;
                // Else only a change between ready and not ready is news.
                if !answers_again && was_ready == Some(readiness.is_ready(clock.now())) {
                    continue;
                }
            }
        }
        let missing = watcher.readiness().missing(clock.now());
        was_ready = Some(missing.is_empty());
        match round(client, config, &missing, &mut registered).await {
            Ok(()) => {
                failing = false;
                backoff.succeed();
                next = Instant::now() + BEAT.mul_f64(rand::rng().random_range(0.67..=1.0));
            }
            Err(error) => {
                let wait = Duration::from_millis(backoff.fail());
                let told = error.retry_after().unwrap_or_default();
                next = Instant::now() + wait.max(told.min(TTL / 2));
                if !failing {
                    tracing::warn!(id = config.id(), %error, "not registered; trying again");
                }
                failing = true;
            }
        }
    }
}

/// Registers if need be, and reports; a forgotten service is registered and reported again.
async fn round(
    client: &AgentClient,
    config: &RegistrationConfig,
    missing: &[String],
    registered: &mut bool,
) -> Result<(), AgentError> {
    for _ in 0..2 {
        if !*registered {
            client.execute_ok(&valid(config.request())?).await?;
            *registered = true;
            tracing::info!(
                id = config.id(),
                address = config.address,
                port = config.port,
                "registered"
            );
        }
        match client.execute_ok(&valid(report(config, missing))?).await {
            Err(error) if is_forgotten(&error) => *registered = false,
            reported => return reported.map(drop),
        }
    }
    Ok(())
}

fn report(config: &RegistrationConfig, missing: &[String]) -> Result<HttpRequest, RequestError> {
    match missing {
        [] => registration::pass(&config.check_id(), "ready"),
        missing => registration::fail(
            &config.check_id(),
            &crate::escape::visible(&missing.join("; "), 400),
        ),
    }
}

/// 404, or 500 with the same words in older agents.
fn is_forgotten(error: &AgentError) -> bool {
    match error {
        AgentError::Status { status: 404, .. } => true,
        AgentError::Status { detail, .. } => detail.contains("Unknown check"),
        _ => false,
    }
}

fn valid(request: Result<HttpRequest, RequestError>) -> Result<HttpRequest, AgentError> {
    request.map_err(|error| AgentError::Request {
        path: "registration".to_owned(),
        detail: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_consuls() {
        let config = RegistrationConfig {
            service: "web".to_owned(),
            native: false,
            suffix: None,
            address: String::new(),
            port: 1,
            local: None,
        };
        assert_eq!(
            (config.id().as_str(), config.check_id().as_str()),
            ("web-proxy", "web-proxy-ttl")
        );
        let native = RegistrationConfig {
            native: true,
            suffix: Some("2".to_owned()),
            ..config
        };
        assert_eq!(
            (native.id().as_str(), native.check_id().as_str()),
            ("web-2", "web-2-ttl")
        );
    }
}
