//! What the agent is asked, and what becomes of its replies: checked, then published.

use serde_json::Map;
use serde_json::value::RawValue;

use super::documents::{PublishedRoots, keys_document, mesh_document, service_document, trial};
use super::tokens::Tokens;
use super::{Asks, Supply, peers};
use crate::agent::default_policy::{self, Discovery};
use crate::agent::{
    AllowDeny, HttpReply, HttpRequest, ReplyError, ReplyHeaders, authorize, config, matches,
    peerings, providers, roots, self_info,
};
use crate::filter::Shelf;
use crate::intention::{Destination, Protocol};
use crate::watch::{Position, WatchRequest};

/// A reply in full.
#[derive(Debug, Default)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The headers that matter.
    pub headers: ReplyHeaders,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    fn as_reply(&self) -> HttpReply<'_> {
        HttpReply {
            status: self.status,
            headers: self.headers.clone(),
            body: &self.body,
        }
    }

    /// A status that says nothing about what was asked for.
    const fn is_no_answer(&self) -> bool {
        self.status >= 500 || self.status == 429
    }
}

impl Supply {
    pub(super) fn request(
        &mut self,
        asks: Asks,
        due: &WatchRequest,
    ) -> Result<HttpRequest, String> {
        let mut query = due.query();
        query.datacenter.clone_from(&self.settings.agent.datacenter);
        let result = match asks {
            Asks::Roots => Ok(roots::request(&query)),
            Asks::Intentions => matches::request(&[query_name(&self.settings.service)], &query),
            Asks::DefaultPolicy => {
                self.is_probing = false;
                Ok(self_info::request())
            }
            Asks::MeshEntry => config::get("mesh", "mesh", &query),
            Asks::Peerings => Ok(peerings::request(&query)),
            Asks::Providers => providers::request(&query),
            Asks::Keys(_) => return Err("keys are no question to the agent".to_owned()),
        };
        result.map_err(|error| error.to_string())
    }

    /// A reply came. Gives a request that follows from it.
    pub fn reply(
        &mut self,
        shelf: &impl Shelf,
        asks: Asks,
        now: u64,
        reply: &Reply,
    ) -> Option<HttpRequest> {
        let result = match asks {
            Asks::Roots => self.take_roots(shelf, now, reply).map(|()| None),
            Asks::Intentions => self.take_intentions(shelf, now, reply).map(|()| None),
            Asks::DefaultPolicy => self.take_default(shelf, now, reply),
            Asks::MeshEntry => self.take_entry(shelf, now, reply).map(|()| None),
            Asks::Peerings => self.take_peerings(shelf, now, reply).map(|()| None),
            Asks::Providers => self.take_providers(shelf, now, reply).map(|()| None),
            Asks::Keys(id) => self.take_keys(shelf, id, reply).map(|()| None),
        };
        match result {
            Ok(next) => next,
            Err(error) => {
                self.failed(asks, now, &error);
                None
            }
        }
    }

    fn take_roots(&mut self, shelf: &impl Shelf, now: u64, reply: &Reply) -> Result<(), String> {
        let reply = reply.as_reply();
        let read = roots::decode(&reply).map_err(|error| error.to_string())?;
        let published = PublishedRoots {
            roots: read.pems().map(str::to_owned).collect(),
            intermediates: read
                .roots
                .iter()
                .flat_map(|root| root.intermediates.clone())
                .collect(),
            trust_domain: read.trust_domain,
        };
        self.check_trust_domain(&published)?;
        let value = serde_json::to_vec(&published).map_err(|error| error.to_string())?;
        let document = mesh_document(&self.settings, &published, None, None, &Map::new(), None)?;
        let check = || trial("mesh".to_owned(), document);
        // What is refused has been noted by the topic, with its wait.
        let _ = self
            .roots
            .good(shelf, now, &Position::of(&reply), &value, check);
        Ok(())
    }

    pub(super) fn check_trust_domain(&self, roots: &PublishedRoots) -> Result<(), String> {
        match &self.settings.trust_domain {
            Some(own) if own.as_str() != roots.trust_domain => Err(format!(
                "the agent's trust domain is not the configured `{own}`"
            )),
            _ => Ok(()),
        }
    }

    fn take_intentions(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        reply: &Reply,
    ) -> Result<(), String> {
        let name = query_name(&self.settings.service);
        let reply = reply.as_reply();
        let matches = matches::decode(&reply, &[&name]).map_err(|error| error.to_string())?;
        let list = matches
            .lists
            .into_iter()
            .next()
            .map(|(_, list)| list)
            .unwrap_or(Err(ReplyError::Missing { field: name }))
            .map_err(|error| error.to_string())?;
        let document = service_document(Protocol::Tcp, list.json);
        let name = self.settings.service.document();
        let check = || trial(name, document);
        let _ = self.intentions.good(
            shelf,
            now,
            &Position::of(&reply),
            list.json.as_bytes(),
            check,
        );
        Ok(())
    }

