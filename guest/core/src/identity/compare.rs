//! In which part two SPIFFE IDs differ.

use std::fmt;

use super::{Kind, SpiffeId};

/// A part of a SPIFFE ID, for errors that say what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The trust domain.
    TrustDomain,
    /// What the ID names: a service, a gateway and so on.
    Kind,
    /// The admin partition.
    Partition,
    /// The namespace.
    Namespace,
    /// The datacenter.
    Datacenter,
    /// The service.
    Service,
    /// The node ID of an agent.
    Agent,
    /// The path of an ID that has none of Consul's forms.
    Path,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TrustDomain => "trust domain",
            Self::Kind => "kind",
            Self::Partition => "partition",
            Self::Namespace => "namespace",
            Self::Datacenter => "datacenter",
            Self::Service => "service",
            Self::Agent => "node ID",
            Self::Path => "path",
        })
    }
}

impl SpiffeId {
    /// The most significant part in which two IDs differ; `None` if they are equal.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<Part> {
        if self == other {
            return None;
        }
        if self.trust_domain != other.trust_domain {
            return Some(Part::TrustDomain);
        }
        Some(differing_part(&self.kind, &other.kind))
    }
}

/// For kinds that are not equal.
fn differing_part(left: &Kind, right: &Kind) -> Part {
    match (left, right) {
        (Kind::Service(a), Kind::Service(b)) => first_of(
            &[
                (a.partition != b.partition, Part::Partition),
                (a.namespace != b.namespace, Part::Namespace),
                (a.service != b.service, Part::Service),
            ],
            Part::Datacenter,
        ),
        (
            Kind::Agent {
                partition: a,
                datacenter: c,
                ..
            },
            Kind::Agent {
                partition: b,
                datacenter: d,
                ..
            },
        ) => first_of(
            &[(a != b, Part::Partition), (c != d, Part::Datacenter)],
            Part::Agent,
        ),
        (Kind::MeshGateway { partition: a, .. }, Kind::MeshGateway { partition: b, .. }) => {
            first_of(&[(a != b, Part::Partition)], Part::Datacenter)
        }
        (Kind::Server { .. }, Kind::Server { .. }) => Part::Datacenter,
        (Kind::Other { .. }, Kind::Other { .. }) => Part::Path,
        _ => Part::Kind,
    }
}

fn first_of(candidates: &[(bool, Part)], otherwise: Part) -> Part {
    candidates
        .iter()
        .find_map(|(differs, part)| differs.then_some(*part))
        .unwrap_or(otherwise)
}
