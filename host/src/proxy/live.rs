//! Live connections are judged again: when a generation is published, when roots
//! change, and when the peer's certificate ends.

use std::sync::Arc;
use std::time::Duration;

use portcullis_core::chain::{Usage, VerifiedPeer};
use portcullis_core::intention::Decision;
use tokio::sync::watch;

use crate::tls::{Chain, MeshTls, Refusal};

/// How often the wall clock is looked at: timers do not run while a machine sleeps.
const LOOK: Duration = Duration::from_secs(10);

/// A connection that stands, and what it stands on.
pub(crate) struct Standing {
    tls: MeshTls,
    peer: Arc<VerifiedPeer>,
    chain: Chain,
    usage: Usage,
    /// The identity that a server must have.
    expected: Option<Arc<str>>,
    /// The service that a client wants to reach.
    target: Option<Arc<str>>,
    generations: watch::Receiver<u64>,
    mesh_epoch: Option<u64>,
}

/// Why a connection no longer stands.
#[derive(Debug)]
pub(crate) enum Fallen {
    /// The policy now refuses it.
    Denied(Decision),
    /// Its chain is no longer good.
    Chain(Refusal),
    /// The peer's certificate has ended.
    Expired,
}

impl Standing {
    /// A client's connection to `target`. To be made **before** the first decision, so
    /// that no generation falls in between.
    pub(crate) fn inbound(
        tls: &MeshTls,
        peer: &Arc<VerifiedPeer>,
        chain: Chain,
        target: Arc<str>,
    ) -> Self {
        Self::new(tls, peer, chain, Usage::Client, None, Some(target))
    }

    /// A client's connection whose requests are judged by themselves.
    pub(crate) fn client(tls: &MeshTls, peer: &Arc<VerifiedPeer>, chain: Chain) -> Self {
        Self::new(tls, peer, chain, Usage::Client, None, None)
    }

    /// Our connection to a server.
    pub(crate) fn outbound(
        tls: &MeshTls,
        peer: &Arc<VerifiedPeer>,
        chain: Chain,
        expected: Arc<str>,
    ) -> Self {
        Self::new(tls, peer, chain, Usage::Server, Some(expected), None)
    }

    fn new(
        tls: &MeshTls,
        peer: &Arc<VerifiedPeer>,
        chain: Chain,
        usage: Usage,
        expected: Option<Arc<str>>,
        target: Option<Arc<str>>,
    ) -> Self {
        let mut generations = tls.verifier().policy().subscribe();
        generations.mark_unchanged();
        let (tls, peer) = (tls.clone(), Arc::clone(peer));
        let mut standing = Self {
            tls,
            peer,
            chain,
            usage,
            expected,
            target,
            generations,
            mesh_epoch: None,
        };
        standing.mesh_epoch = standing.current_epoch();
        standing
    }

    fn current_epoch(&self) -> Option<u64> {
        let verifier = self.tls.verifier();
        verifier
            .policy()
            .mesh_version(verifier.clock().now())
            .map(|mesh| mesh.epoch)
    }

    /// The decision of the generation in force, for a client's connection.
    pub(crate) fn decide(&self) -> Option<Decision> {
        let target = self.target.as_ref()?;
        Some(self.tls.verifier().authorize(target, &self.peer))
    }

    /// Waits until the connection no longer stands.
    pub(crate) async fn fallen(&mut self) -> Fallen {
        let clock = self.tls.verifier().clock().clone();
        let mut published = true;
        loop {
            let now = clock.now();
            if now >= self.peer.not_after {
                return Fallen::Expired;
            }
            let left = Duration::from_millis(self.peer.not_after.millis_since(now));
            tokio::select! {
                changed = self.generations.changed(), if published => match changed {
                    Ok(()) => {
                        // Rare, and large: not a part of every waiting connection.
                        if let Err(fallen) = Box::pin(self.judge()).await {
                            return fallen;
                        }
                    }
                    // Nobody publishes any more.
                    Err(_) => published = false,
                },
                () = clock.sleep(left.min(LOOK)) => {}
            }
        }
    }

    async fn judge(&mut self) -> Result<(), Fallen> {
        // First the cheap question, on the generation that was just published.
        if let Some(decision) = self.decide()
            && !decision.is_allowed()
        {
            return Err(Fallen::Denied(decision));
        }
        let epoch = self.current_epoch();
        if epoch != self.mesh_epoch {
            self.tls
                .verify_again(&self.chain, self.usage, self.expected.clone())
                .await
                .map_err(Fallen::Chain)?;
            self.mesh_epoch = epoch;
        }
        Ok(())
    }
}
