//! Consul's configuration entries as a whole, wherever they come from: files, replies, an
//! agent. What `portcullis test`, `lint` and `diff` work on.
//!
//! Only entries are held here; what they lead to is asked of a policy by [`Judge`].

mod asked;
mod judge;
mod read;
mod rule;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use portcullis_core::intention::{Destination, Intention, IntentionSet, Origin, Problem, Source};
use serde_json::Value;

use crate::definitions::DefinitionError;

pub use asked::Asked;
pub use judge::{Judge, JudgeError, Settings};
pub use rule::{Place, Rule};

/// Stands for every service that no rule names.
pub const ANY_SERVICE: &str = "any-other-service";

/// The trust domain where nobody says which.
pub const NO_TRUST_DOMAIN: &str = "from-a-file.consul";

/// Configuration entries, and what else is known of the mesh.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    rules: Vec<Rule>,
    /// Protocols by the services' names in lower case.
    protocols: BTreeMap<String, String>,
    /// What `proxy-defaults` says.
    default_protocol: Option<String>,
    /// A service that no entry speaks of is known to speak TCP.
    complete: bool,
    /// `HTTP.Incoming.RequestNormalization` of the `mesh` entry.
    normalization: Option<Value>,
    mesh_read: bool,
    providers: BTreeMap<String, Value>,
    /// Kind and name of each entry, and where it stands.
    seen: BTreeMap<(String, String), String>,
    /// Intentions of replies, to have each once.
    intentions: BTreeSet<String>,
    services: BTreeSet<String>,
    /// The mesh's own trust domain, where it is known.
    pub trust_domain: Option<String>,
}

/// Why entries cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EntriesError {
    /// A file cannot be read, or says what cannot be.
    #[error(transparent)]
    File(#[from] DefinitionError),
    /// A reply of the agent cannot be used.
    #[error("the agent's {what}: {problem}")]
    Reply {
        /// Of what.
        what: String,
        /// Why.
        problem: String,
    },
    /// The list of a destination is more than the policy takes.
    #[error("the intentions of `{destination}`: {problem}")]
    List {
        /// Of which.
        destination: String,
        /// Why.
        problem: String,
    },
}

impl Entries {
    /// Reads config entries and replies from files and directories.
    ///
    /// # Errors
    /// When something cannot be read, or says what cannot be; with file, line and field.
    pub fn read(paths: &[PathBuf]) -> Result<Self, EntriesError> {
        let mut all = Self::default();
        for path in paths {
            for file in crate::definitions::files(path)? {
                all.add_file(&file)?;
            }
        }
        Ok(all)
    }

    /// Reads what a text holds, in JSON; `name` stands for it in messages.
    ///
    /// # Errors
    /// When it cannot be read, or says what cannot be.
    pub fn from_json(name: &str, text: &str) -> Result<Self, EntriesError> {
        let mut all = Self::default();
        let path = Path::new(name);
        let root = crate::definitions::json_tree(text);
        let added = root.and_then(|root| all.add(&root, name));
        added.map_err(|problem| crate::definitions::content(path, problem))?;
        Ok(all)
    }

