//! Decisions in one sentence. What others have named is escaped.

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
        let target = match &destination {
            Some(destination) => destination.to_string(),
            None => Excerpt::of(target).to_string(),
        };
        let done = match decision.effect {
            Effect::Allow => "allowed",
            Effect::Deny => "denied",
            Effect::BadRequest => "refused as a bad request",
            Effect::Redirect => "redirected",
        };
        let peers = self.mesh.as_ref().map(|mesh| mesh.trust_domain.as_str());
        format!("{done}: {}", because(decision, intention, &target, peers))
    }
}

fn because(
    decision: &Decision,
    intention: Option<&Intention>,
    target: &str,
    trust_domain: Option<&str>,
) -> String {
    let rule = match (intention, decision.intention) {
        (Some(rule), _) => format!("the intention `{rule}`"),
        (None, Some(index)) => format!("intention {index} of `{target}`"),
        (None, None) => format!("an intention of `{target}`"),
    };
    let permission = decision.permission.map_or_else(
        || "a permission".to_owned(),
        |index| format!("permission {index}"),
    );
    let permission_of = match decision.permission {
        Some(_) => format!("{permission} of "),
        None => String::new(),
    };
    let own = trust_domain.map_or_else(String::new, |name| format!(" `{name}`"));
    match decision.code {
        Reason::Intention => format!("{rule} matched"),
        Reason::Permission => format!("{permission} of {rule} matched"),
        Reason::NoPermissionMatched => {
            format!("no permission of {rule} matched, so the default policy decided")
        }
        Reason::DefaultPolicy => {
            format!("no intention of `{target}` covers the client, so the default policy decided")
        }
        Reason::DefaultPolicyUnknown if decision.intention.is_some() => {
            format!("nothing of {rule} holds for the request, and the default policy is not known")
        }
        Reason::DefaultPolicyUnknown => format!(
            "no intention of `{target}` covers the client, and the default policy is not known"
        ),
        Reason::L7IntentionOnTcp => format!(
            "{rule} has permissions, which say nothing about a TCP connection to `{target}`"
        ),
        Reason::JwtOnTcp => format!(
            "{rule} allows only with a JWT, which a TCP connection to `{target}` cannot carry"
        ),
        Reason::JwtNotSatisfied => format!(
            "{permission_of}{rule} asks for a JWT that the request does not carry validly, so the default policy decided"
        ),
        Reason::JwtWithoutEffect => format!(
            "{permission_of}{rule} decided; the JWT that it asks for has no effect, because its action is the default policy"
        ),
        Reason::UnreadableRule => unreadable(intention, &rule),
        Reason::PeerWithoutBundle => format!(
            "{rule} concerns a peer whose trust bundle is not loaded, so every peer is refused"
        ),
        Reason::RequestNotJudged if decision.intention.is_none() => {
            format!("requests to `{target}` are not judged here")
        }
        Reason::RequestNotJudged => {
            format!("{rule} asks for something of the request that is not judged here")
        }
        Reason::RequestRequired => {
            format!("{rule} depends on the request, and the question came without one")
        }
        Reason::BadRequest => "the request is malformed or can be read in two ways".to_owned(),
        Reason::PathRedirect => "the path must be asked for in its normalised form".to_owned(),
        Reason::NoIdentity => "the client's certificate has no URI name".to_owned(),
        Reason::SeveralIdentities => {
            "the client's certificate has more than one URI name".to_owned()
        }
        Reason::MalformedIdentity => "the client's URI name is not a SPIFFE ID".to_owned(),
        Reason::ForeignTrustDomain => {
            format!("the client belongs neither to the trust domain{own} nor to a loaded peer")
        }
        Reason::NotAService => "the client's SPIFFE ID does not name a service".to_owned(),
        Reason::UnknownTarget => format!("no policy is loaded for `{target}`"),
        Reason::MalformedTarget => format!("`{target}` cannot name a service"),
        Reason::NotReady => "the mesh's policy has not been loaded".to_owned(),
        Reason::Stale => {
            format!("the policy of `{target}` is older than the staleness budget")
        }
        Reason::PolicyFailed => "the policy itself failed".to_owned(),
    }
}

fn unreadable(intention: Option<&Intention>, rule: &str) -> String {
    match intention.map(|intention| &intention.rule) {
        Some(Rule::Unreadable { pointer, text }) => {
            format!("{rule} cannot be read and denies whom it covers: at {pointer}, {text}")
        }
        _ => format!("{rule} cannot be read and denies whom it covers"),
    }
}
