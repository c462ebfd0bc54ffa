//! Keys of every kind that a mesh may have.

use rcgen::{KeyPair, PublicKeyData as _, RsaKeySize, SigningKey as _};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::der;

/// A kind of key, and the hash that it signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA P-256 with SHA-256.
    P256,
    /// ECDSA P-384 with SHA-384.
    P384,
    /// ECDSA P-521 with SHA-256, as Consul signs.
    P521,
    /// RSA 2048 with SHA-256.
    Rsa2048,
    /// RSA 4096 with SHA-512.
    Rsa4096,
    /// Ed25519.
    Ed25519,
}

/// A key pair that signs.
pub(crate) struct Key {
    kind: KeyType,
    pair: KeyPair,
}

impl Key {
    pub(crate) fn generate(kind: KeyType) -> Self {
        let pair = match kind {
            KeyType::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::P521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA256),
            KeyType::Rsa2048 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)
            }
            KeyType::Rsa4096 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA512, RsaKeySize::_4096)
            }
            KeyType::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        };
        Self {
            kind,
            pair: pair.expect("a key"),
        }
    }

    pub(crate) fn public_key_info(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).expect("a signature")
    }

    /// The AlgorithmIdentifier of its signatures.
    pub(crate) fn signature_algorithm(&self) -> Vec<u8> {
        match self.kind {
            KeyType::P256 | KeyType::P521 => SignatureAlgorithm::EcdsaSha256.der(),
            KeyType::P384 => SignatureAlgorithm::EcdsaSha384.der(),
            KeyType::Rsa2048 => SignatureAlgorithm::RsaSha256.der(),
            KeyType::Rsa4096 => SignatureAlgorithm::RsaSha512.der(),
            KeyType::Ed25519 => SignatureAlgorithm::Ed25519.der(),
        }
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }

    pub(crate) fn private_key_pem(&self) -> String {
        self.pair.serialize_pem()
    }
}

/// What a certificate claims to be signed with, whatever the key really did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// ECDSA with SHA-1.
    EcdsaSha1,
    /// ECDSA with SHA-256.
    EcdsaSha256,
    /// ECDSA with SHA-384.
    EcdsaSha384,
    /// RSA PKCS#1 with MD5.
    RsaMd5,
    /// RSA PKCS#1 with SHA-1.
    RsaSha1,
    /// RSA PKCS#1 with SHA-256.
    RsaSha256,
    /// RSA PKCS#1 with SHA-512.
    RsaSha512,
    /// Ed25519.
    Ed25519,
}

impl SignatureAlgorithm {
    pub(crate) fn der(self) -> Vec<u8> {
        const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
        const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
        const NULL: &[u8] = &[0x05, 0x00];
        let (arc, rest, parameters): (&[u8], &[u8], &[u8]) = match self {
            Self::EcdsaSha1 => (ECDSA, &[1], &[]),
            Self::EcdsaSha256 => (ECDSA, &[3, 2], &[]),
            Self::EcdsaSha384 => (ECDSA, &[3, 3], &[]),
            Self::RsaMd5 => (RSA, &[4], NULL),
            Self::RsaSha1 => (RSA, &[5], NULL),
            Self::RsaSha256 => (RSA, &[11], NULL),
            Self::RsaSha512 => (RSA, &[13], NULL),
            Self::Ed25519 => (&[0x2b, 0x65], &[0x70], &[]),
        };
        der::sequence(&[&der::oid(&[arc, rest].concat()), parameters])
    }
}

/// A public key that no CA of a mesh should certify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPublicKey {
    /// ECDSA P-224.
    P224,
    /// RSA with 1024 bits.
    Rsa1024,
    /// RSA with 2048 bits and the exponent 1: everybody can sign.
    RsaExponentOne,
    /// X25519, which cannot sign.
    X25519,
}

impl BadPublicKey {
    pub(crate) fn public_key_info(self) -> Vec<u8> {
        const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        match self {
            Self::P224 => {
                let curve = der::oid(&[0x2b, 0x81, 0x04, 0x00, 0x21]);
                let algorithm = der::sequence(&[&der::oid(EC), &curve]);
                der::sequence(&[&algorithm, &der::bits(&[4; 57])])
            }
            Self::Rsa1024 => rsa_public_key(&[&[0][..], &[0xc1; 128]].concat(), &[1, 0, 1]),
            Self::RsaExponentOne => rsa_public_key(&[&[0][..], &[0xc1; 256]].concat(), &[1]),
            Self::X25519 => {
                let algorithm = der::sequence(&[&der::oid(&[0x2b, 0x65, 0x6e])]);
                der::sequence(&[&algorithm, &der::bits(&[9; 32])])
            }
        }
    }
}

fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let numbers = [
        der::element(der::INTEGER, modulus),
        der::element(der::INTEGER, exponent),
    ];
    let key = der::sequence(&[&numbers[0], &numbers[1]]);
    let algorithm = der::sequence(&[&der::oid(RSA), &[0x05, 0x00]]);
    der::sequence(&[&algorithm, &der::bits(&key)])
}
