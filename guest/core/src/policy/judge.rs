//! The order in which a question is answered.
//!
//! Whether there is a policy, whether it is fresh, who the client is, and only then
//! what the intentions say.

use std::cell::OnceCell;

use super::mesh::{Home, Mesh};
use super::question::Client;
use super::recent::Recent;
use super::service::Service;
use super::tokens::{KeySets, RequestTokens};
use super::xfcc::{self, Unnamed};
use crate::http::{BadRequest, Preparation, Prepared, RequestRef};
use crate::identity::{IdentityError, Kind, PeerName, SpiffeId};
use crate::intention::{Caller, Decision, Effect, HeaderChange, Reason, Verdict};
use crate::time::Timestamp;
use crate::words::same;

/// What becomes of a question.
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    /// The target that goes upstream where it is not the one that arrived; the location
    /// of a redirection.
    pub(super) path: Option<Vec<u8>>,
    /// What changes in its headers.
    pub(super) headers: Vec<HeaderChange>,
}

impl From<Verdict> for Judgement {
    fn from(verdict: Verdict) -> Self {
        Self {
            verdict,
            path: None,
            headers: Vec::new(),
        }
    }
}

impl Judgement {
    pub(super) fn into_decision(self, generation: u64) -> Decision {
        Decision {
            effect: self.verdict.effect,
            code: self.verdict.reason,
            intention: self.verdict.intention,
            permission: self.verdict.permission,
            generation,
            path: self.path,
            headers: self.headers,
        }
    }

    /// A request that no rule is asked about.
    fn unasked(effect: Effect, reason: Reason) -> Self {
        Self::from(Verdict {
            effect,
            ..refused(reason)
        })
    }
}

/// A question about a target whose documents are loaded.
pub(super) struct Asked<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) key_sets: &'a KeySets,
    pub(super) service: &'a Service,
    pub(super) client: &'a Client,
    pub(super) request: Option<RequestRef<'a>>,
    pub(super) now: Timestamp,
}

/// Answers it.
pub(super) fn judge(asked: &Asked<'_>, recent: &mut Recent) -> Judgement {
    let (mesh, service, client) = (asked.mesh, asked.service, asked.client);
    let documents = [&mesh.freshness, &service.freshness];
    if documents
        .iter()
        .any(|document| document.is_stale(asked.now, mesh.max_stale))
    {
        return refused(Reason::Stale).into();
    }
    let request = asked.request.filter(|_| service.protocol.is_http());
    if let Some(caller) = local_service(mesh, client, recent) {
        return judge_caller(asked, &caller, request);
    }
    let identified = match identify_for(mesh, client, request) {
        Ok(identified) => identified,
        Err(unidentified) => return refused(unidentified.reason).into(),
    };
    let Some(caller) = identified.caller() else {
        return refused(Reason::NotAService).into();
    };
    if let (true, Some(index)) = (caller.is_foreign(), service.orphan_denial) {
        return Judgement::from(Verdict {
            intention: Some(index),
            ..refused(Reason::PeerWithoutBundle)
        });
    }
    judge_caller(asked, &caller, request)
}

/// Answers a question about a client whose identity is known.
fn judge_caller(
    asked: &Asked<'_>,
    caller: &Caller<'_>,
    request: Option<RequestRef<'_>>,
) -> Judgement {
    let (mesh, service) = (asked.mesh, asked.service);
    let default = mesh.default_policy;
    let Some(request) = request else {
        let (protocol, matching) = (service.protocol, mesh.matching);
        return service
            .intentions
            .judge(caller, protocol, default, matching)
            .into();
    };
    let prepared = match prepare(mesh, request) {
        Ok(Preparation::Judged(prepared)) => prepared,
        Ok(Preparation::Redirect(location)) => {
            return Judgement {
                path: Some(location),
                ..Judgement::unasked(Effect::Redirect, Reason::PathRedirect)
            };
        }
        Err(_) => return Judgement::unasked(Effect::BadRequest, Reason::BadRequest),
    };
    let tokens = RequestTokens {
        mesh,
        key_sets: asked.key_sets,
        request: &prepared,
        now: asked.now,
        verifier: OnceCell::new(),
    };
    let intentions = &service.intentions;
    let verdict = intentions.judge_request(caller, default, &prepared, &tokens);
    if verdict.effect != Effect::Allow {
        return verdict.into();
    }
    let deciding = verdict.intention.and_then(|index| intentions.get(index));
    let rule = deciding.map(|intention| &intention.rule);
    let (path, headers) = tokens.upstream(rule, verdict.permission);
    Judgement {
        path: path.or_else(|| prepared.changed_target().map(<[u8]>::to_vec)),
        headers,
        ..verdict.into()
    }
}

