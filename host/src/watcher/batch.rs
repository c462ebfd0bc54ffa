//! Follows the intentions of many destinations with one question, where the agent allows it.
//!
//! The agent refuses the whole question when the token may not read one of its names, or
//! when it cannot take one. Then the batch is divided until such names stand alone: the
//! others keep being followed together.

use std::pin::Pin;
use std::sync::Arc;

use portcullis_core::watch::Settings;
use tokio::sync::Notify;

use super::activity::Activity;
use super::follow::{Ended, follow};
use super::hub::Hub;
use super::intentions::Intentions;
use crate::agent_client::{AgentClient, AgentError};

/// Follows `names` for ever.
pub(super) fn follow_batch(
    hub: Arc<Hub>,
    agent: AgentClient,
    settings: Settings,
    names: Vec<String>,
    activity: Activity,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let batch = Intentions::new(Arc::clone(&hub), names.clone(), false);
        let again = Arc::new(Notify::new());
        let Ended::Divide = follow(batch, agent.clone(), settings, again, activity.clone()).await
        else {
            return;
        };
        let (first, second) = names.split_at(names.len().div_ceil(2));
        tracing::warn!(
            services = names.len(),
            "the agent refuses to answer for these services together; they are asked about in two parts"
        );
        let part = |names: &[String]| {
            follow_batch(
                Arc::clone(&hub),
                agent.clone(),
                settings,
                names.to_vec(),
                activity.clone(),
            )
        };
        let _: ((), ()) = tokio::join!(part(first), part(second));
    })
}

/// Whether one name of several may be the reason.
pub(super) fn may_be_one_name(error: &AgentError) -> bool {
    match error {
        AgentError::Denied { .. } => true,
        // Consul says so of names that it cannot take.
        AgentError::Status { detail, .. } => detail.to_ascii_lowercase().contains("invalid"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_one_name_may_cause_divides_a_batch() {
        let (path, token) = (
            "/v1/connect/intentions/match".to_owned(),
            "no token".to_owned(),
        );
        let detail = "Permission denied".to_owned();
        assert!(may_be_one_name(&AgentError::Denied {
            path: path.clone(),
            token,
            detail
        }));
        let status = |status, detail: &str| AgentError::Status {
            path: path.clone(),
            status,
            detail: detail.to_owned(),
            retry_after: None,
        };
        assert!(may_be_one_name(&status(
            500,
            r#"Invalid match entry namespace "foo""#
        )));
        assert!(!may_be_one_name(&status(500, "No cluster leader")));
        assert!(!may_be_one_name(&status(
            429,
            "Rate limit reached, try again later"
        )));
    }
}
