//! Identities that were asked about before.
//!
//! The same clients come again and again, and what a URI names never changes, so
//! reading it once is enough. Places are few and found by the end of the text,
//! where services differ; a newcomer takes the place of whoever was there.

use std::hash::Hasher as _;

use crate::identity::SpiffeId;
use crate::words::{WordHasher, same};

/// Room for so many identities.
const PLACES: u64 = 64;
/// How much of the end of a URI finds its place.
const END: usize = 16;

/// A small memory of SPIFFE IDs. It holds valid ones only.
#[derive(Debug)]
pub(super) struct Recent {
    places: Vec<Option<(Box<str>, SpiffeId)>>,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self {
            places: vec![None; usize::try_from(PLACES).unwrap_or(1)],
        }
    }

    /// What `uri` names; `None` if it is not a SPIFFE ID.
    pub(super) fn identity(&mut self, uri: &str) -> Option<&SpiffeId> {
        let place = self.places.get_mut(place_of(uri))?;
        if !matches!(place, Some((known, _)) if same(known.as_bytes(), uri.as_bytes())) {
            *place = Some((uri.into(), SpiffeId::parse(uri).ok()?));
        }
        place.as_ref().map(|(_, id)| id)
    }
}

/// By the end of the text. Whoever aims for a place that is taken only makes both be
/// read again.
fn place_of(uri: &str) -> usize {
    let whole = uri.as_bytes();
    let mut hasher = WordHasher::default();
    hasher.write(
        whole
            .last_chunk::<END>()
            .map_or(whole, <[u8; END]>::as_slice),
    );
    usize::try_from(hasher.finish() % PLACES).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_was_read() {
        let mut recent = Recent::new();
        let uris: Vec<String> = (0..500)
            .map(|number| {
                format!(
                    "spiffe://t{}.consul/ns/default/dc/dc1/svc/web-{number}",
                    number % 3
                )
            })
            .collect();
        for uri in uris.iter().chain(uris.iter().rev()).chain(&uris) {
            assert_eq!(recent.identity(uri), SpiffeId::parse(uri).ok().as_ref());
            assert_eq!(recent.identity(uri), SpiffeId::parse(uri).ok().as_ref());
        }
        assert_eq!(recent.places.len(), 64);
    }

    #[test]
    fn what_is_no_identity_is_not_remembered() {
        let mut recent = Recent::new();
        let good = "spiffe://t.consul/ns/default/dc/dc1/svc/web";
        assert!(recent.identity(good).is_some());
        for bad in [
            "",
            "web",
            "spiffe://T.consul/ns/default/dc/dc1/svc/web",
            "spiffe://t.consul/ns/default/dc/dc1/svc/web?x",
        ] {
            assert_eq!(recent.identity(bad), None, "{bad}");
            assert_eq!(recent.identity(bad), None, "{bad}");
        }
        assert!(recent.identity(good).is_some());
    }

    #[test]
    fn the_same_end_in_another_mesh_is_another_identity() {
        let mut recent = Recent::new();
        let [one, two] = ["one", "two"]
            .map(|td| format!("spiffe://{td}.consul/ns/default/dc/dc1/svc/a-long-service-name"));
        assert_eq!(place_of(&one), place_of(&two));
        for uri in [&one, &two, &one] {
            assert_eq!(recent.identity(uri).unwrap().to_string(), **uri);
        }
    }
}
