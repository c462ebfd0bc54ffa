//! Whose roots these are, by what they say of themselves.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use thiserror::Error;

use super::certificate::Certificate;
use crate::identity::{Excerpt, Kind, SpiffeId, TrustDomain};

/// Why roots name no one trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoTrustDomain {
    /// None has a URI name that is the ID of a trust domain.
    #[error("none of the roots names its trust domain (a URI name `spiffe://TRUST-DOMAIN`)")]
    Unnamed,
    /// They name different ones.
    #[error("the roots name different trust domains, `{first}` and `{other}`")]
    Several {
        /// The first.
        first: TrustDomain,
        /// Another.
        other: TrustDomain,
    },
    /// One has several URI names, or one that is no trust domain's.
    #[error("the root `{subject}` has a URI name that is not one trust domain's")]
    Other {
        /// The root's common name.
        subject: Excerpt,
    },
}

/// The trust domain of roots in PEM: SPIFFE has it as the URI name of the certificate that
/// signs for it. A root without one, or that cannot be read, belongs to the others.
///
/// # Errors
/// If they name none, or more than one.
pub fn trust_domain_of<S: AsRef<str>>(roots: &[S]) -> Result<TrustDomain, NoTrustDomain> {
    let mut found: Option<TrustDomain> = None;
    let certificates = roots
        .iter()
        .flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_ref().as_bytes()));
    for der in certificates.filter_map(Result::ok) {
        let Some(certificate) = Certificate::parse(&der) else {
            continue;
        };
        let other = || NoTrustDomain::Other {
            subject: certificate.subject_name(),
        };
        let named = match certificate.uri_names().map_err(|_| other())?.as_slice() {
            [] => continue,
            [uri] => std::str::from_utf8(uri)
                .ok()
                .and_then(|uri| SpiffeId::parse(uri).ok())
                .filter(|id| *id.kind() == Kind::Signing)
                .ok_or_else(other)?,
            _ => return Err(other()),
        };
        let named = named.trust_domain();
        match &found {
            Some(first) if first != named => {
                return Err(NoTrustDomain::Several {
                    first: first.clone(),
                    other: named.clone(),
                });
            }
            _ => found = Some(named.clone()),
        }
    }
    found.ok_or(NoTrustDomain::Unnamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = include_str!("../../tests/data/consul/p256-root0.pem");
    const RSA: &str = include_str!("../../tests/data/consul/rsa-to-p521-root0.pem");
    const LEAF: &str = include_str!("../../tests/data/consul/p256-leaf.pem");
    const OTHER: &str = include_str!("../../tests/data/openssl/p256-sha256-root.pem");

    #[test]
    fn consuls_roots_name_their_trust_domain() {
        let domain = trust_domain_of(&[P256]).unwrap();
        assert!(domain.as_str().ends_with(".consul"), "{domain}");
        assert_eq!(trust_domain_of(&[P256, RSA]), Ok(domain.clone()));
        assert_eq!(
            trust_domain_of(&[format!("{P256}{RSA}")]),
            Ok(domain.clone())
        );
        assert_eq!(trust_domain_of(&["rubbish", P256]), Ok(domain));
    }

    #[test]
    fn what_names_none_or_another_is_refused() {
        let none: [&str; 0] = [];
        assert_eq!(trust_domain_of(&none), Err(NoTrustDomain::Unnamed));
        assert_eq!(trust_domain_of(&["rubbish"]), Err(NoTrustDomain::Unnamed));
        let leaf = trust_domain_of(&[LEAF]).unwrap_err();
        assert!(matches!(leaf, NoTrustDomain::Other { .. }), "{leaf}");
        let several = trust_domain_of(&[P256, OTHER]).unwrap_err();
        assert!(
            matches!(several, NoTrustDomain::Several { .. }),
            "{several}"
        );
    }
}
