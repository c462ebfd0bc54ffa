//! What a proxy counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::access::{Access, Direction, Ending};
use super::lifetime::Over;
use crate::metrics::{Connections, Metered};

/// The code of connections that the other side refuses.
pub(super) const REFUSED_BY_PEER: &str = "refused-by-peer";

/// Numbers since the start.
#[derive(Debug, Default)]
pub(super) struct Stats {
    active: AtomicU64,
    allowed: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    over_limit: AtomicU64,
    gave_way: AtomicU64,
    without_descriptor: AtomicU64,
    accept_failed: AtomicU64,
    idle: AtomicU64,
    old: AtomicU64,
    meters: Connections,
}

/// A proxy's numbers at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Connections right now, those in a handshake included.
    pub active: u64,
    /// Of these, clients in a handshake.
    pub handshaking: u64,
    /// Connections that were let through.
    pub allowed: u64,
    /// Connections that were refused, could not be made, or were cut off.
    pub refused: u64,
    /// Of these, live ones that were cut off.
    pub cut: u64,
    /// Connections that were closed at once because there were too many. They are in no
    /// other number.
    pub over_limit: u64,
    /// Handshakes that gave way to others because there were too many at once; refused, too.
    pub gave_way: u64,
    /// Connections that were closed at once because no descriptor was left for them. They
    /// are in no other number.
    pub without_descriptor: u64,
    /// How often no connection could be accepted for other reasons.
    pub accept_failed: u64,
    /// Connections that ended because nothing moved.
    pub idle: u64,
    /// Connections that ended because of their age.
    pub old: u64,
}

impl Stats {
    pub(super) fn over_limit(&self) {
        self.over_limit.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn gave_way(&self) {
        self.gave_way.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused_without_descriptor(&self) {
        self.without_descriptor.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn accept_failed(&self) {
        self.accept_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn over(&self, why: Over) {
        let number = match why {
            Over::Idle => &self.idle,
            Over::Old => &self.old,
        };
        number.fetch_add(1, Ordering::Relaxed);
    }

    /// For metrics.
    pub(super) fn meters(&self) -> &Connections {
        &self.meters
    }

    /// A connection has been taken; to be kept while it is there.
    pub(super) fn taken(&self, access: &Access) -> Metered {
        self.meters.taken(access.direction.as_str(), &access.counts)
    }

    pub(super) fn allowed(&self, access: &Access) {
        self.allowed.fetch_add(1, Ordering::Relaxed);
        if access.direction == Direction::Inbound {
            self.meters.allow();
        }
    }

    /// Both sides are there.
    pub(super) fn opened(&self, access: &mut Access) {
        access.opened = true;
        self.meters.opened(access.direction.as_str());
    }

    pub(super) fn handshake_failed(&self, access: &Access, ending: &Ending) {
        self.meters
            .handshake_failed(access.direction.as_str(), &ending.code);
    }

    pub(super) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self, access: &Access, ending: &Ending) {
        if ending.refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        let (direction, reason) = (access.direction.as_str(), &ending.code);
        let denied = access.direction == Direction::Inbound
            && access
                .decision
                .as_ref()
                .is_some_and(|decision| !decision.is_allowed());
        if access.opened {
            self.meters.closed(direction, reason);
            // In TLS 1.3 a peer's refusal comes after the handshake.
            if ending.refused && reason != REFUSED_BY_PEER {
                self.meters.terminated(direction, reason);
            }
            if denied {
                self.meters.terminate(reason);
            }
        } else {
            self.meters.failed(direction, reason);
            if denied {
                self.meters.deny(reason);
            }
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Snapshot {
            active: get(&self.active),
            handshaking: 0,
            allowed: get(&self.allowed),
            refused: get(&self.refused),
            cut: get(&self.cut),
            over_limit: get(&self.over_limit),
            gave_way: get(&self.gave_way),
            without_descriptor: get(&self.without_descriptor),
            accept_failed: get(&self.accept_failed),
            idle: get(&self.idle),
            old: get(&self.old),
        }
    }
}

/// Counts a connection while it is there.
pub(super) struct Active(Arc<Stats>);

impl Active {
    /// Nothing if there are `most` already.
    pub(super) fn new(stats: &Arc<Stats>, most: usize) -> Option<Self> {
        let before = stats.active.fetch_add(1, Ordering::Relaxed);
        // From here on dropping it takes it back.
        let active = Self(Arc::clone(stats));
        usize::try_from(before)
            .is_ok_and(|before| before < most.max(1))
            .then_some(active)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
