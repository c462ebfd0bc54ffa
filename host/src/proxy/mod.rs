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
mod inbound;
mod listen;
mod live;
mod outbound;
mod stats;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{InboundConfig, Limits, ProxyConfig, ProxyError, UpstreamConfig};
pub use inbound::Application;
pub use listen::ListenAddress;
pub(crate) use listen::prepare;
pub use stats::Snapshot;

use crate::member::Member;
use crate::registration::Registration;
use inbound::Inbound;
use listen::{Listener, LocalStream};
use outbound::Outbound;
use stats::{Active, Stats};

/// Where a proxy listens.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Addresses {
    /// The inbound listener.
    pub inbound: Option<SocketAddr>,
    /// The listeners of the upstreams, in the order of the settings.
    pub upstreams: Vec<ListenAddress>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    member: Member,
    addresses: Addresses,
    stats: Arc<Stats>,
    registration: Arc<Mutex<Option<Registration>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Ends the connections; a child of `abort`.
    cut: CancellationToken,
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
        let mut addresses = Addresses::default();
        let service: Arc<str> = member.service().into();
        let mut bound = Vec::new();
        let stats = Arc::new(Stats::default());
        if let Some(InboundConfig {
            listen,
            application,
        }) = config.inbound
        {
            let listener = bind(
                &ListenAddress::Tcp(listen),
                &format!("the service `{service}`"),
            )?;
            if let Ok(ListenAddress::Tcp(address)) = listener.address() {
                addresses.inbound = Some(address);
            }
            let tls = member.tls().clone();
            let (limits, stats) = (config.limits.clone(), Arc::clone(&stats));
            let inbound = Inbound {
                service: Arc::clone(&service),
                application,
                tls,
                limits,
                stats,
            };
            bound.push((listener, Role::Inbound(Arc::new(inbound))));
        }
        for UpstreamConfig { upstream, listen } in config.upstreams {
            let listener = bind(&listen, &format!("the upstream `{}`", upstream.name()))?;
            addresses
                .upstreams
                .push(listener.address().unwrap_or(listen));
            let (connector, stats) = (member.connector().clone(), Arc::clone(&stats));
            let outbound = Outbound {
                service: Arc::clone(&service),
                upstream,
                connector,
                stats,
            };
            bound.push((listener, Role::Outbound(Arc::new(outbound))));
        }
        let (stop, abort) = (CancellationToken::new(), CancellationToken::new());
        let cut = abort.child_token();
        let tasks = TaskTracker::new();
        let registration = Arc::new(Mutex::new(None));
        if let Some(mut register) = config.register {
            if register.port == 0 {
                register.port = addresses.inbound.map_or(0, |address| address.port());
            }
            let (client, watcher) = (
                member.watcher().config().agent.clone(),
                member.watcher().clone(),
            );
            let started = Registration::start(client, register, watcher)
                .map_err(|error| ProxyError::Registration(error.to_string()))?;
            *registration
                .try_lock()
                .map_err(|error| ProxyError::Registration(error.to_string()))? = Some(started);
        }
        for (listener, role) in bound {
            let accept = accept(
                listener,
                role,
                Acceptor {
                    member: member.clone(),
                    room: Arc::new(Semaphore::new(config.limits.connections.max(1))),
                    stats: Arc::clone(&stats),
                    tasks: tasks.clone(),
                    stop: stop.clone(),
                    cut: cut.clone(),
                },
            );
            tasks.spawn(accept);
        }
        Ok(Self {
            member,
            addresses,
            stats,
            registration,
            tasks,
            stop,
            cut,
            abort,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The member of the mesh that it is.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Numbers since the start.
    #[must_use]
    pub fn stats(&self) -> Snapshot {
        self.stats.snapshot()
    }

    /// Waits until it takes connections.
    pub async fn ready(&self) {
        self.member.watcher().ready().await;
    }

    /// Ends it at once, from wherever.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        Abort(self.abort.clone())
    }

    /// Takes no more connections, removes the registration, waits at most `drain` for
    /// the connections there are, and cuts off those that are left.
    pub async fn shutdown(&self, drain: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let leave = async {
            if let Some(registration) = self.registration.lock().await.take() {
                registration.leave().await;
            }
        };
        let drained = async {
            tokio::select! {
                () = self.tasks.wait() => {}
                () = tokio::time::sleep(drain) => tracing::info!(left = self.stats().active, "cutting off the connections that are left"),
                () = self.abort.cancelled() => {}
            }
            self.cut.cancel();
            self.tasks.wait().await;
        };
        tokio::select! {
            _ = async { tokio::join!(leave, drained) } => {}
            // Nothing is waited for then, not even the agent.
            () = async {
                self.abort.cancelled().await;
                self.tasks.wait().await;
            } => {}
        }
        self.member.watcher().stop().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        self.abort.cancel();
    }
}

fn bind(address: &ListenAddress, what: &str) -> Result<Listener, ProxyError> {
    Listener::bind(address).map_err(|source| ProxyError::Bind {
        address: address.to_string(),
        what: what.to_owned(),
        source,
    })
}

enum Role {
    Inbound(Arc<Inbound>),
    Outbound(Arc<Outbound>),
}

/// What the accept loops share.
struct Acceptor {
    member: Member,
    room: Arc<Semaphore>,
    stats: Arc<Stats>,
    tasks: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
}

async fn accept(listener: Listener, role: Role, with: Acceptor) {
    tokio::select! {
        // Before that there is no certificate to show and no policy to ask.
        () = with.member.watcher().ready() => {}
        () = with.stop.cancelled() => return,
    }
    loop {
        let next = async {
            let room = Arc::clone(&with.room).acquire_owned().await.ok();
            (room, listener.accept().await)
        };
        let (room, (stream, from)) = tokio::select! {
            next = next => next,
            () = with.stop.cancelled() => return,
        };
        let active = Active::new(&with.stats);
        let cut = with.cut.clone();
        match (&role, stream) {
            (Role::Inbound(inbound), LocalStream::Tcp(stream)) => {
                let inbound = Arc::clone(inbound);
                with.tasks.spawn(async move {
                    inbound.serve(stream, from, &cut).await;
                    drop((room, active));
                });
            }
            // Inbound listeners are TCP.
            (Role::Inbound(_), LocalStream::Unix(_)) => {}
            (Role::Outbound(outbound), stream) => {
                let outbound = Arc::clone(outbound);
                with.tasks.spawn(async move {
                    outbound.serve(stream, from, &cut).await;
                    drop((room, active));
                });
            }
        }
    }
}
