//! Certificates of services, whoever issued them.

use anyhow::{Context as _, Result};
use portcullis_testkit::TestLeaf;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Identity {
    /// The leaf, then what is presented with it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From PEM, as agents hand it out.
    ///
    /// # Errors
    /// When that is not PEM.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self> {
        Ok(Self {
            chain: certificates(chain)?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes()).context("no key in the PEM")?,
        })
    }
}

impl From<&TestLeaf> for Identity {
    fn from(leaf: &TestLeaf) -> Self {
        Self {
            chain: leaf.chain().to_vec(),
            key: leaf.key(),
        }
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// All certificates of a PEM text.
///
/// # Errors
/// When one cannot be read.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("no certificates in the PEM")
}
