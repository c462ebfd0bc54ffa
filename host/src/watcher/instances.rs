//! Follows the instances of one upstream service.
//!
//! An agent that was restarted lists nobody until every instance has told it again that
//! it is there. So an empty list that follows a failure is not believed at once: the last
//! known instances are dialled a while longer. Each must prove who it is anyway.

use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::{HttpRequest, Query, RequestError, health};
use portcullis_core::watch::Digest;
use tokio::sync::watch;
use tokio::time::Instant;

use super::follow::Subject;
use super::hub::MeshRoots;
use crate::agent_client::AgentReply;
use crate::connector::Endpoint;

/// How long after a failure an empty list is not believed: instances report every ten
/// seconds.
const COMING_BACK: Duration = Duration::from_secs(30);

/// What is known of a service's instances.
#[derive(Clone, Debug, Default)]
pub struct KnownEndpoints {
    /// Those that may take connections; absent until the first good answer.
    pub endpoints: Option<Arc<[Endpoint]>>,
    /// Why the last question failed, if it did.
    pub error: Option<String>,
}

pub(super) struct Instances {
    pub(super) service: String,
    pub(super) datacenter: Option<String>,
    pub(super) roots: watch::Receiver<Option<MeshRoots>>,
    pub(super) known: watch::Sender<KnownEndpoints>,
    /// The trust domain that the endpoints were made with.
    pub(super) trust_domain: Option<String>,
    /// When a question failed last.
    pub(super) failed_at: Option<Instant>,
    /// The last answer was not believed.
    pub(super) holding: bool,
}

impl Subject for Instances {
    const KIND: &'static str = "instances";

    fn name(&self) -> String {
        format!("instances of {}", self.service)
    }

    fn request(&self, query: &Query) -> Result<HttpRequest, RequestError> {
        let query = Query {
            datacenter: self.datacenter.clone(),
            ..query.clone()
        };
        health::request(&self.service, &query)
    }

    fn digest(&self, reply: &AgentReply) -> Result<Digest, String> {
        health::decode(&reply.as_core()).map_err(|error| error.to_string())?;
        Ok(Digest::of(&reply.body))
    }

    async fn used(&mut self, reply: &AgentReply, changed: bool) -> Result<(), String> {
        let Ok(roots) = self
            .roots
            .wait_for(Option::is_some)
            .await
            .map(|roots| roots.clone())
        else {
            return Ok(());
        };
        let trust_domain = roots.map(|roots| roots.trust_domain).unwrap_or_default();
        if !changed && !self.holding && self.trust_domain.as_ref() == Some(&trust_domain) {
            return Ok(());
        }
        let instances = health::decode(&reply.as_core()).map_err(|error| error.to_string())?;
        for error in &instances.refused {
            tracing::warn!(service = self.service, %error, "an instance cannot be read and is left out");
        }
        let mut endpoints = Vec::new();
        for instance in instances.usable() {
            match Endpoint::new(instance, &self.service, &trust_domain) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    tracing::warn!(service = self.service, instance = instance.id, %error, "an instance is left out")
                }
            }
        }
        if endpoints.is_empty() && self.may_be_coming_back() {
            if !self.holding {
                tracing::warn!(
                    service = self.service,
                    "the agent was away and now lists no instance: the last known ones are dialled for a while longer"
                );
            }
            self.holding = true;
            return Ok(());
        }
        self.holding = false;
        tracing::debug!(
            service = self.service,
            instances = endpoints.len(),
            "instances"
        );
        self.known.send_replace(KnownEndpoints {
            endpoints: Some(endpoints.into()),
            error: None,
        });
        self.trust_domain = Some(trust_domain);
        Ok(())
    }

    fn failed(&mut self, error: &str) {
        self.failed_at = Some(Instant::now());
        self.known
            .send_modify(|known| known.error = Some(error.to_owned()));
    }
}

impl Instances {
    /// Whether instances were known before the agent failed, just now.
    fn may_be_coming_back(&self) -> bool {
        let recently = self.failed_at.is_some_and(|at| at.elapsed() < COMING_BACK);
        let known = self.known.borrow();
        recently
            && known
                .endpoints
                .as_ref()
                .is_some_and(|known| !known.is_empty())
    }
}
