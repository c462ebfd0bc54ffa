//! Who a connection's peer is, by its certificate.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::chain;
use crate::identity::{Kind, SpiffeId};
use crate::policy::Client;
use crate::time::Timestamp;

/// The longest PEM of a leaf that is read.
const MAX_PEM: usize = 32 * 1024;

/// What a certificate says about its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// All its URI names.
    pub client: Client,
    /// The first moment at which it is valid.
    pub not_before: Timestamp,
    /// The last moment at which it is valid.
    pub not_after: Timestamp,
    /// It names a mesh gateway, whose requests may name somebody else.
    pub is_mesh_gateway: bool,
    /// The certificate.
    pub leaf: Vec<u8>,
}

/// Why a certificate says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It is not one certificate in PEM.
    #[error("what Envoy gives is not one certificate in PEM")]
    Pem,
    /// It is no X.509 certificate, or its names cannot be read.
    #[error("the certificate cannot be read")]
    Certificate,
}

impl Peer {
    /// Reads PEM.
    ///
    /// # Errors
    /// [`PeerError`] if there is not exactly one certificate whose names can be read.
    pub fn read(pem: &[u8]) -> Result<Self, PeerError> {
        if pem.len() > MAX_PEM {
            return Err(PeerError::Pem);
        }
        let mut certificates = CertificateDer::pem_slice_iter(pem);
        let (Some(Ok(leaf)), None) = (certificates.next(), certificates.next()) else {
            return Err(PeerError::Pem);
        };
        let claims = chain::claims(&leaf).ok_or(PeerError::Certificate)?;
        let is_mesh_gateway = match claims.uris.as_slice() {
            [uri] => {
                SpiffeId::parse(uri).is_ok_and(|id| matches!(id.kind(), Kind::MeshGateway { .. }))
            }
            _ => false,
        };
        Ok(Self {
            client: Client {
                uris: claims.uris,
                via_gateway: None,
            },
            not_before: claims.not_before,
            not_after: claims.not_after,
            is_mesh_gateway,
            leaf: leaf.to_vec(),
        })
    }

    /// Whether the certificate is valid at `now`, by whole seconds, both ends included.
    #[must_use]
    pub fn is_current(&self, now: Timestamp) -> bool {
        (self.not_before.as_unix_secs()..=self.not_after.as_unix_secs())
            .contains(&now.as_unix_secs())
    }

    /// The DER of every certificate in `pem`; what cannot be read is left out, which makes
    /// fewer paths.
    #[must_use]
    pub fn certificates(pem: &str) -> Vec<Vec<u8>> {
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .filter_map(Result::ok)
            .map(|der| der.to_vec())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_testkit::TestCa;

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    #[test]
    fn all_uri_names_are_read_not_only_the_first() {
        let ca = TestCa::new("t.consul");
        let one = Peer::read(ca.service("web").issue().pem().as_bytes()).unwrap();
        assert_eq!(
            one.client.uris,
            ["spiffe://t.consul/ns/default/dc/dc1/svc/web"]
        );
        assert!(!one.is_mesh_gateway);
        let two = ca
            .service("web")
            .with(|leaf| leaf.two_uris("spiffe://t.consul/ns/default/dc/dc1/svc/db"))
            .issue();
        assert_eq!(
            Peer::read(two.pem().as_bytes()).unwrap().client.uris.len(),
            2
        );
        let _ = NOW;
    }

    #[test]
    fn what_is_not_one_certificate_is_refused() {
        let ca = TestCa::new("t.consul");
        let pem = ca.service("web").issue().pem();
        let twice = format!("{pem}{pem}");
        for text in ["", "x", twice.as_str(), &pem[..pem.len() / 2]] {
            assert_eq!(Peer::read(text.as_bytes()), Err(PeerError::Pem), "{text}");
        }
        let other = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(Peer::read(other.as_bytes()), Err(PeerError::Certificate));
        assert_eq!(Peer::read(&vec![b'x'; MAX_PEM + 1]), Err(PeerError::Pem));
    }
}
