//! Follows the intentions of up to 128 destinations with one question.
//!
//! Each name's list is compared by itself: an unchanged one is confirmed, a changed
//! one is loaded, a broken one harms no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use portcullis_core::agent::{HttpRequest, Query, RequestError, matches};
use portcullis_core::watch::Digest;

use super::batch::may_be_one_name;
use super::follow::Subject;
use super::hub::{Hub, Which};
use crate::agent_client::{AgentError, AgentReply};

pub(super) struct Intentions {
    hub: Arc<Hub>,
    names: Vec<String>,
    /// What the policy has accepted, by name.
    loaded: HashMap<String, Digest>,
    /// Whether readiness waits for these.
    own: bool,
    /// What was read last: a large reply is read once for its digest and its use.
    read: Mutex<Option<Read>>,
}

/// A reply that was read.
struct Read {
    /// Kept, so that no other reply can be in its place.
    body: Bytes,
    lists: Vec<(String, Result<List, String>)>,
}

/// The list of one name, a part of the reply's body.
struct List {
    json: Bytes,
    digest: Digest,
}

impl Intentions {
    pub(super) fn new(hub: Arc<Hub>, names: Vec<String>, own: bool) -> Self {
        Self {
            hub,
            names,
            loaded: HashMap::new(),
            own,
            read: Mutex::new(None),
        }
    }

    fn read(&self, reply: &AgentReply) -> Result<Read, String> {
        let core = reply.as_core();
        let matches = matches::decode(&core, &self.names).map_err(|error| error.to_string())?;
        let lists = matches.lists.into_iter().map(|(name, list)| {
            let list = list.map(|list| List {
                json: reply.body.slice_ref(list.json.as_bytes()),
                digest: list.digest,
            });
            (name, list.map_err(|error| error.to_string()))
        });
        Ok(Read {
            lists: lists.collect(),
            body: reply.body.clone(),
        })
    }
}

impl Read {
    fn is_of(&self, reply: &AgentReply) -> bool {
        std::ptr::eq(self.body.as_ref(), reply.body.as_ref())
    }
}

/// The policy's document for a destination given as `name`, `ns/name` or `partition/ns/name`.
pub(super) fn document_name(destination: &str) -> String {
    let mut parts = destination.rsplit('/');
    let name = parts.next().unwrap_or_default();
    let namespace = parts.next().unwrap_or("default");
    let partition = parts.next().unwrap_or("default");
    format!("service/{partition}/{namespace}/{name}")
}

impl Subject for Intentions {
    const KIND: &'static str = "intentions";

    fn name(&self) -> String {
        match self.names.as_slice() {
            [one] => format!("intentions of {one}"),
            many => format!("intentions of {} services", many.len()),
        }
    }

    fn request(&self, query: &Query) -> Result<HttpRequest, RequestError> {
        matches::request(&self.names, query)
    }

    fn digest(&self, reply: &AgentReply) -> Result<Digest, String> {
        let read = self.read(reply)?;
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        Ok(Digest::of(&reply.body))
    }

    async fn used(&mut self, reply: &AgentReply, _changed: bool) -> Result<(), String> {
        let at = super::confirmed_at(reply, &self.hub.clock);
        let read = self
            .read
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let read = match read.filter(|read| read.is_of(reply)) {
            Some(read) => read,
            None => self.read(reply)?,
        };
        let (mut changes, mut digests, mut confirmed, mut broken) =
            (Vec::new(), Vec::new(), Vec::new(), None);
        for (name, list) in read.lists {
            match list {
                Ok(list) if self.loaded.get(&name) == Some(&list.digest) => {
                    confirmed.push(document_name(&name))
                }
                Ok(list) => {
                    changes.push((document_name(&name), list.json.to_vec()));
                    digests.push((name, list.digest));
                }
                Err(error) => {
                    tracing::warn!(service = name, %error, "its intentions cannot be read: the last good ones stay in force");
                    broken = Some(format!("{name}: {error}"));
                }
            }
        }
        self.hub.touch(&confirmed, at).await;
        if !changes.is_empty() {
            // Until it is known which of them are in force, none is confirmed, not even as it was.
            for (name, _) in &digests {
                self.loaded.remove(name);
            }
            let refused = self.hub.set_intentions(changes, at).await?;
            for (name, digest) in digests {
                match refused.get(&document_name(&name)) {
                    None => {
                        tracing::info!(service = name, "intentions");
                        self.loaded.insert(name, digest);
                    }
                    Some(problem) => broken = Some(format!("{name}: {problem}")),
                }
            }
        }
        match broken {
            _ if !self.own => {}
            Some(problem) => self.hub.failed(Which::Intentions, &problem),
            None => self.hub.confirmed(Which::Intentions, at),
        }
        Ok(())
    }

    fn divides(&self, error: &AgentError) -> bool {
        self.names.len() > 1 && may_be_one_name(error)
    }

    fn failed(&mut self, error: &str) {
        if self.own {
            self.hub.failed(Which::Intentions, error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_have_one_document_each() {
        assert_eq!(document_name("db"), "service/default/default/db");
        assert_eq!(document_name("n/db"), "service/default/n/db");
        assert_eq!(document_name("p/n/db"), "service/p/n/db");
    }
}
