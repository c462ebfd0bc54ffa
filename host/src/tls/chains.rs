//! Presented chains of live connections, each kept once.
//!
//! A client opens many connections with one certificate, and each keeps its chain to
//! be verified again when roots change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

/// A chain, leaf first.
pub type Chain = Arc<[CertificateDer<'static>]>;

/// So many are kept before those without a connection are looked for.
const FEWEST: usize = 64;

/// The chains that some connection holds.
pub(super) struct Chains(Mutex<Kept>);

struct Kept {
    chains: HashMap<[u8; 32], Weak<[CertificateDer<'static>]>>,
    sweep_at: usize,
}

impl Chains {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Kept {
            chains: HashMap::new(),
            sweep_at: FEWEST,
        }))
    }

    /// The one copy of `presented`, made now if no connection has it.
    pub(super) fn share(&self, presented: &[CertificateDer<'_>]) -> Chain {
        let mut hash = Sha256::new();
        for der in presented {
            hash.update(u64::try_from(der.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(der);
        }
        let digest = hash.finalize().into();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chain) = kept.chains.get(&digest).and_then(Weak::upgrade) {
            return chain;
        }
        let chain: Chain = presented
            .iter()
            .map(|der| der.clone().into_owned())
            .collect();
        kept.chains.insert(digest, Arc::downgrade(&chain));
        if kept.chains.len() >= kept.sweep_at {
            kept.chains.retain(|_, chain| chain.strong_count() > 0);
            kept.sweep_at = kept.chains.len().saturating_mul(2).max(FEWEST);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(bytes: &[u8]) -> CertificateDer<'static> {
        CertificateDer::from(bytes.to_vec())
    }

    #[test]
    fn one_copy_for_all_and_none_for_nobody() {
        let chains = Chains::new();
        let first = chains.share(&[der(b"a"), der(b"b")]);
        assert!(Arc::ptr_eq(&first, &chains.share(&[der(b"a"), der(b"b")])));
        let other = chains.share(&[der(b"ab")]);
        assert_eq!(*other, [der(b"ab")]);
        for number in 0..100_000_u32 {
            drop(chains.share(&[der(&number.to_le_bytes())]));
        }
        let kept = chains.0.lock().unwrap();
        assert!(kept.chains.len() <= FEWEST, "{}", kept.chains.len());
        assert_eq!(
            kept.chains
                .values()
                .filter(|one| one.strong_count() > 0)
                .count(),
            2
        );
    }
}
