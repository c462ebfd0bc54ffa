//! Inbound: mTLS from the mesh, the decision, and only then the application.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use portcullis_core::intention::Decision;
use portcullis_core::policy::{Client, HeaderNeeds};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsStream;

use super::access::{Access, Direction, Ending, tls_version};
use super::config::Limits;
use super::copy::{CopyError, Side, copy_both};
use super::handshakes::Place;
use super::http::Judge;
use super::lifetime::Lifetime;
use super::listen::{PlainStream, prepare};
use super::listeners::Cut;
use super::live::{Fallen, Standing};
use super::proxy_protocol::{self, About, ReceiveError, Route, Trusted, Version};
use super::stats::Stats;
use crate::decisions::{Decided, Decisions, Told};
use crate::tls::{HandshakeError, MeshStream, MeshTls, Refusal, alert_name, alert_of};
use crate::watcher::KnownProtocol;

/// Where the application listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Application {
    /// TCP: `host:port`; the name is resolved for each connection.
    Tcp(String),
    /// A unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Application {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => formatter.write_str(address),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// What every inbound connection of one listener shares.
pub(super) struct Inbound {
    pub(super) service: Arc<str>,
    pub(super) application: Application,
    pub(super) accept_proxy: Option<Trusted>,
    pub(super) send_proxy: Option<Version>,
    pub(super) tls: MeshTls,
    /// What the service speaks.
    pub(super) protocol: watch::Receiver<KnownProtocol>,
    /// Judges requests, where it speaks HTTP.
    pub(super) judge: Arc<Judge>,
    /// Who is told of decisions about connections.
    pub(super) decisions: Decisions,
    pub(super) limits: Limits,
    pub(super) stats: Arc<Stats>,
}

impl Inbound {
    /// One connection from its first byte to its log line.
    pub(super) async fn serve(
        &self,
        stream: PlainStream,
        from: Option<SocketAddr>,
        place: Place,
        cut: &Cut,
    ) {
        let mut access = Access::new(Direction::Inbound, from, &self.service);
        access.dst_identity = self.tls.leaf().current().map(|leaf| leaf.id.to_string());
        let _metered = self.stats.taken(&access);
        let ending = tokio::select! {
            ending = self.connection(stream, place, &mut access) => ending,
            cut = cut.cancelled() => cut,
        };
        self.stats.ended(&access, &ending);
        access.log(&ending);
    }

    async fn connection(&self, stream: PlainStream, place: Place, access: &mut Access) -> Ending {
        // On the heap and gone afterwards: a handshake needs far more room than the
        // connection that waits for bytes.
        match Box::pin(self.admit(stream, place, access)).await {
            Ok(admitted) => self.carry(admitted, access).await,
            Err(ending) => ending,
        }
    }

    /// From the first byte to both ends being connected.
    async fn admit(
        &self,
        stream: PlainStream,
        place: Place,
        access: &mut Access,
    ) -> Result<Box<Admitted>, Ending> {
        let mut route = Route {
            from: access.src_addr,
            to: stream.local_address(),
        };
        let target = Some(Arc::clone(&self.service));
        let accepted = self.accept(stream, &mut route, place, target, access).await;
        access.src_addr = route.from;
        let MeshStream {
            stream,
            peer,
            chain,
            epoch,
        } = accepted?;
        // From here on the client has proved its key and its chain is good.
        access.src_identity = Some(peer.id.to_string());
        access.tls = tls_version(stream.get_ref().1);
        let standing = Standing::inbound(&self.tls, &peer, chain, epoch, Arc::clone(&self.service));
        // Whatever ends early ends with a reset; only a clean end takes this back.
        stream.get_ref().0.reset_on_close(true);
        let asked = Instant::now();
        let decision = standing.decide();
        self.stats.meters().decided(asked.elapsed());
        let decision = match decision {
            Some(decision) if decision.is_allowed() => {
                access.told = self.tell(&decision, access, Decisions::decided);
                decision
            }
            refused => return Err(self.denied(refused, access, Decisions::decided)),
        };
        let reason = self.describe(&decision);
        let code = decision.code.code();
        access.decision = Some(decision);
        self.stats.allowed(access);

        let about = About {
            route,
            tls: access.tls,
            identity: access.src_identity.as_deref().unwrap_or_default(),
        };
        let application = self.application(about).await.map_err(|error| {
            let reason = format!(
                "the application at `{}` cannot be reached",
                self.application
            );
            Ending::failed("application-unreachable", reason, error)
        })?;
        application.reset_on_close(true);
        access.dst_addr = Some(self.application.to_string());
        Ok(Box::new(Admitted {
            stream,
            application,
            standing,
            code,
            reason,
        }))
    }