/// A request in the form in which it is judged, by the rules of the mesh.
pub(super) fn prepare<'r>(
    mesh: &Mesh,
    request: RequestRef<'r>,
) -> Result<Preparation<'r>, BadRequest> {
    let preparation = Prepared::read(request, &mesh.normalization, mesh.matching)?;
    match &preparation {
        Preparation::Judged(prepared)
            if mesh.refuse_ambiguous_paths && !prepared.other_paths().is_empty() =>
        {
            Err(BadRequest::Ambiguous)
        }
        _ => Ok(preparation),
    }
}

/// The client, if it is a service of this mesh: what nearly all are, and most have
/// asked before. For all others [`identify`] says what they are.
fn local_service<'r>(mesh: &Mesh, client: &Client, recent: &'r mut Recent) -> Option<Caller<'r>> {
    let [uri] = client.uris.as_slice() else {
        return None;
    };
    let id = recent.identity(uri)?;
    let names = [id.trust_domain(), &mesh.trust_domain];
    let [of_client, own] = names.map(|name| name.as_str().as_bytes());
    if !same(of_client, own) {
        return None;
    }
    id.service().map(Caller::local)
}

const fn refused(reason: Reason) -> Verdict {
    Verdict {
        effect: Effect::Deny,
        reason,
        intention: None,
        permission: None,
    }
}

/// A client that is a service of the mesh or of a loaded peer.
pub(super) struct Identified<'m> {
    pub(super) id: SpiffeId,
    pub(super) peer: Option<&'m PeerName>,
}

impl Identified<'_> {
    /// The client, as intentions see it.
    pub(super) fn caller(&self) -> Option<Caller<'_>> {
        let path = self.id.service()?;
        Some(match self.peer {
            Some(peer) => Caller::of_peer(peer.as_str(), path),
            None => Caller::local(path),
        })
    }
}

/// A client that is no service whose connections intentions are about.
pub(super) struct Unidentified {
    pub(super) reason: Reason,
    /// What the certificate names, as far as it could be read.
    pub(super) id: Option<SpiffeId>,
    /// The rule that its name breaks.
    pub(super) error: Option<IdentityError>,
    /// What else a reader should know.
    pub(super) note: Option<&'static str>,
}

impl Unidentified {
    const fn because(reason: Reason) -> Self {
        Self {
            reason,
            id: None,
            error: None,
            note: None,
        }
    }
}

/// Who sends a request, or opens a connection if there is none: the client, or the
/// service of a peer that a local mesh gateway names.
pub(super) fn identify_for<'m>(
    mesh: &'m Mesh,
    client: &Client,
    request: Option<RequestRef<'_>>,
) -> Result<Identified<'m>, Unidentified> {
    let identified = identify(mesh, client);
    let (Err(unidentified), Some(_), Some(header)) = (&identified, request, &client.via_gateway)
    else {
        return identified;
    };
    let is_local_gateway = unidentified.id.as_ref().is_some_and(|id| {
        *id.trust_domain() == mesh.trust_domain && matches!(id.kind(), Kind::MeshGateway { .. })
    });
    if !is_local_gateway {
        return identified;
    }
    let id = xfcc::identity(header).map_err(|unnamed| match unnamed {
        Unnamed::Malformed(note) => Unidentified {
            note: Some(note),
            ..Unidentified::because(Reason::MalformedIdentity)
        },
        Unnamed::NoUri => Unidentified::because(Reason::NoIdentity),
        Unnamed::SeveralUris => Unidentified::because(Reason::SeveralIdentities),
        Unnamed::NotSpiffe(error) => Unidentified {
            error: Some(error),
            ..Unidentified::because(Reason::MalformedIdentity)
        },
    })?;
    let because = |reason, note| Unidentified {
        note: Some(note),
        ..Unidentified::because(reason)
    };
    match mesh.home(&id) {
        Home::Peer(peer) if id.service().is_some() => Ok(Identified {
            id,
            peer: Some(peer),
        }),
        Home::Peer(_) => Err(Unidentified {
            id: Some(id),
            ..because(
                Reason::NotAService,
                "the gateway names a peer's identity that is no service",
            )
        }),
        Home::Local => Err(Unidentified {
            id: Some(id),
            ..because(
                Reason::NotAService,
                "the gateway names an identity of this mesh, but can vouch for peers only",
            )
        }),
        Home::OtherPartition | Home::Foreign => Err(Unidentified {
            id: Some(id),
            ..Unidentified::because(Reason::ForeignTrustDomain)
        }),
    }
}

