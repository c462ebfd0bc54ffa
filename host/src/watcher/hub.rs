//! Turns what the watchers learn into the policy's documents.
//!
//! A document that the policy refuses leaves its predecessor in force, which then
//! ages: it is not confirmed again until the agent says something readable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::peerings::Peering;
use portcullis_core::intention::{Matching, Protocol};
use portcullis_core::policy::{Document, LoadReport};
use portcullis_core::time::Timestamp;
use tokio::sync::{Mutex, watch};

use self::documents::{Documents, MESH, MeshPart, key_set_name, named_by, service_document};
use super::peers::Seen;
use super::state::{DefaultPolicy, Part, Readiness};
use crate::clock::Clock;
use crate::runtime::Policy;

mod documents;

/// How long intentions that name peers wait for the first word about peerings, so that nobody
/// is refused for want of it.
const PEERINGS: Duration = Duration::from_secs(2);

/// Shared by all watchers.
pub(super) struct Hub {
    pub(super) policy: Policy,
    pub(super) clock: Clock,
    max_stale: Option<Duration>,
    matching: Matching,
    readiness: watch::Sender<Readiness>,
    documents: Mutex<Documents>,
    /// Trust domain and the active root, for those who follow them.
    roots: watch::Sender<Option<MeshRoots>>,
    /// What the agent has said about peerings.
    pub(super) peerings: watch::Sender<Seen>,
    /// The peers that intentions name.
    named: watch::Sender<BTreeSet<String>>,
}

/// Trust domain and roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRoots {
    /// The trust domain.
    pub trust_domain: String,
    /// The agent's ID of the active root.
    pub active: String,
    /// Certificates of all roots, PEM.
    pub pems: Vec<String>,
    /// Intermediates that the agent lists beside them, PEM. Nobody trusts them for their own
    /// sake; they help where a peer's chain is not presented whole.
    pub intermediates: Vec<String>,
}

/// Part of [`Readiness`] that a watcher reports about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Leaf,
    Roots,
    Intentions,
    DefaultPolicy,
}

impl Hub {
    pub(super) fn new(
        policy: Policy,
        clock: Clock,
        max_stale: Option<Duration>,
        matching: Matching,
    ) -> Arc<Self> {
        let readiness = Readiness {
            max_stale,
            ..Readiness::default()
        };
        Arc::new(Self {
            policy,
            clock,
            max_stale,
            matching,
            readiness: watch::Sender::new(readiness),
            documents: Mutex::default(),
            roots: watch::Sender::new(None),
            peerings: watch::Sender::default(),
            named: watch::Sender::default(),
        })
    }

    pub(super) fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    pub(super) fn roots(&self) -> watch::Receiver<Option<MeshRoots>> {
        self.roots.subscribe()
    }

    /// The peers that intentions name.
    pub(super) fn named(&self) -> watch::Receiver<BTreeSet<String>> {
        self.named.subscribe()
    }

    pub(super) async fn default_policy(&self) -> Option<DefaultPolicy> {
        self.documents.lock().await.default_policy.clone()
    }

    pub(super) fn failed(&self, which: Which, error: &str) {
        self.readiness
            .send_modify(|readiness| part(readiness, which).error = Some(error.to_owned()));
    }

    pub(super) fn confirmed(&self, which: Which, at: Timestamp) {
        self.readiness.send_modify(|readiness| {
            let part = part(readiness, which);
            *part = Part {
                // Also if that is earlier: the policy goes by it too after a clock was set back.
                confirmed_at: Some(at),
                error: None,
            };
        });
    }

    pub(super) fn leaf_expires(&self, at: Timestamp) {
        self.readiness
            .send_modify(|readiness| readiness.leaf_expires = Some(at));
    }