    /// A handshake with a client, who gives way to others when it takes long. With a
    /// `target`, whoever is refused there is told so at once.
    pub(super) async fn accept(
        &self,
        stream: PlainStream,
        route: &mut Route,
        place: Place,
        target: Option<Arc<str>>,
        access: &mut Access,
    ) -> Result<MeshStream<PlainStream>, Ending> {
        let accepted = tokio::select! {
            accepted = self.handshake(stream, route, target) => accepted,
            () = place.needed() => Err(Ending::refused(
                "too-many-handshakes",
                "its handshake took long, and gave way to others",
            )),
        };
        drop(place);
        match accepted {
            Ok(Ok(accepted)) => Ok(accepted),
            Ok(Err(error)) => {
                let ending = self.no_handshake(error, access);
                if access.decision.is_none() {
                    self.stats.handshake_failed(access, &ending);
                }
                Err(ending)
            }
            Err(ending) => {
                self.stats.handshake_failed(access, &ending);
                Err(ending)
            }
        }
    }

    /// Copies until both sides have ended, or the connection no longer stands.
    async fn carry(&self, mut admitted: Box<Admitted>, access: &mut Access) -> Ending {
        let Admitted {
            stream,
            application,
            standing,
            ..
        } = &mut *admitted;
        let lifetime = Lifetime::new(&self.limits);
        self.stats.opened(access);
        let copied = tokio::select! {
            copied = copy_both(stream, application, &access.counts) => Ok(copied),
            fallen = standing.fallen() => Err(fallen),
            over = lifetime.over(&access.counts) => return over.ending(&self.stats),
        };
        let error = match copied {
            Ok(Ok(())) => {
                admitted.application.reset_on_close(false);
                admitted.stream.get_ref().0.reset_on_close(false);
                None
            }
            Ok(Err(CopyError { side, error })) => Some(match (side, alert_of(&error)) {
                (Side::A, Some(alert)) => format!("client: alert {}", alert_name(alert)),
                (Side::A, None) => format!("client: {error}"),
                (Side::B, _) => format!("application: {error}"),
            }),
            Err(fallen) => {
                self.stats.cut();
                return self.fallen(fallen, access);
            }
        };
        Ending {
            refused: false,
            code: admitted.code.into(),
            reason: admitted.reason,
            error,
        }
    }

    /// The PROXY header, where one is due, and the handshake, within one deadline.
    async fn handshake(
        &self,
        mut stream: PlainStream,
        route: &mut Route,
        target: Option<Arc<str>>,
    ) -> Result<Result<MeshStream<PlainStream>, HandshakeError>, Ending> {
        let until = Instant::now() + self.limits.handshake;
        if self
            .accept_proxy
            .as_ref()
            .is_some_and(|trusted| trusted.contains(route.from))
        {
            match timeout_at(until, proxy_protocol::receive(&mut stream)).await {
                Ok(Ok(told)) => *route = told.unwrap_or(*route),
                Ok(Err(ReceiveError::Io(error))) => {
                    return Err(Ending::failed(
                        "handshake-failed",
                        "no handshake with the client",
                        error,
                    ));
                }
                Ok(Err(error)) => {
                    let reason =
                        format!("the load balancer in front of us is trusted, but {error}");
                    return Err(Ending::refused("proxy-header", reason));
                }
                Err(_) => return Ok(Err(HandshakeError::Timeout(self.limits.handshake))),
            }
        }
        let requests = target.is_none();
        let left = until.saturating_duration_since(Instant::now());
        if requests {
            // Both, whatever the application speaks: the first bytes count.
            let names = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let tls = self.tls.clone().with_alpn(names);
            return Ok(tls.accept(stream, target, left).await);
        }
        Ok(self.tls.accept(stream, target, left).await)
    }

