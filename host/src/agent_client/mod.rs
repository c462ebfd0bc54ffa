//! The HTTP client of the Consul agent.
//!
//! Everything that leaves for the agent passes here: the ACL token is added
//! here and nowhere else, redirects are never followed, bodies and times are
//! capped. What to ask and how to read the answers is `portcullis_core::agent`.

mod address;
mod config;
mod connect;
mod error;
mod failure;
mod scope;
mod tls;
mod token;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use portcullis_core::agent::{HttpReply, HttpRequest, ReplyError, ReplyHeaders};
use tokio::sync::Notify;

pub use address::AgentAddress;
pub use config::{AgentConfig, AgentFlags, ConfigError};
pub use error::AgentError;
pub(crate) use tls::root_store;
pub use token::{Secret, TokenSource};

use crate::escape::visible;
use connect::Connector;
use scope::with_scope;
use token::TokenHeader;

/// The largest body that is read.
pub const MAX_BODY: usize = 32 * 1024 * 1024;

/// How much of an error's body is repeated.
const MAX_DETAIL: usize = 400;

static TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// A client of one agent. Clones share its connections.
#[derive(Clone)]
pub struct AgentClient(Arc<Inner>);

struct Inner {
    config: AgentConfig,
    address: String,
    client: ArcSwap<HttpClient>,
    /// SHA-256 of the files that `client` was made of.
    tls_read: Mutex<Option<[u8; 32]>>,
    /// Told when token or TLS are other ones now.
    renewed: Notify,
    token: TokenHeader,
    basic_auth: Option<HeaderValue>,
}

type HttpClient = Client<Connector, Full<Bytes>>;

/// An answer of the agent, complete.
#[derive(Clone, Debug)]
pub struct AgentReply {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, at most [`MAX_BODY`] bytes.
    pub body: Bytes,
}

impl AgentReply {
    /// The reply as the decoders of `portcullis_core::agent` take it.
    #[must_use]
    pub fn as_core(&self) -> HttpReply<'_> {
        let headers = ReplyHeaders::read(
            self.headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_bytes())),
        );
        HttpReply {
            status: self.status,
            headers,
            body: &self.body,
        }
    }
}

