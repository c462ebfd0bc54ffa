//! Instances of a service, as a connector dials them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_core::agent::health::Instance;
use portcullis_core::identity::SpiffeId;

/// Where an instance listens and who must answer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// The exact identity that its certificate must have.
    pub id: SpiffeId,
}

/// Why an instance that the agent lists is not dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It belongs to another service.
    #[error("it is an instance of `{0}`")]
    OtherService(String),
    /// It was imported through a cluster peering.
    #[error("it belongs to the peer `{0}`, which is not supported yet")]
    Peer(String),
    /// Its names make no SPIFFE ID.
    #[error("its names make no identity: {0}")]
    Identity(String),
}

impl Endpoint {
    /// The endpoint of an instance of `service` in the mesh of `trust_domain`.
    ///
    /// # Errors
    /// When it is of another service or a peer, or its names cannot be in a SPIFFE ID.
    pub fn new(
        instance: &Instance,
        service: &str,
        trust_domain: &str,
    ) -> Result<Self, EndpointError> {
        if instance.service != service {
            return Err(EndpointError::OtherService(instance.service.clone()));
        }
        if !instance.peer.is_empty() {
            return Err(EndpointError::Peer(instance.peer.clone()));
        }
        let partition = match instance.partition.as_str() {
            "default" => String::new(),
            other => format!("/ap/{other}"),
        };
        let Instance {
            namespace,
            datacenter,
            address,
            port,
            ..
        } = instance;
        let uri = format!(
            "spiffe://{trust_domain}{partition}/ns/{namespace}/dc/{datacenter}/svc/{service}"
        );
        let id =
            SpiffeId::parse(&uri).map_err(|error| EndpointError::Identity(error.to_string()))?;
        // A slash in a name would have moved the others.
        let intact = id.service().is_some_and(|path| {
            path.service.as_str() == service
                && path.namespace.as_str() == namespace
                && path.datacenter.as_str() == datacenter
        });
        if !intact {
            return Err(EndpointError::Identity(format!(
                "`{id}` is not what they say"
            )));
        }
        let address = if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        };
        Ok(Self { address, id })
    }
}

/// Takes turns among endpoints; clones take turns together.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<AtomicUsize>);

impl Turns {
    /// All endpoints, beginning with the one whose turn it is.
    pub(super) fn next<'e>(&self, endpoints: &'e [Endpoint]) -> impl Iterator<Item = &'e Endpoint> {
        let turn = self.0.fetch_add(1, Ordering::Relaxed);
        let (late, early) = endpoints.split_at(turn.checked_rem(endpoints.len()).unwrap_or(0));
        early.iter().chain(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_core::agent::health::Health;

    fn instance(service: &str) -> Instance {
        Instance {
            node: "n".to_owned(),
            id: "i".to_owned(),
            address: "127.0.0.1".to_owned(),
            port: 7,
            native: false,
            service: service.to_owned(),
            namespace: "default".to_owned(),
            partition: "default".to_owned(),
            datacenter: "dc1".to_owned(),
            peer: String::new(),
            health: Health::Passing,
            weight: 1,
        }
    }

    #[test]
    fn the_expected_identity_is_exact() {
        let endpoint = Endpoint::new(&instance("db"), "db", "td.consul").unwrap();
        assert_eq!(
            endpoint.id.to_string(),
            "spiffe://td.consul/ns/default/dc/dc1/svc/db"
        );
        assert_eq!(endpoint.address, "127.0.0.1:7");
        let other = Instance {
            partition: "one".to_owned(),
            address: "::1".to_owned(),
            ..instance("db")
        };
        let endpoint = Endpoint::new(&other, "db", "td.consul").unwrap();
        assert_eq!(
            endpoint.id.to_string(),
            "spiffe://td.consul/ap/one/ns/default/dc/dc1/svc/db"
        );
        assert_eq!(endpoint.address, "[::1]:7");
    }

    #[test]
    fn what_is_not_the_wanted_service_is_not_dialled() {
        assert!(Endpoint::new(&instance("dbx"), "db", "td.consul").is_err());
        assert!(Endpoint::new(&instance("DB"), "db", "td.consul").is_err());
        let peer = Instance {
            peer: "p".to_owned(),
            ..instance("db")
        };
        assert!(Endpoint::new(&peer, "db", "td.consul").is_err());
        let evil = Instance {
            datacenter: "dc1/svc/db/x".to_owned(),
            ..instance("db")
        };
        assert!(Endpoint::new(&evil, "db", "td.consul").is_err());
    }

    #[test]
    fn each_takes_its_turn_and_all_are_tried() {
        let endpoint = |service| Endpoint::new(&instance(service), service, "td.consul").unwrap();
        let all = [endpoint("a"), endpoint("b"), endpoint("c")];
        let turns = Turns::default();
        let mut firsts = Vec::new();
        for _ in 0..3 {
            let order: Vec<_> = turns.next(&all).collect();
            assert_eq!(order.len(), 3);
            firsts.push(order[0].clone());
        }
        assert_eq!(firsts, all);
        assert_eq!(turns.next(&[]).count(), 0);
    }
}
