//! Which of the bundles that the agent lists can be believed, and why the others cannot.

use std::collections::BTreeSet;

use super::{Bundle, NoBundle, Peering};
use crate::identity::PeerName;

/// Why nobody of a peer is believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The agent does not list it.
    #[error("the agent has no peering of this name")]
    Unknown,
    /// It has no bundle.
    #[error(transparent)]
    NoBundle(NoBundle),
    /// Its roots would vouch for our own services.
    #[error("it claims this mesh's own trust domain")]
    OwnTrustDomain,
    /// Its services cannot be told from those of another peer.
    #[error("the peering `{0}` has the same trust domain and partition, so neither is believed")]
    Twin(PeerName),
}

/// The bundle of the peer `name`, if the policy may have it. `named` are the peers that
/// intentions name, itself among them: only these can be mistaken for each other. `own` is the
/// mesh's own trust domain, where it is known.
///
/// # Errors
/// [`Unusable`]: nobody of this peer is believed.
pub fn usable<'l>(
    name: &str,
    named: &BTreeSet<String>,
    list: &'l [Peering],
    own: Option<&str>,
) -> Result<&'l Bundle, Unusable> {
    let peering = list
        .iter()
        .find(|peering| peering.name == *name)
        .ok_or(Unusable::Unknown)?;
    let bundle = peering
        .bundle
        .as_ref()
        .map_err(|why| Unusable::NoBundle(why.clone()))?;
    if own == Some(bundle.trust_domain.as_str()) {
        return Err(Unusable::OwnTrustDomain);
    }
    let twin = list.iter().find(|other| {
        let is_same = other.bundle.as_ref().is_ok_and(|other| {
            other.trust_domain == bundle.trust_domain
                && other.exported_partition == bundle.exported_partition
        });
        is_same && other.name != peering.name && named.contains(other.name.as_str())
    });
    match twin {
        None => Ok(bundle),
        Some(twin) => Err(Unusable::Twin(twin.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peering(name: &str, trust_domain: &str) -> Peering {
        Peering {
            name: name.parse().unwrap(),
            bundle: Ok(Bundle {
                trust_domain: trust_domain.parse().unwrap(),
                roots: vec!["PEM".to_owned()],
                exported_partition: "default".parse().unwrap(),
            }),
        }
    }

    #[test]
    fn a_peer_that_cannot_be_told_apart_has_no_bundle() {
        let list = [
            peering("a", "a.consul"),
            peering("b", "b.consul"),
            peering("c", "b.consul"),
        ];
        let all: BTreeSet<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let ask = |name: &str, own| {
            usable(name, &all, &list, own).map(|found| found.trust_domain.to_string())
        };
        assert_eq!(ask("a", None).unwrap(), "a.consul");
        assert_eq!(ask("a", Some("a.consul")), Err(Unusable::OwnTrustDomain));
        assert_eq!(ask("b", None), Err(Unusable::Twin("c".parse().unwrap())));
        assert_eq!(ask("d", None), Err(Unusable::Unknown));
        // Nobody looks at one that no intention names.
        let some: BTreeSet<String> = ["b".to_owned()].into();
        assert!(usable("b", &some, &list, None).is_ok());
    }
}
