//! Between the types of the WIT package and those of the core.
//!
//! `guest/mesh-policy` compiles this file too: its bindings have the same paths.

use portcullis_core::chain::{Usage, VerifiedPeer, VerifyError, VerifyErrorKind};
use portcullis_core::identity::{IdentityError, Kind, SpiffeId};
use portcullis_core::intention::{Decision, Effect, HeaderChange, Reason};
use portcullis_core::policy::{
    Client, Document, HeaderNeeds, HttpVersion, LoadProblem, LoadReport, Request, Step, Trace,
};
use portcullis_core::time::Timestamp;

use crate::bindings::exports::portcullis::mesh::decisions as wit;
use crate::bindings::portcullis::mesh::types;

pub(crate) fn document(document: wit::Document) -> Document {
    Document {
        name: document.name,
        body: document.body,
        confirmed_at: Timestamp::from_millis(document.confirmed_at),
    }
}

pub(crate) fn load_report(report: LoadReport) -> wit::LoadReport {
    let problems = |list: Vec<LoadProblem>| list.into_iter().map(load_problem).collect();
    wit::LoadReport {
        refused: problems(report.refused),
        warnings: problems(report.warnings),
    }
}

fn load_problem(problem: LoadProblem) -> types::LoadProblem {
    types::LoadProblem {
        document: problem.document,
        pointer: problem.pointer,
        text: problem.text,
    }
}

pub(crate) fn client(client: wit::Client) -> Client {
    Client {
        uris: client.uris,
        via_gateway: client.via_gateway,
    }
}

pub(crate) fn request(request: wit::Request) -> Request {
    let version = match request.version {
        types::HttpVersion::Http1 => HttpVersion::Http1,
        types::HttpVersion::Http2 => HttpVersion::Http2,
    };
    Request {
        version,
        method: request.method,
        path: request.path,
        authority: request.authority,
        scheme: request.scheme,
        headers: request.headers,
    }
}

pub(crate) fn usage(usage: wit::Usage) -> Usage {
    match usage {
        wit::Usage::Client => Usage::Client,
        wit::Usage::Server => Usage::Server,
    }
}

pub(crate) fn decision(decision: Decision) -> wit::Decision {
    wit::Decision {
        effect: effect(decision.effect),
        code: reason(decision.code),
        intention: decision.intention,
        permission: decision.permission,
        generation: decision.generation,
        path: decision.path,
        headers: decision
            .headers
            .into_iter()
            .map(|change| types::HeaderChange {
                name: change.name,
                value: change.value,
            })
            .collect(),
    }
}

pub(crate) fn decision_from(decision: wit::Decision) -> Decision {
    Decision {
        effect: match decision.effect {
            types::Effect::Allow => Effect::Allow,
            types::Effect::Deny => Effect::Deny,
            types::Effect::BadRequest => Effect::BadRequest,
            types::Effect::Redirect => Effect::Redirect,
        },
        code: reason_from(decision.code),
        intention: decision.intention,
        permission: decision.permission,
        generation: decision.generation,
        path: decision.path,
        headers: decision
            .headers
            .into_iter()
            .map(|change| HeaderChange {
                name: change.name,
                value: change.value,
            })
            .collect(),
    }
}

fn effect(effect: Effect) -> types::Effect {
    match effect {
        Effect::Allow => types::Effect::Allow,
        Effect::Deny => types::Effect::Deny,
        Effect::BadRequest => types::Effect::BadRequest,
        Effect::Redirect => types::Effect::Redirect,
    }
}

/// Writes both directions, so that neither can forget a reason.
macro_rules! reasons {
    ($($name:ident)*) => {
        fn reason(reason: Reason) -> types::Reason {
            match reason {
                $(Reason::$name => types::Reason::$name,)*
            }
        }

        fn reason_from(reason: types::Reason) -> Reason {
            match reason {
                $(types::Reason::$name => Reason::$name,)*
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

pub(crate) fn verified_peer(peer: VerifiedPeer) -> wit::VerifiedPeer {
    wit::VerifiedPeer {
        identity: identity(&peer.id),
        peer_name: peer.peer.map(|name| name.to_string()),
        serial: peer.serial,
        not_after: peer.not_after.as_millis(),
    }
}

pub(crate) fn verify_error(error: &VerifyError) -> wit::VerifyError {
    wit::VerifyError {
        kind: match error.kind() {
            VerifyErrorKind::Malformed => types::VerifyErrorKind::Malformed,
            VerifyErrorKind::Untrusted => types::VerifyErrorKind::Untrusted,
            VerifyErrorKind::Identity => types::VerifyErrorKind::Identity,
            VerifyErrorKind::Expired => types::VerifyErrorKind::Expired,
            VerifyErrorKind::NotReady => types::VerifyErrorKind::NotReady,
        },
        code: error.code().to_owned(),
        text: error.to_string(),
    }
}

pub(crate) fn identity_error(error: &IdentityError) -> wit::IdentityError {
    wit::IdentityError {
        code: error.code().to_owned(),
        text: error.to_string(),
    }
}

/// The parts of an identity, by the form that it has.
pub(crate) fn identity(id: &SpiffeId) -> wit::Identity {
    let mut parts = wit::Identity {
        uri: id.to_string(),
        kind: types::IdentityKind::Other,
        trust_domain: id.trust_domain().to_string(),
        partition: None,
        namespace: None,
        datacenter: None,
        service: None,
        agent: None,
    };
    match id.kind() {
        Kind::Service(path) => {
            parts.kind = types::IdentityKind::Service;
            parts.partition = Some(path.partition.to_string());
            parts.namespace = Some(path.namespace.to_string());
            parts.datacenter = Some(path.datacenter.to_string());
            parts.service = Some(path.service.to_string());
        }
        Kind::Agent {
            partition,
            datacenter,
            node,
        } => {
            parts.kind = types::IdentityKind::Agent;
            parts.partition = Some(partition.to_string());
            parts.datacenter = Some(datacenter.to_string());
            parts.agent = Some(node.to_string());
        }
        Kind::Server { datacenter } => {
            parts.kind = types::IdentityKind::Server;
            parts.datacenter = Some(datacenter.to_string());
        }
        Kind::MeshGateway {
            partition,
            datacenter,
        } => {
            parts.kind = types::IdentityKind::MeshGateway;
            parts.partition = Some(partition.to_string());
            parts.datacenter = Some(datacenter.to_string());
        }
        Kind::Signing => parts.kind = types::IdentityKind::Signing,
        Kind::Other { .. } => {}
    }
    parts
}

pub(crate) fn header_needs(needs: HeaderNeeds) -> wit::HeaderNeeds {
    match needs {
        HeaderNeeds::None => wit::HeaderNeeds::None,
        HeaderNeeds::Named(names) => wit::HeaderNeeds::Named(names),
        HeaderNeeds::All => wit::HeaderNeeds::All,
    }
}

pub(crate) fn trace(trace: Trace) -> wit::Trace {
    wit::Trace {
        decision: decision(trace.decision),
        text: trace.text,
        source: trace.source.as_ref().map(identity),
        steps: trace.steps.into_iter().map(step).collect(),
        default_policy: trace.default_policy,
        notes: trace.notes,
    }
}

fn step(step: Step) -> types::Step {
    types::Step {
        intention: step.intention,
        precedence: step.precedence,
        rule: step.rule,
        matched: step.matched,
        failed: step.failed,
    }
}
