//! Connections onward: to the application, or through the mesh to an upstream.
//!
//! Each belongs to one connection of a client and carries nobody else's requests, so
//! whatever one client makes of a connection harms only itself. A request is sent once: it
//! goes to another connection only if not a byte of it was written.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_core::intention::Protocol;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsStream;

use super::super::access::{Access, Direction, Ending};
use super::super::inbound::Inbound;
use super::super::listen::{PlainStream, reset_on_close};
use super::super::live::{Fallen, Standing};
use super::super::outbound::Outbound;
use super::super::proxy_protocol::{About, Route};
use super::flow::Flow;
use super::settings::HttpSettings;

/// How many connections of HTTP/1.1 are kept for the next request.
const KEPT: usize = 16;

/// Where requests go.
pub(super) enum To {
    /// To the application, which may be told who the client is.
    Application {
        inbound: Arc<Inbound>,
        route: Route,
        tls: Option<&'static str>,
        identity: String,
    },
    /// To an instance of an upstream.
    Mesh(Arc<Outbound>),
}

/// The connections onward of one client's connection.
pub(super) struct Onward {
    to: To,
    protocol: Protocol,
    settings: HttpSettings,
    http1: Mutex<Vec<Sender1>>,
    http2: tokio::sync::Mutex<Option<Sender2>>,
    /// Ended when this is dropped.
    tasks: Mutex<JoinSet<()>>,
}

struct Sender1 {
    sender: http1::SendRequest<Flow>,
    reached: Arc<Reached>,
}

#[derive(Clone)]
struct Sender2 {
    sender: http2::SendRequest<Flow>,
    reached: Arc<Reached>,
}

/// Who was reached.
#[derive(Debug, Default)]
pub(super) struct Reached {
    pub(super) address: Option<String>,
    pub(super) identity: Option<String>,
}

/// An answer, and whose.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) reached: Arc<Reached>,
}

/// Why there is no answer.
pub(super) struct Unanswered {
    pub(super) status: StatusCode,
    pub(super) ending: Ending,
}

impl Onward {
    pub(super) fn new(to: To, protocol: Protocol, settings: HttpSettings) -> Self {
        Self {
            to,
            protocol,
            settings,
            http1: Mutex::default(),
            http2: tokio::sync::Mutex::default(),
            tasks: Mutex::default(),
        }
    }

    /// Whether HTTP/2 is what the other side is known to speak.
    fn wants_http2(&self) -> bool {
        matches!(self.protocol, Protocol::Http2 | Protocol::Grpc)
    }

    /// Sends a request, and waits for the head of its answer. `shape` brings the request
    /// into the form of the version that is spoken there. One that asks to upgrade goes by
    /// HTTP/1.1 alone.
    pub(super) async fn send(
        &self,
        request: Request<Flow>,
        upgrades: bool,
        shape: impl Fn(&mut Request<Flow>, bool),
    ) -> Result<Answered, Unanswered> {
        let mut request = request;
        loop {
            // A connection that was kept may be gone by now.
            let (mut sender, kept) = if let Some(kept) = self.kept() {
                (Sender::One(kept), true)
            } else if let (true, false, Some(shared)) =
                (self.wants_http2(), upgrades, self.shared().await)
            {
                (Sender::Two(shared), true)
            } else {
                (self.dial(upgrades).await?, false)
            };
            shape(&mut request, matches!(sender, Sender::Two(_)));
            let (sent, reached) = match &mut sender {
                Sender::One(one) => {
                    let sent = one.sender.try_send_request(request).await;
                    (sent, Arc::clone(&one.reached))
                }
                Sender::Two(two) => {
                    let sent = two.sender.try_send_request(request).await;
                    (sent, Arc::clone(&two.reached))
                }
            };
            match sent {
                Ok(response) => {
                    if let Sender::One(one) = sender {
                        self.keep(one);
                    }
                    return Ok(Answered { response, reached });
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(self.broke(&error.into_error(), &reached)),
                },
            }
        }
    }

    fn broke(&self, error: &hyper::Error, reached: &Reached) -> Unanswered {
        let who = match &self.to {
            To::Application { .. } => "the application",
            To::Mesh(_) => "the server",
        };
        let code = match &self.to {
            To::Application { .. } => "application-failed",
            To::Mesh(_) => "upstream-failed",
        };
        let place = reached.address.as_deref().unwrap_or_default();
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(error) {
            text = format!("{text}: {source}");
        }
        Unanswered {
            status: StatusCode::BAD_GATEWAY,
            ending: Ending::failed(code, format!("{who} at `{place}` gave no answer"), text),
        }
    }

    fn kept(&self) -> Option<Sender1> {
        let mut kept = lock(&self.http1);
        kept.retain(|one| !one.sender.is_closed());
        let ready = kept.iter().position(|one| one.sender.is_ready())?;
        Some(kept.swap_remove(ready))
    }

    fn keep(&self, one: Sender1) {
        let mut kept = lock(&self.http1);
        if kept.len() < KEPT {
            kept.push(one);
        }
    }

    async fn shared(&self) -> Option<Sender2> {
        let mut shared = self.http2.lock().await;
        shared.take_if(|two| two.sender.is_closed());
        shared.clone()
    }

