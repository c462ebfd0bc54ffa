//! One handshake: what the peer presented, whether it proved its key, what the policy said.
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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_core::chain::{Usage, VerifiedPeer, VerifyErrorKind};
use portcullis_core::intention::Effect;
use rustls::{CertificateError, Error};
use rustls_pki_types::CertificateDer;

use super::chains::Chain;
use super::verifier::{Known, Occasion, PeerVerifier, Refusal, Verified};

/// What one handshake is about, and how far it came. rustls' callbacks fill it in.
pub(crate) struct Handshake {
    pub(super) verifier: PeerVerifier,
    pub(super) usage: Usage,
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

    /// The verified peer of a handshake that completed, and by which mesh document it is. Only
    /// now it is remembered. A client may have taken its time: what another mesh document
    /// verified is verified again.
    pub(super) async fn finish(
        &self,
        chain: &Chain,
    ) -> Result<(Arc<VerifiedPeer>, Option<u64>), Refusal> {
        let progress = std::mem::replace(&mut *self.progress(), Progress::Started);
        // Before the verification: what changes meanwhile is not taken for seen.
        let epoch = self.verifier.epoch();
        let chain = match progress {
            Progress::Verified(verified) if verified.epoch == epoch => {
                self.verifier.remember(&verified);
                return Ok((verified.peer, epoch));
            }
            Progress::Verified(_) => chain.to_vec(),
            Progress::Deferred(chain) => chain,
            Progress::Refused(refusal) => return Err(refusal),
            Progress::Started | Progress::Presented(_) => return Err(Refusal::NoProof),
        };
        let expected = self.expected.clone();
        let verified = self
            .verifier
            .verify_later(chain, self.usage, expected, Occasion::Handshake);
        Ok((verified.await?, epoch))
    }

    pub(super) fn presented(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) {
        let chain = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|der| der.clone().into_owned())
            .collect();
        *self.progress() = Progress::Presented(chain);
    }

    /// The proof is good: judge the chain, and with a target the connection.
    pub(super) fn proved(&self) -> Result<(), Error> {
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
        let (now, expected) = (self.verifier.clock().now(), self.expected.as_deref());
        let verified = match self.verifier.known(&chain, self.usage, expected, now) {
            Known::Yes(verified) => verified,
            Known::No(place) => {
                let Some(_room) = self.verifier.room() else {
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
pub(super) fn alert(refusal: &Refusal) -> CertificateError {
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
