//! What an intention, or the default policy, says about a connection or a request.

use std::fmt;

use super::decision::{Effect, Reason};
use super::matcher::Matched;
use super::model::{Action, Intention, Rule};
use super::pattern::Caller;
use super::permission::Jwt;
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

/// The tokens of a request.
pub trait Tokens {
    /// Whether they meet the requirement of a rule with this action.
    fn is_met(&self, requirement: &Jwt, action: Action) -> bool;
}

/// What the JWT requirements of a rule mean for a request that it covers.
enum Held {
    /// There are none, or they are met: the rule decides.
    Yes,
    /// The rule's action is the default one anyway.
    WithoutEffect,
    /// One is not met: the default policy decides.
    No,
}

impl Held {
    /// A token can only restrict an action that is not the default one.
    fn of<'j>(
        mut requirements: impl Iterator<Item = &'j Jwt>,
        action: Action,
        default: DefaultPolicy,
        tokens: &dyn Tokens,
    ) -> Self {
        let Some(first) = requirements.next() else {
            return Self::Yes;
        };
        match (action, default) {
            (Action::Allow, DefaultPolicy::Allow) | (Action::Deny, DefaultPolicy::Deny) => {
                Self::WithoutEffect
            }
            _ if std::iter::once(first)
                .chain(requirements)
                .all(|jwt| tokens.is_met(jwt, action)) =>
            {
                Self::Yes
            }
            _ => Self::No,
        }
    }

    fn verdict(self, action: Action, reason: Reason, default: DefaultPolicy, at: u32) -> Verdict {
        let effect = match action {
            Action::Allow => Effect::Allow,
            Action::Deny => Effect::Deny,
        };
        let (effect, reason) = match self {
            Self::Yes => (effect, reason),
            Self::WithoutEffect => (effect, Reason::JwtWithoutEffect),
            Self::No => otherwise(default, Reason::JwtNotSatisfied),
        };
        Verdict::by_intention(effect, reason, at)
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
        tokens: &dyn Tokens,
    ) -> Verdict {
        let matching = request.matching();
        let mut covering = self.find(caller, matching);
        while let Some((index, intention)) = covering {
            let verdict = self.by_requests(index, intention, default, request, tokens);
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
        tokens: &dyn Tokens,
    ) -> Verdict {
        let (rules, own) = match &intention.rule {
            Rule::Unreadable { .. } => {
                return Verdict::by_intention(Effect::Deny, Reason::UnreadableRule, index);
            }
            Rule::Connection { action, jwt } => {
                return Held::of(jwt.iter(), *action, default, tokens).verdict(
                    *action,
                    Reason::Intention,
                    default,
                    index,
                );
            }
            Rule::Requests { permissions, jwt } => (permissions, jwt),
        };
        let Some(permissions) = self.permissions(index) else {
            return Verdict::by_intention(Effect::Deny, Reason::UnreadableRule, index);
        };
        let requirements = |place: u32| {
            let rule = usize::try_from(place)
                .ok()
                .and_then(|place| rules.get(place));
            own.iter().chain(rule.and_then(|rule| rule.jwt.as_ref()))
        };
        let asks = |place| requirements(place).next().is_some();
        let mut passed_over = None;
        for Matched {
            place,
            action,
            is_certain,
        } in permissions.matching(request, asks)
        {
            let held = Held::of(requirements(place), action, default, tokens);
            let is_unmet = matches!(held, Held::No);
            // An allow that does not match in all readings does not hold; but where it matches
            // in one and its token is missing, no later permission may allow instead.
            if !is_certain && !is_unmet {
                continue;
            }
            let verdict = Verdict {
                permission: Some(place),
                ..held.verdict(action, Reason::Permission, default, index)
            };
            // A denial that matches in another reading only, and whose token is missing,
            // must not end with an allow what a later permission denies.
            if is_unmet
                && verdict.effect == Effect::Allow
                && !permissions.matches_as_envoy(place, request)
            {
                passed_over = passed_over.or(Some(verdict));
                continue;
            }
            return verdict;
        }
        passed_over.unwrap_or_else(|| {
            let (effect, reason) = otherwise(default, Reason::NoPermissionMatched);
            Verdict::by_intention(effect, reason, index)
        })
    }
}

/// What the default policy says where a rule covers the client, but does not decide.
const fn otherwise(default: DefaultPolicy, reason: Reason) -> (Effect, Reason) {
    match default {
        DefaultPolicy::Allow => (Effect::Allow, reason),
        DefaultPolicy::Deny => (Effect::Deny, reason),
        DefaultPolicy::Unknown => (Effect::Deny, Reason::DefaultPolicyUnknown),
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