    fn take_default(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        reply: &Reply,
    ) -> Result<Option<HttpRequest>, String> {
        if reply.is_no_answer() {
            return Err(format!("the agent answered {}", reply.status));
        }
        let discovery = if self.is_probing {
            default_policy::from_probe(&authorize::decode(&reply.as_reply()))
        } else {
            default_policy::from_self(&self_info::decode(&reply.as_reply()))
        };
        let value = match discovery {
            Discovery::Probe => {
                let Some(roots) = &self.known_roots else {
                    return Err("the trust domain is not known yet".to_owned());
                };
                self.is_probing = true;
                self.probes = self.probes.saturating_add(1);
                let nonce = self.name ^ self.probes.rotate_left(20);
                let service = self.settings.service.name();
                let probe = default_policy::probe(service, &roots.trust_domain, nonce);
                return probe.map(Some).map_err(|error| error.to_string());
            }
            Discovery::Known { policy, source } => {
                let policy = match policy {
                    AllowDeny::Allow => "allow",
                    AllowDeny::Deny => "deny",
                };
                format!("{policy} {source}")
            }
            Discovery::Refused { because } if self.published_default.is_some() => {
                return Err(because);
            }
            Discovery::Unknown { because } | Discovery::Refused { because } => {
                format!("unknown {because}")
            }
        };
        if let Some(topic) = &mut self.default_policy {
            let at = Position::default();
            let _ = topic.good(shelf, now, &at, value.as_bytes(), || Ok(()));
        }
        Ok(None)
    }

    fn take_peerings(&mut self, shelf: &impl Shelf, now: u64, reply: &Reply) -> Result<(), String> {
        let reply = reply.as_reply();
        let value = peerings::pruned(&reply, None).map_err(|error| peers::advice(&error))?;
        let check = || peers::read(value.as_bytes()).map(drop);
        let at = Position::of(&reply);
        let _ = self
            .peers
            .topic
            .good(shelf, now, &at, value.as_bytes(), check);
        Ok(())
    }

    fn take_entry(&mut self, shelf: &impl Shelf, now: u64, reply: &Reply) -> Result<(), String> {
        if reply.is_no_answer() {
            return Err(format!("the agent answered {}", reply.status));
        }
        let value = match config::decode_normalization(&reply.as_reply()) {
            Ok(found) => found.unwrap_or_else(|| "null".to_owned()),
            // Whoever may not read the entry takes Consul's default, as if there were none. Where
            // it was read before, the token is not what it was: the last good entry stays.
            Err(error) if error.is_forbidden() && self.known_normalization.is_none() => {
                "null".to_owned()
            }
            Err(error) => return Err(error.to_string()),
        };
        let normalization =
            RawValue::from_string(value.clone()).map_err(|error| error.to_string())?;
        let (anybody, nobody) = (PublishedRoots::for_trials(), Map::new());
        let document = mesh_document(
            &self.settings,
            &anybody,
            None,
            Some(&normalization),
            &nobody,
            None,
        )?;
        let check = || trial("mesh".to_owned(), document);
        if let Some(topic) = &mut self.mesh_entry {
            let _ = topic.good(shelf, now, &Position::default(), value.as_bytes(), check);
        }
        Ok(())
    }
}

impl Supply {
    fn take_providers(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        reply: &Reply,
    ) -> Result<(), String> {
        let reply = reply.as_reply();
        let value = Tokens::read_providers(&reply)?;
        let list = RawValue::from_string(value.clone()).map_err(|error| error.to_string())?;
        let (anybody, nobody) = (PublishedRoots::for_trials(), Map::new());
        let document = mesh_document(&self.settings, &anybody, None, None, &nobody, Some(&list))?;
        let check = || trial("mesh".to_owned(), document);
        let at = Position::of(&reply);
        let topic = &mut self.tokens.providers;
        let _ = topic.good(shelf, now, &at, value.as_bytes(), check);
        Ok(())
    }

    fn take_keys(&mut self, shelf: &impl Shelf, id: u32, reply: &Reply) -> Result<(), String> {
        // They hold as of when they were asked for, not of when a slow server was done.
        let (provider, asked_at, keys) = self.tokens.read_keys(id, &reply.as_reply())?;
        let check = || trial(keys_document(&provider), keys.to_vec());
        if let Some(topic) = self.tokens.key_topic(id) {
            let _ = topic.good(shelf, asked_at, &Position::default(), keys, check);
        }
        Ok(())
    }
}

/// The shortest name that the match query takes: without a licence it takes no partition.
fn query_name(destination: &Destination) -> String {
    destination.to_string()
}
