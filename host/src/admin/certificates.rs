//! Certificates in words: never their keys.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A certificate in DER.
pub(super) fn der(der: &[u8]) -> Value {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return json!({ "error": "it cannot be read" });
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let identities: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let time = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
        portcullis_core::time::Timestamp::from_unix_secs(seconds).to_string()
    };
    let validity = certificate.validity();
    let fingerprint: String = Sha256::digest(der)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    json!({
        "subject": certificate.subject().to_string(),
        "issuer": certificate.issuer().to_string(),
        "serial": certificate.raw_serial_as_string(),
        "identities": identities,
        "not_before": time(validity.not_before),
        "not_after": time(validity.not_after),
        "sha256": fingerprint,
    })
}

/// All certificates of a PEM text.
pub(super) fn pem(pem: &str) -> Vec<Value> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|certificate| match certificate {
            Ok(certificate) => der(&certificate),
            Err(_) => json!({ "error": "it cannot be read" }),
        })
        .collect()
}
