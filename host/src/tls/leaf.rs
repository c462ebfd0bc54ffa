//! Our own certificate and key, and where handshakes find the current one.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use portcullis_core::agent::leaf::Leaf as LeafReply;
#[cfg(feature = "envoy")]
use portcullis_core::agent::leaf::SecretPem;
use portcullis_core::identity::SpiffeId;
use portcullis_core::time::Timestamp;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Why a leaf certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The certificates are not PEM, or there are none.
    #[error("the leaf's certificates cannot be read: {0}")]
    Chain(String),
    /// The key is not PEM.
    #[error("the leaf's key cannot be read")]
    Key,
    /// The key cannot be used, or belongs to another certificate.
    #[error("the leaf's key does not fit its certificate: {0}")]
    Mismatch(rustls::Error),
    /// The certificate does not name exactly one service identity.
    #[error("the leaf's identity: {0}")]
    Identity(String),
    /// The certificate is out of its validity period.
    #[error("the leaf is valid from {from} to {to}, and it is {now}")]
    Validity {
        /// Start.
        from: Timestamp,
        /// End.
        to: Timestamp,
        /// Now.
        now: Timestamp,
    },
}

/// A certificate chain with its key, ready for handshakes.
pub struct Leaf {
    /// The SPIFFE ID in the certificate.
    pub id: SpiffeId,
    /// Serial number as the agent writes it.
    pub serial: String,
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
    certified: Arc<CertifiedKey>,
    #[cfg(feature = "envoy")]
    pem: (String, SecretPem),
}

impl Leaf {
    /// Takes over what the agent issued: the whole chain, the key, and the identity
    /// that is really in the certificate.
    ///
    /// # Errors
    /// When chain or key cannot be read, do not belong together, the certificate's
    /// identity is not the announced one, or it is not valid at `now`.
    pub fn from_reply(reply: &LeafReply, now: Timestamp) -> Result<Self, LeafError> {
        let chain = CertificateDer::pem_slice_iter(reply.chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| LeafError::Chain(error.to_string()))?;
        let first = chain
            .first()
            .ok_or_else(|| LeafError::Chain("no certificate".to_owned()))?;
        let (id, not_before, not_after) = read(first)?;
        if id.to_string() != reply.uri {
            return Err(LeafError::Identity(format!(
                "`{id}` is not the announced one"
            )));
        }
        if now < not_before || now >= not_after {
            return Err(LeafError::Validity {
                from: not_before,
                to: not_after,
                now,
            });
        }
        let key = PrivateKeyDer::from_pem_slice(reply.key.expose()).map_err(|_| LeafError::Key)?;
        let provider = aws_lc_rs::default_provider();
        let certified =
            CertifiedKey::from_der(chain, key, &provider).map_err(LeafError::Mismatch)?;
        Ok(Self {
            id,
            serial: reply.serial.clone(),
            not_before,
            not_after,
            certified: Arc::new(certified),
            #[cfg(feature = "envoy")]
            pem: (reply.chain_pem.clone(), reply.key.clone()),
        })
    }

    /// Chain and key as the agent gave them, for Envoy.
    #[cfg(feature = "envoy")]
    pub(crate) fn pem(&self) -> (&str, &SecretPem) {
        (&self.pem.0, &self.pem.1)
    }

    /// The chain as it is sent: leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Leaf({}, {}, until {})",
            self.id, self.serial, self.not_after
        )
    }
}

/// Identity and validity of a certificate of ours.
fn read(der: &CertificateDer<'_>) -> Result<(SpiffeId, Timestamp, Timestamp), LeafError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| LeafError::Chain(error.to_string()))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| LeafError::Chain(error.to_string()))?
        .ok_or_else(|| LeafError::Identity("there is no subject alternative name".to_owned()))?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(LeafError::Identity(
            "there is not exactly one URI name".to_owned(),
        ));
    };
    let id = SpiffeId::parse(uri).map_err(|error| LeafError::Identity(error.to_string()))?;
    if id.service().is_none() {
        return Err(LeafError::Identity(format!("`{id}` is not a service")));
    }
    let time = |seconds: i64| Timestamp::from_unix_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    Ok((
        id,
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    ))
}

/// The leaf in use. Handshakes that begin after [`LeafStore::replace`] use the new one.
#[derive(Debug)]
pub struct LeafStore {
    current: ArcSwapOption<Leaf>,
    changed: watch::Sender<u64>,
}

impl LeafStore {
    /// A store without a leaf: handshakes fail.
    #[must_use]
    pub fn new() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
        }
    }

    /// The leaf in use.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Leaf>> {
        self.current.load_full()
    }

    /// Puts another leaf in use.
    pub fn replace(&self, leaf: Leaf) {
        self.current.store(Some(Arc::new(leaf)));
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells of every replacement.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.current
            .load()
            .as_ref()
            .map(|leaf| Arc::clone(&leaf.certified))
    }
}

impl Default for LeafStore {
    fn default() -> Self {
        Self::new()
    }
}

impl ResolvesServerCert for LeafStore {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for LeafStore {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}
