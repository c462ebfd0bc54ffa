//! Between the types of the core and those of the WIT package.
//!
//! Arguments are borrowed, so that a question costs no copy on this side. Answers
//! are checked where they claim more than their type says.

use portcullis_core::chain::{Usage, VerifiedPeer, VerifyErrorKind};
use portcullis_core::identity::{PeerName, SpiffeId};
use portcullis_core::intention::{Decision, Effect, HeaderChange, Reason};
use portcullis_core::policy::{
    Document, HeaderNeeds, HttpVersion, LoadProblem, LoadReport, Request, Step, Trace,
};
use portcullis_core::time::Timestamp;

use super::answer::{Failure, IdentityError, VerifyError, bounded};
use super::bindings::portcullis::mesh::types as wit;

pub(super) fn document(document: &Document) -> wit::Document<'_> {
    wit::Document {
        name: &document.name,
        body: document.body.as_deref(),
        confirmed_at: document.confirmed_at.as_millis(),
    }
}

pub(super) fn request(request: &Request) -> wit::Request<'_> {
    wit::Request {
        version: match request.version {
            HttpVersion::Http1 => wit::HttpVersion::Http1,
            HttpVersion::Http2 => wit::HttpVersion::Http2,
        },
        method: &request.method,
        path: &request.path,
        authority: request.authority.as_deref(),
        scheme: request.scheme.as_deref(),
        headers: &request.headers,
    }
}

pub(super) fn usage(usage: Usage) -> wit::Usage {
    match usage {
        Usage::Client => wit::Usage::Client,
        Usage::Server => wit::Usage::Server,
    }
}

pub(super) fn load_report(report: wit::LoadReport) -> LoadReport {
    let problems = |list: Vec<wit::LoadProblem>| {
        list.into_iter()
            .map(|problem| LoadProblem {
                document: bounded(problem.document),
                pointer: bounded(problem.pointer),
                text: bounded(problem.text),
            })
            .collect()
    };
    LoadReport {
        refused: problems(report.refused),
        warnings: problems(report.warnings),
    }
}

pub(super) fn decision(decision: wit::DecisionResult) -> Decision {
    Decision {
        effect: match decision.effect {
            wit::Effect::Allow => Effect::Allow,
            wit::Effect::Deny => Effect::Deny,
            wit::Effect::BadRequest => Effect::BadRequest,
            wit::Effect::Redirect => Effect::Redirect,
        },
        code: reason(decision.code),
        intention: decision.intention,
        permission: decision.permission,
        generation: decision.generation,
        path: decision.path,
        headers: decision
            .headers
            .into_iter()
            .map(|change| HeaderChange {
                name: bounded(change.name),
                value: change.value,
            })
            .collect(),
    }
}

pub(super) fn decision_param(decision: &Decision) -> wit::DecisionParam<'_> {
    wit::DecisionParam {
        effect: match decision.effect {
            Effect::Allow => wit::Effect::Allow,
            Effect::Deny => wit::Effect::Deny,
            Effect::BadRequest => wit::Effect::BadRequest,
            Effect::Redirect => wit::Effect::Redirect,
        },
        code: reason_param(decision.code),
        intention: decision.intention,
        permission: decision.permission,
        generation: decision.generation,
        path: decision.path.as_deref(),
        // No sentence is about them.
        headers: &[],
    }
}

/// Writes both directions, so that neither can forget a reason.
macro_rules! reasons {
    ($($name:ident)*) => {
        fn reason(reason: wit::Reason) -> Reason {
            match reason {
                $(wit::Reason::$name => Reason::$name,)*
            }
        }

        fn reason_param(reason: Reason) -> wit::Reason {
            match reason {
                $(Reason::$name => wit::Reason::$name,)*
            }
        }
    };
}

reasons! {
    Intention Permission NoPermissionMatched DefaultPolicy DefaultPolicyUnknown L7IntentionOnTcp JwtOnTcp
    JwtNotSatisfied JwtWithoutEffect UnreadableRule PeerWithoutBundle RequestNotJudged RequestRequired
    BadRequest PathRedirect NoIdentity SeveralIdentities MalformedIdentity ForeignTrustDomain NotAService
    UnknownTarget MalformedTarget NotReady Stale PolicyFailed
}

/// The identity is read again here: its parts may be used to dial and to compare.
pub(super) fn verified_peer(
    peer: wit::VerifiedPeer,
    expected: Option<&str>,
) -> Result<VerifiedPeer, Failure> {
    let id = SpiffeId::parse(&peer.identity.uri).map_err(|error| {
        Failure(format!(
            "it verified a peer whose identity is none: {error}"
        ))
    })?;
    if expected.is_some_and(|expected| expected != peer.identity.uri) {
        return Err(Failure(
            "it verified a peer with another identity than the expected one".to_owned(),
        ));
    }
    let name = peer.peer_name.as_deref().map(PeerName::parse).transpose();
    Ok(VerifiedPeer {
        id,
        peer: name.map_err(|error| {
            Failure(format!(
                "it verified a peer of a cluster with an impossible name: {error}"
            ))
        })?,
        serial: bounded(peer.serial),
        not_after: Timestamp::from_millis(peer.not_after),
    })
}

pub(super) fn verify_error(error: wit::VerifyError) -> VerifyError {
    let kind = match error.kind {
        wit::VerifyErrorKind::Malformed => VerifyErrorKind::Malformed,
        wit::VerifyErrorKind::Untrusted => VerifyErrorKind::Untrusted,
        wit::VerifyErrorKind::Identity => VerifyErrorKind::Identity,
        wit::VerifyErrorKind::Expired => VerifyErrorKind::Expired,
        wit::VerifyErrorKind::NotReady => VerifyErrorKind::NotReady,
    };
    VerifyError::new(kind, error.code, error.text)
}

pub(super) fn identity(identity: &wit::Identity) -> Result<SpiffeId, Failure> {
    SpiffeId::parse(&identity.uri)
        .map_err(|error| Failure(format!("it read an identity that is none: {error}")))
}

pub(super) fn identity_error(error: wit::IdentityError) -> IdentityError {
    IdentityError::new(error.code, error.text)
}

pub(super) fn header_needs(needs: wit::HeaderNeeds) -> HeaderNeeds {
    match needs {
        wit::HeaderNeeds::None => HeaderNeeds::None,
        wit::HeaderNeeds::Named(names) => HeaderNeeds::Named(names),
        wit::HeaderNeeds::All => HeaderNeeds::All,
    }
}

pub(super) fn trace(trace: wit::Trace) -> Result<Trace, Failure> {
    Ok(Trace {
        decision: decision(trace.decision),
        text: bounded(trace.text),
        source: trace.source.as_ref().map(identity).transpose()?,
        steps: trace.steps.into_iter().map(step).collect(),
        default_policy: bounded(trace.default_policy),
        notes: trace.notes.into_iter().map(bounded).collect(),
    })
}

fn step(step: wit::Step) -> Step {
    Step {
        intention: step.intention,
        precedence: step.precedence,
        rule: bounded(step.rule),
        matched: step.matched,
        failed: step.failed.map(bounded),
    }
}
