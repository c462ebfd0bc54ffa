//! One request through the host's HTTP, kept across calls.
//!
//! A WASI 0.2 guest runs only while it is called. The host goes on with a request all the
//! same, so a reply is simply there at some later call. Nothing here waits but
//! through the pollable that [`Fetch::pollable`] lends.
use portcullis_core::agent::{HttpReply, HttpRequest, Method, ReplyHeaders};

use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types as http;
use crate::bindings::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, OutgoingBody,
    OutgoingRequest, RequestOptions, Scheme,
};
use crate::bindings::wasi::io::poll::Pollable;
use crate::bindings::wasi::io::streams::{InputStream, StreamError};

/// How long the host may take to connect, and between two pieces of a body.
const CONNECT_MS: u64 = 5_000;
const PIECE: u64 = 64 * 1024;

/// Where the agent is.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    /// `host:port`.
    pub(crate) authority: String,
    /// https.
    pub(crate) tls: bool,
}

/// A reply in full.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: ReplyHeaders,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn as_reply(&self) -> HttpReply<'_> {
        HttpReply {
            status: self.status,
            headers: self.headers.clone(),
            body: &self.body,
        }
    }
}

/// What a look at a request under way found.
pub(crate) enum Look {
    /// Not all of the reply yet.
    Pending(Fetch),
    /// All of it, or the failure.
    Done(Result<Reply, String>),
}

/// A request under way.
pub(crate) struct Fetch {
    stage: Stage,
    max_reply: usize,
    deadline: u64,
}

// Children stand before their parents: resources are dropped in the order of the fields.
enum Stage {
    Head {
        pollable: Pollable,
        future: FutureIncomingResponse,
    },
    Body {
        pollable: Pollable,
        stream: InputStream,
        reply: Reply,
        _body: IncomingBody,
        _response: IncomingResponse,
    },
}

impl Fetch {
    /// Hands the request to the host.
    pub(crate) fn send(agent: &Agent, request: &HttpRequest, now: u64) -> Result<Self, String> {
        let headers = Fields::new();
        for (name, value) in &request.headers {
            headers
                .append(name, value.as_bytes())
                .map_err(|e| format!("header `{name}`: {e}"))?;
        }
        let outgoing = OutgoingRequest::new(headers);
        let refused = |what: &str| format!("the host does not take the {what}");
        let method = match request.method {
            Method::Get => http::Method::Get,
            Method::Put => http::Method::Put,
            Method::Post => http::Method::Post,
            Method::Delete => http::Method::Delete,
        };
        let scheme = if agent.tls {
            Scheme::Https
        } else {
            Scheme::Http
        };
        outgoing
            .set_method(&method)
            .map_err(|()| refused("method"))?;
        outgoing
            .set_scheme(Some(&scheme))
            .map_err(|()| refused("scheme"))?;
        outgoing
            .set_authority(Some(&agent.authority))
            .map_err(|()| refused("authority"))?;
        outgoing
            .set_path_with_query(Some(&request.path_and_query))
            .map_err(|()| refused("path"))?;
        let options = RequestOptions::new();
        let nanos = |ms: u64| Some(ms.saturating_mul(1_000_000));
        // A host that knows no timeouts is bounded by `deadline` all the same.
        let _ = options.set_connect_timeout(nanos(CONNECT_MS));
        let _ = options.set_first_byte_timeout(nanos(request.read_timeout_ms));
        let _ = options.set_between_bytes_timeout(nanos(CONNECT_MS));
        let body = outgoing.body().map_err(|()| refused("body"))?;
        let future = outgoing_handler::handle(outgoing, Some(options)).map_err(|e| name(&e))?;
        write(body, request.body.as_deref().unwrap_or_default())?;
        Ok(Self {
            stage: Stage::Head {
                pollable: future.subscribe(),
                future,
            },
            max_reply: request.max_reply,
            deadline: now
                .saturating_add(request.read_timeout_ms)
                .saturating_add(CONNECT_MS),
        })
    }

    /// Ready when [`Fetch::look`] may have more to say.
    pub(crate) fn pollable(&self) -> &Pollable {
        self.stage.pollable()
    }

    /// Whether the reply has begun: the rest of it is about to come.
    pub(crate) fn is_answering(&self) -> bool {
        matches!(self.stage, Stage::Body { .. })
    }

