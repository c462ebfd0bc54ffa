//! Path building: which presented certificates and roots take part, webpki's search
//! among them, and what to say when it finds nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    TrustAnchor, UnixTime,
};
use webpki::{EndEntityCert, Error as WebpkiError, VerifiedPath};

use super::certificate::{Certificate, Period};
use super::roots::{Root, TrustBundle};
use super::{Algorithms, IssuerProblem, Usage, VerifyError, issuer};
use crate::identity::Excerpt;
use crate::time::Timestamp;

/// Signature checks that one call may cost. The longest useful path of six presented
/// certificates has six; the rest is for a root that turns out to be the wrong one.
const MAX_SIGNATURE_CHECKS: usize = 8;

/// Finds a path from the leaf to a root and answers when the first certificate of it expires.
pub(super) fn verify(
    leaf: &Certificate<'_>,
    intermediates: &[Certificate<'_>],
    usage: Usage,
    bundle: &TrustBundle,
    now: Timestamp,
    algorithms: Algorithms,
) -> Result<Timestamp, VerifyError> {
    let field = Field::around(leaf, intermediates, bundle, now);
    if field.roots.is_empty() {
        return Err(field.no_path(leaf, bundle));
    }
    let leaf_der = CertificateDer::from(leaf.der());
    let end_entity = EndEntityCert::try_from(&leaf_der).map_err(unreadable_leaf)?;
    let anchors: Vec<TrustAnchor<'_>> = field.roots.iter().map(|root| borrowed(root)).collect();
    let issuers: Vec<CertificateDer<'_>> = field
        .issuers
        .iter()
        .map(|issuer| CertificateDer::from(issuer.der()))
        .collect();
    let budget = Budget::default();
    let counted: Vec<Counted<'_>> = algorithms
        .iter()
        .map(|inner| Counted {
            inner: *inner,
            budget: &budget,
        })
        .collect();
    let counted: Vec<&dyn SignatureVerificationAlgorithm> = counted
        .iter()
        .map(|algorithm| -> &dyn SignatureVerificationAlgorithm { algorithm })
        .collect();
    let found = end_entity.verify_for_usage(
        &counted,
        &anchors,
        &issuers,
        UnixTime::since_unix_epoch(Duration::from_secs(now.as_unix_secs())),
        usage.webpki(),
        None,
        None,
    );
    match found {
        Ok(path) => field
            .earliest_end(leaf, &path)
            .ok_or_else(|| field.no_path(leaf, bundle)),
        Err(_) if budget.is_exceeded() => Err(VerifyError::TooManySignatureChecks),
        Err(error) => Err(field.explain(&error, leaf, bundle)),
    }
}

/// What can take part in a path: issuers whose subject is asked for, all checks but
/// the signature passed.
struct Field<'f> {
    issuers: Vec<&'f Certificate<'f>>,
    roots: Vec<&'f Root>,
    /// Issuers that were asked for, but are not acceptable.
    refused: Vec<VerifyError>,
}

