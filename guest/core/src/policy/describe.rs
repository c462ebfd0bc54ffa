//! Decisions in one sentence. What others have named is escaped.

use std::fmt::{self, Display as _, Write as _};

use super::Policy;
use crate::identity::Excerpt;
use crate::intention::{Decision, Destination, Effect, Intention, Reason, Rule};

impl Policy {
    /// A decision about `target` in one sentence. Rules are named only if the
    /// decision is of the loaded generation.
    #[must_use]
    pub fn describe(&self, target: &str, decision: &Decision) -> String {
        let destination = Destination::parse(target).ok();
        let service = destination
            .as_ref()
            .and_then(|name| self.services.get(&name.key()));
        let intention = service
            .filter(|_| decision.generation == self.generation)
            .zip(decision.intention)
            .and_then(|(service, index)| service.intentions.get(index));
        let target = fmt::from_fn(|f| match &destination {
            Some(destination) => destination.fmt(f),
            None => Excerpt::of(target).fmt(f),
        });
        let done = match decision.effect {
            Effect::Allow => "allowed",
            Effect::Deny => "denied",
            Effect::BadRequest => "refused as a bad request",
            Effect::Redirect => "redirected",
        };
        let peers = self.mesh.as_ref().map(|mesh| mesh.trust_domain.as_str());
        let mut text = String::with_capacity(128);
        text.push_str(done);
        text.push_str(": ");
        // A string takes whatever is written.
        let _ = because(&mut text, decision, intention, &target, peers);
        text
    }
}

fn because(
    text: &mut String,
    decision: &Decision,
    intention: Option<&Intention>,
    target: &dyn fmt::Display,
    trust_domain: Option<&str>,
) -> fmt::Result {
    let rule = fmt::from_fn(|f| match (intention, decision.intention) {
        (Some(rule), _) => write!(f, "the intention `{rule}`"),
        (None, Some(index)) => write!(f, "intention {index} of `{target}`"),
        (None, None) => write!(f, "an intention of `{target}`"),
    });
    let permission = fmt::from_fn(|f| match decision.permission {
        Some(index) => write!(f, "permission {index}"),
        None => f.write_str("a permission"),
    });
    let permission_of = fmt::from_fn(|f| match decision.permission {
        Some(_) => write!(f, "{permission} of "),
        None => Ok(()),
    });
    let own = fmt::from_fn(|f| match trust_domain {
        Some(name) => write!(f, " `{name}`"),
        None => Ok(()),
    });
    match decision.code {
        Reason::Intention => write!(text, "{rule} matched"),
        Reason::Permission => write!(text, "{permission} of {rule} matched"),
        Reason::NoPermissionMatched => {
            write!(
                text,
                "no permission of {rule} matched, so the default policy decided"
            )
        }
        Reason::DefaultPolicy => {
            write!(
                text,
                "no intention of `{target}` covers the client, so the default policy decided"
            )
        }
        Reason::DefaultPolicyUnknown if decision.intention.is_some() => {
            write!(
                text,
                "nothing of {rule} holds for the request, and the default policy is not known"
            )
        }
        Reason::DefaultPolicyUnknown => write!(
            text,
            "no intention of `{target}` covers the client, and the default policy is not known"
        ),
        Reason::L7IntentionOnTcp => write!(
            text,
            "{rule} has permissions, which say nothing about a TCP connection to `{target}`"
        ),
        Reason::JwtOnTcp => write!(
            text,
            "{rule} allows only with a JWT, which a TCP connection to `{target}` cannot carry"
        ),
        Reason::JwtNotSatisfied => write!(
            text,
            "{permission_of}{rule} asks for a JWT that the request does not carry validly, so the default policy decided"
        ),
        Reason::JwtWithoutEffect => write!(
            text,
            "{permission_of}{rule} decided; the JWT that it asks for has no effect, because its action is the default policy"
        ),
        Reason::UnreadableRule => unreadable(text, intention, &rule),
        Reason::PeerWithoutBundle => write!(
            text,
            "{rule} concerns a peer whose trust bundle is not loaded, so every peer is refused"
        ),
        Reason::RequestNotJudged if decision.intention.is_none() => {
            write!(text, "requests to `{target}` are not judged here")
        }
        Reason::RequestNotJudged => {
            write!(
                text,
                "{rule} asks for something of the request that is not judged here"
            )
        }
        Reason::RequestRequired => {
            write!(
                text,
                "{rule} depends on the request, and the question came without one"
            )
        }
        Reason::BadRequest => text.write_str("the request is malformed or can be read in two ways"),
        Reason::PathRedirect => text.write_str("the path must be asked for in its normalised form"),
        Reason::NoIdentity => text.write_str("the client's certificate has no URI name"),
        Reason::SeveralIdentities => {
            text.write_str("the client's certificate has more than one URI name")
        }
        Reason::MalformedIdentity => text.write_str("the client's URI name is not a SPIFFE ID"),
        Reason::ForeignTrustDomain => {
            write!(
                text,
                "the client belongs neither to the trust domain{own} nor to a loaded peer"
            )
        }
        Reason::NotAService => text.write_str("the client's SPIFFE ID does not name a service"),
        Reason::UnknownTarget => write!(text, "no policy is loaded for `{target}`"),
        Reason::MalformedTarget => write!(text, "`{target}` cannot name a service"),
        Reason::NotReady => text.write_str("the mesh's policy has not been loaded"),
        Reason::Stale => {
            write!(
                text,
                "the policy of `{target}` is older than the staleness budget"
            )
        }
        Reason::PolicyFailed => text.write_str("the policy itself failed"),
    }
}

fn unreadable(
    text: &mut String,
    intention: Option<&Intention>,
    rule: &dyn fmt::Display,
) -> fmt::Result {
    write!(text, "{rule} cannot be read and denies whom it covers")?;
    match intention.map(|intention| &intention.rule) {
        Some(Rule::Unreadable { pointer, text: why }) => write!(text, ": at {pointer}, {why}"),
        _ => Ok(()),
    }
}
