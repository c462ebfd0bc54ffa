//! Why a chain or a bundle is refused. The codes are part of the contract.

use thiserror::Error;

use super::{IssuerProblem, KeyProblem};
use crate::identity::{Excerpt, IdentityError, Part, Partition, SpiffeId, TrustDomain};
use crate::time::Timestamp;

/// Who must act on a refused chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VerifyErrorKind {
    /// The peer sent something that is not an acceptable certificate chain.
    Malformed,
    /// No path to a root of the peer's trust domain.
    Untrusted,
    /// The certificate is fine, but its identity is not an acceptable one.
    Identity,
    /// A certificate, or every path, is out of its validity period: check clocks and rotation.
    Expired,
    /// This side has no roots yet, or they are stale.
    NotReady,
}

/// The rule that a chain breaks. Names and times in it are claims of the peer:
/// nothing was proved when it is returned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// `empty-chain`: no certificate was presented.
    #[error("no certificate was presented")]
    EmptyChain,
    /// `too-many-certificates`: more than six.
    #[error("{count} certificates were presented, more than 6")]
    TooManyCertificates {
        /// How many.
        count: usize,
    },
    /// `chain-too-large`: more than 16 KiB.
    #[error("the presented chain has {bytes} bytes, more than 16384")]
    ChainTooLarge {
        /// How many bytes.
        bytes: usize,
    },
    /// `malformed-certificate`: not the DER of an X.509 version 3 certificate.
    #[error("certificate {position} cannot be read")]
    MalformedCertificate {
        /// Its place in the presented chain; 0 is the leaf.
        position: usize,
    },
    /// `malformed-extension`: an extension that matters is there twice or cannot be read.
    #[error("the certificate's {extension} is there twice or cannot be read")]
    MalformedExtension {
        /// The extension.
        extension: &'static str,
    },
    /// `critical-extension`: a critical extension that is not understood.
    #[error("the certificate has a critical extension that is not understood")]
    CriticalExtension,
    /// `negative-serial`: RFC 5280 wants positive serial numbers.
    #[error("the certificate's serial number is negative")]
    NegativeSerial,
    /// `long-serial`: RFC 5280 allows 20 bytes.
    #[error("the certificate's serial number has more than 20 bytes")]
    LongSerial,
    /// `leaf-is-ca`: an X.509-SVID of a workload is no CA certificate.
    #[error("the leaf is a CA certificate")]
    LeafIsCa,
    /// `no-key-usage`: the leaf has no key usage.
    #[error("the leaf has no key usage")]
    NoKeyUsage,
    /// `no-digital-signature`: the leaf's key usage lacks digitalSignature.
    #[error("the leaf's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// `leaf-signs-certificates`: the leaf's key usage has keyCertSign or cRLSign.
    #[error("the leaf's key usage has {usage}")]
    LeafSignsCertificates {
        /// Which of the two.
        usage: &'static str,
    },
    /// `no-extended-key-usage`: the leaf does not say what it is for.
    #[error("the leaf has no extended key usage")]
    NoExtendedKeyUsage,
    /// `wrong-extended-key-usage`: the leaf is not for what it is used as.
    #[error("the leaf's extended key usage lacks {wanted}")]
    WrongExtendedKeyUsage {
        /// `clientAuth` or `serverAuth`.
        wanted: &'static str,
    },
    /// `unsupported-key`: the leaf's key is weak or of no supported kind.
    #[error("the leaf's key: {0}")]
    UnsupportedKey(KeyProblem),
    /// `unsupported-signature`: the leaf is signed with a weak or unknown algorithm.
    #[error("the leaf's signature algorithm is refused: {algorithm}")]
    UnsupportedSignature {
        /// Its name.
        algorithm: &'static str,
    },
    /// `bad-validity`: the leaf's validity ends before it begins.
    #[error("the leaf's validity ends before it begins")]
    BadValidity,
    /// `too-many-signature-checks`: more than eight would be needed.
    #[error("the chain asks for more than 8 signature checks")]
    TooManySignatureChecks,

    /// `foreign-trust-domain`: there are no roots for the leaf's trust domain.
    #[error("the trust domain `{trust_domain}` is neither this mesh's nor a loaded peer's")]
    ForeignTrustDomain {
        /// The leaf's trust domain.
        trust_domain: TrustDomain,
    },
    /// `foreign-partition`: a peer's leaf from a partition that it does not export.
    #[error("no loaded peer exports the partition `{partition}` of `{trust_domain}`")]
    ForeignPartition {
        /// The leaf's trust domain.
        trust_domain: TrustDomain,
        /// The leaf's partition.
        partition: Partition,
    },
    /// `unknown-issuer`: neither a root nor a presented intermediate issued it.
    #[error("no path to a root of `{trust_domain}`; the leaf was issued by `{issuer}`")]
    UnknownIssuer {
        /// The trust domain whose roots were tried.
        trust_domain: TrustDomain,
        /// The leaf's issuer.
        issuer: Excerpt,
    },
    /// `bad-signature`: names fit, but a signature does not.
    #[error("a signature in the chain is wrong; the leaf claims the issuer `{issuer}`")]
    BadSignature {
        /// The leaf's issuer.
        issuer: Excerpt,
    },
    /// `uri-name-constraints`: an issuer restricts URI names, which this version does not evaluate.
    #[error("`{issuer}` has name constraints for URIs, which are not supported")]
    UriNameConstraints {
        /// That issuer.
        issuer: Excerpt,
    },
    /// `name-constraints`: an issuer may not issue such names.
    #[error("the chain violates an issuer's name constraints")]
    NameConstraints,
    /// `path-length`: an issuer may not have so many CAs below it.
    #[error("the chain violates an issuer's path length")]
    PathLength,
    /// `unusable-issuer`: the only fitting issuer is not acceptable.
    #[error("the issuer `{issuer}` is not acceptable: {problem}")]
    UnusableIssuer {
        /// That issuer.
        issuer: Excerpt,
        /// Why.
        problem: IssuerProblem,
    },
    /// `no-path`: webpki found no acceptable path for another reason.
    #[error("no acceptable path to a root: {reason}")]
    NoPath {
        /// The reason.
        reason: Excerpt,
    },

    /// `no-uri-name`: the leaf names nobody. Names in other places are not identities.
    #[error("the leaf has no URI name")]
    NoUriName,
    /// `several-uri-names`: the leaf has more than one URI name.
    #[error("the leaf has {count} URI names, an X.509-SVID has exactly one")]
    SeveralUriNames {
        /// How many.
        count: usize,
    },
    /// `malformed-identity`: the leaf's URI name is not a SPIFFE ID.
    #[error("the leaf's URI name: {0}")]
    MalformedIdentity(IdentityError),
    /// `identity-without-path`: the leaf names a whole trust domain.
    #[error("the leaf names the whole trust domain `{trust_domain}`")]
    IdentityWithoutPath {
        /// The trust domain.
        trust_domain: TrustDomain,
    },
    /// `unexpected-identity`: the peer is somebody else than expected.
    #[error("expected `{expected}`, got `{presented}`: the {part} differs")]
    UnexpectedIdentity {
        /// Who was expected.
        expected: Box<SpiffeId>,
        /// Who it claims to be.
        presented: Box<SpiffeId>,
        /// In what they differ.
        part: Part,
    },
    /// `malformed-expected-identity`: the caller's expectation is not a SPIFFE ID.
    #[error("the expected identity: {0}")]
    MalformedExpectedIdentity(IdentityError),

    /// `expired`: the leaf's validity is over.
    #[error("the leaf expired at {not_after}, now it is {now}")]
    Expired {
        /// The end of its validity.
        not_after: Timestamp,
        /// The time of the question.
        now: Timestamp,
    },
    /// `not-yet-valid`: the leaf's validity has not begun.
    #[error("the leaf is valid from {not_before}, now it is {now}")]
    NotYetValid {
        /// The beginning of its validity.
        not_before: Timestamp,
        /// The time of the question.
        now: Timestamp,
    },
    /// `issuer-expired`: the only fitting issuer has expired.
    #[error("the issuer `{issuer}` expired at {not_after}, now it is {now}")]
    IssuerExpired {
        /// That issuer.
        issuer: Excerpt,
        /// The end of its validity.
        not_after: Timestamp,
        /// The time of the question.
        now: Timestamp,
    },
    /// `issuer-not-yet-valid`: the only fitting issuer is not valid yet.
    #[error("the issuer `{issuer}` is valid from {not_before}, now it is {now}")]
    IssuerNotYetValid {
        /// That issuer.
        issuer: Excerpt,
        /// The beginning of its validity.
        not_before: Timestamp,
        /// The time of the question.
        now: Timestamp,
    },

    /// `roots-not-loaded`: this side has no roots for its own trust domain.
    #[error("no roots have been loaded")]
    RootsNotLoaded,
    /// `roots-stale`: the roots are older than the staleness budget.
    #[error("the roots are older than the staleness budget")]
    RootsStale,
}

