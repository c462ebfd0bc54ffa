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
    /// Which mesh document has verified the chain.
    mesh_epoch: Option<u64>,
    /// Something has changed since it was judged: kept here, so that whoever stops waiting in
    /// the middle of a judgement loses nothing.
    is_due: bool,
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
        epoch: Option<u64>,
        target: Arc<str>,
    ) -> Self {
        let standing = Self::new(tls, peer, chain, epoch, Usage::Client);
        Self {
            target: Some(target),
            ..standing
        }
    }

    /// A client's connection whose requests are judged by themselves.
    pub(crate) fn client(
        tls: &MeshTls,
        peer: &Arc<VerifiedPeer>,
        chain: Chain,
        epoch: Option<u64>,
    ) -> Self {
        Self::new(tls, peer, chain, epoch, Usage::Client)
    }

    /// Our connection to a server.
    pub(crate) fn outbound(
        tls: &MeshTls,
        peer: &Arc<VerifiedPeer>,
        chain: Chain,
        epoch: Option<u64>,
        expected: Arc<str>,
    ) -> Self {
        let standing = Self::new(tls, peer, chain, epoch, Usage::Server);
        Self {
            expected: Some(expected),
            ..standing
        }
    }

    fn new(
        tls: &MeshTls,
        peer: &Arc<VerifiedPeer>,
        chain: Chain,
        mesh_epoch: Option<u64>,
        usage: Usage,
    ) -> Self {
        let mut generations = tls.verifier().policy().subscribe();
        generations.mark_unchanged();
        Self {
            // Of what came since the handshake nobody tells any more.
            is_due: tls.verifier().epoch() != mesh_epoch,
            tls: tls.clone(),
            peer: Arc::clone(peer),
            chain,
            usage,
            expected: None,
            target: None,
            generations,
            mesh_epoch,
        }
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
            if self.is_due {
                // Rare, and large: not a part of every waiting connection.
                if let Err(fallen) = Box::pin(self.judge()).await {
                    return fallen;
                }
                self.is_due = false;
                continue;
            }
            let left = Duration::from_millis(self.peer.not_after.millis_since(now));
            tokio::select! {
                changed = self.generations.changed(), if published => match changed {
                    Ok(()) => self.is_due = true,
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
        let epoch = self.tls.verifier().epoch();
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

#[cfg(test)]
mod tests {
    use std::future::ready;

    use portcullis_core::policy::Document;
    use portcullis_core::time::Timestamp;
    use portcullis_testkit::TestCa;

    use super::*;
    use crate::clock::Clock;
    use crate::runtime::{Policy, aws_lc};
    use crate::tls::{LeafStore, PeerVerifier};

    struct Mesh {
        policy: Policy,
        tls: MeshTls,
        peer: Arc<VerifiedPeer>,
        chain: Chain,
    }

    const NAME: &str = "t.consul";

    impl Mesh {
        /// In which `web` is verified.
        fn new() -> Self {
            let ca = TestCa::new(NAME);
            let now = Timestamp::from_unix_secs(ca.now().try_into().unwrap());
            let policy = Policy::native(aws_lc());
            let verifier = PeerVerifier::new(policy.clone(), Clock::manual(now), 1);
            let tls = MeshTls::new(verifier, Arc::new(LeafStore::new()));
            let chain: Chain = ca.service("web").issue().chain().into();
            believe(&policy, &ca, now);
            let peer = tls.verifier().verify(&chain, Usage::Client, None).unwrap();
            Self {
                policy,
                tls,
                peer,
                chain,
            }
        }

        /// Another CA takes the place of the one before.
        fn replace_roots(&self) {
            let now = self.tls.verifier().clock().now();
            believe(&self.policy, &TestCa::new(NAME), now);
        }

        fn standing(&self, epoch: Option<u64>) -> Standing {
            Standing::client(&self.tls, &self.peer, Arc::clone(&self.chain), epoch)
        }
    }

    fn believe(policy: &Policy, ca: &TestCa, now: Timestamp) {
        let body = serde_json::json!({
            "trust_domain": NAME, "roots": [ca.pem()], "default_policy": "deny",
        });
        let document = Document {
            name: "mesh".to_owned(),
            body: Some(body.to_string().into_bytes()),
            confirmed_at: now,
        };
        let report = policy.load(vec![document]).unwrap();
        assert!(report.refused.is_empty(), "{report:?}");
    }

    #[tokio::test]
    async fn a_judgement_that_was_left_is_made_again() {
        let mesh = Mesh::new();
        let mut standing = mesh.standing(mesh.tls.verifier().epoch());
        mesh.replace_roots();
        // Something else is ready while the chain is being verified.
        tokio::select! {
            biased;
            fallen = standing.fallen() => assert!(matches!(fallen, Fallen::Chain(_))),
            () = ready(()) => {}
        }
        assert!(matches!(standing.fallen().await, Fallen::Chain(_)));
    }

    #[tokio::test]
    async fn a_chain_that_other_roots_have_verified_is_verified_again() {
        let mesh = Mesh::new();
        let epoch = mesh.tls.verifier().epoch();
        mesh.replace_roots();
        assert!(matches!(
            mesh.standing(epoch).fallen().await,
            Fallen::Chain(_)
        ));
    }
}
