//! The rules for the leaf: X.509-SVID, sections 3 to 5, and RFC 5280.

use super::certificate::{BadExtension, Certificate, Period};
use super::{Usage, VerifyError, key};
use crate::identity::{Kind, SpiffeId};
use crate::time::Timestamp;

/// RFC 5280, 4.1.2.2, and one byte for the sign.
const MAX_SERIAL_LEN: usize = 21;

impl From<BadExtension> for VerifyError {
    fn from(BadExtension(extension): BadExtension) -> Self {
        Self::MalformedExtension { extension }
    }
}

/// Reads the identity, which is the one URI name. Names of other types are no identities.
pub(super) fn identity(leaf: &Certificate<'_>) -> Result<SpiffeId, VerifyError> {
    let id = match leaf.uri_names()?.as_slice() {
        [] => return Err(VerifyError::NoUriName),
        [uri] => SpiffeId::parse_bytes(uri).map_err(VerifyError::MalformedIdentity)?,
        names => return Err(VerifyError::SeveralUriNames { count: names.len() }),
    };
    if *id.kind() == Kind::Signing {
        let trust_domain = id.trust_domain().clone();
        return Err(VerifyError::IdentityWithoutPath { trust_domain });
    }
    Ok(id)
}

/// Checks what does not depend on time, issuer and identity.
pub(super) fn check_form(leaf: &Certificate<'_>, usage: Usage) -> Result<(), VerifyError> {
    if leaf.has_negative_serial() {
        return Err(VerifyError::NegativeSerial);
    }
    if leaf.serial().len() > MAX_SERIAL_LEN {
        return Err(VerifyError::LongSerial);
    }
    if leaf.is_ca()? {
        return Err(VerifyError::LeafIsCa);
    }
    check_key_usage(leaf)?;
    check_extended_key_usage(leaf, usage)?;
    key::check_key(leaf.public_key()).map_err(VerifyError::UnsupportedKey)?;
    key::check_signature_algorithm(leaf.der())
        .map_err(|algorithm| VerifyError::UnsupportedSignature { algorithm })
}

fn check_key_usage(leaf: &Certificate<'_>) -> Result<(), VerifyError> {
    let usage = leaf.key_usage()?.ok_or(VerifyError::NoKeyUsage)?;
    if !usage.digital_signature {
        return Err(VerifyError::NoDigitalSignature);
    }
    for (is_set, usage) in [
        (usage.key_cert_sign, "keyCertSign"),
        (usage.crl_sign, "cRLSign"),
    ] {
        if is_set {
            return Err(VerifyError::LeafSignsCertificates { usage });
        }
    }
    Ok(())
}

/// The wanted purpose must be named; anyExtendedKeyUsage does not stand for it.
fn check_extended_key_usage(leaf: &Certificate<'_>, usage: Usage) -> Result<(), VerifyError> {
    let purposes = leaf
        .extended_key_usage()?
        .ok_or(VerifyError::NoExtendedKeyUsage)?;
    if purposes.contains(&usage.purpose()) {
        Ok(())
    } else {
        Err(VerifyError::WrongExtendedKeyUsage {
            wanted: usage.purpose_name(),
        })
    }
}

pub(super) fn check_time(leaf: &Certificate<'_>, now: Timestamp) -> Result<(), VerifyError> {
    if leaf.is_never_valid() {
        return Err(VerifyError::BadValidity);
    }
    match leaf.period(now) {
        Period::Current => Ok(()),
        Period::Ended => Err(VerifyError::Expired {
            not_after: leaf.not_after(),
            now,
        }),
        Period::NotBegun => Err(VerifyError::NotYetValid {
            not_before: leaf.not_before(),
            now,
        }),
    }
}

/// Lower-case hex bytes joined by `:`, as Consul writes serial numbers.
pub(super) fn serial(leaf: &Certificate<'_>) -> String {
    let bytes = match leaf.serial() {
        [0, rest @ ..] if !rest.is_empty() => rest,
        bytes => bytes,
    };
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.join(":")
}
