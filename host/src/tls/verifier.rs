//! Verification of the other side's chain, by the policy, within the handshake.
//!
//! rustls hands over the chain *before* the peer has proved that it holds the key,
//! and asks about the proof afterwards. So the chain is only kept when it arrives;
//! it is judged when the proof has been checked, by rustls' own real signature
//! check. A peer without a key costs one such check and nothing more, and whatever
//! is refused then is refused to the identity's owner, with a TLS alert.
//!
//! Few chains are verified at once. One that finds no room is not refused: the
//! handshake goes on, and [`Handshake::finish`] waits for its turn before the
//! connection is used for anything.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_core::chain::{Usage, VerifiedPeer, VerifyError, VerifyErrorKind};
use portcullis_core::intention::{Decision, Effect};
use portcullis_core::policy::Client;
use portcullis_core::time::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::Semaphore;

use super::cache::{CacheKey, VerifiedCache};
use crate::clock::Clock;
use crate::runtime::Policy;

/// How many verified certificates are remembered.
const REMEMBERED: usize = 8_192;

/// Verifies chains through the policy and remembers them. Clones share everything.
#[derive(Clone)]
pub struct PeerVerifier(Arc<Inner>);

struct Inner {
    policy: Policy,
    clock: Clock,
    cache: VerifiedCache,
    /// Uncached verifications that may run at once.
    room: Arc<Semaphore>,
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
            room: Arc::new(Semaphore::new(at_once.max(1))),
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
            Known::Yes(peer) => Ok(peer),
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

    /// Looks into the cache.
    fn known(
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
        let key = CacheKey::new(chain, &mesh.digest, usage, expected);
        match self.0.cache.get(&key, now) {
            Some(peer) => Known::Yes(peer),
            None => Known::No(Some((key, mesh.epoch))),
        }
    }

