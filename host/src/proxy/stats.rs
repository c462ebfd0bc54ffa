//! What a proxy counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::access::Ending;

/// Numbers since the start.
#[derive(Debug, Default)]
pub(super) struct Stats {
    active: AtomicU64,
    allowed: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
}

/// A proxy's numbers at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Connections right now, those in a handshake included.
    pub active: u64,
    /// Connections that were let through.
    pub allowed: u64,
    /// Connections that were refused, could not be made, or were cut off.
    pub refused: u64,
    /// Of these, live ones that were cut off.
    pub cut: u64,
}

impl Stats {
    pub(super) fn allowed(&self) {
        self.allowed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, ending: &Ending) {
        if ending.refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Snapshot {
            active: get(&self.active),
            allowed: get(&self.allowed),
            refused: get(&self.refused),
            cut: get(&self.cut),
        }
    }
}

/// Counts a connection while it is there.
pub(super) struct Active(Arc<Stats>);

impl Active {
    pub(super) fn new(stats: &Arc<Stats>) -> Self {
        stats.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(stats))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
