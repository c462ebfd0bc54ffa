//! The way to the collector: HTTP/1.1, with TLS where its URL says so.
//!
//! Spans are delivered by a thread of the OpenTelemetry library, which knows no tokio;
//! so it has a small runtime of its own here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::TracesError;

/// For one delivery, unless a variable says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Where distributions keep the system's CA certificates.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Delivers to a collector.
#[derive(Debug)]
pub(super) struct Collector {
    runtime: Runtime,
    timeout: Duration,
    tls: Option<Arc<ClientConfig>>,
}

impl Collector {
    /// With the time limit and the CA certificates that the variables name.
    ///
    /// Fails when certificates are named and cannot be used, or there is no runtime.
    pub(super) fn new(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, TracesError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| TracesError::Exporter(error.to_string()))?;
        let first = |names: [&str; 2]| names.iter().find_map(|name| variable(name));
        let timeout = first([
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ]);
        let given = first([
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
        ])
        .or_else(|| variable("SSL_CERT_FILE"))
        .map(PathBuf::from);
        let system = || {
            let mut bundles = SYSTEM_BUNDLES.iter().map(PathBuf::from);
            bundles.find(|path| path.is_file())
        };
        Ok(Self {
            runtime,
            timeout: timeout
                .and_then(|text| text.parse().ok())
                .map_or(TIMEOUT, Duration::from_millis),
            tls: given.or_else(system).map(trusting).transpose()?,
        })
    }

    async fn deliver(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let host = parts.uri.host().ok_or("the collector's URL has no host")?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let secure = parts.uri.scheme_str() == Some("https");
        let port = parts
            .uri
            .port_u16()
            .unwrap_or(if secure { 443 } else { 80 });
        let authority = parts.uri.authority().map(ToString::to_string);
        // An origin server is asked for the path alone.
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(parts.method).uri(path);
        for (name, value) in &parts.headers {
            request = request.header(name, value);
        }
        let request = request
            .header(http::header::HOST, authority.unwrap_or_default())
            .body(Full::new(body))?;
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if !secure {
            return exchange(stream, request).await;
        }
        let tls = self
            .tls
            .clone()
            .ok_or("no CA certificates on this system: set OTEL_EXPORTER_OTLP_CERTIFICATE")?;
        let name = ServerName::try_from(host)?;
        exchange(
            TlsConnector::from(tls).connect(name, stream).await?,
            request,
        )
        .await
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.runtime
            .block_on(async { tokio::time::timeout(self.timeout, self.deliver(request)).await })
            .map_err(|_| format!("the collector did not answer within {:?}", self.timeout))?
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(parts, body))
}

fn trusting(bundle: PathBuf) -> Result<Arc<ClientConfig>, TracesError> {
    let wrong = |error: &dyn std::fmt::Display| {
        TracesError::Certificates(format!("`{}`: {error}", bundle.display()))
    };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(&bundle).map_err(|error| wrong(&error))?;
    roots.add_parsable_certificates(found.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(wrong(&"it holds no certificate in PEM"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