    async fn dial(&self, upgrades: bool) -> Result<Sender, Unanswered> {
        // Those who come together share what the first of them dials.
        let mut shared = self.http2.lock().await;
        shared.take_if(|two| two.sender.is_closed());
        if let (Some(shared), false) = (&*shared, upgrades) {
            return Ok(Sender::Two(shared.clone()));
        }
        if upgrades || !self.wants_http2() {
            drop(shared);
            let (stream, reached, standing) = self.connect(false).await?;
            return self.speak_http1(stream, reached, standing).await;
        }
        let (stream, reached, standing) = self.connect(true).await?;
        if !stream.speaks_http2() {
            drop(shared);
            return self.speak_http1(stream, reached, standing).await;
        }
        let reached = Arc::new(reached);
        let handshake = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(u32::try_from(self.settings.header_bytes).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|error| self.broke(&error, &reached))?;
        self.spawn(connection, standing);
        let two = Sender2 { sender, reached };
        *shared = Some(two.clone());
        Ok(Sender::Two(two))
    }

    async fn speak_http1(
        &self,
        stream: OnwardStream,
        reached: Reached,
        standing: Option<Standing>,
    ) -> Result<Sender, Unanswered> {
        let reached = Arc::new(reached);
        let handshake = http1::Builder::new()
            .max_headers(self.settings.headers)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = handshake.map_err(|error| self.broke(&error, &reached))?;
        self.spawn(connection.with_upgrades(), standing);
        Ok(Sender::One(Sender1 { sender, reached }))
    }

    /// Runs a connection until it ends, or its server no longer stands.
    fn spawn(
        &self,
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
        standing: Option<Standing>,
    ) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let Some(mut standing) = standing else {
                let _ = connection.await;
                return;
            };
            tokio::select! {
                _ = connection => {}
                fallen = standing.fallen() => {
                    let why = match fallen {
                        Fallen::Expired => "its certificate has expired",
                        Fallen::Chain(_) | Fallen::Denied(_) => "its certificate is no longer good",
                    };
                    tracing::warn!(why, "a connection to a server is cut off");
                }
            }
        });
    }

    async fn connect(
        &self,
        http2: bool,
    ) -> Result<(OnwardStream, Reached, Option<Standing>), Unanswered> {
        let unreachable = |ending| Unanswered {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ending,
        };
        match &self.to {
            To::Application {
                inbound,
                route,
                tls,
                identity,
            } => {
                let about = About {
                    route: *route,
                    tls: *tls,
                    identity,
                };
                let address = inbound.application.to_string();
                let stream = inbound.application(about).await.map_err(|error| {
                    let reason = format!("the application at `{address}` cannot be reached");
                    unreachable(Ending::failed("application-unreachable", reason, error))
                })?;
                let reached = Reached {
                    address: Some(address),
                    identity: None,
                };
                Ok((OnwardStream::Plain { stream, http2 }, reached, None))
            }
            To::Mesh(outbound) => {
                let mut access = Access::new(Direction::Outbound, None, outbound.upstream.name());
                let names: &[&[u8]] = if http2 {
                    &[b"h2", b"http/1.1"]
                } else {
                    &[b"http/1.1"]
                };
                let names = names.iter().map(|name| name.to_vec()).collect();
                let connector = outbound.connector.with_alpn(names);
                let dialled = connector.dial_upstream(&outbound.upstream).await;
                let connection = dialled
                    .map_err(|error| unreachable(outbound.not_dialled(error, &mut access)))?;
                let (stream, endpoint) = (connection.stream, connection.endpoint);
                let standing = Standing::outbound(
                    connector.tls(),
                    &stream.peer,
                    stream.chain,
                    stream.epoch,
                    endpoint.id.to_string().into(),
                );
                let reached = Reached {
                    address: Some(endpoint.address),
                    identity: Some(stream.peer.id.to_string()),
                };
                let http2 = match stream.stream.get_ref().1.alpn_protocol() {
                    Some(name) => name == b"h2",
                    None => http2,
                };
                let stream = Box::new(stream.stream);
                Ok((
                    OnwardStream::Mesh { stream, http2 },
                    reached,
                    Some(standing),
                ))
            }
        }
    }
}

enum Sender {
    One(Sender1),
    Two(Sender2),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection onward.
pub(super) enum OnwardStream {
    Plain {
        stream: PlainStream,
        http2: bool,
    },
    Mesh {
        stream: Box<TlsStream<TcpStream>>,
        http2: bool,
    },
}

impl OnwardStream {
    const fn speaks_http2(&self) -> bool {
        match self {
            Self::Plain { http2, .. } | Self::Mesh { http2, .. } => *http2,
        }
    }

    /// Lets it end with a reset, or again as usual.
    pub(super) fn reset_on_close(&self, reset: bool) {
        match self {
            Self::Plain { stream, .. } => stream.reset_on_close(reset),
            Self::Mesh { stream, .. } => reset_on_close(stream.get_ref().0, reset),
        }
    }
}

impl AsyncRead for OnwardStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_read(cx, buf),
            Self::Mesh { stream, .. } => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for OnwardStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
            Self::Mesh { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_flush(cx),
            Self::Mesh { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Self::Mesh { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
