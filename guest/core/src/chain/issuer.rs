//! What a certificate must be to issue others, as a root or as an intermediate.

use thiserror::Error;

use super::certificate::{BadExtension, Certificate};
use super::key::{self, KeyProblem};

/// Why a certificate cannot issue others.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IssuerProblem {
    /// Its basic constraints do not say CA.
    #[error("it is not a CA certificate")]
    NotCa,
    /// Its key usage lacks keyCertSign.
    #[error("its key usage lacks keyCertSign")]
    NoCertSign,
    /// Its key is weak or of no supported kind.
    #[error("{0}")]
    Key(KeyProblem),
    /// It is signed with a weak or unknown algorithm.
    #[error("its signature algorithm is refused: {0}")]
    Signature(&'static str),
    /// It restricts URI names, which is not evaluated, so it cannot be obeyed.
    #[error("it has name constraints for URIs, which are not supported")]
    UriNameConstraints,
    /// An extension that matters is there twice or cannot be read.
    #[error("its {0} is there twice or cannot be read")]
    Extension(&'static str),
    /// Its serial number is negative.
    #[error("its serial number is negative")]
    NegativeSerial,
    /// Its validity ends before it begins.
    #[error("its validity ends before it begins")]
    BadValidity,
}

impl From<BadExtension> for IssuerProblem {
    fn from(BadExtension(name): BadExtension) -> Self {
        Self::Extension(name)
    }
}

/// Checks all but time and signature. A root's own signature proves nothing and may
/// be of any algorithm.
pub(super) fn check(certificate: &Certificate<'_>) -> Result<(), IssuerProblem> {
    if !certificate.is_ca()? {
        return Err(IssuerProblem::NotCa);
    }
    if certificate
        .key_usage()?
        .is_some_and(|usage| !usage.key_cert_sign)
    {
        return Err(IssuerProblem::NoCertSign);
    }
    if certificate.constrains_uris()? {
        return Err(IssuerProblem::UriNameConstraints);
    }
    if certificate.has_negative_serial() {
        return Err(IssuerProblem::NegativeSerial);
    }
    if certificate.is_never_valid() {
        return Err(IssuerProblem::BadValidity);
    }
    key::check_key(certificate.public_key()).map_err(IssuerProblem::Key)
}

/// As [`check`], for a certificate whose signature counts.
pub(super) fn check_intermediate(certificate: &Certificate<'_>) -> Result<(), IssuerProblem> {
    check(certificate)?;
    key::check_signature_algorithm(certificate.der()).map_err(IssuerProblem::Signature)
}
