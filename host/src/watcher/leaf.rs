//! Follows our own certificate, and asks for another in time.
//!
//! The agent renews within a blocking question. Beside that there is a timer (60 to
//! 90 % of the certificate's life) and a look after each change of roots, both spread
//! out so that a whole mesh does not ask at once.

use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::{HttpRequest, Query, RequestError, leaf};
use portcullis_core::watch::{Digest, LeafState, LeafTimer};
use rand::Rng as _;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::follow::Subject;
use super::hub::{Hub, Which};
use crate::agent_client::AgentReply;
use crate::tls::{Leaf as Certified, LeafStore};

pub(super) struct Leaf {
    pub(super) hub: Arc<Hub>,
    pub(super) service: String,
    pub(super) store: Arc<LeafStore>,
    /// Why the content that the agent answered last is not used.
    pub(super) refused: Option<String>,
}

impl Subject for Leaf {
    const KIND: &'static str = "leaf";

    fn name(&self) -> String {
        format!("leaf of {}", self.service)
    }

    fn request(&self, query: &Query) -> Result<HttpRequest, RequestError> {
        leaf::request(&self.service, query)
    }

    fn digest(&self, reply: &AgentReply) -> Result<Digest, String> {
        let leaf =
            leaf::decode(&reply.as_core(), &self.service).map_err(|error| error.to_string())?;
        Ok(Digest::of(leaf.chain_pem.as_bytes()))
    }

    async fn used(&mut self, reply: &AgentReply, changed: bool) -> Result<(), String> {
        if changed || self.refused.is_some() {
            let taken = leaf::decode(&reply.as_core(), &self.service)
                .map_err(|error| error.to_string())
                .and_then(|leaf| {
                    Certified::from_reply(&leaf, self.hub.clock.now())
                        .map_err(|error| error.to_string())
                });
            self.refused = match taken {
                Ok(leaf) => {
                    tracing::info!(identity = %leaf.id, serial = leaf.serial, until = %leaf.not_after, chain = leaf.chain().len(), "leaf certificate");
                    self.hub.leaf_expires(leaf.not_after);
                    self.store.replace(leaf);
                    None
                }
                Err(problem) => Some(problem),
            };
        }
        match &self.refused {
            Some(problem) => Err(problem.clone()),
            None => {
                self.hub.confirmed(Which::Leaf, self.hub.clock.now());
                Ok(())
            }
        }
    }

    fn failed(&mut self, error: &str) {
        self.hub.failed(Which::Leaf, error);
    }
}

/// Asks for another certificate when its time has come, or when the roots change.
pub(super) async fn renew(
    hub: Arc<Hub>,
    store: Arc<LeafStore>,
    refresh: Arc<Notify>,
    spread: Duration,
) {
    let mut replaced = store.subscribe();
    let mut roots = hub.roots();
    let mut known = roots.borrow_and_update().is_some();
    let seed = rand::rng().random();
    let mut timer = None;
    loop {
        if let Some(leaf) = store.current()
            && timer
                .as_ref()
                .is_none_or(|timer: &LeafTimer| timer.expires() != leaf.not_after)
        {
            timer = Some(LeafTimer::new(leaf.not_before, leaf.not_after, seed));
        }
        let now = hub.clock.now();
        let due = timer.as_mut().map_or(Duration::from_secs(3600), |timer| {
            if timer.state(now) != LeafState::Good {
                tracing::debug!("asking for another leaf certificate");
                refresh.notify_one();
                timer.asked(now);
            }
            Duration::from_millis(timer.next().millis_since(now))
        });
        tokio::select! {
            // Looked at again at least once a minute: timers stand still while a machine sleeps.
            () = sleep(due.min(Duration::from_secs(60))) => {}
            changed = replaced.changed() => if changed.is_err() { return },
            changed = roots.changed() => {
                if changed.is_err() {
                    return;
                }
                roots.borrow_and_update();
                // The first ones are no change: the certificate is as new as they are.
                if !std::mem::replace(&mut known, true) {
                    continue;
                }
                let part: f64 = rand::rng().random_range(0.0..=1.0);
                sleep(spread.mul_f64(part)).await;
                refresh.notify_one();
            }
        }
    }
}