    /// New roots, as of `at`.
    pub(super) async fn set_roots(
        self: &Arc<Self>,
        roots: MeshRoots,
        at: Timestamp,
    ) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        let before = documents
            .roots
            .replace((roots.trust_domain.clone(), roots.pems.clone()));
        let before_at = std::mem::replace(&mut documents.roots_at, at);
        let loaded = self.load_part(&mut documents, MeshPart::Roots).await;
        match &loaded {
            Ok(()) => {
                self.roots.send_replace(Some(roots));
                self.confirmed(Which::Roots, documents.mesh_at);
            }
            Err(_) => {
                documents.roots = before;
                documents.roots_at = before_at;
            }
        }
        loaded
    }

    /// What holds when no intention matches.
    pub(super) async fn set_default_policy(
        self: &Arc<Self>,
        found: DefaultPolicy,
    ) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        let is_known = documents.default_policy.as_ref() == Some(&found);
        if !is_known || documents.outdated.contains(&MeshPart::DefaultPolicy) {
            match &found {
                DefaultPolicy::Known { .. } => {
                    tracing::info!(default = %found, "connections without a matching intention")
                }
                DefaultPolicy::Unknown { because } => tracing::warn!(
                    because,
                    "the default policy cannot be found out, so connections without a matching intention are denied; say it with -default-intention-policy allow|deny, or give the token agent:read on the agent's node"
                ),
            }
            let before = documents.default_policy.replace(found);
            if let Err(problem) = self
                .load_part(&mut documents, MeshPart::DefaultPolicy)
                .await
            {
                documents.default_policy = before;
                return Err(problem);
            }
        }
        drop(documents);
        self.confirmed(Which::DefaultPolicy, self.clock.now());
        Ok(())
    }

    /// How the `mesh` entry wants requests normalised; Consul's own way if it says nothing.
    pub(super) async fn set_normalization(
        self: &Arc<Self>,
        found: Option<String>,
    ) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        if documents.normalization == found
            && !documents.outdated.contains(&MeshPart::Normalization)
        {
            return Ok(());
        }
        let before = std::mem::replace(&mut documents.normalization, found);
        let loaded = self
            .load_part(&mut documents, MeshPart::Normalization)
            .await;
        if loaded.is_err() {
            documents.normalization = before;
        }
        loaded
    }

    /// The `jwt-provider` entries as of `at`, a JSON array; without it no token is accepted,
    /// and a denial that asks for one denies.
    pub(super) async fn set_providers(
        self: &Arc<Self>,
        found: Option<String>,
        at: Timestamp,
    ) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        self.replace_providers(&mut documents, found).await?;
        documents.providers_at = Some(at);
        Ok(())
    }

    /// Providers that the agent has not confirmed within the staleness budget are unknown.
    pub(super) async fn age_providers(self: &Arc<Self>) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        match documents.providers_at {
            Some(at) if self.is_stale(at) => self.replace_providers(&mut documents, None).await,
            _ => Ok(()),
        }
    }

    async fn replace_providers(
        self: &Arc<Self>,
        documents: &mut Documents,
        found: Option<String>,
    ) -> Result<(), String> {
        if documents.providers == found && !documents.outdated.contains(&MeshPart::Providers) {
            return Ok(());
        }
        let before = std::mem::replace(&mut documents.providers, found);
        let loaded = self.load_part(documents, MeshPart::Providers).await;
        if loaded.is_err() {
            documents.providers = before;
        }
        loaded
    }

    /// The keys of a provider as of `at`, or with nothing that it has none.
    pub(super) async fn set_key_set(
        &self,
        provider: &str,
        keys: Option<Vec<u8>>,
        at: Timestamp,
    ) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        let document = Document {
            name: key_set_name(provider),
            body: keys,
            confirmed_at: at,
        };
        let name = document.name.clone();
        let refused = self.load(&mut documents, vec![document]).await?;
        match refused.get(&name) {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        }
    }

    /// The keys of a provider are still those.
    pub(super) async fn touch_key_set(&self, provider: &str, at: Timestamp) {
        self.touch(&[key_set_name(provider)], at).await;
    }

    pub(super) fn max_stale(&self) -> Option<Duration> {
        self.max_stale
    }

    /// What the service of this document speaks.
    pub(super) async fn set_protocol(
        self: &Arc<Self>,
        name: &str,
        protocol: Protocol,
    ) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        let before = documents.protocols.insert(name.to_owned(), protocol);
        if before == Some(protocol) && !documents.unspoken.contains(name) {
            return Ok(());
        }
        tracing::info!(document = name, protocol = protocol.code(), "speaks");
        let Some((list, at)) = documents.lists.get(name).cloned() else {
            return Ok(());
        };
        let change = service_document(name.to_owned(), protocol, &list, at);
        let refused = self.load(&mut documents, vec![change]).await;
        let problem = match &refused {
            Ok(refused) => refused.get(name).cloned(),
            Err(error) => Some(error.clone()),
        };
        match problem {
            None => {
                documents.unspoken.remove(name);
                Ok(())
            }
            Some(problem) => {
                // Then it is tried again.
                documents.unspoken.insert(name.to_owned());
                documents.protocols.remove(name);
                documents
                    .protocols
                    .extend(before.map(|before| (name.to_owned(), before)));
                Err(problem)
            }
        }
    }

    /// Loads the mesh document for a new value of `part`, or for one that has come back.
    async fn load_part(
        self: &Arc<Self>,
        documents: &mut Documents,
        part: MeshPart,
    ) -> Result<(), String> {
        documents.outdated.remove(&part);
        let loaded = self.load_mesh(documents).await;
        if loaded.is_err() {
            documents.outdated.insert(part);
        }
        loaded
    }

    async fn load_mesh(self: &Arc<Self>, documents: &mut Documents) -> Result<(), String> {
        let at = documents.confirmed_mesh();
        let Some(document) = documents.mesh(self.max_stale, self.matching, at)? else {
            return Ok(());
        };
        let refused = self.load(documents, vec![document]).await?;
        match refused.get(MESH) {
            Some(problem) => Err(problem.clone()),
            None => {
                documents.mesh_at = at;
                documents.peers = documents.wanted_peers();
                documents.outdated.remove(&MeshPart::Peers);
                Ok(())
            }
        }
    }

    /// Changed lists of intentions by document name, as of `at`. Answers those that were refused.
    /// After an error nobody knows which of them are in force.
    pub(super) async fn set_intentions(
        self: &Arc<Self>,
        lists: Vec<(String, Vec<u8>)>,
        at: Timestamp,
    ) -> Result<BTreeMap<String, String>, String> {
        self.expect_peers(&lists).await;
        let mut documents = self.documents.lock().await;
        let mut changes: Vec<Document> = lists
            .iter()
            .map(|(name, list)| {
                let protocol = documents.protocols.get(name).copied().unwrap_or_default();
                service_document(name.clone(), protocol, list, at)
            })
            .collect();
        // With the bundles that they need, in one generation: nobody is refused in between.
        let peers = documents.wanted_peers();
        let mesh_at = documents.confirmed_mesh();
        if documents.peers != peers {
            changes.extend(documents.mesh(self.max_stale, self.matching, mesh_at)?);
        }
        let brings_peers = changes.iter().any(|change| change.name == MESH);
        let refused = self.load(&mut documents, changes).await?;
        if brings_peers {
            if refused.contains_key(MESH) {
                documents.outdated.insert(MeshPart::Peers);
            } else {
                documents.mesh_at = mesh_at;
                documents.peers = peers;
                documents.outdated.remove(&MeshPart::Peers);
            }
        }
        for (name, list) in &lists {
            if !refused.contains_key(name) {
                documents.name_peers(name, named_by(list));
            }
        }
        self.publish_named(&documents);
        for (name, list) in lists {
            if documents.protocols.contains_key(&name) && !refused.contains_key(&name) {
                documents.lists.insert(name, (list, at));
            }
        }
        self.settle_peers(&mut documents).await?;
        Ok(refused)
    }

    /// Makes known which peers these lists name, before they are loaded, and waits a moment
    /// for the agent's first word about peerings.
    async fn expect_peers(&self, lists: &[(String, Vec<u8>)]) {
        let named: Vec<(&String, BTreeSet<String>)> = lists
            .iter()
            .map(|(name, list)| (name, named_by(list)))
            .filter(|(_, named)| !named.is_empty())
            .collect();
        if named.is_empty() {
            return;
        }
        let mut seen = self.peerings.subscribe();
        let mut documents = self.documents.lock().await;
        for (name, mut named) in named {
            named.extend(documents.named.get(name).into_iter().flatten().cloned());
            documents.name_peers(name, named);
        }
        self.publish_named(&documents);
        drop(documents);
        let looked = seen.wait_for(|seen| seen.is_looked_for);
        // Otherwise they are loaded without: nobody of a peer is let in until then.
        let _ = tokio::time::timeout(PEERINGS, looked).await;
    }

    fn publish_named(&self, documents: &Documents) {
        let all: BTreeSet<String> = documents.named.values().flatten().cloned().collect();
        self.named.send_if_modified(|named| {
            let changed = *named != all;
            *named = all;
            changed
        });
    }

    /// All peerings of the cluster as of `at`, or with nothing that nobody asks for them.
    pub(super) async fn set_peerings(
        self: &Arc<Self>,
        found: Option<(Arc<[Peering]>, Timestamp)>,
    ) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        documents.peerings = found;
        self.settle_peers(&mut documents).await
    }

    /// Takes bundles out of force that are older than the staleness budget, and brings those
    /// into force that should be.
    pub(super) async fn age_peerings(self: &Arc<Self>) -> Result<(), String> {
        let mut documents = self.documents.lock().await;
        let at = documents.peerings.as_ref().map(|(_, at)| *at);
        if at.is_some_and(|at| self.is_stale(at)) {
            documents.peerings = None;
        }
        self.settle_peers(&mut documents).await
    }

    /// Whether what was true at `at` is older than the staleness budget.
    pub(super) fn is_stale(&self, at: Timestamp) -> bool {
        let age = Duration::from_millis(self.clock.now().millis_since(at));
        self.max_stale.is_some_and(|budget| age > budget)
    }

    /// Brings the bundles into force that should be.
    async fn settle_peers(self: &Arc<Self>, documents: &mut Documents) -> Result<(), String> {
        if documents.peers == documents.wanted_peers()
            && !documents.outdated.contains(&MeshPart::Peers)
        {
            return Ok(());
        }
        self.load_part(documents, MeshPart::Peers).await
    }

    /// The agent has confirmed these documents; those that are not in force are left alone.
    pub(super) async fn touch(&self, names: &[String], at: Timestamp) {
        let mut documents = self.documents.lock().await;
        for name in names {
            if let Some((_, confirmed_at)) = documents.lists.get_mut(name) {
                *confirmed_at = at;
            }
        }
        let names: Vec<String> = names
            .iter()
            .filter(|name| {
                documents.in_force.contains(*name) && !documents.unspoken.contains(*name)
            })
            .cloned()
            .collect();
        // An empty list would mean all of them.
        if !names.is_empty() {
            self.policy.touch(&names, at);
        }
    }

    /// The agent has confirmed the roots, and with them the mesh document if it says all that
    /// is known.
    pub(super) async fn touch_mesh(&self, at: Timestamp) {
        let mut documents = self.documents.lock().await;
        documents.roots_at = at;
        if documents.outdated.is_empty() {
            documents.mesh_at = at;
            self.policy.touch(&[MESH], at);
            self.confirmed(Which::Roots, at);
        } else {
            self.failed(
                Which::Roots,
                "the policy did not take all that the agent says of the mesh, so the roots that it has are not confirmed",
            );
        }
    }

    async fn load(
        &self,
        documents: &mut Documents,
        changes: Vec<Document>,
    ) -> Result<BTreeMap<String, String>, String> {
        let names: Vec<String> = changes.iter().map(|change| change.name.clone()).collect();
        let policy = self.policy.clone();
        let loaded = tokio::task::spawn_blocking(move || policy.load(changes)).await;
        let report: LoadReport = match loaded {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => return Err(format!("the policy did not take it: {error}")),
            Err(_) => return Err("loading broke off".to_owned()),
        };
        for warning in &report.warnings {
            tracing::warn!(
                document = warning.document,
                at = warning.pointer,
                "{}",
                crate::escape::visible(&warning.text, 400)
            );
        }
        let mut refused = BTreeMap::new();
        for problem in &report.refused {
            let text =
                crate::escape::visible(&format!("{}: {}", problem.pointer, problem.text), 400);
            tracing::warn!(
                document = problem.document,
                problem = text,
                "refused: the last good one stays in force"
            );
            refused.insert(problem.document.clone(), text);
        }
        for name in names {
            if refused.contains_key(&name) {
                documents.in_force.remove(&name);
            } else {
                documents.in_force.insert(name);
            }
        }
        Ok(refused)
    }
}

fn part(readiness: &mut Readiness, which: Which) -> &mut Part {
    match which {
        Which::Leaf => &mut readiness.leaf,
        Which::Roots => &mut readiness.roots,
        Which::Intentions => &mut readiness.intentions,
        Which::DefaultPolicy => &mut readiness.default_policy,
    }
}

#[cfg(test)]
mod tests;
