//! The same policy without WebAssembly: for `eval`, tests and benchmarks, to compare with.

use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_core::chain::Algorithms;
use portcullis_core::policy::{Document, LoadReport, Policy};
use portcullis_core::time::Timestamp;
use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::aws_lc_rs as aws;

use super::documents::{Documents, MeshVersion};

/// The algorithms of the component, by the library that TLS uses here.
static AWS_LC: &[&dyn SignatureVerificationAlgorithm] = &[
    aws::ECDSA_P256_SHA256,
    aws::ECDSA_P256_SHA384,
    aws::ECDSA_P256_SHA512,
    aws::ECDSA_P384_SHA256,
    aws::ECDSA_P384_SHA384,
    aws::ECDSA_P384_SHA512,
    aws::ECDSA_P521_SHA256,
    aws::ECDSA_P521_SHA384,
    aws::ECDSA_P521_SHA512,
    aws::ED25519,
    aws::RSA_PKCS1_2048_8192_SHA256,
    aws::RSA_PKCS1_2048_8192_SHA384,
    aws::RSA_PKCS1_2048_8192_SHA512,
];

/// The signature algorithms of aws-lc-rs, for [`portcullis_core::chain::verify_peer`].
#[must_use]
pub fn aws_lc() -> Algorithms {
    AWS_LC
}

pub(super) struct Native(Mutex<State>);

pub(super) struct State {
    pub(super) policy: Policy,
    generation: u64,
    documents: Documents,
    digest: String,
}

impl Native {
    pub(super) fn new(algorithms: Algorithms) -> Self {
        let documents = Documents::default();
        let digest = documents.digest();
        Self(Mutex::new(State {
            policy: Policy::new(algorithms),
            generation: 0,
            documents,
            digest,
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn load(&mut self, changes: Vec<Document>) -> LoadReport {
        self.generation = self.generation.saturating_add(1);
        let report = self.policy.load(self.generation, changes.clone());
        self.documents.accept(self.generation, &changes, &report);
        self.digest = self.documents.digest();
        report
    }

    pub(super) fn touch<S: AsRef<str>>(&mut self, names: &[S], confirmed_at: Timestamp) {
        self.documents.touch(names, confirmed_at);
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        self.policy.touch(&names, confirmed_at);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn digest(&self) -> String {
        self.digest.clone()
    }

    pub(super) fn in_force(&self) -> (u64, String, Documents) {
        (self.generation, self.digest.clone(), self.documents.clone())
    }

    pub(super) fn mesh_version(&self, now: Timestamp) -> Option<MeshVersion> {
        self.documents.mesh_version(now)
    }
}
