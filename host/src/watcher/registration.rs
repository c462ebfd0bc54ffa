//! Follows one registration on the agent, by the hash of its content.

use std::sync::Arc;

use portcullis_core::agent::service::{self, AgentService};
use portcullis_core::agent::{HttpRequest, Query, RequestError};
use portcullis_core::watch::Digest;
use tokio::sync::watch;

use super::follow::Subject;
use crate::agent_client::{AgentError, AgentReply};

/// What is known of a registration.
#[derive(Clone, Debug, Default)]
pub struct KnownRegistration {
    /// Its last good state; absent until the first good answer.
    pub service: Option<Arc<AgentService>>,
    /// Whether the agent has said since that there is none.
    pub gone: bool,
    /// Why the last question failed, if it did.
    pub error: Option<String>,
}

pub(super) struct Registered {
    pub(super) id: String,
    pub(super) known: watch::Sender<KnownRegistration>,
}

impl Subject for Registered {
    const KIND: &'static str = "registration";

    fn name(&self) -> String {
        format!("registration {}", self.id)
    }

    fn request(&self, query: &Query) -> Result<HttpRequest, RequestError> {
        service::request(&self.id, query)
    }

    fn digest(&self, reply: &AgentReply) -> Result<Digest, String> {
        service::decode(&reply.as_core()).map_err(|error| error.to_string())?;
        Ok(Digest::of(&reply.body))
    }

    async fn used(&mut self, reply: &AgentReply, changed: bool) -> Result<(), String> {
        let known = self.known.borrow();
        let news = changed || known.gone || known.error.is_some();
        drop(known);
        if news {
            let service = service::decode(&reply.as_core()).map_err(|error| error.to_string())?;
            self.known.send_replace(KnownRegistration {
                service: Some(Arc::new(service)),
                gone: false,
                error: None,
            });
        }
        Ok(())
    }

    fn refused(&mut self, error: &AgentError) {
        if matches!(error, AgentError::Status { status: 404, .. }) {
            self.known.send_modify(|known| known.gone = true);
        }
    }

    fn failed(&mut self, error: &str) {
        self.known
            .send_modify(|known| known.error = Some(error.to_owned()));
    }
}
