//! Public keys and the algorithms that belong to them.

use rsa::BoxedUint;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use signature::hazmat::PrehashVerifier as _;

/// A signature algorithm of RFC 7518 and RFC 8037; none is symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// The algorithm of this name; names are exact.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    const fn is_rsa(self) -> bool {
        matches!(
            self,
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512
        )
    }
}

/// A public key.
#[derive(Clone, Debug)]
pub(super) enum PublicKey {
    Rsa(Box<rsa::RsaPublicKey>),
    P256(Box<p256::ecdsa::VerifyingKey>),
    P384(Box<p384::ecdsa::VerifyingKey>),
    P521(Box<p521::ecdsa::VerifyingKey>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

impl PublicKey {
    /// An RSA key of 2048 to 4096 bits.
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| {
            let first = bytes.iter().position(|byte| *byte != 0)?;
            let bytes = bytes.get(first..)?;
            let bits = u32::try_from(bytes.len()).ok()?.checked_mul(8)?;
            BoxedUint::from_be_slice(bytes, bits).ok()
        };
        if modulus.len() > 513 || exponent.len() > 8 {
            return None;
        }
        let key = rsa::RsaPublicKey::new_with_size_limits(
            number(modulus)?,
            number(exponent)?,
            2048..=4096,
        );
        Some(Self::Rsa(Box::new(key.ok()?)))
    }

    /// A point on one of the curves P-256, P-384 and P-521.
    pub(super) fn ec(curve: &str, x: &[u8], y: &[u8]) -> Option<Self> {
        let point = [&[4][..], x, y].concat();
        let is_wide = |width: usize| x.len() == width && y.len() == width;
        match curve {
            "P-256" if is_wide(32) => p256::ecdsa::VerifyingKey::from_sec1_bytes(&point)
                .ok()
                .map(|key| Self::P256(Box::new(key))),
            "P-384" if is_wide(48) => p384::ecdsa::VerifyingKey::from_sec1_bytes(&point)
                .ok()
                .map(|key| Self::P384(Box::new(key))),
            "P-521" if is_wide(66) => p521::ecdsa::VerifyingKey::from_sec1_bytes(&point)
                .ok()
                .map(|key| Self::P521(Box::new(key))),
            _ => None,
        }
    }

    /// A point on Ed25519.
    pub(super) fn ed25519(x: &[u8]) -> Option<Self> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(x.try_into().ok()?).ok()?;
        Some(Self::Ed25519(Box::new(key)))
    }

    /// Whether the algorithm is one for this kind of key.
    pub(super) const fn takes(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa(_) => algorithm.is_rsa(),
            Self::P256(_) => matches!(algorithm, Algorithm::Es256),
            Self::P384(_) => matches!(algorithm, Algorithm::Es384),
            Self::P521(_) => matches!(algorithm, Algorithm::Es512),
            Self::Ed25519(_) => matches!(algorithm, Algorithm::EdDsa),
        }
    }

    /// Whether the signature is the key's.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(key) => rsa_verifies(key, algorithm, message, signature),
            Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .and_then(|s| key.verify_prehash(&Sha256::digest(message), &s))
                .is_ok(),
            Self::P384(key) => p384::ecdsa::Signature::from_slice(signature)
                .and_then(|s| key.verify_prehash(&Sha384::digest(message), &s))
                .is_ok(),
            Self::P521(key) => p521::ecdsa::Signature::from_slice(signature)
                .and_then(|s| key.verify_prehash(&Sha512::digest(message), &s))
                .is_ok(),
            Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .and_then(|s| key.verify_strict(message, &s))
                .is_ok(),
        }
    }
}

fn rsa_verifies(
    key: &rsa::RsaPublicKey,
    algorithm: Algorithm,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let pkcs1 = |scheme, hash: &[u8]| key.verify::<rsa::Pkcs1v15Sign>(scheme, hash, signature);
    let checked = match algorithm {
        Algorithm::Rs256 => pkcs1(rsa::Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(message)),
        Algorithm::Rs384 => pkcs1(rsa::Pkcs1v15Sign::new::<Sha384>(), &Sha384::digest(message)),
        Algorithm::Rs512 => pkcs1(rsa::Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(message)),
        // The salt is as long as the hash (RFC 7518, 3.5).
        Algorithm::Ps256 => key.verify(
            rsa::Pss::<Sha256>::new(),
            &Sha256::digest(message),
            signature,
        ),
        Algorithm::Ps384 => key.verify(
            rsa::Pss::<Sha384>::new(),
            &Sha384::digest(message),
            signature,
        ),
        Algorithm::Ps512 => key.verify(
            rsa::Pss::<Sha512>::new(),
            &Sha512::digest(message),
            signature,
        ),
        _ => return false,
    };
    checked.is_ok()
}
