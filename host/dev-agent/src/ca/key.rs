//! Private keys: made, stored, and used to sign with the hash that Consul uses.

use p384::ecdsa::signature::hazmat::PrehashSigner as _;
use rcgen::{KeyPair, PublicKeyData, RsaKeySize, SignatureAlgorithm, SigningKey};
use sha2::{Digest as _, Sha256};

use super::{CaError, KeyType, pem};

/// A certificate authority's key.
pub(super) struct CaKey {
    pair: KeyPair,
    kind: KeyType,
}

impl CaKey {
    pub(super) fn generate(kind: KeyType) -> Result<Self, CaError> {
        let pair = match kind {
            KeyType::EcP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::EcP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::EcP521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
            KeyType::Rsa2048 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)
            }
            KeyType::Rsa4096 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096)
            }
        }?;
        Ok(Self { pair, kind })
    }

    /// Reads what [`CaKey::to_pem`] wrote.
    pub(super) fn from_pem(text: &str, kind: KeyType) -> Result<Self, CaError> {
        let der = pem::decode("PRIVATE KEY", text)
            .ok_or_else(|| CaError::StoredKey("no `PRIVATE KEY` block".to_owned()))?;
        let algorithm: &'static SignatureAlgorithm = match kind {
            KeyType::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyType::EcP521 => &rcgen::PKCS_ECDSA_P521_SHA512,
            KeyType::Rsa2048 | KeyType::Rsa4096 => &rcgen::PKCS_RSA_SHA256,
        };
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der.into(), algorithm)
            .map_err(|error| CaError::StoredKey(error.to_string()))?;
        Ok(Self { pair, kind })
    }

    pub(super) fn to_pem(&self) -> String {
        pem::encode("PRIVATE KEY", self.pair.serialized_der())
    }

    pub(super) fn kind(&self) -> KeyType {
        self.kind
    }

    /// The key as it signs roots, its own and others: with the hash that fits its size.
    pub(super) fn for_root(&self) -> &KeyPair {
        &self.pair
    }

    /// The key as it signs leafs: Consul uses SHA-256 whatever the size.
    pub(super) fn for_leafs(&self) -> Result<IssuingKey<'_>, CaError> {
        let signer = match self.kind {
            KeyType::EcP256 | KeyType::Rsa2048 | KeyType::Rsa4096 => Signer::Pair(&self.pair),
            KeyType::EcP384 => {
                let scalar = scalar(self.pair.serialized_der(), 48)
                    .ok_or_else(|| CaError::StoredKey("no P-384 scalar".to_owned()))?;
                let key = p384::ecdsa::SigningKey::from_slice(scalar)
                    .map_err(|error| CaError::StoredKey(error.to_string()))?;
                Signer::P384(Box::new(key))
            }
            KeyType::EcP521 => {
                let der = self.pair.serialized_der().to_vec().into();
                let algorithm = &rcgen::PKCS_ECDSA_P521_SHA256;
                Signer::P521(Box::new(KeyPair::from_pkcs8_der_and_sign_algo(
                    &der, algorithm,
                )?))
            }
        };
        Ok(IssuingKey {
            signer,
            pair: &self.pair,
        })
    }
}

enum Signer<'a> {
    Pair(&'a KeyPair),
    P384(Box<p384::ecdsa::SigningKey>),
    P521(Box<KeyPair>),
}

/// A key that signs with SHA-256 and names that algorithm in the certificate.
pub(super) struct IssuingKey<'a> {
    signer: Signer<'a>,
    pair: &'a KeyPair,
}

impl PublicKeyData for IssuingKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.pair.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.signer {
            // Only `ecdsa-with-SHA256` is written from it: an issuer's curve
            // appears nowhere in what it signs.
            Signer::P384(_) | Signer::P521(_) => &rcgen::PKCS_ECDSA_P256_SHA256,
            Signer::Pair(pair) => pair.algorithm(),
        }
    }
}

impl SigningKey for IssuingKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.signer {
            Signer::Pair(pair) => pair.sign(message),
            Signer::P521(pair) => pair.sign(message),
            Signer::P384(key) => {
                let signature: p384::ecdsa::Signature = key
                    .sign_prehash(&Sha256::digest(message))
                    .map_err(|_| rcgen::Error::RemoteKeyError)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
        }
    }
}

/// The private scalar inside a PKCS #8 EC key: the octet string that follows
/// ECPrivateKey's version 1.
fn scalar(pkcs8: &[u8], len: usize) -> Option<&[u8]> {
    let size = u8::try_from(len).ok()?;
    let head = [0x02, 0x01, 0x01, 0x04, size];
    let at = pkcs8
        .windows(head.len())
        .position(|window| window == head)?;
    pkcs8.get(at + head.len()..at + head.len() + len)
}

/// A fresh P-256 key for a leaf: the pair, and its SEC 1 form as Consul sends it.
pub(super) fn leaf_key() -> Result<(KeyPair, String), CaError> {
    let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let point = pair.der_bytes();
    let secret = scalar(pair.serialized_der(), 32)
        .ok_or_else(|| CaError::StoredKey("no P-256 scalar".to_owned()))?;
    // ECPrivateKey (RFC 5915): version, key, [0] curve, [1] public key.
    let mut der = vec![0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
    der.extend_from_slice(secret);
    der.extend_from_slice(&[
        0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ]);
    der.extend_from_slice(&[0xa1, 0x44, 0x03, 0x42, 0x00]);
    der.extend_from_slice(point);
    Ok((pair, pem::encode("EC PRIVATE KEY", &der)))
}
