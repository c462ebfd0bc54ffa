//! The certificate authority: the trait that one implements, and the built-in one.

mod builtin;
mod key;
pub(crate) mod leaf;
pub(crate) mod pem;
pub(crate) mod roots;

use time::OffsetDateTime;

pub use builtin::BuiltinCa;

/// The type and size of a certificate authority's key, as Consul configures it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `ec`, 256: Consul's default.
    EcP256,
    /// `ec`, 384.
    EcP384,
    /// `ec`, 521.
    EcP521,
    /// `rsa`, 2048.
    Rsa2048,
    /// `rsa`, 4096.
    Rsa4096,
}

impl KeyType {
    /// Reads Consul's `PrivateKeyType` and `PrivateKeyBits`.
    ///
    /// # Errors
    /// Consul's own words for a type or size that it does not accept.
    pub fn parse(kind: &str, bits: u64) -> Result<Self, String> {
        match (kind, bits) {
            ("ec", 256) => Ok(Self::EcP256),
            ("ec", 384) => Ok(Self::EcP384),
            ("ec", 521) => Ok(Self::EcP521),
            ("ec", 224) => {
                Err("EC key length 224 is not supported by this development agent".to_owned())
            }
            ("ec", _) => Err("EC key length must be one of (224, 256, 384, 521) bits".to_owned()),
            ("rsa", 2048) => Ok(Self::Rsa2048),
            ("rsa", 4096) => Ok(Self::Rsa4096),
            ("rsa", _) => Err("RSA key length must be 2048 or 4096 bits".to_owned()),
            _ => Err("private key type must be either 'ec' or 'rsa'".to_owned()),
        }
    }

    /// `ec` or `rsa`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::EcP256 | Self::EcP384 | Self::EcP521 => "ec",
            Self::Rsa2048 | Self::Rsa4096 => "rsa",
        }
    }

    /// The size in bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        match self {
            Self::EcP256 => 256,
            Self::EcP384 => 384,
            Self::EcP521 => 521,
            Self::Rsa2048 => 2048,
            Self::Rsa4096 => 4096,
        }
    }
}

/// Why the certificate authority could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A key or certificate could not be made or read.
    #[error("certificate authority: {0}")]
    Crypto(#[from] rcgen::Error),
    /// A stored key is not what it should be.
    #[error("certificate authority: the stored key cannot be read: {0}")]
    StoredKey(String),
}

/// What a leaf certificate is to say.
#[derive(Clone, Debug)]
pub struct LeafTemplate<'a> {
    /// The only subject alternative name.
    pub uri: &'a str,
    /// The public key, as SubjectPublicKeyInfo in DER.
    pub public_key: &'a [u8],
    /// The serial number.
    pub serial: u64,
    /// Valid from here on.
    pub not_before: OffsetDateTime,
    /// Valid up to here.
    pub not_after: OffsetDateTime,
}

/// What signs leaf certificates. The built-in one is [`BuiltinCa`]; another
/// (a Vault, a hardware module) needs only these functions.
pub trait CertificateAuthority: Send + Sync {
    /// The root certificate in DER.
    fn root(&self) -> &[u8];

    /// Certificates between a leaf and the root, in PEM, the one that signs
    /// leaf certificates last. Empty when the root itself signs.
    fn intermediates(&self) -> Vec<String> {
        Vec::new()
    }

    /// SubjectKeyIdentifier of the certificate that signs leaf certificates.
    fn signing_key_id(&self) -> Vec<u8>;

    /// Type and size of the root's key.
    fn key_type(&self) -> KeyType;

    /// Signs a leaf certificate and returns its DER.
    ///
    /// # Errors
    /// When the key cannot sign.
    fn sign_leaf(&self, leaf: &LeafTemplate<'_>) -> Result<Vec<u8>, CaError>;

    /// Signs the name and key of another root, so that who trusts only this
    /// root can verify what the other one signs. `None`: it cannot do that.
    ///
    /// # Errors
    /// When `other` is no certificate, or the key cannot sign.
    fn cross_sign(
        &self,
        other: &[u8],
        serial: u64,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<Option<Vec<u8>>, CaError>;

    /// The private key in PEM, to be stored in a data directory. `None` when
    /// it cannot leave its place.
    fn export_key(&self) -> Option<String>;
}
