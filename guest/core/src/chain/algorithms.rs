//! Signature verification by RustCrypto, for where no faster library is at hand.
//!
//! ECDSA signatures come in every pair of curve and hash: Consul's CA signs with
//! SHA-256 whatever its curve, and a new P-384 root signs itself with SHA-384.

use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use signature::hazmat::PrehashVerifier as _;

/// The algorithms that check signatures; a host may pass those of its own library.
pub type Algorithms = &'static [&'static dyn SignatureVerificationAlgorithm];

/// ECDSA with P-256, P-384 and P-521, RSA PKCS#1 (2048 to 4096 bits), each with
/// SHA-256, SHA-384 and SHA-512, and Ed25519, in portable Rust.
#[must_use]
pub fn rustcrypto() -> Algorithms {
    &[
        &EcdsaP256Sha256,
        &EcdsaP384Sha256,
        &EcdsaP384Sha384,
        &EcdsaP256Sha384,
        &EcdsaP256Sha512,
        &EcdsaP384Sha512,
        &EcdsaP521Sha256,
        &EcdsaP521Sha384,
        &EcdsaP521Sha512,
        &RsaSha256,
        &RsaSha384,
        &RsaSha512,
        &Ed25519,
    ]
}

/// The first byte of an uncompressed point, the only form that certificates use.
const UNCOMPRESSED: u8 = 4;

macro_rules! ecdsa {
    ($name:ident, $curve:ident, $field:literal, $hash:ty, $key_id:ident, $signature_id:ident) => {
        #[derive(Debug)]
        struct $name;

        impl SignatureVerificationAlgorithm for $name {
            fn verify_signature(
                &self,
                public_key: &[u8],
                message: &[u8],
                signature: &[u8],
            ) -> Result<(), InvalidSignature> {
                if public_key.first() != Some(&UNCOMPRESSED) {
                    return Err(InvalidSignature);
                }
                let key = $curve::ecdsa::VerifyingKey::from_sec1_bytes(public_key)
                    .map_err(|_| InvalidSignature)?;
                let signature =
                    $curve::ecdsa::Signature::from_der(signature).map_err(|_| InvalidSignature)?;
                let number: [u8; $field] = as_wide_number(&<$hash>::digest(message));
                key.verify_prehash(&number, &signature)
                    .map_err(|_| InvalidSignature)
            }

            fn public_key_alg_id(&self) -> AlgorithmIdentifier {
                alg_id::$key_id
            }

            fn signature_alg_id(&self) -> AlgorithmIdentifier {
                alg_id::$signature_id
            }
        }
    };
}

ecdsa!(EcdsaP256Sha256, p256, 32, Sha256, ECDSA_P256, ECDSA_SHA256);
ecdsa!(EcdsaP256Sha384, p256, 32, Sha384, ECDSA_P256, ECDSA_SHA384);
ecdsa!(EcdsaP256Sha512, p256, 32, Sha512, ECDSA_P256, ECDSA_SHA512);
ecdsa!(EcdsaP384Sha256, p384, 48, Sha256, ECDSA_P384, ECDSA_SHA256);
ecdsa!(EcdsaP384Sha384, p384, 48, Sha384, ECDSA_P384, ECDSA_SHA384);
ecdsa!(EcdsaP384Sha512, p384, 48, Sha512, ECDSA_P384, ECDSA_SHA512);
ecdsa!(EcdsaP521Sha256, p521, 66, Sha256, ECDSA_P521, ECDSA_SHA256);
ecdsa!(EcdsaP521Sha384, p521, 66, Sha384, ECDSA_P521, ECDSA_SHA384);
ecdsa!(EcdsaP521Sha512, p521, 66, Sha512, ECDSA_P521, ECDSA_SHA512);

/// A hash as the number that ECDSA signs (FIPS 186-5, 6.4.2): the leftmost bytes of a
/// hash longer than the curve's order, a shorter one with zeros in front.
fn as_wide_number<const FIELD: usize>(hash: &[u8]) -> [u8; FIELD] {
    let hash = hash.get(..FIELD).unwrap_or(hash);
    let mut number = [0; FIELD];
    for (place, byte) in number.iter_mut().rev().zip(hash.iter().rev()) {
        *place = *byte;
    }
    number
}

macro_rules! rsa {
    ($name:ident, $hash:ty, $signature_id:ident) => {
        #[derive(Debug)]
        struct $name;

        impl SignatureVerificationAlgorithm for $name {
            fn verify_signature(
                &self,
                public_key: &[u8],
                message: &[u8],
                signature: &[u8],
            ) -> Result<(), InvalidSignature> {
                use rsa::pkcs1::DecodeRsaPublicKey as _;
                use rsa::traits::PublicKeyParts as _;

                let key =
                    rsa::RsaPublicKey::from_pkcs1_der(public_key).map_err(|_| InvalidSignature)?;
                if !(256..=512).contains(&key.size()) {
                    return Err(InvalidSignature);
                }
                let scheme = rsa::Pkcs1v15Sign::new::<$hash>();
                key.verify(scheme, &<$hash>::digest(message), signature)
                    .map_err(|_| InvalidSignature)
            }

            fn public_key_alg_id(&self) -> AlgorithmIdentifier {
                alg_id::RSA_ENCRYPTION
            }

            fn signature_alg_id(&self) -> AlgorithmIdentifier {
                alg_id::$signature_id
            }
        }
    };
}

rsa!(RsaSha256, Sha256, RSA_PKCS1_SHA256);
rsa!(RsaSha384, Sha384, RSA_PKCS1_SHA384);
rsa!(RsaSha512, Sha512, RSA_PKCS1_SHA512);

#[derive(Debug)]
struct Ed25519;

impl SignatureVerificationAlgorithm for Ed25519 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = public_key.try_into().map_err(|_| InvalidSignature)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| InvalidSignature)?;
        let signature =
            ed25519_dalek::Signature::from_slice(signature).map_err(|_| InvalidSignature)?;
        key.verify_strict(message, &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::Signer as _;

    use super::*;

    #[test]
    fn points_are_uncompressed() {
        let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let signature: p256::ecdsa::DerSignature = key.sign(b"message");
        let verify = |compress: bool, message: &[u8]| {
            let point = key.verifying_key().to_sec1_point(compress);
            EcdsaP256Sha256.verify_signature(point.as_bytes(), message, signature.as_bytes())
        };
        assert!(verify(false, b"message").is_ok());
        assert!(verify(false, b"massage").is_err());
        assert!(verify(true, b"message").is_err());
    }

    #[test]
    fn hashes_become_numbers_of_the_curves_width() {
        assert_eq!(as_wide_number::<4>(&[1, 2, 3, 4]), [1, 2, 3, 4]);
        assert_eq!(as_wide_number::<4>(&[1, 2, 3, 4, 5, 6]), [1, 2, 3, 4]);
        assert_eq!(as_wide_number::<4>(&[1, 2]), [0, 0, 1, 2]);
    }
}
