//! What is decided, and about which certificates.

use super::{Layer, Supply};
use crate::chain::{self, Usage, VerifiedPeer, VerifyError};
use crate::filter::{Peer, Shelf};
use crate::http::RequestRef;
use crate::intention::{Decision, Reason};
use crate::policy::Client;
use crate::time::Timestamp;

impl Supply {
    /// What is decided. Before everything is known it is denied as `not-ready`.
    pub fn authorize(
        &mut self,
        shelf: &impl Shelf,
        layer: Layer,
        client: &Client,
        request: Option<RequestRef<'_>>,
        now: u64,
        wall: Timestamp,
    ) -> Decision {
        self.prepare(shelf, layer, now, wall);
        let generation = self.generation();
        if !self.is_ready(layer) {
            return Decision::denied(Reason::NotReady, generation);
        }
        let protocol = self.protocol(layer);
        let policy = self
            .policies
            .iter_mut()
            .find_map(|(known, policy)| (*known == protocol).then_some(policy));
        match policy {
            Some(policy) => Decision {
                generation,
                ..policy.authorize_ref(&self.target, client, request, wall)
            },
            None => Decision::denied(Reason::PolicyFailed, generation),
        }
    }

    /// Verifies a certificate that Envoy has not verified, with the intermediates that the
    /// agent lists and those that the peer presented.
    ///
    /// # Errors
    /// As [`Policy::verify_peer`](crate::policy::Policy::verify_peer).
    pub fn verify(
        &mut self,
        shelf: &impl Shelf,
        layer: Layer,
        leaf: &[u8],
        presented: &[Vec<u8>],
        now: u64,
        wall: Timestamp,
    ) -> Result<VerifiedPeer, VerifyError> {
        self.prepare(shelf, layer, now, wall);
        let mut certificates = vec![leaf.to_vec()];
        certificates.extend_from_slice(presented);
        let listed = self.known_roots.iter().flat_map(|roots| {
            roots
                .intermediates
                .iter()
                .flat_map(|pem| Peer::certificates(pem))
        });
        for certificate in listed {
            let bytes: usize = certificates.iter().map(Vec::len).sum();
            let fits = certificates.len() < chain::MAX_CERTIFICATES
                && bytes.saturating_add(certificate.len()) <= chain::MAX_CHAIN_BYTES;
            if fits && !certificates.contains(&certificate) {
                certificates.push(certificate);
            }
        }
        let protocol = self.protocol(layer);
        self.policies
            .iter_mut()
            .find_map(|(known, policy)| (*known == protocol).then_some(policy))
            .ok_or(VerifyError::RootsNotLoaded)?
            .verify_peer(&certificates, Usage::Client, None, wall)
    }

    /// The number of the roots in force, those of peers among them: what was verified with
    /// others counts no more.
    #[must_use]
    pub const fn anchors(&self) -> u64 {
        self.anchors
    }

    /// A decision in one sentence.
    #[must_use]
    pub fn describe(&self, layer: Layer, decision: &Decision) -> String {
        let protocol = self.protocol(layer);
        let policy = self
            .policies
            .iter()
            .find_map(|(known, policy)| (*known == protocol).then_some(policy));
        match policy {
            Some(policy) => {
                let decision = Decision {
                    generation: policy.generation(),
                    ..decision.clone()
                };
                policy.describe(&self.target, &decision)
            }
            None => decision.code.to_string(),
        }
    }
}
