//! The secrets, as Envoy reads them.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message as _, Name as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::bundles::{self, BUNDLES};
use crate::tls::LeafStore;
use crate::watcher::{KnownPeers, MeshRoots, Watcher};

/// Name of our certificate with its key.
pub const LEAF: &str = "leaf";

/// Name of the validation context with the roots of the mesh.
pub const ROOTS: &str = "roots";

/// Where the secrets come from. Clones share it.
#[derive(Clone)]
pub(super) struct Secrets {
    leaf: Arc<LeafStore>,
    leaf_changed: watch::Receiver<u64>,
    roots: watch::Receiver<Option<MeshRoots>>,
    peers: watch::Receiver<KnownPeers>,
}

/// Those of the wanted secrets that there are.
pub(super) struct Found {
    secrets: Vec<Secret>,
    /// Changes with the content. It says nothing of the key.
    pub(super) version: String,
    /// One that there is not yet.
    pub(super) missing: Option<&'static str>,
}

impl Secrets {
    pub(super) fn of(watcher: &Watcher) -> Self {
        Self {
            leaf: Arc::clone(watcher.leaf()),
            leaf_changed: watcher.leaf().subscribe(),
            roots: watcher.subscribe_roots(),
            peers: watcher.subscribe_peers(),
        }
    }

    /// Waits for another leaf, other roots or other peers; never ends when the watchers have.
    pub(super) async fn changed(&mut self) {
        let ended = tokio::select! {
            changed = self.leaf_changed.changed() => changed.is_err(),
            changed = self.roots.changed() => changed.is_err(),
            changed = self.peers.changed() => changed.is_err(),
        };
        if ended {
            std::future::pending().await
        }
    }

    /// What there is of `names`.
    pub(super) fn current(&self, names: &[&'static str]) -> Found {
        let mut found = Found {
            secrets: Vec::new(),
            version: String::new(),
            missing: None,
        };
        let mut digest = Sha256::new();
        for name in names.iter().copied() {
            let secret = match name {
                LEAF => self.leaf(&mut digest),
                BUNDLES => self.bundles(&mut digest),
                _ => self.roots(&mut digest),
            };
            match secret {
                Some(secret) => found.secrets.push(Secret {
                    name: name.to_owned(),
                    r#type: Some(secret),
                }),
                None => found.missing = Some(name),
            }
        }
        found.version =
            digest
                .finalize()
                .iter()
                .take(8)
                .fold(String::with_capacity(16), |mut text, byte| {
                    text.push_str(&format!("{byte:02x}"));
                    text
                });
        found
    }

    fn leaf(&self, digest: &mut Sha256) -> Option<secret::Type> {
        let leaf = self.leaf.current()?;
        let (chain, key) = leaf.pem();
        digest.update(LEAF);
        digest.update(chain);
        Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(chain.as_bytes())),
            private_key: Some(inline(key.expose())),
            ..TlsCertificate::default()
        }))
    }

    fn roots(&self, digest: &mut Sha256) -> Option<secret::Type> {
        let roots = self.roots.borrow();
        let roots = roots.as_ref()?;
        let pem = joined(&roots.pems);
        digest.update(ROOTS);
        digest.update(&pem);
        Some(secret::Type::ValidationContext(
            CertificateValidationContext {
                trusted_ca: Some(inline(pem.as_bytes())),
                ..CertificateValidationContext::default()
            },
        ))
    }
}

impl Secrets {
    fn bundles(&self, digest: &mut Sha256) -> Option<secret::Type> {
        let roots = self.roots.borrow();
        let context = bundles::context(roots.as_ref()?, &self.peers.borrow());
        digest.update(BUNDLES);
        digest.update(context.encode_to_vec());
        Some(secret::Type::ValidationContext(context))
    }
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// The answer with all that there is.
    pub(super) fn response(&self, nonce: String) -> DiscoveryResponse {
        let resources = self.secrets.iter().map(|secret| Any {
            type_url: Secret::type_url(),
            value: secret.encode_to_vec(),
        });
        DiscoveryResponse {
            version_info: self.version.clone(),
            resources: resources.collect(),
            type_url: Secret::type_url(),
            nonce,
            ..DiscoveryResponse::default()
        }
    }
}

/// Certificates, one after the other.
pub(super) fn joined(pems: &[String]) -> String {
    let mut text = String::new();
    for one in pems {
        text.push_str(one.trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn inline(bytes: &[u8]) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..DataSource::default()
    }
}
