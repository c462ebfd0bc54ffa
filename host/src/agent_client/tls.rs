//! TLS to the agent: its CA, our certificate, the name to expect.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::address::AgentAddress;
use super::config::{AgentConfig, ConfigError};

/// Where distributions keep the system's CA certificates.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The configuration for connections to an agent behind HTTPS.
pub(super) fn client_config(config: &AgentConfig) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::Tls(error.to_string()))?;
    let builder = if config.insecure {
        tracing::warn!(
            "CONSUL_HTTP_SSL_VERIFY=false: whoever answers at the agent's address is believed"
        );
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
    } else {
        builder.with_root_certificates(roots(config)?)
    };
    let tls = match (&config.client_cert, &config.client_key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert, "client certificate")?;
            let text = read(key, "client key")?;
            let key_der =
                PrivateKeyDer::from_pem_slice(&text).map_err(|_| ConfigError::Content {
                    what: "client key",
                    path: key.clone(),
                    problem: "holds no private key in PEM".to_owned(),
                })?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|error| ConfigError::Content {
                    what: "client certificate",
                    path: cert.clone(),
                    problem: format!("cannot be used with its key: {error}"),
                })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(tls))
}

/// The name that the agent's certificate must have.
pub(super) fn server_name(
    config: &AgentConfig,
    host: &str,
) -> Result<ServerName<'static>, ConfigError> {
    let name = config.tls_server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| ConfigError::ServerName(name.to_owned()))
}

/// SHA-256 of the content of [`files`]; `None` if one cannot be read.
pub(super) fn digest(config: &AgentConfig) -> Option<[u8; 32]> {
    crate::reload::digest(&files(config)).ok()
}

/// What [`client_config`] reads: files, and the directory of CA certificates; none without TLS.
pub(super) fn files(config: &AgentConfig) -> Vec<PathBuf> {
    if !matches!(config.address, AgentAddress::Tls { .. }) {
        return Vec::new();
    }
    let given = [
        &config.ca_file,
        &config.ca_path,
        &config.client_cert,
        &config.client_key,
    ];
    let mut files: Vec<PathBuf> = given.into_iter().flatten().cloned().collect();
    if config.ca_file.is_none() && config.ca_path.is_none() && !config.insecure {
        files.extend(system_bundle());
    }
    files
}

fn system_bundle() -> Option<PathBuf> {
    std::env::var_os("SSL_CERT_FILE")
        .map(PathBuf::from)
        .into_iter()
        .chain(SYSTEM_BUNDLES.iter().map(PathBuf::from))
        .find(|path| path.is_file())
}

fn roots(config: &AgentConfig) -> Result<RootCertStore, ConfigError> {
    let mut files: Vec<PathBuf> = config.ca_file.iter().cloned().collect();
    if let Some(directory) = &config.ca_path {
        let failed = |source| ConfigError::File {
            what: "CA directory",
            path: directory.clone(),
            source,
        };
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    root_store(&files)
}

/// The CA certificates in these files; those of the system without files.
pub(crate) fn root_store(files: &[PathBuf]) -> Result<RootCertStore, ConfigError> {
    let system;
    let files = match files {
        [] => {
            system = Vec::from_iter(system_bundle());
            &system
        }
        files => files,
    };
    let mut store = RootCertStore::empty();
    for file in files {
        let (added, _) = store.add_parsable_certificates(certificates(file, "CA file")?);
        if added == 0 {
            return Err(ConfigError::Content {
                what: "CA file",
                path: file.clone(),
                problem: "holds no usable CA certificate".to_owned(),
            });
        }
    }
    if store.is_empty() {
        return Err(ConfigError::Tls(
            "no CA certificates on this system: give `-ca-file`".to_owned(),
        ));
    }
    Ok(store)
}

fn certificates(
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let problem = |problem: String| ConfigError::Content {
        what,
        path: path.to_owned(),
        problem,
    };
    let text = read(path, what)?;
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| problem(format!("is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(problem("holds no certificate in PEM".to_owned()));
    }
    Ok(found)
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|source| ConfigError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

/// `CONSUL_HTTP_SSL_VERIFY=false`: any certificate, though its key must be held.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
