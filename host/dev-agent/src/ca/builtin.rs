//! The built-in certificate authority: one root key in memory.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::key::CaKey;
use super::{CaError, CertificateAuthority, KeyType, LeafTemplate};

/// A root made with rcgen. Its name says that it is for development.
pub struct BuiltinCa {
    key: CaKey,
    params: CertificateParams,
    root: Vec<u8>,
}

impl BuiltinCa {
    /// Makes a new key and signs its root for `trust_domain`.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn generate(
        key_type: KeyType,
        trust_domain: &str,
        serial: u64,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<Self, CaError> {
        let key = CaKey::generate(key_type)?;
        let name = common_name(trust_domain);
        let mut params = ca_params(
            &name,
            trust_domain,
            &key_id(&key.for_root().subject_public_key_info()),
        )?;
        params.serial_number = Some(serial_number(serial));
        params.not_before = not_before;
        params.not_after = not_after;
        let root = params.self_signed(key.for_root())?.der().to_vec();
        Ok(Self { key, params, root })
    }

    /// Puts an authority together again from what was stored.
    ///
    /// # Errors
    /// When the key does not fit the certificate, or one cannot be read.
    pub fn restore(key_pem: &str, key_type: KeyType, root: Vec<u8>) -> Result<Self, CaError> {
        let key = CaKey::from_pem(key_pem, key_type)?;
        let parsed = parse(&root)?;
        let public_key = key.for_root().subject_public_key_info();
        if parsed.tbs_certificate.subject_pki.raw != public_key {
            return Err(CaError::StoredKey(
                "it is not the key of the active root".to_owned(),
            ));
        }
        let params = ca_params(
            &name_of(&parsed)?,
            &uri_host_of(&parsed)?,
            &key_id(&public_key),
        )?;
        Ok(Self { key, params, root })
    }
}

impl CertificateAuthority for BuiltinCa {
    fn root(&self) -> &[u8] {
        &self.root
    }

    fn signing_key_id(&self) -> Vec<u8> {
        key_id(&self.key.for_root().subject_public_key_info())
    }

    fn key_type(&self) -> KeyType {
        self.key.kind()
    }

    fn sign_leaf(&self, leaf: &LeafTemplate<'_>) -> Result<Vec<u8>, CaError> {
        let public_key = SubjectPublicKeyInfo::from_der(leaf.public_key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(leaf.uri.try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::DataEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(leaf.public_key));
        params.serial_number = Some(serial_number(leaf.serial));
        params.not_before = leaf.not_before;
        params.not_after = leaf.not_after;
        let issuer = Issuer::from_params(&self.params, self.key.for_leafs()?);
        Ok(params.signed_by(&public_key, &issuer)?.der().to_vec())
    }

    fn cross_sign(
        &self,
        other: &[u8],
        serial: u64,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<Option<Vec<u8>>, CaError> {
        let parsed = parse(other)?;
        let raw_key = parsed.tbs_certificate.subject_pki.raw;
        let public_key = SubjectPublicKeyInfo::from_der(raw_key)?;
        let mut params = ca_params(&name_of(&parsed)?, &uri_host_of(&parsed)?, &key_id(raw_key))?;
        params.serial_number = Some(serial_number(serial));
        params.not_before = not_before;
        params.not_after = not_after;
        // With the hash of its own signature, unlike a leaf.
        let issuer = Issuer::from_params(&self.params, self.key.for_root());
        Ok(Some(params.signed_by(&public_key, &issuer)?.der().to_vec()))
    }

    fn export_key(&self) -> Option<String> {
        Some(self.key.to_pem())
    }
}

/// The name that nobody can mistake for a production root.
fn common_name(trust_domain: &str) -> String {
    let unique: u32 = rand::random();
    let cluster: String = trust_domain.chars().take(8).collect();
    format!("Portcullis DEV CA {unique:08x} {cluster} - do not use in production")
}

fn ca_params(name: &str, trust_domain: &str, key_id: &[u8]) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(
        format!("spiffe://{trust_domain}").as_str().try_into()?,
    )];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.to_vec());
    Ok(params)
}

/// SubjectKeyIdentifier as Consul computes it: SHA-256 over the whole
/// SubjectPublicKeyInfo.
fn key_id(public_key: &[u8]) -> Vec<u8> {
    Sha256::digest(public_key).to_vec()
}

fn serial_number(serial: u64) -> SerialNumber {
    let bytes = serial.to_be_bytes();
    let start = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len() - 1);
    SerialNumber::from_slice(&bytes[start..])
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CaError> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(CaError::Crypto(rcgen::Error::CouldNotParseCertificate)),
    }
}

fn name_of(certificate: &X509Certificate<'_>) -> Result<String, CaError> {
    let name = certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok());
    name.map(str::to_owned)
        .ok_or(CaError::Crypto(rcgen::Error::CouldNotParseCertificate))
}

fn uri_host_of(certificate: &X509Certificate<'_>) -> Result<String, CaError> {
    let missing = || CaError::Crypto(rcgen::Error::CouldNotParseCertificate);
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .ok_or_else(missing)?;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
            _ => None,
        })
        .map(str::to_owned)
        .ok_or_else(missing)
}