impl<'f> Field<'f> {
    fn around(
        leaf: &'f Certificate<'f>,
        intermediates: &'f [Certificate<'f>],
        bundle: &'f TrustBundle,
        now: Timestamp,
    ) -> Self {
        let mut field = Self {
            issuers: Vec::new(),
            roots: Vec::new(),
            refused: Vec::new(),
        };
        let mut wanted = vec![leaf.issuer()];
        let mut left: Vec<&Certificate<'_>> = intermediates.iter().collect();
        loop {
            let (asked_for, others): (Vec<_>, Vec<_>) = left
                .into_iter()
                .partition(|candidate| wanted.contains(&candidate.subject()));
            left = others;
            if asked_for.is_empty() {
                break;
            }
            for candidate in asked_for {
                match check_intermediate(candidate, now) {
                    Ok(()) => {
                        wanted.push(candidate.issuer());
                        field.issuers.push(candidate);
                    }
                    Err(error) => field.refused.push(error),
                }
            }
        }
        for root in bundle.roots() {
            if !wanted.iter().any(|name| **name == *root.subject) {
                continue;
            }
            match check_time(
                root.period(now),
                &root.name,
                root.not_before,
                root.not_after,
                now,
            ) {
                Ok(()) => field.roots.push(root),
                Err(error) => field.refused.push(error),
            }
        }
        field
    }

    /// The earliest notAfter of the leaf, the intermediates used and the root.
    fn earliest_end(&self, leaf: &Certificate<'_>, path: &VerifiedPath<'_>) -> Option<Timestamp> {
        let mut earliest = leaf.not_after();
        for used in path.intermediate_certificates() {
            let der = used.der();
            let issuer = self
                .issuers
                .iter()
                .find(|issuer| issuer.der() == der.as_ref())?;
            earliest = earliest.min(issuer.not_after());
        }
        let root = self
            .roots
            .iter()
            .filter(|root| root.anchor == *path.anchor());
        // One key may have two valid root certificates; either vouches for the path.
        Some(earliest.min(root.map(|root| root.not_after).max()?))
    }

    fn explain(
        &self,
        error: &WebpkiError,
        leaf: &Certificate<'_>,
        bundle: &TrustBundle,
    ) -> VerifyError {
        match error {
            WebpkiError::UnknownIssuer => self.no_path(leaf, bundle),
            WebpkiError::InvalidSignatureForPublicKey
            | WebpkiError::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                VerifyError::BadSignature {
                    issuer: leaf.issuer_name(),
                }
            }
            WebpkiError::NameConstraintViolation => VerifyError::NameConstraints,
            WebpkiError::PathLenConstraintViolated => VerifyError::PathLength,
            WebpkiError::MaximumSignatureChecksExceeded
            | WebpkiError::MaximumPathBuildCallsExceeded
            | WebpkiError::MaximumNameConstraintComparisonsExceeded => {
                VerifyError::TooManySignatureChecks
            }
            other => VerifyError::NoPath {
                reason: Excerpt::of(&other.to_string()),
            },
        }
    }

    /// Why there is no path: the most telling of the refused issuers, or that there is none.
    fn no_path(&self, leaf: &Certificate<'_>, bundle: &TrustBundle) -> VerifyError {
        let telling = self.refused.iter().min_by_key(|error| match error {
            VerifyError::UriNameConstraints { .. } => 0,
            VerifyError::IssuerExpired { .. } | VerifyError::IssuerNotYetValid { .. } => 1,
            _ => 2,
        });
        telling
            .cloned()
            .unwrap_or_else(|| VerifyError::UnknownIssuer {
                trust_domain: bundle.trust_domain().clone(),
                issuer: leaf.issuer_name(),
            })
    }
}

fn check_intermediate(candidate: &Certificate<'_>, now: Timestamp) -> Result<(), VerifyError> {
    let issuer = candidate.subject_name();
    match issuer::check_intermediate(candidate) {
        Ok(()) => check_time(
            candidate.period(now),
            &issuer,
            candidate.not_before(),
            candidate.not_after(),
            now,
        ),
        Err(IssuerProblem::UriNameConstraints) => Err(VerifyError::UriNameConstraints { issuer }),
        Err(problem) => Err(VerifyError::UnusableIssuer { issuer, problem }),
    }
}

fn check_time(
    period: Period,
    issuer: &Excerpt,
    not_before: Timestamp,
    not_after: Timestamp,
    now: Timestamp,
) -> Result<(), VerifyError> {
    let issuer = issuer.clone();
    match period {
        Period::Current => Ok(()),
        Period::Ended => Err(VerifyError::IssuerExpired {
            issuer,
            not_after,
            now,
        }),
        Period::NotBegun => Err(VerifyError::IssuerNotYetValid {
            issuer,
            not_before,
            now,
        }),
    }
}

fn unreadable_leaf(error: WebpkiError) -> VerifyError {
    match error {
        WebpkiError::UnsupportedCriticalExtension => VerifyError::CriticalExtension,
        _ => VerifyError::MalformedCertificate { position: 0 },
    }
}

fn borrowed(root: &Root) -> TrustAnchor<'_> {
    TrustAnchor {
        subject: root.anchor.subject.as_ref().into(),
        subject_public_key_info: root.anchor.subject_public_key_info.as_ref().into(),
        name_constraints: root
            .anchor
            .name_constraints
            .as_ref()
            .map(|der| der.as_ref().into()),
    }
}

/// Counts signature checks. webpki has a budget of its own, but it is fixed at 100 and
/// not ours to set; what goes through here is exactly what costs time.
#[derive(Debug, Default)]
struct Budget {
    used: AtomicUsize,
    exceeded: AtomicBool,
}

impl Budget {
    fn take_one(&self) -> Result<(), InvalidSignature> {
        if self.used.fetch_add(1, Ordering::Relaxed) < MAX_SIGNATURE_CHECKS {
            return Ok(());
        }
        self.exceeded.store(true, Ordering::Relaxed);
        Err(InvalidSignature)
    }

    fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }
}

/// An algorithm that stops working when the budget is used up.
#[derive(Debug)]
struct Counted<'a> {
    inner: &'a dyn SignatureVerificationAlgorithm,
    budget: &'a Budget,
}

impl SignatureVerificationAlgorithm for Counted<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        self.budget.take_one()?;
        self.inner.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.signature_alg_id()
    }
}
