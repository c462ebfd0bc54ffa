//! The listeners of a running proxy: bound, changed and taken away.
//!
//! A listener keeps its socket while what stands behind it changes; connections that
//! are there already go on with what they began with.

use std::sync::Arc;
use std::time::Duration;

use portcullis_core::intention::Protocol;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Addresses;
use super::access::Ending;
use super::config::{InboundConfig, Limits, Listening, ProxyError, UpstreamConfig};
use super::handshakes::Handshakes;
use super::http::Judge;
use super::inbound::Inbound;
use super::listen::{Accepted, ListenAddress, Listener};
use super::outbound::Outbound;
use super::seldom::Seldom;
use super::stats::{Active, Snapshot, Stats};
use crate::connector::Upstream;
use crate::member::Member;
use crate::watcher::KnownProtocol;

/// How many connections that wait in the kernel are still taken at the end.
const MOST_WAITING: usize = 4_096;

static TOO_MANY: Seldom = Seldom::new();
static CROWDED: Seldom = Seldom::new();

/// What all listeners of a proxy share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) member: Member,
    pub(super) service: Arc<str>,
    pub(super) stats: Arc<Stats>,
    pub(super) handshakes: Arc<Handshakes>,
    pub(super) tasks: TaskTracker,
    /// No more connections are taken.
    pub(super) stop: CancellationToken,
    /// Connections end.
    pub(super) cut: CancellationToken,
}

impl Shared {
    /// Numbers since the start.
    pub(super) fn numbers(&self) -> Snapshot {
        Snapshot {
            handshaking: u64::try_from(self.handshakes.len()).unwrap_or(u64::MAX),
            ..self.stats.snapshot()
        }
    }
}

/// The listeners that are bound.
#[derive(Debug)]
pub(super) struct Listeners {
    shared: Shared,
    inbound: Option<Open<InboundConfig>>,
    upstreams: Vec<Open<UpstreamConfig>>,
}

/// A bound listener.
#[derive(Debug)]
struct Open<C> {
    config: C,
    limits: Limits,
    address: ListenAddress,
    serving: watch::Sender<Arc<Serving>>,
    stop: CancellationToken,
    cut: CancellationToken,
    accepting: JoinHandle<()>,
}

/// What a listener does with a connection.
#[derive(Debug)]
struct Serving {
    role: Role,
    limits: Limits,
    room: Arc<Semaphore>,
}

enum Role {
    Inbound(Arc<Inbound>),
    Outbound(Arc<Outbound>),
}

impl std::fmt::Debug for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Inbound(_) => "Inbound",
            Self::Outbound(_) => "Outbound",
        })
    }
}

/// Ends a connection before its time.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    listener: CancellationToken,
    proxy: CancellationToken,
    /// No more requests are wanted.
    stopping: CancellationToken,
}

impl Cut {
    /// Cancelled when what is under way may end, and nothing more is wanted.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Waits for it, and says why.
    pub(super) async fn cancelled(&self) -> Ending {
        self.listener.cancelled().await;
        if self.proxy.is_cancelled() {
            Ending::shutdown()
        } else {
            Ending::refused("listener-removed", "cut off: its listener was taken away")
        }
    }
}

/// What can stand behind a listener.
trait Behind: Clone + PartialEq {
    fn listen(&self) -> ListenAddress;
    fn socket_mode(&self) -> Option<u32>;
    fn what(&self, shared: &Shared) -> String;
    fn serving(&self, shared: &Shared, limits: &Limits) -> Serving;
}

impl Behind for InboundConfig {
    fn listen(&self) -> ListenAddress {
        self.listen.clone()
    }

    fn socket_mode(&self) -> Option<u32> {
        self.socket_mode
    }

    fn what(&self, shared: &Shared) -> String {
        format!("the service `{}`", shared.service)
    }

