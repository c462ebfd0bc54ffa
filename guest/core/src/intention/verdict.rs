//! What an intention, or the default policy, says about a connection or a request.

use std::fmt;

use super::decision::{Effect, Reason};
use super::matcher::Outcome;
use super::model::{Action, Intention, Rule};
use super::pattern::Caller;
use super::set::{IntentionSet, Matching};
use crate::http::Prepared;

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

/// What a connection or a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What to do.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
    /// The deciding intention's place.
    pub intention: Option<u32>,
    /// The deciding permission's place in it.
    pub permission: Option<u32>,
}

impl Verdict {
    const fn by_intention(effect: Effect, reason: Reason, index: u32) -> Self {
        Self {
            effect,
            reason,
            intention: Some(index),
            permission: None,
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

    /// Judges a request of `caller` to a target that speaks HTTP.
    ///
    /// An intention that covers the caller only because strict matching lets it cover
    /// another case can refuse, but an allow must hold without it too.
    #[must_use]
    pub fn judge_request(
        &self,
        caller: &Caller<'_>,
        default: DefaultPolicy,
        request: &Prepared<'_>,
    ) -> Verdict {
        let matching = request.matching();
        let mut covering = self.find(caller, matching);
        while let Some((index, intention)) = covering {
            let verdict = self.by_requests(index, intention, default, request);
            let is_final = matching == Matching::Envoy
                || verdict.effect != Effect::Allow
                || intention.names(caller);
            if is_final {
                return verdict;
            }
            covering = self.find_after(index, caller, matching);
        }
        by_default(default)
    }

    /// What the intention at a place says about a request.
    fn by_requests(
        &self,
        index: u32,
        intention: &Intention,
        default: DefaultPolicy,
        request: &Prepared<'_>,
    ) -> Verdict {
        let decide = |action| match action {
            Action::Allow => Effect::Allow,
            Action::Deny => Effect::Deny,
        };
        let not_judged = Verdict::by_intention(Effect::Deny, Reason::RequestNotJudged, index);
        let permissions = match &intention.rule {
            Rule::Unreadable { .. } => {
                return Verdict::by_intention(Effect::Deny, Reason::UnreadableRule, index);
            }
            Rule::Connection { action, jwt: None } => {
                return Verdict::by_intention(decide(*action), Reason::Intention, index);
            }
            Rule::Connection { jwt: Some(_), .. } | Rule::Requests { jwt: Some(_), .. } => {
                return not_judged;
            }
            Rule::Requests { jwt: None, .. } => self.permissions(index),
        };
        let Some(permissions) = permissions else {
            return Verdict::by_intention(Effect::Deny, Reason::UnreadableRule, index);
        };
        match permissions.decide(request) {
            Outcome::Matched(permission, action) => Verdict {
                permission: Some(permission),
                ..Verdict::by_intention(decide(action), Reason::Permission, index)
            },
            Outcome::NotJudged(permission) => Verdict {
                permission: Some(permission),
                ..not_judged
            },
            Outcome::Nothing => {
                let by_default = by_default(default);
                let reason = match default {
                    DefaultPolicy::Unknown => Reason::DefaultPolicyUnknown,
                    DefaultPolicy::Allow | DefaultPolicy::Deny => Reason::NoPermissionMatched,
                };
                Verdict::by_intention(by_default.effect, reason, index)
            }
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
        permission: None,
    }
}