    /// Takes the agent's reply to `/v1/config/<kind>`. Fields of kinds other than
    /// `service-intentions` that are not known are passed over: the agent may be newer.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn add_reply(&mut self, kind: &str, body: &str) -> Result<(), EntriesError> {
        let root = crate::definitions::json_tree(body);
        root.and_then(|root| self.add_agents(&root, kind))
            .map_err(|problem| EntriesError::Reply {
                what: format!("`{kind}` entries"),
                problem: problem.text,
            })
    }

    /// The agent has told all: a service that no entry speaks of speaks TCP, a provider
    /// that is not there does not exist.
    pub fn are_complete(&mut self) {
        self.complete = true;
        self.mesh_read = true;
    }

    /// Takes a service's name from the catalog.
    pub fn add_service(&mut self, name: &str) {
        self.services.insert(name.to_owned());
    }

    /// These entries with `candidate`'s in place of their own, as `consul config write`
    /// does it. With `whole`, intentions that the candidate does not have are gone.
    #[must_use]
    pub fn with(&self, candidate: &Self, whole: bool) -> Self {
        let mut all = self.clone();
        let replaces = |rule: &Rule| whole || candidate.rules.iter().any(|new| new.replaces(rule));
        all.rules.retain(|rule| !replaces(rule));
        all.rules.extend(candidate.rules.iter().cloned());
        all.protocols.extend(candidate.protocols.clone());
        if candidate.default_protocol.is_some() {
            all.default_protocol.clone_from(&candidate.default_protocol);
        }
        if candidate.mesh_read {
            all.normalization.clone_from(&candidate.normalization);
            all.mesh_read = true;
        }
        all.providers.extend(candidate.providers.clone());
        all.services.extend(candidate.services.iter().cloned());
        all.complete |= candidate.complete;
        if all.trust_domain.is_none() {
            all.trust_domain.clone_from(&candidate.trust_domain);
        }
        all
    }

    /// The same mesh without a single rule.
    #[must_use]
    pub fn without_rules(&self) -> Self {
        Self {
            rules: Vec::new(),
            default_protocol: Some("http".to_owned()),
            protocols: BTreeMap::new(),
            providers: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// Every intention, in the order of reading.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether anything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.seen.is_empty()
    }

    /// The services that rules name exactly as destination; if none does, one that stands
    /// for every service.
    #[must_use]
    pub fn targets(&self) -> Vec<Destination> {
        let named = self.rules.iter().filter_map(Rule::destination);
        let mut targets: BTreeSet<Destination> = named.collect();
        if targets.is_empty() || self.rules.iter().any(|rule| rule.destination().is_none()) {
            targets.extend(Destination::parse(ANY_SERVICE).ok());
        }
        targets.into_iter().collect()
    }

    /// Services that the catalog has.
    #[must_use]
    pub fn services(&self) -> &BTreeSet<String> {
        &self.services
    }

    /// The rules of a destination, in the order of its list.
    #[must_use]
    pub fn rules_of(&self, target: &Destination) -> Vec<&Rule> {
        self.rules
            .iter()
            .filter(|rule| rule.concerns(target))
            .collect()
    }

    /// The list of a destination, as the match reply has it.
    #[must_use]
    pub fn list(&self, target: &Destination) -> Value {
        let rules = self.rules_of(target).into_iter();
        rules.map(|rule| Value::Object(rule.json.clone())).collect()
    }

    /// The intentions of a destination as the policy reads them, and what it cannot read.
    ///
    /// # Errors
    /// When the list as a whole is refused.
    pub fn decode(
        &self,
        target: &Destination,
    ) -> Result<(IntentionSet, Vec<Problem>), EntriesError> {
        let list = self.list(target).to_string();
        IntentionSet::decode(list.as_bytes(), target).map_err(|error| EntriesError::List {
            destination: target.to_string(),
            problem: error.to_string(),
        })
    }

    /// What a destination speaks, where that is known.
    #[must_use]
    pub fn protocol(&self, target: &Destination) -> Option<&str> {
        self.protocols
            .get(target.name())
            .filter(|protocol| !protocol.is_empty())
            .or(self.default_protocol.as_ref())
            .map(String::as_str)
            .or(self.complete.then_some("tcp"))
    }

    /// What a destination speaks; where that is not known, what its rules suppose.
    #[must_use]
    pub fn supposed_protocol(&self, target: &Destination) -> &str {
        let suppose = || {
            let rules = self.rules_of(target);
            let has = rules.iter().any(|rule| rule.has_permissions());
            if has { "http" } else { "tcp" }
        };
        self.protocol(target).unwrap_or_else(suppose)
    }

    /// Lets services that no entry speaks of speak `protocol`.
    pub fn suppose_protocol(&mut self, protocol: &str) {
        if self.default_protocol.is_none() {
            self.default_protocol = Some(protocol.to_owned());
        }
    }

    /// Whether a JWT provider of this name exists; `None` where that is not known.
    #[must_use]
    pub fn has_provider(&self, name: &str) -> Option<bool> {
        if self.providers.keys().any(|known| known == name) {
            return Some(true);
        }
        (self.complete || !self.providers.is_empty()).then_some(false)
    }

    /// `RequestNormalization` of the mesh.
    #[must_use]
    pub fn normalization(&self) -> Option<&Value> {
        self.normalization.as_ref()
    }

    /// The same, where a `mesh` entry was read.
    pub(crate) fn told_normalization(&self) -> Option<Option<&Value>> {
        self.mesh_read.then_some(self.normalization.as_ref())
    }

    /// The `jwt-provider` entries.
    #[must_use]
    pub fn providers(&self) -> Vec<Value> {
        self.providers.values().cloned().collect()
    }

    /// Gives a provider its keys in the entry itself, in place of the server or file that it
    /// names.
    pub fn set_keys(&mut self, provider: &str, keys: &[u8]) {
        let keys = base64::engine::general_purpose::STANDARD.encode(keys);
        let named =
            |entry: &&mut Value| entry.get("Name").and_then(Value::as_str) == Some(provider);
        for entry in self.providers.values_mut().filter(named) {
            if let Some(fields) = entry.as_object_mut() {
                let local = serde_json::json!({ "Local": { "JWKS": keys } });
                fields.insert("JSONWebKeySet".to_owned(), local);
            }
        }
    }

    /// The cluster peerings that sources name.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<&str> {
        self.rules.iter().filter_map(Rule::peer).collect()
    }
}

/// The identity of a client that a source covers; in place of `*` stands `any`.
/// `None` where no SPIFFE ID can carry the names.
pub(crate) fn caller(intention: &Intention, any: &str, settings: &Settings) -> Option<String> {
    uri(&intention.source, any, settings)
}

fn uri(source: &Source, any: &str, settings: &Settings) -> Option<String> {
    let (trust_domain, partition) = match &source.origin {
        Origin::Local(partition) => (settings.trust_domain.clone(), partition.to_string()),
        Origin::Peer(peer) => (settings.peer_domain(peer)?, "default".to_owned()),
        Origin::Anywhere => (settings.trust_domain.clone(), "default".to_owned()),
    };
    let own = |pattern: &str, any: &str| match pattern {
        "*" => any.to_owned(),
        name => name.to_owned(),
    };
    let namespace = own(&source.namespace, "default");
    let name = own(&source.name, any);
    service_uri(&trust_domain, &partition, &namespace, &name)
}

/// The SPIFFE ID of a service; `None` where a name cannot be in one.
#[must_use]
pub fn service_uri(
    trust_domain: &str,
    partition: &str,
    namespace: &str,
    name: &str,
) -> Option<String> {
    let partition = match partition {
        "" | "default" => String::new(),
        other => format!("/ap/{other}"),
    };
    let uri = format!("spiffe://{trust_domain}{partition}/ns/{namespace}/dc/dc1/svc/{name}");
    portcullis_core::identity::SpiffeId::parse(&uri)
        .ok()
        .filter(|id| id.service().is_some())
        .map(|id| id.to_string())
}

#[cfg(test)]
mod tests;