    fn serving(&self, shared: &Shared, limits: &Limits) -> Serving {
        Serving {
            role: Role::Inbound(Arc::new(Inbound {
                service: Arc::clone(&shared.service),
                application: self.application.clone(),
                accept_proxy: self.accept_proxy.clone(),
                send_proxy: self.send_proxy,
                tls: shared.member.tls().clone(),
                protocol: shared.member.watcher().protocol(),
                judge: Arc::new(Judge::new(
                    shared.member.tls().verifier().clone(),
                    Arc::clone(&shared.service),
                    shared.member.decisions().clone(),
                )),
                decisions: shared.member.decisions().clone(),
                limits: limits.clone(),
                stats: Arc::clone(&shared.stats),
            })),
            room: Arc::new(Semaphore::new(limits.connections.max(1))),
            limits: limits.clone(),
        }
    }
}

impl Behind for UpstreamConfig {
    fn listen(&self) -> ListenAddress {
        self.listen.clone()
    }

    fn socket_mode(&self) -> Option<u32> {
        self.socket_mode
    }

    fn what(&self, _: &Shared) -> String {
        format!("the upstream `{}`", self.upstream.name())
    }

    fn serving(&self, shared: &Shared, limits: &Limits) -> Serving {
        let connector = shared.member.connector();
        let connector = match self.connect {
            Some(deadline) => connector.with_deadline(deadline),
            None => connector.clone(),
        };
        let connections = self.connections.unwrap_or(limits.connections);
        Serving {
            role: Role::Outbound(Arc::new(Outbound {
                service: Arc::clone(&shared.service),
                upstream: self.upstream.clone(),
                protocol: self.protocol(shared),
                connector,
                limits: limits.clone(),
                stats: Arc::clone(&shared.stats),
            })),
            room: Arc::new(Semaphore::new(connections.max(1))),
            limits: limits.clone(),
        }
    }
}

impl UpstreamConfig {
    /// What it speaks: as the settings say, else as the agent does. Of a fixed server
    /// nobody but the settings knows.
    fn protocol(&self, shared: &Shared) -> watch::Receiver<KnownProtocol> {
        let given = match (&self.upstream, self.protocol) {
            (_, Some(given)) => Some(given),
            (Upstream::Static { .. }, None) => Some(Protocol::Tcp),
            (Upstream::Service { .. }, None) => None,
        };
        match given {
            Some(given) => watch::channel(KnownProtocol::from(given)).1,
            None => {
                let watcher = shared.member.watcher();
                watcher.upstream_protocol(self.upstream.name())
            }
        }
    }
}

