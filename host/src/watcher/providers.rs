//! Follows the `jwt-provider` entries of the mesh.
//!
//! Only for services that speak HTTP: nobody else can show a token. What cannot be read
//! leaves the last good list in force, until it is older than the staleness budget.

use std::sync::Arc;

use portcullis_core::agent::{HttpRequest, Query, RequestError, providers};
use portcullis_core::watch::Digest;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::follow::Subject;
use super::hub::Hub;
use crate::agent_client::AgentReply;
use crate::jwks::Source;

/// What is known of the providers.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownProviders {
    /// Whether there was an answer, good or not.
    pub(super) is_looked_for: bool,
    /// How many there are.
    pub(super) count: usize,
    /// Where the keys come from that are not in the entries.
    pub(super) sources: Vec<Source>,
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
        providers::request(query)
    }

    fn digest(&self, reply: &AgentReply) -> Result<Digest, String> {
        read(reply)?;
        Ok(Digest::of(&reply.body))
    }

    async fn used(&mut self, reply: &AgentReply, changed: bool) -> Result<(), String> {
        let entries = read(reply)?;
        let at = super::confirmed_at(reply, &self.hub.clock);
        // An empty list is none: what nobody has said opens nothing, not even by a denial.
        let list = (!entries.is_empty()).then(|| providers::array(&entries));
        self.hub.set_providers(list, at).await?;
        if changed {
            tracing::info!(providers = entries.len(), "jwt providers");
        }
        let sources = entries.iter().filter_map(|entry| Source::of(entry));
        let news = KnownProviders {
            is_looked_for: true,
            count: entries.len(),
            sources: sources.collect(),
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
    providers::decode(&reply.as_core()).map_err(|error| error.to_string())
}
