//! Connections to services of the mesh: discovery, mTLS with our leaf, and the server
//! must be the wanted one.

mod endpoint;
mod http_service;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_core::identity::SpiffeId;
use portcullis_core::time::Timestamp;
use rustls::AlertDescription;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use endpoint::{Endpoint, EndpointError};
pub use http_service::HttpConnection;

use crate::tls::{HandshakeError, MeshStream, MeshTls};
use crate::watcher::Watcher;
use endpoint::Turns;

/// How many instances one dial tries.
const MOST_TRIES: usize = 8;

/// What to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// A service, found through the agent's health endpoint.
    Service {
        /// Its name.
        name: String,
        /// Its datacenter; the agent's own when absent.
        datacenter: Option<String>,
    },
    /// A fixed address, whose server must have this identity.
    Static {
        /// `host:port`.
        address: String,
        /// The exact identity.
        id: SpiffeId,
    },
}

impl Upstream {
    /// A service in the agent's datacenter.
    #[must_use]
    pub fn service(name: impl Into<String>) -> Self {
        Self::Service {
            name: name.into(),
            datacenter: None,
        }
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Service { name, .. } => name,
            Self::Static { id, .. } => id.service().map_or("", |path| path.service.as_str()),
        }
    }
}

/// Why a service cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing healthy is known.
    #[error("no healthy instance of `{service}` is known{}", .because.as_ref().map(|why| format!(" ({why})")).unwrap_or_default())]
    NoInstance {
        /// The service.
        service: String,
        /// What stands in the way of knowing, if anything.
        because: Option<String>,
    },
    /// We have no certificate yet.
    #[error("this side has no certificate yet")]
    NoLeaf,
    /// Our certificate has ended: no server would take it.
    #[error("this side's certificate expired at {0}, and the agent has issued no other")]
    LeafExpired(Timestamp),
    /// No instance answers.
    #[error("`{service}` at `{address}`: {error}")]
    Unreachable {
        /// The service.
        service: String,
        /// The last address tried.
        address: String,
        /// Why it failed.
        error: String,
    },
    /// An instance answers, but the handshake fails.
    #[error("`{service}` at `{address}`: {error}")]
    Handshake {
        /// The service.
        service: String,
        /// The last address tried.
        address: String,
        /// Why it failed.
        error: HandshakeError,
    },
}

/// A connection to a service.
#[derive(Debug)]
pub struct Connection {
    /// The stream and its verified peer.
    pub stream: MeshStream<TcpStream>,
    /// The instance.
    pub endpoint: Endpoint,
}

/// Dials services. Clones share discovery and turns.
#[derive(Clone, Debug)]
pub struct Connector {
    tls: MeshTls,
    watcher: Watcher,
    deadline: Duration,
    turns: Arc<Mutex<HashMap<Upstream, Turns>>>,
}

impl Connector {
    /// A connector with the leaf and policy of `tls` and the discovery of `watcher`.
    /// One dial, with all its tries, takes at most `deadline`.
    #[must_use]
    pub fn new(tls: MeshTls, watcher: Watcher, deadline: Duration) -> Self {
        Self {
            tls,
            watcher,
            deadline,
            turns: Arc::default(),
        }
    }