impl AgentClient {
    /// A client with these settings. Reads the token and certificate files, opens no connection.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn new(config: AgentConfig) -> Result<Self, ConfigError> {
        let tls_read = Mutex::new(tls::digest(&config));
        let client = ArcSwap::from_pointee(http_client(&config)?);
        let token = TokenHeader::new(config.token.clone())?;
        let basic_auth = config.basic_auth.as_ref().map(basic_auth).transpose()?;
        let address = config.address.to_string();
        Ok(Self(Arc::new(Inner {
            config,
            address,
            client,
            tls_read,
            renewed: Notify::new(),
            token,
            basic_auth,
        })))
    }

    /// Reads the token file again, at once. Tells whether there is another token than when
    /// this was called last, or at the start. Without a token file there is nothing to do.
    ///
    /// # Errors
    /// When the file cannot be read or used; the last token stays in use.
    pub fn reload_token(&self) -> Result<bool, ConfigError> {
        let changed = self.0.token.reread()?;
        if changed {
            self.0.renewed.notify_waiters();
        }
        Ok(changed)
    }

    /// Reads CA, client certificate and key again. From then on every question goes over
    /// a connection that was made with them; those that are under way end undisturbed.
    /// Tells whether they differ from those in use. Without TLS there is nothing to do.
    ///
    /// # Errors
    /// When a file cannot be read or used; what was read before stays in use.
    pub fn reload_tls(&self) -> Result<bool, ConfigError> {
        if !matches!(self.0.config.address, AgentAddress::Tls { .. }) {
            return Ok(false);
        }
        let read = tls::digest(&self.0.config);
        self.0.client.store(Arc::new(http_client(&self.0.config)?));
        self.0.renewed.notify_waiters();
        let mut in_use = self
            .0
            .tls_read
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = read.is_none() || *in_use != read;
        *in_use = read;
        Ok(changed)
    }

    /// The file of the token, where it comes from one.
    #[must_use]
    pub fn token_file(&self) -> Option<&Path> {
        self.0.token.file()
    }

    /// The files and folders that [`AgentClient::reload_tls`] reads.
    #[must_use]
    pub fn tls_files(&self) -> Vec<PathBuf> {
        tls::files(&self.0.config)
    }

    /// Waits until token or TLS are read anew: what failed may work now.
    pub(crate) async fn renewed(&self) {
        self.0.renewed.notified().await;
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &AgentConfig {
        &self.0.config
    }

    /// The agent's address, for people.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Asks and returns the answer, whatever its status.
    ///
    /// Datacenter, namespace, partition and consistency of the settings are added
    /// where the request does not name them.
    ///
    /// # Errors
    /// When there is no complete answer in the request's time, when it is larger than
    /// the request allows, a redirect, compressed, or not HTTP.
    pub async fn execute(&self, request: &HttpRequest) -> Result<AgentReply, AgentError> {
        let path = path_of(request);
        let limit = request.max_reply.min(MAX_BODY);
        let timeout = Duration::from_millis(request.read_timeout_ms);
        let once = async || {
            let token = self.0.token.current();
            let exchange = self.exchange(self.with_headers(request, token.as_ref())?, &path, limit);
            let reply = tokio::time::timeout(timeout, exchange)
                .await
                .map_err(|_| AgentError::Timeout {
                    address: self.0.address.clone(),
                    after: timeout,
                })??;
            Ok::<_, AgentError>((reply, token))
        };
        let (reply, sent) = once().await?;
        if matches!(reply.status, 401 | 403) && self.0.token.refused(sent.as_ref()) {
            tracing::info!(
                path,
                "the agent refuses a token that was replaced meanwhile: asked again with the new one"
            );
            return Ok(once().await?.0);
        }
        Ok(reply)
    }

    /// As [`AgentClient::execute`], but any status other than 200 is an error that says what to do.
    ///
    /// # Errors
    /// As [`AgentClient::execute`], and for every other status.
    pub async fn execute_ok(&self, request: &HttpRequest) -> Result<AgentReply, AgentError> {
        let reply = self.execute(request).await?;
        match self.refusal(request, &reply) {
            None => Ok(reply),
            Some(error) => Err(error),
        }
    }

    /// Asks, and reads the answer with one of the decoders of `portcullis_core::agent`.
    ///
    /// # Errors
    /// As [`AgentClient::execute_ok`], and when the answer cannot be decoded.
    pub async fn ask<T>(
        &self,
        request: &HttpRequest,
        decode: impl FnOnce(&HttpReply<'_>) -> Result<T, ReplyError>,
    ) -> Result<T, AgentError> {
        let reply = self.execute_ok(request).await?;
        decode(&reply.as_core())
            .map_err(|error| self.unreadable(request, &reply, &error.to_string()))
    }

    /// The error that a status other than 200 stands for.
    #[must_use]
    pub fn refusal(&self, request: &HttpRequest, reply: &AgentReply) -> Option<AgentError> {
        let path = path_of(request);
        let detail = visible(
            &String::from_utf8_lossy(reply.body.get(..4096).unwrap_or(&reply.body)),
            MAX_DETAIL,
        );
        match reply.status {
            200 => None,
            // Consul itself refuses too many connections so, with no header of its own.
            429 => Some(AgentError::Status {
                path,
                status: 429,
                detail,
                retry_after: reply
                    .as_core()
                    .headers
                    .retry_after_s
                    .map(Duration::from_secs),
            }),
            _ if !reply.as_core().is_consul() && reply.status < 500 => {
                let detail = format!("it answers `{path}` with status {}", reply.status);
                Some(AgentError::NotConsul {
                    address: self.0.address.clone(),
                    detail,
                })
            }
            401 | 403 => Some(AgentError::Denied {
                path,
                token: self.0.token.describe(),
                detail,
            }),
            status => Some(AgentError::Status {
                path,
                status,
                detail,
                retry_after: reply
                    .as_core()
                    .headers
                    .retry_after_s
                    .map(Duration::from_secs),
            }),
        }
    }

    /// The error that a reply with unreadable content stands for.
    pub(crate) fn unreadable(
        &self,
        request: &HttpRequest,
        reply: &AgentReply,
        error: &str,
    ) -> AgentError {
        let path = path_of(request);
        let detail = visible(error, MAX_DETAIL);
        if reply.as_core().is_consul() {
            AgentError::Reply { path, detail }
        } else {
            let detail = format!("its answer to `{path}` cannot be read: {detail}");
            AgentError::NotConsul {
                address: self.0.address.clone(),
                detail,
            }
        }
    }

    fn with_headers(
        &self,
        asked: &HttpRequest,
        token: Option<&HeaderValue>,
    ) -> Result<Request<Full<Bytes>>, AgentError> {
        let config = &self.0.config;
        let uri = format!(
            "http://{}{}{}",
            config.address.authority(),
            config.path_prefix,
            with_scope(asked, config)
        );
        let mut request = Request::builder()
            .method(asked.method.as_str())
            .uri(uri)
            .header(header::USER_AGENT, "portcullis");
        for (name, value) in &asked.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = token {
            request = request.header(TOKEN.clone(), token.clone());
        }
        if let Some(auth) = &self.0.basic_auth {
            request = request.header(header::AUTHORIZATION, auth.clone());
        }
        let body = asked.body.clone().map(Bytes::from).unwrap_or_default();
        request
            .body(Full::new(body))
            .map_err(|error| AgentError::Request {
                path: path_of(asked),
                detail: error.to_string(),
            })
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        path: &str,
        limit: usize,
    ) -> Result<AgentReply, AgentError> {
        let response = self
            .0
            .client
            .load_full()
            .request(request)
            .await
            .map_err(|error| AgentError::from_client(&self.0.config, &error))?;
        let (head, body) = response.into_parts();
        let not_consul = |detail: String| AgentError::NotConsul {
            address: self.0.address.clone(),
            detail,
        };
        if head.status.is_redirection() && head.status != StatusCode::NOT_MODIFIED {
            return Err(not_consul(format!(
                "it redirects `{path}`, which is not followed"
            )));
        }
        if head
            .headers
            .get(header::CONTENT_ENCODING)
            .is_some_and(|encoding| encoding != "identity")
        {
            return Err(not_consul(format!(
                "it compresses the answer to `{path}` unasked"
            )));
        }
        let body = self.collect(body, path, limit).await?;
        Ok(AgentReply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }

    async fn collect(
        &self,
        mut body: Incoming,
        path: &str,
        limit: usize,
    ) -> Result<Bytes, AgentError> {
        let too_large = || AgentError::TooLarge {
            path: path.to_owned(),
            limit,
        };
        let expected = http_body::Body::size_hint(&body).lower();
        if usize::try_from(expected).map_or(true, |expected| expected > limit) {
            return Err(too_large());
        }
        let mut collected = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| AgentError::Broken {
                address: self.0.address.clone(),
                detail: visible(
                    &format!("the answer to `{path}` broke off: {error}"),
                    MAX_DETAIL,
                ),
            })?;
            if let Some(data) = frame.data_ref() {
                if collected.len() + data.len() > limit {
                    return Err(too_large());
                }
                collected.extend_from_slice(data);
            }
        }
        Ok(collected.freeze())
    }
}

impl std::fmt::Debug for AgentClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AgentClient")
            .field("address", &self.0.address)
            .finish_non_exhaustive()
    }
}

/// A client with what the files of the settings hold now.
fn http_client(config: &AgentConfig) -> Result<HttpClient, ConfigError> {
    let tls = match &config.address {
        AgentAddress::Tls { host, .. } => {
            Some((tls::client_config(config)?, tls::server_name(config, host)?))
        }
        _ => None,
    };
    let connector = Connector {
        address: config.address.clone(),
        tls,
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build(connector))
}

fn basic_auth(secret: &Secret) -> Result<HeaderValue, ConfigError> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(secret.expose());
    let mut value =
        HeaderValue::from_str(&format!("Basic {encoded}")).map_err(|_| ConfigError::Token {
            what: "CONSUL_HTTP_AUTH",
        })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What was asked, without the query, for people.
fn path_of(request: &HttpRequest) -> String {
    visible(
        request.path_and_query.split('?').next().unwrap_or_default(),
        MAX_DETAIL,
    )
}
