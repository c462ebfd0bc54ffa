//! Follows the bundles of the cluster peers that intentions name.
//!
//! All peerings are one question, which is asked only while an intention names a peer: it
//! needs `peering:read`. What cannot be read leaves the last good bundles in force, until they
//! are older than the staleness budget. A peer without a bundle is nobody: an intention that
//! allows it never matches, and one that denies it denies every foreign client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::peerings::{self, Peering, usable};
use portcullis_core::agent::{HttpRequest, Query, RequestError};
use portcullis_core::time::Timestamp;
use portcullis_core::watch::{Digest, Settings};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::activity::Activity;
use super::follow::{Subject, follow};
use super::hub::Hub;
use crate::agent_client::{AgentClient, AgentReply};

/// How often the age of the bundles is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How soon it is tried again to bring them into force.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of a peer that an intention names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownPeer {
    /// Its trust domain; absent while nobody of it is believed.
    pub trust_domain: Option<String>,
    /// Its roots, PEM; none while nobody of it is believed.
    pub roots: Vec<String>,
    /// As of when; absent before the first good answer about peerings.
    pub confirmed_at: Option<Timestamp>,
    /// Why there is no bundle, or why the last question failed.
    pub error: Option<String>,
}

/// The peers that intentions name, by name.
pub type KnownPeers = BTreeMap<String, KnownPeer>;

/// What the agent has said about peerings.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Whether there was an answer, good or not.
    pub(super) is_looked_for: bool,
    list: Arc<[Peering]>,
    confirmed_at: Option<Timestamp>,
    error: Option<String>,
}

struct Peerings {
    hub: Arc<Hub>,
    seen: watch::Sender<Seen>,
}

impl Subject for Peerings {
    const KIND: &'static str = "peerings";

    fn name(&self) -> String {
        Self::KIND.to_owned()
    }

    fn request(&self, query: &Query) -> Result<HttpRequest, RequestError> {
        Ok(peerings::request(query))
    }

    fn digest(&self, reply: &AgentReply) -> Result<Digest, String> {
        let list = peerings::decode(&reply.as_core()).map_err(|error| error.to_string())?;
        // Heartbeats come and go while the roots stay.
        Ok(Digest::of(format!("{list:?}").as_bytes()))
    }

    async fn used(&mut self, reply: &AgentReply, _changed: bool) -> Result<(), String> {
        let at = super::confirmed_at(reply, &self.hub.clock);
        let list = peerings::decode(&reply.as_core()).map_err(|error| error.to_string())?;
        let list: Arc<[Peering]> = list.into();
        self.hub.set_peerings(Some((Arc::clone(&list), at))).await?;
        self.seen.send_replace(Seen {
            is_looked_for: true,
            list,
            confirmed_at: Some(at),
            error: None,
        });
        Ok(())
    }

    fn failed(&mut self, error: &str) {
        self.seen.send_modify(|seen| {
            seen.is_looked_for = true;
            seen.error = Some(error.to_owned());
        });
    }
}

/// Follows the peerings while an intention names one, for ever.
pub(super) async fn follow_named(
    hub: Arc<Hub>,
    agent: AgentClient,
    settings: Settings,
    activity: Activity,
) {
    let mut named = hub.named();
    let mut until = hub.named();
    loop {
        if named.wait_for(|named| !named.is_empty()).await.is_err() {
            return;
        }
        let subject = Peerings {
            hub: Arc::clone(&hub),
            seen: hub.peerings.clone(),
        };
        let again = Arc::new(Notify::new());
        tokio::select! {
            _ = follow(subject, agent.clone(), settings, again, activity.clone()) => return,
            _ = until.wait_for(BTreeSet::is_empty) => {}
        }
        // Whoever names one later waits for a fresh answer.
        hub.peerings.send_replace(Seen::default());
        if let Err(error) = hub.set_peerings(None).await {
            tracing::debug!(error, "bundles that nobody names are still in force");
        }
    }
}

/// Takes bundles that are too old out of force, and tells what is known, for ever.
pub(super) async fn keep(hub: Arc<Hub>, known: watch::Sender<KnownPeers>) {
    let (mut named, mut seen) = (hub.named(), hub.peerings.subscribe());
    loop {
        let names = named.borrow_and_update().clone();
        let now = seen.borrow_and_update().clone();
        let settled = hub.age_peerings().await;
        if let Err(error) = &settled {
            tracing::warn!(
                error,
                "the bundles of peers are not in force as they should be"
            );
        }
        tell(&hub, &names, &now, &known);
        let look = match settled {
            Ok(()) => hub
                .max_stale()
                .map_or(LOOK, |budget| LOOK.min(budget / 4).max(LOOK / 100)),
            Err(_) => RETRY,
        };
        tokio::select! {
            changed = named.changed() => if changed.is_err() {
                return;
            },
            changed = seen.changed() => if changed.is_err() {
                return;
            },
            () = sleep(look) => {}
        }
    }
}

fn tell(hub: &Hub, names: &BTreeSet<String>, seen: &Seen, known: &watch::Sender<KnownPeers>) {
    let is_stale = seen.confirmed_at.is_some_and(|at| hub.is_stale(at));
    let own = hub
        .roots()
        .borrow()
        .as_ref()
        .map(|roots| roots.trust_domain.clone());
    let told = names.iter().map(|name| {
        let mut peer = KnownPeer {
            confirmed_at: seen.confirmed_at,
            ..KnownPeer::default()
        };
        match usable(name, names, &seen.list, own.as_deref()) {
            Ok(bundle) if !is_stale => {
                peer.trust_domain = Some(bundle.trust_domain.to_string());
                peer.roots.clone_from(&bundle.roots);
                peer.error.clone_from(&seen.error);
            }
            Ok(_) => peer.error = Some("what was known of it is stale".to_owned()),
            Err(why) => {
                // Without a good answer nobody knows whether there is such a peering.
                let unknown = seen.confirmed_at.is_none();
                let asked = || "the agent has not answered yet".to_owned();
                peer.error = Some(match unknown {
                    true => seen.error.clone().unwrap_or_else(asked),
                    false => why.to_string(),
                });
            }
        }
        (name.clone(), peer)
    });
    let told: KnownPeers = told.collect();
    known.send_if_modified(|known| {
        if seen.is_looked_for {
            say(known, &told);
        }
        let changed = *known != told;
        *known = told;
        changed
    });
}

/// Says what has changed for each peer, once.
fn say(before: &KnownPeers, now: &KnownPeers) {
    for (name, peer) in now {
        let before = before.get(name);
        let was_known = before.is_some_and(|before| before.trust_domain.is_some());
        match (&peer.trust_domain, &peer.error) {
            (Some(trust_domain), _) => {
                if before.is_none_or(|before| before.roots != peer.roots) {
                    tracing::info!(
                        peer = name,
                        trust_domain,
                        roots = peer.roots.len(),
                        "peer bundle"
                    );
                }
            }
            (None, Some(error)) => {
                if was_known || before.is_none_or(|before| before.error.as_ref() != Some(error)) {
                    let error = crate::escape::visible(error, 400);
                    tracing::warn!(
                        peer = name,
                        error,
                        "this peer has no bundle, so nobody of it is let in, and an intention that denies it denies every foreign client"
                    );
                }
            }
            (None, None) => {}
        }
    }
}
