//! Consul's order of intentions, computed by us.
//!
//! | Destination | Source exact | Source `ns/*` | Source `*/*` |
//! |---|---|---|---|
//! | `ns/name` | 9 | 8 | 7 |
//! | `ns/*` | 6 | 5 | 4 |
//! | `*/*` | 3 | 2 | 1 |

use std::cmp::Ordering;

use super::model::Intention;
use super::pattern::{DestinationPattern, Origin, Source, WILDCARD};

/// The level of an intention, from 9 to 1. A part that could not be read counts as
/// exact, so that a rule in doubt is considered before every rule that it may concern.
pub(super) fn level(source: Option<&Source>, destination: Option<&DestinationPattern>) -> u32 {
    let destination: u32 = match destination {
        Some(d) if &*d.namespace == WILDCARD => 3,
        Some(d) if &*d.name == WILDCARD => 6,
        _ => 9,
    };
    let missing: u32 = match source {
        Some(s) if &*s.namespace == WILDCARD => 2,
        Some(s) if &*s.name == WILDCARD => 1,
        _ => 0,
    };
    destination.saturating_sub(missing)
}

/// The order in which intentions are considered: by level, highest first; then what
/// comes from anywhere, because that could not be read; then by the names, as Consul
/// sorts them. Rules of equal names are no valid state, so the stricter comes first.
/// The order of the reply never counts.
pub(super) fn order(a: &Intention, b: &Intention) -> Ordering {
    b.precedence
        .cmp(&a.precedence)
        .then_with(|| source_key(&a.source).cmp(&source_key(&b.source)))
        .then_with(|| destination_key(a).cmp(&destination_key(b)))
        .then_with(|| a.rule.rank().cmp(&b.rule.rank()))
        .then_with(|| a.place.cmp(&b.place))
}

fn source_key(source: &Source) -> (u8, &str, &str, &str, &str) {
    let (class, peer, partition) = match &source.origin {
        Origin::Anywhere => (0, "", ""),
        Origin::Local(partition) => (1, "", &**partition),
        Origin::Peer(peer) => (1, &**peer, ""),
    };
    (class, peer, partition, &source.namespace, &source.name)
}

fn destination_key(intention: &Intention) -> Option<(&str, &str, &str)> {
    let d = intention.destination.as_ref()?;
    Some((&*d.partition, &*d.namespace, &*d.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nine_levels() {
        let source = |namespace: &str, name: &str| Source {
            origin: Origin::Local("default".into()),
            namespace: namespace.into(),
            name: name.into(),
        };
        let destination = |namespace: &str, name: &str| DestinationPattern {
            partition: "default".into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        let sources = [source("ns", "web"), source("ns", "*"), source("*", "*")];
        let destinations = [
            destination("ns", "db"),
            destination("ns", "*"),
            destination("*", "*"),
        ];
        let levels: Vec<u32> = destinations
            .iter()
            .flat_map(|d| sources.iter().map(|s| level(Some(s), Some(d))))
            .collect();
        assert_eq!(levels, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(level(None, None), 9);
        assert_eq!(level(None, Some(&destination("*", "*"))), 3);
    }
}
