//! Which keys and signature algorithms a certificate may have.
//!
//! The list is the same whatever implements the algorithms, so a host whose library
//! knows more cannot accept more.

use rustls_pki_types::{AlgorithmIdentifier, alg_id};
use thiserror::Error;

use super::der;

const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 4096;
/// `e` of up to 33 bits, as the RustCrypto crate limits it: larger ones only cost time.
const MAX_RSA_EXPONENT: u64 = (1 << 33) - 1;

const KEYS: [AlgorithmIdentifier; 4] = [
    alg_id::ECDSA_P256,
    alg_id::ECDSA_P384,
    alg_id::ECDSA_P521,
    alg_id::ED25519,
];

const SIGNATURES: [AlgorithmIdentifier; 7] = [
    alg_id::ECDSA_SHA256,
    alg_id::ECDSA_SHA384,
    alg_id::ECDSA_SHA512,
    alg_id::RSA_PKCS1_SHA256,
    alg_id::RSA_PKCS1_SHA384,
    alg_id::RSA_PKCS1_SHA512,
    alg_id::ED25519,
];

/// `1.2.840.10045.2.1`, `id-ecPublicKey`.
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// Curves that are refused by name.
const CURVES: [(&[u8], &str); 3] = [
    (&[0x2b, 0x81, 0x04, 0x00, 0x21], "P-224"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01], "P-192"),
];

/// Signature algorithms that are refused by name.
const REFUSED_SIGNATURES: [(&[u8], &str); 7] = [
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x02],
        "RSA with MD2",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04],
        "RSA with MD5",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05],
        "RSA with SHA-1",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0e],
        "RSA with SHA-224",
    ),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a],
        "RSA-PSS",
    ),
    (
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
        "ECDSA with SHA-1",
    ),
    (
        &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x01],
        "ECDSA with SHA-224",
    ),
];

/// Why a public key is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyProblem {
    /// An elliptic curve other than P-256, P-384 and P-521.
    #[error("keys on the curve {0} are not supported")]
    Curve(&'static str),
    /// RSA below 2048 or above 4096 bits.
    #[error("RSA keys have 2048 to 4096 bits, not {bits}")]
    RsaSize {
        /// The size of its modulus.
        bits: usize,
    },
    /// An RSA exponent that is even, below 3 or beyond 33 bits.
    #[error("the RSA exponent is unsafe")]
    RsaExponent,
    /// Another kind of key.
    #[error("the key is none of ECDSA, RSA and Ed25519")]
    Kind,
    /// No readable key.
    #[error("the key cannot be read")]
    Unreadable,
}

/// Checks the DER of a SubjectPublicKeyInfo.
pub(super) fn check_key(spki: &[u8]) -> Result<(), KeyProblem> {
    let (algorithm, key) = split_spki(spki).ok_or(KeyProblem::Unreadable)?;
    if KEYS.iter().any(|known| known.as_ref() == algorithm) {
        return Ok(());
    }
    if algorithm == alg_id::RSA_ENCRYPTION.as_ref() {
        return check_rsa(key);
    }
    let (oid, parameters) =
        der::next(der::OBJECT_IDENTIFIER, algorithm).ok_or(KeyProblem::Unreadable)?;
    if oid != EC_PUBLIC_KEY {
        return Err(KeyProblem::Kind);
    }
    let curve = der::only(der::OBJECT_IDENTIFIER, parameters)
        .and_then(|curve| name_of(&CURVES, curve))
        .unwrap_or("of another name");
    Err(KeyProblem::Curve(curve))
}

/// The algorithm's contents and the key's bytes.
fn split_spki(spki: &[u8]) -> Option<(&[u8], &[u8])> {
    let (algorithm, rest) = der::next(der::SEQUENCE, der::only(der::SEQUENCE, spki)?)?;
    match der::only(der::BIT_STRING, rest)? {
        [0, key @ ..] => Some((algorithm, key)),
        _ => None,
    }
}

fn check_rsa(key: &[u8]) -> Result<(), KeyProblem> {
    let (modulus, exponent) = split_rsa(key).ok_or(KeyProblem::Unreadable)?;
    let bits = bit_length(modulus);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(KeyProblem::RsaSize { bits });
    }
    if exponent.len() > 8 {
        return Err(KeyProblem::RsaExponent);
    }
    let exponent = exponent
        .iter()
        .fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
    if exponent < 3 || exponent.is_multiple_of(2) || exponent > MAX_RSA_EXPONENT {
        return Err(KeyProblem::RsaExponent);
    }
    Ok(())
}

/// Magnitudes of modulus and exponent of an RSAPublicKey.
fn split_rsa(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (modulus, rest) = der::next(der::INTEGER, der::only(der::SEQUENCE, key)?)?;
    let exponent = der::only(der::INTEGER, rest)?;
    Some((der::magnitude(modulus)?, der::magnitude(exponent)?))
}