    /// Asks the policy, whatever is remembered.
    fn ask(
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
            place,
        })
    }

    /// Stores a positive answer, unless the mesh document changed while it was found.
    fn remember(&self, verified: &Verified) {
        if let Some((key, epoch)) = verified.place
            && self
                .0
                .policy
                .mesh_version(verified.at)
                .is_some_and(|mesh| mesh.epoch == epoch)
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
    ) -> Result<Arc<VerifiedPeer>, Refusal> {
        if let Known::Yes(peer) = self.known(&chain, usage, expected.as_deref(), self.0.clock.now())
        {
            return Ok(peer);
        }
        // The semaphore is never closed.
        let room = Arc::clone(&self.0.room).acquire_owned().await.ok();
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

enum Known {
    Yes(Arc<VerifiedPeer>),
    No(Option<(CacheKey, u64)>),
}

struct Verified {
    peer: Arc<VerifiedPeer>,
    at: Timestamp,
    place: Option<(CacheKey, u64)>,
}

/// What one handshake is about, and how far it came. rustls' callbacks fill it in.
pub(crate) struct Handshake {
    verifier: PeerVerifier,
    usage: Usage,
    /// The exact identity that the peer must have.
    expected: Option<Arc<str>>,
    /// The service that the peer wants to reach: refused early when the policy says so.
    target: Option<Arc<str>>,
    progress: Mutex<Progress>,
}

enum Progress {
    /// Nothing yet.
    Started,
    /// A chain was presented; nothing is proved.
    Presented(Vec<CertificateDer<'static>>),
    /// The key is proved; the chain waits for room.
    Deferred(Vec<CertificateDer<'static>>),
    /// Key and chain are good.
    Verified(Verified),
    /// Refused; the alert is on its way.
    Refused(Refusal),
}

impl Handshake {
    pub(super) fn as_server(verifier: PeerVerifier, target: Option<Arc<str>>) -> Arc<Self> {
        Arc::new(Self {
            verifier,
            usage: Usage::Client,
            expected: None,
            target,
            progress: Mutex::new(Progress::Started),
        })
    }

    pub(super) fn as_client(verifier: PeerVerifier, expected: Arc<str>) -> Arc<Self> {
        let progress = Mutex::new(Progress::Started);
        Arc::new(Self {
            verifier,
            usage: Usage::Server,
            expected: Some(expected),
            target: None,
            progress,
        })
    }

    /// Why the handshake was refused by us, if it was.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match &*self.progress() {
            Progress::Refused(refusal) => Some(refusal.clone()),
            _ => None,
        }
    }

    /// The verified peer of a handshake that completed. Only now it is remembered.
    pub(super) async fn finish(&self) -> Result<Arc<VerifiedPeer>, Refusal> {
        let progress = std::mem::replace(&mut *self.progress(), Progress::Started);
        match progress {
            Progress::Verified(verified) => {
                self.verifier.remember(&verified);
                Ok(verified.peer)
            }
            Progress::Deferred(chain) => {
                let expected = self.expected.clone();
                self.verifier
                    .verify_later(chain, self.usage, expected)
                    .await
            }
            Progress::Refused(refusal) => Err(refusal),
            Progress::Started | Progress::Presented(_) => Err(Refusal::NoProof),
        }
    }

    fn presented(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        let chain = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|der| der.clone().into_owned())
            .collect();
        *self.progress() = Progress::Presented(chain);
    }

    /// The proof is good: judge the chain, and with a target the connection.
    fn proved(&self) -> Result<(), Error> {
        let mut progress = self.progress();
        let Progress::Presented(chain) = std::mem::replace(&mut *progress, Progress::Started)
        else {
            return Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ));
        };
        match self.judge(chain) {
            Ok(next) => {
                *progress = next;
                Ok(())
            }
            Err(refusal) => {
                let alert = alert(&refusal);
                *progress = Progress::Refused(refusal);
                Err(Error::InvalidCertificate(alert))
            }
        }
    }

    fn judge(&self, chain: Vec<CertificateDer<'static>>) -> Result<Progress, Refusal> {
        let inner = &self.verifier.0;
        let (now, expected) = (inner.clock.now(), self.expected.as_deref());
        let verified = match self.verifier.known(&chain, self.usage, expected, now) {
            Known::Yes(peer) => Verified {
                peer,
                at: now,
                place: None,
            },
            Known::No(place) => {
                let Ok(_room) = inner.room.try_acquire() else {
                    return Ok(Progress::Deferred(chain));
                };
                self.verifier
                    .ask(&chain, self.usage, expected, now, place)
                    .map_err(Refusal::Chain)?
            }
        };
        if let Some(target) = &self.target {
            let decision = self.verifier.authorize(target, &verified.peer);
            if decision.effect != Effect::Allow {
                return Err(Refusal::Denied {
                    peer: verified.peer,
                    decision,
                });
            }
        }
        Ok(Progress::Verified(verified))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The TLS alert that tells the peer.
fn alert(refusal: &Refusal) -> CertificateError {
    match refusal {
        Refusal::Chain(error) => match error.kind() {
            VerifyErrorKind::Malformed => CertificateError::BadEncoding,
            VerifyErrorKind::Untrusted => CertificateError::UnknownIssuer,
            VerifyErrorKind::Expired => CertificateError::Expired,
            VerifyErrorKind::Identity | VerifyErrorKind::NotReady => {
                CertificateError::ApplicationVerificationFailure
            }
        },
        Refusal::NoProof | Refusal::Failed | Refusal::Denied { .. } => {
            CertificateError::ApplicationVerificationFailure
        }
    }
}

/// rustls' view of a handshake, or of many that have no [`Handshake`] of their own.
pub(super) enum Callbacks {
    /// One handshake with its state.
    One(Arc<Handshake>),
    /// Any number: the chain is verified at once, before the proof, and nothing is stored.
    Any(PeerVerifier),
}

impl Callbacks {
    fn provider(&self) -> &CryptoProvider {
        match self {
            Self::One(handshake) => handshake.verifier.provider(),
            Self::Any(verifier) => verifier.provider(),
        }
    }

    fn presented(
        &self,
        usage: Usage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        match self {
            Self::One(handshake) if handshake.usage == usage => {
                handshake.presented(end_entity, intermediates);
                Ok(())
            }
            Self::Any(verifier) if usage == Usage::Client => {
                let chain: Vec<_> = std::iter::once(end_entity)
                    .chain(intermediates)
                    .cloned()
                    .collect();
                let now = verifier.0.clock.now();
                match verifier.known(&chain, usage, None, now) {
                    Known::Yes(_) => Ok(()),
                    Known::No(place) => verifier
                        .ask(&chain, usage, None, now, place)
                        .map(drop)
                        .map_err(|error| Error::InvalidCertificate(alert(&Refusal::Chain(error)))),
                }
            }
            _ => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }

    fn proved(&self) -> Result<(), Error> {
        match self {
            Self::One(handshake) => handshake.proved(),
            Self::Any(_) => Ok(()),
        }
    }

    fn tls12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider().signature_verification_algorithms,
        )?;
        self.proved()?;
        Ok(valid)
    }

    fn tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider().signature_verification_algorithms,
        )?;
        self.proved()?;
        Ok(valid)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Callbacks")
    }
}

impl ClientCertVerifier for Callbacks {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.presented(Usage::Client, end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for Callbacks {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.presented(Usage::Server, end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
