//! rustls' callbacks: they keep what is presented, check the proof, and ask.

use std::fmt;
use std::sync::Arc;

use portcullis_core::chain::Usage;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::handshake::{Handshake, alert};
use super::verifier::{Known, PeerVerifier, Refusal};

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
                let now = verifier.clock().now();
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
