//! Names that only parsing can make.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use super::{Excerpt, IdentityError, SpiffeId};

/// What every name can do.
macro_rules! name_traits {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                Self::parse(name)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}

/// A name that is one SPIFFE path segment; `$store` makes its stored form.
macro_rules! segment_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $store:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Reads a name.
            ///
            /// # Errors
            /// If it is empty, `.` or `..`, longer than a SPIFFE ID, or has a
            /// character other than ASCII letters, digits, `.`, `_` and `-`.
            pub fn parse(name: &str) -> Result<Self, IdentityError> {
                check_segment_name($what, name)?;
                Ok(Self::from_checked(name))
            }

            /// For text that has passed the rules of a path segment.
            pub(super) fn from_checked(name: &str) -> Self {
                let store: fn(&str) -> Box<str> = $store;
                Self(store(name))
            }
        }

        name_traits!($name);
    };
}

segment_name!(
    /// A service's name; case matters.
    ServiceName,
    "service name",
    |name| name.into()
);
segment_name!(
    /// A namespace; `default` in Community Edition. Case matters.
    Namespace,
    "namespace",
    |name| name.into()
);
segment_name!(
    /// An admin partition, kept in lower case because Consul compares it so.
    Partition,
    "partition",
    |name| name.to_ascii_lowercase().into()
);
segment_name!(
    /// A datacenter's name; case matters.
    Datacenter,
    "datacenter",
    |name| name.into()
);
segment_name!(
    /// A node ID, in practice a UUID.
    NodeId,
    "node ID",
    |name| name.into()
);
segment_name!(
    /// The local name of a cluster peering.
    PeerName,
    "peer name",
    |name| name.into()
);

impl Namespace {
    /// `default`, the only namespace of Community Edition.
    #[must_use]
    pub fn default_namespace() -> Self {
        Self("default".into())
    }
}

impl Partition {
    /// The `default` partition, which IDs do not write.
    #[must_use]
    pub fn default_partition() -> Self {
        Self("default".into())
    }

    /// Whether this is the `default` partition.
    #[must_use]
    pub fn is_default(&self) -> bool {
        &*self.0 == "default"
    }
}

/// The trust domain of a mesh: lower-case letters, digits, `.`, `_` and `-`, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Box<str>);

name_traits!(TrustDomain);

impl TrustDomain {
    /// Longest trust domain in bytes, as the SPIFFE-ID specification sets it.
    pub const MAX_LEN: usize = 255;

    /// Reads a trust domain, without `spiffe://`.
    ///
    /// # Errors
    /// If it is empty, too long or has any other character, upper case included.
    pub fn parse(name: &str) -> Result<Self, IdentityError> {
        if name.is_empty() {
            return Err(IdentityError::EmptyTrustDomain);
        }
        if name.len() > Self::MAX_LEN {
            return Err(IdentityError::TrustDomainTooLong { length: name.len() });
        }
        let Some(character) = name.chars().find(|c| !is_trust_domain_character(*c)) else {
            return Ok(Self(name.into()));
        };
        let trust_domain = Excerpt::of(name);
        if character.is_ascii_uppercase() {
            return Err(IdentityError::TrustDomainNotLowerCase { trust_domain });
        }
        if character == '%' {
            return Err(IdentityError::PercentEncoded { part: trust_domain });
        }
        Err(IdentityError::BadTrustDomainCharacter {
            character: excerpt_of_char(character),
            trust_domain,
        })
    }
}

const fn is_trust_domain_character(character: char) -> bool {
    matches!(character, 'a'..='z' | '0'..='9' | '.' | '_' | '-')
}

/// Whether a character may stand in a path segment.
pub(super) const fn is_segment_character(character: char) -> bool {
    matches!(character, 'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-')
}

pub(super) fn excerpt_of_char(character: char) -> Excerpt {
    Excerpt::of(character.encode_utf8(&mut [0; 4]))
}

fn check_segment_name(what: &'static str, name: &str) -> Result<(), IdentityError> {
    if name.is_empty() {
        return Err(IdentityError::EmptyName { what });
    }
    if name.len() > SpiffeId::MAX_LEN {
        return Err(IdentityError::NameTooLong {
            what,
            length: name.len(),
            limit: SpiffeId::MAX_LEN,
        });
    }
    if matches!(name, "." | "..") {
        return Err(IdentityError::DotName {
            what,
            name: Excerpt::of(name),
        });
    }
    match name.chars().find(|c| !is_segment_character(*c)) {
        None => Ok(()),
        Some(character) => Err(IdentityError::BadNameCharacter {
            what,
            character: excerpt_of_char(character),
            name: Excerpt::of(name),
        }),
    }
}
