//! Inbound: mTLS from the mesh, the decision, and only then the application.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use portcullis_core::intention::Decision;
use tokio::net::{TcpStream, UnixStream};

use super::access::{Access, Direction, Ending, tls_version};
use super::config::Limits;
use super::copy::{CopyError, Side, copy_both};
use super::listen::{delegate_io, prepare, reset_on_close};
use super::listeners::Cut;
use super::live::{Fallen, Standing};
use super::stats::Stats;
use crate::tls::{HandshakeError, MeshStream, MeshTls, Refusal, alert_name, alert_of};

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
    pub(super) tls: MeshTls,
    pub(super) limits: Limits,
    pub(super) stats: Arc<Stats>,
}

impl Inbound {
    /// One connection from its first byte to its log line.
    pub(super) async fn serve(&self, stream: TcpStream, from: Option<SocketAddr>, cut: &Cut) {
        let mut access = Access::new(Direction::Inbound, from, &self.service);
        access.dst_identity = self.tls.leaf().current().map(|leaf| leaf.id.to_string());
        let ending = tokio::select! {
            ending = self.connection(stream, &mut access) => ending,
            cut = cut.cancelled() => cut,
        };
        self.stats.ended(&ending);
        access.log(&ending);
    }

    async fn connection(&self, stream: TcpStream, access: &mut Access) -> Ending {
        let accepted = self
            .tls
            .accept(
                stream,
                Some(Arc::clone(&self.service)),
                self.limits.handshake,
            )
            .await;
        let MeshStream {
            mut stream,
            peer,
            chain,
        } = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return self.no_handshake(error, access),
        };
        // From here on the client has proved its key and its chain is good.
        access.src_identity = Some(peer.id.to_string());
        access.tls = tls_version(stream.get_ref().1);
        let standing = Standing::inbound(&self.tls, &peer, chain, Arc::clone(&self.service));
        // Whatever ends early ends with a reset; only a clean end takes this back.
        reset_on_close(stream.get_ref().0, true);
        let decision = match standing.decide() {
            Some(decision) if decision.is_allowed() => decision,
            refused => return self.denied(refused, access),
        };
        let reason = self.describe(&decision);
        let code = decision.code.code().into();
        access.decision = Some(decision);
        self.stats.allowed();

        let mut application = match self.application().await {
            Ok(application) => application,
            Err(error) => {
                let reason = format!(
                    "the application at `{}` cannot be reached",
                    self.application
                );
                return Ending::failed("application-unreachable", reason, error);
            }
        };
        application.reset_on_close(true);
        access.dst_addr = Some(self.application.to_string());
        let copied = tokio::select! {
            copied = copy_both(&mut stream, &mut application, &access.counts) => Ok(copied),
            fallen = standing.fallen() => Err(fallen),
        };
        match copied {
            Ok(Ok(())) => {
                application.reset_on_close(false);
                reset_on_close(stream.get_ref().0, false);
                Ending {
                    refused: false,
                    code,
                    reason,
                    error: None,
                }
            }
            Ok(Err(CopyError { side, error })) => {
                let error = match (side, alert_of(&error)) {
                    (Side::A, Some(alert)) => format!("client: alert {}", alert_name(alert)),
                    (Side::A, None) => format!("client: {error}"),
                    (Side::B, _) => format!("application: {error}"),
                };
                Ending {
                    refused: false,
                    code,
                    reason,
                    error: Some(error),
                }
            }
            Err(fallen) => {
                self.stats.cut();
                self.fallen(fallen, access)
            }
        }
    }

    fn no_handshake(&self, error: HandshakeError, access: &mut Access) -> Ending {
        match error {
            HandshakeError::Refused(Refusal::Denied { peer, decision }) => {
                access.src_identity = Some(peer.id.to_string());
                self.denied(Some(decision), access)
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
            HandshakeError::Timeout(after) => Ending::refused(
                "handshake-timeout",
                format!("no complete handshake within {after:?}"),
            ),
            error => Ending::failed("handshake-failed", "no handshake with the client", error),
        }
    }

    fn denied(&self, decision: Option<Decision>, access: &mut Access) -> Ending {
        let Some(decision) = decision else {
            return Ending::refused("policy-failed", "the policy did not answer");
        };
        let ending = Ending::refused(decision.code.code(), self.describe(&decision));
        access.decision = Some(decision);
        ending
    }

    fn fallen(&self, fallen: Fallen, access: &mut Access) -> Ending {
        match fallen {
            Fallen::Denied(decision) => {
                let ending = self.denied(Some(decision), access);
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

    async fn application(&self) -> io::Result<ApplicationStream> {
        let connect = async {
            match &self.application {
                Application::Tcp(address) => {
                    let stream = TcpStream::connect(address.as_str()).await?;
                    prepare(&stream);
                    Ok(ApplicationStream::Tcp(stream))
                }
                Application::Unix(path) => {
                    UnixStream::connect(path).await.map(ApplicationStream::Unix)
                }
            }
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

/// A connection to the application.
enum ApplicationStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ApplicationStream {
    fn reset_on_close(&self, reset: bool) {
        if let Self::Tcp(stream) = self {
            reset_on_close(stream, reset);
        }
    }
}

delegate_io!(ApplicationStream { Tcp, Unix });
