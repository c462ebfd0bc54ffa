//! Certificate chains: DER to a verified peer, or the rule that the chain breaks.
//!
//! The rules are those of SPIFFE's X.509-SVID specification and RFC 5280, path
//! building is rustls-webpki's. All that costs nothing comes first: limits, the
//! leaf's form, its identity, its time. Roots are chosen by the trust domain that the
//! leaf claims, so what is not that domain's can vouch for nothing in it. Each
//! certificate is judged at `now` alone, because Consul's leaves begin a minute
//! before a new root does.
//!
//! A verified chain proves that a CA of the mesh issued the certificate. That the
//! peer holds its key, TLS proves.

mod algorithms;
mod certificate;
mod der;
mod error;
mod issuer;
mod key;
mod leaf;
mod path;
mod roots;
mod whose;

pub use algorithms::{Algorithms, rustcrypto};
pub use error::{BundleError, VerifyError, VerifyErrorKind};
pub use issuer::IssuerProblem;
pub use key::KeyProblem;
pub use roots::{Bundles, PeerBundle, TrustBundle};
pub use whose::{NoTrustDomain, trust_domain_of};

use certificate::Certificate;

use crate::identity::{PeerName, SpiffeId};
use crate::time::Timestamp;

/// Certificates that a peer may present, the leaf included.
pub const MAX_CERTIFICATES: usize = 6;
/// Bytes that they may have together.
pub const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// What the peer acts as in the TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Usage {
    /// The peer is a TLS client; its certificate must allow client authentication.
    Client,
    /// The peer is a TLS server; its certificate must allow server authentication.
    Server,
}

/// A peer whose chain was verified. That it holds the key is not part of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// Who it is.
    pub id: SpiffeId,
    /// The cluster peering that vouches for it; `None` for the local trust domain.
    pub peer: Option<PeerName>,
    /// Serial number of the leaf: lower-case hex bytes joined by `:`.
    pub serial: String,
    /// When the first certificate of the path used expires.
    pub not_after: Timestamp,
}

/// Verifies a presented chain (DER, leaf first; the rest in any order).
///
/// `expected` is the identity that the peer must have. They are compared as parsed
/// IDs: `/ap/default/` and no partition are the same.
///
/// # Errors
/// When the chain breaks a rule. The error says which and names the offending part;
/// what it quotes are claims.
pub fn verify_peer<C: AsRef<[u8]>>(
    chain: &[C],
    usage: Usage,
    expected: Option<&SpiffeId>,
    bundles: &Bundles,
    now: Timestamp,
    algorithms: Algorithms,
) -> Result<VerifiedPeer, VerifyError> {
    check_limits(chain)?;
    let (leaf, intermediates) = read(chain)?;
    leaf::check_form(&leaf, usage)?;
    let id = leaf::identity(&leaf)?;
    let (peer, bundle) = bundles.choose(&id)?;
    if let Some(expected) = expected {
        check_expected(&id, expected)?;
    }
    leaf::check_time(&leaf, now)?;
    let not_after = path::verify(&leaf, &intermediates, usage, bundle, now, algorithms)?;
    Ok(VerifiedPeer {
        peer: peer.cloned(),
        serial: leaf::serial(&leaf),
        not_after,
        id,
    })
}

/// What a certificate claims, before anybody has checked who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// All URI names; what is not UTF-8 is replaced, so that it cannot be an identity.
    pub uris: Vec<String>,
    /// The first moment at which it is valid.
    pub not_before: Timestamp,
    /// The last one.
    pub not_after: Timestamp,
}

/// Reads a certificate that somebody else has verified; `None` if it or its names cannot be
/// read.
#[must_use]
pub fn claims(der: &[u8]) -> Option<Claims> {
    let certificate = Certificate::parse(der)?;
    let uris = certificate.uri_names().ok()?;
    Some(Claims {
        uris: uris
            .into_iter()
            .map(|uri| String::from_utf8_lossy(uri).into_owned())
            .collect(),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
    })
}

fn check_limits<C: AsRef<[u8]>>(chain: &[C]) -> Result<(), VerifyError> {
    let count = chain.len();
    if count > MAX_CERTIFICATES {
        return Err(VerifyError::TooManyCertificates { count });
    }
    let bytes = chain.iter().fold(0, |sum: usize, certificate| {
        sum.saturating_add(certificate.as_ref().len())
    });
    if bytes > MAX_CHAIN_BYTES {
        return Err(VerifyError::ChainTooLarge { bytes });
    }
    Ok(())
}

/// The leaf and the different other certificates.
fn read<C: AsRef<[u8]>>(
    chain: &[C],
) -> Result<(Certificate<'_>, Vec<Certificate<'_>>), VerifyError> {
    let mut different: Vec<Certificate<'_>> = Vec::with_capacity(chain.len());
    for (position, der) in chain.iter().enumerate() {
        let der = der.as_ref();
        if different.iter().any(|seen| seen.der() == der) {
            continue;
        }
        let certificate =
            Certificate::parse(der).ok_or(VerifyError::MalformedCertificate { position })?;
        different.push(certificate);
    }
    let mut certificates = different.into_iter();
    let leaf = certificates.next().ok_or(VerifyError::EmptyChain)?;
    Ok((leaf, certificates.collect()))
}

fn check_expected(id: &SpiffeId, expected: &SpiffeId) -> Result<(), VerifyError> {
    match expected.first_difference(id) {
        None => Ok(()),
        Some(part) => Err(VerifyError::UnexpectedIdentity {
            expected: Box::new(expected.clone()),
            presented: Box::new(id.clone()),
            part,
        }),
    }
}

impl Usage {
    /// The purpose's object identifier, as DER contents.
    const fn purpose(self) -> &'static [u8] {
        match self {
            Self::Client => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02],
            Self::Server => &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01],
        }
    }

    const fn purpose_name(self) -> &'static str {
        match self {
            Self::Client => "clientAuth",
            Self::Server => "serverAuth",
        }
    }

    /// webpki asks the whole path; issuers need not have the extension.
    const fn webpki(self) -> webpki::KeyUsage {
        match self {
            Self::Client => webpki::KeyUsage::client_auth(),
            Self::Server => webpki::KeyUsage::server_auth(),
        }
    }
}
