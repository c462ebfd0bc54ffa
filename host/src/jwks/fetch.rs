//! One look at a key set: over HTTP, or into a file.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::allowed::Target;
use super::{JwksSettings, MAX_KEY_SET, Place, Source};
use crate::agent_client::root_store;

/// The head of an answer is no longer.
const MAX_HEAD: usize = 64 * 1024;

/// Why there is no key set.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URI asks nobody.
    #[error("the URI cannot be used: {0}")]
    Uri(String),
    /// It is not on the allow-list.
    #[error("`{0}` may not be asked for key sets: allow it with `-jwks-allow {0}`")]
    NotAllowed(String),
    /// Nobody answers.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// The CA certificates cannot be used.
    #[error("{0}")]
    Ca(String),
    /// The server cannot prove who it is.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// It takes too long.
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// It sends us elsewhere.
    #[error("it answers with a redirect ({0}), which is never followed")]
    Redirect(u16),
    /// It has none.
    #[error("it answers with status {0}")]
    Status(u16),
    /// It is compressed, which was not asked for.
    #[error("it answers with a content-encoding")]
    Encoded,
    /// It is too large.
    #[error("it is larger than {MAX_KEY_SET} bytes")]
    TooLarge,
    /// The answer breaks off.
    #[error("the answer is broken: {0}")]
    Broken(String),
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    File(io::Error),
    /// It is a device, a socket, a folder or a pipe.
    #[error("it is not a regular file")]
    NotAFile,
}

impl FetchError {
    /// One of few, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Uri(_) => "uri",
            Self::NotAllowed(_) => "not-allowed",
            Self::Connect(_) => "unreachable",
            Self::Ca(_) | Self::Tls(_) => "tls",
            Self::Timeout(_) => "timeout",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::Encoded | Self::Broken(_) => "broken",
            Self::TooLarge => "too-large",
            Self::File(_) | Self::NotAFile => "file",
        }
    }
}

/// Looks once.
///
/// # Errors
/// [`FetchError`], in words for people; nothing of what was read is in it.
pub async fn fetch(source: &Source, settings: &JwksSettings) -> Result<Vec<u8>, FetchError> {
    match &source.place {
        Place::File(path) => {
            let path = PathBuf::from(path);
            let read = tokio::task::spawn_blocking(move || file(&path)).await;
            read.unwrap_or_else(|_| Err(FetchError::Broken("reading broke off".to_owned())))
        }
        Place::Remote(uri) => {
            let target = Target::parse(uri).map_err(FetchError::Uri)?;
            if !settings.allowed.contains(&target.origin) {
                return Err(FetchError::NotAllowed(target.origin.to_string()));
            }
            let patience = Duration::from_millis(source.timeout_ms);
            tokio::time::timeout(patience, remote(&target, settings))
                .await
                .map_err(|_| FetchError::Timeout(patience))?
        }
    }
}

/// A regular file and nothing else: who writes the entry does not choose what we wait for.
fn file(path: &Path) -> Result<Vec<u8>, FetchError> {
    let metadata = std::fs::metadata(path).map_err(FetchError::File)?;
    if !metadata.is_file() {
        return Err(FetchError::NotAFile);
    }
    let file = std::fs::File::open(path).map_err(FetchError::File)?;
    let mut content = Vec::new();
    let most = u64::try_from(MAX_KEY_SET).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(FetchError::File)?;
    match content.len() > MAX_KEY_SET {
        true => Err(FetchError::TooLarge),
        false => Ok(content),
    }
}

/// HTTPS by the given CA certificates, or the system's, as they are now.
pub(super) fn tls_config(settings: &JwksSettings) -> Result<Arc<ClientConfig>, FetchError> {
    let files: Vec<PathBuf> = settings.ca_file.iter().cloned().collect();
    let roots = root_store(&files).map_err(|error| FetchError::Ca(error.to_string()))?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Ca(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn remote(target: &Target, settings: &JwksSettings) -> Result<Vec<u8>, FetchError> {
    let origin = &target.origin;
    let tcp = TcpStream::connect((origin.host(), origin.port()))
        .await
        .map_err(FetchError::Connect)?;
    if !origin.is_https() {
        return exchange(target, tcp).await;
    }
    let settings = settings.clone();
    let config = tokio::task::spawn_blocking(move || tls_config(&settings)).await;
    let config = config.map_err(|_| FetchError::Ca("reading broke off".to_owned()))??;
    let name = ServerName::try_from(origin.host().to_owned())
        .map_err(|_| FetchError::Uri("its host is no name of a server".to_owned()))?;
    let stream = TlsConnector::from(config).connect(name, tcp).await;
    exchange(target, stream.map_err(FetchError::Tls)?).await
}

async fn exchange(
    target: &Target,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Vec<u8>, FetchError> {
    let broken = |error: hyper::Error| FetchError::Broken(error.to_string());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let request = Request::get(target.path_and_query.as_str())
        .header(header::HOST, target.origin.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .header(
            header::USER_AGENT,
            concat!("portcullis/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Uri(error.to_string()))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status.is_redirection() {
            return Err(FetchError::Redirect(status.as_u16()));
        }
        if status != http::StatusCode::OK {
            return Err(FetchError::Status(status.as_u16()));
        }
        if response.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(FetchError::Encoded);
        }
        let most = u64::try_from(MAX_KEY_SET).unwrap_or(u64::MAX);
        if response.body().size_hint().lower() > most {
            return Err(FetchError::TooLarge);
        }
        let body = Limited::new(response.into_body(), MAX_KEY_SET).collect();
        match body.await {
            Ok(body) => Ok(body.to_bytes().to_vec()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge),
            Err(error) => Err(FetchError::Broken(error.to_string())),
        }
    };
    // The connection ends with this fetch, whatever the server would like.
    tokio::pin!(connection, answered);
    tokio::select! {
        answer = &mut answered => answer,
        _ = &mut connection => answered.await,
    }
}
