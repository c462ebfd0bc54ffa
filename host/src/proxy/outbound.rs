//! Outbound: a local listener for each upstream, and mTLS to one of its instances.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::intention::Protocol;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use super::access::{Access, Direction, Ending, tls_version};
use super::config::Limits;
use super::copy::{CopyError, Side, copy_both};
use super::lifetime::Lifetime;
use super::listen::{PlainStream, reset_on_close};
use super::listeners::Cut;
use super::live::{Fallen, Standing};
use super::stats::{REFUSED_BY_PEER, Stats};
use crate::connector::{Connection, Connector, DialError, Upstream};
use crate::tls::{HandshakeError, MeshStream, Refusal, alert_name, alert_of};
use crate::watcher::KnownProtocol;

/// How long to look for the alert behind a connection that was reset.
const ALERT: Duration = Duration::from_millis(100);

/// How long to wait until it is known what the upstream speaks.
const PROTOCOL: Duration = Duration::from_secs(10);

/// What every connection to one upstream shares.
pub(super) struct Outbound {
    pub(super) service: Arc<str>,
    pub(super) upstream: Upstream,
    pub(super) connector: Connector,
    /// What the upstream speaks.
    pub(super) protocol: watch::Receiver<KnownProtocol>,
    pub(super) limits: Limits,
    pub(super) stats: Arc<Stats>,
}

impl Outbound {
    /// What the upstream speaks; waited for a little, as its instances are.
    pub(super) async fn protocol(&self, cut: &Cut) -> Protocol {
        if let Some(known) = self.protocol.borrow().protocol {
            return known;
        }
        let mut protocol = self.protocol.clone();
        let known = protocol.wait_for(|known| known.protocol.is_some());
        tokio::select! {
            Ok(known) = known => known.protocol.unwrap_or_default(),
            () = tokio::time::sleep(PROTOCOL) => Protocol::Tcp,
            _ = cut.cancelled() => Protocol::Tcp,
        }
    }

    /// One connection from its first byte to its log line.
    pub(super) async fn serve(&self, mut local: PlainStream, from: Option<SocketAddr>, cut: &Cut) {
        let mut access = Access::new(Direction::Outbound, from, self.upstream.name());
        access.src_identity = self
            .connector
            .tls()
            .leaf()
            .current()
            .map(|leaf| leaf.id.to_string());
        let _metered = self.stats.taken(&access);
        // Whatever ends early ends with a reset; only a clean end takes this back.
        local.reset_on_close(true);
        let ending = tokio::select! {
            ending = self.connection(&mut local, &mut access) => ending,
            cut = cut.cancelled() => cut,
        };
        self.stats.ended(&access, &ending);
        access.log(&ending);
    }

