//! Who is asked about, and the patterns of names that intentions are made of.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::error::DestinationError;
use super::model::write_name;
use crate::identity::{Excerpt, ServicePath};
use crate::words;

/// The partition and the namespace of whatever does not say.
pub(crate) const DEFAULT: &str = "default";
/// Stands for any name in a pattern.
pub(crate) const WILDCARD: &str = "*";
/// Longest part of a destination's name in bytes.
const MAX_PART: usize = 255;

/// A service that is called. Consul finds destinations without regard to case, so
/// the names are folded to ASCII lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    partition: Box<str>,
    namespace: Box<str>,
    name: Box<str>,
}

impl Destination {
    /// Reads `name`, `namespace/name` or `partition/namespace/name`.
    ///
    /// # Errors
    /// If a part is empty, longer than 255 bytes or has a character that no SPIFFE
    /// ID can carry; among them everything that is not ASCII.
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let (partition, namespace, name) = split(text)?;
        Ok(Self {
            partition: partition.to_ascii_lowercase().into(),
            namespace: namespace.to_ascii_lowercase().into(),
            name: name.to_ascii_lowercase().into(),
        })
    }

    /// Writes the key of the destination `text` into `key`, without allocating.
    pub(crate) fn write_key(text: &str, key: &mut String) -> Result<(), DestinationError> {
        key.clear();
        let (partition, namespace, name) = split(text)?;
        for (part, end) in [(partition, "/"), (namespace, "/"), (name, "")] {
            key.push_str(part);
            key.push_str(end);
        }
        key.make_ascii_lowercase();
        Ok(())
    }

    /// `partition/namespace/name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.partition, self.namespace, self.name)
    }

    /// The name of its document: `service/partition/namespace/name`.
    #[must_use]
    pub fn document(&self) -> String {
        format!("service/{}", self.key())
    }

    /// Admin partition.
    #[must_use]
    pub fn partition(&self) -> &str {
        &self.partition
    }

    /// Namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Service name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The shortest form that [`Destination::parse`] reads back.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(f, &self.partition, &self.namespace, &self.name)
    }
}

fn split(text: &str) -> Result<(&str, &str, &str), DestinationError> {
    let mut parts = text.split('/');
    let parts = (parts.next(), parts.next(), parts.next(), parts.next());
    let (partition, namespace, name) = match parts {
        (Some(name), None, ..) => (DEFAULT, DEFAULT, name),
        (Some(namespace), Some(name), None, _) => (DEFAULT, namespace, name),
        (Some(partition), Some(namespace), Some(name), None) => (partition, namespace, name),
        _ => return Err(DestinationError::TooManyParts),
    };
    for part in [partition, namespace, name] {
        if part.is_empty() {
            return Err(DestinationError::Empty);
        }
        if part.len() > MAX_PART {
            return Err(DestinationError::TooLong { limit: MAX_PART });
        }
        if !is_plain(part) {
            return Err(DestinationError::Character(Excerpt::of(part)));
        }
    }
    Ok((partition, namespace, name))
}

/// Whether a SPIFFE ID can carry the name.
pub(crate) fn is_plain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.bytes().all(allowed) && !matches!(name, "." | "..")
}

/// The services that an intention is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationPattern {
    /// Admin partition.
    pub partition: Box<str>,
    /// Namespace, or `*`.
    pub namespace: Box<str>,
    /// Service name, or `*`.
    pub name: Box<str>,
}

impl DestinationPattern {
    /// Whether the pattern covers a destination; case does not count.
    #[must_use]
    pub fn covers(&self, target: &Destination) -> bool {
        let fits =
            |pattern: &str, name: &str| pattern == WILDCARD || pattern.eq_ignore_ascii_case(name);
        self.partition.eq_ignore_ascii_case(&target.partition)
            && fits(&self.namespace, &target.namespace)
            && fits(&self.name, &target.name)
    }
}

impl fmt::Display for DestinationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(f, &self.partition, &self.namespace, &self.name)
    }
}

/// Where the clients come from that an intention covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This mesh, in this partition.
    Local(Box<str>),
    /// The cluster peering of this name.
    Peer(Box<str>),
    /// Anywhere; only of rules that could not be read.
    Anywhere,
}

/// The clients that an intention covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where they come from.
    pub origin: Origin,
    /// Namespace, or `*`.
    pub namespace: Box<str>,
    /// Service name, or `*`.
    pub name: Box<str>,
}

impl Source {
    /// Everybody.
    pub(super) fn everybody() -> Self {
        Self {
            origin: Origin::Anywhere,
            namespace: WILDCARD.into(),
            name: WILDCARD.into(),
        }
    }

    /// The same pattern in ASCII lower case. Names of peerings are ours, not the
    /// client's, and stay.
    pub(super) fn folded(&self) -> Self {
        let origin = match &self.origin {
            Origin::Local(partition) => Origin::Local(partition.to_ascii_lowercase().into()),
            other => other.clone(),
        };
        Self {
            origin,
            namespace: self.namespace.to_ascii_lowercase().into(),
            name: self.name.to_ascii_lowercase().into(),
        }
    }

