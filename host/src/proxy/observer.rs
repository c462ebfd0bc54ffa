//! A view of a running proxy that changes nothing.

use tokio::sync::watch;

use super::listeners::Shared;
use super::{Addresses, Snapshot};
use crate::member::Member;
use crate::metrics::Connections;
use crate::watcher::Lack;

/// Sees how a proxy does. Clones see the same one; it does not keep a proxy running,
/// but its member.
#[derive(Clone, Debug)]
pub struct Observer {
    shared: Shared,
    addresses: watch::Receiver<Addresses>,
}

impl Observer {
    pub(super) fn new(shared: Shared, addresses: watch::Receiver<Addresses>) -> Self {
        Self { shared, addresses }
    }

    /// The member of the mesh that it is.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.shared.member
    }

    /// Where it listens now.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses.borrow().clone()
    }

    /// Numbers since the start.
    #[must_use]
    pub fn stats(&self) -> Snapshot {
        self.shared.numbers()
    }

    /// Whether it takes no more connections, for it is stopping.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.shared.stop.is_cancelled()
    }

    /// What keeps it from taking connections; empty means ready.
    #[must_use]
    pub fn missing(&self) -> Vec<Lack> {
        let watcher = self.shared.member.watcher();
        let mut missing = watcher.readiness().lacks(watcher.config().clock.now());
        if self.draining() {
            missing.push(Lack {
                part: "proxy",
                state: "draining",
                text: "the proxy is stopping and takes no more connections".to_owned(),
            });
        }
        missing
    }

    /// All metrics as text: see [`crate::metrics`].
    #[must_use]
    pub fn metrics(&self) -> String {
        crate::metrics::encoded(Some(self.clone().into()))
    }

    pub(crate) fn meters(&self) -> &Connections {
        self.shared.stats.meters()
    }
}
