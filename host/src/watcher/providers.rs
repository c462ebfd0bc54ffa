//! Follows the `jwt-provider` entries of the mesh.
//!
//! Only for services that speak HTTP: nobody else can show a token. What cannot be read
//! leaves the last good list in force, until it is older than the staleness budget.

use std::sync::Arc;

use portcullis_core::agent::{HttpRequest, Query, RequestError, config};
use portcullis_core::time::Timestamp;
use portcullis_core::watch::Digest;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::follow::Subject;
use super::hub::Hub;
use crate::agent_client::AgentReply;
use crate::jwks::Source;

/// The largest list that is taken.
const MAX_LIST: usize = 8 * 1024 * 1024;

/// What is known of the providers.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownProviders {
    /// Whether there was an answer, good or not.
    pub(super) is_looked_for: bool,
    /// How many there are.
    pub(super) count: usize,
    /// Where the keys come from that are not in the entries.
    pub(super) sources: Vec<Source>,
    /// As of when.
    pub(super) confirmed_at: Option<Timestamp>,
    /// Why the last question failed, if it did.
    pub(super) error: Option<String>,
}

pub(super) struct Providers {
    pub(super) hub: Arc<Hub>,
    pub(super) known: watch::Sender<KnownProviders>,
}

impl Subject for Providers {
    const KIND: &'static str = "jwt-providers";

    fn name(&self) -> String {
        Self::KIND.to_owned()
    }

    fn request(&self, query: &Query) -> Result<HttpRequest, RequestError> {
        config::list("jwt-provider", query)
    }

    fn digest(&self, reply: &AgentReply) -> Result<Digest, String> {
        read(reply)?;
        Ok(Digest::of(&reply.body))
    }

    async fn used(&mut self, reply: &AgentReply, changed: bool) -> Result<(), String> {
        let entries = read(reply)?;
        let at = super::confirmed_at(reply, &self.hub.clock);
        // An empty list is none: what nobody has said opens nothing, not even by a denial.
        let list = (!entries.is_empty()).then(|| {
            let raw: Vec<&str> = entries.iter().map(|entry| entry.get()).collect();
            format!("[{}]", raw.join(","))
        });
        self.hub.set_providers(list).await?;
        if changed {
            tracing::info!(providers = entries.len(), "jwt providers");
        }
        let sources = entries.iter().filter_map(|entry| Source::of(entry));
        let news = KnownProviders {
            is_looked_for: true,
            count: entries.len(),
            sources: sources.collect(),
            confirmed_at: Some(at),
            error: None,
        };
        self.known.send_replace(news);
        Ok(())
    }

    fn failed(&mut self, error: &str) {
        self.known.send_modify(|known| {
            known.is_looked_for = true;
            known.error = Some(error.to_owned());
        });
    }
}

/// The entries, each an object; or why this says nothing about them.
fn read(reply: &AgentReply) -> Result<Vec<&RawValue>, String> {
    if reply.as_core().headers.filtered {
        return Err("the token may not read jwt-provider entries: it needs `mesh:read`, or `service:write` on some service".to_owned());
    }
    if reply.body.len() > MAX_LIST {
        return Err(format!("the list is longer than {MAX_LIST} bytes"));
    }
    let entries: Option<Vec<&RawValue>> =
        serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
    let entries = entries.unwrap_or_default();
    match entries.iter().all(|entry| entry.get().starts_with('{')) {
        true => Ok(entries),
        false => Err("an entry is not an object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str, filtered: bool) -> AgentReply {
        let mut headers = http::HeaderMap::new();
        if filtered {
            let name = http::HeaderName::from_static("x-consul-results-filtered-by-acls");
            headers.insert(name, http::HeaderValue::from_static("true"));
        }
        AgentReply {
            status: 200,
            headers,
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn what_is_hidden_or_unreadable_is_no_empty_list() {
        assert!(read(&reply("[]", true)).is_err());
        assert!(read(&reply("[7]", false)).is_err());
        assert!(read(&reply("{}", false)).is_err());
        assert_eq!(read(&reply("[]", false)).unwrap().len(), 0);
        assert_eq!(read(&reply("null", false)).unwrap().len(), 0);
        assert_eq!(read(&reply("[ {} , {} ]", false)).unwrap().len(), 2);
    }
}
