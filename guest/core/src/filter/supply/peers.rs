//! The cluster peers that the service's intentions name, and their bundles.
//!
//! A list of intentions that names a peer waits a moment for its bundle, so that both come
//! into force at once: a denial whose peer has none denies every foreign client.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Ticked;
use crate::agent::peerings::{self, Peering};
use crate::agent::{HttpReply, ReplyError, ReplyHeaders};
use crate::filter::Shelf;
use crate::filter::topic::Topic;

/// How long intentions wait for the bundles of the peers that they name.
const WAIT_MS: u64 = 2_000;
/// What there is of peers while nobody names one.
const NOBODY: &[u8] = b"[]";

#[derive(Debug)]
pub(super) struct Peers {
    pub(super) topic: Topic,
    /// Those that the intentions in force name, and those that wait.
    named: BTreeSet<String>,
    /// Those of them for whose bundles intentions have waited.
    awaited: BTreeSet<String>,
    /// Intentions that are not in force yet, whom they name, and until when they wait.
    held: Option<(String, BTreeSet<String>, u64)>,
    /// All that the agent lists.
    list: Vec<Peering>,
    is_stale: bool,
    /// Something has changed on which the documents depend.
    is_due: bool,
    /// The mesh's own trust domain by which the documents were made.
    own: Option<String>,
    documents: Map<String, Value>,
    /// What was told last about those without a bundle.
    told: Vec<String>,
}

impl Peers {
    pub(super) fn new(topic: Topic) -> Self {
        Self {
            topic,
            named: BTreeSet::new(),
            awaited: BTreeSet::new(),
            held: None,
            list: Vec::new(),
            is_stale: false,
            is_due: false,
            own: None,
            documents: Map::new(),
            told: Vec::new(),
        }
    }

    /// Whether nothing is to be asked, because nobody names a peer.
    pub(super) fn rest(&mut self, shelf: &impl Shelf, now: u64) -> bool {
        if self.named.is_empty() {
            self.topic.rest(shelf, now, NOBODY);
        }
        self.named.is_empty()
    }

    /// As the document `mesh` has them, by name.
    pub(super) const fn documents(&self) -> &Map<String, Value> {
        &self.documents
    }

    /// How many have no bundle.
    pub(super) fn lacking(&self) -> usize {
        self.named.len().saturating_sub(self.documents.len())
    }

    /// A new list of intentions.
    pub(super) fn hold(&mut self, list: String, now: u64) {
        let named = peerings::named_by(&list);
        self.is_due |= !named.is_subset(&self.named);
        self.named.extend(named.iter().cloned());
        let until = match &self.held {
            Some((_, _, until)) => *until,
            None => now.saturating_add(WAIT_MS),
        };
        self.held = Some((list, named, until));
    }

    /// The list that was held, once it need not wait any longer.
    pub(super) fn released(&mut self, now: u64) -> Option<String> {
        let (_, named, until) = self.held.as_ref()?;
        let is_known = |name: &String| {
            self.awaited.contains(name) || self.list.iter().any(|peering| peering.name == **name)
        };
        let has_failed = self.topic.last_error().is_some();
        if now < *until && !has_failed && !named.iter().all(is_known) {
            return None;
        }
        let (list, named, _) = self.held.take()?;
        self.awaited = named;
        Some(list)
    }

    /// A list that was released is in force.
    pub(super) fn loaded(&mut self) {
        if self.held.is_none() && self.named != self.awaited {
            self.named.clone_from(&self.awaited);
            self.is_due = true;
        }
    }

    /// Nothing waits any longer: a policy is needed now.
    pub(super) fn hurry(&mut self) {
        if let Some((_, _, until)) = &mut self.held {
            *until = 0;
        }
    }

    /// Takes over what was published. Whether other bundles are to be loaded.
    pub(super) fn take_over(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        budget: u64,
        own: Option<&str>,
        ticked: &mut Ticked,
    ) -> bool {
        if let Some(value) = self.topic.take(shelf, now) {
            match read(&value) {
                Ok(list) => {
                    self.topic.accepted();
                    self.list = list;
                    self.is_due = true;
                }
                Err(error) => {
                    ticked
                        .problems
                        .push(format!("peerings are refused: {error}"));
                    self.topic.refused();
                }
            }
        }
        let confirmed_at = self.topic.confirmed_at();
        let is_stale = self.topic.is_stale(now, budget);
        if !self.is_due && is_stale == self.is_stale && own == self.own.as_deref() {
            return false;
        }
        self.is_due = false;
        self.is_stale = is_stale;
        self.own = own.map(str::to_owned);
        let (mut documents, mut lacks) = (Map::new(), Vec::new());
        for name in &self.named {
            let why = match peerings::usable(name, &self.named, &self.list, own) {
                Ok(_) if is_stale => "what was known of it is stale".to_owned(),
                Ok(bundle) => {
                    documents.insert(name.clone(), bundle.document());
                    continue;
                }
                Err(why) => why.to_string(),
            };
            // Before there is an answer nobody knows.
            if confirmed_at.is_some() {
                lacks.push(format!(
                    "the peer `{name}` has no bundle, so nobody of it is let in, and an intention that denies it denies every foreign client: {why}"
                ));
            }
        }
        if self.told != lacks {
            ticked.problems.extend_from_slice(&lacks);
            self.told = lacks;
        }
        let is_other = self.documents != documents;
        self.documents = documents;
        is_other
    }
}

/// Reads what was published: a reply with nothing else in it.
pub(super) fn read(value: &[u8]) -> Result<Vec<Peering>, String> {
    let reply = HttpReply {
        status: 200,
        headers: ReplyHeaders::default(),
        body: value,
    };
    peerings::decode(&reply).map_err(|error| error.to_string())
}

/// The error, and what helps.
pub(super) fn advice(error: &ReplyError) -> String {
    let advice = if error.is_forbidden() {
        "the token needs `peering:read`"
    } else if error.is_not_found() {
        "this agent, or the relay before it, knows no peerings"
    } else {
        return error.to_string();
    };
    format!("{error}; {advice}: callers from peers are refused")
}
