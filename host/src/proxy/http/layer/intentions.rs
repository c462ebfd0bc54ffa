//! The layer: a service's intentions, to be put around its application.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::super::super::config::Limits;
use super::super::super::inbound::{Application, Inbound};
use super::super::super::{HttpSettings, Observer, Proxy};
use super::super::judge::Judge;
use super::enforced::Enforced;
use super::listener::MeshListener;
use crate::member::Member;

/// A listener cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}`: {source}")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// The intentions of one service, enforced inside its application: a [`Layer`]. Clones are
/// the same one.
#[derive(Clone)]
pub struct Intentions(pub(super) Arc<Inner>);

pub(super) struct Inner {
    /// Has no listeners: what it holds together is counted and watched as for a proxy.
    pub(super) proxy: Proxy,
    pub(super) inbound: Arc<Inbound>,
    pub(super) limits: Limits,
}

impl Intentions {
    /// The intentions of the member's service, with the usual limits.
    #[must_use]
    pub fn new(member: &Member) -> Self {
        Self::with_limits(member, Limits::default())
    }

    /// The same with these limits; those of the connection to an application mean nothing.
    #[must_use]
    pub fn with_limits(member: &Member, limits: Limits) -> Self {
        let proxy = Proxy::idle(member.clone());
        let service = Arc::clone(&proxy.shared.service);
        let verifier = member.tls().verifier().clone();
        let inbound = Inbound {
            service: Arc::clone(&service),
            // It is this program: nobody connects to it.
            application: Application::Tcp("this program".to_owned()),
            accept_proxy: None,
            send_proxy: None,
            tls: member.tls().clone(),
            protocol: member.watcher().protocol(),
            judge: Arc::new(Judge::new(verifier, service, member.decisions().clone())),
            decisions: member.decisions().clone(),
            limits: limits.clone(),
            stats: Arc::clone(&proxy.shared.stats),
        };
        Self(Arc::new(Inner {
            proxy,
            inbound: Arc::new(inbound),
            limits,
        }))
    }

    /// `application` with these intentions around it. The same as [`Layer::layer`], for
    /// those who have not imported it.
    #[must_use]
    pub fn layer<S>(&self, application: S) -> Enforced<S> {
        Enforced::new(application, self.clone())
    }

    /// Takes connections of the mesh at `address`; port 0 is any free one. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(&self, address: SocketAddr) -> Result<MeshListener, ListenError> {
        MeshListener::bind(self, address).map_err(|source| ListenError { address, source })
    }

    /// What is counted, for [`Observer::metrics`] and [`crate::admin::Admin::observe`].
    #[must_use]
    pub fn observer(&self) -> Observer {
        self.0.proxy.observer()
    }

    pub(super) fn http(&self) -> &HttpSettings {
        &self.0.limits.http
    }

    /// The service whose intentions these are.
    #[must_use]
    pub fn service(&self) -> &str {
        self.0.proxy.member().service()
    }

    /// Takes no more connections, ends those that are left after `drain`, and then the
    /// member's watchers. For servers with a shutdown of their own that is what comes after
    /// it.
    pub async fn shutdown(&self, drain: Duration) {
        self.0.proxy.shutdown(drain).await;
    }
}

impl<S> Layer<S> for Intentions {
    type Service = Enforced<S>;

    fn layer(&self, application: S) -> Enforced<S> {
        Self::layer(self, application)
    }
}

impl fmt::Debug for Intentions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Intentions")
            .field(&self.service())
            .finish()
    }
}
