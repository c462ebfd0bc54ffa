//! Why a SPIFFE ID or a name is refused. The codes are part of the contract.

use thiserror::Error;

use super::Excerpt;

/// A rule of the SPIFFE-ID specification that an ID breaks, or of Consul's that a name breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// `empty`: there is no text at all.
    #[error("the SPIFFE ID is empty")]
    Empty,
    /// `too-long`: more than 2,048 bytes.
    #[error("the SPIFFE ID has {length} bytes, more than 2048")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// `not-utf8`: the bytes are no text.
    #[error("`{text}` is not UTF-8")]
    NotUtf8 {
        /// The bytes, escaped.
        text: Excerpt,
    },
    /// `wrong-scheme`: there is no scheme, or it is not `spiffe`.
    #[error("`{scheme}` is not the scheme `spiffe`")]
    WrongScheme {
        /// What stands before the first colon.
        scheme: Excerpt,
    },
    /// `scheme-not-lower-case`: `spiffe` in another case.
    #[error("the scheme `{scheme}` is not in lower case")]
    SchemeNotLowerCase {
        /// The scheme.
        scheme: Excerpt,
    },
    /// `no-authority`: `spiffe:` without `//`.
    #[error("`{rest}` after the scheme does not begin with `//`")]
    NoAuthority {
        /// What stands there instead.
        rest: Excerpt,
    },
    /// `has-query`: a `?`.
    #[error("a SPIFFE ID has no query: `?{query}`")]
    HasQuery {
        /// The query.
        query: Excerpt,
    },
    /// `has-fragment`: a `#`.
    #[error("a SPIFFE ID has no fragment: `#{fragment}`")]
    HasFragment {
        /// The fragment.
        fragment: Excerpt,
    },
    /// `has-user-info`: an `@` in the authority.
    #[error("a SPIFFE ID has no user: `{user}@`")]
    HasUserInfo {
        /// What stands before the `@`.
        user: Excerpt,
    },
    /// `has-port`: a `:` in the authority.
    #[error("a SPIFFE ID has no port: `:{port}`")]
    HasPort {
        /// What stands after the colon.
        port: Excerpt,
    },
    /// `percent-encoded`: a `%`, which SPIFFE has nowhere.
    #[error("a SPIFFE ID has no percent-encoding: `{part}`")]
    PercentEncoded {
        /// The trust domain or path segment.
        part: Excerpt,
    },
    /// `empty-trust-domain`: nothing between `//` and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// `trust-domain-too-long`: more than 255 bytes.
    #[error("the trust domain has {length} bytes, more than 255")]
    TrustDomainTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// `trust-domain-not-lower-case`: an upper-case letter.
    #[error("the trust domain `{trust_domain}` is not in lower case")]
    TrustDomainNotLowerCase {
        /// The trust domain.
        trust_domain: Excerpt,
    },
    /// `bad-trust-domain-character`: outside `a-z 0-9 . _ -`.
    #[error("`{character}` cannot be in the trust domain `{trust_domain}`")]
    BadTrustDomainCharacter {
        /// The first such character.
        character: Excerpt,
        /// The trust domain.
        trust_domain: Excerpt,
    },
    /// `trailing-slash`: the path ends with a slash.
    #[error("the path `{path}` ends with a slash")]
    TrailingSlash {
        /// The path.
        path: Excerpt,
    },
    /// `empty-segment`: two slashes in a row.
    #[error("the path `{path}` has an empty segment")]
    EmptySegment {
        /// The path.
        path: Excerpt,
    },
    /// `dot-segment`: a segment `.` or `..`.
    #[error("the path has a segment `{segment}`")]
    DotSegment {
        /// The segment.
        segment: Excerpt,
    },
    /// `bad-path-character`: outside `A-Z a-z 0-9 . _ -`.
    #[error("`{character}` cannot be in the path segment `{segment}`")]
    BadPathCharacter {
        /// The first such character.
        character: Excerpt,
        /// The segment.
        segment: Excerpt,
    },
    /// `empty-name`: a name without characters.
    #[error("the {what} is empty")]
    EmptyName {
        /// What it would name, for example `service name`.
        what: &'static str,
    },
    /// `name-too-long`: it would not fit into a SPIFFE ID.
    #[error("the {what} has {length} bytes, more than {limit}")]
    NameTooLong {
        /// What it would name.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// `dot-name`: a name `.` or `..`.
    #[error("`{name}` cannot be a {what}")]
    DotName {
        /// What it would name.
        what: &'static str,
        /// The name.
        name: Excerpt,
    },
    /// `bad-name-character`: outside `A-Z a-z 0-9 . _ -`.
    #[error("`{character}` cannot be in the {what} `{name}`")]
    BadNameCharacter {
        /// What it would name.
        what: &'static str,
        /// The first such character.
        character: Excerpt,
        /// The name.
        name: Excerpt,
    },
}

impl IdentityError {
    /// The stable name of the rule, in kebab case.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong { .. } => "too-long",
            Self::NotUtf8 { .. } => "not-utf8",
            Self::WrongScheme { .. } => "wrong-scheme",
            Self::SchemeNotLowerCase { .. } => "scheme-not-lower-case",
            Self::NoAuthority { .. } => "no-authority",
            Self::HasQuery { .. } => "has-query",
            Self::HasFragment { .. } => "has-fragment",
            Self::HasUserInfo { .. } => "has-user-info",
            Self::HasPort { .. } => "has-port",
            Self::PercentEncoded { .. } => "percent-encoded",
            Self::EmptyTrustDomain => "empty-trust-domain",
            Self::TrustDomainTooLong { .. } => "trust-domain-too-long",
            Self::TrustDomainNotLowerCase { .. } => "trust-domain-not-lower-case",
            Self::BadTrustDomainCharacter { .. } => "bad-trust-domain-character",
            Self::TrailingSlash { .. } => "trailing-slash",
            Self::EmptySegment { .. } => "empty-segment",
            Self::DotSegment { .. } => "dot-segment",
            Self::BadPathCharacter { .. } => "bad-path-character",
            Self::EmptyName { .. } => "empty-name",
            Self::NameTooLong { .. } => "name-too-long",
            Self::DotName { .. } => "dot-name",
            Self::BadNameCharacter { .. } => "bad-name-character",
        }
    }
}
