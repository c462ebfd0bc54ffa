//! The HTTP that a component is lent: the agent's four endpoints, through our client.
//!
//! The token is added by the client, never by the component, and no header of the
//! component's is sent but `accept` and `content-type`. Errors have fixed words.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use portcullis_core::agent::{HttpRequest, Method};
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody,
    WasiHttpHooks,
};

use super::allowed::{Endpoint, Scope, blocks};
use super::brake::Brake;
use crate::agent_client::{AgentClient, AgentError, AgentReply};

/// Requests under way at once: a blocking query for each batch of services, roots, and room.
const AT_ONCE: usize = 64;
/// Requests at once after a quiet time, and one more in this time.
const BURST: u32 = 256;
const EVERY: Duration = Duration::from_millis(10);
/// How large the body of a question may be, and of an answer.
const MAX_QUESTION: usize = 64 * 1024;
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long an answer may take: ten minutes, Consul's jitter on them, and a margin.
const LONGEST_WAIT: Duration = Duration::from_secs(650);
const LONGEST: Duration = Duration::from_secs(30);

type Exchange = Result<
    (
        Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

/// The hooks of one instance.
pub(super) struct LentHttp {
    agent: AgentClient,
    scope: Scope,
    room: Arc<Semaphore>,
    brake: Brake,
}

impl LentHttp {
    pub(super) fn new(agent: AgentClient, scope: Scope) -> Self {
        Self {
            agent,
            scope,
            room: Arc::new(Semaphore::new(AT_ONCE)),
            brake: Brake::new(Instant::now(), BURST, EVERY),
        }
    }

    /// Decides before anything is opened or read.
    fn admit(&self, request: &Request<WasiBody>) -> Result<Endpoint, Error> {
        let (method, uri) = (request.method(), request.uri());
        let Some(endpoint) = self.scope.endpoint(method, uri) else {
            tracing::warn!(%method, path = uri.path(), "the component asked for what it is not lent");
            return Err(Error::HttpRequestDenied);
        };
        if request.headers().keys().any(forbidden) {
            tracing::warn!("the component tried to authenticate by itself");
            return Err(Error::HttpRequestDenied);
        }
        if !self.brake.allows(Instant::now()) {
            return Err(Error::ConnectionLimitReached);
        }
        Ok(endpoint)
    }
}

/// What only the host may say.
fn forbidden(name: &HeaderName) -> bool {
    const TOKENS: [&str; 4] = [
        "x-consul-token",
        "authorization",
        "cookie",
        "x-forwarded-for",
    ];
    TOKENS.contains(&name.as_str())
        || name.as_str().starts_with("x-consul-")
        || name == header::PROXY_AUTHORIZATION
}

impl WasiHttpHooks for LentHttp {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        // Also asked about headers of answers, where Consul's own must pass.
        Arc::new(|name| {
            DEFAULT_FORBIDDEN_HEADERS.contains(name)
                || (forbidden(name) && !name.as_str().starts_with("x-consul-"))
                || name.as_str() == "x-consul-token"
        })
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Exchange> + Send> {
        let admitted = self.admit(&request);
        let (agent, room) = (self.agent.clone(), Arc::clone(&self.room));
        Box::new(async move {
            let endpoint = admitted?;
            let _room = room
                .try_acquire_owned()
                .map_err(|_| Error::ConnectionLimitReached)?;
            let asked = question(endpoint, request, options).await?;
            let reply = agent.execute(&asked).await.map_err(|error| fixed(&error))?;
            let nothing: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(async { Ok(()) });
            Ok((answer(reply)?, nothing))
        })
    }
}

/// The request as our client takes it.
async fn question(
    endpoint: Endpoint,
    request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<HttpRequest, Error> {
    let longest = if blocks(request.uri()) {
        LONGEST_WAIT
    } else {
        LONGEST
    };
    let timeout = options
        .and_then(|options| options.first_byte_timeout)
        .unwrap_or(longest)
        .min(longest);
    let (head, body) = request.into_parts();
    let path_and_query = head
        .uri
        .path_and_query()
        .ok_or(Error::HttpRequestUriInvalid)?
        .as_str()
        .to_owned();
    let mut headers = Vec::new();
    for name in ["accept", "content-type"] {
        if let Some(value) = head.headers.get(name).and_then(|value| value.to_str().ok()) {
            headers.push((name, value.to_owned()));
        }
    }
    let body = match endpoint {
        Endpoint::Authorize => {
            let collected = tokio::time::timeout(
                LONGEST,
                Limited::new(Pin::new(Box::new(body)), MAX_QUESTION).collect(),
            );
            let collected = collected.await.map_err(|_| Error::ConnectionWriteTimeout)?;
            Some(
                collected
                    .map_err(|_| Error::HttpRequestBodySize(None))?
                    .to_bytes()
                    .to_vec(),
            )
        }
        Endpoint::Roots | Endpoint::Match | Endpoint::Peerings => None,
    };
    Ok(HttpRequest {
        method: if body.is_some() {
            Method::Post
        } else {
            Method::Get
        },
        path_and_query,
        body,
        headers,
        read_timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        max_reply: MAX_ANSWER,
    })
}

/// Status, the headers that Consul defines, and the body.
fn answer(reply: AgentReply) -> Result<Response<WasiBody>, Error> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        let told = name == header::CONTENT_TYPE
            || name == header::RETRY_AFTER
            || name.as_str().starts_with("x-consul-");
        if told && name.as_str() != "x-consul-token" {
            response = response.header(name, value);
        }
    }
    let body = Full::<Bytes>::new(reply.body)
        .map_err(|never| match never {})
        .boxed_unsync();
    response.body(body).map_err(|_| Error::HttpProtocolError)
}

/// What went wrong, without anything that the host knows beyond that.
fn fixed(error: &AgentError) -> Error {
    tracing::debug!(%error, "the component's question to the agent failed");
    match error {
        AgentError::Timeout { .. } => Error::ConnectionReadTimeout,
        AgentError::Refused { .. } => Error::ConnectionRefused,
        AgentError::UnknownHost { .. } => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        AgentError::Tls { .. } => Error::TlsProtocolError,
        AgentError::TooLarge { .. } => Error::HttpResponseBodySize(None),
        AgentError::NotConsul { .. } => Error::HttpProtocolError,
        _ => Error::ConnectionTerminated,
    }
}
