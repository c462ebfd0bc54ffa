//! The proxy: inbound connections are decided before the application hears of them,
//! outbound ones end at exactly the wanted service.
//!
//! It runs on the caller's tokio runtime, each connection as one task. Whether one
//! single-threaded runtime for each core with listeners of its own is faster is
//! for the proxy's benchmarks to decide.
//!
//! A connection that does not end cleanly on one side (refused, cut off, broken) is
//! reset on the other: what is incomplete never looks complete.

mod access;
mod config;
mod copy;
mod handshakes;
mod http;
mod inbound;
mod inherited;
mod lifetime;
mod listen;
mod listeners;
mod live;
mod observer;
mod outbound;
mod proxy_protocol;
mod seldom;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{InboundConfig, Limits, Listening, ProxyConfig, ProxyError, UpstreamConfig};
pub(crate) use copy::Counts;
pub use http::{ClientCertDetails, HttpSettings, layer};
#[cfg(feature = "envoy")]
pub(crate) use http::{Judge, Question};
pub use inbound::Application;
pub use inherited::{inherit_tcp, inherit_unix};
pub use listen::ListenAddress;
pub(crate) use listen::Listener;
pub(crate) use listen::prepare;
pub use observer::Observer;
pub use proxy_protocol::{Trusted, Version as ProxyHeader};
pub use stats::Snapshot;

use crate::member::Member;
use crate::registration::Registration;
use listeners::{Listeners, Shared};
use stats::Stats;

/// Where a proxy listens.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Addresses {
    /// The inbound listener.
    pub inbound: Option<ListenAddress>,
    /// The listeners of the upstreams, in the order of the settings but for those that
    /// cannot be bound.
    pub upstreams: Vec<ListenAddress>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    shared: Shared,
    listeners: Mutex<Listeners>,
    addresses: watch::Sender<Addresses>,
    registration: Mutex<Option<Registration>>,
    abort: CancellationToken,
}

/// Ends a proxy at once, from wherever: the second signal.
#[derive(Clone, Debug)]
pub struct Abort(CancellationToken);

impl Abort {
    /// Cuts off every connection.
    pub fn now(&self) {
        self.0.cancel();
    }
}

impl Proxy {
    /// Binds all listeners and starts. Connections are taken as soon as `member` is ready.
    ///
    /// # Errors
    /// When there is nothing to do, a listener cannot be bound, or the names cannot be registered.
    pub fn start(member: Member, config: ProxyConfig) -> Result<Self, ProxyError> {
        if config.inbound.is_none() && config.upstreams.is_empty() {
            return Err(ProxyError::Nothing);
        }
        let mut proxy = Self::idle(member);
        let listeners = proxy.listeners.get_mut();
        listeners.open_all(Listening {
            inbound: config.inbound,
            upstreams: config.upstreams,
            limits: config.limits,
        })?;
        let addresses = listeners.addresses();
        if let Some(mut register) = config.register {
            if register.port == 0 {
                let inbound = addresses.inbound.as_ref().and_then(ListenAddress::tcp);
                register.port = inbound.map_or(0, |address| address.port());
            }
            let watcher = proxy.shared.member.watcher();
            let (client, watcher) = (watcher.config().agent.clone(), watcher.clone());
            let started = Registration::start(client, register, watcher)
                .map_err(|error| ProxyError::Registration(error.to_string()))?;
            *proxy.registration.get_mut() = Some(started);
        }
        proxy.addresses.send_replace(addresses);
        Ok(proxy)
    }

    /// A proxy that listens nowhere yet: [`Proxy::change`] says where.
    #[must_use]
    pub fn idle(member: Member) -> Self {
        let abort = CancellationToken::new();
        let shared = Shared {
            service: member.service().into(),
            member,
            stats: Arc::new(Stats::default()),
            handshakes: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            cut: abort.child_token(),
        };
        Self {
            listeners: Mutex::new(Listeners::new(shared.clone())),
            shared,
            addresses: watch::Sender::default(),
            registration: Mutex::default(),
            abort,
        }
    }

    /// Goes over to other listeners while it runs, as far as they can be bound: answers
    /// those that cannot, and the others serve.
    ///
    /// What stays keeps its socket, and new connections meet its new settings; connections
    /// that are there go on with the old ones. Those of a listener that is taken away may
    /// go on for `drain`.
    pub async fn change(&self, wanted: Listening, drain: Duration) -> Vec<ProxyError> {
        let mut listeners = self.listeners.lock().await;
        if self.shared.stop.is_cancelled() {
            return Vec::new();
        }
        let failed = listeners.change(wanted, drain).await;
        self.addresses.send_replace(listeners.addresses());
        failed
    }

    /// Where it listens now.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses.borrow().clone()
    }

    /// The member of the mesh that it is.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.shared.member
    }

    /// Numbers since the start.
    #[must_use]
    pub fn stats(&self) -> Snapshot {
        self.shared.numbers()
    }

    /// Whether every listener takes connections, or it is being shut down. False is a
    /// defect that only a restart mends.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        // Whoever has them is changing them.
        self.shared.stop.is_cancelled()
            || self
                .listeners
                .try_lock()
                .map_or(true, |listeners| listeners.are_accepting())
    }

    /// A view of it, for metrics and health: from wherever, also while it stops.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer::new(self.shared.clone(), self.addresses.subscribe())
    }

    /// Waits until it takes connections.
    pub async fn ready(&self) {
        self.shared.member.watcher().ready().await;
    }

    /// Ends it at once, from wherever.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort(self.abort.clone())
    }

    /// Takes no more connections, removes the registration, waits at most `drain` for
    /// the connections there are, and cuts off those that are left.
    pub async fn shutdown(&self, drain: Duration) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        let leave = async {
            if let Some(registration) = self.registration.lock().await.take() {
                registration.leave().await;
            }
        };
        let drained = async {
            tokio::select! {
                () = self.shared.tasks.wait() => {}
                () = tokio::time::sleep(drain) => tracing::info!(left = self.stats().active, "cutting off the connections that are left"),
                () = self.abort.cancelled() => {}
            }
            self.shared.cut.cancel();
            self.shared.tasks.wait().await;
        };
        tokio::select! {
            _ = async { tokio::join!(leave, drained) } => {}
            // Nothing is waited for then, not even the agent.
            () = async {
                self.abort.cancelled().await;
                self.shared.tasks.wait().await;
            } => {}
        }
        self.shared.member.watcher().stop().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.abort.cancel();
    }
}
