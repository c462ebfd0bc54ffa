//! Follows trust domain and roots.

use std::sync::Arc;

use portcullis_core::agent::{HttpRequest, Query, RequestError, roots};
use portcullis_core::watch::Digest;

use super::follow::Subject;
use super::hub::{Hub, MeshRoots, Which};
use crate::agent_client::AgentReply;

pub(super) struct Roots {
    pub(super) hub: Arc<Hub>,
    /// Why the policy refused the content that the agent answered last.
    pub(super) refused: Option<String>,
}

impl Subject for Roots {
    const KIND: &'static str = "roots";

    fn name(&self) -> String {
        "roots".to_owned()
    }

    fn request(&self, query: &Query) -> Result<HttpRequest, RequestError> {
        Ok(roots::request(query))
    }

    fn digest(&self, reply: &AgentReply) -> Result<Digest, String> {
        let roots = roots::decode(&reply.as_core()).map_err(|error| error.to_string())?;
        // Counters of the agent may move while the certificates stay.
        let mut text = format!("{}\n{}\n", roots.trust_domain, roots.active_id);
        roots.pems().for_each(|pem| text.push_str(pem));
        intermediates(&roots).for_each(|pem| text.push_str(pem));
        Ok(Digest::of(text.as_bytes()))
    }

    async fn used(&mut self, reply: &AgentReply, changed: bool) -> Result<(), String> {
        let at = super::confirmed_at(reply, &self.hub.clock);
        if changed || self.refused.is_some() {
            let roots = roots::decode(&reply.as_core()).map_err(|error| error.to_string())?;
            tracing::info!(
                trust_domain = roots.trust_domain,
                roots = roots.roots.len(),
                active = roots.active_id,
                "roots"
            );
            let found = MeshRoots {
                pems: roots.pems().map(str::to_owned).collect(),
                intermediates: intermediates(&roots).cloned().collect(),
                trust_domain: roots.trust_domain,
                active: roots.active_id,
            };
            let taken = self.hub.set_roots(found, at).await;
            self.refused = taken.err();
        } else {
            self.hub.touch_mesh(at).await;
        }
        match &self.refused {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        }
    }

    fn failed(&mut self, error: &str) {
        self.hub.failed(Which::Roots, error);
    }
}

/// What the agent lists beside the roots.
fn intermediates(roots: &roots::Roots) -> impl Iterator<Item = &String> {
    roots.roots.iter().flat_map(|root| &root.intermediates)
}