impl Listeners {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared,
            inbound: None,
            upstreams: Vec::new(),
        }
    }

    /// Binds all of `wanted`, or none.
    pub(super) fn open_all(&mut self, wanted: Listening) -> Result<(), ProxyError> {
        let Listening {
            inbound,
            upstreams,
            limits,
        } = wanted;
        let shared = &self.shared;
        let inbound = match inbound {
            Some(config) => Some((bind(shared, &config)?, config)),
            None => None,
        };
        let mut bound = Vec::new();
        for config in upstreams {
            bound.push((bind(shared, &config)?, config));
        }
        self.inbound = inbound.map(|(listener, config)| open(shared, config, &limits, listener));
        let opened = bound
            .into_iter()
            .map(|(listener, config)| open(shared, config, &limits, listener));
        self.upstreams = opened.collect();
        Ok(())
    }

    /// Goes over to `wanted`, as far as sockets can be bound; answers what cannot.
    ///
    /// Listeners that are no longer wanted are closed first. Their connections may go on
    /// for `drain`. An inbound listener that cannot be moved stays where it is.
    pub(super) async fn change(&mut self, wanted: Listening, drain: Duration) -> Vec<ProxyError> {
        let mut failed = Vec::new();
        let Listening {
            inbound,
            upstreams,
            limits,
        } = wanted;
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for open in self.upstreams.drain(..) {
            let fits = |config: &UpstreamConfig| {
                config.listen == open.config.listen && config.socket_mode == open.config.socket_mode
            };
            if upstreams.iter().any(fits) {
                kept.push(open);
            } else {
                gone.push(open);
            }
        }
        let mut forgotten: Vec<Upstream> = kept
            .iter()
            .chain(&gone)
            .map(|open| open.config.upstream.clone())
            .collect();
        for open in gone {
            tracing::info!(listen = %open.address, service = open.config.upstream.name(), "outbound listener removed");
            open.close(&self.shared, drain).await;
        }
        self.change_inbound(inbound, &limits, drain, &mut failed)
            .await;
        for config in upstreams {
            let known = kept
                .iter()
                .position(|open| open.config.listen == config.listen);
            forgotten.retain(|upstream| *upstream != config.upstream);
            if let Some(known) = known {
                let mut open = kept.swap_remove(known);
                open.serve(&self.shared, config, &limits);
                self.upstreams.push(open);
                continue;
            }
            match bind(&self.shared, &config) {
                Ok(listener) => {
                    let opened = open(&self.shared, config, &limits, listener);
                    tracing::info!(listen = %opened.address, service = opened.config.upstream.name(), "outbound");
                    self.upstreams.push(opened);
                }
                Err(error) => failed.push(error),
            }
        }
        // None is left: every listener that was kept fits one that is wanted.
        for open in kept {
            open.close(&self.shared, drain).await;
        }
        for upstream in forgotten {
            if let Upstream::Service { name, datacenter } = upstream {
                let watcher = self.shared.member.watcher();
                watcher.forget(&name, datacenter.as_deref());
            }
        }
        failed
    }

    async fn change_inbound(
        &mut self,
        wanted: Option<InboundConfig>,
        limits: &Limits,
        drain: Duration,
        failed: &mut Vec<ProxyError>,
    ) {
        let shared = &self.shared;
        let now = self.inbound.take();
        let (now, wanted) = match (now, wanted) {
            (None, None) => return,
            (Some(now), None) => {
                tracing::info!(listen = %now.address, "inbound listener removed");
                return now.close(shared, drain).await;
            }
            (Some(mut now), Some(wanted))
                if (&now.config.listen, now.config.socket_mode)
                    == (&wanted.listen, wanted.socket_mode) =>
            {
                now.serve(shared, wanted, limits);
                self.inbound = Some(now);
                return;
            }
            (now, Some(wanted)) => (now, wanted),
        };
        // On the same port or path the old one is in the way.
        let (mut now, mut before) = (now, None);
        if now
            .as_ref()
            .is_some_and(|now| now.config.listen.collides(&wanted.listen))
            && let Some(now) = now.take()
        {
            before = Some(now.config.clone());
            now.close(shared, drain).await;
        }
        match bind(shared, &wanted) {
            Ok(listener) => {
                let opened = open(shared, wanted, limits, listener);
                tracing::info!(listen = %opened.address, "inbound");
                self.inbound = Some(opened);
                if let Some(now) = now {
                    now.close(shared, drain).await;
                }
            }
            Err(error) => {
                failed.push(error);
                self.inbound = match (now, before) {
                    (Some(now), _) => Some(now),
                    (None, Some(before)) => match bind(shared, &before) {
                        Ok(listener) => Some(open(shared, before, limits, listener)),
                        Err(error) => {
                            failed.push(error);
                            None
                        }
                    },
                    (None, None) => None,
                };
            }
        }
    }

    /// Whether each still takes connections.
    pub(super) fn are_accepting(&self) -> bool {
        let inbound = self.inbound.iter().map(|open| &open.accepting);
        let upstreams = self.upstreams.iter().map(|open| &open.accepting);
        inbound.chain(upstreams).all(|task| !task.is_finished())
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            inbound: self.inbound.as_ref().map(|open| open.address.clone()),
            upstreams: self
                .upstreams
                .iter()
                .map(|open| open.address.clone())
                .collect(),
        }
    }
}

impl<C: Behind> Open<C> {
    /// Lets new connections meet `config`.
    fn serve(&mut self, shared: &Shared, config: C, limits: &Limits) {
        if self.config == config && self.limits == *limits {
            return;
        }
        tracing::info!(listen = %self.address, "the settings of {} have changed", config.what(shared));
        self.serving
            .send_replace(Arc::new(config.serving(shared, limits)));
        self.config = config;
        self.limits = limits.clone();
    }

    /// Closes the socket; its connections may go on for `drain`.
    async fn close(self, shared: &Shared, drain: Duration) {
        self.stop.cancel();
        let _ = self.accepting.await;
        let (stop, cut) = (shared.stop.clone(), self.cut);
        shared.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(drain) => cut.cancel(),
                // Then the proxy's own patience counts.
                () = stop.cancelled() => {}
            }
        });
    }
}

