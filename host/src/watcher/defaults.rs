//! Finds out what holds when no intention matches, and looks again now and then.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::default_policy::{self, Discovery};
use portcullis_core::agent::{AllowDeny, HttpRequest, ReplyError, authorize, self_info};
use portcullis_core::watch::Backoff;
use rand::Rng as _;
use tokio::time::sleep;

use super::hub::{Hub, Which};
use super::state::DefaultPolicy;
use crate::agent_client::{AgentClient, AgentError};

/// How often the agent is asked again once it is known.
const AGAIN: Duration = Duration::from_secs(60);

/// How soon after a failure of our own.
const RETRY: Duration = Duration::from_secs(2);

/// How soon after a first failure of the agent, in milliseconds; doubles.
const FIRST: u64 = 1_000;

/// The longest wait after failures of the agent, in milliseconds.
const LONGEST: u64 = 30_000;

/// Where the default policy comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultPolicySource {
    /// The agent is asked; while it cannot say, connections without a matching intention are denied.
    #[default]
    Auto,
    /// As given.
    Allow,
    /// As given.
    Deny,
}

/// Keeps the hub informed, for ever: often enough that what holds never looks stale.
pub(super) async fn discover(
    hub: Arc<Hub>,
    client: AgentClient,
    service: String,
    source: DefaultPolicySource,
    max_stale: Option<Duration>,
) {
    let again = max_stale.map_or(AGAIN, |budget| AGAIN.min(budget / 4));
    let given = match source {
        DefaultPolicySource::Auto => None,
        DefaultPolicySource::Allow => Some(true),
        DefaultPolicySource::Deny => Some(false),
    };
    if let Some(allow) = given {
        let found = DefaultPolicy::Known {
            allow,
            source: "flag",
        };
        loop {
            let wait = match hub.set_default_policy(found.clone()).await {
                Ok(()) => again,
                Err(error) => {
                    tracing::warn!(error, "the default policy is not in force");
                    RETRY
                }
            };
            sleep(wait).await;
        }
    }
    let mut backoff = Backoff::new(FIRST, LONGEST, rand::random());
    loop {
        let found = ask(&hub, &client, &service).await;
        let known = hub.default_policy().await;
        let wait = match found.map(|found| news(found, known.as_ref())) {
            Ok(Ok(found)) => match hub.set_default_policy(found).await {
                Ok(()) => {
                    backoff.succeed();
                    // Those who started together do not go on asking together.
                    again.mul_f64(rand::rng().random_range(0.75..=1.0))
                }
                Err(error) => {
                    hub.failed(Which::DefaultPolicy, &error);
                    RETRY
                }
            },
            Ok(Err(because)) => {
                tracing::debug!(
                    because,
                    "the default policy that was found before still holds"
                );
                hub.failed(Which::DefaultPolicy, &because);
                Duration::from_millis(backoff.fail())
            }
            // The agent is away: what was found before still holds.
            Err(error) => {
                hub.failed(Which::DefaultPolicy, &error.to_string());
                let wait = Duration::from_millis(backoff.fail());
                let told = error.retry_after().unwrap_or_default();
                wait.max(told.min(Duration::from_millis(LONGEST)))
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            // Another token may be told more.
            () = client.renewed() => {}
        }
    }
}

/// What to go by from now on; an error where that is what is `known`.
fn news(found: Discovery, known: Option<&DefaultPolicy>) -> Result<DefaultPolicy, String> {
    match (found, known) {
        (Discovery::Refused { because }, Some(DefaultPolicy::Known { .. })) => Err(because),
        (found, _) => Ok(found.into()),
    }
}

impl From<Discovery> for DefaultPolicy {
    fn from(found: Discovery) -> Self {
        match found {
            Discovery::Known { policy, source } => Self::Known {
                allow: policy == AllowDeny::Allow,
                source,
            },
            Discovery::Probe => Self::Unknown {
                because: "the agent gave no answer".to_owned(),
            },
            Discovery::Unknown { because } | Discovery::Refused { because } => {
                Self::Unknown { because }
            }
        }
    }
}

async fn ask(hub: &Hub, client: &AgentClient, service: &str) -> Result<Discovery, AgentError> {
    let mut roots = hub.roots();
    let trust_domain = async {
        let roots = roots.wait_for(Option::is_some).await.ok()?;
        roots.as_ref().map(|roots| roots.trust_domain.clone())
    };
    look(client, service, trust_domain).await
}

/// Asks an agent what holds when no intention matches: by what it tells of itself, else by
/// the answer to a question about `service` and a source that no rule names. The trust domain
/// is waited for only where that is asked.
///
/// # Errors
/// When the agent gives no answer; a refusal is one.
pub async fn find(
    client: &AgentClient,
    service: &str,
    trust_domain: impl Future<Output = Option<String>>,
) -> Result<DefaultPolicy, AgentError> {
    Ok(look(client, service, trust_domain).await?.into())
}

async fn look(
    client: &AgentClient,
    service: &str,
    trust_domain: impl Future<Output = Option<String>>,
) -> Result<Discovery, AgentError> {
    let unknown = |because: String| Discovery::Unknown { because };
    let about = answer(client, &self_info::request(), self_info::decode).await?;
    let found = default_policy::from_self(&about);
    if found != Discovery::Probe {
        return Ok(found);
    }
    let Some(trust_domain) = trust_domain.await else {
        return Ok(unknown("the watchers have ended".to_owned()));
    };
    match default_policy::probe(service, &trust_domain, rand::random()) {
        Ok(request) => {
            let said = answer(client, &request, authorize::decode).await?;
            Ok(default_policy::from_probe(&said))
        }
        Err(error) => Ok(unknown(error.to_string())),
    }
}

/// The agent's answer, which may be a refusal; an error only when it gave none.
async fn answer<T>(
    client: &AgentClient,
    request: &HttpRequest,
    decode: impl FnOnce(&portcullis_core::agent::HttpReply<'_>) -> Result<T, ReplyError>,
) -> Result<Result<T, ReplyError>, AgentError> {
    let reply = client.execute(request).await?;
    if reply.status >= 500 || reply.status == 429 {
        // Not a word about the policy: ask again.
        return Err(client
            .refusal(request, &reply)
            .unwrap_or_else(|| AgentError::Status {
                path: request.path_and_query.clone(),
                status: reply.status,
                detail: String::new(),
                retry_after: None,
            }));
    }
    Ok(decode(&reply.as_core()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_replaced_by_an_answer_only() {
        let because = || "the agent answered 403: `ACL not found`".to_owned();
        let refused = || Discovery::Refused { because: because() };
        let unknown = || Discovery::Unknown { because: because() };
        let deny = Discovery::Known {
            policy: AllowDeny::Deny,
            source: "probe",
        };
        let known = DefaultPolicy::Known {
            allow: true,
            source: "probe",
        };
        let nothing = DefaultPolicy::from(unknown());
        assert_eq!(news(refused(), None), Ok(nothing.clone()));
        assert_eq!(news(refused(), Some(&nothing)), Ok(nothing.clone()));
        assert_eq!(news(refused(), Some(&known)), Err(because()));
        for before in [None, Some(&known), Some(&nothing)] {
            for found in [deny.clone(), unknown()] {
                assert_eq!(news(found.clone(), before), Ok(found.into()));
            }
        }
    }
}