impl VerifyError {
    /// Who must act.
    #[must_use]
    pub const fn kind(&self) -> VerifyErrorKind {
        match self {
            Self::EmptyChain
            | Self::TooManyCertificates { .. }
            | Self::ChainTooLarge { .. }
            | Self::MalformedCertificate { .. }
            | Self::MalformedExtension { .. }
            | Self::CriticalExtension
            | Self::NegativeSerial
            | Self::LongSerial
            | Self::LeafIsCa
            | Self::NoKeyUsage
            | Self::NoDigitalSignature
            | Self::LeafSignsCertificates { .. }
            | Self::NoExtendedKeyUsage
            | Self::WrongExtendedKeyUsage { .. }
            | Self::UnsupportedKey(_)
            | Self::UnsupportedSignature { .. }
            | Self::BadValidity
            | Self::TooManySignatureChecks => VerifyErrorKind::Malformed,
            Self::ForeignTrustDomain { .. }
            | Self::ForeignPartition { .. }
            | Self::UnknownIssuer { .. }
            | Self::BadSignature { .. }
            | Self::UriNameConstraints { .. }
            | Self::NameConstraints
            | Self::PathLength
            | Self::UnusableIssuer { .. }
            | Self::NoPath { .. } => VerifyErrorKind::Untrusted,
            Self::NoUriName
            | Self::SeveralUriNames { .. }
            | Self::MalformedIdentity(_)
            | Self::IdentityWithoutPath { .. }
            | Self::UnexpectedIdentity { .. }
            | Self::MalformedExpectedIdentity(_) => VerifyErrorKind::Identity,
            Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::IssuerExpired { .. }
            | Self::IssuerNotYetValid { .. } => VerifyErrorKind::Expired,
            Self::RootsNotLoaded | Self::RootsStale => VerifyErrorKind::NotReady,
        }
    }