fn bit_length(magnitude: &[u8]) -> usize {
    match magnitude {
        [] => 0,
        [first, rest @ ..] => {
            let top = u8::BITS.saturating_sub(first.leading_zeros());
            let top = usize::try_from(top).unwrap_or(usize::MAX);
            rest.len().saturating_mul(8).saturating_add(top)
        }
    }
}

/// Checks the signature algorithm of a certificate; `Err` names the one that is refused.
pub(super) fn check_signature_algorithm(certificate: &[u8]) -> Result<(), &'static str> {
    let algorithm = der::only(der::SEQUENCE, certificate)
        .and_then(|parts| der::next(der::SEQUENCE, parts))
        .and_then(|(_, rest)| der::next(der::SEQUENCE, rest))
        .map(|(algorithm, _)| algorithm)
        .ok_or("an unreadable one")?;
    if SIGNATURES.iter().any(|known| known.as_ref() == algorithm) {
        return Ok(());
    }
    let oid = der::next(der::OBJECT_IDENTIFIER, algorithm).map(|(oid, _)| oid);
    Err(oid
        .and_then(|oid| name_of(&REFUSED_SIGNATURES, oid))
        .unwrap_or("one of another name"))
}

fn name_of(names: &[(&[u8], &'static str)], oid: &[u8]) -> Option<&'static str> {
    names
        .iter()
        .find_map(|(known, name)| (*known == oid).then_some(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = u16::try_from(contents.len()).unwrap();
        let header = match length {
            0..=0x7f => vec![tag, contents.len() as u8],
            0x80..=0xff => vec![tag, 0x81, contents.len() as u8],
            _ => [&[tag, 0x82][..], &length.to_be_bytes()].concat(),
        };
        [header, contents.to_vec()].concat()
    }

    fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
        let bits = wrap(der::BIT_STRING, &[&[0], key].concat());
        wrap(
            der::SEQUENCE,
            &[wrap(der::SEQUENCE, algorithm), bits].concat(),
        )
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        let numbers = [wrap(der::INTEGER, modulus), wrap(der::INTEGER, exponent)].concat();
        spki(
            alg_id::RSA_ENCRYPTION.as_ref(),
            &wrap(der::SEQUENCE, &numbers),
        )
    }

    fn modulus(bits: usize) -> Vec<u8> {
        let mut bytes = vec![0xff; bits / 8];
        bytes.insert(0, (1_u16 << (bits % 8)).wrapping_sub(1) as u8);
        bytes
    }

    #[test]
    fn rsa_keys_have_a_size_and_an_exponent() {
        let e = [1, 0, 1];
        assert_eq!(check_key(&rsa(&modulus(2048), &e)), Ok(()));
        assert_eq!(check_key(&rsa(&modulus(4096), &e)), Ok(()));
        for bits in [512, 1024, 2047, 4097, 8192] {
            assert_eq!(
                check_key(&rsa(&modulus(bits), &e)),
                Err(KeyProblem::RsaSize { bits })
            );
        }
        for e in [&[0][..], &[1], &[2], &[1, 0, 0], &[2, 0, 0, 0, 1], &[1; 9]] {
            assert_eq!(
                check_key(&rsa(&modulus(2048), e)),
                Err(KeyProblem::RsaExponent),
                "{e:?}"
            );
        }
        assert_eq!(
            check_key(&rsa(&modulus(2048), &[0x83])),
            Err(KeyProblem::Unreadable)
        );
    }

    #[test]
    fn curves_are_refused_by_name() {
        for (curve, name) in CURVES {
            let algorithm = [wrap(6, EC_PUBLIC_KEY), wrap(6, curve)].concat();
            assert_eq!(
                check_key(&spki(&algorithm, &[4; 57])),
                Err(KeyProblem::Curve(name))
            );
        }
        let unnamed = [wrap(6, EC_PUBLIC_KEY), wrap(der::SEQUENCE, &[])].concat();
        assert_eq!(
            check_key(&spki(&unnamed, &[4])),
            Err(KeyProblem::Curve("of another name"))
        );
        assert_eq!(
            check_key(&spki(&wrap(6, &[0x2b, 0x65, 0x71]), &[4])),
            Err(KeyProblem::Kind)
        );
        assert_eq!(check_key(&[]), Err(KeyProblem::Unreadable));
    }

    #[test]
    fn signature_algorithms_are_refused_by_name() {
        let certificate = |algorithm: &[u8]| {
            let parts = [wrap(der::SEQUENCE, &[]), wrap(der::SEQUENCE, algorithm)].concat();
            wrap(der::SEQUENCE, &parts)
        };
        for good in SIGNATURES {
            assert_eq!(
                check_signature_algorithm(&certificate(good.as_ref())),
                Ok(())
            );
        }
        for (oid, name) in REFUSED_SIGNATURES {
            assert_eq!(
                check_signature_algorithm(&certificate(&wrap(6, oid))),
                Err(name)
            );
        }
        assert_eq!(
            check_signature_algorithm(&certificate(&[6, 1, 1])),
            Err("one of another name")
        );
        assert_eq!(check_signature_algorithm(&[]), Err("an unreadable one"));
    }
}