fn bind(shared: &Shared, config: &impl Behind) -> Result<Listener, ProxyError> {
    let address = config.listen();
    Listener::bind(&address, config.socket_mode()).map_err(|source| ProxyError::Bind {
        address: address.to_string(),
        what: config.what(shared),
        source,
    })
}

fn open<C: Behind>(shared: &Shared, config: C, limits: &Limits, listener: Listener) -> Open<C> {
    let address = listener.address().unwrap_or_else(|_| config.listen());
    let (serving, served) = watch::channel(Arc::new(config.serving(shared, limits)));
    let (stop, cut) = (shared.stop.child_token(), shared.cut.child_token());
    let cut_one = Cut {
        listener: cut.clone(),
        proxy: shared.cut.clone(),
        stopping: stop.clone(),
    };
    let accepting = shared.tasks.spawn(accept(
        listener,
        served,
        shared.clone(),
        stop.clone(),
        cut_one,
    ));
    Open {
        config,
        limits: limits.clone(),
        address,
        serving,
        stop,
        cut,
        accepting,
    }
}

async fn accept(
    listener: Listener,
    mut served: watch::Receiver<Arc<Serving>>,
    shared: Shared,
    stop: CancellationToken,
    cut: Cut,
) {
    tokio::select! {
        // Before that there is no certificate to show and no policy to ask.
        () = shared.member.watcher().ready() => {}
        () = stop.cancelled() => return,
    }
    loop {
        let serving = Arc::clone(&served.borrow_and_update());
        let next = async {
            serving.room_for_handshake(&shared).await;
            listener.accept(&shared.stats).await
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Ok(()) = served.changed() => continue,
            accepted = next => accepted,
        };
        serving.take(accepted, &shared, &cut);
    }
    // Whoever is connected already, though not taken yet, is served: closing the socket
    // would reset them.
    for _ in 0..MOST_WAITING {
        let Some(accepted) = listener.waiting().await else {
            break;
        };
        served.borrow().take(accepted, &shared, &cut);
    }
}

impl Serving {
    /// Waits until one more client may begin a handshake.
    async fn room_for_handshake(&self, shared: &Shared) {
        if matches!(self.role, Role::Outbound(_)) {
            return;
        }
        if shared.handshakes.room(self.limits.handshakes).await {
            shared.stats.gave_way();
            if let Some(times) = CROWDED.now() {
                tracing::warn!(
                    times,
                    at_once = self.limits.handshakes,
                    "too many handshakes at once: the oldest give way (-max-handshakes)"
                );
            }
        }
    }

    /// Serves a connection, or closes it at once if there are too many.
    fn take(&self, (stream, from): Accepted, shared: &Shared, cut: &Cut) {
        let room = Arc::clone(&self.room).try_acquire_owned().ok();
        let active = Active::new(&shared.stats, self.limits.all_connections);
        let (Some(room), Some(active)) = (room, active) else {
            shared.stats.over_limit();
            if let Some(times) = TOO_MANY.now() {
                tracing::warn!(
                    times,
                    "too many connections at once: more are refused (-max-connections, -max-connections-per-listener)"
                );
            }
            stream.reset_on_close(true);
            return;
        };
        let cut = cut.clone();
        match &self.role {
            Role::Inbound(inbound) => {
                let (inbound, place) = (Arc::clone(inbound), shared.handshakes.begin());
                shared.tasks.spawn(async move {
                    let known = inbound.protocol.borrow().protocol;
                    match known.unwrap_or_default() {
                        Protocol::Tcp => inbound.serve(stream, from, place, &cut).await,
                        // Its room is not needed by the others.
                        http => {
                            Box::pin(inbound.serve_http(http, stream, from, place, &cut)).await;
                        }
                    }
                    drop((room, active));
                });
            }
            Role::Outbound(outbound) => {
                let outbound = Arc::clone(outbound);
                shared.tasks.spawn(async move {
                    match outbound.protocol(&cut).await {
                        Protocol::Tcp => outbound.serve(stream, from, &cut).await,
                        http => Box::pin(outbound.serve_http(http, stream, from, &cut)).await,
                    }
                    drop((room, active));
                });
            }
        }
    }
}
