//! What an intention, or the default policy, says about a connection.

use std::fmt;

use super::decision::{Effect, Reason};
use super::model::{Action, Rule};
use super::pattern::Caller;
use super::set::{IntentionSet, Matching};

/// What holds when no intention matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DefaultPolicy {
    /// Allow.
    Allow,
    /// Deny.
    Deny,
    /// Not known: deny, with a reason of its own.
    #[default]
    Unknown,
}

impl DefaultPolicy {
    /// The stable name: `allow`, `deny` or `unknown`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unknown => "unknown",
        }
    }

    /// The policy with this code, compared exactly.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        [Self::Allow, Self::Deny, Self::Unknown]
            .into_iter()
            .find(|policy| policy.code() == code)
    }
}

impl fmt::Display for DefaultPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What a destination speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Anything over TCP.
    #[default]
    Tcp,
    /// HTTP/1.1.
    Http,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// The name that Consul uses.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }

    /// The protocol with this name, compared exactly.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        [Self::Tcp, Self::Http, Self::Http2, Self::Grpc]
            .into_iter()
            .find(|protocol| protocol.code() == code)
    }

    /// Whether requests are judged one by one.
    #[must_use]
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp)
    }
}

/// What a connection meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
    /// The deciding intention's place.
    pub intention: Option<u32>,
}

impl Verdict {
    const fn by_intention(effect: Effect, reason: Reason, index: u32) -> Self {
        Self {
            effect,
            reason,
            intention: Some(index),
        }
    }
}

impl IntentionSet {
    /// Judges a connection of `caller`.
    ///
    /// For a target that speaks HTTP the answer holds for every request on the
    /// connection: it is an allow only if what decides says nothing about requests.
    #[must_use]
    pub fn judge(
        &self,
        caller: &Caller<'_>,
        protocol: Protocol,
        default: DefaultPolicy,
        matching: Matching,
    ) -> Verdict {
        match self.find(caller, matching) {
            Some((index, intention)) => by_rule(&intention.rule, protocol, index),
            None => by_default(default),
        }
    }
}

fn by_rule(rule: &Rule, protocol: Protocol, index: u32) -> Verdict {
    let deny = |reason| Verdict::by_intention(Effect::Deny, reason, index);
    match (rule, protocol.is_http()) {
        (Rule::Unreadable { .. }, _) => deny(Reason::UnreadableRule),
        (Rule::Requests { .. } | Rule::Connection { jwt: Some(_), .. }, true) => {
            deny(Reason::RequestRequired)
        }
        (Rule::Requests { .. }, false) => deny(Reason::L7IntentionOnTcp),
        (
            Rule::Connection {
                action: Action::Deny,
                ..
            },
            _,
        ) => deny(Reason::Intention),
        (
            Rule::Connection {
                action: Action::Allow,
                jwt: Some(_),
            },
            false,
        ) => deny(Reason::JwtOnTcp),
        (
            Rule::Connection {
                action: Action::Allow,
                jwt: None,
            },
            _,
        ) => Verdict::by_intention(Effect::Allow, Reason::Intention, index),
    }
}

const fn by_default(default: DefaultPolicy) -> Verdict {
    let (effect, reason) = match default {
        DefaultPolicy::Allow => (Effect::Allow, Reason::DefaultPolicy),
        DefaultPolicy::Deny => (Effect::Deny, Reason::DefaultPolicy),
        DefaultPolicy::Unknown => (Effect::Deny, Reason::DefaultPolicyUnknown),
    };
    Verdict {
        effect,
        reason,
        intention: None,
    }
}
