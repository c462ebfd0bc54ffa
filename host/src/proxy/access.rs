//! The access log: one event per connection, target `access`.
//!
//! As for Envoy, `bytes_recv` came from the side that opened the connection and
//! `bytes_sent` went to it. An identity is logged only when its key was proved.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use portcullis_core::intention::Decision;

use super::copy::Counts;
use crate::decisions::Told;
use crate::escape::visible;

/// How much of a text from elsewhere is logged.
const LONGEST: usize = 512;

/// Which way a connection goes, seen from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    /// For logs and metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What is known about one connection; filled in as it comes.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) direction: Direction,
    pub(super) src_addr: Option<SocketAddr>,
    pub(super) src_identity: Option<String>,
    pub(super) dst_addr: Option<String>,
    pub(super) dst_service: String,
    pub(super) dst_identity: Option<String>,
    pub(super) tls: Option<&'static str>,
    pub(super) decision: Option<Decision>,
    /// What others were told of it.
    pub(super) told: Told,
    pub(super) counts: Arc<Counts>,
    /// Whether both sides were there.
    pub(super) opened: bool,
    started: Instant,
}

/// What a request asks for and how it was answered, for its line.
#[derive(Debug)]
pub(super) struct RequestLine<'a> {
    pub(super) version: &'static str,
    pub(super) method: &'a str,
    /// Without its query.
    pub(super) path: &'a str,
    pub(super) status: Option<u16>,
    /// `traceparent`, where it is one.
    pub(super) trace: Option<&'a str>,
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// Whether it was refused or cut, or could not be made.
    pub(super) refused: bool,
    /// A stable name: a reason of the policy or one of the proxy's own.
    pub(super) code: Cow<'static, str>,
    /// The same in a sentence.
    pub(super) reason: String,
    /// What broke, if something did.
    pub(super) error: Option<String>,
}

impl Ending {
    pub(super) fn refused(code: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self {
            refused: true,
            code: code.into(),
            reason: reason.into(),
            error: None,
        }
    }

    pub(super) fn failed(
        code: impl Into<Cow<'static, str>>,
        reason: impl Into<String>,
        error: impl ToString,
    ) -> Self {
        Self {
            refused: true,
            code: code.into(),
            reason: reason.into(),
            error: Some(error.to_string()),
        }
    }
}

impl Ending {
    /// The proxy ends at once.
    pub(super) fn shutdown() -> Self {
        Self::refused("shutdown", "cut off: the proxy shut down")
    }
}

impl Access {
    pub(super) fn new(
        direction: Direction,
        src_addr: Option<SocketAddr>,
        dst_service: &str,
    ) -> Self {
        Self {
            direction,
            src_addr,
            src_identity: None,
            dst_addr: None,
            dst_service: dst_service.to_owned(),
            dst_identity: None,
            tls: None,
            decision: None,
            told: Told::default(),
            counts: Arc::default(),
            opened: false,
            started: Instant::now(),
        }
    }

    /// The same connection, with what it is known by and its bytes.
    pub(super) fn same_connection(&self) -> Self {
        Self {
            counts: Arc::clone(&self.counts),
            ..self.again()
        }
    }

    /// A request on the same connection, which begins now.
    pub(super) fn again(&self) -> Self {
        Self {
            src_identity: self.src_identity.clone(),
            dst_addr: self.dst_addr.clone(),
            dst_identity: self.dst_identity.clone(),
            tls: self.tls,
            ..Self::new(self.direction, self.src_addr, &self.dst_service)
        }
    }

    /// Writes the line of a request.
    pub(super) fn log_request(&self, ending: &Ending, request: &RequestLine<'_>) {
        self.write(ending, Some(request));
    }

    /// Writes the line of a connection.
    pub(super) fn log(&self, ending: &Ending) {
        self.write(ending, None);
    }

    fn write(&self, ending: &Ending, request: Option<&RequestLine<'_>>) {
        let text = |text: &Option<String>| text.as_deref().map(|text| visible(text, LONGEST));
        let (src_identity, dst_identity) = (text(&self.src_identity), text(&self.dst_identity));
        let (dst_addr, error) = (text(&self.dst_addr), text(&ending.error));
        let src_addr = self
            .src_addr
            .map_or_else(|| "unix".to_owned(), |address| address.to_string());
        let (code, reason) = (visible(&ending.code, 64), visible(&ending.reason, LONGEST));
        let decision = self.decision.as_ref();
        let shadow = self.told.difference.as_deref();
        let shadow_reason = shadow.map(|shadow| visible(&shadow.reason, LONGEST));
        let duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        // A level and a message have to be known when this is compiled.
        macro_rules! write {
            ($level:ident, $message:literal) => {
                tracing::event!(
                    target: "access",
                    tracing::Level::$level,
                    {
                        src.addr = src_addr.as_str(),
                        src.identity = src_identity.as_deref(),
                        dst.addr = dst_addr.as_deref(),
                        dst.service = self.dst_service.as_str(),
                        dst.identity = dst_identity.as_deref(),
                        direction = self.direction.as_str(),
                        http.version = request.map(|request| request.version),
                        http.method = request.map(|request| request.method),
                        http.path = request.map(|request| request.path),
                        http.status = request.and_then(|request| request.status),
                        traceparent = request.and_then(|request| request.trace),
                        bytes_sent = self.counts.b_to_a.load(Ordering::Relaxed),
                        bytes_recv = self.counts.a_to_b.load(Ordering::Relaxed),
                        duration_ms = duration_ms,
                        code = code.as_str(),
                        reason = reason.as_str(),
                        intention = decision.and_then(|decision| decision.intention),
                        permission = request.and(decision).and_then(|decision| decision.permission),
                        generation = decision.map(|decision| decision.generation),
                        decision = self.told.id.as_deref(),
                        shadow.effect = shadow.map(|shadow| shadow.decision.effect.code()),
                        shadow.code = shadow.map(|shadow| shadow.decision.code.code()),
                        shadow.reason = shadow_reason.as_deref(),
                        error = error.as_deref(),
                        tls.version = self.tls,
                    },
                    $message
                )
            };
        }
        match (request, ending.refused) {
            (Some(_), true) => write!(WARN, "request refused"),
            (Some(_), false) => write!(INFO, "request answered"),
            (None, true) => write!(WARN, "connection refused"),
            (None, false) => write!(INFO, "connection closed"),
        }
    }
}

/// The protocol version of a TLS connection, as logs name it.
pub(super) fn tls_version(connection: &rustls::CommonState) -> Option<&'static str> {
    match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => Some("1.3"),
        Some(rustls::ProtocolVersion::TLSv1_2) => Some("1.2"),
        _ => None,
    }
}
