//! Asks a policy about [`Entries`]: nothing here decides.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_core::identity::PeerName;
use portcullis_core::intention::{Decision, DefaultPolicy, Destination, Matching};
use portcullis_core::policy::{Client, Document, HeaderNeeds, HttpVersion, Trace};
use portcullis_core::time::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Asked, Entries, NO_TRUST_DOMAIN};
use crate::runtime::{Policy, PolicyError};

/// What a policy is told besides the entries.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What holds when no intention matches.
    pub default_policy: DefaultPolicy,
    /// How requests are judged that can be read in two ways.
    pub matching: Matching,
    /// The mesh's own.
    pub trust_domain: String,
    /// The trust domains that stand for the peers that sources name.
    peers: BTreeMap<String, String>,
}

impl Settings {
    /// Settings for these entries. Peers get trust domains of our own: which they really
    /// have changes no decision.
    #[must_use]
    pub fn new(entries: &Entries, default_policy: DefaultPolicy, matching: Matching) -> Self {
        let own = entries.trust_domain.as_deref().unwrap_or(NO_TRUST_DOMAIN);
        let peers = entries.peers().into_iter();
        // One that cannot be a peer's name never matches anybody.
        let peers = peers.filter(|peer| PeerName::parse(peer).is_ok());
        Self {
            default_policy,
            matching,
            trust_domain: own.to_owned(),
            peers: peers
                .map(|peer| (peer.to_owned(), domain_of(peer)))
                .collect(),
        }
    }

    /// The same with another kind of matching.
    #[must_use]
    pub fn with_matching(&self, matching: Matching) -> Self {
        Self {
            matching,
            ..self.clone()
        }
    }

    /// The same with the peers that `other` has besides, so that both know all of them.
    #[must_use]
    pub fn with_peers(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.peers.extend(other.peers.clone());
        all
    }

    /// The trust domain that stands for a peer.
    #[must_use]
    pub fn peer_domain(&self, peer: &str) -> Option<String> {
        self.peers.get(peer).cloned()
    }

    /// The peers as `eval` has them.
    #[must_use]
    pub fn peers(&self) -> Value {
        let fields = |domain: &String| json!({ "trust_domain": domain });
        let peers = self
            .peers
            .iter()
            .map(|(name, domain)| (name.clone(), fields(domain)));
        Value::Object(peers.collect::<Map<_, _>>())
    }
}

/// A trust domain that stands for a peer, the same wherever it is named.
fn domain_of(peer: &str) -> String {
    let digest = Sha256::digest(peer.as_bytes());
    let name: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("peer-{name}.consul")
}

/// Why a policy cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// It refuses a document.
    #[error("the policy refuses `{document}` at `{pointer}`: {text}")]
    Refused {
        /// Which.
        document: String,
        /// Where in it.
        pointer: String,
        /// Why.
        text: String,
    },
    /// It failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// A policy that has been told the entries.
pub struct Judge<'e> {
    policy: Policy,
    entries: &'e Entries,
    /// What it was told besides.
    pub settings: Settings,
    loaded: BTreeSet<String>,
}

impl<'e> Judge<'e> {
    /// Tells a policy of its own the mesh.
    ///
    /// # Errors
    /// When the policy refuses it or fails.
    pub fn new(
        policy: Policy,
        entries: &'e Entries,
        settings: Settings,
    ) -> Result<Self, JudgeError> {
        let mesh = json!({
            "trust_domain": settings.trust_domain,
            "peers": settings.peers(),
            "default_policy": settings.default_policy.code(),
            "default_policy_source": "flag",
            "matching": settings.matching.code(),
            "max_stale_ms": 0,
            "request_normalization": entries.normalization(),
            "jwt_providers": entries.providers(),
        });
        load(&policy, "mesh".to_owned(), mesh.to_string())?;
        Ok(Self {
            policy,
            entries,
            settings,
            loaded: BTreeSet::new(),
        })
    }

    fn know(&mut self, target: &Destination) -> Result<String, JudgeError> {
        let key = target.key();
        if self.loaded.insert(key.clone()) {
            let service = json!({
                "protocol": self.entries.supposed_protocol(target),
                "intentions": self.entries.list(target),
            });
            load(&self.policy, target.document(), service.to_string())?;
        }
        Ok(key)
    }

    /// What the policy decides. A request that cannot be asked about is `None`.
    ///
    /// # Errors
    /// When the policy refuses the target's document or fails.
    pub fn decide(
        &mut self,
        target: &Destination,
        uri: &str,
        request: Option<(&Asked, HttpVersion)>,
    ) -> Result<Option<Decision>, JudgeError> {
        let key = self.know(target)?;
        let request = match request {
            None => None,
            Some((asked, version)) => match asked.to_core(version) {
                Some(request) => Some(request),
                None => return Ok(None),
            },
        };
        let client = Client::from_uri(uri);
        let now = Timestamp::default();
        Ok(Some(self.policy.authorize(
            &key,
            &client,
            request.as_ref(),
            now,
        )))
    }

    /// The same with the way to it.
    ///
    /// # Errors
    /// As [`Judge::decide`].
    pub fn explain(
        &mut self,
        target: &Destination,
        uri: &str,
        request: Option<(&Asked, HttpVersion)>,
    ) -> Result<Trace, JudgeError> {
        let key = self.know(target)?;
        let request = request.and_then(|(asked, version)| asked.to_core(version));
        let client = Client::from_uri(uri);
        let now = Timestamp::default();
        Ok(self.policy.explain(&key, &client, request.as_ref(), now)?)
    }

    /// A decision in one sentence.
    #[must_use]
    pub fn describe(&self, target: &Destination, decision: &Decision) -> String {
        self.policy.describe(&target.key(), decision)
    }

    /// Which headers the rules of the target look at.
    ///
    /// # Errors
    /// When the policy refuses the target's document or fails.
    pub fn needed_headers(&mut self, target: &Destination) -> Result<HeaderNeeds, JudgeError> {
        let key = self.know(target)?;
        Ok(self.policy.needed_headers(&key))
    }
}

fn load(policy: &Policy, name: String, body: String) -> Result<(), JudgeError> {
    let document = Document {
        name,
        body: Some(body.into_bytes()),
        confirmed_at: Timestamp::default(),
    };
    let report = policy.load(vec![document])?;
    match report.refused.into_iter().next() {
        None => Ok(()),
        Some(refused) => Err(JudgeError::Refused {
            document: refused.document,
            pointer: refused.pointer,
            text: refused.text,
        }),
    }
}