    /// The same with another deadline for a dial; discovery and turns are shared.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            deadline,
            ..self.clone()
        }
    }

    /// The same with these ALPN names; discovery and turns are shared.
    #[must_use]
    pub fn with_alpn(&self, names: Vec<Vec<u8>>) -> Self {
        Self {
            tls: self.tls.clone().with_alpn(names),
            ..self.clone()
        }
    }

    /// TLS of this connector.
    #[must_use]
    pub fn tls(&self) -> &MeshTls {
        &self.tls
    }

    /// Dials a service by its name: as [`Connector::dial_upstream`].
    ///
    /// # Errors
    /// As [`Connector::dial_upstream`].
    pub async fn dial(&self, service: &str) -> Result<MeshStream<TcpStream>, DialError> {
        self.dial_upstream(&Upstream::service(service))
            .await
            .map(|connection| connection.stream)
    }

    /// Dials one healthy instance after the other until one is connected and proved to be
    /// the wanted service. The first dial of a service waits for its discovery.
    ///
    /// In TLS 1.3 a server that refuses us says so only when the stream is read.
    ///
    /// # Errors
    /// When there is no certificate or instance, none answers, or the last one tried is
    /// somebody else or refuses us.
    pub async fn dial_upstream(&self, upstream: &Upstream) -> Result<Connection, DialError> {
        let until = Instant::now() + self.deadline;
        let leaf = self.tls.leaf().current().ok_or(DialError::NoLeaf)?;
        if leaf.not_after <= self.tls.verifier().clock().now() {
            return Err(DialError::LeafExpired(leaf.not_after));
        }
        let endpoints = self.endpoints(upstream, until).await?;
        let service = || upstream.name().to_owned();
        let mut failure = DialError::NoInstance {
            service: service(),
            because: None,
        };
        let tries = endpoints.len().min(MOST_TRIES);
        for (tried, endpoint) in self
            .turns(upstream)
            .next(&endpoints)
            .take(tries)
            .enumerate()
        {
            // Each gets its share of the time that is left.
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(tries - tried).unwrap_or(1);
            let address = endpoint.address.clone();
            failure = match self.connect(endpoint, share).await {
                Ok(stream) => {
                    return Ok(Connection {
                        stream,
                        endpoint: endpoint.clone(),
                    });
                }
                Err(Failure::Tcp(error)) => DialError::Unreachable {
                    service: service(),
                    address,
                    error,
                },
                Err(Failure::Tls(error)) => {
                    let denied = AlertDescription::AccessDenied;
                    let refused =
                        matches!(error, HandshakeError::RefusedByPeer(alert) if alert == denied);
                    let failure = DialError::Handshake {
                        service: service(),
                        address,
                        error,
                    };
                    if refused {
                        // Its siblings have the same intentions.
                        return Err(failure);
                    }
                    failure
                }
            };
            tracing::debug!(error = %failure, "trying the next instance");
        }
        Err(failure)
    }

    async fn endpoints(
        &self,
        upstream: &Upstream,
        until: Instant,
    ) -> Result<Arc<[Endpoint]>, DialError> {
        let (name, datacenter) = match upstream {
            Upstream::Static { address, id } => {
                return Ok(Arc::new([Endpoint {
                    address: address.clone(),
                    id: id.clone(),
                }]));
            }
            Upstream::Service { name, datacenter } => (name, datacenter),
        };
        let none = |because: Option<String>| DialError::NoInstance {
            service: name.clone(),
            because,
        };
        let mut known = self
            .watcher
            .endpoints(name, datacenter.as_deref())
            .map_err(|why| none(Some(why)))?;
        let first = known.wait_for(|known| known.endpoints.is_some());
        let first = timeout_at(until, async { first.await.map(|known| known.clone()) }).await;
        let known = match first {
            Ok(Ok(known)) => known,
            Ok(Err(_)) => return Err(none(Some("the watchers have ended".to_owned()))),
            Err(_) => {
                let error = known.borrow().error.clone();
                return Err(none(Some(
                    error.unwrap_or_else(|| "the agent has not answered yet".to_owned()),
                )));
            }
        };
        Ok(known.endpoints.unwrap_or_else(|| Arc::new([])))
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        within: Duration,
    ) -> Result<MeshStream<TcpStream>, Failure> {
        let until = Instant::now() + within;
        let late = |_| Failure::Tcp(format!("no connection within {within:?}"));
        let stream = timeout_at(until, TcpStream::connect(endpoint.address.as_str()))
            .await
            .map_err(late)?
            .map_err(|error| Failure::Tcp(error.to_string()))?;
        crate::proxy::prepare(&stream);
        let left = until.saturating_duration_since(Instant::now());
        self.tls
            .connect(stream, &endpoint.id, left)
            .await
            .map_err(Failure::Tls)
    }

    fn turns(&self, upstream: &Upstream) -> Turns {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(upstream.clone()).or_default().clone()
    }
}

enum Failure {
    Tcp(String),
    Tls(HandshakeError),
}
