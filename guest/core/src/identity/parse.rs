//! Text to SPIFFE ID, by the grammar of the SPIFFE-ID specification, section 2.

use super::names::{excerpt_of_char, is_segment_character};
use super::{
    Datacenter, Excerpt, IdentityError, Kind, Namespace, NodeId, Partition, ServiceName,
    ServicePath, SpiffeId, TrustDomain,
};

/// Consul's longest form has eight segments; anything longer is none of its forms.
const MOST_SEGMENTS: usize = 8;

pub(super) fn spiffe_id_bytes(uri: &[u8]) -> Result<SpiffeId, IdentityError> {
    check_length(uri.len())?;
    match std::str::from_utf8(uri) {
        Ok(uri) => spiffe_id(uri),
        Err(_) => Err(IdentityError::NotUtf8 {
            text: Excerpt::of_bytes(uri),
        }),
    }
}

pub(super) fn spiffe_id(uri: &str) -> Result<SpiffeId, IdentityError> {
    check_length(uri.len())?;
    let rest = after_scheme(uri)?;
    refuse_query_and_fragment(rest)?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
        None => (rest, ""),
    };
    let trust_domain = trust_domain(authority)?;
    let kind = kind(path)?;
    Ok(SpiffeId { trust_domain, kind })
}

const fn check_length(length: usize) -> Result<(), IdentityError> {
    match length {
        0 => Err(IdentityError::Empty),
        length if length > SpiffeId::MAX_LEN => Err(IdentityError::TooLong { length }),
        _ => Ok(()),
    }
}

/// What follows `spiffe://`, which must be written exactly so.
fn after_scheme(uri: &str) -> Result<&str, IdentityError> {
    if let Some(rest) = uri.strip_prefix("spiffe://") {
        return Ok(rest);
    }
    let (scheme, rest) = uri.split_once(':').unwrap_or((uri, ""));
    if scheme == "spiffe" {
        return Err(IdentityError::NoAuthority {
            rest: Excerpt::of(rest),
        });
    }
    let is_spiffe = scheme.eq_ignore_ascii_case("spiffe");
    let scheme = Excerpt::of(scheme);
    Err(if is_spiffe {
        IdentityError::SchemeNotLowerCase { scheme }
    } else {
        IdentityError::WrongScheme { scheme }
    })
}

fn refuse_query_and_fragment(rest: &str) -> Result<(), IdentityError> {
    if let Some((_, fragment)) = rest.split_once('#') {
        return Err(IdentityError::HasFragment {
            fragment: Excerpt::of(fragment),
        });
    }
    if let Some((_, query)) = rest.split_once('?') {
        return Err(IdentityError::HasQuery {
            query: Excerpt::of(query),
        });
    }
    Ok(())
}

fn trust_domain(authority: &str) -> Result<TrustDomain, IdentityError> {
    if let Some((user, _)) = authority.rsplit_once('@') {
        return Err(IdentityError::HasUserInfo {
            user: Excerpt::of(user),
        });
    }
    if let Some((_, port)) = authority.rsplit_once(':') {
        return Err(IdentityError::HasPort {
            port: Excerpt::of(port),
        });
    }
    TrustDomain::parse(authority)
}

/// Consul's form of a path; every segment is checked, whatever the form.
fn kind(path: &str) -> Result<Kind, IdentityError> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(Kind::Signing);
    };
    if segments.is_empty() || segments.ends_with('/') {
        return Err(IdentityError::TrailingSlash {
            path: Excerpt::of(path),
        });
    }
    let mut list = [""; MOST_SEGMENTS];
    let mut count = 0_usize;
    for segment in segments.split('/') {
        check_segment(path, segment)?;
        if let Some(place) = list.get_mut(count) {
            *place = segment;
        }
        count = count.saturating_add(1);
    }
    let form = list.get(..count).and_then(consul_form);
    Ok(form.unwrap_or_else(|| Kind::Other { path: path.into() }))
}

fn check_segment(path: &str, segment: &str) -> Result<(), IdentityError> {
    if segment.is_empty() {
        return Err(IdentityError::EmptySegment {
            path: Excerpt::of(path),
        });
    }
    if matches!(segment, "." | "..") {
        return Err(IdentityError::DotSegment {
            segment: Excerpt::of(segment),
        });
    }
    match segment.chars().find(|c| !is_segment_character(*c)) {
        None => Ok(()),
        Some('%') => Err(IdentityError::PercentEncoded {
            part: Excerpt::of(segment),
        }),
        Some(character) => Err(IdentityError::BadPathCharacter {
            character: excerpt_of_char(character),
            segment: Excerpt::of(segment),
        }),
    }
}

fn consul_form(segments: &[&str]) -> Option<Kind> {
    let (partition, rest) = match segments {
        ["ap", partition, rest @ ..] => (Some(*partition), rest),
        _ => (None, segments),
    };
    let in_partition =
        || partition.map_or_else(Partition::default_partition, Partition::from_checked);
    match rest {
        ["ns", namespace, "dc", datacenter, "svc", service] => Some(Kind::Service(ServicePath {
            partition: in_partition(),
            namespace: Namespace::from_checked(namespace),
            datacenter: Datacenter::from_checked(datacenter),
            service: ServiceName::from_checked(service),
        })),
        ["agent", "client", "dc", datacenter, "id", node] => Some(Kind::Agent {
            partition: in_partition(),
            datacenter: Datacenter::from_checked(datacenter),
            node: NodeId::from_checked(node),
        }),
        ["gateway", "mesh", "dc", datacenter] => Some(Kind::MeshGateway {
            partition: in_partition(),
            datacenter: Datacenter::from_checked(datacenter),
        }),
        ["agent", "server", "dc", datacenter] if partition.is_none() => Some(Kind::Server {
            datacenter: Datacenter::from_checked(datacenter),
        }),
        _ => None,
    }
}
