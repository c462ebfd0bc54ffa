//! What the listeners tell about.

use crate::member::Member;
use crate::proxy::Observer;
use crate::watcher::Lack;

#[cfg(feature = "envoy")]
use crate::envoy::ServerObserver;

/// What runs in this process: a proxy, or a server that Envoy asks.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A proxy.
    Proxy(Observer),
    /// A server that Envoy asks.
    #[cfg(feature = "envoy")]
    Server(ServerObserver),
}

impl Subject {
    /// The member of the mesh that it is.
    #[must_use]
    pub fn member(&self) -> &Member {
        match self {
            Self::Proxy(proxy) => proxy.member(),
            #[cfg(feature = "envoy")]
            Self::Server(server) => server.member(),
        }
    }

    /// What keeps it from its work; empty means ready.
    #[must_use]
    pub fn missing(&self) -> Vec<Lack> {
        match self {
            Self::Proxy(proxy) => proxy.missing(),
            #[cfg(feature = "envoy")]
            Self::Server(server) => server.missing(),
        }
    }

    /// Waits until nothing is missing.
    pub async fn ready(&self) {
        let mut readiness = self.member().watcher().subscribe();
        // The sender lives as long as the watcher.
        while !self.missing().is_empty() && readiness.changed().await.is_ok() {}
    }

    /// Whether it is stopping.
    #[must_use]
    pub fn draining(&self) -> bool {
        match self {
            Self::Proxy(proxy) => proxy.draining(),
            #[cfg(feature = "envoy")]
            Self::Server(server) => server.draining(),
        }
    }
}

impl From<Observer> for Subject {
    fn from(proxy: Observer) -> Self {
        Self::Proxy(proxy)
    }
}

#[cfg(feature = "envoy")]
impl From<ServerObserver> for Subject {
    fn from(server: ServerObserver) -> Self {
        Self::Server(server)
    }
}