    fn no_handshake(&self, error: HandshakeError, access: &mut Access) -> Ending {
        match error {
            HandshakeError::Refused(Refusal::Denied { peer, decision }) => {
                access.src_identity = Some(peer.id.to_string());
                self.denied(Some(decision), access, Decisions::decided)
            }
            HandshakeError::Refused(Refusal::Chain(error)) => Ending::refused(
                error.code().to_owned(),
                format!("the client's certificate is refused: {error}"),
            ),
            HandshakeError::Refused(Refusal::NoProof) => {
                Ending::refused("no-certificate", "the client presented no certificate")
            }
            HandshakeError::Refused(Refusal::Failed) => {
                Ending::refused("policy-failed", "the verification failed")
            }
            HandshakeError::Timeout(_) => Ending::refused(
                "handshake-timeout",
                format!("no complete handshake within {:?}", self.limits.handshake),
            ),
            error => Ending::failed("handshake-failed", "no handshake with the client", error),
        }
    }

    fn denied(
        &self,
        decision: Option<Decision>,
        access: &mut Access,
        tell: impl FnOnce(&Decisions, &Decided<'_>) -> Told,
    ) -> Ending {
        let Some(decision) = decision else {
            return Ending::refused("policy-failed", "the policy did not answer");
        };
        let ending = Ending::refused(decision.code.code(), self.describe(&decision));
        access.told = self.tell(&decision, access, tell);
        access.decision = Some(decision);
        ending
    }

    fn tell(
        &self,
        decision: &Decision,
        access: &Access,
        tell: impl FnOnce(&Decisions, &Decided<'_>) -> Told,
    ) -> Told {
        if self.decisions.is_idle() {
            return Told::default();
        }
        let verifier = self.tls.verifier();
        let decided = Decided {
            policy: verifier.policy(),
            service: &self.service,
            client: &Client::from_uri(access.src_identity.as_deref().unwrap_or_default()),
            request: None,
            needs: &HeaderNeeds::None,
            decision,
            now: verifier.clock().now(),
        };
        tell(&self.decisions, &decided)
    }

    fn fallen(&self, fallen: Fallen, access: &mut Access) -> Ending {
        match fallen {
            Fallen::Denied(decision) => {
                let ending = self.denied(Some(decision), access, Decisions::fallen);
                Ending {
                    reason: format!("cut off by a change of policy: {}", ending.reason),
                    ..ending
                }
            }
            Fallen::Chain(Refusal::Chain(error)) => Ending::refused(
                error.code().to_owned(),
                format!("cut off: the client's certificate is no longer good: {error}"),
            ),
            Fallen::Chain(refusal) => {
                Ending::refused("policy-failed", format!("cut off: {refusal}"))
            }
            Fallen::Expired => Ending::refused(
                "certificate-expired",
                "cut off: the client's certificate has expired",
            ),
        }
    }

    fn describe(&self, decision: &Decision) -> String {
        self.tls
            .verifier()
            .policy()
            .describe(&self.service, decision)
    }

    /// Connects to the application, and tells it about the client where it wants that.
    pub(super) async fn application(&self, about: About<'_>) -> io::Result<PlainStream> {
        let connect = async {
            let mut stream = match &self.application {
                Application::Tcp(address) => {
                    let stream = TcpStream::connect(address.as_str()).await?;
                    prepare(&stream);
                    PlainStream::Tcp(stream)
                }
                Application::Unix(path) => PlainStream::Unix(UnixStream::connect(path).await?),
            };
            if let Some(version) = self.send_proxy {
                let header = proxy_protocol::header(version, about);
                stream.write_all(&header).await?;
            }
            Ok(stream)
        };
        let limit = self.limits.connect;
        let late = |_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {limit:?}"),
            )
        };
        tokio::time::timeout(limit, connect).await.map_err(late)?
    }
}

/// An allowed client, connected to the application.
struct Admitted {
    stream: TlsStream<PlainStream>,
    application: PlainStream,
    standing: Standing,
    /// Why it is allowed: the code, and the same in a sentence.
    code: &'static str,
    reason: String,
}
