//! What is known, as the documents that the policy takes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::peerings::{self, Peering};
use portcullis_core::intention::{Matching, Protocol};
use portcullis_core::policy::Document;
use portcullis_core::time::Timestamp;
use serde_json::json;

use crate::watcher::state::DefaultPolicy;

/// Name of the document that all services share.
pub(super) const MESH: &str = "mesh";

/// What the mesh document is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum MeshPart {
    Roots,
    DefaultPolicy,
    Normalization,
    Providers,
    Peers,
}

#[derive(Default)]
pub(super) struct Documents {
    pub(super) roots: Option<(String, Vec<String>)>,
    /// When the agent last confirmed the roots.
    pub(super) roots_at: Timestamp,
    /// The parts whose last value the policy did not take: while there are any, the mesh
    /// document is not confirmed.
    pub(super) outdated: HashSet<MeshPart>,
    /// As of when the mesh document holds that is in force.
    pub(super) mesh_at: Timestamp,
    pub(super) default_policy: Option<DefaultPolicy>,
    /// How the `mesh` entry wants requests normalised, as it says it.
    pub(super) normalization: Option<String>,
    /// The `jwt-provider` entries as raw JSON; absent while nobody knows them.
    pub(super) providers: Option<String>,
    /// When the agent last confirmed these.
    pub(super) providers_at: Option<Timestamp>,
    /// What services speak, by document; `tcp` if it is not here.
    pub(super) protocols: HashMap<String, Protocol>,
    /// Documents whose service speaks something that the policy did not take: they are not
    /// confirmed.
    pub(super) unspoken: HashSet<String>,
    /// The last list of each of these that was accepted, and when it was last confirmed.
    pub(super) lists: HashMap<String, (Vec<u8>, Timestamp)>,
    /// The peers that the intentions of a document name, or will once they are loaded.
    pub(super) named: HashMap<String, BTreeSet<String>>,
    /// All peerings and as of when; absent while nobody knows them.
    pub(super) peerings: Option<(Arc<[Peering]>, Timestamp)>,
    /// The peers in the `mesh` document that was loaded last.
    pub(super) peers: serde_json::Map<String, serde_json::Value>,
    /// Documents whose last body was not refused: only these can be confirmed. One that could
    /// not be loaded has replaced nothing, so whoever loads it knows that it is to be loaded yet.
    pub(super) in_force: HashSet<String>,
}

impl Documents {
    /// As of when a mesh document of what is known now holds.
    pub(super) fn confirmed_mesh(&self) -> Timestamp {
        if self.outdated.is_empty() {
            self.roots_at
        } else {
            self.mesh_at
        }
    }

    pub(super) fn name_peers(&mut self, document: &str, named: BTreeSet<String>) {
        if named.is_empty() {
            self.named.remove(document);
        } else {
            self.named.insert(document.to_owned(), named);
        }
    }

    /// The peers that intentions name and whose bundles are known, as the document has them.
    pub(super) fn wanted_peers(&self) -> serde_json::Map<String, serde_json::Value> {
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

    /// The mesh document by all that is known; none before there are roots.
    pub(super) fn mesh(
        &self,
        max_stale: Option<Duration>,
        matching: Matching,
        at: Timestamp,
    ) -> Result<Option<Document>, String> {
        let Some((trust_domain, roots)) = &self.roots else {
            return Ok(None);
        };
        let (default, source) = match &self.default_policy {
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
        let max_stale_ms = max_stale.map_or(0, |budget| {
            u64::try_from(budget.as_millis()).unwrap_or(u64::MAX).max(1)
        });
        let normalization: serde_json::Value = match &self.normalization {
            Some(raw) => serde_json::from_str(raw).map_err(|error| error.to_string())?,
            None => serde_json::Value::Null,
        };
        let mut body = json!({
            "trust_domain": trust_domain,
            "roots": roots,
            "default_policy": default,
            "default_policy_source": source,
            "matching": match matching {
                Matching::Strict => "strict",
                Matching::Envoy => "envoy",
            },
            "max_stale_ms": max_stale_ms,
        });
        let peers = self.wanted_peers();
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
        if let Some(providers) = &self.providers {
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
}

/// The peers that a raw list of intentions names.
pub(super) fn named_by(list: &[u8]) -> BTreeSet<String> {
    std::str::from_utf8(list)
        .map(peerings::named_by)
        .unwrap_or_default()
}

/// The document with the keys of a provider.
pub(super) fn key_set_name(provider: &str) -> String {
    format!("jwks/{provider}")
}

/// The document of a service with this list of intentions.
pub(super) fn service_document(
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
