//! Trust bundles: the roots of one trust domain, never pooled with another's.

use std::collections::BTreeMap;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use super::certificate::{Certificate, Period, period};
use super::{BundleError, VerifyError, issuer};
use crate::identity::{Excerpt, Kind, Partition, PeerName, SpiffeId, TrustDomain};
use crate::time::Timestamp;

/// The roots of one trust domain. Validity is judged at each verification, because
/// webpki does not look at a root's.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
}

/// One root, as much of it as verification needs.
#[derive(Clone, Debug)]
pub(super) struct Root {
    der: CertificateDer<'static>,
    pub(super) subject: Box<[u8]>,
    pub(super) name: Excerpt,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    pub(super) anchor: TrustAnchor<'static>,
}

/// The bundle of a cluster peering.
#[derive(Clone, Debug)]
pub struct PeerBundle {
    /// The peer's roots.
    pub bundle: TrustBundle,
    /// The partition whose services the peer exports: identities of others are refused.
    pub exported_partition: Partition,
}

/// All bundles that a verification may choose from, by the leaf's trust domain.
#[derive(Clone, Debug)]
pub struct Bundles {
    /// The mesh's own.
    pub local: TrustBundle,
    /// Those of cluster peerings, by their local names.
    pub peers: BTreeMap<PeerName, PeerBundle>,
}

impl TrustBundle {
    /// Reads PEM texts with one or more certificates each; repeated roots count once.
    /// No texts make a bundle that verifies nobody.
    ///
    /// # Errors
    /// If a text is not PEM, has no certificate, or has one that cannot be a root:
    /// no CA, a weak or unsupported key (P-224 is one), name constraints for URIs.
    pub fn from_pem<S: AsRef<str>>(
        trust_domain: TrustDomain,
        roots: &[S],
    ) -> Result<Self, BundleError> {
        let mut bundle = Self {
            trust_domain,
            roots: Vec::new(),
        };
        for (index, pem) in roots.iter().enumerate() {
            let mut is_empty = true;
            for der in CertificateDer::pem_slice_iter(pem.as_ref().as_bytes()) {
                let der = der.map_err(|_| BundleError::Pem { index })?;
                bundle.add(index, der)?;
                is_empty = false;
            }
            if is_empty {
                return Err(BundleError::NoCertificate { index });
            }
        }
        Ok(bundle)
    }

    /// The trust domain whose identities these roots vouch for.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// How many different roots there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.roots.len()
    }

    /// Whether there is no root at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    pub(super) fn roots(&self) -> &[Root] {
        &self.roots
    }

    fn add(&mut self, index: usize, der: CertificateDer<'static>) -> Result<(), BundleError> {
        if self.roots.iter().any(|root| root.der == der) {
            return Ok(());
        }
        let root = Root::read(index, der)?;
        self.roots.push(root);
        Ok(())
    }
}

impl Root {
    fn read(index: usize, der: CertificateDer<'static>) -> Result<Self, BundleError> {
        let malformed = BundleError::Malformed { index };
        let Some(certificate) = Certificate::parse(&der) else {
            return Err(malformed);
        };
        let name = certificate.subject_name();
        if let Err(problem) = issuer::check(&certificate) {
            return Err(BundleError::Unusable {
                index,
                subject: name,
                problem,
            });
        }
        let Ok(anchor) = webpki::anchor_from_trusted_cert(&der) else {
            return Err(malformed);
        };
        Ok(Self {
            anchor: anchor.to_owned(),
            subject: certificate.subject().into(),
            name,
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            der,
        })
    }

    pub(super) fn period(&self, now: Timestamp) -> Period {
        period(self.not_before, self.not_after, now)
    }
}

impl Bundles {
    /// A set with the mesh's own roots only.
    #[must_use]
    pub const fn new(local: TrustBundle) -> Self {
        Self {
            local,
            peers: BTreeMap::new(),
        }
    }

    /// The one bundle that may vouch for this identity. The local trust domain is
    /// never a peer's, whatever the peers' bundles say.
    pub(super) fn choose(
        &self,
        id: &SpiffeId,
    ) -> Result<(Option<&PeerName>, &TrustBundle), VerifyError> {
        let trust_domain = id.trust_domain();
        if self.local.trust_domain() == trust_domain {
            return if self.local.is_empty() {
                Err(VerifyError::RootsNotLoaded)
            } else {
                Ok((None, &self.local))
            };
        }
        let default = Partition::default_partition();
        let partition = match id.kind() {
            Kind::Service(path) => &path.partition,
            Kind::Agent { partition, .. } | Kind::MeshGateway { partition, .. } => partition,
            Kind::Server { .. } | Kind::Signing | Kind::Other { .. } => &default,
        };
        let mut is_known = false;
        for (name, peer) in &self.peers {
            if peer.bundle.trust_domain() != trust_domain {
                continue;
            }
            if peer.exported_partition == *partition {
                return Ok((Some(name), &peer.bundle));
            }
            is_known = true;
        }
        Err(if is_known {
            let partition = partition.clone();
            VerifyError::ForeignPartition {
                trust_domain: trust_domain.clone(),
                partition,
            }
        } else {
            VerifyError::ForeignTrustDomain {
                trust_domain: trust_domain.clone(),
            }
        })
    }
}
