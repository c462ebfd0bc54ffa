//! The order in which a question is answered.
//!
//! Whether there is a policy, whether it is fresh, who the client is, and only then
//! what the intentions say.

use super::mesh::{Home, Mesh};
use super::question::{Client, Request};
use super::recent::Recent;
use super::service::Service;
use crate::identity::{IdentityError, Kind, PeerName, SpiffeId};
use crate::intention::{Caller, Effect, Reason, Verdict};
use crate::time::Timestamp;

/// Answers a question about a target whose documents are loaded.
pub(super) fn judge(
    mesh: &Mesh,
    service: &Service,
    client: &Client,
    request: Option<&Request>,
    now: Timestamp,
    recent: &mut Recent,
) -> Verdict {
    let documents = [&mesh.freshness, &service.freshness];
    if documents
        .iter()
        .any(|document| document.is_stale(now, mesh.max_stale))
    {
        return refused(Reason::Stale);
    }
    let is_judged_by_request = request.is_some() && service.protocol.is_http();
    if let Some(caller) = local_service(mesh, client, recent) {
        if is_judged_by_request {
            return refused(Reason::RequestNotJudged);
        }
        return service.intentions.judge(
            &caller,
            service.protocol,
            mesh.default_policy,
            mesh.matching,
        );
    }
    let identified = match identify(mesh, client) {
        Ok(identified) => identified,
        Err(unidentified) => {
            // The client behind a gateway is named by the request.
            let by_request = is_judged_by_request && unidentified.is_gateway_with_header;
            return refused(if by_request {
                Reason::RequestNotJudged
            } else {
                unidentified.reason
            });
        }
    };
    if is_judged_by_request {
        return refused(Reason::RequestNotJudged);
    }
    let Some(caller) = identified.caller() else {
        return refused(Reason::NotAService);
    };
    if let (true, Some(index)) = (caller.is_foreign(), service.orphan_denial) {
        return Verdict {
            intention: Some(index),
            ..refused(Reason::PeerWithoutBundle)
        };
    }
    service.intentions.judge(
        &caller,
        service.protocol,
        mesh.default_policy,
        mesh.matching,
    )
}

/// The client, if it is a service of this mesh: what nearly all are, and most have
/// asked before. For all others [`identify`] says what they are.
fn local_service<'r>(mesh: &Mesh, client: &Client, recent: &'r mut Recent) -> Option<Caller<'r>> {
    let [uri] = client.uris.as_slice() else {
        return None;
    };
    let id = recent.identity(uri)?;
    if *id.trust_domain() != mesh.trust_domain {
        return None;
    }
    id.service().map(Caller::local)
}

const fn refused(reason: Reason) -> Verdict {
    Verdict {
        effect: Effect::Deny,
        reason,
        intention: None,
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
    is_gateway_with_header: bool,
}

impl Unidentified {
    const fn because(reason: Reason) -> Self {
        Self {
            reason,
            id: None,
            error: None,
            is_gateway_with_header: false,
        }
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
        let is_gateway = peer.is_none() && matches!(id.kind(), Kind::MeshGateway { .. });
        return Err(Unidentified {
            is_gateway_with_header: is_gateway && client.via_gateway.is_some(),
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