    async fn connection(&self, local: &mut PlainStream, access: &mut Access) -> Ending {
        // On the heap and gone afterwards: dialling needs far more room than the
        // connection that waits for bytes.
        let dialled = Box::pin(self.connector.dial_upstream(&self.upstream)).await;
        let Connection { stream, endpoint } = match dialled {
            Ok(connection) => connection,
            Err(error) => {
                let handshake = matches!(error, DialError::Handshake { .. });
                let ending = self.not_dialled(error, access);
                if handshake {
                    self.stats.handshake_failed(access, &ending);
                }
                return ending;
            }
        };
        let MeshStream {
            stream,
            peer,
            chain,
            epoch,
        } = stream;
        let mut stream = Box::new(stream);
        reset_on_close(stream.get_ref().0, true);
        access.dst_addr = Some(endpoint.address);
        access.dst_identity = Some(peer.id.to_string());
        access.tls = tls_version(stream.get_ref().1);
        self.stats.allowed(access);
        self.stats.opened(access);
        let mut standing = Standing::outbound(
            self.connector.tls(),
            &peer,
            chain,
            epoch,
            endpoint.id.to_string().into(),
        );
        let lifetime = Lifetime::new(&self.limits);
        let copied = tokio::select! {
            copied = copy_both(local, &mut *stream, &access.counts) => Ok(copied),
            fallen = standing.fallen() => Err(fallen),
            over = lifetime.over(&access.counts) => return over.ending(&self.stats),
        };
        match copied {
            Ok(Ok(())) => {
                local.reset_on_close(false);
                reset_on_close(stream.get_ref().0, false);
                Ending {
                    refused: false,
                    code: "connected".into(),
                    reason: "the server is the wanted service".to_owned(),
                    error: None,
                }
            }
            Ok(Err(CopyError {
                side: Side::A,
                error,
            })) => self.broken(format!("local program: {error}")),
            Ok(Err(CopyError {
                side: Side::B,
                error,
            })) => {
                let silent = access
                    .counts
                    .b_to_a
                    .load(std::sync::atomic::Ordering::Relaxed)
                    == 0;
                let mut alert = alert_of(&error);
                if alert.is_none() && silent {
                    // A write may fail before the alert that explains it was read.
                    let read = tokio::time::timeout(ALERT, stream.read(&mut [0; 1])).await;
                    alert = read
                        .ok()
                        .and_then(Result::err)
                        .and_then(|error| alert_of(&error));
                }
                match alert {
                    Some(alert) if silent => {
                        self.refused_there(&format!("alert {}", alert_name(alert)))
                    }
                    Some(alert) => self.broken(format!("server: alert {}", alert_name(alert))),
                    None if silent => Ending {
                        error: Some(format!("server: {error}")),
                        ..self.refused_there("closed without a word, which may be a refusal")
                    },
                    None => self.broken(format!("server: {error}")),
                }
            }
            Err(fallen) => {
                self.stats.cut();
                match fallen {
                    Fallen::Expired => Ending::refused(
                        "certificate-expired",
                        "cut off: the server's certificate has expired",
                    ),
                    Fallen::Chain(Refusal::Chain(error)) => Ending::refused(
                        error.code().to_owned(),
                        format!("cut off: the server's certificate is no longer good: {error}"),
                    ),
                    Fallen::Chain(_) | Fallen::Denied(_) => {
                        Ending::refused("policy-failed", "cut off: the policy failed")
                    }
                }
            }
        }
    }

    fn broken(&self, error: String) -> Ending {
        Ending {
            refused: false,
            code: "connected".into(),
            reason: "the connection broke".to_owned(),
            error: Some(error),
        }
    }

    /// The other side refuses us: only there one can know why.
    fn refused_there(&self, how: &str) -> Ending {
        let (us, them) = (&self.service, self.upstream.name());
        Ending::refused(
            REFUSED_BY_PEER,
            format!("{them} refuses us ({how}); ask why: portcullis check {us} {them}"),
        )
    }

    pub(super) fn not_dialled(&self, error: DialError, access: &mut Access) -> Ending {
        match error {
            DialError::Handshake {
                error: HandshakeError::RefusedByPeer(alert),
                address,
                ..
            } => {
                access.dst_addr = Some(address);
                self.refused_there(&format!("alert {}", alert_name(alert)))
            }
            DialError::Handshake {
                error: HandshakeError::Refused(Refusal::Chain(error)),
                address,
                service,
            } => {
                access.dst_addr = Some(address);
                Ending::refused(
                    error.code().to_owned(),
                    format!("what answers is not {service}: {error}"),
                )
            }
            DialError::Handshake { error, address, .. } => {
                access.dst_addr = Some(address);
                Ending::failed("handshake-failed", "no handshake with the server", error)
            }
            DialError::Unreachable {
                error,
                address,
                service,
            } => {
                access.dst_addr = Some(address);
                Ending::failed(
                    "dial-failed",
                    format!("no instance of {service} can be reached"),
                    error,
                )
            }
            DialError::NoInstance { .. } => Ending::refused("no-instance", error.to_string()),
            DialError::NoLeaf | DialError::LeafExpired(_) => {
                Ending::refused("not-ready", error.to_string())
            }
        }
    }
}