    /// The first part that keeps the pattern from covering a client; `None` if it
    /// covers it. With `fold`, ASCII letters are compared without regard to case.
    pub(crate) fn first_mismatch(&self, client: &Caller<'_>, fold: bool) -> Option<Mismatch> {
        let same = |a: &str, b: &str| {
            if fold {
                a.eq_ignore_ascii_case(b)
            } else {
                a == b
            }
        };
        let fits = |pattern: &str, name: &str| pattern == WILDCARD || same(pattern, name);
        let origin = match (&self.origin, client.origin) {
            (Origin::Anywhere, _) => None,
            (Origin::Local(pattern), CallerOrigin::Local(partition)) => {
                (!same(pattern, partition)).then_some(Mismatch::Partition)
            }
            (Origin::Peer(pattern), CallerOrigin::Peer(peer)) => {
                (pattern.as_ref() != peer).then_some(Mismatch::Origin)
            }
            _ => Some(Mismatch::Origin),
        };
        origin
            .or_else(|| (!fits(&self.namespace, client.namespace)).then_some(Mismatch::Namespace))
            .or_else(|| (!fits(&self.name, client.name)).then_some(Mismatch::Name))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Anywhere => {
                f.write_str("any origin's ")?;
                write_name(f, DEFAULT, &self.namespace, &self.name)
            }
            Origin::Local(partition) => write_name(f, partition, &self.namespace, &self.name),
            Origin::Peer(peer) => {
                write!(f, "peer {}'s ", Excerpt::of(peer))?;
                write_name(f, DEFAULT, &self.namespace, &self.name)
            }
        }
    }
}

/// The part of a source that does not cover a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    Origin,
    Partition,
    Namespace,
    Name,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Origin => "origin",
            Self::Partition => "partition",
            Self::Namespace => "namespace",
            Self::Name => "name",
        })
    }
}

/// A client whose identity has been read, as intentions see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller<'a> {
    /// Where it comes from.
    pub origin: CallerOrigin<'a>,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its service name.
    pub name: &'a str,
}

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerOrigin<'a> {
    /// This mesh, in this partition.
    Local(&'a str),
    /// The cluster peering of this name.
    Peer(&'a str),
}

impl<'a> Caller<'a> {
    /// A service of this mesh.
    #[must_use]
    pub fn local(path: &'a ServicePath) -> Self {
        Self {
            origin: CallerOrigin::Local(path.partition.as_str()),
            namespace: path.namespace.as_str(),
            name: path.service.as_str(),
        }
    }

    /// A service of a peer.
    #[must_use]
    pub fn of_peer(peer: &'a str, path: &'a ServicePath) -> Self {
        Self {
            origin: CallerOrigin::Peer(peer),
            ..Self::local(path)
        }
    }

    /// Whether it comes from another cluster.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self.origin, CallerOrigin::Peer(_))
    }
}

/// What an index of sources is keyed by: a pattern, or what to look for.
pub(super) trait SourceKey {
    fn key(&self) -> KeyParts<'_>;
}

/// A [`SourceKey`] taken apart.
#[derive(Clone, Copy)]
pub(super) struct KeyParts<'a> {
    pub(super) origin: OriginPart<'a>,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

#[derive(Clone, Copy, Hash)]
pub(super) enum OriginPart<'a> {
    Local(&'a str),
    Peer(&'a str),
    Anywhere,
}

impl PartialEq for KeyParts<'_> {
    fn eq(&self, other: &Self) -> bool {
        let same = |one: &str, other: &str| words::same(one.as_bytes(), other.as_bytes());
        let origins = match (self.origin, other.origin) {
            (OriginPart::Local(one), OriginPart::Local(other))
            | (OriginPart::Peer(one), OriginPart::Peer(other)) => same(one, other),
            (OriginPart::Anywhere, OriginPart::Anywhere) => true,
            _ => false,
        };
        origins && same(self.namespace, other.namespace) && same(self.name, other.name)
    }
}

impl SourceKey for Source {
    fn key(&self) -> KeyParts<'_> {
        let origin = match &self.origin {
            Origin::Local(partition) => OriginPart::Local(partition),
            Origin::Peer(peer) => OriginPart::Peer(peer),
            Origin::Anywhere => OriginPart::Anywhere,
        };
        KeyParts {
            origin,
            namespace: &self.namespace,
            name: &self.name,
        }
    }
}

impl SourceKey for KeyParts<'_> {
    fn key(&self) -> KeyParts<'_> {
        *self
    }
}

impl Hash for KeyParts<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.origin, self.namespace, self.name).hash(state);
    }
}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Hash for dyn SourceKey + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for dyn SourceKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn SourceKey + '_ {}

impl<'a> Borrow<dyn SourceKey + 'a> for Source {
    fn borrow(&self) -> &(dyn SourceKey + 'a) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_folded_and_completed() {
        for (text, key) in [
            ("db", "default/default/db"),
            ("DB", "default/default/db"),
            ("Ns/Db", "default/ns/db"),
            ("Ap/Ns/Db", "ap/ns/db"),
            ("a.b_c-9", "default/default/a.b_c-9"),
        ] {
            let destination = Destination::parse(text).unwrap();
            assert_eq!(destination.key(), key);
            let mut written = "left over".to_owned();
            Destination::write_key(text, &mut written).unwrap();
            assert_eq!(written, key);
            assert_eq!(
                Destination::parse(&destination.to_string()),
                Ok(destination)
            );
        }
    }

    #[test]
    fn what_cannot_name_a_service_is_no_destination() {
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "a/b/c/d",
            "*",
            "we*",
            "d b",
            "db\n",
            "dé",
            "\u{212a}",
            "a%2fb",
            ".",
            "..",
            "default/../db",
            "a+b",
            "db:1",
            "peer:p/db",
        ] {
            assert!(Destination::parse(text).is_err(), "{text:?}");
            assert!(
                Destination::write_key(text, &mut String::new()).is_err(),
                "{text:?}"
            );
        }
        assert!(Destination::parse(&"a".repeat(255)).is_ok());
        assert!(Destination::parse(&"a".repeat(256)).is_err());
    }
}
