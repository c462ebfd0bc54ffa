//! A listener: connections, limits, the guard, and the way to the answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_dev_agent::guard;
use tokio::sync::Semaphore;

use super::routes::{Answer, answer};
use super::{Admin, Role};
use crate::proxy::{ListenAddress, Listener};

/// How long a client may take for its headers, its body, and between requests.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// Connections at once on each listener.
const CONNECTIONS: usize = 64;

const MAX_HEADERS: usize = 16 * 1024;
const MAX_BODY: usize = 4 * 1024;

/// Serves until the runtime ends.
pub(super) async fn run(listener: Listener, bound: ListenAddress, role: Role, admin: Admin) {
    let bound = match bound {
        ListenAddress::Tcp(address) => Some(address),
        ListenAddress::Unix(_) => None,
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let place = Arc::clone(&room).acquire_owned().await.ok();
        let (stream, _) = listener.accept_uncounted().await;
        let admin = admin.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| serve(&admin, role, bound, request));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(READ_LIMIT)
                .max_buf_size(MAX_HEADERS);
            // What clients do wrong is theirs to see.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(
    admin: &Admin,
    role: Role,
    bound: Option<SocketAddr>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    // Only a browser on this machine reaches loopback by another name. Other addresses
    // were opened to programs elsewhere, which may know us by any name; a browser there
    // reads nothing across sites, and changes nothing.
    if let Some(bound) = bound.filter(|bound| bound.ip().is_loopback()) {
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let checked = guard::check(&parts.method, authority, &parts.headers, bound, &[]);
        if let Err(refused) = checked {
            return Ok(finish(Answer::text(refused.status, refused.text)));
        }
    }
    if role != Role::Admin && !matches!(parts.method, Method::GET | Method::HEAD) {
        let refused = Answer::text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
        return Ok(finish(refused.allow("GET")));
    }
    let limited = Limited::new(body, MAX_BODY).collect();
    let body = match tokio::time::timeout(READ_LIMIT, limited).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            let text = format!("the body is larger than {MAX_BODY} bytes, or broken");
            return Ok(finish(Answer::text(StatusCode::PAYLOAD_TOO_LARGE, text)));
        }
        Err(_) => {
            let late = Answer::text(StatusCode::REQUEST_TIMEOUT, "the body did not come");
            return Ok(finish(late));
        }
    };
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    let answer = answer(admin, role, &parts.method, path, query, &body).await;
    Ok(finish(answer))
}

fn finish(answer: Answer) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::new(Full::new(answer.body.into()));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(methods) = answer.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    }
    response
}