/// Who the client is. Exactly one URI name counts; several are never tried in turn.
pub(super) fn identify<'m>(
    mesh: &'m Mesh,
    client: &Client,
) -> Result<Identified<'m>, Unidentified> {
    let uri = match client.uris.as_slice() {
        [] => return Err(Unidentified::because(Reason::NoIdentity)),
        [uri] => uri,
        _ => return Err(Unidentified::because(Reason::SeveralIdentities)),
    };
    let id = SpiffeId::parse(uri).map_err(|error| Unidentified {
        error: Some(error),
        ..Unidentified::because(Reason::MalformedIdentity)
    })?;
    let peer = match mesh.home(&id) {
        Home::Local => None,
        Home::Peer(name) => Some(name),
        Home::OtherPartition | Home::Foreign => {
            let because = Unidentified::because(Reason::ForeignTrustDomain);
            return Err(Unidentified {
                id: Some(id),
                ..because
            });
        }
    };
    if id.service().is_none() {
        return Err(Unidentified {
            id: Some(id),
            ..Unidentified::because(Reason::NotAService)
        });
    }
    Ok(Identified { id, peer })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The short cut reads the same caller as the whole way.
    #[test]
    fn a_local_service_is_the_same_by_either_way() {
        let mut warnings = Vec::new();
        let body = br#"{"trust_domain": "t.consul", "roots": [], "default_policy": "deny"}"#;
        let mesh = Mesh::read(body, Timestamp::from_millis(0), &mut warnings).unwrap();
        let mut short = 0;
        for uri in [
            "spiffe://t.consul/ns/default/dc/dc1/svc/web",
            "spiffe://t.consul/ns/Other/dc/dc1/svc/We.b",
            "spiffe://t.consul/ap/default/ns/default/dc/dc1/svc/web",
            "spiffe://t.consul/ap/one/ns/default/dc/dc1/svc/web",
            "spiffe://t.consul/ap/One/ns/default/dc/dc1/svc/web",
            "spiffe://t.consul/ns/default/dc/dc1/svc/web/more",
            "spiffe://t.consul/ns/default/dc/dc1/svc",
            "spiffe://t.consul/gateway/mesh/dc/dc1",
            "spiffe://t.consul",
            "spiffe://other.consul/ns/default/dc/dc1/svc/web",
            "spiffe://T.consul/ns/default/dc/dc1/svc/web",
            "spiffe://t.consul/ns/default/dc/dc1/svc/w%65b",
            "SPIFFE://t.consul/ns/default/dc/dc1/svc/web",
            "",
        ] {
            let client = Client::from_uri(uri);
            let mut recent = Recent::new();
            let identified = identify(&mesh, &client).ok();
            let whole = identified.as_ref().and_then(Identified::caller);
            if let Some(caller) = local_service(&mesh, &client, &mut recent) {
                assert_eq!(Some(caller), whole, "{uri}");
                short += 1;
            }
        }
        assert_eq!(short, 5);
        let two = Client {
            uris: vec!["spiffe://t.consul/ns/default/dc/dc1/svc/web".to_owned(); 2],
            via_gateway: None,
        };
        assert_eq!(local_service(&mesh, &two, &mut Recent::new()), None);
    }
}
