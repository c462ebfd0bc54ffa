//! Verification of chains by the policy, remembered.

use std::fmt;
use std::sync::Arc;

use portcullis_core::chain::{Usage, VerifiedPeer};
use portcullis_core::intention::Decision;
use portcullis_core::policy::Client;
use portcullis_core::time::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cache::{CacheKey, VerifiedCache};
use super::chains::Chains;
use crate::clock::Clock;
use crate::runtime::{Policy, VerifyError};

/// How many verified certificates are remembered.
const REMEMBERED: usize = 8_192;

/// Verifies chains through the policy and remembers them. Clones share everything.
#[derive(Clone)]
pub struct PeerVerifier(Arc<Inner>);

struct Inner {
    policy: Policy,
    clock: Clock,
    cache: VerifiedCache,
    chains: Chains,
    /// Uncached verifications of handshakes that may run at once.
    room: Arc<Semaphore>,
    /// The same for live connections, which never keep a handshake waiting.
    room_again: Arc<Semaphore>,
    provider: Arc<CryptoProvider>,
}

/// Why a peer is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// It presented no certificate, or never proved that it holds the key.
    #[error("no certificate was presented and proved")]
    NoProof,
    /// The verification itself broke off.
    #[error("the verification failed")]
    Failed,
    /// Its chain is refused. The identity in it is claimed, not proved.
    #[error("{0}")]
    Chain(VerifyError),
    /// Chain and proof are good; the policy refuses the connection.
    #[error("{} is refused: {}", .peer.id, .decision.code.code())]
    Denied {
        /// Who it is.
        peer: Arc<VerifiedPeer>,
        /// The decision.
        decision: Decision,
    },
}

impl PeerVerifier {
    /// A verifier that asks `policy`, with the time of `clock`, at most `at_once` unknown chains at a time.
    #[must_use]
    pub fn new(policy: Policy, clock: Clock, at_once: usize) -> Self {
        Self(Arc::new(Inner {
            policy,
            clock,
            cache: VerifiedCache::new(REMEMBERED),
            chains: Chains::new(),
            room: Arc::new(Semaphore::new(at_once.max(1))),
            room_again: Arc::new(Semaphore::new(1)),
            provider: super::config::provider(),
        }))
    }

    /// The policy that is asked.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// The clock in use.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// How many verified certificates are remembered at the moment.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.0.cache.len()
    }

    /// Room for one more uncached verification, if there is any right now.
    pub(super) fn room(&self) -> Option<SemaphorePermit<'_>> {
        self.0.room.try_acquire().ok()
    }

    pub(super) fn chains(&self) -> &Chains {
        &self.0.chains
    }

    pub(super) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.0.provider
    }

    /// Verifies the chain of a peer **whose proof of possession has been checked**, and
    /// remembers it. For connections that were accepted with [`super::MeshTls::server_config`].
    ///
    /// # Errors
    /// When the policy refuses the chain.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        expected: Option<&str>,
    ) -> Result<Arc<VerifiedPeer>, VerifyError> {
        let now = self.0.clock.now();
        match self.known(chain, usage, expected, now) {
            Known::Yes(verified) => Ok(verified.peer),
            Known::No(place) => {
                let verified = self.ask(chain, usage, expected, now, place)?;
                self.remember(&verified);
                Ok(verified.peer)
            }
        }
    }

    /// May `peer` open a connection to the service `target`, by the generation in force?
    #[must_use]
    pub fn authorize(&self, target: &str, peer: &VerifiedPeer) -> Decision {
        let client = Client {
            uris: vec![peer.id.to_string()],
            via_gateway: None,
        };
        self.0
            .policy
            .authorize(target, &client, None, self.0.clock.now())
    }

    /// Which mesh document is in force; none that is fresh enough.
    pub(crate) fn epoch(&self) -> Option<u64> {
        let mesh = self.0.policy.mesh_version(self.0.clock.now());
        mesh.map(|mesh| mesh.epoch)
    }

    /// Looks into the cache.
    pub(super) fn known(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Known {
        // Without a mesh document that is fresh enough nothing is known.
        let Some(mesh) = self.0.policy.mesh_version(now) else {
            return Known::No(None);
        };
        let key = CacheKey::new(chain, &mesh, usage, expected);
        match self.0.cache.get(&key, now) {
            Some(peer) => Known::Yes(Verified {
                peer,
                at: now,
                epoch: Some(mesh.epoch),
                place: None,
            }),
            None => Known::No(Some((key, mesh.epoch))),
        }
    }

    /// Asks the policy, whatever is remembered.
    pub(super) fn ask(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
        place: Option<(CacheKey, u64)>,
    ) -> Result<Verified, VerifyError> {
        let peer = self.0.policy.verify_peer(chain, usage, expected, now)?;
        Ok(Verified {
            peer: Arc::new(peer),
            at: now,
            epoch: place.as_ref().map(|(_, epoch)| *epoch),
            place: place.map(|(key, _)| key),
        })
    }

    /// Stores a positive answer, unless the mesh document changed while it was found.
    pub(super) fn remember(&self, verified: &Verified) {
        let mesh = self.0.policy.mesh_version(verified.at);
        if let Some(key) = verified.place
            && mesh.is_some_and(|mesh| verified.epoch == Some(mesh.epoch))
        {
            self.0
                .cache
                .insert(key, Arc::clone(&verified.peer), verified.at);
        }
    }

    /// As [`PeerVerifier::verify`], waiting for room and off the runtime's threads.
    pub(crate) async fn verify_later(
        &self,
        chain: Vec<CertificateDer<'static>>,
        usage: Usage,
        expected: Option<Arc<str>>,
        occasion: Occasion,
    ) -> Result<Arc<VerifiedPeer>, Refusal> {
        let now = self.0.clock.now();
        if let Known::Yes(known) = self.known(&chain, usage, expected.as_deref(), now) {
            return Ok(known.peer);
        }
        // The semaphore is never closed.
        let room = match occasion {
            Occasion::Handshake => &self.0.room,
            Occasion::Live => &self.0.room_again,
        };
        let room = Arc::clone(room).acquire_owned().await.ok();
        let verifier = self.clone();
        let verify = tokio::task::spawn_blocking(move || {
            let verdict = verifier.verify(&chain, usage, expected.as_deref());
            drop(room);
            verdict
        });
        verify
            .await
            .map_err(|_| Refusal::Failed)?
            .map_err(Refusal::Chain)
    }
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PeerVerifier")
            .field("remembered", &self.remembered())
            .finish_non_exhaustive()
    }
}

/// When a chain is verified.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Occasion {
    /// For a new connection.
    Handshake,
    /// For one that there is.
    Live,
}

/// What the cache says.
pub(super) enum Known {
    Yes(Verified),
    /// Its place, and which mesh document it depends on.
    No(Option<(CacheKey, u64)>),
}

/// A positive answer.
pub(super) struct Verified {
    pub(super) peer: Arc<VerifiedPeer>,
    pub(super) at: Timestamp,
    /// By which mesh document.
    pub(super) epoch: Option<u64>,
    /// Where it is to be remembered, if it is not.
    pub(super) place: Option<CacheKey>,
}