    /// Takes over what has arrived, without waiting.
    pub(crate) fn look(mut self, now: u64) -> Look {
        loop {
            let next = if self.stage.pollable().ready() {
                self.step()
            } else {
                Next::Wait
            };
            match next {
                Next::Again => {}
                Next::Wait if now > self.deadline => {
                    return Look::Done(Err("no reply in time".to_owned()));
                }
                Next::Wait => return Look::Pending(self),
                Next::Done(result) => return Look::Done(result),
            }
        }
    }

    /// One step of a stage that is ready. The stage stays whole, so that its parts are
    /// dropped in their order.
    fn step(&mut self) -> Next {
        match &mut self.stage {
            Stage::Head { future, .. } => match future.get() {
                None => Next::Wait,
                Some(Ok(Ok(response))) => match open(response) {
                    Ok(stage) => {
                        self.stage = stage;
                        Next::Again
                    }
                    Err(error) => Next::Done(Err(error)),
                },
                Some(Ok(Err(error))) => Next::Done(Err(name(&error))),
                Some(Err(())) => Next::Done(Err("the host gave the reply away".to_owned())),
            },
            Stage::Body { stream, reply, .. } => match stream.read(PIECE) {
                Ok(piece) if reply.body.len().saturating_add(piece.len()) > self.max_reply => {
                    Next::Done(Err(format!(
                        "the reply is larger than {} bytes",
                        self.max_reply
                    )))
                }
                Ok(piece) if piece.is_empty() => Next::Wait,
                Ok(piece) => {
                    reply.body.extend_from_slice(&piece);
                    Next::Again
                }
                Err(StreamError::Closed) => Next::Done(Ok(std::mem::take(reply))),
                // What the host says about it may be more than a log should show.
                Err(StreamError::LastOperationFailed(_)) => {
                    Next::Done(Err("the reply broke off".to_owned()))
                }
            },
        }
    }
}

impl Stage {
    fn pollable(&self) -> &Pollable {
        match self {
            Self::Head { pollable, .. } | Self::Body { pollable, .. } => pollable,
        }
    }
}

/// What a step led to.
enum Next {
    Again,
    Wait,
    Done(Result<Reply, String>),
}

fn open(response: IncomingResponse) -> Result<Stage, String> {
    let fields = response.headers().entries();
    let headers = ReplyHeaders::read(
        fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice())),
    );
    let status = response.status();
    let body = response.consume().map_err(|()| "the reply has no body")?;
    let stream = body.stream().map_err(|()| "the reply's body is taken")?;
    let reply = Reply {
        status,
        headers,
        body: Vec::new(),
    };
    let pollable = stream.subscribe();
    Ok(Stage::Body {
        pollable,
        stream,
        reply,
        _body: body,
        _response: response,
    })
}

fn write(body: OutgoingBody, mut bytes: &[u8]) -> Result<(), String> {
    let broken = |_| "the host does not take the body".to_owned();
    if !bytes.is_empty() {
        let stream = body
            .write()
            .map_err(|()| "the host does not take a body".to_owned())?;
        // At most 4096 bytes at a time, says the interface.
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(4096));
            stream.blocking_write_and_flush(piece).map_err(broken)?;
            bytes = rest;
        }
    }
    OutgoingBody::finish(body, None).map_err(|e| name(&e))
}

/// A failure in words of ours: what a host puts into its errors is not for logs.
fn name(error: &ErrorCode) -> String {
    match error {
        ErrorCode::HttpRequestDenied => "the host denies this request".to_owned(),
        ErrorCode::ConnectionRefused => "connection refused".to_owned(),
        ErrorCode::ConnectionTimeout | ErrorCode::ConnectionReadTimeout => "timeout".to_owned(),
        ErrorCode::ConnectionTerminated => "connection closed".to_owned(),
        ErrorCode::DnsError(_) | ErrorCode::DnsTimeout => "name not found".to_owned(),
        ErrorCode::TlsCertificateError
        | ErrorCode::TlsProtocolError
        | ErrorCode::TlsAlertReceived(_) => "TLS failed".to_owned(),
        _ => "HTTP failed".to_owned(),
    }
}
