//! Certificates that were verified, so that their signatures are paid for once.
//!
//! Positives only. A key covers everything that the answer depends on: the
//! presented chain in its order, the mesh document (trust domain and roots), the
//! component that judged, what the peer acts as, and the identity it had to have. An
//! entry ends with the earliest certificate of its path, and does not answer for a
//! time before it was made: a clock that is set back verifies again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_core::chain::{Usage, VerifiedPeer};
use portcullis_core::time::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::runtime::MeshVersion;

/// Digest of what a verification depends on, apart from the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey([u8; 32]);

impl CacheKey {
    /// Every part is preceded by its length, so that no two different questions look alike.
    pub(crate) fn new<C: AsRef<[u8]>>(
        chain: &[C],
        mesh: &MeshVersion,
        usage: Usage,
        expected: Option<&str>,
    ) -> Self {
        let mut hash = Sha256::new();
        hash.update(mesh.digest);
        hash.update(mesh.component);
        hash.update([match usage {
            Usage::Client => 1,
            Usage::Server => 2,
        }]);
        hash.update([u8::from(expected.is_some())]);
        let mut part = |bytes: &[u8]| {
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(bytes);
        };
        part(expected.unwrap_or_default().as_bytes());
        for certificate in chain {
            part(certificate.as_ref());
        }
        Self(hash.finalize().into())
    }
}

struct Entry {
    peer: Arc<VerifiedPeer>,
    verified_at: Timestamp,
}

impl Entry {
    fn holds_at(&self, now: Timestamp) -> bool {
        self.verified_at <= now && now < self.peer.not_after
    }
}

/// A bounded map in two generations: when the young one is full it becomes the
/// old one, and what nobody asked for since is forgotten.
pub(crate) struct VerifiedCache {
    half: usize,
    entries: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<CacheKey, Entry>,
    old: HashMap<CacheKey, Entry>,
}

impl VerifiedCache {
    /// A cache of at most `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            half: (capacity / 2).max(1),
            entries: Mutex::default(),
        }
    }

    /// The peer that `key` stands for, if it still holds at `now`.
    pub(crate) fn get(&self, key: &CacheKey, now: Timestamp) -> Option<Arc<VerifiedPeer>> {
        let mut entries = self.lock();
        if let Some(entry) = entries.young.get(key) {
            return entry.holds_at(now).then(|| Arc::clone(&entry.peer));
        }
        let entry = entries
            .old
            .remove(key)
            .filter(|entry| entry.holds_at(now))?;
        let peer = Arc::clone(&entry.peer);
        self.put(&mut entries, *key, entry);
        Some(peer)
    }

    /// Remembers a peer that was verified at `now`.
    pub(crate) fn insert(&self, key: CacheKey, peer: Arc<VerifiedPeer>, now: Timestamp) {
        self.put(
            &mut self.lock(),
            key,
            Entry {
                peer,
                verified_at: now,
            },
        );
    }

    fn put(&self, entries: &mut Generations, key: CacheKey, entry: Entry) {
        if entries.young.len() >= self.half && !entries.young.contains_key(&key) {
            entries.old = std::mem::take(&mut entries.young);
        }
        entries.young.insert(key, entry);
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        let entries = self.lock();
        entries.young.len() + entries.old.len()
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_core::identity::SpiffeId;

    const AT: Timestamp = Timestamp::from_unix_secs(1_000);

    fn peer(not_after: u64) -> Arc<VerifiedPeer> {
        let id = SpiffeId::parse("spiffe://td.consul/ns/default/dc/dc1/svc/web").unwrap();
        let not_after = Timestamp::from_unix_secs(not_after);
        Arc::new(VerifiedPeer {
            id,
            peer: None,
            serial: "01".to_owned(),
            not_after,
        })
    }

    fn version(mesh: u8, component: u8) -> MeshVersion {
        MeshVersion {
            digest: [mesh; 32],
            component: [component; 32],
            epoch: 1,
        }
    }

    fn key(chain: &[&[u8]], mesh: u8) -> CacheKey {
        CacheKey::new(chain, &version(mesh, 0), Usage::Client, None)
    }

    #[test]
    fn every_part_of_the_question_counts() {
        let chain: &[&[u8]] = &[b"a", b"bc"];
        let keys = [
            key(chain, 0),
            key(chain, 1),
            key(&[b"ab", b"c"], 0),
            key(&[b"bc", b"a"], 0),
            key(&[b"a"], 0),
            CacheKey::new(chain, &version(0, 1), Usage::Client, None),
            CacheKey::new(chain, &version(0, 0), Usage::Server, None),
            CacheKey::new(chain, &version(0, 0), Usage::Client, Some("")),
            CacheKey::new(chain, &version(0, 0), Usage::Client, Some("x")),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn an_entry_ends_with_its_certificate_and_not_before_its_making() {
        let cache = VerifiedCache::new(8);
        let key = key(&[b"a"], 0);
        cache.insert(key, peer(1_010), AT);
        assert!(cache.get(&key, AT).is_some());
        assert!(cache.get(&key, Timestamp::from_unix_secs(1_009)).is_some());
        assert!(cache.get(&key, Timestamp::from_unix_secs(1_010)).is_none());
        assert!(cache.get(&key, Timestamp::from_unix_secs(999)).is_none());
        assert!(cache.get(&key, Timestamp::MAX).is_none());
    }

    #[test]
    fn a_million_certificates_stay_within_the_bound() {
        let cache = VerifiedCache::new(1_000);
        let kept = key(&[b"kept"], 0);
        cache.insert(kept, peer(2_000), AT);
        for number in 0..1_000_000_u32 {
            let key = CacheKey(Sha256::digest(number.to_le_bytes()).into());
            cache.insert(key, peer(2_000), AT);
            if number % 100 == 0 {
                assert!(cache.get(&kept, AT).is_some(), "what is asked for stays");
            }
            debug_assert!(cache.len() <= 1_000);
        }
        assert!(cache.len() <= 1_000);
    }

    #[test]
    fn expired_entries_do_not_move_to_the_young_generation() {
        let cache = VerifiedCache::new(2);
        let (a, b) = (key(&[b"a"], 0), key(&[b"b"], 0));
        cache.insert(a, peer(1_001), AT);
        cache.insert(b, peer(2_000), AT);
        assert!(cache.get(&a, Timestamp::from_unix_secs(1_500)).is_none());
        assert_eq!(cache.len(), 1);
    }
}
