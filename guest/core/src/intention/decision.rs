//! The answer to a question, and the closed list of reasons.

use std::fmt;

/// What to do with a connection or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Let it through.
    Allow,
    /// Refuse it: close the connection, or answer 403.
    Deny,
    /// The request itself is malformed: answer 400.
    BadRequest,
    /// Answer 307 with [`Decision::path`] as the location.
    Redirect,
}

impl Effect {
    /// The stable name: `allow`, `deny`, `bad-request` or `redirect`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::BadRequest => "bad-request",
            Self::Redirect => "redirect",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Declares [`Reason`] with its codes, so that no list of them can fall behind.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// Why. The list is closed and equal to `reason` in `wit/types.wit`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name that answers and logs carry.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

reasons! {
    /// An L4 intention matched; [`Decision::intention`] says which.
    Intention = "intention",
    /// A permission of an L7 intention matched; [`Decision::permission`] says which.
    Permission = "permission",
    /// An L7 intention matched, none of its permissions did: the default policy decided.
    NoPermissionMatched = "no-permission-matched",
    /// No intention matched: the default policy decided.
    DefaultPolicy = "default-policy",
    /// No intention matched and the default policy is not known: denied.
    DefaultPolicyUnknown = "default-policy-unknown",
    /// The intention that matched has permissions, which say nothing about a TCP connection: denied.
    L7IntentionOnTcp = "l7-intention-on-tcp",
    /// The intention that matched allows only with a JWT, which a TCP connection cannot carry: denied.
    JwtOnTcp = "jwt-on-tcp",
    /// The deciding rule asks for a JWT that the request does not carry validly: the default policy decided.
    JwtNotSatisfied = "jwt-not-satisfied",
    /// The deciding rule asks for a JWT, which has no effect because its action is the default one.
    JwtWithoutEffect = "jwt-without-effect",
    /// The rule that matched could not be read in full: denied.
    UnreadableRule = "unreadable-rule",
    /// An intention denies a peer whose trust bundle is not loaded, so every foreign origin is denied.
    PeerWithoutBundle = "peer-without-bundle",
    /// Requests are not judged in this mode: denied.
    RequestNotJudged = "request-not-judged",
    /// What decides depends on the request, and the question came without one: denied.
    RequestRequired = "request-required",
    /// The request is malformed or can be read in two ways.
    BadRequest = "bad-request",
    /// The request's path must be asked for in its normalised form.
    PathRedirect = "path-redirect",
    /// The client presented no SPIFFE identity.
    NoIdentity = "no-identity",
    /// The client certificate carries more than one URI name.
    SeveralIdentities = "several-identities",
    /// The client's URI name is not a SPIFFE ID.
    MalformedIdentity = "malformed-identity",
    /// The client's trust domain is neither the mesh's own nor a loaded peer's.
    ForeignTrustDomain = "foreign-trust-domain",
    /// The client is a valid SPIFFE identity, but not a service.
    NotAService = "not-a-service",
    /// No policy was loaded for the target.
    UnknownTarget = "unknown-target",
    /// The target's name cannot name a service.
    MalformedTarget = "malformed-target",
    /// Trust domain, roots or intentions have not been loaded yet.
    NotReady = "not-ready",
    /// The policy is older than the staleness budget.
    Stale = "stale",
    /// The policy itself failed (a trap, a limit, a deadline): denied by the host.
    PolicyFailed = "policy-failed",
}

impl Reason {
    /// Every reason, in the order of the WIT.
    #[must_use]
    pub const fn all() -> &'static [Self] {
        Self::ALL
    }

    /// The reason with this code, compared exactly.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A change of the headers that go upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderChange {
    /// Every header of this name, in lower case, is taken out.
    pub name: String,
    /// Then one with this value is put in.
    pub value: Option<Vec<u8>>,
}

/// The answer to one question. A decision is never an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub effect: Effect,
    /// Why.
    pub code: Reason,
    /// The deciding intention: its place in the target's list, highest precedence first, from 0.
    pub intention: Option<u32>,
    /// The deciding permission within that intention, from 0.
    pub permission: Option<u32>,
    /// The generation of the policy that decided.
    pub generation: u64,
    /// The request target that goes upstream where it differs from the one asked
    /// about; for a redirect, its location.
    pub path: Option<Vec<u8>>,
    /// What changes in the headers that go upstream, for an allow: tokens that are used
    /// up, and what is said about them.
    pub headers: Vec<HeaderChange>,
}

impl Decision {
    /// A denial that no intention caused.
    #[must_use]
    pub const fn denied(code: Reason, generation: u64) -> Self {
        Self {
            effect: Effect::Deny,
            code,
            intention: None,
            permission: None,
            generation,
            path: None,
            headers: Vec::new(),
        }
    }

    /// Whether the connection or request may go on.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self.effect, Effect::Allow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lead_back_to_their_reasons() {
        for reason in Reason::all() {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
        }
        assert_eq!(Reason::from_code("Intention"), None);
        assert_eq!(Reason::from_code(""), None);
    }

    #[test]
    fn the_list_is_the_one_of_the_wit() {
        let wit = include_str!("../../../../wit/types.wit");
        let body = wit.split_once("enum reason {").unwrap().1;
        let body = body.split_once('}').unwrap().0;
        let named: Vec<&str> = body
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("///") && !line.is_empty())
            .map(|line| line.trim_end_matches(','))
            .collect();
        let ours: Vec<&str> = Reason::all().iter().map(|reason| reason.code()).collect();
        assert_eq!(named, ours);
    }
}
