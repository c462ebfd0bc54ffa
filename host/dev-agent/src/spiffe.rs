//! SPIFFE IDs as Consul's authorize endpoint reads them: more leniently than
//! SPIFFE, so that this agent accepts and refuses what a real one does.

use crate::http::unescape;

/// A service's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceId {
    /// Lower-cased; `default` when the URI names none.
    pub(crate) partition: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What an identity stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    Service(ServiceId),
    /// An agent, a server, a mesh gateway, or a trust domain.
    Other,
}

/// Reads a URI; `None` if it is no identity of the mesh.
pub(crate) fn parse(uri: &str) -> Option<Identity> {
    if uri.chars().any(|char| char.is_ascii_control()) {
        return None;
    }
    let (scheme, rest) = uri.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("spiffe") {
        return None;
    }
    let rest = rest.split('#').next()?;
    let rest = rest.split('?').next()?;
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = host.rsplit('@').next()?;
    unescape(path)?;
    let mut segments: Vec<&str> = path.split('/').collect();
    if path.is_empty() {
        // A trust domain: something before and after its first dot.
        let host = host.split(':').next().unwrap_or_default();
        return host
            .find('.')
            .is_some_and(|at| at > 0)
            .then_some(Identity::Other);
    }
    segments.remove(0);
    if segments.iter().any(|segment| segment.is_empty()) {
        return None;
    }
    let (partition, rest) = match segments.as_slice() {
        ["ap", partition, rest @ ..] => (unescape(partition)?, rest),
        rest => ("default".to_owned(), rest),
    };
    match rest {
        ["ns", namespace, "dc", datacenter, "svc", service] => {
            unescape(datacenter)?;
            Some(Identity::Service(ServiceId {
                partition: partition.to_lowercase(),
                namespace: unescape(namespace)?,
                name: unescape(service)?,
            }))
        }
        ["agent", "client", "dc", _, "id", _] | ["gateway", "mesh", "dc", _] => {
            Some(Identity::Other)
        }
        ["agent", "server", "dc", _] if segments.len() == 4 => Some(Identity::Other),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(uri: &str) -> Option<(String, String, String)> {
        match parse(uri)? {
            Identity::Service(id) => Some((id.partition, id.namespace, id.name)),
            Identity::Other => None,
        }
    }

    #[test]
    fn as_consul_reads_them() {
        let web = Some(("default".to_owned(), "default".to_owned(), "web".to_owned()));
        for uri in [
            "spiffe://td.consul/ns/default/dc/dc1/svc/web",
            "SPIFFE://td.consul/ns/default/dc/dc1/svc/web",
            "spiffe:///ns/default/dc/dc1/svc/web",
            "spiffe://user@td.consul:80/ns/default/dc/dc1/svc/w%65b?x=1#f",
            "spiffe://td.consul/ap/Default/ns/default/dc/dc1/svc/web",
        ] {
            assert_eq!(service(uri), web, "{uri}");
        }
        for uri in [
            "",
            "http://td.consul/ns/default/dc/dc1/svc/web",
            "spiffe:x/ns/default/dc/dc1/svc/web",
            "spiffe://td.consul/ns/default/dc/dc1/svc/web/",
            "spiffe://td.consul/ns/default/dc/dc1/svc/",
            "spiffe://td.consul/NS/default/dc/dc1/SVC/web",
            "spiffe://td.consul/ns/default/dc/dc1/svc/%zz",
            "spiffe://td",
            "spiffe://.consul",
            "spiffe://td.consul/",
        ] {
            assert_eq!(parse(uri), None, "{uri}");
        }
        for uri in [
            "spiffe://td.consul",
            "spiffe://td.consul/agent/client/dc/dc1/id/x",
            "spiffe://td.consul/agent/server/dc/dc1",
            "spiffe://td.consul/gateway/mesh/dc/dc1",
            "spiffe://td.consul/ap/x/gateway/mesh/dc/dc1",
        ] {
            assert_eq!(parse(uri), Some(Identity::Other), "{uri}");
        }
        let name = service("spiffe://td/ns/default/dc/dc1/svc/a%2Fb").map(|id| id.2);
        assert_eq!(name.as_deref(), Some("a/b"));
    }
}
