//! SPIFFE IDs: the grammar of the SPIFFE-ID specification and Consul's forms within it.
//!
//! Nothing is decoded, folded or repaired, with one exception: Consul compares
//! partitions without regard to case and takes no partition for `default`, so
//! [`Partition`] is kept in lower case and `/ap/default/` names the same identity
//! as no `/ap/` at all.

mod compare;
mod error;
mod excerpt;
mod names;
mod parse;

pub use compare::Part;
pub use error::IdentityError;
pub use excerpt::Excerpt;
pub use names::{Datacenter, Namespace, NodeId, Partition, PeerName, ServiceName, TrustDomain};

use std::fmt;
use std::str::FromStr;

/// A valid SPIFFE ID. Only parsing makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    kind: Kind,
}

/// What a SPIFFE ID names in Consul's scheme.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `[/ap/P]/ns/N/dc/D/svc/S`: a service.
    Service(ServicePath),
    /// `[/ap/P]/agent/client/dc/D/id/I`: a client agent.
    Agent {
        /// Admin partition.
        partition: Partition,
        /// Datacenter.
        datacenter: Datacenter,
        /// The agent's node ID.
        node: NodeId,
    },
    /// `/agent/server/dc/D`: the servers of a datacenter.
    Server {
        /// Datacenter.
        datacenter: Datacenter,
    },
    /// `[/ap/P]/gateway/mesh/dc/D`: a mesh gateway.
    MeshGateway {
        /// Admin partition.
        partition: Partition,
        /// Datacenter.
        datacenter: Datacenter,
    },
    /// A trust domain alone: the mesh's CA.
    Signing,
    /// A valid SPIFFE ID that is none of Consul's forms.
    Other {
        /// Its path, with the leading slash.
        path: Box<str>,
    },
}

/// The path of a service's SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePath {
    /// Admin partition.
    pub partition: Partition,
    /// Namespace.
    pub namespace: Namespace,
    /// Datacenter: reported, never compared for clients.
    pub datacenter: Datacenter,
    /// Service name.
    pub service: ServiceName,
}

impl SpiffeId {
    /// Longest ID in bytes, as the SPIFFE-ID specification (2.3) sets it.
    pub const MAX_LEN: usize = 2048;

    /// Reads a SPIFFE ID.
    ///
    /// # Errors
    /// If the text breaks a rule of the SPIFFE-ID specification, section 2; the
    /// error names the rule and the offending part.
    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        parse::spiffe_id(uri)
    }

    /// Reads a SPIFFE ID from the bytes of a certificate's URI name.
    ///
    /// # Errors
    /// As [`SpiffeId::parse`], and if the bytes are not UTF-8.
    pub fn parse_bytes(uri: &[u8]) -> Result<Self, IdentityError> {
        parse::spiffe_id_bytes(uri)
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What the ID names.
    #[must_use]
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The service, if the ID names one.
    #[must_use]
    pub const fn service(&self) -> Option<&ServicePath> {
        match &self.kind {
            Kind::Service(path) => Some(path),
            _ => None,
        }
    }
}

impl Kind {
    /// A stable name for logs: `service`, `agent`, `server`, `mesh-gateway`, `signing`, `other`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Service(_) => "service",
            Self::Agent { .. } => "agent",
            Self::Server { .. } => "server",
            Self::MeshGateway { .. } => "mesh-gateway",
            Self::Signing => "signing",
            Self::Other { .. } => "other",
        }
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}

/// The canonical form: the partition is written only where it is not `default`.
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.kind)
    }
}

/// The path of the canonical form; empty for [`Kind::Signing`].
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(path) => path.fmt(f),
            Self::Agent {
                partition,
                datacenter,
                node,
            } => {
                write_partition(f, partition)?;
                write!(f, "/agent/client/dc/{datacenter}/id/{node}")
            }
            Self::Server { datacenter } => write!(f, "/agent/server/dc/{datacenter}"),
            Self::MeshGateway {
                partition,
                datacenter,
            } => {
                write_partition(f, partition)?;
                write!(f, "/gateway/mesh/dc/{datacenter}")
            }
            Self::Signing => Ok(()),
            Self::Other { path } => f.write_str(path),
        }
    }
}

impl fmt::Display for ServicePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_partition(f, &self.partition)?;
        write!(
            f,
            "/ns/{}/dc/{}/svc/{}",
            self.namespace, self.datacenter, self.service
        )
    }
}

fn write_partition(f: &mut fmt::Formatter<'_>, partition: &Partition) -> fmt::Result {
    if partition.is_default() {
        return Ok(());
    }
    write!(f, "/ap/{partition}")
}
