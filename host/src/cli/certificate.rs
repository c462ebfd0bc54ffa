//! A certificate as `inspect` shows it.

use portcullis_core::time::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use portcullis::escape::escape;

/// The longest name that is shown.
const LONGEST: usize = 2_100;

/// What a certificate says about itself; nothing of it is verified.
#[derive(Debug, Serialize)]
pub(crate) struct Certificate {
    /// SHA-256 of the DER, hex.
    pub(crate) sha256: String,
    /// Serial number, hex bytes joined by `:`.
    pub(crate) serial: String,
    /// Subject, often empty.
    pub(crate) subject: String,
    /// Issuer.
    pub(crate) issuer: String,
    /// When it starts to be valid, RFC 3339.
    pub(crate) not_before: String,
    /// When it ends to be valid, RFC 3339.
    pub(crate) not_after: String,
    /// Whether the time asked about is between the two.
    pub(crate) in_date: bool,
    /// Whether it may issue certificates.
    pub(crate) ca: bool,
    /// Key algorithm, as dotted OID or name.
    pub(crate) key: String,
    /// Signature algorithm, as dotted OID or name.
    pub(crate) signature: String,
    /// URI names, in order: an X.509-SVID has exactly one.
    pub(crate) uri_names: Vec<String>,
    /// All other names, with their type.
    pub(crate) other_names: Vec<String>,
    /// Key usages.
    pub(crate) key_usage: Vec<&'static str>,
    /// Extended key usages.
    pub(crate) extended_key_usage: Vec<&'static str>,
    /// Subject key identifier, hex.
    pub(crate) subject_key_id: Option<String>,
    /// Authority key identifier, hex.
    pub(crate) authority_key_id: Option<String>,
}

impl Certificate {
    /// Reads one certificate.
    ///
    /// Fails when `der` is no certificate, or something follows it.
    pub(crate) fn read(der: &[u8], now: Timestamp) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(der)
            .map_err(|error| format!("not a certificate: {error}"))?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the certificate", rest.len()));
        }
        let moment = |time: &x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            Timestamp::from_millis(seconds.saturating_mul(1_000))
        };
        let validity = parsed.validity();
        let (not_before, not_after) = (moment(&validity.not_before), moment(&validity.not_after));
        let mut shown = Self {
            sha256: hex(&Sha256::digest(der), ""),
            serial: hex(parsed.raw_serial(), ":"),
            subject: escape(&parsed.subject().to_string(), LONGEST),
            issuer: escape(&parsed.issuer().to_string(), LONGEST),
            not_before: not_before.to_string(),
            not_after: not_after.to_string(),
            in_date: not_before <= now && now <= not_after,
            ca: parsed.is_ca(),
            key: key(parsed.public_key()),
            signature: algorithm(&parsed.signature_algorithm),
            uri_names: Vec::new(),
            other_names: Vec::new(),
            key_usage: Vec::new(),
            extended_key_usage: Vec::new(),
            subject_key_id: None,
            authority_key_id: None,
        };
        for extension in parsed.extensions() {
            shown.add(extension.parsed_extension());
        }
        Ok(shown)
    }

    fn add(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uri_names.push(escape(uri, LONGEST)),
                        other => self.other_names.push(escape(&format!("{other}"), LONGEST)),
                    }
                }
            }
            ParsedExtension::KeyUsage(usage) => {
                let all = [
                    (usage.digital_signature(), "digitalSignature"),
                    (usage.key_encipherment(), "keyEncipherment"),
                    (usage.key_agreement(), "keyAgreement"),
                    (usage.key_cert_sign(), "keyCertSign"),
                    (usage.crl_sign(), "cRLSign"),
                ];
                self.key_usage
                    .extend(all.iter().filter(|(set, _)| *set).map(|(_, name)| name));
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let all = [
                    (usage.any, "any"),
                    (usage.server_auth, "serverAuth"),
                    (usage.client_auth, "clientAuth"),
                ];
                self.extended_key_usage
                    .extend(all.iter().filter(|(set, _)| *set).map(|(_, name)| name));
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = Some(hex(id.0, ":")),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().map(|id| hex(id.0, ":"));
            }
            _ => {}
        }
    }

    /// Names and values for people.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let list = |values: &[&str]| {
            if values.is_empty() {
                "none".to_owned()
            } else {
                values.join(", ")
            }
        };
        let mut rows: Vec<(&'static str, String)> = self
            .uri_names
            .iter()
            .map(|uri| ("URI name", uri.clone()))
            .collect();
        if rows.is_empty() && !self.ca {
            rows.push(("URI name", "none".to_owned()));
        }
        rows.extend(
            self.other_names
                .iter()
                .map(|name| ("other name", name.clone())),
        );
        let dates = if self.in_date {
            ""
        } else {
            "  (not at this time)"
        };
        rows.push((
            "valid",
            format!("{} to {}{dates}", self.not_before, self.not_after),
        ));
        rows.push((
            "subject",
            if self.subject.is_empty() {
                "empty".to_owned()
            } else {
                self.subject.clone()
            },
        ));
        rows.push(("issuer", self.issuer.clone()));
        rows.push(("serial", self.serial.clone()));
        rows.push(("key", self.key.clone()));
        rows.push(("signature", self.signature.clone()));
        rows.push((
            "usage",
            format!(
                "{}; extended: {}",
                list(&self.key_usage),
                list(&self.extended_key_usage)
            ),
        ));
        rows.extend(self.subject_key_id.iter().map(|id| ("key id", id.clone())));
        rows.extend(
            self.authority_key_id
                .iter()
                .map(|id| ("issuer's key id", id.clone())),
        );
        rows.push(("sha256", self.sha256.clone()));
        rows
    }
}

/// Bytes as hex.
pub(crate) fn hex(bytes: &[u8], separator: &str) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(separator)
}

/// The kind and size of a key.
fn key(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA, {} bits", rsa.key_size()),
        _ => algorithm(&key.algorithm),
    }
}

/// The name of an algorithm that meshes use, or its OID.
fn algorithm(identifier: &AlgorithmIdentifier<'_>) -> String {
    let name = |oid: String| {
        let name = match oid.as_str() {
            "1.2.840.10045.2.1" => "EC",
            "1.2.840.10045.3.1.7" => "P-256",
            "1.3.132.0.33" => "P-224",
            "1.3.132.0.34" => "P-384",
            "1.3.132.0.35" => "P-521",
            "1.2.840.10045.4.3.2" => "ECDSA with SHA-256",
            "1.2.840.10045.4.3.3" => "ECDSA with SHA-384",
            "1.2.840.10045.4.3.4" => "ECDSA with SHA-512",
            "1.2.840.113549.1.1.1" => "RSA",
            "1.2.840.113549.1.1.5" => "RSA with SHA-1",
            "1.2.840.113549.1.1.11" => "RSA with SHA-256",
            "1.2.840.113549.1.1.12" => "RSA with SHA-384",
            "1.2.840.113549.1.1.13" => "RSA with SHA-512",
            "1.3.101.112" => "Ed25519",
            _ => return oid,
        };
        name.to_owned()
    };
    let main = name(identifier.algorithm.to_id_string());
    match identifier
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok())
    {
        Some(curve) => format!("{main} {}", name(curve.to_id_string())),
        None => main,
    }
}
