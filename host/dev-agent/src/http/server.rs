//! The listener: connections, limits, and the way from bytes to a handler.

use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::reply::{Body, DEFAULT_ACL, INDEX, Reply};
use super::{Request, guard};
use crate::core::Core;
use crate::faults::Fault;

/// How long a client may take for its headers, and for its body.
const READ_LIMIT: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 64 * 1024;

/// Accepts until `stop` turns true, then closes everything.
pub(crate) async fn run(
    core: Arc<Core>,
    listener: TcpListener,
    bound: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(core.config.max_connections.max(1)));
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let core = Arc::clone(&core);
        connections.spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request| serve(Arc::clone(&core), request, bound));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.title_case_headers(true);
            http.timer(TokioTimer::new())
                .header_read_timeout(READ_LIMIT)
                .max_buf_size(MAX_HEADERS);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
    }
    // Whoever is blocked now would be for minutes: connections end here.
    connections.shutdown().await;
}

/// A client that hangs up drops this future, and with it a blocked query.
async fn serve(
    core: Arc<Core>,
    request: hyper::Request<Incoming>,
    bound: SocketAddr,
) -> Result<hyper::Response<Outgoing>, Disconnect> {
    let (parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    if let Err(refusal) = guard::check(
        &parts.method,
        authority,
        &parts.headers,
        bound,
        &core.config.allowed_hosts,
    ) {
        tracing::warn!(
            path = parts.uri.path(),
            "refused what a browser may have sent"
        );
        let refusal = Reply::error(refusal.status, refusal.text);
        return Ok(finish(refusal, false, false));
    }
    let limited = Limited::new(body, core.config.max_body).collect();
    let body = match tokio::time::timeout(READ_LIMIT, limited).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let text = format!(
                "Request body too large, max size: {} bytes",
                core.config.max_body
            );
            let refusal = Reply::error(StatusCode::PAYLOAD_TOO_LARGE, text);
            return Ok(closing(finish(refusal, false, false)));
        }
        Ok(Err(_)) | Err(_) => return Err(Disconnect),
    };
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::new(parts.method, target, parts.headers, body);
    let wants_pretty = request.param("pretty").is_some();
    let pretty = core.config.pretty || wants_pretty;
    let fault = core.faults.take(&request.path);
    let mut truncate = false;
    let mut index = None;
    let reply = match fault {
        Some(Fault::Hangup) => return Err(Disconnect),
        Some(Fault::Status(status, text)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut reply = Reply::error(status, text);
            // By this it is known for a word of the agent's.
            reply.set(DEFAULT_ACL, core.acl.default_policy().as_str());
            reply
        }
        Some(Fault::Garbage(bytes)) => {
            let mut reply = Reply::json(serde_json::Value::Null);
            reply.body = Body::Bytes(bytes.into());
            reply
        }
        Some(Fault::Foreign {
            status,
            headers,
            body,
        }) => return Ok(foreign(status, &headers, body)),
        Some(Fault::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            core.answer(request).await
        }
        Some(Fault::Index(wanted)) => {
            index = Some(wanted);
            core.answer(request).await
        }
        Some(Fault::Truncated) => {
            truncate = true;
            core.answer(request).await
        }
        None => core.answer(request).await,
    };
    let mut response = finish(reply, pretty, wants_pretty);
    if let Some(index) = index {
        response
            .headers_mut()
            .insert(INDEX, HeaderValue::from(index));
    }
    if truncate {
        response.body_mut().truncate();
    }
    Ok(response)
}

fn finish(reply: Reply, pretty: bool, newline: bool) -> hyper::Response<Outgoing> {
    let body = reply.bytes(pretty, newline);
    let mut response = hyper::Response::new(Outgoing::new(body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = *reply.headers;
    response
}

/// What another program would answer.
fn foreign(status: u16, headers: &[(String, String)], body: Vec<u8>) -> hyper::Response<Outgoing> {
    let mut response = hyper::Response::new(Outgoing::new(body.into()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (
            http::HeaderName::try_from(name.as_str()),
            HeaderValue::try_from(value.as_str()),
        ) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn closing(mut response: hyper::Response<Outgoing>) -> hyper::Response<Outgoing> {
    response
        .headers_mut()
        .insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The connection is closed without a reply.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without a reply")]
struct Disconnect;

/// A body, or its first half and then the end of the connection.
struct Outgoing {
    bytes: Option<Bytes>,
    /// What was promised.
    length: u64,
    truncated: bool,
    /// Lets the first half leave before a truncated body ends the connection.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Outgoing {
    fn new(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self {
            bytes: Some(bytes),
            length,
            truncated: false,
            pause: None,
        }
    }

    fn truncate(&mut self) {
        self.truncated = true;
        self.bytes = self
            .bytes
            .take()
            .map(|bytes| bytes.slice(..bytes.len() / 2));
    }
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = Disconnect;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Disconnect>>> {
        match self.bytes.take().filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.truncated => {
                let pause = self
                    .pause
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(50))));
                pause.as_mut().poll(context).map(|()| Some(Err(Disconnect)))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.truncated && self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