    /// The stable name of the rule, in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::EmptyChain => "empty-chain",
            Self::TooManyCertificates { .. } => "too-many-certificates",
            Self::ChainTooLarge { .. } => "chain-too-large",
            Self::MalformedCertificate { .. } => "malformed-certificate",
            Self::MalformedExtension { .. } => "malformed-extension",
            Self::CriticalExtension => "critical-extension",
            Self::NegativeSerial => "negative-serial",
            Self::LongSerial => "long-serial",
            Self::LeafIsCa => "leaf-is-ca",
            Self::NoKeyUsage => "no-key-usage",
            Self::NoDigitalSignature => "no-digital-signature",
            Self::LeafSignsCertificates { .. } => "leaf-signs-certificates",
            Self::NoExtendedKeyUsage => "no-extended-key-usage",
            Self::WrongExtendedKeyUsage { .. } => "wrong-extended-key-usage",
            Self::UnsupportedKey(_) => "unsupported-key",
            Self::UnsupportedSignature { .. } => "unsupported-signature",
            Self::BadValidity => "bad-validity",
            Self::TooManySignatureChecks => "too-many-signature-checks",
            Self::ForeignTrustDomain { .. } => "foreign-trust-domain",
            Self::ForeignPartition { .. } => "foreign-partition",
            Self::UnknownIssuer { .. } => "unknown-issuer",
            Self::BadSignature { .. } => "bad-signature",
            Self::UriNameConstraints { .. } => "uri-name-constraints",
            Self::NameConstraints => "name-constraints",
            Self::PathLength => "path-length",
            Self::UnusableIssuer { .. } => "unusable-issuer",
            Self::NoPath { .. } => "no-path",
            Self::NoUriName => "no-uri-name",
            Self::SeveralUriNames { .. } => "several-uri-names",
            Self::MalformedIdentity(_) => "malformed-identity",
            Self::IdentityWithoutPath { .. } => "identity-without-path",
            Self::UnexpectedIdentity { .. } => "unexpected-identity",
            Self::MalformedExpectedIdentity(_) => "malformed-expected-identity",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::IssuerExpired { .. } => "issuer-expired",
            Self::IssuerNotYetValid { .. } => "issuer-not-yet-valid",
            Self::RootsNotLoaded => "roots-not-loaded",
            Self::RootsStale => "roots-stale",
        }
    }
}

/// Why roots do not make a bundle. Positions count from 0.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// A PEM text cannot be read.
    #[error("root {index} is not PEM")]
    Pem {
        /// Which of the given texts.
        index: usize,
    },
    /// A PEM text has no certificate.
    #[error("root {index} has no certificate")]
    NoCertificate {
        /// Which of the given texts.
        index: usize,
    },
    /// A certificate in it cannot be read.
    #[error("root {index} is not an X.509 certificate")]
    Malformed {
        /// Which of the given texts.
        index: usize,
    },
    /// A certificate in it cannot be a root.
    #[error("root {index} (`{subject}`) cannot be used: {problem}")]
    Unusable {
        /// Which of the given texts.
        index: usize,
        /// Its subject.
        subject: Excerpt,
        /// Why.
        problem: IssuerProblem,
    },
}
