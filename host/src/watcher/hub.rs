//! Turns what the watchers learn into the policy's documents.
//!
//! A document that the policy refuses leaves its predecessor in force, which then
//! ages: it is not confirmed again until the agent says something readable.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::peerings::{self, Peering};
use portcullis_core::intention::{Matching, Protocol};
use portcullis_core::policy::{Document, LoadReport};
use portcullis_core::time::Timestamp;
use serde_json::json;
use tokio::sync::{Mutex, watch};

use super::peers::Seen;
use super::state::{DefaultPolicy, Part, Readiness};
use crate::clock::Clock;
use crate::runtime::Policy;

/// Name of the document that all services share.
const MESH: &str = "mesh";

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

/// What the mesh document is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum MeshPart {
    Roots,
    DefaultPolicy,
    Normalization,
    Providers,
    Peers,
}

#[derive(Default)]
struct Documents {
    roots: Option<(String, Vec<String>)>,
    /// When the agent last confirmed the roots.
    roots_at: Timestamp,
    /// The parts whose last value the policy did not take: while there are any, the mesh
    /// document is not confirmed.
    outdated: HashSet<MeshPart>,
    /// As of when the mesh document holds that is in force.
    mesh_at: Timestamp,
    default_policy: Option<DefaultPolicy>,
    /// How the `mesh` entry wants requests normalised, as it says it.
    normalization: Option<String>,
    /// The `jwt-provider` entries as raw JSON; absent while nobody knows them.
    providers: Option<String>,
    /// When the agent last confirmed these.
    providers_at: Option<Timestamp>,
    /// What services speak, by document; `tcp` if it is not here.
    protocols: HashMap<String, Protocol>,
    /// Documents whose service speaks something that the policy did not take: they are not
    /// confirmed.
    unspoken: HashSet<String>,
    /// The last list of each of these that was accepted, and when it was last confirmed.
    lists: HashMap<String, (Vec<u8>, Timestamp)>,
    /// The peers that the intentions of a document name, or will once they are loaded.
    named: HashMap<String, BTreeSet<String>>,
    /// All peerings and as of when; absent while nobody knows them.
    peerings: Option<(Arc<[Peering]>, Timestamp)>,
    /// The peers in the `mesh` document that was loaded last.
    peers: serde_json::Map<String, serde_json::Value>,
    /// Documents whose last body was not refused: only these can be confirmed. One that could
    /// not be loaded has replaced nothing, so whoever loads it knows that it is to be loaded yet.
    in_force: HashSet<String>,
}

impl Documents {
    /// As of when a mesh document of what is known now holds.
    fn confirmed_mesh(&self) -> Timestamp {
        if self.outdated.is_empty() {
            self.roots_at
        } else {
            self.mesh_at
        }
    }

    fn name_peers(&mut self, document: &str, named: BTreeSet<String>) {
        if named.is_empty() {
            self.named.remove(document);
        } else {
            self.named.insert(document.to_owned(), named);
        }
    }

    /// The peers that intentions name and whose bundles are known, as the document has them.
    fn wanted_peers(&self) -> serde_json::Map<String, serde_json::Value> {
        let is_named = |name: &str| self.named.values().any(|names| names.contains(name));
        let peerings = self.peerings.iter().flat_map(|(list, _)| list.iter());
        peerings
            .filter(|peering| is_named(peering.name.as_str()))
            .filter_map(|peering| {
                let bundle = peering.bundle.as_ref().ok()?;
                Some((peering.name.to_string(), bundle.document()))
            })
            .collect()
    }
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
        let Some(document) = self.mesh_document(documents, at)? else {
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

    /// The document by all that is known; none before there are roots.
    fn mesh_document(
        &self,
        documents: &Documents,
        at: Timestamp,
    ) -> Result<Option<Document>, String> {
        let Some((trust_domain, roots)) = &documents.roots else {
            return Ok(None);
        };
        let (default, source) = match &documents.default_policy {
            Some(DefaultPolicy::Known {
                allow: true,
                source,
            }) => ("allow", *source),
            Some(DefaultPolicy::Known {
                allow: false,
                source,
            }) => ("deny", *source),
            Some(DefaultPolicy::Unknown { .. }) | None => ("unknown", "not found out"),
        };
        let max_stale_ms = self.max_stale.map_or(0, |budget| {
            u64::try_from(budget.as_millis()).unwrap_or(u64::MAX).max(1)
        });
        let normalization: serde_json::Value = match &documents.normalization {
            Some(raw) => serde_json::from_str(raw).map_err(|error| error.to_string())?,
            None => serde_json::Value::Null,
        };
        let mut body = json!({
            "trust_domain": trust_domain,
            "roots": roots,
            "default_policy": default,
            "default_policy_source": source,
            "matching": match self.matching {
                Matching::Strict => "strict",
                Matching::Envoy => "envoy",
            },
            "max_stale_ms": max_stale_ms,
        });
        let peers = documents.wanted_peers();
        if !peers.is_empty()
            && let Some(fields) = body.as_object_mut()
        {
            fields.insert("peers".to_owned(), peers.into());
        }
        if !normalization.is_null()
            && let Some(fields) = body.as_object_mut()
        {
            fields.insert("request_normalization".to_owned(), normalization);
        }
        let mut body = body.to_string();
        // As the agent said it: reading it here could hide what is wrong with it.
        if let Some(providers) = &documents.providers {
            body.pop();
            body.push_str(",\"jwt_providers\":");
            body.push_str(providers);
            body.push('}');
        }
        let body = Some(body.into_bytes());
        Ok(Some(Document {
            name: MESH.to_owned(),
            body,
            confirmed_at: at,
        }))
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
            changes.extend(self.mesh_document(&documents, mesh_at)?);
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

/// The peers that a raw list of intentions names.
fn named_by(list: &[u8]) -> BTreeSet<String> {
    std::str::from_utf8(list)
        .map(peerings::named_by)
        .unwrap_or_default()
}

/// The document with the keys of a provider.
fn key_set_name(provider: &str) -> String {
    format!("jwks/{provider}")
}

/// The document of a service with this list of intentions.
fn service_document(
    name: String,
    protocol: Protocol,
    list: &[u8],
    confirmed_at: Timestamp,
) -> Document {
    let mut body = b"{".to_vec();
    if protocol != Protocol::Tcp {
        body.extend(format!("\"protocol\":\"{protocol}\",", protocol = protocol.code()).bytes());
    }
    body.extend(b"\"intentions\":");
    body.extend(list);
    body.push(b'}');
    Document {
        name,
        body: Some(body),
        confirmed_at,
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
