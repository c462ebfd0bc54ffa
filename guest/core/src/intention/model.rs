//! One intention, in full: nothing that the agent says is dropped.

use std::fmt;

use super::pattern::{Caller, DestinationPattern, Source};
use super::permission::{Jwt, Permission};
use super::set::Matching;
use crate::identity::Excerpt;

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Let it through.
    Allow,
    /// Refuse it.
    Deny,
}

impl Action {
    /// As Consul writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// Exactly `allow` or `deny`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "allow" => Some(Self::Allow),
            "deny" => Some(Self::Deny),
            _ => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an intention says about the clients that it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One action for everything (layer 4).
    Connection {
        /// The action.
        action: Action,
        /// Asked for in addition.
        jwt: Option<Jwt>,
    },
    /// Actions by request (layer 7), tried in order.
    Requests {
        /// The permissions; at least one.
        permissions: Vec<Permission>,
        /// Asked for in addition to those of the permissions.
        jwt: Option<Jwt>,
    },
    /// Something that decides could not be read: denies whatever reaches it.
    Unreadable {
        /// Where in the list, as a JSON pointer.
        pointer: String,
        /// What is wrong; printable.
        text: String,
    },
}

impl Rule {
    /// Whether the rule does nothing but allow connections. Everything else refuses
    /// at least something, and counts as a denial where a denial reaches further.
    #[must_use]
    pub const fn only_allows(&self) -> bool {
        matches!(
            self,
            Self::Connection {
                action: Action::Allow,
                ..
            }
        )
    }

    /// Among rules with the same names, the lower rank is considered first.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::Unreadable { .. } => 0,
            Self::Requests { .. } => 1,
            Self::Connection {
                action: Action::Deny,
                jwt: None,
            } => 2,
            Self::Connection {
                action: Action::Deny,
                jwt: Some(_),
            } => 3,
            Self::Connection {
                action: Action::Allow,
                jwt: Some(_),
            } => 4,
            Self::Connection {
                action: Action::Allow,
                jwt: None,
            } => 5,
        }
    }
}

/// What an intention says about itself. None of it decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// For people.
    pub description: Option<String>,
    /// Identifier of an intention made by the old API.
    pub legacy_id: Option<String>,
    /// Free pairs, in the order of the reply.
    pub meta: Vec<(String, String)>,
    /// When an intention of the old API was made.
    pub created_at: Option<String>,
    /// When an intention of the old API was last changed.
    pub updated_at: Option<String>,
    /// Content hash of an intention of the old API.
    pub hash: Option<String>,
    /// The precedence that the reply states. Ours is computed.
    pub stated_precedence: Option<u64>,
    /// Raft index of the config entry's creation.
    pub create_index: Option<u64>,
    /// Raft index of the config entry's last change.
    pub modify_index: Option<u64>,
}

/// One intention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intention {
    /// Whom it covers.
    pub source: Source,
    /// Which services it is about; `None` if that could not be read.
    pub destination: Option<DestinationPattern>,
    /// What it says.
    pub rule: Rule,
    /// From 9 (most exact) to 1, computed from the names.
    pub precedence: u32,
    /// Whether it is about the target of its list. Others never decide.
    pub covers_target: bool,
    /// Its place in the reply.
    pub place: u32,
    /// What it says about itself.
    pub description: Description,
}

impl Intention {
    /// Whether it covers a client: with strict matching, a rule that may refuse something
    /// also covers ASCII case variants of its source.
    #[must_use]
    pub fn covers(&self, caller: &Caller<'_>, matching: Matching) -> bool {
        let fold = matching == Matching::Strict && !self.rule.only_allows();
        self.covers_target && self.source.first_mismatch(caller, fold).is_none()
    }

    /// Whether its source is the client's, letter by letter.
    #[must_use]
    pub fn names(&self, caller: &Caller<'_>) -> bool {
        self.covers_target && self.source.first_mismatch(caller, false).is_none()
    }
}

/// The rule in words, for example `web -> db: allow`; printable.
impl fmt::Display for Intention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> ", self.source)?;
        match &self.destination {
            Some(destination) => destination.fmt(f)?,
            None => f.write_str("(unreadable)")?,
        }
        match &self.rule {
            Rule::Connection { action, jwt: None } => write!(f, ": {action}"),
            Rule::Connection {
                action,
                jwt: Some(_),
            } => write!(f, ": {action} with JWT"),
            Rule::Requests { permissions, jwt } => {
                write!(f, ": {} permissions", permissions.len())?;
                f.write_str(if jwt.is_some() { " with JWT" } else { "" })
            }
            Rule::Unreadable { .. } => f.write_str(": unreadable"),
        }
    }
}

/// Names for people: the default partition and namespace are left out, and
/// whatever is no plain text is escaped.
pub(super) fn write_name(
    f: &mut fmt::Formatter<'_>,
    partition: &str,
    namespace: &str,
    name: &str,
) -> fmt::Result {
    let plain = |part: &str| Excerpt::of(part);
    if partition != super::pattern::DEFAULT {
        write!(
            f,
            "{}/{}/{}",
            plain(partition),
            plain(namespace),
            plain(name)
        )
    } else if namespace != super::pattern::DEFAULT {
        write!(f, "{}/{}", plain(namespace), plain(name))
    } else {
        write!(f, "{}", plain(name))
    }
}
