//! A certificate authority of a test mesh.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::Draft;
use crate::key::{Key, KeyType};
use crate::pem;

/// Names of CAs differ, as those of Consul do.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A CA: a root, or an intermediate below one. Clones are the same CA.
#[derive(Clone)]
pub struct TestCa {
    trust_domain: String,
    subject: String,
    now: i64,
    key: Arc<Key>,
    certificate: CertificateDer<'static>,
    /// What leaves must present: this CA, if it is an intermediate, and those above it.
    path: Vec<CertificateDer<'static>>,
}

/// A leaf, what is presented with it, and its key.
pub struct TestLeaf {
    chain: Vec<CertificateDer<'static>>,
    key: Key,
}

/// A leaf to be.
pub struct LeafDraft<'a> {
    ca: &'a TestCa,
    draft: Draft,
}

impl TestCa {
    /// A root with a P-256 key, valid from an hour ago.
    #[must_use]
    pub fn new(trust_domain: &str) -> Self {
        Self::with_key(trust_domain, KeyType::P256)
    }

    /// A root with another kind of key.
    #[must_use]
    pub fn with_key(trust_domain: &str, key: KeyType) -> Self {
        Self::with(trust_domain, |root| root.key(key))
    }

    /// A root with whatever `change` makes of it.
    #[must_use]
    pub fn with(trust_domain: &str, change: impl FnOnce(Draft) -> Draft) -> Self {
        Self::at(trust_domain, real_time(), change)
    }

    /// A root of a mesh whose clocks show `now`, in seconds since the epoch.
    #[must_use]
    pub fn at(trust_domain: &str, now: i64, change: impl FnOnce(Draft) -> Draft) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let subject = format!("pri-{number}.test.ca.{trust_domain}");
        let draft = Draft::ca(now, trust_domain, &subject).valid(-3_600, 87_600 * 3_600);
        let draft = change(draft);
        let subject = draft.subject.clone().expect("a CA has a subject");
        let key = Key::generate(draft.key_type);
        let certificate = draft.sign(&key, Some(&subject), &key);
        Self {
            trust_domain: trust_domain.to_owned(),
            subject,
            now,
            key: Arc::new(key),
            certificate,
            path: Vec::new(),
        }
    }

    /// A CA below this one; its leaves present it.
    #[must_use]
    pub fn intermediate(&self, change: impl FnOnce(Draft) -> Draft) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let subject = format!("int-{number}.test.ca.{}", self.trust_domain);
        let draft = Draft::ca(self.now, &self.trust_domain, &subject).valid(-60, 8_760 * 3_600);
        let draft = change(draft);
        let subject = draft.subject.clone().expect("a CA has a subject");
        let key = Key::generate(draft.key_type);
        let certificate = draft.sign(&key, Some(&self.subject), &self.key);
        let path = [std::slice::from_ref(&certificate), &self.path].concat();
        Self {
            subject,
            key: Arc::new(key),
            certificate,
            path,
            ..self.clone()
        }
    }

    /// The new CA's name and key, certified by this one, as a rotation in Consul does.
    #[must_use]
    pub fn cross_sign(&self, new: &Self) -> CertificateDer<'static> {
        self.cross_sign_with(new, |certificate| certificate)
    }

    /// As [`TestCa::cross_sign`], with whatever `change` makes of the certificate.
    #[must_use]
    pub fn cross_sign_with(
        &self,
        new: &Self,
        change: impl FnOnce(Draft) -> Draft,
    ) -> CertificateDer<'static> {
        let draft = Draft::ca(self.now, &self.trust_domain, &new.subject).valid(-60, 7 * 86_400);
        change(draft).sign(&new.key, Some(&self.subject), &self.key)
    }

    /// The same CA with further certificates that its leaves present.
    #[must_use]
    pub fn presenting(mut self, certificates: &[CertificateDer<'static>]) -> Self {
        self.path.extend_from_slice(certificates);
        self
    }

    /// Its certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem::certificate(&self.certificate)
    }

    /// Its key as PEM, for programs that issue by themselves.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.private_key_pem()
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The time of its mesh in seconds since the epoch.
    #[must_use]
    pub const fn now(&self) -> i64 {
        self.now
    }

    /// The SPIFFE ID of a service in namespace `default` and datacenter `dc1`.
    #[must_use]
    pub fn service_id(&self, service: &str) -> String {
        format!(
            "spiffe://{}/ns/default/dc/dc1/svc/{service}",
            self.trust_domain
        )
    }

    /// A leaf to be for a service in namespace `default` and datacenter `dc1`.
    #[must_use]
    pub fn service(&self, service: &str) -> LeafDraft<'_> {
        self.leaf(&self.service_id(service))
    }

    /// A leaf to be for any URI.
    #[must_use]
    pub fn leaf(&self, uri: &str) -> LeafDraft<'_> {
        LeafDraft {
            ca: self,
            draft: Draft::leaf(self.now, uri),
        }
    }
}

impl LeafDraft<'_> {
    /// Changes the certificate: `ca.service("web").with(Draft::expired)`.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(Draft) -> Draft) -> Self {
        self.draft = change(self.draft);
        self
    }

    /// Signs it.
    #[must_use]
    pub fn issue(self) -> TestLeaf {
        let key = Key::generate(self.draft.key_type);
        let leaf = self.draft.sign(&key, Some(&self.ca.subject), &self.ca.key);
        let chain = [vec![leaf], self.ca.path.clone()].concat();
        TestLeaf { chain, key }
    }
}

impl TestLeaf {
    /// What is presented: the leaf, then intermediates.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The same, as owned bytes.
    #[must_use]
    pub fn chain_der(&self) -> Vec<Vec<u8>> {
        self.chain.iter().map(|der| der.to_vec()).collect()
    }

    /// The leaf itself.
    ///
    /// # Panics
    /// Never: there is always a leaf.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.chain.first().expect("a leaf")
    }

    /// Its private key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.private_key()
    }

    /// The chain as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.chain.iter().map(|der| pem::certificate(der)).collect()
    }

    /// Its private key as PEM (PKCS#8).
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.private_key_pem()
    }

    /// Presents these certificates after the leaf.
    #[must_use]
    pub fn presenting(mut self, certificates: &[CertificateDer<'static>]) -> Self {
        self.chain.extend_from_slice(certificates);
        self
    }
}

fn real_time() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    i64::try_from(now.as_secs()).expect("a clock in range")
}
