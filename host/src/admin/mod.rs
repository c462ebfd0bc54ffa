//! Answers operators over HTTP, on three listeners that are apart because those who may
//! reach them are: admin, metrics and health.
//!
//! Nothing here tells a token or a key. Admin listens on loopback or a unix socket only,
//! changes something by POST only, and refuses what a browser may have been tricked
//! into sending, as the development agent does.

mod certificates;
mod report;
mod routes;
mod server;
mod subject;

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::proxy::{ListenAddress, Listener};
use crate::watcher::Lack;

pub use subject::Subject;

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything, on loopback or a unix socket.
    Admin,
    /// `/metrics`.
    Metrics,
    /// `/ready` and `/live`.
    Health,
}

impl Role {
    /// Its name, which is that of its flag.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Health => "health",
        }
    }
}

/// How much is logged, read and changed while running.
pub trait LogLevel: Send + Sync {
    /// The level or filter in force.
    fn current(&self) -> String;

    /// Another one.
    ///
    /// # Errors
    /// When it cannot be read; in words.
    fn change(&self, level: &str) -> Result<(), String>;
}

/// Why a listener cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Admin on an address that others reach.
    #[error(
        "-admin `{0}` is not loopback: whoever reaches it may stop the proxy; give 127.0.0.1, [::1] or unix:PATH"
    )]
    Open(ListenAddress),
    /// It cannot be bound.
    #[error("cannot listen on `{address}` for -{}: {source}", .role.name())]
    Bind {
        /// For what.
        role: Role,
        /// Where.
        address: ListenAddress,
        /// Why.
        source: io::Error,
    },
}

/// What the listeners tell and do. Clones share it.
#[derive(Clone)]
pub struct Admin(Arc<State>);

struct State {
    /// The effective configuration, without secrets.
    settings: Value,
    log: Option<Box<dyn LogLevel>>,
    subject: OnceLock<Subject>,
    /// What is waited for before there is a proxy or server.
    waiting: Mutex<&'static str>,
    drain: CancellationToken,
}

impl Admin {
    /// Shows `settings`, which must be free of secrets. There is nothing to tell about yet.
    #[must_use]
    pub fn new(settings: Value, log: Option<Box<dyn LogLevel>>) -> Self {
        Self(Arc::new(State {
            settings,
            log,
            subject: OnceLock::new(),
            waiting: Mutex::new("it is starting"),
            drain: CancellationToken::new(),
        }))
    }

    /// Listens at `address` from now on, until the runtime ends. Answers where.
    ///
    /// # Errors
    /// When it cannot be bound, or is for admin and not local.
    pub fn serve(&self, role: Role, address: &ListenAddress) -> Result<ListenAddress, AdminError> {
        let local = match address {
            ListenAddress::Tcp(address) => address.ip().is_loopback(),
            ListenAddress::Unix(_) => true,
        };
        if role == Role::Admin && !local {
            return Err(AdminError::Open(address.clone()));
        }
        // Only the user of this process may connect to its admin socket.
        let mode = (role == Role::Admin).then_some(0o600);
        let failed = |source| AdminError::Bind {
            role,
            address: address.clone(),
            source,
        };
        let listener = Listener::bind(address, mode).map_err(failed)?;
        let bound = listener.address().map_err(failed)?;
        tokio::spawn(server::run(listener, bound.clone(), role, self.clone()));
        Ok(bound)
    }

    /// What is waited for, as long as there is nothing to tell about.
    pub fn waits_for(&self, what: &'static str) {
        *self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// There is a proxy, or a server for Envoy. Only the first one counts.
    pub fn observe(&self, subject: impl Into<Subject>) {
        let _ = self.0.subject.set(subject.into());
    }

    /// Waits until somebody asks for a drain.
    pub async fn drain_requested(&self) {
        self.0.drain.cancelled().await;
    }

    /// What keeps it from its work; empty means ready.
    #[must_use]
    pub fn missing(&self) -> Vec<Lack> {
        match self.0.subject.get() {
            Some(subject) => subject.missing(),
            None => vec![Lack {
                part: "proxy",
                state: "absent",
                text: (*self
                    .0
                    .waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner))
                .to_owned(),
            }],
        }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Admin")
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}
