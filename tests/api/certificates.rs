//! What a certificate says, without what differs between any two of them.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The DER of every certificate in a PEM text.
pub(crate) fn ders(pem: &str) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(pem.as_bytes())
        .map(|block| block.expect("PEM").contents)
        .collect()
}

pub(crate) fn parse(der: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(der).expect("a certificate").1
}

/// Everything about a certificate: names by their shape, identifiers by how
/// they were computed, dates by their distance.
pub(crate) fn describe(der: &[u8], issuer: &[u8], trust_domain: &str) -> Value {
    let certificate = parse(der);
    let issuer = parse(issuer);
    let mut extensions: Vec<Value> = certificate
        .extensions()
        .iter()
        .map(|one| extension(one, &certificate, &issuer, trust_domain))
        .collect();
    extensions.sort_by_key(Value::to_string);
    let validity = certificate.validity();
    json!({
        "version": certificate.version().0,
        "serial": if certificate.tbs_certificate.serial.bits() <= 32 { "small" } else { "large" },
        "subject": name(certificate.subject()),
        "issuer": name(certificate.issuer()),
        "issuer is the issuer's subject": certificate.issuer().as_raw() == issuer.subject().as_raw(),
        "signature algorithm": certificate.signature_algorithm.algorithm.to_id_string(),
        "signature algorithm inside": certificate.tbs_certificate.signature.algorithm.to_id_string(),
        "key algorithm": certificate.public_key().algorithm.algorithm.to_id_string(),
        "key bits": certificate.public_key().parsed().map(|key| key.key_size()).ok(),
        "life": validity.not_after.timestamp() - validity.not_before.timestamp(),
        "extensions": extensions,
    })
}

/// A name by the types of its parts.
fn name(name: &x509_parser::x509::X509Name<'_>) -> Vec<String> {
    name.iter_attributes()
        .map(|part| part.attr_type().to_id_string())
        .collect()
}

fn extension(
    extension: &x509_parser::extensions::X509Extension<'_>,
    certificate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    trust_domain: &str,
) -> Value {
    let content = match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => {
            let digest = Sha256::digest(certificate.tbs_certificate.subject_pki.raw);
            json!(if id.0 == digest.as_slice() {
                "SHA-256 of the public key"
            } else {
                "other"
            })
        }
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            let digest = Sha256::digest(issuer.tbs_certificate.subject_pki.raw);
            let same = id
                .key_identifier
                .as_ref()
                .is_some_and(|id| id.0 == digest.as_slice());
            json!([
                if same { "the issuer's" } else { "other" },
                id.authority_cert_issuer.is_some()
            ])
        }
        ParsedExtension::SubjectAlternativeName(names) => {
            let one = |name: &GeneralName<'_>| match name {
                GeneralName::URI(uri) => uri.replace(trust_domain, "<trust domain>"),
                other => format!("{other:?}"),
            };
            json!(names.general_names.iter().map(one).collect::<Vec<_>>())
        }
        _ => json!(extension.value),
    };
    json!({"oid": extension.oid.to_id_string(), "critical": extension.critical, "content": content})
}
